//! The site's own certificate.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::limits::Tls;
use crate::live::Live;

/// Most bytes that wait in one connection to be sent: 1,000 nodes' together are memory too.
pub(super) const BUFFER: usize = 32 << 10;

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The certificate's file.
    #[error("{} holds no certificate that can be used: {source}; it must be PEM", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The key's file.
    #[error("{} holds no private key that can be used: {source}; it must be PEM, without a password", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The two do not belong together, or have an algorithm that is not known.
    #[error("the certificate cannot be used with the key in {}: {source}", path.display())]
    Pair {
        /// The key's file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
}

impl Error {
    pub(super) fn key(&self) -> &'static str {
        match self {
            Self::Certificate { .. } => "tls.certificate",
            Self::Key { .. } | Self::Pair { .. } => "tls.key",
        }
    }
}

/// TLS 1.2 and 1.3 with the files' certificate.
pub(super) fn load(files: &Tls) -> Result<ServerConfig, Error> {
    let path = &files.certificate;
    let certificate = |source| Error::Certificate { path: path.clone(), source };
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(certificate)?;
    if chain.is_empty() {
        return Err(certificate(pem::Error::NoItemsFound));
    }
    let path = &files.key;
    let key = PrivateKeyDer::from_pem_file(path)
        .map_err(|source| Error::Key { path: path.clone(), source })?;
    let pair = |source| Error::Pair { path: path.clone(), source };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// A certificate that is exchanged while connections run.
#[derive(Debug, Clone)]
pub struct Certificate {
    files: Tls,
    config: Live<ServerConfig>,
    seen: Arc<Mutex<Stamps>>,
}

/// When each file was changed last.
type Stamps = [Option<SystemTime>; 2];

impl Certificate {
    /// Reads the certificate and its key.
    ///
    /// # Errors
    /// Names the file that is missing or wrong.
    pub fn load(files: Tls) -> Result<Self, Error> {
        let seen = Arc::new(Mutex::new(stamps(&files)));
        let config = Live::new(load(&files)?);
        Ok(Self { files, config, seen })
    }

    /// Reads the files again, for connections that come from now on.
    ///
    /// # Errors
    /// Names the file that is wrong; the present certificate stays in use.
    pub fn reload(&self) -> Result<(), Error> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = stamps(&self.files);
        self.config.set(load(&self.files)?);
        Ok(())
    }

    /// Reads the files again when they were changed. Blocks.
    pub(super) fn follow(&self) {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen == stamps(&self.files) {
            return;
        }
        match self.reload() {
            Ok(()) => tracing::info!(file = %self.files.certificate.display(), "new certificate"),
            // A key is written after its certificate: the next change sets it right.
            Err(error) => tracing::warn!("the old certificate stays in use: {error}"),
        }
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.get())
    }
}

fn stamps(files: &Tls) -> Stamps {
    let changed = |path: &PathBuf| -> io::Result<_> { std::fs::metadata(path)?.modified() };
    [changed(&files.certificate).ok(), changed(&files.key).ok()]
}
