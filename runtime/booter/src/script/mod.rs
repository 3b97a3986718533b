//! Boot scripts for iPXE, one per machine.

mod args;
mod platforms;

use std::sync::Arc;

use headnode_model::boot::BootParams;
use headnode_model::net::MacAddr;
use headnode_model::{paths, ports};
use tera::{Context, Tera};

pub use args::kernel_line;
pub use platforms::{Kind, Platform, PlatformError, Platforms};

use crate::Error;
use crate::leases::Lease;
use crate::networks::Network;
use crate::settings::Settings;

const LINUX: &str = "linux.ipxe";
const MESSAGE: &str = "message.ipxe";
const CHAIN: &str = "chain.ipxe";
const IDENTIFY: &str = "identify.ipxe";
/// Seconds until a machine that could not be booted tries again.
const RETRY: u32 = 10;

/// A script for a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// What iPXE runs.
    pub text: String,
    /// Why it does not boot the machine, when it does not.
    pub problem: Option<String>,
}

/// Renders boot scripts.
#[derive(Debug)]
pub struct Scripts {
    settings: Arc<Settings>,
    platforms: Platforms,
    templates: Tera,
    base: String,
}

impl Scripts {
    /// Reads the templates.
    ///
    /// # Errors
    /// When a built-in template is broken.
    pub fn new(settings: Arc<Settings>) -> Result<Self, Error> {
        let mut templates = Tera::default();
        templates
            .add_raw_templates([
                (LINUX, include_str!("../../../../overlays/booter/linux.ipxe.tera")),
                (MESSAGE, include_str!("../../../../overlays/booter/message.ipxe.tera")),
                (IDENTIFY, include_str!("../../../../overlays/booter/identify.ipxe.tera")),
                (CHAIN, include_str!("../../../../overlays/booter/chain.ipxe.tera")),
            ])
            .map_err(Error::Template)?;
        let base = match settings.ports.http {
            ports::BOOTER_HTTP => format!("http://{}", settings.admin_ip),
            port => format!("http://{}:{port}", settings.admin_ip),
        };
        let platforms = Platforms::new(&settings.root);
        Ok(Self { settings, platforms, templates, base })
    }

    /// The script for a machine: it boots, or tells on the machine's console why it cannot and
    /// tries again after some seconds. Blocks while the disk is looked at.
    ///
    /// # Errors
    /// When a template does not fit.
    pub fn boot(
        &self,
        mac: MacAddr,
        (lease, network): (&Lease, &Network),
        params: &BootParams,
    ) -> Result<Script, tera::Error> {
        let platform = match self.platforms.choose(&params.platform) {
            Ok(platform) => platform,
            Err(problem) => {
                tracing::error!(%mac, "a node cannot be booted: {problem}");
                return self.refuse(mac, problem.to_string());
            }
        };
        if platform.kind == Kind::SmartOs {
            let problem = format!(
                "its platform {} is SmartOS, which needs the illumos boot path",
                platform.name
            );
            tracing::error!(%mac, "a node cannot be booted: {problem}");
            return self.refuse(mac, problem);
        }
        if !self.settings.root.join(paths::EXTRA_BUNDLE_NODE).is_file() {
            let problem =
                format!("the file {} is missing on the headnode", paths::EXTRA_BUNDLE_NODE);
            tracing::error!(%mac, "a node cannot be booted: {problem}");
            return self.refuse(mac, problem);
        }
        if !params.boot_modules.is_empty() || !params.kernel_flags.is_empty() {
            tracing::warn!(
                %mac, modules = params.boot_modules.len(), flags = params.kernel_flags.len(),
                "boot modules and kernel flags are for SmartOS platforms; this Linux platform boots \
                 without them"
            );
        }
        // The names under which an EFI kernel finds its archives; a BIOS kernel gets them in
        // memory and does not look at these parameters.
        let bundle = paths::EXTRA_BUNDLE_NODE;
        let bundle_name = bundle.rsplit('/').next().unwrap_or(bundle);
        let args = kernel_line(&self.settings, network, lease, params, &["initrd", bundle_name]);
        let mut context = self.context(mac);
        context.insert("platform", &platform.name);
        context.insert("bundle", bundle);
        context.insert("args", &args);
        Ok(Script { text: self.templates.render(LINUX, &context)?, problem: None })
    }

    fn refuse(&self, mac: MacAddr, problem: String) -> Result<Script, tera::Error> {
        Ok(Script { text: self.message(mac, &problem)?, problem: Some(problem) })
    }

    /// A script with which a machine comes back and tells its UUID, serial number and maker.
    ///
    /// # Errors
    /// When the template does not fit.
    pub fn identify(&self, mac: MacAddr) -> Result<String, tera::Error> {
        self.templates.render(IDENTIFY, &self.context(mac))
    }

