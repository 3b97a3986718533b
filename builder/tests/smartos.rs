//! Images that boot SmartOS, looked at with other people's tools: dosfstools, mtools, gdisk.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/smartos.rs"]
mod support;

use std::fs;

use headnode::assemble;
use headnode::boot::smartos;
use headnode::cli::progress::Steps;
use headnode::image::Content;
use headnode::source::platform::multiboot::Headers;
use headnode::spec::{Console, Spec};
use support::{
    PASSWORD, build, built, fsck, hex, loader, manifest, noise, on_fat, platform, platform_files,
    run, tarball, text, verify,
};

const NEW: &str = "20260101T000000Z";
const OLD: &str = "20250601T120000Z";
/// Where the key begins with GRUB.
const GRUB_ROOT: u64 = 66 << 20;

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
        "::/boot/ipxe.lkrn",
        "::/boot/ipxe.efi",
        "::/boot/default.ipxe",
    ] {
        assert!(names.contains(&name), "{name} is not in\n{listing}");
    }
    assert_eq!(names.iter().filter(|name| name.contains("password")).count(), 2);
    // How SmartOS finds the key (C§1.4 e): no version of GRUB 1, the layout with a GPT, the third
    // partition a FAT file system with the marker.
    let sector = support::bytes_at(&image, 0, 512);
    assert_eq!((&sector[0x3e..0x40], &sector[0xfa..0xfc]), (&[0, 0][..], &[2, 0][..]));
    assert_eq!(sector[510..], [0x55, 0xaa]);
    let third = run("sgdisk", &["-i", "3", text(&image)]);
    assert!(third.contains(&format!("First sector: {} ", GRUB_ROOT / 512)), "{third}");
    assert!(!names.contains(&"::/config"), "first boot writes it");
    let os = "/os/20260101t000000z/platform";
    assert_eq!(on_fat(&image, GRUB_ROOT, &format!("{os}/i86pc/amd64/boot_archive")), archive);
    let password = on_fat(&image, GRUB_ROOT, "/private/root.password.20260101t000000z");
    assert_eq!(password, format!("{PASSWORD}\n").into_bytes());

    let menu = String::from_utf8(on_fat(&image, GRUB_ROOT, "/boot/grub/grub.cfg")).unwrap();
    for line in [
        "    start 20260101t000000z efi hash -B headnode=true,smt_enabled=true,console=$port",
        "    start 20260101t000000z efi hash -B headnode=true,smt_enabled=true,console=text",
        "    start 20250601t120000z efi hash -B headnode=true,smt_enabled=true,console=$console",
        "    start 20260101t000000z efi nohash -B headnode=true,smt_enabled=true,console=$console,noimport=true",
        "    start 20260101t000000z efi hash -v -B headnode=true,smt_enabled=true,console=$console",
        "    start 20260101t000000z efi hash -k -d -B headnode=true,smt_enabled=true,console=$console",
        "menuentry \"Roll back to 20250601T120000Z\" --id rollback {",
        "set console=ttyb",
        "set port=ttyb",
        "set unit=1",
        "if serial --unit=$unit --speed=115200; then",
        // Unlike Triton's fresh key: nothing changes this menu when the headnode is set up.
        "set default=serial",
        "menuentry \"Compute node: boot from the network\" --id network {",
        "        linux16 /boot/ipxe.lkrn",
        "        chainloader /boot/ipxe.efi",
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
fn the_probe_is_a_kernel_for_others_too_and_always_the_same() {
    let [one, other] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let probe = support::probe(one.path());
    assert!(probe == support::probe(other.path()), "two builds differ");
    assert_eq!(probe[..5], *b"\x7fELF\x02", "it is a 64-bit ELF file, as unix is");
    let file = one.path().join("probe");
    run("grub-file", &["--is-x86-multiboot", text(&file)]);
    run("grub-file", &["--is-x86-multiboot2", text(&file)]);
    assert_eq!(Headers::find(&probe), Headers { one: true, two: true });
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

#[test]
fn a_release_engineer_s_wishes_reach_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = support::probe(dir.path());
    let first = platform(dir.path(), OLD, &kernel, &noise(1, 100_000));
    let named = platform(dir.path(), NEW, &kernel, &noise(2, 100_000));
    // A platform for compute nodes: it is on board, but not in the menu.
    let linux = dir.path().join("linux.tgz");
    let file = |name: &str, content: &[u8]| (name.to_owned(), content.to_vec());
    let files = [
        file("x86_64/vmlinuz", b"kernel"),
        file("x86_64/initrd", b"initrd"),
        file("etc/version/platform", b"20260202T000000Z\n"),
    ];
    tarball(&linux, "platform/", &files);
    let script = dir.path().join("headnode.sh");
    fs::write(&script, "#!/bin/bash\n").unwrap();
    let own = dir.path().join("generic");
    fs::write(&own, "# own\n").unwrap();
    let tree = support::tree();
    let image = dir.path().join("a.img");
    let spec = Spec {
        platform: vec![first, named, linux],
        overlays: Some(tree.join("overlays")),
        firmware: Some(tree.join("firmware/catalogue.toml")),
        output: Some(image.clone()),
        console: Some(Console::Vga),
        ..Spec::default()
    };
    let mut inputs = assemble::inputs(spec, Vec::new()).unwrap();
    inputs.default_platform = Some(NEW.parse().unwrap());
    inputs.extra = [("scripts/Headnode.sh", script), ("config.inc/generic", own)]
        .map(|(path, file)| (path.to_owned(), Content::of_file(file).unwrap()))
        .to_vec();
    let property = |name: &str, value: &str| smartos::Property {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    inputs.smartos.properties =
        vec![property("hostname", "headnode1"), property("aggr0_aggr", "00:01,00:02")];
    let work = dir.path().join("work");
    fs::create_dir(&work).unwrap();
    assemble::build(&inputs, dir.path(), &work, &mut Steps::new(true)).unwrap();

    let menu = String::from_utf8(on_fat(&image, GRUB_ROOT, "/boot/grub/grub.cfg")).unwrap();
    let start = "start 20260101t000000z efi hash -B headnode=true,smt_enabled=true,\
        hostname=headnode1,console=text";
    assert!(menu.contains(start), "{menu}");
    assert!(menu.contains("\nset default=vga\nset console=text\n"), "{menu}");
    assert!(menu.contains("Roll back to 20250601T120000Z"), "{menu}");
    assert!(!menu.to_lowercase().contains("20260202t000000z"), "{menu}");
    let environment = on_fat(&image, GRUB_ROOT, "/boot/smartos.env");
    assert!(environment.ends_with(b"-\0aggr0_aggr=00:01,00:02\0"), "{environment:?}");
    assert_eq!(on_fat(&image, GRUB_ROOT, "/scripts/headnode.sh"), b"#!/bin/bash\n");
    assert_eq!(on_fat(&image, GRUB_ROOT, "/config.inc/generic"), b"# own\n");
    let os = "/os/20260202t000000z/platform/x86_64";
    assert_eq!(on_fat(&image, GRUB_ROOT, &format!("{os}/vmlinuz")), b"kernel");
    let platforms = manifest(&image)["platforms"].clone();
    let listed: Vec<_> = platforms.as_array().unwrap().iter().map(|p| &p["os"]).collect();
    assert_eq!(listed, ["smartos", "smartos", "linux"]);

    inputs.default_platform = Some("20200101T000000Z".parse().unwrap());
    let work = dir.path().join("again");
    fs::create_dir(&work).unwrap();
    let error = assemble::build(&inputs, dir.path(), &work, &mut Steps::new(true));
    let error = error.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("20200101T000000Z is to boot, but it is not given"), "{error}");
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
