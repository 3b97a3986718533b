//! `POST /servers/:uuid`: the fields of a server that callers may change.

use std::collections::BTreeMap;

use headnode_model::sysinfo::SysinfoAgent;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::api::App;
use crate::api::error::ApiError;
use crate::api::params::Fields;
use crate::fleet::timestamp;
use crate::store::Core;

/// Resources that can be promised more than once.
const RATIOS: [&str; 5] = ["cpu", "ram", "disk", "io", "net"];

/// What a body changes.
#[derive(Debug, Default)]
pub(super) struct Update {
    agents: Option<Vec<SysinfoAgent>>,
    boot_params: Option<BTreeMap<String, Value>>,
    boot_platform: Option<String>,
    comments: Option<String>,
    datacenter: Option<String>,
    default_console: Option<String>,
    /// The outer value says whether to change it; Triton's clients send an empty text to clear it.
    next_reboot: Option<Option<String>>,
    overprovision_ratios: Option<BTreeMap<String, f64>>,
    rack_identifier: Option<String>,
    reservation_ratio: Option<f64>,
    reserved: Option<bool>,
    reservoir: Option<bool>,
    serial: Option<String>,
    setting_up: Option<bool>,
    setup: Option<bool>,
    traits: Option<BTreeMap<String, Value>>,
    transitional_status: Option<String>,
}

impl Update {
    /// Reads a body.
    pub async fn read(app: &App, body: Map<String, Value>) -> Result<Self, ApiError> {
        let mut fields = Fields::new(body);
        fields.ignore(&["etag_retries", "origin", "creator_uuid"]);
        let update = Self {
            agents: typed(&mut fields, "agents", "an array of {name, version}"),
            boot_params: typed(&mut fields, "boot_params", "an object"),
            boot_platform: fields.string("boot_platform"),
            comments: fields.string("comments"),
            datacenter: fields.string("datacenter"),
            default_console: fields.string("default_console"),
            next_reboot: fields.take("next_reboot", "an ISO 8601 date, or empty", next_reboot),
            overprovision_ratios: typed(
                &mut fields,
                "overprovision_ratios",
                "an object of numbers",
            ),
            rack_identifier: fields.string("rack_identifier"),
            reservation_ratio: fields.take("reservation_ratio", "a number from 0 to 1", |value| {
                value.as_f64().filter(|ratio| (0.0..=1.0).contains(ratio))
            }),
            reserved: fields.bool("reserved"),
            reservoir: fields.bool("reservoir"),
            serial: fields.string("serial"),
            setting_up: fields.bool("setting_up"),
            setup: fields.bool("setup"),
            traits: typed(&mut fields, "traits", "an object"),
            transitional_status: fields.take(
                "transitional_status",
                "rebooting or empty",
                |value| value.as_str().filter(|s| ["", "rebooting"].contains(s)).map(str::to_owned),
            ),
        };
        for (name, ratio) in update.overprovision_ratios.iter().flatten() {
            let field = format!("overprovision_ratios.{name}");
            if !RATIOS.contains(&name.as_str()) {
                fields.invalid(&field, format!("is not one of {}", RATIOS.join(", ")));
            } else if !ratio.is_finite() || *ratio < 0.0 {
                fields.invalid(&field, "must not be negative");
            }
        }
        if let Some(platform) = &update.boot_platform
            && !app.fleet.platform_list().await.contains_key(platform)
        {
            fields.invalid("boot_platform", format!("Platform '{platform}' does not exist"));
        }
        fields.finish()?;
        Ok(update)
    }

    /// Makes the changes.
    pub fn apply(&self, core: &mut Core) {
        fn set<T: Clone>(from: &Option<T>, to: &mut T) {
            if let Some(value) = from {
                to.clone_from(value);
            }
        }
        set(&self.agents, &mut core.agents);
        set(&self.boot_params, &mut core.boot_params);
        set(&self.boot_platform, &mut core.boot_platform);
        set(&self.comments, &mut core.comments);
        set(&self.datacenter, &mut core.datacenter);
        set(&self.default_console, &mut core.default_console);
        set(&self.next_reboot, &mut core.next_reboot);
        set(&self.overprovision_ratios, &mut core.overprovision_ratios);
        set(&self.rack_identifier, &mut core.rack_identifier);
        set(&self.reservation_ratio, &mut core.reservation_ratio);
        set(&self.reserved, &mut core.reserved);
        set(&self.reservoir, &mut core.reservoir);
        set(&self.serial, &mut core.serial);
        set(&self.setting_up, &mut core.setting_up);
        set(&self.setup, &mut core.setup);
        set(&self.traits, &mut core.traits);
        set(&self.transitional_status, &mut core.transitional_status);
    }
}

fn typed<T: DeserializeOwned>(fields: &mut Fields, field: &str, wanted: &str) -> Option<T> {
    fields.take(field, wanted, |value| serde_json::from_value(value.clone()).ok())
}

fn next_reboot(value: &Value) -> Option<Option<String>> {
    match value {
        Value::Null => Some(None),
        Value::String(text) if text.trim().is_empty() => Some(None),
        Value::String(text) => {
            let at = OffsetDateTime::parse(text.trim(), &Rfc3339).ok()?;
            Some(Some(timestamp(at.to_offset(time::UtcOffset::UTC))))
        }
        _ => None,
    }
}
