//! `headnode lab wait`: for a line of several consoles at once, with a look at what they show.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use regex::Regex;

use crate::lab::Machine;
use crate::lab::client::Seen;

/// What is waited for.
pub struct Line {
    /// What the line must match.
    pub console: String,
    /// Lines to show on the way.
    pub show: Option<String>,
    /// The start of the machine from which on lines count; its last one when absent.
    pub boot: Option<u64>,
    /// How long it may take.
    pub limit: Duration,
}

/// Waits for all machines and prints what was seen, in their order.
pub fn run(machines: &[Machine], line: &Line, json: bool) -> Result<()> {
    let show = line.show.as_deref().map(Regex::new).transpose().context("understanding --show")?;
    let screen = std::io::stderr().is_terminal().then(MultiProgress::new);
    let (screen, show) = (screen.as_ref(), show.as_ref());
    let seen: Vec<Result<Seen>> = std::thread::scope(|scope| {
        let waits: Vec<_> = machines
            .iter()
            .map(|machine| scope.spawn(move || one(machine, line, show, screen)))
            .collect();
        waits
            .into_iter()
            .map(|wait| wait.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a wait failed"))))
            .collect()
    });
    let mut out = std::io::stdout();
    for (machine, seen) in machines.iter().zip(seen) {
        let seen = seen?;
        let (name, seconds) = (machine.name(), seen.seconds);
        if json {
            let value =
                serde_json::json!({ "machine": name, "seconds": seconds, "line": seen.line });
            writeln!(out, "{value}")?;
        } else if machines.len() > 1 {
            writeln!(out, "{name}: {seconds:.1} s: {}", seen.line)?;
        } else {
            writeln!(out, "{seconds:.1} s: {}", seen.line)?;
        }
    }
    Ok(())
}

fn one(
    machine: &Machine,
    line: &Line,
    show: Option<&Regex>,
    screen: Option<&MultiProgress>,
) -> Result<Seen> {
    let begin = Instant::now();
    let boot = match line.boot {
        Some(number) => machine.wait_boot(number, line.limit)?,
        None => machine.boot()?,
    };
    let bar = screen.map(|screen| {
        let bar = screen.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(machine.name().to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    });
    let rest = line.limit.saturating_sub(begin.elapsed());
    let seen = machine.watch_console_from(&boot, &line.console, rest, &mut |text| {
        if let Some(bar) = &bar {
            bar.set_message(text.chars().filter(|c| !c.is_control()).collect::<String>());
        }
        if show.is_some_and(|show| show.is_match(text)) {
            let text = format!("  {}  {text}", machine.name());
            match screen {
                // Nobody looks any more when the terminal is gone; the wait goes on.
                Some(screen) => drop(screen.println(text)),
                None => eprintln!("{text}"),
            }
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    seen
}
