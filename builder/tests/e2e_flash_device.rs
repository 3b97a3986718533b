//! Disks of this machine, with loop devices for keys: what is found, refused and opened. Other programs
//! are the oracles: `blkid`, `lsblk`, `wipefs`.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use headnode::flash::device::{
    Bus, Disk, Error, Host, Policy, Refusal, Remedy, Reread, Unmapped, Used, helper, open, refusals,
};

const SIZE: u64 = 64 << 20;

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; ci/setup installs it"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}\n{text}{errors}", output.status);
    text.trim().to_owned()
}

/// A loop device of the test's own, which is detached at the end, with what was mounted on it.
struct Loop {
    path: String,
    dir: tempfile::TempDir,
    mounts: Vec<PathBuf>,
    swap: bool,
}

impl Loop {
    fn new(options: &[&str]) -> Self {
        Self::with(options, |_| {})
    }

    /// A device whose file is prepared first.
    fn with(options: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key.img");
        // Without holes: swap wants all of it.
        fs::write(&file, vec![0; SIZE as usize]).unwrap();
        prepare(&file);
        let mut args = vec!["-f", "--show"];
        args.extend(options);
        args.push(file.to_str().unwrap());
        let path = run("losetup", &args);
        Self { path, dir, mounts: Vec::new(), swap: false }
    }

    fn disk(&self) -> Disk {
        Host::here().find(&self.path).unwrap()
    }

    fn policy(&self) -> Policy {
        Policy { fixed: true, needed: SIZE, image_sector: 512, sources: Vec::new() }
    }

    fn refusals(&self) -> Vec<Refusal> {
        refusals(&self.disk(), &self.policy())
    }

    fn only_refusal(&self) -> Refusal {
        let all = self.refusals();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].clone()
    }

    fn mount(&mut self, device: &str) -> PathBuf {
        let at = self.dir.path().join("mounted here");
        fs::create_dir(&at).unwrap();
        run("mount", &[device, at.to_str().unwrap()]);
        self.mounts.push(at.clone());
        at
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        for at in &self.mounts {
            run("umount", &[at.to_str().unwrap()]);
        }
        if self.swap {
            run("swapoff", &[&self.path]);
        }
        run("losetup", &["-d", &self.path]);
    }
}

/// Makes two partitions of 20 MiB.
fn partition(file: &Path) {
    let script = "label: gpt\n start=2048, size=40960\n start=43008, size=40960\n";
    let mut command = Command::new("sfdisk");
    let mut sfdisk = command.arg("-q").arg(file).stdin(Stdio::piped()).spawn().unwrap();
    sfdisk.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(sfdisk.wait().unwrap().success());
}

/// Does what a refusal tells to do.
fn obey(refusal: &Refusal) {
    let Remedy::Free(commands) = refusal.remedy() else {
        panic!("{refusal}: nothing to do");
    };
    assert!(!commands.is_empty(), "{refusal}");
    for command in commands {
        assert!(refusal.to_string().contains(&command), "{refusal}");
        run("sh", &["-c", &command]);
    }
}

#[test]
fn e2e_flash_device_a_mounted_partition_is_refused_until_it_is_unmounted_as_told() {
    let mut key = Loop::with(&[], partition);
    // A kernel may be built without any reader of partition tables: `partx` brings its own.
    run("partx", &["-u", &key.path]);
    let (first, second) = (format!("{}p1", key.path), format!("{}p2", key.path));
    run("mkfs.ext4", &["-q", "-L", "stick", &first]);
    run("mkfs.vfat", &["-n", "DATA", &second]);
    let at = key.mount(&first);

    let disk = key.disk();
    let listed: serde_json::Value = serde_json::from_str(&run(
        "lsblk",
        &["-J", "-b", "-o", "NAME,SIZE,LOG-SEC,PHY-SEC,RO,RM,MOUNTPOINT,START,MAJ:MIN", &key.path],
    ))
    .unwrap();
    let listed = &listed["blockdevices"][0];
    assert_eq!(listed["name"], disk.name);
    assert_eq!(listed["size"], disk.size);
    assert_eq!(listed["log-sec"], disk.sector);
    assert_eq!(listed["phy-sec"], disk.physical_sector);
    assert_eq!(listed["maj:min"], format!("{}:{}", disk.number.0, disk.number.1));
    assert_eq!((disk.bus, disk.removable, disk.partitions.len()), (Bus::Loop, false, 2));
    assert_eq!(disk.content.table.map(|table| table.name()), Some("GPT"));
    for (part, listed) in disk.partitions.iter().zip(listed["children"].as_array().unwrap()) {
        assert_eq!(listed["name"], part.name);
        assert_eq!(listed["size"], part.size);
        assert_eq!(listed["start"], part.start / 512);
        let blkid =
            |tag| run("blkid", &["-p", "-s", tag, "-o", "value", part.path.to_str().unwrap()]);
        assert_eq!(part.content.kind.as_deref(), Some(&*blkid("TYPE")));
        assert_eq!(part.content.label.as_deref(), Some(&*blkid("LABEL")));
    }

    let refusal = key.only_refusal();
    let text = refusal.to_string();
    assert!(text.contains(&first) && text.contains(at.to_str().unwrap()), "{text}");
    let error = open(&disk, &key.policy()).unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
    obey(&refusal);
    key.mounts.clear();
    assert_eq!(key.refusals(), []);

    let error = Host::here().find(&second).unwrap_err();
    assert!(
        matches!(&error, Error::Partition { disk, .. } if disk == Path::new(&key.path)),
        "{error}"
    );
    run("partx", &["-d", &key.path]);
}

