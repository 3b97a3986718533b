//! What can be known of an image: who signed it, what is in it, what changed, and that it holds no
//! secret. Needs minisign, mtools, dosfstools, gdisk, tar, gzip, zstd, xz, bzip2, GRUB's and iPXE's
//! packages, as `ci/setup` installs them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod archives;
mod contents;
mod diff;
mod disguises;
mod secrets;
mod signing;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use headnode::image::Content;
use headnode::image::fat::{Format, Plan};
use headnode::image::gpt::{Partition, TYPE_ESP, Table};
use serde_json::Value;
use uuid::{Uuid, uuid};

pub fn headnode(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_headnode"))
        .args(args)
        .env_remove("HEADNODE_KEY_PASSPHRASE")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

pub fn good(args: &[&str]) -> String {
    let output = headnode(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {said}{}", stdout(&output));
    stdout(&output)
}

pub fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(&headnode(args))).unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The inputs of a build, which may differ from build to build.
pub struct Parts {
    pub stamp: &'static str,
    pub initrd: Vec<u8>,
    pub packages: &'static str,
    pub answers: &'static str,
    pub overlays: Option<PathBuf>,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            stamp: "20260102T030405Z",
            initrd: (0..500_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect(),
            packages: r#"{"stamp": "20260102T030405Z", "suite": "bookworm", "packages": [
                {"name": "bash", "version": "5.2.15-2", "architecture": "amd64", "sha256": ""},
                {"name": "zsh", "version": "5.9-4", "architecture": "amd64", "sha256": ""}]}"#,
            answers: r#"{"datacenter_name": "dc1"}"#,
            overlays: None,
        }
    }
}

impl Parts {
    /// Builds an image of this name in `dir`; gives back what the build said.
    pub fn build(&self, dir: &Path, name: &str, more: &[&str]) -> (PathBuf, String) {
        let parts = tempfile::tempdir().unwrap();
        let programs = parts.path().join("programs");
        fs::create_dir(&programs).unwrap();
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 62;
        for name in ["sdc", "sdc-agent", "sdc-booter", "sdc-control", "sdc-setup"] {
            fs::write(programs.join(name), &elf).unwrap();
        }
        let platform = parts.path().join("platform.tgz");
        let gzip = flate2::write::GzEncoder::new(
            fs::File::create(&platform).unwrap(),
            flate2::Compression::fast(),
        );
        let mut tar = tar::Builder::new(gzip);
        let stamp = format!("{}\n", self.stamp);
        for (path, content) in [
            ("platform/etc/version/platform", stamp.as_bytes()),
            ("platform/x86_64/initrd", &self.initrd),
            ("platform/x86_64/packages.json", self.packages.as_bytes()),
            ("platform/x86_64/vmlinuz", &[1; 100_000]),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, content).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap();
        let answers = parts.path().join("answers.json");
        fs::write(&answers, self.answers).unwrap();
        let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let image = dir.join(name);
        let output = Command::new(env!("CARGO_BIN_EXE_headnode"))
            .args(["-v", "build", "--platform", text(&platform), "--runtime-dir", text(&programs)])
            .args(["--answers", text(&answers), "--output", text(&image)])
            .arg("--overlays")
            .arg(self.overlays.clone().unwrap_or_else(|| tree.join("overlays")))
            .arg("--firmware")
            .arg(tree.join("firmware/catalogue.toml"))
            .args(more)
            .env_remove("SOURCE_DATE_EPOCH")
            .output()
            .unwrap();
        let said = stdout(&output) + &stderr(&output);
        assert!(output.status.success(), "{said}");
        (image, said)
    }
}

pub fn manifest_of(image: &Path) -> PathBuf {
    image.with_file_name(format!("{}.manifest.json", image.file_name().unwrap().to_str().unwrap()))
}

/// A disk as others make it: SmartOS' partitions (C§1.13), one FAT file system in the third.
pub fn smartos(dir: &Path, files: &[(&str, &[u8])], extra_sectors: u64) -> PathBuf {
    let root_type = uuid!("6a85cf4d-1dd2-11b2-99a6-080020736631");
    let boot_type = uuid!("6a82cb45-1dd2-11b2-99a6-080020736631");
    let partition = |name: &str, kind, start, sectors| Partition {
        name: name.to_owned(),
        kind,
        guid: Uuid::from_u128(u128::from(start) + 1),
        start,
        sectors,
    };
    let (root_start, root_sectors) = (528_384, 300_000);
    let table = Table {
        guid: Uuid::from_u128(9),
        sectors: root_start + root_sectors + 34 + extra_sectors,
        partitions: vec![
            (1, partition("loader", TYPE_ESP, 2048, 524_288)),
            (2, partition("boot", boot_type, 526_336, 2048)),
            (3, partition("root", root_type, root_start, root_sectors)),
        ],
    };
    let files: Vec<(String, Content)> =
        files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec().into())).collect();
    let format = Format {
        label: "SMARTOSBOOT".into(),
        id: 1,
        sectors: root_sectors,
        hidden: 0,
        time: 1_767_225_600,
    };
    let mut fat = Vec::new();
    Plan::new(format, files).unwrap().write(&mut fat).unwrap();
    let mut boot_code = [0; 440];
    boot_code[0] = 0xeb;
    boot_code[0xfa] = 2;
    boot_code[0xfe..0x102].copy_from_slice(&526_336_u32.to_le_bytes());
    let mut stage2 = vec![0x90; 64];
    let magic = 0x1bad_b002_u32;
    for word in [magic, 3, 0_u32.wrapping_sub(magic).wrapping_sub(3)] {
        stage2.extend(word.to_le_bytes());
    }
    let path = dir.join("smartos.img");
    let file = fs::File::create(&path).unwrap();
    file.set_len(table.sectors * 512).unwrap();
    let put = |at: u64, bytes: &[u8]| {
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, at * 512).unwrap();
    };
    put(0, &table.head(&boot_code));
    put(526_336, &stage2);
    put(root_start, &fat);
    put(table.sectors - 33, &table.tail());
    path
}

pub const STAMP_UNIX: &str = "os/20260101T000000Z/platform/i86pc/kernel/amd64/unix";

pub fn triton_files() -> Vec<(&'static str, &'static [u8])> {
    vec![
        (".joyliveusb", b""),
        (STAMP_UNIX, &[7; 5000]),
        ("os/20260101T000000Z/platform/i86pc/amd64/boot_archive", &[8; 9000]),
        ("boot/loader", b"loader"),
        ("boot/loader.conf", b"bootfile=\"/os/x/unix\"\nconsole=\"ttyb\"\nroot_shadow=\"$6$x\"\n"),
        ("boot/pmbr", b"x"),
        ("images/f669428c-a939-11ea-a485-b790efc0f0c1.imgmanifest", b"{}"),
        ("zones/sapi/create.json", b"{}"),
        ("zones/imgapi/create.json", b"{}"),
    ]
}
