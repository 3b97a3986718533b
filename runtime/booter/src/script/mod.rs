//! Boot scripts, one per machine: for iPXE, and for GRUB legacy.
//!
//! They are rendered for each request, from templates that a site may replace by its own ones
//! ([`templates`]), the machine's parameters ([`Node`]) and the platforms on disk ([`Platforms`]).

mod args;
mod bootfs;
mod digests;
mod grub;
mod illumos;
mod networking;
mod node;
mod platforms;
mod settings;
mod smartos;
mod templates;
mod text;

use std::path::Path;
use std::sync::Arc;

use axum::body::Bytes;
use headnode_model::net::MacAddr;
use headnode_model::paths;
use serde_json::json;
use tera::Context;

pub use bootfs::BootFile;
pub use node::{Choice, Node};
pub use platforms::{Kind, Platform, PlatformError, Platforms};
pub use settings::{Scheme, Settings as ScriptSettings};
pub use templates::TemplateError;

use crate::params::Origin;
use crate::settings::Settings;
use crate::{Error, dhcp};
use templates::{CHAIN, IDENTIFY, LINUX, LIVE, MENU, MESSAGE, SMARTOS, Templates};
use text::{Wait, lines, pause, plain};

/// Most platforms in a menu.
const OFFERED: usize = 12;

/// What is wrong with the site's own templates below a root such as `/usbkey`. Blocks.
pub fn template_problems(root: &Path) -> Vec<String> {
    match Templates::new(root) {
        Ok(templates) => templates.problems().iter().map(ToString::to_string).collect(),
        Err(error) => vec![error.to_string()],
    }
}

/// A script for a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// What the loader runs.
    pub text: String,
    /// What it does: `boot`, `menu`, `message`.
    pub kind: &'static str,
    /// Why it does not boot the machine, when it does not.
    pub problem: Option<String>,
    /// The platform that it boots, or would.
    pub platform: String,
}

/// Renders boot scripts.
#[derive(Debug)]
pub struct Scripts {
    settings: Arc<Settings>,
    platforms: Platforms,
    templates: Templates,
    digests: digests::Digests,
    files: bootfs::Store,
    /// What the URLs of scripts begin with.
    base: String,
    /// What the URLs of everything else begin with.
    load: String,
}

/// Why a machine does not boot, for the people at its console and for operators.
struct Refusal {
    /// Each line that somebody is to type on a line of its own.
    problem: String,
    /// The platform that it would have booted.
    platform: String,
}

impl Refusal {
    /// A script that says so; it is logged too.
    fn told(self, mac: MacAddr, text: String) -> Script {
        let problem = self.problem.replace('\n', " ");
        tracing::error!(%mac, "a node cannot be booted: {problem}");
        Script { text, kind: "menu", problem: Some(problem), platform: self.platform }
    }
}

impl Scripts {
    /// Reads the templates.
    ///
    /// # Errors
    /// When a built-in template is broken.
    pub fn new(settings: Arc<Settings>) -> Result<Self, Error> {
        let base = settings.script_base();
        let load = match settings.more.script.scheme {
            Scheme::Tftp => settings.tftp_base(),
            Scheme::Http | Scheme::Https => base.clone(),
        };
        let templates = Templates::new(&settings.root)?;
        let platforms = Platforms::new(&settings.root);
        let (digests, files) = (digests::Digests::default(), bootfs::Store::default());
        Ok(Self { settings, platforms, templates, digests, files, base, load })
    }

