//! CNAPI and NAPI together (C§4.2).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use headnode_client::{Cnapi, Error, Napi, NicAddress, ServerQuery};
use headnode_model::boot::BootParams;
use headnode_model::net::MacAddr;
use serde_json::Value;
use uuid::Uuid;

use super::{Answer, Nics, ParamSource, SourceError, of_server};
use crate::admission::Known;

/// How long NAPI may take for one machine; a part of the 28 s that all may take (C§4.1).
const NAPI_BUDGET: Duration = Duration::from_secs(8);

/// What a datacenter knows of its machines: CNAPI, and NAPI where there is one.
#[derive(Debug, Clone)]
pub struct Directory {
    cnapi: Cnapi,
    napi: Option<Napi>,
}

impl Directory {
    /// Asks these two.
    pub fn new(cnapi: Cnapi, napi: Option<Napi>) -> Self {
        Self { cnapi, napi }
    }

    /// A server that has not told its UUID, by the host name that its MAC gave it (C§4.2 step 2).
    async fn by_name(&self, mac: MacAddr) -> Result<Option<Uuid>, Error> {
        let query =
            ServerQuery { hostname: Some(mac.dashed()), limit: Some(1), ..ServerQuery::default() };
        let servers = self.cnapi.list_servers_json(&query).await?;
        // A CNAPI that does not know the filter answers with any server.
        let name = mac.dashed();
        let named = |server: &&Value| server.get("hostname").and_then(Value::as_str) == Some(&name);
        let uuid = servers.iter().find(named).and_then(|server| server.get("uuid")?.as_str());
        Ok(uuid.and_then(|uuid| uuid.parse().ok()))
    }

    /// The server that a NIC belongs to, as NAPI has it.
    async fn owner(&self, mac: MacAddr) -> Result<Option<Uuid>, Error> {
        let Some(napi) = &self.napi else { return Ok(None) };
        let nic = napi.get_nic(mac).await?;
        let server = nic.filter(|nic| nic.belongs_to_type.as_deref() == Some("server"));
        Ok(server.and_then(|nic| nic.belongs_to_uuid))
    }

    async fn nics(&self, server: Uuid) -> Result<Option<Nics>, Error> {
        let Some(napi) = &self.napi else { return Ok(None) };
        let (nics, aggregations, nic_tags) = tokio::try_join!(
            napi.list_nics(server),
            napi.list_aggregations(server),
            napi.list_nic_tags()
        )?;
        // A NAPI that does not know the filter answers with everybody's.
        let nics: Vec<_> =
            nics.into_iter().filter(|nic| nic.belongs_to_uuid == Some(server)).collect();
        let own = |mac: &MacAddr| nics.iter().any(|nic| nic.mac == *mac);
        let aggregations =
            aggregations.into_iter().filter(|all| all.macs.iter().all(own)).collect();
        Ok(Some(Nics { nics, aggregations, nic_tags }))
    }

    async fn nics_in_time(&self, mac: MacAddr, server: Uuid) -> Result<Option<Nics>, ()> {
        let problem = match tokio::time::timeout(NAPI_BUDGET, self.nics(server)).await {
            Ok(Ok(nics)) => return Ok(nics),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", NAPI_BUDGET.as_secs()),
        };
        tracing::warn!(%mac, %server, "NAPI tells no NICs of the server: {problem}");
        Err(())
    }
}

#[async_trait]
impl ParamSource for Directory {
    async fn boot_params(&self, server: Uuid) -> Result<Option<BootParams>, SourceError> {
        Ok(self.cnapi.boot_params(server).await?)
    }

    async fn default_boot_params(&self) -> Result<BootParams, SourceError> {
        Ok(self.cnapi.default_boot_params().await?)
    }

    async fn servers(&self) -> Result<Known, SourceError> {
        ParamSource::servers(&self.cnapi).await
    }

    async fn addresses(
        &self,
        nic_tags: &[Arc<str>],
    ) -> Result<Option<BTreeMap<MacAddr, Ipv4Addr>>, SourceError> {
        let Some(napi) = &self.napi else { return Ok(None) };
        let mut all = BTreeMap::new();
        for tag in nic_tags {
            let nics = napi.list_addresses_on(tag).await?;
            // A NAPI that does not know the filter answers with everybody's.
            let on = |nic: &NicAddress| nic.nic_tag.as_deref() == Some(tag);
            all.extend(nics.iter().filter(|nic| on(nic)).filter_map(|nic| match nic.ip? {
                IpAddr::V4(ip) => Some((nic.mac, ip)),
                IpAddr::V6(_) => None,
            }));
        }
        Ok(Some(all))
    }

    async fn machine(&self, mac: MacAddr, uuid: Option<Uuid>) -> Result<Answer, SourceError> {
        let mut server = uuid;
        if server.is_none() {
            // NAPI may be down: then CNAPI may know it by its name.
            let owner = tokio::time::timeout(NAPI_BUDGET, self.owner(mac)).await;
            server = owner.ok().and_then(Result::ok).flatten();
        }
        if server.is_none() {
            server = self.by_name(mac).await?;
        }
        let Some(server) = server else { return of_server(self, None).await };
        let (answer, nics) =
            tokio::join!(of_server(self, Some(server)), self.nics_in_time(mac, server));
        let answer = answer?;
        Ok(match nics {
            Ok(nics) => Answer { nics: nics.filter(|_| answer.server.is_some()), ..answer },
            Err(()) => Answer { nics_unknown: true, ..answer },
        })
    }
}
