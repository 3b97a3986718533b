//! A file at one or more web servers, read forwards through drops, silence and changes.

use std::time::Duration;

use super::{Error, Trouble};
use crate::source::http::{self, Fault, Http, LONGEST_WAIT, Part};

/// Gaps up to this many bytes are read and thrown away instead of asking anew.
pub(super) const SMALL_GAP: u64 = 1 << 20;
/// Failures in all, as a multiple of those in a row, before a transfer is given up.
const ALL_FAILURES: u32 = 50;

#[derive(Debug, Clone)]
struct Mirror {
    url: String,
    validator: Option<String>,
    /// Whether it sends parts of the file; not known before it was asked.
    parts: Option<bool>,
    /// Why it is not asked any more.
    out: bool,
}

/// The file.
pub(super) struct Remote {
    http: Http,
    trouble: Option<Trouble>,
    mirrors: Vec<Mirror>,
    current: usize,
    size: Option<u64>,
    framed: bool,
    body: Option<Body>,
    failed: u32,
    all: u32,
}

struct Body {
    part: Part,
    at: u64,
    end: Option<u64>,
}

impl Remote {
    /// Asks for the first `head` bytes of the file, at the first server that answers. With `size`, it
    /// must be of that size.
    pub fn open(
        http: Http,
        urls: impl IntoIterator<Item = String>,
        trouble: Option<Trouble>,
        head: usize,
    ) -> Result<(Self, Vec<u8>), Error> {
        let mirror = |url| Mirror { url, validator: None, parts: None, out: false };
        let mut remote = Self {
            http,
            trouble,
            mirrors: urls.into_iter().map(mirror).collect(),
            current: 0,
            size: None,
            framed: true,
            body: None,
            failed: 0,
            all: 0,
        };
        let mut bytes = vec![0; head];
        let until = Some(head as u64);
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match remote.read(filled as u64, until, rest)? {
                0 => break,
                count => filled += count,
            }
        }
        bytes.truncate(filled);
        if remote.body.as_ref().is_some_and(|body| body.end != Some(body.at)) {
            remote.body = None;
        }
        Ok((remote, bytes))
    }

    /// The same file, from its beginning.
    pub fn again(&self) -> Self {
        Self {
            http: self.http.clone(),
            trouble: self.trouble.clone(),
            mirrors: self.mirrors.clone(),
            body: None,
            failed: 0,
            all: 0,
            ..*self
        }
    }

    /// Its size in bytes.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// The size that it should have, for when no server says it.
    pub fn expect(&mut self, size: Option<u64>) {
        self.size = self.size.or(size);
    }

    /// Whether its end can be told from a broken connection.
    pub fn is_framed(&self) -> bool {
        self.framed
    }

    /// The server in use.
    pub fn url(&self) -> &str {
        self.mirrors.get(self.current).map_or("", |mirror| &mirror.url)
    }

    /// Whether the server in use sends parts of the file.
    pub fn sends_parts(&self) -> bool {
        self.mirrors.get(self.current).is_some_and(|mirror| mirror.parts == Some(true))
    }

    /// Those that have not failed for good, the one in use first.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        let (before, from) = self.mirrors.split_at(self.current.min(self.mirrors.len()));
        from.iter().chain(before).filter(|mirror| !mirror.out).map(|mirror| mirror.url.as_str())
    }

    /// What tells this state of the file from others, where the server in use says so.
    pub fn validator(&self) -> Option<&str> {
        self.mirrors.get(self.current)?.validator.as_deref()
    }

    /// Reads some bytes at `offset`; 0 at the file's end. `until` is where reading will stop for now:
    /// no more than that is asked for. Must not go backwards by much: it costs a new request.
    pub fn read(
        &mut self,
        offset: u64,
        until: Option<u64>,
        buffer: &mut [u8],
    ) -> Result<usize, Error> {
        if buffer.is_empty() || self.size.is_some_and(|size| offset >= size) {
            return Ok(0);
        }
        loop {
            let fault = match self.attempt(offset, until, buffer) {
                Ok(count) => {
                    self.failed = 0;
                    return Ok(count);
                }
                Err(fault) => fault,
            };
            self.body = None;
            let url = self.url().to_owned();
            let many = self.mirrors.iter().filter(|mirror| !mirror.out).count() > 1;
            match fault {
                End::Final(error) if !many => return Err(error),
                End::Final(error) => {
                    self.tell(&format!("{error}; going on at the next mirror"));
                    if let Some(mirror) = self.mirrors.get_mut(self.current) {
                        mirror.out = true;
                    }
                    self.turn();
                }
                End::Again(why, asked) => {
                    self.failed += 1;
                    self.all += 1;
                    let alive = self.mirrors.iter().filter(|mirror| !mirror.out).count() as u32;
                    let most = self.http.patience().attempts.saturating_mul(alive.max(1));
                    if self.failed >= most || self.all >= most.saturating_mul(ALL_FAILURES) {
                        let failed = self.failed;
                        return Err(Error::GivenUp { place: url, offset, failed, why });
                    }
                    let round = (self.failed - 1) / alive.max(1);
                    let last = self.failed.is_multiple_of(alive.max(1));
                    self.turn();
                    if !last {
                        self.tell(&format!("{url}: {why}; going on at the next mirror"));
                        continue;
                    }
                    let wait = self.http.patience().wait.saturating_mul(2u32.saturating_pow(round));
                    let wait = asked.unwrap_or(wait).min(LONGEST_WAIT);
                    self.tell(&format!("{url}: {why}; again in {:.1} s", wait.as_secs_f32()));
                    std::thread::sleep(wait);
                }
            }
        }
    }

    fn tell(&self, text: &str) {
        if let Some(trouble) = &self.trouble {
            trouble(text);
        }
    }

    fn turn(&mut self) {
        for _ in 0..self.mirrors.len() {
            self.current = (self.current + 1) % self.mirrors.len();
            if self.mirrors.get(self.current).is_some_and(|mirror| !mirror.out) {
                return;
            }
        }
    }

    fn attempt(
        &mut self,
        offset: u64,
        until: Option<u64>,
        buffer: &mut [u8],
    ) -> Result<usize, End> {
        let parts = self.mirrors.get(self.current).and_then(|mirror| mirror.parts);
        let usable = |body: &Body| {
            body.at <= offset
                && body.end.is_none_or(|end| offset < end)
                && (parts == Some(false) || offset - body.at <= SMALL_GAP)
        };
        let mut body = match self.body.take().filter(usable) {
            Some(body) => body,
            None => self.ask(offset, until)?,
        };
        // What lies before is thrown away; so much that it must not look like silence.
        let mut waste = [0; 16 << 10];
        while body.at < offset {
            let most = usize::try_from(offset - body.at).unwrap_or(usize::MAX).min(waste.len());
            let count = self.some(&mut body, waste.get_mut(..most).unwrap_or_default())?;
            if count == 0 {
                return Ok(0);
            }
        }
        let left = body.end.map_or(u64::MAX, |end| end - offset);
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.some(&mut body, buffer.get_mut(..most).unwrap_or_default())?;
        self.body = Some(body);
        Ok(count)
    }

    /// Some bytes of the body; 0 only at the end of a file whose size nobody told.
    fn some(&self, body: &mut Body, buffer: &mut [u8]) -> Result<usize, Fault> {
        let count = self.http.read(&mut body.part, buffer)?;
        body.at += count as u64;
        match body.end {
            Some(end) if count == 0 => {
                let why = format!("the transfer ended after {} of {end} bytes", body.at);
                Err(Fault::Again(why, None))
            }
            _ => Ok(count),
        }
    }

    fn ask(&mut self, offset: u64, until: Option<u64>) -> Result<Body, End> {
        let Some(mirror) = self.mirrors.get_mut(self.current) else {
            return Err(End::Final(Error::Usage("no address was given".to_owned())));
        };
        let changed =
            |what: String| End::Final(Error::Changed { place: mirror.url.clone(), offset, what });
        let until = match (until, self.size) {
            (Some(until), Some(size)) => Some(until.min(size)),
            (until, size) => until.or(size),
        };
        // The rest of the file is asked for without an end, the whole without a range.
        let end = until.filter(|until| self.size != Some(*until));
        let known = mirror.validator.clone();
        let part = match self.http.part(&mirror.url, offset, end, known.as_deref()) {
            Ok(part) => part,
            Err(Fault::Final(http::Error::Status { status, .. })) if status.as_u16() == 416 => {
                let Some(size) = self.size else {
                    return Err(End::Final(Error::NoImage {
                        place: mirror.url.clone(),
                        what: "empty, says its server (416)".to_owned(),
                    }));
                };
                return Err(changed(format!("it no longer has {size} bytes")));
            }
            Err(fault) => return Err(fault.into()),
        };
        if let (Some(was), Some(is)) = (self.size, part.size)
            && was != is
        {
            return Err(changed(format!("it had {was} bytes, and has {is} now")));
        }
        match (&mirror.validator, &part.validator) {
            (Some(was), Some(is)) if was != is => {
                return Err(changed(format!("its server called it {was}, and calls it {is} now")));
            }
            (None, Some(is)) => mirror.validator = Some(is.clone()),
            _ => {}
        }
        mirror.parts = match part.partial {
            true => Some(true),
            false if offset > 0 || end.is_some() => Some(false),
            false => mirror.parts,
        };
        if self.size.is_none() {
            self.size = part.size;
            self.framed = part.framed;
        }
        if self.size == Some(0) {
            let what = "empty".to_owned();
            return Err(End::Final(Error::NoImage { place: mirror.url.clone(), what }));
        }
        let end = match part.partial {
            true => {
                let told = part.length.map(|length| part.start.saturating_add(length));
                told.into_iter().chain(end.or(self.size)).min()
            }
            false => self.size,
        };
        // A file shorter than what was asked of it.
        let end = end.map(|end| self.size.map_or(end, |size| end.min(size)));
        Ok(Body { at: part.start, part, end })
    }
}

/// How an attempt ended.
enum End {
    Again(String, Option<Duration>),
    Final(Error),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Again(why, asked) => Self::Again(why, asked),
            Fault::Final(error) => Self::Final(error.into()),
        }
    }
}
