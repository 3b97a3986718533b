//! Images from outside: what other programs say of them, and what the commands do with them.
//! Needs dosfstools, mtools, gdisk, GRUB's and iPXE's packages and util-linux, as `ci/setup` installs
//! them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use headnode::image::Content;
use headnode::image::fat::{Format, Plan};
use headnode::manifest::bmap::Bmap;
use proptest::prelude::*;

#[path = "support/linux.rs"]
mod support;

use support::{Parts, run, text};

const ROOT_OFFSET: u64 = 66 << 20;

fn headnode(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_headnode")).args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What other programs say of a disk.
fn in_order(image: &Path) {
    assert!(run("sgdisk", &["-v", text(image)]).contains("No problems found"));
    for (name, skip, size) in [("esp", 1, 64), ("root", 66, 576)] {
        let fat = image.with_extension(name);
        let mut from = fs::File::open(image).unwrap();
        from.seek(SeekFrom::Start(skip << 20)).unwrap();
        std::io::copy(&mut from.take(size << 20), &mut fs::File::create(&fat).unwrap()).unwrap();
        run("fsck.fat", &["-n", text(&fat)]);
    }
}

#[test]
fn a_disk_that_held_something_else_is_in_order_with_the_mapped_parts_only() {
    let parts = Parts::new(3_000_000);
    let dir = parts.dir.path();
    let (image, zeroes, disk) = (dir.join("a.img"), dir.join("zeroes"), dir.join("disk"));
    fs::write(&zeroes, vec![0; 500_000]).unwrap();
    let spec = dir.join("build.spec");
    fs::write(&spec, serde_json::json!({"extra-files": {"zeroes": zeroes}}).to_string()).unwrap();
    let (lock, cache) = (dir.join("build.lock"), dir.join("cache"));
    parts.build(&image, &["--spec", text(&spec), "--lock", text(&lock), "--cache", text(&cache)]);
    let size = fs::metadata(&image).unwrap().len();
    let mut old = fs::File::create(&disk).unwrap();
    std::io::copy(&mut std::io::repeat(0xa5).take(size), &mut old).unwrap();
    // As bmaptool does with a disk; it would empty a file first.
    let map = fs::read_to_string(format!("{}.bmap", text(&image))).unwrap();
    let mut from = fs::File::open(&image).unwrap();
    for range in Bmap::parse(&map).unwrap().ranges {
        from.seek(SeekFrom::Start(range.offset)).unwrap();
        old.seek(SeekFrom::Start(range.offset)).unwrap();
        std::io::copy(&mut (&mut from).take(range.length), &mut old).unwrap();
    }
    in_order(&disk);
    let key = format!("{}@@{ROOT_OFFSET}", text(&disk));
    run("mcopy", &["-n", "-i", &key, "::/zeroes", text(&dir.join("copied"))]);
    assert!(fs::read(dir.join("copied")).unwrap() == fs::read(&zeroes).unwrap());
    let mut bytes = fs::File::open(&disk).unwrap();
    bytes.seek(SeekFrom::Start(size - (40 << 20))).unwrap();
    let mut byte = [0];
    bytes.read_exact(&mut byte).unwrap();
    assert_eq!(byte, [0xa5], "free space is written as well");
}

#[test]
fn other_programs_find_the_image_in_order() {
    let parts = Parts::new(3_000_000);
    let image = parts.dir.path().join("a.img");
    parts.build(&image, &[]);
    in_order(&image);
    let key = format!("{}@@{ROOT_OFFSET}", text(&image));
    let listing = run("mdir", &["-b", "-/", "-i", &key, "::"]);
    for path in [
        "::/.joyliveusb",
        "::/os/20260102t030405z/platform/x86_64/vmlinuz",
        "::/private/answers.json",
        "::/bundle/headnode.cpio.zst",
        "::/boot/grub/grub.cfg",
    ] {
        assert!(listing.lines().any(|line| line == path), "{path} is not in\n{listing}");
    }
    assert!(!listing.contains("::/config\n"), "first boot writes it");
    let meta = fs::metadata(&image).unwrap();
    assert!(meta.blocks() * 512 < meta.len() / 10, "the image is not sparse");
    // The map of partitions tells what the table does, and which partition is what for illumos.
    let map = fs::read_to_string(parts.dir.path().join("a.partition.map")).unwrap();
    let lines: Vec<Vec<&str>> = map.lines().map(|line| line.split(' ').collect()).collect();
    for (number, (line, tag)) in (1..).zip(lines.iter().zip(["12", "1", "2"])) {
        let said = run("sgdisk", &["-i", &format!("{number}"), text(&image)]);
        let [first, last] = ["First sector: ", "Last sector: "].map(|word| {
            let rest = said.split(word).nth(1).unwrap_or_else(|| panic!("no {word} in\n{said}"));
            rest.split(' ').next().unwrap().parse::<u64>().unwrap()
        });
        let (offset, size) = (first * 512, (last + 1 - first) * 512);
        assert!(said.contains(&format!("Partition name: '{}'", line[0])), "{line:?}:\n{said}");
        assert_eq!(line[1..], [tag, &offset.to_string(), &size.to_string()], "{said}");
    }
    let table = run("sgdisk", &["-p", text(&image)]);
    let partitions = table.split("Name\n").nth(1).unwrap().lines().count();
    assert_eq!((lines.len(), map.ends_with('\n')), (partitions, true), "{table}");
    let inspected = stdout(&headnode(&["inspect", "--json", text(&image)]));
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["platforms"][0]["stamp"], "20260102T030405Z");
    assert_eq!(inspected["services"].as_array().unwrap().len(), 5);
    assert!(inspected["firmware"].as_array().unwrap().iter().all(|entry| entry["version"] != ""));
}

