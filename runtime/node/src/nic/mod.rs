//! The machine's network interfaces.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use headnode_model::net::MacAddr;
use ipnet::Ipv4Net;
use serde::Serialize;

use crate::exec;

pub mod illumos;
pub mod linux;

/// The NICs of the platform that this is built for.
#[cfg(target_os = "linux")]
pub type Native<R> = linux::LinuxNics<R>;
/// The NICs of the platform that this is built for.
#[cfg(not(target_os = "linux"))]
pub type Native<R> = illumos::IllumosNics<R>;

/// A network interface that is hardware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Nic {
    /// Its name: `eth0`, `enp1s0`, `ixgbe0`.
    pub name: String,
    /// Its MAC.
    pub mac: MacAddr,
    /// Whether it has a link; `false` also while it is down.
    pub link: bool,
}

/// Finds a NIC by its MAC.
///
/// # Errors
/// Lists the NICs that are there.
pub fn by_mac(nics: &[Nic], mac: MacAddr) -> Result<&Nic, NicError> {
    let absent = || {
        let list =
            nics.iter().map(|nic| format!("\n    {} {}", nic.mac, nic.name)).collect::<String>();
        NicError::Absent {
            mac,
            list: if list.is_empty() { "\n    none at all".to_owned() } else { list },
        }
    };
    nics.iter().find(|nic| nic.mac == mac).ok_or_else(absent)
}

/// Why a NIC cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NicError {
    /// No NIC has this MAC.
    #[error("this machine has no NIC with the MAC {mac}. It has:{list}")]
    Absent {
        /// The MAC wanted.
        mac: MacAddr,
        /// The NICs that are there.
        list: String,
    },
    /// A program failed.
    #[error(transparent)]
    Command(#[from] exec::Error),
    /// The system's list cannot be read.
    #[error("reading {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A program's output is not of the form expected.
    #[error("the output of `{command}` is not understood: {reason}")]
    Output {
        /// The program.
        command: String,
        /// What is odd.
        reason: String,
    },
}

/// The NICs of a machine; one implementation per platform. All calls may be repeated.
pub trait Nics: Send + Sync {
    /// Lists the NICs that are hardware, sorted by name.
    ///
    /// # Errors
    /// When the system's list cannot be had.
    fn list(&self) -> Result<Vec<Nic>, NicError>;

    /// Brings a NIC up with this address, on a VLAN when one is given; tells the name of the link
    /// that carries the address.
    ///
    /// # Errors
    /// When the system refuses.
    fn configure(&self, nic: &Nic, address: Ipv4Net, vlan: Option<u16>)
    -> Result<String, NicError>;

    /// Sets the default route.
    ///
    /// # Errors
    /// When the system refuses, as for a gateway in no network of ours.
    fn default_route(&self, gateway: Ipv4Addr) -> Result<(), NicError>;
}
