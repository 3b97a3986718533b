//! Reads the image once, hashes it, and hands it to the disks.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::chunk::{Chunk, Pool};
use super::lane::{Cause, Lane, Order};
use super::queue::Refused;
use super::{CHUNK, Feed, HEAD, Options, Origin, PATIENCE, Piece, Plan};
use crate::image::direct::ALIGNMENT;

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
    let chunks = Pool::new(3 + 3 * alive.len());
    let mut producer = Producer { alive, chunks, options };
    let ended = match producer.image(plan, origin, start) {
        Ok(image) => {
            let image = Arc::new(image);
            producer.send(|| Order::End(Arc::clone(&image)))
        }
        Err(cause) => Err(cause),
    };
    for lane in producer.alive {
        lane.end(ended.as_ref().err());
    }
}

struct Producer<'a, 'b> {
    alive: Vec<&'a Lane<'b>>,
    chunks: Pool,
    options: Options<'a>,
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

    fn image(&mut self, plan: &Plan, origin: &dyn Origin, start: u64) -> Result<Image, Cause> {
        if self.alive.is_empty() {
            return Err(Cause::Nobody);
        }
        let mut feed = origin.feed().map_err(Cause::image)?;
        let mut image = Image { parts: Vec::new(), head: vec![0; HEAD as usize] };
        match &plan.pieces {
            Some(pieces) => {
                for piece in pieces {
                    let part = match piece.sha256 {
                        // What has no digest has to be read, though it is on the disk.
                        Some(sha256) if piece.end() <= start && piece.offset >= HEAD => {
                            let Piece { offset, length, .. } = *piece;
                            Part { offset, length, sha256, hole: false }
                        }
                        _ => self.piece(piece, feed.as_mut(), &mut image.head)?,
                    };
                    image.parts.push(part);
                }
            }
            None => self.everything(feed.as_mut(), &mut image)?,
        }
        feed.finish().map_err(Cause::image)?;
        Ok(image)
    }

    fn piece(
        &mut self,
        piece: &Piece,
        feed: &mut dyn Feed,
        head: &mut [u8],
    ) -> Result<Part, Cause> {
        let mut hash = Sha256::new();
        let mut at = piece.offset;
        while at < piece.end() {
            let end = if at < HEAD { piece.end().min(HEAD) } else { piece.end() };
            let wanted = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let (chunk, count) = self.read(feed, at, wanted)?;
            if count < wanted {
                return Err(Cause::Image(format!(
                    "the image is damaged: it ends at byte {}, before the part up to byte {}",
                    at + count as u64,
                    piece.end()
                )));
            }
            hash.update(chunk.bytes());
            self.pass_on(chunk, head)?;
            at += count as u64;
        }
        let sha256 = hash.finalize().into();
        if piece.sha256.is_some_and(|expected| expected != sha256) {
            feed.unchanged().map_err(Cause::image)?;
            let (from, to) = (piece.offset, piece.end());
            return Err(Cause::Image(format!(
                "the image is damaged: bytes {from} to {to} do not have their digest; get it anew"
            )));
        }
        Ok(Part { offset: piece.offset, length: piece.length, sha256, hole: false })
    }

    fn everything(&mut self, feed: &mut dyn Feed, image: &mut Image) -> Result<(), Cause> {
        let mut at = 0;
        loop {
            let wanted = if at < HEAD { HEAD as usize } else { CHUNK };
            let (chunk, count) = self.read(feed, at, wanted)?;
            if count == 0 {
                return Ok(());
            }
            let bytes = chunk.bytes();
            let (offset, length) = (at, count as u64);
            let hole = at >= HEAD && bytes.iter().all(|byte| *byte == 0);
            let sha256 = Sha256::digest(bytes).into();
            image.parts.push(Part { offset, length, sha256, hole });
            if hole {
                let chunk = Arc::new(chunk);
                self.send(|| Order::Zeroes(Arc::clone(&chunk)))?;
            } else {
                self.pass_on(chunk, &mut image.head)?;
            }
            at += length;
            if count < wanted {
                return Ok(());
            }
        }
    }

    /// Reads into a chunk, filled up with zeroes to whole sectors.
    fn read(
        &mut self,
        feed: &mut dyn Feed,
        at: u64,
        wanted: usize,
    ) -> Result<(Chunk, usize), Cause> {
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
        Ok((chunk, count))
    }

    fn pass_on(&mut self, chunk: Chunk, head: &mut [u8]) -> Result<(), Cause> {
        let at = usize::try_from(chunk.offset).unwrap_or(usize::MAX);
        if chunk.offset < HEAD {
            let room = head.get_mut(at..).unwrap_or_default();
            let count = room.len().min(chunk.length);
            if let (Some(to), Some(from)) = (room.get_mut(..count), chunk.bytes().get(..count)) {
                to.copy_from_slice(from);
            }
            return Ok(());
        }
        let chunk = Arc::new(chunk);
        self.send(|| Order::Write(Arc::clone(&chunk)))
    }
}
