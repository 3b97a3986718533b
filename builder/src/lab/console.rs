//! Serial consoles: kept in a log, with the time of every line, and shared by any number of
//! people who look and type at once.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use super::paths;
use super::state::now_ms;

/// A line without an end is indexed when nothing follows it for this long: a prompt.
const QUIET: Duration = Duration::from_millis(50);
/// How long a person's terminal may block the console before it is cut off.
const PATIENCE: Duration = Duration::from_millis(200);
/// Longer lines are broken.
const LONGEST_LINE: usize = 16 << 10;

/// What is called with all that a console says.
pub type Watcher = Box<dyn FnMut(&[u8]) + Send>;

/// The supervisor's side of one machine's console.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    log: File,
    index: File,
    length: u64,
    indexed: u64,
    qemu: Option<UnixStream>,
    viewers: Vec<UnixStream>,
    watcher: Option<Watcher>,
}

impl Server {
    /// Takes the console of the machine with this folder: QEMU connects to `serial.sock`, people to
    /// `console.sock`, and `console.log` and `console.index` are appended to.
    ///
    /// # Errors
    /// When the files or sockets cannot be made.
    pub fn start(dir: &Path, serial_socket: &str, watcher: Option<Watcher>) -> Result<Self> {
        let append = |name: &str| {
            let path = dir.join(name);
            File::options()
                .create(true)
                .append(true)
                .open(&path)
                .with_context(|| format!("opening {}", path.display()))
        };
        let listen = |name: &str| {
            paths::listen(&dir.join(name)).with_context(|| format!("listening on {name}"))
        };
        let log = append("console.log")?;
        let length = log.metadata()?.len();
        let shared = Shared {
            log,
            index: append("console.index")?,
            length,
            indexed: length,
            qemu: None,
            viewers: Vec::new(),
            watcher,
        };
        let server = Self { shared: Arc::new(Mutex::new(shared)) };
        let serial = listen(serial_socket)?;
        let viewers = listen("console.sock")?;
        let this = server.clone();
        std::thread::Builder::new().name("serial".to_owned()).spawn(move || {
            for stream in serial.incoming().flatten() {
                this.read_qemu(stream);
            }
        })?;
        let this = server.clone();
        std::thread::Builder::new().name("console".to_owned()).spawn(move || {
            for stream in viewers.incoming().flatten() {
                if let Err(error) = this.add_viewer(stream) {
                    tracing::warn!(%error, "letting somebody look at a console failed");
                }
            }
        })?;
        Ok(server)
    }

    /// How many bytes the log has.
    pub fn length(&self) -> u64 {
        self.lock().length
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_qemu(&self, mut stream: UnixStream) {
        match stream.try_clone() {
            Ok(writer) => self.lock().qemu = Some(writer),
            Err(error) => tracing::warn!(%error, "a console cannot be typed at"),
        }
        let mut bytes = [0; 8192];
        let mut waiting = false;
        loop {
            drop(stream.set_read_timeout(waiting.then_some(QUIET)));
            match stream.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => waiting = self.lock().record(&bytes[..count]),
                Err(error) => match error.kind() {
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
                        self.lock().note_time();
                        waiting = false;
                    }
                    std::io::ErrorKind::Interrupted => {}
                    _ => break,
                },
            }
        }
        let mut shared = self.lock();
        shared.note_time();
        shared.qemu = None;
    }

    fn add_viewer(&self, stream: UnixStream) -> Result<()> {
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut keys = stream.try_clone()?;
        self.lock().viewers.push(stream);
        let this = self.clone();
        std::thread::Builder::new().name("keys".to_owned()).spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(count @ 1..) = keys.read(&mut bytes) {
                if let Some(qemu) = &mut this.lock().qemu {
                    // A machine that is being switched off takes no more keys.
                    drop(qemu.write_all(&bytes[..count]));
                }
            }
        })?;
        Ok(())
    }
}

