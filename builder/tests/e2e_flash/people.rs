//! Who uses it, and what it needs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::faulty::{Faults, Faulty};
use crate::linux::{run, text};
use crate::run::{Done, Terminal, flash};
use crate::things::{Good, Image, beside, foreign};
use crate::{MIB, OLD, PROGRAM};

#[test]
fn e2e_flash_disks_are_named_for_good_or_their_names_are_typed() {
    let image = Image::new();
    let disk = Faulty::new(image.size + 8 * MIB, Faults::default());
    let untouched = || assert!(disk.head(MIB as usize).iter().all(|byte| *byte == OLD));
    let done = flash(&image.path, &[&disk.path], &[]).failed(&["--yes", &disk.id, &disk.path]);
    assert_eq!(done.out, "");
    untouched();
    let mut unasked = Command::new(PROGRAM);
    unasked.args(["flash", text(&image.path), &disk.path, "--fixed"]);
    Done::of(&mut unasked).failed(&["nobody can be asked", &disk.name, "--yes"]);
    untouched();
    let mut fixed = Command::new(PROGRAM);
    fixed.args(["flash", text(&image.path), &disk.id, "--yes"]);
    Done::of(&mut fixed).failed(&["--fixed"]);
    untouched();
    let same = flash(&image.path, &[&disk.id, &disk.id], &[]);
    same.failed(&["same disk"]);

    let (code, said) = Terminal::start(&image.path, &disk).answer("yes").end();
    assert_eq!(code, Some(1), "{said}");
    for word in [&*disk.name, "was not typed", "nothing was written"] {
        assert!(said.contains(word), "{said}");
    }
    untouched();

    disk.stall_next(Some(image.middle()..image.middle() + MIB));
    let terminal = Terminal::start(&image.path, &disk).answer(&disk.name);
    disk.wait_stalled();
    let mut terminal = terminal.until(&format!("{} writing", disk.name));
    disk.release();
    terminal = terminal.until("read back");
    let (code, said) = terminal.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("{}: ", disk.name)) && said.contains("MB/s"), "{said}");
}

#[test]
fn e2e_flash_memory_is_bounded() {
    const MOST: u64 = 64 * MIB;
    let dir = tempfile::tempdir().unwrap();
    let image = foreign(dir.path(), 400 * MIB);
    run("zstd", &["-q", "-1", text(&image)]);
    let disk = Good::new(420 * MIB);
    for image in [&image, &beside(&image, ".zst")] {
        let mut timed = Command::new("/usr/bin/time");
        timed.args(["-f", "%M", PROGRAM, "flash", text(image), &disk.id, "--fixed", "--yes"]);
        let done = Done::of(&mut timed).good();
        let peak: u64 = done.err.lines().last().unwrap().parse().unwrap();
        println!("FIGURE most memory of a flash of 400 MiB, {}: {} KiB", image.display(), peak);
        assert!(peak * 1024 < MOST, "{peak} KiB");
    }
}

const NOBODY: &str = "65534";

/// Gives a device's node to an ordinary user, and back.
struct Lent<'a>(&'a str);

impl<'a> Lent<'a> {
    fn new(device: &'a str) -> Self {
        run("chown", &[NOBODY, device]);
        Self(device)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        run("chown", &["root", self.0]);
    }
}

#[test]
fn e2e_flash_an_ordinary_user_with_rights_on_the_disk_needs_no_root() {
    let image = Image::new();
    let disk = Good::new(image.size + 8 * MIB);
    for folder in [&image.dir, &disk.dir] {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let program = image.dir.path().join("headnode");
    fs::copy(PROGRAM, &program).unwrap();
    let _lent = Lent::new(&disk.path);
    let user = [&format!("--reuid={NOBODY}"), "--regid=65534", "--clear-groups", text(&program)];
    let mut command = Command::new("setpriv");
    command.args(user).args(["flash", text(&image.path), &disk.id, "--fixed", "--yes"]);
    let done = Done::of(&mut command).good();
    assert!(done.out.contains("read back"), "{done:?}");
    disk.is_whole(&image);
}
