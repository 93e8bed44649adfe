//! A count of what is there, kept by many threads without a lock.
//!
//! Used once per connection, never per request: for the connections of a worker, which others read to
//! find out who has room and add to when they hand one over, and for those of the whole gateway, which
//! must not be more than the limit.
//!
//! `tests/loom` tries every order in which threads can meet here.

#[cfg(loom)]
use loom::sync::Arc;
#[cfg(loom)]
use loom::sync::atomic::{AtomicUsize, Ordering};
#[cfg(not(loom))]
use std::sync::Arc;
#[cfg(not(loom))]
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::utils::CachePadded;

/// The count of a tally that nobody enters any more. More than any limit, so it needs no check of its
/// own, and a worker that has ended looks like the busiest of all.
const CLOSED: usize = usize::MAX;

/// How many are in. Alone in its cache line: its neighbours are other workers' counts.
#[derive(Debug)]
pub struct Tally(CachePadded<AtomicUsize>);

/// One that is in, until dropped.
#[derive(Debug)]
pub struct Entry(Arc<Tally>);

impl Tally {
    /// Nobody is in.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self(CachePadded::new(AtomicUsize::new(0))))
    }

    /// Counts one more, if fewer than `max` are in and it has not been closed.
    ///
    /// Not by adding first and taking back what was too many: in between, somebody else would be
    /// refused a place that is free.
    #[must_use]
    pub fn enter(tally: &Arc<Self>, max: usize) -> Option<Entry> {
        let more = |count: usize| (count < max).then(|| count + 1);
        tally.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Entry(Arc::clone(tally)))
    }

    /// How many are in; [`usize::MAX`] when it is closed. May be old when it is read.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Lets nobody in from now on, if nobody is in. Whether that was so.
    ///
    /// What those who have left did before is seen by whoever has closed it.
    pub fn close(&self) -> bool {
        self.0.compare_exchange(0, CLOSED, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
}

impl Entry {
    /// Leaves. How many are in then; may be old when it is read.
    pub fn leave(self) -> usize {
        let tally = Arc::clone(&self.0);
        drop(self);
        tally.count()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_are_in() {
        let tally = Tally::new();

        let first = Tally::enter(&tally, 2);
        let second = Tally::enter(&tally, 2);

        assert!(first.is_some() && second.is_some());
        assert!(Tally::enter(&tally, 2).is_none());
        assert_eq!(tally.count(), 2);
        drop(first);
        assert!(Tally::enter(&tally, 2).is_some());
        assert_eq!(tally.count(), 1);
    }

    #[test]
    fn it_closes_when_it_is_empty_and_stays_closed() {
        let tally = Tally::new();
        let entry = Tally::enter(&tally, usize::MAX);

        assert!(!tally.close());
        drop(entry);
        assert!(tally.close());

        assert!(Tally::enter(&tally, usize::MAX).is_none());
        assert_eq!(tally.count(), usize::MAX);
    }
}
