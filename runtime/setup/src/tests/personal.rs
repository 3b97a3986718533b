//! Personal parts of the key: padded, blank, damaged, changed between two boots.

use super::*;

/// A key whose personal part holds this.
fn with_part(part: Part, bytes: Option<Vec<u8>>) -> Fake {
    let fake = machine();
    put(&fake, part, bytes);
    fake
}

fn put(fake: &Fake, part: Part, bytes: Option<Vec<u8>>) {
    let mut inner = fake.0.borrow_mut();
    let files = inner.durable.key.as_mut().unwrap();
    match bytes {
        Some(bytes) => files.insert(part.path().into(), bytes),
        None => files.remove(Path::new(part.path())),
    };
}

#[test]
fn blank_answers_are_like_none() {
    let blank = Part::Answers.fill(Part::Answers.blank()).unwrap();
    let [none, blank, spaces] = [None, Some(blank), Some(b" {}\n\n".to_vec())]
        .map(|bytes| failure(&with_part(Part::Answers, bytes)));
    assert_eq!(none, blank);
    assert_eq!(none, spaces);
    assert_eq!(none.0, "configured");
    assert!(none.1.contains("does not answer datacenter_name, admin_nic"), "{}", none.1);
    // What a torn write leaves is no answer.
    let torn = failure(&with_part(Part::Answers, Some(vec![0; SIZE])));
    assert!(torn.1.contains("private/answers.json"), "{}", torn.1);
}

#[test]
fn keys_of_the_key_reach_the_pool_without_padding() {
    let fake = machine();
    run(&fake).unwrap();
    let pool = |fake: &Fake, path: &str| {
        let first = finished(fake);
        (first.0.pools[0].datasets["usbkey"].get(Path::new(path)).cloned(), first.1.settings)
    };
    let (keys, settings) = pool(&fake, paths::AUTHORIZED_KEYS);
    assert_eq!(keys.as_deref(), Some(KEYS));
    assert_eq!(settings.authorized_keys.as_bytes(), KEYS);
    assert_eq!(pool(&fake, paths::EXTRA_AUTHORIZED_KEYS).0.as_deref(), Some(KEYS));
    // Another key for the same image.
    fake.reset();
    let other = b"ssh-ed25519 BBBB another";
    put(&fake, Part::AuthorizedKeys, Some(Part::AuthorizedKeys.fill(other).unwrap()));
    run(&fake).unwrap();
    let (keys, settings) = pool(&fake, paths::AUTHORIZED_KEYS);
    assert_eq!(keys.unwrap(), [&other[..], b"\n"].concat());
    assert!(settings.authorized_keys.starts_with("ssh-ed25519 BBBB"));
    assert!(pool(&fake, paths::EXTRA_AUTHORIZED_KEYS).0.unwrap().starts_with(other));
    // None, or what is none, leaves what is there.
    for bytes in [vec![b'\n'; SIZE], vec![0; SIZE], vec![0xff; SIZE]] {
        fake.reset();
        put(&fake, Part::AuthorizedKeys, Some(bytes));
        run(&fake).unwrap();
        assert!(pool(&fake, paths::AUTHORIZED_KEYS).0.unwrap().starts_with(other));
    }
    // A blank key on a new machine: nobody may log in with a key.
    let fake = with_part(Part::AuthorizedKeys, Some(vec![b'\n'; SIZE]));
    run(&fake).unwrap();
    let (keys, settings) = pool(&fake, paths::AUTHORIZED_KEYS);
    assert_eq!((keys, settings.authorized_keys.as_str()), (None, ""));
}

#[test]
fn images_whose_keys_are_a_file_like_any_other_still_work() {
    let fake = machine();
    let (file, digest) = (paths::AUTHORIZED_KEYS, sha256_of(KEYS));
    {
        let mut inner = fake.0.borrow_mut();
        let files = inner.durable.key.as_mut().unwrap();
        let mut manifest: serde_json::Value =
            serde_json::from_slice(&files[Path::new(paths::KEY_MANIFEST)]).unwrap();
        let list = manifest["files"].as_array_mut().unwrap();
        list.retain(|entry| entry["path"] != file);
        list.push(json!({"path": file, "size": KEYS.len(), "sha256": digest}));
        let manifest = manifest.to_string().into_bytes();
        let params = format!("headnode=true headnode.manifest=sha256:{}", sha256_of(&manifest));
        files.insert(paths::KEY_MANIFEST.into(), manifest);
        files.insert(file.into(), KEYS.to_vec());
        inner.params = params;
    }
    run(&fake).unwrap();
    assert_eq!(finished(&fake).1.settings.authorized_keys.as_bytes(), KEYS);
}
