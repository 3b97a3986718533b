//! Passwords: what is kept of them is a hash that `crypt` of Linux and illumos knows.

use sha_crypt::{PasswordHasher, PasswordVerifier, ShaCrypt};

/// Bytes that a salt is made of; they become the 16 letters that SHA-512-crypt uses.
pub const SALT: usize = 12;

/// A password that cannot be hashed.
#[derive(Debug, thiserror::Error)]
#[error("the password cannot be hashed: {0}")]
pub struct HashError(String);

/// Hashes a password for `/etc/shadow` with SHA-512-crypt.
///
/// # Errors
/// When the password cannot be hashed, as when it is too long.
pub fn hash(password: &str, salt: &[u8; SALT]) -> Result<String, HashError> {
    let hash = ShaCrypt::SHA512.hash_password_with_salt(password.as_bytes(), salt);
    Ok(hash.map_err(|error| HashError(error.to_string()))?.to_string())
}

/// Whether a password belongs to a hash.
pub fn matches(password: &str, hash: &str) -> bool {
    ShaCrypt::SHA512.verify_password(password.as_bytes(), hash).is_ok()
}

/// Whether a text is a hash of SHA-256-crypt or SHA-512-crypt, which both platforms know:
/// `$6$[rounds=N$]SALT$HASH`. Nothing else goes into a line of `/etc/shadow`.
pub fn is_hash(text: &str) -> bool {
    let base64 = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "./".contains(c));
    let (length, rest) = match (text.strip_prefix("$6$"), text.strip_prefix("$5$")) {
        (Some(rest), _) => (86, rest),
        (_, Some(rest)) => (43, rest),
        _ => return false,
    };
    let rest = match rest.strip_prefix("rounds=").map(|rest| rest.split_once('$')) {
        None => rest,
        // The bounds of crypt's specification, version 0.6.
        Some(Some((rounds, rest)))
            if rounds.parse().is_ok_and(|n: u32| (1000..=999_999_999).contains(&n)) =>
        {
            rest
        }
        Some(_) => return false,
    };
    let Some((salt, hash)) = rest.split_once('$') else { return false };
    (1..=16).contains(&salt.len()) && base64(salt) && hash.len() == length && base64(hash)
}

/// What is wrong with a password of `admin`, by Triton's rule (C§2.2).
pub fn weak(password: &str) -> Option<&'static str> {
    let has = |what: fn(&char) -> bool| password.chars().any(|c| what(&c));
    if password.chars().count() < 7 {
        Some("must have 7 characters at least")
    } else if !has(|c| c.is_alphabetic()) || !has(|c| c.is_ascii_digit()) {
        Some("must have a letter and a digit at least")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_hash_is_one_that_crypt_knows() {
        let hash = hash("root", &[7; SALT]).unwrap();
        assert!(is_hash(&hash), "{hash}");
        assert!(matches("root", &hash) && !matches("toor", &hash));
        // The first example of crypt's specification, version 0.6.
        assert!(matches(
            "Hello world!",
            "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1"
        ));
    }

    #[test]
    fn what_is_no_hash_is_told_from_one() {
        let good = hash("root", &[7; SALT]).unwrap();
        let rounds = good.replacen("$6$", "$6$rounds=5000$", 1);
        for (text, is) in [
            (good.as_str(), true),
            (&good.replacen("$6$rounds=5000$", "$6$", 1), true),
            ("root", false),
            ("", false),
            ("*", false),
            ("$6$salt$hash", false),
            ("$1$salt$qJH7.N4xYta3aEG/dfqo/0", false),
            (&format!("{good}:0:0"), false),
            (&format!("{good}\n"), false),
            (&good[1..], false),
            (&rounds.replace("rounds=5000", "rounds=12"), false),
        ] {
            assert_eq!(is_hash(text), is, "{text:?}");
        }
    }

    #[test]
    fn tritons_rule_for_admin() {
        assert_eq!(weak("joypass123"), None);
        for bad in ["joy123", "joypassword", "1234567890"] {
            assert!(weak(bad).is_some(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_a_hash_breaks_a_line_of_shadow(text in "\\$[56]\\$[ -~\n:]{0,60}") {
            prop_assert!(!is_hash(&text) || !text.contains([':', '\n', ' ']));
            let _ = matches("x", &text);
        }
    }
}
