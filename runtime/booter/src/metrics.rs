//! What the booter counts, in Prometheus' text form.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The kind of a DHCP message or the outcome of something; always one of our own fixed words, so
/// that no client can make the number of series grow.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Kind {
    /// The word.
    pub kind: &'static str,
}

/// All counters of the booter. Cloning shares them.
#[derive(Clone, Default)]
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
    registry: Arc<Registry>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Fresh counters, all zero.
    pub fn new() -> Self {
        let mut metrics = Self::default();
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
        metrics.registry = Arc::new(all);
        metrics
    }

    /// Adds one to the member `kind` of a family.
    pub fn count(family: &Family<Kind, Counter>, kind: &'static str) {
        family.get_or_create(&Kind { kind }).inc();
    }

    /// All counters in the text form that Prometheus reads.
    pub fn text(&self) -> String {
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