#[test]
fn e2e_flash_device_swap_is_refused_until_it_is_off_as_told() {
    let mut key = Loop::new(&[]);
    run("mkswap", &["-L", "old", &key.path]);
    assert_eq!(key.refusals(), [], "swap that is off may be written over");
    run("swapon", &[&key.path]);
    key.swap = true;
    let refusal = key.only_refusal();
    assert!(refusal.to_string().contains("swapped to"), "{refusal}");
    obey(&refusal);
    key.swap = false;
    assert_eq!(key.refusals(), []);
}

#[test]
fn e2e_flash_device_a_file_on_it_that_is_a_loop_device_is_told_before_its_mount() {
    let mut key = Loop::new(&[]);
    run("mkfs.ext4", &["-q", &key.path]);
    let inside = key.mount(&key.path.clone()).join("inner.img");
    File::create(&inside).unwrap().set_len(1 << 20).unwrap();
    let inner = run("losetup", &["-f", "--show", inside.to_str().unwrap()]);
    let all = key.refusals();
    let uses: Vec<_> = all.iter().map(ToString::to_string).collect();
    assert_eq!(uses.len(), 2, "{uses:?}");
    assert!(uses[0].contains(&format!("`losetup -d {inner}`")), "{uses:?}");
    assert_eq!(Host::here().disks_under(&inside).unwrap()[0], key.disk().name);
    for refusal in all {
        obey(&refusal);
    }
    key.mounts.clear();
    assert_eq!(key.refusals(), []);
}

#[test]
fn e2e_flash_device_a_mount_that_only_another_process_sees_is_told_with_that_process() {
    let key = Loop::new(&[]);
    run("mkfs.ext4", &["-q", &key.path]);
    let at = key.dir.path().join("unseen");
    fs::create_dir(&at).unwrap();
    let mut hidden = Command::new("unshare")
        .args(["-m", "sh", "-c", "mount \"$0\" \"$1\" && echo ready && read -r end", &key.path])
        .arg(&at)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    hidden.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let disk = key.disk();
    let found = refusals(&disk, &key.policy());
    let opened = open(&disk, &key.policy()).unwrap_err();
    drop(hidden.stdin.take());
    hidden.wait().unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    let process = format!("{} (sh)", hidden.id());
    assert!(found[0].to_string().contains(&process), "{found:?}");
    assert!(opened.to_string().contains(&process), "{opened}");
    assert_eq!(key.refusals(), []);
}

/// Puts a label on, holds what is told of it to `blkid`, and wipes it as told.
fn label_is_refused_until_wiped(key: &Loop, kind: &str, name: Option<&str>) {
    let blkid = run("blkid", &["-p", "-s", "TYPE", "-o", "value", &key.path]);
    assert_eq!(blkid, kind);
    let disk = key.disk();
    assert_eq!(disk.content.kind.as_deref(), Some(kind));
    assert_eq!(disk.content.label.as_deref(), name);
    let refusal = key.only_refusal();
    assert!(matches!(&refusal, Refusal::Member(_)), "{refusal}");
    assert!(matches!(open(&disk, &key.policy()).unwrap_err(), Error::Refused(_)));
    obey(&refusal);
    assert_eq!(key.refusals(), []);
    assert_eq!(key.disk().content.kind, None);
}

