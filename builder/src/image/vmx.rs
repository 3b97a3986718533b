//! The description of a virtual machine that runs the headnode under VMware (C§1.13, C§9.3),
//! rendered from `overlays/vmx/`.

use std::fs;
use std::path::Path;

use crate::tree::overlay::{Error, render};

/// The template, below the folder of overlays.
const TEMPLATE: &str = "vmx/headnode.vmx.tera";

/// GiB of the disk for the pool, and the version of VMware Fusion, when nobody wishes others: those
/// of Triton's machine.
const POOL_GIB: u64 = 60;
const FUSION: u64 = 7;

/// What the spec says of the machine (C§1.10).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Its memory in MiB.
    pub memory: Option<u64>,
    /// Number of its processors.
    pub cpus: Option<u64>,
    /// Size of the disk for the pool, in GiB.
    pub pool: Option<u64>,
    /// The version of VMware Fusion that it is made for.
    pub fusion: Option<u64>,
    /// Whether it has serial ports that other programs can talk to.
    pub serial: Option<bool>,
    /// Where its serial ports go.
    pub paths: [Option<String>; 2],
}

impl Wishes {
    /// GiB of the disk for the pool.
    pub fn pool_gib(&self) -> u64 {
        self.pool.unwrap_or(POOL_GIB)
    }

    /// The version of the virtual hardware, as Triton's build chooses it.
    fn hardware(&self) -> u32 {
        match self.fusion.unwrap_or(FUSION) {
            ..=4 => 7,
            5 => 9,
            6..=7 => 11,
            8 => 12,
            _ => 14,
        }
    }

    /// The serial ports: pipes when they are wished for, none when they are not; otherwise what comes
    /// out of them is kept in files.
    fn ports(&self) -> Vec<Port> {
        let numbered = self.paths.iter().enumerate();
        let port = |(number, path): (usize, &Option<String>)| match (self.serial, path) {
            (Some(false), _) => None,
            (Some(true), path) => Some(Port {
                number,
                kind: "pipe",
                place: path.clone().unwrap_or_else(|| format!("socket.serial{number}")),
            }),
            (None, Some(path)) => Some(Port { number, kind: "pipe", place: path.clone() }),
            (None, None) => {
                let place = format!("console-tty{}.log", if number == 0 { 'a' } else { 'b' });
                Some(Port { number, kind: "file", place })
            }
        };
        numbered.filter_map(port).collect()
    }
}

/// A serial port.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Port {
    /// Its number.
    pub number: usize,
    /// What VMware calls the thing that it goes to: `file`, `pipe`.
    pub kind: &'static str,
    /// That thing's path.
    pub place: String,
}

/// A virtual machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its name, as VMware shows it.
    pub name: String,
    /// The file of the disk that it boots from, in the machine's folder.
    pub disk: String,
    /// The file of the disk for its pool.
    pub pool: String,
    /// VMware's name of the operating system: `solaris11-64`, `debian12-64`.
    pub guest: String,
    /// The version of its virtual hardware.
    pub hardware: u32,
    /// Its memory in MiB.
    pub memory: u64,
    /// Number of its processors.
    pub cpus: u64,
    /// Its serial ports.
    pub ports: Vec<Port>,
    /// MAC address on the admin network (host-only).
    pub admin_mac: String,
    /// MAC address on the external network (NAT).
    pub external_mac: String,
}

impl Machine {
    /// The "cloud on a laptop": 8 GiB when nobody wishes otherwise, and the addresses of the sample
    /// answers (C§2.5). `disks` are the files of the key and of the disk for the pool.
    pub fn coal(name: &str, disks: [&str; 2], guest: &str, wishes: &Wishes) -> Self {
        let [disk, pool] = disks.map(str::to_owned);
        Self {
            name: name.to_owned(),
            disk,
            pool,
            guest: guest.to_owned(),
            hardware: wishes.hardware(),
            memory: wishes.memory.unwrap_or(8192),
            cpus: wishes.cpus.unwrap_or(2),
            ports: wishes.ports(),
            admin_mac: "00:50:56:34:60:4c".to_owned(),
            external_mac: "00:50:56:3d:a7:95".to_owned(),
        }
    }