#[test]
fn a_second_platform_is_offered_for_rolling_back() {
    let parts = Parts::new(100_000);
    let dir = parts.dir.path();
    let file = fs::File::create(dir.join("old.tgz")).unwrap();
    let gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    for (path, content) in [
        ("platform/etc/version/platform", &b"20250101T000000Z\n"[..]),
        ("platform/x86_64/initrd", b"initrd"),
        ("platform/x86_64/vmlinuz", b"kernel"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, content).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap();
    let image = dir.join("a.img");
    parts.build(&image, &["--platform", text(&dir.join("old.tgz"))]);
    let key = format!("{}@@{ROOT_OFFSET}", text(&image));
    let menu = run("mtype", &["-i", &key, "::/boot/grub/grub.cfg"]);
    for line in [
        &format!(
            "# Menu of the headnode {}, platform 20260102T030405Z. Made by `headnode build`.",
            env!("CARGO_PKG_VERSION")
        ),
        "menuentry \"Roll back to platform 20250101T000000Z\" --id rollback {",
        "    initrd /os/20250101t000000z/platform/x86_64/initrd /bundle/headnode.cpio.zst",
    ] {
        assert!(menu.lines().any(|found| found == line), "{line} is not in\n{menu}");
    }
    let script = dir.join("grub.cfg");
    fs::write(&script, menu).unwrap();
    run("grub-script-check", &[text(&script)]);
}

#[test]
fn a_flipped_byte_is_found_and_named() {
    let parts = Parts::new(1_000_000);
    let image = parts.dir.path().join("a.img");
    parts.build(&image, &[]);
    let whole = headnode(&["verify", text(&image)]);
    assert!(whole.status.success(), "{}", stdout(&whole));
    // All that is searched for lies in the first MiBs of the key.
    let mut bytes = vec![0; 8 << 20];
    let mut file = fs::File::open(&image).unwrap();
    file.seek(SeekFrom::Start(ROOT_OFFSET)).unwrap();
    file.read_exact(&mut bytes).unwrap();
    let find = |needle: &[u8]| {
        let at = bytes.windows(needle.len()).position(|window| window == needle);
        at.unwrap() as u64 + ROOT_OFFSET
    };
    let from_tarball = {
        let file = fs::File::open(parts.dir.path().join("platform.tgz")).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
        let mut initrd = Vec::new();
        let mut entries = archive.entries().unwrap().map(Result::unwrap);
        let mut entry = entries.find(|e| e.path_bytes().ends_with(b"initrd")).unwrap();
        entry.read_to_end(&mut initrd).unwrap();
        initrd
    };
    let initrd_at = find(&from_tarball[..64]) + 500_000;
    for (at, named) in [
        (initrd_at, "os/20260102t030405z/platform/x86_64/initrd"),
        (find(b"menuentry"), "boot/grub/grub.cfg"),
        (find(b"\"format\": 1"), "manifest.json"),
        (600, "partition table"),
        ((65 << 20) + 5000, "boot:"),
        (ROOT_OFFSET + (400 << 20), "partition 3 (root)"),
    ] {
        let flip = |mask: u8| {
            let mut file = fs::File::options().read(true).write(true).open(&image).unwrap();
            let mut byte = [0];
            file.seek(SeekFrom::Start(at)).unwrap();
            file.read_exact(&mut byte).unwrap();
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&[byte[0] ^ mask]).unwrap();
        };
        flip(0x10);
        let output = headnode(&["verify", text(&image)]);
        flip(0x10);
        assert_eq!(output.status.code(), Some(1));
        let said = stdout(&output);
        let line = said.lines().find(|line| line.starts_with("damaged: ")).unwrap();
        assert!(line.contains(named), "byte {at}: {said}");
    }
    // Without a manifest beside it, the key's own one is what there is.
    fs::remove_file(parts.dir.path().join("a.img.manifest.json")).unwrap();
    let output = headnode(&["verify", text(&image)]);
    assert!(output.status.success() && stdout(&output).contains("own manifest"));
}

