//! What vouches for an image.

use std::fs;
use std::path::Path;

use headnode::flash::source::{Error, Options, Trust};
use headnode::manifest::signature::{PublicKey, Status};

use super::{MIB, flashed, made, open, options, pack, ranges, same, tool, unverified};

fn store(dir: &Path) -> std::path::PathBuf {
    let raw = dir.join("a.img");
    made().store(&raw);
    raw
}

#[test]
fn block_maps_of_bmaptool() {
    let dir = tempfile::tempdir().unwrap();
    let made = made();
    let raw = store(dir.path());
    tool(dir.path(), "bmaptool", &["create", "-o", "a.img.bmap", "a.img"]);
    let gz = pack(&raw, "gzip");
    for path in [&raw, &gz] {
        let source = open(path, &options()).unwrap();
        assert_eq!(ranges(source.map()), made.ranges);
        assert!(source.map().is_digested());
        assert!(matches!(source.trust(), Trust::Bmap { .. }));
        assert!(source.identity().starts_with("bmap:"));
        assert!(same(&flashed(source_ref(&source)).unwrap(), &made.bytes));
    }
    // As bmaptool finds it too: with the packing's suffix, and without any.
    for name in ["a.img.gz.bmap", "a.bmap"] {
        fs::rename(dir.path().join("a.img.bmap"), dir.path().join(name)).unwrap();
        assert!(open(&gz, &options()).is_ok(), "{name}");
        fs::rename(dir.path().join(name), dir.path().join("a.img.bmap")).unwrap();
    }
    // One without digests says only what is mapped.
    tool(dir.path(), "bmaptool", &["create", "--no-checksum", "-o", "a.img.bmap", "a.img"]);
    let error = open(&raw, &options()).unwrap_err();
    assert!(matches!(error, Error::Unverified { .. }), "{error}");
    let source = open(&raw, &unverified()).unwrap();
    assert_eq!(ranges(source.map()), made.ranges);
    assert_eq!(source.trust(), &Trust::None);
    fs::write(dir.path().join("SHA256SUMS"), tool(dir.path(), "sha256sum", &["a.img"])).unwrap();
    let source = open(&raw, &options()).unwrap();
    assert_eq!(ranges(source.map()), made.ranges);
    assert!(source.identity().contains("+bmap:"));
    assert!(same(&flashed(&source).unwrap(), &made.bytes));
    // Damage outside of what is mapped is damage, as nothing else says what is.
    use std::os::unix::fs::FileExt as _;
    let file = fs::OpenOptions::new().write(true).open(&raw).unwrap();
    file.write_all_at(b"x", 10 * MIB).unwrap();
    let error = flashed(&open(&raw, &options()).unwrap()).unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    fs::write(dir.path().join("a.img.bmap"), "<bmap").unwrap();
    assert!(matches!(open(&raw, &unverified()), Err(Error::Bmap { .. })));
}

fn source_ref(source: &headnode::flash::source::Source) -> &headnode::flash::source::Source {
    source
}

#[test]
fn lists_of_sha256sum() {
    let dir = tempfile::tempdir().unwrap();
    let made = made();
    let raw = store(dir.path());
    for path in [raw.clone(), pack(&raw, "gzip"), pack(&raw, "zstd"), pack(&raw, "xz")] {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let list = tool(dir.path(), "sha256sum", &[&name]);
        let bare = list[..64].to_vec();
        let tagged = tool(dir.path(), "sha256sum", &["--tag", &name]);
        for (list_name, text) in [
            ("SHA256SUMS".to_owned(), &list),
            (format!("{name}.sha256"), &list),
            (format!("{name}.sha256"), &bare),
            ("a.SHA256SUMS".to_owned(), &tagged),
        ] {
            let list_path = dir.path().join(&list_name);
            fs::write(&list_path, text).unwrap();
            let source = open(&path, &options()).unwrap();
            assert!(matches!(source.trust(), Trust::Sums { .. }), "{list_name}");
            assert!(source.identity().starts_with("sums:"));
            assert!(same(&flashed(&source).unwrap(), &made.bytes), "{list_name}");
            // It is of another file.
            let mut wrong = String::from_utf8(text.clone()).unwrap();
            wrong = wrong.replace(std::str::from_utf8(&bare).unwrap(), &"0".repeat(64));
            fs::write(&list_path, &wrong).unwrap();
            let error = flashed(&open(&path, &options()).unwrap()).unwrap_err();
            assert!(matches!(error, Error::Digest { .. }), "{error}");
            // Two that differ.
            fs::write(dir.path().join(format!("{name}.SHA256SUMS")), &list).unwrap();
            let error = open(&path, &options()).unwrap_err();
            assert!(matches!(error, Error::Contradiction { .. }), "{error}");
            fs::remove_file(dir.path().join(format!("{name}.SHA256SUMS"))).unwrap();
            fs::remove_file(&list_path).unwrap();
        }
        // A list of what it unpacks to.
        fs::write(dir.path().join("SHA256SUMS"), tool(dir.path(), "sha256sum", &["a.img"]))
            .unwrap();
        assert!(same(&flashed(&open(&path, &options()).unwrap()).unwrap(), &made.bytes));
        let wrong = format!("{}  a.img\n", "1".repeat(64));
        fs::write(dir.path().join("SHA256SUMS"), wrong).unwrap();
        let error = flashed(&open(&path, &options()).unwrap()).unwrap_err();
        assert!(matches!(error, Error::Digest { .. }), "{error}");
        // One that was asked for and does not have it.
        let other = dir.path().join("other");
        fs::write(&other, format!("{}  b.img\n", "1".repeat(64))).unwrap();
        let asked = Options { sums: Some(other.to_str().unwrap()), ..options() };
        assert!(matches!(open(&path, &asked), Err(Error::Description { .. })));
        fs::remove_file(dir.path().join("SHA256SUMS")).unwrap();
        let asked = Options { sums: Some("/nowhere/SUMS"), ..unverified() };
        assert!(matches!(open(&path, &asked), Err(Error::Missing(_))));
    }
}

