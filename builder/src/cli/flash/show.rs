//! What `headnode flash` shows while it works: one line for each key on a terminal, plain lines
//! elsewhere, a JSON object a line for programs.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::flash::engine::{Event, Phase, Watch};
use crate::progress::bytes;

/// How often lines on a terminal are drawn anew.
const TICK: Duration = Duration::from_millis(200);
/// How often progress is told elsewhere.
const PLAIN: Duration = Duration::from_secs(10);
/// How often programs are told.
const JSON: Duration = Duration::from_secs(1);
/// Over how long the rate of now is taken.
const NOW: Duration = Duration::from_secs(3);
/// After how long without a byte a key is said to stall.
const STALL: Duration = Duration::from_secs(10);

/// Where it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Lines that move, on standard error.
    Terminal,
    /// A line now and then, on standard error.
    Plain,
    /// JSON lines on standard output.
    Json,
}

impl Way {
    /// The one that fits.
    pub fn of(json: bool) -> Self {
        match json {
            true => Self::Json,
            false if std::io::stderr().is_terminal() => Self::Terminal,
            false => Self::Plain,
        }
    }
}

/// One key's state.
struct Lane {
    name: String,
    phase: Option<Phase>,
    total: Option<u64>,
    done: u64,
    begun: Instant,
    /// When bytes were done last.
    moved: Instant,
    /// Whether that it stalls was told.
    stalled: bool,
    /// When it was told last, and how much was done then.
    told: Instant,
    /// Recent moments and what was done then.
    recent: Vec<(Instant, u64)>,
    ended: bool,
}

impl Lane {
    fn new(name: String) -> Self {
        let now = Instant::now();
        Self {
            name,
            phase: None,
            total: None,
            done: 0,
            begun: now,
            moved: now,
            stalled: false,
            told: now,
            recent: Vec::new(),
            ended: false,
        }
    }

    fn begin(&mut self, phase: Phase, total: Option<u64>) {
        let now = Instant::now();
        (self.phase, self.total, self.done) = (Some(phase), total, 0);
        (self.begun, self.moved, self.told, self.stalled) = (now, now, now, false);
        self.recent.clear();
    }

    /// Bytes a second: now, and since the phase began.
    fn rates(&mut self) -> (f64, f64) {
        let now = Instant::now();
        self.recent.push((now, self.done));
        let old = self.recent.iter().take_while(|(at, _)| now.duration_since(*at) > NOW).count();
        // One that is older stays, so that there is something to compare with.
        self.recent.drain(..old.saturating_sub(1));
        let rate = |done: u64, took: Duration| done as f64 / took.as_secs_f64().max(0.001);
        let recent =
            self.recent.first().map_or(0.0, |(at, before)| match now.duration_since(*at) {
                Duration::ZERO => rate(self.done, now.duration_since(self.begun)),
                took => rate(self.done.saturating_sub(*before), took),
            });
        (recent, rate(self.done, now.duration_since(self.begun)))
    }

    fn left(&self, mean: f64) -> Option<u64> {
        let total = self.total.filter(|total| *total > 0 && mean > 0.0)?;
        Some((total.saturating_sub(self.done) as f64 / mean).ceil() as u64)
    }

    /// The line for people.
    fn line(&mut self) -> String {
        let mut line = match self.phase {
            Some(phase) => format!("{} {}", self.name, verb(phase)),
            None => return format!("{} looking at it", self.name),
        };
        let (now, mean) = self.rates();
        // Writing to a string cannot fail.
        let _ = match self.total {
            Some(total @ 1..) => {
                let percent = self.done.min(total) * 100 / total;
                write!(line, " {percent:3} % of {}", bytes(total))
            }
            _ if self.done > 0 => write!(line, " {}", bytes(self.done)),
            _ => Ok(()),
        };
        if self.done > 0 {
            let _ = write!(line, ", {:.1} MB/s (mean {:.1})", now / 1e6, mean / 1e6);
        }
        if let Some(left) = self.left(mean).filter(|_| self.done > 0) {
            let _ = write!(line, ", {} left", clock(left));
        }
        let idle = self.moved.elapsed();
        if idle >= STALL {
            let _ = write!(line, ", nothing for {} s", idle.as_secs());
        }
        line
    }

    fn progress(&mut self) -> Value {
        let (now, mean) = self.rates();
        json!({
            "event": "progress", "disk": self.name, "phase": self.phase, "done": self.done,
            "total": self.total, "rate": now.round(), "mean": mean.round(), "left": self.left(mean),
        })
    }
}

fn verb(phase: Phase) -> &'static str {
    match phase {
        Phase::Prepare => "clearing old tables",
        Phase::Write => "writing",
        Phase::Flush => "flushing",
        Phase::Verify => "reading back",
        Phase::Repair => "writing bad parts again",
        Phase::Finish => "making it bootable",
    }
}

/// Seconds, for people.
fn clock(seconds: u64) -> String {
    match seconds {
        0..=99 => format!("{seconds} s"),
        _ => format!("{}:{:02} min", seconds / 60, seconds % 60),
    }
}

struct Shared {
    way: Way,
    lanes: Mutex<Vec<Lane>>,
    bars: Vec<ProgressBar>,
    end: Mutex<bool>,
    ended: Condvar,
}

/// The display.
pub struct Show {
    shared: Arc<Shared>,
    ticker: Option<JoinHandle<()>>,
    multi: Option<MultiProgress>,
}

