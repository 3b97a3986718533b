//! The network bundle of SmartOS, whose boot archive is a UFS file system: it gets what the installer
//! looks for in its ramdisk (C§1.14). Needs makefs and grub-common, as `ci/setup` installs them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/smartos.rs"]
mod support;
#[path = "support/ufs.rs"]
mod ufs;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::{hash_text, platform, run, text};
use ufs::{Check, Found, long, makefs, noise, set, to_solaris};

const STAMP: &str = "20260101T000000Z";
const AMD64: &str = "20260101T000000Z/platform/i86pc/amd64";

/// A boot archive as SmartOS' build makes it, with as much as this.
fn archive(dir: &Path, size: u64) -> Vec<u8> {
    let tree = dir.join("root");
    for path in ["etc/passwd", "usr/bin/sh", "kernel/genunix", "config.inc/generic"] {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, noise(1, 90_000)).unwrap();
    }
    let image = dir.join("ufs.img");
    makefs(&image, &tree, size, "bsize=4096,fsize=1024,density=50000,optimization=space");
    let mut bytes = fs::read(&image).unwrap();
    to_solaris(&mut bytes);
    bytes
}

/// Builds a bundle; the key gets two scripts.
fn build(dir: &Path, archive: &[u8], more: &Value) -> Output {
    let platform = platform(dir, STAMP, &support::probe(dir), archive);
    let script = dir.join("script");
    fs::write(&script, "#!/bin/bash\n".repeat(500)).unwrap();
    let mut spec = json!({
        "platform": platform,
        "formats": ["pxe"],
        "extra-files": {"scripts/headnode.sh": script, "scripts/lib/more.sh": script},
    });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let file = dir.join("build.spec");
    fs::write(&file, spec.to_string()).unwrap();
    let (lock, cache) = (dir.join("build.lock"), dir.join("cache"));
    let places = ["--spec", text(&file), "--lock", text(&lock), "--cache", text(&cache)];
    support::build(&dir.join("a-pxe.tgz"), &places)
}

/// Unpacks a bundle that was built: its folder, and what was said.
fn unpacked(dir: &Path, archive: &[u8], more: &Value) -> (PathBuf, String) {
    let result = build(dir, archive, more);
    let said = String::from_utf8_lossy(&result.stderr).into_owned();
    assert!(result.status.success(), "{said}");
    let out = dir.join("out");
    fs::create_dir(&out).unwrap();
    run("tar", &["-xzf", text(&dir.join("a-pxe.tgz")), "-C", text(&out)]);
    // Every digest is that of the file beside it.
    let sums = "cd \"$1\" && sha256sum --strict -c SHA256SUMS";
    run("bash", &["-euc", sums, "sh", text(&out)]);
    (out, said)
}

/// What `headnode` does by this verb: its exit code, and what it tells.
fn headnode(args: &[&str]) -> (Option<i32>, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_headnode")).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let told = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    (output.status.code(), told)
}

fn found(out: &Path) -> Found {
    let bytes = fs::read(out.join(AMD64).join("boot_archive")).unwrap();
    let hash = fs::read_to_string(out.join(AMD64).join("boot_archive.hash")).unwrap();
    assert_eq!(hash, hash_text(&bytes));
    Check::new(&bytes).everything()
}

