//! The iPXE scripts of a booter that runs alone.

use std::fs::File;
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use headnode_model::net::MacAddr;

use super::boot::{Bootfile, Way, is_url, stays_below};
use super::placeholders::{Name, Template, Values};
use super::plan::{Choice, Plan};
use super::{Answer, Asked, FILES, ScriptSource};
use crate::admission::Machine;
use crate::live::Live;

/// Seconds until a machine that could not be booted tries again.
const RETRY: u32 = 10;
/// An operator's script larger than this is none, in bytes.
const SCRIPT_LIMIT: u64 = 256 << 10;
/// What an iPXE script begins with.
pub(super) const MAGIC: &str = "#!ipxe";

/// Renders the scripts.
#[derive(Debug)]
pub struct Scripts {
    plan: Live<Plan>,
    root: PathBuf,
    server: Ipv4Addr,
    /// The beginning of this server's URLs, without a slash at its end.
    base: String,
}

impl Scripts {
    /// For what `plan` says; files are below `root`.
    pub fn new(plan: Live<Plan>, root: PathBuf, server: Ipv4Addr, http_port: u16) -> Self {
        let base = match http_port {
            80 => format!("http://{server}"),
            port => format!("http://{server}:{port}"),
        };
        Self { plan, root, server, base }
    }

    fn url(&self, rendered: &str) -> String {
        if is_url(rendered) {
            rendered.to_owned()
        } else {
            format!("{}/{FILES}/{rendered}", self.base)
        }
    }

    fn own(&self, mac: MacAddr) -> String {
        format!("{}/boot.ipxe.01{}", self.base, mac.bare())
    }

    /// A command's failure tells so and begins anew, with what the configuration says then.
    fn failed(&self, mac: MacAddr) -> String {
        format!(
            "\n:failed\necho That failed (see the error above). Trying again in {RETRY} seconds.\n\
             imgfree\nsleep {RETRY}\nchain --replace --autofree {} || goto failed\n",
            self.own(mac)
        )
    }

    fn kernel(
        &self,
        (kernel, initrd, arguments): (&Template, &[Template], &Template),
        values: &Values<'_>,
        choice: &Choice<'_>,
    ) -> Answer {
        let mac = values.mac;
        let kernel = kernel.render(values);
        let initrd: Vec<String> = initrd.iter().map(|one| self.url(&one.render(values))).collect();
        let arguments = arguments.render(values);
        let mut line = format!("kernel {}", self.url(&kernel));
        // An EFI kernel finds its archives by these; a BIOS kernel gets them in memory.
        if !arguments.split_whitespace().any(|word| word.starts_with("initrd=")) {
            for url in &initrd {
                // iPXE names them by the path alone.
                let path = url.split(['?', '#']).next().unwrap_or_default();
                let name = path.rsplit('/').next().unwrap_or_default();
                line.push_str(&format!(" initrd={name}"));
            }
        }
        if !arguments.is_empty() {
            line.push(' ');
            line.push_str(&arguments);
        }
        let mut text = format!(
            "{MAGIC}\n# Boot script of {mac}, made by sdc-booter from its configuration ({}).\n\
             echo Booting {}\nimgfree\n{line} || goto failed\n",
            choice.origin(),
            plain(&kernel)
        );
        for url in &initrd {
            text.push_str(&format!("initrd {url} || goto failed\n"));
        }
        text.push_str("boot || goto failed\n");
        text.push_str(&self.failed(mac));
        let kind = if initrd.is_empty() { "kernel" } else { "boot" };
        Answer::boot(text, kind, choice.origin(), kernel)
    }

    fn operators(
        &self,
        script: &Template,
        values: &Values<'_>,
        asked: &Asked<'_>,
        choice: &Choice<'_>,
    ) -> Answer {
        let name = script.render(values);
        let read = || -> Result<String, String> {
            if !stays_below(&name) {
                return Err("it is not below root".to_owned());
            }
            let mut text = String::new();
            let file = File::open(self.root.join(&name)).map_err(|error| error.to_string())?;
            file.take(SCRIPT_LIMIT + 1)
                .read_to_string(&mut text)
                .map_err(|error| error.to_string())?;
            match text {
                text if text.len() as u64 > SCRIPT_LIMIT => Err("it is far too large".to_owned()),
                text if !text.starts_with(MAGIC) => Err(format!("it does not begin with {MAGIC}")),
                text => Ok(text),
            }
        };
        match read() {
            Ok(text) => {
                let template = Template::of_script(&text);
                // Beside another DHCP server nothing else tells the UUID.
                let unknown = template.names(Name::Serial)
                    || template.names(Name::Uuid) && values.uuid.is_none();
                if unknown && !asked.identified {
                    return Answer::Identify(self.identify(values.mac));
                }
                Answer::boot(template.render(values), "other", choice.origin(), name)
            }
            Err(why) => self.refuse(values.mac, choice, format!("the script {name}: {why}")),
        }
    }

