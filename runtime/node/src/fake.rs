//! A machine made of answers, for tests of this crate and of those that use it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::exec::{Call, Error, Output, Runner};

/// Answers a call: standard output, or the lines of a failure with exit status 1.
type Answer = Box<dyn Fn(&Call) -> Result<String, String> + Send + Sync>;

/// A [`Runner`] that runs nothing: it notes every call and gives the answers it was told to.
pub struct Recorder {
    answer: Answer,
    calls: Mutex<Vec<Call>>,
}

impl Recorder {
    /// A recorder whose answers come from a function.
    pub fn new(answer: impl Fn(&Call) -> Result<String, String> + Send + Sync + 'static) -> Self {
        Self { answer: Box::new(answer), calls: Mutex::new(Vec::new()) }
    }

    /// The command lines so far, see [`Call::line`].
    pub fn lines(&self) -> Vec<String> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().map(Call::line).collect()
    }
}

impl Default for Recorder {
    /// A recorder that answers every call with success and no output.
    fn default() -> Self {
        Self::new(|_| Ok(String::new()))
    }
}

impl Runner for Recorder {
    fn run(&self, call: &Call) -> Result<Output, Error> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call.clone());
        match (self.answer)(call) {
            Ok(stdout) => Ok(Output { stdout, stderr: String::new(), elapsed: Duration::ZERO }),
            Err(text) => Err(Error::Failed {
                command: call.line(),
                status: "exit status 1".to_owned(),
                code: Some(1),
                tail: text.lines().map(str::to_owned).collect(),
            }),
        }
    }
}
