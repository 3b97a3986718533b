//! What a build tells while it runs: named steps, each with its time. A terminal shows the running
//! step with a spinner and its latest line; anything else gets plain lines. All on standard error.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// How long a step took.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Timing {
    /// Its name.
    pub step: String,
    /// Seconds.
    pub seconds: f64,
}

/// Progress of one build.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
    total: usize,
    timings: Vec<Timing>,
    begin: Instant,
}

/// The running step, for saying what it is at.
#[derive(Debug, Clone)]
pub struct Step(Option<ProgressBar>);

impl Step {
    /// Shows a line beside the step's name; on terminals only.
    pub fn note(&self, line: &str) {
        if let Some(bar) = &self.0 {
            bar.set_message(line.chars().filter(|c| !c.is_control()).take(90).collect::<String>());
        }
    }
}

impl Progress {
    /// Progress of a build of `total` steps.
    pub fn new(total: usize) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { terminal, total, timings: Vec::new(), begin: Instant::now() }
    }

    /// Says something outside of any step.
    pub fn say(&self, line: &str) {
        eprintln!("{line}");
    }

    /// Runs a step; what it gives back beside its value is told as its result.
    ///
    /// # Errors
    /// The step's own.
    pub fn step<T>(
        &mut self,
        name: &str,
        run: impl FnOnce(&Step) -> Result<(T, String)>,
    ) -> Result<T> {
        let head = format!("[{}/{}] {name}", self.timings.len() + 1, self.total);
        let bar = self.terminal.then(|| {
            let bar = ProgressBar::new_spinner().with_message("");
            if let Ok(style) =
                ProgressStyle::with_template("{prefix} {spinner} {elapsed} {msg:.dim}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(head.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("{head} ...");
        }
        let begin = Instant::now();
        let outcome = run(&Step(bar.clone()));
        let seconds = begin.elapsed().as_secs_f64();
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        match outcome {
            Ok((value, result)) => {
                eprintln!("{head}: {result} ({seconds:.1} s)");
                self.timings.push(Timing { step: name.to_owned(), seconds });
                Ok(value)
            }
            Err(error) => {
                eprintln!("{head}: failed ({seconds:.1} s)");
                Err(error)
            }
        }
    }

    /// The steps so far, and the seconds since the beginning.
    pub fn finish(self) -> (Vec<Timing>, f64) {
        (self.timings, self.begin.elapsed().as_secs_f64())
    }
}
