//! One module per subject of the command line.

pub mod boot;
pub mod boot_watch;
pub mod platform;
pub mod server;
mod setup;
pub mod status;
pub mod task;

use serde::Serialize;

use crate::outcome::{Result, say};

/// Prints JSON for scripts.
fn print_json<T: Serialize>(value: &T) -> Result {
    say!("{}", serde_json::to_string_pretty(value)?)?;
    Ok(())
}
