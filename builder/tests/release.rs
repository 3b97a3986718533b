//! What a release is made of: all formats of one build, and everything that goes with them. Needs what
//! `ci/setup --test` installs: minisign, bmap-tools, qemu-utils, xorriso, util-linux.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "support/smartos.rs"]
mod smartos;
#[path = "support/linux.rs"]
mod support;
#[path = "support/release.rs"]
mod surroundings;

use support::{PASSWORDS, Parts, run, text};
use surroundings::{ALL, MADE, files, good, headnode, key, output};

/// A zone's image.
const CNAPI: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const STEM: &str = "headnode-0.1.0-20260102T030405Z";

/// Builds all formats into a new folder below `dir`.
fn release(parts: &Parts, secret: &Path, dir: &Path, env: &[(&str, &str)]) -> PathBuf {
    surroundings::release(&parts.command(&output(dir)), secret, dir, &["env"], env)
}

#[test]
fn all_formats_are_the_same_whatever_surrounds_the_build() {
    let make = |dir: &Path| {
        Parts::within(dir, 1_000_000);
        Parts::command_on(dir, &output(dir))
    };
    surroundings::same_whatever_surrounds(make, STEM, &MADE);
}

#[test]
fn other_programs_agree_with_everything_that_is_made() {
    let (parts, dir) = (Parts::new(1_000_000), tempfile::tempdir().unwrap());
    let [secret, public] = key(dir.path());
    let out = release(&parts, &secret, dir.path(), &[]);
    let path = |end: &str| out.join(format!("{STEM}{end}"));
    let made = |end: &str| text(&path(end)).to_owned();
    for signed in [".img.manifest.json", ".iso.manifest.json", ".SHA256SUMS"] {
        run("minisign", &["-V", "-q", "-p", text(&public), "-m", &made(signed)]);
    }
    let sums = Command::new("sha256sum")
        .args(["--strict", "--quiet", "-c", &format!("{STEM}.SHA256SUMS")])
        .current_dir(&out)
        .status();
    assert!(sums.unwrap().success());
    let copy = dir.path().join("copy.img");
    run(
        "bmaptool",
        &[
            "-q",
            "copy",
            "--no-sig-verify",
            "--bmap",
            &made(".img.bmap"),
            &made(".img"),
            text(&copy),
        ],
    );
    run("cmp", &[text(&copy), &made(".img")]);
    for disk in [".qcow2", ".vmdk"] {
        run("qemu-img", &["check", "-q", &made(disk)]);
        run("qemu-img", &["compare", "-q", &made(disk), &made(".img")]);
    }
    run("qemu-img", &["check", "-q", &made("-zpool.vmdk")]);
    let machine = fs::read_to_string(path(".vmx")).unwrap();
    for (bus, end) in [("ide0:0", ".vmdk"), ("scsi0:0", "-zpool.vmdk")] {
        let line = format!("{bus}.fileName = \"{STEM}{end}\"\n");
        assert!(machine.contains(&line), "{machine}");
    }
    run("sgdisk", &["-v", &made(".iso")]);
    let disc = dir.path().join("disc");
    run("xorriso", &["-osirrox", "on", "-indev", &made(".iso"), "-extract", "/", text(&disc)]);
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    run("tar", &["-xzf", &made(".tgz"), "-C", text(&tree)]);
    for same in
        ["os/20260102t030405z/platform/x86_64/vmlinuz", "bundle/node.cpio.zst", ".joyliveusb"]
    {
        run("cmp", &[text(&disc.join(same)), text(&tree.join(same))]);
    }
    let served = dir.path().join("served");
    fs::create_dir(&served).unwrap();
    run("tar", &["-xzf", &made("-pxe.tgz"), "-C", text(&served)]);
    let sums = Command::new("sha256sum")
        .args(["--strict", "--quiet", "-c", "SHA256SUMS"])
        .current_dir(&served)
        .status();
    assert!(sums.unwrap().success());
    let script = fs::read_to_string(served.join("headnode.ipxe")).unwrap();
    assert!(script.contains("headnode.manifest=sha256:"), "{script}");
    // The key in the archive for the network is the key.
    let key = Command::new("sh")
        .args(["-c", "zstd -dc key.cpio.zst | cpio -idm --quiet && cat headnode-key/version"])
        .current_dir(&served)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&key.stdout), "0.1.0\n");

    for image in [".img", ".iso", ".qcow2", ".vmdk", "-pxe.tgz", ".tgz"] {
        let told = good(&["verify", "--deep", "--public-key", text(&public), &made(image)]);
        assert!(told.contains("whole"), "{told}");
        let told = good(&["inspect", "--json", &made(image)]);
        assert!(told.contains("20260102T030405Z"), "{image}: {told}");
    }
    let told = headnode(&["diff", &made(".img"), &made(".iso")]);
    assert!(told.status.code().is_some_and(|code| code < 2), "{told:?}");
    // A bit of the disc that belongs to no file.
    let mut bytes = fs::read(path(".iso")).unwrap();
    bytes[40_000] ^= 1;
    fs::write(path(".iso"), bytes).unwrap();
    assert_eq!(headnode(&["verify", &made(".iso")]).status.code(), Some(1));
}

