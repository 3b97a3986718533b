//! How fast images are read for a flash: `cargo bench --bench flash_source -- IMAGE|URL…`. Without
//! arguments, makes 512 MiB (a third of it programs of this machine, the rest zeroes) and packs it by
//! `zstd`, `gzip` and `xz`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use headnode::flash::source::{Options, Source};

const SIZE: u64 = 512 << 20;

fn main() {
    let mut places: Vec<String> =
        std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let folder = tempfile::tempdir().unwrap();
    if places.is_empty() {
        places = made(folder.path());
    }
    for place in places {
        let mut rates = Vec::new();
        for _ in 0..3 {
            rates.push(run(&place));
        }
        rates.sort_unstable_by(f64::total_cmp);
        println!("{place}: median {:.0} MB/s ({:.0} to {:.0})", rates[1], rates[0], rates[2]);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    println!("memory: {peak}");
}

fn run(place: &str) -> f64 {
    let options = Options { unverified: true, ..Options::default() };
    let begin = Instant::now();
    let source = Source::open(place, &options).unwrap();
    let mut reader = source.reader().unwrap();
    let mut buffer = vec![0; 4 << 20];
    let mut at = 0;
    loop {
        let count = reader.read(at, &mut buffer).unwrap();
        at += count as u64;
        if count < buffer.len() {
            break;
        }
    }
    reader.finish().unwrap();
    at as f64 / begin.elapsed().as_secs_f64() / 1e6
}

fn made(folder: &Path) -> Vec<String> {
    let raw = folder.join("bench.img");
    let mut file = File::create(&raw).unwrap();
    let mut written = 0;
    for entry in std::fs::read_dir("/usr/bin").unwrap() {
        let Ok(program) = File::open(entry.unwrap().path()) else { continue };
        // Folders among them cannot be read.
        written += std::io::copy(&mut program.take(64 << 20), &mut file).unwrap_or_default();
        if written > SIZE / 3 {
            break;
        }
    }
    file.set_len(SIZE).unwrap();
    let mut places = vec![raw.to_str().unwrap().to_owned()];
    for (tool, level) in [("zstd", "-3"), ("gzip", "-6"), ("xz", "-3")] {
        let packed = folder.join(tool);
        let output = File::create(&packed).unwrap();
        let mut command = Command::new(tool);
        command.args([level, "-c", "-q"]).arg(&raw).stdout(output);
        assert!(command.status().unwrap().success());
        places.push(packed.to_str().unwrap().to_owned());
    }
    places
}
