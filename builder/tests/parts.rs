//! Parts and wishes of a build.spec, from the file to the key. Needs mtools, cpio and zstd, as
//! `ci/setup` installs them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/linux.rs"]
mod linux;
#[path = "support/smartos.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use linux::Parts;
use serde_json::{Value, json};
use support::{hex, noise, on_fat, platform, platform_files, tarball, text};

const NEW: &str = "20260101T000000Z";
const OLD: &str = "20250601T120000Z";
const OLDER: &str = "20240601T120000Z";
/// Where the key begins with GRUB.
const GRUB_ROOT: u64 = 66 << 20;

/// Builds by a spec; the lock file and the cache lie beside it.
fn build(dir: &Path, spec: &Value, args: &[&str]) -> Output {
    let file = dir.join("build.spec");
    fs::write(&file, spec.to_string()).unwrap();
    let (lock, cache) = (dir.join("build.lock"), dir.join("cache"));
    let places = ["--spec", text(&file), "--lock", text(&lock), "--cache", text(&cache)];
    support::build(&dir.join("a.img"), &[&places[..], args].concat())
}

/// Builds an image, which must succeed.
fn built(dir: &Path, spec: &Value, args: &[&str]) -> PathBuf {
    let result = build(dir, spec, args);
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
    dir.join("a.img")
}

/// What a build says that fails, in one error.
fn refused(result: &Output) -> String {
    let said = String::from_utf8_lossy(&result.stderr).into_owned();
    assert_eq!(result.status.code(), Some(1), "{said}");
    assert_eq!(said.matches("headnode: ").count(), 1, "{said}");
    said
}

fn menu(image: &Path) -> String {
    String::from_utf8(on_fat(image, GRUB_ROOT, "/boot/grub/grub.cfg")).unwrap()
}

/// The menu of a key whose files are in a tar, which is made sooner than a disk.
fn menu_in_tar(tarball: &Path) -> String {
    linux::run("tar", &["-xzOf", text(tarball), "boot/grub/grub.cfg"])
}

fn smartos(dir: &Path, stamp: &str) -> PathBuf {
    platform(dir, stamp, &support::probe(dir), &noise(1, 100_000))
}

/// A bundle of others, made with other people's tools.
fn bundle(dir: &Path) -> PathBuf {
    let out = dir.join("control.cpio.zst");
    let script = "mkdir -p \"$1/b/usr/bin\"; echo theirs > \"$1/b/usr/bin/control\"; cd \"$1/b\";
        find . -mindepth 1 | sort | cpio --quiet -o -H newc | zstd -q -o \"$2\"";
    linux::run("bash", &["-euo", "pipefail", "-c", script, "sh", text(dir), text(&out)]);
    out
}

#[test]
fn fetched_ipxe_and_loader_win_over_debian_s() {
    let dir = tempfile::tempdir().unwrap();
    let new = smartos(dir.path(), NEW);
    let (boot, ..) = support::loader(dir.path());
    let own = |name: &str| format!("{name} of Triton").into_bytes();
    let names = ["ipxe.lkrn", "undionly.kpxe", "snponly.efi", "default.ipxe", "extra/Note"];
    let files: Vec<_> = names.iter().map(|name| ((*name).to_owned(), own(name))).collect();
    let ipxe = dir.path().join("ipxe-master-20260101T000000Z-gabcdef0.tar.gz");
    tarball(&ipxe, "./", &files);
    let agents = dir.path().join("agents-master-20260101T000000Z-gabcdef0.sh");
    fs::write(&agents, "#!/bin/bash\n").unwrap();
    // A DEBUG build's entries are called so.
    let part = |path: &Path| json!({"source": "dir", "path": path});
    let spec = json!({"files": {
        "platform-debug": part(&new),
        "platboot-debug": part(&boot),
        "ipxe": part(&ipxe),
        "agents": part(&agents),
    }});
    let image = built(dir.path(), &spec, &[]);
    let root = 528_384 * 512;
    for (path, name) in [
        ("/boot/ipxe.lkrn", "ipxe.lkrn"),
        ("/boot/undionly.kpxe", "undionly.kpxe"),
        ("/boot/snponly.efi", "snponly.efi"),
        ("/boot/default.ipxe", "default.ipxe"),
        ("/boot/extra/note", "extra/Note"),
        ("/firmware/ipxe/undionly.kpxe", "undionly.kpxe"),
        ("/firmware/ipxe/snponly.efi", "snponly.efi"),
    ] {
        assert_eq!(on_fat(&image, root, path), own(name), "{path}");
    }
    let path = "/ur-scripts/agents-master-20260101t000000z-gabcdef0.sh";
    assert_eq!(on_fat(&image, root, path), b"#!/bin/bash\n");
    // What it lacks is Debian's.
    let debian = fs::read("/usr/lib/ipxe/ipxe.efi").unwrap();
    assert!(on_fat(&image, root, "/boot/ipxe.efi") == debian);
    let manifest = support::manifest(&image);
    let firmware = manifest["firmware"].as_array().unwrap();
    let listed = |path: &str| firmware.iter().find(|entry| entry["path"] == path).unwrap();
    assert_eq!(listed("boot/ipxe.lkrn")["package"], text(&ipxe).rsplit('/').next().unwrap());
    assert_eq!(listed("boot/ipxe.lkrn")["sha256"], hex(&own("ipxe.lkrn")));
    assert_eq!(listed("boot/ipxe.efi")["package"], "ipxe");
    support::verify(&image);

    let other = dir.path().join("other.tar.gz");
    tarball(&other, "", &[("readme".to_owned(), Vec::new())]);
    fs::remove_file(dir.path().join("build.lock")).unwrap();
    let spec = json!({"files": {"platform": part(&new), "ipxe": part(&other)}});
    let said = refused(&build(dir.path(), &spec, &[]));
    assert!(
        said.contains("other.tar.gz is no tarball of iPXE: it holds none of ipxe.lkrn"),
        "{said}"
    );
}

