//! What can be known of an image: who signed it, what is in it, what changed, and that it holds no
//! secret. Needs minisign, mtools, dosfstools, gdisk, GRUB's and iPXE's packages, as `ci/setup` installs
//! them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use headnode::image::Content;
use headnode::image::fat::{Format, Plan};
use headnode::image::gpt::{Partition, TYPE_ESP, Table};
use serde_json::Value;
use uuid::{Uuid, uuid};

fn headnode(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_headnode"))
        .args(args)
        .env_remove("HEADNODE_KEY_PASSPHRASE")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

fn good(args: &[&str]) -> String {
    let output = headnode(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {said}{}", stdout(&output));
    stdout(&output)
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(&headnode(args))).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The inputs of a build, which may differ from build to build.
struct Parts {
    stamp: &'static str,
    initrd: Vec<u8>,
    packages: &'static str,
    answers: &'static str,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            stamp: "20260102T030405Z",
            initrd: (0..500_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect(),
            packages: r#"{"stamp": "20260102T030405Z", "suite": "bookworm", "packages": [
                {"name": "bash", "version": "5.2.15-2", "architecture": "amd64", "sha256": ""},
                {"name": "zsh", "version": "5.9-4", "architecture": "amd64", "sha256": ""}]}"#,
            answers: r#"{"datacenter_name": "dc1"}"#,
        }
    }
}

impl Parts {
    /// Builds an image of this name in `dir`; gives back what the build said.
    fn build(&self, dir: &Path, name: &str, more: &[&str]) -> (PathBuf, String) {
        let parts = tempfile::tempdir().unwrap();
        let programs = parts.path().join("programs");
        fs::create_dir(&programs).unwrap();
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 62;
        for name in ["sdc", "sdc-agent", "sdc-booter", "sdc-control", "sdc-setup"] {
            fs::write(programs.join(name), &elf).unwrap();
        }
        let platform = parts.path().join("platform.tgz");
        let gzip = flate2::write::GzEncoder::new(
            fs::File::create(&platform).unwrap(),
            flate2::Compression::fast(),
        );
        let mut tar = tar::Builder::new(gzip);
        let stamp = format!("{}\n", self.stamp);
        for (path, content) in [
            ("platform/etc/version/platform", stamp.as_bytes()),
            ("platform/x86_64/initrd", &self.initrd),
            ("platform/x86_64/packages.json", self.packages.as_bytes()),
            ("platform/x86_64/vmlinuz", &[1; 100_000]),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, content).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap();
        let answers = parts.path().join("answers.json");
        fs::write(&answers, self.answers).unwrap();
        let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let image = dir.join(name);
        let output = Command::new(env!("CARGO_BIN_EXE_headnode"))
            .args(["-v", "build", "--platform", text(&platform), "--runtime-dir", text(&programs)])
            .args(["--answers", text(&answers), "--output", text(&image)])
            .arg("--overlays")
            .arg(tree.join("overlays"))
            .arg("--firmware")
            .arg(tree.join("firmware/catalogue.toml"))
            .args(more)
            .env_remove("SOURCE_DATE_EPOCH")
            .output()
            .unwrap();
        let said = stdout(&output) + &stderr(&output);
        assert!(output.status.success(), "{said}");
        (image, said)
    }
}

fn manifest_of(image: &Path) -> PathBuf {
    image.with_file_name(format!("{}.manifest.json", image.file_name().unwrap().to_str().unwrap()))
}

