//! The build host's side of the headnode: everything behind the command `headnode`.

pub mod cli;
pub mod lab;