#[test]
fn the_installer_s_ramdisk_holds_what_it_looks_for() {
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(dir.path(), 12 << 20);
    let before = Check::new(&archive).everything();
    let (out, said) = unpacked(dir.path(), &archive, &json!({}));
    assert!(!said.contains("boot archive"), "{said}");
    let found = found(&out);
    let script = "#!/bin/bash\n".repeat(500).into_bytes();
    let generic = support::tree().join("overlays/smartos/key/config.inc/generic");
    let disc = format!("fulliso-{}-{STAMP}.tgz", env!("CARGO_PKG_VERSION"));
    let url = format!("https://netboot.smartos.org/triton-installer/{disc}\n");
    let folder = (0o040_755, Vec::new());
    for (path, node) in [
        ("scripts", folder.clone()),
        ("scripts/headnode.sh", (0o100_755, script.clone())),
        ("scripts/lib", folder.clone()),
        ("scripts/lib/more.sh", (0o100_755, script)),
        ("config.inc/generic", (0o100_644, fs::read(generic).unwrap())),
        ("testdomain.txt", (0o100_644, b"netboot.smartos.org\n".to_vec())),
        ("isourl.txt", (0o100_644, url.as_bytes().to_vec())),
        ("etc/passwd", before["etc/passwd"].clone()),
    ] {
        assert!(found[path] == node, "{path}");
    }
    assert_eq!(found.len(), before.len() + 7);
    // The disc's archive has what the key has, and the platform as it came.
    let list = run("tar", &["-tzf", text(&out.join("fulliso.tgz"))]);
    assert!(list.contains("scripts/lib/more.sh\n") && !list.contains("isourl.txt"), "{list}");
    let names = run("tar", &["-tzf", text(&dir.path().join("a-pxe.tgz"))]);
    assert!(!names.contains("boot_archive.manifest"), "{names}");
    // GRUB reads it too.
    let image = out.join(AMD64).join("boot_archive");
    let read = run("grub-fstest", &[text(&image), "cat", "(loop0)/isourl.txt"]);
    assert_eq!(read, url);
    // The name that setup asks the boot server for leads to it (C§1.14).
    assert_eq!(fs::read_link(out.join("fulliso.tgz")).unwrap(), Path::new(&disc));
    assert!(fs::symlink_metadata(out.join(&disc)).unwrap().is_file());
    for line in [&disc as &str, "fulliso.tgz"] {
        let sums = fs::read_to_string(out.join("SHA256SUMS")).unwrap();
        assert!(sums.contains(&format!("  {line}\n")), "{sums}");
    }

    // The same once more, in another place.
    let other = tempfile::tempdir().unwrap();
    let (again, _) = unpacked(other.path(), &archive, &json!({}));
    let [one, two] = [&out, &again].map(|out| fs::read(out.join("SHA256SUMS")).unwrap());
    assert_eq!(one, two);
}

#[test]
fn a_bundle_is_looked_into_and_checked_to_the_last_file() {
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(dir.path(), 12 << 20);
    let (out, _) = unpacked(dir.path(), &archive, &json!({}));
    let bundle = dir.path().join("a-pxe.tgz");
    let (code, told) = headnode(&["inspect", "--json", text(&bundle)]);
    assert_eq!(code, Some(0), "{told:#}");
    assert!(told["platforms"].to_string().contains(STAMP), "{told:#}");
    // The files that were checked, and those that are damaged.
    let checked = |bundle: &Path, deep: &[&str]| {
        let (code, report) = headnode(&[&["verify", "--json"], deep, &[text(bundle)]].concat());
        let damage = report["damage"].as_array().unwrap().iter();
        let damaged: Vec<String> =
            damage.map(|one| one["what"].as_str().unwrap().to_owned()).collect();
        assert_eq!(code, Some(i32::from(!damaged.is_empty())), "{report:#}");
        (report["files"].as_u64().unwrap(), damaged)
    };
    for deep in [&[][..], &["--deep"]] {
        let (files, damaged) = checked(&bundle, deep);
        assert_eq!(damaged, [""; 0]);
        // The key's own files, too, not only those that lie beside each other.
        assert!(files > 20, "{files}");
    }
    let pack = |tar: &Path, folder: &Path| {
        let all = "cd \"$2\" && tar -czf \"$1\" -- *";
        run("bash", &["-euc", all, "sh", text(tar), text(folder)]);
    };
    // A file beside the others.
    let name = "20260101T000000Z/platform/i86pc/kernel/amd64/unix";
    let kernel = out.join(name);
    let whole = fs::read(&kernel).unwrap();
    fs::write(&kernel, noise(9, whole.len())).unwrap();
    // Beside it, no list tells that it is another file as a whole.
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    let other = other.join("other-pxe.tgz");
    pack(&other, &out);
    assert_eq!(checked(&other, &[]).1, [name]);
    fs::write(&kernel, whole).unwrap();
    // A file of the key, with the list made anew, so that only the key's own manifest tells.
    let disc = fs::canonicalize(out.join("fulliso.tgz")).unwrap();
    let inner = dir.path().join("inner");
    fs::create_dir(&inner).unwrap();
    run("tar", &["-xzf", text(&disc), "-C", text(&inner)]);
    let script = inner.join("scripts/headnode.sh");
    let size = fs::metadata(&script).unwrap().len();
    fs::write(&script, "x".repeat(usize::try_from(size).unwrap())).unwrap();
    let all = "cd \"$2\" && find . -type f -printf '%P\\n' | tar -czf \"$1\" -T -";
    run("bash", &["-euc", all, "sh", text(&disc), text(&inner)]);
    let list =
        "cd \"$1\" && cut -c67- SHA256SUMS | xargs -d '\\n' sha256sum >new && mv new SHA256SUMS";
    run("bash", &["-euc", list, "sh", text(&out)]);
    pack(&other, &out);
    assert_eq!(checked(&other, &["--deep"]).1, ["fulliso.tgz!scripts/headnode.sh"]);
}

