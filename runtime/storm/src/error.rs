//! Why a simulated machine does not boot.

use std::io;

/// Why a simulated machine gives up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system of the simulator refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing came for as long as firmware waits.
    #[error("no {what} within {seconds} s")]
    Silent {
        /// What was waited for.
        what: &'static str,
        /// How long.
        seconds: u64,
    },
    /// The server said no.
    #[error("the server refuses: {0}")]
    Refused(String),
    /// What came is not what the protocol allows, or not what was asked for.
    #[error("a wrong answer: {0}")]
    Wrong(String),
}

impl Error {
    /// For `map_err`.
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }

    /// Whether the machine has waited for as long as its firmware does, in vain.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Silent { .. })
    }
}
