//! The program without a headnode: started as a process on loopback, with one TOML file.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use common::{LIMIT, encode, pxe};
use dhcproto::v4::{Architecture, DhcpOption, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Decoder};
use serde_json::Value;
use tempfile::TempDir;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const OTHER: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];

fn config(dir: &Path) -> String {
    let (root, state) = (dir.join("root"), dir.join("state"));
    format!(
        "interface = \"lo\"\nroot = \"{}\"\nstate = \"{}\"\nsocket = \"{}\"\n\
         [[network]]\nname = \"n\"\nsubnet = \"127.0.0.0/8\"\n\
         ranges = [{{ first = \"127.9.0.10\", last = \"127.9.0.200\" }}]\n\
         [default]\nkernel = \"linux\"\ninitrd = \"initrd.gz\"\narguments = \"name={{hostname}} ip={{ip}}\"\n\
         [[host]]\nmac = \"52:54:00:00:00:01\"\nip = \"127.9.1.1\"\nhostname = \"one\"\n\
         [[host]]\nmac = \"52:54:00:00:00:03\"\nbootfile = \"pxelinux.0\"\n",
        root.display(),
        state.display(),
        dir.join("run/operator.sock").display()
    )
}

/// Boot files and a configuration.
fn folder() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("root")).unwrap();
    for name in ["linux", "initrd.gz", "pxelinux.0", "undionly.kpxe", "snponly.efi"] {
        fs::write(dir.path().join("root").join(name), name.repeat(1000)).unwrap();
    }
    let path = dir.path().join("booter.toml");
    fs::write(&path, config(dir.path())).unwrap();
    (dir, path)
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_sdc-booter"))
}

fn check(path: &Path) -> Output {
    program().arg("--config").arg(path).arg("--check-config").output().unwrap()
}

/// What UEFI firmware asks that boots by HTTP.
fn uefi_http(mac: [u8; 6]) -> Message {
    let mut message = pxe(MessageType::Discover, mac, None);
    let options = message.opts_mut();
    options.insert(DhcpOption::ClassIdentifier(b"HTTPClient:Arch:00016:UNDI:003001".to_vec()));
    options.insert(DhcpOption::ClientSystemArchitecture(Architecture::from(16)));
    message
}

fn boot_file(message: &Message) -> String {
    match message.opts().get(OptionCode::BootfileName) {
        Some(DhcpOption::BootfileName(name)) => String::from_utf8(name.clone()).unwrap(),
        other => panic!("{other:?}"),
    }
}

struct Running {
    child: Child,
    log: mpsc::Receiver<Value>,
    client: UdpSocket,
    ports: [u16; 3],
}

