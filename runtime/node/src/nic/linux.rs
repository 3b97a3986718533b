//! NICs on Linux: `/sys/class/net` and iproute2.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use super::{Nic, NicError, Nics};
use crate::exec::{Call, Runner};

/// The NICs of a Linux machine.
pub struct LinuxNics<R> {
    runner: R,
    sysfs: PathBuf,
}

impl<R: Runner> LinuxNics<R> {
    /// NICs seen through `/sys` and the programs that `runner` runs.
    pub fn new(runner: R) -> Self {
        Self::at(runner, "/sys/class/net")
    }

    /// The same with another folder in the place of `/sys/class/net`.
    pub fn at(runner: R, sysfs: impl Into<PathBuf>) -> Self {
        Self { runner, sysfs: sysfs.into() }
    }

    fn ip(&self, args: &[&str]) -> Result<(), NicError> {
        self.runner.run(&Call::new("ip", args.iter().copied()))?;
        Ok(())
    }
}

impl<R: Runner> Nics for LinuxNics<R> {
    fn list(&self) -> Result<Vec<Nic>, NicError> {
        let io = |source| NicError::Io { path: self.sysfs.clone(), source };
        let mut nics = Vec::new();
        for entry in fs::read_dir(&self.sysfs).map_err(io)? {
            let dir = entry.map_err(io)?.path();
            // Bridges, VLANs and the loopback have no device behind them.
            let Some(name) =
                dir.file_name().and_then(|n| n.to_str()).filter(|_| dir.join("device").exists())
            else {
                continue;
            };
            let read = |file: &str| {
                fs::read_to_string(dir.join(file)).unwrap_or_default().trim().to_owned()
            };
            if let Ok(mac) = read("address").parse() {
                nics.push(Nic { name: name.to_owned(), mac, link: read("carrier") == "1" });
            }
        }
        nics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(nics)
    }

    fn configure(
        &self,
        nic: &Nic,
        address: Ipv4Net,
        vlan: Option<u16>,
    ) -> Result<String, NicError> {
        self.ip(&["link", "set", "dev", &nic.name, "up"])?;
        let name = match vlan {
            None => nic.name.clone(),
            Some(id) => {
                let name = format!("{}.{id}", nic.name);
                if !self.sysfs.join(&name).exists() {
                    let id = id.to_string();
                    self.ip(&[
                        "link", "add", "link", &nic.name, "name", &name, "type", "vlan", "id", &id,
                    ])?;
                }
                self.ip(&["link", "set", "dev", &name, "up"])?;
                name
            }
        };
        self.ip(&["address", "replace", &address.to_string(), "broadcast", "+", "dev", &name])?;
        Ok(name)
    }

    fn default_route(&self, gateway: Ipv4Addr) -> Result<(), NicError> {
        self.ip(&["route", "replace", "default", "via", &gateway.to_string()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Recorder;
    use crate::nic::by_mac;

    #[test]
    fn hardware_is_listed_and_configured_by_mac() {
        let sysfs = tempfile::tempdir().unwrap();
        for (name, mac, hardware) in [
            ("eth0", "90:b8:d0:00:00:01", true),
            ("lo", "00:00:00:00:00:00", false),
            ("br0", "90:b8:d0:00:00:01", false),
        ] {
            let dir = sysfs.path().join(name);
            fs::create_dir_all(if hardware { dir.join("device") } else { dir.clone() }).unwrap();
            fs::write(dir.join("address"), format!("{mac}\n")).unwrap();
            fs::write(dir.join("carrier"), "1\n").unwrap();
        }
        let recorder = Recorder::default();
        let nics = LinuxNics::at(&recorder, sysfs.path());
        let list = nics.list().unwrap();
        assert_eq!(list.len(), 1);
        let nic = by_mac(&list, "90-b8-d0-00-00-01".parse().unwrap()).unwrap();
        let admin = "10.99.99.7/24".parse().unwrap();
        assert_eq!(nics.configure(nic, admin, None).unwrap(), "eth0");
        assert_eq!(nics.configure(nic, admin, Some(5)).unwrap(), "eth0.5");
        nics.default_route(Ipv4Addr::new(10, 99, 99, 1)).unwrap();
        assert_eq!(
            recorder.lines(),
            [
                "ip link set dev eth0 up",
                "ip address replace 10.99.99.7/24 broadcast + dev eth0",
                "ip link set dev eth0 up",
                "ip link add link eth0 name eth0.5 type vlan id 5",
                "ip link set dev eth0.5 up",
                "ip address replace 10.99.99.7/24 broadcast + dev eth0.5",
                "ip route replace default via 10.99.99.1",
            ]
        );
        let error = by_mac(&list, "00:00:00:00:00:09".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("90:b8:d0:00:00:01 eth0"), "{error}");
    }
}
