//! What Triton's own headnode has on its key (C§1.10), from a checkout of its repository. Needs mtools,
//! coreutils, xorriso and git, as `ci/setup` installs them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/smartos.rs"]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use support::{hex, loader, noise, on_fat, platform, run, text};

const STAMP: &str = "20260101T000000Z";
const CNAPI: &str = "aaaaaaaa-0000-4000-8000-000000000001";
/// Where the key begins with the illumos loader, and with GRUB.
const ILLUMOS_ROOT: u64 = 528_384 * 512;
const GRUB_ROOT: u64 = 66 << 20;

/// What `make` makes in a checkout: Triton's repository does not hold it.
const TOOLS: [&str; 2] = ["tools.tar.gz", "cn_tools.tar.gz"];

/// A checkout in which `make` was run for [`TOOLS`]: files as Triton's repository has them, those, and
/// more that is not for keys.
fn checkout(dir: &Path) -> PathBuf {
    let root = dir.join("sdc-headnode");
    for (path, text) in [
        ("scripts/prompt-config.sh", "#!/usr/bin/bash\n# prompts\n"),
        ("scripts/headnode.sh", "#!/usr/bin/bash\n# sets up\n"),
        ("scripts/sdc-init.js", "#!/usr/node/bin/node\n"),
        ("scripts/update-usbkey.0.esp.sh", "#!/usr/bin/bash\n"),
        ("default/user-script.common", "#!/usr/bin/bash\n# zones\n"),
        ("zones/assets/create.json", "{\"alias\": \"assets0\"}\n"),
        ("zones/sapi/create.json", "{\"alias\": \"sapi0\"}\n"),
        ("zones/cnapi/backup", "#!/usr/bin/bash\n"),
        ("config/banner", "Welcome\n"),
        ("config/config.inc/generic", "initial_script=scripts/headnode.sh\n"),
        ("config/config.inc/.do-not-delete-me", ""),
        ("config/sapi/application.json", "{\"name\": \"sdc\", \"metadata\": {}}\n"),
        (
            "config/sapi/services/cnapi/service.json",
            "{\"params\": {\"image_uuid\": \"IMAGE_UUID\"}}\n",
        ),
        ("config/sapi/manifests/applications/sdc/registrar/template", "x\n"),
        ("manifests/gz-tools.manifest.tmpl", "for another build\n"),
        ("boot/forth/menu.rc", "\\ menu\n"),
        ("boot/loader.conf.tmpl", "for another build\n"),
        ("LICENSE", "MPL\n"),
        ("Makefile", "all:\n"),
        ("tools.tar.gz", "tools"),
        ("cn_tools.tar.gz", "cn tools"),
    ] {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        // As a checkout by somebody whose files nobody may run.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    root
}

/// A build by a spec into the file `name`.
fn build(dir: &Path, name: &str, spec: &Value, args: &[&str]) -> Output {
    let file = dir.join("build.spec");
    fs::write(&file, spec.to_string()).unwrap();
    let (lock, cache) = (dir.join("build.lock"), dir.join("cache"));
    let places = ["--spec", text(&file), "--lock", text(&lock), "--cache", text(&cache)];
    support::build(&dir.join(name), &[&places[..], args].concat())
}

/// A build that must succeed; what it said.
fn built(dir: &Path, name: &str, spec: &Value, args: &[&str]) -> String {
    let result = build(dir, name, spec, args);
    let said = String::from_utf8_lossy(&result.stderr).into_owned();
    assert!(result.status.success(), "{said}");
    said
}

/// A spec with every part that a key of Triton's is made of, but the checkout.
fn parts(dir: &Path) -> Value {
    let platform = platform(dir, STAMP, &support::probe(dir), &noise(1, 100_000));
    let (boot, ..) = loader(dir);
    let bits = dir.join("bits");
    fs::create_dir(&bits).unwrap();
    support::zone(&bits, "cnapi", CNAPI);
    for name in ["sdcadm-master-20260101T000000Z-g1.sh", "agents-master-20260101T000000Z-g1.sh"] {
        fs::write(bits.join(name), "#!/bin/bash\n").unwrap();
    }
    fs::write(bits.join("agents-master-20260101T000000Z-g1.md5sum"), "sum\n").unwrap();
    fs::write(dir.join("networking.json"), "{}\n").unwrap();
    fs::write(dir.join("answers.json"), "{\"root_password\": \"in-clear\"}\n").unwrap();
    let part = |base: &str, ext: &str| json!({"source": "dir", "path": bits, "file": {"base": base, "ext": ext}});
    json!({
        "platform": platform, "boot": boot, "no-rabbit": true, "answer-file": "answers.json",
        "extra-files": {"boot/networking.json": "networking.json"},
        "zones": {"cnapi": {"source": "dir", "path": bits}},
        "files": {
            "sdcadm": part("sdcadm", "sh"),
            "agents": part("agents", "sh"),
            "agents_md5": part("agents", "md5sum"),
        },
    })
}

#[test]
fn one_checkout_brings_all_that_triton_s_key_has() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut spec = parts(dir);
    spec["sdc-headnode"] = json!(checkout(dir));
    let said = built(dir, "a.img", &spec, &["--clear-answers"]);
    assert!(!said.contains("WARN"), "{said}");
    let image = dir.join("a.img");
    let key = dir.join("key");
    fs::create_dir(&key).unwrap();
    let at = format!("{}@@{ILLUMOS_ROOT}", text(&image));
    run("mcopy", &["-s", "-n", "-Q", "-i", &at, "::/", text(&key)]);
    // Every row of C§1.10, but for first boot's `config`.
    let os = "os/20260101t000000z/platform";
    let images = [format!("images/{CNAPI}.imgmanifest"), format!("images/{CNAPI}.imgfile")];
    let platform = [
        "i86pc/kernel/amd64/unix",
        "i86pc/amd64/boot_archive",
        "i86pc/amd64/boot_archive.hash",
        "i86pc/amd64/boot_archive.manifest",
        "i86pc/amd64/boot_archive.gitstatus",
        "etc/version/platform",
    ]
    .map(|path| format!("{os}/{path}"));
    for path in images.iter().chain(&platform).map(String::as_str).chain([
        ".joyliveusb",
        "boot/loader.conf",
        "boot/loader",
        "boot/forth/menu.rc",
        "boot/ipxe.lkrn",
        "boot/ipxe.efi",
        "boot/default.ipxe",
        "boot/networking.json",
        "etc/version/boot",
        "private/root.password.20260101t000000z",
        "private/answers.json",
        "config.inc/generic",
        "scripts/prompt-config.sh",
        "scripts/headnode.sh",
        "scripts/sdc-init.js",
        "scripts/update-usbkey.0.esp.sh",
        "zones/cnapi/image",
        "zones/cnapi/backup",
        "zones/assets/create.json",
        "zones/sapi/create.json",
        "services/cnapi/service.json",
        "application.json",
        "manifests/applications/sdc/registrar/template",
        "default/user-script.common",
        "tools.tar.gz",
        "cn_tools.tar.gz",
        "sdcadm-install.sh",
        "ur-scripts/agents-master-20260101t000000z-g1.sh",
        "ur-scripts/agents-master-20260101t000000z-g1.md5sum",
        "banner",
        "version",
        "license",
        "usb_key.manifest",
        "boot_archive.manifest",
    ]) {
        assert!(key.join(path).is_file(), "{path} is not on the key");
    }
    for path in ["config", "makefile", "boot/loader.conf.tmpl", "manifests/gz-tools.manifest.tmpl"]
    {
        assert!(!key.join(path).exists(), "{path} is on the key");
    }
    let content = |path: &str| fs::read_to_string(key.join(path)).unwrap();
    assert_eq!(
        content("config.inc/generic"),
        "initial_script=scripts/headnode.sh\nUSE_SAPI=\"true\"\n"
    );
    assert!(content("services/cnapi/service.json").contains(CNAPI));
    assert!(content("application.json").contains("\"no_rabbit\": true"));
    assert_eq!(content("boot/forth/menu.rc"), "\\ menu\n");
    assert_eq!(content("boot_archive.manifest"), "f / 0755 root root\n");
    // Another program agrees with the list, which tells nothing of what is private.
    let list = content("usb_key.manifest");
    run(
        "sh",
        &["-euc", "cd \"$1\"; md5sum --strict --quiet -c usb_key.manifest", "sh", text(&key)],
    );
    assert!(list.contains("  ./scripts/headnode.sh\n") && !list.contains("private/"), "{list}");
    assert!(list.lines().count() > 40, "{list}");
    let manifest = support::manifest(&image);
    let listed = |path: &str| {
        let files = manifest["files"].as_array().unwrap().iter();
        files.filter(|file| file["path"] == path).count()
    };
    assert_eq!((listed("usb_key.manifest"), listed("scripts/headnode.sh")), (1, 1));
    support::verify(&image);
    // What went in is told, and pinned.
    let provenance = fs::read_to_string(dir.join("a.provenance.json")).unwrap();
    assert!(provenance.contains("local.sdc-headnode.scripts/headnode.sh"), "{provenance}");
    fs::write(dir.join("sdc-headnode/scripts/headnode.sh"), "changed\n").unwrap();
    let result = build(dir, "a.img", &spec, &["--clear-answers", "--locked"]);
    let said = String::from_utf8_lossy(&result.stderr);
    assert_eq!(result.status.code(), Some(1), "{said}");
    assert!(said.contains("local.sdc-headnode.scripts/headnode.sh"), "{said}");
}

