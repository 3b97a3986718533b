//! Images that boot SmartOS, looked at with other people's tools: dosfstools, mtools, gdisk.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/smartos.rs"]
mod support;

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};
use support::{build, built, noise, on_fat, platform, platform_files, run, tarball, text};

const NEW: &str = "20260101T000000Z";
const OLD: &str = "20250601T120000Z";
/// Where the key begins with GRUB, and with the illumos loader (C§1.13).
const GRUB_ROOT: u64 = 66 << 20;
const ILLUMOS_ROOT: u64 = 528_384 * 512;
const PASSWORD: &str = "Aek1ohtheiSecret";

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn verify(image: &Path) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_headnode"))
        .args(["verify", "--json", text(image)])
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{report}");
    report
}

fn manifest(image: &Path) -> serde_json::Value {
    let path = image.with_file_name("a.img.manifest.json");
    let text = fs::read_to_string(path).unwrap();
    assert!(!text.contains(PASSWORD));
    assert!(!text.contains(&hex(format!("{PASSWORD}\n").as_bytes())), "the digest gives it away");
    serde_json::from_str(&text).unwrap()
}

fn bytes_at(image: &Path, offset: u64, count: usize) -> Vec<u8> {
    let mut file = fs::File::open(image).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    let mut bytes = vec![0; count];
    file.read_exact(&mut bytes).unwrap();
    bytes
}

fn fsck(image: &Path, offset: u64, size: u64) {
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

#[test]
fn a_key_for_grub_holds_what_smartos_looks_for() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = support::probe(dir.path());
    let archive = noise(1, 3_000_000);
    let new = platform(dir.path(), NEW, &kernel, &archive);
    let old = platform(dir.path(), OLD, &kernel, &noise(2, 1_000_000));
    let image = dir.path().join("a.img");
    built(&image, &["--platform", text(&new), "--platform", text(&old)]);
    assert!(run("sgdisk", &["-v", text(&image)]).contains("No problems found"));
    fsck(&image, GRUB_ROOT, fs::metadata(&image).unwrap().len() - GRUB_ROOT - (1 << 20));
    verify(&image);

    let listing = run("mdir", &["-b", "-/", "-i", &format!("{}@@{GRUB_ROOT}", text(&image)), "::"]);
    let names: Vec<&str> = listing.lines().filter(|line| !line.ends_with('/')).collect();
    for name in [
        "::/.joyliveusb",
        "::/os/20260101t000000z/platform/i86pc/kernel/amd64/unix",
        "::/os/20260101t000000z/platform/i86pc/amd64/boot_archive",
        "::/os/20260101t000000z/platform/i86pc/amd64/boot_archive.hash",
        "::/os/20260101t000000z/platform/i86pc/amd64/boot_archive.manifest",
        "::/os/20260101t000000z/platform/i86pc/amd64/boot_archive.gitstatus",
        "::/os/20260101t000000z/platform/etc/version/platform",
        "::/os/20250601t120000z/platform/i86pc/kernel/amd64/unix",
        "::/private/root.password.20260101t000000z",
        "::/private/root.password.20250601t120000z",
        "::/config.inc/generic",
        "::/boot/grub/grub.cfg",
    ] {
        assert!(names.contains(&name), "{name} is not in\n{listing}");
    }
    assert_eq!(names.iter().filter(|name| name.contains("password")).count(), 2);
    assert!(!names.contains(&"::/config"), "first boot writes it");
    let os = "/os/20260101t000000z/platform";
    assert_eq!(on_fat(&image, GRUB_ROOT, &format!("{os}/i86pc/amd64/boot_archive")), archive);
    let password = on_fat(&image, GRUB_ROOT, "/private/root.password.20260101t000000z");
    assert_eq!(password, format!("{PASSWORD}\n").into_bytes());

    let menu = String::from_utf8(on_fat(&image, GRUB_ROOT, "/boot/grub/grub.cfg")).unwrap();
    for line in [
        "    start 20260101t000000z efi hash -B headnode=true,smt_enabled=true,console=ttyb",
        "    start 20260101t000000z efi hash -B headnode=true,smt_enabled=true,console=text",
        "    start 20250601t120000z efi hash -B headnode=true,smt_enabled=true,console=ttyb",
        "    start 20260101t000000z efi nohash -B headnode=true,smt_enabled=true,console=ttyb,noimport=true",
        "    start 20260101t000000z efi hash -v -B headnode=true,smt_enabled=true,console=ttyb",
        "    start 20260101t000000z efi hash -k -d -B headnode=true,smt_enabled=true,console=ttyb",
        "menuentry \"Roll back to 20250601T120000Z\" --id rollback {",
        "if serial --unit=1 --speed=115200; then",
    ] {
        assert!(menu.lines().any(|found| found == line), "{line} is not in\n{menu}");
    }
    let script = dir.path().join("grub.cfg");
    fs::write(&script, menu).unwrap();
    run("grub-script-check", &[text(&script)]);

    let manifest = manifest(&image);
    assert_eq!(manifest["platforms"][0]["stamp"], NEW);
    assert_eq!(manifest["platforms"][0]["os"], "smartos");
    assert_eq!(manifest["platforms"][1]["stamp"], OLD);
    assert_eq!(manifest["services"].as_array().unwrap().len(), 0);
    let kernel_file = manifest["files"]
        .as_array()
        .unwrap()
        .iter()
        .find(|file| file["path"] == "os/20260101t000000z/platform/i86pc/kernel/amd64/unix");
    assert_eq!(kernel_file.unwrap()["sha256"], hex(&kernel));
}

