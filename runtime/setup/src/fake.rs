//! A machine in memory that can die after any single effect, for the tests.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use headnode_model::boot::KernelParams;
use headnode_model::net::MacAddr;
use headnode_model::paths;
use headnode_model::questions::{Facts, Question};
use headnode_node::dataset::DATASETS;
use headnode_node::disk::{Disk, Partition};
use headnode_node::file::sha256_of;
use headnode_node::key::{Candidate, Key, Medium};
use headnode_node::nic::Nic;
use headnode_node::pool::{Importable, Mark, PoolSpec};
use ipnet::Ipv4Net;

use crate::machine::{Machine, ServiceState, SystemSettings};

pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A pool on disks.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    pub name: String,
    pub comment: String,
    pub owner: String,
    pub disks: Vec<String>,
    /// Files by dataset; the empty name is the root dataset.
    pub datasets: BTreeMap<String, Files>,
    /// A power cut left it so that it cannot be imported.
    pub broken: bool,
}

/// What lasts over a power cut.
#[derive(Debug, Clone, PartialEq)]
pub struct Durable {
    /// The key's files, by their paths below its mount point; `None`: not plugged in.
    pub key: Option<Files>,
    pub disks: Vec<Disk>,
    pub pools: Vec<Pool>,
}

/// What is in memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    pub files: Files,
    pub imported: Option<usize>,
    pub mounted: BTreeSet<String>,
    pub key_writable: bool,
    pub addresses: BTreeMap<String, String>,
    pub settings: SystemSettings,
    pub services: BTreeSet<String>,
}

pub struct Inner {
    pub durable: Durable,
    pub memory: Memory,
    pub clock: Duration,
    pub effects: Vec<String>,
    pub die_at: Option<(usize, bool)>,
    pub dead: bool,
    pub params: String,
    pub failing_service: bool,
    /// What the key holds at every boot, when it is a disc, which cannot be written to.
    pub disc: Option<Files>,
}

pub struct Fake(pub RefCell<Inner>);

pub fn blank(name: &str, gb: u64) -> Disk {
    Disk {
        name: name.into(),
        path: Path::new("/dev").join(name),
        serial: Some(name.to_uppercase()),
        size: gb * 1_000_000_000,
        zeroed: true,
        ..Disk::default()
    }
}

fn table(disk: &mut Disk, pool: Option<&str>) {
    disk.table = Some("gpt".into());
    disk.partitions = vec![Partition {
        name: format!("{}1", disk.name),
        path: format!("/dev/{}1", disk.name).into(),
        fs: pool.map(|_| "zfs_member".into()),
        label: pool.map(str::to_owned),
        ..Partition::default()
    }];
}

impl Fake {
    pub fn new(key: Files, disks: Vec<Disk>, params: &str) -> Self {
        let durable = Durable { key: Some(key), disks, pools: Vec::new() };
        Self(RefCell::new(Inner {
            durable,
            memory: Memory::default(),
            clock: Duration::ZERO,
            effects: Vec::new(),
            die_at: None,
            dead: false,
            params: params.into(),
            failing_service: false,
            disc: None,
        }))
    }

    /// Power off and on.
    pub fn reset(&self) {
        let mut inner = self.0.borrow_mut();
        inner.memory = Memory::default();
        inner.dead = false;
        inner.die_at = None;
        inner.effects.clear();
        if inner.disc.is_some() {
            inner.durable.key = inner.disc.clone();
        }
    }

    /// One effect. Dies before it, or in the middle of it by `half`.
    fn effect(
        &self,
        name: String,
        half: impl FnOnce(&mut Inner),
        whole: impl FnOnce(&mut Inner),
    ) -> Result<()> {
        let mut inner = self.0.borrow_mut();
        if inner.dead {
            bail!("dead");
        }
        let number = inner.effects.len();
        inner.effects.push(name);
        if let Some((at, halfway)) = inner.die_at
            && number == at
        {
            inner.dead = true;
            if halfway {
                half(&mut inner);
            }
            bail!("power cut");
        }
        whole(&mut inner);
        Ok(())
    }

