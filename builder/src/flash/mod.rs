//! Writes images to boot keys.

pub mod device;
