//! QEMU's machine protocol, as far as the supervisor needs it: one command at a time, and events.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How long QEMU may take to answer.
const LIMIT: Duration = Duration::from_secs(20);

/// A connection to one QEMU.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    replies: Receiver<Value>,
}

impl Qmp {
    /// Greets QEMU; from then on every event's name and data go to `on_event`, on a thread that
    /// ends with QEMU.
    ///
    /// # Errors
    /// When the peer does not answer as QEMU does.
    pub fn new(
        stream: UnixStream,
        on_event: impl FnMut(&str, &Value) + Send + 'static,
    ) -> Result<Self> {
        let reader = BufReader::new(stream.try_clone()?);
        let (sender, replies) = channel();
        std::thread::Builder::new()
            .name("qmp".to_owned())
            .spawn(move || read_all(reader, &sender, on_event))?;
        let mut qmp = Self { stream, replies };
        let greeting = qmp.reply().context("waiting for QEMU's greeting")?;
        if greeting.get("QMP").is_none() {
            bail!("QEMU greets with {greeting}");
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Has QEMU execute a command, and returns its answer.
    ///
    /// # Errors
    /// When QEMU refuses it, does not answer within 20 s, or has ended.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.stream
            .write_all(line.as_bytes())
            .with_context(|| format!("sending '{command}' to QEMU"))?;
        let mut reply = self.reply().with_context(|| format!("QEMU's answer to '{command}'"))?;
        if let Some(error) = reply.get("error") {
            let why = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given");
            bail!("QEMU refuses '{command}': {why}");
        }
        Ok(reply.get_mut("return").map(Value::take).unwrap_or_default())
    }

    fn reply(&mut self) -> Result<Value> {
        match self.replies.recv_timeout(LIMIT) {
            Ok(reply) => Ok(reply),
            Err(RecvTimeoutError::Timeout) => bail!("nothing came within {} s", LIMIT.as_secs()),
            Err(RecvTimeoutError::Disconnected) => bail!("QEMU has ended"),
        }
    }
}

fn read_all(reader: impl BufRead, replies: &Sender<Value>, mut on_event: impl FnMut(&str, &Value)) {
    for line in reader.lines() {
        let Ok(line) = line else { return };
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(event) = message.get("event").and_then(Value::as_str) {
            on_event(event, message.get("data").unwrap_or(&Value::Null));
        } else if replies.send(message).is_err() {
            return;
        }
    }
}
