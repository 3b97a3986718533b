//! A key is flashed on a running headnode, from a USB disk that is pulled out in between, and boots.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::datacenter::{Datacenter, image, options, program};
use headnode::lab::{Firmware, Options};

const BOOT: Duration = Duration::from_secs(300);
const STICK: &str = "/dev/disk/by-id/usb-QEMU_QEMU_HARDDISK_blank-0:0";

/// Waits on the machine until a shell condition holds.
fn until(dc: &Datacenter, condition: &str) {
    let wait = format!("for i in $(seq 600); do {condition} && exit 0; sleep 0.1; done; exit 1");
    dc.headnode(&wait);
}

fn copy_to(dc: &Datacenter, files: &[&Path]) {
    let done = Command::new("scp")
        .args(["-q", "-F"])
        .arg(dc.lab.dir().join("ssh_config"))
        .args(files)
        .arg("headnode:/var/tmp/")
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn e2e_flash_a_key_that_was_pulled_out_goes_on_and_then_boots() {
    let dc = Datacenter::up(&Options { disks: vec![8 << 30], ..options("good.img", "flash") });
    let machine = dc.lab.machine("headnode");
    dc.wait("headnode", "headnode setup complete", BOOT);
    machine.wait_ssh(BOOT).unwrap();
    let work = tempfile::tempdir_in(dc.lab.dir().parent().unwrap()).unwrap();
    let stick = work.path().join("blank.img");
    File::create(&stick).unwrap().set_len(2 << 30).unwrap();
    assert_eq!(machine.plug(&stick).unwrap(), "blank");
    until(&dc, &format!("test -e {STICK}"));

    let program = program();
    let (raw, manifest) = (image("good.img"), image("good.img.manifest.json"));
    // A raw file of that size would not fit into the memory of a small machine.
    let packed = work.path().join("good.img.zst");
    let zstd =
        Command::new("zstd").args(["-q", "-f", "-3"]).arg(&raw).arg("-o").arg(&packed).status();
    assert!(zstd.unwrap().success());
    // The key becomes another site's while it is written.
    let site = work.path().join("site");
    let keygen = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&site)
        .status();
    assert!(keygen.unwrap().success());
    let public = site.with_extension("pub");
    copy_to(&dc, &[&program, &packed, &manifest, &public]);

    // The disk under the pool and the key that the machine runs from are refused, with their names.
    let flash = "cd /var/tmp && ./headnode flash good.img.zst";
    for (disk, why) in [("/dev/vda", "zones"), ("/dev/sda", "/mnt/usbkey")] {
        let said = dc.headnode(&format!("{flash} {disk} --fixed --yes 2>&1; echo code $?"));
        assert!(said.contains("code 1"), "{said}");
        let said = dc.headnode(&format!("{flash} {disk} --fixed 2>&1 </dev/null; true"));
        assert!(said.contains(why), "{disk}: {said}");
    }
    let list = dc.headnode("cd /var/tmp && ./headnode flash --list");
    assert!(list.contains("usb-QEMU_QEMU_HARDDISK_blank-0:0"), "{list}");

    let begun = Instant::now();
    let run = |log: &str| {
        let options = "--yes --json --ssh-key site.pub";
        format!("({flash} {STICK} {options} >{log} 2>&1; echo code $? >>{log})")
    };
    dc.headnode(&format!("{} </dev/null >/dev/null 2>&1 &", run("first")));
    until(&dc, "grep -q '\"phase\":\"write\"' /var/tmp/first");
    until(&dc, "grep -qE '\"event\":\"progress\"|\"phase\":\"flush\"' /var/tmp/first");
    machine.unplug().unwrap();
    until(&dc, "grep -q '^code' /var/tmp/first");
    let first = dc.headnode("cat /var/tmp/first");
    assert!(first.contains("code 1") && first.contains("pulled out"), "{first}");
    let mut head = [1; 512];
    std::os::unix::fs::FileExt::read_exact_at(&File::open(&stick).unwrap(), &mut head, 0).unwrap();
    assert_eq!(head, [0; 512], "a key that was pulled out half-way boots");

    machine.plug(&stick).unwrap();
    until(&dc, &format!("test -e {STICK}"));
    dc.headnode(&format!("{}; true", run("second")));
    let second = dc.headnode("cat /var/tmp/second");
    assert!(second.contains("code 0") && second.contains("\"event\":\"written\""), "{second}");
    println!("FIGURE flash in a guest, pulled out once: {:.1} s", begun.elapsed().as_secs_f64());
    until(&dc, &format!("test -e {STICK}-part3"));
    machine.unplug().unwrap();
    drop(dc);

    // The lab takes any file for a key.
    let mut boots = options("good.img", "flashed");
    (boots.image, boots.firmware) = (stick.clone(), Firmware::Uefi);
    (boots.disks, boots.ssh_key) = (vec![8 << 30], Some(site));
    let dc = Datacenter::up(&boots);
    dc.wait("headnode", r"manifest_verified: done", BOOT);
    dc.wait("headnode", "headnode setup complete", BOOT);
    dc.lab.machine("headnode").wait_ssh(BOOT).unwrap();
    let keys = dc.headnode("cat /root/.ssh/authorized_keys");
    assert_eq!(keys, std::fs::read_to_string(public).unwrap());
}
