//! The agent's metrics for Prometheus.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters and gauges.
#[derive(Debug, Default)]
pub struct Metrics {
    registry: Registry,
    /// 1 once CNAPI knows this machine.
    pub registered: Gauge,
    /// Reports that CNAPI took: sysinfo, heartbeat, status.
    pub reports_sent: Counter,
    /// Reports that CNAPI did not take.
    pub reports_failed: Counter,
    /// Tasks accepted.
    pub tasks_accepted: Counter,
    /// Tasks that ended well.
    pub tasks_complete: Counter,
    /// Tasks that failed.
    pub tasks_failed: Counter,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut metrics = Self::default();
        let Self { registry, registered, reports_sent, reports_failed, .. } = &mut metrics;
        registry.register(
            "sdc_agent_registered",
            "Whether CNAPI knows this machine",
            registered.clone(),
        );
        registry.register(
            "sdc_agent_reports_sent",
            "Reports that CNAPI took",
            reports_sent.clone(),
        );
        registry.register(
            "sdc_agent_reports_failed",
            "Reports that CNAPI did not take",
            reports_failed.clone(),
        );
        let Self { registry, tasks_accepted, tasks_complete, tasks_failed, .. } = &mut metrics;
        registry.register("sdc_agent_tasks_accepted", "Tasks accepted", tasks_accepted.clone());
        registry.register(
            "sdc_agent_tasks_complete",
            "Tasks that ended well",
            tasks_complete.clone(),
        );
        registry.register("sdc_agent_tasks_failed", "Tasks that failed", tasks_failed.clone());
        metrics
    }

    /// The text form.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