#[test]
fn one_of_several_platforms_boots_by_default() {
    let dir = tempfile::tempdir().unwrap();
    let all = [OLD, NEW, OLDER].map(|stamp| smartos(dir.path(), stamp));
    let spec = json!({
        "platforms": [
            {"file": "old"},
            {"path": all[1], "kind": "smartos", "default": true},
            {"path": all[2]},
        ],
        "files": {"old": {"source": "dir", "path": all[0]}},
    });
    let image = built(dir.path(), &spec, &[]);
    let menu = menu(&image);
    let line = |text: &str| menu.lines().position(|line| line.contains(text)).unwrap();
    assert!(menu.contains("\nset default=serial\n"), "{menu}");
    assert!(line("\"Headnode 20260101T000000Z, serial") < line("Roll back to 20250601T120000Z"));
    assert!(line("Roll back to 20250601T120000Z") < line("\"Headnode 20240601T120000Z\""));
    let manifest = support::manifest(&image);
    let stamps: Vec<_> =
        manifest["platforms"].as_array().unwrap().iter().map(|p| &p["stamp"]).collect();
    assert_eq!(stamps, [NEW, OLD, OLDER]);

    let spec = json!({"platforms": [{"path": all[1], "kind": "linux"}]});
    let said = refused(&build(dir.path(), &spec, &[]));
    let expected = "platform-20260101T000000Z.tgz is smartos, but the spec says linux";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn a_control_bundle_replaces_our_own() {
    let parts = Parts::new(100_000);
    let dir = parts.dir.path();
    let bundle = bundle(dir);
    let spec = dir.join("build.spec");
    fs::write(&spec, json!({"control-bundle": bundle}).to_string()).unwrap();
    let image = dir.join("a.img");
    parts.build(&image, &["--spec", text(&spec), "--format", "usb"]);
    let on_key = on_fat(&image, GRUB_ROOT, "/bundle/headnode.cpio.zst");
    assert!(on_key == fs::read(&bundle).unwrap());
    // Compute nodes still get our agent.
    assert!(on_fat(&image, GRUB_ROOT, "/bundle/node.cpio.zst") != on_key);
    let manifest: Value =
        serde_json::from_slice(&fs::read(dir.join("a.img.manifest.json")).unwrap()).unwrap();
    let services = manifest["services"].as_array().unwrap();
    let service = services.iter().find(|service| service["name"] == "control-bundle").unwrap();
    assert_eq!(service["sha256"], hex(&on_key));
    assert!(services.iter().any(|service| service["name"] == "sdc-agent"), "{services:?}");
    assert!(services.iter().all(|service| service["name"] != "sdc-control"), "{services:?}");
    support::verify(&image);

    // Neither with SmartOS, nor when it is damaged.
    let smartos = smartos(dir, NEW);
    let said = refused(&build(dir, &json!({"control-bundle": bundle, "platform": smartos}), &[]));
    assert!(said.contains("is for a Linux headnode"), "{said}");
    let whole = fs::read(&bundle).unwrap();
    fs::write(&bundle, &whole[..whole.len() / 2]).unwrap();
    fs::write(&spec, json!({"control-bundle": bundle}).to_string()).unwrap();
    let result = parts.command(&image).args(["--spec", text(&spec)]).output().unwrap();
    let said = refused(&result);
    assert!(said.contains("which must be a zstd cpio archive"), "{said}");
}

#[test]
fn boot_time_networking_comes_as_an_extra_file() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("net.json");
    fs::write(&own, "{\"nictags\": []}\n").unwrap();
    let spec = json!({
        "platform": smartos(dir.path(), NEW),
        "extra-files": {"boot/networking.json": own},
    });
    let image = built(dir.path(), &spec, &[]);
    assert_eq!(on_fat(&image, GRUB_ROOT, "/boot/networking.json"), b"{\"nictags\": []}\n");
}

