//! What the operator sees: one line per event, a block when something fails, and what to do then.

use std::fs::OpenOptions;
use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use headnode_model::event::{Event, StepEvent};
use headnode_model::paths;

use crate::run::Failure;

/// Where the events are until `/var` lies on the pool.
pub const EARLY_LOG: &str = "/run/sdc-setup/events.jsonl";

/// Prints events and writes them to the log.
#[derive(Default)]
pub struct Console {
    early: Vec<u8>,
    on_pool: bool,
}

impl Console {
    /// Takes one event. Failing to log is no reason to stop a boot.
    pub fn take(&mut self, event: &Event) {
        if !matches!(event.what, StepEvent::Started) {
            let mut out = std::io::stdout().lock();
            drop(writeln!(out, "{event}").and_then(|()| out.flush()));
        }
        let mut line = serde_json::to_vec(event).unwrap_or_default();
        line.push(b'\n');
        if !self.on_pool {
            drop(append(Path::new(EARLY_LOG), &line));
            self.early.append(&mut line);
            if matches!(event.what, StepEvent::Done { .. })
                && matches!(event.step.as_str(), "datasets_created" | "datasets_mounted")
            {
                self.on_pool = true;
                line = std::mem::take(&mut self.early);
            }
        }
        if self.on_pool {
            drop(append(Path::new(paths::SETUP_LOG), &line));
        }
    }
}

fn append(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    OpenOptions::new().create(true).append(true).open(path)?.write_all(bytes)
}

/// Prints a failure as one block.
pub fn print_failure(failure: &Failure) {
    println!("\n==== headnode setup stopped at the step {} ====", failure.step);
    println!("  {}", format!("{:#}", failure.error).replace('\n', "\n  "));
    println!("  Nothing has to be undone: trying again goes on from here. Log: {EARLY_LOG}");
    println!("====\n");
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Run the steps again.
    Retry,
    /// Open a shell, then ask again.
    Shell,
    /// Power the machine off.
    PowerOff,
    /// Nobody is there: end with a failure.
    GiveUp,
}

/// Asks what to do after a failure; waits as long as it takes when there is a console.
pub fn after_failure() -> Choice {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Choice::GiveUp;
    }
    loop {
        print!("r = try again, s = shell, p = power off: ");
        drop(std::io::stdout().flush());
        let mut line = String::new();
        match stdin.lock().read_line(&mut line) {
            Ok(count) if count > 0 => {}
            // The console was hung up.
            _ => return Choice::GiveUp,
        }
        match line.trim() {
            "r" => return Choice::Retry,
            "s" => return Choice::Shell,
            "p" => return Choice::PowerOff,
            _ => {}
        }
    }
}

/// Whether a shell may be opened: once a password of root is configured, only with that.
pub fn may_open_shell(root_shadow: Option<&str>) -> bool {
    let Some(hash) = root_shadow else { return true };
    let asked = inquire::Password::new("Password of root:").without_confirmation().prompt();
    let good = asked.is_ok_and(|password| headnode_model::password::matches(&password, hash));
    if !good {
        println!("That is not the password of root.");
    }
    good
}
