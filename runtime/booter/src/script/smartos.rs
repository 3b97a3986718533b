//! What a SmartOS node loads: kernel, boot archive, its digest, and its own small files (C§4.4).

use std::fs;
use std::sync::Arc;

use headnode_model::paths;
use serde::Serialize;
use serde_json::Value;

use super::bootfs::{self, BootFile};
use super::platforms::BOOT_ARCHIVE;
use super::{Kind, Node, Platform, Scripts, illumos, networking};

/// Name of the digest of a boot archive that came without one.
pub(super) const OWN_HASH: &str = "boot_archive.hash";
/// Longest digest file in bytes.
const HASH_SIZE: u64 = 4096;
/// Longest configuration of nodes in bytes.
const CONFIG_SIZE: u64 = 64 << 10;

/// A module of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Module {
    /// Path of its URL.
    pub path: String,
    /// `rootfs`, `hash` or `file`.
    pub kind: &'static str,
    /// Its name for the kernel.
    pub name: String,
}

impl Module {
    fn new(path: String, kind: &'static str, name: &str) -> Self {
        Self { path, kind, name: name.to_owned() }
    }
}

/// All that a node loads.
#[derive(Debug, Clone)]
pub(super) struct Loads {
    /// Flags and properties.
    pub args: String,
    /// The modules in their order.
    pub modules: Vec<Module>,
    /// What a person at the console should know.
    pub notes: Vec<String>,
    /// The small files that are made for the node.
    pub files: Arc<Vec<BootFile>>,
}

impl Scripts {
    /// The files that are made for a node: `networking.json` first, then CNAPI's modules; none when they
    /// are not wanted. A module that cannot be one is left out and logged.
    pub(super) fn files(&self, node: &Node) -> Vec<BootFile> {
        if !self.settings.more.script.boot_files {
            return Vec::new();
        }
        let content = networking::networking(&self.settings, node);
        let mut files = vec![BootFile::new("networking.json", content)];
        for module in &node.found.params.boot_modules {
            let made = match bootfs::module(module) {
                Ok(file) if files.iter().any(|other| other.name == file.name) => {
                    Err("another one has its path")
                }
                made => made,
            };
            match made {
                Ok(file) => files.push(file),
                Err(why) => tracing::warn!(
                    mac = %node.mac(), path = module.path,
                    "a boot module of the server is left out: {why}"
                ),
            }
        }
        files
    }

    /// The same for a node that boots Linux, and their archive last. Triton's one has the configuration
    /// of all nodes in its archive too (C§4.5).
    pub(super) fn linux_files(&self, node: &Node, kind: Kind) -> Vec<BootFile> {
        let mut files = self.files(node);
        let config = (kind == Kind::Live).then(|| self.node_config()).flatten();
        if files.is_empty() && config.is_none() {
            return files;
        }
        match bootfs::archive(&files, config.as_deref()) {
            Ok(archive) => {
                files.push(BootFile { hash: false, ..BootFile::new(bootfs::ARCHIVE, archive) });
            }
            Err(error) => tracing::error!(mac = %node.mac(), "packing the boot files: {error}"),
        }
        files
    }

    /// What all nodes are told beside their parameters (C§2.5).
    fn node_config(&self) -> Option<Vec<u8>> {
        let path = self.settings.root.join(paths::EXTRA_NODE_CONFIG);
        let small = fs::metadata(&path).is_ok_and(|about| about.len() <= CONFIG_SIZE);
        let read = small.then(|| fs::read(&path).ok()).flatten();
        if read.is_none() {
            let file = path.display();
            tracing::warn!(%file, "nodes get no node.config: the file cannot be read or is too large");
        }
        read
    }

    /// What a node loads from a platform, with the digests of all of it, but without any for a rescue
    /// system: it starts even though a digest is damaged (C§4.6). Keeps the node's files for the
    /// requests that follow.
    ///
    /// # Errors
    /// Why the platform cannot be booted.
    pub(super) fn smartos(
        &self,
        node: &Node,
        platform: &Platform,
        rescue: bool,
    ) -> Result<Loads, String> {
        let (mac, mut notes) = (node.mac(), Vec::new());
        let own = format!("/bootfs/{}", mac.bare().to_ascii_lowercase());
        let archive = format!("/os/{}/platform/{BOOT_ARCHIVE}", platform.name);
        let mut files = self.files(node);
        let mut modules = vec![Module::new(archive.clone(), "rootfs", "ramdisk")];
        match if rescue { Hash::Unwanted } else { self.hash(platform)? } {
            Hash::Unwanted => {}
            Hash::File => modules.push(Module::new(format!("{archive}.hash"), "hash", "ramdisk")),
            Hash::Digest(digest) => {
                modules.push(Module::new(format!("{own}/{OWN_HASH}"), "hash", "ramdisk"));
                files.push(BootFile { hash: false, ..BootFile::new(OWN_HASH, digest.into()) });
            }
            Hash::Unknown => {
                notes.push("The digest of the boot archive is not known yet".to_owned())
            }
        }
        for file in files.iter().filter(|file| file.hash) {
            let path = format!("{own}/{}", file.name);
            modules.push(Module::new(path.clone(), "file", &file.name));
            if !rescue {
                modules.push(Module::new(format!("{path}.hash"), "hash", &file.name));
            }
        }
        let files = Arc::new(files);
        self.files.put(mac, Arc::clone(&files));
        Ok(Loads { args: self.kernel_args(node, rescue), modules, notes, files })
    }

