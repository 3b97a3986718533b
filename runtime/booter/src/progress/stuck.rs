//! Why a machine does not go on, in a sentence that says what to look at.

use headnode_model::booter::Stage;

use super::Settings;
use super::machine::Machine;

/// Why the machine does not go on; `None` while it does, or has arrived.
pub(super) fn reason(machine: &Machine, settings: &Settings, now: i64) -> Option<String> {
    let waited = u64::try_from(now.saturating_sub(machine.last)).unwrap_or(0) / 1000;
    let over = |limit: u32| limit > 0 && waited >= u64::from(limit);
    // An operating system that renews its address does not boot.
    if machine.client == "other" && machine.stage() <= Stage::Ack {
        return None;
    }
    let address = machine.ip.map_or_else(|| "its address".to_owned(), |ip| ip.to_string());
    match machine.stage() {
        Stage::Asked => None,
        Stage::Offer if over(settings.offer_seconds) => Some(format!(
            "it has its offer of {address} for {waited} s but never asked for it: does another DHCP \
             server answer it, or do our answers not reach it (cable, VLAN, relay)?"
        )),
        Stage::Ack if over(settings.ack_seconds) => Some(match machine.client.as_str() {
            "ipxe" => format!(
                "iPXE has its address for {waited} s but never asked for its script: does a firewall \
                 block the HTTP port, or is the route back missing?"
            ),
            _ => format!(
                "it has its address for {waited} s but never got its boot program: does a firewall \
                 block TFTP (UDP 69 and the ports above 1023) or HTTP, or does a bad link lose packets?"
            ),
        }),
        Stage::Loader if over(settings.loader_seconds) => Some(format!(
            "it got the boot program {waited} s ago but never asked for a script: iPXE may have no \
             driver for this NIC, or Secure Boot refused it (look at the machine's console)"
        )),
        Stage::Script => after_script(machine, settings, waited),
        // There is no archive to wait for.
        Stage::Kernel if machine.script.as_deref() == Some("kernel") => None,
        Stage::Kernel if over(settings.kernel_seconds) => Some(format!(
            "it got the kernel {waited} s ago but not the archive: is its memory too small, or the \
             link slow? The HTTP log shows its last request"
        )),
        Stage::Archive | Stage::Bundle if over(settings.agent_seconds) => Some(format!(
            "all was sent {waited} s ago but its agent has not fetched its configuration: look at the machine's \
             console, whether the kernel starts and finds its NIC"
        )),
        _ => None,
    }
}

fn after_script(machine: &Machine, settings: &Settings, waited: u64) -> Option<String> {
    let over = |limit: u32| limit > 0 && waited >= u64::from(limit);
    match machine.script.as_deref() {
        Some("hold") if over(settings.hold_seconds) => Some(format!(
            "it waits for `sdc boot approve {}` but has not asked again for {waited} s: it may be \
             switched off",
            machine.mac
        )),
        // What it loads is not known: its disk, an operator's script.
        Some("hold" | "other") => None,
        Some("menu" | "message") => Some(format!(
            "its script does not boot it: {}",
            machine.problem.as_deref().unwrap_or("look at the machine's console")
        )),
        _ if over(settings.script_seconds) => Some(format!(
            "it got its script {waited} s ago but never asked for the kernel: look at the machine's \
             console for iPXE's message, and whether the HTTP port is reached by the URL in the script"
        )),
        _ => None,
    }
}
