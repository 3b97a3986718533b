//! The one configuration file of a booter that runs alone.
//!
//! It is read piece by piece, so that one look names all that is wrong with it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use headnode_model::config::Problem;
use headnode_model::net::MacAddr;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer, ValueDeserializer};
use uuid::Uuid;

use super::boot::{Boot, Bootfile, OneOrMany};
use super::lines::Lines;
use crate::settings::File;

/// Larger files are no configuration of ours, in bytes: 20,000 hosts of 200 bytes.
pub const SIZE_LIMIT: u64 = 4 << 20;
/// What faults of the whole text are called.
const SYNTAX: &str = "TOML";
/// Most problems that are told.
const TOLD: usize = 100;

/// The keys at the begin of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Top {
    /// The network interface to serve on.
    pub interface: Option<String>,
    /// The address to serve on, one of the interface's.
    pub address: Option<Ipv4Addr>,
    /// Folder with the boot files; all of it can be read by everybody on the network.
    pub root: Option<PathBuf>,
    /// Folder for leases and decisions.
    pub state: Option<PathBuf>,
    /// The operator's socket.
    pub socket: Option<PathBuf>,
    /// The user to run as after the ports are open, when started by root.
    pub user: Option<String>,
}

/// Keys of [`Top`].
const TOP: [&str; 6] = ["interface", "address", "root", "state", "socket", "user"];

/// A machine that is known by name: `[[host]]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Host {
    /// Its NICs: one or several.
    pub mac: Option<Macs>,
    /// Its SMBIOS UUID.
    pub uuid: Option<Uuid>,
    /// Its serial number, in any case of letters.
    pub serial: Option<String>,
    /// Its name.
    pub hostname: Option<String>,
    /// Its address, which nobody else gets.
    pub ip: Option<Ipv4Addr>,
    /// Its group.
    pub group: Option<String>,
    kernel: Option<String>,
    initrd: Option<OneOrMany>,
    arguments: Option<String>,
    script: Option<String>,
    local_disk: Option<bool>,
    bootfile: Option<Bootfile>,
}

/// One NIC or several.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Macs {
    /// One.
    One(MacAddr),
    /// Several.
    Many(Vec<MacAddr>),
}

impl Host {
    /// Its NICs.
    pub fn macs(&self) -> &[MacAddr] {
        match &self.mac {
            None => &[],
            Some(Macs::One(one)) => std::slice::from_ref(one),
            Some(Macs::Many(many)) => many,
        }
    }

    /// What it boots.
    pub fn boot(&self) -> Boot {
        Boot {
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            arguments: self.arguments.clone(),
            script: self.script.clone(),
            local_disk: self.local_disk,
            bootfile: self.bootfile.clone(),
        }
    }

    /// What people call it.
    pub fn title(&self) -> String {
        let mac = self.macs().first().map(ToString::to_string);
        let uuid = self.uuid.map(|uuid| uuid.to_string());
        let name = self.hostname.clone().or(mac).or(uuid).or_else(|| self.serial.clone());
        name.unwrap_or_default()
    }
}

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// Its first keys.
    pub top: Top,
    /// The sections that a headnode has too.
    pub file: File,
    /// What a machine boots that nothing else is said about.
    pub default: Boot,
    /// What the members of a group boot.
    pub groups: BTreeMap<String, Boot>,
    /// Machines.
    pub hosts: Vec<Host>,
}

/// Something wrong in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line, from 1, when there is one.
    pub line: Option<usize>,
    /// The key.
    pub key: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}, ")?;
        }
        write!(f, "{}: {}", self.key, self.message)
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let key = match fault.line {
            Some(line) => format!("line {line}, {}", fault.key),
            None => fault.key,
        };
        Self { key, message: fault.message }
    }
}

/// A file that was read, and what is wrong with it.
#[derive(Debug)]
pub struct Read {
    /// What could be read.
    pub config: Config,
    /// All that is wrong so far.
    pub faults: Vec<Fault>,
    lines: Lines,
}

impl Read {
    /// Reads a file.
    ///
    /// # Errors
    /// A sentence why it cannot be read at all.
    pub fn file(path: &Path) -> Result<Self, String> {
        let broken = |error: std::io::Error| {
            format!(
                "reading {}: {error}; --example-config prints one to begin with",
                path.display()
            )
        };
        let size = std::fs::metadata(path).map_err(broken)?.len();
        if size > SIZE_LIMIT {
            return Err(format!("{} is far too large for a configuration", path.display()));
        }
        Ok(Self::text(&std::fs::read_to_string(path).map_err(broken)?))
    }

    /// Reads a text.
    pub fn text(text: &str) -> Self {
        let (document, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let lines = Lines::of_text(text);
            let faults = errors.iter().take(TOLD).map(|error| Fault {
                line: error.span().map(|span| lines.at(&span)),
                key: SYNTAX.to_owned(),
                message: error.message().to_owned(),
            });
            let faults = faults.collect();
            return Self { config: Config::default(), faults, lines };
        }
        let lines = Lines::new(text, document.get_ref());
        let mut read = Self { config: Config::default(), faults: Vec::new(), lines };
        read.sections(document);
        read
    }

