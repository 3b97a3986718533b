//! Personal parts of images, and `headnode customize`. Other programs are the judges: fsck.fat, mtools,
//! xorriso, 7zz, bmaptool, grub-editenv, as `ci/setup` installs them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use headnode::manifest::bmap::Bmap;
use headnode_model::manifest::{Manifest, Personal};
use headnode_model::personal::{Part, SIZE};
use serde_json::Value;

#[path = "support/linux.rs"]
mod support;

use support::{PASSWORDS, Parts, run, text};

const ROOT_OFFSET: u64 = 66 << 20;
const KEY: &str = "ssh-ed25519 \
    AAAAC3NzaC1lZDI1NTE5AAAAIJcJ8lLJqIDhjbeJ0cnDp7C8GA2s4YyRy4GQCy5oVDVm someone";
const SITE: &str = r#"{"datacenter_name": "site-1", "root_password": "third-secret-word"}"#;

fn headnode(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_headnode")).args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn good(args: &[&str]) -> String {
    let output = headnode(args);
    assert!(output.status.success(), "{args:?}: {}{}", stdout(&output), stderr(&output));
    stdout(&output)
}

/// What the command says when it refuses.
fn bad(args: &[&str]) -> String {
    let output = headnode(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stdout(&output));
    let said = stderr(&output);
    for word in PASSWORDS.iter().chain(&["third-secret-word"]) {
        assert!(!said.contains(word), "{said}");
    }
    said
}

/// The personal parts of an image by its manifest.
fn places(image: &Path) -> Vec<Personal> {
    let name = format!("{}.manifest.json", text(image));
    Manifest::parse(&fs::read(name).unwrap()).unwrap().image.unwrap().personal
}

fn bytes_at(image: &Path, place: &Personal) -> Vec<u8> {
    let mut bytes = vec![0; place.length as usize];
    File::open(image).unwrap().read_exact_at(&mut bytes, place.offset).unwrap();
    bytes
}

/// Whether two images are the same, byte by byte. They are large and mostly holes.
fn same(a: &Path, b: &Path) -> bool {
    Command::new("cmp").args(["-s", text(a), text(b)]).status().unwrap().success()
}

/// A copy for comparing with.
fn kept(image: &Path) -> PathBuf {
    let copy = image.with_extension("kept");
    run("cp", &["--sparse=always", text(image), text(&copy)]);
    copy
}

/// Everything of an image that is no hole.
fn mapped(image: &Path) -> Vec<u8> {
    let map = fs::read_to_string(format!("{}.bmap", text(image))).unwrap();
    let file = File::open(image).unwrap();
    let mut all = Vec::new();
    for range in Bmap::parse(&map).unwrap().ranges {
        let begin = all.len();
        all.resize(begin + range.length as usize, 0);
        file.read_exact_at(&mut all[begin..], range.offset).unwrap();
    }
    all
}

fn verify(image: &Path) -> Value {
    let output = headnode(&["verify", "--json", text(image)]);
    serde_json::from_str(&stdout(&output)).unwrap()
}

/// The states of the parts, in the order of their places.
fn states(image: &Path) -> Vec<String> {
    let report = verify(image);
    assert_eq!(report["damage"], serde_json::json!([]), "{report:#}");
    let parts = report["personal"].as_array().unwrap();
    parts.iter().map(|part| part["state"].as_str().unwrap().to_owned()).collect()
}

/// The files of a site.
fn site(dir: &Path) -> [PathBuf; 2] {
    let paths = [dir.join("site.json"), dir.join("id.pub")];
    fs::write(&paths[0], SITE).unwrap();
    fs::write(&paths[1], format!("{KEY}\n")).unwrap();
    paths
}

