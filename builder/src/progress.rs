//! What a command shows while it works, on standard error: one step at a time, as a bar on a terminal
//! and as plain lines elsewhere, and how long each step took.

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

/// What takes longer than this is told step by step.
const LONG: Duration = Duration::from_secs(1);

/// How long a step took.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Timing {
    /// Its name.
    pub step: String,
    /// Seconds.
    pub seconds: f64,
}

/// Shows steps and remembers how long each took.
#[derive(Debug)]
pub struct Steps {
    quiet: bool,
    bars: bool,
    /// How many steps there will be, when that is told.
    total: Option<usize>,
    done: Vec<(String, Duration)>,
    begin: Instant,
}

impl Steps {
    /// Steps of an unknown number; nothing is shown when `quiet`.
    pub fn new(quiet: bool) -> Self {
        let bars = !quiet && std::io::stderr().is_terminal();
        Self { quiet, bars, total: None, done: Vec::new(), begin: Instant::now() }
    }

    /// So many steps, each shown with its number.
    pub fn numbered(total: usize) -> Self {
        Self { total: Some(total), ..Self::new(false) }
    }

    /// Says something outside of any step.
    pub fn say(&self, line: &str) {
        if !self.quiet {
            eprintln!("{line}");
        }
    }

    /// Runs a step. It gets a bar whose length, in bytes, it may set (see [`set_length`]).
    ///
    /// # Errors
    /// Those of the step.
    pub fn run<T>(
        &mut self,
        name: &str,
        step: impl FnOnce(&ProgressBar) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.tell(name, |bar| Ok((step(bar)?, String::new())))
    }

    /// Runs a step that shows itself what it does, and notes how long it took.
    ///
    /// # Errors
    /// Those of the step.
    pub fn time<T>(
        &mut self,
        name: &str,
        step: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let begin = Instant::now();
        let outcome = step();
        self.done.push((name.to_owned(), begin.elapsed()));
        outcome
    }

    /// Runs a step; what it gives back beside its value is told as its result.
    ///
    /// # Errors
    /// Those of the step.
    pub fn tell<T>(
        &mut self,
        name: &str,
        step: impl FnOnce(&ProgressBar) -> anyhow::Result<(T, String)>,
    ) -> anyhow::Result<T> {
        let head = match self.total {
            Some(total) => format!("[{}/{total}] {name}", self.done.len() + 1),
            None => name.to_owned(),
        };
        let bar = self.bar(&head);
        if !self.bars {
            self.say(&format!("{head} …"));
        }
        let begin = Instant::now();
        let outcome = step(&bar);
        bar.finish_and_clear();
        let took = begin.elapsed();
        self.done.push((name.to_owned(), took));
        let seconds = took.as_secs_f64();
        match outcome {
            Ok((value, result)) => {
                if !result.is_empty() {
                    self.say(&format!("{head}: {result} ({seconds:.1} s)"));
                } else if self.bars {
                    self.say(&format!("✓ {head} ({seconds:.1} s)"));
                }
                Ok(value)
            }
            Err(error) => {
                self.say(&format!("{head}: failed after {seconds:.1} s"));
                Err(error)
            }
        }
    }

    fn bar(&self, head: &str) -> ProgressBar {
        if !self.bars {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(style("{spinner} {prefix} {bytes} {elapsed} {msg:.dim}"));
        bar.set_prefix(head.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }

    /// The steps that ran, with their times.
    pub fn times(&self) -> &[(String, Duration)] {
        &self.done
    }

    /// The steps that ran, and the seconds since the beginning.
    pub fn finish(self) -> (Vec<Timing>, f64) {
        let timing =
            |(step, took): (String, Duration)| Timing { step, seconds: took.as_secs_f64() };
        (self.done.into_iter().map(timing).collect(), self.begin.elapsed().as_secs_f64())
    }

    /// The steps and their times, for a result as JSON.
    pub fn json(&self) -> Value {
        let step = |(name, took): &(String, Duration)| json!({"step": name, "seconds": took.as_secs_f64()});
        self.done.iter().map(step).collect()
    }

    /// The table of times, on standard error.
    pub fn table(&self) {
        for line in lines(&self.done) {
            self.say(&line);
        }
    }

    /// The same when they took longer than a second in all: who waited wants to know for what.
    pub fn table_if_long(&self) {
        if is_long(&self.done) {
            self.table();
        }
    }
}

fn total(done: &[(String, Duration)]) -> Duration {
    done.iter().map(|(_, took)| *took).sum()
}

fn is_long(done: &[(String, Duration)]) -> bool {
    total(done) > LONG
}

fn lines(done: &[(String, Duration)]) -> Vec<String> {
    let all = [("in all".to_owned(), total(done))];
    let line = |(name, took): &(String, Duration)| format!("{:>8.2} s  {name}", took.as_secs_f64());
    done.iter().chain(&all).map(line).collect()
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar())
}

/// Makes a bar show bytes out of `length`.
pub fn set_length(bar: &ProgressBar, length: u64) {
    bar.set_style(style("{spinner} {prefix} [{wide_bar}] {bytes}/{total_bytes} {eta}"));
    bar.set_length(length);
}

/// Makes a bar show bytes out of those of a file that is read.
pub fn set_file(bar: &ProgressBar, path: &Path) {
    // What cannot be looked at cannot be read either, which is told then.
    if let Ok(meta) = std::fs::metadata(path) {
        set_length(bar, meta.len());
    }
}

/// Shows a line beside the step's name; on terminals only.
pub fn note(bar: &ProgressBar, line: &str) {
    bar.set_style(style("{spinner} {prefix} {elapsed} {msg:.dim}"));
    bar.set_message(line.chars().filter(|c| !c.is_control()).take(90).collect::<String>());
}

/// A number of bytes, for people.
pub fn bytes(count: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| count >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", count as f64 / unit as f64),
        None => format!("{count} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_timed_and_their_errors_come_through() {
        let mut steps = Steps::numbered(2);
        let value = steps.tell("first", |bar| {
            set_length(bar, 10);
            note(bar, "half\u{1b}[2J way");
            Ok((7, "seven".to_owned()))
        });
        assert_eq!(value.unwrap(), 7);
        let failed = steps.run("second", |_| -> anyhow::Result<()> { anyhow::bail!("no") });
        assert_eq!(failed.unwrap_err().to_string(), "no");
        let names: Vec<_> = steps.times().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["first", "second"]);
        let (timings, seconds) = steps.finish();
        assert!(timings.iter().map(|t| t.seconds).sum::<f64>() <= seconds);
    }

    #[test]
    fn long_work_has_a_table() {
        let times = |seconds: [f64; 2]| {
            let step =
                |(name, seconds): (&str, f64)| (name.to_owned(), Duration::from_secs_f64(seconds));
            ["reading", "writing"].into_iter().zip(seconds).map(step).collect::<Vec<_>>()
        };
        assert!(!is_long(&times([0.5, 0.4])) && is_long(&times([0.5, 0.6])));
        let expected = ["   12.25 s  reading", "    0.50 s  writing", "   12.75 s  in all"];
        assert_eq!(lines(&times([12.25, 0.5])), expected);
        let mut steps = Steps::new(true);
        steps.run("reading", |_| Ok(())).unwrap();
        assert_eq!(steps.json()[0]["step"], "reading");
        assert!(steps.json()[0]["seconds"].is_f64());
    }

    #[test]
    fn bytes_have_their_unit() {
        assert_eq!(
            [0, 1023, 1024, 1 << 20, 3 << 29].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "1.5 GiB"]
        );
    }
}
