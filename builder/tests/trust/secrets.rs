//! No secret in clear, anywhere.

use std::fs;

use crate::*;

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
    let mut forms = Vec::new();
    for word in WORDS {
        let utf16: Vec<u8> = word.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let turned: Vec<u8> = word.bytes().rev().collect();
        forms.extend([word.as_bytes().to_vec(), word.to_uppercase().into_bytes(), utf16, turned]);
    }
    for (what, bytes) in &made {
        let found = contained(bytes, &forms);
        assert!(found.is_empty(), "form {found:?} of a secret is in {what}");
    }
    // The search does find what is there.
    let there = [b"root_password_hash".to_vec(), b"$6$".to_vec()];
    assert_eq!(contained(&made[0].1, &there), [0, 1]);
    fs::write(&path, r#"{"root_password": ["first-secret-word"]}"#).unwrap();
    let said = answers::read(&path, Passwords::Hashed, b"x").unwrap_err();
    assert!(!format!("{said} {said:?}").contains(WORDS[0]));
}

/// Which of some words are in bytes.
fn contained(bytes: &[u8], words: &[Vec<u8>]) -> Vec<usize> {
    let pattern = |word: &Vec<u8>| word.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    let patterns: Vec<String> = words.iter().map(pattern).collect();
    let set = regex::bytes::RegexSetBuilder::new(patterns).unicode(false).build().unwrap();
    set.matches(bytes).into_iter().collect()
}
