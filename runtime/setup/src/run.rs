//! Runs the steps of a boot: events, state, and which list it is.

use std::path::Path;

use anyhow::{Context as _, Result};
use headnode_model::answers::Answers;
use headnode_model::boot::KernelParams;
use headnode_model::config::Config;
use headnode_model::event::{Event, StepEvent};
use headnode_model::manifest::Manifest;
use headnode_model::paths;
use headnode_model::setup_state::{NodeType, SetupState};
use headnode_node::key::Key;

use crate::machine::Machine;
use crate::record::Record;
use crate::steps;

/// How a step ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It did something; one line that tells what.
    Done(String),
    /// There was nothing to do; why.
    Skipped(String),
}

/// What the steps know and find out.
pub struct Context<'a> {
    /// The machine.
    pub machine: &'a dyn Machine,
    /// The kernel's parameters.
    pub params: KernelParams,
    /// The key, when it was found.
    pub key: Option<Key>,
    /// The key's manifest, when it was verified.
    pub manifest: Option<Manifest>,
    /// The record on the key.
    pub record: Record,
    /// The answers file.
    pub answers: Answers,
    /// The configuration.
    pub config: Option<Config>,
    /// The system pool's number, as long as it is not imported.
    pub pool_guid: Option<String>,
    /// Lines of the closing summary.
    pub summary: Vec<String>,
    report: Report<'a>,
}

/// Where the events go.
struct Report<'a> {
    sink: &'a mut dyn FnMut(&Event),
    step: &'static str,
    index: usize,
    count: usize,
    /// Percent that was reported last.
    percent: u64,
}

impl Context<'_> {
    /// Reports something to say.
    pub fn say(&mut self, text: impl Into<String>) {
        self.event(StepEvent::Message { text: text.into() });
    }

    /// Reports how far a step is, every tenth at most.
    pub fn progress(&mut self, done: u64, total: u64, unit: &str) {
        let tenth = done.saturating_mul(10).checked_div(total).unwrap_or(0) * 10;
        if tenth > self.report.percent && tenth < 100 {
            self.report.percent = tenth;
            self.event(StepEvent::Progress { done, total, unit: unit.to_owned() });
        }
    }

    /// The configuration.
    ///
    /// # Errors
    /// When the step that finds it has not run: a fault of the list of steps.
    pub fn config(&self) -> Result<&Config> {
        self.config.as_ref().context("the configuration is not known yet")
    }

    /// Whether nothing outside of the pool can tell whose the pool is: there is no key, or it cannot
    /// keep anything. A pool of a finished headnode is then taken as this one's.
    pub fn forgetful(&self) -> bool {
        self.key.as_ref().is_none_or(Key::forgets)
    }

    fn event(&mut self, what: StepEvent) {
        let Report { step, index, count, .. } = self.report;
        let event = Event { time: self.machine.now(), step: step.to_owned(), index, count, what };
        (self.report.sink)(&event);
    }
}

