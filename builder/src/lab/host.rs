//! What the lab needs of the machine that it runs on, and whether it is there.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use headnode_command::{Command, Error as CommandError};

use super::spec::{Accel, Firmware, Forward, MachineSpec, Options, Rom, machines};

/// The machine emulator.
pub const QEMU: &str = "qemu-system-x86_64";
/// EDK II for QEMU's q35, and its blank variables; Debian's package `ovmf`.
pub const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// See [`OVMF_CODE`].
pub const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// iPXE in the form of a Linux kernel; Debian's package `ipxe`.
pub const IPXE_KERNEL: &str = "/usr/lib/ipxe/ipxe.lkrn";
/// QEMU's option ROM for virtio NICs under BIOS; Debian's package `ipxe-qemu`.
pub const IPXE_ROM: &str = "/usr/lib/ipxe/qemu/pxe-virtio.rom";

/// How long the probe guest may take with KVM: so many times as long as with TCG, and never less than
/// [`PROBE_LEAST`]. Where KVM works it takes as long as with TCG, a tenth of a second. Nested without the
/// processor's help it was seen to take forty times as long, and real guests hung.
const PROBE_FACTOR: u32 = 4;
/// See [`PROBE_FACTOR`].
const PROBE_LEAST: Duration = Duration::from_secs(1);
/// How long the probe guest may take with TCG, on the busiest of machines.
const PROBE_TCG_LIMIT: Duration = Duration::from_secs(60);
/// The port of QEMU's `isa-debug-exit`, and the status with which QEMU ends when 0x10 is written.
const EXIT_PORT: u8 = 0xf4;
const EXIT_STATUS: i32 = 0x21;

/// Checks that everything the options need is installed.
///
/// # Errors
/// All that is missing at once, with the command that installs it.
pub fn check_programs(options: &Options) -> Result<()> {
    let file = |path: &str| Path::new(path).exists();
    let mut needs = vec![
        (program(QEMU), QEMU, "qemu-system-x86"),
        (program("qemu-img"), "qemu-img", "qemu-utils"),
        (program("ssh"), "ssh", "openssh-client"),
    ];
    let machines = machines(options, Vec::new());
    if machines.iter().any(|m| m.firmware.is_uefi()) {
        needs.push((file(OVMF_CODE) && file(OVMF_VARS), OVMF_CODE, "ovmf"));
    }
    let bios_nodes = machines.iter().any(|m| m.key.is_none() && m.firmware == Firmware::Bios);
    if bios_nodes && options.rom == Rom::Pxe {
        needs.push((file(IPXE_KERNEL), IPXE_KERNEL, "ipxe"));
    } else if bios_nodes {
        needs.push((file(IPXE_ROM), IPXE_ROM, "ipxe-qemu"));
    }
    let missing: Vec<_> = needs.into_iter().filter(|(there, ..)| !there).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|(_, name, _)| *name).collect();
    let packages: Vec<_> = missing.iter().map(|(.., package)| *package).collect();
    bail!(
        "the lab needs {}, which this machine does not have; install with:\n  apt-get install --no-install-recommends {}",
        names.join(", "),
        packages.join(" ")
    );
}

fn program(name: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).is_file()))
}

/// What may go wrong later because this machine is small; to be shown as warnings.
pub fn warnings(machines: &[MachineSpec], dir: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let wanted: u64 = machines.iter().map(|m| u64::from(m.memory)).sum();
    if let Some(free) = memory_available_mib()
        && free < wanted + 512
    {
        out.push(format!(
            "the machines have {wanted} MiB of memory together, but only {free} MiB are free here: it may run out"
        ));
    }
    let wanted = machines.len() as u64 * (2 << 10);
    if let Ok(fs) = rustix::fs::statvfs(dir) {
        let free = (fs.f_bavail * fs.f_frsize) >> 20;
        if free < wanted {
            out.push(format!(
                "only {free} MiB are free in {}; disks grow as they are written to, {wanted} MiB is a usual need",
                dir.display()
            ));
        }
    }
    out
}

fn memory_available_mib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? >> 10)
}

