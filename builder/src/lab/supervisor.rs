//! The process that is the lab: it owns the switch, the consoles and the machines' QEMUs, which
//! the kernel ends with it, whatever ends it.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{SigSet, Signal};
use serde_json::{Value, json};

use super::console;
use super::control::{self, Call, LinkChange, PowerAction, Request, Status};
use super::machine::Running;
use super::paths::{Paths, listen};
use super::qemu;
use super::relay;
use super::spec::{Firmware, LabSpec, MachineSpec};
use super::state::{MachineState, Phase, Power, ProcessId, State, now_ms, read_json, write_json};
use super::switch::{Port, Switch};

/// What EDK II says when the network gave it nothing to boot and it turns to what no lab has: its
/// shell, a key press, or IPv6. A server's firmware is set to try the network again instead; the reset
/// button does that here.
const NETWORK_BOOT_FAILED: [&[u8]; 5] = [
    b"BdsDxe: failed to load Boot",
    b">>Start HTTP Boot over IPv6",
    b">>Start PXE over IPv6",
    b"UEFI Interactive Shell",
    b"No bootable option or device",
];

/// The same of a machine that boots by PXE.
const PXE_FAILED: &[u8] = b">>Start HTTP Boot over";

enum Event {
    Call(Call),
    Signal(Signal),
    GuestReset { machine: usize, start: u64 },
    NetworkBootFailed { machine: usize },
    Exited { machine: usize, start: u64, how: String },
}

struct Member {
    spec: MachineSpec,
    port: Port,
    console: console::Server,
    running: Option<Running>,
    /// Counts power-ons, so that a late event of an ended QEMU is not taken for its successor's.
    start: u64,
}

/// A supervisor before and while it runs.
pub struct Supervisor {
    paths: Paths,
    spec: LabSpec,
    state: State,
    networks: Networks,
    members: Vec<Member>,
    events: Receiver<Event>,
    sender: Sender<Event>,
    _lock: nix::fcntl::Flock<File>,
}

