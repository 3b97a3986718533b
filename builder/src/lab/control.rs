//! What other processes may ask the supervisor: one JSON object per line over `control.sock`, one
//! line back: `{"ok": …}` or `{"error": "…"}`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::paths::{Paths, connect};
use super::state::State;
use super::switch::PortStats;

/// How long an answer may take: switching several machines on takes seconds each on a busy host.
const LIMIT: Duration = Duration::from_secs(120);
/// No request is longer.
const LONGEST: u64 = 64 << 10;

/// What to do with a machine's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PowerAction {
    /// Switch it on, with the disks as they are.
    On,
    /// Press the power button: the operating system shuts down.
    Off,
    /// Press the reset button.
    Reset,
    /// Pull the plug: nothing is saved.
    Kill,
}

/// Changes to a link; what is `None` stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkChange {
    /// Whether frames pass at all.
    pub up: Option<bool>,
    /// Lost frames in each direction, percent.
    pub loss_percent: Option<f64>,
    /// Delay in each direction, milliseconds.
    pub delay_ms: Option<u64>,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Request {
    /// Answers with a [`Status`].
    Status,
    /// Changes a machine's power.
    Power {
        /// The machine.
        machine: String,
        /// What to do.
        action: PowerAction,
    },
    /// Changes a machine's link.
    Link {
        /// The machine.
        machine: String,
        /// What changes.
        change: LinkChange,
    },
    /// Plugs a USB stick into a machine that runs; answers with its serial number.
    Plug {
        /// The machine.
        machine: String,
        /// The file that is the stick: a raw disk, whole sectors.
        file: PathBuf,
    },
    /// Pulls that stick out, without asking the operating system.
    Unplug {
        /// The machine.
        machine: String,
    },
    /// Kills all machines and ends the supervisor.
    Stop,
}

/// The supervisor's view of the lab.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// What runs.
    pub state: State,
    /// What passed the switch, by machine.
    pub ports: BTreeMap<String, PortStats>,
}

/// A request on its way to the supervisor's main thread, and the way back.
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub reply: Sender<Result<Value>>,
}

/// Answers every connection to `listener` by passing its requests to `calls`.
///
/// # Errors
/// When no thread can be started.
pub fn serve(
    listener: UnixListener,
    send: impl Fn(Call) + Send + Clone + 'static,
) -> std::io::Result<()> {
    let accept = move || {
        for stream in listener.incoming().flatten() {
            let send = send.clone();
            let answer = move || {
                if let Err(error) = answer_all(&stream, &send) {
                    tracing::debug!(%error, "a control connection ended");
                }
            };
            if let Err(error) = std::thread::Builder::new().name("call".to_owned()).spawn(answer) {
                tracing::warn!(%error, "a control connection cannot be answered");
            }
        }
    };
    std::thread::Builder::new().name("control".to_owned()).spawn(accept)?;
    Ok(())
}

fn answer_all(stream: &UnixStream, send: &impl Fn(Call)) -> Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.by_ref().take(LONGEST).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let (reply, answer) = channel();
        let outcome = serde_json::from_str(&line)
            .map_err(|e| anyhow!("this is no request: {e}"))
            .and_then(|request| {
                send(Call { request, reply });
                answer.recv().context("the supervisor is ending")?
            });
        let mut text = match outcome {
            Ok(value) => json!({ "ok": value }).to_string(),
            Err(error) => json!({ "error": format!("{error:#}") }).to_string(),
        };
        text.push('\n');
        let mut writer = stream;
        writer.write_all(text.as_bytes())?;
    }
}

/// Asks the supervisor of the lab in this folder.
///
/// # Errors
/// When none runs there, or it refuses.
pub fn ask(paths: &Paths, request: &Request) -> Result<Value> {
    let mut stream = connect(&paths.file("control.sock")).with_context(|| {
        format!(
            "no lab runs in {} (start one with `headnode lab up`): connecting to its supervisor",
            paths.dir().display()
        )
    })?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).context("asking the lab's supervisor")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("waiting for the lab's supervisor")?;
    let mut answer: Value =
        serde_json::from_str(&answer).context("the lab's supervisor ended without an answer")?;
    if let Some(error) = answer.get("error").and_then(Value::as_str) {
        bail!("{error}");
    }
    Ok(answer.get_mut("ok").map(Value::take).unwrap_or_default())
}

/// Asks for the lab's status.
///
/// # Errors
/// As [`ask`].
pub fn status(paths: &Paths) -> Result<Status> {
    serde_json::from_value(ask(paths, &Request::Status)?).context("understanding the lab's status")
}
