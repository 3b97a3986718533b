//! The lab as its users see it: make one, work with its machines, end it.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use regex::Regex;

use super::console::{Follower, Line, time_of_line};
use super::control::{self, LinkChange, PowerAction, Request, Status};
use super::down::{self, Found, Keep};
use super::paths::Paths;
use super::spec::{self, HEADNODE, LabSpec, Options};
use super::state::{Boot, MachineState, Phase, Power, State, now_ms, read_json, write_json};
use super::{disks, host, ssh};

/// How long a supervisor may take until all its machines are on.
const UP_LIMIT: Duration = Duration::from_secs(180);
/// How often a growing file is looked at.
const TICK: Duration = Duration::from_millis(20);

/// A running lab. Dropping the value that [`Lab::up`] gave ends the lab and removes its files.
#[derive(Debug)]
pub struct Lab {
    paths: Paths,
    owned: bool,
    keep: Keep,
}

/// A machine of a [`Lab`].
#[derive(Debug, Clone)]
pub struct Machine {
    paths: Paths,
    name: String,
}

/// A console line that was waited for.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// The line, without escape sequences.
    pub line: String,
    /// Seconds from the machine's last power-on or reset to the line.
    pub seconds: f64,
}

/// The lab's description.
///
/// # Errors
/// When there is no lab in the folder.
pub fn read_spec(paths: &Paths) -> Result<LabSpec> {
    read_json(&paths.spec())?.with_context(|| {
        format!("no lab in {}; start one with `headnode lab up`", paths.dir().display())
    })
}

/// Makes all files of a lab, ready for its supervisor; tells what a user should know as warnings
/// and notes through `tell`.
///
/// # Errors
/// All faults of the options; what is missing on this machine; a lab that is there already. What
/// was made until then is removed again.
pub fn prepare(options: &Options, mut tell: impl FnMut(&str)) -> Result<Paths> {
    options.validate()?;
    disks::check_image(&options.image)?;
    host::check_programs(options)?;
    let paths = Paths::new(&options.dir)?;
    let record = options.record.as_deref().map(std::path::absolute).transpose()?;
    let dir = paths.dir().display();
    match down::find(&paths)? {
        Found::Nothing => down::check_folder(&paths, record.as_deref())?,
        Found::Running => bail!(
            "a lab runs in {dir} already; end it with `headnode lab down --dir {dir}` or name another folder with --dir"
        ),
        Found::Stopped => bail!(
            "the folder {dir} holds a stopped lab; start it again with `headnode lab run --dir {dir}` or remove it with `headnode lab down --dir {dir}`"
        ),
        Found::Crashed => {
            tell(&format!("removing what a crashed lab has left in {dir}"));
            down::down(&paths, Keep::default())?;
        }
    }
    std::fs::create_dir_all(paths.dir()).with_context(|| format!("making the folder {dir}"))?;
    let made = write_lab(options, &paths, record, &mut tell);
    if made.is_err() {
        // The first error is the one to show.
        drop(down::down(&paths, Keep::default()));
    }
    made.map(|()| paths)
}

fn write_lab(
    options: &Options,
    paths: &Paths,
    record: Option<PathBuf>,
    tell: &mut impl FnMut(&str),
) -> Result<()> {
    let forwards = host::choose_ports(&options.forwards)?;
    let (accel, why) = host::choose_accel(options.accel, paths.dir())?;
    tell(&format!("the machines run with {why}"));
    let machines = spec::machines(options, forwards);
    for warning in host::warnings(&machines, paths.dir()) {
        tell(&format!("warning: {warning}"));
    }
    let ssh_key = match &options.ssh_key {
        Some(key) => std::path::absolute(key)?,
        None => paths.file("id_ed25519"),
    };
    let spec = LabSpec {
        name: options.name.clone(),
        image: std::path::absolute(&options.image)?,
        accel,
        record,
        ssh_key,
        rack: (options.rack_nodes > 0).then(|| options.rack.clone()),
        machines,
    };
    // First, so that `down` knows the folder for a lab's, whatever happens next.
    write_json(&paths.spec(), &spec)?;
    disks::prepare(paths, &spec)
}

