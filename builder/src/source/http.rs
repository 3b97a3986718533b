//! HTTP(S): small texts, and large files into a place where they can be resumed.
//!
//! A transfer goes on where it broke off, also in a later run, but only when the server says by
//! ETag or date that the file is still the same one: two versions are never glued together.

mod part;

pub(crate) use part::Part;

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use ureq::http::StatusCode;
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};

use super::cache::{self, Slot};
use super::headers::{content_range, length, retry_after, validator};
use super::watch::{Unwatched, Watch};

/// Redirects that are followed.
const REDIRECTS: u32 = 5;
/// Most bytes of a text (listing, manifest, list of digests) that are read.
pub const TEXT_LIMIT: u64 = 16 << 20;
/// Longest wait between two attempts, and longest that a server may ask for.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How patient transfers are.
#[derive(Debug, Clone)]
pub struct Patience {
    /// Attempts in a row that bring nothing before a transfer is given up.
    pub attempts: u32,
    /// Wait after the first failed attempt; it doubles with each.
    pub wait: Duration,
    /// How long a server may be silent.
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { attempts: 6, wait: Duration::from_secs(1), stall: Duration::from_secs(30) }
    }
}

/// Why something was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server has it not.
    #[error("{0}: there is no such file (404)")]
    Absent(String),
    /// The server refuses.
    #[error("{url}: the server says {status}{hint}")]
    Status {
        /// The address.
        url: String,
        /// What it said.
        status: StatusCode,
        /// What to do.
        hint: &'static str,
    },
    /// What came is wrong, and asking again would not help.
    #[error("{url}: {why}")]
    Wrong {
        /// The address.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// All attempts failed.
    #[error("{url}: given up after {attempts} attempts: {why}")]
    GivenUp {
        /// The address.
        url: String,
        /// How many.
        attempts: u32,
        /// What the last one ended with.
        why: String,
    },
    /// The cache cannot take it.
    #[error(transparent)]
    Cache(#[from] cache::Error),
}

/// What a server says of a file without sending it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// Its length in bytes.
    pub size: Option<u64>,
    /// What changes when the file does: an ETag or a date.
    pub validator: Option<String>,
}

/// The notes beside a broken-off transfer.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Notes {
    url: String,
    validator: String,
    size: Option<u64>,
    boot: String,
}

/// How an attempt ended.
pub(crate) enum Fault {
    /// Another one may go well; the server may have asked to wait.
    Again(String, Option<Duration>),
    /// No other one would.
    Final(Error),
}

/// A client. Connections are shared by all its uses.
#[derive(Debug, Clone)]
pub struct Http {
    agent: ureq::Agent,
    patience: Patience,
}

