//! Threads with an event loop each.
//!
//! A transfer by TFTP is nothing but short answers to short packets, and most requests by HTTP are for
//! small files. On threads that share their work each of them would wake another thread, or all would
//! be left to one; here all that has come for a thread is answered by it in one go. It also keeps a
//! storm of one protocol from the threads of the others.

use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Threads for one protocol, which end when this is dropped.
#[derive(Debug)]
pub struct Threads {
    first: Handle,
    further: Vec<Handle>,
    next: AtomicUsize,
    _end: DropGuard,
}

impl Threads {
    /// Starts `count` threads, at least one, each of which has up to `readers` others wait for the
    /// disk in its place.
    ///
    /// # Errors
    /// When the operating system gives none.
    pub fn start(name: &'static str, count: usize, readers: usize) -> io::Result<Self> {
        let end = CancellationToken::new();
        let guard = end.clone().drop_guard();
        let first = start(name, readers, &end)?;
        let further = (1..count).map(|_| start(name, readers, &end));
        let further = further.collect::<io::Result<_>>()?;
        Ok(Self { first, further, next: AtomicUsize::new(0), _end: guard })
    }

    /// The first of them.
    pub fn first(&self) -> &Handle {
        &self.first
    }

    /// Each in turn.
    pub fn any(&self) -> &Handle {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % (self.further.len() + 1);
        self.further.get(next).unwrap_or(&self.first)
    }
}

/// How many processors this process may use; 1 when that is not known.
pub fn processors() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

fn start(name: &'static str, readers: usize, end: &CancellationToken) -> io::Result<Handle> {
    let runtime =
        Builder::new_current_thread().enable_all().max_blocking_threads(readers).build()?;
    let (handle, end) = (runtime.handle().clone(), end.clone());
    let run = move || runtime.block_on(end.cancelled());
    thread::Builder::new().name(name.to_owned()).spawn(run)?;
    Ok(handle)
}
