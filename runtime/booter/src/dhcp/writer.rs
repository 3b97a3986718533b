//! Writes leases to disk, and sends the answers that promise them only after that.
//!
//! While one write is forced to disk the server goes on reading messages, and all that gathers
//! meanwhile is the next write: a boot storm costs as many writes as the disk can do, not one for
//! each node.

use std::io;
use std::net::UdpSocket;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Send;
use super::serve::send;
use crate::leases::{Lease, LeaseFile, Leases};

/// How long after a table could not be written it is tried again, also when there are no new leases: a
/// full disk must not be kept busy.
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
    /// [`PAUSE`].
    pause: Duration,
}

impl Writer {
    pub fn new(socket: Arc<UdpSocket>, leases: Arc<Mutex<Leases>>, file: LeaseFile) -> Self {
        Self { socket, leases, file, compaction: None, failing: false, again: None, pause: PAUSE }
    }

    /// Writes until the channel's other end is closed, then writes the whole table.
    pub fn run(mut self, batches: &Receiver<Batch>) {
        loop {
            let next = match self.failing || self.compaction.is_some() {
                true => batches.recv_timeout(self.pause),
                false => batches.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let Batch { mut text, mut promises } = match next {
                Ok(batch) => batch,
                // What only memory has gets to the disk as soon as there is room.
                Err(RecvTimeoutError::Timeout) => {
                    self.compact();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
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
            Ok(Ok(size)) => {
                self.file.compacted(Some(size));
                self.tell(Ok(()));
            }
            Ok(Err(error)) => self.failed(error),
            Err(_) => self.failed(io::Error::other("writing the table has failed")),
        }
    }

    fn failed(&mut self, error: io::Error) {
        self.file.compacted(None);
        self.again = Some(Instant::now() + self.pause);
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::Ipv4Addr;
    use std::sync::mpsc::sync_channel;

    use headnode_model::net::MacAddr;

    use super::*;
    use crate::leases::Claim;
    use crate::settings::Settings;

    #[test]
    fn what_a_full_disk_refused_is_written_when_there_is_room_though_nobody_asks() {
        let dir = tempfile::tempdir().unwrap();
        // A full disk for the log; the table cannot be written in the place of a folder.
        std::os::unix::fs::symlink("/dev/full", dir.path().join("leases.log")).unwrap();
        let blocked = dir.path().join(".leases.new");
        fs::create_dir(&blocked).unwrap();
        let settings = Settings::for_tests();
        let (ip, mac) = (settings.networks()[0].ranges[0].first, MacAddr([2, 0, 0, 0, 0, 1]));
        let mut leases = Leases::new(settings.networks(), settings.admin_ip);
        let lease = Lease { mac, ip, uuid: None, seen: 1, until: 2, tag: None };
        assert_eq!(leases.commit(0, lease, Claim::Remembered), Ok(true));
        let text = leases.take_journal();
        let leases = Arc::new(Mutex::new(leases));
        let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let mut writer = Writer::new(socket, leases, LeaseFile::new(dir.path()));
        writer.pause = Duration::from_millis(20);
        let (batches, queue) = sync_channel(1);
        let running = thread::spawn(move || writer.run(&queue));
        batches.send(Batch { text, promises: Vec::new() }).unwrap();
        // The second batch is taken when the first one is done with.
        batches.send(Batch { text: String::new(), promises: Vec::new() }).unwrap();
        batches.send(Batch { text: String::new(), promises: Vec::new() }).unwrap();
        fs::remove_dir(&blocked).unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while !fs::read_to_string(dir.path().join("leases"))
            .unwrap_or_default()
            .contains("02:00:00:00:00:01")
        {
            assert!(Instant::now() < until, "it is not written");
            thread::sleep(Duration::from_millis(5));
        }
        drop(batches);
        running.join().unwrap();
    }
}
