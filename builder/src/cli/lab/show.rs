//! What `headnode lab` prints about a lab: its status, its consoles.

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use regex::Regex;
use serde_json::{Value, json};

use crate::lab::client::read_spec;
use crate::lab::console::Follower;
use crate::lab::paths::Paths;
use crate::lab::spec::{EXTERNAL_IP, HEADNODE, LabSpec};
use crate::lab::state::{State, now_ms, read_json};
use crate::lab::{Machine, control, ssh};

/// How often a growing log is looked at.
const TICK: Duration = Duration::from_millis(50);

/// Prints what the lab is and how it does.
pub fn status(paths: &Paths, as_json: bool) -> Result<()> {
    let spec = read_spec(paths)?;
    let status = control::status(paths)?;
    ssh::write_config(paths, &spec, &status)?;
    let machines: Vec<Value> = spec.machines.iter().map(|m| machine(&spec, &status, m)).collect();
    if as_json {
        let value = json!({
            "name": spec.name,
            "dir": paths.dir(),
            "image": spec.image,
            "accel": spec.accel,
            "record": spec.record,
            "ssh_config": paths.file("ssh_config"),
            "phase": status.state.phase,
            "supervisor_pid": status.state.supervisor.pid,
            "machines": machines,
        });
        return print(&serde_json::to_string_pretty(&value)?);
    }
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut out = format!(
        "{:<10} {:<5} {:<9} {:>8} {:<18} {:<15} {}\n",
        "MACHINE", "POWER", "PID", "UPTIME", "ADMIN MAC", "ADMIN IP", "UUID"
    );
    for m in &machines {
        let uptime = m["uptime_s"].as_f64().map_or_else(|| "-".to_owned(), |s| format!("{s:.0} s"));
        out.push_str(&format!(
            "{:<10} {:<5} {:<9} {uptime:>8} {:<18} {:<15} {}\n",
            text(&m["name"]),
            text(&m["power"]),
            text(&m["pid"]),
            text(&m["admin_mac"]),
            text(&m["admin_ip"]),
            text(&m["uuid"])
        ));
    }
    for forward in spec.machines.iter().flat_map(|m| &m.forwards) {
        let (host, guest) = (forward.host, forward.guest);
        out.push_str(&format!("127.0.0.1:{host} leads to port {guest} of the headnode\n"));
    }
    print(out.trim_end())
}

fn machine(spec: &LabSpec, status: &control::Status, m: &crate::lab::spec::MachineSpec) -> Value {
    let state = status.state.machines.get(&m.name).cloned().unwrap_or_default();
    let boot = state.boots.last();
    let up = boot.filter(|_| state.qemu.is_some());
    json!({
        "name": m.name,
        "power": state.power,
        "pid": state.qemu.map(|q| q.pid),
        "ended": state.ended,
        "boots": boot.map_or(0, |b| b.number),
        "power_on_ms": boot.map(|b| b.at_ms),
        "uptime_s": up.map(|b| now_ms().saturating_sub(b.at_ms) as f64 / 1000.0),
        "uuid": m.uuid,
        "admin_mac": m.admin_mac,
        "admin_ip": ssh::admin_ip(spec, status, &m.name),
        "external_mac": m.external_mac,
        "external_ip": m.external_mac.as_ref().map(|_| EXTERNAL_IP),
        "firmware": m.firmware,
        "memory_mib": m.memory,
        "cpus": m.cpus,
        "disks": m.disks,
        "forwards": m.forwards,
        "link": state.link,
        "port": status.ports.get(&m.name),
    })
}