#[test]
fn compressed_images_are_verified_too() {
    let parts = Parts::new(500_000);
    for (compress, name) in [("zstd", "a.img.zst"), ("gzip", "a.img.gz")] {
        let image = parts.dir.path().join(name);
        parts.build(&image, &["--compress", compress]);
        assert!(fs::metadata(&image).unwrap().len() < 20 << 20);
        let output = headnode(&["verify", "--json", text(&image)]);
        let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert!(output.status.success(), "{report}");
        assert!(report["manifest"].as_str().unwrap().ends_with("a.img.manifest.json"));
        // What unpacks to more than the manifest's size is given up, however much it would be.
        let packer = if compress == "zstd" { "zstd -q" } else { "gzip -1" };
        let append = format!("head -c 3G /dev/zero | {packer} -c >> \"$0\"");
        let done = Command::new("sh").args(["-c", &append]).arg(&image).status().unwrap();
        assert!(done.success());
        let output = headnode(&["verify", text(&image)]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("larger than the"), "{said}");
    }
}

#[test]
fn a_full_disk_gives_one_clear_line() {
    let parts = Parts::new(12_000_000);
    let mount = parts.dir.path().join("small");
    fs::create_dir(&mount).unwrap();
    let command = parts.command(&mount.join("a.img"));
    let script = format!(
        "mount -t tmpfs -o size=24m none '{mount}' && cd / && \"$@\"; code=$?; ls -A '{mount}'; exit $code",
        mount = text(&mount)
    );
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"])
        .arg(command.get_program())
        .args(command.get_args())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<_> = said.lines().filter(|line| line.starts_with("headnode: ")).collect();
    assert_eq!(errors.len(), 1, "{said}");
    assert!(errors[0].contains("is full") && errors[0].contains(text(&mount)), "{said}");
    assert_eq!(stdout(&output), "", "something was left behind");
}

#[test]
fn everything_that_is_missing_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_headnode"))
        .args(["build", "--platform", "/nonexistent.tgz", "--answers", "/no-answers.json"])
        .current_dir(dir.path())
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for word in [
        "grub-mkimage",
        "/nonexistent.tgz",
        "--runtime-dir",
        "--overlays",
        "--firmware",
        "/no-answers.json",
        "apt-get install grub-common",
    ] {
        assert!(said.contains(word), "{word} is not in\n{said}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something was left behind");
}

