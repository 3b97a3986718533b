//! Signatures: what holds, what is refused, and what minisign says.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::*;
use proptest::prelude::*;

fn key() -> SecretKey {
    SecretKey::from_parts(KeyId([1, 2, 3, 4, 5, 6, 7, 8]), [7; 32]).unwrap()
}

#[test]
fn a_signature_is_deterministic_and_holds() {
    let first = sign(b"manifest", "headnode 1", &key()).unwrap();
    assert_eq!(first, sign(b"manifest", "headnode 1", &key()).unwrap());
    let read = Signature::parse(&first.text()).unwrap();
    assert_eq!(read, first);
    let public = PublicKey::parse(&key().public().text()).unwrap();
    assert_eq!(public.id().to_string(), "0807060504030201");
    public.verify(b"manifest", &read).unwrap();
    assert!(matches!(public.verify(b"manifesT", &read), Err(Error::Wrong(_))));
    let other = Signature { comment: "headnode 2".into(), ..read.clone() };
    assert!(matches!(public.verify(b"manifest", &other), Err(Error::WrongComment(_))));
    let stranger = SecretKey::from_parts(KeyId([9; 8]), [7; 32]).unwrap().public();
    assert!(matches!(stranger.verify(b"manifest", &read), Err(Error::OtherKey { .. })));
    assert!(matches!(sign(b"m", "two\nlines", &key()), Err(Error::Comment)));
    assert!(!format!("{:?}", key()).contains("7, 7"));
}

#[test]
fn an_encrypted_key_opens_with_its_passphrase_only() {
    let text = key().text(Some("correct horse")).unwrap();
    assert!(encrypted(&text).unwrap());
    assert_eq!(SecretKey::parse(&text, Some("correct horse")).unwrap().public(), key().public());
    assert!(matches!(SecretKey::parse(&text, Some("wrong")), Err(Error::Passphrase)));
    assert!(matches!(SecretKey::parse(&text, None), Err(Error::Locked)));
    // One that asks for all the memory in the world is refused before any is taken.
    let mut bytes = STANDARD.decode(text.lines().nth(1).unwrap()).unwrap();
    bytes[53] = 0x7f;
    let error = SecretKey::parse(&STANDARD.encode(bytes), Some("x")).unwrap_err().to_string();
    assert!(error.contains("2 GiB"), "{error}");
}

/// Runs minisign (Debian package of that name); it must be there.
fn minisign(folder: &Path, args: &[&str]) -> (bool, String) {
    let output = Command::new("minisign").args(args).current_dir(folder).output();
    let output = output.unwrap_or_else(|error| panic!("minisign: {error}; ci/setup installs it"));
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn minisign_accepts_our_signatures_and_keys() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let key = SecretKey::generate().unwrap();
    write("m.json", "the manifest");
    write("our.pub", &key.public().text());
    write("m.json.minisig", &sign(b"the manifest", "headnode 1", &key).unwrap().text());
    let (good, said) = minisign(folder.path(), &["-V", "-H", "-p", "our.pub", "-m", "m.json"]);
    assert!(good && said.contains("Trusted comment: headnode 1"), "{said}");
    let (good, said) =
        minisign(folder.path(), &["-V", "-P", &key.public().base64(), "-m", "m.json"]);
    assert!(good, "{said}");
    // It signs with our secret key, too, and makes the same signature.
    write("our.key", &key.text(None).unwrap());
    let args = ["-S", "-s", "our.key", "-t", "headnode 1", "-x", "again", "-m", "m.json"];
    let (good, said) = minisign(folder.path(), &args);
    assert!(good, "{said}");
    let theirs = std::fs::read_to_string(folder.path().join("again")).unwrap();
    assert_eq!(
        Signature::parse(&theirs).unwrap(),
        sign(b"the manifest", "headnode 1", &key).unwrap()
    );
    write("m.json", "another manifest");
    let (good, said) = minisign(folder.path(), &["-V", "-p", "our.pub", "-m", "m.json"]);
    assert!(!good, "{said}");
}

