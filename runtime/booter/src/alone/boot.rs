//! What is booted, as the sections `[default]`, `[group.NAME]` and `[[host]]` tell it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::placeholders::{Name, Template};

/// Keys of a section that say what is booted. Exactly one of `kernel`, `script`, `local_disk` and
/// `bootfile` decides; the most specific section that has one of them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Boot {
    /// Kernel: a file below `root`, or a URL.
    pub kernel: Option<String>,
    /// Initial RAM disks for the kernel, in their order; files below `root`, or URLs.
    pub initrd: Option<OneOrMany>,
    /// The kernel's command line.
    pub arguments: Option<String>,
    /// An iPXE script below `root`.
    pub script: Option<String>,
    /// Whether it boots from its own disk.
    pub local_disk: Option<bool>,
    /// A boot program that firmware loads itself, without iPXE.
    pub bootfile: Option<Bootfile>,
}

/// One text, or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Any number of them.
    Many(Vec<String>),
}

impl OneOrMany {
    /// All of them.
    pub fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// A boot program for all machines, or one for each architecture.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Bootfile {
    /// For all.
    All(String),
    /// By `bios`, `uefi`, `uefi32`, `arm64`, `arm32`, `riscv64`, or the number of an architecture
    /// (option 93).
    Each(BTreeMap<String, String>),
}

/// Words for architectures, and their numbers (IANA's registry "Processor Architecture Types").
const ARCHS: [(&str, &[u16]); 6] = [
    ("bios", &[0, 20]),
    ("uefi", &[7, 9, 16, 17]),
    ("uefi32", &[6, 15]),
    ("arm64", &[11, 19]),
    ("arm32", &[10, 18]),
    ("riscv64", &[27, 28]),
];

impl Bootfile {
    /// The name for a machine that tells these architectures; one that tells none is an old BIOS.
    pub fn of(&self, archs: &[u16]) -> Option<&str> {
        let files = match self {
            Self::All(file) => return Some(file),
            Self::Each(files) => files,
        };
        let archs = if archs.is_empty() { &[0] } else { archs };
        archs.iter().find_map(|arch| {
            let word = ARCHS.iter().find(|(_, numbers)| numbers.contains(arch));
            let by_number = files.get(&arch.to_string());
            by_number.or_else(|| files.get(word?.0)).map(String::as_str)
        })
    }

    /// All names, with the key of each.
    pub fn all(&self) -> Vec<(Option<&str>, &str)> {
        match self {
            Self::All(file) => vec![(None, file)],
            Self::Each(files) => {
                files.iter().map(|(arch, file)| (Some(arch.as_str()), file.as_str())).collect()
            }
        }
    }
}

/// What a machine boots, after host, group and default were laid over each other.
#[derive(Debug, Clone, PartialEq)]
pub enum Way {
    /// A kernel by iPXE.
    Kernel {
        /// The kernel.
        kernel: Template,
        /// Its RAM disks.
        initrd: Vec<Template>,
        /// Its command line.
        arguments: Template,
    },
    /// A script of the operator's.
    Script(Template),
    /// Its own disk.
    LocalDisk,
    /// A boot program without iPXE.
    Bootfile(Bootfile),
}

impl Way {
    /// Of sections, the most specific one first, what counts; `None` when no one says what is booted.
    /// `initrd` and `arguments` belong to a kernel: those of less specific sections than the one
    /// with the kernel are for another kernel.
    pub fn of(sections: &[&Boot]) -> Option<Self> {
        let mut disk = true;
        for (at, section) in sections.iter().enumerate() {
            match section.local_disk {
                Some(true) if disk => return Some(Self::LocalDisk),
                Some(false) => disk = false,
                _ => {}
            }
            let read = |text: &String| Template::parse(text).unwrap_or_default();
            if let Some(kernel) = &section.kernel {
                let near = sections.get(..=at).unwrap_or_default();
                let initrd = near.iter().find_map(|section| section.initrd.as_ref());
                let arguments = near.iter().find_map(|section| section.arguments.as_ref());
                return Some(Self::Kernel {
                    kernel: read(kernel),
                    initrd: initrd
                        .map(|all| all.all().iter().map(read).collect())
                        .unwrap_or_default(),
                    arguments: arguments.map(read).unwrap_or_default(),
                });
            }
            if let Some(script) = &section.script {
                return Some(Self::Script(read(script)));
            }
            if let Some(bootfile) = &section.bootfile {
                return Some(Self::Bootfile(bootfile.clone()));
            }
        }
        None
    }
}