    fn sections(&mut self, document: Spanned<DeTable<'_>>) {
        let span = document.span();
        let (mut top, mut rest) = (DeTable::default(), DeTable::default());
        for (key, value) in document.into_inner() {
            match key.get_ref().as_ref() {
                "default" => self.config.default = self.value("default", value).unwrap_or_default(),
                "group" => self.groups(value),
                "host" => self.hosts(value),
                name if TOP.contains(&name) => _ = top.insert(key, value),
                _ => _ = rest.insert(key, value),
            }
        }
        self.config.top = self.keys(top, &span);
        self.config.file = self.keys(rest, &span);
    }

    fn groups(&mut self, value: Spanned<DeValue<'_>>) {
        let DeValue::Table(groups) = value.into_inner() else {
            return self.fault("group", "write a group as [group.NAME]");
        };
        for (name, value) in groups {
            let name = name.into_inner().to_string();
            if let Some(boot) = self.value(&format!("group.{name}"), value) {
                self.config.groups.insert(name, boot);
            }
        }
    }

    fn hosts(&mut self, value: Spanned<DeValue<'_>>) {
        let DeValue::Array(hosts) = value.into_inner() else {
            return self.fault("host", "write a host as [[host]], with double brackets");
        };
        for (index, value) in hosts.into_iter().enumerate() {
            // A broken one keeps its place, so that the numbers of the others stay right.
            let host = self.value(&format!("host.{index}"), value).unwrap_or_default();
            self.config.hosts.push(host);
        }
    }

    fn value<T: DeserializeOwned>(&mut self, path: &str, value: Spanned<DeValue<'_>>) -> Option<T> {
        let read = T::deserialize(ValueDeserializer::from(value));
        read.map_err(|error| self.refuse(path, &error)).ok()
    }

    /// Reads each key on its own first, so that a wrong one does not hide another.
    fn keys<T: DeserializeOwned + Default>(
        &mut self,
        table: DeTable<'_>,
        span: &std::ops::Range<usize>,
    ) -> T {
        let read = |table| T::deserialize(Deserializer::from(Spanned::new(span.clone(), table)));
        let mut good = DeTable::default();
        for (key, value) in table {
            let mut one = DeTable::default();
            one.insert(key.clone(), value.clone());
            match read(one) {
                Ok(_) => _ = good.insert(key, value),
                Err(error) => self.refuse(key.get_ref(), &error),
            }
        }
        read(good).map_err(|error| self.refuse(SYNTAX, &error)).unwrap_or_default()
    }

    fn refuse(&mut self, path: &str, error: &toml::de::Error) {
        let line = error.span().filter(|span| !span.is_empty()).map(|span| self.lines.at(&span));
        let mut message = error.message().to_owned();
        if message.starts_with(&format!("unknown field `{path}`")) {
            let sections = message.split_once("expected one of ").map(|(_, list)| list);
            message = format!(
                "there is no such key or section: there are {}, `default`, `group`, `host`, {}",
                TOP.map(|key| format!("`{key}`")).join(", "),
                sections.unwrap_or_default()
            );
        }
        let line = line.or_else(|| self.lines.of(path));
        self.faults.push(Fault { line, key: self.called(path), message });
    }

    /// How people call a path: `host 2` instead of `host.1`.
    fn called(&self, path: &str) -> String {
        let Some((number, field)) = path
            .strip_prefix("host.")
            .map(|rest| rest.split_once('.').map_or((rest, ""), |(number, field)| (number, field)))
        else {
            return path.to_owned();
        };
        let index = number.parse::<usize>().unwrap_or_default();
        let title = self.config.hosts.get(index).map(Host::title).filter(|title| !title.is_empty());
        let mut text = format!("host {}", index + 1);
        if let Some(title) = title {
            text.push_str(&format!(" ({title})"));
        }
        if !field.is_empty() {
            text.push_str(&format!(" {field}"));
        }
        text
    }

    /// Whether the text is no TOML at all.
    pub fn is_unreadable(&self) -> bool {
        self.faults.iter().any(|fault| fault.key == SYNTAX)
    }

    /// Adds what is wrong with a path such as `host.1.ip`.
    pub fn fault(&mut self, path: &str, message: impl Into<String>) {
        let (line, key) = (self.lines.of(path), self.called(path));
        self.faults.push(Fault { line, key, message: message.into() });
    }

    /// Something about a path that is told and does not keep the booter from starting.
    pub fn note(&self, path: &str, message: String) -> Fault {
        Fault { line: self.lines.of(path), key: self.called(path), message }
    }

    /// Adds what the sections say about themselves.
    pub fn problems(&mut self, problems: Vec<Problem>) {
        for Problem { key, message } in problems {
            let line = self.lines.of_problem(&key);
            self.faults.push(Fault { line, key, message });
        }
    }
}
