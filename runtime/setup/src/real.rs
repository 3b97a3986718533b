//! The machine that we run on.

use std::fs::{self, File};
use std::io::{ErrorKind, IsTerminal};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use headnode_model::boot::KernelParams;
use headnode_model::password;
use headnode_model::questions::{Facts, Question};
use headnode_node::dataset::Datasets;
use headnode_node::disk::{self, Disk, Disks};
use headnode_node::exec::{Call, Runner, System};
use headnode_node::file;
use headnode_node::key::{Key, Keys};
use headnode_node::nic::{self, Nic, Nics};
use headnode_node::pool::{Importable, Mark, OWNER_PROPERTY, PoolSpec, Pools};
use ipnet::Ipv4Net;
use time::format_description::well_known::Rfc3339;

use crate::machine::{Machine, ServiceState, SystemSettings};

pub mod prompt;
pub mod settings;

/// Folder of the control services' programs; a service is in the image when its program is here.
const PROGRAMS: &str = "/usr/lib/headnode";

/// The control services in the order in which they are started: the agent registers with control.
const SERVICES: [&str; 3] = ["sdc-control", "sdc-booter", "sdc-agent"];

/// The machine that we run on.
pub struct Real {
    disks: disk::Native<System>,
    nics: nic::Native<System>,
    keys: Keys<System>,
    pools: Pools<System>,
    datasets: Datasets<System>,
    begin: Instant,
}

impl Real {
    /// The machine that we run on.
    pub fn new() -> Self {
        Self {
            disks: disk::Native::new(System),
            nics: nic::Native::new(System),
            keys: Keys::new(System),
            pools: Pools::new(System),
            datasets: Datasets::new(System),
            begin: Instant::now(),
        }
    }
}

impl Default for Real {
    fn default() -> Self {
        Self::new()
    }
}

fn run(program: &str, args: &[&str]) -> Result<String> {
    Ok(System.run(&Call::new(program, args.iter().copied()))?.stdout)
}

impl Machine for Real {
    fn now(&self) -> String {
        let now = time::OffsetDateTime::now_utc();
        now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_default()
    }

    fn clock(&self) -> Duration {
        self.begin.elapsed()
    }

    fn uuid(&self) -> String {
        uuid::Uuid::new_v4().to_string()
    }

    fn hash_password(&self, password: &str) -> Result<String> {
        let mut salt = [0; password::SALT];
        for (to, from) in salt.iter_mut().zip(uuid::Uuid::new_v4().as_bytes()) {
            *to = *from;
        }
        Ok(password::hash(password, &salt)?)
    }

    fn params(&self) -> Result<KernelParams> {
        Ok(KernelParams::parse(
            &fs::read_to_string("/proc/cmdline").context("reading /proc/cmdline")?,
        ))
    }

    fn settle(&self, limit: Duration) {
        self.disks.settle(limit);
    }

    fn pause(&self) {
        // Between two looks; the deadline lies with the caller.
        std::thread::sleep(Duration::from_millis(200));
    }

    fn disks(&self) -> Result<Vec<Disk>> {
        Ok(self.disks.list()?)
    }

    fn find_key(&self, manifest: Option<&str>) -> Result<Option<Key>> {
        let mount = Path::new(headnode_model::paths::KEY_MOUNT);
        // A step that is repeated finds it mounted.
        if headnode_node::dataset::mounted_at(mount)?.is_some() {
            self.keys.unmount()?;
        }
        Ok(self.keys.find(&self.disks, manifest)?)
    }

    fn key_writable(&self, writable: bool) -> Result<()> {
        Ok(self.keys.writable(writable)?)
    }

    fn importable(&self, disks: &[Disk]) -> Result<Vec<Importable>> {
        let members: Vec<_> = disks.iter().flat_map(Disk::zfs_members).collect();
        Ok(self.pools.importable(&members)?)
    }

    fn imported(&self) -> Result<Vec<String>> {
        Ok(self.pools.imported()?)
    }

    fn import(&self, guid: &str, disks: &[Disk]) -> Result<()> {
        let members: Vec<_> = disks.iter().flat_map(Disk::zfs_members).collect();
        Ok(self.pools.import(guid, &members)?)
    }

    fn pool_owner(&self, pool: &str) -> Result<String> {
        Ok(self.datasets.property(pool, OWNER_PROPERTY)?)
    }

    fn pool_health(&self, pool: &str) -> Result<String> {
        Ok(self.pools.property(pool, "health")?)
    }

