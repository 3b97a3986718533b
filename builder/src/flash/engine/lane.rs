//! One disk's way: prepare, write, flush, read back, and at last the first MiB.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::libc;

use super::backup::{self, Backup};
use super::check;
use super::journal::{BOOT, Journal};
use super::produce::{Image, Part};
use super::queue::{Queue, Refused};
use super::{
    CHUNK, Disk, Error, Event, HEAD, JOURNAL_EVERY, Options, Origin, Phase, Plan, RETRIES, Summary,
    TAIL, Watch,
};
use crate::flash::device::Unmapped;
use crate::image::chunk::Chunk;
use crate::image::direct::{ALIGNMENT, Buffer};

/// What the producer has for a disk.
pub enum Order {
    /// To be written.
    Write(Arc<Chunk>),
    /// Zeroes: to be written where the disk does not read as such.
    Zeroes(Arc<Chunk>),
    /// That was all, and the image is in order.
    End(Arc<Image>),
}

/// Why the producer ended early.
#[derive(Debug, Clone)]
pub enum Cause {
    /// The image.
    Image(String),
    /// The user.
    Stopped,
    /// This disk.
    Stalled,
    /// No disk is left.
    Nobody,
}

impl Cause {
    pub(super) fn image(error: anyhow::Error) -> Self {
        Self::Image(format!("{error:#}"))
    }
}

/// A disk and its orders.
pub struct Lane<'a> {
    number: usize,
    disk: &'a dyn Disk,
    plan: &'a Plan,
    origin: &'a dyn Origin,
    options: Options<'a>,
    watch: &'a dyn Watch,
    /// Up to where the disk is written already; closed when it cannot be written.
    ready: Queue<u64>,
    orders: Queue<Order>,
    cause: Mutex<Option<Cause>>,
}

impl<'a> Lane<'a> {
    pub(super) fn new(
        number: usize,
        disk: &'a dyn Disk,
        plan: &'a Plan,
        origin: &'a dyn Origin,
        options: Options<'a>,
        watch: &'a dyn Watch,
    ) -> Self {
        let (ready, orders, cause) = (Queue::new(), Queue::new(), Mutex::new(None));
        Self { number, disk, plan, origin, options, watch, ready, orders, cause }
    }

    /// Waits until the disk can be written, and tells up to where it is.
    pub(super) fn ready(&self) -> Option<u64> {
        self.ready.pop()
    }

    pub(super) fn give(&self, order: Order, patience: Option<Duration>) -> Result<(), Refused> {
        self.orders.push(order, patience)
    }

    /// There will be no more orders.
    pub(super) fn end(&self, cause: Option<&Cause>) {
        *self.cause.lock().unwrap_or_else(PoisonError::into_inner) = cause.cloned();
        self.orders.close();
    }

    /// Does all of it.
    pub(super) fn run(&self) -> Result<Summary, Error> {
        let done = self.work();
        self.ready.close();
        self.orders.abandon();
        done
    }

    fn tell(&self, event: Event) {
        self.watch.tell(self.number, event);
    }

    fn phase(&self, phase: Phase, total: Option<u64>) {
        self.tell(Event::Phase { phase, total });
    }

    pub(super) fn failed(&self, doing: &'static str, offset: u64, source: io::Error) -> Error {
        // The kernel may know the disk for a moment longer than it is there.
        let gone = [libc::ENODEV, libc::ENXIO, libc::ENOMEDIUM];
        if source.raw_os_error().is_some_and(|number| gone.contains(&number)) || self.disk.is_gone()
        {
            return Error::Gone;
        }
        Error::Io { doing, offset, source }
    }

    fn work(&self) -> Result<Summary, Error> {
        let mut sum = Summary::default();
        let journal = self.prepare(&mut sum)?;
        let done = self.fill(journal, &mut sum);
        if done.is_err() {
            // A disk that has less than it says may have stored parts of the image over its begin.
            // That this fails on one that failed already is no news. The journal stays.
            let _ = self.disk.write_at(&Buffer::new(BOOT as usize), 0);
            let _ = self.disk.flush();
        }
        done.map(|()| sum)
    }

