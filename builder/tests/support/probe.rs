//! Machines that boot the probe of `firmware/probe`, and what it tells.
#![allow(dead_code)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

const OVMF: &str = "/usr/share/OVMF";
/// Booting takes about 10 s on an idle machine; the tests share theirs.
const LIMIT: Duration = Duration::from_secs(240);
/// QEMU's status when the probe was content: its exit device makes it from the probe's 16.
const CONTENT: i32 = 33;

/// What the probe told.
#[derive(Debug, Default)]
pub struct Told {
    pub protocol: String,
    pub loader: String,
    pub cmdline: String,
    pub firmware: String,
    pub framebuffer: String,
    pub modules: Vec<Module>,
}

#[derive(Debug, PartialEq)]
pub struct Module {
    pub size: usize,
    pub sha256: String,
    pub args: String,
}

pub fn module(content: &[u8], args: &str) -> Module {
    let hash = Sha256::digest(content);
    let sha256 = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    Module { size: content.len(), sha256, args: args.to_owned() }
}

/// QEMU, ended when the test ends.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a machine until the probe ends it, and returns what that told. When the console shows a
/// word, a key is sent.
pub fn run(args: &[&str], keys: &[(&str, &[u8])]) -> Told {
    let begin = Instant::now();
    let (console, status) = console(args, keys, None);
    assert_eq!(status, Some(CONTENT), "{console}");
    let told = parse(&console);
    println!("{told:#?}\n{:.1} s", begin.elapsed().as_secs_f64());
    told
}

/// Runs a machine until its console shows a word or it ends by itself: the console, and in the
/// latter case QEMU's status.
pub fn console(
    args: &[&str],
    keys: &[(&str, &[u8])],
    until: Option<&str>,
) -> (String, Option<i32>) {
    console_behind(&[], args, keys, until)
}

/// The same; the console is the serial port behind those that `ports` adds.
pub fn console_behind(
    ports: &[&str],
    args: &[&str],
    keys: &[(&str, &[u8])],
    until: Option<&str>,
) -> (String, Option<i32>) {
    let mut child = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg,thread=multi", "-m", "512", "-no-reboot", "-display", "none"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .args(ports)
        .args(["-serial", "stdio"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap_or_else(|error| panic!("qemu-system-x86_64: {error}; ci/setup installs it"));
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut machine = Machine(child);
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        while let Ok(part) = output.fill_buf().map(<[u8]>::to_vec) {
            if part.is_empty() || sender.send(part.clone()).is_err() {
                return;
            }
            output.consume(part.len());
        }
    });
    let begin = Instant::now();
    let mut console = Vec::new();
    let mut keys = keys.iter();
    let mut next = keys.next();
    loop {
        match receiver.recv_timeout(LIMIT.saturating_sub(begin.elapsed())) {
            Ok(part) => console.extend(part),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                panic!("nothing after {LIMIT:?}:\n{}", String::from_utf8_lossy(&console))
            }
        }
        if let Some((word, key)) = next
            && String::from_utf8_lossy(&console).contains(word)
        {
            input.write_all(key).unwrap();
            input.flush().unwrap();
            next = keys.next();
        }
        if until.is_some_and(|word| String::from_utf8_lossy(&console).contains(word)) {
            return (String::from_utf8_lossy(&console).into_owned(), None);
        }
    }
    let status = machine.0.wait().unwrap();
    (String::from_utf8_lossy(&console).into_owned(), status.code())
}

fn parse(console: &str) -> Told {
    let mut told = Told::default();
    let mut done = false;
    let mut count = None;
    for line in console.lines().filter_map(|line| line.trim_end().strip_prefix("probe: ")) {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        match key {
            "protocol" => told.protocol = value.to_owned(),
            "loader" => told.loader = value.to_owned(),
            "cmdline" => told.cmdline = value.to_owned(),
            "firmware" => told.firmware = value.to_owned(),
            "framebuffer" => told.framebuffer = value.to_owned(),
            "modules" => count = value.parse().ok(),
            "module" => {
                let parts: Vec<&str> = value.splitn(4, ' ').collect();
                assert_eq!(parts[0], told.modules.len().to_string(), "{line}");
                told.modules.push(Module {
                    size: parts[1].parse().unwrap(),
                    sha256: parts[2].to_owned(),
                    args: parts[3].to_owned(),
                });
            }
            "done" => done = true,
            _ => panic!("{line}\n{console}"),
        }
    }
    assert!(done && count == Some(told.modules.len()), "{console}");
    told
}

/// What QEMU needs to be a UEFI machine; its variables are new and lie in `dir`.
pub fn uefi(dir: &Path) -> [String; 4] {
    let vars = dir.join("vars.fd");
    fs::copy(format!("{OVMF}/OVMF_VARS_4M.fd"), &vars)
        .unwrap_or_else(|error| panic!("{OVMF}: {error}; ci/setup installs it"));
    [
        "-drive".to_owned(),
        format!("if=pflash,format=raw,readonly=on,file={OVMF}/OVMF_CODE_4M.fd"),
        "-drive".to_owned(),
        format!("if=pflash,format=raw,file={}", vars.display()),
    ]
}
