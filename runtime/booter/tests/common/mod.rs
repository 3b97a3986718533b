//! A booter on loopback with unprivileged ports, and clients for it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dhcproto::v4::{Architecture, DhcpOption, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};
use headnode_model::boot::BootParams;
use headnode_model::net::MacAddr;
use sdc_booter::admission::Known;
use sdc_booter::params::{ParamSource, SourceError};
use sdc_booter::settings::{File, Ports, Settings};
use sdc_booter::{Booter, Sockets};
use tempfile::TempDir;
use tokio::net::UdpSocket;
use uuid::Uuid;

pub const STAMP: &str = "20260101T000000Z";
pub const OTHER_STAMP: &str = "20250101T000000Z";
pub const LIMIT: Duration = Duration::from_secs(10);

/// Stands in for CNAPI: answers, refuses or hangs.
#[derive(Default)]
pub struct Source {
    pub down: AtomicBool,
    pub hangs: AtomicBool,
    pub known: Option<(Uuid, BootParams)>,
    /// Addresses that NAPI has given, when there is one.
    pub addresses: Option<BTreeMap<MacAddr, Ipv4Addr>>,
}

#[async_trait::async_trait]
impl ParamSource for Source {
    async fn boot_params(&self, server: Uuid) -> Result<Option<BootParams>, SourceError> {
        self.state().await?;
        Ok(self.known.as_ref().filter(|(uuid, _)| *uuid == server).map(|(_, p)| p.clone()))
    }

    async fn default_boot_params(&self) -> Result<BootParams, SourceError> {
        self.state().await?;
        Ok(BootParams { platform: STAMP.to_owned(), ..BootParams::default() })
    }

    async fn servers(&self) -> Result<Known, SourceError> {
        self.state().await?;
        let uuids = self.known.iter().map(|(uuid, _)| *uuid).collect();
        Ok(Known { uuids, ..Known::default() })
    }

    async fn addresses(
        &self,
        _: &[Arc<str>],
    ) -> Result<Option<BTreeMap<MacAddr, Ipv4Addr>>, SourceError> {
        self.state().await?;
        Ok(self.addresses.clone())
    }
}

impl Source {
    async fn state(&self) -> Result<(), SourceError> {
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.down.load(Ordering::SeqCst) { Err("it is down".into()) } else { Ok(()) }
    }
}

pub struct World {
    pub dir: TempDir,
    pub booter: Booter,
    /// Where replies to clients arrive.
    pub client: UdpSocket,
}