    /// The script for a machine: it boots, or tells on the machine's console why it cannot, and what
    /// else can be done. Blocks while the disk is looked at.
    ///
    /// # Errors
    /// When a built-in template does not fit.
    pub fn boot(&self, node: &Node) -> Result<Script, TemplateError> {
        let mac = node.mac();
        let platform = match self.platform(node) {
            Ok(platform) => platform,
            Err(refusal) => return self.refuse(node, refusal),
        };
        let name = platform.name.clone();
        if node.choice.menu {
            let (heading, said) = ("asks what to boot", "You asked for the menu.".to_owned());
            let text = self.menu(node, heading, &said, "retry")?;
            return Ok(Script { text, kind: "menu", problem: Some(said), platform: name });
        }
        if node.found.params.is_rescue() && !node.choice.rescue && node.choice.platform.is_none() {
            let said = format!(
                "The parameters of this machine say noimport=true: it starts without its pools, for \
                 repairs. What ends that, on the headnode:\nsdc boot set {} --remove-arg noimport",
                self.target(node)
            );
            let text = self.menu(node, "boots the rescue system", &said, "rescue")?;
            let problem = "it waits in the menu of the rescue system".to_owned();
            return Ok(Script { text, kind: "menu", problem: Some(problem), platform: name });
        }
        let mut context = self.context(mac, node.choice.attempt, Wait::Mend);
        let mut notes = Vec::new();
        let unknown = node.found.origin == Origin::Builtin;
        // Nobody at the console of most machines: it goes on by itself. Who chose is not asked again.
        let ask = unknown && node.choice.platform.is_none() && !node.choice.rescue;
        context.insert("ask", &ask);
        if unknown {
            notes.push(
                "CNAPI tells no boot parameters and none are cached: the newest platform is booted"
                    .to_owned(),
            );
        }
        context.insert("platform", &platform.name);
        let template = match platform.kind {
            Kind::SmartOs => {
                let loads = self.smartos(node, &platform, node.rescue());
                let loads = match loads.and_then(|loads| self.fit(&platform, loads)) {
                    Ok(loads) => loads,
                    Err(problem) => {
                        return self.refuse(node, Refusal { problem, platform: name });
                    }
                };
                notes.extend(loads.notes);
                context.insert("args", &loads.args);
                context.insert("modules", &loads.modules);
                SMARTOS
            }
            kind @ (Kind::Linux | Kind::Live) => {
                let params = &node.found.params;
                if !params.kernel_flags.is_empty() {
                    tracing::warn!(
                        %mac, flags = params.kernel_flags.len(),
                        "kernel flags are for SmartOS platforms; this Linux platform boots without them"
                    );
                }
                let files = self.linux_files(node, kind);
                let with_files = files.iter().any(|file| file.name == bootfs::ARCHIVE);
                self.files.put(mac, Arc::new(files));
                // The names under which an EFI kernel finds its archives; a BIOS kernel gets them in
                // memory and does not look at these parameters.
                let bundle = paths::EXTRA_BUNDLE_NODE;
                let bundle_name = bundle.rsplit('/').next().unwrap_or(bundle);
                let live = kind == Kind::Live;
                let mut archives = if live { vec!["initrd"] } else { vec!["initrd", bundle_name] };
                if with_files {
                    archives.push(bootfs::ARCHIVE);
                }
                let mut args = args::kernel_line(&self.settings, node, &archives);
                if live {
                    args.insert_str(0, "boot=live ");
                    // Its initial system need not know the site's certificates.
                    context.insert("http", &self.settings.base(dhcp::Scheme::Http));
                }
                context.insert("bundle", bundle);
                let own = format!("bootfs/{}/{}", mac.bare().to_ascii_lowercase(), bootfs::ARCHIVE);
                context.insert("files", if with_files { own.as_str() } else { "" });
                context.insert("args", &args);
                if live { LIVE } else { LINUX }
            }
        };
        let notes: Vec<String> = notes.iter().map(|note| plain(note)).collect();
        context.insert("notes", &notes);
        match self.templates.render(template, &context) {
            Ok(text) => Ok(Script { text, kind: "boot", problem: None, platform: name }),
            Err(error) => self.refuse(node, Refusal { problem: error.to_string(), platform: name }),
        }
    }

    /// The platform that a machine boots, when all of it is there.
    fn platform(&self, node: &Node) -> Result<Platform, Refusal> {
        let wanted = node.platform();
        let refusal = |problem| Refusal { problem, platform: wanted.to_owned() };
        let platform = self.platforms.choose(wanted).map_err(|error| {
            let place = self.settings.root.join(paths::PLATFORMS);
            let mend = match &error {
                PlatformError::Io { .. } => "Look at the headnode's disk.".to_owned(),
                PlatformError::None(_) => format!(
                    "Unpack a platform image into {}, as {0}/20260101T000000Z.",
                    place.display()
                ),
                PlatformError::Missing(_) | PlatformError::Name(_) => format!(
                    "Unpack the platform into {}, or choose another one, on the headnode:\n\
                     sdc boot set {} --platform latest",
                    place.display(),
                    self.target(node)
                ),
            };
            refusal(format!("{error}. {mend}"))
        })?;
        if platform.kind == Kind::Linux
            && !self.settings.root.join(paths::EXTRA_BUNDLE_NODE).is_file()
        {
            return Err(refusal(format!(
                "the file {} is missing on the headnode. Copy it from the key's folder bundle to {}",
                paths::EXTRA_BUNDLE_NODE,
                self.settings.root.join(paths::EXTRA_BUNDLE_NODE).display()
            )));
        }
        Ok(platform)
    }

    /// Whose parameters an operator has to change: the server's, or those of unknown ones.
    fn target(&self, node: &Node) -> String {
        node.found.server.map_or_else(|| "default".to_owned(), |uuid| uuid.to_string())
    }

    fn refuse(&self, node: &Node, refusal: Refusal) -> Result<Script, TemplateError> {
        let text = self.menu(node, "cannot boot this machine", &refusal.problem, "retry")?;
        Ok(refusal.told(node.mac(), text))
    }

