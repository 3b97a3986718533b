//! What the booter counts, in Prometheus' text form.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The kind of a DHCP message or the outcome of something; always one of our own fixed words, so
/// that no client can make the number of series grow.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Kind {
    /// The word.
    pub kind: &'static str,
}

/// A network's name from the configuration; as many as there are networks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Net {
    /// The network's name.
    pub network: String,
}

/// Brings gauges up to date before they are read.
type Hook = Box<dyn Fn(&Metrics) + Send + Sync>;

/// All counters of the booter. Cloning shares them.
#[derive(Clone)]
pub struct Metrics {
    /// DHCP messages heard, by type; `malformed` and `ignored` too.
    pub dhcp_requests: Family<Kind, Counter>,
    /// DHCP messages sent, by type.
    pub dhcp_replies: Family<Kind, Counter>,
    /// Leases in the table.
    pub leases: Gauge,
    /// Requests that got no address because the range is used up.
    pub range_exhausted: Counter,
    /// Messages of DHCP servers other than this one.
    pub foreign_servers: Counter,
    /// Addresses that the network was asked about before they were offered: `sent`; `conflict`, in
    /// use by somebody; `skipped`, offered unasked because too many machines
    /// waited; `failed`, not sent because the NIC was down.
    pub address_probes: Family<Kind, Counter>,
    /// Machines seen with the UUID of another machine.
    pub duplicate_uuids: Counter,
    /// TFTP transfers ended, by outcome.
    pub tftp_transfers: Family<Kind, Counter>,
    /// Bytes of files sent by TFTP.
    pub tftp_bytes: Counter,
    /// HTTP requests answered, by class of status (`2xx`, …).
    pub http_requests: Family<Kind, Counter>,
    /// Bytes sent by HTTP, headers too.
    pub http_bytes: Counter,
    /// Boot scripts rendered, by where their parameters came from.
    pub scripts: Family<Kind, Counter>,
    /// Answers of the gate, by verdict.
    pub admission_verdicts: Family<Kind, Counter>,
    /// Machines by the furthest stage of their latest boot.
    pub boots: Family<Kind, Gauge>,
    /// Machines that do not go on with their boot.
    pub boots_stuck: Gauge,
    /// Machines that wait for an operator's decision.
    pub boots_held: Gauge,
    /// Seconds from a machine's offer to the end of its archive.
    pub boot_seconds: Histogram,
    /// Addresses of each network's ranges that are free.
    pub addresses_free: Family<Net, Gauge>,
    /// Addresses of each network's ranges that are given out or reserved.
    pub addresses_used: Family<Net, Gauge>,
    /// TFTP transfers that are running.
    pub tftp_active: Gauge,
    /// HTTP connections that are open.
    pub http_active: Gauge,
    /// Seconds for rendering a boot script.
    pub script_seconds: Histogram,
    /// Seconds for finding boot parameters, CNAPI's answer included.
    pub lookup_seconds: Histogram,
    registry: Arc<Registry>,
    hooks: Arc<RwLock<Vec<Hook>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Fresh counters, all zero.
    pub fn new() -> Self {
        // From 1 ms, doubling: to 16 s, and to 65 s, as CNAPI may take 28 s (C§4.2).
        let (short, long) =
            (exponential_buckets(0.001, 2.0, 15), exponential_buckets(0.001, 2.0, 17));
        let mut metrics = Self {
            dhcp_requests: Family::default(),
            dhcp_replies: Family::default(),
            leases: Gauge::default(),
            range_exhausted: Counter::default(),
            foreign_servers: Counter::default(),
            address_probes: Family::default(),
            duplicate_uuids: Counter::default(),
            tftp_transfers: Family::default(),
            tftp_bytes: Counter::default(),
            http_requests: Family::default(),
            http_bytes: Counter::default(),
            scripts: Family::default(),
            admission_verdicts: Family::default(),
            boots: Family::default(),
            boots_stuck: Gauge::default(),
            boots_held: Gauge::default(),
            // From 1 s to 34 minutes.
            boot_seconds: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            addresses_free: Family::default(),
            addresses_used: Family::default(),
            tftp_active: Gauge::default(),
            http_active: Gauge::default(),
            script_seconds: Histogram::new(short),
            lookup_seconds: Histogram::new(long),
            registry: Arc::default(),
            hooks: Arc::default(),
        };
        let mut all = Registry::with_prefix("sdc_booter");
        let m = &metrics;
        all.register("dhcp_requests", "DHCP messages heard", m.dhcp_requests.clone());
        all.register("dhcp_replies", "DHCP messages sent", m.dhcp_replies.clone());
        all.register("leases", "leases in the table", m.leases.clone());
        all.register(
            "range_exhausted",
            "requests without a free address",
            m.range_exhausted.clone(),
        );
        all.register(
            "foreign_dhcp_servers",
            "messages of other DHCP servers",
            m.foreign_servers.clone(),
        );
        let help = "questions whether an address is in use";
        all.register("address_probes", help, m.address_probes.clone());
        all.register(
            "duplicate_uuids",
            "machines with another machine's UUID",
            m.duplicate_uuids.clone(),
        );
        all.register("tftp_transfers", "TFTP transfers ended", m.tftp_transfers.clone());
        all.register("tftp_bytes", "file bytes sent by TFTP", m.tftp_bytes.clone());
        all.register("http_requests", "HTTP requests answered", m.http_requests.clone());
        all.register("http_bytes", "bytes sent by HTTP", m.http_bytes.clone());
        all.register("boot_scripts", "boot scripts rendered", m.scripts.clone());
        all.register("admission_verdicts", "verdicts on machines", m.admission_verdicts.clone());
        all.register("boots", "machines by the furthest stage of their boot", m.boots.clone());
        all.register("boots_stuck", "machines that do not go on", m.boots_stuck.clone());
        all.register("boots_held", "machines that wait for an operator", m.boots_held.clone());
        all.register("boot_seconds", "from offer to archive", m.boot_seconds.clone());
        all.register("addresses_free", "free addresses", m.addresses_free.clone());
        all.register("addresses_used", "addresses given out or reserved", m.addresses_used.clone());
        all.register("tftp_active", "running TFTP transfers", m.tftp_active.clone());
        all.register("http_active", "open HTTP connections", m.http_active.clone());
        all.register("script_seconds", "rendering a boot script", m.script_seconds.clone());
        all.register("lookup_seconds", "finding boot parameters", m.lookup_seconds.clone());
        metrics.registry = Arc::new(all);
        metrics
    }