/// Whether a value is a URL, which iPXE fetches from where it says.
pub(super) fn is_url(text: &str) -> bool {
    text.contains("://")
}

impl Boot {
    /// What is wrong with the section: keys and sentences.
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let ways = [
            ("kernel", self.kernel.is_some()),
            ("script", self.script.is_some()),
            ("local_disk", self.local_disk == Some(true)),
            ("bootfile", self.bootfile.is_some()),
        ];
        let told: Vec<&str> = ways.iter().filter(|(_, told)| *told).map(|(key, _)| *key).collect();
        if let [_, second, ..] = told.as_slice() {
            let message = format!("there are {}: leave one of them", told.join(" and "));
            problems.push(((*second).to_owned(), message));
        }
        let mut add = |key: &str, problem: Option<String>| {
            problems.extend(problem.map(|message| (key.to_owned(), message)));
        };
        add("kernel", self.kernel.as_deref().and_then(|text| wrong_file(text, true)));
        for initrd in self.initrd.iter().flat_map(|all| all.all()) {
            add("initrd", wrong_file(initrd, true));
        }
        add("arguments", self.arguments.as_deref().and_then(wrong_arguments));
        add("script", self.script.as_deref().and_then(|text| wrong_file(text, false)));
        for (arch, file) in self.bootfile.iter().flat_map(Bootfile::all) {
            let key = arch.map_or_else(|| "bootfile".to_owned(), |arch| format!("bootfile.{arch}"));
            let known = |arch: &str| {
                ARCHS.iter().any(|(word, _)| *word == arch) || arch.parse::<u16>().is_ok()
            };
            if arch.is_some_and(|arch| !known(arch)) {
                let words = ARCHS.map(|(word, _)| word).join(", ");
                add(
                    &key,
                    Some(format!("there is no such architecture: write {words} or a number")),
                );
            }
            add(&key, wrong_bootfile(file));
        }
        problems
    }

    /// Fixed names of files below `root`, with their keys.
    pub fn files(&self) -> Vec<(&'static str, String)> {
        let mut files: Vec<(&'static str, String)> = Vec::new();
        let mut add = |key, text: &str| {
            let fixed = Template::parse(text).ok();
            let fixed = fixed.as_ref().and_then(Template::fixed);
            files.extend(fixed.filter(|text| !is_url(text)).map(|text| (key, text.to_owned())));
        };
        self.kernel.iter().for_each(|text| add("kernel", text));
        self.initrd.iter().flat_map(|all| all.all()).for_each(|text| add("initrd", text));
        self.script.iter().for_each(|text| add("script", text));
        self.bootfile.iter().flat_map(Bootfile::all).for_each(|(_, text)| add("bootfile", text));
        files
    }
}

/// Whether a path stays below the folder that it is joined to.
pub(super) fn stays_below(path: &str) -> bool {
    !path.is_empty() && path.split('/').all(|part| !["", ".", ".."].contains(&part))
}

