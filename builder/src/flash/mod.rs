//! Writes images to disks.

pub mod source;
