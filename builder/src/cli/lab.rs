//! `headnode lab`: a datacenter in QEMU.

mod rack;
mod show;
mod terminal;
mod wait;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};

use crate::lab::control::{self, LinkChange, PowerAction, Request};
use crate::lab::down::{self, Keep};
use crate::lab::paths::Paths;
use crate::lab::spec::{Forward, parse_size, parse_uuid};
use crate::lab::state::Power;
use crate::lab::supervisor::Supervisor;
use crate::lab::{Accel, Firmware, KeyBus, Lab, Machine, Options, Rom, client, disks, ssh};

/// How long `up --wait` and `power off` wait.
const WAIT_LIMIT: Duration = Duration::from_secs(600);
/// How long an operating system may take to shut down.
const OFF_LIMIT: Duration = Duration::from_secs(120);

/// A datacenter in QEMU: a headnode from an image, and blank nodes that boot from the network
///
/// Machines are called headnode, node1, node2 and so on. Their admin NICs are on a switch that
/// belongs to the lab; the headnode's second NIC reaches nothing, and only the ports listed by
/// `status` lead to it, from 127.0.0.1. Neither root nor KVM is needed.
///
/// A node boots with the firmware that it is told (`--node-firmware bios,uefi,uefi-http`), and may be in
/// a rack behind a relay (`--rack-nodes`).
///
/// Identities never change: the headnode's admin NIC is 52:54:00:00:00:01 and its external one
/// 52:54:00:00:01:01 (10.0.2.15/24); node1's NIC is 52:54:00:00:00:02, and so on.
#[derive(Parser, Debug)]
#[command(after_help = "Example:
  headnode lab key > key.pub          # put this key into the image
  headnode lab up headnode.img --nodes 2 --firmware uefi
  headnode lab wait headnode --console 'login:' --timeout 120
  headnode lab link node2 --loss 5 --delay 50ms
  headnode lab ssh headnode -- zpool status
  headnode lab down")]
