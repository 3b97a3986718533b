//! Named steps with their events: start of a node, setup of a server.

use std::fmt;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;

use headnode_model::event::{Event, StepEvent};

use crate::{clock, consoles};

/// Takes events.
pub type Sink = Arc<dyn Fn(Event) + Send + Sync>;

/// How a step ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It did something: one line that tells the result.
    Done(String),
    /// There was nothing to do: why.
    Skipped(String),
}

/// A list of steps whose events go to a sink.
#[derive(Clone)]
pub struct Steps {
    names: &'static [&'static str],
    sink: Sink,
}

/// One step that is running.
#[derive(Clone)]
pub struct Step {
    steps: Steps,
    name: &'static str,
    begun: Instant,
}

impl Steps {
    /// Steps of these names, in their order.
    pub fn new(names: &'static [&'static str], sink: Sink) -> Self {
        Self { names, sink }
    }

    /// Begins a step.
    pub fn begin(&self, name: &'static str) -> Step {
        let step = Step { steps: self.clone(), name, begun: Instant::now() };
        step.tell(StepEvent::Started);
        step
    }
}

impl Step {
    fn tell(&self, what: StepEvent) {
        let names = self.steps.names;
        let index = names.iter().position(|name| *name == self.name).map_or(0, |i| i + 1);
        let (time, step, count) = (clock::now(), self.name.to_owned(), names.len());
        (self.steps.sink)(Event { time, step, index, count, what });
    }

    /// Says something while the step runs.
    pub fn message(&self, text: impl Into<String>) {
        self.tell(StepEvent::Message { text: text.into() });
    }

    /// Ends the step as its work ended, and gives a failure back.
    ///
    /// # Errors
    /// That of the work.
    pub fn end<E: fmt::Display>(&self, result: Result<Ended, E>) -> Result<(), E> {
        let elapsed_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        match result {
            Ok(Ended::Done(result)) => self.tell(StepEvent::Done { result, elapsed_ms }),
            Ok(Ended::Skipped(reason)) => self.tell(StepEvent::Skipped { reason }),
            Err(error) => {
                // `{:#}` writes the whole chain of an anyhow error.
                let text = format!("{error:#}");
                self.tell(StepEvent::Failed { error: text, elapsed_ms });
                return Err(error);
            }
        }
        Ok(())
    }
}

/// A sink that writes one line per event to standard output (the console, on a machine) and to the
/// log.
pub fn console() -> Sink {
    Arc::new(|event| {
        match &event.what {
            StepEvent::Started => tracing::debug!(step = event.step, "started"),
            StepEvent::Failed { error, .. } => tracing::error!(step = event.step, error),
            what => tracing::debug!(step = event.step, ?what),
        }
        if event.what != StepEvent::Started {
            say(&event);
        }
    })
}

/// Writes one line, with the time, to standard output, and as a service to the machine's consoles.
pub fn say(line: &dyn fmt::Display) {
    let line = format!("{} sdc-agent: {line}\n", clock::console_time());
    // A console that is gone is no reason to stop.
    let _ = std::io::stdout().lock().write_all(line.as_bytes());
    // systemd sets this for what it starts.
    if std::env::var_os("INVOCATION_ID").is_some() {
        consoles::write(&line);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn events_carry_place_and_result() {
        let held = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&held);
        let steps = Steps::new(&["one", "two"], Arc::new(move |e| sink.lock().unwrap().push(e)));
        let step = steps.begin("two");
        step.message("half way");
        step.end::<String>(Ok(Ended::Skipped("was done".to_owned()))).unwrap();
        let error = anyhow::anyhow!("no disk").context("making the pool");
        assert!(steps.begin("one").end(Err(error)).is_err());
        let events = held.lock().unwrap();
        assert_eq!((events[0].index, events[0].count), (2, 2));
        assert_eq!(events[2].what, StepEvent::Skipped { reason: "was done".to_owned() });
        assert!(events[4].to_string().contains("making the pool: no disk"));
    }
}
