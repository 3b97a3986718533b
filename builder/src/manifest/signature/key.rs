//! Secret keys: making, storing and reading them.

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blake2::Blake2b;
use blake2::Digest as _;
use blake2::digest::consts::U32;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::{Error, KeyId, LEGACY, PublicKey, UNTRUSTED, decode, is_data, part, read_small};

/// The environment variable that a passphrase is taken from, for machines without a terminal.
pub const PASSPHRASE_ENV: &str = "HEADNODE_KEY_PASSPHRASE";

/// Bytes of a secret key file's data: algorithms 6, salt 32, limits 16, then the encrypted part.
const LENGTH: usize = 158;
const SALT_AT: usize = 6;
const OPS_AT: usize = 38;
const MEMORY_AT: usize = 46;
const SECRET_AT: usize = 54;
/// Key id, seed, public key, checksum.
const SECRET: usize = 104;
const ENCRYPTED: [u8; 2] = *b"Sc";
const CHECKSUM: [u8; 2] = *b"B2";
/// libsodium's limits that give scrypt N = 2^17, r = 8, p = 1: 128 MiB and well under a second, what
/// OWASP's password storage cheat sheet asks for. minisign's own default takes 1 GiB, more than
/// many a build machine gives.
const OPS_LIMIT: u64 = 1 << 22;
const MEMORY_LIMIT: u64 = 1 << 27;
/// A key file that asks for more memory than this is refused, in bytes.
const MOST_MEMORY: u64 = 2 << 30;

/// A secret key. Its `Debug` shows the id only.
#[derive(Clone)]
pub struct SecretKey {
    id: KeyId,
    seed: [u8; 32],
    public: [u8; 32],
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Whether the text of a secret key file is encrypted.
///
/// # Errors
/// When it is no secret key.
pub fn encrypted(text: &str) -> Result<bool, Error> {
    Ok(!passphrase_free(&data(text)?))
}

fn passphrase_free(bytes: &[u8; LENGTH]) -> bool {
    bytes[2..4] == [0, 0]
}

fn data(text: &str) -> Result<[u8; LENGTH], Error> {
    let line = text.lines().map(str::trim).find(|line| is_data(line));
    let line = line.ok_or(Error::SecretKey("it is empty"))?;
    let bytes: [u8; LENGTH] =
        decode(line).ok_or(Error::SecretKey("it is not 212 letters of Base64"))?;
    if bytes[..2] != LEGACY || bytes[4..6] != CHECKSUM {
        return Err(Error::SecretKey("its algorithms are unknown"));
    }
    Ok(bytes)
}

impl SecretKey {
    /// A new key.
    ///
    /// # Errors
    /// When the operating system has no random numbers.
    pub fn generate() -> Result<Self, Error> {
        let random = random::<40>()?;
        Self::from_parts(KeyId(part(&random, 0)), part(&random, 8))
    }

    /// The key of a seed.
    ///
    /// # Errors
    /// Never for 32 bytes.
    pub fn from_parts(id: KeyId, seed: [u8; 32]) -> Result<Self, Error> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
            .map_err(|_| Error::Crypto("the seed is no Ed25519 key"))?;
        Ok(Self { id, seed, public: part(pair.public_key().as_ref(), 0) })
    }

    /// Reads the text of a secret key file.
    ///
    /// # Errors
    /// When it is none, or the passphrase is missing or wrong.
    pub fn parse(text: &str, passphrase: Option<&str>) -> Result<Self, Error> {
        let bytes = data(text)?;
        let mut secret: [u8; SECRET] = part(&bytes, SECRET_AT);
        match [bytes[2], bytes[3]] {
            [0, 0] => {}
            ENCRYPTED => {
                let passphrase = passphrase.ok_or(Error::Locked)?;
                let limit = |at| u64::from_le_bytes(part(&bytes, at));
                let params = params(limit(OPS_AT), limit(MEMORY_AT))?;
                mask(&mut secret, passphrase, &part(&bytes, SALT_AT), &params)?;
            }
            _ => return Err(Error::SecretKey("its encryption is unknown")),
        }
        let key =
            Self { id: KeyId(part(&secret, 0)), seed: part(&secret, 8), public: part(&secret, 40) };
        // Keys that minisign leaves unencrypted (-W) have a checksum of zeroes.
        let checksum: [u8; 32] = part(&secret, 72);
        let unchecked = passphrase_free(&bytes) && checksum == [0; 32];
        if !unchecked && key.checksum() != checksum {
            return Err(Error::Passphrase);
        }
        key.pair()?;
        Ok(key)
    }

