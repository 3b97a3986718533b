//! The builder: makes platforms and headnode images, looks into them, and runs them in a lab.

pub mod assemble;
pub mod boot;
pub mod cli;
pub mod image;
pub mod lab;
pub mod manifest;
pub mod platform;
pub mod source;
pub mod spec;
pub mod tree;
