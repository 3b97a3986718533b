//! One simulated machine.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use headnode_model::net::MacAddr;
use hyper::body::Bytes;
use hyper::{Method, Uri};
use uuid::Uuid;

use crate::dhcp::{Given, Hub, Who};
use crate::http::{Ask, Client};
use crate::storm::Plan;
use crate::{Error, script, tftp};

/// Port of TFTP (RFC 1350).
const TFTP: u16 = 69;

/// How far a machine comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The firmware's address.
    Address,
    /// The loader by TFTP.
    Loader,
    /// iPXE's address.
    Ipxe,
    /// iPXE's script by HTTP.
    Script,
    /// The kernel by HTTP.
    Kernel,
    /// The beginning of the archive by HTTP.
    Archive,
    /// Registration with CNAPI.
    Register,
}

impl Stage {
    /// All of them, in their order.
    pub const ALL: [Self; 7] = [
        Self::Address,
        Self::Loader,
        Self::Ipxe,
        Self::Script,
        Self::Kernel,
        Self::Archive,
        Self::Register,
    ];

    /// One or two words for tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Address => "DHCP, firmware",
            Self::Loader => "TFTP, loader",
            Self::Ipxe => "DHCP, iPXE",
            Self::Script => "HTTP, script",
            Self::Kernel => "HTTP, kernel",
            Self::Archive => "HTTP, archive",
            Self::Register => "registration",
        }
    }
}

/// What became of a machine.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Seconds and retries of each stage that was passed.
    pub passed: Vec<(Stage, f64, u32)>,
    /// Where and why it ended early.
    pub failure: Option<(Stage, Error)>,
    /// Its address.
    pub ip: Option<Ipv4Addr>,
    /// Bytes that came by TFTP and HTTP.
    pub bytes: u64,
}

/// The MAC of the machine with a number.
pub(crate) fn mac(plan: &Plan, number: u32) -> MacAddr {
    let [a, b] = plan.mac_prefix;
    let [c, d, e, f] = number.to_be_bytes();
    MacAddr([a, b, c, d, e, f])
}

/// Boots the machine with a number.
pub(crate) async fn boot(plan: &Plan, hub: &Hub, number: u32) -> Outcome {
    let mac = mac(plan, number);
    let uuid = Uuid::new_v5(&Uuid::NAMESPACE_OID, &mac.0);
    let who = Who { mac, uuid, arch: plan.arch, ipxe: false };
    let mut outcome = Outcome::default();
    let mut node = Node { plan, hub, who, outcome: &mut outcome, begun: Instant::now() };
    if let Err(failure) = node.run().await {
        outcome.failure = Some(failure);
    }
    outcome
}

struct Node<'a> {
    plan: &'a Plan,
    hub: &'a Hub,
    who: Who,
    outcome: &'a mut Outcome,
    begun: Instant,
}

type Failure = (Stage, Error);

