//! What a lab shall be: the options of `lab up`, and the machines that follow from them.
//!
//! A machine's identity depends on nothing but the lab's name and the machine's place in it:
//!
//! | what | value |
//! |---|---|
//! | admin NIC | `52:54:00:00:00:01` for the headnode, `…:02` for node1, `…:03` for node2 and so on ([`admin_mac`]) |
//! | external NIC | `52:54:00:00:01:01`, headnode only ([`external_mac`]) |
//! | UUID | version 5 of `LAB/MACHINE` ([`machine_uuid`]), also in SMBIOS |
//! | disk serial numbers | `MACHINE-disk0` and so on; the key is `MACHINE-key` |
//!
//! MACs are the same in every lab, so that one image with one answers file fits all of them; labs
//! cannot see each other's network.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::relay::Rack;
use super::switch::Mac;

/// How many compute nodes one lab may have: the last byte of their MAC must hold them.
pub const MAX_NODES: u8 = 200;

/// The headnode's address in QEMU's user network, where forwarded ports lead.
pub const EXTERNAL_IP: &str = "10.0.2.15";

/// The name of the first machine.
pub const HEADNODE: &str = "headnode";

/// The namespace of [`machine_uuid`].
const NAMESPACE: Uuid = Uuid::from_u128(0x6c5d_2f1e_8f0a_4a53_9a1b_6e0c_58d3_77aa);

/// What starts a machine's operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// EDK II (OVMF). A node boots by PXE.
    Uefi,
    /// EDK II. A node boots by HTTP and never tries PXE; the headnode boots its key as with `Uefi`.
    #[serde(rename = "uefi-http")]
    UefiHttp,
}

impl Firmware {
    /// Whether it is EDK II.
    pub fn is_uefi(self) -> bool {
        self != Self::Bios
    }
}

/// How the headnode's boot disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KeyBus {
    /// A USB stick, as on a real headnode.
    Usb,
    /// A virtio disk, as in a cloud's virtual machine.
    Virtio,
    /// A disc in a SATA drive; for ISO images.
    Cdrom,
    /// Not at all: the headnode boots from the network, from the files for boot servers that
    /// `headnode build --format pxe` made. BIOS only.
    Pxe,
}

/// Who runs the guests' instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// KVM when a probe guest really runs with it, else TCG.
    Auto,
    /// QEMU's translator; works everywhere, about ten times slower.
    Tcg,
    /// The processor, through Linux's KVM.
    Kvm,
}

/// The boot ROM of a node's NIC, under BIOS. (UEFI nodes always use EDK II's own PXE client.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Rom {
    /// Behaves as the plain PXE ROM of a real server: asks without iPXE's user class, loads by
    /// TFTP what it is told, and offers it the UNDI interface.
    Pxe,
    /// QEMU's own ROM, which is iPXE and says so.
    Ipxe,
}

/// A TCP port on 127.0.0.1 that leads to a port of the headnode's external NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// The port on 127.0.0.1; 0 takes a free one.
    pub host: u16,
    /// The port on the headnode.
    pub guest: u16,
}

impl std::str::FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |t: &str| t.parse::<u16>().map_err(|_| format!("'{t}' is no port (0 to 65535)"));
        let (host, guest) = text
            .split_once(':')
            .ok_or_else(|| format!("'{text}' is not HOST:GUEST, for example 8080:80"))?;
        let guest = port(guest)?;
        if guest == 0 {
            return Err(format!("'{text}' names port 0 of the headnode"));
        }
        Ok(Self { host: port(host)?, guest })
    }
}

