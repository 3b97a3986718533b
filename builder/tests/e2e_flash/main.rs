//! `headnode flash` on loop devices, good ones and ones with faults, as people and programs use it.
//! Other programs are the oracles: `sgdisk`, `fsck.fat`, `bmaptool`. Needs root and /dev/fuse.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod faults;
mod images;
mod interrupted;
mod people;
mod run;
mod things;

#[path = "../support/faulty.rs"]
mod faulty;
#[path = "../support/linux.rs"]
mod linux;
#[allow(dead_code)]
#[path = "../flash_source/server.rs"]
mod server;

pub const MIB: u64 = 1 << 20;
/// Bytes that stand before a disk was ever written to.
pub const OLD: u8 = 0x5a;
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_headnode");
