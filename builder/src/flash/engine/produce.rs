//! Reads the image once, hashes it, and hands it to the disks.

use std::collections::VecDeque;
use std::sync::Arc;

use super::lane::{Cause, Lane, Order};
use super::queue::Refused;
use super::{CHUNK, Feed, HEAD, Options, Origin, PATIENCE, Piece, Plan};
use crate::image::chunk::{Chunk, Pool};
use crate::image::direct::ALIGNMENT;
use crate::image::hashing::Hasher;

/// Chunks that wait to be hashed at most.
const WAITING: usize = 3;

/// A part of the image as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// Its digest.
    pub sha256: [u8; 32],
    /// Whether it is zero, so that disks which read as zeroes need not have it.
    pub hole: bool,
}

impl Part {
    /// Where it ends, in bytes.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}

/// The image, read to its end.
#[derive(Debug)]
pub struct Image {
    /// All parts that count.
    pub parts: Vec<Part>,
    /// Its first [`HEAD`] bytes; what it does not have is zero.
    pub head: Vec<u8>,
}

/// Feeds the lanes, and tells them how it ended.
pub fn produce(plan: &Plan, origin: &dyn Origin, lanes: &[Lane<'_>], options: Options<'_>) {
    let mut alive = Vec::new();
    for lane in lanes {
        if let Some(start) = lane.ready() {
            alive.push((lane, start));
        }
    }
    let start = alive.iter().map(|(_, start)| *start).min().unwrap_or(0);
    let alive: Vec<&Lane<'_>> = alive.into_iter().map(|(lane, _)| lane).collect();
    let (hasher, ended) = match Hasher::new(WAITING) {
        Ok(hasher) => (Some(hasher), Ok(())),
        Err(error) => (None, Err(Cause::Image(format!("starting a thread: {error}")))),
    };
    let chunks = Pool::new(3 + WAITING + 3 * alive.len(), CHUNK);
    let image = Image { parts: Vec::new(), head: vec![0; HEAD as usize] };
    let mut producer = Producer { alive, chunks, options, hasher, image, hashed: VecDeque::new() };
    let ended = ended.and_then(|()| producer.image(plan, origin, start)).and_then(|()| {
        let head = std::mem::take(&mut producer.image.head);
        let parts = std::mem::take(&mut producer.image.parts);
        let image = Arc::new(Image { parts, head });
        producer.send(|| Order::End(Arc::clone(&image)))
    });
    for lane in producer.alive {
        lane.end(ended.as_ref().err());
    }
}

struct Producer<'a, 'b> {
    alive: Vec<&'a Lane<'b>>,
    chunks: Pool,
    options: Options<'a>,
    /// Absent when there is no thread for it: then nothing is produced.
    hasher: Option<Hasher<Chunk>>,
    /// What was read so far.
    image: Image,
    /// Parts whose digests are still being made, with those that they should have.
    hashed: VecDeque<(usize, Option<[u8; 32]>)>,
}

impl Producer<'_, '_> {
    /// Gives all lanes an order; those that do not take it fall out.
    fn send(&mut self, order: impl Fn() -> Order) -> Result<(), Cause> {
        let patience = (self.alive.len() > 1).then_some(PATIENCE);
        self.alive.retain(|lane| match lane.give(order(), patience) {
            Ok(()) => true,
            Err(Refused::Closed) => false,
            Err(Refused::Stalled) => {
                lane.end(Some(&Cause::Stalled));
                false
            }
        });
        if self.alive.is_empty() { Err(Cause::Nobody) } else { Ok(()) }
    }

    fn image(&mut self, plan: &Plan, origin: &dyn Origin, start: u64) -> Result<(), Cause> {
        if self.alive.is_empty() {
            return Err(Cause::Nobody);
        }
        let mut feed = origin.feed().map_err(Cause::image)?;
        match &plan.pieces {
            Some(pieces) => {
                for piece in pieces {
                    match piece.sha256 {
                        // What has no digest has to be read, though it is on the disk.
                        Some(sha256) if piece.end() <= start && piece.offset >= HEAD => {
                            let Piece { offset, length, .. } = *piece;
                            self.image.parts.push(Part { offset, length, sha256, hole: false });
                        }
                        _ => self.piece(piece, feed.as_mut())?,
                    }
                    self.settle(feed.as_ref(), false)?;
                }
            }
            None => self.everything(feed.as_mut())?,
        }
        self.settle(feed.as_ref(), true)?;
        feed.finish().map_err(Cause::image)
    }

    fn piece(&mut self, piece: &Piece, feed: &mut dyn Feed) -> Result<(), Cause> {
        let mut at = piece.offset;
        while at < piece.end() {
            let end = if at < HEAD { piece.end().min(HEAD) } else { piece.end() };
            let wanted = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let chunk = self.read(feed, at, wanted)?;
            let count = chunk.length;
            if count < wanted {
                return Err(Cause::Image(format!(
                    "the image is damaged: it ends at byte {}, before the part up to byte {}",
                    at + count as u64,
                    piece.end()
                )));
            }
            self.pass_on(chunk)?;
            at += count as u64;
        }
        let (offset, length) = (piece.offset, piece.length);
        self.part(Part { offset, length, sha256: [0; 32], hole: false }, piece.sha256)
    }

    fn everything(&mut self, feed: &mut dyn Feed) -> Result<(), Cause> {
        let mut at = 0;
        loop {
            let wanted = if at < HEAD { HEAD as usize } else { CHUNK };
            let chunk = self.read(feed, at, wanted)?;
            let (count, bytes) = (chunk.length, chunk.bytes());
            if count == 0 {
                return Ok(());
            }
            let (offset, length) = (at, count as u64);
            // A comparison of memory is far faster than looking at each byte.
            let hole =
                at >= HEAD && bytes.first() == Some(&0) && bytes.get(1..) == bytes.get(..count - 1);
            if hole {
                let chunk = Arc::new(chunk);
                self.hash(&chunk)?;
                self.send(|| Order::Zeroes(Arc::clone(&chunk)))?;
            } else {
                self.pass_on(chunk)?;
            }
            self.part(Part { offset, length, sha256: [0; 32], hole }, None)?;
            self.settle(feed, false)?;
            at += length;
            if count < wanted {
                return Ok(());
            }
        }
    }

    fn hasher(&self) -> Result<&Hasher<Chunk>, Cause> {
        self.hasher.as_ref().ok_or(Cause::Nobody)
    }

    fn hash(&self, chunk: &Arc<Chunk>) -> Result<(), Cause> {
        self.hasher()?.data(chunk).map_err(|error| Cause::image(error.into()))
    }

    /// Ends a part; its digest comes later.
    fn part(&mut self, part: Part, expected: Option<[u8; 32]>) -> Result<(), Cause> {
        self.hasher()?.end().map_err(|error| Cause::image(error.into()))?;
        self.hashed.push_back((self.image.parts.len(), expected));
        self.image.parts.push(part);
        Ok(())
    }

    /// Takes the digests that there are, or waits for all of them.
    fn settle(&mut self, feed: &dyn Feed, wait: bool) -> Result<(), Cause> {
        while let Some((number, expected)) = self.hashed.front().copied() {
            let hasher = self.hasher()?;
            let digest = if wait { hasher.next().map(Some) } else { hasher.ready() };
            let digest = digest.map_err(|error| Cause::image(error.into()))?;
            let Some(sha256) = digest else { return Ok(()) };
            self.hashed.pop_front();
            let Some(part) = self.image.parts.get_mut(number) else { continue };
            part.sha256 = sha256;
            if expected.is_some_and(|expected| expected != sha256) {
                feed.unchanged().map_err(Cause::image)?;
                let (from, to) = (part.offset, part.end());
                return Err(Cause::Image(format!(
                    "the image is damaged: bytes {from} to {to} do not have their digest; get it anew"
                )));
            }
        }
        Ok(())
    }

    /// Reads into a chunk, filled up with zeroes to whole sectors.
    fn read(&mut self, feed: &mut dyn Feed, at: u64, wanted: usize) -> Result<Chunk, Cause> {
        if self.options.stopped() {
            return Err(Cause::Stopped);
        }
        let mut chunk = self.chunks.take(at);
        let room = chunk.room();
        let count = feed.read(at, room.get_mut(..wanted).unwrap_or_default());
        let count = count.map_err(Cause::image)?;
        let padded = count.next_multiple_of(ALIGNMENT);
        room.get_mut(count..padded).unwrap_or_default().fill(0);
        chunk.length = count;
        Ok(chunk)
    }

    fn pass_on(&mut self, chunk: Chunk) -> Result<(), Cause> {
        let chunk = Arc::new(chunk);
        self.hash(&chunk)?;
        if chunk.offset >= HEAD {
            return self.send(|| Order::Write(Arc::clone(&chunk)));
        }
        let at = usize::try_from(chunk.offset).unwrap_or(usize::MAX);
        let room = self.image.head.get_mut(at..).unwrap_or_default();
        let count = room.len().min(chunk.length);
        if let (Some(to), Some(from)) = (room.get_mut(..count), chunk.bytes().get(..count)) {
            to.copy_from_slice(from);
        }
        Ok(())
    }
}
