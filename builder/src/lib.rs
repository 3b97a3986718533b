//! Everything that happens on the build host: platforms, images, keys and the lab.

pub mod cli;
pub mod platform;
