//! Threads that compress pieces of a stream while it is written, and give them back in order.
//!
//! What is compressed how depends on the pieces only, never on the number of threads.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

type Job = Box<dyn FnOnce() + Send>;

/// A number of threads; they end when nothing refers to the pool any more.
pub struct Pool {
    jobs: Sender<Job>,
    threads: usize,
}

impl Pool {
    /// Starts this many threads, at least one.
    ///
    /// # Errors
    /// When the operating system has none left.
    pub fn new(threads: usize) -> io::Result<Arc<Self>> {
        let threads = threads.max(1);
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..threads {
            let queue = Arc::clone(&queue);
            let name = format!("compress-{number}");
            thread::Builder::new().name(name).spawn(move || {
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    match job {
                        Ok(job) => job(),
                        Err(_) => return,
                    }
                }
            })?;
        }
        Ok(Arc::new(Self { jobs, threads }))
    }

    /// Starts a thread per processor.
    ///
    /// # Errors
    /// When the operating system has none left.
    pub fn for_this_machine() -> io::Result<Arc<Self>> {
        Self::new(thread::available_parallelism().map_or(1, usize::from))
    }
}

enum Place<T> {
    Ready(T),
    Later(Receiver<T>),
}

/// Jobs of one stream, whose results come back in the order in which the jobs were given.
///
/// At most as many jobs wait as keep the threads busy, so memory stays bounded.
pub struct Ordered<T> {
    pool: Arc<Pool>,
    places: VecDeque<Place<T>>,
}

impl<T: Send + 'static> Ordered<T> {
    /// An empty queue for jobs on this pool.
    pub fn new(pool: Arc<Pool>) -> Self {
        Self { pool, places: VecDeque::new() }
    }

    /// Adds a job; gives the oldest result when many are waiting.
    ///
    /// # Errors
    /// When the job of that result died.
    pub fn push(&mut self, job: impl FnOnce() -> T + Send + 'static) -> io::Result<Option<T>> {
        let (sender, receiver) = sync_channel(1);
        let job = Box::new(move || {
            // Nobody waits any more when the stream was given up.
            let _ = sender.send(job());
        });
        self.pool.jobs.send(job).map_err(|_| died())?;
        self.places.push_back(Place::Later(receiver));
        self.oldest_of_many()
    }

    /// Adds a result that needs no work; gives the oldest one when many are waiting.
    ///
    /// # Errors
    /// When the job of that result died.
    pub fn push_ready(&mut self, result: T) -> io::Result<Option<T>> {
        self.places.push_back(Place::Ready(result));
        self.oldest_of_many()
    }

    /// Waits for the oldest result; none when all are given.
    ///
    /// # Errors
    /// When its job died.
    pub fn pop(&mut self) -> io::Result<Option<T>> {
        match self.places.pop_front() {
            None => Ok(None),
            Some(Place::Ready(result)) => Ok(Some(result)),
            Some(Place::Later(receiver)) => receiver.recv().map(Some).map_err(|_| died()),
        }
    }

    fn oldest_of_many(&mut self) -> io::Result<Option<T>> {
        if self.places.len() > 2 * self.pool.threads + 2 { self.pop() } else { Ok(None) }
    }
}

fn died() -> io::Error {
    io::Error::other("a thread that compresses ended before its time")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order_and_few_wait() {
        let mut queue = Ordered::new(Pool::new(3).unwrap());
        let mut results = Vec::new();
        for number in 0..200_u64 {
            // The later ones are done first.
            let job =
                move || (0..(200 - number) * 1000).fold(number, |n, _| std::hint::black_box(n));
            let oldest = if number % 7 == 0 { queue.push_ready(number) } else { queue.push(job) };
            results.extend(oldest.unwrap());
            assert!(queue.places.len() <= 8);
        }
        while let Some(result) = queue.pop().unwrap() {
            results.push(result);
        }
        assert_eq!(results, (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn a_job_that_dies_is_an_error() {
        let mut queue = Ordered::<()>::new(Pool::new(1).unwrap());
        queue.push(|| panic!("as the test wants it")).unwrap();
        assert!(queue.pop().unwrap_err().to_string().contains("ended"));
    }
}
