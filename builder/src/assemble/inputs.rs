//! What a build needs, found and looked at before anything is done.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::bail;
use headnode_model::stamp::Stamp;

use super::ipxe;
use crate::answers::{self, Passwords};
use crate::boot::{grub, smartos};
use crate::image::Content;
use crate::image::output::Compression;
use crate::image::vmx::Wishes;
use crate::manifest::signature::SecretKey;
use crate::source::checkout::Checkout;
use crate::source::fetch::Artefact;
use crate::source::firmware::{self, Catalogue, LoaderKind};
use crate::source::key::{Filling, key_files};
use crate::source::lock::Kind as LockKind;
use crate::source::platform::{self, Kind};
use crate::source::programs;
use crate::spec::parts::PlatformKind;
use crate::spec::{Console, Format, Size, Spec};

/// Seconds that the boot menu waits by default: enough to reach a key, short in an unattended boot.
const MENU_TIMEOUT: u16 = 2;

/// Everything that a build needs, found and looked at.
pub struct Inputs {
    /// The platforms' tarballs, of any kind, at least one.
    pub platforms: Vec<PathBuf>,
    /// What boots by default: the platform of this stamp, else the first one.
    pub default_platform: Option<Stamp>,
    /// The illumos loader's tarball; GRUB is the loader without it.
    pub boot: Option<PathBuf>,
    /// iPXE, when it does not come from Debian.
    pub ipxe: Option<ipxe::Tarball>,
    /// What is laid over a Linux headnode instead of our own bundle.
    pub control_bundle: Option<PathBuf>,
    /// How a SmartOS headnode boots.
    pub smartos: smartos::Options,
    /// More files of the key, by path. For SmartOS keys, whose names are all in lower case, letters
    /// are made so. They win over the overlays' and the loader's.
    pub extra: Vec<(String, Content)>,
    /// What Triton's own headnode has on its key; everything else wins over it but overlays and loader.
    pub checkout: Option<Checkout>,
    /// Parts that were fetched.
    pub artefacts: Vec<Artefact>,
    /// Folder of ready programs, or else the workspace to build them in. Images that boot SmartOS
    /// carry none.
    pub programs: Option<Programs>,
    /// Folder of overlays.
    pub overlays: PathBuf,
    /// The firmware and the versions of its packages.
    pub firmware: Vec<(firmware::Entry, String)>,
    /// Answers to first boot's questions.
    pub answers: Option<PathBuf>,
    /// How the answers' passwords go onto the key.
    pub passwords: Passwords,
    /// What to make.
    pub formats: BTreeSet<Format>,
    /// The key that signs.
    pub signing_key: Option<SecretKey>,
    /// The workspace whose crates the programs are built from, when it is at hand.
    pub workspace: Option<PathBuf>,
    /// What is wished of the machine that a vmdk belongs to.
    pub machine: Wishes,
    /// Keys that may log in as root.
    pub authorized_keys: Option<PathBuf>,
    /// Where the image goes, when it is named.
    pub output: Option<PathBuf>,
    /// How it is packed.
    pub compress: Compression,
    /// Its size.
    pub size: Size,
    /// The console of the default menu entry of a Linux headnode: the screen, or a port by its number.
    pub console: Console,
    /// The serial port of the menu and of the entries that are not for the screen.
    pub serial: Console,
    /// Seconds that the menu waits.
    pub timeout: u16,
    /// Where an installer of SmartOS that came by the network finds the disc's archive, when the boot
    /// server does not have it: an address, or with a slash at its end the folder.
    pub iso_url: Option<String>,
}

impl Inputs {
    /// The boot loader that the image gets.
    pub fn loader(&self) -> LoaderKind {
        if self.boot.is_some() { LoaderKind::Illumos } else { LoaderKind::Grub }
    }
}

/// Where our programs come from.
pub enum Programs {
    /// They lie in this folder.
    Ready(PathBuf),
    /// They are built in this workspace.
    Build(PathBuf),
}

/// What is missing, gathered so that all of it is told at once.
#[derive(Default)]
struct Missing {
    problems: Vec<String>,
    packages: Vec<String>,
}

impl Missing {
    fn say(&mut self, problem: impl Into<String>) {
        self.problems.push(problem.into());
    }
}