fn names() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        "[a-z]{1,8}(\\.[a-z]{1,3})?",
        "[A-Z0-9]{1,8}",
        "[a-zA-Z0-9._ +-]{1,40}",
        "[a-zäéß ]{1,12}",
    ];
    name.prop_filter("a name for FAT", |name| headnode::image::fat::names::refuse(name).is_none())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn personal_parts_have_their_places_in_any_tree(
        sizes in proptest::collection::vec(0usize..40_000, 0..30),
        slots in 1usize..5,
        start in 0u32..4,
        sectors in prop_oneof![Just(69_000u64), Just(300_000), Just(1_300_000)],
    ) {
        let mut files: Vec<(String, Content)> = sizes
            .iter()
            .enumerate()
            .map(|(at, size)| (format!("{at}/file"), vec![at as u8; *size].into()))
            .collect();
        let slot = |at: usize| vec![b'a' + at as u8; headnode_model::personal::SIZE];
        files.extend((0..slots).map(|at| (format!("{at}/slot"), Content::Personal(slot(at).into()))));
        let hidden = start * 128;
        let format = |hidden| Format { label: "TEST".into(), id: 1, sectors, hidden, time: 0 };
        let plan = Plan::new(format(hidden), files.clone()).unwrap();
        for (path, offset, _) in plan.places().filter(|(path, ..)| path.ends_with("slot")) {
            let on_disk = offset + u64::from(hidden) * 512;
            prop_assert!(on_disk.is_multiple_of(64 << 10), "{} at {}", path, on_disk);
        }
        let mut bytes = Vec::new();
        plan.write(&mut bytes).unwrap();
        prop_assert_eq!(bytes.len() as u64, sectors * 512);
        let dir = tempfile::tempdir().unwrap();
        let (fat, out) = (dir.path().join("fat"), dir.path().join("out"));
        fs::write(&fat, &bytes).unwrap();
        run("fsck.fat", &["-n", text(&fat)]);
        fs::create_dir(&out).unwrap();
        run("mcopy", &["-s", "-n", "-Q", "-i", text(&fat), "::*", text(&out)]);
        for (path, content) in &files {
            let mut expected = Vec::new();
            content.open().unwrap().read_to_end(&mut expected).unwrap();
            prop_assert!(fs::read(out.join(path)).unwrap() == expected, "{}", path);
        }
        // A volume that begins within a cluster cannot have them.
        if plan.geometry().cluster > 1 {
            let refused = Plan::new(format(hidden + 1), files).map(|_| ()).unwrap_err().to_string();
            prop_assert!(refused.contains("multiple of 64 KiB"), "{}", refused);
        }
    }

    #[test]
    fn a_random_tree_is_read_back_by_mtools(
        tree in proptest::collection::vec(
            (proptest::collection::vec(names(), 1..4), 0usize..9000), 0..60),
        sectors in prop_oneof![Just(69_000u64), Just(300_000)],
    ) {
        // Of names that are one on FAT, or file and folder at once, the first is kept.
        let mut kept: BTreeMap<String, (String, usize)> = BTreeMap::new();
        let mut spelled: BTreeMap<String, String> = BTreeMap::new();
        for (parts, size) in tree {
            let path = parts.join("/");
            let folded = path.to_uppercase();
            let prefixes = |text: &str| -> Vec<String> {
                text.match_indices('/').map(|(at, _)| text[..at].to_owned()).collect()
            };
            let clash = kept.contains_key(&folded)
                || prefixes(&folded).iter().any(|prefix| kept.contains_key(prefix))
                || kept.keys().any(|other| other.starts_with(&format!("{folded}/")))
                || prefixes(&path).iter().any(|prefix| {
                    spelled.get(&prefix.to_uppercase()).is_some_and(|known| known != prefix)
                });
            if !clash {
                for prefix in prefixes(&path) {
                    spelled.insert(prefix.to_uppercase(), prefix);
                }
                kept.insert(folded, (path, size));
            }
        }
        let files: Vec<(String, Content)> = kept
            .values()
            .enumerate()
            .map(|(index, (path, size))| (path.clone(), vec![index as u8; *size].into()))
            .collect();
        let format =
            Format { label: "TEST".into(), id: 1, sectors, hidden: 0, time: 1_767_225_600 };
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = Vec::new();
        Plan::new(format, files.clone()).unwrap().write(&mut bytes).unwrap();
        prop_assert_eq!(bytes.len() as u64, sectors * 512);
        let fat: PathBuf = dir.path().join("fat");
        fs::write(&fat, &bytes).unwrap();
        run("fsck.fat", &["-n", text(&fat)]);
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        if !files.is_empty() {
            run("mcopy", &["-s", "-n", "-Q", "-i", text(&fat), "::*", text(&out)]);
        }
        for (path, content) in &files {
            let mut expected = Vec::new();
            content.open().unwrap().read_to_end(&mut expected).unwrap();
            let found = fs::read(out.join(path));
            prop_assert!(found.as_ref().is_ok_and(|found| *found == expected), "{}", path);
        }
    }
}
