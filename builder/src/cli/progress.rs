//! What a build shows while it runs: a step at a time, bars on a terminal, plain lines elsewhere,
//! and a table of times at the end.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows steps and remembers how long each took.
pub struct Steps {
    quiet: bool,
    bars: bool,
    done: Vec<(String, Duration)>,
}

impl Steps {
    /// Writes to standard error, or nothing when `quiet`.
    pub fn new(quiet: bool) -> Self {
        Self { quiet, bars: !quiet && std::io::stderr().is_terminal(), done: Vec::new() }
    }

    /// Runs a step. It gets a bar whose length, in bytes, it may set.
    ///
    /// # Errors
    /// Those of the step.
    pub fn run<T>(
        &mut self,
        name: &str,
        step: impl FnOnce(&ProgressBar) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let begin = Instant::now();
        let bar = if self.bars {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = "{spinner} {msg} {bytes}";
            bar.set_style(
                ProgressStyle::with_template(style).unwrap_or(ProgressStyle::default_bar()),
            );
            bar.set_message(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        } else {
            ProgressBar::hidden()
        };
        if !self.quiet && !self.bars {
            eprintln!("{name} …");
        }
        let result = step(&bar);
        bar.finish_and_clear();
        let took = begin.elapsed();
        if result.is_ok() && self.bars {
            eprintln!("✓ {name} ({:.1} s)", took.as_secs_f64());
        }
        self.done.push((name.to_owned(), took));
        result
    }

    /// The steps that ran, with their times.
    pub fn times(&self) -> &[(String, Duration)] {
        &self.done
    }

    /// The table of times, on standard error.
    pub fn table(&self) {
        if self.quiet {
            return;
        }
        let total: Duration = self.done.iter().map(|(_, took)| *took).sum();
        for (name, took) in &self.done {
            eprintln!("{:>8.2} s  {name}", took.as_secs_f64());
        }
        eprintln!("{:>8.2} s  in all", total.as_secs_f64());
    }
}

/// Makes a bar show bytes out of `length`.
pub fn set_length(bar: &ProgressBar, length: u64) {
    let style = "{spinner} {msg} [{wide_bar}] {bytes}/{total_bytes} {eta}";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or(ProgressStyle::default_bar()));
    bar.set_length(length);
}

/// A number of bytes, for people.
pub fn bytes(count: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| count >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", count as f64 / unit as f64),
        None => format!("{count} B"),
    }
}
