//! Disks and network links, from `/sys`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use headnode_model::net::MacAddr;
use headnode_model::sysinfo::{SysinfoDisk, SysinfoNic};
use serde_json::{Map, Value, json};

use super::read;

/// `ARPHRD_ETHER` in `/sys/class/net/*/type`.
const ETHERNET: &str = "1";

/// The machine's fixed disks by device name. Left out: what has no hardware behind it (loop, zram,
/// zvols), removable media and empty drives.
pub fn disks(root: &Path) -> BTreeMap<String, SysinfoDisk> {
    let mut disks = BTreeMap::new();
    for name in names(root, "sys/block") {
        let folder = format!("sys/block/{name}");
        let field = |field: &str| read(root, &format!("{folder}/{field}")).trim().to_owned();
        // Optical drives and floppies carry a device too.
        let drive = name.starts_with("sr") || name.starts_with("fd");
        if drive || !root.join(&folder).join("device").exists() || field("removable") == "1" {
            continue;
        }
        // `size` counts units of 512 bytes whatever the disk's block size is (Linux block layer).
        let bytes = field("size").parse::<u64>().unwrap_or(0).saturating_mul(512);
        if bytes > 0 {
            let size_gb = bytes / 1_000_000_000;
            disks.insert(name, SysinfoDisk { size_gb, other: Map::new() });
        }
    }
    disks
}

/// Network links of a machine, as sysinfo tells them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Links {
    /// Hardware links by name.
    pub physical: BTreeMap<String, SysinfoNic>,
    /// VLANs, bridges and the like by name.
    pub virtual_links: BTreeMap<String, Value>,
    /// Bonds by name.
    pub aggregations: BTreeMap<String, Value>,
}

/// Reads the links; `addresses` has the first IPv4 address of each, `admin` marks the admin NIC.
pub fn links(root: &Path, addresses: &BTreeMap<String, Ipv4Addr>, admin: Option<MacAddr>) -> Links {
    let mut links = Links::default();
    let vlans = vlans(&read(root, "proc/net/vlan/config"));
    for name in names(root, "sys/class/net") {
        let folder = format!("sys/class/net/{name}");
        let field = |field: &str| read(root, &format!("{folder}/{field}")).trim().to_owned();
        if name == "lo" || field("type") != ETHERNET {
            continue;
        }
        let ip4addr = addresses.get(&name).map(Ipv4Addr::to_string).unwrap_or_default();
        let link_status = if field("carrier") == "1" { "up" } else { "down" };
        // A bond's member shows the bond's MAC; its own is kept apart.
        let own = field("bonding_slave/perm_hwaddr");
        let mac = if own.is_empty() { field("address") } else { own };
        if root.join(&folder).join("bonding").exists() {
            let members: Vec<_> =
                field("bonding/slaves").split_whitespace().map(str::to_owned).collect();
            let lacp = match field("bonding/lacp_rate").split_whitespace().next() {
                Some("fast") => "active",
                Some("slow") => "passive",
                _ => "off",
            };
            let aggregation = json!({ "LACP mode": lacp, "Interfaces": members });
            links.aggregations.insert(name, aggregation);
        } else if root.join(&folder).join("device").exists() {
            let is_admin = admin.is_some() && mac.parse().ok() == admin;
            let nic_names = if is_admin { vec!["admin".to_owned()] } else { Vec::new() };
            let link_status = link_status.to_owned();
            let nic =
                SysinfoNic { mac_address: mac, ip4addr, link_status, nic_names, other: Map::new() };
            links.physical.insert(name, nic);
        } else {
            let (vlan, below) = vlans.get(&name).cloned().unwrap_or_default();
            let link = json!({
                "MAC Address": mac,
                "ip4addr": ip4addr,
                "Link Status": link_status,
                "Host Interface": below,
                "VLAN": vlan,
            });
            links.virtual_links.insert(name, link);
        }
    }
    links
}

