//! What a site's wishes become.

use std::fs;

use headnode_model::manifest::{FORMAT, File, Image, Platform};

use super::held::Held;
use super::*;

const KEY: &str = "ssh-ed25519 \
    AAAAC3NzaC1lZDI1NTE5AAAAIJcJ8lLJqIDhjbeJ0cnDp7C8GA2s4YyRy4GQCy5oVDVm someone";

fn manifest(os: &str, parts: &[Part]) -> Manifest {
    let places = (1..).zip(parts).map(|(number, part)| Personal {
        path: part.path().to_owned(),
        offset: number << 20,
        length: SIZE as u64,
        sha256: None,
    });
    Manifest {
        format: FORMAT,
        name: "headnode".into(),
        version: "1".into(),
        created: 0,
        platforms: vec![Platform {
            stamp: "20260102T030405Z".parse().unwrap(),
            os: os.into(),
            description: String::new(),
        }],
        services: Vec::new(),
        firmware: Vec::new(),
        files: vec![File { path: "manifest.json".into(), size: 1, sha256: Some("ab".repeat(32)) }],
        image: Some(Image {
            size: 1 << 30,
            sector_size: 512,
            disk_guid: String::new(),
            partitions: Vec::new(),
            ranges: Vec::new(),
            personal: places.collect(),
        }),
    }
}

fn linux() -> Manifest {
    manifest("linux", &[Part::Answers, Part::AuthorizedKeys, Part::GrubEnvironment])
}

fn answers(text: &str) -> (tempfile::TempDir, Site) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("answers.json");
    fs::write(&path, text).unwrap();
    (dir, Site { answers: Some(path), ..Site::default() })
}

fn refused(site: &Site, manifest: &Manifest) -> String {
    site.read().and_then(|wishes| wishes.patches(manifest)).unwrap_err().to_string()
}

