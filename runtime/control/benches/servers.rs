//! What `sdc-control` takes from a thousand servers: `cargo bench -p sdc-control --bench servers`.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

use common::process::{Process, command, machine};
use headnode_client::ServerQuery;

const SERVERS: u32 = 1000;
const WRITERS: u32 = 4;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(command(folder.path()));
    let began = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let cnapi = process.cnapi.clone();
            tokio::spawn(async move {
                for n in (writer..SERVERS).step_by(WRITERS as usize) {
                    cnapi.register_sysinfo(&machine(n)).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    println!("registrations: {:.0} a second", f64::from(SERVERS) / began.elapsed().as_secs_f64());
    for extras in [vec![], vec!["all".to_owned()]] {
        let began = Instant::now();
        let query = ServerQuery { extras: extras.clone(), ..ServerQuery::default() };
        let count = process.cnapi.list_servers_json(&query).await.unwrap().len();
        println!("list of {count} servers, extras {extras:?}: {:.1?}", began.elapsed());
    }
    let began = Instant::now();
    for n in 0..SERVERS {
        process.cnapi.heartbeat(machine(n).uuid).await.unwrap();
    }
    println!(
        "heartbeats, one caller: {:.0} a second",
        f64::from(SERVERS) / began.elapsed().as_secs_f64()
    );
    println!("resident: {:.1} MB", process.resident_kib() as f64 / 1024.0);
}