/// A step.
#[derive(Clone, Copy)]
pub struct Step {
    /// Its name, in the state file and on the console.
    pub name: &'static str,
    /// What it does.
    pub run: fn(&mut Context<'_>) -> Result<Ended>,
}

/// The steps of a boot on a machine without a pool of ours.
pub const FIRST_BOOT: [Step; 11] = [
    Step { name: "key_found", run: steps::key::found },
    Step { name: "manifest_verified", run: steps::key::verified },
    Step { name: "configured", run: steps::config::configured },
    Step { name: "admin_nic_up", run: steps::network::admin_nic_up },
    Step { name: "pool_created", run: steps::pool::created },
    Step { name: "datasets_created", run: steps::pool::datasets_created },
    Step { name: "key_copied", run: steps::copy::key_copied },
    Step { name: "extras_prepared", run: steps::copy::extras_prepared },
    Step { name: "system_configured", run: steps::system::configured },
    Step { name: "services_started", run: steps::system::services_started },
    Step { name: "setup_complete", run: steps::system::complete },
];

/// The steps of every later boot.
pub const LATER_BOOT: [Step; 10] = [
    Step { name: "key_found", run: steps::key::found },
    Step { name: "pool_imported", run: steps::pool::imported },
    Step { name: "datasets_mounted", run: steps::pool::datasets_mounted },
    Step { name: "configured", run: steps::config::configured },
    Step { name: "admin_nic_up", run: steps::network::admin_nic_up },
    Step { name: "key_copied", run: steps::copy::key_copied },
    Step { name: "extras_prepared", run: steps::copy::extras_prepared },
    Step { name: "system_configured", run: steps::system::configured },
    Step { name: "services_started", run: steps::system::services_started },
    Step { name: "setup_complete", run: steps::system::complete },
];

/// A step that failed.
#[derive(Debug)]
pub struct Failure {
    /// Its name.
    pub step: &'static str,
    /// What is wrong, where, and what to do.
    pub error: anyhow::Error,
}

/// Goes through the boot; gives the lines of the summary.
///
/// # Errors
/// The step that failed; nothing of it or before it has to be undone before running again.
pub fn boot(machine: &dyn Machine, sink: &mut dyn FnMut(&Event)) -> Result<Vec<String>, Failure> {
    let params = machine.params().map_err(|error| Failure { step: "key_found", error })?;
    let report = Report { sink, step: "", index: 0, count: FIRST_BOOT.len(), percent: 0 };
    let mut context = Context {
        machine,
        params,
        key: None,
        manifest: None,
        record: Record::default(),
        answers: Answers::default(),
        config: None,
        pool_guid: None,
        summary: Vec::new(),
        report,
    };
    let mut state = SetupState::new(NodeType::Headnode, &machine.now());
    // The first step is the same in both lists and finds out which of them it is.
    let later = {
        run_step(&mut context, &mut state, FIRST_BOOT[0], 1, FIRST_BOOT.len())?;
        steps::pool::ready(&mut context).map_err(|error| Failure { step: "pool_found", error })?
    };
    let list: &[Step] = if later { &LATER_BOOT } else { &FIRST_BOOT };
    for (index, step) in list.iter().enumerate().skip(1) {
        run_step(&mut context, &mut state, *step, index + 1, list.len())?;
    }
    Ok(context.summary)
}

fn run_step(
    context: &mut Context<'_>,
    state: &mut SetupState,
    step: Step,
    index: usize,
    count: usize,
) -> Result<(), Failure> {
    let machine = context.machine;
    let begin = machine.clock();
    context.report.step = step.name;
    context.report.index = index;
    context.report.count = count;
    context.report.percent = 0;
    state.begin(step.name, &machine.now());
    context.event(StepEvent::Started);
    let ended = (step.run)(context).and_then(|ended| {
        save_state(machine, state, step.name)?;
        Ok(ended)
    });
    let elapsed_ms = u64::try_from((machine.clock() - begin).as_millis()).unwrap_or(u64::MAX);
    match ended {
        Ok(Ended::Done(result)) => context.event(StepEvent::Done { result, elapsed_ms }),
        Ok(Ended::Skipped(reason)) => context.event(StepEvent::Skipped { reason }),
        Err(error) => {
            context.event(StepEvent::Failed { error: format!("{error:#}"), elapsed_ms });
            return Err(Failure { step: step.name, error });
        }
    }
    Ok(())
}

/// Notes a finished step in `/var/lib/setup.json` once `/var` lies on the pool. A finished setup
/// stays as it is: later boots repeat its steps but add nothing to it.
fn save_state(machine: &dyn Machine, state: &mut SetupState, step: &str) -> Result<()> {
    state.done(step, &machine.now());
    let on_pool = ["datasets_created", "datasets_mounted"].iter().any(|s| state.seen(s));
    if !on_pool {
        return Ok(());
    }
    let path = Path::new(paths::SETUP_STATE);
    let stored =
        machine.read(path)?.and_then(|bytes| serde_json::from_slice::<SetupState>(&bytes).ok());
    let mut whole = match stored {
        Some(stored) if stored.complete => return Ok(()),
        Some(stored) => stored,
        None => state.clone(),
    };
    for seen in &state.seen_states {
        whole.done(seen, &state.last_updated);
    }
    step.clone_into(&mut whole.current_state);
    whole.complete = step == "setup_complete";
    let bytes = serde_json::to_vec_pretty(&whole).context("encoding the state of setup")?;
    machine.write(path, &bytes, 0o400).context("writing the state of setup")
}
