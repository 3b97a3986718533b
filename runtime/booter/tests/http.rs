//! The HTTP server over loopback: raw sockets, curl as another's client, TLS, and clients that do
//! not want files but to be in the way.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Extension;
use axum::routing::{get, post};
use sdc_booter::http::{self, Certificate, Folders, Limits, Peer, Site, SlowClient, Tls};
use sdc_booter::live::Live;
use sdc_booter::metrics::Metrics;
use sdc_booter::observe::{Event, Observer};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(20);

/// Path, status, bytes and whether it was complete.
type Told = (String, u16, u64, bool);

/// All answers.
#[derive(Default, Clone)]
struct Seen(Arc<Mutex<Vec<Told>>>);

impl Observer for Seen {
    fn event(&self, event: &Event<'_>) {
        let Event::Http { path, status, bytes, complete, .. } = event else { panic!("{event:?}") };
        self.0.lock().unwrap().push(((*path).to_owned(), *status, *bytes, *complete));
    }
}

struct World {
    dir: TempDir,
    address: SocketAddr,
    tls: Option<(SocketAddr, Certificate)>,
    limits: Live<Limits>,
    seen: Seen,
    stop: CancellationToken,
    server: Option<std::thread::JoinHandle<()>>,
}

fn big() -> Vec<u8> {
    (0..12_000_001u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// A server on a thread of its own, so that a test may block.
fn world(limits: Limits) -> World {
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
            http::serve(listener, tls, Arc::new(site), token).await.unwrap();
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
    fn connect(&self) -> std::net::TcpStream {
        self.connect_from([127, 0, 0, 1])
    }

    fn connect_from(&self, ip: [u8; 4]) -> std::net::TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
        socket.connect(&self.address.into()).unwrap();
        let stream = std::net::TcpStream::from(socket);
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// Sends bytes on a fresh connection and reads until the server closes it.
    fn raw(&self, bytes: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// One request that ends its connection.
    fn ask(&self, request: &str, headers: &str) -> String {
        self.raw(&format!("{request} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n"))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Waits until an answer was told to the observer.
    fn told(&self, wanted: impl Fn(&Told) -> bool) -> Told {
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

fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| {
        panic!("{program}: {error}");
    });
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    output
}

fn curl(arguments: &[&str]) -> Vec<u8> {
    let all = [&["--silent", "--show-error", "--max-time", "20"], arguments].concat();
    run("curl", &all).stdout
}

fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or_else(|| panic!("{answer}"))
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next().unwrap();
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then_some(value)
    })
}

#[test]
fn curl_gets_files_parts_heads_and_resumes() {
    let world = world(Limits::default());
    let (big, url) = (big(), world.url("/os/big"));
    assert!(curl(&[&url]) == big);
    assert!(curl(&["-r", "100-199", &url]) == big[100..200]);
    assert!(curl(&["-r", "-77", &url]) == big[big.len() - 77..]);
    let half = world.dir.path().join("half");
    fs::write(&half, &big[..5_000_000]).unwrap();
    let half_name = half.to_str().unwrap();
    curl(&["-C", "-", "-o", half_name, &url]);
    assert!(fs::read(&half).unwrap() == big);
    let head = String::from_utf8(curl(&["-I", &url])).unwrap();
    assert_eq!(header(&head, "content-length"), Some("12000001"));
    assert_eq!(header(&head, "accept-ranges"), Some("bytes"));
    // Both files come over the same connection.
    let kernel = world.url("/os/a/kernel");
    let verbose = ["-w", "%{num_connects}\n", "-o", "/dev/null", "-o", "/dev/null"];
    let connects = curl(&[verbose.as_slice(), &[&kernel, &url]].concat());
    assert_eq!(connects, b"1\n0\n");
    assert_eq!(curl(&["--http1.0", &kernel]), b"kernel");
    // By the file's time, as curl and firmware ask.
    let code = ["-w", "%{http_code}", "-o", "/dev/null", "-z", half_name];
    assert_eq!(curl(&[code.as_slice(), &[&kernel]].concat()), b"304");
    let (_, _, bytes, complete) =
        world.told(|(_, status, bytes, _)| (*status, *bytes) == (206, 77));
    assert!(complete && bytes == 77);
}

#[test]
fn answers_are_as_the_rfcs_have_them() {
    let world = world(Limits::default());
    let whole = world.ask("GET /os/a/boot.efi", "X-Request-Id: r1\r\n");
    assert_eq!(status(&whole), 200);
    assert!(whole.ends_with("\r\n\r\nloader"), "{whole}");
    assert_eq!(header(&whole, "content-type"), Some("application/efi"));
    assert_eq!(header(&whole, "x-request-id"), Some("r1"));
    assert_eq!(header(&whole, "connection"), Some("close"));
    let (tag, date) = (header(&whole, "etag").unwrap(), header(&whole, "last-modified").unwrap());
    let range = "Range: bytes=2-3\r\n";
    for (headers, expected, body) in [
        (range.to_owned(), 206, "ad"),
        (format!("If-Range: {tag}\r\n{range}"), 206, "ad"),
        (format!("If-Range: \"old\"\r\n{range}"), 200, "loader"),
        (format!("If-None-Match: {tag}\r\n"), 304, ""),
        (format!("If-Modified-Since: {date}\r\n"), 304, ""),
        ("If-Match: \"old\"\r\n".to_owned(), 412, ""),
        ("Range: bytes=6-\r\n".to_owned(), 416, ""),
        ("Range: bytes=0-1,3-4\r\n".to_owned(), 200, "loader"),
    ] {
        let answer = world.ask("GET /os/a/boot.efi", &headers);
        assert_eq!(status(&answer), expected, "{headers}: {answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{headers}: {answer}");
    }
    let outside = world.ask("GET /os/a/boot.efi", "Range: bytes=6-\r\n");
    assert_eq!(header(&outside, "content-range"), Some("bytes */6"));
    let part = world.ask("GET /os/a/boot.efi", range);
    assert_eq!(header(&part, "content-range"), Some("bytes 2-3/6"));
    let empty = world.ask("GET /os/empty", "");
    assert_eq!((status(&empty), header(&empty, "content-length")), (200, Some("0")));
    let changed = world.ask("PUT /os/a/kernel", "Content-Length: 3\r\n");
    assert_eq!((status(&changed), header(&changed, "allow")), (405, Some("GET, HEAD")));
    for (request, expected) in [
        ("BREW /os/a/kernel", 501),
        ("TRACE /os/a/kernel", 405),
        ("GET /os/%zz", 400),
        ("GET os/a/kernel", 400),
        ("GET http://other/os/a/kernel", 200),
        ("GET /os", 404),
        ("GET /os/", 404),
        ("GET /os/a", 404),
        ("GET /os/link", 404),
        ("GET /os/../secret", 404),
        ("GET /os/%2e%2e/secret", 404),
        ("GET /os/..%2fsecret", 404),
        ("GET //os//a/kernel", 200),
        ("GET /other", 404),
    ] {
        let answer = world.ask(request, "");
        assert_eq!(status(&answer), expected, "{request}: {answer}");
        assert!(!answer.contains("secret"), "{answer}");
    }
    for (text, expected) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET /\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\n", 505),
        ("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        ("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\n", 413),
    ] {
        assert_eq!(status(&world.raw(text)), expected, "{text}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(20_000));
    assert_eq!(status(&world.raw(&long)), 431);
    assert_eq!(status(&world.raw("GET /os/a/kernel HTTP/1.0\r\n\r\n")), 200);
}

#[test]
fn the_router_gets_requests_with_peer_id_and_body() {
    let world = world(Limits::default());
    assert!(world.ask("GET /who", "").ends_with("\r\n\r\n127.0.0.1"));
    assert!(world.ask("GET /id", "X-Request-Id: r7\r\n").ends_with("\r\n\r\nr7"));
    let long = "x".repeat(60_000);
    assert_eq!(curl(&["-d", &long, &world.url("/echo")]), long.as_bytes());
    let head = world.ask("HEAD /who", "");
    assert_eq!((status(&head), header(&head, "content-length")), (200, Some("9")));
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    let wrong = world.ask("GET /echo", "");
    assert_eq!((status(&wrong), header(&wrong, "allow")), (405, Some("POST")));
}

#[test]
fn requests_that_are_sent_together_are_answered_in_order() {
    let world = world(Limits::default());
    let one = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let post = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    let all = [one("/os/a/kernel"), one("/who"), post.to_owned(), one("/os/a/boot.efi")].concat();
    let last = "GET /os/none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answers = world.raw(&format!("{}{last}", all.repeat(20)));
    let order: Vec<_> = ["kernel", "127.0.0.1", "body", "loader", "no such file\n"]
        .into_iter()
        .map(|body| answers.matches(&format!("\r\n\r\n{body}")).count())
        .collect();
    assert_eq!(order, [20, 20, 20, 20, 1]);
    assert!(answers.find("kernel") < answers.find("127.0.0.1"));
}

#[test]
fn who_stops_in_the_middle_is_told() {
    let world = world(Limits::default());
    let mut stream = world.connect();
    stream.write_all(b"GET /os/big HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
    drop(stream);
    let (_, status, bytes, _) = world.told(|(path, _, _, complete)| path == "/os/big" && !complete);
    assert_eq!(status, 200);
    assert!(bytes < 12_000_001);
}

#[test]
fn a_crowd_of_slow_clients_keeps_nobody_from_a_file() {
    let world = world(Limits { connections: 64, head_seconds: 2, ..Limits::default() });
    // From one address: 200 that send a byte now and then.
    let mut crowd: Vec<_> = (0..200).map(|_| world.connect()).collect();
    // From others: heads that never end, more than there are places.
    let mut halves: Vec<_> = (0..100u8)
        .map(|n| {
            let mut stream = world.connect_from([127, 0, 1, n + 1]);
            stream.write_all(b"GET /os/a/kernel HTTP/1.1\r\nHo").unwrap();
            stream
        })
        .collect();
    let begun = Instant::now();
    let mut good = world.connect_from([127, 0, 0, 2]);
    good.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    good.write_all(b"GET /os/a/kernel HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // The crowd goes on for as long as the good one waits.
    while let Err(error) = good.read_to_end(&mut answer) {
        assert!(matches!(error.kind(), std::io::ErrorKind::WouldBlock), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(10), "it got nothing");
        for stream in crowd.iter_mut().chain(&mut halves) {
            let _ = stream.write(b"G");
        }
    }
    assert!(answer.ends_with(b"\r\n\r\nkernel"));
    // And all of the crowd is closed in the end.
    for mut stream in crowd.into_iter().chain(halves) {
        match stream.read(&mut [0; 16]) {
            Ok(0) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
            Ok(_) => panic!("a half head was answered"),
        }
    }
}

#[test]
fn idle_connections_make_room_for_new_ones() {
    let world = world(Limits { connections: 8, ..Limits::default() });
    let ask = b"GET /os/a/kernel HTTP/1.1\r\nHost: a\r\n\r\n";
    let streams: Vec<_> = (0..30)
        .map(|_| {
            let mut stream = world.connect();
            stream.write_all(ask).unwrap();
            let mut head = [0; 15];
            stream.read_exact(&mut head).unwrap();
            assert_eq!(&head, b"HTTP/1.1 200 OK");
            stream
        })
        .collect();
    drop(streams);
}

#[test]
fn a_receiver_without_progress_is_given_up() {
    let world = world(Limits { stall_seconds: 1, ..Limits::default() });
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&world.address.into()).unwrap();
    let mut stream = std::net::TcpStream::from(socket);
    stream.write_all(b"GET /os/big HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let (_, _, bytes, complete) = world.told(|(path, ..)| path == "/os/big");
    assert!(!complete && bytes < 12_000_001);
    drop(stream);
}

#[test]
fn a_slow_client_gets_its_rate_and_others_get_all() {
    let slow = SlowClient { subnet: "127.0.0.3/32".parse().unwrap(), kib: 200 };
    let world = world(Limits { slow_clients: vec![slow], ..Limits::default() });
    let url = world.url("/os/big");
    let time = |arguments: &[&str]| {
        let begun = Instant::now();
        assert_eq!(curl(arguments).len(), 409_600);
        begun.elapsed()
    };
    let range = ["-r", "0-409599", &url];
    let two = time(&[&["--interface", "127.0.0.3"], range.as_slice()].concat());
    assert!((1.8..3.5).contains(&two.as_secs_f64()), "{two:?}");
    assert!(time(&range) < Duration::from_secs(1));
    // A reload counts for the next request.
    world.limits.set(Limits::default());
    let fast = time(&[&["--interface", "127.0.0.3"], range.as_slice()].concat());
    assert!(fast < Duration::from_secs(1), "{fast:?}");
}

#[test]
fn running_answers_may_end_when_it_stops() {
    let world = world(Limits { rate_limit_kib: 12_000, ..Limits::default() });
    let mut stream = world.connect();
    let mut idle = world.connect();
    idle.write_all(b"GET /os/a/kernel HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    idle.read_exact(&mut [0; 15]).unwrap();
    stream.write_all(b"GET /os/big HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 15]).unwrap();
    world.stop.cancel();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).unwrap();
    rest.clear();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(&big()));
    world.told(|(path, _, _, complete)| path == "/os/big" && *complete);
}

/// A certificate for 127.0.0.1 by a fresh authority, as an operator makes it.
fn certificate(folder: &Path, name: &str) -> Tls {
    let path = |end: &str| folder.join(format!("{name}{end}"));
    let text = |end: &str| path(end).to_str().unwrap().to_owned();
    let (ca, ca_key, key) = (text("-ca.pem"), text("-ca.key"), text(".key"));
    let (request, signed, extensions) = (text(".csr"), text(".pem"), text(".ext"));
    let new = ["req", "-newkey", "rsa:2048", "-nodes"];
    let authority = ["-x509", "-days", "2", "-subj", "/CN=site", "-keyout", &ca_key, "-out", &ca];
    run("openssl", &[new.as_slice(), &authority].concat());
    let server = ["-subj", "/CN=booter", "-keyout", &key, "-out", &request];
    run("openssl", &[new.as_slice(), &server].concat());
    fs::write(path(".ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let sign = ["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
    let rest = ["-days", "2", "-extfile", &extensions, "-out", &signed];
    run("openssl", &[sign.as_slice(), &rest].concat());
    Tls { port: 443, certificate: path(".pem"), key: path(".key") }
}

#[test]
fn tls_serves_the_same_with_the_sites_certificate_and_takes_a_new_one() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let files = certificate(folder.path(), "first");
    let second = certificate(folder.path(), "second");
    let limits = Limits { tls: Some(files.clone()), ..Limits::default() };
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o644)).unwrap();
    let problems = limits.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].key, "http.tls.key");
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(limits.problems(), []);
    let mixed = Tls { key: second.key.clone(), ..files.clone() };
    assert_eq!(Limits { tls: Some(mixed), ..limits.clone() }.problems()[0].key, "http.tls.key");

    let world = world(limits);
    let (address, certificate) = world.tls.as_ref().unwrap();
    let url = format!("https://{address}/os/big");
    let ca = |name: &str| folder.path().join(format!("{name}-ca.pem")).display().to_string();
    let (first_ca, second_ca) = (ca("first"), ca("second"));
    for version in [&["--tlsv1.2", "--tls-max", "1.2"], &["--tlsv1.3", "--tls-max", "1.3"]] {
        let arguments = [version.as_slice(), &["--cacert", &first_ca, &url]].concat();
        assert!(curl(&arguments) == big());
    }
    let who = format!("https://{address}/who");
    assert_eq!(curl(&["--cacert", &first_ca, &who]), b"127.0.0.1");
    assert_eq!(curl(&["--cacert", &first_ca, "-r", "5-9", &url]), &big()[5..10]);
    // Rubbish in place of a handshake, and a plain request, do no harm.
    let mut plain = std::net::TcpStream::connect(address).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let _ = plain.read_to_end(&mut Vec::new());

    fs::copy(&second.certificate, &files.certificate).unwrap();
    assert!(certificate.reload().is_err(), "certificate and key of two authorities");
    assert_eq!(curl(&["--cacert", &first_ca, &who]), b"127.0.0.1");
    fs::copy(&second.key, &files.key).unwrap();
    certificate.reload().unwrap();
    assert_eq!(curl(&["--cacert", &second_ca, &who]), b"127.0.0.1");
}

#[test]
fn many_clients_at_once_get_whole_files() {
    let world = world(Limits { connections_per_client: 4, ..Limits::default() });
    let expected = Arc::new(big());
    let threads: Vec<_> = (0..40u8)
        .map(|n| {
            let mut stream = world.connect_from([127, 0, 2, n + 1]);
            let expected = Arc::clone(&expected);
            std::thread::spawn(move || {
                let ask = "GET /os/big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
                stream.write_all(ask.as_bytes()).unwrap();
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).unwrap();
                assert!(answer.ends_with(&expected));
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(world.seen.0.lock().unwrap().iter().filter(|seen| seen.3).count(), 40);
}

#[test]
fn a_thousand_nodes_that_load_at_once_take_little_memory() {
    let resident = || {
        let about = fs::read_to_string("/proc/self/status").unwrap();
        let line = about.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap()
    };
    let world = world(Limits::default());
    let before = resident();
    let nodes: Vec<_> = (0..1000u16)
        .map(|n| {
            let [high, low] = (n / 4 + 1).to_be_bytes();
            let mut stream = world.connect_from([127, 1, high, low]);
            stream.write_all(b"GET /os/big HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            let mut head = [0; 15];
            stream.read_exact(&mut head).unwrap();
            assert_eq!(&head, b"HTTP/1.1 200 OK");
            stream
        })
        .collect();
    // All of them are in the middle of the file now.
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more for 1000 nodes");
    println!("{grown} KiB more for 1000 nodes");
    drop(nodes);
}