/// Builds without answers.
fn build(parts: &Parts, output: &Path, more: &[&str]) {
    let command = parts.command(output);
    let mut args: Vec<_> = command.get_args().map(|arg| arg.to_str().unwrap()).collect();
    let at = args.iter().position(|arg| *arg == "--answers").unwrap();
    args.drain(at..at + 2);
    args.extend(more);
    let output = Command::new(command.get_program())
        .args(args)
        .env_remove("SOURCE_DATE_EPOCH")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

/// What fsck.fat and mtools say of the key on a disk.
fn root_in_order(image: &Path) {
    let fat = image.with_extension("root");
    let mut from = File::open(image).unwrap();
    from.seek(SeekFrom::Start(ROOT_OFFSET)).unwrap();
    std::io::copy(&mut from.take(576 << 20), &mut File::create(&fat).unwrap()).unwrap();
    let said = run("fsck.fat", &["-n", "-v", text(&fat)]);
    assert!(!said.contains("wrong") && !said.contains("Free cluster summary"), "{said}");
}

#[test]
fn parts_lie_where_the_manifest_says_and_other_programs_read_them() {
    let parts = Parts::new(700_000);
    let dir = parts.dir.path();
    let out = dir.join("out/");
    parts.build(&out, &["--format", "usb", "--format", "qcow2"]);
    let made = |ending: &str| {
        let mut names = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path());
        names.find(|path| path.extension().is_some_and(|end| end == ending)).unwrap()
    };
    let (image, disk) = (made("img"), made("qcow2"));
    root_in_order(&image);
    let key = format!("{}@@{ROOT_OFFSET}", text(&image));
    let found = places(&image);
    let paths: Vec<_> = found.iter().map(|place| place.path.as_str()).collect();
    let expected = [Part::GrubEnvironment, Part::AuthorizedKeys, Part::Answers];
    assert_eq!(paths, expected.map(Part::path));
    for place in &found {
        assert_eq!((place.offset % SIZE as u64, place.length), (0, SIZE as u64));
        let copy = dir.join("copied");
        run("mcopy", &["-n", "-o", "-i", &key, &format!("::/{}", place.path), text(&copy)]);
        assert!(fs::read(&copy).unwrap() == bytes_at(&image, place), "{}", place.path);
    }
    // The answers of the build are there, but nothing that would help to guess them.
    assert_eq!(states(&image), ["blank", "blank", "personal"]);
    assert_eq!(found[2].sha256, None);
    let manifest = fs::read(format!("{}.manifest.json", text(&image))).unwrap();
    let manifest = Manifest::parse(&manifest).unwrap();
    for place in &found {
        assert_eq!(manifest.file(&place.path).unwrap().sha256, None);
        let ranges = &manifest.image.as_ref().unwrap().ranges;
        let covers = |r: &&headnode_model::manifest::Range| {
            r.offset < place.offset + place.length && place.offset < r.offset + r.length
        };
        assert_eq!(ranges.iter().find(covers), None, "{}", place.path);
    }
    // The same in a virtual machine's disk, which nothing can be put into.
    assert_eq!(states(&disk), ["blank", "blank", "personal"]);
    let said = bad(&["customize", text(&disk), "--console", "tty0", "--in-place"]);
    assert!(said.contains("qemu-img convert"), "{said}");
    let copy = dir.join("env");
    run("mcopy", &["-n", "-i", &key, "::/boot/grub/grubenv", text(&copy)]);
    assert_eq!(run("grub-editenv", &[text(&copy), "list"]), "");
}

