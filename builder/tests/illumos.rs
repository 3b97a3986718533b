//! Images for the illumos loader, compared byte by byte with the layout of Triton's (C§1.13), and
//! looked at with other people's tools: dosfstools, mtools, gdisk, makefs. No illumos loader can be
//! had here; files that only look like one stand in for it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/smartos.rs"]
mod support;
#[path = "support/release.rs"]
mod surroundings;
#[path = "support/ufs.rs"]
mod ufs;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::json;
use support::{
    built, bytes_at, fsck, hex, loader, manifest, noise, on_fat, platform, run, text, verify,
};
use surroundings::{MADE, output};

const NEW: &str = "20260101T000000Z";
const OLD: &str = "20250601T120000Z";
/// Where the key begins.
const ILLUMOS_ROOT: u64 = 528_384 * 512;

#[test]
fn the_illumos_loader_gets_triton_s_layout_to_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = support::probe(dir.path());
    let new = platform(dir.path(), NEW, &kernel, &noise(1, 2_000_000));
    let old = platform(dir.path(), OLD, &kernel, &noise(2, 1_000_000));
    let (boot, pmbr, stage2, efi) = loader(dir.path());
    let image = dir.path().join("a.img");
    let args = ["--platform", text(&new), "--platform", text(&old), "--boot", text(&boot)];
    built(&image, &[&args[..], &["--size", "4gb"]].concat());
    let meta = fs::metadata(&image).unwrap();
    assert_eq!(meta.len(), 7_812_500 * 512);
    assert!(meta.blocks() * 512 < 64 << 20, "the image is not sparse");
    assert!(run("sgdisk", &["-v", text(&image)]).contains("No problems found"));

    // Sector 0.
    let sector = bytes_at(&image, 0, 512);
    let header = bytes_at(&image, 512, 512);
    assert_eq!(sector[..3], pmbr[..3]);
    assert_eq!(sector[3..0x3e], [0; 0x3b]);
    assert_eq!(sector[0x3e..0xfa], pmbr[0x3e..0xfa]);
    assert_eq!(sector[0xfa..0xfc], [2, 0]);
    assert_eq!(sector[0xfc..0xfe], 196_u16.to_le_bytes(), "100300 bytes are 196 sectors");
    assert_eq!(sector[0xfe..0x106], 526_336_u64.to_le_bytes());
    assert_eq!(sector[0x106..0x116], header[56..72], "the disk's UUID is the table's");
    assert_eq!(sector[0x116..0x1be], pmbr[0x116..0x1be]);
    let mut entry = vec![0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0];
    entry.extend(7_812_499_u32.to_le_bytes());
    assert_eq!(sector[0x1be..0x1ce], entry);
    assert_eq!(sector[0x1ce..0x1fe], [0; 48]);
    assert_eq!(sector[0x1fe..], [0x55, 0xaa]);

    // The table.
    assert_eq!(&header[..8], b"EFI PART");
    assert_eq!(header[8..12], [0, 0, 1, 0], "revision 1.0");
    assert_eq!(header[40..48], 34_u64.to_le_bytes());
    assert_eq!(header[48..56], (7_812_499_u64 - 33).to_le_bytes());
    assert_eq!(header[80..88], [128, 0, 0, 0, 128, 0, 0, 0]);
    let backup = bytes_at(&image, 7_812_499 * 512, 512);
    assert_eq!(&backup[..8], b"EFI PART");
    let entries = bytes_at(&image, 1024, 128 * 128);
    assert_eq!(entries, bytes_at(&image, (7_812_499 - 32) * 512, 128 * 128));
    for (index, slot) in entries.chunks(128).enumerate() {
        assert_eq!(slot.iter().all(|byte| *byte == 0), ![0, 1, 2, 8].contains(&index), "{index}");
    }
    for (number, kind, name, first, last) in [
        (1, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "loader", 2048, 526_335),
        (2, "6A82CB45-1DD2-11B2-99A6-080020736631", "boot", 526_336, 528_383),
        (3, "6A85CF4D-1DD2-11B2-99A6-080020736631", "root", 528_384, 7_794_687),
        (9, "6A945A3B-1DD2-11B2-99A6-080020736631", "reserved", 7_796_083, 7_812_466),
    ] {
        let said = run("sgdisk", &["-i", &number.to_string(), text(&image)]);
        for word in [
            format!("Partition GUID code: {kind}"),
            format!("First sector: {first} "),
            format!("Last sector: {last} "),
            format!("Partition name: '{name}'"),
        ] {
            assert!(said.contains(&word), "{number}: {word} is not in\n{said}");
        }
    }
    let map = fs::read_to_string(dir.path().join("a.partition.map")).unwrap();
    assert_eq!(
        map,
        "loader 12 1048576 268435456\nboot 1 269484032 1048576\n\
         root 2 270532608 3720347648\nreserved 11 3991594496 8388608\n"
    );

    // What is in the partitions.
    let mut patched = stage2;
    patched[1024 + 24..1024 + 32].copy_from_slice(&528_384_u64.to_le_bytes());
    assert!(bytes_at(&image, 526_336 * 512, patched.len()) == patched);
    fsck(&image, 1 << 20, 256 << 20);
    fsck(&image, ILLUMOS_ROOT, 3_720_347_648);
    let label = |offset| run("mlabel", &["-s", "-i", &format!("{}@@{offset}", text(&image)), "::"]);
    assert!(label(1 << 20).contains("Volume label is system"), "{}", label(1 << 20));
    assert!(label(ILLUMOS_ROOT).contains("Volume label is SMARTOSBOOT"));
    let esp = run("mdir", &["-b", "-/", "-i", &format!("{}@@1M", text(&image)), "::"]);
    assert_eq!(
        esp.lines().filter(|line| !line.ends_with('/')).collect::<Vec<_>>(),
        ["::/efi/boot/bootx64.efi"]
    );
    assert!(on_fat(&image, 1 << 20, "/efi/boot/bootx64.efi") == efi);
    assert_eq!(on_fat(&image, ILLUMOS_ROOT, "/boot/loader"), b"loader");
    assert_eq!(on_fat(&image, ILLUMOS_ROOT, "/boot/forth/logo-smartos.4th"), b"\\ logo\n");
    assert_eq!(on_fat(&image, ILLUMOS_ROOT, "/etc/version/boot"), b"20260101T000000Z\n");
    for name in ["ipxe.lkrn", "ipxe.efi"] {
        let installed = fs::read(format!("/usr/lib/ipxe/{name}")).unwrap();
        assert!(on_fat(&image, ILLUMOS_ROOT, &format!("/boot/{name}")) == installed);
    }
    assert!(on_fat(&image, ILLUMOS_ROOT, "/boot/default.ipxe").starts_with(b"#!ipxe\n"));
    let conf = String::from_utf8(on_fat(&image, ILLUMOS_ROOT, "/boot/loader.conf")).unwrap();
    let os = |stamp: &str| format!("/os/{stamp}/platform/i86pc");
    for (key, value) in [
        ("loader_logo", "smartos".to_owned()),
        ("loader_brand", "smartos".to_owned()),
        ("headnode", "true".to_owned()),
        ("ipxe", "true".to_owned()),
        ("ipxe-bootfile", "/boot/ipxe.lkrn".to_owned()),
        ("ipxe-archive", "/boot/default.ipxe".to_owned()),
        ("ipxe-efi", "/boot/ipxe.efi".to_owned()),
        ("ttya-mode", "115200,8,n,1,-".to_owned()),
        ("ttyd-mode", "115200,8,n,1,-".to_owned()),
        ("smt_enabled", "true".to_owned()),
        ("console", "ttyb,text".to_owned()),
        ("os_console", "ttyb".to_owned()),
        ("bootfile", os(NEW) + "/kernel/amd64/unix"),
        ("boot_archive_name", os(NEW) + "/amd64/boot_archive"),
        ("boot_archive.hash_name", os(NEW) + "/amd64/boot_archive.hash"),
        ("platform-version", NEW.to_owned()),
        ("prev-platform", os(OLD) + "/kernel/amd64/unix"),
        ("prev-archive", os(OLD) + "/amd64/boot_archive"),
        ("prev-hash", os(OLD) + "/amd64/boot_archive.hash"),
        ("prev-version", OLD.to_owned()),
    ] {
        let line = format!("{key}=\"{value}\"");
        assert!(conf.lines().any(|found| found == line), "{line} is not in\n{conf}");
    }
    assert!(!conf.contains("to be replaced"));
    let manifest = manifest(&image);
    let boot = manifest["firmware"].as_array().unwrap().iter().find(|f| f["path"] == "boot:");
    assert_eq!(boot.unwrap()["sha256"], hex(&patched));

    // As small as sensible, and the same bytes again.
    let [small, again] = ["small.img", "again.img"].map(|name| dir.path().join(name));
    built(&small, &args);
    built(&again, &args);
    verify(&small);
    assert!(run("sgdisk", &["-v", text(&small)]).contains("No problems found"));
    assert!(fs::metadata(&small).unwrap().len() < 1 << 30);
    assert!(fs::read(&small).unwrap() == fs::read(&again).unwrap(), "the images differ");
}

