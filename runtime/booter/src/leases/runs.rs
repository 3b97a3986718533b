//! A set of numbers as runs of neighbours: finds the next number that is not in it in O(log n),
//! and needs memory only for what is in it, however large the range is.

use std::collections::BTreeMap;

/// Numbers that are taken.
#[derive(Debug, Default)]
pub struct Runs {
    /// First of a run to its last; runs neither overlap nor touch.
    runs: BTreeMap<u32, u32>,
}

impl Runs {
    /// Puts a number in or takes it out.
    pub fn set(&mut self, number: u32, taken: bool) {
        match (self.run_of(number), taken) {
            (None, true) => self.insert(number),
            (Some((first, last)), false) => self.split(first, last, number),
            _ => {}
        }
    }

    /// The first number from `from` on, going round at `size`, that is not in the set.
    pub fn next_free(&self, from: u32, size: u32) -> Option<u32> {
        let after = |start: u32| match self.run_of(start) {
            None => Some(start),
            Some((_, last)) => last.checked_add(1),
        };
        let free = after(from).filter(|free| *free < size);
        free.or_else(|| after(0).filter(|free| *free < size))
    }

    /// How many numbers are taken.
    pub fn len(&self) -> u64 {
        self.runs.iter().map(|(first, last)| u64::from(last - first) + 1).sum()
    }

    fn run_of(&self, number: u32) -> Option<(u32, u32)> {
        let (first, last) = self.runs.range(..=number).next_back()?;
        (*last >= number).then_some((*first, *last))
    }

    fn insert(&mut self, number: u32) {
        let left = number.checked_sub(1).and_then(|left| self.run_of(left));
        let right = number.checked_add(1).and_then(|right| self.run_of(right));
        if let Some((first, _)) = right {
            self.runs.remove(&first);
        }
        let first = left.map_or(number, |(first, _)| first);
        let last = right.map_or(number, |(_, last)| last);
        self.runs.insert(first, last);
    }

    fn split(&mut self, first: u32, last: u32, number: u32) {
        self.runs.remove(&first);
        if first < number {
            self.runs.insert(first, number - 1);
        }
        if number < last {
            self.runs.insert(number + 1, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_the_same_as_a_plain_set(
            steps in prop::collection::vec((0u32..24, any::<bool>()), 0..200), from in 0u32..24
        ) {
            let (mut runs, mut plain) = (Runs::default(), BTreeSet::new());
            for (number, taken) in steps {
                runs.set(number, taken);
                if taken { plain.insert(number); } else { plain.remove(&number); }
                let free = (from..24).chain(0..from).find(|n| !plain.contains(n));
                prop_assert_eq!(runs.next_free(from, 24), free);
                prop_assert_eq!(runs.len(), plain.len() as u64);
                let mut before = None;
                for (first, last) in &runs.runs {
                    prop_assert!(first <= last);
                    prop_assert!(before.is_none_or(|before: u32| before + 1 < *first));
                    before = Some(*last);
                }
            }
        }
    }
}