impl Show {
    /// Begins to show some keys.
    ///
    /// # Errors
    /// When the operating system has no thread left.
    pub fn new(way: Way, names: &[String]) -> std::io::Result<Self> {
        let multi = (way == Way::Terminal)
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        let style = || {
            ProgressStyle::with_template("{spinner} {wide_msg}")
                .unwrap_or(ProgressStyle::default_spinner())
        };
        let bars = multi.iter().flat_map(|multi| {
            names.iter().map(|_| multi.add(ProgressBar::new_spinner().with_style(style())))
        });
        let shared = Arc::new(Shared {
            way,
            lanes: Mutex::new(names.iter().cloned().map(Lane::new).collect()),
            bars: bars.collect(),
            end: Mutex::new(false),
            ended: Condvar::new(),
        });
        let ticking = Arc::clone(&shared);
        let ticker = std::thread::Builder::new().name("show".to_owned());
        let ticker = Some(ticker.spawn(move || ticking.run())?);
        Ok(Self { shared, ticker, multi })
    }

    /// Says a line above the others.
    pub fn say(&self, line: &str) {
        match &self.multi {
            // A terminal that is gone takes nothing more.
            Some(multi) => drop(multi.println(line)),
            None if self.shared.way == Way::Plain => eprintln!("{line}"),
            None => {}
        }
    }

    /// Ends the display.
    pub fn finish(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        *self.shared.end.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.ended.notify_all();
        if let Some(ticker) = self.ticker.take() {
            // It has nothing to tell.
            let _ = ticker.join();
        }
        self.shared.bars.iter().for_each(ProgressBar::finish_and_clear);
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn run(&self) {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        while !*end {
            drop(end);
            self.tick();
            end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
            if !*end {
                let waited = self.ended.wait_timeout(end, TICK);
                end = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    fn tick(&self) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, lane) in lanes.iter_mut().enumerate().filter(|(_, lane)| !lane.ended) {
            let stalls = lane.phase.is_some() && lane.moved.elapsed() >= STALL;
            let newly = stalls && !lane.stalled;
            lane.stalled = stalls;
            match self.way {
                Way::Terminal => {
                    if let Some(bar) = self.bars.get(number) {
                        bar.set_message(lane.line());
                        bar.tick();
                    }
                }
                Way::Plain if newly || lane.told.elapsed() >= PLAIN => {
                    lane.told = Instant::now();
                    eprintln!("{}", lane.line());
                }
                Way::Json => {
                    if newly {
                        let idle = lane.moved.elapsed().as_secs();
                        print(&json!({"event": "stalled", "disk": lane.name, "seconds": idle}));
                    }
                    if lane.phase.is_some() && lane.told.elapsed() >= JSON {
                        lane.told = Instant::now();
                        print(&lane.progress());
                    }
                }
                Way::Plain => {}
            }
        }
    }
}

impl Watch for Show {
    fn tell(&self, disk: usize, event: Event) {
        let mut lanes = self.shared.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lane) = lanes.get_mut(disk) else { return };
        let name = lane.name.clone();
        if self.shared.way == Way::Json && !matches!(event, Event::Done { .. }) {
            let mut object = serde_json::to_value(&event).unwrap_or_default();
            object["disk"] = json!(name);
            print(&object);
        }
        let line = match event {
            Event::Done { bytes } => {
                lane.done += bytes;
                lane.moved = Instant::now();
                return;
            }
            Event::Phase { phase, total } => {
                lane.begin(phase, total);
                match self.shared.way {
                    Way::Plain => match total {
                        Some(total) => format!("{name} {}: {}", verb(phase), bytes(total)),
                        None => format!("{name} {}", verb(phase)),
                    },
                    _ => return,
                }
            }
            Event::Resumed { offset } => {
                format!("{name} goes on at {} of the image", bytes(offset))
            }
            Event::Mismatch { offset, length } => format!(
                "{name}: bytes {offset} to {} read back otherwise than they were written",
                offset.saturating_add(length)
            ),
        };
        drop(lanes);
        self.say(&line);
    }
}

/// A line for programs; who does not listen any more has ended us.
pub fn print(value: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_where_how_fast_and_how_long() {
        let mut lane = Lane::new("sdb".to_owned());
        assert_eq!(lane.line(), "sdb looking at it");
        lane.begin(Phase::Write, Some(1 << 30));
        lane.begun = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        lane.recent
            .push((Instant::now().checked_sub(Duration::from_secs(2)).unwrap(), 200_000_000));
        lane.done = 268_435_456;
        let line = lane.line();
        assert!(line.starts_with("sdb writing  25 % of 1.0 GiB, 34."), "{line}");
        assert!(line.contains("(mean 26.8), 31 s left"), "{line}");
        assert!(!line.contains("nothing for"));
        lane.moved = Instant::now().checked_sub(Duration::from_secs(12)).unwrap();
        assert!(lane.line().ends_with("nothing for 12 s"), "{}", lane.line());
        lane.begin(Phase::Flush, None);
        assert_eq!(lane.line(), "sdb flushing");
    }

    #[test]
    fn programs_get_numbers() {
        let mut lane = Lane::new("sdb".to_owned());
        lane.begin(Phase::Verify, Some(1000));
        lane.done = 500;
        let value = lane.progress();
        assert_eq!((value["phase"].as_str(), value["done"].as_u64()), (Some("verify"), Some(500)));
        assert!(value["rate"].is_number() && value["left"].is_number());
    }
}
