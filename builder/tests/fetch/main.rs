//! Fetching from every kind of source, with every fault that they have, against a server of our own. Needs
//! gzip, bzip2 and xz, as `ci/setup` installs them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cache;
mod faults;
mod locked;
mod server;
mod sources;
mod tls;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output};

use headnode::source::digest::{Digest, Digests, sha256};
use headnode::source::lock::Lock;
use serde_json::{Value, json};
use server::Server;

/// A folder with a spec and a cache, and a server.
struct World {
    dir: tempfile::TempDir,
    server: Server,
}

impl World {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), server: Server::start() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the spec, whose sources are the server.
    fn spec(&self, mut spec: Value) {
        for key in ["manta-url", "imgapi-url"] {
            spec[key] = json!(self.server.url);
        }
        std::fs::write(self.path("build.spec"), spec.to_string()).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headnode"));
        command.current_dir(self.dir.path()).args(args).env("HEADNODE_CACHE", self.path("cache"));
        for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "SOURCE_BITS_DIR"] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Fetches impatiently; what it said on standard error.
    fn fetch(&self) -> Result<String, String> {
        said(self.run(&["fetch", "--attempts", "2", "--stall", "0.5"]))
    }

    fn lock(&self) -> Lock {
        Lock::read(&self.path("build.lock")).unwrap().unwrap()
    }

    fn cached(&self, name: &str) -> Vec<u8> {
        let lock = self.lock();
        let pinned = &lock.get(name).unwrap().sha256;
        let path = self.path("cache/artefacts/objects").join(&pinned[..2]).join(pinned);
        let bytes = std::fs::read(path).unwrap();
        assert_eq!(sha256(&bytes), *pinned);
        bytes
    }

    /// One file by source http, without any digest.
    fn one_http_file(&self, body: &[u8]) {
        self.server.put("/x/thing.bin", body);
        let url = format!("{}/x/thing.bin", self.server.url);
        self.spec(json!({"files": {"thing": {"source": "http", "url": url}}}));
    }

    /// A job in Manta with these files, as the latest of the branch master.
    fn manta(&self, job: &str, stamp: &str, files: &[(&str, &[u8])]) {
        let build = format!("/builds/{job}/master-{stamp}");
        self.server.put(&format!("/builds/{job}/master-latest"), format!("{build}\n"));
        let mut sums = String::new();
        let mut list = String::new();
        for (name, body) in files {
            self.server.put(&format!("{build}/{job}/{name}"), *body);
            sums += &format!("{} bits//{job}/{name}\n", &md5(body)["md5:".len()..]);
            list += &format!("{}\n", json!({"name": name, "type": "object", "size": body.len()}));
        }
        self.server.put(&format!("{build}/md5sums.txt"), sums);
        self.server.put(&format!("{build}/{job}"), list);
        let top = [
            json!({"name": job, "type": "directory"}),
            json!({"name": "md5sums.txt", "type": "object", "size": 1}),
        ];
        self.server.put(&build, format!("{}\n{}\n", top[0], top[1]));
    }

    /// A zone of Manta whose image is made from `origin`.
    fn zone(&self, job: &str, stamp: &str, uuid: &str, origin: Option<&str>) {
        let image = gzip(format!("image of {job} {stamp}").as_bytes());
        let manifest = manifest(job, uuid, origin, &image).to_string();
        self.manta(
            job,
            stamp,
            &[
                (&format!("{job}-zfs-master-{stamp}-g1.imgmanifest"), manifest.as_bytes()),
                (&format!("{job}-zfs-master-{stamp}-g1.zfs.gz"), &image),
            ],
        );
    }

    /// An image of IMGAPI.
    fn image(&self, name: &str, uuid: &str, origin: Option<&str>) {
        let file = gzip(format!("file of {uuid}").as_bytes());
        let mut manifest = manifest(name, uuid, origin, &file);
        manifest["channels"] = json!(["release", "dev"]);
        self.server.put(&format!("/images/{uuid}"), manifest.to_string());
        self.server.put(&format!("/images/{uuid}/file"), file);
    }
}

fn said(output: Output) -> Result<String, String> {
    let text = String::from_utf8(output.stderr).unwrap();
    if output.status.success() { Ok(text) } else { Err(text) }
}

/// A digest of bytes, as `md5:…`.
fn digest(bytes: &[u8], kind: &str, digits: usize) -> String {
    let like: Digest = format!("{kind}:{}", "0".repeat(digits)).parse().unwrap();
    Digests::of(bytes, Some(&like)).unwrap().like.unwrap().to_string()
}

fn md5(bytes: &[u8]) -> String {
    digest(bytes, "md5", 32)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn manifest(name: &str, uuid: &str, origin: Option<&str>, file: &[u8]) -> Value {
    let sha1 = digest(file, "sha1", 40);
    let mut manifest = json!({
        "v": 2, "uuid": uuid, "name": name, "version": format!("{name}-1"), "os": "smartos",
        "files": [{"sha1": sha1["sha1:".len()..], "size": file.len(), "compression": "gzip"}],
    });
    if let Some(origin) = origin {
        manifest["origin"] = json!(origin);
    }
    manifest
}

/// Bytes that do not repeat.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

const A: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const B: &str = "bbbbbbbb-0000-4000-8000-000000000002";
const C: &str = "cccccccc-0000-4000-8000-000000000003";