/// What `lab up` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The headnode's disk image: raw, compressed with zstd or gzip, qcow2, vmdk or ISO, known by its
    /// content; or the files for boot servers.
    pub image: PathBuf,
    /// The lab's folder.
    pub dir: PathBuf,
    /// The lab's name; identities depend on it.
    pub name: String,
    /// How many compute nodes.
    pub nodes: u8,
    /// How many of them, the last ones, are in the rack.
    pub rack_nodes: u8,
    /// The rack, when it has nodes.
    pub rack: Rack,
    /// The firmware of all machines.
    pub firmware: Firmware,
    /// The firmware of node1, node2 and so on, when it is another one; the list begins again when it
    /// is shorter than there are nodes.
    pub node_firmware: Vec<Firmware>,
    /// The boot ROM of BIOS nodes.
    pub rom: Rom,
    /// How the image is attached.
    pub key: KeyBus,
    /// Sizes of the headnode's data disks, bytes.
    pub disks: Vec<u64>,
    /// Virtual disks, qcow2 or vmdk: the headnode gets copies of them as further data disks.
    pub disk_images: Vec<PathBuf>,
    /// Sizes of each node's disks, bytes.
    pub node_disks: Vec<u64>,
    /// The headnode's memory, MiB.
    pub memory: u32,
    /// Each node's memory, MiB.
    pub node_memory: u32,
    /// Who runs the guests.
    pub accel: Accel,
    /// Where the traffic is recorded.
    pub record: Option<PathBuf>,
    /// Ports on 127.0.0.1 besides ssh's.
    pub forwards: Vec<Forward>,
    /// The private key for `lab ssh`, when it is not the lab's own.
    pub ssh_key: Option<PathBuf>,
    /// UUIDs of machines that differ from [`machine_uuid`]; two machines may have the same one, as
    /// boards of careless makers do.
    pub uuids: Vec<(String, Uuid)>,
    /// Leave the nodes powered off at first.
    pub nodes_off: bool,
    /// The `headnode` program that becomes the supervisor; `None` is the running program.
    pub program: Option<PathBuf>,
}

impl Options {
    /// A lab of one headnode with two disks of 8 GiB, BIOS, from this image, in this folder.
    pub fn new(image: impl Into<PathBuf>, dir: impl Into<PathBuf>) -> Self {
        Self {
            image: image.into(),
            dir: dir.into(),
            name: "lab".to_owned(),
            nodes: 0,
            rack_nodes: 0,
            rack: Rack::default(),
            firmware: Firmware::Bios,
            node_firmware: Vec::new(),
            rom: Rom::Pxe,
            key: KeyBus::Usb,
            disks: vec![8 << 30, 8 << 30],
            disk_images: Vec::new(),
            node_disks: vec![8 << 30, 8 << 30],
            memory: 2048,
            node_memory: 1536,
            accel: Accel::Auto,
            record: None,
            forwards: Vec::new(),
            ssh_key: None,
            uuids: Vec::new(),
            nodes_off: false,
            program: None,
        }
    }

    /// Says what is wrong with the options, all at once.
    ///
    /// # Errors
    /// One line per fault.
    pub fn validate(&self) -> Result<()> {
        let mut faults = Vec::new();
        if !is_name(&self.name) {
            faults.push(format!(
                "lab name '{}': use 1 to 32 of a-z, 0-9 and '-', beginning with a letter",
                self.name
            ));
        }
        if self.nodes > MAX_NODES {
            faults.push(format!("{} nodes: at most {MAX_NODES} fit", self.nodes));
        }
        if self.rack_nodes > self.nodes {
            faults.push(format!(
                "{} nodes in the rack: the lab has only {}",
                self.rack_nodes, self.nodes
            ));
        }
        if self.rack_nodes > 0 {
            faults.extend(self.rack.problems());
        }
        for (what, memory) in [("--memory", self.memory), ("--node-memory", self.node_memory)] {
            if !(128..=1 << 20).contains(&memory) {
                faults.push(format!("{what} {memory}: must be 128 to 1048576 MiB"));
            }
        }
        let images = self.disk_images.len();
        for (what, disks, images) in
            [("--disks", &self.disks, images), ("--node-disks", &self.node_disks, 0)]
        {
            if disks.len() + images > 16 {
                faults.push(format!("{what}: {} disks, at most 16 fit", disks.len() + images));
            }
            for size in disks.iter().filter(|s| !(1 << 20..=1 << 44).contains(*s)) {
                faults.push(format!("{what}: {size} bytes: must be 1 MiB to 16 TiB"));
            }
        }
        if self.key == KeyBus::Pxe && self.firmware.is_uefi() {
            faults.push(
                "--key pxe: the headnode's iPXE is a BIOS ROM: use --firmware bios".to_owned(),
            );
        }
        let is_node = |name: &str| (1..=self.nodes).any(|index| name == node_name(index));
        for (name, _) in self.uuids.iter().filter(|(name, _)| name != HEADNODE && !is_node(name)) {
            faults.push(format!("--uuid {name}=…: the lab will have no machine '{name}'"));
        }
        if !faults.is_empty() {
            bail!("{}", faults.join("\n"));
        }
        Ok(())
    }
}

