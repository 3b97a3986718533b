//! Which machine boots what.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use headnode_model::net::MacAddr;
use serde_json::{Value, json};
use uuid::Uuid;

use super::boot::{Boot, Way};
use super::config::{Config, Host};
use super::placeholders::{Name, Template, Values};
use crate::admission::{Known, Machine};

/// What machines boot, ready to be asked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    hosts: Vec<Entry>,
    default: Option<Way>,
    by_mac: HashMap<MacAddr, usize>,
    by_uuid: HashMap<Uuid, usize>,
    by_serial: HashMap<String, usize>,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    host: Host,
    way: Option<Way>,
}

/// What a machine boots.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice<'a> {
    /// How; `None` when the configuration says nothing.
    pub way: Option<&'a Way>,
    /// The host that it is; `None` for a machine that gets the default.
    pub host: Option<&'a Host>,
}

impl Choice<'_> {
    /// `host` or `default`.
    pub fn origin(&self) -> &'static str {
        if self.host.is_some() { "host" } else { "default" }
    }

    /// The machine's name.
    pub fn hostname(&self) -> Option<&str> {
        self.host?.hostname.as_deref()
    }
}

fn key(serial: &str) -> String {
    serial.trim().to_ascii_lowercase()
}

impl Plan {
    /// The plan of a configuration; what is wrong in it is told elsewhere ([`super::check`]).
    pub fn new(config: &Config) -> Self {
        let mut plan = Self { default: Way::of(&[&config.default]), ..Self::default() };
        for host in &config.hosts {
            let index = plan.hosts.len();
            plan.by_mac.extend(host.macs().iter().map(|mac| (*mac, index)));
            plan.by_uuid.extend(host.uuid.map(|uuid| (uuid, index)));
            plan.by_serial.extend(host.serial.as_deref().map(|serial| (key(serial), index)));
            let way = way(host, &config.groups, &config.default);
            plan.hosts.push(Entry { host: host.clone(), way });
        }
        plan
    }

    /// The machines that are named: they need no approval.
    pub fn known(&self) -> Known {
        Known {
            uuids: self.by_uuid.keys().copied().collect(),
            macs: self.by_mac.keys().copied().collect(),
        }
    }

    fn find(&self, machine: &Machine<'_>) -> Option<&Entry> {
        let by_uuid = || self.by_uuid.get(&machine.uuid?);
        let by_serial = || self.by_serial.get(&key(machine.serial?));
        let index = self.by_mac.get(&machine.mac).or_else(by_uuid).or_else(by_serial)?;
        self.hosts.get(*index)
    }

    /// What a machine boots: a host is known by its MAC, else its UUID, else its serial number.
    pub fn choose(&self, machine: &Machine<'_>) -> Choice<'_> {
        match self.find(machine) {
            Some(entry) => Choice { way: entry.way.as_ref(), host: Some(&entry.host) },
            None => Choice { way: self.default.as_ref(), host: None },
        }
    }

    /// Whether the machine has to tell its serial number before it is known what it boots.
    pub fn needs_identity(&self, machine: &Machine<'_>) -> bool {
        let choice = self.choose(machine);
        // Beside another DHCP server nothing else tells it.
        let unnamed = machine.uuid.is_none();
        let names = |template: &Template| {
            template.names(Name::Serial) || unnamed && template.names(Name::Uuid)
        };
        let told = match choice.way {
            Some(Way::Kernel { kernel, initrd, arguments }) => {
                names(kernel) || names(arguments) || initrd.iter().any(names)
            }
            Some(Way::Script(script)) => names(script),
            _ => false,
        };
        let others = !self.by_serial.is_empty() || unnamed && !self.by_uuid.is_empty();
        told || choice.host.is_none() && others
    }

    /// The boot program of a machine that boots without iPXE, as a name below `root`; `None` for
    /// the others.
    ///
    /// # Errors
    /// A sentence why there is none for this machine.
    pub fn boot_file(
        &self,
        (mac, uuid): (MacAddr, Option<Uuid>),
        archs: &[u16],
        server: Ipv4Addr,
    ) -> Option<Result<String, String>> {
        let machine = Machine { mac, uuid, serial: None, vendor: None, rack: None };
        let choice = self.choose(&machine);
        let Some(Way::Bootfile(bootfile)) = choice.way else { return None };
        let hostname = choice.hostname();
        let values = Values { mac, ip: None, hostname, server, serial: None, uuid };
        let name = bootfile
            .of(archs)
            .map(|file| Template::parse(file).unwrap_or_default().render(&values));
        Some(name.ok_or_else(|| {
            format!("its `bootfile` has none for its architecture ({archs:?}): add one")
        }))
    }

    /// What the operator is shown about a machine.
    pub fn show(&self, mac: MacAddr, uuid: Option<Uuid>) -> Value {
        let machine = Machine { mac, uuid, serial: None, vendor: None, rack: None };
        let choice = self.choose(&machine);
        let params = match choice.way {
            None => Value::Null,
            Some(Way::LocalDisk) => json!({ "local_disk": true }),
            Some(Way::Script(script)) => json!({ "script": script.to_string() }),
            Some(Way::Bootfile(bootfile)) => {
                let all = bootfile.all();
                let files: BTreeMap<_, _> =
                    all.into_iter().map(|(arch, file)| (arch.unwrap_or("all"), file)).collect();
                json!({ "bootfile": files })
            }
            Some(Way::Kernel { kernel, initrd, arguments }) => json!({
                "kernel": kernel.to_string(),
                "initrd": initrd.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "arguments": arguments.to_string(),
            }),
        };
        let group = choice.host.and_then(|host| host.group.as_deref());
        let hostname = choice.hostname();
        json!({ "origin": choice.origin(), "group": group, "hostname": hostname, "params": params })
    }
}

/// What a host boots.
pub(super) fn way(host: &Host, groups: &BTreeMap<String, Boot>, default: &Boot) -> Option<Way> {
    let own = host.boot();
    let group = host.group.as_ref().and_then(|name| groups.get(name));
    let sections: Vec<&Boot> = std::iter::once(&own).chain(group).chain([default]).collect();
    Way::of(&sections)
}

#[cfg(test)]
mod tests {
    use super::super::config::Read;
    use super::*;

