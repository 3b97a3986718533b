//! Disks that fail.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;

use headnode::manifest::bmap::Mapped;
use serde_json::Value;

use crate::MIB;
use crate::faulty::{Faults, Faulty};
use crate::linux::text;
use crate::run::{Running, command, event, flash};
use crate::things::{Good, Image, does_not_boot};

#[test]
fn e2e_flash_a_bad_disk_has_one_clear_error_and_does_not_boot() {
    let image = Image::new();
    let at = image.middle();
    let size = image.size + 8 * MIB;
    let io = |doing: &str| format!("{doing} at byte ");
    let bad = "this key is bad: bytes ";
    let cases = [
        (
            "writing",
            Faults { write_error: Some(at), ..Faults::default() },
            vec![io("writing"), "Input/output error".into()],
        ),
        (
            "reading",
            Faults { read_error: Some(at), ..Faults::default() },
            vec![io("reading back"), "Input/output error".into()],
        ),
        (
            "room",
            Faults { room: Some(4 * MIB), ..Faults::default() },
            vec![io("writing"), "No space left".into()],
        ),
        (
            "flip",
            Faults { flip: Some((at, u32::MAX)), ..Faults::default() },
            vec![bad.into(), "throw it away".into()],
        ),
        (
            "fake",
            Faults { real_size: Some(at & !(MIB - 1)), ..Faults::default() },
            vec![bad.into()],
        ),
    ];
    for (name, faults, words) in cases {
        println!("{name}");
        let disk = Faulty::new(size, faults);
        let start = format!("headnode: {}: ", disk.name);
        let words: Vec<&str> =
            std::iter::once(&*start).chain(words.iter().map(String::as_str)).collect();
        let done = flash(&image.path, &[&disk.id], &[]).failed(&words);
        assert_eq!(done.out, "", "{name}");
        does_not_boot(&disk.head(1024));
        if name == "flip" {
            let range = image.ranges.iter().find(|r| (r.offset..r.offset + r.length).contains(&at));
            let Mapped { offset, length, .. } = range.unwrap();
            assert!(
                done.err.contains(&format!("bytes {offset} to {}", offset + length)),
                "{done:?}"
            );
        }
        // Programs are told the same.
        let done = flash(&image.path, &[&disk.id], &["--json"]);
        assert_eq!((done.status.code(), &*done.err), (Some(1), ""), "{done:?}");
        let events = done.events();
        let failed = event(&events, "failed").unwrap();
        assert_eq!(failed["disk"], *disk.name);
        for word in &words[1..] {
            assert!(failed["error"].as_str().unwrap().contains(word), "{failed}");
        }
        assert!(event(&events, "written").is_none());
        does_not_boot(&disk.head(1024));
    }
}

#[test]
fn e2e_flash_what_was_stored_wrongly_once_is_written_again_and_said() {
    let image = Image::new();
    let at = image.middle();
    let disk =
        Faulty::new(image.size + 8 * MIB, Faults { flip: Some((at, 1)), ..Faults::default() });
    let done = flash(&image.path, &[&disk.id], &[]).good();
    assert!(done.err.contains("read back otherwise than they were written"), "{done:?}");
    assert!(done.out.contains("1 part written again: this key is not to be trusted"), "{done:?}");
    let mut expected = vec![0; 8192];
    File::open(&image.path).unwrap().read_exact_at(&mut expected, at - 4096).unwrap();
    assert!(disk.at(at - 4096, 8192) == expected);

    disk.set(Faults { flip: Some((at, 2)), ..Faults::default() });
    let done = flash(&image.path, &[&disk.id], &["--json"]).good();
    let events = done.events();
    let phases: Vec<_> = events.iter().filter_map(|event| event["phase"].as_str()).collect();
    let again = ["verify", "repair"];
    assert_eq!(phases[3..], [again[0], again[1], again[0], again[1], again[0], "finish"]);
    assert_eq!(events.iter().filter(|event| event["event"] == "mismatch").count(), 2);
    assert_eq!(events.last().unwrap()["repaired"], 2);
    assert!(disk.at(at - 4096, 8192) == expected);
}

