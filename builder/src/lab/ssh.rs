//! Logging in: an `ssh_config` for the lab, and the arguments for the `ssh` program.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};

use super::control::Status;
use super::paths::Paths;
use super::spec::{HEADNODE, LabSpec};

/// Seconds until a machine that does not answer is given up.
const CONNECT_TIMEOUT: u32 = 10;

/// The IPv4 address that the machine's admin NIC uses, as the switch saw it.
pub fn admin_ip(spec: &LabSpec, status: &Status, machine: &str) -> Option<Ipv4Addr> {
    let mac = &spec.machines.iter().find(|m| m.name == machine)?.admin_mac;
    *status.ports.get(machine)?.addresses.get(mac)?
}

/// Writes the lab's `ssh_config` with the addresses known now. `ssh -F LAB/ssh_config node1` works
/// from everywhere.
///
/// # Errors
/// When the file cannot be written.
pub fn write_config(paths: &Paths, spec: &LabSpec, status: &Status) -> Result<()> {
    let mut text = format!(
        "# Made by `headnode lab`, and renewed by `headnode lab ssh`.\n\
         # Host keys are not kept: machines run from memory and make new ones at every boot, and\n\
         # nobody else is on the lab's network.\n\
         Host *\n\
         \x20 User root\n\
         \x20 IdentityFile \"{}\"\n\
         \x20 IdentitiesOnly yes\n\
         \x20 BatchMode yes\n\
         \x20 ConnectTimeout {CONNECT_TIMEOUT}\n\
         \x20 StrictHostKeyChecking no\n\
         \x20 UserKnownHostsFile /dev/null\n\
         \x20 GlobalKnownHostsFile /dev/null\n\
         \x20 LogLevel ERROR\n",
        spec.ssh_key.display()
    );
    for machine in &spec.machines {
        if machine.name == HEADNODE {
            let port = machine.forwards.iter().find(|f| f.guest == 22).map_or(22, |f| f.host);
            text.push_str(&format!("Host {HEADNODE}\n  HostName 127.0.0.1\n  Port {port}\n"));
        } else if let Some(ip) = admin_ip(spec, status, &machine.name) {
            // ProxyJump would not pass this file on to the jump's own ssh.
            let config = paths.file("ssh_config");
            text.push_str(&format!(
                "Host {}\n  HostName {ip}\n  ProxyCommand ssh -F \"{}\" -W %h:%p {HEADNODE}\n",
                machine.name,
                config.display()
            ));
        }
    }
    write_atomically(&paths.file("ssh_config"), &text).context("writing the lab's ssh_config")
}

fn write_atomically(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let dir = path.parent().context("the path has no folder")?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

/// The arguments of `ssh` that lead to the machine, up to and with its name; a command may follow.
///
/// # Errors
/// When there is no such machine, no key, or the node's address is not known yet.
pub fn arguments(paths: &Paths, machine: &str) -> Result<Vec<String>> {
    let spec = super::client::read_spec(paths)?;
    spec.machine(machine)?;
    if !spec.ssh_key.exists() {
        anyhow::bail!(
            "there is no ssh key {}; make it with `headnode lab key` before the image is built, or name the image's key with `lab up --ssh-key`",
            spec.ssh_key.display()
        );
    }
    let status = super::control::status(paths)?;
    if machine != HEADNODE && admin_ip(&spec, &status, machine).is_none() {
        let power = status.state.machines.get(machine).map(|m| m.power);
        anyhow::bail!(
            "{machine} has not used an IPv4 address yet (it is {}); see `headnode lab logs {machine}`",
            power.map_or_else(|| "unknown".to_owned(), |p| p.to_string())
        );
    }
    write_config(paths, &spec, &status)?;
    let config = paths.file("ssh_config").display().to_string();
    Ok(vec!["-F".to_owned(), config, machine.to_owned()])
}
