//! The builder: makes platforms and headnode images, looks into them, and runs them in a lab.

pub mod answers;
pub mod assemble;
pub mod boot;
pub mod cli;
pub mod contents;
pub mod diff;
pub mod extract;
pub mod flash;
pub mod image;
pub mod lab;
pub mod manifest;
pub mod personal;
pub mod platform;
pub mod progress;
pub mod source;
pub mod spec;
pub mod tree;
