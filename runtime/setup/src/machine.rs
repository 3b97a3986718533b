//! What setup asks of the machine. Every method that changes something is one effect: it happens
//! or it does not, or it leaves the half-done state that its comment names.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use headnode_model::boot::KernelParams;
use headnode_model::questions::{Facts, Question};
use headnode_node::disk::Disk;
use headnode_node::key::Key;
use headnode_node::nic::Nic;
use headnode_node::pool::{Importable, Mark, PoolSpec};
use ipnet::Ipv4Net;

/// How a service is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceState {
    /// It runs and has told that it is ready.
    Active,
    /// It is about to be.
    Starting,
    /// It is not, and will not be by itself: what it wrote last.
    Failed(Vec<String>),
}

/// What a running system is told; all of it lives in memory and is told anew at every boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SystemSettings {
    /// Host name.
    pub hostname: String,
    /// Hash of root's password.
    pub root_shadow: String,
    /// Content of root's `authorized_keys`.
    pub authorized_keys: String,
    /// Content of `resolv.conf`.
    pub resolv_conf: String,
    /// Content of chrony's additional configuration.
    pub chrony_conf: String,
    /// What is shown before login.
    pub issue: String,
    /// Where the host keys are kept for good.
    pub host_keys: PathBuf,
}

/// The machine.
pub trait Machine {
    /// Now, RFC 3339.
    fn now(&self) -> String;
    /// Time since some fixed moment.
    fn clock(&self) -> Duration;
    /// A random UUID.
    fn uuid(&self) -> String;
    /// The hash of a password with a random salt.
    fn hash_password(&self, password: &str) -> Result<String>;
    /// The kernel's parameters.
    fn params(&self) -> Result<KernelParams>;

    /// Waits until devices that are attached are known, at most this long.
    fn settle(&self, limit: Duration);
    /// Waits a moment for something new to be attached.
    fn pause(&self);
    /// The disks.
    fn disks(&self) -> Result<Vec<Disk>>;
    /// Looks for the key and leaves it mounted read-only at [`headnode_model::paths::KEY_MOUNT`].
    fn find_key(&self, manifest: Option<&str>) -> Result<Option<Key>>;
    /// Makes the key writable or read-only.
    fn key_writable(&self, writable: bool) -> Result<()>;

    /// The pools on these disks that are not imported.
    fn importable(&self, disks: &[Disk]) -> Result<Vec<Importable>>;
    /// Names of the imported pools.
    fn imported(&self) -> Result<Vec<String>>;
    /// Imports a pool by its number, mounting nothing.
    fn import(&self, guid: &str, disks: &[Disk]) -> Result<()>;
    /// The id of the setup that made an imported pool; `-` when it has none.
    fn pool_owner(&self, pool: &str) -> Result<String>;
    /// Health of an imported pool: `ONLINE`, …
    fn pool_health(&self, pool: &str) -> Result<String>;
    /// Marks an imported pool as carrying a finished system.
    fn mark_finished(&self, pool: &str, mark: &Mark) -> Result<()>;
    /// Makes a pool. Half-done: the disks have partition tables, with or without labels of ZFS.
    fn create_pool(&self, spec: &PoolSpec) -> Result<()>;
    /// Destroys what is on a disk. Half-done: some of it is left.
    fn wipe(&self, disk: &Disk) -> Result<()>;
    /// Makes the missing datasets, tells their names. Half-done: some are there.
    fn ensure_datasets(&self, pool: &str) -> Result<Vec<String>>;
    /// Mounts the pool's root dataset only.
    fn mount_root(&self, pool: &str) -> Result<()>;
    /// Fills and mounts all datasets. Half-done: some are mounted, some are filled in part.
    fn mount_datasets(&self, pool: &str) -> Result<()>;
    /// Makes the swap volume when it is missing, and swaps to it.
    fn swap(&self, pool: &str, bytes: u64) -> Result<()>;
    /// Size of the memory in bytes.
    fn memory(&self) -> Result<u64>;

    /// The NICs.
    fn nics(&self) -> Result<Vec<Nic>>;
    /// Gives a NIC an address.
    fn configure_nic(&self, nic: &Nic, address: Ipv4Net, vlan: Option<u16>) -> Result<String>;
    /// Sets the default route.
    fn default_route(&self, gateway: std::net::Ipv4Addr) -> Result<()>;

    /// Reads a file; `None` when there is none.
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>>;
    /// Size of a file; `None` when there is none.
    fn size(&self, path: &Path) -> Result<Option<u64>>;
    /// Writes a file so that it is there as a whole or not at all. Half-done: a rest with the
    /// suffix `.tmp`.
    fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<()>;
    /// SHA-256 of a file in hex.
    fn digest(&self, path: &Path, progress: &mut dyn FnMut(u64)) -> Result<String>;
    /// Copies a file whose SHA-256 must be this. Half-done: a rest with the suffix `.tmp`.
    fn copy(
        &self,
        from: &Path,
        to: &Path,
        sha256: &str,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()>;
    /// Makes sure that what was written to the file system of this path lasts.
    fn sync(&self, path: &Path) -> Result<()>;

    /// Tells the running system what it is.
    fn configure_system(&self, settings: &SystemSettings) -> Result<()>;
    /// The control services that this image carries.
    fn services(&self) -> Result<Vec<String>>;
    /// Asks for a service to be started; does not wait.
    fn start_service(&self, name: &str) -> Result<()>;
    /// How a service is doing.
    fn service_state(&self, name: &str) -> Result<ServiceState>;

    /// Whether there is someone to ask.
    fn interactive(&self) -> bool;
    /// Asks a question until the answer is good.
    fn ask(&self, question: &Question, default: Option<String>, facts: &Facts) -> Result<String>;
}
