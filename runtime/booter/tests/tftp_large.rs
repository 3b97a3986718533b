//! Files that TFTP reads while it sends them: kernels and archives below `/os`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod tftp_client;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sdc_booter::http::Folders;
use sdc_booter::live::Live;
use sdc_booter::metrics::Metrics;
use sdc_booter::observe::{Event, Observer};
use sdc_booter::tftp::{Context, Files, NothingRendered, Server, Settings};
use tempfile::TempDir;
use tftp_client::Client;
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::{CancellationToken, DropGuard};

const LIMIT: Duration = Duration::from_secs(10);
const ARCHIVE: &str = "/os/20260101T000000Z/platform/i86pc/amd64/boot_archive";
/// More than 65,536 blocks of 512 bytes.
const SIZE: usize = (33 << 20) + 100;

struct Ears(UnboundedSender<(&'static str, u64)>);

impl Observer for Ears {
    fn event(&self, event: &Event<'_>) {
        if let Event::Tftp { outcome, bytes, .. } = event {
            self.0.send((*outcome, *bytes)).unwrap();
        }
    }
}

struct Bed {
    dir: TempDir,
    address: SocketAddr,
    told: UnboundedReceiver<(&'static str, u64)>,
    _stop: DropGuard,
}

fn content() -> Vec<u8> {
    (0..SIZE).map(|n| (n.wrapping_mul(2_654_435_761) >> 9) as u8).collect()
}

async fn bed() -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(dir.path());
    fs::create_dir_all(archive.parent().unwrap()).unwrap();
    fs::create_dir(dir.path().join("firmware")).unwrap();
    fs::write(dir.path().join("secret"), "s").unwrap();
    fs::write(&archive, content()).unwrap();
    // Long ago, so that each change is seen.
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    File::options().write(true).open(archive).unwrap().set_modified(then).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let (ears, told) = unbounded_channel();
    let context = Context {
        files: Files::of(
            Folders::default()
                .with("", dir.path().join("firmware"))
                .with("os", dir.path().join("os")),
        ),
        rendered: Arc::new(NothingRendered),
        settings: Live::new(Settings::default()),
        metrics: Metrics::new(),
        observer: Arc::new(Ears(ears)),
    };
    let stop = CancellationToken::new();
    tokio::spawn(Server::new(socket, context).unwrap().run(stop.clone()));
    Bed { dir, address, told, _stop: stop.drop_guard() }
}

fn archive(dir: &Path) -> PathBuf {
    dir.join(ARCHIVE.trim_start_matches('/'))
}

impl Bed {
    /// Asks, and takes the options.
    async fn begin(&self, options: &[(&str, &str)]) -> Client {
        let mut client = Client::new(0).await;
        client.request(self.address, ARCHIVE, "octet", options).await;
        assert_eq!(client.receive().await[..2], [0, 6]);
        client
    }
}

#[tokio::test]
async fn an_archive_arrives_whole_also_when_another_takes_its_name_meanwhile() {
    let mut bed = bed().await;
    let mut client = Client::new(0).await;
    client.request(bed.address, ARCHIVE, "octet", &[("tsize", "0"), ("windowsize", "32")]).await;
    let options = client.receive().await;
    let size = SIZE.to_string();
    assert!(options.windows(size.len()).any(|part| part == size.as_bytes()), "{options:?}");
    client.ack(0).await;
    let new = bed.dir.path().join("new");
    fs::write(&new, "another").unwrap();
    fs::rename(new, archive(bed.dir.path())).unwrap();
    assert!(client.take(512, 32).await == content());
    assert_eq!(bed.told.recv().await, Some(("complete", SIZE as u64)));

    // The next one gets the new one.
    let mut client = bed.begin(&[("tsize", "0")]).await;
    client.ack(0).await;
    assert_eq!(client.take(512, 1).await, b"another");
}

#[tokio::test]
async fn who_is_sent_a_file_that_changes_is_told_so_and_gets_no_mixture() {
    let mut bed = bed().await;
    let mut client = bed.begin(&[("blksize", "1468"), ("windowsize", "16")]).await;
    client.ack(0).await;
    let old = content();
    File::options()
        .write(true)
        .open(archive(bed.dir.path()))
        .unwrap()
        .write_all_at(&vec![0; SIZE], 0)
        .unwrap();
    let mut last = 0;
    let error = loop {
        let packet = client.receive().await;
        match packet[..4] {
            // While the file is written to, what was sent may be sent again.
            [0, 3, a, b] => {
                let block = u16::from_be_bytes([a, b]);
                let from = usize::from(block - 1) * 1468;
                assert!(packet[4..] == old[from..from + 1468], "block {block}");
                if block.is_multiple_of(16) {
                    client.ack(block).await;
                    last = last.max(block);
                }
            }
            _ => break packet,
        }
    };
    assert_eq!(error[..4], [0, 5, 0, 0]);
    assert!(error.windows(7).any(|part| part == b"changed"), "{error:?}");
    let (outcome, bytes) = bed.told.recv().await.unwrap();
    assert_eq!(outcome, "changed");
    assert!(bytes <= u64::from(last) * 1468);
}

#[tokio::test]
async fn nothing_beside_the_tree_is_sent() {
    let bed = bed().await;
    std::os::unix::fs::symlink("../secret", bed.dir.path().join("os/link")).unwrap();
    for (name, code) in [
        ("os/../secret", 2),
        ("/os/link", 1),
        ("secret", 1),
        ("/os/20260101T000000Z/platform", 1),
        ("/os/20260101T000000Z/../../secret", 2),
        ("firmware/x", 1),
    ] {
        let mut client = Client::new(0).await;
        client.request(bed.address, name, "octet", &[]).await;
        assert_eq!(client.receive().await[..4], [0, 5, 0, code], "{name}");
    }
}
