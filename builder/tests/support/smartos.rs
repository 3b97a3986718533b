//! SmartOS-shaped inputs for tests: a platform whose kernel is the probe, a loader that only looks
//! like one. Needs gcc and ld, as `ci/setup` installs them.
#![allow(dead_code)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha1::{Digest, Sha1};

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

/// Content that does not compress, the same in every run.
pub fn noise(seed: u32, size: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..size).map(|_| next()).collect()
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
        ("root.password".to_owned(), b"Aek1ohtheiSecret\n".to_vec()),
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

/// Runs `headnode build` on this tree's overlays and firmware.
pub fn build(output: &Path, args: &[&str]) -> Output {
    let tree = tree();
    Command::new(env!("CARGO_BIN_EXE_headnode"))
        .args(["build", "--overlays", text(&tree.join("overlays")), "--firmware"])
        .args([text(&tree.join("firmware/catalogue.toml")), "--output", text(output)])
        .args(args)
        .env_remove("SOURCE_DATE_EPOCH")
        .current_dir(output.parent().unwrap())
        .output()
        .unwrap()
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