/// Reads what `--uuid` takes: `MACHINE=UUID`.
///
/// # Errors
/// A sentence for the user.
pub fn parse_uuid(text: &str) -> Result<(String, Uuid), String> {
    let bad = || format!("'{text}' is not MACHINE=UUID, for example node2={}", Uuid::nil());
    let (machine, uuid) = text.split_once('=').ok_or_else(bad)?;
    Ok((machine.to_owned(), uuid.parse().map_err(|_| bad())?))
}

/// The name of a node by its number, from 1.
fn node_name(index: u8) -> String {
    format!("node{index}")
}

/// Reads a size such as `8G`, `512M`, `1T` or a number of bytes.
///
/// # Errors
/// A sentence for the user.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("'{text}' is no size; write for example 8G, 512M or 1T");
    let text_end = text.trim_end_matches(['B', 'b']).trim_end_matches('i');
    let (digits, shift) = match text_end.chars().last().map(|c| c.to_ascii_uppercase()) {
        Some('K') => (&text_end[..text_end.len() - 1], 10),
        Some('M') => (&text_end[..text_end.len() - 1], 20),
        Some('G') => (&text_end[..text_end.len() - 1], 30),
        Some('T') => (&text_end[..text_end.len() - 1], 40),
        _ => (text_end, 0),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).ok_or_else(bad)
}

/// The admin NIC's address of the headnode (index 0) or of node `index`; the same in every lab.
pub fn admin_mac(index: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0, 0, index.saturating_add(1)])
}

/// The address of the headnode's external NIC; the same in every lab.
pub fn external_mac() -> Mac {
    Mac([0x52, 0x54, 0, 0, 1, 1])
}

/// The UUID of a machine: version 5 of `LAB/MACHINE`.
pub fn machine_uuid(lab: &str, machine: &str) -> Uuid {
    Uuid::new_v5(&NAMESPACE, format!("{lab}/{machine}").as_bytes())
}

/// Whether this may be the name of a lab or machine: it becomes part of paths and arguments.
pub fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=32).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(plain)
}

/// One machine, as it is built every time that it is switched on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineSpec {
    /// `headnode`, `node1`, `node2` …
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// Its admin NIC's address.
    pub admin_mac: String,
    /// Its external NIC's address; the headnode only.
    pub external_mac: Option<String>,
    /// Its firmware.
    pub firmware: Firmware,
    /// Its NIC's boot ROM; `None` for the headnode, which boots from its key.
    pub rom: Option<Rom>,
    /// How its key is attached; `None` for nodes.
    pub key: Option<KeyBus>,
    /// Sizes of its data disks, bytes.
    pub disks: Vec<u64>,
    /// Virtual disks that it has copies of as further data disks.
    #[serde(default)]
    pub disk_images: Vec<PathBuf>,
    /// Its memory, MiB.
    pub memory: u32,
    /// Its processors.
    pub cpus: u8,
    /// Forwarded ports, all with their host side chosen; ssh's is the first.
    pub forwards: Vec<Forward>,
    /// Whether it is switched on with the lab.
    pub start: bool,
    /// Whether it is in the rack, behind the relay.
    #[serde(default)]
    pub in_rack: bool,
}