#[test]
fn the_package_table_is_whole() {
    let path = support::tree().join("overlays/smartos/key/config.inc/generic");
    let script =
        ". \"$1\"; i=0; while p=pkg_$i; [ -n \"${!p:-}\" ]; do echo \"${!p}\"; i=$((i+1)); done";
    let listed = run("bash", &["-euc", script, "sh", text(&path)]);
    let mut uuids = std::collections::BTreeSet::new();
    for line in listed.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        assert_eq!(fields.len(), 8, "{line}");
        assert!(fields[1..7].iter().all(|number| number.parse::<u32>().is_ok()), "{line}");
        assert!(uuids.insert(fields[7].parse::<uuid::Uuid>().unwrap()), "{line}");
    }
    assert_eq!(uuids.len(), 12, "{listed}");
}

/// Stand-ins for the illumos loader: only what the builder looks at and changes is real.
fn loader(dir: &Path) -> (std::path::PathBuf, Vec<u8>, Vec<u8>, Vec<u8>) {
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
        file("boot/defaults/loader.conf", b"boot_archive_type=\"rootfs\"\n"),
        file("boot/loader.conf", b"to be replaced\n"),
        file("boot/forth/Logo-SmartOS.4th", b"\\ logo\n"),
        file("etc/version/boot", b"20260101T000000Z\n"),
    ];
    tarball(&path, "", &files);
    (path, pmbr, stage2, efi)
}

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
fn bad_input_gets_one_clear_line_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = support::probe(dir.path());
    let archive = noise(1, 300_000);
    let good = platform(dir.path(), NEW, &kernel, &archive);
    let cut = dir.path().join("cut.tgz");
    let whole = fs::read(&good).unwrap();
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    type Files = Vec<(String, Vec<u8>)>;
    let bad = |name: &str, change: &dyn Fn(&mut Files)| {
        let mut files = platform_files(NEW, &kernel, &archive);
        change(&mut files);
        let path = dir.path().join(name);
        tarball(&path, "platform/", &files);
        path
    };
    let hash = bad("hash.tgz", &|files| files[1].1[7] ^= 1);
    let plain = bad("plain.tgz", &|files| files[0].1 = vec![0; 5000]);
    let case = bad("case.tgz", &|files| files.push(("I86PC/x".to_owned(), Vec::new())));
    let no_stamp = bad("stamp.tgz", &|files| files.retain(|file| !file.0.contains("version")));
    let linux = dir.path().join("linux.tgz");
    tarball(&linux, "platform/", &[("x86_64/vmlinuz".to_owned(), Vec::new())]);
    let (boot, ..) = loader(dir.path());
    let no_boot = dir.path().join("no-boot.tgz");
    tarball(&no_boot, "", &[("boot/pmbr".to_owned(), Vec::new())]);
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let image = out.join("a.img");
    for (args, word) in [
        (vec!["--platform", text(&cut)], "it ends too early"),
        (vec!["--platform", text(&hash)], "the SHA-1 of its platform/i86pc/amd64/boot_archive is"),
        (vec!["--platform", text(&plain)], "is no multiboot kernel"),
        (vec!["--platform", text(&case)], "which are one name on the key"),
        (vec!["--platform", text(&no_stamp)], "it lacks platform/etc/version/platform"),
        (vec!["--platform", text(&good), "--platform", text(&good)], "was it given twice?"),
        (vec!["--platform", text(&good), "--boot", text(&no_boot)], "it is no illumos loader"),
        (vec!["--platform", text(&linux), "--boot", text(&boot)], "starts SmartOS only"),
        (vec!["--platform", text(&good), "--boot", text(&boot), "--size", "300MB"], "too small"),
    ] {
        let result = build(&image, &args);
        let said = String::from_utf8_lossy(&result.stderr);
        assert_eq!(result.status.code(), Some(1), "{args:?}");
        assert!(said.contains(word), "{args:?}: {said}");
        assert_eq!(said.matches("headnode: ").count(), 1, "{said}");
        assert!(!said.contains(PASSWORD), "{said}");
        let left: Vec<_> = fs::read_dir(&out).unwrap().collect();
        assert!(left.is_empty(), "{args:?} left {left:?}");
    }
}