#[test]
fn e2e_flash_device_a_volume_groups_label_is_refused_until_it_is_wiped() {
    let key = Loop::new(&[]);
    // The library that would ask the device mapper is told that there is none.
    let config = "backup { backup = 0 archive = 0 } devices { scan_lvs = 0 } activation { udev_sync = 0 udev_rules = 0 }";
    let only = ["--devices", &key.path, "--config", config];
    run("pvcreate", &[&only[..], &["-q", "-y", &key.path]].concat());
    run("vgcreate", &[&only[..], &["-q", "-y", "vg-key", &key.path]].concat());
    label_is_refused_until_wiped(&key, "LVM2_member", Some("vg-key"));
}

#[test]
fn e2e_flash_device_a_pools_label_is_refused_until_it_is_wiped() {
    // The documented layout: a name-value list at 16 KiB, uberblocks from 128 KiB, four times.
    let word = |value: u32| value.to_be_bytes().to_vec();
    let pair = [
        word(36),
        word(32),
        word(4),
        b"name".to_vec(),
        word(9),
        word(1),
        word(4),
        b"tank".to_vec(),
    ];
    let list = [vec![1, 1, 0, 0], word(0), word(1), pair.concat(), word(0), word(0)].concat();
    let key = Loop::with(&[], |path| {
        let file = File::options().write(true).open(path).unwrap();
        for at in [0, 256 << 10, SIZE - (512 << 10), SIZE - (256 << 10)] {
            file.write_all_at(&list, at + (16 << 10)).unwrap();
            for block in 0..8 {
                let uberblock = [0x00ba_b10c_u64.to_le_bytes(), 5000_u64.to_le_bytes()].concat();
                file.write_all_at(&uberblock, at + (128 << 10) + block * 1024).unwrap();
            }
        }
    });
    label_is_refused_until_wiped(&key, "zfs_member", Some("tank"));
}

#[test]
fn e2e_flash_device_an_arrays_label_is_refused_until_it_is_wiped() {
    // Version 1.2: 4 KiB behind the head, with its own place and its checksum in it (kernel's md_p.h).
    let mut block = vec![0_u8; 256];
    block[..8].copy_from_slice(&[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]);
    block[16..32].copy_from_slice(&[7; 16]);
    block[32..40].copy_from_slice(b"host:key");
    block[144..152].copy_from_slice(&8_u64.to_le_bytes());
    let sum = block.chunks_exact(4).map(|w| u64::from(u32::from_le_bytes(w.try_into().unwrap())));
    let sum: u64 = sum.sum();
    let sum = (sum as u32).wrapping_add((sum >> 32) as u32);
    block[216..220].copy_from_slice(&sum.to_le_bytes());
    let key = Loop::with(&[], |path| {
        let file = File::options().write(true).open(path).unwrap();
        file.write_all_at(&block, 4096).unwrap();
    });
    label_is_refused_until_wiped(&key, "linux_raid_member", Some("host:key"));
}

#[test]
fn e2e_flash_device_large_sectors_write_protection_and_small_disks_are_refused() {
    let key = Loop::new(&["-b", "4096"]);
    let refusal = key.only_refusal();
    assert!(matches!(refusal, Refusal::Sector { has: 4096, image: 512, .. }), "{refusal}");
    assert_eq!(refusals(&key.disk(), &Policy { image_sector: 4096, ..key.policy() }), []);

    let key = Loop::new(&["-r"]);
    assert!(matches!(key.only_refusal(), Refusal::ReadOnly { .. }));

    let key = Loop::new(&[]);
    let policy = Policy { needed: SIZE + 5, ..key.policy() };
    let all = refusals(&key.disk(), &policy);
    assert!(all[0].to_string().contains("5 bytes more"), "{all:?}");
    let all = refusals(&key.disk(), &Policy { fixed: false, ..policy });
    assert_eq!(all.len(), 2, "all are told at once: {all:?}");
    assert_eq!(all[0].remedy(), Remedy::Flag("--fixed"));
}