#[test]
fn all_that_is_there_must_agree() {
    let dir = tempfile::tempdir().unwrap();
    let made = made();
    let raw = store(dir.path());
    let zst = pack(&raw, "zstd");
    fs::write(dir.path().join("a.img.manifest.json"), made.manifest()).unwrap();
    fs::write(dir.path().join("a.img.bmap"), made.bmap()).unwrap();
    let list = tool(dir.path(), "sha256sum", &["a.img.zst"]);
    fs::write(dir.path().join("a.SHA256SUMS"), &list).unwrap();
    let source = open(&zst, &options()).unwrap();
    assert!(matches!(source.trust(), Trust::Manifest { .. }));
    assert!(same(&flashed(&source).unwrap(), &made.bytes));
    // The packed file's digest is checked though each range has one.
    let wrong = format!("{}  a.img.zst\n", "1".repeat(64));
    fs::write(dir.path().join("a.SHA256SUMS"), wrong).unwrap();
    let error = flashed(&open(&zst, &options()).unwrap()).unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    fs::remove_file(dir.path().join("a.SHA256SUMS")).unwrap();
    let mut other = super::made();
    other.bytes[9] ^= 1;
    fs::write(dir.path().join("a.img.bmap"), other.bmap()).unwrap();
    let error = open(&zst, &options()).unwrap_err();
    assert!(matches!(error, Error::Contradiction { .. }), "{error}");
    assert!(error.to_string().contains("2097152 bytes at 0"), "{error}");
    // The key's own copy is none.
    let text = String::from_utf8(made.manifest()).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value.as_object_mut().unwrap().remove("image");
    fs::write(dir.path().join("a.img.manifest.json"), value.to_string()).unwrap();
    let error = open(&zst, &options()).unwrap_err();
    assert!(error.to_string().contains("copy on a key"), "{error}");
}

#[test]
fn signatures_of_minisign() {
    let dir = tempfile::tempdir().unwrap();
    let raw = store(dir.path());
    let made = made();
    let manifest = dir.path().join("a.img.manifest.json");
    fs::write(&manifest, made.manifest()).unwrap();
    for key in ["one", "two"] {
        let (public, secret) = (format!("{key}.pub"), format!("{key}.key"));
        tool(dir.path(), "minisign", &["-G", "-W", "-p", &public, "-s", &secret]);
    }
    let key =
        |name: &str| PublicKey::from_argument(dir.path().join(name).to_str().unwrap()).unwrap();
    let (one, two) = (key("one.pub"), key("two.pub"));
    let with = |key| Options { public_key: Some(key), ..unverified() };
    // Not signed: no key, no matter; with one, nothing helps, not even --unverified.
    assert!(open(&raw, &options()).is_ok());
    let error = open(&raw, &with(&one)).unwrap_err();
    assert!(matches!(error, Error::NotSigned { .. }), "{error}");
    let sign = |name: &str| tool(dir.path(), "minisign", &["-S", "-s", "one.key", "-m", name]);
    sign("a.img.manifest.json");
    let source = open(&raw, &with(&one)).unwrap();
    let status = source.trust().signature().unwrap();
    assert!(matches!(status, Status::Signed { key_id, .. } if *key_id == one.id()));
    assert!(same(&flashed(&source).unwrap(), &made.bytes));
    let source = open(&raw, &options()).unwrap();
    assert!(matches!(source.trust().signature(), Some(Status::NotChecked { .. })));
    let error = open(&raw, &with(&two)).unwrap_err();
    assert!(matches!(error, Error::Signature { .. }), "{error}");
    // Changed after it was signed.
    let text = fs::read_to_string(&manifest).unwrap().replace("\"test\"", "\"tesT\"");
    fs::write(&manifest, text).unwrap();
    let error = open(&raw, &with(&one)).unwrap_err();
    assert!(matches!(error, Error::Signature { .. }), "{error}");
    fs::write(dir.path().join("a.img.manifest.json.minisig"), "garbage").unwrap();
    assert!(matches!(open(&raw, &options()), Err(Error::Signature { .. })));
    fs::remove_file(&manifest).unwrap();
    fs::remove_file(dir.path().join("a.img.manifest.json.minisig")).unwrap();
    // A signed list counts as well; a block map that nobody signed does not.
    fs::write(dir.path().join("SHA256SUMS"), tool(dir.path(), "sha256sum", &["a.img"])).unwrap();
    fs::write(dir.path().join("a.img.bmap"), made.bmap()).unwrap();
    assert!(matches!(open(&raw, &with(&one)), Err(Error::NotSigned { .. })));
    sign("SHA256SUMS");
    let source = open(&raw, &with(&one)).unwrap();
    assert!(matches!(source.trust(), Trust::Sums { signature: Status::Signed { .. }, .. }));
    assert_eq!(source.map().ranges, None);
}
