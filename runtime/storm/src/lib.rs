//! A rack of simulated machines that boot from a PXE server, all at once.
//!
//! Each machine has its own MAC and its own address, waits and repeats as firmware does, and gives
//! up when firmware would. Nothing here is particular to `sdc-booter`: dnsmasq is measured with it
//! too.
//!
//! The addresses that the server gives must be local where the storm runs, so that sockets can be
//! bound to them: `ip route add local RANGE dev eth0` in a network namespace.

mod dhcp;
mod error;
mod http;
mod node;
mod report;
mod script;
mod storm;

pub mod cnapi;
pub mod load;
pub mod netns;
pub mod tftp;

pub use dhcp::Way;
pub use error::Error;
pub use node::Stage;
pub use report::{Failed, Report, StageReport};
pub use storm::{Plan, run, run_with};
