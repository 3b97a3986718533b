//! `sdc-control`: the control plane's HTTP services on one store. So far CNAPI's core: machines
//! register, are listed, set up, rebooted, and get their boot parameters.

pub mod api;
pub mod cli;
pub mod fleet;
pub mod jobs;
mod notify;
pub mod service;
pub mod store;
