//! What a site puts on its key: the same options for image files and while flashing.

use std::path::PathBuf;

use crate::answers::Passwords;
use crate::personal::Site;
use crate::spec::Console;

/// Options that say what a site wants of an image.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SiteArgs {
    /// Answers to first boot's questions; their passwords are stored as hashes
    #[arg(long, value_name = "FILE")]
    pub answers: Option<PathBuf>,
    /// Store the answers' passwords in clear, as Triton's own scripts on SmartOS need them
    #[arg(long, requires = "answers")]
    pub clear_answers: bool,
    /// A public key that may log in as root, or a file of such; may be given again. They replace the
    /// keys that the image has
    #[arg(long, value_name = "FILE|KEY")]
    pub ssh_key: Vec<String>,
    /// The console: tty0 (the screen), or a serial port, ttyS0 to ttyS3
    #[arg(long, value_name = "NAME", ignore_case = true, hide_possible_values = true)]
    pub console: Option<Console>,
}

impl SiteArgs {
    /// What is wanted; `clear` tells whether everything else is made blank.
    pub fn site(self, clear: bool) -> Site {
        Site {
            answers: self.answers,
            passwords: if self.clear_answers { Passwords::Clear } else { Passwords::Hashed },
            ssh_keys: self.ssh_key,
            console: self.console,
            clear,
        }
    }
}