#[test]
fn scripts_may_be_run_from_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut spec = parts(dir);
    spec["sdc-headnode"] = json!(checkout(dir));
    let out = dir.join("out");
    built(dir, "out/", &spec, &["--clear-answers", "--format", "iso,tar"]);
    let stem = format!("headnode-0.1.0-{STAMP}");
    let unpacked = dir.join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    run("tar", &["-xpzf", text(&out.join(format!("{stem}.tgz"))), "-C", text(&unpacked)]);
    let disc = dir.join("disc");
    let iso = out.join(format!("{stem}.iso"));
    run("xorriso", &["-osirrox", "on", "-indev", text(&iso), "-extract", "/scripts", text(&disc)]);
    for folder in [unpacked.join("scripts"), disc] {
        for name in ["prompt-config.sh", "headnode.sh", "sdc-init.js"] {
            let mode = fs::metadata(folder.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o555, 0o555, "{}/{name}: {mode:o}", folder.display());
        }
    }
    // A disc's list is of what is on the disc.
    let whole = dir.join("whole");
    run("xorriso", &["-osirrox", "on", "-indev", text(&iso), "-extract", "/", text(&whole)]);
    let sums = "cd \"$1\"; md5sum --strict --quiet -c usb_key.manifest";
    run("sh", &["-euc", sums, "sh", text(&whole)]);
    run("sh", &["-euc", sums, "sh", text(&unpacked)]);
}

