//! The bill of materials: what is in it, and what another program says of its form.

use std::path::Path;
use std::process::Command;

use headnode_model::manifest::{FORMAT, File, Firmware, Platform, Service};

use super::*;

fn manifest() -> Manifest {
    Manifest {
        format: FORMAT,
        name: "headnode".into(),
        version: "0.1.0".into(),
        created: 1_767_323_045,
        platforms: vec![Platform {
            stamp: "20260102T030405Z".parse().unwrap(),
            os: "linux".into(),
            description: "Debian 12".into(),
        }],
        services: vec![Service {
            name: "sdc".into(),
            version: "0.1.0".into(),
            size: 64,
            sha256: "a".repeat(64),
        }],
        firmware: vec![Firmware {
            name: "GRUB for BIOS".into(),
            package: "grub-pc-bin".into(),
            version: "2.06-13+deb12u1".into(),
            licence: "GPL-3.0-or-later".into(),
            origin: "https://sources.debian.org/src/grub2/".into(),
            path: "boot:".into(),
            size: 9,
            sha256: "b".repeat(64),
        }],
        files: vec![File { path: "version".into(), size: 1, sha256: Some("c".repeat(64)) }],
        image: None,
    }
}

const PACKAGES: &str = r#"{"stamp": "20260102T030405Z", "suite": "bookworm", "kernel": "6.1", "packages": [
    {"name": "libstdc++6", "version": "1:12.2.0-14+deb12u1", "architecture": "amd64",
     "sha256": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd", "uses": ["root"],
     "copyright": "usr/share/doc/libstdc++6/copyright"},
    {"name": "bash", "version": "5.2.15-2", "architecture": "amd64", "sha256": "",
     "licences": ["GPL-3+", "GPL-3+ with Bison exception"]}]}"#;

const IMAGE: &str = r#"{"v": 2, "uuid": "f669428c-a939-11ea-a485-b790efc0f0c1", "name": "base-64",
    "version": "20.4.0", "os": "smartos", "type": "zone-dataset",
    "files": [{"sha1": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", "size": 5, "compression": "gzip"}]}"#;

fn workspace_crates() -> Vec<Crate> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    Crate::of_workspace(workspace).unwrap()
}

/// A bill with parts of all kinds, and so many crates.
fn whole(crates: usize) -> Bom {
    let mut linked = workspace_crates();
    linked.truncate(crates);
    bom(Inputs {
        manifest: &manifest(),
        debian: &DebianPackage::list(PACKAGES.as_bytes()).unwrap(),
        crates: &linked,
        images: &[ZoneImage::parse(IMAGE.as_bytes()).unwrap()],
    })
    .unwrap()
}

#[test]
fn every_kind_of_part_is_in_it_and_it_is_the_same_each_time() {
    let first = whole(usize::MAX);
    assert_eq!(text(&first).unwrap(), text(&whole(usize::MAX)).unwrap());
    let part = |reference: &str| {
        let found = first.components.iter().find(|part| part.reference == reference);
        found.unwrap_or_else(|| panic!("{reference} is missing"))
    };
    let deb = part("deb:20260102T030405Z/libstdc++6:amd64");
    assert_eq!(
        deb.purl,
        "pkg:deb/debian/libstdc%2B%2B6@1%3A12.2.0-14%2Bdeb12u1?arch=amd64&distro=bookworm"
    );
    let see = "see usr/share/doc/libstdc++6/copyright in the platform".to_owned();
    assert_eq!(deb.licenses, [Licence::License { name: see }]);
    assert_eq!(part("deb:20260102T030405Z/bash:amd64").licenses.len(), 2);
    assert_eq!(part("image:f669428c-a939-11ea-a485-b790efc0f0c1").hashes[0].alg, "SHA-1");
    assert_eq!(part("firmware:boot:").external_references.len(), 1);
    assert_eq!(part("program:sdc").kind, "application");
    let mut other = manifest();
    other.files[0].sha256 = Some("9".repeat(64));
    let inputs = Inputs { manifest: &other, debian: &[], crates: &[], images: &[] };
    let bare = bom(inputs).unwrap();
    let same = bom(Inputs { manifest: &manifest(), ..inputs }).unwrap();
    assert_eq!(bare.components, same.components);
    assert_ne!(bare.serial_number, same.serial_number, "another image has another number");
}

#[test]
fn the_crates_are_those_that_are_linked() {
    let crates = workspace_crates();
    let find = |name: &str| crates.iter().find(|found| found.name == name);
    let serde = find("serde").unwrap();
    assert_eq!(serde.sha256.as_ref().map(String::len), Some(64));
    assert_eq!(serde.licence.as_deref(), Some("MIT OR Apache-2.0"));
    assert!(find("sdc-setup").unwrap().sha256.is_none());
    for other in ["proptest", "assert_cmd", "headnode", "cc"] {
        assert!(find(other).is_none(), "{other} is not linked into our programs");
    }
    let unlicensed: Vec<_> = crates.iter().filter(|c| c.licence.is_none()).collect();
    assert!(unlicensed.is_empty(), "{unlicensed:?}");
}

#[test]
fn two_parts_of_one_name_are_an_error() {
    let twice =
        [ZoneImage::parse(IMAGE.as_bytes()).unwrap(), ZoneImage::parse(IMAGE.as_bytes()).unwrap()];
    let inputs = Inputs { manifest: &manifest(), debian: &[], crates: &[], images: &twice };
    assert!(matches!(bom(inputs), Err(Error::Twice(_))));
    let manifest = Manifest { created: i64::MAX, ..manifest() };
    assert!(matches!(
        bom(Inputs { manifest: &manifest, images: &[], ..inputs }),
        Err(Error::Created(_))
    ));
}

#[test]
fn another_programs_validator_accepts_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text(&whole(30)).unwrap()).unwrap();
    let validator = include_str!("../../../tests/support/judge_bill.py");
    let python = std::env::var("HEADNODE_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let output = Command::new(python).args(["-c", validator]).arg(file.path()).output().unwrap();
    assert!(
        output.status.success(),
        "{}\n(the validator is PyPI's cyclonedx-python-lib[json-validation]; ci/setup installs it)",
        String::from_utf8_lossy(&output.stderr)
    );
}