impl Supervisor {
    /// Prepares to run the lab whose `lab.json` lies in this folder: sockets, switch and consoles.
    /// Call it from the program's main thread, before any other thread is started.
    ///
    /// # Errors
    /// When there is no lab, or another supervisor runs it.
    pub fn new(paths: Paths) -> Result<Self> {
        let spec: LabSpec = read_json(&paths.spec())?.with_context(|| {
            format!("no lab in {}; make one with `headnode lab up`", paths.dir().display())
        })?;
        let lock = File::create(paths.file("supervisor.lock")).context("opening the lab's lock")?;
        let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock)
            .map_err(|_| anyhow!("the lab in {} runs already", paths.dir().display()))?;
        let (sender, events) = channel();
        watch_signals(&sender)?;
        let networks = networks(&spec)?;
        // A lab that is started again keeps what is known of its machines.
        let old: Option<State> = read_json(&paths.state())?;
        let mut states = old.map(|s| s.machines).unwrap_or_default();
        let mut members = Vec::new();
        let mut machines = BTreeMap::new();
        for (index, machine) in spec.machines.iter().enumerate() {
            let switch = if machine.in_rack { &networks.rack } else { &networks.admin };
            let member = Member::new(&paths, machine, index, switch, &sender)
                .with_context(|| format!("preparing {}", machine.name))?;
            let mut state: MachineState = states.remove(&machine.name).unwrap_or_default();
            state.power = Power::Off;
            state.qemu = None;
            member.port.set_link(state.link);
            machines.insert(machine.name.clone(), state);
            members.push(member);
        }
        let supervisor = ProcessId::of(std::process::id())?;
        let state = State { supervisor, phase: Phase::Starting, since_ms: now_ms(), machines };
        let this = Self { paths, spec, state, networks, members, events, sender, _lock: lock };
        this.save()?;
        Ok(this)
    }

    /// Switches the machines on and serves until it is told to stop, by request or by a signal.
    ///
    /// # Errors
    /// When a machine does not start, or the lab's folder cannot be written to.
    pub fn run(mut self) -> Result<()> {
        // Before the machines, so that a lab that says "running" always answers.
        let listener = listen(&self.paths.file("control.sock")).context("opening control.sock")?;
        let sender = self.sender.clone();
        // When the receiver is gone the caller learns it from its dropped reply channel.
        control::serve(listener, move |call| drop(sender.send(Event::Call(call))))?;
        let started = self.start_all();
        if let Err(error) = started {
            self.stop_all();
            return Err(error);
        }
        let stopper = loop {
            match self.events.recv().context("waiting for something to do")? {
                Event::Call(Call { request: Request::Stop, reply }) => break Some(reply),
                Event::Call(Call { request, reply }) => {
                    // Whoever asked may have gone.
                    drop(reply.send(self.handle(request)));
                }
                Event::Signal(signal) => {
                    tracing::info!(%signal, "stopping");
                    break None;
                }
                event => self.note(event)?,
            }
        };
        self.stop_all();
        if let Some(reply) = stopper {
            drop(reply.send(Ok(Value::Null)));
        }
        Ok(())
    }

    fn start_all(&mut self) -> Result<()> {
        for index in 0..self.members.len() {
            if self.members[index].spec.start {
                self.power_on(index)?;
            }
        }
        self.state.phase = Phase::Running;
        self.save()
    }

    fn stop_all(&mut self) {
        for member in &self.members {
            if let Some(running) = &member.running
                && let Err(error) = running.kill().and_then(|()| running.id.kill())
            {
                tracing::error!(machine = member.spec.name, %error, "a machine does not end");
            }
        }
        for state in self.state.machines.values_mut() {
            state.power = Power::Off;
            state.qemu = None;
        }
        self.state.phase = Phase::Stopped;
        let ended = [&self.networks.admin, &self.networks.rack].map(Switch::stop_recording);
        let ended: std::io::Result<()> = ended.into_iter().collect();
        let ended = ended.context("ending the recording");
        if let Err(error) = ended.and_then(|()| self.save()) {
            tracing::error!(error = format!("{error:#}"), "stopping");
        }
        drop(std::fs::remove_file(self.paths.file("control.sock")));
    }

    fn save(&self) -> Result<()> {
        write_json(&self.paths.state(), &self.state)
    }

    fn find(&self, name: &str) -> Result<usize> {
        self.spec.machine(name)?;
        self.members.iter().position(|m| m.spec.name == name).context("the machine is not there")
    }

    fn state_of(&mut self, index: usize) -> &mut MachineState {
        let name = self.members[index].spec.name.clone();
        self.state.machines.entry(name).or_default()
    }

    fn handle(&mut self, request: Request) -> Result<Value> {
        match request {
            Request::Status => {
                let ports = self.members.iter().map(|m| (m.spec.name.clone(), m.port.stats()));
                let status = Status { state: self.state.clone(), ports: ports.collect() };
                Ok(serde_json::to_value(status)?)
            }
            Request::Power { machine, action } => {
                let index = self.find(&machine)?;
                self.power(index, action)?;
                Ok(Value::Null)
            }
            Request::Link { machine, change } => {
                let index = self.find(&machine)?;
                self.link(index, change)
            }
            Request::Plug { machine, file } => {
                let running = self.running(&machine)?;
                Ok(json!(running.plug(&file)?))
            }
            Request::Unplug { machine } => {
                self.running(&machine)?.unplug()?;
                Ok(Value::Null)
            }
            // `run` has taken it out of the loop.
            Request::Stop => Ok(Value::Null),
        }
    }

    fn power(&mut self, index: usize, action: PowerAction) -> Result<()> {
        let name = self.members[index].spec.name.clone();
        let running = self.members[index].running.is_some();
        match (action, running) {
            (PowerAction::On, true) => bail!("{name} is on already"),
            (PowerAction::Off | PowerAction::Kill | PowerAction::Reset, false) => {
                bail!("{name} is off already")
            }
            (PowerAction::On, false) => self.power_on(index),
            (PowerAction::Off, true) => self.with_running(index, Running::press_power),
            (PowerAction::Reset, true) => {
                self.with_running(index, Running::press_reset)?;
                self.booted(index)
            }
            (PowerAction::Kill, true) => {
                if let Some(running) = self.members[index].running.take() {
                    running.kill()?;
                    // Waits until it is gone, so that "on" finds its disks unlocked.
                    running.id.kill()?;
                }
                tracing::info!(machine = name, "killed");
                self.off(index, "killed".to_owned())
            }
        }
    }

    fn running(&mut self, name: &str) -> Result<&mut Running> {
        let index = self.find(name)?;
        let running = self.members[index].running.as_mut();
        running.with_context(|| format!("{name} is off"))
    }

    fn with_running(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut Running) -> Result<()>,
    ) -> Result<()> {
        let member = &mut self.members[index];
        member.running.as_mut().map_or(Ok(()), act)
    }

    fn power_on(&mut self, index: usize) -> Result<()> {
        let member = &mut self.members[index];
        member.start += 1;
        let (start, machine) = (member.start, index);
        // The receiver lives as long as the process.
        let (on_reset, on_exit) = (self.sender.clone(), self.sender.clone());
        let offset = member.console.length();
        let running = Running::start(
            &self.spec,
            &member.spec,
            self.paths.dir(),
            move || drop(on_reset.send(Event::GuestReset { machine, start })),
            move |how| drop(on_exit.send(Event::Exited { machine, start, how })),
        )
        .with_context(|| format!("switching {} on", member.spec.name))?;
        let id = running.id;
        let name = member.spec.name.clone();
        let link = member.port.link();
        member.running = Some(running);
        let state = self.state_of(index);
        state.power = Power::On;
        state.qemu = Some(id);
        state.ended = None;
        state.booted(offset);
        tracing::info!(machine = name, pid = id.pid, "switched on");
        self.save()?;
        if !link.up {
            self.with_running(index, |r| r.set_carrier(false))?;
        }
        Ok(())
    }

    fn booted(&mut self, index: usize) -> Result<()> {
        let offset = self.members[index].console.length();
        self.state_of(index).booted(offset);
        self.save()
    }

    fn off(&mut self, index: usize, how: String) -> Result<()> {
        self.members[index].running = None;
        let state = self.state_of(index);
        state.power = Power::Off;
        state.qemu = None;
        state.ended = Some(how);
        self.save()
    }

    fn link(&mut self, index: usize, change: LinkChange) -> Result<Value> {
        let mut link = self.members[index].port.link();
        if let Some(loss) = change.loss_percent {
            if !(0.0..=100.0).contains(&loss) {
                bail!("{loss} % of the frames cannot be lost; say 0 to 100");
            }
            link.loss_percent = loss;
        }
        link.delay_ms = change.delay_ms.unwrap_or(link.delay_ms);
        link.up = change.up.unwrap_or(link.up);
        self.members[index].port.set_link(link);
        self.state_of(index).link = link;
        self.save()?;
        if let Some(up) = change.up {
            self.with_running(index, |r| r.set_carrier(up))?;
        }
        Ok(json!(link))
    }

    fn note(&mut self, event: Event) -> Result<()> {
        match event {
            Event::GuestReset { machine, start } if self.members[machine].start == start => {
                tracing::info!(machine = self.members[machine].spec.name, "reset by its guest");
                self.booted(machine)
            }
            Event::Exited { machine, start, how }
                if self.members[machine].start == start
                    && self.members[machine].running.is_some() =>
            {
                tracing::info!(machine = self.members[machine].spec.name, how, "off");
                self.off(machine, how)
            }
            Event::NetworkBootFailed { machine } => {
                let name = &self.members[machine].spec.name;
                tracing::info!(machine = name, "got nothing from the network: tries again");
                if let Err(error) = self.with_running(machine, Running::press_reset) {
                    tracing::warn!(error = format!("{error:#}"), "resetting a machine");
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The lab's two networks. That of the rack has no ports when there is no rack.
struct Networks {
    admin: Switch,
    rack: Switch,
}

/// The switches, recorded as the lab wants it, with the router between them.
fn networks(spec: &LabSpec) -> Result<Networks> {
    let networks = Networks { admin: Switch::new(), rack: Switch::new() };
    // In this order: that of the rack comes second, and only when there is one.
    for (switch, record) in [&networks.admin, &networks.rack].iter().zip(spec.recordings()) {
        switch
            .record(&record)
            .with_context(|| format!("recording traffic to {}", record.display()))?;
    }
    if let Some(rack) = &spec.rack {
        let (uplink, port) =
            (networks.admin.add_port(&rack.name), networks.rack.add_port(&rack.name));
        relay::connect(rack, &uplink, &port)
            .with_context(|| format!("connecting the router of {}", rack.name))?;
    }
    Ok(networks)
}

impl Member {
    fn new(
        paths: &Paths,
        machine: &MachineSpec,
        index: usize,
        switch: &Switch,
        sender: &Sender<Event>,
    ) -> Result<Self> {
        let dir = paths.machine(&machine.name);
        let port = switch.add_port(&machine.name);
        port.serve(listen(&dir.join(qemu::NET_SOCKET)).context("opening net.sock")?)?;
        let mut failures = NETWORK_BOOT_FAILED.to_vec();
        if machine.firmware == Firmware::Uefi {
            failures.push(PXE_FAILED);
        }
        let watches = machine.firmware.is_uefi() && machine.key.is_none();
        let watcher = watches.then(|| network_boot_watcher(index, failures, sender.clone()));
        let console = console::Server::start(&dir, qemu::SERIAL_SOCKET, watcher)?;
        Ok(Self { spec: machine.clone(), port, console, running: None, start: 0 })
    }
}

fn network_boot_watcher(
    machine: usize,
    failures: Vec<&'static [u8]>,
    sender: Sender<Event>,
) -> console::Watcher {
    let longest = failures.iter().map(|words| words.len()).max().unwrap_or_default();
    let mut tail = Vec::new();
    Box::new(move |bytes| {
        tail.extend_from_slice(bytes);
        let says = |words: &[u8]| tail.windows(words.len()).any(|w| w == words);
        if failures.iter().any(|words| says(words)) {
            tail.clear();
            drop(sender.send(Event::NetworkBootFailed { machine }));
        }
        tail.drain(..tail.len().saturating_sub(longest));
    })
}

/// Turns SIGINT, SIGTERM and SIGHUP into events, in all threads started after this.
fn watch_signals(sender: &Sender<Event>) -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("blocking signals")?;
    let sender = sender.clone();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if let Ok(signal) = signals.wait() {
            drop(sender.send(Event::Signal(signal)));
        }
    })?;
    Ok(())
}