impl Node<'_> {
    fn passed(&mut self, stage: Stage, retries: u32) {
        let seconds = self.begun.elapsed().as_secs_f64();
        self.outcome.passed.push((stage, seconds, retries));
        self.begun = Instant::now();
    }

    async fn run(&mut self) -> Result<(), Failure> {
        let given = self.address(Stage::Address).await?;
        let server = SocketAddrV4::new(given.next_server, TFTP);
        let got = tftp::get(given.ip, server, &given.file, &self.plan.tftp).await;
        let got = got.map_err(|error| (Stage::Loader, error))?;
        self.outcome.bytes += got.bytes;
        self.passed(Stage::Loader, got.resent);
        self.who.ipxe = true;
        let given = self.address(Stage::Ipxe).await?;
        let mut client = Client::new(given.ip);
        let uri = uri(&given.file, None).map_err(|error| (Stage::Script, error))?;
        let text = self.fetch(&mut client, Stage::Script, Ask::get(uri.clone())).await?;
        let text = String::from_utf8_lossy(&text);
        let loads = script::read(&text, &self.variables(&given));
        let loads = loads.map_err(|said| (Stage::Script, Error::Refused(said)))?;
        for (stage, url) in [(Stage::Kernel, Some(loads.kernel)), (Stage::Archive, loads.archive)] {
            let Some(url) = url else { continue };
            let uri = crate::node::uri(&url, Some(&uri)).map_err(|error| (stage, error))?;
            let first = Some(self.plan.first_bytes);
            self.fetch(&mut client, stage, Ask { first, ..Ask::get(uri) }).await?;
        }
        if let Some(base) = &self.plan.register {
            let stage = Stage::Register;
            let url = format!("{}/servers/{}/sysinfo", base.trim_end_matches('/'), self.who.uuid);
            let uri = crate::node::uri(&url, None).map_err(|error| (stage, error))?;
            let body = self.sysinfo(given.ip);
            let ask = Ask { method: Method::POST, body, ..Ask::get(uri) };
            self.fetch(&mut client, stage, ask).await?;
        }
        Ok(())
    }

    async fn address(&mut self, stage: Stage) -> Result<Given, Failure> {
        let given = self.hub.lease(self.who).await.map_err(|error| (stage, error))?;
        if let Some(before) = self.outcome.ip.replace(given.ip)
            && before != given.ip
        {
            return Err((stage, Error::Wrong(format!("{} after {before}", given.ip))));
        }
        self.passed(stage, given.retries);
        Ok(given)
    }

    async fn fetch(
        &mut self,
        client: &mut Client,
        stage: Stage,
        ask: Ask,
    ) -> Result<Vec<u8>, Failure> {
        let before = client.retries;
        let answer = client.ask(&ask).await.map_err(|error| (stage, error))?;
        self.outcome.bytes += answer.bytes;
        self.passed(stage, client.retries - before);
        Ok(answer.text)
    }

    fn variables(&self, given: &Given) -> [(&'static str, String); 5] {
        let mac = self.who.mac;
        [
            ("next-server", given.next_server.to_string()),
            ("mac", mac.to_string()),
            ("net0/mac", mac.to_string()),
            ("netX/mac", mac.to_string()),
            ("uuid", self.who.uuid.to_string()),
        ]
    }

    /// What a node says of itself, in the keys that CNAPI needs (C§5.5).
    fn sysinfo(&self, ip: Ipv4Addr) -> Bytes {
        let mac = self.who.mac.to_string();
        let sysinfo = serde_json::json!({
            "sysinfo": {
                "UUID": self.who.uuid,
                "Hostname": mac.replace(':', "-"),
                "System Type": "Linux",
                "Network Interfaces": {
                    "net0": { "MAC Address": mac, "ip4addr": ip, "NIC Names": ["admin"] },
                },
            },
        });
        Bytes::from(sysinfo.to_string())
    }
}

/// A URL, which may be relative to that of the script.
fn uri(text: &str, base: Option<&Uri>) -> Result<Uri, Error> {
    let wrong = || Error::Wrong(format!("{text:?} is no HTTP URL"));
    let whole = match (text.split_once("://"), base) {
        (Some(_), _) | (None, None) => text.to_owned(),
        (None, Some(base)) => {
            let host = base.authority().ok_or_else(wrong)?;
            match text.strip_prefix('/') {
                Some(path) => format!("http://{host}/{path}"),
                None => {
                    let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
                    format!("http://{host}{folder}/{text}")
                }
            }
        }
    };
    let uri: Uri = whole.parse().map_err(|_| wrong())?;
    if uri.scheme_str() == Some("http") { Ok(uri) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_relative_to_the_script() {
        let base: Uri = "http://10.0.0.1:8080/a/boot.ipxe".parse().unwrap();
        let of = |text| uri(text, Some(&base)).unwrap().to_string();
        assert_eq!(of("/os/x"), "http://10.0.0.1:8080/os/x");
        assert_eq!(of("x"), "http://10.0.0.1:8080/a/x");
        assert_eq!(of("http://10.0.0.2/x"), "http://10.0.0.2/x");
        assert!(uri("tftp://10.0.0.1/x", None).is_err());
        assert!(uri("undionly.kpxe", None).is_err());
    }
}
