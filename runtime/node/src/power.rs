//! Reboot and power off.

use std::time::Duration;

use headnode_command::{Command, Error};

/// How long `systemctl` may take to accept the order; the order itself is carried out later.
const LIMIT: Duration = Duration::from_secs(30);

/// Orders an orderly reboot: services stop, file systems are unmounted. Returns when the order is
/// accepted.
///
/// # Errors
/// When `systemctl` refuses or cannot be run.
pub fn reboot() -> Result<(), Error> {
    systemctl("reboot")
}

/// Orders an orderly power-off. Returns when the order is accepted.
///
/// # Errors
/// When `systemctl` refuses or cannot be run.
pub fn power_off() -> Result<(), Error> {
    systemctl("poweroff")
}

fn systemctl(verb: &str) -> Result<(), Error> {
    // Without --no-block the call waits for a system that ends its caller.
    Command::new("systemctl").args(["--no-block", verb]).timeout(LIMIT).run().map(drop)
}
