//! Writes images to keys: which disk, from where, how, and whether it is there afterwards.

pub mod device;
pub mod engine;
mod key;
pub mod source;

pub use key::Key;
