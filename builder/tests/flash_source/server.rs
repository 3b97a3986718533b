//! A web server on loopback that serves files with ranges, and misbehaves as told.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How one GET is answered wrongly.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection is closed after so many bytes of the body.
    Drop(usize),
    /// Nothing more comes after so many bytes of the body.
    Stall(usize),
    /// The whole file, whatever was asked for.
    NoRange,
    /// Parts of no more than so many bytes.
    Cap(usize),
    /// The header tells so many bytes more than there are.
    Longer(usize),
    /// No length is told; the body ends with the connection.
    NoLength,
    /// Another part than was asked for.
    OtherPart,
    /// This status and nothing else.
    Status(u16),
    /// These bytes instead of any HTTP.
    Garbage,
    /// As it should be.
    None,
}

#[derive(Clone, Default)]
struct Stored {
    body: Arc<Vec<u8>>,
    etag: Option<String>,
    redirect: Option<String>,
    /// How all GETs are answered that have no fault of their own.
    always: Option<Fault>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Stored>,
    faults: BTreeMap<String, VecDeque<Fault>>,
    gets: Vec<(String, Option<String>)>,
    sent: u64,
    stalled: usize,
}

#[derive(Clone)]
pub struct Server {
    pub url: String,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { url, state: Arc::default() };
        let own = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = own.clone();
                // What fails here is seen by the client.
                std::thread::spawn(move || while server.answer(&stream).is_some() {});
            }
        });
        server
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.0.lock().unwrap())
    }

    /// Puts a file at a path; its ETag follows from its content.
    pub fn put(&self, path: &str, body: impl Into<Vec<u8>>) {
        let body = body.into();
        let etag = Some(format!("\"{}\"", headnode::source::digest::sha256(&body)));
        let stored = Stored { body: Arc::new(body), etag, ..Stored::default() };
        self.change(|state| state.files.insert(path.to_owned(), stored));
    }

    pub fn without_etag(&self, path: &str) {
        self.change(|state| state.files.get_mut(path).unwrap().etag = None);
    }

    pub fn redirect(&self, path: &str, to: &str) {
        let stored = Stored { redirect: Some(to.to_owned()), ..Stored::default() };
        self.change(|state| state.files.insert(path.to_owned(), stored));
    }

    /// The next GETs of a path go wrong so, one each.
    pub fn fail(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        let faults = faults.into_iter().collect();
        self.change(|state| state.faults.insert(path.to_owned(), faults));
    }

    /// All GETs of a path go wrong so.
    pub fn always(&self, path: &str, fault: Fault) {
        self.change(|state| state.files.get_mut(path).unwrap().always = Some(fault));
    }

    /// Ranges of the GETs of a path so far.
    pub fn gets(&self, path: &str) -> Vec<Option<String>> {
        self.change(|state| {
            state.gets.iter().filter(|get| get.0 == path).map(|get| get.1.clone()).collect()
        })
    }

    /// Bytes of bodies sent so far.
    pub fn sent(&self) -> u64 {
        self.change(|state| state.sent)
    }

    /// Waits until an answer stalls.
    pub fn wait_stalled(&self) {
        let guard = self.state.0.lock().unwrap();
        let wait = Duration::from_secs(60);
        let (_guard, timeout) =
            self.state.1.wait_timeout_while(guard, wait, |state| state.stalled == 0).unwrap();
        assert!(!timeout.timed_out(), "nothing stalled");
    }

    fn answer(&self, stream: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let path = line.split_whitespace().nth(1)?.to_owned();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim().split_once(':') else { break };
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let range = headers.get("range").cloned();
        let (stored, fault) = self.change(|state| {
            state.gets.push((path.clone(), range.clone()));
            let fault = state.faults.get_mut(&path).and_then(VecDeque::pop_front);
            let stored = state.files.get(&path).cloned();
            let always = stored.as_ref().and_then(|stored| stored.always.clone());
            (stored, fault.or(always).unwrap_or(Fault::None))
        });
        let mut out = stream;
        let status = match (&fault, &stored) {
            (Fault::Garbage, _) => {
                out.write_all(b"\x00\x01garbage\r\n\r\n").ok()?;
                let _ = stream.shutdown(Shutdown::Both);
                return None;
            }
            (Fault::Status(status), _) => Some(*status),
            (_, None) => Some(404),
            _ => None,
        };
        if let Some(status) = status {
            write!(out, "HTTP/1.1 {status} Told\r\ncontent-length: 0\r\n\r\n").ok()?;
            return Some(());
        }
        let stored = stored?;
        if let Some(to) = &stored.redirect {
            write!(out, "HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
                .ok()?;
            return Some(());
        }
        let whole = stored.body.len();
        let same = headers.get("if-range").is_none_or(|tag| Some(tag) == stored.etag.as_ref());
        let range = range.filter(|_| same && !matches!(fault, Fault::NoRange | Fault::NoLength));
        let range = range.map(|range| {
            let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            let end = end.parse().map_or(whole, |end: usize| whole.min(end + 1));
            start.parse::<usize>().unwrap()..end
        });
        let (mut head, part) = match range {
            Some(range) if range.start >= whole => {
                out.write_all(b"HTTP/1.1 416 Range\r\ncontent-length: 0\r\n\r\n").ok()?;
                return Some(());
            }
            Some(mut range) => {
                if let Fault::Cap(most) = fault {
                    range.end = range.end.min(range.start + most);
                }
                let other = usize::from(matches!(fault, Fault::OtherPart));
                let (start, last) = (range.start + other, range.end - 1);
                let told = format!("content-range: bytes {start}-{last}/{whole}\r\n");
                (format!("HTTP/1.1 206 Partial\r\n{told}"), range)
            }
            None => ("HTTP/1.1 200 OK\r\n".to_owned(), 0..whole),
        };
        let body = &stored.body[part];
        if let Some(etag) = &stored.etag {
            head += &format!("etag: {etag}\r\n");
        }
        let (told, end) = match fault {
            Fault::Longer(more) => (body.len() + more, body.len()),
            Fault::Drop(end) | Fault::Stall(end) => (body.len(), end.min(body.len())),
            _ => (body.len(), body.len()),
        };
        head += &match fault {
            Fault::NoLength => "connection: close\r\n".to_owned(),
            _ => format!("content-length: {told}\r\n"),
        };
        write!(out, "{head}\r\n").ok()?;
        for piece in body[..end].chunks(1 << 14) {
            // Before the client can have it.
            self.change(|state| state.sent += piece.len() as u64);
            out.write_all(piece).ok()?;
        }
        match fault {
            Fault::Stall(_) => {
                self.change(|state| state.stalled += 1);
                self.state.1.notify_all();
                // Until the client goes away.
                let _ = reader.read(&mut [0]);
                None
            }
            Fault::Drop(_) | Fault::Longer(_) | Fault::NoLength => {
                let _ = stream.shutdown(Shutdown::Both);
                None
            }
            _ => Some(()),
        }
    }
}
