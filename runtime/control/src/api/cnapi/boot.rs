//! Boot parameters, the default ones and those of servers. POST merges, PUT replaces.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use headnode_model::boot::{BootModule, BootParams};
use serde_json::{Map, Value};

use crate::api::App;
use crate::api::error::ApiError;
use crate::api::params::{Body, Fields, Id};
use crate::store::{DEFAULT_CONSOLE, DEFAULT_SERIAL, update_server};

/// The longest content of a boot module (C§4.2).
const MODULE_LIMIT: usize = 4096;

type Values = BTreeMap<String, Value>;

/// A body of POST or PUT: only what it names.
#[derive(Debug, Default)]
struct Change {
    platform: Option<String>,
    kernel_args: Option<Map<String, Value>>,
    kernel_flags: Option<Map<String, Value>>,
    boot_modules: Option<Vec<BootModule>>,
    default_console: Option<String>,
    serial: Option<String>,
}

impl Change {
    /// Merges into `params`: what is not named stays; an argument or flag of `null` goes away.
    fn merge(&self, params: &mut BootParams) {
        let take = |from: &Option<String>, to: &mut String| {
            if let Some(value) = from {
                to.clone_from(value);
            }
        };
        take(&self.platform, &mut params.platform);
        take(&self.default_console, &mut params.default_console);
        take(&self.serial, &mut params.serial);
        let merge = |from: &Option<Map<String, Value>>, to: &mut Values| {
            for (name, value) in from.iter().flatten() {
                if value.is_null() {
                    to.remove(name);
                } else {
                    to.insert(name.clone(), value.clone());
                }
            }
        };
        merge(&self.kernel_args, &mut params.kernel_args);
        merge(&self.kernel_flags, &mut params.kernel_flags);
        if let Some(modules) = &self.boot_modules {
            params.boot_modules.clone_from(modules);
        }
    }

    /// Parameters that are as named, and for the rest as those of a new datacenter.
    fn alone(&self) -> BootParams {
        let mut params = BootParams {
            default_console: DEFAULT_CONSOLE.to_owned(),
            serial: DEFAULT_SERIAL.to_owned(),
            ..BootParams::default()
        };
        self.merge(&mut params);
        params
    }
}

/// The boot parameters of machines that CNAPI does not know.
#[utoipa::path(get, path = "/boot/default", tag = "cnapi",
    responses((status = 200, description = "The boot object (C§4.2)", body = Object)))]
pub(crate) async fn get_default(State(app): State<App>) -> Result<Json<BootParams>, ApiError> {
    Ok(Json(app.fleet.boot_default().await?))
}

/// Replaces the default boot parameters. Without a platform, the newest one is booted.
#[utoipa::path(put, path = "/boot/default", tag = "cnapi", request_body = Object,
    responses((status = 204, description = "Done")))]
pub(crate) async fn set_default(
    State(app): State<App>,
    Body(body): Body,
) -> Result<StatusCode, ApiError> {
    let change = read(&app, body).await?;
    app.fleet.set_boot_default(&change.alone()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Changes some of the default boot parameters.
#[utoipa::path(post, path = "/boot/default", tag = "cnapi", request_body = Object,
    responses((status = 204, description = "Done")))]
pub(crate) async fn update_default(
    State(app): State<App>,
    Body(body): Body,
) -> Result<StatusCode, ApiError> {
    let change = read(&app, body).await?;
    let mut params = app.fleet.boot_default().await?;
    change.merge(&mut params);
    app.fleet.set_boot_default(&params).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The boot parameters of a server.
#[utoipa::path(get, path = "/boot/{uuid}", tag = "cnapi",
    params(("uuid" = String, Path, description = "The server's UUID")),
    responses((status = 200, description = "The boot object (C§4.2)", body = Object),
              (status = 404, description = "No such server")))]
pub(crate) async fn get(
    State(app): State<App>,
    Id(uuid): Id,
) -> Result<Json<BootParams>, ApiError> {
    let server = app.fleet.store.get(uuid).await?.ok_or_else(|| ApiError::no_server(uuid))?;
    Ok(Json(app.fleet.boot_of(&server).await?))
}

/// Replaces the boot parameters of a server. Without a platform, the default one is booted.
#[utoipa::path(put, path = "/boot/{uuid}", tag = "cnapi", request_body = Object,
    params(("uuid" = String, Path, description = "The server's UUID")),
    responses((status = 202, description = "Done"), (status = 404, description = "No such server")))]
pub(crate) async fn set(
    State(app): State<App>,
    Id(uuid): Id,
    Body(body): Body,
) -> Result<StatusCode, ApiError> {
    let mut params = read(&app, body).await?.alone();
    if params.platform.is_empty() {
        params.platform = app.fleet.boot_default().await?.platform;
    }
    write(&app, uuid, |old| old.clone_from(&params)).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Changes some of the boot parameters of a server.
#[utoipa::path(post, path = "/boot/{uuid}", tag = "cnapi", request_body = Object,
    params(("uuid" = String, Path, description = "The server's UUID")),
    responses((status = 204, description = "Done"), (status = 404, description = "No such server")))]