impl Shared {
    /// Keeps what the machine said; returns whether its last line has no end yet.
    fn record(&mut self, bytes: &[u8]) -> bool {
        if let Err(error) = self.log.write_all(bytes) {
            tracing::error!(%error, "a console's log cannot be written");
        }
        self.length += bytes.len() as u64;
        if let Some(end) = bytes.iter().rposition(|b| *b == b'\n') {
            let from = self.length - bytes.len() as u64;
            self.note_time_of(from + end as u64 + 1);
        }
        self.viewers.retain_mut(|viewer| viewer.write_all(bytes).is_ok());
        if let Some(watcher) = &mut self.watcher {
            watcher(bytes);
        }
        self.indexed < self.length
    }

    fn note_time(&mut self) {
        if self.indexed < self.length {
            self.note_time_of(self.length);
        }
    }

    fn note_time_of(&mut self, offset: u64) {
        self.indexed = offset;
        let line = format!("{offset} {}\n", now_ms());
        if let Err(error) = self.index.write_all(line.as_bytes()) {
            tracing::error!(%error, "a console's index cannot be written");
        }
    }
}

/// When the byte before `offset` of the log had come, in milliseconds since 1970, by the index;
/// `None` when it is not known yet.
fn time_of(index: &Path, offset: u64) -> Option<u64> {
    let text = std::fs::read_to_string(index).ok()?;
    text.lines().find_map(|line| {
        let (until, at) = line.split_once(' ')?;
        (until.parse::<u64>().ok()? >= offset).then(|| at.parse().ok()).flatten()
    })
}

/// A line of a console as a person reads it, without escape sequences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The text.
    pub text: String,
    /// Where it ends in the log, bytes.
    pub end: u64,
    /// Whether its end has come.
    pub whole: bool,
}

/// Turns a console's bytes into lines. Moving the cursor ends a line, as firmware menus are drawn
/// without line ends.
#[derive(Debug, Default)]
pub struct Lines {
    offset: u64,
    line: Vec<u8>,
    escape: Escape,
    carriage: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum Escape {
    #[default]
    None,
    Started,
    Control,
    /// One more byte, which names a character set.
    Charset,
    /// An operating system command, up to BEL or ESC.
    System,
}

/// What a byte does to the line.
#[derive(PartialEq)]
enum Step {
    /// It goes on.
    Goes,
    /// The byte ends it.
    Ends,
    /// The byte is the first of the next one.
    EndsBefore,
}

impl Lines {
    /// Lines of a log whose next byte is at `offset`.
    pub fn at(offset: u64) -> Self {
        Self { offset, ..Self::default() }
    }

    /// Reads more bytes, and gives every line that has ended.
    pub fn push(&mut self, bytes: &[u8], mut line: impl FnMut(Line)) {
        for byte in bytes {
            self.offset += 1;
            let step = self.byte(*byte);
            if step != Step::Goes
                && let Some(done) = self.finish()
            {
                line(done);
            }
            if step == Step::EndsBefore {
                self.line.push(*byte);
            }
        }
    }

    /// The line that has no end yet, if there is something in it.
    pub fn unfinished(&self) -> Option<Line> {
        let text = String::from_utf8_lossy(&self.line).into_owned();
        let blank = text.trim().is_empty();
        (!blank).then_some(Line { text, end: self.offset, whole: false })
    }

    fn finish(&mut self) -> Option<Line> {
        let unfinished = self.unfinished();
        self.line.clear();
        let line = unfinished?;
        Some(Line { text: line.text.trim_end().to_owned(), whole: true, ..line })
    }

