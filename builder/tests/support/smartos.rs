//! SmartOS-shaped inputs for tests: a platform whose kernel is the probe, a loader that only looks
//! like one. Needs gcc and ld, as `ci/setup` installs them.
#![allow(dead_code)]

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha1::{Digest, Sha1};
use sha2::Sha256;

// A test may have more than one of the supports.
#[allow(clippy::duplicate_mod)]
#[path = "noise.rs"]
mod noise;

pub use noise::noise;

/// The root password of the platforms made here.
pub const PASSWORD: &str = "Aek1ohtheiSecret";

/// The source tree.
pub fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs a program of others, which must succeed.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; ci/setup --test installs it"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}\n{text}", output.status);
    text
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The probe kernel, made now.
pub fn probe(dir: &Path) -> Vec<u8> {
    let out = dir.join("probe");
    run(text(&tree().join("firmware/probe/build")), &[text(&out)]);
    fs::read(out).unwrap()
}

/// The text of a `.hash` file.
pub fn hash_text(archive: &[u8]) -> String {
    let hash = Sha1::digest(archive);
    hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n"
}

/// The files of a platform, below its top folder.
pub fn platform_files(stamp: &str, kernel: &[u8], archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let amd64 = "i86pc/amd64/boot_archive";
    vec![
        ("i86pc/kernel/amd64/unix".to_owned(), kernel.to_vec()),
        (amd64.to_owned(), archive.to_vec()),
        (format!("{amd64}.hash"), hash_text(archive).into_bytes()),
        (format!("{amd64}.manifest"), b"f / 0755 root root\n".to_vec()),
        (format!("{amd64}.gitstatus"), b"[]\n".to_vec()),
        ("etc/version/platform".to_owned(), format!("{stamp}\n").into_bytes()),
        ("root.password".to_owned(), format!("{PASSWORD}\n").into_bytes()),
    ]
}

/// Writes a gzipped tarball.
pub fn tarball(path: &Path, top: &str, files: &[(String, Vec<u8>)]) {
    let file = fs::File::create(path).unwrap();
    let gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("{top}{name}"), content.as_slice()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap().flush().unwrap();
}

/// A platform's tarball `platform-<stamp>.tgz` in a folder.
pub fn platform(dir: &Path, stamp: &str, kernel: &[u8], archive: &[u8]) -> PathBuf {
    let path = dir.join(format!("platform-{stamp}.tgz"));
    tarball(&path, &format!("platform-{stamp}/"), &platform_files(stamp, kernel, archive));
    path
}

/// `headnode build` on this tree's overlays and firmware.
pub fn command(output: &Path, args: &[&str]) -> Command {
    let tree = tree();
    let mut command = Command::new(env!("CARGO_BIN_EXE_headnode"));
    command
        .args(["build", "--overlays", text(&tree.join("overlays")), "--firmware"])
        .args([text(&tree.join("firmware/catalogue.toml")), "--output", text(output)])
        .args(args)
        .env_remove("SOURCE_DATE_EPOCH")
        .current_dir(output.parent().unwrap());
    command
}

/// Runs `headnode build` on this tree's overlays and firmware.
pub fn build(output: &Path, args: &[&str]) -> Output {
    command(output, args).output().unwrap()
}

/// Runs `headnode build`, which must succeed.
pub fn built(output: &Path, args: &[&str]) {
    let result = build(output, args);
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
}