pub fn kpxe() -> Vec<u8> {
    (0..84_321u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// A folder as `/usbkey` with two platforms, a bundle and firmware.
pub fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for stamp in [STAMP, OTHER_STAMP] {
        let platform = dir.path().join("os").join(stamp).join("platform/x86_64");
        fs::create_dir_all(&platform).unwrap();
        fs::write(platform.join("vmlinuz"), "kernel").unwrap();
        fs::write(platform.join("initrd"), vec![7; 3_000_000]).unwrap();
    }
    fs::create_dir_all(dir.path().join("extra/agents")).unwrap();
    fs::write(dir.path().join("extra/agents/node.cpio.zst"), "bundle").unwrap();
    fs::create_dir_all(dir.path().join("firmware/ipxe")).unwrap();
    fs::write(dir.path().join("firmware/ipxe/undionly.kpxe"), kpxe()).unwrap();
    fs::write(dir.path().join("firmware/ipxe/snponly.efi"), vec![1; 512 * 4]).unwrap();
    fs::create_dir_all(dir.path().join("private")).unwrap();
    fs::write(dir.path().join("private/answers.json"), "secret").unwrap();
    dir
}

pub async fn world(source: Arc<Source>) -> World {
    start(folder(), source).await
}

pub async fn start(dir: TempDir, source: Arc<Source>) -> World {
    start_with(dir, source, File::default()).await
}

pub async fn start_with(dir: TempDir, source: Arc<Source>, more: File) -> World {
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let text = "datacenter_name=t\ndns_domain=t\nadmin_nic=02:00:00:00:00:07\nadmin_ip=127.0.0.1\n\
        admin_netmask=255.0.0.0\ndhcp_range_start=127.9.0.10\ndhcp_range_end=127.9.0.200\n";
    let state = dir.path().join("state");
    let (mut settings, _) = Settings::from_config(text, dir.path(), &state).unwrap();
    settings.dhcp_listen = Ipv4Addr::LOCALHOST;
    settings.broadcast = Ipv4Addr::LOCALHOST;
    settings.budget = Duration::from_millis(400);
    settings.cached_budget = Duration::from_millis(200);
    settings.more = more;
    settings.socket = Some(dir.path().join("operator.sock"));
    settings.ports = Ports {
        dhcp_server: 0,
        dhcp_client: client.local_addr().unwrap().port(),
        tftp: 0,
        http: 0,
    };
    // The test itself holds the client port: replies to it must not reach the booter.
    let sockets = Sockets::open(&settings).unwrap();
    assert!(sockets.dhcp.ears.is_none());
    let booter = Booter::start(settings, sockets, source).unwrap();
    World { dir, booter, client }
}

impl World {
    pub fn dhcp(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.booter.settings().ports.dhcp_server).into()
    }

    pub fn tftp(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.booter.settings().ports.tftp).into()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.booter.http_address())
    }

    pub async fn send(&self, message: &Message) {
        self.client.send_to(&encode(message), self.dhcp()).await.unwrap();
    }

    pub async fn reply(&self) -> Message {
        let mut buffer = [0; 1500];
        let got = tokio::time::timeout(LIMIT, self.client.recv_from(&mut buffer)).await;
        let (length, from) = got.expect("no DHCP reply").unwrap();
        assert_eq!(from, self.dhcp());
        assert!(length >= 300);
        Message::decode(&mut Decoder::new(&buffer[..length])).unwrap()
    }

    pub async fn ask(&self, message: &Message) -> Message {
        self.send(message).await;
        self.reply().await
    }

    /// The whole DHCP exchange; the address.
    pub async fn lease(&self, mac: [u8; 6], uuid: Option<Uuid>) -> Ipv4Addr {
        let offer = self.ask(&pxe(MessageType::Discover, mac, uuid)).await;
        assert_eq!(offer.opts().msg_type(), Some(MessageType::Offer));
        let mut request = pxe(MessageType::Request, mac, uuid);
        request.opts_mut().insert(DhcpOption::RequestedIpAddress(offer.yiaddr()));
        let server = offer.opts().get(OptionCode::ServerIdentifier).unwrap().clone();
        request.opts_mut().insert(server);
        let ack = self.ask(&request).await;
        assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
        assert_eq!(ack.yiaddr(), offer.yiaddr());
        ack.yiaddr()
    }

    /// Waits until a line is in the metrics.
    pub async fn counted(&self, line: &str) {
        let until = std::time::Instant::now() + LIMIT;
        while !self.booter.metrics().text().contains(line) {
            assert!(std::time::Instant::now() < until, "{}", self.booter.metrics().text());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        self.get_from(Ipv4Addr::LOCALHOST, path).await
    }

    /// As a machine with this address.
    pub async fn get_from(&self, ip: Ipv4Addr, path: &str) -> (u16, String) {
        let client = reqwest::Client::builder().local_address(IpAddr::V4(ip)).build().unwrap();
        let response = client.get(self.url(path)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }
}

pub fn pxe(kind: MessageType, mac: [u8; 6], uuid: Option<Uuid>) -> Message {
    let zero = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(0x1234_5678, zero, zero, zero, zero, &mac);
    message.set_opcode(Opcode::BootRequest);
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ClassIdentifier(b"PXEClient:Arch:00000:UNDI:002001".to_vec()));
    options.insert(DhcpOption::ClientSystemArchitecture(Architecture::from(0)));
    if let Some(uuid) = uuid {
        let mut id = vec![0];
        id.extend(uuid.to_bytes_le());
        options.insert(DhcpOption::ClientMachineIdentifier(id));
    }
    message
}

pub fn encode(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut Encoder::new(&mut bytes)).unwrap();
    bytes
}
