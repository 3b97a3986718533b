//! The command line of a machine's QEMU. It runs inside the machine's folder, so all its own
//! files are named relative to that.

use std::path::Path;

use super::disks::{KEY_FILE, SERVED, VARS_FILE, disk_file, image_file};
use super::host;
use super::spec::{Accel, EXTERNAL_IP, Firmware, KeyBus, LabSpec, MachineSpec, Rom};

/// The switch's socket of this machine.
pub const NET_SOCKET: &str = "net.sock";
/// The supervisor's end of the serial line.
pub const SERIAL_SOCKET: &str = "serial.sock";
/// QMP for whoever wants it.
pub const QMP_SOCKET: &str = "qmp.sock";
/// QMP for the supervisor.
pub const CONTROL_SOCKET: &str = "control.sock";

/// The script among the files for boot servers that starts a Linux headnode.
const PXE_SCRIPT: &str = "headnode.ipxe";

/// The arguments with which the machine is switched on.
pub fn arguments(lab: &LabSpec, machine: &MachineSpec, lab_dir: &Path) -> Vec<String> {
    let mut line = Line(Vec::new());
    base(&mut line, lab, machine);
    firmware(&mut line, machine, lab_dir);
    disks(&mut line, machine);
    nics(&mut line, machine);
    sockets(&mut line);
    line.0
}

struct Line(Vec<String>);

impl Line {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.to_owned());
    }

    fn add(&mut self, option: &str, value: impl Into<String>) {
        self.0.push(option.to_owned());
        self.0.push(value.into());
    }
}

fn base(line: &mut Line, lab: &LabSpec, machine: &MachineSpec) {
    let name = &machine.name;
    line.add("-name", format!("{}-{name},process=lab-{name}", lab.name));
    line.flag("-nodefaults");
    line.flag("-no-user-config");
    line.add("-display", "none");
    // SeaBIOS, and through it a node's iPXE, speaks on the serial line when there is no graphics.
    // The headnode's loader does so by itself and would be heard twice.
    let loader = machine.key.is_some_and(|key| key != KeyBus::Pxe);
    let serial_bios = !loader && machine.firmware == Firmware::Bios;
    line.add("-machine", if serial_bios { "q35,graphics=off" } else { "q35" });
    match lab.accel {
        Accel::Kvm => {
            line.add("-accel", "kvm");
            line.add("-cpu", "host");
        }
        Accel::Tcg | Accel::Auto => {
            line.add("-accel", "tcg,thread=multi,tb-size=256");
            line.add("-cpu", "max");
        }
    }
    line.add("-m", machine.memory.to_string());
    line.add("-smp", machine.cpus.to_string());
    line.add("-uuid", machine.uuid.to_string());
    line.add(
        "-smbios",
        format!(
            "type=1,manufacturer=Headnode,product=Lab,version=1,serial={}-{name},uuid={},family=Lab",
            lab.name, machine.uuid
        ),
    );
    line.add("-rtc", "base=utc");
    line.add("-device", "virtio-rng-pci");
    line.add("-boot", "strict=on");
}

fn firmware(line: &mut Line, machine: &MachineSpec, lab_dir: &Path) {
    match (machine.firmware, machine.rom) {
        (Firmware::Uefi | Firmware::UefiHttp, _) => {
            let code = host::OVMF_CODE;
            line.add("-drive", format!("if=pflash,unit=0,format=raw,readonly=on,file={code}"));
            line.add("-drive", format!("if=pflash,unit=1,format=raw,file={VARS_FILE}"));
            // Otherwise EDK II asks for a minute for an IPv6 address after each try by IPv4.
            line.add("-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n");
            // Its boot entries are then HTTP's only.
            if machine.firmware == Firmware::UefiHttp {
                line.add("-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n");
            }
        }
        (Firmware::Bios, Some(Rom::Pxe)) => {
            line.add("-kernel", host::IPXE_KERNEL);
            line.add("-initrd", lab_dir.join("pxe-rom.ipxe").display().to_string());
        }
        (Firmware::Bios, _) => {}
    }
}