    /// What comes after the disk was prepared.
    fn fill(&self, mut journal: Journal, sum: &mut Summary) -> Result<(), Error> {
        let start = journal.written;
        sum.resumed = self.used_before(start);
        if start > 0 {
            self.tell(Event::Resumed { offset: start });
        }
        self.phase(Phase::Write, self.plan.mapped().map(|all| all.saturating_sub(sum.resumed)));
        // The producer may have ended, which is told below.
        let _ = self.ready.push(start, None);
        let image = self.write(&mut journal, start, sum)?;
        self.phase(Phase::Flush, None);
        self.flush()?;
        journal.write(self.disk).map_err(|source| self.failed("writing", HEAD / 2, source))?;
        // Before the reading back: on a disk that has less than it says it may hit other parts.
        let mut head = Buffer::new(HEAD as usize);
        head.copy_from_slice(&image.head);
        if let Some(Backup { offset, bytes }) = backup::move_to_end(&mut head, self.disk.size()) {
            let mut tail = Buffer::new(bytes.len());
            tail.copy_from_slice(&bytes);
            self.keep(&tail, offset, sum)?;
        }
        let which: Vec<&Part> =
            image.parts.iter().filter(|part| !(part.hole && journal.zeroed)).collect();
        if self.options.verify {
            self.verify(&image, &which, sum)?;
        }
        let end = self.plan.size.or(image.parts.last().map(Part::end)).unwrap_or(0);
        sum.skipped = end.saturating_sub(which.iter().map(|part| part.length).sum());
        self.finish(&head, sum)?;
        let of_head = |part: &&Part| part.end().min(HEAD).saturating_sub(part.offset);
        sum.written += which.iter().map(of_head).sum::<u64>();
        Ok(())
    }

    /// Removes what is on the disk, unless it is a part of this image.
    fn prepare(&self, sum: &mut Summary) -> Result<Journal, Error> {
        let size = self.disk.size();
        if size < HEAD + TAIL || self.plan.size.is_some_and(|image| image > size) {
            return Err(Error::TooSmall { size });
        }
        let sector = u64::from(self.disk.sector());
        if self.plan.pieces.iter().flatten().any(|piece| !piece.offset.is_multiple_of(sector)) {
            return Err(Error::Sector { sector });
        }
        let found = Journal::read(self.disk);
        let found = found.map_err(|source| self.failed("reading", HEAD / 2, source))?;
        if let Some(found) =
            found.filter(|found| found.identity == self.plan.identity && found.disk == size)
        {
            return Ok(found);
        }
        self.phase(Phase::Prepare, None);
        let writing = |offset| move |source| self.failed("writing", offset, source);
        let zeroes = Buffer::new(HEAD as usize);
        self.disk.write_at(&zeroes, 0).map_err(writing(0))?;
        let zeroed = self.discard(sum)?;
        let tail = size - TAIL;
        let blank = zeroes.get(..TAIL as usize).unwrap_or_default();
        self.disk.write_at(blank, tail).map_err(writing(tail))?;
        self.flush()?;
        let identity = self.plan.identity;
        let mut journal = Journal { identity, disk: size, written: 0, zeroed, sequence: 0 };
        journal.write(self.disk).map_err(writing(HEAD / 2))?;
        Ok(journal)
    }

    /// Discards what the image does not use; whether all of that reads as zeroes now.
    fn discard(&self, sum: &mut Summary) -> Result<bool, Error> {
        let (mut at, mut zeroed) = (HEAD, true);
        let end = self.disk.size();
        let used = self.plan.pieces.iter().flatten().map(|piece| (piece.offset, piece.end()));
        for (from, to) in used.chain([(end, end)]) {
            let from = from.min(end);
            if from > at {
                let done = self.disk.discard(at, from - at);
                match done.map_err(|source| self.failed("discarding", at, source))? {
                    Unmapped::No => return Ok(false),
                    Unmapped::Dropped => zeroed = false,
                    Unmapped::Zeroed => {}
                }
                sum.discarded += from - at;
            }
            at = at.max(to);
        }
        Ok(zeroed)
    }

    fn used_before(&self, end: u64) -> u64 {
        match &self.plan.pieces {
            Some(pieces) => {
                pieces.iter().map(|p| p.end().min(end).saturating_sub(p.offset.min(end))).sum()
            }
            None => end,
        }
    }

