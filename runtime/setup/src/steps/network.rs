//! The network of the headnode itself.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use headnode_model::config::{Config, Problem};
use headnode_model::net::{self, MacAddr};
use headnode_node::nic::by_mac;
use ipnet::Ipv4Net;

use crate::run::{Context, Ended};

/// Brings up the admin NIC, the external one when there is one, and the default route (C§1.7).
pub fn admin_nic_up(context: &mut Context<'_>) -> Result<Ended> {
    let machine = context.machine;
    let config = context.config()?.clone();
    let headnode = config.headnode()?;
    let mut nics = machine.nics().context("listing the NICs")?;
    if by_mac(&nics, headnode.admin_nic).is_err() {
        // Its driver may still be loading.
        machine.settle(Duration::from_secs(30));
        nics = machine.nics().context("listing the NICs")?;
    }
    let nic = by_mac(&nics, headnode.admin_nic)
        .context("the admin NIC of the configuration (key `admin_nic`)")?;
    machine.configure_nic(nic, headnode.admin_net, None)?;
    let mut line = format!("{} ({}) has {}", nic.name, nic.mac, headnode.admin_net);
    if config.get("external_nic").is_some() {
        let (mac, address, vlan) = external(&config)?;
        let nic = by_mac(&nics, mac)
            .context("the external NIC of the configuration (key `external_nic`)")?;
        let link = machine.configure_nic(nic, address, vlan)?;
        line.push_str(&format!(", {link} ({mac}) has {address}"));
    }
    if let Some(gateway) = gateway(&config) {
        match machine.default_route(gateway) {
            Ok(()) => line.push_str(&format!(", default route {gateway}")),
            // Without it the datacenter works, only the way out does not.
            Err(error) => context.say(format!("warning: no default route by {gateway}: {error:#}")),
        }
    }
    Ok(Ended::Done(line))
}

fn external(config: &Config) -> Result<(MacAddr, Ipv4Net, Option<u16>), Problem> {
    let ip = config.typed::<Ipv4Addr>("external_ip")?;
    let mask = config.typed::<Ipv4Addr>("external_netmask")?;
    let net = net::network(ip, mask).ok_or_else(|| Problem {
        key: "external_netmask".to_owned(),
        message: format!("{mask} is not a netmask"),
    })?;
    let vlan =
        config.get("external_vlan_id").map(|_| config.typed("external_vlan_id")).transpose()?;
    Ok((config.typed("external_nic")?, net, vlan.filter(|id| *id != 0)))
}

/// The first of the keys that names an address; `none` in the first one means none at all.
fn gateway(config: &Config) -> Option<Ipv4Addr> {
    let keys = ["headnode_default_gateway", "admin_gateway", "external_gateway"];
    let mut given = keys.iter().filter_map(|key| Some((*key, config.get(key)?)));
    let (_, value) = given.find(|(key, value)| *key == keys[0] || *value != "none")?;
    value.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_follows_tritons_order() {
        let mut config = Config::default();
        assert_eq!(gateway(&config), None);
        config.set("external_gateway", "10.1.0.1");
        config.set("admin_gateway", "none");
        assert_eq!(gateway(&config), Some(Ipv4Addr::new(10, 1, 0, 1)));
        config.set("admin_gateway", "10.2.0.1");
        assert_eq!(gateway(&config), Some(Ipv4Addr::new(10, 2, 0, 1)));
        config.set("headnode_default_gateway", "none");
        assert_eq!(gateway(&config), None);
    }
}
