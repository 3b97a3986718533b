//! The machine's consoles: every one that the kernel uses, as `/dev/console` is only one of them, and
//! with a parameter `console=` for a port that the machine lacks it is not the one that is looked at.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::termios::tcdrain;

/// How often a line is written that a login prompt may have thrown away.
const TRIES: u32 = 3;
/// How long a line may take to get out: a slow port needs some hundredths of a second.
const PATIENCE: Duration = Duration::from_secs(2);

/// Ports that take nothing: nobody waits for them again.
static STUCK: Mutex<Option<HashSet<PathBuf>>> = Mutex::new(None);

/// Writes a line to all consoles. One that is gone or stuck is no reason to stop.
pub(crate) fn write(line: &str) {
    let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    for device in active.split_whitespace() {
        write_to(&Path::new("/dev").join(device), line);
    }
}

/// A login prompt that takes a port over hangs it up, and what is still in its buffer is lost: then it
/// is written again.
fn write_to(path: &Path, line: &str) {
    for _ in 0..TRIES {
        let Ok(console) = send(path, line) else { return };
        let stuck = STUCK.lock().unwrap_or_else(PoisonError::into_inner);
        if stuck.as_ref().is_some_and(|stuck| stuck.contains(path)) {
            return;
        }
        drop(stuck);
        match is_out(console) {
            Some(Ok(())) => return,
            Some(Err(_)) => {}
            None => {
                let mut stuck = STUCK.lock().unwrap_or_else(PoisonError::into_inner);
                stuck.get_or_insert_default().insert(path.to_owned());
                return;
            }
        }
    }
}

fn send(path: &Path, line: &str) -> io::Result<File> {
    // A port whose other end does not take anything must not hold the agent up.
    let flags = nix::libc::O_NOCTTY | nix::libc::O_NONBLOCK;
    let mut console = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
    console.write_all(line.as_bytes())?;
    Ok(console)
}

/// Waits until a port has sent all that was written; an error when it was hung up before, `None` when it
/// takes too long.
fn is_out(console: File) -> Option<nix::Result<()>> {
    let (tell, told) = sync_channel(1);
    let waiting = std::thread::Builder::new().name("console".to_owned()).spawn(move || {
        // Whoever asked may have given up.
        let _ = tell.send(tcdrain(&console));
    });
    waiting.ok()?;
    told.recv_timeout(PATIENCE).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::AsFd;

    use nix::pty::openpty;
    use nix::unistd::ttyname;

    use super::*;

    #[test]
    fn a_line_arrives_whole_and_a_file_that_is_no_port_does_no_harm() {
        let pty = openpty(None, None).unwrap();
        let path = ttyname(pty.slave.as_fd()).unwrap();
        write_to(&path, "registered: done\n");
        let mut text = [0; 64];
        let length = File::from(pty.master).read(&mut text).unwrap();
        assert_eq!(&text[..length], b"registered: done\r\n");
        write_to(Path::new("/dev/null"), "x");
        write_to(Path::new("/nonexistent"), "x");
    }

    #[test]
    fn a_port_that_was_hung_up_is_told_from_one_that_has_sent_all() {
        let pty = openpty(None, None).unwrap();
        let path = ttyname(pty.slave.as_fd()).unwrap();
        let console = send(&path, "lost\n").unwrap();
        let sent = send(&path, "sent\n").unwrap();
        assert_eq!(is_out(sent), Some(Ok(())));
        // Closing its other end hangs a terminal up.
        drop(pty.master);
        assert!(matches!(is_out(console), Some(Err(_))));
    }
}
