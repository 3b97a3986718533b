//! `menu.lst` for GRUB legacy (C§4.6).

use headnode_model::net::MacAddr;
use serde::Serialize;

use super::smartos::{Loads, Module};
use super::templates::{GRUB, GRUB_MESSAGE};
use super::text::{Wait, lines};
use crate::params::Origin;

use super::{Kind, Node, Refusal, Script, Scripts, TemplateError, hold_text, illumos};

/// Longest line that GRUB legacy reads, in bytes: its buffer has 1500, some of it for the rest.
const LONGEST: usize = 1400;

#[derive(Debug, Serialize)]
struct Entry {
    title: String,
    args: String,
    modules: Vec<Module>,
}

impl Scripts {
    /// The menu for a machine that boots by pxegrub: live, with the debugger, rescue. Blocks while
    /// the disk is looked at.
    ///
    /// # Errors
    /// When a built-in template does not fit.
    pub fn grub(&self, node: &Node) -> Result<Script, TemplateError> {
        let platform = match self.platform(node) {
            Ok(platform) => platform,
            Err(refusal) => return self.refuse_grub(node, refusal),
        };
        let refusal = |problem: String| Refusal { problem, platform: platform.name.clone() };
        if platform.kind != Kind::SmartOs {
            let problem = format!(
                "its platform {} is Linux, which GRUB legacy does not boot from here. Let it load iPXE",
                platform.name
            );
            return self.refuse_grub(node, refusal(problem));
        }
        let live = match self.smartos(node, &platform, node.rescue()) {
            Ok(loads) => loads,
            Err(problem) => return self.refuse_grub(node, refusal(problem)),
        };
        let mut rescue = Loads { args: self.kernel_args(node, true), ..live.clone() };
        rescue.modules.retain(|module| module.kind != "hash");
        let unknown = node.found.origin == Origin::Builtin;
        let note =
            if unknown { " (the newest: no parameters of this machine are known)" } else { "" };
        let entry = |title: &str, flags: &str, loads: &Loads| Entry {
            title: format!("{title} {}{note}", platform.name),
            args: format!("{flags}{}", loads.args),
            modules: loads.modules.clone(),
        };
        // CNAPI may have told these flags itself.
        let told =
            |flag: &&str| live.args.split(' ').take_while(|w| *w != "-B").any(|w| w == *flag);
        let debugger = ["-d", "-k"].into_iter().filter(|flag| !told(flag));
        let debugger: String = debugger.map(|flag| format!("{flag} ")).collect();
        let entries = [
            entry("Live 64-bit", "", &live),
            entry("Live 64-bit with the kernel debugger", &debugger, &live),
            entry("Rescue: pools left alone, digests not checked", "", &rescue),
        ];
        if let Some(long) = entries.iter().map(|entry| entry.args.len()).find(|l| *l > LONGEST) {
            let problem = format!(
                "its kernel parameters have {long} bytes, GRUB legacy takes {LONGEST}. Take some out:\n\
                 sdc boot set {} --remove-arg NAME",
                self.target(node)
            );
            return self.refuse_grub(node, refusal(problem));
        }
        let mut context = self.context(node.mac(), node.choice.attempt, Wait::Mend);
        let params = &node.found.params;
        context.insert("platform", &platform.name);
        context.insert("unit", &illumos::unit(params));
        context.insert("serial", &(illumos::console(params) != "text"));
        context.insert("entries", &entries);
        match self.templates.render(GRUB, &context) {
            Ok(text) => {
                Ok(Script { text, kind: "boot", problem: None, platform: platform.name.clone() })
            }
            Err(error) => self.refuse_grub(node, refusal(error.to_string())),
        }
    }

    /// A menu that says that the machine waits for an operator.
    ///
    /// # Errors
    /// When the built-in template does not fit.
    pub fn grub_hold(&self, mac: MacAddr) -> Result<String, TemplateError> {
        self.grub_message(mac, &hold_text(mac), Wait::Operator)
    }

    fn refuse_grub(&self, node: &Node, refusal: Refusal) -> Result<Script, TemplateError> {
        let text = self.grub_message(node.mac(), &refusal.problem, Wait::Mend)?;
        Ok(refusal.told(node.mac(), text))
    }

    fn grub_message(
        &self,
        mac: MacAddr,
        message: &str,
        wait: Wait,
    ) -> Result<String, TemplateError> {
        // GRUB cannot count its tries: the pause is that of a later one.
        let mut context = self.context(mac, 2, wait);
        context.insert("lines", &lines(&format!("This machine does not boot now: {message}")));
        context.insert("unit", &1);
        self.say(GRUB_MESSAGE, &context)
    }
}
