//! `headnode flash` on loop devices, good ones and ones with faults, as people and programs use it.
//! Other programs are the oracles: `sgdisk`, `fsck.fat`, `bmaptool`. Needs root and /dev/fuse.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use headnode::image::SECTOR;
use headnode::image::gpt::{TYPE_ESP, Table};
use headnode::manifest::bmap::{self, Mapped};
use headnode_model::manifest::Manifest;

#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/linux.rs"]
mod linux;
#[allow(dead_code)]
#[path = "flash_source/server.rs"]
mod server;

use faulty::{Faults, Faulty, attach};
use linux::{Parts, run, text};
use server::{Fault, Server};

const MIB: u64 = 1 << 20;
/// Bytes that stand before a disk was ever written to.
const OLD: u8 = 0x5a;
const PROGRAM: &str = env!("CARGO_BIN_EXE_headnode");

/// A small headnode image, signed, with all that goes with it.
struct Image {
    dir: tempfile::TempDir,
    path: PathBuf,
    public: PathBuf,
    size: u64,
    ranges: Vec<Mapped>,
}

impl Image {
    fn new() -> Self {
        let parts = Parts::new(6_000_000);
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("release.key");
        run(PROGRAM, &["key", "new", "--no-passphrase", "--output", text(&secret)]);
        let path = dir.path().join("key.img");
        parts.build(&path, &["--sign", text(&secret), "--size", "160MiB"]);
        let manifest = fs::read(beside(&path, ".manifest.json")).unwrap();
        let manifest: Manifest = serde_json::from_slice(&manifest).unwrap();
        let ranges = bmap::parts(&manifest.image.unwrap());
        let (public, size) = (dir.path().join("release.pub"), fs::metadata(&path).unwrap().len());
        Self { dir, path, public, size, ranges }
    }

    /// The middle of its largest part, a multiple of 4096.
    fn middle(&self) -> u64 {
        let largest = self.ranges.iter().max_by_key(|range| range.length).unwrap();
        assert!(largest.length > 4 * MIB && largest.offset >= MIB);
        (largest.offset + largest.length / 2) & !4095
    }

    fn mapped(&self) -> u64 {
        self.ranges.iter().map(|range| range.length).sum()
    }

    /// A copy that can be harmed, in a folder of its own.
    fn copy(&self, ends: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.img");
        for end in ends {
            fs::copy(beside(&self.path, end), beside(&path, end)).unwrap();
        }
        (dir, path)
    }
}

fn beside(path: &Path, end: &str) -> PathBuf {
    PathBuf::from(format!("{}{end}", path.display()))
}

/// A good disk: a loop device on a file.
struct Good {
    file: PathBuf,
    path: String,
    name: String,
    id: String,
    _held: File,
    dir: tempfile::TempDir,
}

impl Good {
    fn new(size: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("stick.img");
        let stick = File::create(&file).unwrap();
        stick.set_len(size).unwrap();
        for place in [0, size - MIB] {
            stick.write_all_at(&vec![OLD; MIB as usize], place).unwrap();
        }
        let (path, held) = attach(&file, &["--direct-io=on"]);
        let name = path.strip_prefix("/dev/").unwrap().to_owned();
        let id = format!("loop:{}", file.display());
        Self { file, path, name, id, _held: held, dir }
    }

    fn at(&self, offset: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        File::open(&self.file).unwrap().read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }

    fn digest(&self) -> String {
        run("sha256sum", &["-b", text(&self.file)])[..64].to_owned()
    }