    fn byte(&mut self, byte: u8) -> Step {
        match (self.escape, byte) {
            (Escape::None, 0x1b) => self.escape = Escape::Started,
            (Escape::None, b'\n') => {
                self.carriage = false;
                return Step::Ends;
            }
            (Escape::None, b'\r') => self.carriage = true,
            (Escape::None, 0x08) => drop(self.line.pop()),
            (Escape::None, b'\t' | 0x20..=0x7e | 0x80..) => {
                // A return without a line feed begins to write over the line.
                let ends = std::mem::take(&mut self.carriage) && !self.line.is_empty();
                if ends || self.line.len() >= LONGEST_LINE {
                    return Step::EndsBefore;
                }
                self.line.push(byte);
            }
            (Escape::None, _) => {}
            (Escape::Started, b'[') => self.escape = Escape::Control,
            (Escape::Started, b'(' | b')') => self.escape = Escape::Charset,
            (Escape::Started, b']') => self.escape = Escape::System,
            (Escape::Started | Escape::Charset, _) => self.escape = Escape::None,
            (Escape::System, 0x07 | 0x1b) => self.escape = Escape::None,
            (Escape::System, _) => {}
            (Escape::Control, b'@'..=b'~') => {
                self.escape = Escape::None;
                if matches!(byte, b'H' | b'f' | b'J') {
                    return Step::Ends;
                }
            }
            (Escape::Control, _) => {}
        }
        Step::Goes
    }
}

/// Reads a console's log as it grows.
pub struct Follower {
    log: File,
    lines: Lines,
}

impl Follower {
    /// Follows the log from this offset.
    ///
    /// # Errors
    /// When there is no log.
    pub fn open(log: &Path, offset: u64) -> Result<Self> {
        let mut file = File::open(log).with_context(|| format!("opening {}", log.display()))?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self { log: file, lines: Lines::at(offset) })
    }

    /// Gives the lines that have ended since the last call.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn read(&mut self, mut line: impl FnMut(Line)) -> Result<()> {
        let mut bytes = [0; 16 << 10];
        loop {
            let count = self.log.read(&mut bytes).context("reading a console's log")?;
            if count == 0 {
                return Ok(());
            }
            self.lines.push(&bytes[..count], &mut line);
        }
    }

    /// The line that has no end yet.
    pub fn unfinished(&self) -> Option<Line> {
        self.lines.unfinished()
    }
}

/// When a line had come, in milliseconds since 1970. The supervisor notes times shortly after the
/// bytes, so this looks a moment longer before it takes "now" for an answer.
pub fn time_of_line(index: &Path, line: &Line) -> u64 {
    let now = now_ms();
    for _ in 0..20 {
        if let Some(at) = time_of(index, line.end) {
            return at;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    now
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(bytes: &[u8]) -> Vec<String> {
        let mut out = Vec::new();
        let mut lines = Lines::default();
        lines.push(bytes, |line| out.push(line.text));
        out.extend(lines.unfinished().map(|l| l.text));
        out
    }

    #[test]
    fn lines_lose_their_colours_and_keep_their_text() {
        assert_eq!(lines(b"\x1b[1;32mok\x1b[0m done\r\n\r\nlogin: "), ["ok done", "login: "]);
        assert_eq!(lines(b"10 %\r20 %\rready\n"), ["10 %", "20 %", "ready"]);
        assert_eq!(
            lines(b"\x1b[2J\x1b[01;01Hmenu\x1b[02;05Hentry\x1b]0;title\x07!"),
            ["menu", "entry!"]
        );
        assert_eq!(lines(b"abx\x08c\x1b(Bd\n"), ["abcd"]);
    }

    #[test]
    fn a_line_knows_where_it_ends() {
        let mut ends = Vec::new();
        Lines::at(100).push(b"one\r\ntwo\n", |line| ends.push(line.end));
        assert_eq!(ends, [105, 109]);
    }

    #[test]
    fn the_server_keeps_what_it_hears_with_times_and_passes_keys_on() {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(folder.path(), "serial.sock", None).unwrap();
        let mut qemu = paths::connect(&folder.path().join("serial.sock")).unwrap();
        qemu.write_all(b"hello\r\nlogin: ").unwrap();
        let index = folder.path().join("console.index");
        let begin = std::time::Instant::now();
        while time_of(&index, 14).is_none() {
            assert!(begin.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
        assert!(time_of(&index, 7) <= time_of(&index, 14));
        assert_eq!(server.length(), 14);
        let mut viewer = paths::connect(&folder.path().join("console.sock")).unwrap();
        viewer.write_all(b"root").unwrap();
        let mut keys = [0; 4];
        qemu.read_exact(&mut keys).unwrap();
        assert_eq!(&keys, b"root");
        qemu.write_all(b"!").unwrap();
        viewer.read_exact(&mut keys[..1]).unwrap();
        assert_eq!(keys[0], b'!');
    }

    proptest! {
        #[test]
        fn any_bytes_give_lines_of_bounded_length(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
            for line in lines(&bytes) {
                prop_assert!(!line.contains(['\n', '\r', '\x1b']));
            }
        }
    }
}
