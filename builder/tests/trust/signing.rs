//! Keys, signatures, and what `verify` says of them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::*;

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
    // The verb makes the same signature.
    let secret = dir.path().join("k.key");
    fs::write(&secret, key.text(None).unwrap()).unwrap();
    fs::remove_file(beside(&manifest)).unwrap();
    good(&["key", "sign", "--key", text(&secret), text(&image)]);
    assert_eq!(fs::read_to_string(beside(&manifest)).unwrap(), signature);
    // Debian's minisign says the same of it.
    let minisign = Command::new("minisign")
        .args(["-V", "-P", &public, "-m", text(&manifest)])
        .output()
        .unwrap_or_else(|error| panic!("minisign: {error}; ci/setup installs it"));
    assert!(minisign.status.success(), "{}", stderr(&minisign));
    // Any other file can be signed as well, and a public key printed as the file that minisign wants.
    let sums = dir.path().join("SHA256SUMS");
    fs::write(&sums, "0  nothing\n").unwrap();
    good(&["key", "sign", "--key", text(&secret), text(&sums)]);
    let file = dir.path().join("k.pub");
    fs::write(&file, good(&["key", "show", "--file", text(&secret)])).unwrap();
    let minisign = Command::new("minisign")
        .args(["-V", "-p", text(&file), "-m", text(&sums)])
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
