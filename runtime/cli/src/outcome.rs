//! How a command ends: exit codes, and errors with hints.

use std::process::ExitCode;

/// What was asked for has failed.
pub const FAILED: u8 = 1;
/// The command line is wrong; clap's own code.
pub const USAGE: u8 = 2;
/// There is no such server, task or platform.
pub const NOT_FOUND: u8 = 3;
/// CNAPI, or the booter, does not answer.
pub const UNREACHABLE: u8 = 4;

/// Ends the help of every command.
pub const EXIT_CODES: &str = "Exit codes:\n  \
    0  done\n  \
    1  failed: the error says why\n  \
    2  the command line is wrong\n  \
    3  there is no such server, task or platform\n  \
    4  CNAPI, or the booter, does not answer";

/// An error with the exit code that belongs to it.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// The work failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { code: FAILED, message: message.into() }
    }

    /// The command line asks for something that makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: USAGE, message: message.into() }
    }

    /// What the command line names is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { code: NOT_FOUND, message: message.into() }
    }

    /// The same, with the hint for the booter where CNAPI's stands.
    pub fn of_the_booter(mut self) -> Self {
        if let Some((message, _)) = self.message.split_once("\n  on the headnode:") {
            self.message = format!(
                "{message}\n  on the booter's machine, as root: systemctl status sdc-booter"
            );
        }
        self
    }

    /// The error without its details.
    pub fn first_line(&self) -> &str {
        self.message.lines().next().unwrap_or_default()
    }

    /// Tells the error and gives the exit code.
    pub fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("sdc: {}", self.message);
        }
        ExitCode::from(self.code)
    }
}

impl From<headnode_client::Error> for Failure {
    fn from(error: headnode_client::Error) -> Self {
        let code = if error.is_unreachable() {
            UNREACHABLE
        } else if error.is_not_found() {
            NOT_FOUND
        } else {
            FAILED
        };
        let mut message = error.to_string();
        if error.is_unreachable() {
            message.push_str(
                "\n  on the headnode: systemctl status sdc-control; journalctl -u sdc-control",
            );
        }
        Self { code, message }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::failed(format!("encoding the output: {error}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        // The reader has seen enough, as in `sdc server list | head`.
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self { code: 0, message: String::new() };
        }
        Self::failed(format!("writing the output: {error}"))
    }
}

/// What a command gives.
pub type Result<T = ()> = std::result::Result<T, Failure>;

/// Prints a line, as `println!`, but gives an error where that would panic.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        writeln!(std::io::stdout(), $($argument)*).map_err($crate::outcome::Failure::from)
    }};
}
pub(crate) use say;
