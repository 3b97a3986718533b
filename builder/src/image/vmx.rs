//! The description of a virtual machine that runs the headnode under VMware (C§1.13, C§9.3),
//! rendered from `overlays/vmx/`.

use std::fs;
use std::path::Path;

use crate::tree::overlay::{Error, render};

/// The template, below the folder of overlays.
const TEMPLATE: &str = "vmx/headnode.vmx.tera";

/// A virtual machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its name, as VMware shows it.
    pub name: String,
    /// The file of its disk, in the machine's folder.
    pub disk: String,
    /// VMware's name of the operating system: `solaris11-64`, `debian12-64`.
    pub guest: String,
    /// Its memory in MiB.
    pub memory: u32,
    /// Number of its processors.
    pub cpus: u32,
    /// MAC address on the admin network (host-only).
    pub admin_mac: String,
    /// MAC address on the external network (NAT).
    pub external_mac: String,
}

impl Machine {
    /// The "cloud on a laptop": 8 GiB, and the addresses of the sample answers (C§2.5).
    pub fn coal(name: &str, disk: &str, guest: &str) -> Self {
        Self {
            name: name.to_owned(),
            disk: disk.to_owned(),
            guest: guest.to_owned(),
            memory: 8192,
            cpus: 2,
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
            ("guest", &self.guest),
            ("admin_mac", &self.admin_mac),
            ("external_mac", &self.external_mac),
        ] {
            context.insert(key, &quoted(value));
        }
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

    #[test]
    fn every_line_is_a_setting_and_no_text_breaks_out() {
        let overlays = Path::new(env!("CARGO_MANIFEST_DIR")).join("../overlays");
        let name = "a \"headnode\"\nmemsize = \"1\"";
        let text = Machine::coal(name, "headnode.vmdk", "debian12-64").vmx(&overlays).unwrap();
        let mut settings = std::collections::BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (key, value) = line.split_once(" = ").unwrap();
            let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap();
            assert!(!value.contains('"'), "{line}");
            assert!(settings.insert(key, value).is_none(), "{key} comes twice");
        }
        assert_eq!(settings["memsize"], "8192");
        assert_eq!(settings["displayName"], "a |22headnode|22|0Amemsize = |221|22");
        assert_eq!(settings["scsi0:0.fileName"], "headnode.vmdk");
        for nic in ["ethernet0", "ethernet1"] {
            assert_eq!(settings[format!("{nic}.virtualDev").as_str()], "e1000");
        }
        assert_eq!(settings["ethernet0.address"], "00:50:56:34:60:4c");
        assert_eq!(settings["serial0.present"], "TRUE");
    }
}