#[test]
fn a_key_is_made_once_and_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("release.key");
    let made = json(&["key", "new", "--no-passphrase", "--json", "--output", text(&path)]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let public = dir.path().join("release.pub");
    for key in [text(&path), text(&public), made["public_key"].as_str().unwrap()] {
        assert_eq!(json(&["key", "show", "--json", key])["key_id"], made["key_id"]);
    }
    let before = (fs::read(&path).unwrap(), fs::read(&public).unwrap());
    let again = headnode(&["key", "new", "--no-passphrase", "--output", text(&path)]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("never overwritten"), "{}", stderr(&again));
    fs::remove_file(&path).unwrap();
    let again = headnode(&["key", "new", "--no-passphrase", "--output", text(&path)]);
    assert_eq!(again.status.code(), Some(1));
    assert!(!path.exists() && fs::read(&public).unwrap() == before.1);
    // Without a terminal nothing waits for a passphrase.
    let other = dir.path().join("other.key");
    let asked = headnode(&["key", "new", "--output", text(&other)]);
    assert!(stderr(&asked).contains("HEADNODE_KEY_PASSPHRASE"), "{}", stderr(&asked));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let with = |words: &str, args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_headnode"))
            .args(args)
            .env("HEADNODE_KEY_PASSPHRASE", words)
            .output()
            .unwrap()
    };
    assert!(with("some words", &["key", "new", "--output", text(&other)]).status.success());
    assert!(with("some words", &["key", "show", text(&other)]).status.success());
    let wrong = with("other words", &["key", "show", text(&other)]);
    assert!(stderr(&wrong).contains("passphrase is wrong"), "{}", stderr(&wrong));
    assert!(!stderr(&wrong).contains("other words"));
}

#[test]
fn verify_tells_who_signed() {
    use headnode::manifest::signature::{SecretKey, beside, sign_manifest};
    let dir = tempfile::tempdir().unwrap();
    let (image, _) = Parts::default().build(dir.path(), "a.img", &[]);
    let key = SecretKey::generate().unwrap();
    let public = key.public().base64();
    assert!(good(&["verify", text(&image)]).contains("signature: not signed"));
    let unsigned = headnode(&["verify", "--public-key", &public, text(&image)]);
    assert_eq!(unsigned.status.code(), Some(1));
    assert!(stdout(&unsigned).contains("not signed"), "{}", stdout(&unsigned));
    let manifest = manifest_of(&image);
    let signature = sign_manifest(&fs::read(&manifest).unwrap(), &key).unwrap();
    fs::write(beside(&manifest), &signature).unwrap();
    assert!(signature.contains("headnode 0.1.0 manifest sha256:"), "{signature}");
    let said = good(&["verify", "--public-key", &public, text(&image)]);
    assert!(said.contains(&format!("signed by key {}", key.public().id())), "{said}");
    let said = good(&["verify", text(&image)]);
    assert!(said.contains("not checked"), "{said}");
    let deep = json(&["verify", "--deep", "--json", "--public-key", &public, text(&image)]);
    assert_eq!(deep["signature"]["state"], "signed");
    assert!(deep["damage"].as_array().unwrap().is_empty(), "{deep}");
    // Debian's minisign says the same of it.
    let minisign = Command::new("minisign")
        .args(["-V", "-P", &public, "-m", text(&manifest)])
        .output()
        .unwrap_or_else(|error| panic!("minisign: {error}; ci/setup installs it"));
    assert!(minisign.status.success(), "{}", stderr(&minisign));
    let stranger = SecretKey::generate().unwrap().public().base64();
    let said = headnode(&["verify", "--public-key", &stranger, text(&image)]);
    assert_eq!(said.status.code(), Some(1));
    assert!(stdout(&said).contains("signed by key"), "{}", stdout(&said));
    // A changed manifest is found although the image is what it says.
    let mut changed = fs::read_to_string(&manifest).unwrap();
    changed.push('\n');
    fs::write(&manifest, changed).unwrap();
    let said = headnode(&["verify", "--public-key", &public, text(&image)]);
    assert_eq!(said.status.code(), Some(1));
    assert!(stdout(&said).contains("was changed after it was signed"), "{}", stdout(&said));
    let said = headnode(&["verify", "--public-key", "no key", text(&image)]);
    assert!(stderr(&said).contains("neither a file nor"), "{}", stderr(&said));
}