    /// A machine that runs iPXE although it has a program of its own: its NIC's ROM is iPXE, and it
    /// was sent here by another server.
    fn bootfile(&self, bootfile: &Bootfile, values: &Values<'_>, choice: &Choice<'_>) -> Answer {
        let url = |archs: &[u16]| {
            let file = Template::parse(bootfile.of(archs)?).unwrap_or_default().render(values);
            Some(format!("{}/{FILES}/{file}", self.base))
        };
        let chain = |url: Option<String>| match url {
            Some(url) => format!("chain --replace --autofree {url} || goto failed\n"),
            None => "echo There is no boot file for this firmware.\ngoto failed\n".to_owned(),
        };
        let text = format!(
            "{MAGIC}\n# Boot script of {}, made by sdc-booter: a boot program of its own.\n\
             iseq ${{platform}} efi && goto efi || goto bios\n:efi\n{}:bios\n{}{}",
            values.mac,
            chain(url(&[7])),
            chain(url(&[0])),
            self.failed(values.mac)
        );
        Answer::boot(text, "other", choice.origin(), "bootfile".to_owned())
    }

    fn refuse(&self, mac: MacAddr, choice: &Choice<'_>, problem: String) -> Answer {
        tracing::error!(%mac, "a machine cannot be booted: {problem}");
        let (kind, origin) = ("message", choice.origin());
        let text = self.message(mac, &problem);
        Answer::Script { text, kind, origin, what: String::new(), problem: Some(problem) }
    }
}

fn local_disk(mac: MacAddr) -> String {
    // UEFI goes on with its boot order when iPXE ends; BIOS is told which disk.
    format!(
        "{MAGIC}\n# Boot script of {mac}, made by sdc-booter: its own disk.\n\
         echo Booting from the local disk\n\
         iseq ${{platform}} efi && goto firmware || goto disk\n\
         :disk\nsanboot --no-describe --drive 0x80 || goto firmware\n:firmware\nexit\n"
    )
}

/// A text that iPXE prints as it is: without its expansions, operators and comments.
fn plain(text: &str) -> String {
    let kept = |c: char| c.is_ascii_alphanumeric() || " .,:/_-()='\"[]".contains(c);
    text.chars().map(|c| if kept(c) { c } else { ' ' }).collect()
}

impl ScriptSource for Scripts {
    fn knows(&self, machine: &Machine<'_>) -> bool {
        self.plan.get().choose(machine).host.is_some()
    }

    fn needs_identity(&self, machine: &Machine<'_>) -> bool {
        self.plan.get().needs_identity(machine)
    }

    fn script(&self, asked: &Asked<'_>) -> Answer {
        let plan = self.plan.get();
        let Machine { mac, uuid, serial, .. } = asked.machine;
        let choice = plan.choose(&asked.machine);
        let values = Values {
            mac,
            ip: Some(asked.ip),
            hostname: choice.hostname(),
            server: self.server,
            serial,
            uuid,
        };
        match choice.way {
            None => {
                let problem = format!(
                    "nothing says what it boots: add a host with mac = '{mac}', or a default, to the \
                     configuration, then: sdc boot reload"
                );
                self.refuse(mac, &choice, problem)
            }
            Some(Way::Kernel { kernel, initrd, arguments }) => {
                self.kernel((kernel, initrd, arguments), &values, &choice)
            }
            Some(Way::Script(script)) => self.operators(script, &values, asked, &choice),
            Some(Way::LocalDisk) => {
                Answer::boot(local_disk(mac), "other", choice.origin(), "local disk".to_owned())
            }
            Some(Way::Bootfile(bootfile)) => self.bootfile(bootfile, &values, &choice),
        }
    }

    fn identify(&self, mac: MacAddr) -> String {
        format!(
            "{MAGIC}\n# What {mac} boots depends on who it is: it tells that.\n:again\n\
             chain --replace --autofree {}?uuid=${{uuid}}&serial=${{serial:uristring}}\
             &manufacturer=${{manufacturer:uristring}} || goto failed\n\n:failed\n\
             echo The boot server {} does not answer. Trying again in {RETRY} seconds.\n\
             sleep {RETRY}\ngoto again\n",
            self.own(mac),
            self.server
        )
    }

    fn message(&self, mac: MacAddr, message: &str) -> String {
        format!(
            "{MAGIC}\n# sdc-booter cannot boot {mac} now.\n:again\necho\n\
             echo The boot server {} cannot boot this machine ({mac}) now:\necho   {}\n\
             echo Trying again in {RETRY} seconds.\nsleep {RETRY}\n\
             chain --replace --autofree {} || goto again\n",
            self.server,
            plain(message),
            self.own(mac)
        )
    }

