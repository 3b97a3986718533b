use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::{World, said, sha256};

struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Python's web server with TLS, on a certificate by openssl.
#[test]
fn servers_are_trusted_by_the_roots_of_the_system_only() {
    let world = World::new();
    let config = "[req]\ndistinguished_name = dn\n[dn]\n[ca]\nbasicConstraints = critical,CA:TRUE\n\
        [leaf]\nbasicConstraints = CA:FALSE\nsubjectAltName = IP:127.0.0.1\n";
    std::fs::write(world.path("openssl.cnf"), config).unwrap();
    let make = |name: &str, more: &[&str]| {
        let made = Command::new("openssl")
            .args(["req", "-config", "openssl.cnf", "-x509", "-newkey", "ec", "-nodes"])
            .args(["-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2"])
            .args(["-subj", &format!("/CN={name}"), "-extensions", name])
            .args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")])
            .args(more)
            .current_dir(world.dir.path())
            .output()
            .expect("openssl");
        assert!(made.status.success(), "{made:?}");
    };
    make("ca", &[]);
    make("leaf", &["-CA", "ca.pem", "-CAkey", "ca.key"]);
    std::fs::create_dir(world.path("www")).unwrap();
    std::fs::write(world.path("www/thing-master-1.tgz"), "thing").unwrap();
    let program = "import functools, http.server, ssl
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory='www')
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('leaf.pem', 'leaf.key')
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()";
    let mut child = Command::new("python3")
        .args(["-c", program])
        .current_dir(world.dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("python3");
    let mut port = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let _server = Stopped(child);
    let url = format!("https://127.0.0.1:{}/", port.trim());
    world.spec(json!({"files": {"thing": {"source": "http", "url": url,
                                          "file": {"base": "thing", "ext": "tgz"}}}}));
    let fetch = |roots: Option<&str>| {
        let mut command = world.command(&["fetch"]);
        if let Some(roots) = roots {
            command.env("SSL_CERT_FILE", world.path(roots));
        }
        said(command.output().unwrap())
    };
    let error = fetch(None).unwrap_err();
    assert!(error.contains("the server's certificate is not trusted"), "{error}");
    let told = error.lines().filter(|line| line.starts_with("headnode: "));
    assert_eq!(told.count(), 1, "{error}");
    assert_eq!(error.matches("not trusted").count(), 1, "{error}");
    fetch(Some("ca.pem")).unwrap();
    assert_eq!(world.cached("file.thing"), b"thing");
    assert_eq!(world.lock().get("file.thing").unwrap().sha256, sha256(b"thing"));
}