/// Finds all inputs; everything that is missing is told at once.
///
/// # Errors
/// When anything is missing.
pub fn inputs(mut spec: Spec, artefacts: Vec<Artefact>) -> anyhow::Result<Inputs> {
    let mut missing = Missing::default();
    let workspace = programs::workspace();
    let extra = key_files(&artefacts, &spec)?;
    let filling = Filling::new(&artefacts, &spec)?;
    let default_platform = fetched(&mut spec, &artefacts, &mut missing);
    let loader = if spec.boot.is_some() { LoaderKind::Illumos } else { LoaderKind::Grub };
    let smartos = smartos_options(&spec, loader);
    let [console, serial] = consoles(&spec);
    if loader == LoaderKind::Grub {
        for (what, package) in grub::missing() {
            missing.say(format!("{what} is missing"));
            missing.packages.push(package.to_owned());
        }
    }
    let given = std::mem::take(&mut spec.platform);
    let (platforms, kind) = platforms(given, default_platform, &mut missing);
    if let (Kind::SmartOs, Some(bundle)) = (kind, &spec.parts.control_bundle) {
        missing.say(format!(
            "the control bundle {} is for a Linux headnode, but the platform that boots is SmartOS, \
             whose services are zones: leave control-bundle out",
            bundle.display()
        ));
    }
    if loader == LoaderKind::Illumos && kind == Kind::Linux && !platforms.is_empty() {
        missing.say(
            "the illumos loader (--boot) starts SmartOS only, but the first platform is Linux",
        );
    }
    let checkout = spec.parts.sdc_headnode.take().map(|path| Checkout {
        path,
        filling,
        sapi: spec.parts.sapi_config.is_none(),
        menu: loader == LoaderKind::Illumos,
    });
    check_checkout(checkout.as_ref(), kind, &mut missing);
    let programs = match kind {
        Kind::SmartOs => None,
        Kind::Linux => our_programs(spec.runtime_dir, workspace.as_deref(), &mut missing),
    };
    let in_tree = |name: &str| workspace.as_ref().map(|workspace| workspace.join(name));
    let overlays = spec.overlays.or_else(|| in_tree("overlays"));
    if overlays.as_ref().is_none_or(|folder| !folder.join("key").is_dir()) {
        missing.say(match &overlays {
            Some(folder) => format!("{} is no folder of overlays: it lacks key/", folder.display()),
            None => "there are no overlays: give their folder with --overlays".to_owned(),
        });
    }
    let catalogue = spec.firmware.or_else(|| in_tree(firmware::CATALOGUE));
    let found = match catalogue.map(|path| firmware::read(&path)) {
        None => {
            missing.say("there is no firmware catalogue: give it with --firmware");
            Vec::new()
        }
        Some(Err(error)) => {
            missing.say(error.to_string());
            Vec::new()
        }
        Some(Ok(catalogue)) => versions(catalogue, loader, kind, &mut missing),
    };
    for (what, path) in [
        ("answers file", &spec.answer_file),
        ("authorized keys file", &spec.authorized_keys),
        ("loader", &spec.boot),
        ("control bundle", &spec.parts.control_bundle),
        ("signing key", &spec.signing_key),
    ] {
        if let Some(path) = path.as_ref().filter(|path| !path.is_file()) {
            missing.say(format!("the {what} {} does not exist", path.display()));
        }
    }
    let passwords = if spec.clear_answers { Passwords::Clear } else { Passwords::Hashed };
    if let Some(path) = spec.answer_file.as_ref().filter(|path| path.is_file()) {
        match answers::File::read(path) {
            Err(error) => missing.say(error.to_string()),
            Ok(file) => {
                let useless = file.useless_on_smartos(passwords).filter(|_| kind == Kind::SmartOs);
                // Any salt will do to see whether they are in order.
                match file.stored(passwords, &[]) {
                    Err(error) => missing.say(error.to_string()),
                    Ok(_) => useless.into_iter().for_each(|problem| missing.say(problem)),
                }
            }
        }
    }
    let Missing { problems, mut packages } = missing;
    let (Some(overlays), true) = (overlays, problems.is_empty()) else {
        packages.sort();
        packages.dedup();
        let mut text = format!("the build lacks what it needs:\n  {}", problems.join("\n  "));
        if !packages.is_empty() {
            text.push_str(&format!("\nInstall with: apt-get install {}", packages.join(" ")));
        }
        bail!(text);
    };
    let signing_key = spec.signing_key.as_deref().map(crate::cli::key::secret).transpose()?;
    let mut formats: BTreeSet<Format> = spec.format.iter().copied().collect();
    if formats.is_empty() {
        formats.insert(Format::Usb);
    }
    Ok(Inputs {
        platforms,
        default_platform: None,
        smartos,
        boot: spec.boot,
        ipxe: ipxe_tarball(&artefacts),
        control_bundle: spec.parts.control_bundle,
        extra,
        checkout,
        artefacts,
        passwords,
        formats,
        signing_key,
        workspace,
        machine: Wishes {
            memory: spec.parts.coal_memsize,
            cpus: spec.parts.coal_numvcpus,
            pool: spec.parts.coal_zpool_disk_size,
            fusion: spec.parts.vmware_version,
            serial: spec.parts.coal_enable_serial,
            paths: [spec.parts.coal_serial0_path, spec.parts.coal_serial1_path],
        },
        programs,
        overlays,
        firmware: found,
        answers: spec.answer_file,
        authorized_keys: spec.authorized_keys,
        output: spec.output,
        compress: spec.compress.unwrap_or_default(),
        size: spec.size.unwrap_or_default(),
        console,
        serial,
        timeout: spec.timeout.unwrap_or(MENU_TIMEOUT),
        iso_url: spec.parts.iso_url,
    })
}