/// Runs minisign with a passphrase on its standard input.
fn with_passphrase(folder: &Path, args: &[&str], typed: &[u8]) {
    let mut child = Command::new("minisign")
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("minisign: {error}; ci/setup installs it"));
    child.stdin.take().unwrap().write_all(typed).unwrap();
    assert!(child.wait().unwrap().success(), "minisign {args:?}");
}

#[test]
fn encrypted_keys_go_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("m"), "the manifest").unwrap();
    let key = SecretKey::generate().unwrap();
    std::fs::write(path("our.key"), key.text(Some("our words")).unwrap()).unwrap();
    with_passphrase(folder.path(), &["-S", "-s", "our.key", "-m", "m"], b"our words\n");
    let status = check(&path("m"), b"the manifest", Some(&key.public())).unwrap();
    assert!(matches!(status, Status::Signed { .. }), "{status}");
    let new = ["-G", "-p", "their.pub", "-s", "their.key"];
    with_passphrase(folder.path(), &new, b"their words\ntheir words\n");
    let key = SecretKey::read(&path("their.key"), &mut || Ok("their words".into())).unwrap();
    let public = PublicKey::from_argument(path("their.pub").to_str().unwrap()).unwrap();
    assert_eq!(key.public(), public);
}

#[test]
fn we_accept_minisigns_signatures_and_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("m.json"), "the manifest").unwrap();
    let (good, said) = minisign(folder.path(), &["-G", "-W", "-p", "their.pub", "-s", "their.key"]);
    assert!(good, "{said}");
    let public = PublicKey::from_argument(path("their.pub").to_str().unwrap()).unwrap();
    for legacy in [None, Some("-l")] {
        let mut args = vec!["-S", "-s", "their.key", "-t", "theirs", "-m", "m.json"];
        args.extend(legacy);
        let (good, said) = minisign(folder.path(), &args);
        assert!(good, "{said}");
        let status = check(&path("m.json"), b"the manifest", Some(&public)).unwrap();
        assert_eq!(status, Status::Signed { key_id: public.id(), comment: "theirs".into() });
    }
    let key = SecretKey::read(&path("their.key"), &mut || Err(Error::Locked)).unwrap();
    assert_eq!(key.public(), public);
    let status = check(&path("m.json"), b"the manifesto", Some(&public)).unwrap();
    assert!(matches!(status, Status::Bad { .. }), "{status}");
    let status = check(&path("m.json"), b"the manifest", None).unwrap();
    assert_eq!(status, Status::NotChecked { key_id: public.id() });
    std::fs::remove_file(path("m.json.minisig")).unwrap();
    assert_eq!(check(&path("m.json"), b"x", None).unwrap(), Status::NotSigned);
    let status = check(&path("m.json"), b"x", Some(&public)).unwrap();
    assert!(status.to_string().contains("not signed"), "{status}");
}

proptest! {
    #[test]
    fn no_text_panics(text: String, cut in 0usize..400, at in 0usize..400, with: char) {
        drop(Signature::parse(&text));
        drop(PublicKey::parse(&text));
        drop(SecretKey::parse(&text, None));
        // Real ones, cut and changed.
        let signature = sign(b"m", "c", &key()).unwrap().text();
        let public = key().public();
        for good in [signature, public.text(), key().text(None).unwrap()] {
            let mut bad: Vec<char> = good.chars().collect();
            if let Some(char) = bad.get_mut(at) {
                *char = with;
            }
            bad.truncate(cut);
            let bad: String = bad.into_iter().collect();
            if let Ok(signature) = Signature::parse(&bad) {
                drop(public.verify(b"m", &signature));
            }
            drop(PublicKey::parse(&bad));
            drop(SecretKey::parse(&bad, None));
        }
    }
}