/// Prints a console's log.
pub fn logs(paths: &Paths, name: &str, follow: bool, grep: Option<&str>, boot: bool) -> Result<()> {
    let grep = grep.map(Regex::new).transpose().context("understanding --grep")?;
    let path = paths.console(name);
    if !path.exists() {
        // Logs that were kept have no lab any more; a wrong name is told with the right ones.
        read_spec(paths)?.machine(name)?;
    }
    let offset = if boot { Machine::new(paths.clone(), name).boot()?.console_offset } else { 0 };
    let mut log = Follower::open(&path, offset)?;
    let mut out = std::io::stdout().lock();
    loop {
        let alive = follow && supervised(paths);
        let mut written = Ok(());
        log.read(|line| {
            if written.is_ok() && grep.as_ref().is_none_or(|g| g.is_match(&line.text)) {
                written = writeln!(out, "{}", line.text);
            }
        })?;
        if !alive
            && written.is_ok()
            && let Some(line) = log.unfinished()
            && grep.as_ref().is_none_or(|g| g.is_match(&line.text))
        {
            written = writeln!(out, "{}", line.text);
        }
        match written.and_then(|()| out.flush()) {
            // The reader, `head` perhaps, has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            other => other.context("printing a log")?,
        }
        if !alive {
            return Ok(());
        }
        std::thread::sleep(TICK);
    }
}

fn supervised(paths: &Paths) -> bool {
    let state: Option<State> = read_json(&paths.state()).unwrap_or_default();
    state.is_some_and(|s| s.supervisor.alive())
}

/// Prints all consoles as they come, each line with its machine's name, until the program ends.
pub fn follow_all(paths: &Paths) -> Result<()> {
    let spec = read_spec(paths)?;
    let mut logs = Vec::new();
    for machine in &spec.machines {
        let path = paths.console(&machine.name);
        let offset = std::fs::metadata(&path).map_or(0, |m| m.len());
        logs.push((machine.name.clone(), Follower::open(&path, offset)?));
    }
    std::thread::Builder::new().name("show".to_owned()).spawn(move || {
        loop {
            for (name, log) in &mut logs {
                // Nobody looks any more when standard output is closed; the lab goes on.
                let shown = log.read(|line| {
                    drop(writeln!(std::io::stdout(), "{name:<9}| {}", line.text));
                });
                if shown.is_err() {
                    return;
                }
            }
            std::thread::sleep(TICK);
        }
    })?;
    Ok(())
}

/// Waits until something behind the headnode's ssh port answers as ssh does, and prints the console
/// meanwhile.
pub fn wait_for_ssh(paths: &Paths, limit: Duration) -> Result<()> {
    let spec = read_spec(paths)?;
    let forwards = &spec.machine(HEADNODE)?.forwards;
    let port = forwards.iter().find(|f| f.guest == 22).context("ssh is not forwarded")?.host;
    let headnode = Machine::new(paths.clone(), HEADNODE);
    let boot = headnode.boot()?;
    let mut log = Follower::open(&paths.console(HEADNODE), boot.console_offset)?;
    let deadline = Instant::now() + limit;
    let mut next_try = Instant::now();
    loop {
        log.read(|line| eprintln!("{HEADNODE}| {}", line.text))?;
        if Instant::now() >= next_try {
            if answers(port) {
                let seconds = now_ms().saturating_sub(boot.at_ms) as f64 / 1000.0;
                eprintln!("the headnode's ssh answers {seconds:.1} s after power-on");
                return Ok(());
            }
            next_try = Instant::now() + Duration::from_millis(500);
        }
        if headnode.state()?.qemu.is_none() {
            bail!("the headnode is off; see `headnode lab logs headnode`");
        }
        if Instant::now() > deadline {
            bail!("the headnode's ssh does not answer after {} s", limit.as_secs());
        }
        std::thread::sleep(TICK);
    }
}

/// QEMU accepts every connection at once, so only the greeting tells that the guest answers.
fn answers(port: u16) -> bool {
    use std::io::Read;
    let address = (Ipv4Addr::LOCALHOST, port).into();
    let mut greeting = [0; 4];
    TcpStream::connect_timeout(&address, Duration::from_millis(500))
        .and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_millis(1500)))?;
            stream.read_exact(&mut greeting)
        })
        .is_ok_and(|()| &greeting == b"SSH-")
}

fn print(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("printing")
        }
        _ => Ok(()),
    }
}