impl Running {
    fn start(path: &Path) -> Self {
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        let port = client.local_addr().unwrap().port().to_string();
        let mut child = program()
            .arg("--config")
            .arg(path)
            .args(["--dhcp-port", "0", "--tftp-port", "0", "--http-port", "0"])
            .args(["--dhcp-client-port", &port, "--broadcast", "127.0.0.1"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, log) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        let mut running = Self { child, log, client, ports: [0; 3] };
        let ready = running.said("sdc-booter is ready");
        assert_eq!(ready["alone"], true);
        running.ports = ["dhcp_port", "tftp_port", "http_port"]
            .map(|key| u16::try_from(ready[key].as_u64().unwrap()).unwrap());
        running
    }

    /// Waits for a line of the log.
    fn said(&self, text: &str) -> Value {
        let mut before = Vec::new();
        loop {
            let line = match self.log.recv_timeout(LIMIT) {
                Ok(line) => line,
                Err(_) => panic!("{text:?} was not said: {before:#?}"),
            };
            if line["message"].as_str().unwrap().contains(text) {
                return line;
            }
            before.push(line);
        }
    }

    fn ask(&self, message: &Message) -> Message {
        self.client.send_to(&encode(message), (Ipv4Addr::LOCALHOST, self.ports[0])).unwrap();
        let mut buffer = [0; 1500];
        let (length, _) = self.client.recv_from(&mut buffer).unwrap();
        Message::decode(&mut Decoder::new(&buffer[..length])).unwrap()
    }

    fn lease(&self, mac: [u8; 6]) -> Message {
        let offer = self.ask(&pxe(MessageType::Discover, mac, None));
        let mut request = pxe(MessageType::Request, mac, None);
        request.opts_mut().insert(DhcpOption::RequestedIpAddress(offer.yiaddr()));
        request.opts_mut().insert(offer.opts().get(OptionCode::ServerIdentifier).unwrap().clone());
        let ack = self.ask(&request);
        assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
        ack
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports[2])).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// The first block of a file.
    fn tftp(&self, name: &str) -> Vec<u8> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let request = [&[0, 1][..], name.as_bytes(), b"\0octet\0"].concat();
        socket.send_to(&request, (Ipv4Addr::LOCALHOST, self.ports[1])).unwrap();
        let mut buffer = [0; 600];
        let (length, _) = socket.recv_from(&mut buffer).unwrap();
        buffer[..length].to_vec()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn machines_get_addresses_scripts_and_files() {
    let (_dir, path) = folder();
    let mut running = Running::start(&path);

    let ack = running.lease(MAC);
    assert_eq!(ack.yiaddr(), Ipv4Addr::new(127, 9, 1, 1));
    assert_eq!(ack.opts().get(OptionCode::Hostname), Some(&DhcpOption::Hostname("one".into())));
    assert_eq!(boot_file(&ack), "undionly.kpxe");
    let other = running.lease(OTHER).yiaddr();
    assert!((Ipv4Addr::new(127, 9, 0, 10)..=Ipv4Addr::new(127, 9, 0, 200)).contains(&other));
    // Its own program, whatever it runs.
    let third = [0x52, 0x54, 0, 0, 0, 3];
    assert_eq!(boot_file(&running.lease(third)), "pxelinux.0");
    let url = |file: &str| format!("http://127.0.0.1:{}/firmware/{file}", running.ports[2]);
    assert_eq!(boot_file(&running.ask(&uefi_http(third))), url("pxelinux.0"));
    assert_eq!(boot_file(&running.ask(&uefi_http(OTHER))), url("snponly.efi"));

    let port = running.ports[2];
    let script = running.get("/boot.ipxe.01525400000001");
    let line = format!(
        "\nkernel http://127.0.0.1:{port}/files/linux initrd=initrd.gz name=one ip=127.9.1.1 ||"
    );
    assert!(script.contains("200 OK") && script.contains(&line), "{script}");
    let script = running.get("/boot.ipxe.01525400000002");
    assert!(script.contains(&format!("name=52-54-00-00-00-02 ip={other} ")), "{script}");
    assert!(running.get("/boot.ipxe").contains("netX/mac:hexraw"));

    assert!(running.get("/files/initrd.gz").ends_with(&"initrd.gz".repeat(1000)));
    assert!(running.get("/firmware/snponly.efi").contains("application/efi"));
    for path in ["/files/../state/leases", "/files/%2e%2e/booter.toml", "/state/leases"] {
        assert!(running.get(path).starts_with("HTTP/1.1 4"), "{path}");
    }
    let block = running.tftp("undionly.kpxe");
    assert_eq!(block[..4], [0, 3, 0, 1]);
    assert!(block[4..].starts_with(b"undionly.kpxeundionly.kpxe"));

    running.signal("-TERM");
    assert!(running.child.wait().unwrap().success());
}

/// Every thread of the program.
fn statuses(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // A thread may end meanwhile.
    tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok()).collect()
}

#[test]
fn no_thread_has_rights_that_serving_does_not_need() {
    let (_dir, path) = folder();
    let running = Running::start(&path);
    // Threads that begin later too: those that read files.
    running.lease(MAC);
    running.get("/boot.ipxe.01525400000001");
    let statuses = statuses(running.child.id());
    assert!(statuses.len() >= 3, "{statuses:?}");
    for status in statuses {
        let of = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim();
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(of(set), "0000000000000000", "{set} {status}");
        }
        assert_eq!(of("NoNewPrivs:"), "1", "{status}");
    }
}

#[test]
fn a_hangup_reads_the_file_again_and_a_wrong_one_changes_nothing() {
    let (_dir, path) = folder();
    let running = Running::start(&path);
    running.lease(MAC);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("kernel = \"linux\"", "kernel = \"{nonsense}\"")).unwrap();
    running.signal("-HUP");
    let said = running.said("not read again").to_string();
    assert!(said.contains("line 10, default.kernel: ") && said.contains("{nonsense}"), "{said}");
    assert!(running.get("/boot.ipxe.01525400000001").contains("/files/linux "));
    fs::write(&path, text.replace("kernel = \"linux\"", "kernel = \"other/linux\"")).unwrap();
    running.signal("-HUP");
    running.said("settings read again");
    assert!(running.get("/boot.ipxe.01525400000001").contains("/files/other/linux "));
}

