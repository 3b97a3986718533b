//! The network interface to serve on.

use std::io;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// An IPv4 address of a network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// The interface.
    pub name: String,
    /// The address.
    pub ip: Ipv4Addr,
    /// Its network.
    pub net: Ipv4Net,
}

impl Nic {
    /// All addresses of this machine.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn all() -> io::Result<Vec<Self>> {
        let all = nix::ifaddrs::getifaddrs().map_err(io::Error::from)?;
        let found = all.filter_map(|entry| {
            let ip = entry.address?.as_sockaddr_in()?.ip();
            let mask = entry.netmask?.as_sockaddr_in()?.ip();
            let net = Ipv4Net::with_netmask(ip, mask).ok()?.trunc();
            Some(Self { name: entry.interface_name, ip, net })
        });
        Ok(found.collect())
    }

    /// The one that the configuration means.
    ///
    /// # Errors
    /// The key that is wrong, and what to write.
    pub fn choose(
        all: &[Self],
        interface: Option<&str>,
        address: Option<Ipv4Addr>,
    ) -> Result<Self, (&'static str, String)> {
        let list = || {
            let there = all.iter().filter(|nic| !nic.ip.is_loopback());
            let texts: Vec<String> = there
                .map(|nic| format!("{} with {}/{}", nic.name, nic.ip, nic.net.prefix_len()))
                .collect();
            if texts.is_empty() {
                "no network interface has an IPv4 address here".to_owned()
            } else {
                format!("this machine has {}", texts.join(", "))
            }
        };
        let fits = |nic: &&Self| {
            interface.is_none_or(|name| nic.name == name) && address.is_none_or(|ip| nic.ip == ip)
        };
        if let Some(nic) =
            all.iter().find(fits).filter(|_| interface.or(address.map(|_| "")).is_some())
        {
            return Ok(nic.clone());
        }
        let here = list();
        Err(match (interface, address) {
            (None, None) => (
                "interface",
                format!("say on which network to serve, as interface = \"eth1\": {here}"),
            ),
            (Some(name), None) => {
                ("interface", format!("{name} is not there or has no IPv4 address: {here}"))
            }
            (None, Some(ip)) => ("address", format!("no network interface has {ip}: {here}")),
            (Some(name), Some(ip)) => ("address", format!("{name} does not have {ip}: {here}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interface_is_found_by_name_or_address_and_the_others_are_listed() {
        let nic = |name: &str, ip: [u8; 4]| Nic {
            name: name.into(),
            ip: ip.into(),
            net: Ipv4Net::new(ip.into(), 24).unwrap().trunc(),
        };
        let all = [nic("lo", [127, 0, 0, 1]), nic("a", [10, 0, 0, 1]), nic("a", [10, 0, 1, 1])];
        let choose = |name, ip: Option<[u8; 4]>| Nic::choose(&all, name, ip.map(Into::into));
        assert_eq!(choose(Some("a"), None).unwrap(), all[1]);
        assert_eq!(choose(None, Some([10, 0, 1, 1])).unwrap(), all[2]);
        assert_eq!(choose(Some("a"), Some([10, 0, 1, 1])).unwrap(), all[2]);
        for (name, ip, key) in [
            (None, None, "interface"),
            (Some("b"), None, "interface"),
            (None, Some([10, 9, 9, 9]), "address"),
            (Some("lo"), Some([10, 0, 0, 1]), "address"),
        ] {
            let (wrong, message) = choose(name, ip).unwrap_err();
            assert_eq!(wrong, key);
            assert!(message.contains("a with 10.0.0.1/24, a with 10.0.1.1/24"), "{message}");
        }
        let here = Nic::all().unwrap();
        assert!(here.iter().any(|nic| nic.ip.is_loopback()), "{here:?}");
    }
}