    /// Adds one to the member `kind` of a family.
    pub fn count(family: &Family<Kind, Counter>, kind: &'static str) {
        family.get_or_create(&Kind { kind }).inc();
    }

    /// Has a function called each time before the metrics are read, for gauges that are cheaper to
    /// count then than to keep. It must not call this or [`Metrics::text`].
    pub fn before_reading(&self, hook: impl Fn(&Self) + Send + Sync + 'static) {
        self.hooks.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
    }

    /// Tells how full a network's ranges are.
    pub fn set_addresses(&self, network: &str, used: u64, free: u64) {
        let gauge = |family: &Family<Net, Gauge>, value: u64| {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            family.get_or_create(&Net { network: network.to_owned() }).set(value);
        };
        gauge(&self.addresses_used, used);
        gauge(&self.addresses_free, free);
    }

    /// All counters in the text form that Prometheus reads.
    pub fn text(&self) -> String {
        for hook in self.hooks.read().unwrap_or_else(PoisonError::into_inner).iter() {
            hook(self);
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_seen_in_the_text() {
        let metrics = Metrics::new();
        Metrics::count(&metrics.dhcp_requests, "discover");
        metrics.clone().leases.set(3);
        let text = metrics.text();
        assert!(text.contains("sdc_booter_dhcp_requests_total{kind=\"discover\"} 1"), "{text}");
        assert!(text.contains("sdc_booter_leases 3"), "{text}");
    }
}