#[test]
fn a_customised_image_is_the_one_that_a_build_would_have_made() {
    let parts = Parts::new(300_000);
    let dir = parts.dir.path();
    let [answers, keys] = site(dir);
    let (blank, built, made) = (dir.join("blank.img"), dir.join("built.img"), dir.join("made.img"));
    build(&parts, &blank, &[]);
    let given = ["--answers", text(&answers), "--authorized-keys", text(&keys)];
    build(&parts, &built, &given);
    assert_eq!(states(&blank), ["blank", "blank", "blank"]);
    assert_eq!(states(&built), ["blank", "as-built", "personal"]);
    let wanted = ["--answers", text(&answers), "--ssh-key", text(&keys)];
    let make = |output: &Path| {
        good(&[&["customize", text(&blank), "--output", text(output)], &wanted[..]].concat())
    };
    let said = make(&made);
    assert!(said.contains("2 answers") && said.contains("1 key"), "{said}");
    assert!(said.contains("first boot will ask on its console for admin_nic"), "{said}");
    assert!(same(&made, &built), "the images differ");
    assert_eq!(states(&made), ["blank", "personal", "personal"]);
    // The copy is sparse, and has what belongs beside it.
    let meta = fs::metadata(&made).unwrap();
    assert!(meta.blocks() * 512 < meta.len() / 10, "the copy is not sparse");
    let manifests = [&blank, &made].map(|path| format!("{}.manifest.json", text(path)));
    assert!(fs::read(&manifests[0]).unwrap() == fs::read(&manifests[1]).unwrap());
    let maps = [&built, &made].map(|path| format!("{}.bmap", text(path)));
    assert_eq!(fs::read_to_string(&maps[0]).unwrap(), fs::read_to_string(&maps[1]).unwrap());
    assert!(!dir.join("made.SHA256SUMS").exists());
    // Once more, over the first one.
    make(&made);
    assert!(same(&made, &built), "the second run differs");
    // In place, forth and back.
    let before = kept(&blank);
    let place = |more: &[&str]| {
        good(&[&["customize", "--json", text(&blank), "--in-place"], more].concat())
    };
    let report: Value = serde_json::from_str(&place(&wanted)).unwrap();
    assert_eq!(report["personal"][2]["changed"], true);
    assert!(same(&blank, &built));
    assert!(!report.to_string().contains("site-1"), "{report:#}");
    let report: Value = serde_json::from_str(&place(&wanted)).unwrap();
    assert_eq!(report["personal"][2]["changed"], false);
    place(&["--clear"]);
    assert!(same(&blank, &before));
    let left: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");
}

