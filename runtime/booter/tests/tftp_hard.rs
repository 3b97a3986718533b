//! TFTP under bad conditions: lossy and slow networks, floods, caps, both port modes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod tftp_client;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sdc_booter::live::Live;
use sdc_booter::metrics::Metrics;
use sdc_booter::observe::{Event, Observer};
use sdc_booter::tftp::{Context, Files, NothingRendered, Ports, Server, Settings, VirtualFiles};
use tempfile::TempDir;
use tftp_client::{Client, Network, Proxy};
use tokio::net::UdpSocket;
use tokio_util::sync::{CancellationToken, DropGuard};

const LIMIT: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Ears(Mutex<Vec<(IpAddr, String, &'static str, u64)>>);

impl Observer for Ears {
    fn event(&self, event: &Event<'_>) {
        if let Event::Tftp { client, file, outcome, bytes, .. } = event {
            self.0.lock().unwrap().push((*client, (*file).to_owned(), *outcome, *bytes));
        }
    }
}

struct Bed {
    dir: TempDir,
    address: SocketAddr,
    metrics: Metrics,
    settings: Live<Settings>,
    ears: Arc<Ears>,
    _stop: DropGuard,
}

fn content(blocks: usize) -> Vec<u8> {
    (0..blocks * 512 - 7).map(|n| (n.wrapping_mul(2_654_435_761) >> 9) as u8).collect()
}

async fn bed(settings: Settings) -> Bed {
    bed_with(settings, Arc::new(NothingRendered)).await
}

async fn bed_with(settings: Settings, rendered: Arc<dyn VirtualFiles>) -> Bed {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("loader"), content(60)).unwrap();
    std::fs::write(dir.path().join("short"), content(15)).unwrap();
    std::fs::write(dir.path().join("menu.lst.01"), "stale").unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let (metrics, ears) = (Metrics::new(), Arc::new(Ears::default()));
    let settings = Live::new(settings);
    let context = Context {
        files: Files::new(dir.path().to_owned()),
        rendered,
        settings: settings.clone(),
        metrics: metrics.clone(),
        observer: Arc::clone(&ears) as Arc<dyn Observer>,
    };
    let stop = CancellationToken::new();
    tokio::spawn(Server::new(socket, context).unwrap().run(stop.clone()));
    Bed { dir, address, metrics, settings, ears, _stop: stop.drop_guard() }
}

impl Bed {
    async fn counted(&self, line: &str) {
        let until = Instant::now() + LIMIT;
        while !self.metrics.text().contains(line) {
            assert!(Instant::now() < until, "{line}: {}", self.metrics.text());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn single() -> Settings {
    Settings { ports: Ports::Single, ..Settings::default() }
}

/// Asks, and takes the first packet; the client is then known to be there.
async fn begin(bed: &Bed, ip: &str) -> Client {
    let mut client = Client::at(ip, 0).await;
    client.request(bed.address, "loader", "octet", &[("tsize", "0")]).await;
    assert_eq!(client.receive().await[..2], [0, 6]);
    client.ack(0).await;
    assert_eq!(client.receive().await[..4], [0, 3, 0, 1]);
    client
}

#[tokio::test]
async fn a_file_arrives_whole_over_a_network_that_loses_and_repeats() {
    let network = Network { lose_down: 9, lose_up: 11, twice_up: 5, ..Network::default() };
    for settings in [Settings::default(), single()] {
        let bed = bed(settings).await;
        for window in ["1", "8"] {
            let proxy = Proxy::new(bed.address, network).await;
            let mut client = Client::new(0).await;
            let options = [("tsize", "0"), ("windowsize", window)];
            client.request(proxy.address, "loader", "octet", &options).await;
            assert!(client.take(512, window.parse().unwrap()).await == content(60), "{window}");
        }
    }
}

#[tokio::test]
async fn repeated_acks_double_nothing() {
    for settings in [Settings::default(), single()] {
        let bed = bed(settings).await;
        for window in ["1", "8"] {
            let network = Network { twice_up: 1, ..Network::default() };
            let proxy = Proxy::new(bed.address, network).await;
            let mut client = Client::new(0).await;
            // A wait that cannot be over.
            let options = [("timeout", "60"), ("windowsize", window)];
            client.request(proxy.address, "loader", "octet", &options).await;
            assert!(client.take(512, window.parse().unwrap()).await == content(60));
            let sent = proxy.data.load(Ordering::SeqCst);
            // A busy machine can be late once; that does not go on.
            let most = if window == "1" { 60 } else { 80 };
            assert!((60..=most).contains(&sent), "window {window}: {sent} packets for 60 blocks");
        }
    }
}

#[tokio::test]
async fn a_slow_network_gets_nothing_twice() {
    let mut packets = 0;
    // A busy machine's client may be slower still, once.
    for _ in 0..4 {
        let bed = bed(Settings::default()).await;
        let network = Network { delay: Duration::from_millis(100), ..Network::default() };
        let proxy = Proxy::new(bed.address, network).await;
        let mut client = Client::new(0).await;
        client.request(proxy.address, "short", "octet", &[("tsize", "0")]).await;
        assert!(client.take(512, 1).await == content(15));
        packets = proxy.data.load(Ordering::SeqCst);
        if packets == 15 {
            return;
        }
    }
    panic!("{packets} packets for 15 blocks");
}

#[tokio::test]
async fn a_loss_on_a_fast_network_is_repaired_fast_and_waits_double() {
    let bed = bed(Settings::default()).await;
    let mut client = begin(&bed, "127.0.0.1").await;
    let mut fastest = Duration::MAX;
    for block in [1, 3, 5, 7] {
        // Answered at once, as what was sent twice measures nothing.
        client.ack(block).await;
        client.receive_block(block + 1).await;
        client.ack(block + 1).await;
        let first = client.receive_block(block + 2).await;
        let start = Instant::now();
        // As if it were lost.
        assert_eq!(client.receive_block(block + 2).await, first);
        fastest = fastest.min(start.elapsed());
    }
    assert!(fastest < Duration::from_millis(400), "{fastest:?}");
    client.ack(9).await;
    client.receive_block(10).await;
    client.ack(10).await;
    client.receive_block(11).await;
    let start = Instant::now();
    for _ in 0..3 {
        client.receive_block(11).await;
    }
    // 100 + 200 + 400 ms, less what the first packet may have lain there; without doubling 300.
    assert!(start.elapsed() > Duration::from_millis(500), "{:?}", start.elapsed());
}

#[tokio::test]
async fn one_port_serves_all_clients_at_once() {
    let bed = Arc::new(bed(single()).await);
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let bed = Arc::clone(&bed);
            tokio::spawn(async move {
                let mut client = Client::new(0).await;
                let options = [("windowsize", "4")];
                client.request(bed.address, "loader", "octet", &options).await;
                assert!(client.take(512, 4).await == content(60));
                assert_eq!(client.server, Some(bed.address));
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    // Refusals come from there too, and a client can break off.
    let mut client = Client::new(0).await;
    client.request(bed.address, "none", "octet", &[]).await;
    assert_eq!(client.receive().await[..4], [0, 5, 0, 1]);
    assert_eq!(client.server, Some(bed.address));
    client.request(bed.address, "loader", "octet", &[("tsize", "0")]).await;
    client.receive().await;
    client.send(b"\0\x05\0\x08User aborted the transfer\0").await;
    bed.counted("tftp_transfers_total{kind=\"probe\"} 1").await;
    bed.counted("tftp_transfers_total{kind=\"complete\"} 20").await;
    bed.counted("tftp_active 0").await;
}

#[tokio::test]
async fn an_address_has_its_share_until_the_settings_change() {
    let bed = bed(Settings { transfers_per_client: 2, ..Settings::default() }).await;
    let _held = (begin(&bed, "127.0.0.1").await, begin(&bed, "127.0.0.1").await);
    let mut third = Client::new(0).await;
    third.request(bed.address, "loader", "octet", &[("tsize", "0")]).await;
    bed.counted("tftp_transfers_total{kind=\"busy\"} 1").await;
    // Others are served.
    begin(&bed, "127.0.0.2").await;
    bed.settings.set(Settings { transfers_per_client: 3, ..Settings::default() });
    third.request(bed.address, "loader", "octet", &[("tsize", "0")]).await;
    assert_eq!(third.receive().await[..2], [0, 6]);
}

#[tokio::test]
async fn a_flood_of_forged_requests_shuts_no_machine_out() {
    for ports in [Ports::PerTransfer, Ports::Single] {
        let settings = Settings { ports, transfers: 8, transfers_per_client: 8, ..single() };
        let bed = bed(settings).await;
        let mut before = begin(&bed, "127.0.0.1").await;
        // Nobody answers at these.
        let mut forged = Vec::new();
        for n in 0..100 {
            let mut client = Client::at(&format!("127.0.1.{n}"), 0).await;
            client.request(bed.address, "loader", "octet", &[("windowsize", "32")]).await;
            client.receive().await;
            forged.push(client);
        }
        bed.counted("tftp_transfers_total{kind=\"evicted\"} 93").await;
        let mut during = Client::new(0).await;
        during.request(bed.address, "loader", "octet", &[("windowsize", "4")]).await;
        assert!(during.take(512, 4).await == content(60));
        before.ack(1).await;
        before.receive_block(2).await;
        // One packet each, also after the longest first wait.
        for client in &mut forged {
            assert_eq!(client.receive_within(Duration::from_millis(8)).await, None);
        }
    }
}

#[tokio::test]
async fn an_address_is_served_as_fast_as_it_may_be() {
    let rate = 60_000;
    let bed = bed(Settings { bytes_per_second_per_client: rate, ..Settings::default() }).await;
    let start = Instant::now();
    let take = async || {
        let mut client = Client::new(0).await;
        client.request(bed.address, "loader", "octet", &[("windowsize", "4")]).await;
        assert!(client.take(512, 4).await == content(60));
    };
    // All its transfers together.
    tokio::join!(take(), take());
    // 60 kB, of which the last window is not waited for.
    let took = start.elapsed();
    assert!(took > Duration::from_millis(900), "{took:?}");
}

/// Renders one file, and counts.
struct Menu {
    asked: AtomicU32,
    go: tokio::sync::Semaphore,
}

#[async_trait::async_trait]
impl VirtualFiles for Menu {
    fn has(&self, name: &str) -> bool {
        name == "/menu.lst.01"
    }

    async fn get(&self, peer: SocketAddr, name: &str) -> Option<Bytes> {
        assert_eq!(name, "/menu.lst.01");
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.go.acquire().await.ok()?.forget();
        Some(format!("for {peer}").into())
    }
}

#[tokio::test]
async fn a_rendered_file_is_made_once_for_who_asks_and_hides_one_on_disk() {
    let menu = Arc::new(Menu { asked: AtomicU32::new(0), go: tokio::sync::Semaphore::new(0) });
    let bed = bed_with(Settings::default(), Arc::clone(&menu) as Arc<dyn VirtualFiles>).await;
    let mut client = Client::new(0).await;
    // It is slow, and the client impatient.
    for _ in 0..5 {
        client.request(bed.address, "/menu.lst.01", "octet", &[]).await;
    }
    let mut other = Client::new(0).await;
    other.request(bed.address, "loader", "octet", &[]).await;
    assert!(other.take(512, 1).await == content(60));
    assert_eq!(menu.asked.load(Ordering::SeqCst), 1);
    menu.go.add_permits(1);
    let peer = client.socket.local_addr().unwrap();
    assert_eq!(client.take(512, 1).await, format!("for {peer}").into_bytes());
    assert_eq!(client.receive_within(Duration::from_millis(50)).await, None);
    // Without the slash it is another name, which is on disk.
    client.request(bed.address, "menu.lst.01", "octet", &[]).await;
    assert_eq!(client.take(512, 1).await, b"stale");
}

#[tokio::test]
async fn a_flood_of_requests_for_rendered_files_has_few_made_together_and_all_in_the_end() {
    let menu = Arc::new(Menu { asked: AtomicU32::new(0), go: tokio::sync::Semaphore::new(0) });
    let bed = bed_with(Settings::default(), Arc::clone(&menu) as Arc<dyn VirtualFiles>).await;
    let mut clients = Vec::new();
    for _ in 0..64 {
        let mut client = Client::new(0).await;
        client.request(bed.address, "/menu.lst.01", "octet", &[]).await;
        clients.push(client);
    }
    // All others are served meanwhile.
    let mut other = Client::new(0).await;
    other.request(bed.address, "loader", "octet", &[]).await;
    assert!(other.take(512, 1).await == content(60));
    bed.counted("tftp_active 64").await;
    assert!((1..=32).contains(&menu.asked.load(Ordering::SeqCst)));
    menu.go.add_permits(64);
    for client in &mut clients {
        let peer = client.socket.local_addr().unwrap();
        assert_eq!(client.take(512, 1).await, format!("for {peer}").into_bytes());
    }
}

#[tokio::test]
async fn the_observer_hears_how_transfers_end() {
    let bed = bed(Settings::default()).await;
    let mut client = Client::new(0).await;
    client.request(bed.address, "loader", "octet", &[]).await;
    client.take(512, 1).await;
    bed.counted("tftp_transfers_total{kind=\"complete\"} 1").await;
    client.request(bed.address, "none", "octet", &[]).await;
    client.receive().await;
    bed.counted("tftp_active 0").await;
    let ip = client.socket.local_addr().unwrap().ip();
    let complete = (ip, "loader".to_owned(), "complete", content(60).len() as u64);
    let refused = (ip, "none".to_owned(), "refused", 0);
    assert_eq!(*bed.ears.0.lock().unwrap(), [complete, refused]);
}

/// Needs curl, tftp-hpa and atftp.
#[tokio::test]
async fn e2e_other_peoples_clients_load_from_ports_of_both_kinds() {
    for settings in [Settings::default(), single()] {
        let bed = bed(settings.clone()).await;
        let port = bed.address.port().to_string();
        let url = format!("tftp://127.0.0.1:{port}/loader");
        let atftp = |options: &[&'static str]| {
            let mut all = vec!["-g", "-r", "loader", "-l", "got"];
            all.extend(options.iter().flat_map(|option| ["--option", option]));
            all.extend(["127.0.0.1", &port]);
            all.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let plain = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let runs: [(&str, Vec<String>); 5] = [
            ("curl", plain(&["-sf", "-o", "got", &url])),
            ("curl", plain(&["-sf", "--tftp-blksize", "1428", "-o", "got", &url])),
            ("tftp", plain(&["-m", "binary", "127.0.0.1", &port, "-c", "get", "loader", "got"])),
            ("atftp", atftp(&["blksize 1428", "timeout 2"])),
            ("atftp", atftp(&["blksize 1428", "windowsize 8"])),
        ];
        for (number, (program, words)) in runs.into_iter().enumerate() {
            let mut command = tokio::process::Command::new(program);
            command.args(&words).current_dir(bed.dir.path()).kill_on_drop(true);
            let run = tokio::time::timeout(LIMIT, command.output()).await;
            let run = run.unwrap_or_else(|_| panic!("{program} {words:?} does not end")).unwrap();
            let got = std::fs::read(bed.dir.path().join("got")).unwrap_or_default();
            assert!(got == content(60), "{program} {words:?}, {settings:?}: {run:?}");
            std::fs::remove_file(bed.dir.path().join("got")).unwrap();
            bed.counted(&format!("tftp_transfers_total{{kind=\"complete\"}} {}", number + 1)).await;
        }
    }
}