pub struct Args {
    /// The lab's folder
    #[arg(long, global = true, default_value = "lab", env = "HEADNODE_LAB_DIR")]
    dir: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Make a lab from an image and switch its machines on
    Up {
        #[command(flatten)]
        options: LabArgs,
        /// Wait until the headnode's ssh answers, showing its console meanwhile
        #[arg(long)]
        wait: bool,
    },
    /// Run a lab in the foreground, until Ctrl-C, and show its consoles
    ///
    /// With an image: makes the lab first. Without: starts the one that was stopped in --dir again,
    /// with its disks as they are.
    Run {
        #[command(flatten)]
        options: RunArgs,
        /// Do not show the consoles
        #[arg(long)]
        quiet: bool,
    },
    /// Show the machines, their addresses and the forwarded ports
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Type at a machine's serial console; Ctrl-] leaves
    Console {
        /// The machine
        name: String,
    },
    /// Print what a machine's console has shown
    Logs {
        /// The machine
        name: String,
        /// Go on printing what comes
        #[arg(short, long)]
        follow: bool,
        /// Print only lines that match this regular expression
        #[arg(long, value_name = "REGEX")]
        grep: Option<String>,
        /// Print from the last power-on or reset only
        #[arg(long)]
        boot: bool,
    },
    /// Log in to a machine, or run a command on it, as root
    Ssh {
        /// The machine
        name: String,
        /// The command
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Change a machine's power
    Power {
        /// The machine
        name: String,
        /// on; off (asks the operating system, and waits); reset; kill (pulls the plug)
        action: PowerAction,
    },
    /// Plug a USB stick into a running machine that boots from a key
    ///
    /// The file is a raw disk, `truncate -s 4G stick` makes a blank one. Prints the serial number by
    /// which the machine knows the stick.
    Plug {
        /// The machine
        name: String,
        /// The file
        file: PathBuf,
    },
    /// Pull that stick out, without asking the operating system
    Unplug {
        /// The machine
        name: String,
    },
    /// Wait for a line on the consoles of one or more machines
    ///
    /// Prints, for each, the seconds from the machine's last power-on or reset to the line, and the
    /// line. A terminal sees meanwhile what each console shows. Status 1: the time is over or a
    /// machine is off.
    Wait {
        /// The machines
        #[arg(required = true)]
        names: Vec<String>,
        /// What the line must match
        #[arg(long, value_name = "REGEX")]
        console: String,
        /// Print the lines that match this on the way, on standard error
        #[arg(long, value_name = "REGEX")]
        show: Option<String>,
        /// Seconds
        #[arg(long, default_value_t = 120)]
        timeout: u64,
        /// Begin with this start of the machine (1 is the first), and wait for it
        #[arg(long, value_name = "N")]
        boot: Option<u64>,
        /// Print JSON, a line for each machine: {"machine": "…", "seconds": 12.3, "line": "…"}
        #[arg(long)]
        json: bool,
    },
    /// Lose, delay or cut a machine's link to the switch
    Link {
        /// The machine
        name: String,
        /// Lost frames in each direction, percent
        #[arg(long, value_name = "PERCENT")]
        loss: Option<f64>,
        /// Delay in each direction, for example 50ms or 1s
        #[arg(long, value_parser = parse_delay)]
        delay: Option<u64>,
        /// Cut the link
        #[arg(long, conflicts_with = "up")]
        down: bool,
        /// Join the link again
        #[arg(long)]
        up: bool,
        /// No loss, no delay, not cut
        #[arg(long, conflicts_with_all = ["loss", "delay", "down", "up"])]
        clear: bool,
    },
    /// Print the lab's public ssh key, made if there is none; put it into the image
    Key,
    /// End the lab and remove its files, except the key of `lab key`
    Down {
        /// Keep the logs and the recording
        #[arg(long)]
        keep_logs: bool,
        /// Keep everything, so that `lab run` can start the lab again
        #[arg(long, conflicts_with_all = ["keep_logs", "key"])]
        keep_all: bool,
        /// Remove the key as well
        #[arg(long)]
        key: bool,
    },
}

#[derive(clap::Args, Debug)]
struct LabArgs {
    /// The headnode's disk image: raw, compressed (zstd, gzip), qcow2, vmdk or ISO; or, with --key pxe,
    /// the .tgz for boot servers. It is only read
    image: PathBuf,
    #[command(flatten)]
    machines: MachineArgs,
}

#[derive(clap::Args, Debug)]
struct RunArgs {
    /// The headnode's disk image; none starts a stopped lab again
    image: Option<PathBuf>,
    #[command(flatten)]
    machines: MachineArgs,
}

#[derive(clap::Args, Debug)]
struct MachineArgs {
    /// The lab's name; the machines' UUIDs depend on it
    #[arg(long, default_value = "lab")]
    name: String,
    /// How many blank compute nodes
    #[arg(long, default_value_t = 0)]
    nodes: u8,
    /// Leave the nodes off until `lab power NAME on`
    #[arg(long)]
    nodes_off: bool,
    /// The firmware of all machines
    #[arg(long, value_enum, default_value = "bios")]
    firmware: Firmware,
    /// The firmware of node1, node2 and so on, when it is another one; a list that is too short
    /// begins again
    #[arg(long, value_enum, value_name = "FIRMWARE,…", value_delimiter = ',')]
    node_firmware: Vec<Firmware>,
    #[command(flatten)]
    rack: rack::RackArgs,
    /// The boot ROM of BIOS nodes: a plain PXE ROM, or QEMU's iPXE
    #[arg(long, value_enum, default_value = "pxe")]
    rom: Rom,
    /// How the image is attached; pxe: not at all, its files are served to the booting headnode
    #[arg(long, value_enum, default_value = "usb")]
    key: KeyBus,
    /// Sizes of the headnode's data disks; an empty value is no disk
    #[arg(long, value_name = "SIZE,…", default_value = "8G,8G", value_parser = parse_sizes)]
    disks: Sizes,
    /// A virtual disk, qcow2 or vmdk: the headnode gets a copy of it as one more data disk
    #[arg(long, value_name = "FILE")]
    disk_image: Vec<PathBuf>,
    /// Sizes of each node's disks [default: as --disks]
    #[arg(long, value_name = "SIZE,…", value_parser = parse_sizes)]
    node_disks: Option<Sizes>,
    /// The headnode's memory, MiB
    #[arg(long, default_value_t = 2048)]
    memory: u32,
    /// Each node's memory, MiB
    #[arg(long, default_value_t = 1536)]
    node_memory: u32,
    /// Who runs the guests; auto is KVM when a probe guest runs with it
    #[arg(long, value_enum, default_value = "auto")]
    accel: Accel,
    /// Record the switch's traffic for tcpdump and Wireshark
    #[arg(long, value_name = "FILE.pcap")]
    record: Option<PathBuf>,
    /// Lead a port of 127.0.0.1 (0: any free one) to one of the headnode; 22 always has one
    #[arg(long, value_name = "HOST:GUEST")]
    forward: Vec<Forward>,
    /// The private key for `lab ssh`, when it is not that of `lab key`
    #[arg(long, value_name = "FILE")]
    ssh_key: Option<PathBuf>,
    /// Give a machine another UUID than the one that follows from the names
    #[arg(long, value_name = "MACHINE=UUID", value_parser = parse_uuid)]
    uuid: Vec<(String, uuid::Uuid)>,
}

/// A newtype, because clap would take a list for several values.
#[derive(Debug, Clone)]
struct Sizes(Vec<u64>);

fn parse_sizes(text: &str) -> Result<Sizes, String> {
    text.split(',').filter(|t| !t.is_empty()).map(parse_size).collect::<Result<_, _>>().map(Sizes)
}

fn parse_delay(text: &str) -> Result<u64, String> {
    let bad = || format!("'{text}' is no time; write for example 50ms or 1s");
    let (digits, factor) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 1),
        None => (text.strip_suffix('s').ok_or_else(bad)?, 1000),
    };
    let time: u64 = digits.parse().map_err(|_| bad())?;
    time.checked_mul(factor)
        .filter(|t| *t <= 60_000)
        .ok_or_else(|| format!("'{text}' is too long; a link is at most 60s late"))
}

