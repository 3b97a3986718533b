//! The dashboard and the alert rules name metrics that there are.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::Path;

use sdc_booter::live::Live;
use sdc_booter::metrics::Metrics;
use sdc_booter::progress::{self, Tracker};

/// All words that begin with our prefix.
fn named(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("sdc_booter_"))
        .collect()
}

/// A metric's name without what Prometheus' text form adds to counters and histograms.
fn base(name: &str) -> &str {
    ["_total", "_bucket", "_sum", "_count"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(name)
}

#[test]
fn the_dashboard_and_the_alerts_name_metrics_that_there_are() {
    let metrics = Metrics::new();
    // A family without members is not in the text.
    for family in [
        &metrics.dhcp_requests,
        &metrics.dhcp_replies,
        &metrics.tftp_transfers,
        &metrics.http_requests,
        &metrics.scripts,
        &metrics.admission_verdicts,
        &metrics.address_probes,
    ] {
        Metrics::count(family, "x");
    }
    let tracker = Tracker::new(Live::new(progress::Settings::default()), metrics.clone());
    metrics.before_reading(move |metrics| tracker.measure(metrics));
    metrics.set_addresses("admin", 1, 2);
    let text = metrics.text();
    let ours: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(ours.len() > 20, "{ours:?}");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging");
    let dashboard = std::fs::read_to_string(folder.join("grafana/sdc-booter.json")).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let panels = parsed["panels"].as_array().unwrap();
    for panel in panels {
        let expression = panel["targets"][0]["expr"].as_str().unwrap();
        assert!(!named(expression).is_empty(), "{expression}");
    }
    let rules = std::fs::read_to_string(folder.join("prometheus/sdc-booter.rules.yml")).unwrap();
    for file in [&dashboard, &rules] {
        assert!(!named(file).is_empty());
        for name in named(file) {
            assert!(ours.contains(base(name)), "{name} is none of our metrics");
        }
    }
}
