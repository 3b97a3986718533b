//! Our own programs that go into the image: given in a folder, or built from this workspace.
//!
//! They are static, so that they run on any Linux platform image.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The target that the programs are built for; named explicitly, so that build scripts and
/// procedural macros stay dynamic.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A program of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// Name of the file.
    pub name: &'static str,
    /// The package of this workspace that it comes from.
    pub package: &'static str,
    /// Its folder on the headnode, below the root.
    pub folder: &'static str,
    /// Whether compute nodes get it too.
    pub node: bool,
}

/// All programs of the image.
pub const PROGRAMS: [Program; 5] = [
    Program { name: "sdc", package: "sdc-cli", folder: "usr/bin", node: false },
    Program { name: "sdc-agent", package: "sdc-agent", folder: "usr/lib/headnode", node: true },
    Program { name: "sdc-booter", package: "sdc-booter", folder: "usr/lib/headnode", node: false },
    Program {
        name: "sdc-control",
        package: "sdc-control",
        folder: "usr/lib/headnode",
        node: false,
    },
    Program { name: "sdc-setup", package: "sdc-setup", folder: "usr/lib/headnode", node: false },
];

/// Why the programs are not to be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The build failed.
    #[error("building the programs: {0}")]
    Build(String),
    /// Some cannot be used; all of them are named.
    #[error("programs in {folder} that cannot be used:\n  {}", .problems.join("\n  "))]
    Unusable {
        /// Where they were looked for.
        folder: PathBuf,
        /// What is wrong with each.
        problems: Vec<String>,
    },
}

/// The workspace that the current folder is in: the folder of the topmost `Cargo.toml` that has our
/// members.
pub fn workspace() -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    let found = here.ancestors().find(|folder| {
        folder.join("Cargo.toml").is_file() && folder.join("runtime/setup/Cargo.toml").is_file()
    });
    found.map(Path::to_owned)
}

/// Builds the programs in a workspace and returns the folder that holds them. Cargo's own progress
/// goes to standard error.
///
/// # Errors
/// When cargo fails.
pub fn build(workspace: &Path) -> Result<PathBuf, Error> {
    let target_dir = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.join("target"), PathBuf::from);
    // Run directly, not by the runner of `headnode-command`: cargo draws its own progress on the
    // terminal, and Ctrl-C must reach it.
    let mut cargo =
        std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace).args(["build", "--release", "--locked", "--target", TARGET]);
    for program in PROGRAMS {
        cargo.args(["-p", program.package]);
    }
    let mut flags = "-C target-feature=+crt-static".to_owned();
    // Paths of this machine in messages would make the programs differ from machine to machine.
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let remaps = [(Some(workspace.to_owned()), "/headnode"), (home, "/cargo")];
    for (from, to) in remaps.iter().filter_map(|(from, to)| Some((from.as_ref()?.to_str()?, to))) {
        if !from.contains(' ') {
            flags.push_str(&format!(" --remap-path-prefix={from}={to}"));
        }
    }
    cargo.env("RUSTFLAGS", flags).stdout(std::process::Stdio::null());
    tracing::debug!(?cargo, "running");
    let status = cargo.status().map_err(|error| {
        Error::Build(match error.kind() {
            io::ErrorKind::NotFound => "cargo is not installed; get it from https://rustup.rs, \
                or give ready programs with --runtime-dir"
                .to_owned(),
            _ => format!("starting cargo: {error}"),
        })
    })?;
    if !status.success() {
        return Err(Error::Build(format!("cargo failed ({status}); its messages are above")));
    }
    Ok(target_dir.join(TARGET).join("release"))
}

/// Checks that all programs are in `folder` and can run on any platform.
///
/// # Errors
/// When some cannot; all of them are named.
pub fn check(folder: &Path) -> Result<(), Error> {
    let problems: Vec<String> = PROGRAMS
        .iter()
        .filter_map(|program| {
            let path = folder.join(program.name);
            let problem = match fs::read(&path) {
                Ok(bytes) => problem(&bytes)?.to_owned(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => "is missing".to_owned(),
                Err(error) => format!("cannot be read: {error}"),
            };
            Some(format!("{} {problem}", program.name))
        })
        .collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::Unusable { folder: folder.to_owned(), problems })
}

/// What keeps an ELF file from being a static program for x86-64.
fn problem(elf: &[u8]) -> Option<&'static str> {
    const WANTS_INTERPRETER: u32 = 3;
    const X86_64: u16 = 62;
    let word = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let headers = || -> Option<Vec<u32>> {
        let at = usize::try_from(u64::from_le_bytes(elf.get(32..40)?.try_into().ok()?)).ok()?;
        let (size, count) = (usize::from(word(54)?), usize::from(word(56)?));
        let header = |index| {
            let at = at.checked_add(index * size)?;
            Some(u32::from_le_bytes(elf.get(at..at.checked_add(4)?)?.try_into().ok()?))
        };
        (0..count).map(header).collect()
    };
    // 64 bits, little-endian.
    if !elf.starts_with(b"\x7fELF\x02\x01") || word(18) != Some(X86_64) {
        return Some("is no program for x86-64");
    }
    match headers() {
        None => Some("is damaged"),
        Some(headers) if headers.contains(&WANTS_INTERPRETER) => Some(
            "is linked dynamically; build it with RUSTFLAGS='-C target-feature=+crt-static' \
             and --target x86_64-unknown-linux-gnu",
        ),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_and_no_program_are_refused() {
        let dynamic = fs::read("/bin/sh").unwrap();
        assert!(problem(&dynamic).unwrap().contains("dynamically"));
        assert_eq!(problem(b"#!/bin/sh\n"), Some("is no program for x86-64"));
        assert_eq!(problem(&dynamic[..63]), Some("is damaged"));
    }

    #[test]
    fn all_missing_programs_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let text = check(dir.path()).unwrap_err().to_string();
        for program in PROGRAMS {
            assert!(text.contains(&format!("{} is missing", program.name)), "{text}");
        }
    }
}
