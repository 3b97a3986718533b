//! The one way in which every part of the headnode runs another program.
//!
//! A [`Command`] is logged when it starts and when it ends, never outlives its time limit, and on
//! failure gives an [`Error`] that holds the command line and the last lines that the program
//! wrote: what an operator needs in order to repeat it by hand.
//!
//! ```
//! use headnode_command::Command;
//! let out = Command::new("echo").arg("hello").run()?;
//! assert_eq!(out.stdout.trim(), "hello");
//! # Ok::<(), headnode_command::Error>(())
//! ```

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wait_timeout::ChildExt;

/// Time limit of a command that sets none: long enough for any `zfs` or `ip` call, short enough
/// that a hung one is noticed.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);

/// How many of a failed program's last lines an [`Error`] keeps.
pub const TAIL_LINES: usize = 20;

/// Why a program did not do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program could not be started at all.
    #[error("starting `{command}`: {source}{}", hint(source))]
    Start {
        /// The command line, quoted for a shell.
        command: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The program ended with a status other than 0.
    #[error("`{command}` failed ({status}){}", tail_text(tail))]
    Failed {
        /// The command line, quoted for a shell.
        command: String,
        /// Its exit status in words: "exit status 2" or "killed by signal 9".
        status: String,
        /// Its exit code, when it was not killed by a signal.
        code: Option<i32>,
        /// The last lines that it wrote, standard error and output together.
        tail: Vec<String>,
    },
    /// The program ran longer than its limit and was killed with all its children.
    #[error("`{command}` did not finish within {} s and was ended{}", limit.as_secs(), tail_text(tail))]
    TimedOut {
        /// The command line, quoted for a shell.
        command: String,
        /// The limit that it broke.
        limit: Duration,
        /// The last lines that it wrote.
        tail: Vec<String>,
    },
    /// Talking to the program failed.
    #[error("talking to `{command}`: {source}")]
    Io {
        /// The command line, quoted for a shell.
        command: String,
        /// What the operating system said.
        source: std::io::Error,
    },
}

impl Error {
    /// Whether the program does not exist on this machine.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Start { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }

    /// The lines that the program wrote last, when it got so far.
    pub fn tail(&self) -> &[String] {
        match self {
            Error::Failed { tail, .. } | Error::TimedOut { tail, .. } => tail,
            _ => &[],
        }
    }
}

fn hint(source: &std::io::Error) -> &'static str {
    if source.kind() == std::io::ErrorKind::NotFound { " (is it installed?)" } else { "" }
}

fn tail_text(tail: &[String]) -> String {
    if tail.is_empty() { String::new() } else { format!(":\n  {}", tail.join("\n  ")) }
}

/// What a program that succeeded has written.
#[derive(Debug, Clone)]
pub struct Output {
    /// Standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error; bytes that are not UTF-8 are replaced.
    pub stderr: String,
    /// How long the program ran.
    pub elapsed: Duration,
}

type LineSink = Box<dyn FnMut(&str) + Send>;

/// A program to run, with its arguments, input and time limit.
pub struct Command {
    program: OsString,
    args: Vec<OsString>,
    dir: Option<PathBuf>,
    env: Vec<(OsString, OsString)>,
    env_clear: bool,
    stdin: Option<Vec<u8>>,
    stdout_to: Option<std::fs::File>,
    timeout: Duration,
    secret: bool,
    on_line: Option<LineSink>,
}