    /// The text of the machine's `.vmx` file.
    ///
    /// # Errors
    /// When the template cannot be read or is wrong.
    pub fn vmx(&self, overlays: &Path) -> Result<String, Error> {
        let path = overlays.join(TEMPLATE);
        let text = fs::read_to_string(&path)
            .map_err(|source| Error::Read { path: path.clone(), source })?;
        let mut context = tera::Context::new();
        for (key, value) in [
            ("name", &self.name),
            ("disk", &self.disk),
            ("pool", &self.pool),
            ("guest", &self.guest),
            ("admin_mac", &self.admin_mac),
            ("external_mac", &self.external_mac),
        ] {
            context.insert(key, &quoted(value));
        }
        let quoted = |port: &Port| Port { place: quoted(&port.place), ..port.clone() };
        context.insert("ports", &self.ports.iter().map(quoted).collect::<Vec<_>>());
        context.insert("hardware", &self.hardware);
        context.insert("memory", &self.memory);
        context.insert("cpus", &self.cpus);
        render(&path, &text, &context)
    }
}

/// A text as it stands within quotes: what would end them, or start an escape, is written as one.
fn quoted(text: &str) -> String {
    let mut quoted = String::new();
    for c in text.chars() {
        match c {
            '"' | '|' | '\n' | '\r' => quoted.push_str(&format!("|{:02X}", u32::from(c))),
            _ => quoted.push(c),
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// The settings of a machine: every line is one, and none comes twice.
    fn settings(name: &str, wishes: &Wishes) -> BTreeMap<String, String> {
        let overlays = Path::new(env!("CARGO_MANIFEST_DIR")).join("../overlays");
        let machine = Machine::coal(name, ["key.vmdk", "pool.vmdk"], "debian12-64", wishes);
        let text = machine.vmx(&overlays).unwrap();
        let mut settings = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (key, value) = line.split_once(" = ").unwrap();
            let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap();
            assert!(!value.contains('"'), "{line}");
            let before = settings.insert(key.to_owned(), value.to_owned());
            assert!(before.is_none(), "{key} comes twice");
        }
        settings
    }

    #[test]
    fn every_line_is_a_setting_and_no_text_breaks_out() {
        let name = "a \"headnode\"\nmemsize = \"1\"";
        let settings = settings(name, &Wishes::default());
        assert_eq!(settings["memsize"], "8192");
        assert_eq!(settings["displayName"], "a |22headnode|22|0Amemsize = |221|22");
        // The key is the disk that boots; the pool's disk is on another bus.
        assert_eq!(settings["ide0:0.fileName"], "key.vmdk");
        assert_eq!(settings["bios.hddOrder"], "ide0:0");
        assert_eq!(settings["scsi0:0.fileName"], "pool.vmdk");
        assert_eq!(settings["virtualHW.version"], "11");
        for nic in ["ethernet0", "ethernet1"] {
            assert_eq!(settings[&format!("{nic}.virtualDev")], "e1000");
        }
        assert_eq!(settings["ethernet0.address"], "00:50:56:34:60:4c");
        assert_eq!(settings["serial0.fileType"], "file");
        assert_eq!(settings["serial1.fileName"], "console-ttyb.log");
    }

    #[test]
    fn wishes_have_an_effect() {
        let path = Some("a\"b".to_owned());
        let wishes = Wishes {
            memory: Some(6144),
            cpus: Some(4),
            fusion: Some(10),
            serial: Some(true),
            paths: [path.clone(), None],
            ..Wishes::default()
        };
        let wished = settings("x", &wishes);
        for (key, value) in [
            ("memsize", "6144"),
            ("numvcpus", "4"),
            ("virtualHW.version", "14"),
            ("serial0.fileType", "pipe"),
            ("serial0.fileName", "a|22b"),
            ("serial1.fileName", "socket.serial1"),
        ] {
            assert_eq!(wished[key], value, "{key}");
        }
        let one = settings("x", &Wishes { serial: None, ..wishes.clone() });
        assert_eq!([&one["serial0.fileType"], &one["serial1.fileType"]], ["pipe", "file"]);
        let none = settings("x", &Wishes { serial: Some(false), ..wishes });
        assert!(!none.keys().any(|key| key.starts_with("serial")), "{none:?}");
        let versions = [1, 4, 5, 6, 7, 8, 9, 99];
        let hardware = versions
            .map(|version| Wishes { fusion: Some(version), ..Wishes::default() }.hardware());
        assert_eq!(hardware, [7, 7, 9, 11, 11, 12, 14, 14]);
    }
}