/// Chooses the free ports of ssh and of the asked forwards, and checks those that were named.
///
/// # Errors
/// When a named port is in use, or is named twice.
pub fn choose_ports(asked: &[Forward]) -> Result<Vec<Forward>> {
    let ssh = Forward { host: 0, guest: 22 };
    let wants_ssh = asked.iter().any(|f| f.guest == 22);
    let all = (!wants_ssh).then_some(ssh).into_iter().chain(asked.iter().copied());
    // All are held until all are chosen, so that no two are the same.
    let mut held = Vec::new();
    let mut chosen = Vec::new();
    for forward in all {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, forward.host)).with_context(|| {
            format!(
                "taking port {} of 127.0.0.1 for port {} of the headnode; name a free port, or 0 for any",
                forward.host, forward.guest
            )
        })?;
        chosen.push(Forward { host: listener.local_addr()?.port(), ..forward });
        held.push(listener);
    }
    chosen.sort_by_key(|f| f.guest != 22);
    Ok(chosen)
}

/// Decides who runs the guests, and tells why in words.
///
/// # Errors
/// When KVM is demanded and no guest runs with it.
pub fn choose_accel(asked: Accel, dir: &Path) -> Result<(Accel, String)> {
    match asked {
        Accel::Tcg => Ok((Accel::Tcg, "TCG, as asked".to_owned())),
        Accel::Kvm => match probe_kvm(dir) {
            Ok(()) => Ok((Accel::Kvm, "KVM, as asked".to_owned())),
            Err(why) => bail!("KVM does not run a guest here: {why}; use --accel tcg"),
        },
        Accel::Auto => Ok(match probe_kvm_cached(dir) {
            Ok(()) => (Accel::Kvm, "KVM: a probe guest ran".to_owned()),
            Err(why) => (Accel::Tcg, format!("TCG, because KVM does not run a guest: {why}")),
        }),
    }
}

/// The answer of [`probe_kvm`], remembered until this machine is next booted: where KVM hangs, the
/// probe costs its whole limit.
fn probe_kvm_cached(dir: &Path) -> Result<(), String> {
    let Some(cache) = cache_file() else { return probe_kvm(dir) };
    if let Ok(text) = std::fs::read_to_string(&cache) {
        return if text.is_empty() { Ok(()) } else { Err(text) };
    }
    let answer = probe_kvm(dir);
    let text = answer.as_ref().err().map_or("", String::as_str);
    let kept = cache.parent().map_or(Ok(()), std::fs::create_dir_all);
    if let Err(error) = kept.and_then(|()| std::fs::write(&cache, text)) {
        tracing::debug!(%error, file = %cache.display(), "the KVM probe's answer is not kept");
    }
    answer
}

fn cache_file() -> Option<PathBuf> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    Some(cache.join("headnode").join(format!("kvm-against-tcg-{}", boot.trim())))
}

/// Runs a guest of a few instructions with TCG and with KVM: `/dev/kvm` may be there and yet hang every
/// guest, or run it far more slowly than TCG.
fn probe_kvm(dir: &Path) -> Result<(), String> {
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Err(format!("opening /dev/kvm: {error}"));
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let disk = dir.join(format!(".kvm-probe-{}-{}", std::process::id(), since.subsec_nanos()));
    std::fs::write(&disk, probe_disk()).map_err(|e| format!("writing the probe guest: {e}"))?;
    let outcome = run_probe("tcg", &disk, PROBE_TCG_LIMIT).and_then(|tcg| {
        let limit = kvm_limit(tcg);
        let late = |why| {
            if why == ProbeError::Late {
                let tcg = tcg.as_secs_f32();
                return ProbeError::Other(format!(
                    "a probe guest that took {tcg:.1} s with TCG did not end within {:.1} s",
                    limit.as_secs_f32()
                ));
            }
            why
        };
        run_probe("kvm", &disk, limit).map_err(late)
    });
    drop(std::fs::remove_file(&disk));
    outcome.map(drop).map_err(|error| match error {
        ProbeError::Late => format!("a probe guest with TCG took over {PROBE_TCG_LIMIT:?}"),
        ProbeError::Other(why) => why,
    })
}

/// How long the probe guest may take with KVM when it took so long with TCG.
fn kvm_limit(tcg: Duration) -> Duration {
    PROBE_LEAST.max(tcg * PROBE_FACTOR)
}

