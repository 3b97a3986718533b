//! The machine that a script is for, and the kernel parameters that follow from its network.

use std::collections::BTreeMap;
use std::sync::Arc;

use headnode_model::net::MacAddr;
use headnode_model::stamp::Stamp;
use serde_json::Value;

use crate::leases::Lease;
use crate::networks::Network;
use crate::params::Found;

/// What somebody at the machine's console has chosen in the menu.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Another platform.
    pub platform: Option<String>,
    /// To start without the pools.
    pub rescue: bool,
    /// To be asked.
    pub menu: bool,
    /// How often it has tried before.
    pub attempt: u32,
}

impl Choice {
    /// The choice as a URL's query has it, after other parts, so that it is not lost when the machine
    /// has to ask once more; its tries are not in it. Only a platform's stamp is written, never the
    /// text that came from the network: it becomes a part of a script.
    pub(super) fn query(&self) -> String {
        let mut query = String::new();
        match self.platform.as_deref() {
            Some("latest") => query.push_str("&platform=latest"),
            Some(text) => {
                if let Ok(stamp) = text.parse::<Stamp>() {
                    query.push_str(&format!("&platform={stamp}"));
                }
            }
            None => {}
        }
        for (name, chosen) in [("rescue", self.rescue), ("menu", self.menu)] {
            if chosen {
                query.push_str(&format!("&{name}=true"));
            }
        }
        query
    }
}

/// A machine that may boot.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its address.
    pub lease: Lease,
    /// Its network.
    pub network: Arc<Network>,
    /// What it boots with.
    pub found: Found,
    /// What was chosen.
    pub choice: Choice,
}

impl Node {
    /// Its NIC.
    pub fn mac(&self) -> MacAddr {
        self.lease.mac
    }

    /// Whether it starts without its pools.
    pub(super) fn rescue(&self) -> bool {
        self.choice.rescue || self.found.params.is_rescue()
    }

    /// The platform that it boots.
    pub(super) fn platform(&self) -> &str {
        self.choice.platform.as_deref().unwrap_or(&self.found.params.platform)
    }

    /// The kernel parameters of CNAPI, and the one of the rescue system when it was chosen.
    pub(super) fn kernel_args(&self) -> BTreeMap<String, Value> {
        let mut args = self.found.params.kernel_args.clone();
        if self.choice.rescue {
            args.insert("noimport".to_owned(), Value::Bool(true));
        }
        args
    }

    /// The parameters that follow from its network (C§4.2 step 5), without those that CNAPI gives
    /// itself. An aggregation takes the place of the NICs with the same tags.
    pub(super) fn of_network(&self) -> BTreeMap<String, Value> {
        let mut args = BTreeMap::new();
        let Some(nics) = &self.found.nics else { return args };
        for nic in &nics.nics {
            for tag in &nic.nic_tags_provided {
                args.insert(format!("{tag}_nic"), Value::from(nic.mac.to_string()));
            }
        }
        for aggregation in &nics.aggregations {
            let name = &aggregation.name;
            let macs: Vec<String> = aggregation.macs.iter().map(MacAddr::to_string).collect();
            args.insert(format!("{name}_aggr"), Value::from(macs.join(",")));
            if let Some(mode) = &aggregation.lacp_mode {
                args.insert(format!("{name}_lacp_mode"), Value::from(mode.as_str()));
            }
            for tag in &aggregation.nic_tags_provided {
                args.insert(format!("{tag}_nic"), Value::from(name.as_str()));
            }
        }
        args.retain(|name, _| !self.found.params.kernel_args.contains_key(name));
        args
    }

    /// Its host name (C§5.1).
    pub(super) fn hostname(&self) -> String {
        let given = self.found.params.kernel_args.get("hostname").and_then(Value::as_str);
        given.map_or_else(|| self.mac().dashed(), str::to_owned)
    }
}

#[cfg(test)]
impl Node {
    pub(crate) fn for_tests(params: headnode_model::boot::BootParams) -> Self {
        let mac = MacAddr([0x90, 0xb8, 0xd0, 1, 2, 3]);
        let settings = crate::settings::Settings::for_tests();
        let ip = [10, 99, 99, 40].into();
        Self {
            lease: Lease { mac, ip, uuid: None, seen: 0, until: 0, tag: None },
            network: Arc::new(Network::own(&settings)),
            found: Found::new(params, crate::params::Origin::Default, None, None),
            choice: Choice::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_handed_on_without_the_text_that_came_from_the_network() {
        let of = |platform: &str, rescue, menu| {
            let platform = Some(platform.to_owned());
            Choice { platform, rescue, menu, attempt: 3 }.query()
        };
        assert_eq!(Choice::default().query(), "");
        assert_eq!(of("20250101t000000z", false, false), "&platform=20250101T000000Z");
        assert_eq!(of("latest", true, true), "&platform=latest&rescue=true&menu=true");
        for wrong in ["", "../x", "${uuid}", "20250101T000000Z || shell", "x&rescue=true"] {
            assert_eq!(of(wrong, false, true), "&menu=true", "{wrong}");
        }
    }
}
