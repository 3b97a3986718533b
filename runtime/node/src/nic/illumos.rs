//! NICs on illumos: `dladm` and `ipadm`.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Nic, NicError, Nics};
use crate::exec::{Call, Runner};

/// The NICs of an illumos machine.
pub struct IllumosNics<R> {
    runner: R,
}

impl<R: Runner> IllumosNics<R> {
    /// NICs seen through the programs that `runner` runs.
    pub fn new(runner: R) -> Self {
        Self { runner }
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<String, NicError> {
        Ok(self.runner.run(&Call::new(program, args.iter().copied()))?.stdout)
    }
}

impl<R: Runner> Nics for IllumosNics<R> {
    fn list(&self) -> Result<Vec<Nic>, NicError> {
        let macs = self.run("dladm", &["show-phys", "-m", "-p", "-o", "link,address"])?;
        let links = self.run("dladm", &["show-phys", "-p", "-o", "link,state"])?;
        parse_dladm(&macs, &links)
    }

    fn configure(
        &self,
        nic: &Nic,
        address: Ipv4Net,
        vlan: Option<u16>,
    ) -> Result<String, NicError> {
        let name = match vlan {
            None => nic.name.clone(),
            Some(id) => {
                let name = format!("vlan{id}");
                if !self
                    .run("dladm", &["show-link", "-p", "-o", "link"])?
                    .lines()
                    .any(|l| l == name)
                {
                    self.run(
                        "dladm",
                        &["create-vlan", "-t", "-l", &nic.name, "-v", &id.to_string(), &name],
                    )?;
                }
                name
            }
        };
        if !self.run("ipadm", &["show-if", "-p", "-o", "ifname"])?.lines().any(|l| l == name) {
            self.run("ipadm", &["create-if", "-t", &name])?;
        }
        let object = format!("{name}/v4");
        if !self.run("ipadm", &["show-addr", "-p", "-o", "addrobj"])?.lines().any(|l| l == object) {
            self.run(
                "ipadm",
                &["create-addr", "-t", "-T", "static", "-a", &address.to_string(), &object],
            )?;
        }
        Ok(name)
    }

    fn default_route(&self, gateway: Ipv4Addr) -> Result<(), NicError> {
        self.run("route", &["add", "default", &gateway.to_string()]).map(drop)
    }
}

/// Joins `dladm`'s two lists; in its parsable form the colons of a MAC are escaped.
fn parse_dladm(macs: &str, links: &str) -> Result<Vec<Nic>, NicError> {
    let mut nics = Vec::new();
    for line in macs.lines().filter(|line| !line.trim().is_empty()) {
        let odd = || NicError::Output {
            command: "dladm show-phys -m".to_owned(),
            reason: format!("{line:?}"),
        };
        let (name, mac) = line.split_once(':').ok_or_else(odd)?;
        let mac = mac.replace('\\', "").parse().map_err(|_| odd())?;
        let link = links.lines().any(|l| l.split_once(':') == Some((name, "up")));
        nics.push(Nic { name: name.to_owned(), mac, link });
    }
    nics.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(nics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dladm_is_read() {
        let nics = parse_dladm("ixgbe0:0\\:1b\\:21\\:a\\:b\\:c\n", "ixgbe0:up\n").unwrap();
        assert_eq!(nics[0].mac.to_string(), "00:1b:21:0a:0b:0c");
        assert!(nics[0].link);
        assert!(parse_dladm("nonsense", "").is_err());
    }
}
