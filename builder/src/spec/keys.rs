//! Every key that a build.spec may have, once: the check, the error messages, the JSON Schema and
//! the documentation are made from these tables.

/// The form of a value.
#[derive(Debug, Clone, Copy)]
pub enum Form {
    /// true or false; Triton also writes them as texts.
    Bool,
    /// A whole number within these bounds; Triton also writes numbers as texts.
    Count(u64, u64),
    /// Any text.
    Text,
    /// A name that becomes part of paths and file names: letters, digits, `.`, `_`, `-`, `+`.
    Name,
    /// A file or folder of this machine; relative ones start at the folder of their build.spec.
    Path,
    /// An absolute path in Manta.
    MantaPath,
    /// http:// or https://.
    Url,
    /// A UUID.
    Uuid,
    /// A SHA-256 in hex.
    Sha256,
    /// A time, YYYYMMDDTHHMMSSZ.
    Stamp,
    /// A size of an image, see [`super::Size`].
    Size,
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// A list.
    List(&'static Form),
    /// An object with these keys.
    Object(&'static [Key]),
    /// An object whose keys are the user's names.
    Map(Names, &'static Form),
}

/// What names an object may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// [`Form::Name`].
    Any,
    /// The same without upper-case letters, because they become names on the key (C§1.4).
    Lower,
    /// Paths on the key: lower-case, relative, without `..`.
    KeyPath,
}

/// A key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// The form of its value.
    pub form: Form,
    /// What it means.
    pub about: &'static str,
}

const fn key(name: &'static str, form: Form, about: &'static str) -> Key {
    Key { name, form, about }
}

/// Where a part may come from.
pub const SOURCES: &[&str] = &["manta", "imgapi", "bits-dir", "http", "dir"];
/// Console names: the loader's (C§1.11) and Linux's.
pub const CONSOLES: &[&str] = &[
    "text", "graphics", "vga", "serial", "ttya", "ttyb", "ttyc", "ttyd", "tty0", "ttyS0", "ttyS1",
    "ttyS2", "ttyS3",
];
/// Names of serial ports of the illumos loader.
pub const SERIAL: &[&str] = &["ttya", "ttyb", "ttyc", "ttyd"];
/// Image formats.
pub const FORMATS: &[&str] = &["usb", "iso", "pxe", "qcow2", "vmdk", "tar"];
/// Kinds of platforms.
pub const KINDS: &[&str] = &["smartos", "linux"];

const FILE_NAME: &[Key] = &[
    key("base", Form::Name, "beginning of the file's name, before the branch"),
    key("ext", Form::Name, "end of the file's name, after the last dot of interest"),
];

/// What zones and files share.
const SHARED: [Key; 9] = [
    key("jobname", Form::Name, "name under which it is built; by default its own"),
    key("branch", Form::Name, "branch it is built from; by default bits-branch"),
    key("source", Form::Choice(SOURCES), "where it comes from; by default manta"),
    key("alt_manta_base", Form::Text, "top-level key that holds the Manta folder to look in"),
    key("build_timestamp", Form::Stamp, "this build instead of the latest"),
    key("if_feature", Form::Name, "only when this feature is on"),
    key("if_not_feature", Form::Name, "only when this feature is off"),
    key("url", Form::Url, "for source http: the file, or with a / at its end the folder"),
    key("path", Form::Path, "for source dir: the file or the folder"),
];

const ZONE: &[Key] = &[
    SHARED[0],
    SHARED[1],
    SHARED[2],
    SHARED[3],
    SHARED[4],
    SHARED[5],
    SHARED[6],
    SHARED[7],
    SHARED[8],
    key("uuid", Form::Uuid, "for source imgapi: the image"),
    key("channel", Form::Name, "for source imgapi: the update channel"),
];

const FILE: &[Key] = &[
    SHARED[0],
    SHARED[1],
    SHARED[2],
    SHARED[3],
    SHARED[4],
    SHARED[5],
    SHARED[6],
    SHARED[7],
    SHARED[8],
    key("file", Form::Object(FILE_NAME), "what its file is called: <base>-<branch>-….<ext>"),
    key("sha256", Form::Sha256, "digest that the file must have"),
];

const FEATURE: &[Key] = &[
    key("enabled", Form::Bool, "whether it is on when nothing else says so"),
    key(
        "env",
        Form::Name,
        "environment variable that switches it (yes, y, 1, true, no, n, 0, false)",
    ),
];

const PLATFORM: &[Key] = &[
    key("path", Form::Path, "tarball of the platform"),
    key("file", Form::Name, "the entry of `files` that is the platform"),
    key("kind", Form::Choice(KINDS), "what it is; by default found out from the tarball"),
    key("default", Form::Bool, "whether it boots by default; one of several must say so"),
];

/// The top-level keys.
pub const TOP: &[Key] = &[
    key(
        "answer-file",
        Form::Path,
        "answers to first boot's questions, put in private/answers.json",
    ),
    key("authorized-keys", Form::Path, "public keys that may log in as root"),
    key("bits-branch", Form::Name, "branch of all parts that do not name one"),
    key("bits-dir", Form::Path, "folder for source bits-dir; SOURCE_BITS_DIR wins over it"),
    key(
        "boot",
        Form::Path,
        "tarball of the illumos loader, boot-<stamp>.tgz; without it GRUB boots",
    ),
    key("build-tgz", Form::Bool, "not used: `compress` and `formats` say what is made"),
    key("clean-cache", Form::Bool, "not used: see `headnode cache gc`"),
    key(
        "coal-enable-serial",
        Form::Bool,
        "whether the VMware machine has serial ports, as pipes; by default what comes out of them is \
         kept in files",
    ),
    key("coal-memsize", Form::Count(1, 1 << 24), "memory of the VMware machine, in MiB"),
    key("coal-numvcpus", Form::Count(1, 1024), "processors of the VMware machine"),
    key(
        "coal-serial0-path",
        Form::Text,
        "pipe of the VMware machine's first serial port; by default socket.serial0",
    ),
    key(
        "coal-serial1-path",
        Form::Text,
        "pipe of the VMware machine's second serial port; by default socket.serial1",
    ),
    key(
        "coal-zpool-disk-size",
        Form::Count(1, crate::image::vmdk::blank::MAX_GIB),
        "disk for the VMware machine's pool, in GiB; by default 60",
    ),
    key("compress", Form::Choice(&["none", "zstd", "gzip"]), "how the image is compressed"),
    key("console", Form::Choice(CONSOLES), "console of the default menu entry"),
    key(
        "control-bundle",
        Form::Path,
        "bundle (.cpio.zst) to lay over a Linux headnode instead of our own",
    ),
    key(
        "extra-files",
        Form::Map(Names::KeyPath, &Form::Path),
        "more files: path on the key → file",
    ),
    key("features", Form::Map(Names::Any, &Form::Object(FEATURE)), "switches of the build"),
    key("files", Form::Map(Names::Any, &Form::Object(FILE)), "parts that are single files"),
    key("firmware", Form::Path, "catalogue of boot firmware"),
    key("formats", Form::List(&Form::Choice(FORMATS)), "formats to make"),
    key("imgapi-url", Form::Url, "IMGAPI for source imgapi and for origin images"),
    key(
        "ipxe",
        Form::Bool,
        "whether the menu boots from the network by default; otherwise only the illumos loader's does",
    ),
    key(
        "iso-url",
        Form::Url,
        "where SmartOS' network installer gets the disc's archive when the boot server lacks it: the \
         file, or with a / at its end the folder; by default netboot.smartos.org/triton-installer/",
    ),
    key("keep-logs", Form::Count(0, u32::MAX as u64), "not used: nothing is logged to files"),
    key("manta-base-path", Form::MantaPath, "folder of all builds in Manta"),
    key("manta-key-id", Form::Text, "not used: only public objects are read"),
    key("manta-subuser", Form::Text, "not used: only public objects are read"),
    key("manta-url", Form::Url, "Manta's address"),
    key("manta-user", Form::Text, "not used: only public objects are read"),
    key("no-rabbit", Form::Bool, "metadata.no_rabbit of the SAPI application"),
    key("output", Form::Path, "the image"),
    key("overlays", Form::Path, "folder of overlays"),
    key("override-all-sources", Form::Choice(SOURCES), "source of every part, whatever it says"),
    key("platform", Form::Path, "tarball of the platform, when there is one"),
    key("platform-image", Form::Text, "not used, nor by Triton's build"),
    key("platform-kind", Form::Choice(KINDS), "kind of the platform in `platform`"),
    key("platform-release", Form::Text, "not used, nor by Triton's build"),
    key("platforms", Form::List(&Form::Object(PLATFORM)), "several platforms"),
    key("runtime-dir", Form::Path, "folder of ready, static programs"),
    key("sapi-config", Form::Path, "folder with SAPI's application.json, services/ and manifests/"),
    key(
        "sdc-headnode",
        Form::Path,
        "what Triton's own headnode has on its key: scripts/, default/, zones/, SAPI's configuration, \
         config.inc/, banner, LICENSE, tools, the loader's menu. A checkout of its repository \
         sdc-headnode or a folder laid out as the key; each a folder or a .tgz. A checkout \
         has the tools only after `make tools.tar.gz cn_tools.tar.gz` in it. extra-files, sapi-config \
         and fetched parts win over it",
    ),
    key("sdcadm-release", Form::Text, "not used, nor by Triton's build"),
    key("serial-dev", Form::Choice(SERIAL), "serial port that the console `serial` means"),
    key("signing-key", Form::Path, "key that signs the manifest"),
    key("size", Form::Size, "size of the image: auto, or a number with MiB, GiB, MB or GB"),
    key("smt_enabled", Form::Bool, "whether processors use their hardware threads"),
    key("timeout", Form::Count(0, u16::MAX as u64), "seconds that the boot menu waits"),
    key(
        "vmware_version",
        Form::Count(1, 99),
        "version of VMware Fusion to make the machine for; by default 7, of virtual hardware 11",
    ),
    key(
        "zones",
        Form::Map(Names::Lower, &Form::Object(ZONE)),
        "core services that are zone images",
    ),
];

/// A second name that Triton's build knows for a top-level key, and that key.
pub const ALIAS: (&str, &str) = ("answers-file", "answer-file");

/// Whether a key is taken without having an effect here.
pub fn unused(key: &Key) -> bool {
    key.about.starts_with("not used")
}

/// What is said of an unknown key.
pub fn unknown(name: &str, known: &[Key]) -> String {
    let nearest = known.iter().map(|key| (distance(name, key.name), key.name)).min();
    match nearest {
        Some((steps, near)) if steps <= 3 && steps < name.chars().count() => {
            format!("unknown key {name:?}, did you mean {near:?}?")
        }
        Some((_, near)) => {
            let all: Vec<&str> = known.iter().map(|key| key.name).collect();
            format!(
                "unknown key {name:?} (the nearest one is {near:?}; all of them: {})",
                all.join(", ")
            )
        }
        None => format!("unknown key {name:?}"),
    }
}

/// The nearest of some names, when it is near.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (steps, near) = known.map(|known| (distance(name, known), known)).min()?;
    (steps <= 3).then_some(near)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut next = vec![left];
        for (above, to) in row.windows(2).zip(b.chars()) {
            if let [corner, above] = *above {
                left = (left + 1).min(above + 1).min(corner + usize::from(from != to));
                next.push(left);
            }
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshteins() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(
            nearest("debug-platfrom", ["x", "debug-platform"].into_iter()),
            Some("debug-platform")
        );
        assert_eq!(nearest("q", ["debug-platform"].into_iter()), None);
    }

    #[test]
    fn names_are_sorted_and_unique() {
        for table in [TOP, FEATURE, FILE_NAME] {
            assert!(table.is_sorted_by(|a, b| a.name < b.name), "{table:?}");
        }
    }
}
