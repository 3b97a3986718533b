//! The writer against disks in memory that fail in every way.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proptest::prelude::*;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::journal::Journal;
use super::*;
use crate::image::gpt::{Partition, TYPE_DATA, Table};

const MIB: u64 = 1 << 20;

/// What a disk does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Writes of this byte fail.
    WriteError(u64),
    /// Reads of this byte fail.
    ReadError(u64),
    /// What is written to this byte is changed, so many times.
    Corrupt(u64, u32),
    /// The disk claims more than it has: addresses wrap around here.
    Wraps(u64),
    /// It is pulled out after so many written bytes.
    Pulled(u64),
}

struct Memory {
    bytes: Mutex<Vec<u8>>,
    sector: u32,
    discards: bool,
    fault: Mutex<Fault>,
    written: AtomicU64,
    gone: AtomicBool,
}

impl Memory {
    fn new(size: u64, fault: Fault) -> Self {
        Self {
            // Something was on it.
            bytes: Mutex::new(vec![0xa5; size as usize]),
            sector: 512,
            discards: false,
            fault: Mutex::new(fault),
            written: AtomicU64::new(0),
            gone: AtomicBool::new(false),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    fn place(&self, offset: u64) -> usize {
        match *self.fault.lock().unwrap() {
            Fault::Wraps(at) => (offset % at) as usize,
            _ => offset as usize,
        }
    }

    fn boots(&self) -> bool {
        self.bytes()[..512].iter().any(|byte| *byte != 0)
    }
}

fn device_error() -> io::Error {
    io::Error::from_raw_os_error(nix::libc::EIO)
}

impl Disk for Memory {
    fn size(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    fn sector(&self) -> u32 {
        self.sector
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let range = offset..offset + buffer.len() as u64;
        assert!(offset.is_multiple_of(u64::from(self.sector)), "direct reads are aligned");
        assert!(buffer.len().is_multiple_of(self.sector as usize));
        match *self.fault.lock().unwrap() {
            Fault::ReadError(at) if range.contains(&at) => return Err(device_error()),
            _ if self.gone.load(Ordering::Relaxed) => return Err(device_error()),
            _ => {}
        }
        let at = self.place(offset);
        buffer.copy_from_slice(&self.bytes.lock().unwrap()[at..at + buffer.len()]);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        assert!(offset.is_multiple_of(u64::from(self.sector)), "direct writes are aligned");
        assert!(bytes.len().is_multiple_of(self.sector as usize), "{}", bytes.len());
        assert_eq!(bytes.as_ptr().addr() % 4096, 0);
        let range = offset..offset + bytes.len() as u64;
        let before = self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let mut bytes = bytes.to_vec();
        let mut fault = self.fault.lock().unwrap();
        match &mut *fault {
            Fault::WriteError(at) if range.contains(at) => return Err(device_error()),
            Fault::Pulled(after) if before >= *after => self.gone.store(true, Ordering::Relaxed),
            Fault::Corrupt(at, times) if range.contains(at) && *times > 0 => {
                *times -= 1;
                bytes[(*at - offset) as usize] ^= 1;
            }
            _ => {}
        }
        drop(fault);
        if self.gone.load(Ordering::Relaxed) {
            return Err(device_error());
        }
        let at = self.place(offset);
        self.bytes.lock().unwrap()[at..at + bytes.len()].copy_from_slice(&bytes);
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<Unmapped> {
        if !self.discards {
            return Ok(Unmapped::No);
        }
        self.bytes.lock().unwrap()[offset as usize..(offset + length) as usize].fill(0);
        Ok(Unmapped::Zeroed)
    }

    fn flush(&self) -> io::Result<()> {
        if self.gone.load(Ordering::Relaxed) { Err(device_error()) } else { Ok(()) }
    }

    fn reread_table(&self) -> io::Result<()> {
        Ok(())
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

/// An image in memory, that may fail.
struct Image {
    bytes: Vec<u8>,
    fails_at: Option<u64>,
    bad_end: bool,
    stop_at: Option<(u64, &'static AtomicBool)>,
    read: Mutex<BTreeMap<u64, u64>>,
}

impl Origin for Image {
    fn feed(&self) -> anyhow::Result<Box<dyn Feed + '_>> {
        Ok(Box::new(Reading(self, 0)))
    }
}

struct Reading<'a>(&'a Image, u64);

impl Feed for Reading<'_> {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> anyhow::Result<usize> {
        assert!(offset >= self.1, "{offset} was asked for after {}", self.1);
        if self.0.fails_at.is_some_and(|at| offset + buffer.len() as u64 > at) {
            anyhow::bail!("the server is gone");
        }
        if let Some((at, flag)) = self.0.stop_at
            && offset >= at
        {
            flag.store(true, Ordering::Relaxed);
        }
        let rest = self.0.bytes.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.1 = offset + count as u64;
        *self.0.read.lock().unwrap().entry(offset).or_default() += 1;
        Ok(count)
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        anyhow::ensure!(!self.0.bad_end, "the image does not have the listed digest");
        Ok(())
    }
}

/// An image with a table, some data and free space between; 16 MiB.
fn image() -> (Image, Plan) {
    let partition = |name: &str, start: u64, sectors: u64| Partition {
        name: name.to_owned(),
        kind: TYPE_DATA,
        guid: Uuid::from_u128(u128::from(start)),
        start,
        sectors,
    };
    let size = 16 * MIB;
    let table = Table {
        guid: Uuid::from_u128(42),
        sectors: size / 512,
        partitions: vec![(1, partition("one", 2048, 9000)), (2, partition("two", 12000, 20000))],
    };
    let mut bytes = table.head(&[0x90; 440]);
    bytes.resize((size - 33 * 512) as usize, 0);
    bytes.extend(table.tail());
    let ranges = [(0, 2 * MIB), (2 * MIB, 4 * MIB), (8 * MIB, 3 * MIB), (15 * MIB, MIB)];
    for (number, byte) in bytes[1 << 20..11 << 20].iter_mut().enumerate() {
        let at = number as u64 + MIB;
        if ranges.iter().any(|(from, length)| (*from..from + length).contains(&at)) {
            *byte = ((number as u64 * 2_654_435_761) >> 13) as u8;
        }
    }
    let piece = |(offset, length): (u64, u64)| {
        let part = &bytes[offset as usize..(offset + length) as usize];
        Piece { offset, length, sha256: Some(Sha256::digest(part).into()) }
    };
    let pieces = Some(ranges.into_iter().map(piece).collect());
    let plan = Plan { size: Some(size), pieces, identity: [7; 32] };
    let read = Mutex::default();
    (Image { bytes, fails_at: None, bad_end: false, stop_at: None, read }, plan)
}

#[derive(Default)]
struct Events(Mutex<Vec<(usize, Event)>>);

impl Watch for Events {
    fn tell(&self, disk: usize, event: Event) {
        self.0.lock().unwrap().push((disk, event));
    }
}

static GO: AtomicBool = AtomicBool::new(false);

fn write(plan: &Plan, image: &Image, disks: &[&Memory]) -> Vec<Result<Summary, Error>> {
    write_until(plan, image, disks, &GO, &Events::default())
}

fn write_until(
    plan: &Plan,
    image: &Image,
    disks: &[&Memory],
    stop: &AtomicBool,
    events: &Events,
) -> Vec<Result<Summary, Error>> {
    let disks: Vec<&dyn Disk> = disks.iter().map(|disk| *disk as &dyn Disk).collect();
    let options = Options { verify: true, stop };
    let results = flash(plan, image, &disks, options, events);
    results.into_iter().map(|result| result.map(|(sum, _)| sum)).collect()
}

/// Whether the disk is what the image says, with the table at its own end.
fn assert_whole(disk: &Memory, image: &Image, plan: &Plan) {
    let bytes = disk.bytes();
    let size = bytes.len() as u64;
    let table = Table::read(&mut io::Cursor::new(&bytes), size).unwrap();
    let wanted = Table::read(&mut io::Cursor::new(&image.bytes), image.bytes.len() as u64).unwrap();
    assert_eq!(table.partitions, wanted.partitions);
    for piece in plan.pieces.iter().flatten() {
        let from = piece.offset.max(34 * 512) as usize;
        // The old backup table may lie where the new one is.
        let to = (piece.end().min(image.bytes.len() as u64 - 33 * 512)) as usize;
        assert!(bytes[from..to] == image.bytes[from..to], "{piece:?}");
    }
    assert!(Journal::read(disk).unwrap().is_none());
}

#[test]
fn used_parts_are_written_and_the_rest_stays_or_is_discarded() {
    let (image, plan) = image();
    for (size, discards) in [(16 * MIB, false), (30 * MIB, false), (30 * MIB, true)] {
        let mut disk = Memory::new(size, Fault::None);
        disk.discards = discards;
        let sum = write(&plan, &image, &[&disk]).pop().unwrap().unwrap();
        assert_whole(&disk, &image, &plan);
        assert_eq!((sum.written, sum.verified), (10 * MIB, 10 * MIB));
        assert_eq!(sum.skipped, 6 * MIB);
        let bytes = disk.bytes();
        assert_eq!(bytes[(7 * MIB) as usize], if discards { 0 } else { 0xa5 });
        assert_eq!(sum.discarded > 0, discards);
        // Nothing of an old backup table is left at the end.
        assert!(size == 16 * MIB || bytes[(size - MIB / 2) as usize] == 0);
    }
}

#[test]
fn a_second_run_gives_the_same_and_another_image_replaces_it() {
    let (image, plan) = image();
    let disk = Memory::new(24 * MIB, Fault::None);
    write(&plan, &image, &[&disk]).pop().unwrap().unwrap();
    let first = disk.bytes();
    write(&plan, &image, &[&disk]).pop().unwrap().unwrap();
    assert!(disk.bytes() == first);
}

#[test]
fn without_a_map_all_is_written_or_only_what_is_not_zero() {
    let (image, mut plan) = image();
    let whole = plan.clone();
    plan.pieces = None;
    for known in [true, false] {
        plan.size = known.then_some(16 * MIB);
        for discards in [false, true] {
            let mut disk = Memory::new(24 * MIB, Fault::None);
            disk.discards = discards;
            let sum = write(&plan, &image, &[&disk]).pop().unwrap().unwrap();
            assert_whole(&disk, &image, &whole);
            let bytes = disk.bytes();
            assert!(bytes[MIB as usize..15 << 20] == image.bytes[MIB as usize..15 << 20]);
            assert_eq!(sum.written == 16 * MIB, !discards, "{sum:?}");
        }
    }
}

#[test]
fn damage_is_repaired_when_it_does_not_come_again() {
    let (image, plan) = image();
    for at in [4 * MIB, 10 * MIB, 600, 24 * MIB - 512] {
        let disk = Memory::new(24 * MIB, Fault::Corrupt(at, 2));
        let events = Events::default();
        let sum = write_until(&plan, &image, &[&disk], &GO, &events).pop().unwrap().unwrap();
        assert_whole(&disk, &image, &plan);
        let told = events.0.lock().unwrap();
        let mismatches = told.iter().filter(|(_, e)| matches!(e, Event::Mismatch { .. })).count();
        assert!(mismatches > 0, "{at}");
        assert!(sum.repaired > 0, "{at}");
    }
}

#[test]
fn a_bad_key_is_named_and_does_not_boot() {
    let (image, plan) = image();
    for fault in [
        Fault::Corrupt(4 * MIB, 99),
        Fault::Corrupt(600, 99),
        Fault::Corrupt(24 * MIB - 512, 99),
        Fault::Wraps(7 * MIB),
    ] {
        let disk = Memory::new(24 * MIB, fault);
        let error = write(&plan, &image, &[&disk]).pop().unwrap().unwrap_err();
        assert!(error.to_string().contains("this key is bad: bytes "), "{fault:?}: {error}");
        if let Fault::Corrupt(at, _) = fault {
            let Error::Bad { offset, length } = error else { panic!("{error}") };
            assert!((offset..offset + length).contains(&at));
        }
        assert!(!disk.boots(), "{fault:?}");
    }
}

#[test]
fn errors_of_the_disk_are_told_with_their_place_and_nothing_boots() {
    let (image, plan) = image();
    for (fault, what) in [
        (Fault::WriteError(0), "writing at byte 0"),
        (Fault::WriteError(5 * MIB), "writing at byte 4194304"),
        (Fault::ReadError(10 * MIB), "reading back at byte 10485760"),
        (Fault::ReadError(MIB / 2 + 1), "reading at byte"),
        (Fault::Pulled(6 * MIB), "pulled out"),
    ] {
        let disk = Memory::new(24 * MIB, fault);
        let error = write(&plan, &image, &[&disk]).pop().unwrap().unwrap_err().to_string();
        assert!(error.contains(what), "{fault:?}: {error}");
        assert!(!disk.boots() || matches!(fault, Fault::WriteError(0) | Fault::ReadError(_)));
    }
}

#[test]
fn one_bad_key_does_not_stop_the_others() {
    let (image, plan) = image();
    let disks = [
        Memory::new(24 * MIB, Fault::None),
        Memory::new(24 * MIB, Fault::WriteError(5 * MIB)),
        Memory::new(26 * MIB, Fault::Corrupt(4 * MIB, 1)),
        Memory::new(10 * MIB, Fault::None),
        Memory::new(24 * MIB, Fault::Corrupt(10 * MIB, 99)),
    ];
    let results = write(&plan, &image, &disks.each_ref());
    let told: Vec<String> = results
        .iter()
        .map(|r| r.as_ref().map_or_else(ToString::to_string, |_| String::new()))
        .collect();
    for (text, part) in told.iter().zip(["", "writing", "", "larger than the disk", "bad"]) {
        assert!(text.contains(part) && text.is_empty() == part.is_empty(), "{told:?}");
    }
    assert_whole(&disks[0], &image, &plan);
    assert_whole(&disks[2], &image, &plan);
}

#[test]
fn an_image_that_is_damaged_or_breaks_off_gives_no_key_that_boots() {
    for change in 0..5 {
        let (mut image, mut plan) = image();
        let part = match change {
            0 => {
                image.bytes[10 << 20] ^= 1;
                "do not have their digest"
            }
            1 => {
                image.fails_at = Some(9 * MIB);
                "the server is gone"
            }
            2 => {
                image.bad_end = true;
                "does not have the listed digest"
            }
            3 => {
                image.bytes.truncate(15 << 20);
                "it ends at byte"
            }
            _ => {
                plan.size = None;
                plan.pieces = None;
                image.bytes.resize(30 << 20, 1);
                "larger than the disk"
            }
        };
        let disk = Memory::new(24 * MIB, Fault::None);
        let error = write(&plan, &image, &[&disk]).pop().unwrap().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert!(!disk.boots());
    }
}

#[test]
fn an_interrupted_run_goes_on_where_it_was() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let (mut image, plan) = image();
    let disk = Memory::new(24 * MIB, Fault::None);
    image.stop_at = Some((4 * MIB, &STOP));
    let error = write_until(&plan, &image, &[&disk], &STOP, &Events::default()).pop().unwrap();
    assert!(matches!(error, Err(Error::Stopped)), "{error:?}");
    assert!(!disk.boots());
    let journal = Journal::read(&disk).unwrap().unwrap();
    assert!(journal.written >= 4 * MIB && journal.written < 9 * MIB, "{journal:?}");
    image.stop_at = None;
    image.read.lock().unwrap().clear();
    let sum = write(&plan, &image, &[&disk]).pop().unwrap().unwrap();
    assert_whole(&disk, &image, &plan);
    assert!(sum.resumed >= 4 * MIB && sum.written < 6 * MIB, "{sum:?}");
    assert_eq!(sum.verified, 10 * MIB, "what was there is read back as well");
}

#[test]
fn a_pulled_key_goes_on_when_it_is_plugged_in_again() {
    let (image, plan) = image();
    let disk = Memory::new(24 * MIB, Fault::Pulled(5 * MIB));
    let error = write(&plan, &image, &[&disk]).pop().unwrap();
    assert!(matches!(error, Err(Error::Gone)));
    *disk.fault.lock().unwrap() = Fault::None;
    disk.gone.store(false, Ordering::Relaxed);
    write(&plan, &image, &[&disk]).pop().unwrap().unwrap();
    assert_whole(&disk, &image, &plan);
}

#[test]
fn a_journal_of_another_image_or_disk_is_not_believed() {
    let (image, plan) = image();
    for (identity, size) in [([8; 32], 24 * MIB), ([7; 32], 25 * MIB)] {
        let disk = Memory::new(24 * MIB, Fault::None);
        let mut journal =
            Journal { identity, disk: size, written: 12 * MIB, zeroed: true, sequence: 9 };
        journal.write(&disk).unwrap();
        let sum = write(&plan, &image, &[&disk]).pop().unwrap().unwrap();
        assert_eq!(sum.resumed, 0);
        assert_whole(&disk, &image, &plan);
    }
    // One that lies is found out by the reading back.
    let disk = Memory::new(24 * MIB, Fault::None);
    let mut journal =
        Journal { identity: [7; 32], disk: 24 * MIB, written: 9 * MIB, zeroed: true, sequence: 9 };
    journal.write(&disk).unwrap();
    let sum = write(&plan, &image, &[&disk]).pop().unwrap().unwrap();
    assert!(sum.repaired > 0);
    assert_whole(&disk, &image, &plan);
}

#[test]
fn sectors_of_4096_bytes_are_written_whole() {
    let (mut image, mut plan) = image();
    image.bytes.truncate((16 << 20) - 512);
    let piece = Piece { offset: MIB, length: 5 * MIB + 512, sha256: None };
    plan.pieces = Some(vec![piece]);
    plan.size = None;
    let mut disk = Memory::new(24 * MIB, Fault::None);
    disk.sector = 4096;
    write(&plan, &image, &[&disk]).pop().unwrap().unwrap();
    let end = 6 << 20;
    assert!(disk.bytes()[1 << 20..end] == image.bytes[1 << 20..end]);
    plan.pieces.as_mut().unwrap()[0].offset = MIB + 512;
    let error = write(&plan, &image, &[&disk]).pop().unwrap().unwrap_err();
    assert!(error.to_string().contains("sectors of 4096 bytes"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn whatever_happens_once_the_next_run_makes_the_key(
        fault in prop_oneof![
            (0..24 * MIB).prop_map(Fault::WriteError),
            (0..24 * MIB).prop_map(Fault::ReadError),
            (0..24 * MIB, 1..9_u32).prop_map(|(at, times)| Fault::Corrupt(at, times)),
            (0..14 * MIB).prop_map(Fault::Pulled),
        ],
    ) {
        let (image, plan) = image();
        let disk = Memory::new(24 * MIB, fault);
        if write(&plan, &image, &[&disk]).pop().unwrap().is_ok() {
            assert_whole(&disk, &image, &plan);
        }
        *disk.fault.lock().unwrap() = Fault::None;
        disk.gone.store(false, Ordering::Relaxed);
        write(&plan, &image, &[&disk]).pop().unwrap().unwrap();
        assert_whole(&disk, &image, &plan);
    }
}
