//! `sdc-agent`: the hand of the control plane on every machine, compute node and headnode.
//!
//! It starts a compute node ([`linux::boot`]), tells CNAPI of the machine ([`report`]) and does what
//! CNAPI asks ([`tasks`], over [`http`]). All that touches the machine goes through
//! [`machine::Machine`].

pub mod cli;
pub mod clock;
mod consoles;
pub mod daemon;
pub mod http;
pub mod linux;
pub mod machine;
pub mod metrics;
pub mod notify;
pub mod report;
pub mod steps;
pub mod store;
pub mod tasks;
