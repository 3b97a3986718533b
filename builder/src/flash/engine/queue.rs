//! A short queue from the producer to a disk's thread, whose sender can lose its patience.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Orders that wait at most.
const LENGTH: usize = 2;

struct State<T> {
    waiting: VecDeque<T>,
    closed: bool,
}

/// The queue.
pub struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

/// Why an order was not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// The other side has ended.
    Closed,
    /// It took nothing for too long.
    Stalled,
}

impl<T> Queue<T> {
    /// An empty one.
    pub fn new() -> Self {
        let state = State { waiting: VecDeque::new(), closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an order; waits for room, without a limit when there is no `patience`.
    ///
    /// # Errors
    /// When the other side has ended or takes nothing.
    pub fn push(&self, order: T, patience: Option<Duration>) -> Result<(), Refused> {
        let until = patience.map(|patience| Instant::now() + patience);
        let mut state = self.lock();
        while state.waiting.len() >= LENGTH && !state.closed {
            state = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return Err(Refused::Stalled),
                Some(left) => {
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        if state.closed {
            return Err(Refused::Closed);
        }
        state.waiting.push_back(order);
        self.changed.notify_all();
        Ok(())
    }

    /// Waits for an order; none when there will be no more.
    pub fn pop(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(order) = state.waiting.pop_front() {
                self.changed.notify_all();
                return Some(order);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// No more orders: those that wait can still be taken.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// No more orders, and those that wait are dropped.
    pub fn abandon(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waiting.clear();
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_come_in_order_and_a_full_queue_tries_the_patience() {
        let queue = Queue::new();
        assert_eq!(queue.push(1, None), Ok(()));
        assert_eq!(queue.push(2, None), Ok(()));
        assert_eq!(queue.push(3, Some(Duration::from_millis(5))), Err(Refused::Stalled));
        assert_eq!(queue.pop(), Some(1));
        std::thread::scope(|scope| {
            scope.spawn(|| (3..50).for_each(|number| queue.push(number, None).unwrap()));
            assert!((2..50).all(|number| queue.pop() == Some(number)));
        });
        queue.push(50, None).unwrap();
        queue.close();
        assert_eq!((queue.push(51, None), queue.pop()), (Err(Refused::Closed), Some(50)));
        assert_eq!(queue.pop(), None);
    }
}