#[tokio::test]
async fn the_operator_sees_lets_in_and_reloads() {
    let (dir, path) = folder();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}[admission]\npolicy = \"hold\"\n")).unwrap();
    let running = Running::start(&path);
    let client = reqwest::Client::builder()
        .unix_socket(dir.path().join("run/operator.sock"))
        .build()
        .unwrap();
    let json = async |path: &str| {
        let answer = client.get(format!("http://x{path}")).send().await.unwrap();
        answer.json::<Value>().await.unwrap()
    };
    for mac in [MAC, OTHER] {
        running.lease(mac);
    }
    // The named machine needs no approval.
    assert!(running.get("/boot.ipxe.01525400000001").contains("\nkernel "));
    let held = running.get("/boot.ipxe.01525400000002");
    assert!(held.contains("sdc boot approve 52:54:00:00:00:02"), "{held}");
    let boots = json("/boots?held=true").await;
    assert_eq!(boots.as_array().unwrap().len(), 1, "{boots}");
    let params = json("/boots/52:54:00:00:00:01/params").await;
    assert_eq!((&params["origin"], &params["params"]["kernel"]), (&"host".into(), &"linux".into()));
    let approve = client.post("http://x/boots/52:54:00:00:00:02/approve");
    let body = serde_json::json!({ "who": "root", "note": "" });
    assert_eq!(approve.json(&body).send().await.unwrap().status(), 204);
    assert!(running.get("/boot.ipxe.01525400000002").contains("\nkernel "));
    let reload = client.post("http://x/reload").send().await.unwrap();
    assert_eq!(reload.json::<Value>().await.unwrap(), serde_json::json!([]));
}

#[test]
fn check_config_tells_all_problems_at_once_and_ends_with_3() {
    let (_dir, path) = folder();
    let good = check(&path);
    assert!(good.status.success(), "{good:?}");
    assert!(String::from_utf8_lossy(&good.stdout).contains("no problems"));
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"lo\"", "\"nope0\"").replace("{ip}", "{iip}")).unwrap();
    let bad = check(&path);
    assert_eq!(bad.status.code(), Some(3));
    let told = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert!(told.contains("2 errors in the configuration:"), "{told}");
    assert!(told.contains("line 1, interface: nope0 is not there"), "{told}");
    assert!(told.contains("line 12, default.arguments: there is no placeholder {iip}"), "{told}");
    // It does not start with it either.
    let started = |path: &Path| program().arg("--config").arg(path).output().unwrap();
    assert_eq!(started(&path).status.code(), Some(3));
    // What comes with the network is worth another try, which 3 says it is not.
    fs::write(&path, text.replace("\"lo\"", "\"nope0\"")).unwrap();
    assert_eq!(check(&path).status.code(), Some(3));
    let out = started(&path);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stderr).contains("nope0 is not there"), "{out:?}");
    let none = check(Path::new("/nonexistent/booter.toml"));
    assert_eq!(none.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&none.stderr).contains("--example-config"), "{none:?}");
}

#[test]
fn help_example_and_manual_teach() {
    let text = |flag: &str| {
        let out = program().arg(flag).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    let help = text("--help");
    for word in ["Exit codes:", "--example-config", "[[host]]", "CAP_NET_BIND_SERVICE"] {
        assert!(help.contains(word), "{word}: {help}");
    }
    assert_eq!(text("--example-config"), sdc_booter::alone::EXAMPLE);
    assert!(text("--man-page").contains(".TH sdc-booter 8"), "{}", text("--man-page"));
    assert_eq!(program().arg("--nonsense").output().unwrap().status.code(), Some(2));
}

#[test]
fn a_port_in_use_is_told_and_the_program_ends() {
    let (_dir, path) = folder();
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut child = program()
        .arg("--config")
        .arg(&path)
        .args([
            "--dhcp-port",
            "0",
            "--tftp-port",
            "0",
            "--dhcp-client-port",
            "0",
            "--http-port",
            &port,
        ])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let until = std::time::Instant::now() + LIMIT;
    // Threads that wait for the ports must not keep it.
    while child.try_wait().unwrap().is_none() {
        assert!(std::time::Instant::now() < until, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("another server has it"), "{out:?}");
}
