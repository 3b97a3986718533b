//! The server's own threads.
//!
//! With the smallest windows a transfer is nothing but short answers to short packets. On threads
//! that share their work each of them would wake another thread; here all that has come is answered
//! in one go. It also keeps a storm of loaders from the threads of DHCP and HTTP.

use std::io;
use std::num::NonZero;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Most threads: these fill any NIC of a headnode.
const MOST: usize = 4;
/// Threads that read files, per thread: what is hot is not read at all.
const READERS: usize = 4;

/// Threads with an event loop each, which end when this is dropped.
#[derive(Debug)]
pub struct Threads {
    first: Handle,
    further: Vec<Handle>,
    next: usize,
    _end: DropGuard,
}

impl Threads {
    /// Starts half as many as there are processors, at least one.
    ///
    /// # Errors
    /// When the operating system gives none.
    pub fn start() -> io::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let end = CancellationToken::new();
        let guard = end.clone().drop_guard();
        let first = start(&end)?;
        let further = (1..(processors / 2).min(MOST)).map(|_| start(&end));
        let further = further.collect::<io::Result<_>>()?;
        Ok(Self { first, further, next: 0, _end: guard })
    }

    /// The one that reads the server's port.
    pub fn first(&self) -> &Handle {
        &self.first
    }

    /// Each in turn.
    pub fn any(&mut self) -> &Handle {
        self.next = (self.next + 1) % (self.further.len() + 1);
        self.further.get(self.next).unwrap_or(&self.first)
    }
}

fn start(end: &CancellationToken) -> io::Result<Handle> {
    let runtime =
        Builder::new_current_thread().enable_all().max_blocking_threads(READERS).build()?;
    let (handle, end) = (runtime.handle().clone(), end.clone());
    let run = move || runtime.block_on(end.cancelled());
    thread::Builder::new().name("tftp".to_owned()).spawn(run)?;
    Ok(handle)
}
