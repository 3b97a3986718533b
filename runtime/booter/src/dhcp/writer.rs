//! Writes leases to disk, and sends the answers that promise them only after that.
//!
//! While one write is forced to disk the server goes on reading messages, and all that gathers
//! meanwhile is the next write: a boot storm costs as many writes as the disk can do, not one for
//! each node.

use std::io;
use std::net::UdpSocket;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Send;
use super::serve::send;
use crate::leases::{Lease, LeaseFile, Leases};

/// How long after a table could not be written it is tried again: a full disk must not be kept busy.
const PAUSE: Duration = Duration::from_secs(10);
/// Most answers that wait for one write.
const MOST: usize = 2048;

/// What came of a batch of messages.
pub(super) struct Batch {
    /// Lines for the log.
    pub text: String,
    /// Answers to send when they are on disk.
    pub promises: Vec<Send>,
}

pub(super) struct Writer {
    socket: Arc<UdpSocket>,
    leases: Arc<Mutex<Leases>>,
    file: LeaseFile,
    compaction: Option<JoinHandle<io::Result<u64>>>,
    /// Whether the last write has failed, so that one full disk is told once.
    failing: bool,
    /// When a table may be written again, after that has failed.
    again: Option<Instant>,
}

impl Writer {
    pub fn new(socket: Arc<UdpSocket>, leases: Arc<Mutex<Leases>>, file: LeaseFile) -> Self {
        Self { socket, leases, file, compaction: None, failing: false, again: None }
    }

    /// Writes until the channel's other end is closed, then writes the whole table.
    pub fn run(mut self, batches: &Receiver<Batch>) {
        while let Ok(Batch { mut text, mut promises }) = batches.recv() {
            while promises.len() < MOST
                && let Ok(next) = batches.try_recv()
            {
                text.push_str(&next.text);
                promises.extend(next.promises);
            }
            if !text.is_empty() {
                let result = self.file.append(&text);
                self.tell(result);
            }
            // Without the file the nodes still boot, and most get the same address again by the
            // hash.
            promises.iter().for_each(|promise| send(&self.socket, promise));
            self.compact();
        }
        self.finish_compaction();
        let result = self.file.save(self.table().iter());
        self.tell(result);
    }

    fn compact(&mut self) {
        if self.compaction.as_ref().is_some_and(|running| !running.is_finished()) {
            return;
        }
        self.finish_compaction();
        if !self.file.is_full() || self.again.is_some_and(|again| Instant::now() < again) {
            return;
        }
        match self.file.rotate() {
            Ok(compaction) => {
                // Copied after the log was set aside: whatever is in that is in the copy.
                let leases = self.table();
                let work = move || compaction.write(&leases);
                match thread::Builder::new().name("dhcp-table".to_owned()).spawn(work) {
                    Ok(running) => self.compaction = Some(running),
                    Err(error) => self.failed(error),
                }
            }
            Err(error) => self.failed(error),
        }
    }

    fn finish_compaction(&mut self) {
        let Some(running) = self.compaction.take() else { return };
        match running.join() {
            Ok(Ok(size)) => self.file.compacted(Some(size)),
            Ok(Err(error)) => self.failed(error),
            Err(_) => self.failed(io::Error::other("writing the table has failed")),
        }
    }

    fn failed(&mut self, error: io::Error) {
        self.file.compacted(None);
        self.again = Some(Instant::now() + PAUSE);
        self.tell(Err(error));
    }

    fn table(&self) -> Vec<Lease> {
        let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.iter().cloned().collect()
    }

    fn tell(&mut self, result: io::Result<()>) {
        match result {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!("the leases can be written again");
            }
            Ok(()) => {}
            Err(error) if !self.failing => {
                self.failing = true;
                let file = self.file.path().display();
                tracing::error!(
                    "writing the leases to {file}: {error}; they are kept in memory only"
                );
            }
            Err(error) => tracing::debug!("writing the leases: {error}"),
        }
    }
}
