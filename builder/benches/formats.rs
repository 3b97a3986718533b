//! How fast each format is made: `cargo bench -p headnode --bench formats`.
//!
//! A disk of 2 GiB with 300 MB of data, half of which compresses, in stretches far from each other.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;

use headnode::image::archive::write_tgz;
use headnode::image::iso::{Boot, Format, Iso};
use headnode::image::output::{BLOCK, Compression, ImageSink, Output, packed};
use headnode::image::pool::Pool;
use headnode::image::qcow2::Qcow2;
use headnode::image::vmdk::Vmdk;
use headnode::image::{Content, Sink};

#[path = "../tests/support/noise.rs"]
mod noise;

use noise::noise;

fn main() {
    let dir = tempfile::tempdir().unwrap();
    // Half of it compresses, as executables do; the content is this program's own. What comes again
    // is too far away to be found.
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    let mut part = noise(1, 15_000_000);
    part.extend(own.iter().cycle().take(15_000_000));
    let pool = Pool::for_this_machine().unwrap();
    // Seconds that all threads computed; they do not depend on what else the machine does.
    let computed = || {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let behind = stat.rsplit_once(')').unwrap().1;
        let ticks = |at| behind.split_whitespace().nth(at).unwrap().parse::<f64>().unwrap();
        (ticks(11) + ticks(12)) / 100.0
    };
    let measure = |what: &str, sinks: &dyn Fn() -> Vec<Box<dyn ImageSink>>| {
        let (started, before) = (std::time::Instant::now(), computed());
        let mut out = Output::new(sinks(), |_| ());
        for _ in 0..10 {
            out.data(&part).unwrap();
            let end = (out.position() + (170 << 20)).next_multiple_of(BLOCK as u64);
            out.zeroes_to(end).unwrap();
        }
        out.zeroes_to(2 << 30).unwrap();
        let written = out.finish().unwrap();
        let seconds = started.elapsed().as_secs_f64();
        let sizes: u64 = written.files.iter().map(|file| file.metadata().unwrap().len()).sum();
        println!(
            "{what:8} {seconds:6.2} s, computing {:6.2} s, {:5.0} MB/s of data, {:5.0} MB/s of image, {:6.1} MB",
            computed() - before,
            written.mapped as f64 / 1e6 / seconds,
            written.size as f64 / 1e6 / seconds,
            sizes as f64 / 1e6,
        );
    };
    let file = |name: &str| -> File {
        let path: PathBuf = dir.path().join(name);
        File::create(path).unwrap()
    };
    let raw = || packed(file("raw"), Compression::None, &pool).unwrap();
    let zstd = || packed(file("zst"), Compression::Zstd, &pool).unwrap();
    let gzip = || packed(file("gz"), Compression::Gzip, &pool).unwrap();
    let qcow2 = || Box::new(Qcow2::new(file("qcow2"), Arc::clone(&pool)));
    let vmdk = || Box::new(Vmdk::new(file("vmdk"), "a", Arc::clone(&pool)).unwrap());
    measure("hashing", &|| vec![]);
    measure("raw", &|| vec![raw()]);
    measure("zstd", &|| vec![zstd()]);
    measure("gzip", &|| vec![gzip()]);
    measure("qcow2", &|| vec![qcow2()]);
    measure("vmdk", &|| vec![vmdk()]);
    measure("all", &|| vec![raw(), zstd(), gzip(), qcow2(), vmdk()]);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap());
    let large = dir.path().join("large");
    fs::write(&large, part.repeat(10)).unwrap();
    let files = [("large".to_owned(), Content::of_file(&large).unwrap())];
    let say = |what: &str, started: std::time::Instant, before: f64| {
        let seconds = started.elapsed().as_secs_f64();
        let (computed, speed) = (computed() - before, 300.0 / seconds);
        println!("{what:8} {seconds:6.2} s, computing {computed:6.2} s, {speed:5.0} MB/s of data");
    };
    let (started, before) = (std::time::Instant::now(), computed());
    let (volume, boot) = ("SPEED".to_owned(), Boot::default());
    let iso = Iso::plan(Format { volume, time: 0, digest: [0; 32], boot }, files.clone()).unwrap();
    let mut out = Output::new(vec![raw()], |_| ());
    iso.write(&mut out).unwrap();
    out.finish().unwrap();
    say("iso", started, before);
    let (started, before) = (std::time::Instant::now(), computed());
    write_tgz(&files, 0, file("tgz"), Arc::clone(&pool)).unwrap();
    say("tgz", started, before);
}