#[test]
fn e2e_flash_device_the_disk_of_the_running_system_is_never_written() {
    let host = Host::here();
    let source = run("findmnt", &["-n", "-o", "SOURCE", "/"]);
    // In a container the system is on no disk that is seen.
    let parents = run("lsblk", &["-n", "-s", "-l", "-o", "NAME,TYPE", &source]);
    let name =
        parents.lines().find_map(|line| line.strip_suffix("disk")).unwrap().trim().to_owned();
    let disk = host.find(&name).unwrap();
    let everything = Policy { fixed: true, ..Policy::default() };
    let all = refusals(&disk, &everything);
    assert_eq!(all[0].remedy(), Remedy::Never, "{all:?}");
    assert!(matches!(open(&disk, &everything).unwrap_err(), Error::Refused(_)));
    assert!(host.disks_under(Path::new("/etc/passwd")).unwrap().contains(&name));
}

#[test]
fn e2e_flash_device_an_open_disk_is_the_processes_own_and_does_all_that_is_asked() {
    let key = Loop::new(&[]);
    let disk = key.disk();
    assert!(disk.is_stable_name(&format!("loop:{}", key.dir.path().join("key.img").display())));
    let mut target = open(&disk, &key.policy()).unwrap();
    assert_eq!((target.size(), target.is_direct()), (SIZE, true));
    let again = open(&disk, &key.policy()).unwrap_err();
    let own = format!("{} (", std::process::id());
    assert!(again.to_string().contains(&own), "it is told who has it: {again}");

    let file = key.dir.path().join("key.img");
    let at = 8 << 20;
    File::options().write(true).open(&file).unwrap().write_all_at(&[0x5a; 1 << 20], at).unwrap();
    assert_eq!(target.discard(at, 1 << 20).unwrap(), Unmapped::Zeroed);
    target.flush().unwrap();
    let mut read = vec![1; 1 << 20];
    File::open(&file).unwrap().read_exact_at(&mut read, at).unwrap();
    assert!(read.iter().all(|byte| *byte == 0));
    assert_eq!(target.discard(at + 1, 100).unwrap(), Unmapped::No, "no whole sector");

    assert_eq!(target.reread_table().unwrap(), Reread::Done);
    target.same().unwrap();
    drop(target);
    open(&disk, &key.policy()).unwrap();
}

#[test]
fn e2e_flash_device_a_partition_that_is_open_keeps_the_kernels_table_as_it_was() {
    let key = Loop::with(&["-P"], partition);
    run("partx", &["-u", &key.path]);
    let mut target = open(&key.disk(), &key.policy()).unwrap();
    let reader = File::open(format!("{}p1", key.path)).unwrap();
    assert_eq!(target.reread_table().unwrap(), Reread::Busy);
    drop(reader);
    assert_eq!(target.discard(0, 1 << 20).unwrap(), Unmapped::Zeroed);
    assert_eq!(target.reread_table().unwrap(), Reread::Done);
    drop(target);
    assert_eq!(key.disk().partitions, [], "the table was wiped");
}

#[test]
fn e2e_flash_device_another_disk_under_the_same_name_is_noticed() {
    let key = Loop::new(&[]);
    let disk = key.disk();
    let target = open(&disk, &key.policy()).unwrap();
    File::options()
        .write(true)
        .open(key.dir.path().join("key.img"))
        .unwrap()
        .set_len(SIZE / 2)
        .unwrap();
    run("losetup", &["-c", &key.path]);
    let error = target.same().unwrap_err();
    assert!(matches!(error, Error::Changed { what: "its size", .. }), "{error}");
    drop(target);
    let error = open(&disk, &key.policy()).unwrap_err();
    assert!(matches!(error, Error::Changed { .. } | Error::Refused(_)), "{error}");
}

#[test]
fn e2e_flash_device_a_disk_that_is_gone_is_told_from_one_that_fails() {
    let key = Loop::new(&[]);
    let target = open(&key.disk(), &key.policy()).unwrap();
    let error = |number| target.explain(std::io::Error::from_raw_os_error(number));
    let (no_device, failed) = (6, 5);
    assert!(matches!(error(no_device), Error::PulledOut(_)));
    assert!(matches!(error(failed), Error::Io { .. }));
    // The kernel makes a disk that is pulled out one of no size, as this does.
    File::options().write(true).open(key.dir.path().join("key.img")).unwrap().set_len(0).unwrap();
    run("losetup", &["-c", &key.path]);
    assert!(matches!(error(failed), Error::PulledOut(_)));
    let error = target.same().unwrap_err();
    assert!(error.to_string().contains("pulled out"), "{error}");
}