#[test]
fn what_changed_between_two_images() {
    let dir = tempfile::tempdir().unwrap();
    let (old, _) = Parts::default().build(dir.path(), "old.img", &[]);
    let (same, _) = Parts::default().build(dir.path(), "same.img.zst", &["--compress", "zstd"]);
    let output = headnode(&["diff", text(&old), text(&same)]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(stdout(&output).starts_with("the same in "), "{}", stdout(&output));
    let mut initrd = Parts::default().initrd;
    initrd[400_000] ^= 1;
    let parts = Parts {
        stamp: "20260203T030405Z",
        initrd,
        packages: r#"{"stamp": "20260203T030405Z", "suite": "bookworm", "packages": [
            {"name": "bash", "version": "5.2.15-3", "architecture": "amd64", "sha256": ""},
            {"name": "vim", "version": "9.0", "architecture": "amd64", "sha256": ""}]}"#,
        answers: r#"{"datacenter_name": "dc2"}"#,
    };
    let (new, _) = parts.build(dir.path(), "new.img", &["--timeout", "7"]);
    let output = headnode(&["diff", "--json", text(&old), text(&new)]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let diff: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(diff["packages"]["changed"]["bash"]["new"], "5.2.15-3");
    assert_eq!(diff["packages"]["added"]["vim"], "9.0");
    assert_eq!(diff["packages"]["removed"]["zsh"], "5.9-4");
    assert!(diff["platforms"]["added"]["20260203T030405Z"].is_string(), "{diff:#}");
    let changed = &diff["files"]["changed"];
    let initrd = &changed["os/<platform>/platform/x86_64/initrd"];
    assert_eq!(initrd["size"]["new"], 500_000);
    assert!(changed.get("os/<platform>/platform/x86_64/vmlinuz").is_none());
    let grub = changed["boot/grub/grub.cfg"]["diff"].as_str().unwrap();
    assert!(grub.contains("-set timeout=2\n+set timeout=7\n"), "{grub}");
    let answers = &changed["private/answers.json"];
    assert!(answers["diff"].is_null() && !diff.to_string().contains("dc2"), "{answers}");
    let table = stdout(&headnode(&["diff", text(&old), text(&new)]));
    assert!(table.contains("~ bash  5.2.15-2 → 5.2.15-3"), "{table}");
    let notes = stdout(&headnode(&["diff", "--notes", text(&old), text(&new)]));
    assert!(notes.contains("- `bash`: `5.2.15-2` → `5.2.15-3`\n"), "{notes}");
    assert!(notes.contains("```diff\n"), "{notes}");
    let broken = headnode(&["diff", text(&old), "/nonexistent.img"]);
    assert_eq!(broken.status.code(), Some(2));
}

/// A disk as others make it: SmartOS' partitions (C§1.13), one FAT file system in the third.
fn smartos(dir: &Path, files: &[(&str, &[u8])], extra_sectors: u64) -> PathBuf {
    let root_type = uuid!("6a85cf4d-1dd2-11b2-99a6-080020736631");
    let boot_type = uuid!("6a82cb45-1dd2-11b2-99a6-080020736631");
    let partition = |name: &str, kind, start, sectors| Partition {
        name: name.to_owned(),
        kind,
        guid: Uuid::from_u128(u128::from(start) + 1),
        start,
        sectors,
    };
    let (root_start, root_sectors) = (528_384, 300_000);
    let table = Table {
        guid: Uuid::from_u128(9),
        sectors: root_start + root_sectors + 34 + extra_sectors,
        partitions: vec![
            (1, partition("loader", TYPE_ESP, 2048, 524_288)),
            (2, partition("boot", boot_type, 526_336, 2048)),
            (3, partition("root", root_type, root_start, root_sectors)),
        ],
    };
    let files: Vec<(String, Content)> =
        files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec().into())).collect();
    let format = Format {
        label: "SMARTOSBOOT".into(),
        id: 1,
        sectors: root_sectors,
        hidden: 0,
        time: 1_767_225_600,
    };
    let mut fat = Vec::new();
    Plan::new(format, files).unwrap().write(&mut fat).unwrap();
    let mut boot_code = [0; 440];
    boot_code[0] = 0xeb;
    boot_code[0xfa] = 2;
    boot_code[0xfe..0x102].copy_from_slice(&526_336_u32.to_le_bytes());
    let mut stage2 = vec![0x90; 64];
    let magic = 0x1bad_b002_u32;
    for word in [magic, 3, 0_u32.wrapping_sub(magic).wrapping_sub(3)] {
        stage2.extend(word.to_le_bytes());
    }
    let path = dir.join("smartos.img");
    let file = fs::File::create(&path).unwrap();
    file.set_len(table.sectors * 512).unwrap();
    let put = |at: u64, bytes: &[u8]| {
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, at * 512).unwrap();
    };
    put(0, &table.head(&boot_code));
    put(526_336, &stage2);
    put(root_start, &fat);
    put(table.sectors - 33, &table.tail());
    path
}

