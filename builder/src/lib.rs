//! The builder: makes headnode images, looks into them, and runs them in a lab.

pub mod image;