impl Command {
    /// A command without arguments, limited to [`DEFAULT_TIMEOUT`].
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            dir: None,
            env: Vec::new(),
            env_clear: false,
            stdin: None,
            stdout_to: None,
            timeout: DEFAULT_TIMEOUT,
            secret: false,
            on_line: None,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets the folder that the program starts in.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// Sets one environment variable.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts from an empty environment instead of ours.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.env_clear = true;
        self
    }

    /// Writes these bytes to the program's standard input, which is empty otherwise.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Sends standard output into a file instead of [`Output::stdout`]; for large or binary output.
    #[must_use]
    pub fn stdout_to(mut self, file: std::fs::File) -> Self {
        self.stdout_to = Some(file);
        self
    }

    /// Sets the time limit.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// Keeps the arguments out of the log and of errors: they hold a secret.
    #[must_use]
    pub fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// Calls `sink` with every line of standard output and error as it comes; for progress.
    #[must_use]
    pub fn on_line(mut self, sink: impl FnMut(&str) + Send + 'static) -> Self {
        self.on_line = Some(Box::new(sink));
        self
    }

    /// The command line as one would type it, arguments quoted where a shell needs it.
    pub fn line(&self) -> String {
        let mut line = quote(&self.program);
        if self.secret {
            line.push_str(" …");
            return line;
        }
        for arg in &self.args {
            line.push(' ');
            line.push_str(&quote(arg));
        }
        line
    }

    /// Runs the program to its end.
    ///
    /// # Errors
    /// [`Error::Start`] when it cannot be started, [`Error::Failed`] when it ends with a status
    /// other than 0, [`Error::TimedOut`] when it ran too long, [`Error::Io`] when its pipes break.
    pub fn run(mut self) -> Result<Output, Error> {
        let command = self.line();
        tracing::debug!(%command, "running");
        let begin = Instant::now();
        let mut child = self.spawn(&command)?;
        let sink = Arc::new(Mutex::new((VecDeque::with_capacity(TAIL_LINES), self.on_line.take())));
        let stdout = child.stdout.take().map(|pipe| collect(pipe, &sink));
        let stderr = child.stderr.take().map(|pipe| collect(pipe, &sink));
        let feeder = self.stdin.take().zip(child.stdin.take()).map(|(bytes, mut pipe)| {
            // A program that ends without reading all of its input is its own business; its exit
            // status tells whether it was content.
            std::thread::spawn(move || drop(pipe.write_all(&bytes)))
        });
        let io = |source| Error::Io { command: command.clone(), source };
        let ended = child.wait_timeout(self.timeout).map_err(io)?;
        let status = match ended {
            Some(status) => Some(status),
            None => {
                kill_group(&child);
                child.wait().map_err(io)?;
                None
            }
        };
        // After a time-out a grandchild in another group may still hold the pipes: do not wait.
        let (stdout, stderr) = match status {
            Some(_) => (join(stdout), join(stderr)),
            None => (String::new(), String::new()),
        };
        if let (Some(feeder), Some(_)) = (feeder, status) {
            drop(feeder.join());
        }
        let elapsed = begin.elapsed();
        let tail = || {
            let held = sink.lock().unwrap_or_else(PoisonError::into_inner);
            held.0.iter().cloned().collect::<Vec<_>>()
        };
        let Some(status) = status else {
            tracing::warn!(%command, limit = ?self.timeout, "timed out");
            return Err(Error::TimedOut { command, limit: self.timeout, tail: tail() });
        };
        tracing::debug!(%command, %status, ?elapsed, "ended");
        if !status.success() {
            return Err(Error::Failed {
                command,
                status: status_text(status),
                code: status.code(),
                tail: tail(),
            });
        }
        Ok(Output { stdout, stderr, elapsed })
    }

    fn spawn(&mut self, command: &str) -> Result<Child, Error> {
        let mut process = std::process::Command::new(&self.program);
        process.args(&self.args).envs(self.env.drain(..));
        if self.env_clear {
            // `env_clear` after `envs` would drop them too, so the variables are set again.
            let kept: Vec<_> = process
                .get_envs()
                .filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned())))
                .collect();
            process.env_clear().envs(kept);
        }
        if let Some(dir) = &self.dir {
            process.current_dir(dir);
        }
        process
            .stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(self.stdout_to.take().map_or_else(Stdio::piped, Stdio::from))
            .stderr(Stdio::piped())
            // A group of its own, so that a time-out ends the children too.
            .process_group(0);
        process.spawn().map_err(|source| Error::Start { command: command.to_owned(), source })
    }
}

type Sink = Arc<Mutex<(VecDeque<String>, Option<LineSink>)>>;

fn collect(pipe: impl Read + Send + 'static, sink: &Sink) -> JoinHandle<String> {
    let sink = Arc::clone(sink);
    std::thread::spawn(move || {
        let mut all = String::new();
        let mut reader = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&bytes);
            let line = text.trim_end_matches(['\n', '\r']);
            let mut held = sink.lock().unwrap_or_else(PoisonError::into_inner);
            if held.0.len() == TAIL_LINES {
                held.0.pop_front();
            }
            held.0.push_back(line.to_owned());
            if let Some(on_line) = &mut held.1 {
                on_line(line);
            }
            drop(held);
            all.push_str(&text);
            bytes.clear();
        }
        all
    })
}

fn join(handle: Option<JoinHandle<String>>) -> String {
    handle.and_then(|h| h.join().ok()).unwrap_or_default()
}

fn kill_group(child: &Child) {
    // The group's id is the child's, by `process_group(0)`.
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
}

fn status_text(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended without a status".to_owned(),
    }
}

fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_command_status_and_last_lines() {
        let error = Command::new("sh")
            .args(["-c", "echo one; echo 'no such pool' >&2; exit 3"])
            .run()
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status 3"), "{text}");
        assert!(text.contains("no such pool"), "{text}");
        assert!(text.contains("sh -c 'echo one;"), "{text}");
        assert!(matches!(error, Error::Failed { code: Some(3), .. }));
    }

    #[test]
    fn a_program_that_hangs_is_ended_with_its_children() {
        let begin = Instant::now();
        let error = Command::new("sh")
            .args(["-c", "echo started; sleep 600 & sleep 600"])
            .timeout(Duration::from_millis(300))
            .run()
            .unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn a_missing_program_is_told_apart() {
        let error = Command::new("no-such-program-here").run().unwrap_err();
        assert!(error.is_not_found());
        assert!(error.to_string().contains("is it installed?"));
    }

    #[test]
    fn input_reaches_the_program_and_lines_reach_the_sink() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let held = Arc::clone(&lines);
        let out = Command::new("cat")
            .stdin("a\nb\n")
            .on_line(move |line| held.lock().unwrap().push(line.to_owned()))
            .run()
            .unwrap();
        assert_eq!(out.stdout, "a\nb\n");
        assert_eq!(*lines.lock().unwrap(), ["a", "b"]);
    }

    #[test]
    fn secrets_stay_out_of_errors() {
        let error = Command::new("false").arg("hunter2").secret().run().unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }
}
