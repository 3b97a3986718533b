//! All machines together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::dhcp::Hub;
use crate::report::Report;
use crate::{Error, Way, node, tftp};

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many machines; at least 1.
    pub nodes: u32,
    /// Number of the first one: its MAC and UUID follow from it.
    pub first: u32,
    /// The first two bytes of all MACs.
    pub mac_prefix: [u8; 2],
    /// How requests for addresses reach the server.
    pub way: Way,
    /// Architecture (option 93): 0 for BIOS, 7 for x86-64 UEFI.
    pub arch: u16,
    /// How the loader is fetched.
    pub tftp: tftp::Options,
    /// How many bytes of the kernel and of the archive are fetched.
    pub first_bytes: u64,
    /// Base URL of the CNAPI that the machines register with.
    pub register: Option<String>,
    /// Within which time all machines are switched on.
    pub spread: Duration,
}

impl Plan {
    /// So many x86-64 UEFI machines, which are switched on at once.
    pub fn new(nodes: u32, way: Way) -> Self {
        Self {
            nodes,
            first: 1,
            mac_prefix: [0x02, 0x53],
            way,
            arch: 7,
            tftp: tftp::Options::default(),
            first_bytes: 1 << 20,
            register: None,
            spread: Duration::ZERO,
        }
    }
}

/// Boots all machines.
///
/// # Errors
/// When the storm cannot begin. That machines fail is told in the report.
pub async fn run(plan: &Plan) -> Result<Report, Error> {
    run_with(plan, || ()).await
}

/// The same; `ended` is called for each machine when it has come through or has given up.
///
/// # Errors
/// As [`run`].
pub async fn run_with(plan: &Plan, mut ended: impl FnMut()) -> Result<Report, Error> {
    let hub = Arc::new(Hub::open(&plan.way)?);
    let listener = tokio::spawn({
        let hub = Arc::clone(&hub);
        async move { hub.listen().await }
    });
    let plan = Arc::new(plan.clone());
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for index in 0..plan.nodes {
        let (plan, hub) = (Arc::clone(&plan), Arc::clone(&hub));
        running.spawn(async move {
            let share = f64::from(index) / f64::from(plan.nodes);
            tokio::time::sleep(plan.spread.mul_f64(share)).await;
            let switched_on = Instant::now();
            let outcome = node::boot(&plan, &hub, plan.first.wrapping_add(index)).await;
            (outcome, switched_on.elapsed().as_secs_f64(), begun.elapsed().as_secs_f64())
        });
    }
    let mut report = Report::new(plan.nodes);
    while let Some(done) = running.join_next().await {
        let done = done.map_err(std::io::Error::other);
        let (outcome, took, at) = done.map_err(Error::io("simulating a machine"))?;
        report.add(outcome, took, at);
        ended();
    }
    listener.abort();
    report.finish();
    Ok(report)
}