#[test]
fn a_tarball_of_a_checkout_is_as_good_as_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let platform = platform(dir, STAMP, &support::probe(dir), &noise(1, 100_000));
    let root = checkout(dir);
    // Links that are not for keys lead where they like.
    fs::create_dir(root.join("deps")).unwrap();
    std::os::unix::fs::symlink("/nonexistent/x", root.join("deps/x")).unwrap();
    // As git's archives are, and as folders that were packed from within.
    let named = dir.join("named.tgz");
    run("tar", &["-czf", text(&named), "-C", text(dir), "sdc-headnode"]);
    let plain = dir.join("plain.tgz");
    run("tar", &["-czf", text(&plain), "-C", text(&root), "."]);
    let mut digests = Vec::new();
    for source in [&root, &named, &plain] {
        let spec = json!({"platform": platform, "sdc-headnode": source});
        let said = built(dir, "a.tgz", &spec, &["--format", "tar"]);
        assert!(!said.contains("WARN"), "{said}");
        digests.push(hex(&fs::read(dir.join("a.tgz")).unwrap()));
        fs::remove_file(dir.join("build.lock")).unwrap();
    }
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0], digests[2]);
    // GRUB has no use for the other loader's menu.
    let names = run("tar", &["-tzf", text(&dir.join("a.tgz"))]);
    assert!(names.contains("scripts/headnode.sh\n") && !names.contains("menu.rc"), "{names}");
}

#[test]
fn links_of_a_tarball_that_only_a_folder_can_follow_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let platform = platform(dir, STAMP, &support::probe(dir), &noise(1, 100_000));
    let root = checkout(dir);
    let tarball = dir.join("a-checkout.tgz");
    // A folder, and a file that is not for keys by itself.
    for (link, target) in [("zones/assets2", "assets"), ("scripts/all.mk", "../Makefile")] {
        let path = root.join(link);
        std::os::unix::fs::symlink(target, &path).unwrap();
        let mut spec = json!({"platform": platform, "sdc-headnode": tarball});
        run("tar", &["-czf", text(&tarball), "-C", text(dir), "sdc-headnode"]);
        let result = build(dir, "a.tgz", &spec, &["--format", "tar"]);
        let said = String::from_utf8_lossy(&result.stderr);
        assert_eq!(result.status.code(), Some(1), "{said}");
        for words in [link, target, "links to folders, and to what is not taken", "name the folder"]
        {
            assert!(said.contains(words), "{words}: {said}");
        }
        spec["sdc-headnode"] = json!(root);
        built(dir, "a.tgz", &spec, &["--format", "tar"]);
        let names = run("tar", &["-tzf", text(&dir.join("a.tgz"))]);
        assert!(
            names.contains(&format!("{link}\n")) || names.contains(&format!("{link}/")),
            "{names}"
        );
        fs::remove_file(&path).unwrap();
        fs::remove_file(dir.join("build.lock")).unwrap();
    }
}