#[test]
fn the_address_of_the_disc_s_archive_can_be_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(dir.path(), 12 << 20);
    for (given, url, host) in [
        ("http://10.1.2.3:8080/x/", "http://10.1.2.3:8080/x/fulliso-VERSION.tgz", "10.1.2.3"),
        ("https://example.org/our.tgz", "https://example.org/our.tgz", "example.org"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (out, _) = unpacked(dir.path(), &archive, &json!({"iso-url": given}));
        let found = found(&out);
        let version = format!("{}-{STAMP}", env!("CARGO_PKG_VERSION"));
        let url = url.replace("VERSION", &version);
        assert_eq!(found["isourl.txt"].1, format!("{url}\n").as_bytes());
        assert_eq!(found["testdomain.txt"].1, format!("{host}\n").as_bytes());
    }
}

#[test]
fn an_archive_that_is_full_or_damaged_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let good = archive(dir.path(), 12 << 20);
    let map = Check::new(&good).map(0);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };
    let counts = changed(&|bytes| {
        let count = long(bytes, map + 28);
        set(bytes, map + 28, count + 1);
    });
    let mounted = changed(&|bytes| bytes[8192 + 209] = 0);
    let big = dir.path().join("big");
    fs::write(&big, noise(3, 14_000_000)).unwrap();
    let big = json!({"extra-files": {"scripts/big": big}});
    for (archive, more, words) in [
        (&counts, &json!({}), "is damaged: cylinder group 0: its counts are not those of its maps"),
        (&mounted, &json!({}), "was not unmounted in order"),
        (&good, &big, " bytes are missing. They are the key's scripts/ and config.inc/, 140"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let result = build(dir.path(), archive, more);
        let said = String::from_utf8_lossy(&result.stderr);
        assert_eq!(result.status.code(), Some(1), "{said}");
        assert!(said.contains("the boot archive of the platform 20260101T000000Z"), "{said}");
        assert!(said.contains(words), "{said}");
        assert_eq!(said.matches("headnode: ").count(), 1, "{said}");
        assert!(!dir.path().join("a-pxe.tgz").exists());
    }
}

#[test]
fn an_archive_of_another_kind_is_taken_as_it_is_and_that_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let good = archive(dir.path(), 12 << 20);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&good).unwrap();
    let cpio = [b"070701".as_slice(), &noise(1, 50_000)].concat();
    for (archive, words) in [
        (noise(1, 100_000), "it is no UFS file system: its superblock has no magic number"),
        (noise(1, 100), "it is no UFS file system: its 100 bytes are too few for one"),
        (gzip.finish().unwrap(), "it is compressed with gzip"),
        (cpio, "it is a cpio archive"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (out, said) = unpacked(dir.path(), &archive, &json!({}));
        assert!(said.contains("They cannot be added to this one"), "{said}");
        assert!(said.contains(words), "{said}");
        assert!(fs::read(out.join(AMD64).join("boot_archive")).unwrap() == archive);
        let hash = fs::read_to_string(out.join(AMD64).join("boot_archive.hash")).unwrap();
        assert_eq!(hash, hash_text(&archive));
    }
}
