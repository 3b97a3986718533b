//! Which boot program or script a machine is sent to, and the answer that holds nothing else.

use dhcproto::v4::MessageType;

use super::{Asked, Engine, Outcome};
use crate::dhcp::arch::{self, Program};
use crate::dhcp::packet::Client;
use crate::dhcp::reply;

impl Engine {
    /// The PXE specification's answer beside another server: DISCOVER on the DHCP port gets an
    /// OFFER without an address, whatever comes to the proxy port an ACK.
    pub(super) fn proxy(&mut self, asked: &Asked<'_>, file: Option<String>) -> Outcome {
        let Asked { request, from, .. } = *asked;
        let Some(file) = file else {
            return Outcome::silent("it does not boot by network");
        };
        let kind = match (from.proxy, request.kind) {
            (true, _) => MessageType::Ack,
            (false, MessageType::Discover) => MessageType::Offer,
            _ => return Outcome::silent("the other server answers this"),
        };
        let bytes = reply::proxy(self.context.booter.admin_ip, request, kind, &file);
        let mut send = self.send(asked, kind, bytes);
        if let Some(send) = &mut send {
            send.promise = false;
            if from.proxy {
                send.to = from.peer;
            }
        }
        Outcome { send, answer: Some("proxy"), file: Some(file), ..Outcome::default() }
    }

    /// The boot file's name or URL; none for a machine that does not boot by network.
    pub(super) fn boot_file(&mut self, asked: &Asked<'_>) -> Result<Option<String>, String> {
        let Asked { request, client, settings, now, .. } = *asked;
        let booter = &self.context.booter;
        let http = client == Client::Http;
        let boots = match client {
            Client::Other => false,
            Client::Nameless => settings.allow_missing_class_id,
            _ => true,
        };
        // Whatever it runs: the operator wants this program and no iPXE.
        if boots
            && let Some(own) = booter.own_boot_file((request.mac, request.uuid()), &request.archs)
        {
            let below = http.then(|| booter.base(settings.http_scheme));
            return own.map(|name| {
                Some(match below {
                    Some(base) => format!("{base}/firmware/{name}"),
                    None => name,
                })
            });
        }
        match client {
            Client::Ipxe => {
                let base = booter.script_base();
                return Ok(Some(format!("{base}/boot.ipxe.01{}", request.mac.bare())));
            }
            Client::Other => return Ok(None),
            Client::Nameless if !settings.allow_missing_class_id => return Ok(None),
            _ => {}
        }
        match arch::program(&request.archs, http, &settings.programs) {
            (_, Program::File(name)) if http => {
                let base = booter.base(settings.http_scheme);
                Ok(Some(format!("{base}/firmware/{name}")))
            }
            (_, Program::File(name)) => Ok(Some(name.to_owned())),
            (arch, Program::Nothing(why)) => {
                if self.troubles.pass((request.mac, "arch"), now) {
                    tracing::warn!(
                        mac = %request.mac, archs = ?request.archs,
                        "a machine of architecture {arch} cannot be booted: {why}; put a program \
                         into the settings' [dhcp.programs]"
                    );
                }
                Err(format!("{arch}: {why}"))
            }
        }
    }
}