/// Why a probe guest did not give its sign.
#[derive(Debug, PartialEq, Eq)]
enum ProbeError {
    Late,
    Other(String),
}

/// How long the probe guest took.
fn run_probe(accel: &str, disk: &Path, limit: Duration) -> Result<Duration, ProbeError> {
    let begun = Instant::now();
    let outcome = Command::new(QEMU)
        .args(["-accel", accel, "-machine", "q35", "-m", "64", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .args(["-drive", &format!("if=ide,format=raw,file={}", disk.display())])
        .timeout(limit)
        .run();
    match outcome {
        Err(CommandError::Failed { code: Some(EXIT_STATUS), .. }) => Ok(begun.elapsed()),
        Err(CommandError::TimedOut { .. }) => Err(ProbeError::Late),
        Err(error) => Err(ProbeError::Other(
            error.tail().last().cloned().unwrap_or_else(|| error.to_string()),
        )),
        Ok(_) => Err(ProbeError::Other("a probe guest ended without its sign".to_owned())),
    }
}

/// A disk whose boot sector enters protected mode, as every real guest does, and writes to the exit
/// port. It is larger than that sector because SeaBIOS boots from no disk without a cylinder.
fn probe_disk() -> Vec<u8> {
    const CODE: [u8; 43] = [
        0xfa, // cli
        0x31, 0xc0, 0x8e, 0xd8, // ds = 0
        0x0f, 0x01, 0x16, 0x2b, 0x7c, // lgdt [0x7c2b]
        0x0f, 0x20, 0xc0, 0x66, 0x83, 0xc8, 0x01, 0x0f, 0x22, 0xc0, // cr0 |= 1
        0xea, 0x19, 0x7c, 0x08, 0x00, // far jump to 0x08:0x7c19
        0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8, // 32 bits from here: ds = 0x10
        0xba, EXIT_PORT, 0x00, 0x00, 0x00, // edx = port
        0xb0, 0x10, // al = 0x10
        0xee, // out dx, al
        0xf4, // hlt
        0xeb, 0xfd, // jump back to hlt
        0x90, // nop
    ];
    // At 0x7c2b: the table's limit and address; the table itself follows at 0x7c31.
    const TABLE: [u8; 30] = [
        0x17, 0x00, 0x31, 0x7c, 0x00, 0x00, // limit 23, address 0x7c31
        0, 0, 0, 0, 0, 0, 0, 0, // null
        0xff, 0xff, 0, 0, 0, 0x9a, 0xcf, 0, // code, 4 GiB flat
        0xff, 0xff, 0, 0, 0, 0x92, 0xcf, 0, // data, 4 GiB flat
    ];
    let mut sector = vec![0; 1 << 20];
    sector[..CODE.len()].copy_from_slice(&CODE);
    sector[CODE.len()..CODE.len() + TABLE.len()].copy_from_slice(&TABLE);
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    sector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_refused_and_free_ones_differ() {
        let chosen = choose_ports(&[Forward { host: 0, guest: 80 }]).unwrap();
        assert_eq!(chosen.iter().map(|f| f.guest).collect::<Vec<_>>(), [22, 80]);
        assert_ne!(chosen[0].host, chosen[1].host);
        let busy = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = busy.local_addr().unwrap().port();
        let text = format!("{:#}", choose_ports(&[Forward { host, guest: 80 }]).unwrap_err());
        assert!(text.contains(&host.to_string()), "{text}");
    }

    #[test]
    fn e2e_lab_the_probe_guest_gives_its_sign_under_tcg() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("probe");
        std::fs::write(&disk, probe_disk()).unwrap();
        run_probe("tcg", &disk, PROBE_TCG_LIMIT).unwrap();
        // A disk without a boot sector gives none.
        std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
        assert_eq!(run_probe("tcg", &disk, Duration::from_secs(3)), Err(ProbeError::Late));
    }

    #[test]
    fn kvm_may_take_longer_than_tcg_but_not_much() {
        let limit = |tcg| kvm_limit(Duration::from_millis(tcg)).as_millis();
        // Idle, a machine that was seen to need 4 s with KVM; and one that is very busy.
        assert_eq!((limit(100), limit(2_000)), (1_000, 8_000));
    }
}
