//! A person's terminal at a machine's serial console.

use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::lab::client::read_spec;
use crate::lab::paths::{Paths, connect};

/// Ctrl-], as in telnet.
const ESCAPE: u8 = 0x1d;

/// Puts the terminal into raw mode, and back when dropped.
struct Raw(Termios);

impl Raw {
    fn new() -> Result<Self> {
        let before = tcgetattr(std::io::stdin().as_fd()).context("reading the terminal's mode")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &raw)
            .context("setting the terminal's mode")?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // There is nobody left to tell a failure to.
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}

/// Joins the terminal and the console until Ctrl-], or until the lab ends. Without a terminal,
/// standard input is typed, and its end leaves.
pub fn attach(paths: &Paths, name: &str) -> Result<()> {
    read_spec(paths)?.machine(name)?;
    let mut console = connect(&paths.machine(name).join("console.sock"))
        .with_context(|| format!("connecting to the console of {name}"))?;
    eprintln!("console of {name}; leave with Ctrl-]");
    let raw = if std::io::stdin().is_terminal() { Some(Raw::new()?) } else { None };
    let mut keys = console.try_clone()?;
    // Ends with the program: a read of the terminal cannot be called off.
    std::thread::spawn(move || {
        let mut bytes = [0; 256];
        while let Ok(count @ 1..) = std::io::stdin().read(&mut bytes) {
            let typed = &bytes[..count];
            let until = typed.iter().position(|b| *b == ESCAPE);
            let sent = keys.write_all(&typed[..until.unwrap_or(count)]);
            if until.is_some() || sent.is_err() {
                break;
            }
        }
        drop(keys.shutdown(std::net::Shutdown::Both));
    });
    let mut bytes = [0; 4096];
    let mut out = std::io::stdout();
    while let Ok(count @ 1..) = console.read(&mut bytes) {
        out.write_all(&bytes[..count]).and_then(|()| out.flush()).context("printing a console")?;
    }
    drop(raw);
    eprintln!("\nleft the console of {name}");
    Ok(())
}