/// Starts the supervisor of a prepared lab in the background, and waits until its machines are on.
///
/// # Errors
/// What the supervisor says when it ends; the lab's files are kept then.
pub fn start(paths: &Paths, program: Option<&Path>) -> Result<()> {
    let program = match program {
        Some(program) => program.to_owned(),
        None => std::env::current_exe().context("finding the running program")?,
    };
    let log_path = paths.log();
    let log = File::create(&log_path).with_context(|| format!("opening {}", log_path.display()))?;
    let mut child = Command::new(&program)
        .args(["lab", "run", "--quiet", "--dir"])
        .arg(paths.dir())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A Ctrl-C at the terminal is not for it.
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    let pid = child.id();
    let deadline = Instant::now() + UP_LIMIT;
    let outcome = loop {
        let state: Option<State> = read_json(&paths.state())?;
        if state.is_some_and(|s| s.supervisor.pid == pid && s.phase == Phase::Running) {
            break Ok(());
        }
        if let Some(status) = child.try_wait()? {
            let said = std::fs::read_to_string(&log_path).unwrap_or_default();
            break Err(anyhow::anyhow!("the lab's supervisor ended ({status}):\n{}", said.trim()));
        }
        if Instant::now() > deadline {
            drop(child.kill());
            break Err(anyhow::anyhow!("the lab was not up within {} s", UP_LIMIT.as_secs()));
        }
        std::thread::sleep(TICK);
    };
    // A long-lived caller must not leave a zombie behind when the lab is ended.
    std::thread::spawn(move || child.wait());
    outcome
}

impl Lab {
    /// Makes a lab and switches its machines on.
    ///
    /// # Errors
    /// As [`prepare`] and [`start`]; nothing is left of a lab that did not start.
    pub fn up(options: &Options) -> Result<Self> {
        let paths = prepare(options, |note| tracing::info!("{note}"))?;
        if let Err(error) = start(&paths, options.program.as_deref()) {
            drop(down::down(&paths, Keep::default()));
            return Err(error);
        }
        Ok(Self { paths, owned: true, keep: Keep::default() })
    }

    /// The lab that runs in this folder; dropping the value leaves it alone.
    ///
    /// # Errors
    /// When none runs there.
    pub fn attach(dir: &Path) -> Result<Self> {
        let paths = Paths::new(dir)?;
        control::status(&paths)?;
        Ok(Self { paths, owned: false, keep: Keep::default() })
    }

    /// Keeps the logs when the lab is ended by dropping the value; for tests that failed.
    pub fn keep_logs(&mut self) {
        self.keep.logs = true;
    }

    /// The lab's folder.
    pub fn dir(&self) -> &Path {
        self.paths.dir()
    }

    /// The lab's description.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn spec(&self) -> Result<LabSpec> {
        read_spec(&self.paths)
    }

    /// What runs, and what passed the switch.
    ///
    /// # Errors
    /// When the supervisor does not answer.
    pub fn status(&self) -> Result<Status> {
        control::status(&self.paths)
    }

    /// The machine of this name; that it exists is checked when it is used.
    pub fn machine(&self, name: &str) -> Machine {
        Machine::new(self.paths.clone(), name)
    }

    /// The headnode.
    pub fn headnode(&self) -> Machine {
        self.machine(HEADNODE)
    }

    /// The port on 127.0.0.1 that leads to this port of the headnode.
    ///
    /// # Errors
    /// When it is not forwarded.
    pub fn forwarded(&self, guest: u16) -> Result<u16> {
        let spec = self.spec()?;
        let forwards = &spec.machine(HEADNODE)?.forwards;
        let found = forwards.iter().find(|f| f.guest == guest);
        Ok(found.with_context(|| format!("port {guest} is not forwarded"))?.host)
    }

    /// Ends the lab and removes its files.
    ///
    /// # Errors
    /// As [`down::down`].
    pub fn down(mut self) -> Result<()> {
        self.owned = false;
        down::down(&self.paths, self.keep).map(drop)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.owned
            && let Err(error) = down::down(&self.paths, self.keep)
        {
            tracing::error!(error = format!("{error:#}"), "ending a lab");
        }
    }
}

