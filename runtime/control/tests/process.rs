//! The program as systemd runs it: readiness, stop, crashes, damaged databases.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::os::unix::net::UnixDatagram;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::process::{Process, command, command_on, machine};
use headnode_client::ServerQuery;

fn failed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    // The error is the last line, and the only one that is no log.
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('{')).collect();
    assert_eq!(lines.len(), 1, "{text}");
    lines[0].to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let mut process = Process::start(command(folder.path()));
        let known = process.cnapi.list_servers(&ServerQuery::default()).await.unwrap();
        for uuid in &acknowledged {
            assert!(known.iter().any(|s| s.uuid == *uuid), "{uuid} is lost, round {round}");
        }
        let written = Arc::new(AtomicUsize::new(0));
        let writers: Vec<_> = (0..4u32)
            .map(|writer| {
                let (cnapi, written) = (process.cnapi.clone(), Arc::clone(&written));
                tokio::spawn(async move {
                    let mut done = Vec::new();
                    for n in 0.. {
                        let machine = machine(round * 100_000 + writer * 10_000 + n);
                        match cnapi.register_sysinfo(&machine).await {
                            Ok(()) => {
                                done.push(machine.uuid);
                                written.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(_) => break,
                        }
                    }
                    done
                })
            })
            .collect();
        let until = Instant::now() + Duration::from_secs(60);
        while written.load(Ordering::Relaxed) < 20 {
            assert!(Instant::now() < until, "too few writes");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        process.child.kill().unwrap();
        process.child.wait().unwrap();
        for writer in writers {
            acknowledged.extend(writer.await.unwrap());
        }
    }
    assert!(acknowledged.len() > 10, "only {} writes before the kills", acknowledged.len());
    let place = format!("sqlite:{}", folder.path().join("control.db").display());
    let pool = sqlx::SqlitePool::connect(&place).await.unwrap();
    let (result,): (String,) =
        sqlx::query_as("PRAGMA integrity_check").fetch_one(&pool).await.unwrap();
    assert_eq!(result, "ok");
    let (count,): (i64,) =
        sqlx::query_as("SELECT COUNT(*) FROM servers").fetch_one(&pool).await.unwrap();
    assert!(count >= i64::try_from(acknowledged.len()).unwrap());
    println!("{} registrations acknowledged, {count} kept", acknowledged.len());
}

#[tokio::test]
async fn systemd_learns_when_it_is_ready_and_it_stops_when_told() {
    let folder = tempfile::tempdir().unwrap();
    let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut command = command(folder.path());
    command.env("NOTIFY_SOCKET", folder.path().join("notify"));
    let mut process = Process::start(command);
    let receive = || {
        let mut buffer = [0; 100];
        let count = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    };
    assert_eq!(receive(), "READY=1");
    assert!(process.cnapi.ping().await.unwrap().ready);
    for n in 0..40 {
        process.cnapi.register_sysinfo(&machine(n)).await.unwrap();
    }
    let servers = process.cnapi.list_servers(&ServerQuery::default()).await.unwrap();
    assert_eq!(servers.len(), 40);
    assert!(process.terminate().success());
    assert_eq!(receive(), "STOPPING=1");
}

#[test]
fn a_bad_configuration_is_told_in_full() {
    let folder = tempfile::tempdir().unwrap();
    let mut good = command(folder.path());
    let output = good.arg("--check-config").output().unwrap();
    assert!(output.status.success());
    let mut bad = command(folder.path());
    std::fs::write(folder.path().join("config"), "admin_ip=10.0.0.300\ndatacenter_name=x\n")
        .unwrap();
    let output = bad.arg("--check-config").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    for key in ["admin_ip", "admin_netmask", "admin_nic", "dns_domain", "dhcp_range_start"] {
        assert!(text.contains(&format!("\n  {key}: ")), "{text}");
    }
}

#[test]
fn damaged_databases_are_refused_with_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.db");
    std::fs::write(&path, "this is a text file, no database, ".repeat(300)).unwrap();
    let line = failed(&command(folder.path()).output().unwrap());
    assert!(line.starts_with("sdc-control: opening database "), "{line}");
    assert!(line.contains("not a database") && line.contains("move it away"), "{line}");
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("this is"), "it was overwritten");

    std::fs::remove_file(&path).unwrap();
    let mut process = Process::start(command(folder.path()));
    assert!(process.terminate().success());
    let mut bytes = std::fs::read(&path).unwrap();
    let page = 4096;
    bytes[page..2 * page].fill(0x5a);
    std::fs::write(&path, &bytes).unwrap();
    let line = failed(&command(folder.path()).output().unwrap());
    assert!(line.contains("damaged") && line.contains("move it away"), "{line}");

    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let line = failed(&command(folder.path()).output().unwrap());
    assert!(line.contains("cannot be opened"), "{line}");
}

#[test]
fn a_port_in_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let text = failed(&command_on(folder.path(), &address).output().unwrap());
    assert!(text.contains(&format!("listening on {address}")), "{text}");
}
