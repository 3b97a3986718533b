//! What a machine can do and tell: power, identity, sysinfo.

pub mod power;
pub mod smbios;
pub mod sysinfo;
