//! The steps, by what they are about.

pub mod config;
pub mod copy;
pub mod key;
pub mod network;
pub mod pool;
pub mod system;