impl Http {
    /// Makes a client; proxies come from the environment (`https_proxy`, …), trusted roots from the
    /// system.
    pub fn new(patience: Patience) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::PlatformVerifier)
            .unversioned_rustls_crypto_provider(provider)
            .build();
        let agent = ureq::Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .user_agent(concat!("headnode/", env!("CARGO_PKG_VERSION")))
            .max_redirects(REDIRECTS)
            .max_redirects_will_error(true)
            .timeout_connect(Some(patience.stall))
            .timeout_recv_response(Some(patience.stall))
            .timeout_per_read(Some(patience.stall))
            .timeout_per_write(Some(patience.stall))
            .build()
            .new_agent();
        Self { agent, patience }
    }

    /// A text of at most [`TEXT_LIMIT`] bytes.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn text(&self, url: &str, headers: &[(&str, &str)]) -> Result<String, Error> {
        let bytes = self.attempts(url, &Unwatched, |_| {
            let mut response = self.call(url, headers)?;
            let mut bytes = Vec::new();
            let reader = response.body_mut().with_config().limit(u64::MAX).reader();
            reader
                .take(TEXT_LIMIT + 1)
                .read_to_end(&mut bytes)
                .map_err(|error| self.broken(&error))?;
            if bytes.len() as u64 > TEXT_LIMIT {
                let why = format!("longer than {TEXT_LIMIT} bytes: this is not what was asked for");
                return Err(Fault::Final(Error::Wrong { url: url.to_owned(), why }));
            }
            Ok(bytes)
        })?;
        String::from_utf8(bytes).map_err(|_| Error::Wrong {
            url: url.to_owned(),
            why: "this is no text (UTF-8): the server sends garbage".to_owned(),
        })
    }

    /// The same, or `None` when the server has it not.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn text_if_there(&self, url: &str) -> Result<Option<String>, Error> {
        match self.text(url, &[]) {
            Ok(text) => Ok(Some(text)),
            Err(Error::Absent(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the server says of a file.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn head(&self, url: &str) -> Result<Head, Error> {
        self.attempts(url, &Unwatched, |_| {
            let response = self.agent.head(url).call().map_err(|error| self.fault(url, error))?;
            // Some servers answer GET only: then nothing is known beforehand.
            let unable = [StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED];
            if unable.contains(&response.status()) {
                return Ok(Head::default());
            }
            let response = self.judge(url, response)?;
            let headers = response.headers();
            Ok(Head { size: length(headers), validator: validator(headers) })
        })
    }

    /// Transfers a file into a place of the cache, resuming what is there. `size` is what it must
    /// have, when the source says. Returns what the server said of the file that came.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn download(
        &self,
        url: &str,
        size: Option<u64>,
        slot: &Slot,
        watch: &dyn Watch,
    ) -> Result<Head, Error> {
        let mut have = self.resumable(url, size, slot)?;
        watch.at(have);
        self.attempts(url, watch, |progress| {
            let before = have;
            let result = self.transfer(url, size, slot, &mut have, watch);
            *progress = have > before;
            result
        })?;
        let notes = notes(slot).unwrap_or_default();
        let validator = Some(notes.validator).filter(|validator| !validator.is_empty());
        Ok(Head { size: Some(have), validator })
    }

    /// How many bytes of a broken-off transfer can be kept.
    fn resumable(&self, url: &str, size: Option<u64>, slot: &Slot) -> Result<u64, Error> {
        let notes = notes(slot);
        let have = slot.file().metadata().map_or(0, |meta| meta.len());
        let fits = |notes: &Notes| {
            let all = size.or(notes.size);
            notes.url == url
                // After a crash of the machine the end may be zeroes that were never written.
                && notes.boot == boot()
                && all.is_none_or(|all| have <= all)
        };
        if have > 0 && notes.as_ref().is_some_and(fits) {
            return Ok(have);
        }
        slot.begin()?;
        Ok(0)
    }

    fn transfer(
        &self,
        url: &str,
        size: Option<u64>,
        slot: &Slot,
        have: &mut u64,
        watch: &dyn Watch,
    ) -> Result<(), Fault> {
        let wrong = |why: String| Fault::Final(Error::Wrong { url: url.to_owned(), why });
        let validator_then = notes(slot).map(|notes| notes.validator).unwrap_or_default();
        let all_there = size.is_some_and(|size| *have == size);
        if all_there && *have > 0 {
            // The digest will tell whether it is right.
            return Ok(());
        }
        let range = format!("bytes={have}-");
        let mut headers = Vec::new();
        if *have > 0 && !validator_then.is_empty() {
            headers.push(("range", range.as_str()));
            headers.push(("if-range", validator_then.as_str()));
        }
        let resuming = !headers.is_empty();
        let mut response = match self.call(url, &headers) {
            // What is there is longer than what the server has now.
            Err(Fault::Final(Error::Status {
                status: StatusCode::RANGE_NOT_SATISFIABLE, ..
            })) => {
                slot.begin().map_err(|error| Fault::Final(error.into()))?;
                *have = 0;
                return Err(Fault::Again("the file is another one now".to_owned(), None));
            }
            result => result?,
        };
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let (start, told) = if partial {
            let range = content_range(response.headers());
            match range {
                Some((start, told)) if resuming && start == *have => (start, told),
                _ => {
                    return Err(wrong(
                        "it sends another part of the file than was asked for".to_owned(),
                    ));
                }
            }
        } else {
            (0, length(response.headers()))
        };
        let expected = size.or(told);
        if let (Some(size), Some(told)) = (size, told)
            && size != told
        {
            return Err(wrong(format!(
                "the server sends {told} bytes, but its list says {size}: the file changed, or \
                 the list is wrong"
            )));
        }
        if start == 0 {
            slot.begin().map_err(|error| Fault::Final(error.into()))?;
            *have = 0;
            let notes = Notes {
                url: url.to_owned(),
                validator: validator(response.headers()).unwrap_or_default(),
                size: expected,
                boot: boot(),
            };
            // Without notes it is not resumed; that is all.
            let _ = fs::write(slot.notes(), serde_json::to_vec(&notes).unwrap_or_default());
        }
        if let Some(expected) = expected {
            watch.length(expected);
        }
        let full = |error| Fault::Final(slot.error("writing", error).into());
        let mut file = slot.file();
        file.seek(SeekFrom::Start(*have)).map_err(full)?;
        let mut reader = response.body_mut().with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.broken(&error)),
            };
            if expected.is_some_and(|expected| *have + count as u64 > expected) {
                slot.begin().map_err(|error| Fault::Final(error.into()))?;
                *have = 0;
                return Err(wrong(format!(
                    "the server sends more than the {} bytes it should be",
                    expected.unwrap_or_default()
                )));
            }
            file.write_all(buffer.get(..count).unwrap_or_default()).map_err(full)?;
            *have += count as u64;
            watch.at(*have);
        }
        match expected {
            Some(expected) if *have < expected => Err(Fault::Again(
                format!("the transfer ended after {have} of {expected} bytes"),
                None,
            )),
            _ => Ok(()),
        }
    }

    fn call(
        &self,
        url: &str,
        headers: &[(&str, &str)],
    ) -> Result<ureq::http::Response<ureq::Body>, Fault> {
        let mut request = self.agent.get(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.call().map_err(|error| self.fault(url, error))?;
        self.judge(url, response)
    }

    /// Sorts out the answers that are none.
    fn judge(
        &self,
        url: &str,
        response: ureq::http::Response<ureq::Body>,
    ) -> Result<ureq::http::Response<ureq::Body>, Fault> {
        let status = response.status();
        if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Ok(response);
        }
        let url = url.to_owned();
        Err(match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Fault::Final(Error::Absent(url)),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Fault::Again(format!("the server says {status}"), retry_after(response.headers()))
            }
            status if status.is_server_error() => {
                Fault::Again(format!("the server says {status}"), retry_after(response.headers()))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let hint = ": only public files can be fetched";
                Fault::Final(Error::Status { url, status, hint })
            }
            status => Fault::Final(Error::Status { url, status, hint: "" }),
        })
    }

    fn fault(&self, url: &str, error: ureq::Error) -> Fault {
        let wrong = |why: String| Fault::Final(Error::Wrong { url: url.to_owned(), why });
        match error {
            ureq::Error::TooManyRedirects => wrong(format!(
                "redirected more than {REDIRECTS} times: the server sends us in a circle"
            )),
            ureq::Error::RedirectFailed
            | ureq::Error::BadUri(_)
            | ureq::Error::InvalidProxyUrl
            | ureq::Error::Tls(_)
            | ureq::Error::Rustls(_)
            | ureq::Error::Http(_) => wrong(error.to_string()),
            ureq::Error::Timeout(_) => Fault::Again(self.silent(), None),
            // Another attempt would be shown the same certificate.
            ureq::Error::Io(error) if untrusted(&error) => wrong(format!(
                "the server's certificate is not trusted ({error}): trusted are the roots of this \
                 system, or those in the file that SSL_CERT_FILE names"
            )),
            other => Fault::Again(other.to_string(), None),
        }
    }

    fn broken(&self, error: &io::Error) -> Fault {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
        let silent = matches!(inner, Some(ureq::Error::Timeout(_)))
            || matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock);
        let text = if silent { self.silent() } else { format!("the transfer broke off: {error}") };
        Fault::Again(text, None)
    }

    fn silent(&self) -> String {
        format!("the server was silent for {} s", self.patience.stall.as_secs_f32())
    }

    /// Tries until it works, or fails for good, or brings nothing too many times in a row.
    fn attempts<T>(
        &self,
        url: &str,
        watch: &dyn Watch,
        mut attempt: impl FnMut(&mut bool) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        let mut failed = 0;
        let mut all = 0;
        loop {
            let mut progress = false;
            all += 1;
            match attempt(&mut progress) {
                Ok(value) => return Ok(value),
                Err(Fault::Final(error)) => return Err(error),
                Err(Fault::Again(why, asked)) => {
                    failed = if progress { 1 } else { failed + 1 };
                    // A server that sends a little each time is not followed for ever.
                    if failed >= self.patience.attempts
                        || all >= self.patience.attempts.saturating_mul(50)
                    {
                        let url = url.to_owned();
                        return Err(Error::GivenUp { url, attempts: all, why });
                    }
                    let wait =
                        asked.unwrap_or(self.patience.wait * 2u32.saturating_pow(failed - 1));
                    let wait = wait.min(LONGEST_WAIT);
                    watch.trouble(&format!("{why}; again in {:.1} s", wait.as_secs_f32()));
                    std::thread::sleep(wait);
                }
            }
        }
    }
}

fn untrusted(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

fn notes(slot: &Slot) -> Option<Notes> {
    serde_json::from_slice(&fs::read(slot.notes()).ok()?).ok()
}

/// What changes when the machine starts anew.
fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