pub(crate) async fn update(
    State(app): State<App>,
    Id(uuid): Id,
    Body(body): Body,
) -> Result<StatusCode, ApiError> {
    let change = read(&app, body).await?;
    write(&app, uuid, |params| change.merge(params)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn write(
    app: &App,
    uuid: uuid::Uuid,
    change: impl Fn(&mut BootParams) + Send + Sync,
) -> Result<(), ApiError> {
    let written = update_server(&*app.fleet.store, uuid, |server| {
        let core = &mut server.core;
        let mut params = BootParams {
            platform: core.boot_platform.clone(),
            kernel_args: core.boot_params.clone(),
            kernel_flags: core.kernel_flags.clone(),
            boot_modules: core.boot_modules.clone(),
            default_console: core.default_console.clone(),
            serial: core.serial.clone(),
        };
        change(&mut params);
        core.boot_platform = params.platform;
        core.boot_params = params.kernel_args;
        core.kernel_flags = params.kernel_flags;
        core.boot_modules = params.boot_modules;
        core.default_console = params.default_console;
        core.serial = params.serial;
        true
    })
    .await?;
    written.map(drop).ok_or_else(|| ApiError::no_server(uuid))
}

async fn read(app: &App, body: Map<String, Value>) -> Result<Change, ApiError> {
    let mut fields = Fields::new(body);
    // Older clients of Triton say `boot_params`.
    let args = if fields.has("kernel_args") { "kernel_args" } else { "boot_params" };
    let change = Change {
        platform: fields.string("platform").filter(|platform| !platform.is_empty()),
        kernel_args: values(&mut fields, args),
        kernel_flags: values(&mut fields, "kernel_flags"),
        boot_modules: modules(&mut fields),
        default_console: fields.string("default_console"),
        serial: fields.string("serial"),
    };
    if let Some(console) = change.default_console.as_deref()
        && !["serial", "vga"].contains(&console)
    {
        fields.invalid("default_console", format!("must be serial or vga, but is {console:?}"));
    }
    if let Some(serial) = change.serial.as_deref()
        && !["ttya", "ttyb", "ttyc", "ttyd"].contains(&serial)
    {
        fields.invalid("serial", format!("must be ttya, ttyb, ttyc or ttyd, but is {serial:?}"));
    }
    if let Some(platform) = &change.platform {
        let list = app.fleet.platform_list().await;
        if !list.contains_key(platform) {
            let known: Vec<_> = list.keys().map(String::as_str).collect();
            let message =
                format!("Platform '{platform}' does not exist; there are: {}", known.join(", "));
            fields.invalid("platform", message);
        }
    }
    fields.finish()?;
    Ok(change)
}

/// Kernel arguments or flags: names that a command line can hold, values that are no structures.
fn values(fields: &mut Fields, field: &str) -> Option<Map<String, Value>> {
    let map = fields.object(field)?;
    for (name, value) in &map {
        let bad = |c: char| c.is_whitespace() || c.is_control() || c == '"' || c == '=';
        if name.is_empty() || name.contains(bad) {
            fields.invalid(&format!("{field}.{name}"), "is not a name that a kernel can be given");
        }
        let control = value.as_str().is_some_and(|text| text.contains(char::is_control));
        if value.is_object() || value.is_array() || control {
            fields.invalid(
                &format!("{field}.{name}"),
                "must be a string without control characters, a number, true, false or null",
            );
        }
    }
    Some(map)
}

fn modules(fields: &mut Fields) -> Option<Vec<BootModule>> {
    let list = fields.array("boot_modules")?;
    let mut modules = Vec::new();
    for (index, value) in list.into_iter().enumerate() {
        let field = format!("boot_modules[{index}]");
        let mut value = value;
        if let Some(object) = value.as_object_mut() {
            object.entry("type").or_insert_with(|| "base64".into());
        }
        let module = match serde_json::from_value::<BootModule>(value) {
            Ok(module) => module,
            Err(error) => {
                fields.invalid(&field, error.to_string());
                continue;
            }
        };
        if module.kind != "base64" {
            fields.invalid(&format!("{field}.type"), "must be base64");
        }
        let parts_ok = module.path.split('/').all(|part| !part.is_empty() && part != "..");
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
        if !parts_ok || !module.path.bytes().all(plain) {
            fields.invalid(&format!("{field}.path"), "must be a relative path of plain characters");
        }
        match decoded_len(&module.content) {
            None => fields.invalid(&format!("{field}.content"), "is not base64"),
            Some(len) if len > MODULE_LIMIT => {
                let message = format!("is {len} bytes long, more than {MODULE_LIMIT}");
                fields.invalid(&format!("{field}.content"), message);
            }
            Some(_) => {}
        }
        modules.push(module);
    }
    Some(modules)
}

/// How many bytes a base64 text stands for; `None` when it is none.
fn decoded_len(text: &str) -> Option<usize> {
    let data = text.trim_end_matches('=');
    let ok = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    let padding = text.len() - data.len();
    (text.len().is_multiple_of(4) && padding <= 2 && data.bytes().all(ok))
        .then(|| data.len() * 3 / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_measured() {
        assert_eq!(decoded_len(""), Some(0));
        assert_eq!(decoded_len("aGVsbG8="), Some(5));
        assert_eq!(decoded_len("aGVsbG8"), None);
        assert_eq!(decoded_len("a-V="), None);
    }
}
