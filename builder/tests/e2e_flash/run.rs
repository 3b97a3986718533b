//! The command, how it ends, and what it says.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::PROGRAM;
use crate::faulty::Faulty;
use crate::linux::text;

/// How a command ended, and what it said.
#[derive(Debug)]
pub struct Done {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Done {
    pub fn of(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { status: output.status, out: text(output.stdout), err: text(output.stderr) }
    }

    pub fn good(self) -> Self {
        assert_eq!(self.status.code(), Some(0), "{self:?}");
        self
    }

    /// It failed, with one line as the error, which has these words.
    pub fn failed(self, words: &[&str]) -> Self {
        assert_eq!(self.status.code(), Some(1), "{self:?}");
        let lines: Vec<_> = self.err.lines().filter(|l| l.starts_with("headnode: ")).collect();
        assert_eq!(lines.len(), 1, "{self:?}");
        for word in words {
            assert!(lines[0].contains(word), "{word}: {self:?}");
        }
        self
    }

    pub fn events(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub fn command(image: &str, disks: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("flash").arg(image).args(disks).args(["--fixed", "--yes"]);
    command
}

pub fn flash(image: &Path, disks: &[&str], more: &[&str]) -> Done {
    Done::of(command(text(image), disks).args(more))
}

pub fn event<'a>(events: &'a [Value], name: &str) -> Option<&'a Value> {
    events.iter().find(|event| event["event"] == name)
}

/// A command that runs; it is ended with the test.
pub struct Running(pub Child);

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }

    /// Reads standard error up to a line with these words.
    pub fn until(&mut self, words: &str) {
        let err = BufReader::new(self.0.stderr.as_mut().unwrap());
        let mut seen = Vec::new();
        for line in err.lines() {
            let line = line.unwrap();
            if line.contains(words) {
                return;
            }
            seen.push(line);
        }
        panic!("{words:?} was not said: {seen:?}");
    }

    pub fn end(mut self) -> Done {
        let mut texts = [String::new(), String::new()];
        let err = self.0.stderr.take().unwrap();
        let reader = std::thread::spawn(move || std::io::read_to_string(err).unwrap());
        self.0.stdout.take().unwrap().read_to_string(&mut texts[0]).unwrap();
        texts[1] = reader.join().unwrap();
        let status = self.0.wait().unwrap();
        let [out, err] = texts;
        Done { status, out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The command at a terminal.
pub struct Terminal {
    pub running: Child,
    pub keyboard: File,
    pub said: String,
}

impl Terminal {
    pub fn start(image: &Path, disk: &Faulty) -> Self {
        let pty = nix::pty::openpty(None, None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let running = Command::new(PROGRAM)
            .args(["flash", text(image), &disk.path, "--fixed"])
            .env("TERM", "xterm")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let mut terminal = Self { running, keyboard: File::from(pty.master), said: String::new() };
        drop(pty.slave);
        terminal = terminal.until(&format!("Type {} to write to it", disk.name));
        assert!(terminal.said.contains(&disk.id["loop:".len()..]), "{}", terminal.said);
        terminal
    }

    pub fn answer(mut self, word: &str) -> Self {
        self.keyboard.write_all(format!("{word}\n").as_bytes()).unwrap();
        self
    }

    /// Reads more; nothing when the other side is closed.
    pub fn more(&mut self) -> bool {
        let mut bytes = [0; 4096];
        // The last one that closes a terminal makes its reads fail.
        let count = self.keyboard.read(&mut bytes).unwrap_or(0);
        self.said += &String::from_utf8_lossy(&bytes[..count]);
        count > 0
    }

    pub fn until(mut self, words: &str) -> Self {
        while !self.said.contains(words) {
            assert!(self.more(), "{words:?} was not said: {}", self.said);
        }
        self
    }

    pub fn end(mut self) -> (Option<i32>, String) {
        while self.more() {}
        (self.running.wait().unwrap().code(), std::mem::take(&mut self.said))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.running.kill();
        let _ = self.running.wait();
    }
}