    /// Reads a secret key file. `passphrase` is called when it is encrypted.
    ///
    /// # Errors
    /// When it is none, or the passphrase is missing or wrong.
    pub fn read(
        path: &Path,
        passphrase: &mut dyn FnMut() -> Result<String, Error>,
    ) -> Result<Self, Error> {
        let text = read_small(path)?;
        let given = if encrypted(&text)? { Some(passphrase()?) } else { None };
        Self::parse(&text, given.as_deref())
    }

    /// The text of its file, encrypted when there is a passphrase.
    ///
    /// # Errors
    /// When the operating system has no random numbers.
    pub fn text(&self, passphrase: Option<&str>) -> Result<String, Error> {
        let mut secret = [0; SECRET];
        secret[..8].copy_from_slice(&self.id.0);
        secret[8..40].copy_from_slice(&self.seed);
        secret[40..72].copy_from_slice(&self.public);
        secret[72..].copy_from_slice(&self.checksum());
        let mut bytes = [LEGACY, [0, 0], CHECKSUM].concat();
        let (mut salt, mut limits) = ([0; 32], [0, 0]);
        if let Some(passphrase) = passphrase {
            bytes[2..4].copy_from_slice(&ENCRYPTED);
            salt = random()?;
            limits = [OPS_LIMIT, MEMORY_LIMIT];
            mask(&mut secret, passphrase, &salt, &params(OPS_LIMIT, MEMORY_LIMIT)?)?;
        }
        bytes.extend(salt);
        bytes.extend(limits.iter().flat_map(|limit| limit.to_le_bytes()));
        bytes.extend(secret);
        let kind = if passphrase.is_some() { "encrypted secret key" } else { "secret key" };
        Ok(format!("{UNTRUSTED}minisign {kind}\n{}\n", STANDARD.encode(bytes)))
    }

    /// The public key that belongs to it.
    pub fn public(&self) -> PublicKey {
        PublicKey { id: self.id, key: self.public }
    }

    pub(super) fn pair(&self) -> Result<Ed25519KeyPair, Error> {
        Ed25519KeyPair::from_seed_and_public_key(&self.seed, &self.public)
            .map_err(|_| Error::Crypto("the secret key and its public key do not belong together"))
    }

    fn checksum(&self) -> [u8; 32] {
        let mut hash = Blake2b::<U32>::new();
        hash.update(LEGACY);
        hash.update(self.id.0);
        hash.update(self.seed);
        hash.update(self.public);
        hash.finalize().into()
    }
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::Crypto("the operating system gives no random numbers"))?;
    Ok(bytes)
}

/// scrypt's parameters for libsodium's two limits, as its `crypto_pwhash_scryptsalsa208sha256` picks
/// them.
fn params(ops: u64, memory: u64) -> Result<scrypt::Params, Error> {
    const BAD: Error = Error::SecretKey("its encryption asks for impossible work");
    if memory > MOST_MEMORY {
        return Err(Error::SecretKey("its encryption asks for more than 2 GiB of memory"));
    }
    let ops = ops.max(32_768);
    let largest = |most: u64| (1..63_u8).find(|log| 1 << log > most / 2).ok_or(BAD);
    let (log_n, p) = if ops < memory / 32 {
        (largest(ops / 32)?, 1)
    } else {
        let log_n = largest(memory / 1024)?;
        (log_n, ((ops / 4) >> log_n).min(0x3fff_ffff) / 8)
    };
    // More rounds than a minute's work are an attack or damage.
    if p == 0 || p > 64 {
        return Err(BAD);
    }
    let p = u32::try_from(p).map_err(|_| BAD)?;
    scrypt::Params::new(log_n, 8, p).map_err(|_| BAD)
}

/// Encrypts or decrypts in place.
fn mask(
    secret: &mut [u8; SECRET],
    passphrase: &str,
    salt: &[u8; 32],
    params: &scrypt::Params,
) -> Result<(), Error> {
    let mut stream = [0; SECRET];
    scrypt::scrypt(passphrase.as_bytes(), salt, params, &mut stream)
        .map_err(|_| Error::Crypto("deriving the key from the passphrase failed"))?;
    for (byte, with) in secret.iter_mut().zip(stream) {
        *byte ^= with;
    }
    Ok(())
}