#[test]
fn e2e_flash_device_what_is_on_a_disk_is_called_as_blkid_calls_it() {
    for (program, args) in [
        ("mkfs.ext2", &["-q", "-L", "some"][..]),
        ("mkfs.ext3", &["-q", "-L", "some"]),
        ("mkfs.vfat", &["-F", "16", "-n", "SOME"]),
        ("mkfs.vfat", &["-F", "32", "-n", "SOME"]),
        ("mkfs.vfat", &["-F", "32"]),
        ("mkswap", &["-L", "some"]),
        ("mkswap", &["-p", "8192", "-L", "some"]),
    ] {
        let key = Loop::new(&[]);
        run(program, &[args, &[&key.path]].concat());
        let told = |tag| {
            let output =
                Command::new("blkid").args(["-p", "-s", tag, "-o", "value", &key.path]).output();
            let text = String::from_utf8(output.unwrap().stdout).unwrap().trim().to_owned();
            (!text.is_empty()).then_some(text)
        };
        let content = key.disk().content;
        assert_eq!(
            (content.kind, content.label),
            (told("TYPE"), told("LABEL")),
            "{program} {args:?}"
        );
        assert_eq!(content.table, None, "{program} {args:?}");
    }
}

#[test]
fn e2e_flash_device_the_part_that_runs_as_root_hands_the_disk_over() {
    let program = env!("CARGO_BIN_EXE_headnode");
    let alone = Command::new(program).args([helper::VERB]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(alone.status.code(), Some(2), "without arguments it does nothing");
    let device = [helper::VERB, "/dev/null"];
    let alone = Command::new(program).args(device).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&alone.stderr);
    assert!(alone.status.code() == Some(1) && text.contains("no socket"), "{text}");
    let key = Loop::new(&[]);
    let start = |device: &str| {
        let (here, there) = UnixStream::pair().unwrap();
        let mut command = Command::new(program);
        command.args([helper::VERB, device]).stdin(Stdio::from(std::os::fd::OwnedFd::from(there)));
        (here, command.spawn().unwrap())
    };
    let disk = key.disk();
    let (here, child) = start(&key.path);
    let (file, mut helper) = helper::talk(here, Some(child), &disk, &key.policy()).unwrap();
    assert_eq!(helper.reread(&disk.path).unwrap(), Reread::Done);
    assert!(open(&disk, &key.policy()).is_err(), "it is claimed");
    let mut sector = Vec::new();
    // Direct reads want a page's alignment, which a buffer of a page and its rest always has in it.
    sector.resize(8192, 1_u8);
    let skip = sector.as_ptr().align_offset(4096);
    file.read_exact_at(&mut sector[skip..skip + 512], 0).unwrap();
    assert!(sector[skip..skip + 512].iter().all(|byte| *byte == 0));
    drop((file, helper));
    drop(open(&disk, &key.policy()).unwrap());

    // It looks for itself, whatever it is asked for.
    let (here, child) = start(&key.path);
    let other = Disk { diskseq: Some(0), ..disk.clone() };
    let error = helper::talk(here, Some(child), &other, &key.policy()).unwrap_err();
    assert!(error.to_string().contains("sequence number"), "{error}");
    let (here, child) = start(&key.path);
    let small = Policy { needed: SIZE * 2, ..key.policy() };
    let error = helper::talk(here, Some(child), &disk, &small).unwrap_err();
    assert!(error.to_string().contains("too small"), "{error}");
    let (mut here, mut child) = start(&key.path);
    here.write_all(b"nonsense\n").unwrap();
    let mut rest = Vec::new();
    here.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty() && !child.wait().unwrap().success());
}

#[test]
fn e2e_flash_device_uses_of_others_file_systems_are_told() {
    for (mkfs, kind, option) in
        [("mkfs.xfs", "xfs", "-L"), ("mkfs.btrfs", "btrfs", "-L"), ("mkfs.ext4", "ext4", "-L")]
    {
        let file_size = 320 << 20;
        let mut key = Loop::with(&[], |path| {
            File::options().write(true).open(path).unwrap().set_len(file_size).unwrap();
        });
        run(mkfs, &["-q", option, "some", &key.path]);
        let disk = key.disk();
        assert_eq!(disk.content.kind.as_deref(), Some(kind));
        assert_eq!(disk.content.label.as_deref(), Some("some"));
        assert_eq!(key.refusals(), [], "{kind}: a file system that is not mounted may be lost");
        let at = key.mount(&key.path.clone());
        let uses = key.disk().uses;
        assert_eq!(uses.len(), 1, "{uses:?}");
        assert_eq!(uses[0].used, Used::Mounted { at: Some(at) }, "{kind}");
    }
}
