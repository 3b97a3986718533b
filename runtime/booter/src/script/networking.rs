//! `networking.json`, from which a SmartOS node sets up its network (C§4.7).

use headnode_client::{Aggregation, Nic, NicTag};
use serde_json::{Map, Value, json};

use super::Node;
use crate::params::Nics;
use crate::settings::Settings;

/// The file's content. Where no NAPI tells more, the machine has the one NIC that it boots from.
pub(super) fn networking(settings: &Settings, node: &Node) -> Vec<u8> {
    let nics = &match &node.found.nics {
        Some(nics) if !nics.nics.is_empty() => with_lease(nics.clone(), node),
        _ => of_lease(node),
    };
    // An aggregation has the tags of its NICs: it stands for them.
    let together = nics.aggregations.iter().filter_map(|aggregation: &Aggregation| {
        Some(nic_tags(&aggregation.nic_tags_provided, aggregation.macs.first()?, nics))
    });
    let single = nics.nics.iter().map(|nic| nic_tags(&nic.nic_tags_provided, &nic.mac, nics));
    let mut nictags: Vec<Value> = Vec::new();
    for tag in together.chain(single).flatten() {
        if nictags.iter().all(|other| other.get("name") != tag.get("name")) {
            nictags.push(tag);
        }
    }
    let vnics: Vec<&Nic> = nics.nics.iter().filter(|nic| nic.ip.is_some()).collect();
    let admin = vnics.iter().find(|nic| nic.mac == node.mac());
    let routes = admin.and_then(|nic| nic.other.get("routes")).cloned();
    let mut text = json!({
        "datacenter_name": settings.datacenter_name,
        "dns_domain": settings.dns_domain,
        "hostname": node.hostname(),
        "admin_tag": node.network.nic_tag,
        "resolvers": node.network.resolvers,
        "routes": routes.unwrap_or_else(|| of_network(node)),
        "nictags": nictags,
        "vnics": vnics,
        "aggregations": nics.aggregations,
    });
    let rules = &settings.more.script.nictag_rules;
    if let (false, Value::Object(text)) = (rules.is_empty(), &mut text) {
        text.insert("nictag_rules".to_owned(), Value::Object(rules.clone()));
    }
    format!("{text:#}\n").into_bytes()
}

fn nic_tags(names: &[String], mac: &headnode_model::net::MacAddr, nics: &Nics) -> Vec<Value> {
    let tag = |name: &String| {
        let known = nics.nic_tags.iter().find(|tag| tag.name == *name);
        let NicTag { name, uuid, mtu } =
            known.cloned().unwrap_or(NicTag { name: name.clone(), uuid: None, mtu: None });
        let mut tag = Map::new();
        tag.insert("name".to_owned(), json!(name));
        if let Some(uuid) = uuid {
            tag.insert("uuid".to_owned(), json!(uuid));
        }
        tag.insert("mtu".to_owned(), json!(mtu.unwrap_or(1500)));
        tag.insert("mac".to_owned(), json!(mac));
        Value::Object(tag)
    };
    names.iter().map(tag).collect()
}

/// What NAPI tells, with an address for the NIC that the machine boots by: NAPI need not know it yet.
fn with_lease(mut nics: Nics, node: &Node) -> Nics {
    let primary = |nic: &Nic| nic.other.get("primary") == Some(&Value::Bool(true));
    let mut ours = of_lease(node).nics;
    // A machine has one.
    if nics.nics.iter().any(primary) {
        ours.iter_mut().for_each(|nic| _ = nic.other.remove("primary"));
    }
    match nics.nics.iter_mut().find(|nic| nic.mac == node.mac()) {
        None => nics.nics.extend(ours),
        Some(nic) => match (nic.ip, ours.into_iter().next()) {
            (None, Some(ours)) => {
                nic.ip = ours.ip;
                nic.nic_tag = nic.nic_tag.take().or(ours.nic_tag);
                for (name, value) in ours.other {
                    nic.other.entry(name).or_insert(value);
                }
            }
            (Some(ip), _) if ip != node.lease.ip => tracing::warn!(
                mac = %node.mac(), napi = %ip, lease = %node.lease.ip,
                "NAPI has another address for a machine than it boots with"
            ),
            _ => {}
        },
    }
    nics
}

/// The routes of its network without NAPI.
fn of_network(node: &Node) -> Value {
    let routers = node.network.routes.iter().filter(|route| !route.via.is_unspecified());
    Value::Object(routers.map(|r| (r.to.trunc().to_string(), json!(r.via))).collect())
}

/// What is known of the machine's network without NAPI.
fn of_lease(node: &Node) -> Nics {
    let (network, lease) = (&node.network, &node.lease);
    let other = json!({
        "netmask": network.subnet.netmask(),
        "vlan_id": 0,
        "mtu": 1500,
        "primary": true,
        "resolvers": network.resolvers,
    });
    let mut other = match other {
        Value::Object(other) => other,
        _ => Map::new(),
    };
    if let Some(gateway) = network.gateway {
        other.insert("gateway".to_owned(), json!(gateway));
    }
    let server = node.found.server.or(lease.uuid);
    let nic = Nic {
        mac: lease.mac,
        belongs_to_uuid: server,
        belongs_to_type: Some("server".to_owned()),
        ip: Some(lease.ip.into()),
        nic_tag: Some(network.nic_tag.clone()),
        nic_tags_provided: vec![network.nic_tag.clone()],
        other,
    };
    Nics { nics: vec![nic], ..Nics::default() }
}