    /// Holds it to the image and to other people's tools.
    fn is_whole(&self, image: &Image) {
        let source = File::open(&image.path).unwrap();
        for range in &image.ranges {
            let mut expected = vec![0; range.length as usize];
            source.read_exact_at(&mut expected, range.offset).unwrap();
            let mut found = self.at(range.offset, range.length);
            if range.offset < 2 * SECTOR {
                // Where the disk ends is told in the protective MBR and in the table's header.
                for bytes in [&mut expected, &mut found] {
                    bytes[458..462].fill(0);
                    bytes[512 + 16..512 + 56].fill(0);
                }
            }
            assert!(found == expected, "bytes {} and on differ", range.offset);
        }
        let told = run("sgdisk", &["-v", text(&self.file)]);
        assert!(told.contains("No problems found"), "{told}");
        let size = fs::metadata(&self.file).unwrap().len();
        let table = Table::read(&mut File::open(&self.file).unwrap(), size).unwrap();
        let mut checked = 0;
        for (_, partition) in &table.partitions {
            let bytes = self.at(partition.start * SECTOR, partition.sectors * SECTOR);
            if bytes.get(54..57) == Some(b"FAT") || bytes.get(82..85) == Some(b"FAT") {
                let part = self.dir.path().join("part.img");
                fs::write(&part, bytes).unwrap();
                run("fsck.fat", &["-n", text(&part)]);
                checked += 1;
            }
            assert!(partition.kind != TYPE_ESP || checked > 0, "the ESP is no FAT");
        }
        assert!(checked > 0, "no FAT was found");
        // By what the key itself has of its manifest.
        run(PROGRAM, &["verify", text(&self.file)]);
    }
}

/// How a command ended, and what it said.
#[derive(Debug)]
struct Done {
    status: ExitStatus,
    out: String,
    err: String,
}

impl Done {
    fn of(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { status: output.status, out: text(output.stdout), err: text(output.stderr) }
    }

    fn good(self) -> Self {
        assert_eq!(self.status.code(), Some(0), "{self:?}");
        self
    }

    /// It failed, with one line as the error, which has these words.
    fn failed(self, words: &[&str]) -> Self {
        assert_eq!(self.status.code(), Some(1), "{self:?}");
        let lines: Vec<_> = self.err.lines().filter(|l| l.starts_with("headnode: ")).collect();
        assert_eq!(lines.len(), 1, "{self:?}");
        for word in words {
            assert!(lines[0].contains(word), "{word}: {self:?}");
        }
        self
    }