#[test]
fn a_disc_for_the_illumos_loader_has_all_that_it_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = support::probe(dir.path());
    let archive = noise(1, 200_000);
    let new = platform(dir.path(), NEW, &kernel, &archive);
    let old = platform(dir.path(), OLD, &kernel, &noise(2, 100_000));
    let (boot, ..) = loader(dir.path());
    let image = dir.path().join("a.iso");
    let platforms = ["--platform", text(&new), "--platform", text(&old)];
    let args = [&platforms[..], &["--boot", text(&boot), "--format", "iso"]].concat();
    let result = support::build(&image, &args);
    let said = String::from_utf8_lossy(&result.stderr);
    assert!(result.status.success(), "{said}");
    // All that is missing is Triton's own part.
    assert!(
        said.matches("WARN").count() == 1 && said.contains("WARN the key lacks scripts/"),
        "{said}"
    );
    verify(&image);
    let out = dir.path().join("out");
    run("xorriso", &["-osirrox", "on", "-indev", text(&image), "-extract", "/", text(&out)]);
    let conf = fs::read_to_string(out.join("boot/loader.conf")).unwrap();
    // Discs tell upper from lower case: every path must be there as it is written (C§1.14).
    let values = conf.lines().filter(|line| !line.starts_with('#'));
    let values = values.filter_map(|line| Some(line.split_once("=\"")?.1.trim_end_matches('"')));
    let paths: Vec<&str> = values.filter(|value| value.starts_with('/')).collect();
    assert_eq!(paths.len(), 9, "{conf}");
    for path in paths {
        assert!(out.join(path.trim_start_matches('/')).is_file(), "{path} is not on the disc");
    }
    let name = |stamp: &str| format!("os/{stamp}/platform/i86pc/amd64/boot_archive");
    assert!(fs::read(out.join(name(NEW))).unwrap() == archive);
    assert!(out.join(format!("private/root.password.{NEW}")).is_file());
    // C§1.11: the headnode by default, and how setup finds the disc.
    for line in ["ipxe=\"false\"", "triton_installer=\"iso\"", "headnode=\"true\""] {
        assert!(conf.lines().any(|found| found == line), "{line} is not in\n{conf}");
    }
}