    fn chain(&self) -> String {
        format!(
            "{MAGIC}\n# For an iPXE that was not started by this server: goes on to the script of this \
             machine.\ndhcp && chain --replace --autofree {}/boot.ipxe.01${{netX/mac:hexraw}}\n",
            self.base
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Read;
    use super::*;

    fn scripts(root: &std::path::Path, text: &str) -> Scripts {
        let read = Read::text(text);
        assert_eq!(read.faults, []);
        Scripts::new(
            Live::new(Plan::new(&read.config)),
            root.to_owned(),
            [10, 0, 0, 1].into(),
            8080,
        )
    }

    fn ask(scripts: &Scripts, mac: u8, serial: Option<&str>) -> Answer {
        let mac = MacAddr([0x52, 0x54, 0, 0, 0, mac]);
        let machine = Machine { mac, uuid: None, serial, vendor: None, rack: None };
        scripts.script(&Asked { machine, ip: [10, 0, 0, 9].into(), identified: serial.is_some() })
    }

    fn text(answer: Answer) -> String {
        match answer {
            Answer::Script { text, .. } | Answer::Identify(text) => text,
        }
    }

    #[test]
    fn a_kernel_gets_its_archives_and_arguments() {
        let dir = tempfile::tempdir().unwrap();
        let scripts = scripts(
            dir.path(),
            "[default]\nkernel = \"debian/linux\"\ninitrd = [\"debian/initrd.gz\", \"http://x/{mac}.cpio\"]\n\
             arguments = \"url=http://{server}/{hostname}.cfg ip=${net0/ip}\"\n\
             [[host]]\nmac = \"52:54:00:00:00:02\"\nkernel = \"memtest\"\n\
             [[host]]\nmac = \"52:54:00:00:00:03\"\nlocal_disk = true\n",
        );
        let one = text(ask(&scripts, 1, None));
        assert!(
            one.contains(
                "\nkernel http://10.0.0.1:8080/files/debian/linux initrd=initrd.gz \
                 initrd=52:54:00:00:00:01.cpio url=http://10.0.0.1/52-54-00-00-00-01.cfg \
                 ip=${net0/ip} || goto failed\n\
                 initrd http://10.0.0.1:8080/files/debian/initrd.gz || goto failed\n\
                 initrd http://x/52:54:00:00:00:01.cpio || goto failed\nboot || goto failed\n"
            ),
            "{one}"
        );
        assert!(
            one.contains(
                "chain --replace --autofree http://10.0.0.1:8080/boot.ipxe.01525400000001 "
            )
        );
        let two = text(ask(&scripts, 2, None));
        assert!(
            two.contains("\nkernel http://10.0.0.1:8080/files/memtest || goto failed\nboot "),
            "{two}"
        );
        assert!(text(ask(&scripts, 3, None)).contains("sanboot --no-describe --drive 0x80"));
    }

    #[test]
    fn an_operators_script_is_rendered_and_what_is_wrong_with_it_told() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("good.ipxe", "#!ipxe\necho {mac} ${mac} { x }\n");
        write("serial.ipxe", "#!ipxe\necho {serial}\n");
        write("bad.ipxe", "echo\n");
        let script = |name: &str, serial| {
            ask(&scripts(dir.path(), &format!("[default]\nscript = \"{name}\"\n")), 1, serial)
        };
        assert_eq!(
            text(script("good.ipxe", None)),
            "#!ipxe\necho 52:54:00:00:00:01 ${mac} { x }\n"
        );
        assert!(matches!(script("serial.ipxe", None), Answer::Identify(_)));
        write("uuid.ipxe", "#!ipxe\necho {uuid}.\n");
        assert!(matches!(script("uuid.ipxe", None), Answer::Identify(_)));
        // A board without one.
        assert_eq!(text(script("uuid.ipxe", Some(""))), "#!ipxe\necho .\n");
        assert_eq!(text(script("serial.ipxe", Some("a b"))), "#!ipxe\necho a_b\n");
        for (name, word) in
            [("bad.ipxe", "#!ipxe"), ("none.ipxe", "No such file"), ("{serial}/x", "below")]
        {
            let Answer::Script { problem, kind, .. } = script(name, Some("..")) else { panic!() };
            assert_eq!(kind, "message");
            assert!(problem.unwrap().contains(word), "{name}");
        }
    }

    #[test]
    fn a_machine_that_nothing_is_said_about_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let scripts = scripts(dir.path(), "[[host]]\nserial = \"a\"\nbootfile = \"x.0\"\n");
        let Answer::Script { text: shown, problem, .. } = ask(&scripts, 1, None) else { panic!() };
        assert!(problem.unwrap().contains("52:54:00:00:00:01"));
        assert!(shown.contains("cannot boot this machine"), "{shown}");
        assert!(text(ask(&scripts, 1, Some("a"))).contains("/files/x.0"));
        let mac = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
        assert!(scripts.identify(mac).contains("boot.ipxe.01525400000001?uuid=${uuid}&serial="));
        assert!(scripts.chain().contains("${netX/mac:hexraw}"));
    }
}
