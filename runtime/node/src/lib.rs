//! What a machine can do and tell: disks, the pool, datasets, NICs, the key, power, identity,
//! sysinfo.
//!
//! Where platforms differ there is one trait with a file for each (`linux.rs`, `illumos.rs`); what
//! they share (`zpool`, `zfs`) is written once. Everything runs programs through [`exec::Runner`],
//! so that tests can answer in the machine's place.

pub mod dataset;
pub mod disk;
pub mod exec;
pub mod fake;
pub mod file;
pub mod key;
pub mod layout;
pub mod nic;
pub mod pool;
pub mod power;
pub mod smbios;
pub mod sysinfo;
