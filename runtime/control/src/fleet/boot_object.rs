//! Boot objects (C§4.2): the default one and those of servers.

use headnode_model::boot::BootParams;
use serde_json::Value;

use super::{Fleet, platforms};
use crate::store::{DEFAULT_CONSOLE, DEFAULT_SERIAL, ServerRecord, StoreError};

/// Name of the setting that holds the default boot object.
const SETTING: &str = "boot_default";

impl Fleet {
    /// What the folder of platforms holds; what is wrong with it goes to the log, and nodes boot
    /// on from what is known.
    pub async fn platform_list(&self) -> std::collections::BTreeMap<String, platforms::Platform> {
        let folder = self.platforms.clone();
        let listed = tokio::task::spawn_blocking(move || platforms::list(&folder)).await;
        match listed {
            Ok(Ok(platforms)) => platforms,
            Ok(Err(error)) => {
                tracing::error!(folder = %self.platforms.display(), %error, "reading platforms");
                Default::default()
            }
            Err(error) => {
                tracing::error!(%error, "reading platforms");
                Default::default()
            }
        }
    }

    /// The default boot object. Nobody chose a platform: the newest one that has a kernel.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn boot_default(&self) -> Result<BootParams, StoreError> {
        let mut params = match self.store.get_setting(SETTING).await? {
            Some(value) => serde_json::from_value(value).map_err(|error| StoreError::Document {
                what: "setting",
                id: SETTING.to_owned(),
                reason: error.to_string(),
            })?,
            None => BootParams {
                default_console: DEFAULT_CONSOLE.to_owned(),
                serial: DEFAULT_SERIAL.to_owned(),
                ..BootParams::default()
            },
        };
        if params.platform.is_empty() {
            let list = self.platform_list().await;
            let latest = platforms::latest(&list, |platform| platform.os.is_some());
            params.platform = latest.unwrap_or_default().to_owned();
        }
        Ok(params)
    }

    /// Writes the default boot object; an empty platform means the newest one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_boot_default(&self, params: &BootParams) -> Result<(), StoreError> {
        let value = serde_json::to_value(params).map_err(|error| StoreError::Document {
            what: "setting",
            id: SETTING.to_owned(),
            reason: format!("encoding: {error}"),
        })?;
        self.store.put_setting(SETTING, &value).await
    }

    /// The boot object of a server. The host name goes along, so that the machine has it before
    /// it has a disk.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn boot_of(&self, server: &ServerRecord) -> Result<BootParams, StoreError> {
        let core = &server.core;
        let mut kernel_args = core.boot_params.clone();
        let hostname = core.wanted_hostname();
        if !hostname.is_empty() {
            kernel_args
                .entry("hostname".to_owned())
                .or_insert_with(|| Value::String(hostname.to_owned()));
        }
        let platform = if core.boot_platform.is_empty() {
            self.boot_default().await?.platform
        } else {
            core.boot_platform.clone()
        };
        Ok(BootParams {
            platform,
            kernel_args,
            kernel_flags: core.kernel_flags.clone(),
            boot_modules: core.boot_modules.clone(),
            default_console: core.default_console.clone(),
            serial: core.serial.clone(),
        })
    }
}
