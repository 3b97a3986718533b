//! Where the parts of an image come from: platform tarballs, our own programs, boot firmware.

pub mod firmware;
pub mod platform;
pub mod programs;
