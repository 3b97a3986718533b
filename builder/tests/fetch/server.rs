//! A web server with faults: it serves files by path, with ranges, and misbehaves as told.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

/// How a request is answered wrongly.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection is closed after so many bytes of the body.
    Drop(usize),
    /// Nothing more comes after so many bytes of the body.
    Stall(usize),
    /// The header says this length.
    Length(usize),
    /// This status, and nothing else.
    Status(u16),
    /// These bytes instead of any HTTP.
    Garbage,
    /// No length is told; the body ends with the connection.
    NoLength,
}

#[derive(Debug, Clone, Default)]
pub struct Stored {
    pub body: Vec<u8>,
    pub etag: String,
    pub redirect: Option<String>,
}

/// A request and how many bytes of body were sent.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// With the query.
    pub path: String,
    pub range: Option<String>,
    pub sent: usize,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Stored>,
    faults: BTreeMap<String, VecDeque<Fault>>,
    requests: Vec<Request>,
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

    /// Puts a file at a path (without the query); its ETag follows from its content.
    pub fn put(&self, path: &str, body: impl Into<Vec<u8>>) {
        let body = body.into();
        let etag = format!("\"{}\"", headnode::source::digest::sha256(&body));
        let stored = Stored { body, etag, redirect: None };
        self.state.0.lock().unwrap().files.insert(path.to_owned(), stored);
    }

    pub fn without_etag(&self, path: &str) {
        self.state.0.lock().unwrap().files.get_mut(path).unwrap().etag.clear();
    }

    pub fn redirect(&self, path: &str, to: &str) {
        let stored = Stored { redirect: Some(to.to_owned()), ..Stored::default() };
        self.state.0.lock().unwrap().files.insert(path.to_owned(), stored);
    }

    pub fn remove(&self, path: &str) {
        self.state.0.lock().unwrap().files.remove(path);
    }

    /// The next GETs of a path go wrong so, one each.
    pub fn fail(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        self.state.0.lock().unwrap().faults.insert(path.to_owned(), faults.into_iter().collect());
    }

    /// GETs of a path so far.
    pub fn gets(&self, path: &str) -> Vec<Request> {
        let state = self.state.0.lock().unwrap();
        let of = |request: &&Request| {
            request.method == "GET" && request.path.split('?').next() == Some(path)
        };
        state.requests.iter().filter(of).cloned().collect()
    }

    pub fn requests(&self) -> usize {
        self.state.0.lock().unwrap().requests.len()
    }

    /// Waits until so many answers have stalled.
    pub fn wait_stalled(&self, count: usize) {
        let guard = self.state.0.lock().unwrap();
        let wait = std::time::Duration::from_secs(60);
        let (_guard, timeout) =
            self.state.1.wait_timeout_while(guard, wait, |state| state.stalled < count).unwrap();
        assert!(!timeout.timed_out(), "nothing stalled");
    }

    fn answer(&self, stream: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut words = line.split_whitespace();
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim().split_once(':') else { break };
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let bare = path.split('?').next()?.to_owned();
        let range = headers.get("range").cloned();
        let (stored, fault, number) = {
            let mut state = self.state.0.lock().unwrap();
            let stored = state.files.get(&path).or_else(|| state.files.get(&bare)).cloned();
            let faults = state.faults.get_mut(&bare).filter(|_| method == "GET");
            let fault = faults.and_then(VecDeque::pop_front);
            state.requests.push(Request {
                method: method.clone(),
                path,
                range: range.clone(),
                sent: 0,
            });
            (stored, fault, state.requests.len() - 1)
        };
        let mut out = stream;
        let status = match &fault {
            Some(Fault::Garbage) => {
                out.write_all(b"\x00\x01garbage\r\n\r\n").ok()?;
                return None;
            }
            Some(Fault::Status(status)) => Some(*status),
            _ if stored.is_none() => Some(404),
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
        let start = range
            .filter(|_| headers.get("if-range").is_none_or(|etag| *etag == stored.etag))
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        if start.is_some_and(|start: usize| start >= whole) {
            out.write_all(b"HTTP/1.1 416 Range\r\ncontent-length: 0\r\n\r\n").ok()?;
            return Some(());
        }
        let body = &stored.body[start.unwrap_or_default()..];
        let mut head = match start {
            Some(start) => format!(
                "HTTP/1.1 206 Partial\r\ncontent-range: bytes {start}-{}/{whole}\r\n",
                whole - 1
            ),
            None => "HTTP/1.1 200 OK\r\n".to_owned(),
        };
        if !stored.etag.is_empty() {
            head += &format!("etag: {}\r\n", stored.etag);
        }
        let (length, end) = match fault {
            Some(Fault::Length(length)) => (length, body.len()),
            Some(Fault::Drop(end) | Fault::Stall(end)) => (body.len(), end.min(body.len())),
            _ => (body.len(), body.len()),
        };
        if matches!(fault, Some(Fault::NoLength)) {
            head += "connection: close\r\n";
        } else {
            head += &format!("content-length: {length}\r\n");
        }
        write!(out, "{head}\r\n").ok()?;
        if method == "HEAD" {
            return Some(());
        }
        for piece in body[..end].chunks(1 << 14) {
            // Before the client can have it.
            self.state.0.lock().unwrap().requests[number].sent += piece.len();
            out.write_all(piece).ok()?;
        }
        match fault {
            Some(Fault::Stall(_)) => {
                self.state.0.lock().unwrap().stalled += 1;
                self.state.1.notify_all();
                // Until the client goes away.
                let _ = reader.read(&mut [0]);
                None
            }
            Some(Fault::Drop(_) | Fault::Length(_) | Fault::NoLength) => {
                let _ = stream.shutdown(std::net::Shutdown::Both);
                None
            }
            _ => Some(()),
        }
    }
}
