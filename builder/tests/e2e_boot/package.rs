//! The booter's Debian package under a real systemd: that of a node, which runs no booter itself.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::datacenter::{Datacenter, program};

const LIMIT: Duration = Duration::from_secs(60);
/// A network of its own: a cable between the node and a namespace on it.
const PREPARE: &str = "set -e
ip netns add rack
ip link add rack0 type veth peer name eth0 netns rack
ip addr add 10.77.0.1/24 dev rack0
ip link set rack0 up
ip -n rack addr add 10.77.0.2/24 dev eth0
ip -n rack link set eth0 up
mkdir -p /srv/boot
echo the-kernel >/srv/boot/linux
dpkg --install --force-depends /root/sdc-booter.deb
cat >/etc/sdc-booter/booter.toml <<'END'
interface = \"rack0\"
root = \"/srv/boot\"
[[network]]
name = \"rack\"
subnet = \"10.77.0.0/24\"
ranges = [{ first = \"10.77.0.100\", last = \"10.77.0.200\" }]
[default]
kernel = \"linux\"
END
systemctl start sdc-booter";
const FETCH: &str = "ip netns exec rack bash -c 'exec 3<>/dev/tcp/10.77.0.1/80; \
    printf \"GET /files/linux HTTP/1.0\\r\\n\\r\\n\" >&3; cat <&3'";

/// Installs it, starts it, kills it, breaks its configuration, takes it away.
pub fn is_a_service(dc: &Datacenter, node: &str) {
    let dir = tempfile::tempdir().unwrap();
    copy(dc, node, &package(dir.path()));
    dc.on(node, PREPARE);
    assert!(dc.on(node, FETCH).ends_with("the-kernel\n"));
    let status = dc.on(node, "sdc boot status");
    assert!(status.contains("runs for"), "{status}");

    // Neither root nor any right stays, in no thread.
    let pid = property(dc, node, "MainPID");
    let threads = dc.on(node, &format!("cat /proc/{pid}/task/*/status"));
    let values = |key: &str| {
        let of_key = move |line: &str| {
            line.split_once(":\t").filter(|(k, _)| *k == key).map(|(_, v)| v.to_owned())
        };
        threads.lines().filter_map(of_key).collect::<Vec<_>>()
    };
    assert!(values("CapPrm").len() > 3, "{threads}");
    for set in ["CapPrm", "CapEff", "CapAmb"] {
        assert!(values(set).iter().all(|rights| rights == "0000000000000000"), "{set}: {threads}");
    }
    assert!(values("Uid").iter().all(|uid| !uid.split('\t').any(|id| id == "0")), "{threads}");

    dc.on(node, "systemctl reload sdc-booter");
    assert_eq!(property(dc, node, "MainPID"), pid);
    dc.on(node, "systemctl kill --signal KILL sdc-booter");
    until(dc, node, "it is started again", || {
        property(dc, node, "ActiveState") == "active" && property(dc, node, "MainPID") != pid
    });
    assert!(dc.on(node, FETCH).ends_with("the-kernel\n"));

    // A wrong configuration is told once and does not start anything again and again.
    dc.on(node, "echo 'nonsense = 1' >>/etc/sdc-booter/booter.toml");
    dc.on(node, "! systemctl restart sdc-booter");
    until(dc, node, "it has failed", || property(dc, node, "ActiveState") == "failed");
    assert_eq!(property(dc, node, "ExecMainStatus"), "3");
    let log = dc.on(node, "journalctl --no-pager --unit sdc-booter --lines 20");
    assert!(log.contains("nonsense"), "{log}");
    dc.on(node, "dpkg --purge --force-depends sdc-booter");
    let left = dc.on(node, "find /var/lib /run -maxdepth 2 -name sdc-booter");
    assert_eq!(left, "");
    dc.on(node, "ip netns del rack");
}

/// Of the programs that the tests were built with.
fn package(dir: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let binaries = Path::new(env!("CARGO_BIN_EXE_headnode")).parent().unwrap();
    let mut command = Command::new(root.join("ci/package-booter"));
    command.arg("--binaries").arg(binaries).arg("--output").arg(dir);
    assert!(command.stdout(Stdio::null()).status().unwrap().success());
    let mut made = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    made.find(|path| path.extension().is_some_and(|end| end == "deb")).unwrap()
}

fn copy(dc: &Datacenter, node: &str, package: &Path) {
    let status = Command::new(program())
        .args(["lab", "ssh", node, "--dir"])
        .arg(dc.lab.dir())
        .args(["--", "cat >/root/sdc-booter.deb"])
        .stdin(File::open(package).unwrap())
        .status()
        .unwrap();
    assert!(status.success());
}

fn property(dc: &Datacenter, node: &str, name: &str) -> String {
    let said = dc.on(node, &format!("systemctl show --property {name} --value sdc-booter"));
    said.trim().to_owned()
}

fn until(dc: &Datacenter, node: &str, what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        let log = || dc.on(node, "journalctl --no-pager --unit sdc-booter --lines 20");
        assert!(begun.elapsed() < LIMIT, "not so: {what}: {}", log());
        std::thread::sleep(Duration::from_millis(200));
    }
}
