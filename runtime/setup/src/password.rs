//! Root's password: only its hash is ever written.

use anyhow::{Result, anyhow};
use sha_crypt::{PasswordHasher, PasswordVerifier, ShaCrypt};

/// Hashes a password for `/etc/shadow` with SHA-512-crypt.
///
/// # Errors
/// When the password cannot be hashed, as when it is too long.
pub fn hash(password: &str, salt: &[u8]) -> Result<String> {
    let hash = ShaCrypt::SHA512.hash_password_with_salt(password.as_bytes(), salt);
    Ok(hash.map_err(|error| anyhow!("hashing the password of root: {error}"))?.to_string())
}

/// Whether a password belongs to a hash.
pub fn matches(password: &str, hash: &str) -> bool {
    ShaCrypt::SHA512.verify_password(password.as_bytes(), hash).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_one_that_crypt_knows() {
        let hash = hash("root", &[7; 12]).unwrap();
        assert!(hash.starts_with("$6$"), "{hash}");
        assert!(matches("root", &hash) && !matches("toor", &hash));
    }
}