const STAMP_UNIX: &str = "os/20260101T000000Z/platform/i86pc/kernel/amd64/unix";

fn triton_files() -> Vec<(&'static str, &'static [u8])> {
    vec![
        (".joyliveusb", b""),
        (STAMP_UNIX, &[7; 5000]),
        ("os/20260101T000000Z/platform/i86pc/amd64/boot_archive", &[8; 9000]),
        ("boot/loader", b"loader"),
        ("boot/loader.conf", b"bootfile=\"/os/x/unix\"\nconsole=\"ttyb\"\nroot_shadow=\"$6$x\"\n"),
        ("boot/pmbr", b"x"),
        ("images/f669428c-a939-11ea-a485-b790efc0f0c1.imgmanifest", b"{}"),
        ("zones/sapi/create.json", b"{}"),
        ("zones/imgapi/create.json", b"{}"),
    ]
}

#[test]
fn someone_elses_images_are_looked_into() {
    let dir = tempfile::tempdir().unwrap();
    let image = smartos(dir.path(), &triton_files(), 0);
    let found = json(&["inspect", "--json", text(&image)]);
    assert_eq!(found["layout"], "a Triton headnode's key, illumos disk layout 2 (GPT)");
    assert_eq!(found["platforms"][0]["stamp"], "20260101T000000Z");
    assert_eq!(found["platforms"][0]["os"], "smartos");
    assert_eq!(found["platforms"][0]["hash"], false);
    assert_eq!(found["platforms"][0]["size"], 14_000);
    assert_eq!(found["zones"], serde_json::json!(["imgapi", "sapi"]));
    assert_eq!(found["images"], 1);
    assert_eq!(found["loader_conf"]["console"], "ttyb");
    assert!(found["loader_conf"].get("root_shadow").is_none());
    let loaders: Vec<_> = found["loaders"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| (l["what"].as_str().unwrap(), l["place"].as_str().unwrap()))
        .collect();
    assert!(loaders.contains(&("illumos stage 1 (layout 2)", "MBR")), "{loaders:?}");
    assert!(loaders.contains(&("illumos stage 2 (multiboot)", "boot:")), "{loaders:?}");
    assert!(loaders.contains(&("illumos loader", "boot/loader")), "{loaders:?}");
    assert_eq!(found["partitions"][2]["kind"], "illumos root");
    assert_eq!(found["partitions"][2]["file_system"]["label"], "SMARTOSBOOT");
    let shown = good(&["inspect", text(&image)]);
    assert!(
        shown.contains("illumos boot") && shown.contains("boot archive has no hash"),
        "{shown}"
    );
    // Enlarged, so that the backup of the table is not at the end any more.
    fs::File::options().write(true).open(&image).unwrap().set_len(500_000_000).unwrap();
    let found = json(&["inspect", "--json", text(&image)]);
    assert!(found["notes"][0].as_str().unwrap().contains("backup"), "{found:#}");
    assert_eq!(found["zones"].as_array().unwrap().len(), 2);
}

