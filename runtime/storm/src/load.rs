//! Pure TFTP load: clients that fetch one file again and again.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;

use crate::{Error, tftp};

/// What is asked of a TFTP server.
#[derive(Debug, Clone)]
pub struct Load {
    /// The server.
    pub server: SocketAddrV4,
    /// The file.
    pub file: String,
    /// Clients at the same time.
    pub clients: u32,
    /// The address that the clients send from.
    pub local: Ipv4Addr,
    /// How they ask.
    pub options: tftp::Options,
    /// For how long.
    pub time: Duration,
}

/// What came.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Loaded {
    /// Millions of bytes in a second, of whole files.
    pub mb_per_second: f64,
    /// Files that came.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that the clients sent again.
    pub resent: u64,
    /// Files that did not come.
    pub failed: u64,
    /// Why, of the last one.
    pub problem: Option<String>,
    /// Seconds from the first request to the last byte.
    pub seconds: f64,
}

/// Asks for `load.time`, and lets what runs then end.
///
/// # Errors
/// When a client of the simulator breaks.
pub async fn run(load: &Load) -> Result<Loaded, Error> {
    let load = Arc::new(load.clone());
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..load.clients {
        let load = Arc::clone(&load);
        clients.spawn(async move {
            let mut mine = Loaded::default();
            while begun.elapsed() < load.time {
                match tftp::get(load.local, load.server, &load.file, &load.options).await {
                    Ok(got) => {
                        mine.files += 1;
                        mine.bytes += got.bytes;
                        mine.resent += u64::from(got.resent);
                    }
                    Err(error) => {
                        mine.failed += 1;
                        mine.problem = Some(error.to_string());
                        // Else a server that refuses is asked without pause.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
            mine
        });
    }
    let mut all = Loaded::default();
    while let Some(done) = clients.join_next().await {
        let done = done.map_err(std::io::Error::other).map_err(Error::io("simulating a client"))?;
        all.files += done.files;
        all.bytes += done.bytes;
        all.resent += done.resent;
        all.failed += done.failed;
        all.problem = done.problem.or(all.problem);
    }
    all.seconds = begun.elapsed().as_secs_f64();
    all.mb_per_second = all.bytes as f64 / 1e6 / all.seconds;
    Ok(all)
}
