//! Takes the passwords out of an answers file and leaves their hashes.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Answer, Answers, PASSWORDS, is_secret};
use crate::config::{Problem, Problems};
use crate::password;
use crate::questions;

/// Answers without a secret in clear.
#[derive(Debug, Clone, PartialEq)]
pub struct Sealed {
    /// The answers.
    pub answers: Answers,
    /// Keys of secrets that nobody reads, which were left out.
    pub dropped: Vec<String>,
}

/// Replaces every password by its hash (`root_password` by `root_password_hash`, …), so that who
/// finds the image does not find them. What first boot checks of a password is checked here, as it
/// cannot be checked later. Answers that hold hashes already are only checked.
///
/// The salts follow from `salt_seed` and the key's name, never from the password: the same build
/// gives the same bytes, and equal passwords of two keys differ. `salt_seed` must differ from image
/// to image: take the digest of the image's content, without the answers.
///
/// # Errors
/// All passwords and hashes that cannot be used, and unknown keys that look like a secret: a
/// mistyped key must not carry a password into the image. No value is told.
pub fn seal(answers: &Answers, salt_seed: &[u8]) -> Result<Sealed, Problems> {
    let mut sealed = Sealed { answers: answers.clone(), dropped: Vec::new() };
    let mut problems = Vec::new();
    for (clear, hashed) in PASSWORDS {
        problems.extend(questions::password_problems(answers, clear, hashed));
        let Answer::Given(text) = answers.get(clear) else { continue };
        match password::hash(&text, &salt(salt_seed, clear)) {
            Ok(hash) => {
                sealed.answers.0.remove(clear);
                sealed.answers.0.insert(hashed.to_owned(), Value::String(hash));
            }
            Err(error) => {
                problems.push(Problem { key: clear.to_owned(), message: error.to_string() });
            }
        }
    }
    let known = |key: &str| PASSWORDS.iter().any(|(clear, hashed)| key == *clear || key == *hashed);
    for key in answers.0.keys().filter(|key| is_secret(key) && !known(key)) {
        if questions::is_known(key) {
            sealed.answers.0.remove(key);
            sealed.dropped.push(key.clone());
        } else {
            let message = "looks like a secret, but nobody reads this key: correct its name or \
                           take it out";
            problems.push(Problem { key: key.clone(), message: message.to_owned() });
        }
    }
    if problems.is_empty() { Ok(sealed) } else { Err(Problems(problems)) }
}

fn salt(seed: &[u8], key: &str) -> [u8; password::SALT] {
    let digest = Sha256::new()
        .chain_update(b"headnode answers salt\0")
        .chain_update((seed.len() as u64).to_le_bytes())
        .chain_update(seed)
        .chain_update(key)
        .finalize();
    let mut salt = [0; password::SALT];
    for (to, from) in salt.iter_mut().zip(digest) {
        *to = from;
    }
    salt
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn answers(value: serde_json::Value) -> Answers {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn passwords_become_hashes_and_the_rest_stays() {
        let all = answers(json!({
            "datacenter_name": "coal", "root_password": "secret-word", "admin_password": "joypass123",
            "api_password": "hidden-word", "skip_dns_check": true,
        }));
        let sealed = seal(&all, b"seed").unwrap();
        let text = String::from_utf8(sealed.answers.text().unwrap()).unwrap();
        for word in ["secret-word", "joypass123", "hidden-word", "\"root_password\""] {
            assert!(!text.contains(word), "{text}");
        }
        let hash = |key: &str| sealed.answers.0[key].as_str().unwrap();
        assert!(password::matches("secret-word", hash("root_password_hash")));
        assert!(password::matches("joypass123", hash("admin_password_hash")));
        assert_eq!(sealed.dropped, ["api_password"]);
        assert_eq!(sealed.answers.0["skip_dns_check"], json!(true));
        assert_eq!(seal(&all, b"seed").unwrap(), sealed);
        assert_ne!(seal(&all, b"seal").unwrap(), sealed);
        // Sealing what is sealed changes nothing.
        assert_eq!(seal(&sealed.answers, b"other").unwrap().answers, sealed.answers);
        let shown = format!("{all:?} {sealed:?}");
        assert!(!shown.contains("secret-word") && !shown.contains("$6$"), "{shown}");
    }

    #[test]
    fn what_cannot_be_sealed_is_told_without_its_value() {
        for (value, blamed) in [
            (json!({"admin_password": "hunter2"}), None),
            (json!({"admin_password": "qwertyui"}), Some("admin_password")),
            (json!({"root_password": ""}), Some("root_password")),
            (json!({"root_password": {"qwertyui": 1}}), Some("root_password")),
            (json!({"root_password_hash": "qwertyui"}), Some("root_password_hash")),
            (json!({"root_pasword": "x", "root_passwd": "qwertyui"}), Some("root_passwd")),
            (
                json!({"root_password": "qwertyui", "root_password_hash": "$6$x$y"}),
                Some("root_password"),
            ),
        ] {
            let result = seal(&answers(value.clone()), b"seed");
            match blamed {
                None => drop(result.unwrap()),
                Some(key) => {
                    let problems = result.unwrap_err();
                    assert!(problems.0.iter().any(|p| p.key == key), "{value}: {problems}");
                    assert!(!problems.to_string().contains("qwertyui"), "{problems}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_password_survives(root in "[a-zA-Z0-9!]{8,24}", admin in "[a-z]{6,9}[0-9]{2,4}") {
            let all = answers(json!({"root_password": root, "admin_password": admin}));
            let sealed = seal(&all, b"seed").unwrap().answers;
            let text = String::from_utf8(sealed.text().unwrap()).unwrap();
            prop_assert!(!text.contains(&root) && !text.contains(&admin));
        }
    }
}
