//! `sdc boot status|list|show|approve|deny|forget|params|log|reload|watch`: machines on their way.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use headnode_client::{Booter, Timeouts, Verb};
use headnode_model::booter::{Boot, BootEvent, BootEvents, BooterStatus, Decide, SOCKET, Stage};
use headnode_model::net::MacAddr;

use super::print_json;
use crate::outcome::{EXIT_CODES, Failure, Result, say};
use crate::table::render;

/// How long one question for events waits.
const WAIT: Duration = Duration::from_secs(30);
/// The fewest characters of a UUID that are taken for its beginning.
const PREFIX: usize = 4;

/// Where the booter is.
#[derive(Debug, Clone, Args)]
pub struct Socket {
    /// Unix socket of the booter on this machine
    #[arg(long, value_name = "FILE", env = "SDC_BOOTER_SOCKET", default_value = SOCKET)]
    booter_socket: PathBuf,
}

/// What to do about machines that boot.
#[derive(Debug, Subcommand)]
pub enum Boots {
    /// Show how the booter is: its policy, how many machines boot, wait or are stuck, and what else it
    /// has noticed, as other DHCP servers
    #[command(after_help = EXIT_CODES)]
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// List the machines that boot, how far each is, and which are stuck or wait for approval
    #[command(after_help = EXIT_CODES)]
    List {
        /// Only those that wait for approval
        #[arg(long)]
        held: bool,
        /// Only those that do not go on
        #[arg(long)]
        stuck: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Show one machine: its steps, times, and last events
    #[command(after_help = EXIT_CODES)]
    Show {
        /// MAC, IP address, or the beginning of the UUID
        machine: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Let machines boot
    #[command(after_help = EXIT_CODES)]
    Approve {
        #[command(flatten)]
        decide: Decision,
        /// All that wait for approval now
        #[arg(long, conflicts_with = "machines")]
        all_held: bool,
    },
    /// Keep machines from booting: they get no answer
    #[command(after_help = EXIT_CODES)]
    Deny {
        #[command(flatten)]
        decide: Decision,
    },
    /// Take back the decision about machines, and forget what was seen of them
    #[command(after_help = EXIT_CODES)]
    Forget {
        #[command(flatten)]
        decide: Decision,
    },
    /// Show what a machine would boot with now
    #[command(after_help = EXIT_CODES)]
    Params {
        /// MAC, IP address, or the beginning of the UUID
        machine: String,
        #[command(flatten)]
        socket: Socket,
    },
    /// Show what the booter did, of one machine or all
    #[command(after_help = EXIT_CODES)]
    Log {
        /// MAC, IP address, or the beginning of the UUID
        machine: Option<String>,
        /// Go on with what happens
        #[arg(long, short)]
        follow: bool,
        /// Print JSON, one event a line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Have the booter read its settings (config.inc/booter.toml) again
    #[command(after_help = EXIT_CODES)]
    Reload {
        #[command(flatten)]
        socket: Socket,
    },
    /// Watch machines boot: a table on a terminal, else a line for each event
    #[command(after_help = EXIT_CODES)]
    Watch {
        #[command(flatten)]
        socket: Socket,
    },
}

/// Which machines are decided about, and why.
#[derive(Debug, Args)]
pub struct Decision {
    /// MACs in any notation, IP addresses, or beginnings of UUIDs
    machines: Vec<String>,
    /// Why
    #[arg(long, default_value = "")]
    note: String,
    #[command(flatten)]
    socket: Socket,
}

impl Socket {
    fn open(&self) -> Result<Booter> {
        let timeouts = Timeouts { connect: Duration::from_secs(3), total: Duration::from_secs(15) };
        Ok(Booter::new(&self.booter_socket, timeouts)?)
    }
}

impl Boots {
    /// Does it.
    ///
    /// # Errors
    /// With the exit code that belongs to it.
    pub async fn run(self) -> Result {
        self.dispatch().await.map_err(Failure::of_the_booter)
    }

    async fn dispatch(self) -> Result {
        match self {
            Self::Status { json, socket } => {
                let status = socket.open()?.status().await?;
                if json {
                    return print_json(&status);
                }
                say!("{}", lines(&status, now()))
            }
            Self::List { held, stuck, json, socket } => {
                let mut boots = socket.open()?.boots().await?;
                boots.retain(|boot| (!held || boot.held) && (!stuck || boot.stuck.is_some()));
                if json {
                    return print_json(&boots);
                }
                say!("{}", table(&boots, now()))
            }
            Self::Show { machine, json, socket } => show(&socket.open()?, &machine, json).await,
            Self::Approve { decide, all_held } => decide.each(Verb::Approve, all_held).await,
            Self::Deny { decide } => decide.each(Verb::Deny, false).await,
            Self::Forget { decide } => decide.each(Verb::Forget, false).await,
            Self::Params { machine, socket } => {
                let booter = socket.open()?;
                print_json(&booter.params(find(&booter, &machine).await?).await?)
            }
            Self::Log { machine, follow, json, socket } => {
                let booter = socket.open()?;
                let mac = match machine {
                    Some(machine) => Some(find(&booter, &machine).await?),
                    None => None,
                };
                log(&booter, mac, follow, json).await
            }
            Self::Reload { socket } => {
                let changed = socket.open()?.reload().await?;
                if changed.is_empty() {
                    return say!("the settings are as they were");
                }
                say!("read again, changed: {}", changed.join(", "))
            }
            Self::Watch { socket } => watch(&socket.open()?).await,
        }
    }
}

impl Decision {
    async fn each(self, verb: Verb, all_held: bool) -> Result {
        if self.machines.is_empty() && !all_held {
            return Err(Failure::usage("no machine is named: sdc boot list shows them"));
        }
        let booter = self.socket.open()?;
        let mut macs = Vec::new();
        if all_held {
            let boots = booter.boots().await?;
            macs.extend(
                boots.iter().filter(|boot| boot.held && boot.decision.is_none()).map(|b| b.mac),
            );
        }
        // All names are looked up before anything is done.
        for machine in &self.machines {
            macs.push(find(&booter, machine).await?);
        }
        let who = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
        let decide = Decide { who: who.unwrap_or_else(|| "root".to_owned()), note: self.note };
        let word = match verb {
            Verb::Approve => "approved",
            Verb::Deny => "denied",
            Verb::Forget => "forgotten",
        };
        for mac in &macs {
            booter.decide(*mac, verb, &decide).await?;
            say!("{mac}: {word}")?;
        }
        if macs.is_empty() {
            say!("no machine waits for approval")?;
        }
        Ok(())
    }
}

/// The machine that an operator names. A MAC is believed without asking.
async fn find(booter: &Booter, name: &str) -> Result<MacAddr> {
    if let Ok(mac) = name.parse() {
        return Ok(mac);
    }
    pick(&booter.boots().await?, name)
}

fn pick(boots: &[Boot], name: &str) -> Result<MacAddr> {
    let lower = name.to_ascii_lowercase();
    let ip = name.parse().ok();
    let fits = |boot: &&Boot| {
        (ip.is_some() && boot.ip == ip)
            || lower.len() >= PREFIX
                && boot.uuid.is_some_and(|uuid| uuid.to_string().starts_with(&lower))
    };
    let found: Vec<&Boot> = boots.iter().filter(fits).collect();
    match found.as_slice() {
        [boot] => Ok(boot.mac),
        [] => Err(Failure::not_found(format!(
            "no machine {name:?} was seen: give its MAC, its IP address, or the first {PREFIX} \
             characters or more of its UUID; `sdc boot list` shows them"
        ))),
        several => {
            let list: Vec<_> = several.iter().map(|boot| format!("\n  {}", boot.mac)).collect();
            Err(Failure::usage(format!("{name:?} means several machines:{}", list.concat())))
        }
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// "12 s", "5 min", "3 h", "2 d".
fn span(milliseconds: i64) -> String {
    match milliseconds.max(0) / 1000 {
        s @ ..120 => format!("{s} s"),
        s @ ..7200 => format!("{} min", s / 60),
        s @ ..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

fn state(boot: &Boot) -> &'static str {
    match (boot.decision.as_deref(), boot.held, boot.stuck.is_some()) {
        (Some("denied"), ..) => "denied",
        (_, true, false) => "held",
        (.., true) => "stuck",
        _ if boot.stage >= Stage::Archive => "booted",
        _ => "boots",
    }
}

fn table(boots: &[Boot], now: i64) -> String {
    let rows: Vec<Vec<String>> = boots
        .iter()
        .map(|boot| {
            vec![
                boot.mac.to_string(),
                boot.ip.map(|ip| ip.to_string()).unwrap_or_default(),
                boot.arch.clone(),
                boot.stage.to_string(),
                state(boot).to_owned(),
                boot.platform.clone().unwrap_or_default(),
                span(now.saturating_sub(boot.last)),
                boot.stuck.clone().or_else(|| boot.problem.clone()).unwrap_or_default(),
            ]
        })
        .collect();
    render(&["MAC", "IP", "ARCH", "STAGE", "STATE", "PLATFORM", "AGO", "PROBLEM"], &rows)
}

fn lines(status: &BooterStatus, now: i64) -> String {
    let since = now.saturating_sub(status.started.saturating_mul(1000));
    let mut rows = vec![
        ("version", status.version.clone()),
        ("runs for", span(since)),
        ("unknown machines", status.policy.clone()),
        ("machines seen", status.machines.to_string()),
        ("held", status.held.to_string()),
        ("stuck", status.stuck.to_string()),
    ];
    if status.untracked > 0 {
        rows.push(("not kept track of", status.untracked.to_string()));
    }
    rows.extend(status.more.iter().map(|(name, value)| (name.as_str(), value.clone())));
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    render(&["BOOTER", ""], &rows)
}

async fn show(booter: &Booter, machine: &str, json: bool) -> Result {
    let mac = find(booter, machine).await?;
    let detail = booter.boot(mac).await?;
    let detail = detail.ok_or_else(|| {
        Failure::not_found(format!("the machine {mac} was not seen since the booter's start"))
    })?;
    if json {
        return print_json(&detail);
    }
    let boot = &detail.boot;
    let ip = boot.ip.map(|ip| ip.to_string());
    let uuid = boot.uuid.map(|uuid| uuid.to_string());
    let rows: Vec<Vec<String>> = [
        ("ip", ip),
        ("uuid", uuid),
        ("architecture", Some(boot.arch.clone())),
        ("rack", boot.rack.clone()),
        ("state", Some(state(boot).to_owned())),
        ("decision", boot.decision.clone()),
        ("platform", boot.platform.clone()),
        ("parameters", boot.origin.clone()),
        ("script", boot.script.clone()),
        ("boots seen", Some(boot.attempts.to_string())),
        ("problem", boot.problem.clone()),
        ("stuck", boot.stuck.clone()),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some(vec![name.to_owned(), value.filter(|v| !v.is_empty())?]))
    .collect();
    say!("{}\n", render(&["MAC", &mac.to_string()], &rows))?;
    let steps: Vec<Vec<String>> = boot
        .steps
        .iter()
        .map(|step| {
            let after = step.first.saturating_sub(boot.began);
            vec![
                step.stage.to_string(),
                span(after),
                step.count.to_string(),
                step.bytes.to_string(),
            ]
        })
        .collect();
    say!("{}\n", render(&["STAGE", "AFTER", "COUNT", "BYTES"], &steps))?;
    for event in &detail.events {
        say!("{}", line(event, now()))?;
    }
    Ok(())
}

/// An event for people.
fn line(event: &BootEvent, now: i64) -> String {
    let who = match (event.mac, event.ip) {
        (Some(mac), _) => mac.to_string(),
        (None, Some(ip)) => ip.to_string(),
        (None, None) => "-".to_owned(),
    };
    let what: String = event.what.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let mark = if event.problem { "! " } else { "" };
    format!("{:>8} ago  {who}  {mark}{what}", span(now.saturating_sub(event.at)))
}

fn print(events: &BootEvents, json: bool) -> Result {
    if events.missed > 0 && !json {
        eprintln!("{} older events are forgotten", events.missed);
    }
    for event in &events.events {
        if json {
            say!("{}", serde_json::to_string(event)?)?;
        } else {
            say!("{}", line(event, now()))?;
        }
    }
    Ok(())
}

async fn log(booter: &Booter, mac: Option<MacAddr>, follow: bool, json: bool) -> Result {
    let mut after = 0;
    loop {
        let wait = if follow { WAIT } else { Duration::ZERO };
        let events = booter.events(after, mac, wait).await?;
        print(&events, json)?;
        if events.events.is_empty() && !follow {
            return Ok(());
        }
        after = events.next;
    }
}

async fn watch(booter: &Booter) -> Result {
    if !std::io::stdout().is_terminal() {
        return log(booter, None, true, false).await;
    }
    let mut after = 0;
    loop {
        let boots = booter.boots().await?;
        // Home, the table, and nothing below it: no flicker.
        say!("\x1b[H\x1b[J{}", table(&boots, now()))?;
        let events = booter.events(after, None, Duration::from_secs(1)).await?;
        after = events.next;
        // Ten frames a second at most.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        for (ms, text) in [(-1, "0 s"), (119_999, "119 s"), (120_000, "2 min"), (7_200_000, "2 h")]
        {
            assert_eq!(span(ms), text);
        }
        assert_eq!(span(i64::MAX), format!("{} d", i64::MAX / 86_400_000));
    }

    #[test]
    fn the_status_tells_of_other_servers_and_hides_control_characters() {
        let more = vec![("other DHCP server".to_owned(), "10.0.0.3\u{1b}[2J, 4 times".to_owned())];
        let status =
            BooterStatus { policy: "hold".to_owned(), held: 2, more, ..BooterStatus::default() };
        let text = lines(&status, 90_000);
        let rows: Vec<Vec<&str>> =
            text.lines().map(|line| line.split("  ").map(str::trim).collect()).collect();
        let value = |name: &str| {
            let row = rows.iter().find(|row| row[0] == name).unwrap();
            row.iter().skip(1).find(|cell| !cell.is_empty()).copied()
        };
        assert_eq!(value("runs for"), Some("90 s"));
        assert_eq!(value("unknown machines"), Some("hold"));
        assert_eq!(value("held"), Some("2"));
        assert_eq!(value("other DHCP server"), Some("10.0.0.3?[2J, 4 times"));
        assert!(!text.contains("not kept track of"), "{text}");
    }
}
