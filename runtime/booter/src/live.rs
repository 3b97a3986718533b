//! Settings that may be exchanged while the servers run.

use std::sync::Arc;

use arc_swap::ArcSwap;

/// A value that all its clones share and that can be replaced as a whole.
///
/// A reload sets it; servers get it anew for each request, so that running transfers keep the
/// settings they began with and new ones see the new settings.
#[derive(Debug)]
pub struct Live<T>(Arc<ArcSwap<T>>);

impl<T> Live<T> {
    /// A shared value.
    pub fn new(value: T) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(value)))
    }

    /// The value of this moment; later changes do not show in it.
    pub fn get(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Replaces the value for all clones.
    pub fn set(&self, value: T) {
        self.0.store(Arc::new(value));
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_see_a_new_value_and_what_was_got_stays() {
        let live = Live::new(1);
        let (clone, before) = (live.clone(), live.get());
        live.set(2);
        assert_eq!((*before, *clone.get()), (1, 2));
    }
}
