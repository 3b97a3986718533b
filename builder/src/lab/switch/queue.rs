//! The bounded queue in front of every port of the switch.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many bytes may wait for one machine: twice iPXE's and Linux's usual TCP window, so that one
/// download at full speed never loses a frame to a slow guest, and a dead guest costs no more.
pub const QUEUE_BYTES: usize = 8 << 20;

/// A frame that waits, and the moment from which it may be sent.
#[derive(Debug)]
struct Waiting {
    due: Instant,
    frame: Arc<[u8]>,
}

#[derive(Debug, Default)]
struct Inner {
    frames: VecDeque<Waiting>,
    bytes: usize,
    closed: bool,
}

/// Frames on their way to one machine, in order.
#[derive(Debug, Default)]
pub struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a frame that may be sent at `due`; `false` when the queue is full or closed and the
    /// frame is lost.
    pub fn push(&self, due: Instant, frame: Arc<[u8]>) -> bool {
        let mut inner = self.lock();
        if inner.closed || inner.bytes + frame.len() > QUEUE_BYTES {
            return false;
        }
        inner.bytes += frame.len();
        inner.frames.push_back(Waiting { due, frame });
        let first = inner.frames.len() == 1;
        drop(inner);
        if first {
            self.changed.notify_one();
        }
        true
    }

    /// Waits for frames that may be sent, and moves up to `limit` bytes of them (at least one
    /// frame) in QEMU's framing into `out`, which is emptied first. Returns how many frames these
    /// are; `None` when the queue is closed.
    pub fn take(&self, out: &mut Vec<u8>, limit: usize) -> Option<usize> {
        out.clear();
        let mut inner = self.lock();
        loop {
            if inner.closed {
                return None;
            }
            let Some(first) = inner.frames.front() else {
                inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let now = Instant::now();
            let early = first.due.saturating_duration_since(now);
            if early > Duration::ZERO {
                let woken = self.changed.wait_timeout(inner, early);
                inner = woken.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let mut count = 0;
            while let Some(next) = inner.frames.front() {
                if next.due > now || (count > 0 && out.len() + next.frame.len() > limit) {
                    break;
                }
                let Some(next) = inner.frames.pop_front() else { break };
                inner.bytes -= next.frame.len();
                let length = u32::try_from(next.frame.len()).unwrap_or(u32::MAX);
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(&next.frame);
                count += 1;
            }
            return Some(count);
        }
    }

    /// Forgets all frames and makes [`Queue::take`] return `None`.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.frames.clear();
        inner.bytes = 0;
        drop(inner);
        self.changed.notify_all();
    }
}