impl Machine {
    /// The machine of this name in this lab.
    pub fn new(paths: Paths, name: &str) -> Self {
        Self { paths, name: name.to_owned() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its state.
    ///
    /// # Errors
    /// When the lab has no such machine or its state cannot be read.
    pub fn state(&self) -> Result<MachineState> {
        read_spec(&self.paths)?.machine(&self.name)?;
        let state: Option<State> = read_json(&self.paths.state())?;
        let mut state = state.context("the lab was never started")?;
        Ok(state.machines.remove(&self.name).unwrap_or_default())
    }

    /// Its last power-on or reset.
    ///
    /// # Errors
    /// When it was never switched on.
    pub fn boot(&self) -> Result<Boot> {
        let state = self.state()?;
        state.boots.last().copied().with_context(|| format!("{} was never on", self.name))
    }

    /// Waits until the machine has been switched on or reset `number` times.
    ///
    /// # Errors
    /// When the time is over.
    pub fn wait_boot(&self, number: u64, limit: Duration) -> Result<Boot> {
        let deadline = Instant::now() + limit;
        loop {
            if let Ok(boot) = self.boot()
                && boot.number >= number
            {
                return Ok(boot);
            }
            if Instant::now() > deadline {
                let name = &self.name;
                bail!("{name} did not start for the {number}. time within {} s", limit.as_secs());
            }
            std::thread::sleep(TICK);
        }
    }

    /// Waits until the machine has this power.
    ///
    /// # Errors
    /// When the time is over.
    pub fn wait_power(&self, power: Power, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while self.state()?.power != power {
            if Instant::now() > deadline {
                bail!("{} is not {power} after {} s", self.name, limit.as_secs());
            }
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    /// Waits until the console shows a line, or a prompt, that the regular expression matches; also
    /// finds one that is there already, but none from before the machine's last start.
    ///
    /// # Errors
    /// When the expression is none, the time is over, or the machine is off and has not shown it;
    /// with the console's last lines.
    pub fn wait_console(&self, regex: &str, limit: Duration) -> Result<Seen> {
        let boot = self.boot()?;
        self.wait_console_from(&boot, regex, limit)
    }

    /// As [`Machine::wait_console`], beginning with a start that was remembered. Lines of later
    /// starts count too.
    ///
    /// # Errors
    /// As [`Machine::wait_console`].
    pub fn wait_console_from(&self, boot: &Boot, regex: &str, limit: Duration) -> Result<Seen> {
        self.watch_console_from(boot, regex, limit, &mut |_| {})
    }

    /// As [`Machine::wait_console_from`]; tells each line that it reads on the way.
    ///
    /// # Errors
    /// As [`Machine::wait_console`].
    pub fn watch_console_from(
        &self,
        boot: &Boot,
        regex: &str,
        limit: Duration,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Seen> {
        let wanted = Regex::new(regex).with_context(|| format!("understanding '{regex}'"))?;
        let deadline = Instant::now() + limit;
        let mut log = Follower::open(&self.paths.console(&self.name), boot.console_offset)?;
        let mut last: Vec<String> = Vec::new();
        loop {
            // Asked before the log is read: then nothing can come after it.
            let off = self.state()?.power == Power::Off || !self.supervised()?;
            let mut found: Option<Line> = None;
            log.read(|line| {
                if found.is_none() {
                    tell(&line.text);
                }
                if found.is_none() && wanted.is_match(&line.text) {
                    found = Some(line.clone());
                }
                if last.len() == 10 {
                    last.remove(0);
                }
                last.push(line.text);
            })?;
            let unfinished = log.unfinished();
            let found = found.or_else(|| unfinished.filter(|l| wanted.is_match(&l.text)));
            if let Some(line) = found {
                let at = time_of_line(&self.paths.console_index(&self.name), &line);
                let seconds = at.saturating_sub(boot.at_ms) as f64 / 1000.0;
                return Ok(Seen { line: line.text, seconds });
            }
            if off || Instant::now() > deadline {
                let name = &self.name;
                let why = if off {
                    let how = self.state()?.ended.unwrap_or_else(|| "not switched on".to_owned());
                    format!("{name} is off ({how})")
                } else {
                    format!("{:.0} s are over", limit.as_secs_f64())
                };
                last.extend(log.unfinished().map(|l| l.text));
                bail!(
                    "{name}'s console did not show '{regex}': {why}; its last lines:\n  {}",
                    last.join("\n  ")
                );
            }
            std::thread::sleep(TICK);
        }
    }

    fn supervised(&self) -> Result<bool> {
        let state: Option<State> = read_json(&self.paths.state())?;
        Ok(state.is_some_and(|s| s.supervisor.alive()))
    }

    /// Changes the machine's power. "Off" only presses the button: use [`Machine::wait_power`].
    ///
    /// # Errors
    /// When it has that power already, or QEMU refuses.
    pub fn power(&self, action: PowerAction) -> Result<()> {
        let machine = self.name.clone();
        control::ask(&self.paths, &Request::Power { machine, action }).map(drop)
    }

    /// Pulls the plug.
    ///
    /// # Errors
    /// When it is off already.
    pub fn power_kill(&self) -> Result<()> {
        self.power(PowerAction::Kill)
    }

    /// Switches the machine on, with the disks as they are.
    ///
    /// # Errors
    /// When it is on already or does not start.
    pub fn power_on(&self) -> Result<()> {
        self.power(PowerAction::On)
    }

    /// Changes the machine's link to the switch.
    ///
    /// # Errors
    /// When a value is out of range.
    pub fn link(&self, change: LinkChange) -> Result<()> {
        let machine = self.name.clone();
        control::ask(&self.paths, &Request::Link { machine, change }).map(drop)
    }

    /// Plugs a USB stick in; the file is a raw disk. Gives the stick's serial number.
    ///
    /// # Errors
    /// When the machine is off or has no USB, or the file cannot be used.
    pub fn plug(&self, file: &Path) -> Result<String> {
        let file = std::fs::canonicalize(file)
            .with_context(|| format!("looking at {}", file.display()))?;
        let machine = self.name.clone();
        let serial = control::ask(&self.paths, &Request::Plug { machine, file })?;
        Ok(serial.as_str().unwrap_or_default().to_owned())
    }

    /// Pulls that stick out, without asking the operating system.
    ///
    /// # Errors
    /// When there is none.
    pub fn unplug(&self) -> Result<()> {
        let machine = self.name.clone();
        control::ask(&self.paths, &Request::Unplug { machine }).map(drop)
    }

    /// Runs a shell command on the machine as root, at most two minutes.
    ///
    /// # Errors
    /// When the machine cannot be reached (status 255) or the command fails.
    pub fn ssh(&self, command: &str) -> Result<headnode_command::Output> {
        self.ssh_within(command, headnode_command::DEFAULT_TIMEOUT)
    }

    /// As [`Machine::ssh`], with another time limit.
    ///
    /// # Errors
    /// As [`Machine::ssh`].
    pub fn ssh_within(&self, command: &str, limit: Duration) -> Result<headnode_command::Output> {
        let arguments = ssh::arguments(&self.paths, &self.name)?;
        headnode_command::Command::new("ssh")
            .args(arguments)
            .arg(command)
            .timeout(limit)
            .run()
            .with_context(|| format!("running a command on {}", self.name))
    }

    /// Waits until the machine lets us log in, and returns the seconds since its last start.
    ///
    /// # Errors
    /// When the time is over; with ssh's last words.
    pub fn wait_ssh(&self, limit: Duration) -> Result<f64> {
        let deadline = Instant::now() + limit;
        loop {
            let attempt = self.ssh_within("true", Duration::from_secs(30));
            match attempt {
                Ok(_) => {
                    let boot = self.boot()?;
                    return Ok(now_ms().saturating_sub(boot.at_ms) as f64 / 1000.0);
                }
                Err(error) if Instant::now() > deadline => {
                    let what = format!("{} takes no login after {} s", self.name, limit.as_secs());
                    return Err(error).context(what);
                }
                Err(_) => std::thread::sleep(Duration::from_millis(300)),
            }
        }
    }
}