impl MachineArgs {
    fn options(self, image: PathBuf, dir: PathBuf) -> Options {
        let node_disks = self.node_disks.unwrap_or_else(|| self.disks.clone()).0;
        Options {
            name: self.name,
            nodes: self.nodes,
            nodes_off: self.nodes_off,
            firmware: self.firmware,
            node_firmware: self.node_firmware,
            rack_nodes: self.rack.nodes(),
            rack: self.rack.rack(),
            rom: self.rom,
            key: self.key,
            disks: self.disks.0,
            disk_images: self.disk_image,
            node_disks,
            memory: self.memory,
            node_memory: self.node_memory,
            accel: self.accel,
            record: self.record,
            forwards: self.forward,
            ssh_key: self.ssh_key,
            uuids: self.uuid,
            ..Options::new(image, dir)
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// What went wrong, for the user.
pub fn run(args: Args) -> Result<ExitCode> {
    let paths = Paths::new(&args.dir)?;
    let done = match args.verb {
        Verb::Up { options, wait } => up(options.machines.options(options.image, args.dir), wait),
        Verb::Run { options, quiet } => {
            let paths = match options.image {
                Some(image) => {
                    client::prepare(&options.machines.options(image, args.dir), |note| {
                        eprintln!("{note}")
                    })?
                }
                None => paths,
            };
            run_lab(paths, quiet)
        }
        Verb::Status { json } => show::status(&paths, json),
        Verb::Console { name } => terminal::attach(&paths, &name),
        Verb::Logs { name, follow, grep, boot } => {
            show::logs(&paths, &name, follow, grep.as_deref(), boot)
        }
        Verb::Ssh { name, command } => return log_in(&paths, &name, &command),
        Verb::Plug { name, file } => {
            println!("{}", Machine::new(paths, &name).plug(&file)?);
            Ok(())
        }
        Verb::Unplug { name } => Machine::new(paths, &name).unplug(),
        Verb::Power { name, action } => power(&Machine::new(paths, &name), action),
        Verb::Wait { names, console, show, timeout, boot, json } => {
            let machines: Vec<_> = names.iter().map(|n| Machine::new(paths.clone(), n)).collect();
            let limit = Duration::from_secs(timeout);
            wait::run(&machines, &wait::Line { console, show, boot, limit }, json)
        }
        Verb::Link { name, loss, delay, down, up, clear } => {
            let change = if clear {
                LinkChange { up: Some(true), loss_percent: Some(0.0), delay_ms: Some(0) }
            } else {
                let up = if down { Some(false) } else { up.then_some(true) };
                LinkChange { up, loss_percent: loss, delay_ms: delay }
            };
            let link = control::ask(&paths, &Request::Link { machine: name, change })?;
            println!("{link}");
            Ok(())
        }
        Verb::Key => {
            let key = disks::make_key(&paths)?.with_extension("pub");
            let text = std::fs::read_to_string(&key)
                .with_context(|| format!("reading {}", key.display()))?;
            print!("{text}");
            Ok(())
        }
        Verb::Down { keep_logs, keep_all, key } => {
            let keep = Keep { logs: keep_logs, all: keep_all, no_key: key };
            if !down::down(&paths, keep)? {
                eprintln!("no lab in {}", paths.dir().display());
            }
            Ok(())
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn up(options: Options, wait: bool) -> Result<()> {
    let begin = Instant::now();
    let paths = client::prepare(&options, |note| eprintln!("{note}"))?;
    if let Err(error) = client::start(&paths, options.program.as_deref()) {
        // The supervisor's words are in the error; its files are of no more use.
        down::down(&paths, Keep::default())?;
        return Err(error);
    }
    eprintln!("the lab is up after {:.1} s", begin.elapsed().as_secs_f64());
    if wait {
        show::wait_for_ssh(&paths, WAIT_LIMIT)?;
    }
    show::status(&paths, false)
}

fn run_lab(paths: Paths, quiet: bool) -> Result<()> {
    let supervisor = Supervisor::new(paths.clone())?;
    if !quiet {
        show::follow_all(&paths)?;
    }
    supervisor.run()
}

fn power(machine: &Machine, action: PowerAction) -> Result<()> {
    machine.power(action)?;
    if action == PowerAction::Off {
        machine.wait_power(Power::Off, OFF_LIMIT).context(
            "the operating system does not shut down; `lab power NAME kill` pulls the plug",
        )?;
    }
    let name = machine.name();
    let words = action.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
    eprintln!("{name}: {words}");
    Ok(())
}

fn log_in(paths: &Paths, name: &str, command: &[String]) -> Result<ExitCode> {
    // Checks that the lab runs before ssh's less helpful words are heard.
    Lab::attach(paths.dir())?;
    let arguments = ssh::arguments(paths, name)?;
    // The user's terminal becomes ssh's: it is no program to be watched, but to be replaced by.
    let status = std::process::Command::new("ssh")
        .args(arguments)
        .args(command)
        .status()
        .context("starting ssh")?;
    match status.code() {
        Some(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(255))),
        None => bail!("ssh was ended ({status})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn lists_of_sizes_and_delays_are_read() {
        assert_eq!(parse_sizes("8G,512M").unwrap().0, [8 << 30, 512 << 20]);
        assert!(parse_sizes("").unwrap().0.is_empty());
        assert!(parse_sizes("8G,x").is_err());
        assert_eq!(parse_delay("50ms"), Ok(50));
        assert_eq!(parse_delay("2s"), Ok(2000));
        assert!(parse_delay("2").is_err());
        assert!(parse_delay("9999999s").is_err());
    }
}