/// A whole lab, as `lab.json` keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabSpec {
    /// The lab's name.
    pub name: String,
    /// The image that it was made from.
    pub image: PathBuf,
    /// TCG or KVM, decided.
    pub accel: Accel,
    /// Where the traffic is recorded.
    pub record: Option<PathBuf>,
    /// The private key for ssh.
    pub ssh_key: PathBuf,
    /// The rack and its relay, when there is one.
    #[serde(default)]
    pub rack: Option<Rack>,
    /// The headnode, then the nodes.
    pub machines: Vec<MachineSpec>,
}

impl LabSpec {
    /// The files with the recorded traffic: that of the admin network and, beside it, that of the
    /// rack: `lab.pcap` and `lab-rack1.pcap`.
    pub fn recordings(&self) -> Vec<PathBuf> {
        let Some(record) = &self.record else { return Vec::new() };
        let rack = self.rack.as_ref().map(|rack| rack_recording(record, &rack.name));
        std::iter::once(record.clone()).chain(rack).collect()
    }

    /// The machine of this name.
    ///
    /// # Errors
    /// When there is none; the message lists those that there are.
    pub fn machine(&self, name: &str) -> Result<&MachineSpec> {
        self.machines.iter().find(|m| m.name == name).with_context(|| {
            let names: Vec<_> = self.machines.iter().map(|m| m.name.as_str()).collect();
            format!("the lab has no machine '{name}'; it has {}", names.join(", "))
        })
    }
}

/// The file with a rack's traffic, beside that of the admin network.
pub fn rack_recording(record: &Path, rack: &str) -> PathBuf {
    let part = |part: Option<&std::ffi::OsStr>, otherwise: &str| {
        part.map_or_else(|| otherwise.to_owned(), |part| part.to_string_lossy().into_owned())
    };
    let (stem, end) = (part(record.file_stem(), "lab"), part(record.extension(), "pcap"));
    record.with_file_name(format!("{stem}-{rack}.{end}"))
}

/// The machines that the options ask for. `forwards` is ssh's port and the others, all chosen.
pub fn machines(options: &Options, forwards: Vec<Forward>) -> Vec<MachineSpec> {
    let uuid = |name: &str| {
        let chosen = options.uuids.iter().rfind(|(machine, _)| machine == name);
        chosen.map_or_else(|| machine_uuid(&options.name, name), |(_, uuid)| *uuid)
    };
    let machine = |name: String, index: u8| MachineSpec {
        uuid: uuid(&name),
        admin_mac: admin_mac(index).to_string(),
        external_mac: None,
        firmware: options.firmware,
        rom: Some(options.rom),
        key: None,
        disks: options.node_disks.clone(),
        disk_images: Vec::new(),
        memory: options.node_memory,
        cpus: 1,
        forwards: Vec::new(),
        start: !options.nodes_off,
        in_rack: false,
        name,
    };
    let node = |index: u8| {
        let place = usize::from(index - 1).checked_rem(options.node_firmware.len());
        let firmware = place.and_then(|place| options.node_firmware.get(place)).copied();
        MachineSpec {
            firmware: firmware.unwrap_or(options.firmware),
            in_rack: options.nodes - index < options.rack_nodes,
            ..machine(node_name(index), index)
        }
    };
    let headnode = MachineSpec {
        external_mac: Some(external_mac().to_string()),
        rom: None,
        key: Some(options.key),
        disks: options.disks.clone(),
        disk_images: options.disk_images.clone(),
        memory: options.memory,
        cpus: 2,
        forwards,
        start: true,
        ..machine(HEADNODE.to_owned(), 0)
    };
    std::iter::once(headnode).chain((1..=options.nodes).map(node)).collect()
}

#[cfg(test)]
mod tests;