/// A file of a FAT file system at an offset of an image, by mtools.
pub fn on_fat(image: &Path, offset: u64, path: &str) -> Vec<u8> {
    let output = Command::new("mtype")
        .args(["-i", &format!("{}@@{offset}", text(image)), &format!("::{path}")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// SHA-256 in hex.
pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What `headnode verify` says of an image, which must be whole.
pub fn verify(image: &Path) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_headnode"))
        .args(["verify", "--json", text(image)])
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{report}");
    report
}

/// The manifest beside the image `a.img`; the root password is not to be guessed from it.
pub fn manifest(image: &Path) -> serde_json::Value {
    let path = image.with_file_name("a.img.manifest.json");
    let text = fs::read_to_string(path).unwrap();
    assert!(!text.contains(PASSWORD));
    assert!(!text.contains(&hex(format!("{PASSWORD}\n").as_bytes())), "the digest gives it away");
    serde_json::from_str(&text).unwrap()
}

/// Bytes of an image.
pub fn bytes_at(image: &Path, offset: u64, count: usize) -> Vec<u8> {
    let mut file = fs::File::open(image).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    let mut bytes = vec![0; count];
    file.read_exact(&mut bytes).unwrap();
    bytes
}

/// Checks the FAT file system in a part of an image, in whole MiB.
pub fn fsck(image: &Path, offset: u64, size: u64) {
    let part = image.with_file_name("part");
    let (skip, count) = (offset >> 20, size >> 20);
    assert_eq!((skip << 20, count << 20), (offset, size));
    let from = [format!("if={}", text(image)), format!("of={}", text(&part)), "bs=1M".to_owned()];
    let numbers = [format!("skip={skip}"), format!("count={count}"), "conv=sparse".to_owned()];
    let args: Vec<&str> = from.iter().chain(&numbers).map(String::as_str).collect();
    run("dd", &args);
    fs::File::options().write(true).open(&part).unwrap().set_len(size).unwrap();
    run("fsck.fat", &["-n", text(&part)]);
    fs::remove_file(part).unwrap();
}

/// Stand-ins for the illumos loader: only what the builder looks at and changes is real.
pub fn loader(dir: &Path) -> (PathBuf, Vec<u8>, Vec<u8>, Vec<u8>) {
    let mut pmbr = noise(3, 512);
    pmbr[510..].copy_from_slice(&[0x55, 0xaa]);
    // 0x1b8 to 0x1fd hold a disk signature and the table; a pmbr has none.
    pmbr[446..510].fill(0);
    let mut stage2 = noise(4, 100_300);
    let magic = 0x1bad_b002_u32;
    let flags = 0x0001_0003_u32;
    for (i, word) in [magic, flags, 0_u32.wrapping_sub(magic + flags)].iter().enumerate() {
        stage2[1024 + 4 * i..][..4].copy_from_slice(&word.to_le_bytes());
    }
    let mut efi = noise(5, 300_000);
    efi[..2].copy_from_slice(b"MZ");
    let path = dir.join("boot-20260101T000000Z.tgz");
    let file = |name: &str, content: &[u8]| (name.to_owned(), content.to_vec());
    let files = [
        file("boot/pmbr", &pmbr),
        file("boot/gptzfsboot", &stage2),
        file("boot/loader", b"loader"),
        file("boot/loader64.efi", &efi),
        file("boot/cdboot", &noise(6, 3000)),
        file("boot/defaults/loader.conf", b"boot_archive_type=\"rootfs\"\n"),
        file("boot/loader.conf", b"to be replaced\n"),
        file("boot/forth/Logo-SmartOS.4th", b"\\ logo\n"),
        file("etc/version/boot", b"20260101T000000Z\n"),
    ];
    tarball(&path, "", &files);
    (path, pmbr, stage2, efi)
}

/// Writes the two files of a zone's image into a folder, as its builds call them.
pub fn zone(dir: &Path, name: &str, uuid: &str) {
    let stem = format!("{name}-zfs-master-20260101T000000Z-g1");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&noise(7, 30_000)).unwrap();
    let image = gzip.finish().unwrap();
    let manifest = serde_json::json!({
        "v": 2, "uuid": uuid, "name": name, "version": "master-20260101T000000Z-g1",
        "type": "zone-dataset", "os": "smartos",
        "files": [
            {"sha1": hash_text(&image).trim(), "size": image.len(), "compression": "gzip"}
        ],
    });
    fs::write(dir.join(format!("{stem}.imgmanifest")), manifest.to_string()).unwrap();
    fs::write(dir.join(format!("{stem}.zfs.gz")), image).unwrap();
}
