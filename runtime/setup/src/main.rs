//! `sdc-setup`: sets a headnode up at its first boot, and brings it up at every later one.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use headnode_model::boot::KernelParams;
use headnode_model::config::Config;
use sdc_setup::console::{self, Choice, Console};
use sdc_setup::real::Real;
use sdc_setup::record::on_key;
use sdc_setup::{check, run};

/// Sets a headnode up at its first boot, and brings it up at every later one.
///
/// Without arguments it runs the steps; systemd does that at every boot, before anyone can log in.
/// Each step may be repeated, so after a failure or a power cut it is simply run again. It does
/// nothing unless the kernel parameter headnode=true is given, and nothing with noimport=true
/// (rescue).
#[derive(Parser)]
#[command(
    name = "sdc-setup",
    version,
    after_help = "\
Exit status: 0 done, or good, or complete; 1 failed, wrong, or not complete; 2 wrong usage.

Examples:
  sdc-setup --check-answers answers.json     is this file good for private/answers.json?
  sdc-setup status --json                    how far is this machine?
  systemctl restart sdc-setup                run the steps again"
)]
struct Arguments {
    /// Check an answers file on any machine; print all that is wrong
    #[arg(long, value_name = "FILE")]
    check_answers: Option<PathBuf>,
    /// Print JSON (with --check-answers or status)
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Print how far the setup of this machine is
    Status,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("SDC_SETUP_LOG");
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let result = match (&arguments.check_answers, &arguments.verb) {
        (Some(path), _) => check::answers(path, arguments.json),
        (None, Some(Verb::Status)) => check::status(arguments.json),
        (None, None) => boot(),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sdc-setup: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn boot() -> Result<bool> {
    let line = std::fs::read_to_string("/proc/cmdline").context("reading /proc/cmdline")?;
    let params = KernelParams::parse(&line);
    if !params.headnode() {
        println!(
            "sdc-setup: this machine is no headnode (kernel parameter headnode=true is absent): nothing to do"
        );
        return Ok(true);
    }
    if params.is_true("noimport") {
        println!("sdc-setup: rescue boot (noimport=true): no pool is imported, nothing is set up");
        return Ok(true);
    }
    let machine = Real::new();
    println!("\nheadnode setup begins");
    loop {
        let mut console = Console::default();
        match run::boot(&machine, &mut |event| console.take(event)) {
            Ok(summary) => {
                println!("headnode setup complete");
                summary.iter().for_each(|line| println!("  {line}"));
                return Ok(true);
            }
            Err(failure) => console::print_failure(&failure),
        }
        loop {
            match console::after_failure() {
                Choice::Retry => break,
                Choice::Shell => shell(),
                Choice::PowerOff => {
                    headnode_command::Command::new("systemctl")
                        .args(["poweroff", "--no-block"])
                        .run()?;
                    return Ok(false);
                }
                Choice::GiveUp => return Ok(false),
            }
        }
    }
}

/// Opens a shell on the console. Before there is a configuration there is no password to ask for,
/// and nothing to protect but what whoever stands before the machine can take with him.
fn shell() {
    let config = ["/usbkey/config".into(), on_key(headnode_model::paths::CONFIG)];
    let config = config.iter().find_map(|path| std::fs::read_to_string(path).ok());
    let config = config.and_then(|text| Config::parse(&text).ok());
    if !console::may_open_shell(config.as_ref().and_then(|c| c.get("root_shadow"))) {
        return;
    }
    println!("Leave the shell with `exit`.");
    // Not by the command runner: the shell owns the terminal and has no time limit.
    if let Err(error) = std::process::Command::new("/bin/sh").status() {
        println!("starting /bin/sh: {error}");
    }
}