    fn write(
        &self,
        journal: &mut Journal,
        start: u64,
        sum: &mut Summary,
    ) -> Result<Arc<Image>, Error> {
        let mut since = 0;
        let image = loop {
            let (chunk, zero) = match self.orders.pop() {
                Some(Order::Write(chunk)) => (chunk, false),
                Some(Order::Zeroes(chunk)) => (chunk, true),
                Some(Order::End(image)) => break Some(image),
                None => break None,
            };
            if chunk.end() <= start {
                continue;
            }
            let length = chunk.length as u64;
            if !(zero && journal.zeroed) {
                self.put(chunk.sectors(self.sector()), chunk.offset)?;
                sum.written += length;
                since += length;
            }
            journal.written = chunk.end();
            self.tell(Event::Done { bytes: length });
            drop(chunk);
            if since >= JOURNAL_EVERY {
                since = 0;
                self.note(journal)?;
            }
        };
        if let Some(image) = image {
            return Ok(image);
        }
        self.note(journal)?;
        let cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner).take();
        Err(match cause {
            Some(Cause::Image(why)) => Error::Image(why),
            Some(Cause::Stalled) => Error::Stalled,
            Some(Cause::Stopped | Cause::Nobody) | None => Error::Stopped,
        })
    }

    fn note(&self, journal: &mut Journal) -> Result<(), Error> {
        self.flush()?;
        journal.write(self.disk).map_err(|source| self.failed("writing", HEAD / 2, source))
    }

    fn flush(&self) -> Result<(), Error> {
        self.disk.flush().map_err(|source| self.failed("flushing", 0, source))
    }

    fn sector(&self) -> usize {
        usize::try_from(self.disk.sector()).unwrap_or(ALIGNMENT).clamp(512, ALIGNMENT)
    }

    fn put(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        let size = self.disk.size();
        if offset.saturating_add(bytes.len() as u64) > size {
            return Err(Error::TooSmall { size });
        }
        self.disk.write_at(bytes, offset).map_err(|source| self.failed("writing", offset, source))
    }

    fn check<'b>(&self, image: &Image, which: &[&'b Part]) -> Result<Vec<&'b Part>, Error> {
        check::bad(self.disk, &image.head, which, &|bytes| {
            self.tell(Event::Done { bytes });
            !self.options.stopped()
        })
        .map_err(|error| match error {
            check::Error::Read { offset, source } => self.failed("reading back", offset, source),
            check::Error::Stopped => Error::Stopped,
        })
    }

    /// Reads everything back, and writes again what is otherwise. Then all is read again: on a disk
    /// that has less than it says, one part is in the place of another.
    fn verify(&self, image: &Image, which: &[&Part], sum: &mut Summary) -> Result<(), Error> {
        let all: u64 = which.iter().map(|part| part.length).sum();
        for attempt in 0..=RETRIES {
            self.phase(Phase::Verify, Some(all));
            let bad = self.check(image, which)?;
            let Some(first) = bad.first() else {
                sum.verified = all;
                return Ok(());
            };
            if attempt == RETRIES {
                return Err(Error::Bad { offset: first.offset, length: first.length });
            }
            self.repair(&bad, sum)?;
        }
        Ok(())
    }

    fn repair(&self, bad: &[&Part], sum: &mut Summary) -> Result<(), Error> {
        for part in bad {
            self.tell(Event::Mismatch { offset: part.offset, length: part.length });
        }
        self.phase(Phase::Repair, Some(bad.iter().map(|part| part.length).sum()));
        sum.repaired += bad.len() as u64;
        let reading = |error: anyhow::Error| Error::Image(format!("{error:#}"));
        let mut feed = self.origin.feed().map_err(reading)?;
        let mut buffer = Buffer::new(CHUNK);
        for part in bad {
            let mut at = part.offset.max(HEAD);
            while at < part.end() {
                let wanted = usize::try_from(part.end() - at).unwrap_or(CHUNK).min(CHUNK);
                buffer.fill(0);
                let room = buffer.get_mut(..wanted).unwrap_or_default();
                if feed.read(at, room).map_err(reading)? < wanted {
                    return Err(Error::Image("the image has become shorter".to_owned()));
                }
                let padded = wanted.next_multiple_of(self.sector());
                self.put(buffer.get(..padded).unwrap_or_default(), at)?;
                sum.written += wanted as u64;
                at += wanted as u64;
            }
        }
        self.flush()
    }

    /// Makes the disk bootable.
    fn finish(&self, head: &[u8], sum: &mut Summary) -> Result<(), Error> {
        self.phase(Phase::Finish, None);
        if self.options.stopped() {
            return Err(Error::Stopped);
        }
        // A write of a whole MiB can be cut off anywhere: what makes it boot comes alone, and last.
        let (boot, rest) = head.split_at(ALIGNMENT.min(head.len()));
        let rest_at = boot.len() as u64;
        let kept = self.keep(rest, rest_at, sum).and_then(|()| self.keep(boot, 0, sum));
        if let Err(error) = kept {
            // It must not boot; that this fails as well is no news.
            let _ = self.disk.write_at(&Buffer::new(HEAD as usize), 0);
            let _ = self.disk.flush();
            return Err(error);
        }
        // The next one who opens the disk sees the new table in any case.
        if let Err(error) = self.disk.reread_table() {
            tracing::info!(%error, "the kernel did not read the new partition table");
        }
        Ok(())
    }

    /// Writes and reads back.
    fn keep(&self, bytes: &[u8], offset: u64, sum: &mut Summary) -> Result<(), Error> {
        let mut found = Buffer::new(bytes.len());
        for _ in 0..=RETRIES {
            self.disk.write_at(bytes, offset).map_err(|e| self.failed("writing", offset, e))?;
            self.flush()?;
            let read = self.disk.read_at(&mut found, offset);
            read.map_err(|source| self.failed("reading back", offset, source))?;
            if *found == *bytes {
                return Ok(());
            }
            self.tell(Event::Mismatch { offset, length: bytes.len() as u64 });
            sum.repaired += 1;
        }
        Err(Error::Bad { offset, length: bytes.len() as u64 })
    }
}