#[test]
fn every_serial_port_reaches_the_menu_of_a_linux_headnode() {
    let parts = Parts::new(1000);
    let image = parts.dir.path().join("a.img");
    let spec = parts.dir.path().join("build.spec");
    for (wishes, default, unit, serial) in [
        (json!({}), "serial", 0, "ttyS0"),
        (json!({"console": "ttyb"}), "serial", 1, "ttyS1"),
        (json!({"console": "ttyS2"}), "serial", 2, "ttyS2"),
        (json!({"console": "serial", "serial-dev": "ttyd"}), "serial", 3, "ttyS3"),
        (json!({"serial-dev": "ttyc"}), "serial", 2, "ttyS2"),
        (json!({"console": "vga", "serial-dev": "ttyb"}), "vga", 1, "ttyS1"),
    ] {
        fs::write(&spec, wishes.to_string()).unwrap();
        parts.build(&image, &["--spec", text(&spec), "--format", "tar"]);
        let menu = menu_in_tar(&image);
        for line in [
            format!("set default={default}"),
            format!("set port={serial}"),
            format!("set unit={unit}"),
            "if serial --unit=$unit --speed=115200; then".to_owned(),
            "    start console=tty0 console=$port,115200n8".to_owned(),
            "    start console=$port,115200n8 console=tty0".to_owned(),
            "    start noimport=true $consoles".to_owned(),
        ] {
            assert!(menu.lines().any(|found| found == line), "{wishes}: {line} is not in\n{menu}");
        }
        let script = parts.dir.path().join("grub.cfg");
        fs::write(&script, menu).unwrap();
        linux::run("grub-script-check", &[text(&script)]);
    }
    // The last one of the kernel's consoles is the one that programs write to.
    let pxe = parts.dir.path().join("a-pxe.tgz");
    parts.build(&pxe, &["--spec", text(&spec), "--format", "pxe"]);
    let script = linux::run("tar", &["-xzOf", text(&pxe), "headnode.ipxe"]);
    assert!(script.contains(" console=ttyS1,115200n8 console=tty0 loglevel=4"), "{script}");
}

#[test]
fn every_serial_port_reaches_smartos() {
    let dir = tempfile::tempdir().unwrap();
    let platform = smartos(dir.path(), NEW);
    for (mut wishes, console, serial) in [
        (json!({}), "ttyb", "ttyb"),
        (json!({"console": "ttya"}), "ttya", "ttya"),
        (json!({"console": "serial", "serial-dev": "ttyc"}), "ttyc", "ttyc"),
        (json!({"console": "serial"}), "ttyb", "ttyb"),
        (json!({"serial-dev": "ttyd"}), "ttyd", "ttyd"),
        (json!({"console": "ttya", "serial-dev": "ttyd"}), "ttya", "ttya"),
        (json!({"console": "text", "serial-dev": "ttya"}), "text", "ttya"),
    ] {
        wishes["platform"] = json!(platform);
        let menu = menu_in_tar(&built(dir.path(), &wishes, &["--format", "tar"]));
        let unit = ["ttya", "ttyb", "ttyc", "ttyd"].iter().position(|port| *port == serial);
        for line in [
            format!("set unit={}", unit.unwrap()),
            format!("set port={serial}"),
            format!("set console={console}"),
            format!("set default={}", if console == "text" { "vga" } else { "serial" }),
            "if serial --unit=$unit --speed=115200; then".to_owned(),
            "    start 20260101t000000z efi hash -B headnode=true,smt_enabled=true,console=$port"
                .to_owned(),
            "    start 20260101t000000z efi hash -v -B headnode=true,smt_enabled=true,\
             console=$console"
                .to_owned(),
        ] {
            assert!(menu.lines().any(|found| found == line), "{wishes}: {line} is not in\n{menu}");
        }
    }
}

