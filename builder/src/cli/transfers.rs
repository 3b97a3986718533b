//! What transfers show: on a terminal one bar each and a total, elsewhere a line at begin and end.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::progress::bytes;
use crate::source::fetch::Board;
use crate::source::watch::Watch;

/// The transfers of a run.
pub struct Transfers {
    quiet: bool,
    bars: Option<(MultiProgress, ProgressBar)>,
    done: AtomicU64,
    begun: Instant,
}

struct Transfer<'a> {
    board: &'a Transfers,
    name: String,
    bar: Option<ProgressBar>,
    length: AtomicU64,
    // What was there at the beginning was transferred by an earlier run.
    first: Mutex<Option<u64>>,
    at: AtomicU64,
    begun: Instant,
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar())
}

impl Transfers {
    /// Writes to standard error, or nothing when `quiet`.
    pub fn new(quiet: bool) -> Self {
        let bars = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let multi = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
            let total = multi.add(ProgressBar::new(0));
            total.set_style(style("in all {bytes}/{total_bytes} {bytes_per_sec} {eta}"));
            total.enable_steady_tick(Duration::from_millis(200));
            (multi, total)
        });
        Self { quiet, bars, done: AtomicU64::new(0), begun: Instant::now() }
    }

    /// Bytes that were transferred.
    pub fn transferred(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Ends the display and tells the total.
    pub fn finish(&self) {
        if let Some((_, total)) = &self.bars {
            total.finish_and_clear();
        }
        if !self.quiet && self.transferred() > 0 {
            let seconds = self.begun.elapsed().as_secs_f64();
            let rate = self.transferred() as f64 / seconds.max(0.001);
            eprintln!(
                "{} fetched in {seconds:.1} s, {}/s",
                bytes(self.transferred()),
                bytes(rate as u64)
            );
        }
    }

    fn say(&self, text: &str) {
        match &self.bars {
            // A line that cannot be written to the terminal is no reason to stop.
            Some((multi, _)) => drop(multi.println(text)),
            None if !self.quiet => eprintln!("{text}"),
            None => {}
        }
    }
}

impl Board for Transfers {
    fn begin(&self, name: &str) -> Box<dyn Watch + '_> {
        let bar = self.bars.as_ref().map(|(multi, total)| {
            let bar = multi.insert_before(total, ProgressBar::new(0));
            bar.set_style(style(
                "{msg:40!} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            ));
            bar.set_message(name.to_owned());
            bar
        });
        if bar.is_none() {
            self.say(&format!("fetching {name}"));
        }
        Box::new(Transfer {
            board: self,
            name: name.to_owned(),
            bar,
            length: AtomicU64::new(0),
            first: Mutex::new(None),
            at: AtomicU64::new(0),
            begun: Instant::now(),
        })
    }
}

impl Watch for Transfer<'_> {
    fn length(&self, bytes: u64) {
        let before = self.length.swap(bytes, Ordering::Relaxed);
        if let (Some(bar), Some((_, total))) = (&self.bar, &self.board.bars) {
            bar.set_length(bytes);
            total.inc_length(bytes.saturating_sub(before));
        }
    }

    fn at(&self, bytes: u64) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.at.swap(bytes, Ordering::Relaxed);
        if first.is_none() {
            *first = Some(bytes);
        } else {
            self.board.done.fetch_add(bytes.saturating_sub(before), Ordering::Relaxed);
        }
        if let (Some(bar), Some((_, total))) = (&self.bar, &self.board.bars) {
            bar.set_position(bytes);
            total.inc(bytes.saturating_sub(before));
        }
    }

    fn trouble(&self, text: &str) {
        self.board.say(&format!("{}: {text}", self.name));
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        } else {
            let (at, length) =
                (self.at.load(Ordering::Relaxed), self.length.load(Ordering::Relaxed));
            if at > 0 && at == length {
                let seconds = self.begun.elapsed().as_secs_f64();
                self.board.say(&format!("fetched {}: {} in {seconds:.1} s", self.name, bytes(at)));
            }
        }
    }
}