#[test]
fn no_password_is_in_what_is_made_or_said() {
    let parts = Parts::new(50_000);
    let dir = parts.dir.path();
    let [answers, _] = site(dir);
    let (image, made) = (dir.join("a.img"), dir.join("made.img"));
    build(&parts, &image, &[]);
    let args = ["-vv", "customize", text(&image), "--answers", text(&answers)];
    let output = headnode(&[&args[..], &["--output", text(&made)]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let diff = headnode(&["diff", text(&image), text(&made)]);
    assert_eq!(diff.status.code(), Some(1));
    let said = stdout(&diff);
    assert!(said.contains("1 changed") && said.contains("private/answers.json"), "{said}");
    let inspected = good(&["inspect", text(&made)]);
    assert!(inspected.contains("private/answers.json") && inspected.contains("2 answers"));
    let verified = good(&["verify", "--deep", text(&made)]);
    assert!(verified.contains("personal: private/answers.json: personalised, 2 answers"));
    for bytes in [
        mapped(&made),
        fs::read(dir.join("made.img.bmap")).unwrap(),
        [output.stdout, output.stderr, said.into_bytes()].concat(),
        [inspected, verified].concat().into_bytes(),
    ] {
        assert!(!contains(&bytes, b"third-secret-word"), "the password is there");
    }
    assert!(contains(&mapped(&made), b"root_password_hash"));
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

#[test]
fn bmaptool_writes_the_parts_too_and_finds_damage_around_them() {
    let parts = Parts::new(200_000);
    let dir = parts.dir.path();
    let [answers, keys] = site(dir);
    let (image, made, disk) = (dir.join("a.img"), dir.join("made.img"), dir.join("disk"));
    build(&parts, &image, &[]);
    let given = ["--answers", text(&answers), "--ssh-key", text(&keys), "--console", "ttyS1"];
    good(&[&["customize", text(&image), "--output", text(&made)], &given[..]].concat());
    let copy = || {
        let output = Command::new("bmaptool")
            .args(["copy", "--bmap", &format!("{}.bmap", text(&made)), text(&made), text(&disk)])
            .output()
            .unwrap();
        (output.status.success(), stdout(&output) + &stderr(&output))
    };
    let (done, said) = copy();
    assert!(done, "{said}");
    assert!(same(&disk, &made));
    let map = Bmap::parse(&fs::read_to_string(format!("{}.bmap", text(&made))).unwrap()).unwrap();
    let places = places(&made);
    let digests: Vec<_> = places
        .iter()
        .map(|place| map.ranges.iter().find(|r| r.offset == place.offset).unwrap())
        .map(|range| (range.length, range.sha256.is_some()))
        .collect();
    let length = SIZE as u64;
    assert_eq!(digests, [(length, true), (length, true), (length, false)]);
    let flip = |at: u64| {
        let file = File::options().read(true).write(true).open(&made).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    };
    for at in [places[0].offset - 1, places[1].offset + 3, places[2].offset + length] {
        flip(at);
        assert!(!copy().0, "a flipped bit at {at} is not found");
        let report = verify(&made);
        assert_ne!(report["damage"], serde_json::json!([]), "byte {at}: {report:#}");
        flip(at);
    }
    assert_eq!(states(&made), ["personal", "personal", "personal"]);
    // What grub-editenv says of what GRUB reads.
    let env = dir.join("env");
    fs::write(&env, bytes_at(&made, &places[0])).unwrap();
    assert_eq!(run("grub-editenv", &[text(&env), "list"]), "headnode_console=ttyS1\n");
    run("grub-editenv", &[text(&env), "set", "headnode_console=tty0"]);
    let file = File::options().write(true).open(&made).unwrap();
    file.write_all_at(&fs::read(&env).unwrap(), places[0].offset).unwrap();
    let report = verify(&made);
    assert_eq!(report["personal"][0]["holds"], "console tty0", "{report:#}");
}

#[test]
fn what_no_reader_would_take_is_damage() {
    let parts = Parts::new(50_000);
    let image = parts.dir.path().join("a.img");
    build(&parts, &image, &[]);
    let places = places(&image);
    let file = File::options().write(true).open(&image).unwrap();
    for (at, content, word) in [
        (2, &b"{\"admin_ip\": \"nowhere\"}"[..], "first boot will refuse"),
        (2, b"{", "JSON"),
        (2, b"{}\0", "no text"),
        (1, b"ssh-rsa AAAA", "no public key"),
        (0, b"set default=1", "no environment block"),
    ] {
        let part = Part::of_path(&places[at].path).unwrap();
        let bytes = part.fill(content).unwrap();
        file.write_all_at(&bytes, places[at].offset).unwrap();
        let report = verify(&image);
        let damage = report["damage"].as_array().unwrap();
        assert_eq!(damage.len(), 1, "{report:#}");
        assert_eq!(damage[0]["what"], places[at].path.as_str());
        let why = damage[0]["why"].as_str().unwrap();
        let word = if content.ends_with(b"\0") { "text" } else { word };
        assert!(why.contains(word), "{why}");
        // It is told before another part is changed, too, and clearing heals it.
        let other = if at == 0 { ["--ssh-key", KEY] } else { ["--console", "tty0"] };
        let said = bad(&[&["customize", text(&image), "--in-place"], &other[..]].concat());
        assert!(said.contains("--clear"), "{said}");
        good(&["customize", text(&image), "--in-place", "--clear"]);
    }
    assert_eq!(states(&image), ["blank", "blank", "blank"]);
}

#[test]
fn refusals_say_why_and_change_nothing() {
    let parts = Parts::new(50_000);
    let dir = parts.dir.path();
    let [answers, keys] = site(dir);
    let image = dir.join("a.img");
    parts.build(&image, &[]);
    let (path_of_image, before) = (image.clone(), kept(&image));
    let image = text(&image);
    let wrong = dir.join("wrong.json");
    fs::write(
        &wrong,
        r#"{"admin_ip": "10.0.0.300", "dns_domain": "-", "admin_password": "third-secret-word"}"#,
    )
    .unwrap();
    let said =
        bad(&["customize", image, "--in-place", "--answers", text(&wrong), "--ssh-key", "/no"]);
    for word in ["admin_ip", "dns_domain", "admin_password", "/no: "] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
    assert!(bad(&["customize", image, "--in-place"]).contains("nothing to do"));
    let given = ["--answers", text(&answers), "--ssh-key", text(&keys)];
    let refused = |args: &[&str]| bad(&[&["customize"], args, &given[..]].concat());
    assert!(refused(&[image, "--output", image]).contains("--in-place"));
    assert!(refused(&[image, "--output", text(&dir.join("b.img.zst"))]).contains("raw"));
    assert!(refused(&["/dev/null", "--in-place"]).contains("headnode flash"));
    // The manifest of another image; the one from a key; none.
    let other = dir.join("other.img");
    build(&Parts::new(60_000), &other, &["--timeout", "7"]);
    let manifest = |path: &Path| format!("{}.manifest.json", text(path));
    let mut fake: Value = serde_json::from_slice(&fs::read(manifest(&other)).unwrap()).unwrap();
    let offset = fake["image"]["personal"][0]["offset"].as_u64().unwrap();
    fake["image"]["personal"][0]["offset"] = (offset + (1 << 20)).into();
    let path = dir.join("fake.json");
    fs::write(&path, fake.to_string()).unwrap();
    let said = refused(&[image, "--in-place", "--manifest", text(&path)]);
    assert!(said.contains("does not lie where its manifest says"), "{said}");
    fake["image"] = Value::Null;
    fs::write(&path, fake.to_string()).unwrap();
    let said = refused(&[image, "--in-place", "--manifest", text(&path)]);
    assert!(said.contains("the one from a key"), "{said}");
    fs::remove_file(manifest(&other)).unwrap();
    let said = refused(&[text(&other), "--in-place"]);
    assert!(said.contains("nothing says where the places are"), "{said}");
    // Packed.
    let packed = dir.join("p.img.zst");
    parts.build(&packed, &["--compress", "zstd"]);
    let said = refused(&[text(&packed), "--in-place"]);
    assert!(said.contains("zstd -d"), "{said}");
    assert!(same(&path_of_image, &before));
    let code = headnode(&["customize", image, "--in-place", "--console", "com9"]).status.code();
    assert_eq!(code, Some(2));
}

#[test]
fn images_of_older_versions_still_verify() {
    let parts = Parts::new(50_000);
    let image = parts.dir.path().join("a.img");
    parts.build(&image, &[]);
    let path = format!("{}.manifest.json", text(&image));
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    // As it was: the parts belong to ranges.
    let personal = manifest["image"].as_object_mut().unwrap().remove("personal").unwrap();
    for place in personal.as_array().unwrap() {
        let place: Personal = serde_json::from_value(place.clone()).unwrap();
        let content = headnode::image::Content::from(bytes_at(&image, &place));
        let sha256 = headnode::tree::digest(&content).unwrap();
        let range = serde_json::json!({
            "offset": place.offset, "length": place.length, "sha256": sha256,
        });
        manifest["image"]["ranges"].as_array_mut().unwrap().push(range);
    }
    fs::write(&path, manifest.to_string()).unwrap();
    assert_eq!(states(&image), [] as [&str; 0]);
    let said = bad(&["customize", text(&image), "--console", "tty0", "--in-place"]);
    assert!(said.contains("built anew"), "{said}");
}

#[test]
fn discs_are_customised_too() {
    let parts = Parts::new(200_000);
    let dir = parts.dir.path();
    let [answers, keys] = site(dir);
    let (disc, made) = (dir.join("a.iso"), dir.join("made.iso"));
    build(&parts, &disc, &["--format", "iso"]);
    let given = ["--answers", text(&answers), "--ssh-key", text(&keys), "--console", "tty0"];
    good(&[&["customize", text(&disc), "--output", text(&made)], &given[..]].concat());
    assert_eq!(states(&disc), ["blank", "blank", "blank"]);
    assert_eq!(states(&made), ["personal", "personal", "personal"]);
    for (number, place) in places(&made).iter().enumerate() {
        assert_eq!(place.offset % SIZE as u64, 0);
        let bytes = bytes_at(&made, place);
        let out = dir.join(format!("x{number}"));
        run(
            "xorriso",
            &[
                "-osirrox",
                "on",
                "-indev",
                text(&made),
                "-extract",
                &format!("/{}", place.path),
                text(&out),
            ],
        );
        assert!(fs::read(&out).unwrap() == bytes, "{}: xorriso reads something else", place.path);
        let unpacked = dir.join(format!("z{number}"));
        let to = format!("-o{}", text(&unpacked));
        run("7zz", &["x", "-y", &to, text(&made), &place.path]);
        assert!(fs::read(unpacked.join(&place.path)).unwrap() == bytes);
    }
}