#[test]
fn a_disk_made_by_other_programs_is_looked_into() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("mbr.img");
    let file = fs::File::create(&image).unwrap();
    file.set_len(80 << 20).unwrap();
    let at = format!("{}@@1M", text(&image));
    for (program, args) in [
        ("sgdisk", vec!["-n", "1:2048", "-t", "1:0c01", "--gpttombr=1", text(&image)]),
        (
            "mkfs.fat",
            vec!["-F", "32", "-s", "1", "-n", "OTHER", "--offset", "2048", text(&image), "80800"],
        ),
        ("mmd", vec!["-i", &at, "::platform"]),
        ("mcopy", vec!["-i", &at, "/etc/hostname", "::platform/Name"]),
    ] {
        let output = Command::new(program).args(&args).output();
        let output =
            output.unwrap_or_else(|error| panic!("{program}: {error}; ci/setup installs it"));
        assert!(output.status.success(), "{program}: {}{}", stdout(&output), stderr(&output));
    }
    let found = json(&["inspect", "--json", text(&image)]);
    assert_eq!(found["scheme"], "mbr", "{found:#}");
    assert_eq!(found["partitions"][0]["file_system"]["label"], "OTHER");
    assert_eq!(found["largest"][0]["path"], "platform/Name");
    let nothing = dir.path().join("nothing");
    fs::write(&nothing, vec![0; 100_000]).unwrap();
    let output = headnode(&["inspect", text(&nothing)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no disk image"), "{}", stderr(&output));
}

#[test]
fn files_are_taken_out_and_nothing_else_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let image = smartos(dir.path(), &triton_files(), 0);
    let to = dir.path().join("to");
    let list = good(&["extract", "--list", text(&image), "boot"]);
    assert!(list.contains("boot/loader.conf") && !list.contains("zones"), "{list}");
    assert!(!to.exists());
    good(&["extract", text(&image), "os", "boot/pmbr", "--to", text(&to)]);
    assert_eq!(fs::read(to.join(STAMP_UNIX)).unwrap(), vec![7; 5000]);
    assert!(to.join("boot/pmbr").is_file() && !to.join("boot/loader").exists());
    fs::write(to.join("boot/pmbr"), "mine").unwrap();
    let again = headnode(&["extract", text(&image), "boot/pmbr", "--to", text(&to)]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("--force"), "{}", stderr(&again));
    assert_eq!(fs::read(to.join("boot/pmbr")).unwrap(), b"mine");
    good(&["extract", text(&image), "boot/pmbr", "--to", text(&to), "--force"]);
    assert_eq!(fs::read(to.join("boot/pmbr")).unwrap(), b"x");
    // A link within the folder leads nowhere, forced or not.
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, to.join("zones")).unwrap();
    symlink(outside.join("loader"), to.join("boot/loader")).unwrap();
    let output = headnode(&["extract", text(&image), "zones", "--to", text(&to), "--force"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("symbolic link"), "{}", stderr(&output));
    good(&["extract", text(&image), "boot/loader", "--to", text(&to), "--force"]);
    assert_eq!(fs::read(to.join("boot/loader")).unwrap(), b"loader");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    let missing = headnode(&["extract", text(&image), "a/b", "boot", "c", "--to", text(&to)]);
    assert!(stderr(&missing).contains("no a/b, no c"), "{}", stderr(&missing));
    let left = fs::read_dir(to.join("boot")).unwrap().map(|e| e.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_str().unwrap().starts_with('.')));
}

