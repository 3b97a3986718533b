//! How transfers are watched.

/// Sees how a transfer goes.
pub trait Watch: Sync {
    /// Its length in bytes is known.
    fn length(&self, bytes: u64);
    /// So many bytes are there.
    fn at(&self, bytes: u64);
    /// Something went wrong; it is tried again.
    fn trouble(&self, text: &str);
}

/// A watcher that looks away.
pub struct Unwatched;

impl Watch for Unwatched {
    fn length(&self, _: u64) {}
    fn at(&self, _: u64) {}
    fn trouble(&self, _: &str) {}
}
