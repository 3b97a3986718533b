//! An HTTP server on loopback, and clients for it.
#![allow(dead_code)]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Extension;
use axum::routing::{get, post};
use sdc_booter::http::{self, Certificate, Folders, Limits, Peer, Site};
use sdc_booter::live::Live;
use sdc_booter::metrics::Metrics;
use sdc_booter::observe::{Event, Observer};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub const LIMIT: Duration = Duration::from_secs(20);

/// Path, status, bytes and whether it was complete.
pub type Told = (String, u16, u64, bool);

/// All answers.
#[derive(Default, Clone)]
pub struct Seen(pub Arc<Mutex<Vec<Told>>>);

impl Observer for Seen {
    fn event(&self, event: &Event<'_>) {
        let Event::Http { path, status, bytes, complete, .. } = event else { panic!("{event:?}") };
        self.0.lock().unwrap().push(((*path).to_owned(), *status, *bytes, *complete));
    }
}

pub struct World {
    pub dir: TempDir,
    pub address: SocketAddr,
    pub tls: Option<(SocketAddr, Certificate)>,
    pub limits: Live<Limits>,
    pub seen: Seen,
    pub stop: CancellationToken,
    pub server: Option<std::thread::JoinHandle<()>>,
}

pub fn big() -> Vec<u8> {
    (0..12_000_001u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// A server on a thread of its own, so that a test may block.
pub fn world(limits: Limits) -> World {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("os/a")).unwrap();
    fs::write(dir.path().join("os/a/kernel"), "kernel").unwrap();
    fs::write(dir.path().join("os/a/boot.efi"), "loader").unwrap();
    fs::write(dir.path().join("os/empty"), "").unwrap();
    fs::write(dir.path().join("os/big"), big()).unwrap();
    fs::write(dir.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink("../secret", dir.path().join("os/link")).unwrap();
    let dynamic = Router::new()
        .route("/who", get(async |Extension(Peer(peer)): Extension<Peer>| peer.ip().to_string()))
        .route("/echo", post(async |body: String| body))
        .route("/id", get(async || headnode_client::current_request_id().unwrap_or_default()));
    let (seen, live) = (Seen::default(), Live::new(limits));
    let tls_files = live.get().tls.clone();
    let site = Site {
        folders: Folders::default().with("os", dir.path().join("os")),
        dynamic,
        limits: live.clone(),
        observer: Arc::new(seen.clone()),
        metrics: Metrics::new(),
    };
    let listen = || {
        let listener = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = (Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port());
        (listener, SocketAddr::from(address))
    };
    let (listener, address) = listen();
    let certificate = tls_files.map(|files| Certificate::load(files).unwrap());
    let tls = certificate.map(|certificate| (listen(), certificate));
    let about = tls.as_ref().map(|((_, address), certificate)| (*address, certificate.clone()));
    let stop = CancellationToken::new();
    let token = stop.clone();
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let tls = tls.map(|((listener, _), certificate)| {
                (tokio::net::TcpListener::from_std(listener).unwrap(), certificate)
            });
            http::serve(listener, tls, Arc::new(site), token).await;
        });
    });
    World { dir, address, tls: about, limits: live, seen, stop, server: Some(server) }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(server) = self.server.take() {
            let ended = server.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

impl World {
    pub fn connect(&self) -> std::net::TcpStream {
        self.connect_from([127, 0, 0, 1])
    }

    pub fn connect_from(&self, ip: [u8; 4]) -> std::net::TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
        socket.connect(&self.address.into()).unwrap();
        let stream = std::net::TcpStream::from(socket);
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// Sends bytes on a fresh connection and reads until the server closes it.
    pub fn raw(&self, bytes: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// One request that ends its connection.
    pub fn ask(&self, request: &str, headers: &str) -> String {
        self.raw(&format!("{request} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n"))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Waits until an answer was told to the observer.
    pub fn told(&self, wanted: impl Fn(&Told) -> bool) -> Told {
        let until = Instant::now() + LIMIT;
        loop {
            let found = self.seen.0.lock().unwrap().iter().find(|seen| wanted(seen)).cloned();
            if let Some(found) = found {
                return found;
            }
            assert!(Instant::now() < until, "{:?}", self.seen.0.lock().unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

pub fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| {
        panic!("{program}: {error}");
    });
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    output
}

pub fn curl(arguments: &[&str]) -> Vec<u8> {
    let all = [&["--silent", "--show-error", "--max-time", "20"], arguments].concat();
    run("curl", &all).stdout
}

pub fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or_else(|| panic!("{answer}"))
}

pub fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next().unwrap();
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then_some(value)
    })
}