    fn events(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn command(image: &str, disks: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("flash").arg(image).args(disks).args(["--fixed", "--yes"]);
    command
}

fn flash(image: &Path, disks: &[&str], more: &[&str]) -> Done {
    Done::of(command(text(image), disks).args(more))
}

/// A command that runs; it is ended with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }

    /// Reads standard error up to a line with these words.
    fn until(&mut self, words: &str) {
        let err = BufReader::new(self.0.stderr.as_mut().unwrap());
        let mut seen = Vec::new();
        for line in err.lines() {
            let line = line.unwrap();
            if line.contains(words) {
                return;
            }
            seen.push(line);
        }
        panic!("{words:?} was not said: {seen:?}");
    }

    fn end(mut self) -> Done {
        let mut texts = [String::new(), String::new()];
        let err = self.0.stderr.take().unwrap();
        let reader = std::thread::spawn(move || std::io::read_to_string(err).unwrap());
        self.0.stdout.take().unwrap().read_to_string(&mut texts[0]).unwrap();
        texts[1] = reader.join().unwrap();
        let status = self.0.wait().unwrap();
        let [out, err] = texts;
        Done { status, out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn event<'a>(events: &'a [Value], name: &str) -> Option<&'a Value> {
    events.iter().find(|event| event["event"] == name)
}

/// What a disk looks like that no firmware starts from.
fn does_not_boot(head: &[u8]) {
    assert!(head[..1024].iter().all(|byte| *byte == 0), "{:x?}", &head[..64]);
}

#[test]
fn e2e_flash_a_key_is_whole_from_every_source() {
    let image = Image::new();
    let public = ["--public-key", text(&image.public)];
    let disk = Good::new(image.size + 37 * MIB + 3 * SECTOR);
    let done = flash(&image.path, &[&disk.id], &public).good();
    disk.is_whole(&image);
    let name = &disk.name;
    for word in ["writing", "flushing", "reading back", "making it bootable"] {
        let line = format!("{name} {word}");
        let count = done.err.lines().filter(|said| said.starts_with(&line)).count();
        assert_eq!(count, 1, "{line}: {done:?}");
    }
    assert!(done.out.starts_with(&format!("{name}: ")) && done.out.lines().count() == 1);
    for word in [" written, ", " unused and left out, ", " read back; "] {
        assert!(done.out.contains(word), "{done:?}");
    }
    assert!(done.err.contains("signed"), "{done:?}");
    let first = disk.digest();

    let done = flash(&image.path, &[&disk.id], &["--json"]).good();
    assert_eq!(done.err, "");
    assert_eq!(disk.digest(), first, "a second run makes another key");
    let events = done.events();
    let phases: Vec<_> = events.iter().filter_map(|event| event["phase"].as_str()).collect();
    assert_eq!(phases, ["prepare", "write", "flush", "verify", "finish"]);
    assert!(events.iter().all(|event| event["disk"] == **name), "{events:?}");
    let last = events.last().unwrap();
    assert_eq!(last["event"], "written");
    assert_eq!(last["verified"], image.mapped());
    assert_eq!(last["written"], image.mapped());
    assert_eq!(last["skipped"], image.size - image.mapped());
    assert_eq!(last["resumed"], 0);

    let server = Server::start();
    for (program, end) in [("zstd", ".zst"), ("gzip", ".gz"), ("xz", ".xz")] {
        run(program, &["-k", "-q", "-1", text(&image.path)]);
        let packed = beside(&image.path, end);
        let other = Good::new(fs::metadata(&disk.file).unwrap().len());
        flash(&packed, &[&other.id], &public).good();
        assert_eq!(other.digest(), first, "{program}");
        server.put(&format!("/key.img{end}"), fs::read(packed).unwrap());
    }
    server.put("/key.img", fs::read(&image.path).unwrap());
    for end in [".manifest.json", ".manifest.json.minisig", ".bmap"] {
        server.put(&format!("/key.img{end}"), fs::read(beside(&image.path, end)).unwrap());
    }
    for end in ["", ".zst"] {
        let other = Good::new(fs::metadata(&disk.file).unwrap().len());
        let url = format!("{}/key.img{end}", server.url);
        Done::of(command(&url, &[&other.id]).args(public)).good();
        assert_eq!(other.digest(), first, "{url}");
    }
    // Of a raw image, only what is used is asked for.
    assert!(server.gets("/key.img").iter().flatten().count() > 0);
}

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

/// An image of others: used parts that hold noise, described by a block map that `bmaptool` made.
fn foreign(dir: &Path, used: u64) -> PathBuf {
    let path = dir.join("other.img");
    let file = File::create(&path).unwrap();
    file.set_len(used + 9 * MIB).unwrap();
    let mut state = 7_u64;
    let mut chunk = vec![0_u8; MIB as usize];
    for number in 0..used / MIB {
        for word in chunk.chunks_exact_mut(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(number | 1);
            word.copy_from_slice(&state.rotate_left(29).to_le_bytes());
        }
        // A hole behind the first third.
        let at = number * MIB + if number > used / MIB / 3 { 8 * MIB } else { 0 };
        file.write_all_at(&chunk, at).unwrap();
    }
    file.sync_all().unwrap();
    run("bmaptool", &["create", "-o", text(&beside(&path, ".bmap")), text(&path)]);
    path
}

/// Bytes of a file and of what is on a disk, in parts that are used.
fn is_on(disk: &Faulty, image: &Path) {
    let file = File::open(image).unwrap();
    let size = file.metadata().unwrap().len();
    let mut expected = vec![0; MIB as usize];
    for at in (0..size).step_by(MIB as usize) {
        file.read_exact_at(&mut expected, at).unwrap();
        assert!(disk.at(at, MIB as usize) == expected, "MiB {} differs", at / MIB);
    }
}

#[test]
fn e2e_flash_what_was_killed_or_interrupted_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let image = foreign(dir.path(), 300 * MIB);
    let size = 320 * MIB;
    // The journal is brought up to date every 128 MiB.
    let disk = Faulty::new(size, Faults { stall: Some(150 * MIB..151 * MIB), ..Faults::default() });
    let mut killed = Running::start(&mut command(text(&image), &[&disk.id]));
    disk.wait_stalled();
    killed.signal(Signal::SIGKILL);
    disk.stall_next(Some(290 * MIB..291 * MIB));
    assert!(!killed.0.wait().unwrap().success());
    drop(killed);
    does_not_boot(&disk.head(1024));

    // The same command goes on, and is interrupted in good order.
    let before = disk.written();
    let mut interrupted = Running::start(&mut command(text(&image), &[&disk.id]));
    disk.wait_stalled();
    interrupted.signal(Signal::SIGINT);
    interrupted.until("headnode: stopping");
    disk.release();
    let done = interrupted.end();
    assert_eq!(done.status.code(), Some(130), "{done:?}");
    let line = format!("headnode: {}: interrupted", disk.name);
    assert!(done.err.contains(&line) && done.err.contains("goes on where it was"), "{done:?}");
    assert!(disk.written() - before < 180 * MIB, "it began anew");
    does_not_boot(&disk.head(1024));

    let done = flash(&image, &[&disk.id], &["--json"]).good();
    let events = done.events();
    let offset = event(&events, "resumed").unwrap()["offset"].as_u64().unwrap();
    assert!(offset >= 280 * MIB, "{offset}: the journal was not flushed");
    let last = events.last().unwrap();
    assert!(last["written"].as_u64().unwrap() < 30 * MIB, "{last}");
    assert!(last["resumed"].as_u64().unwrap() >= 270 * MIB, "{last}");
    assert_eq!(last["verified"], 300 * MIB);
    is_on(&disk, &image);

    // A key that is whole is written from its begin.
    let done = flash(&image, &[&disk.id], &["--json"]).good();
    assert!(event(&done.events(), "resumed").is_none());
}

#[test]
fn e2e_flash_a_server_that_drops_is_asked_again_and_one_that_stays_away_is_told() {
    let image = Image::new();
    let server = Server::start();
    for path in ["/key.img", "/gone/key.img"] {
        server.put(path, fs::read(&image.path).unwrap());
        for end in [".manifest.json", ".bmap"] {
            let bytes = fs::read(beside(&image.path, end)).unwrap();
            server.put(&format!("{path}{end}"), bytes);
        }
    }
    // Waiting for one that stays away takes half a minute: begun first.
    let disk = Good::new(image.size + 8 * MIB);
    let away = "/gone/key.img";
    server.fail(away, [Fault::None, Fault::Drop(5 << 20)]);
    server.always(away, Fault::Status(503));
    let url = format!("{}{away}", server.url);
    let waiting = Running::start(&mut command(&url, &[&disk.id]));

    let other = Good::new(image.size + 8 * MIB);
    server.fail("/key.img", [Fault::None, Fault::Drop(5 << 20), Fault::Status(503)]);
    let url = format!("{}/key.img", server.url);
    let done = Done::of(&mut command(&url, &[&other.id])).good();
    assert!(done.err.contains("again in"), "{done:?}");
    other.is_whole(&image);

    let start = format!("headnode: {}: ", disk.name);
    waiting.end().failed(&[&start, "given up", "503", "does not boot"]);
    does_not_boot(&disk.at(0, 1024));
    // It comes back: what is there is not fetched again.
    server.put(away, fs::read(&image.path).unwrap());
    let url = format!("{}{away}", server.url);
    let done = Done::of(command(&url, &[&disk.id]).arg("--json")).good();
    let events = done.events();
    assert!(event(&events, "resumed").is_some(), "{events:?}");
    disk.is_whole(&image);
}

#[test]
fn e2e_flash_an_image_that_changes_while_it_is_read_does_not_become_a_key() {
    let image = Image::new();
    let at = image.middle();
    let size = image.size + 8 * MIB;
    let dir = tempfile::tempdir().unwrap();
    type Change<'a> = &'a dyn Fn(&Path);
    let changes: [(&str, Change<'_>, Option<&str>); 3] = [
        (
            "truncated",
            &|path| File::options().write(true).open(path).unwrap().set_len(at).unwrap(),
            Some("key.img changed while it was read"),
        ),
        (
            "written over",
            &|path| {
                let file = File::options().write(true).open(path).unwrap();
                let end = image.ranges.last().unwrap();
                file.write_all_at(b"otherwise", end.offset + end.length - 9).unwrap();
            },
            Some("key.img changed while it was read"),
        ),
        // The open file is the old one, and whole.
        (
            "replaced",
            &|path| {
                let new = dir.path().join("new.img");
                fs::write(&new, b"another").unwrap();
                fs::rename(new, path).unwrap();
            },
            None,
        ),
    ];
    for (name, change, error) in changes {
        println!("{name}");
        let (_own, path) = image.copy(&["", ".manifest.json"]);
        let stall = Some(at..at + MIB);
        let disk = Faulty::new(size, Faults { stall, ..Faults::default() });
        let running = Running::start(&mut command(text(&path), &[&disk.id]));
        disk.wait_stalled();
        change(&path);
        disk.release();
        let done = running.end();
        match error {
            Some(word) => {
                let start = format!("headnode: {}: ", disk.name);
                done.failed(&[&start, word, "does not boot"]);
                does_not_boot(&disk.head(1024));
            }
            None => drop(done.good()),
        }
    }
}

#[test]
fn e2e_flash_what_nobody_vouches_for_is_refused_before_anything_is_written() {
    let image = Image::new();
    let size = image.size + 8 * MIB;
    let disk = Good::new(size);
    let untouched = || assert!(disk.at(0, MIB).iter().all(|byte| *byte == OLD));
    let once = |done: Done, words: &[&str]| {
        done.failed(words);
        untouched();
    };
    // Another key.
    let other = image.dir.path().join("other.key");
    run(PROGRAM, &["key", "new", "--no-passphrase", "--output", text(&other)]);
    let public = image.dir.path().join("other.pub");
    once(flash(&image.path, &[&disk.id], &["--public-key", text(&public)]), &["key"]);
    // No signature at all.
    let (_dir, path) = image.copy(&["", ".manifest.json"]);
    once(flash(&path, &[&disk.id], &["--public-key", text(&image.public)]), &["signed"]);
    // A manifest that was changed after it was signed.
    let (_dir, path) = image.copy(&["", ".manifest.json", ".manifest.json.minisig"]);
    let manifest = beside(&path, ".manifest.json");
    let changed = fs::read_to_string(&manifest).unwrap() + " ";
    fs::write(&manifest, changed).unwrap();
    once(flash(&path, &[&disk.id], &["--public-key", text(&image.public)]), &["signature"]);
    // Nothing beside it.
    let (_dir, path) = image.copy(&[""]);
    once(flash(&path, &[&disk.id], &[]), &["--unverified"]);
    flash(&path, &[&disk.id], &["--unverified"]).good();
    disk.is_whole(&image);

    // A byte that is otherwise than the manifest says: seen while it is written.
    let (_dir, path) = image.copy(&["", ".manifest.json"]);
    let at = image.middle();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    let start = format!("headnode: {}: ", disk.name);
    let done = flash(&path, &[&disk.id], &[]).failed(&[&start, "damaged", "does not boot"]);
    assert!(done.err.contains("digest"), "{done:?}");
    does_not_boot(&disk.at(0, 1024));
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

#[test]
fn e2e_flash_disks_are_named_for_good_or_their_names_are_typed() {
    let image = Image::new();
    let disk = Faulty::new(image.size + 8 * MIB, Faults::default());
    let untouched = || assert!(disk.head(MIB as usize).iter().all(|byte| *byte == OLD));
    let done = flash(&image.path, &[&disk.path], &[]).failed(&["--yes", &disk.id, &disk.path]);
    assert_eq!(done.out, "");
    untouched();
    let mut unasked = Command::new(PROGRAM);
    unasked.args(["flash", text(&image.path), &disk.path, "--fixed"]);
    Done::of(&mut unasked).failed(&["nobody can be asked", &disk.name, "--yes"]);
    untouched();
    let mut fixed = Command::new(PROGRAM);
    fixed.args(["flash", text(&image.path), &disk.id, "--yes"]);
    Done::of(&mut fixed).failed(&["--fixed"]);
    untouched();
    let same = flash(&image.path, &[&disk.id, &disk.id], &[]);
    same.failed(&["same disk"]);

    let (code, said) = Terminal::start(&image.path, &disk).answer("yes").end();
    assert_eq!(code, Some(1), "{said}");
    for word in [&*disk.name, "was not typed", "nothing was written"] {
        assert!(said.contains(word), "{said}");
    }
    untouched();

    disk.stall_next(Some(image.middle()..image.middle() + MIB));
    let terminal = Terminal::start(&image.path, &disk).answer(&disk.name);
    disk.wait_stalled();
    let mut terminal = terminal.until(&format!("{} writing", disk.name));
    disk.release();
    terminal = terminal.until("read back");
    let (code, said) = terminal.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("{}: ", disk.name)) && said.contains("MB/s"), "{said}");
}

/// The command at a terminal.
struct Terminal {
    running: Child,
    keyboard: File,
    said: String,
}

impl Terminal {
    fn start(image: &Path, disk: &Faulty) -> Self {
        let pty = nix::pty::openpty(None, None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let running = Command::new(PROGRAM)
            .args(["flash", text(image), &disk.path, "--fixed"])
            .env("TERM", "xterm")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let mut terminal = Self { running, keyboard: File::from(pty.master), said: String::new() };
        drop(pty.slave);
        terminal = terminal.until(&format!("Type {} to write to it", disk.name));
        assert!(terminal.said.contains(&disk.id["loop:".len()..]), "{}", terminal.said);
        terminal
    }

    fn answer(mut self, word: &str) -> Self {
        self.keyboard.write_all(format!("{word}\n").as_bytes()).unwrap();
        self
    }

    /// Reads more; nothing when the other side is closed.
    fn more(&mut self) -> bool {
        let mut bytes = [0; 4096];
        // The last one that closes a terminal makes its reads fail.
        let count = self.keyboard.read(&mut bytes).unwrap_or(0);
        self.said += &String::from_utf8_lossy(&bytes[..count]);
        count > 0
    }

    fn until(mut self, words: &str) -> Self {
        while !self.said.contains(words) {
            assert!(self.more(), "{words:?} was not said: {}", self.said);
        }
        self
    }

    fn end(mut self) -> (Option<i32>, String) {
        while self.more() {}
        (self.running.wait().unwrap().code(), std::mem::take(&mut self.said))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.running.kill();
        let _ = self.running.wait();
    }
}

#[test]
fn e2e_flash_memory_is_bounded() {
    const MOST: u64 = 64 * MIB;
    let dir = tempfile::tempdir().unwrap();
    let image = foreign(dir.path(), 400 * MIB);
    run("zstd", &["-q", "-1", text(&image)]);
    let disk = Good::new(420 * MIB);
    for image in [&image, &beside(&image, ".zst")] {
        let mut timed = Command::new("/usr/bin/time");
        timed.args(["-f", "%M", PROGRAM, "flash", text(image), &disk.id, "--fixed", "--yes"]);
        let done = Done::of(&mut timed).good();
        let peak: u64 = done.err.lines().last().unwrap().parse().unwrap();
        println!("FIGURE most memory of a flash of 400 MiB, {}: {} KiB", image.display(), peak);
        assert!(peak * 1024 < MOST, "{peak} KiB");
    }
}

/// Gives a device's node to an ordinary user, and back.
struct Lent<'a>(&'a str);

const NOBODY: &str = "65534";

impl<'a> Lent<'a> {
    fn new(device: &'a str) -> Self {
        run("chown", &[NOBODY, device]);
        Self(device)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        run("chown", &["root", self.0]);
    }
}

#[test]
fn e2e_flash_an_ordinary_user_with_rights_on_the_disk_needs_no_root() {
    let image = Image::new();
    let disk = Good::new(image.size + 8 * MIB);
    for folder in [&image.dir, &disk.dir] {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let program = image.dir.path().join("headnode");
    fs::copy(PROGRAM, &program).unwrap();
    let _lent = Lent::new(&disk.path);
    let user = [&format!("--reuid={NOBODY}"), "--regid=65534", "--clear-groups", text(&program)];
    let mut command = Command::new("setpriv");
    command.args(user).args(["flash", text(&image.path), &disk.id, "--fixed", "--yes"]);
    let done = Done::of(&mut command).good();
    assert!(done.out.contains("read back"), "{done:?}");
    disk.is_whole(&image);
}
