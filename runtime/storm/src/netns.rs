//! Network namespaces made by `ip netns add`.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

/// Moves the calling thread, and the threads that it starts, into a named network namespace.
/// Needs root.
///
/// # Errors
/// When there is no such namespace, or it may not be entered.
pub fn enter(name: &str) -> io::Result<()> {
    let file = File::open(Path::new("/run/netns").join(name))?;
    Ok(setns(file, CloneFlags::CLONE_NEWNET)?)
}