#[test]
fn another_program_accepts_the_bill_of_all_that_a_build_takes_in() {
    let (parts, dir) = (Parts::new(1000), tempfile::tempdir().unwrap());
    // A spec that brings a zone's image.
    smartos::zone(dir.path(), "cnapi", CNAPI);
    let spec = dir.path().join("build.spec");
    fs::write(&spec, r#"{"zones": {"cnapi": {"source": "dir", "path": "."}}}"#).unwrap();
    let [lock, cache] = ["build.lock", "cache"].map(|name| dir.path().join(name));
    let places = ["--spec", text(&spec), "--lock", text(&lock), "--cache", text(&cache)];
    parts.build(&output(dir.path()), &[&places[..], &["--format", "tar"]].concat());
    let bill = output(dir.path()).join(format!("{STEM}.cdx.json"));
    let bill = surroundings::judged_bill(&bill);
    let listed = |begin: &str| {
        let parts = bill["components"].as_array().unwrap().iter();
        parts.filter(|part| part["bom-ref"].as_str().unwrap().starts_with(begin)).count()
    };
    assert_eq!((listed("deb:20260102T030405Z/"), listed(&format!("image:{CNAPI}"))), (2, 1));
    assert!(listed("crate:") > 100 && listed("program:") == 5 && listed("firmware:") > 3);
}

#[test]
fn no_password_is_in_anything_that_a_build_makes_or_says() {
    let (parts, dir) = (Parts::new(100_000), tempfile::tempdir().unwrap());
    let [secret, _] = key(dir.path());
    let out = release(&parts, &secret, dir.path(), &[("RUST_LOG", "trace")]);
    let mut made = files(&out);
    made.insert("what it said".to_owned(), fs::read(dir.path().join("said")).unwrap());
    // Packed content shows nothing to a search: it is looked at unpacked, too.
    let raw = dir.path().join("raw");
    let disk = out.join(format!("{STEM}.qcow2"));
    run("qemu-img", &["convert", "-O", "raw", text(&disk), text(&raw)]);
    made.insert("qcow2".to_owned(), fs::read(raw).unwrap());
    for (name, command) in [
        ("tgz", format!("gzip -dc '{STEM}.tgz'")),
        ("pxe", format!("gzip -dc '{STEM}-pxe.tgz'")),
        ("pxe key", format!("tar -xzOf '{STEM}-pxe.tgz' key.cpio.zst | zstd -dc")),
    ] {
        let unpacked =
            Command::new("sh").args(["-c", &command]).current_dir(&out).output().unwrap();
        assert!(!unpacked.stdout.is_empty(), "{command}: {unpacked:?}");
        made.insert(name.to_owned(), unpacked.stdout);
    }
    let contains = |bytes: &[u8], word: &str| {
        regex::bytes::Regex::new(&regex::escape(word)).unwrap().is_match(bytes)
    };
    for (name, bytes) in &made {
        for word in PASSWORDS {
            assert!(!contains(bytes, word), "{word} is in {name}");
        }
    }
    // The search does find what is there.
    for name in [&format!("{STEM}.img") as &str, "qcow2", "tgz", "pxe key"] {
        assert!(contains(&made[name], "root_password_hash"), "{name} has no answers");
    }
    let image = dir.path().join("clear.img");
    parts.build(&image, &["--clear-answers"]);
    assert!(contains(&fs::read(image).unwrap(), PASSWORDS[0]), "--clear-answers does nothing");
}

#[test]
fn several_formats_want_a_folder() {
    let parts = Parts::new(1000);
    let image = parts.dir.path().join("one.img");
    let result = parts.command(&image).args(["--format", "usb,iso"]).output().unwrap();
    assert_eq!(result.status.code(), Some(1));
    let said = String::from_utf8_lossy(&result.stderr);
    assert!(said.contains("one.img names one file") && said.contains("name a folder"), "{said}");
    assert!(!image.exists());
}

#[test]
fn a_locked_build_takes_what_is_pinned_and_nothing_else() {
    let parts = Parts::new(1000);
    let dir = parts.dir.path();
    let bits = dir.join("bits");
    fs::create_dir(&bits).unwrap();
    fs::write(bits.join("sdcadm-master-20260101T000000Z-g1.sh"), "#!/bin/bash\necho sdcadm\n")
        .unwrap();
    fs::write(dir.join("motd"), "hello\n").unwrap();
    let spec = dir.join("build.spec");
    let text_of_spec = serde_json::json!({
        "platform": "platform.tgz",
        "extra-files": {"extra/motd": "motd"},
        "files": {"sdcadm": {"source": "dir", "path": "bits", "file": {"base": "sdcadm", "ext": "sh"}}},
    });
    fs::write(&spec, text_of_spec.to_string()).unwrap();
    let (lock, cache) = (dir.join("build.lock"), dir.join("cache"));
    let fetch = ["--spec", text(&spec), "--lock", text(&lock), "--cache", text(&cache)];
    let build = |image: &Path, more: &[&str]| {
        let mut command = parts.command(image);
        command.args(fetch).args(more).output().unwrap()
    };
    let image = dir.join("a.img");
    let early = build(&image, &["--locked"]);
    assert!(String::from_utf8_lossy(&early.stderr).contains("headnode fetch"), "{early:?}");
    good(&[&["fetch"], &fetch[..]].concat());
    let done = build(&image, &["--locked"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let key = format!("{}@@{}", text(&image), 66 << 20);
    assert_eq!(run("mtype", &["-i", &key, "::/extra/motd"]), "hello\n");
    assert!(run("mtype", &["-i", &key, "::/sdcadm-install.sh"]).contains("echo sdcadm"));
    // A file that changed since it was pinned is refused.
    fs::write(dir.join("motd"), "other\n").unwrap();
    let changed = build(&image, &["--locked"]);
    assert_eq!(changed.status.code(), Some(1));
    let said = String::from_utf8_lossy(&changed.stderr);
    assert!(said.contains("extra-files.extra/motd"), "{said}");
}

#[test]
fn a_changed_bit_of_a_disk_is_found_wherever_it_is() {
    let (parts, dir) = (Parts::new(300_000), tempfile::tempdir().unwrap());
    let out = dir.path().join("out");
    parts.build(&out.join(""), &["--format", "qcow2,vmdk", "--size", "auto"]);
    for end in [".qcow2", ".vmdk"] {
        let path = out.join(format!("{STEM}{end}"));
        good(&["verify", text(&path)]);
        let whole = fs::read(&path).unwrap();
        let mut state = 7_u64;
        for _ in 0..12 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let place = (state >> 20) as usize % whole.len();
            let mut changed = whole.clone();
            changed[place] ^= 1 << (state >> 60 & 7);
            fs::write(&path, &changed).unwrap();
            let output = headnode(&["verify", text(&path)]);
            assert_eq!(output.status.code(), Some(1), "byte {place} of {end}: {output:?}");
        }
    }
}

#[test]
fn an_interrupted_build_leaves_nothing_or_all() {
    use std::io::{BufRead, BufReader};
    let (parts, dir) = (Parts::new(300_000), tempfile::tempdir().unwrap());
    let steps =
        ["Unpacking", "Laying out", "Writing the image", "Packing for", "Writing the records"];
    let all = MADE.iter().filter(|name| !name.ends_with(".minisig")).count();
    for (number, step) in steps.into_iter().enumerate() {
        let out = dir.path().join(format!("out-{number}"));
        let mut command = parts.command(&out.join(""));
        command.args(["--format", ALL]).stdout(std::process::Stdio::piped());
        let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.starts_with(step)), "the build has no step {step}");
        run("kill", &["-INT", &child.id().to_string()]);
        let said: Vec<String> = lines.collect();
        let status = child.wait().unwrap();
        let left = files(&out);
        match status.code() {
            // It was faster than the signal.
            Some(0) => assert_eq!(left.len(), all, "{said:?}"),
            Some(130) => {
                // The signal may come after the last step, when all is being moved to its place.
                assert!(left.is_empty() || left.len() == all, "{:?}", left.keys());
                assert!(said.last().unwrap().contains("interrupted"), "{said:?}");
            }
            other => panic!("{step}: {other:?}: {said:?}"),
        }
    }
}

#[test]
fn what_killed_builds_left_is_removed_and_living_ones_are_let_be() {
    let parts = Parts::new(1000);
    let out = parts.dir.path().join("out");
    for name in ["dead", "alive"] {
        let work = out.join(format!(".headnode-build-{name}"));
        fs::create_dir_all(&work).unwrap();
        fs::write(work.join("alive"), "").unwrap();
        fs::write(work.join("made-0"), "half an image").unwrap();
    }
    let alive = fs::File::open(out.join(".headnode-build-alive/alive")).unwrap();
    alive.lock().unwrap();
    parts.build(&out.join("a.img"), &[]);
    assert!(!out.join(".headnode-build-dead").exists());
    assert!(out.join(".headnode-build-alive/made-0").exists());
}
