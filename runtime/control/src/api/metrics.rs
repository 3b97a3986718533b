//! Prometheus metrics: calls, servers, tasks.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Labels of a call. The route and not the path, so that their number is bounded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: String,
    route: String,
    status: u16,
}

/// Counters of the service.
pub struct Metrics {
    registry: Registry,
    calls: Family<CallLabels, Counter<u64, AtomicU64>>,
    seconds: Histogram,
    alive: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sdc_control");
        let calls = Family::default();
        let seconds = Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0]);
        let alive = Gauge::default();
        registry.register("http_requests", "Calls by route and status", calls.clone());
        registry.register("http_request_seconds", "Time that calls took", seconds.clone());
        registry.register("servers_alive", "Servers with a fresh heartbeat", alive.clone());
        Self { registry, calls, seconds, alive }
    }
}

impl Metrics {
    /// Notes a call.
    pub fn call(&self, method: &str, route: &str, status: u16, took: Duration) {
        let labels = CallLabels { method: method.to_owned(), route: route.to_owned(), status };
        self.calls.get_or_create(&labels).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// The text that Prometheus reads.
    ///
    /// # Errors
    /// None in practice: writing to a text does not fail.
    pub fn text(&self, alive: usize) -> Result<String, std::fmt::Error> {
        self.alive.set(i64::try_from(alive).unwrap_or(i64::MAX));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