    fn alive(&self) -> Result<()> {
        if self.0.borrow().dead { bail!("dead") } else { Ok(()) }
    }
}

impl Inner {
    /// The file system that a path lies in.
    fn files(&mut self, path: &Path) -> Result<(&mut Files, PathBuf)> {
        if let Ok(rest) = path.strip_prefix(paths::KEY_MOUNT) {
            let Some(key) = &mut self.durable.key else { bail!("no key") };
            return Ok((key, rest.into()));
        }
        if let Some(pool) = self.memory.imported {
            let datasets = &mut self.durable.pools[pool].datasets;
            for dataset in DATASETS {
                if let Some(at) = dataset.mount
                    && self.memory.mounted.contains(dataset.name)
                    && let Ok(rest) = path.strip_prefix(at)
                {
                    return Ok((datasets.get_mut(dataset.name).unwrap(), rest.into()));
                }
            }
            if self.memory.mounted.contains("")
                && let Ok(rest) = path.strip_prefix("/zones")
            {
                return Ok((datasets.get_mut("").unwrap(), rest.into()));
            }
        }
        Ok((&mut self.memory.files, path.into()))
    }

    fn put(&mut self, path: &Path, bytes: &[u8]) {
        let (files, rest) = self.files(path).unwrap();
        files.insert(rest, bytes.to_vec());
    }
}