fn wrong_file(text: &str, url: bool) -> Option<String> {
    let template = match Template::parse(text) {
        Ok(template) => template,
        Err(message) => return Some(message),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+@~:/=,".contains(c);
    let more = |c: char| plain(c) || "?&%${}[]".contains(c);
    if is_url(text) {
        let good = template.texts().all(|text| text.chars().all(more));
        return match (url, good) {
            (false, _) => Some(format!("{text:?} is a URL: write the name of a file below root")),
            (true, true) => None,
            (true, false) => {
                Some(format!("{text:?} has letters that no URL has: write them as %20"))
            }
        };
    }
    if !template.texts().all(|text| text.chars().all(plain)) {
        let message =
            format!("{text:?}: names have letters, digits and ._-+@~:/=, only: rename the file");
        return Some(message);
    }
    // A placeholder stands for something.
    let path = template.texts().collect::<Vec<_>>().join("x");
    let path = if template.fixed().is_some() { path } else { format!("x{path}x") };
    (!stays_below(&path)).then(|| {
        format!(
            "{text:?} is no name below root: write it without `/` at its begin, and without `..`"
        )
    })
}

fn wrong_bootfile(text: &str) -> Option<String> {
    let template = Template::parse(text).ok();
    let names = |name| template.as_ref().is_some_and(|template| template.names(name));
    if names(Name::Ip) || names(Name::Serial) {
        let message = "{ip} and {serial} are not known when firmware asks for its boot file";
        return Some(message.to_owned());
    }
    // It goes into 128 bytes of a DHCP message; a UUID has 36.
    let longest = text.len() + 40 * text.matches('{').count();
    let too_long = (longest > 127).then(|| format!("{text:?} is too long: 127 letters at most"));
    wrong_file(text, false).or(too_long)
}

fn wrong_arguments(text: &str) -> Option<String> {
    if let Err(message) = Template::parse(text) {
        return Some(message);
    }
    if text.contains(|c: char| c.is_control()) {
        return Some("it must be one line without control characters".to_owned());
    }
    // iPXE ends the command there.
    let ends = |word: &&str| matches!(*word, "||" | "&&" | ";") || word.starts_with('#');
    text.split_whitespace()
        .find(ends)
        .map(|word| format!("{word:?} ends a command of iPXE: the kernel would never see it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(text: &str) -> Boot {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn host_wins_over_group_wins_over_default() {
        let default = boot("kernel = \"d\"\ninitrd = \"di\"\narguments = \"da\"");
        let group = boot("arguments = \"ga\"");
        let own = boot("kernel = \"memtest\"");
        let way = |sections: &[&Boot]| match Way::of(sections) {
            Some(Way::Kernel { kernel, initrd, arguments }) => {
                let text = |template: &Template| template.fixed().unwrap().to_owned();
                format!(
                    "{} {:?} {}",
                    text(&kernel),
                    initrd.iter().map(text).collect::<Vec<_>>(),
                    text(&arguments)
                )
            }
            other => format!("{other:?}"),
        };
        assert_eq!(way(&[&group, &default]), "d [\"di\"] ga");
        // Another kernel takes nothing of the default's.
        assert_eq!(way(&[&own, &group, &default]), "memtest [] ");
        assert_eq!(way(&[&boot(""), &boot("local_disk = true"), &default]), "Some(LocalDisk)");
        assert_eq!(
            way(&[&boot("local_disk = false"), &boot("local_disk = true"), &default]),
            "d [\"di\"] da"
        );
        assert!(way(&[&boot("script = \"a.ipxe\""), &default]).contains("Script"));
        assert_eq!(way(&[&group]), "None");
    }

    #[test]
    fn bootfiles_are_chosen_by_architecture() {
        let each = boot("bootfile = { bios = \"b.0\", uefi = \"u.efi\", 11 = \"a.efi\" }").bootfile;
        let each = each.unwrap();
        for (archs, file) in [
            (&[][..], Some("b.0")),
            (&[0], Some("b.0")),
            (&[7], Some("u.efi")),
            (&[16], Some("u.efi")),
            (&[11], Some("a.efi")),
            (&[19], None),
            (&[19, 7], Some("u.efi")),
        ] {
            assert_eq!(each.of(archs), file, "{archs:?}");
        }
        assert_eq!(Bootfile::All("x".into()).of(&[999]), Some("x"));
    }

    #[test]
    fn all_that_is_wrong_is_named_by_its_key() {
        let good = "kernel = \"http://{server}/a?b=%20\"\ninitrd = [\"a/b\", \"{mac}.img\"]\n\
            arguments = \"console=ttyS0 ip=${net0/ip}:{ip} x={{}\"";
        assert_eq!(boot(good).problems(), []);
        assert_eq!(boot("script = \"hosts/{serial}.ipxe\"").problems(), []);
        for (text, key, word) in [
            ("kernel = \"{mc}\"", "kernel", "{mc}"),
            ("kernel = \"/abs\"", "kernel", "begin"),
            ("kernel = \"a/../b\"", "kernel", ".."),
            ("kernel = \"a b\"", "kernel", "rename"),
            ("kernel = \"http://a b\"", "kernel", "%20"),
            ("initrd = [\"a\", \"\"]", "initrd", "below root"),
            ("arguments = \"a || b\"", "arguments", "\"||\""),
            ("arguments = \"a #b\"", "arguments", "#b"),
            ("arguments = \"a\\nb\"", "arguments", "one line"),
            ("script = \"http://x/y\"", "script", "URL"),
            ("bootfile = \"{ip}.0\"", "bootfile", "not known"),
            ("bootfile = { bio = \"a\" }", "bootfile.bio", "bios, uefi"),
            ("kernel = \"a\"\nscript = \"b\"", "script", "kernel and script"),
        ] {
            let problems = boot(text).problems();
            assert_eq!(problems.len(), 1, "{text}: {problems:?}");
            assert_eq!(problems[0].0, key, "{text}");
            assert!(problems[0].1.contains(word), "{text}: {problems:?}");
        }
        let long = format!("bootfile = \"{}\"", "a".repeat(128));
        assert!(boot(&long).problems()[0].1.contains("too long"));
    }
}
