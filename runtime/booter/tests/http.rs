//! What the HTTP server answers: raw sockets, curl as another's client, TLS.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod http_world;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use http_world::{LIMIT, big, curl, header, run, status, world};
use sdc_booter::http::{Limits, Tls};

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

/// A certificate for 127.0.0.1 by a fresh authority, as an operator makes it.
fn certificate_files(folder: &Path, name: &str) -> Tls {
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
    let files = certificate_files(folder.path(), "first");
    let second = certificate_files(folder.path(), "second");
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

    // Without being told: the server looks at the files itself.
    let third = certificate_files(folder.path(), "third");
    fs::copy(&third.certificate, &files.certificate).unwrap();
    fs::copy(&third.key, &files.key).unwrap();
    let third_ca = ca("third");
    let until = Instant::now() + LIMIT;
    let ask = || Command::new("curl").args(["-sS", "--cacert", &third_ca, &who]).output().unwrap();
    while ask().stdout != b"127.0.0.1" {
        assert!(Instant::now() < until, "{:?}", ask());
    }
}