#[test]
fn the_illumos_loader_is_told_the_site_s_console() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = support::probe(dir.path());
    let new = platform(dir.path(), NEW, &kernel, &noise(1, 100_000));
    let (boot, ..) = loader(dir.path());
    let image = dir.path().join("a.img");
    built(&image, &["--platform", text(&new), "--boot", text(&boot), "--size", "4gb"]);
    let path = "/boot/loader.conf.local";
    // It reads that file by itself, behind loader.conf; blank lines are nothing to it.
    let blank = on_fat(&image, ILLUMOS_ROOT, path);
    assert_eq!((blank.len(), blank.iter().all(|byte| *byte == b'\n')), (64 << 10, true));
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_headnode"))
        .args(["customize", text(&image), "--in-place", "--console", "ttyS1"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(on_fat(&image, ILLUMOS_ROOT, path)).unwrap();
    assert_eq!(told.trim_end(), "console=\"ttyb,text\"\nos_console=\"ttyb\"");
    fsck(&image, ILLUMOS_ROOT, 3_720_347_648);
    verify(&image);
}

/// Inputs of a build with something of everything that a SmartOS key is made of, and the build.
fn of_everything(dir: &Path, archive: &[u8]) -> std::process::Command {
    let kernel = support::probe(dir);
    let new = platform(dir, NEW, &kernel, archive);
    let old = platform(dir, OLD, &kernel, &noise(2, 100_000));
    let (boot, ..) = loader(dir);
    let bits = dir.join("bits");
    fs::create_dir(&bits).unwrap();
    support::zone(&bits, "cnapi", "aaaaaaaa-0000-4000-8000-000000000001");
    for name in ["sdcadm-master-20260101T000000Z-g1.sh", "agents-master-20260101T000000Z-g1.sh"] {
        fs::write(bits.join(name), "#!/bin/bash\n").unwrap();
    }
    fs::write(dir.join("answers.json"), "{\"datacenter_name\": \"dc1\"}").unwrap();
    fs::write(dir.join("keys"), "").unwrap();
    let part =
        |base: &str| json!({"source": "dir", "path": "bits", "file": {"base": base, "ext": "sh"}});
    let spec = json!({
        "platforms": [{"path": new, "default": true}, {"path": old}],
        "boot": boot,
        "answer-file": "answers.json",
        "authorized-keys": "keys",
        "extra-files": {"scripts/prompt-config.sh": "bits/sdcadm-master-20260101T000000Z-g1.sh"},
        "zones": {"cnapi": {"source": "dir", "path": "bits"}},
        "files": {"sdcadm": part("sdcadm"), "agents": part("agents")},
    });
    fs::write(dir.join("build.spec"), spec.to_string()).unwrap();
    let [spec, lock, cache] = ["build.spec", "build.lock", "cache"].map(|name| dir.join(name));
    let places = ["--spec", text(&spec), "--lock", text(&lock), "--cache", text(&cache)];
    support::command(&output(dir), &[&places[..], &["--clear-answers"]].concat())
}

#[test]
fn all_formats_of_smartos_are_the_same_whatever_surrounds_the_build() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    fs::write(root.join("usr/bin/sh"), ufs::noise(1, 90_000)).unwrap();
    let image = dir.path().join("ufs.img");
    let options = "bsize=4096,fsize=1024,density=50000,optimization=space";
    ufs::makefs(&image, &root, 12 << 20, options);
    let mut archive = fs::read(&image).unwrap();
    ufs::to_solaris(&mut archive);
    let stem = format!("headnode-0.1.0-{NEW}");
    surroundings::same_whatever_surrounds(|dir| of_everything(dir, &archive), &stem, &MADE);
}