    fn plan(text: &str) -> Plan {
        let read = Read::text(text);
        assert_eq!(read.faults, []);
        Plan::new(&read.config)
    }

    fn machine(mac: u8) -> Machine<'static> {
        let mac = MacAddr([0x52, 0x54, 0, 0, 0, mac]);
        Machine { mac, uuid: None, serial: None, vendor: None, rack: None }
    }

    const TEXT: &str = "[default]\nkernel = \"d\"\n[group.web]\nkernel = \"w\"\n\
        [[host]]\nmac = \"52:54:00:00:00:01\"\ngroup = \"web\"\nhostname = \"one\"\n\
        [[host]]\nuuid = \"00000000-0000-0000-0000-000000000002\"\nlocal_disk = true\n\
        [[host]]\nserial = \"ABC\"\nscript = \"{serial}.ipxe\"\n\
        [[host]]\nmac = [\"52:54:00:00:00:04\", \"52:54:00:00:00:05\"]\n\
        bootfile = { bios = \"{mac}/b.0\" }\n";

    #[test]
    fn machines_are_known_by_mac_then_uuid_then_serial() {
        let plan = plan(TEXT);
        let uuid = Some(Uuid::from_u128(2));
        let name =
            |machine: &Machine<'_>| plan.choose(machine).host.map(Host::title).unwrap_or_default();
        assert_eq!(name(&machine(1)), "one");
        assert_eq!(name(&Machine { uuid, ..machine(1) }), "one");
        assert_eq!(
            name(&Machine { uuid, serial: Some("abc"), ..machine(9) }),
            Uuid::from_u128(2).to_string()
        );
        assert_eq!(name(&Machine { serial: Some(" aBc "), ..machine(9) }), "ABC");
        assert_eq!(name(&machine(5)), "52:54:00:00:00:04");
        assert_eq!(name(&machine(9)), "");
        assert!(plan.needs_identity(&machine(9)) && !plan.needs_identity(&machine(1)));
        assert!(plan.needs_identity(&Machine { serial: Some("abc"), ..machine(9) }));
        assert_eq!(plan.known().macs.len(), 3);
        assert_eq!(plan.show(machine(1).mac, None)["params"]["kernel"], "w");
        assert_eq!(plan.show(machine(9).mac, uuid)["params"]["local_disk"], true);
        assert_eq!(plan.show(machine(9).mac, None)["origin"], "default");
    }

    #[test]
    fn who_may_be_a_host_by_uuid_has_to_tell_it() {
        let host = "[[host]]\nuuid = \"00000000-0000-0000-0000-000000000002\"\nlocal_disk = true\n";
        let with_host = plan(&format!("[default]\nkernel = \"d\"\n{host}"));
        let uuid = Some(Uuid::from_u128(3));
        assert!(with_host.needs_identity(&machine(9)));
        assert!(!with_host.needs_identity(&Machine { uuid, ..machine(9) }));
        let named = plan("[default]\nkernel = \"d\"\narguments = \"id={uuid}\"\n");
        assert!(named.needs_identity(&machine(9)));
        assert!(!named.needs_identity(&Machine { uuid, ..machine(9) }));
        assert!(!plan("[default]\nkernel = \"d\"\n").needs_identity(&machine(9)));
    }

    #[test]
    fn machines_without_ipxe_get_their_own_program() {
        let plan = plan(TEXT);
        let file = |mac, archs: &[u16]| {
            plan.boot_file((machine(mac).mac, None), archs, [10, 0, 0, 1].into())
        };
        assert_eq!(file(1, &[0]), None);
        assert_eq!(file(4, &[0]), Some(Ok("52:54:00:00:00:04/b.0".to_owned())));
        assert!(file(4, &[7]).unwrap().unwrap_err().contains("architecture"));
    }
}