#[test]
fn the_network_installer_has_the_console_asked_for_and_says_what_it_needs() {
    let dir = tempfile::tempdir().unwrap();
    let platform = smartos(dir.path(), NEW);
    for (console, words) in [
        ("text", "-B console=text,headnode=true,"),
        ("ttyc", "-B console=ttyc,ttyc-mode=\"115200,8,n,1,-\",headnode=true,"),
    ] {
        let spec = json!({"platform": platform, "console": console, "smt_enabled": false});
        let result = build(dir.path(), &spec, &["--format", "pxe"]);
        let said = String::from_utf8_lossy(&result.stderr);
        assert!(result.status.success(), "{said}");
        assert!(said.contains("only the illumos loader can boot"), "{said}");
        assert!(said.contains("boot archive holds /scripts and /config.inc"), "{said}");
        let bundle = dir.path().join("a.img");
        let script = linux::run("tar", &["-xzOf", text(&bundle), "triton-installer.ipxe"]);
        assert!(script.contains(words), "{script}");
        assert!(script.contains(",smt_enabled=false,triton_installer=ipxe\n"), "{script}");
        let names = linux::run("tar", &["-tzf", text(&bundle)]);
        assert!(names.contains("/boot_archive.hash\n"), "{names}");
        assert!(
            !names.contains("/boot_archive.manifest") && !names.contains("gitstatus"),
            "{names}"
        );
    }
}

/// A sparse file.
fn sparse(dir: &Path, size: u64) -> PathBuf {
    let path = dir.join("large");
    fs::File::create(&path).unwrap().set_len(size).unwrap();
    path
}

#[test]
fn what_a_key_cannot_hold_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let platform = smartos(dir.path(), NEW);
    let small = dir.path().join("small");
    fs::write(&small, "x").unwrap();
    let large = sparse(dir.path(), 1 << 32);
    let long = format!("scripts/{}", "x".repeat(256));
    for (files, words) in [
        (json!({"scripts/aux": small}), &["\"scripts/aux\" cannot be stored on FAT", "device"][..]),
        (json!({"scripts/end.": small}), &["\"scripts/end.\" cannot be stored on FAT"]),
        (json!({long: small}), &["cannot be stored on FAT", "longer than 255"]),
        (json!({"a:b": small}), &["a:b: is no path on the key"]),
        (json!({"big": large}), &["\"big\" has 4294967296 bytes", "files of up to 4294967295"]),
        (json!({"scripts/A": small}), &["scripts/A: is no path on the key", "in lower case"]),
        (json!({"straße": small, "strasse": small}), &["are one name on FAT"]),
        (json!({"os": small}), &["\"os", "is both a file and a folder"]),
        (json!({".joyliveusb": small}), &["two parts of the image bring the file \".joyliveusb\""]),
    ] {
        let spec = json!({"platform": platform, "extra-files": files});
        let begin = std::time::Instant::now();
        let said = refused(&build(dir.path(), &spec, &[]));
        assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
        assert!(!dir.path().join("a.img").exists());
        println!("{:.1} s: {said}", begin.elapsed().as_secs_f64());
    }
    // A file of one byte less is no longer refused for that, but the image may be too small.
    sparse(dir.path(), 70_000_000);
    let spec = json!({"platform": platform, "extra-files": {"scripts/big": large}});
    let said = refused(&build(dir.path(), &spec, &["--size", "138MiB"]));
    let words = ["bytes too small", "the largest are scripts/big (70000000 bytes), "];
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    let number = |before: &str, after: &str| -> u64 {
        let rest = said.split(before).nth(1).unwrap();
        rest.split(after).next().unwrap().trim().parse().unwrap()
    };
    let (by, least) = (number("bytes is", "bytes too"), number("at least", ";"));
    assert_eq!(138 * (1 << 20) + by, least, "{said}");
    built(dir.path(), &spec, &["--size", &format!("{}MiB", least >> 20)]);
}

#[test]
fn names_that_are_one_on_the_key_are_told_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let platform = smartos(dir.path(), NEW);
    let sapi = dir.path().join("sapi");
    for service in ["cnapi", "CNAPI"] {
        fs::create_dir_all(sapi.join("services").join(service)).unwrap();
        fs::write(sapi.join("services").join(service).join("service.json"), service).unwrap();
    }
    fs::create_dir_all(sapi.join("manifests")).unwrap();
    fs::write(sapi.join("application.json"), "{}").unwrap();
    let spec = json!({"platform": platform, "sapi-config": sapi});
    let said = refused(&build(dir.path(), &spec, &[]));
    assert!(said.contains("another part has this name on the key"), "{said}");

    // Within a platform, too.
    let mut files = platform_files(OLD, &support::probe(dir.path()), b"archive");
    files.push(("Etc/Note".to_owned(), Vec::new()));
    let path = dir.path().join("case.tgz");
    tarball(&path, "platform/", &files);
    let said = refused(&build(dir.path(), &json!({"platform": path}), &[]));
    assert!(said.contains("which are one name on the key"), "{said}");
}
