//! Registration: what a machine's sysinfo makes of its record.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use headnode_model::api::FieldError;
use headnode_model::net::MacAddr;
use headnode_model::ports;
use headnode_model::server::ServerStatus;
use headnode_model::sysinfo::Sysinfo;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Fleet, duplicate, now, timestamp};
use crate::store::{Core, ServerRecord, StoreError};

/// Boot times that differ by less are one boot: the kernel's figure moves when the clock is set.
const SAME_BOOT_SECONDS: i64 = 5;
/// How often a write is tried when others change the same server.
const TRIES: u32 = 20;

/// Why a machine was not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Its sysinfo is wrong.
    #[error("the sysinfo is wrong in {} places", .0.len())]
    Invalid(Vec<FieldError>),
    /// Another living machine has its UUID.
    #[error("{0}")]
    Duplicate(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a registration was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// The machine was not known.
    New,
    /// The machine has booted since it was heard last.
    Booted,
    /// The machine is as it was, or tells something new.
    Updated,
}

/// A sysinfo with what was read out of it.
struct Told {
    info: Sysinfo,
    macs: Vec<MacAddr>,
    admin_macs: Vec<MacAddr>,
    raw: Map<String, Value>,
}

impl Fleet {
    /// Registers a machine, or takes what is new about it.
    ///
    /// # Errors
    /// See [`RegisterError`].
    pub async fn register(
        &self,
        uuid: Uuid,
        sysinfo: Map<String, Value>,
    ) -> Result<Registered, RegisterError> {
        let told = read(uuid, sysinfo).map_err(RegisterError::Invalid)?;
        for _ in 0..TRIES {
            let (what, written) = match self.store.get(uuid).await? {
                None => {
                    let server = self.create(uuid, &told).await?;
                    (Registered::New, self.store.insert(&server).await?)
                }
                Some(mut server) => {
                    self.refuse_duplicate(&server, &told)?;
                    let booted = self.apply(&mut server.core, &told);
                    let what = if booted { Registered::Booted } else { Registered::Updated };
                    server.sysinfo = told.raw.clone();
                    (what, self.store.replace(&server).await?)
                }
            };
            if written {
                self.liveness.beat(uuid);
                if what != Registered::Updated {
                    let hostname = &told.info.hostname;
                    tracing::info!(server = %uuid, hostname, ?what, "server registered");
                    self.boots.send_modify(|count| *count += 1);
                }
                return Ok(what);
            }
        }
        Err(StoreError::Contended(uuid).into())
    }

    fn refuse_duplicate(&self, server: &ServerRecord, told: &Told) -> Result<(), RegisterError> {
        let known = (&*server.core.macs, &*server.core.admin_macs, server.core.wanted_hostname());
        let new = (&*told.macs, &*told.admin_macs, told.info.hostname.as_str());
        let Some(message) = duplicate::check(server.uuid, known, new) else { return Ok(()) };
        if self.liveness.is_alive(server.uuid) {
            tracing::error!(server = %server.uuid, message, "duplicate UUID refused");
            return Err(RegisterError::Duplicate(message));
        }
        tracing::warn!(
            server = %server.uuid,
            old = ?server.core.macs,
            new = ?told.macs,
            "all NICs of a server that was not running are new: board or NICs were changed"
        );
        Ok(())
    }

    async fn create(&self, uuid: Uuid, told: &Told) -> Result<ServerRecord, StoreError> {
        let boot = self.boot_default().await?;
        let mut core = Core {
            hostname: String::new(),
            assigned_hostname: None,
            datacenter: self.site.datacenter_name.clone(),
            headnode: false,
            setup: false,
            setting_up: false,
            status: ServerStatus::Running,
            transitional_status: String::new(),
            agents: vec![],
            boot_platform: boot.platform,
            current_platform: String::new(),
            boot_params: boot.kernel_args,
            kernel_flags: boot.kernel_flags,
            boot_modules: boot.boot_modules,
            default_console: boot.default_console,
            serial: boot.serial,
            comments: String::new(),
            created: now(),
            last_boot: None,
            boot_time: None,
            last_heartbeat: None,
            next_reboot: None,
            // C§5.7.
            overprovision_ratios: BTreeMap::from(
                [("cpu", 4.0), ("ram", 1.0), ("disk", 1.0)].map(|(k, v)| (k.to_owned(), v)),
            ),
            rack_identifier: String::new(),
            ram: 0,
            // C§5.6.
            reservation_ratio: 0.15,
            reserved: false,
            reservoir: false,
            system_type: String::new(),
            traits: BTreeMap::new(),
            macs: vec![],
            admin_macs: vec![],
            agent_url: None,
        };
        self.apply(&mut core, told);
        if core.headnode || core.boot_platform.is_empty() {
            core.boot_platform.clone_from(&core.current_platform);
        }
        let (sysinfo, report) = (told.raw.clone(), Map::new());
        Ok(ServerRecord { uuid, version: 1, core, sysinfo, report })
    }