/// VLAN number (as a text) and link below, by VLAN link, from `/proc/net/vlan/config`.
fn vlans(text: &str) -> BTreeMap<String, (String, String)> {
    let rows = text.lines().filter_map(|line| {
        let mut fields = line.split('|').map(str::trim);
        let (name, id, below) = (fields.next()?, fields.next()?, fields.next()?);
        id.parse::<u16>().ok()?;
        Some((name.to_owned(), (id.to_owned(), below.to_owned())))
    });
    rows.collect()
}

fn names(root: &Path, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The first IPv4 address of each link of this machine.
pub fn addresses() -> BTreeMap<String, Ipv4Addr> {
    let mut addresses = BTreeMap::new();
    for entry in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        if let Some(address) = entry.address.as_ref().and_then(|a| a.as_sockaddr_in()) {
            addresses.entry(entry.interface_name).or_insert_with(|| address.ip());
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn only_fixed_hardware_disks_are_listed() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for (name, size, removable, device) in [
            ("vda", "16777216", "0", true),
            ("nvme0n1", "1953525168", "0", true),
            ("sdb", "31116288", "1", true),
            ("sr0", "2097151", "0", true),
            ("sdc", "0", "0", true),
            ("loop0", "8", "0", false),
            ("zd0", "8388608", "0", false),
        ] {
            put(root, &format!("sys/block/{name}/size"), size);
            put(root, &format!("sys/block/{name}/removable"), removable);
            if device {
                put(root, &format!("sys/block/{name}/device/model"), "x");
            }
        }
        let found = disks(root);
        let found: Vec<_> = found.iter().map(|(n, d)| (n.as_str(), d.size_gb)).collect();
        assert_eq!(found, [("nvme0n1", 1000), ("vda", 8)]);
    }

    #[test]
    fn links_are_sorted_by_kind_and_the_admin_nic_is_marked() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let net = |name: &str, mac: &str, carrier: &str| {
            put(root, &format!("sys/class/net/{name}/type"), "1\n");
            put(root, &format!("sys/class/net/{name}/address"), mac);
            put(root, &format!("sys/class/net/{name}/carrier"), carrier);
        };
        net("eth0", "52:54:00:00:00:01\n", "1\n");
        put(root, "sys/class/net/eth0/device/vendor", "x");
        net("eth1", "52:54:00:00:00:0f\n", "");
        put(root, "sys/class/net/eth1/device/vendor", "x");
        put(root, "sys/class/net/eth1/bonding_slave/perm_hwaddr", "52:54:00:00:00:02\n");
        net("bond0", "52:54:00:00:00:0f\n", "1");
        put(root, "sys/class/net/bond0/bonding/slaves", "eth1 eth2\n");
        put(root, "sys/class/net/bond0/bonding/lacp_rate", "fast 1\n");
        net("eth0.5", "52:54:00:00:00:01", "1");
        put(root, "proc/net/vlan/config", "VLAN Dev name | VLAN ID\neth0.5 | 5 | eth0\n");
        put(root, "sys/class/net/lo/type", "772\n");
        let addresses = BTreeMap::from([("eth0".to_owned(), Ipv4Addr::new(10, 0, 0, 5))]);
        let links = links(root, &addresses, "52:54:0:0:0:1".parse().ok());
        assert_eq!(links.physical.len(), 2);
        let admin = &links.physical["eth0"];
        assert_eq!((admin.ip4addr.as_str(), admin.link_status.as_str()), ("10.0.0.5", "up"));
        assert_eq!(admin.nic_names, ["admin"]);
        assert_eq!(links.physical["eth1"].mac_address, "52:54:00:00:00:02");
        assert_eq!(links.physical["eth1"].link_status, "down");
        assert_eq!(links.aggregations["bond0"]["Interfaces"][1], "eth2");
        assert_eq!(links.virtual_links["eth0.5"]["VLAN"], "5");
        assert_eq!(links.virtual_links["eth0.5"]["Host Interface"], "eth0");
    }

    proptest! {
        #[test]
        fn no_vlan_table_panics(text: String) {
            drop(vlans(&text));
        }
    }
}