    fn mark_finished(&self, pool: &str, mark: &Mark) -> Result<()> {
        Ok(self.pools.mark_finished(pool, mark)?)
    }

    fn create_pool(&self, spec: &PoolSpec) -> Result<()> {
        Ok(self.pools.create(spec, &self.disks)?)
    }

    fn wipe(&self, disk: &Disk) -> Result<()> {
        Ok(self.disks.wipe(disk)?)
    }

    fn ensure_datasets(&self, pool: &str) -> Result<Vec<String>> {
        Ok(self.datasets.ensure(pool, true)?)
    }

    fn mount_root(&self, pool: &str) -> Result<()> {
        if self.datasets.property(pool, "mounted")? == "no" {
            run("zfs", &["mount", pool])?;
        }
        Ok(())
    }

    fn mount_datasets(&self, pool: &str) -> Result<()> {
        Ok(self.datasets.mount_all(pool, true)?)
    }

    fn swap(&self, pool: &str, bytes: u64) -> Result<()> {
        settings::swap(&self.datasets, pool, bytes)
    }

    fn memory(&self) -> Result<u64> {
        let text = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kib.context("/proc/meminfo has no MemTotal")? << 10)
    }

    fn nics(&self) -> Result<Vec<Nic>> {
        Ok(self.nics.list()?)
    }

    fn configure_nic(&self, nic: &Nic, address: Ipv4Net, vlan: Option<u16>) -> Result<String> {
        Ok(self.nics.configure(nic, address, vlan)?)
    }

    fn default_route(&self, gateway: Ipv4Addr) -> Result<()> {
        Ok(self.nics.default_route(gateway)?)
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            other => Ok(Some(other.with_context(|| format!("reading {}", path.display()))?)),
        }
    }

    fn size(&self, path: &Path) -> Result<Option<u64>> {
        match fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            other => {
                Ok(Some(other.with_context(|| format!("looking at {}", path.display()))?.len()))
            }
        }
    }

    fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
        file::write_atomic(path, bytes, mode).with_context(|| format!("writing {}", path.display()))
    }

    fn digest(&self, path: &Path, progress: &mut dyn FnMut(u64)) -> Result<String> {
        file::sha256(path, progress).with_context(|| format!("reading {}", path.display()))
    }

    fn copy(
        &self,
        from: &Path,
        to: &Path,
        sha256: &str,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        Ok(file::copy_verified(from, to, sha256, progress)?)
    }

    fn sync(&self, path: &Path) -> Result<()> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        #[cfg(target_os = "linux")]
        nix::unistd::syncfs(&file).with_context(|| format!("syncing {}", path.display()))?;
        #[cfg(not(target_os = "linux"))]
        file.sync_all().with_context(|| format!("syncing {}", path.display()))?;
        Ok(())
    }

    fn configure_system(&self, settings: &SystemSettings) -> Result<()> {
        settings::apply(settings)
    }

    fn services(&self) -> Result<Vec<String>> {
        let there = SERVICES.iter().filter(|name| Path::new(PROGRAMS).join(name).exists());
        Ok(there.map(|&name| name.to_owned()).collect())
    }

    fn start_service(&self, name: &str) -> Result<()> {
        // Not waiting here: all start at once, and a unit that is ordered after this one would
        // block both for good.
        run("systemctl", &["start", "--no-block", name]).map(drop)
    }

    fn service_state(&self, name: &str) -> Result<ServiceState> {
        let text =
            run("systemctl", &["show", "-p", "ActiveState", "-p", "SubState", "-p", "Job", name])?;
        let value = |key: &str| {
            text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('=')).unwrap_or("")
        };
        Ok(match (value("ActiveState"), value("SubState"), value("Job")) {
            ("active", ..) => ServiceState::Active,
            (_, "auto-restart", _) | ("failed", ..) | ("inactive", _, "" | "0") => {
                let tail = run("journalctl", &["-u", name, "-n", "10", "-o", "cat", "--no-pager"]);
                ServiceState::Failed(tail.unwrap_or_default().lines().map(str::to_owned).collect())
            }
            _ => ServiceState::Starting,
        })
    }

    fn interactive(&self) -> bool {
        std::io::stdin().is_terminal()
    }

    fn ask(&self, question: &Question, default: Option<String>, facts: &Facts) -> Result<String> {
        prompt::ask(question, default, facts, &self.nics.list()?)
    }
}