#[test]
fn e2e_flash_a_disk_that_is_pulled_out_is_told_and_goes_on_when_it_is_back() {
    let image = Image::new();
    let at = image.middle();
    let size = image.size + 8 * MIB;
    // In the middle, at the first write of the first MiB, and at the very last write of all: where
    // it waits, and whether the next run goes on.
    let last = [(at..at + MIB, false), (MIB / 2..MIB, true), (0..512, false)];
    for (stall, goes_on) in last {
        println!("{stall:?}");
        let tail = size - 512..size;
        let disk = Faulty::new(size, Faults::default());
        // It is written to when old tables are removed, and again behind the image's parts.
        disk.stall_next(Some(tail.clone()));
        let running = Running::start(&mut command(text(&image.path), &[&disk.id]));
        disk.wait_stalled();
        disk.stall_next(Some(if stall.start == at { stall.clone() } else { at..at + MIB }));
        disk.wait_stalled();
        if stall.start != at {
            disk.stall_next(Some(tail));
            disk.wait_stalled();
            disk.stall_next(Some(stall.clone()));
            disk.wait_stalled();
        }
        disk.pull_out();
        let start = format!("headnode: {}: the disk was pulled out", disk.name);
        running.end().failed(&[&start, "run the same command"]);
        does_not_boot(&disk.head(1024));

        let done = flash(&image.path, &[&disk.id], &[]);
        assert_eq!(done.status.code(), Some(1), "a disk that is not there: {done:?}");
        disk.plug_in();
        let done = flash(&image.path, &[&disk.id], &["--json"]).good();
        let events = done.events();
        assert_eq!(event(&events, "resumed").is_some(), goes_on, "{events:?}");
        let source = File::open(&image.path).unwrap();
        for range in &image.ranges {
            let begin = range.offset.max(4096);
            let mut expected = vec![0; (range.offset + range.length - begin) as usize];
            source.read_exact_at(&mut expected, begin).unwrap();
            assert!(disk.at(begin, expected.len()) == expected, "{begin}");
        }
        assert_eq!(disk.head(512)[510..], [0x55, 0xaa]);
    }
}

#[test]
fn e2e_flash_a_disk_that_stalls_is_told() {
    let image = Image::new();
    let at = image.middle();
    let stall = Some(at..at + MIB);
    let disk = Faulty::new(image.size + 8 * MIB, Faults { stall, ..Faults::default() });
    let mut running = Running::start(command(text(&image.path), &[&disk.id]).arg("--json"));
    let out = BufReader::new(running.0.stdout.take().unwrap());
    let mut events = out.lines().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let stalled = events.find(|event| event["event"] == "stalled").unwrap();
    assert_eq!(stalled["disk"], *disk.name);
    assert!(stalled["seconds"].as_u64().unwrap() >= 10, "{stalled}");
    disk.release();
    assert_eq!(events.last().unwrap()["event"], "written");
    assert!(running.0.wait().unwrap().success());
}

#[test]
fn e2e_flash_one_bad_key_does_not_stop_the_others() {
    let image = Image::new();
    let size = image.size + 8 * MIB;
    let good = [Good::new(size), Good::new(size + 3 * MIB)];
    let bad = Faulty::new(size, Faults { write_error: Some(image.middle()), ..Faults::default() });
    let done = flash(&image.path, &[&good[0].id, &bad.id, &good[1].id], &[]);
    let done = done.failed(&[&format!("headnode: {}: writing", bad.name), "Input/output error"]);
    assert!(done.out.contains("2 of 3 keys are good"), "{done:?}");
    for disk in &good {
        assert!(done.out.contains(&format!("{}: ", disk.name)), "{done:?}");
        disk.is_whole(&image);
    }
    does_not_boot(&bad.head(1024));
}