    /// A script that shows a message and tries again.
    ///
    /// # Errors
    /// When the template does not fit.
    pub fn message(&self, mac: MacAddr, message: &str) -> Result<String, tera::Error> {
        let mut context = self.context(mac);
        context.insert("message", &plain(message));
        self.templates.render(MESSAGE, &context)
    }

    /// The script for an iPXE whose machine is not known from the URL.
    ///
    /// # Errors
    /// When the template does not fit.
    pub fn chain(&self) -> Result<String, tera::Error> {
        let mut context = Context::new();
        context.insert("base", &self.base);
        self.templates.render(CHAIN, &context)
    }

    fn context(&self, mac: MacAddr) -> Context {
        let mut context = Context::new();
        context.insert("base", &self.base);
        context.insert("mac", &mac.to_string());
        context.insert("bare", &mac.bare());
        context.insert("server", &self.settings.admin_ip.to_string());
        context.insert("retry", &RETRY);
        context
    }
}

/// A text that iPXE prints as it is: without its expansions, operators and comments.
fn plain(text: &str) -> String {
    let kept = |c: char| c.is_ascii_alphanumeric() || " .,:/_-()='\"".contains(c);
    text.chars().map(|c| if kept(c) { c } else { ' ' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn scripts(root: &std::path::Path) -> Scripts {
        let settings = Settings { root: root.to_owned(), ..Settings::for_tests() };
        Scripts::new(Arc::new(settings)).unwrap()
    }

    fn mac() -> MacAddr {
        MacAddr([0x90, 0xb8, 0xd0, 1, 2, 3])
    }

    fn network() -> Network {
        Network::own(&Settings::for_tests())
    }

    fn lease() -> Lease {
        Lease { mac: mac(), ip: [10, 99, 99, 40].into(), uuid: None, seen: 0, until: 0, tag: None }
    }

    #[test]
    fn a_linux_node_gets_kernel_archives_and_parameters() {
        let dir = tempfile::tempdir().unwrap();
        let platform = dir.path().join("os/20260101T000000Z/platform/x86_64");
        fs::create_dir_all(&platform).unwrap();
        fs::write(platform.join("vmlinuz"), "").unwrap();
        fs::write(platform.join("initrd"), "").unwrap();
        fs::create_dir_all(dir.path().join("extra/agents")).unwrap();
        let scripts = scripts(dir.path());
        let params = BootParams { serial: "ttyb".into(), ..BootParams::default() };
        let none = scripts.boot(mac(), (&lease(), &network()), &params).unwrap().text;
        assert!(none.contains("echo   the file extra/agents/node.cpio.zst is missing"), "{none}");
        fs::write(dir.path().join("extra/agents/node.cpio.zst"), "").unwrap();
        let script = scripts.boot(mac(), (&lease(), &network()), &params).unwrap();
        assert_eq!(script.problem, None);
        let text = script.text;
        let kernel = "kernel http://10.99.99.7/os/20260101T000000Z/platform/x86_64/vmlinuz \
            console=tty0 console=ttyS0,115200n8 console=ttyS1,115200n8 \
            BOOTIF=01-90-b8-d0-01-02-03 ip=10.99.99.40::10.99.99.1:255.255.255.0:: \
            assets_admin_ip=10.99.99.7 hostname=90-b8-d0-01-02-03 \
            initrd=initrd initrd=node.cpio.zst || goto failed\n";
        assert!(text.contains(kernel), "{text}");
        assert!(text.starts_with("#!ipxe\n"));
        assert!(
            text.contains("\ninitrd http://10.99.99.7/extra/agents/node.cpio.zst ||"),
            "{text}"
        );
    }

    #[test]
    fn a_machine_that_cannot_be_booted_is_told_why_and_tries_again() {
        let dir = tempfile::tempdir().unwrap();
        let scripts = scripts(dir.path());
        let params = BootParams { platform: "20200101T000000Z".into(), ..BootParams::default() };
        let script = scripts.boot(mac(), (&lease(), &network()), &params).unwrap();
        assert!(script.problem.unwrap().contains("20200101T000000Z"));
        let text = script.text;
        assert!(text.contains("20200101T000000Z"), "{text}");
        assert!(
            text.contains(
                "sleep 10\nchain --replace --autofree http://10.99.99.7/boot.ipxe.0190B8D0010203"
            ),
            "{text}"
        );
    }

    #[test]
    fn messages_hold_nothing_that_ipxe_interprets() {
        assert_eq!(plain("a ${b} || c; #d\ne && f"), "a   b     c   d e    f");
    }
}