#[test]
fn completions_and_pages_are_those_of_the_command() {
    let bash = good(&["completion", "bash"]);
    let checked = Command::new("bash").args(["-n", "-c", &bash]).output().unwrap();
    assert!(checked.status.success(), "{}", stderr(&checked));
    assert!(bash.contains("extract") && bash.contains("--public-key"));
    let dir = tempfile::tempdir().unwrap();
    good(&["man", "--to", text(dir.path())]);
    for page in ["headnode.1", "headnode-verify.1", "headnode-key-new.1"] {
        let page = dir.path().join(page);
        let shown = Command::new("man").args(["--warnings", "-l", text(&page)]).output().unwrap();
        assert!(shown.status.success() && shown.stderr.is_empty(), "{}", stderr(&shown));
    }
    let page = good(&["man", "key", "new"]);
    assert!(page.contains("no\\-passphrase"), "{page}");
    assert_eq!(headnode(&["man", "fly"]).status.code(), Some(1));
    for verb in ["verify", "inspect", "diff", "extract", "key", "completion", "man"] {
        assert!(good(&[verb, "--help"]).contains("Exit codes: 0 "), "{verb}");
    }
}

#[test]
fn no_password_is_in_anything_that_is_made_or_said() {
    use headnode::answers::{self, Passwords};
    use headnode::manifest::signature::{SecretKey, sign_manifest};
    use headnode::manifest::{provenance, sbom};
    use headnode_model::manifest::{FORMAT, File, Manifest};
    const WORDS: [&str; 3] = ["first-secret-word", "second2secret", "third-secret-word"];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("answers.json");
    let given = serde_json::json!({
        "datacenter_name": "dc1", "root_password": WORDS[0], "admin_password": WORDS[1],
        "api_password": WORDS[2],
    });
    fs::write(&path, given.to_string()).unwrap();
    let sealed = answers::read(&path, Passwords::Hashed, b"digest of the content").unwrap();
    let mut files = triton_files();
    files.push(("private/answers.json", &sealed));
    let image = smartos(dir.path(), &files, 0);
    let manifest = Manifest {
        format: FORMAT,
        name: "headnode".into(),
        version: "1".into(),
        created: 0,
        platforms: Vec::new(),
        services: Vec::new(),
        firmware: Vec::new(),
        files: vec![File { path: "private/answers.json".into(), size: 1, sha256: None }],
        image: None,
    };
    let manifest_text = headnode::manifest::text(&manifest).unwrap();
    let inputs = sbom::Inputs { manifest: &manifest, debian: &[], crates: &[], images: &[] };
    let build = provenance::Build {
        parameters: given.as_object().unwrap().clone(),
        ..provenance::Build::default()
    };
    fs::remove_file(&path).unwrap();
    let mut made = vec![
        ("the image", fs::read(&image).unwrap()),
        (
            "the signature",
            sign_manifest(&manifest_text, &SecretKey::generate().unwrap()).unwrap().into(),
        ),
        ("the manifest", manifest_text),
        ("the bill of materials", sbom::text(&sbom::bom(inputs).unwrap()).unwrap()),
        ("the provenance", provenance::text(&build).unwrap()),
    ];
    for verb in ["inspect", "verify"] {
        let output = headnode(&["-vv", verb, text(&image)]);
        made.push((verb, [output.stdout, output.stderr].concat()));
    }
    // Not even as one of the words in upper case, in UTF-16, or turned around.
    for word in WORDS {
        let utf16: Vec<u8> = word.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let turned: Vec<u8> = word.bytes().rev().collect();
        for form in [word.as_bytes(), word.to_uppercase().as_bytes(), &utf16, &turned] {
            for (what, bytes) in &made {
                assert!(!contains(bytes, form), "{word} is in {what}");
            }
        }
    }
    // The search does find what is there.
    assert!(contains(&made[0].1, b"root_password_hash") && contains(&made[0].1, b"$6$"));
    fs::write(&path, r#"{"root_password": ["first-secret-word"]}"#).unwrap();
    let said = answers::read(&path, Passwords::Hashed, b"x").unwrap_err();
    assert!(!format!("{said} {said:?}").contains(WORDS[0]));
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    let first = word[0];
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == first) {
        rest = &rest[at..];
        if rest.starts_with(word) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}