impl Machine for Fake {
    fn now(&self) -> String {
        "2026-01-01T00:00:00Z".into()
    }
    fn clock(&self) -> Duration {
        self.0.borrow().clock
    }
    fn uuid(&self) -> String {
        "01234567-89ab-cdef-0123-456789abcdef".into()
    }
    fn hash_password(&self, _: &str) -> Result<String> {
        Ok("$6$salt$hash".into())
    }
    fn params(&self) -> Result<KernelParams> {
        Ok(KernelParams::parse(&self.0.borrow().params))
    }
    fn settle(&self, _: Duration) {}
    fn pause(&self) {
        self.0.borrow_mut().clock += Duration::from_millis(200);
    }
    fn disks(&self) -> Result<Vec<Disk>> {
        self.alive()?;
        Ok(self.0.borrow().durable.disks.clone())
    }
    fn find_key(&self, _: Option<&str>) -> Result<Option<Key>> {
        self.alive()?;
        let inner = self.0.borrow();
        Ok(inner.durable.key.as_ref().map(|files| Key {
            at: Candidate {
                disk: "sdk".into(),
                device: "/dev/sdk3".into(),
                medium: if inner.disc.is_some() { Medium::Iso } else { Medium::Fat },
            },
            manifest: files.get(Path::new(paths::KEY_MANIFEST)).map(|b| sha256_of(b)),
        }))
    }
    fn key_writable(&self, writable: bool) -> Result<()> {
        self.effect(
            format!("key writable {writable}"),
            |_| {},
            |i| i.memory.key_writable = writable,
        )
    }
    fn importable(&self, disks: &[Disk]) -> Result<Vec<Importable>> {
        self.alive()?;
        let inner = self.0.borrow();
        let seen = |p: &&Pool| {
            p.disks
                .iter()
                .all(|d| disks.iter().any(|x| x.name == *d && !x.zfs_members().is_empty()))
        };
        let pools = inner
            .durable
            .pools
            .iter()
            .enumerate()
            .filter(|(i, p)| inner.memory.imported != Some(*i) && seen(p));
        Ok(pools
            .map(|(i, p)| Importable {
                name: p.name.clone(),
                guid: i.to_string(),
                state: if p.broken { "UNAVAIL" } else { "ONLINE" }.into(),
                status: None,
                comment: (!p.comment.is_empty()).then(|| p.comment.clone()),
                devices: p.disks.clone(),
            })
            .collect())
    }
    fn imported(&self) -> Result<Vec<String>> {
        self.alive()?;
        let inner = self.0.borrow();
        Ok(inner.memory.imported.map(|i| inner.durable.pools[i].name.clone()).into_iter().collect())
    }
    fn import(&self, guid: &str, _: &[Disk]) -> Result<()> {
        let index = guid.parse().unwrap();
        self.effect(format!("import {guid}"), |_| {}, |i| i.memory.imported = Some(index))
    }
    fn pool_owner(&self, _: &str) -> Result<String> {
        self.alive()?;
        let inner = self.0.borrow();
        Ok(inner.durable.pools[inner.memory.imported.unwrap()].owner.clone())
    }
    fn pool_health(&self, _: &str) -> Result<String> {
        self.alive()?;
        Ok("ONLINE".into())
    }
    fn mark_finished(&self, _: &str, mark: &Mark) -> Result<()> {
        let comment = mark.finished_comment();
        self.effect(
            "mark finished".into(),
            |_| {},
            |i| {
                let pool = i.memory.imported.unwrap();
                i.durable.pools[pool].comment = comment.clone();
            },
        )
    }
    fn create_pool(&self, spec: &PoolSpec) -> Result<()> {
        let names: Vec<String> = spec
            .devices
            .iter()
            .map(|d| d.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        for disk in &self.0.borrow().durable.disks {
            assert!(!names.contains(&disk.name) || disk.blank(), "{} is not blank", disk.name);
        }
        // Alternately: only tables; labels without a comment that cannot be imported.
        let broken = self.0.borrow().effects.len().is_multiple_of(2);
        let make = |i: &mut Inner, labels: bool, broken: bool| {
            for disk in i.durable.disks.iter_mut().filter(|d| names.contains(&d.name)) {
                table(disk, labels.then_some("zones"));
            }
            if labels {
                i.durable.pools.push(Pool {
                    name: "zones".into(),
                    comment: if broken { String::new() } else { spec.mark.comment() },
                    owner: spec.mark.id.clone(),
                    disks: names.clone(),
                    datasets: BTreeMap::from([(String::new(), Files::new())]),
                    broken,
                });
            }
        };
        self.effect(
            "create pool".into(),
            |i| make(i, broken, true),
            |i| {
                make(i, true, false);
                i.memory.imported = Some(i.durable.pools.len() - 1);
                i.memory.mounted.insert(String::new());
            },
        )
    }
    fn wipe(&self, disk: &Disk) -> Result<()> {
        let name = disk.name.clone();
        let wipe = |i: &mut Inner| {
            i.durable.pools.retain(|p| !p.disks.contains(&name));
            for disk in i.durable.disks.iter_mut().filter(|d| d.name == name) {
                *disk = blank(&name, disk.size / 1_000_000_000);
            }
        };
        let half = |i: &mut Inner| {
            i.durable.pools.retain(|p| !p.disks.contains(&name));
        };
        self.effect(format!("wipe {}", disk.name), half, wipe)
    }
    fn ensure_datasets(&self, _: &str) -> Result<Vec<String>> {
        self.alive()?;
        let mut made = Vec::new();
        for dataset in DATASETS {
            let there = {
                let inner = self.0.borrow();
                inner.durable.pools[inner.memory.imported.unwrap()]
                    .datasets
                    .contains_key(dataset.name)
            };
            if !there {
                self.effect(
                    format!("create {}", dataset.name),
                    |_| {},
                    |i| {
                        let pool = i.memory.imported.unwrap();
                        i.durable.pools[pool].datasets.insert(dataset.name.into(), Files::new());
                    },
                )?;
                made.push(dataset.name.to_owned());
            }
        }
        Ok(made)
    }
    fn mount_root(&self, _: &str) -> Result<()> {
        self.effect("mount root".into(), |_| {}, |i| i.memory.mounted.extend([String::new()]))
    }
    fn mount_datasets(&self, _: &str) -> Result<()> {
        for dataset in DATASETS {
            self.effect(
                format!("mount {}", dataset.name),
                |_| {},
                |i| i.memory.mounted.extend([dataset.name.into()]),
            )?;
        }
        Ok(())
    }
    fn swap(&self, _: &str, _: u64) -> Result<()> {
        self.alive()
    }
    fn memory(&self) -> Result<u64> {
        Ok(2 << 30)
    }
    fn nics(&self) -> Result<Vec<Nic>> {
        self.alive()?;
        Ok(vec![Nic { name: "eth0".into(), mac: MacAddr([0x90, 0xb8, 0xd0, 0, 0, 1]), link: true }])
    }
    fn configure_nic(&self, nic: &Nic, address: Ipv4Net, _: Option<u16>) -> Result<String> {
        self.effect(
            "configure nic".into(),
            |_| {},
            |i| drop(i.memory.addresses.insert(nic.name.clone(), address.to_string())),
        )?;
        Ok(nic.name.clone())
    }
    fn default_route(&self, _: std::net::Ipv4Addr) -> Result<()> {
        self.alive()
    }
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        self.alive()?;
        let mut inner = self.0.borrow_mut();
        let (files, rest) = inner.files(path)?;
        Ok(files.get(&rest).cloned())
    }
    fn size(&self, path: &Path) -> Result<Option<u64>> {
        Ok(self.read(path)?.map(|bytes| bytes.len() as u64))
    }
    fn write(&self, path: &Path, bytes: &[u8], _: u32) -> Result<()> {
        assert!(
            !path.starts_with(paths::KEY_MOUNT) || self.0.borrow().memory.key_writable,
            "{path:?}"
        );
        let temporary = headnode_node::file::temporary(path);
        self.effect(
            format!("write {}", path.display()),
            |i| i.put(&temporary, &bytes[..bytes.len() / 2]),
            |i| {
                i.put(path, bytes);
                // The rename takes the rest of an earlier attempt away.
                let (files, rest) = i.files(&temporary).unwrap();
                files.remove(&rest);
            },
        )
    }
    fn digest(&self, path: &Path, progress: &mut dyn FnMut(u64)) -> Result<String> {
        let Some(bytes) = self.read(path)? else { bail!("{} is not there", path.display()) };
        progress(bytes.len() as u64);
        Ok(sha256_of(&bytes))
    }
    fn copy(
        &self,
        from: &Path,
        to: &Path,
        sha256: &str,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        if self.digest(from, progress)? != sha256 {
            bail!("{} is damaged", from.display());
        }
        let bytes = self.read(from)?.unwrap();
        self.write(to, &bytes, 0o644)
    }
    fn sync(&self, _: &Path) -> Result<()> {
        self.alive()
    }
    fn configure_system(&self, settings: &SystemSettings) -> Result<()> {
        self.effect("configure system".into(), |_| {}, |i| i.memory.settings = settings.clone())
    }
    fn services(&self) -> Result<Vec<String>> {
        Ok(vec!["sdc-control".into(), "sdc-booter".into()])
    }
    fn start_service(&self, name: &str) -> Result<()> {
        self.effect(format!("start {name}"), |_| {}, |i| i.memory.services.extend([name.into()]))
    }
    fn service_state(&self, _: &str) -> Result<ServiceState> {
        self.alive()?;
        let failing = self.0.borrow().failing_service;
        Ok(if failing {
            ServiceState::Failed(vec!["port 67 is taken".into()])
        } else {
            ServiceState::Active
        })
    }
    fn interactive(&self) -> bool {
        false
    }
    fn ask(&self, question: &Question, _: Option<String>, _: &Facts) -> Result<String> {
        bail!("nobody answers {}", question.key)
    }
}