#[test]
fn a_key_without_triton_s_scripts_is_built_and_that_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let platform = platform(dir, STAMP, &support::probe(dir), &noise(1, 100_000));
    let said = built(dir, "a.tgz", &json!({"platform": platform}), &["--format", "tar"]);
    let lacks = "the key lacks scripts/prompt-config.sh and scripts/headnode.sh";
    assert!(said.contains(lacks) && said.contains("sdc-headnode"), "{said}");
    assert!(said.contains("It lacks tools.tar.gz and cn_tools.tar.gz, too. "), "{said}");
    let script = dir.join("script");
    fs::write(&script, "#!/bin/bash\n").unwrap();
    let files = json!({"scripts/prompt-config.sh": script});
    let spec = json!({"platform": platform, "extra-files": files});
    let said = built(dir, "a.tgz", &spec, &["--format", "tar"]);
    assert!(said.contains("the key lacks scripts/headnode.sh:"), "{said}");
}

#[test]
fn a_checkout_in_which_nothing_was_made_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let platform = platform(dir, STAMP, &support::probe(dir), &noise(1, 100_000));
    let root = checkout(dir);
    for name in TOOLS {
        fs::rename(root.join(name), dir.join(name)).unwrap();
    }
    let mut spec = json!({"platform": platform, "sdc-headnode": root});
    let said = built(dir, "a.tgz", &spec, &["--format", "tar"]);
    let lacks = "the key lacks tools.tar.gz and cn_tools.tar.gz: ";
    assert!(said.contains(lacks) && said.contains("`make tools.tar.gz cn_tools.tar.gz`"), "{said}");
    assert_eq!(said.matches("WARN").count(), 1, "{said}");
    // Given in one of the other ways.
    let part = |name: &str| json!({"source": "dir", "path": dir.join(name)});
    spec["files"] = json!({"tools": part(TOOLS[0]), "cn_tools": part(TOOLS[1])});
    let said = built(dir, "a.tgz", &spec, &["--format", "tar"]);
    assert!(!said.contains("WARN"), "{said}");
}

#[test]
fn what_is_named_by_itself_wins_over_the_checkout() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let platform = platform(dir, STAMP, &support::probe(dir), &noise(1, 100_000));
    let root = checkout(dir);
    let keys = dir.join("keys");
    fs::write(&keys, "ssh-ed25519 AAAA one\n").unwrap();
    fs::write(root.join("config/config.inc/root.authorized_keys"), "ssh-ed25519 BBBB two\n")
        .unwrap();
    let sapi = dir.join("sapi");
    for part in ["services", "manifests"] {
        fs::create_dir_all(sapi.join(part)).unwrap();
    }
    fs::write(sapi.join("application.json"), "{\"name\": \"own\"}").unwrap();
    let own = dir.join("own");
    fs::write(&own, "own\n").unwrap();
    let spec = json!({
        "platform": platform, "sdc-headnode": root, "sapi-config": sapi, "authorized-keys": keys,
        "extra-files": {"scripts/headnode.sh": own, "usb_key.manifest": own},
    });
    built(dir, "a.img", &spec, &[]);
    let image = dir.join("a.img");
    let content =
        |path: &str| String::from_utf8(on_fat(&image, GRUB_ROOT, path)).unwrap().trim().to_owned();
    assert_eq!(content("/scripts/headnode.sh"), "own");
    assert_eq!(content("/usb_key.manifest"), "own");
    assert!(content("/application.json").contains("own"));
    assert_eq!(content("/config.inc/root.authorized_keys"), "ssh-ed25519 AAAA one");
    let listing = run("mdir", &["-b", "-/", "-i", &format!("{}@@{GRUB_ROOT}", text(&image)), "::"]);
    assert!(!listing.contains("services/cnapi"), "{listing}");
}

#[test]
fn what_is_no_checkout_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let platform = platform(dir, STAMP, &support::probe(dir), &noise(1, 100_000));
    let empty = dir.join("empty");
    fs::create_dir(&empty).unwrap();
    let cut = dir.join("cut.tgz");
    run("tar", &["-czf", text(&cut), "-C", text(&checkout(dir)), "."]);
    let whole = fs::read(&cut).unwrap();
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let linux = dir.join("linux.tgz");
    support::tarball(&linux, "platform/", &[("x86_64/vmlinuz".to_owned(), Vec::new())]);
    for (platform, source, word) in [
        (&platform, empty.as_path(), "holds nothing of Triton's headnode"),
        (&platform, &cut, "it ends too early"),
        (&platform, Path::new("/nonexistent/x"), "there is no file /nonexistent/x"),
        (&linux, &empty, "is for a SmartOS headnode"),
    ] {
        let spec = json!({"platform": platform, "sdc-headnode": source});
        let result = build(dir, "a.tgz", &spec, &["--format", "tar"]);
        let said = String::from_utf8_lossy(&result.stderr);
        assert_eq!(result.status.code(), Some(1), "{said}");
        assert!(said.contains(word), "{word}: {said}");
        let errors = said.lines().filter(|line| line.starts_with("headnode: "));
        assert_eq!(errors.count(), 1, "{said}");
        assert!(!dir.join("a.tgz").exists());
        let _ = fs::remove_file(dir.join("build.lock"));
    }
}