    /// Takes over what a machine tells; returns whether it has booted since.
    fn apply(&self, core: &mut Core, told: &Told) -> bool {
        let info = &told.info;
        let booted = info.boot_time.is_some()
            && !same_boot(core.boot_time.as_deref(), info.boot_time.as_deref());
        if !info.hostname.is_empty() {
            core.hostname.clone_from(&info.hostname);
        }
        core.headnode = info.boot_parameters.get("headnode").is_some_and(|value| value == "true");
        // Setup is never undone within a boot: a sysinfo gathered before the end of the setup may
        // arrive after it. A factory reset takes a reboot.
        core.setup = match info.setup.as_deref() {
            Some("true") => true,
            Some(_) => core.setup && !booted,
            None => core.setup,
        };
        if !info.sdc_agents.is_empty() {
            core.agents.clone_from(&info.sdc_agents);
        }
        if let Some(platform) = &info.live_image {
            core.current_platform.clone_from(platform);
        }
        if booted {
            core.boot_time.clone_from(&info.boot_time);
            core.last_boot = boot_seconds(info.boot_time.as_deref())
                .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
                .map(timestamp);
            core.transitional_status.clear();
        }
        if let Some(ram) = info.mib_of_memory.as_deref().and_then(|ram| ram.parse().ok()) {
            core.ram = ram;
        }
        if let Some(system) = &info.system_type {
            core.system_type.clone_from(system);
        }
        core.macs.clone_from(&told.macs);
        core.admin_macs.clone_from(&told.admin_macs);
        core.status = ServerStatus::Running;
        core.last_heartbeat = Some(now());
        core.agent_url = self.agent_url(info);
        booted
    }

    /// Where the machine's agent listens; only an address of the admin network is believed, so
    /// that nobody can make us send tasks elsewhere.
    fn agent_url(&self, info: &Sysinfo) -> Option<String> {
        let text = info.cn_agent_ip.as_ref().or(info.admin_ip.as_ref())?;
        let ip = text.parse::<Ipv4Addr>().ok().filter(|ip| self.site.admin_net.contains(ip));
        let Some(ip) = ip else {
            let network = self.site.admin_net;
            tracing::warn!(
                server = %info.uuid, address = text, %network,
                "agent address is not on the admin network and is not used"
            );
            return None;
        };
        Some(format!("http://{ip}:{}", info.cn_agent_port.unwrap_or(ports::AGENT)))
    }
}

/// Whether two values of `Boot Time` mean the same boot.
pub(crate) fn same_boot(a: Option<&str>, b: Option<&str>) -> bool {
    match (boot_seconds(a), boot_seconds(b)) {
        (Some(a), Some(b)) => a.abs_diff(b) <= SAME_BOOT_SECONDS.unsigned_abs(),
        _ => a == b,
    }
}

fn boot_seconds(boot_time: Option<&str>) -> Option<i64> {
    boot_time?.parse().ok()
}

/// Reads a sysinfo; tells all that is wrong at once.
fn read(uuid: Uuid, raw: Map<String, Value>) -> Result<Told, Vec<FieldError>> {
    let mut errors = Vec::new();
    let mut wrong = |field: &str, code: &str, message: String| {
        let field = format!("sysinfo.{field}");
        errors.push(FieldError { field, code: code.to_owned(), message: Some(message) });
    };
    let invalid = "InvalidParameter";
    match raw.get("UUID").map(|value| value.as_str().and_then(|text| text.parse::<Uuid>().ok())) {
        None => wrong("UUID", "MissingParameter", "is missing".to_owned()),
        Some(None) => wrong("UUID", invalid, "is not a UUID".to_owned()),
        Some(Some(told)) if told != uuid => {
            wrong("UUID", invalid, format!("is {told}, but the URL says {uuid}"));
        }
        Some(Some(_)) => {}
    }
    let (mut macs, mut admin_macs) = (Vec::new(), Vec::new());
    let nics = raw.get("Network Interfaces").and_then(Value::as_object);
    for (name, nic) in nics.into_iter().flatten() {
        let text = nic.get("MAC Address").and_then(Value::as_str).unwrap_or_default();
        match text.parse::<MacAddr>() {
            Ok(mac) => {
                macs.push(mac);
                let names = nic.get("NIC Names").and_then(Value::as_array);
                if names.into_iter().flatten().any(|name| name == "admin") {
                    admin_macs.push(mac);
                }
            }
            Err(error) => {
                wrong(
                    &format!("Network Interfaces.{name}.MAC Address"),
                    invalid,
                    error.to_string(),
                );
            }
        }
    }
    macs.sort_unstable();
    admin_macs.sort_unstable();
    if let Some(boot) = raw.get("Boot Time")
        && boot.as_str().is_none_or(|text| text.parse::<i64>().is_err())
    {
        wrong("Boot Time", invalid, "is not a text of seconds since 1970".to_owned());
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    match serde_json::from_value::<Sysinfo>(Value::Object(raw.clone())) {
        Ok(info) => Ok(Told { info, macs, admin_macs, raw }),
        Err(error) => Err(vec![FieldError {
            field: "sysinfo".to_owned(),
            code: invalid.to_owned(),
            message: Some(error.to_string()),
        }]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let sysinfo = object(json!({
            "UUID": "5f3a0000-0000-0000-0000-000000000001",
            "Boot Time": 17,
            "Network Interfaces": {"eth0": {"MAC Address": "nope"}},
        }));
        let errors = read(Uuid::nil(), sysinfo).err().unwrap();
        let fields: Vec<_> = errors.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(
            fields,
            ["sysinfo.UUID", "sysinfo.Network Interfaces.eth0.MAC Address", "sysinfo.Boot Time"]
        );
    }

    #[test]
    fn a_set_clock_is_no_boot() {
        assert!(same_boot(Some("1000"), Some("1002")));
        assert!(!same_boot(Some("1000"), Some("1020")));
        assert!(!same_boot(None, Some("1020")));
    }

    proptest! {
        #[test]
        fn no_sysinfo_panics(keys in proptest::collection::vec("[A-Za-z ]{0,20}", 0..5), text: String) {
            let mut sysinfo = Map::new();
            for key in keys {
                sysinfo.insert(key, Value::String(text.clone()));
            }
            sysinfo.insert("Boot Time".to_owned(), Value::String(text));
            drop(read(Uuid::nil(), sysinfo));
        }
    }
}
