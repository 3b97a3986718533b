//! A datacenter in QEMU: a headnode booted from an image, blank compute nodes that boot from the
//! network, and a userspace Ethernet switch between them. Some of the nodes may be in a rack with a
//! switch of its own, behind a router that is a DHCP relay agent: [`relay`].
//!
//! One supervisor process per lab (`headnode lab run`) owns the switch, the consoles and the QEMU
//! processes, which end with it. All that a lab has lies in one folder, see [`paths`]. Other
//! processes speak to the supervisor through that folder's control socket: [`control`].
//!
//! Tests and the command line use [`Lab`]:
//!
//! ```no_run
//! # use headnode::lab::{Lab, Options};
//! # use std::time::Duration;
//! # fn main() -> anyhow::Result<()> {
//! let options = Options { nodes: 2, ..Options::new("headnode.img", "lab") };
//! let lab = Lab::up(&options)?;
//! let seen = lab.machine("node1").wait_console("login:", Duration::from_secs(120))?;
//! println!("after {:.1} s: {}", seen.seconds, seen.line);
//! println!("{}", lab.machine("headnode").ssh("zpool status")?.stdout);
//! # Ok(())
//! # }
//! ```

pub mod client;
pub mod console;
pub mod control;
pub mod disks;
pub mod down;
pub mod host;
mod machine;
pub mod paths;
mod process;
mod qemu;
pub mod qmp;
pub mod relay;
pub mod spec;
pub mod ssh;
pub mod state;
pub mod supervisor;
pub mod switch;

pub use client::{Lab, Machine};
pub use relay::Rack;
pub use spec::{Accel, Firmware, KeyBus, Options, Rom, admin_mac, external_mac, machine_uuid};
