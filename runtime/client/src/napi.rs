//! NAPI's API (C§6.3), as far as machines need it to boot: their NICs, aggregations, and NIC tags.

use std::net::IpAddr;

use headnode_model::net::MacAddr;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::cnapi::found;
use crate::http::{Call, Service};
use crate::{Error, Timeouts};

/// Longest answer in bytes: a machine has some dozens of NICs of about 1 KiB each. Many are asked for
/// at the same time, so a broken service must not be able to fill the memory.
const LIMIT: usize = 1 << 20;
/// NICs that are asked for at once, the most that NAPI gives (C§6.3).
const PAGE: usize = 1000;
/// Longest answer of so many in bytes.
const PAGE_LIMIT: usize = 8 << 20;
/// Most of them in all.
const MOST_NICS: usize = 100_000;

/// A NIC as NAPI keeps it; what is not named here is kept too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Its address.
    pub mac: MacAddr,
    /// Whose it is: a machine's, an instance's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub belongs_to_uuid: Option<Uuid>,
    /// `server`, `zone` or `other`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub belongs_to_type: Option<String>,
    /// Its address, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// The tag of the network that it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nic_tag: Option<String>,
    /// The tags that it provides to others: then it is a physical one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nic_tags_provided: Vec<String>,
    /// Whatever else NAPI tells.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The address that a NIC has been given.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NicAddress {
    /// The NIC.
    pub mac: MacAddr,
    /// Its address, when it has one.
    #[serde(default)]
    pub ip: Option<IpAddr>,
    /// The tag of the network that it is on.
    #[serde(default)]
    pub nic_tag: Option<String>,
}

/// NICs that work as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aggregation {
    /// Its name, as `aggr0`.
    pub name: String,
    /// The NICs.
    #[serde(default)]
    pub macs: Vec<MacAddr>,
    /// `off`, `active` or `passive`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacp_mode: Option<String>,
    /// The tags that it provides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nic_tags_provided: Vec<String>,
    /// Whatever else NAPI tells.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A NIC tag: the name of what a cable leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicTag {
    /// Its name, as `admin`.
    pub name: String,
    /// Its UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// The largest packet in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// A datacenter's NAPI. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct Napi {
    service: Service,
}

impl Napi {
    /// NAPI by its base URL, as `http://10.99.99.7:8011`.
    ///
    /// # Errors
    /// [`Error::BaseUrl`].
    pub fn new(base_url: &str) -> Result<Self, Error> {
        Self::with_timeouts(base_url, Timeouts::default())
    }

    /// As [`Napi::new`], with other time-outs.
    ///
    /// # Errors
    /// [`Error::BaseUrl`].
    pub fn with_timeouts(base_url: &str, timeouts: Timeouts) -> Result<Self, Error> {
        Ok(Self { service: Service::new(base_url, "NAPI", timeouts)? })
    }

    /// Where NAPI is, without a slash at the end.
    pub fn base_url(&self) -> &str {
        self.service.base()
    }

    /// A NIC; `None` when NAPI does not know it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_nic(&self, mac: MacAddr) -> Result<Option<Nic>, Error> {
        let path = format!("/nics/{}", mac.bare().to_ascii_lowercase());
        found(self.service.call(Call { limit: LIMIT, ..Call::get(path) }).await)
    }

    /// The NICs of a machine or an instance.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_nics(&self, belongs_to: Uuid) -> Result<Vec<Nic>, Error> {
        self.list("/nics", Some(belongs_to)).await
    }

    /// The addresses of the NICs on the networks with a tag, of 100,000 NICs at most.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_addresses_on(&self, nic_tag: &str) -> Result<Vec<NicAddress>, Error> {
        let mut all: Vec<NicAddress> = Vec::new();
        while all.len() < MOST_NICS {
            let query = vec![
                ("nic_tag", nic_tag.to_owned()),
                ("limit", PAGE.to_string()),
                ("offset", all.len().to_string()),
            ];
            let call = Call { query, limit: PAGE_LIMIT, ..Call::get("/nics") };
            let page: Vec<NicAddress> = self.service.call(call).await?.json()?;
            let last = page.len() < PAGE;
            all.extend(page);
            if last {
                break;
            }
        }
        Ok(all)
    }

    /// The aggregations of a machine.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_aggregations(&self, belongs_to: Uuid) -> Result<Vec<Aggregation>, Error> {
        self.list("/aggregations", Some(belongs_to)).await
    }

    /// All NIC tags.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_nic_tags(&self) -> Result<Vec<NicTag>, Error> {
        self.list("/nic_tags", None).await
    }

    async fn list<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        belongs_to: Option<Uuid>,
    ) -> Result<Vec<T>, Error> {
        let query = belongs_to.map(|uuid| ("belongs_to_uuid", uuid.to_string()));
        let call = Call { query: query.into_iter().collect(), limit: LIMIT, ..Call::get(path) };
        self.service.call(call).await?.json()
    }
}