fn disks(line: &mut Line, machine: &MachineSpec) {
    let name = &machine.name;
    if let Some(bus) = machine.key.filter(|key| *key != KeyBus::Pxe) {
        let (device, drive) = match bus {
            KeyBus::Usb => ("usb-storage,bus=usb.0,removable=on", "discard=unmap"),
            KeyBus::Virtio | KeyBus::Pxe => ("virtio-blk-pci", "discard=unmap"),
            KeyBus::Cdrom => ("ide-cd", "media=cdrom,readonly=on"),
        };
        if bus == KeyBus::Usb {
            line.add("-device", "qemu-xhci,id=usb");
        }
        line.add("-drive", format!("if=none,id=key,format=qcow2,{drive},file={KEY_FILE}"));
        line.add("-device", format!("{device},drive=key,serial={name}-key,bootindex=1"));
    }
    let raw = (0..machine.disks.len()).map(|index| (index, disk_file(index), "format=raw,"));
    // QEMU tells the others' formats by their first bytes.
    let images = (machine.disks.len()..).zip(&machine.disk_images);
    let images = images.map(|(index, _)| (index, image_file(index), ""));
    for (index, file, format) in raw.chain(images) {
        // The host's page cache outlives a killed QEMU just as a disk outlives pulled power, and
        // the disks do not outlive the host: writing through to it would only cost time.
        line.add(
            "-drive",
            format!("if=none,id=disk{index},{format}discard=unmap,cache=unsafe,file={file}"),
        );
        let serial = format!("{name}-disk{index}");
        line.add("-device", format!("virtio-blk-pci,drive=disk{index},serial={serial}"));
    }
}

fn nics(line: &mut Line, machine: &MachineSpec) {
    line.add(
        "-netdev",
        format!("stream,id=admin,server=off,addr.type=unix,addr.path={NET_SOCKET}"),
    );
    // Without a ROM: EDK II has its own driver, and the PXE ROM comes as a kernel.
    let rom = match (machine.firmware, machine.rom) {
        (Firmware::Bios, Some(Rom::Ipxe)) => "",
        _ => ",romfile=",
    };
    // 0 is taken by the kernel where there is one.
    let boot = if machine.key.is_none() { ",bootindex=1" } else { "" };
    let mac = &machine.admin_mac;
    line.add("-device", format!("virtio-net-pci,id=nic0,netdev=admin,mac={mac}{boot}{rom}"));
    if let Some(mac) = &machine.external_mac {
        let mut netdev = "user,id=external,restrict=on,ipv6=off,net=10.0.2.0/24".to_owned();
        for f in &machine.forwards {
            let forward = format!(",hostfwd=tcp:127.0.0.1:{}-{EXTERNAL_IP}:{}", f.host, f.guest);
            netdev.push_str(&forward);
        }
        // QEMU's ROM for the NIC is an iPXE, which loads the script that it is told.
        let boot = if machine.key == Some(KeyBus::Pxe) {
            netdev.push_str(&format!(",tftp={SERVED},bootfile={PXE_SCRIPT}"));
            "bootindex=1"
        } else {
            "romfile="
        };
        line.add("-netdev", netdev);
        line.add("-device", format!("virtio-net-pci,id=nic1,netdev=external,mac={mac},{boot}"));
    }
}

fn sockets(line: &mut Line) {
    line.add("-chardev", format!("socket,id=serial,path={SERIAL_SOCKET},server=off"));
    line.add("-serial", "chardev:serial");
    for (id, path) in [("qmp", QMP_SOCKET), ("control", CONTROL_SOCKET)] {
        line.add("-chardev", format!("socket,id={id},path={path},server=on,wait=off"));
        line.add("-mon", format!("chardev={id},mode=control"));
    }
}
