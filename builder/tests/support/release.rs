//! Builds of all formats, whatever surrounds them. Needs minisign's keys, which `headnode key` makes.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

/// All formats that there are.
pub const ALL: &str = "usb,iso,pxe,qcow2,vmdk,tar";

pub fn headnode(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_headnode"))
        .args(args)
        .env_remove("HEADNODE_KEY_PASSPHRASE")
        .output()
        .unwrap()
}

pub fn good(args: &[&str]) -> String {
    let output = headnode(args);
    let said = String::from_utf8_lossy(&output.stderr);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{args:?}: {said}{told}");
    told
}

/// A signing key: its secret and public files.
pub fn key(dir: &Path) -> [PathBuf; 2] {
    let secret = dir.join("release.key");
    good(&["key", "new", "--no-passphrase", "--output", secret.to_str().unwrap()]);
    let public = dir.join("release.pub");
    assert!(public.exists());
    [secret, public]
}

/// All files of a folder.
pub fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(dir)
        .unwrap()
        .map(|item| item.unwrap().path())
        .map(|path| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())
        })
        .collect()
}

/// Where the builds go below a folder of theirs, as the argument of `--output`.
pub fn output(dir: &Path) -> PathBuf {
    dir.join("a release").join("")
}

/// Builds all formats, signed, into [`output`] below `dir`; `build` is the command without formats
/// and key, `wrap` a program that runs it.
pub fn release(
    build: &Command,
    secret: &Path,
    dir: &Path,
    wrap: &[&str],
    env: &[(&str, &str)],
) -> PathBuf {
    let mut command = Command::new(wrap[0]);
    command
        .args(&wrap[1..])
        .arg(build.get_program())
        .args(build.get_args())
        .args(["--format", ALL, "--sign", secret.to_str().unwrap()])
        .envs(env.iter().copied())
        .env_remove("SOURCE_DATE_EPOCH");
    if let Some(folder) = build.get_current_dir() {
        command.current_dir(folder);
    }
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    // What was said is looked at like everything else.
    let said = [done.stdout, done.stderr].concat();
    fs::write(dir.join("said"), said).unwrap();
    output(dir)
}

/// Builds all formats twice, with other folders, times, umasks, locales, time zones and numbers of
/// threads, of the same inputs, which `make` makes once more in a folder of each build. Everything
/// that is made must be the same; its names without `stem` must be `expected`.
pub fn same_whatever_surrounds(make: impl Fn(&Path) -> Command, stem: &str, expected: &[&str]) {
    let keys = tempfile::tempdir().unwrap();
    let [secret, _] = key(keys.path());
    let build = |wrap: &[&str], env: &[(&str, &str)]| {
        let dir = tempfile::tempdir().unwrap();
        let out = release(&make(dir.path()), &secret, dir.path(), wrap, env);
        (dir, out)
    };
    // One thread, the narrowest umask.
    let wrap = ["sh", "-c", "umask 077; exec taskset -c 0 \"$@\"", "sh"];
    let (_one, first) = build(&wrap, &[("LC_ALL", "C"), ("TZ", "UTC")]);
    // Files have times of whole seconds at best: be sure that the next build has others.
    let begun = SystemTime::now();
    while begun.elapsed().unwrap() < Duration::from_millis(1100) {
        std::thread::yield_now();
    }
    let wrap = ["sh", "-c", "umask 002; exec \"$@\"", "sh"];
    let env = [("LC_ALL", "tr_TR.UTF-8"), ("LANG", "tr_TR.UTF-8"), ("TZ", "Asia/Kathmandu")];
    let (_two, second) = build(&wrap, &env);
    let made = names(&first);
    let ends: Vec<_> = made.iter().map(|name| name.strip_prefix(stem).unwrap()).collect();
    assert_eq!(ends, expected);
    assert_eq!(made, names(&second));
    for name in &made {
        let same = Command::new("cmp").args([first.join(name), second.join(name)]).output();
        let same = same.unwrap();
        assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
    }
}

/// Another program's judgement of a bill of materials; its text is returned.
pub fn judged_bill(path: &Path) -> serde_json::Value {
    let python = std::env::var("HEADNODE_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut command = Command::new(python);
    let output = command.args(["-c", include_str!("judge_bill.py")]).arg(path).output().unwrap();
    assert!(
        output.status.success(),
        "{}\n(the validator is PyPI's cyclonedx-python-lib[json-validation]; ci/setup installs it)",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The names of all files of a folder, in order.
fn names(dir: &Path) -> BTreeSet<String> {
    let items = fs::read_dir(dir).unwrap();
    items.map(|item| item.unwrap().file_name().into_string().unwrap()).collect()
}

/// Ends of the names of what every build of all formats makes, in order.
pub const MADE: [&str; 23] = [
    "-pxe.tgz",
    "-zpool.vmdk",
    ".SHA256SUMS",
    ".SHA256SUMS.minisig",
    ".cdx.json",
    ".img",
    ".img.bmap",
    ".img.manifest.json",
    ".img.manifest.json.minisig",
    ".iso",
    ".iso.bmap",
    ".iso.manifest.json",
    ".iso.manifest.json.minisig",
    ".partition.map",
    ".provenance.json",
    ".qcow2",
    ".qcow2.manifest.json",
    ".qcow2.manifest.json.minisig",
    ".tgz",
    ".vmdk",
    ".vmdk.manifest.json",
    ".vmdk.manifest.json.minisig",
    ".vmx",
];