/// Takes platforms and the illumos loader from the spec's lists and from what was fetched, where the
/// spec does not name files. Gives the place of the platform that boots in the list.
fn fetched(spec: &mut Spec, artefacts: &[Artefact], missing: &mut Missing) -> usize {
    if spec.boot.is_none() {
        spec.boot = in_role(artefacts, "platboot").map(|artefact| artefact.path.clone());
    }
    if !spec.platform.is_empty() {
        for path in &spec.platform {
            check_kind(path, spec.parts.platform_kind, missing);
        }
        return 0;
    }
    let mut default = 0;
    for choice in &spec.parts.platforms {
        let path = match (&choice.path, &choice.file) {
            (Some(path), _) => Some(path.clone()),
            (None, Some(file)) => entry(artefacts, file).map(|artefact| artefact.path.clone()),
            (None, None) => None,
        };
        match path {
            None => missing.say("a platform of the build.spec was not fetched: is its feature on?"),
            Some(path) => {
                check_kind(&path, choice.kind, missing);
                if choice.default {
                    default = spec.platform.len();
                }
                spec.platform.push(path);
            }
        }
    }
    if spec.platform.is_empty() {
        spec.platform.extend(in_role(artefacts, "platform").map(|artefact| artefact.path.clone()));
        for path in &spec.platform {
            check_kind(path, spec.parts.platform_kind, missing);
        }
    }
    default
}

/// Checks that a checkout of Triton's headnode is there, and for a headnode of Triton's kind.
fn check_checkout(checkout: Option<&Checkout>, kind: Kind, missing: &mut Missing) {
    let Some(Checkout { path, .. }) = checkout else { return };
    let path = path.display();
    if !checkout.is_some_and(|checkout| checkout.path.exists()) {
        missing.say(format!("the checkout of sdc-headnode {path} does not exist"));
    } else if kind == Kind::Linux {
        missing.say(format!(
            "{path} is for a SmartOS headnode, but the platform that boots is Linux, which our own \
             services set up: leave sdc-headnode out"
        ));
    }
}

/// The fetched part of a role.
fn in_role<'a>(artefacts: &'a [Artefact], role: &str) -> Option<&'a Artefact> {
    artefacts.iter().find(|artefact| artefact.role().as_deref() == Some(role))
}

/// The fetched part that an entry of `files` is; in a DEBUG build the one that stands for it.
fn entry<'a>(artefacts: &'a [Artefact], file: &str) -> Option<&'a Artefact> {
    let named = |artefact: &&Artefact| matches!(artefact.kind(), Some(LockKind::File(name)) if name == file);
    artefacts.iter().find(named).or_else(|| in_role(artefacts, file))
}

fn ipxe_tarball(artefacts: &[Artefact]) -> Option<ipxe::Tarball> {
    let artefact = in_role(artefacts, "ipxe")?;
    Some(ipxe::Tarball {
        path: artefact.path.clone(),
        name: artefact.file_name().to_owned(),
        version: artefact.entry.version.clone(),
    })
}

/// Checks that a platform is what the spec says. One that cannot be read is told later.
fn check_kind(path: &Path, said: Option<PlatformKind>, missing: &mut Missing) {
    let Some(said) = said else { return };
    let wanted = match said {
        PlatformKind::Smartos => Kind::SmartOs,
        PlatformKind::Linux => Kind::Linux,
    };
    if let Ok(found) = platform::kind(path)
        && found != wanted
    {
        missing.say(format!(
            "the platform {} is {}, but the spec says {}",
            path.display(),
            found.name(),
            wanted.name()
        ));
    }
}

/// The console of a Linux headnode's default entry, and the serial port of the others. Without any
/// wish that is the first port.
fn consoles(spec: &Spec) -> [Console; 2] {
    let device = spec.parts.serial_dev.as_deref();
    let port = device.map(|_| Console::SerialDev.with_serial_dev(device)).unwrap_or_default();
    match spec.console.map(|console| console.with_serial_dev(device)) {
        None => [port, port],
        Some(Console::Vga) => [Console::Vga, port],
        Some(console) => [console, console],
    }
}

