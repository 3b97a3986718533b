//! Writes leases to disk, and sends the answers that promise them only after that.
//!
//! While one write is forced to disk the server goes on reading messages, and all that gathers
//! meanwhile is the next write: a boot storm costs as many writes as the disk can do, not one for
//! each node.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Send;
use crate::leases::{Lease, LeaseFile, Leases};

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
    file: Option<LeaseFile>,
    compaction: Option<JoinHandle<io::Result<u64>>>,
    /// Whether the last write has failed, so that one full disk is told once.
    failing: bool,
}

impl Writer {
    pub fn new(socket: Arc<UdpSocket>, leases: Arc<Mutex<Leases>>, file: LeaseFile) -> Self {
        Self { socket, leases, file: Some(file), compaction: None, failing: false }
    }

    /// Writes until the channel's other end is closed, then writes the whole table.
    pub async fn run(mut self, mut batches: mpsc::Receiver<Batch>) {
        while let Some(Batch { mut text, mut promises }) = batches.recv().await {
            while promises.len() < MOST
                && let Ok(next) = batches.try_recv()
            {
                text.push_str(&next.text);
                promises.extend(next.promises);
            }
            if !text.is_empty() {
                let result = self.with_file(move |file| file.append(&text)).await;
                self.tell(result);
            }
            // Without the file the nodes still boot, and most get the same address again by the
            // hash.
            for promise in &promises {
                super::send(&self.socket, promise).await;
            }
            self.compact().await;
        }
        self.finish_compaction().await;
        let leases = self.table();
        let result = self.with_file(move |file| file.save(leases.iter())).await;
        self.tell(result);
    }

    async fn compact(&mut self) {
        if self.compaction.as_ref().is_some_and(|running| !running.is_finished()) {
            return;
        }
        self.finish_compaction().await;
        if !self.file.as_ref().is_some_and(LeaseFile::is_full) {
            return;
        }
        match self.with_file(LeaseFile::rotate).await {
            Ok(compaction) => {
                // Copied after the log was set aside: whatever is in that is in the copy.
                let leases = self.table();
                self.compaction =
                    Some(tokio::task::spawn_blocking(move || compaction.write(&leases)));
            }
            Err(error) => self.tell(Err(error)),
        }
    }

    async fn finish_compaction(&mut self) {
        if let Some(running) = self.compaction.take() {
            let result = running.await.unwrap_or_else(|error| Err(io::Error::other(error)));
            match (result, &mut self.file) {
                (Ok(size), Some(file)) => file.compacted(size),
                (Ok(_), None) => {}
                (Err(error), _) => self.tell(Err(error)),
            }
        }
    }

    fn table(&self) -> Vec<Lease> {
        let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.iter().cloned().collect()
    }

    async fn with_file<T: std::marker::Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut LeaseFile) -> io::Result<T> + std::marker::Send + 'static,
    ) -> io::Result<T> {
        let Some(mut file) = self.file.take() else {
            return Err(io::Error::other("an earlier write did not end"));
        };
        let task = tokio::task::spawn_blocking(move || (work(&mut file), file));
        match task.await {
            Ok((result, file)) => {
                self.file = Some(file);
                result
            }
            Err(error) => Err(io::Error::other(error)),
        }
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
                let file = self.file.as_ref().map(|file| file.path().display().to_string());
                let file = file.unwrap_or_default();
                tracing::error!(
                    "writing the leases to {file}: {error}; they are kept in memory only"
                );
            }
            Err(error) => tracing::debug!("writing the leases: {error}"),
        }
    }
}