#[test]
fn wishes_become_bytes_that_are_read_back() {
    let (_dir, mut site) = answers(r#"{"datacenter_name": "dc1", "root_password": "first-word"}"#);
    site.ssh_keys = vec![KEY.to_owned()];
    site.console = Some(Console::Serial2);
    let patches = site.read().unwrap().patches(&linux()).unwrap();
    let again = site.read().unwrap().patches(&linux()).unwrap();
    assert!(patches == again, "the same wishes give other bytes");
    assert!(!format!("{patches:?}").contains("dc1"));
    let offsets: Vec<_> = patches.iter().map(|patch| patch.offset >> 20).collect();
    assert_eq!(offsets, [1, 2, 3]);
    let held = |at: usize| {
        let patch: &Patch = &patches[at];
        let part = Part::of_path(&patch.path).unwrap();
        Held::read(part, &patch.bytes, Some(Kind::Linux)).unwrap()
    };
    let all: Vec<_> = (0..3).map(held).collect();
    let filled = |text: &str| Held::Filled(text.to_owned());
    assert_eq!(all, [filled("2 answers"), filled("1 key"), filled("console ttyS1")]);
    let text = String::from_utf8(patches[0].bytes.clone()).unwrap();
    assert!(text.contains("$6$") && !text.contains("first-word"));
    // Another image has other salts.
    let mut other = linux();
    other.files[0].sha256 = Some("cd".repeat(32));
    let elsewhere = site.read().unwrap().patches(&other).unwrap();
    assert!(elsewhere[0] != patches[0] && elsewhere[1..] == patches[1..]);
}

#[test]
fn what_is_not_wanted_stays_unless_it_is_cleared() {
    let site = Site { ssh_keys: vec![KEY.to_owned()], ..Site::default() };
    let patches = site.read().unwrap().patches(&linux()).unwrap();
    assert_eq!(patches.len(), 1);
    assert_eq!(patches[0].path, Part::AuthorizedKeys.path());
    let patches = Site { clear: true, ..site }.read().unwrap().patches(&linux()).unwrap();
    let blank: Vec<_> = patches
        .iter()
        .map(|patch| Part::of_path(&patch.path).unwrap().is_blank(&patch.bytes))
        .collect();
    assert_eq!(blank, [true, false, true]);
}

#[test]
fn all_that_is_wrong_is_told_and_no_password_is() {
    let (_dir, mut site) = answers(
        r#"{"admin_ip": "10.0.0.300", "datacenter_name": "A B", "root_password": "secret-word",
            "admin_password": "short", "root_passwd": "typo-word"}"#,
    );
    site.ssh_keys = vec!["/nonexistent.pub".to_owned()];
    let said = refused(&site, &linux());
    for word in ["admin_ip", "datacenter_name", "admin_password", "root_passwd", "/nonexistent.pub"]
    {
        assert_eq!(said.matches(&format!("{word}:")).count(), 1, "{word}: {said}");
    }
    assert!(!said.contains("secret-word") && !said.contains("typo-word"), "{said}");
    let (_dir, site) = answers(r#"{"root_password": "#);
    assert!(refused(&site, &linux()).contains("answers.json"));
    let long = format!(r#"{{"datacenter_location": "{}"}}"#, "x".repeat(70_000));
    let said = refused(&answers(&long).1, &linux());
    assert!(!said.contains("xxxx") || said.len() < 500, "{} bytes", said.len());
}

#[test]
fn what_does_not_fit_into_its_part_is_refused() {
    let keys: String = (0..900).map(|number| format!("{KEY}{number}\n")).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    fs::write(&path, keys).unwrap();
    let site = Site { ssh_keys: vec![path.to_str().unwrap().to_owned()], ..Site::default() };
    let said = refused(&site, &linux());
    assert!(said.contains("authorized_keys would have") && said.contains("65536"), "{said}");
}

#[test]
fn old_images_and_missing_places_are_told() {
    let site = Site { console: Some(Console::Vga), ..Site::default() };
    let said = refused(&site, &manifest("linux", &[]));
    assert!(said.contains("built anew"), "{said}");
    let said = refused(&site, &manifest("linux", &[Part::Answers]));
    assert!(said.contains("no place for the console"), "{said}");
    let mut other = linux();
    other.image.as_mut().unwrap().personal[2].length = 4096;
    assert!(refused(&site, &other).contains("4096"));
    let site = Site { console: Some(Console::SerialDev), ..Site::default() };
    assert!(refused(&site, &linux()).contains("name the port"));
    let mut without = linux();
    without.image = None;
    assert!(refused(&site, &without).contains("personal parts"));
}

#[test]
fn smartos_is_told_in_its_words() {
    let loader = manifest("smartos", &[Part::Answers, Part::LoaderConf]);
    let grub = manifest("smartos", &[Part::Answers, Part::GrubEnvironment]);
    for (console, manifest, expected) in [
        (Console::Serial2, &loader, "console=\"ttyb,text\"\nos_console=\"ttyb\""),
        (Console::Vga, &loader, "console=\"text\"\nos_console=\"text\""),
        (Console::Vga, &grub, "# GRUB Environment Block\nheadnode_console=text\n"),
        (Console::Serial, &grub, "# GRUB Environment Block\nheadnode_console=ttya\n"),
    ] {
        let site = Site { console: Some(console), ..Site::default() };
        let patches = site.read().unwrap().patches(manifest).unwrap();
        let part = Part::of_path(&patches[0].path).unwrap();
        let content = String::from_utf8_lossy(part.content(&patches[0].bytes)).into_owned();
        assert_eq!(content, expected);
        Held::read(part, &patches[0].bytes, Some(Kind::SmartOs)).unwrap();
    }
    let (_dir, mut site) = answers(r#"{"root_password": "first-word"}"#);
    assert!(refused(&site, &grub).contains("--clear-answers"));
    site.passwords = Passwords::Clear;
    let patches = site.read().unwrap().patches(&grub).unwrap();
    assert!(String::from_utf8_lossy(&patches[0].bytes).contains("first-word"));
}

#[test]
fn damage_is_told_from_content() {
    let filled = |part: Part, text: &str| part.fill(text.as_bytes()).unwrap();
    for (part, text, word) in [
        (Part::Answers, "", "JSON"),
        (Part::Answers, "[]", "another kind"),
        (Part::Answers, "{} x", "JSON"),
        (Part::Answers, r#"{"admin_ip": "x"}"#, "first boot will refuse"),
        (Part::Answers, "{\0}", "no text"),
        (Part::AuthorizedKeys, "ssh-ed25519 AAAA", "line 1"),
        (Part::AuthorizedKeys, "# nobody", "no key"),
        (Part::GrubEnvironment, "headnode_console=tty0\n", "no environment block"),
        (Part::GrubEnvironment, "# GRUB Environment Block\nheadnode_console=tty9\n", "tty9"),
        (Part::GrubEnvironment, "# GRUB Environment Block\nnonsense\n", "nonsense"),
        (Part::LoaderConf, "console\n", "no assignment"),
    ] {
        let why = Held::read(part, &filled(part, text), Some(Kind::Linux)).unwrap_err();
        assert!(why.contains(word), "{part:?} {text:?}: {why}");
    }
    assert!(Held::read(Part::Answers, b"{}", None).unwrap_err().contains("2 bytes"));
    for part in Part::ALL {
        let blank = part.fill(part.blank()).unwrap();
        assert_eq!(Held::read(part, &blank, Some(Kind::Linux)), Ok(Held::Blank));
        assert!(Held::read(part, &[0; SIZE], Some(Kind::Linux)).is_err());
        assert!(Held::read(part, &[0xff; SIZE], Some(Kind::Linux)).is_err());
    }
}

#[test]
fn only_digests_that_give_nothing_away_are_told() {
    let digest = |part: Part, text: &[u8]| {
        let sha256 = hex(Sha256::new().chain_update(part.fill(text).unwrap()));
        telling(part.path(), sha256).is_some()
    };
    assert!(digest(Part::Answers, b"{}"));
    assert!(!digest(Part::Answers, b"{\"root_password_hash\": \"x\"}"));
    assert!(digest(Part::AuthorizedKeys, KEY.as_bytes()));
}