/// The platforms, the one that boots first, and what it is.
fn platforms(given: Vec<PathBuf>, default: usize, missing: &mut Missing) -> (Vec<PathBuf>, Kind) {
    let mut platforms = match given.is_empty() {
        true => platform::newest(Path::new("out")).into_iter().collect(),
        false => given,
    };
    if default < platforms.len() {
        let boots = platforms.remove(default);
        platforms.insert(0, boots);
    }
    if platforms.is_empty() {
        missing.say(
            "there is no platform: give one with --platform, or make one in out/ with \
             `headnode platform build`",
        );
    }
    let mut first = None;
    for path in &platforms {
        if !path.is_file() {
            missing.say(format!("the platform {} does not exist", path.display()));
        } else if first.is_none() {
            match platform::kind(path) {
                Ok(kind) => first = Some(kind),
                Err(error) => missing.say(error.to_string()),
            }
        }
    }
    (platforms, first.unwrap_or(Kind::Linux))
}

fn our_programs(
    ready: Option<PathBuf>,
    workspace: Option<&Path>,
    missing: &mut Missing,
) -> Option<Programs> {
    match (ready, workspace) {
        (Some(folder), _) => {
            if let Err(error) = programs::check(&folder) {
                missing.say(error.to_string());
            }
            Some(Programs::Ready(folder))
        }
        (None, Some(workspace)) => Some(Programs::Build(workspace.to_owned())),
        (None, None) => {
            missing.say(
                "the programs sdc, sdc-agent, sdc-booter, sdc-control and sdc-setup are not at \
                 hand: start this command within the source tree, where it builds them, or give \
                 their folder with --runtime-dir",
            );
            None
        }
    }
}

/// Whether the disk is for virtual machines only. A disk that is a key as well has one tree with it,
/// which boots as the key.
fn only_machines(formats: &[Format]) -> bool {
    let machine = |format: &Format| matches!(format, Format::Qcow2 | Format::Vmdk);
    let key = |format: &Format| matches!(format, Format::Usb | Format::Tar);
    formats.iter().any(machine) && !formats.iter().any(key)
}

/// How a SmartOS headnode boots. Without a wish its console is Triton's default, the second serial
/// port.
fn smartos_options(spec: &Spec, loader: LoaderKind) -> smartos::Options {
    let default = smartos::Options::default();
    let serial_dev = spec.parts.serial_dev.as_deref();
    let port = |name: &str| smartos::SERIAL.into_iter().find(|port| *port == name);
    let console = spec.console.map(|console| console.with_serial_dev(serial_dev).illumos());
    let serial = console.and_then(port).or_else(|| serial_dev.and_then(port));
    let serial = serial.unwrap_or(default.serial);
    smartos::Options {
        console: console.unwrap_or(serial),
        serial,
        smt: spec.parts.smt_enabled.unwrap_or(default.smt),
        // See `Options::ipxe`. Triton's virtual machine boots the headnode (C§1.11).
        ipxe: spec
            .parts
            .ipxe
            .unwrap_or(loader == LoaderKind::Illumos && !only_machines(&spec.format)),
        ..default
    }
}

fn versions(
    catalogue: Catalogue,
    loader: LoaderKind,
    kind: Kind,
    missing: &mut Missing,
) -> Vec<(firmware::Entry, String)> {
    let mut found = Vec::new();
    let carried = |entry: &firmware::Entry| {
        entry.loader.is_none_or(|with| with == loader)
            && entry.platform.is_none_or(|with| with == kind)
    };
    for entry in catalogue.firmware.into_iter().filter(carried) {
        if let Some(file) = entry.file.as_ref().filter(|file| !file.is_file()) {
            missing.say(format!("{} ({}) is missing", file.display(), entry.name));
            missing.packages.push(entry.package);
            continue;
        }
        match firmware::package_version(&entry.package) {
            Some(version) => found.push((entry, version)),
            None => {
                missing.say(format!("the Debian package {} is not installed", entry.package));
                missing.packages.push(entry.package);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_keys_of_triton_boot_from_the_network_by_default() {
        let by_network = |loader, format: &[Format], wish| {
            let mut spec = Spec { format: format.to_vec(), ..Spec::default() };
            spec.parts.ipxe = wish;
            smartos_options(&spec, loader).ipxe
        };
        use Format::{Iso, Qcow2, Usb, Vmdk};
        use LoaderKind::{Grub, Illumos};
        assert!(by_network(Illumos, &[], None));
        assert!(by_network(Illumos, &[Usb, Iso, Vmdk], None));
        assert!(!by_network(Illumos, &[Iso, Vmdk], None));
        assert!(by_network(Illumos, &[Qcow2], Some(true)));
        assert!(!by_network(Illumos, &[Usb], Some(false)));
        assert!(!by_network(Grub, &[Usb], None));
        assert!(by_network(Grub, &[Usb], Some(true)));
    }
}