    fn menu(
        &self,
        node: &Node,
        heading: &str,
        said: &str,
        first: &str,
    ) -> Result<String, TemplateError> {
        let bundle = self.settings.root.join(paths::EXTRA_BUNDLE_NODE).is_file();
        let mut there = self.platforms.list().unwrap_or_default();
        there.retain(|platform| platform.kind != Kind::Linux || bundle);
        let rescue = self.platforms.choose(&node.found.params.platform).ok();
        let rescue = rescue.filter(|wanted| there.contains(wanted)).or(there.first().cloned());
        let offered: Vec<_> = there
            .iter()
            .take(OFFERED)
            .map(|platform| json!({ "name": platform.name, "kind": platform.kind.word() }))
            .collect();
        let mut context = self.context(node.mac(), node.choice.attempt, Wait::Mend);
        context.insert("heading", heading);
        context.insert("lines", &lines(said));
        context.insert("first", first);
        context.insert("platforms", &offered);
        context.insert("rescue", &rescue.map(|platform| platform.name).unwrap_or_default());
        self.say(MENU, &context)
    }

    /// Renders a template that a machine cannot do without, or that says what is wrong: ours when the
    /// site's own one cannot be used.
    fn say(&self, name: &'static str, context: &Context) -> Result<String, TemplateError> {
        self.templates.render(name, context).or_else(|error| {
            tracing::error!("{error}");
            self.templates.render_ours(name, context)
        })
    }

    /// A script with which a machine comes back and tells its UUID, serial number and maker, and what
    /// was chosen at its console.
    ///
    /// # Errors
    /// When the template does not fit.
    pub fn identify(&self, mac: MacAddr, choice: &Choice) -> Result<String, TemplateError> {
        let mut context = self.context(mac, choice.attempt, Wait::Mend);
        context.insert("try", &choice.attempt);
        context.insert("choice", &choice.query());
        self.say(IDENTIFY, &context)
    }

    /// A script that shows a message and tries again.
    ///
    /// # Errors
    /// When the built-in template does not fit.
    pub fn message(
        &self,
        mac: MacAddr,
        attempt: u32,
        message: &str,
    ) -> Result<String, TemplateError> {
        let mut context = self.context(mac, attempt, Wait::Mend);
        context.insert("lines", &lines(message));
        self.say(MESSAGE, &context)
    }

    /// A script for a machine that waits for an operator: it says so, and asks again after a while.
    ///
    /// # Errors
    /// When the built-in template does not fit.
    pub fn hold(&self, mac: MacAddr, attempt: u32) -> Result<String, TemplateError> {
        let mut context = self.context(mac, attempt, Wait::Operator);
        context.insert("lines", &lines(&hold_text(mac)));
        self.say(MESSAGE, &context)
    }

    /// The script for an iPXE whose machine is not known from the URL.
    ///
    /// # Errors
    /// When the template does not fit.
    pub fn chain(&self) -> Result<String, TemplateError> {
        let mut context = Context::new();
        context.insert("base", &self.base);
        self.say(CHAIN, &context)
    }

    /// A file of a machine, as its last script named it; `None` when it had no script lately, or
    /// there is no such file.
    pub fn kept_file(&self, mac: MacAddr, name: &str) -> Option<Option<Bytes>> {
        let files = self.files.get(mac)?;
        Some(bootfs::find(&files, name))
    }

    /// A file of a machine, made anew.
    pub fn file(&self, node: &Node, name: &str) -> Option<Bytes> {
        // Not what is kept: of so many machines nothing more is.
        match self.platforms.choose(node.platform()) {
            Ok(platform) if platform.kind == Kind::SmartOs => {
                match self.smartos(node, &platform, node.rescue()) {
                    Ok(loads) => bootfs::find(&loads.files, name),
                    Err(_) => bootfs::find(&self.files(node), name),
                }
            }
            Ok(platform) => bootfs::find(&self.linux_files(node, platform.kind), name),
            Err(_) => bootfs::find(&self.linux_files(node, Kind::Linux), name),
        }
    }

    fn context(&self, mac: MacAddr, attempt: u32, wait: Wait) -> Context {
        let mut context = Context::new();
        context.insert("base", &self.base);
        context.insert("load", &self.load);
        context.insert("mac", &mac.to_string());
        context.insert("bare", &mac.bare());
        context.insert("server", &self.settings.admin_ip.to_string());
        context.insert("retry", &pause(mac, attempt, wait));
        context.insert("next", &attempt.saturating_add(1));
        context
    }
}

fn hold_text(mac: MacAddr) -> String {
    format!("an operator has to let it in. On the headnode:\nsdc boot approve {mac}")
}

#[cfg(test)]
mod tests;
