//! Inputs of a build with a platform that is Linux by its names only, and programs of others.
#![allow(dead_code)]

use std::fs;
use std::path::Path;
use std::process::Command;

/// Answers with passwords.
pub const ANSWERS: &str = "{\"datacenter_name\": \"dc1\", \"root_password\": \"first-secret-word\", \
    \"admin_password\": \"second2secret\"}";
/// What the platform says it is made of.
pub const PACKAGES: &str = r#"{"stamp": "20260102T030405Z", "suite": "bookworm", "kernel": "6.1", "packages": [
    {"name": "libstdc++6", "version": "12.2.0-14+deb12u1", "architecture": "amd64",
     "sha256": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd", "uses": ["root"],
     "licences": [], "copyright": "usr/share/doc/libstdc++6/copyright"},
    {"name": "bash", "version": "5.2.15-2+b7", "architecture": "amd64",
     "sha256": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "uses": ["root", "modules"],
     "licences": ["GPL-3+", "GPL-3+ with Bison exception"], "copyright": null}]}"#;
/// The passwords in [`ANSWERS`].
pub const PASSWORDS: [&str; 2] = ["first-secret-word", "second2secret"];

pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; ci/setup installs it"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}\n{text}", output.status);
    text
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Inputs of a build: a small platform, programs that are only headers of static ELF files.
pub struct Parts {
    pub dir: tempfile::TempDir,
}

impl Parts {
    pub fn new(initrd_size: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::within(dir.path(), initrd_size);
        Self { dir }
    }

    /// Writes the inputs into a folder that exists.
    pub fn within(dir: &Path, initrd_size: usize) {
        let programs = dir.join("programs");
        fs::create_dir(&programs).unwrap();
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 62;
        for name in ["sdc", "sdc-agent", "sdc-booter", "sdc-control", "sdc-setup"] {
            fs::write(programs.join(name), &elf).unwrap();
        }
        // Content that does not compress, the same in every run.
        let mut state = 1_u32;
        let mut noise = |size: usize| -> Vec<u8> {
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            };
            (0..size).map(|_| next()).collect()
        };
        let packages = PACKAGES.as_bytes().to_vec();
        let files = [
            ("platform/x86_64/packages.json", packages),
            ("platform/etc/version/platform", b"20260102T030405Z\n".to_vec()),
            ("platform/x86_64/initrd", noise(initrd_size)),
            ("platform/x86_64/vmlinuz", noise(100_000)),
        ];
        let tarball = fs::File::create(dir.join("platform.tgz")).unwrap();
        let gzip = flate2::write::GzEncoder::new(tarball, flate2::Compression::fast());
        let mut tar = tar::Builder::new(gzip);
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, content.as_slice()).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap();
        fs::write(dir.join("answers.json"), ANSWERS).unwrap();
    }

    pub fn command(&self, output: &Path) -> Command {
        Self::command_on(self.dir.path(), output)
    }

    /// The build of the inputs that [`Parts::within`] wrote into a folder.
    pub fn command_on(dir: &Path, output: &Path) -> Command {
        let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut command = Command::new(env!("CARGO_BIN_EXE_headnode"));
        command
            .arg("build")
            .arg("--platform")
            .arg(dir.join("platform.tgz"))
            .arg("--runtime-dir")
            .arg(dir.join("programs"))
            .arg("--answers")
            .arg(dir.join("answers.json"))
            .arg("--overlays")
            .arg(tree.join("overlays"))
            .arg("--firmware")
            .arg(tree.join("firmware/catalogue.toml"))
            .arg("--output")
            .arg(output)
            .env_remove("SOURCE_DATE_EPOCH");
        command
    }

    pub fn build(&self, output: &Path, more: &[&str]) {
        let result = self.command(output).args(more).output().unwrap();
        assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
    }
}