    /// Fits what a node loads into what iPXE can hand over: without the digests of the small files
    /// when there is no room for them, and at last without the boot archive's.
    ///
    /// # Errors
    /// When that is not enough either.
    pub(super) fn fit(&self, platform: &Platform, mut loads: Loads) -> Result<Loads, String> {
        let (most, room) =
            (self.settings.more.script.modules, self.settings.more.script.command_lines);
        let size = |loads: &Loads| {
            let kernel = format!("/os/{}/platform/i86pc/kernel/amd64/unix", platform.name);
            let line = |path: &str, rest: usize| self.load.len() + path.len() + rest + 2;
            let modules = loads.modules.iter().map(|module| {
                line(&module.path, "type= name=".len() + module.kind.len() + module.name.len())
            });
            line(&kernel, loads.args.len()) + modules.sum::<usize>()
        };
        let fits = |loads: &Loads| loads.modules.len() <= most && size(loads) <= room;
        if fits(&loads) {
            return Ok(loads);
        }
        loads.modules.retain(|module| module.kind != "hash" || module.name == "ramdisk");
        if fits(&loads) {
            loads.notes.push("iPXE has no room for the digests of the small files".to_owned());
            return Ok(loads);
        }
        // A rescue system starts without it, too, and C§4.2's own parameters leave no room for it.
        let whole = loads.clone();
        loads.modules.retain(|module| module.kind != "hash");
        if fits(&loads) {
            let said = "iPXE has no room for any digest: the platform boots unchecked";
            tracing::warn!(platform = platform.name, "{said}");
            loads.notes.push(said.to_owned());
            return Ok(loads);
        }
        let loads = whole;
        Err(format!(
            "its kernel parameters and boot modules are too much for iPXE: {} modules of at most \
             {most}, {} bytes of command lines of at most {room}. Take some out with sdc boot set \
             and --remove-arg, or give machines an iPXE with more room and tell its limits in \
             booter.toml, section script",
            loads.modules.len(),
            size(&loads)
        ))
    }

    pub(super) fn kernel_args(&self, node: &Node, rescue: bool) -> String {
        let (params, mac) = (&node.found.params, node.mac());
        let mut args = node.of_network();
        args.entry("admin_nic".to_owned()).or_insert_with(|| Value::from(mac.to_string()));
        args.entry("hostname".to_owned()).or_insert_with(|| Value::from(node.hostname()));
        args.extend(node.kernel_args());
        if rescue {
            args.insert("noimport".to_owned(), Value::Bool(true));
        }
        let left_out = |what: &str, name: &str, why: &str| {
            tracing::warn!(%mac, name, "a kernel {what} of the server is left out: {why}");
        };
        let mut properties = Vec::new();
        for (name, value) in &args {
            match illumos::property(name, value) {
                Ok(property) => properties.extend(property),
                Err(why) => left_out("parameter", name, why),
            }
        }
        let mut flags = Vec::new();
        for (name, value) in &params.kernel_flags {
            match illumos::flag(name, value) {
                Ok(flag) => flags.extend(flag),
                Err(why) => left_out("flag", name, why),
            }
        }
        illumos::command_line(&flags, &properties, illumos::console(params))
    }

    /// The digest that the kernel checks its boot archive by.
    fn hash(&self, platform: &Platform) -> Result<Hash, String> {
        let archive = self.platforms.file(platform, BOOT_ARCHIVE);
        let path = self.platforms.file(platform, &format!("{BOOT_ARCHIVE}.hash"));
        let digest = self.digests.get(&archive);
        let told = match fs::metadata(&path) {
            Ok(about) if about.len() <= HASH_SIZE => fs::read_to_string(&path).ok(),
            Ok(_) => Some(String::new()),
            Err(_) => None,
        };
        let Some(told) = told else {
            return Ok(digest.map_or(Hash::Unknown, Hash::Digest));
        };
        match digest {
            Some(digest) if !told.trim().eq_ignore_ascii_case(&digest) => Err(format!(
                "the boot archive of platform {} is damaged: its SHA-1 is {digest}, not the one in \
                 {}. Install the platform again",
                platform.name,
                path.display()
            )),
            _ => Ok(Hash::File),
        }
    }
}

enum Hash {
    /// It is beside the archive.
    File,
    /// It is nowhere, but was computed.
    Digest(String),
    /// It is nowhere.
    Unknown,
    /// The archive is not to be checked.
    Unwanted,
}
