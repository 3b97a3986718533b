//! Raw images at web servers, of which only the mapped parts are fetched.

use std::ops::Range;
use std::sync::Arc;

use super::Error;
use super::ahead::{Ahead, Piece};
use super::map::MapRange;
use super::reader::PIECES;
use super::remote::{Remote, SMALL_GAP};

/// More mapped bytes than this that the caller skips are not fetched, at the price of a new request.
const FAR: u64 = 8 << 20;

/// A reader of such an image.
pub(super) struct Parts {
    remote: Remote,
    /// What is fetched ahead, sorted, with gaps that are worth it.
    plan: Arc<[Range<u64>]>,
    size: u64,
    ahead: Option<Ahead>,
    piece: Option<Piece>,
    /// Up to where pieces came, or none will come.
    at: u64,
}

impl Parts {
    pub fn new(remote: Remote, ranges: &[MapRange], size: u64) -> Self {
        let plan = plan(ranges).into();
        Self { remote, plan, size, ahead: None, piece: None, at: 0 }
    }

    /// Fills the buffer, which lies within the image.
    pub fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let at = offset + filled as u64;
            let stop = self.piece_at(at)?;
            let room = usize::try_from(stop - at).unwrap_or(usize::MAX).min(rest.len());
            let rest = rest.get_mut(..room).unwrap_or_default();
            let piece =
                self.piece.as_ref().filter(|piece| (piece.offset..piece.end()).contains(&at));
            let count = match piece {
                Some(piece) => piece.copy(at, rest),
                // Not mapped, but the caller wants it.
                None => self.remote.read(at, Some(at + rest.len() as u64), rest)?,
            };
            if count == 0 {
                return Err(Error::Size {
                    place: self.remote.url().to_owned(),
                    found: at,
                    size: self.size,
                    says: "the image's map".to_owned(),
                });
            }
            filled += count;
        }
        Ok(filled)
    }

    /// Takes pieces until one reaches behind `at`; gives where it is of no use any more: its end, or
    /// its beginning when that is further on.
    fn piece_at(&mut self, at: u64) -> Result<u64, Error> {
        // A server that sends no parts would begin again at the start.
        let far = || at > self.at + FAR && self.remote.sends_parts();
        if self.ahead.is_none() || (far() && self.planned(self.at, at) > FAR) {
            self.start(at)?;
        }
        loop {
            match &self.piece {
                Some(piece) if piece.offset > at => return Ok(piece.offset),
                Some(piece) if piece.end() > at => return Ok(piece.end()),
                _ => {}
            }
            // What is planned behind `at` is looked at only when it is needed.
            let next = self.plan.partition_point(|part| part.end <= at);
            match self.plan.get(next) {
                None => return Ok(self.size),
                Some(part) if part.start > at => return Ok(part.start),
                Some(_) => {}
            }
            let used = self.piece.take();
            self.piece = match &mut self.ahead {
                Some(ahead) => ahead.next(used)?,
                None => None,
            };
            match &self.piece {
                Some(piece) => self.at = piece.end(),
                None => return Ok(self.size),
            }
        }
    }

    /// Planned bytes between two places.
    fn planned(&self, from: u64, to: u64) -> u64 {
        let within = |part: &Range<u64>| part.end.min(to).saturating_sub(part.start.max(from));
        self.plan.iter().map(within).sum()
    }

    /// Fetches ahead what is planned from `at` on.
    fn start(&mut self, at: u64) -> Result<(), Error> {
        self.piece = None;
        self.at = at;
        let mut remote = self.remote.again();
        let plan = Arc::clone(&self.plan);
        let place = self.remote.url().to_owned();
        self.ahead = Some(Ahead::start(&place, PIECES.0, PIECES.1, move |feed| {
            let first = plan.partition_point(|part| part.end <= at);
            for part in plan.get(first..).unwrap_or_default() {
                let mut from = part.start.max(at);
                while from < part.end {
                    let mut buffer = feed.buffer();
                    let left = usize::try_from(part.end - from).unwrap_or(usize::MAX);
                    buffer.truncate(left.min(buffer.len()));
                    let mut filled = 0;
                    while let Some(rest) = buffer.get_mut(filled..).filter(|r| !r.is_empty()) {
                        match remote.read(from + filled as u64, Some(part.end), rest)? {
                            0 => break,
                            count => filled += count,
                        }
                    }
                    if filled == 0 {
                        return Ok(());
                    }
                    buffer.truncate(filled);
                    feed.send(from, buffer)?;
                    from += filled as u64;
                }
            }
            Ok(())
        })?);
        Ok(())
    }
}

/// What is fetched of mapped ranges: a small gap costs less than a request.
fn plan(ranges: &[MapRange]) -> Vec<Range<u64>> {
    let mut plan: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match plan.last_mut() {
            Some(last) if range.offset - last.end <= SMALL_GAP => last.end = range.end(),
            _ => plan.push(range.offset..range.end()),
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_gaps_are_fetched() {
        let range = |offset, length| MapRange { offset, length, sha256: None, personal: false };
        let mb = SMALL_GAP;
        let found = plan(&[range(0, 9), range(9, 1), range(10 + mb, 7), range(18 + 2 * mb, 1)]);
        assert_eq!(found, [0..17 + mb, 18 + 2 * mb..19 + 2 * mb]);
        assert_eq!(plan(&[]), []);
    }
}
