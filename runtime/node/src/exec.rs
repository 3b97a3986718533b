//! How programs are run: for real, or by a test in the machine's place.

use std::time::Duration;

pub use headnode_command::{Error, Output};

/// A program with its arguments, as data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Name of the program.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// How long it may run.
    pub timeout: Duration,
}

impl Call {
    /// A program and its arguments, limited to [`headnode_command::DEFAULT_TIMEOUT`].
    pub fn new<A: Into<String>>(program: &str, args: impl IntoIterator<Item = A>) -> Self {
        Self {
            program: program.to_owned(),
            args: args.into_iter().map(Into::into).collect(),
            timeout: headnode_command::DEFAULT_TIMEOUT,
        }
    }

    /// Sets the time limit.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// The command line, words joined by blanks; for comparing, not for a shell.
    pub fn line(&self) -> String {
        std::iter::once(&self.program).chain(&self.args).cloned().collect::<Vec<_>>().join(" ")
    }
}

/// Runs programs.
pub trait Runner: Send + Sync {
    /// Runs a program to its end.
    ///
    /// # Errors
    /// As [`headnode_command::Command::run`].
    fn run(&self, call: &Call) -> Result<Output, Error>;
}

impl<R: Runner + ?Sized> Runner for &R {
    fn run(&self, call: &Call) -> Result<Output, Error> {
        (**self).run(call)
    }
}

impl<R: Runner + ?Sized> Runner for std::sync::Arc<R> {
    fn run(&self, call: &Call) -> Result<Output, Error> {
        (**self).run(call)
    }
}

/// Runs programs on this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct System;

impl Runner for System {
    fn run(&self, call: &Call) -> Result<Output, Error> {
        headnode_command::Command::new(&call.program).args(&call.args).timeout(call.timeout).run()
    }
}
