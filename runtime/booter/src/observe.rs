//! What the servers tell about a machine on its way from DHCP to a running system.
//!
//! The servers know nothing of each other: each tells an [`Observer`] what it has done, and the
//! operator's view of a boot ("has its script, never asked for the kernel") is made from that.

use std::net::IpAddr;
use std::time::Duration;

use headnode_model::net::MacAddr;
use uuid::Uuid;

/// Hears what the servers do. Called on the servers' own threads: it must not block.
pub trait Observer: Send + Sync + 'static {
    /// Something was done for a machine.
    fn event(&self, event: &Event<'_>);
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nobody;

impl Observer for Nobody {
    fn event(&self, _: &Event<'_>) {}
}

/// What a server has done for a machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// A DHCP message of the machine was answered, or not.
    Dhcp {
        /// The machine's NIC.
        mac: MacAddr,
        /// The machine's UUID, when it has told one (option 97).
        uuid: Option<Uuid>,
        /// What it asked: `discover`, `request`, `inform`, `decline`, `release`.
        asked: &'static str,
        /// What it got: `offer`, `ack`, `nak`, `proxy`, or nothing.
        answer: Option<&'static str>,
        /// The address given or confirmed.
        ip: Option<IpAddr>,
        /// Who asks: `pxe`, `ipxe`, `http`, `sunw`, `other`.
        client: &'static str,
        /// Name of its architecture, as "x86-64 UEFI".
        arch: &'static str,
        /// The boot file or URL in the answer.
        file: Option<&'a str>,
        /// Where it is: the relay's NIC tag, when it came through a relay.
        rack: Option<&'a str>,
        /// Why it got no answer, or a refusal.
        problem: Option<&'a str>,
    },
    /// A TFTP transfer has ended.
    Tftp {
        /// Who asked.
        client: IpAddr,
        /// The file's name as asked for.
        file: &'a str,
        /// `complete`, `probe`, `aborted`, `silent`, `gone`, `changed` or `unreadable` (the file,
        /// while it was sent), `refused`.
        outcome: &'static str,
        /// Bytes of the file that the client has acknowledged.
        bytes: u64,
        /// From the request to the end.
        took: Duration,
    },
    /// An HTTP request was answered, or its answer was broken off.
    Http {
        /// Who asked.
        client: IpAddr,
        /// The path asked for.
        path: &'a str,
        /// Status code.
        status: u16,
        /// Bytes of the body that were sent.
        bytes: u64,
        /// Whether all of the answer was sent.
        complete: bool,
        /// From the request to the end.
        took: Duration,
    },
    /// A boot script was rendered for the machine.
    Script {
        /// The machine's NIC.
        mac: MacAddr,
        /// The machine's UUID, when known.
        uuid: Option<Uuid>,
        /// What the script does: `boot` (a kernel and its archives), `kernel` (one without), `other`
        /// (a disk, an operator's script), `hold`, `menu`, `message`.
        kind: &'static str,
        /// Where its parameters came from: `server`, `default`, `cache`, `builtin`, `host`.
        origin: &'static str,
        /// The platform it boots.
        platform: &'a str,
        /// Why it does not boot.
        problem: Option<&'a str>,
    },
}
