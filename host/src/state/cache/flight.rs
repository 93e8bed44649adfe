//! Who fetches what many wait for.
//!
//! ```text
//!   claim ─► nobody does ─► Fetch: this exchange does, until it is dropped
//!      └───► somebody does ─► Flight: over when that one has a response that is kept, or none
//! ```
//!
//! A flight says nothing about what came of it: whoever has waited looks into the cache again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use crate::state::lock;

/// Fetches under way, by key.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<Box<[u8]>, Arc<Shared>>>);

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    waiting: Mutex<Vec<Option<Waker>>>,
}

/// Whose turn it is to fetch something.
pub enum Turn {
    /// The caller's.
    Mine(Fetch),
    /// Somebody else's.
    Wait(Flight),
}

impl Flights {
    pub(super) fn claim(self: &Arc<Self>, key: &[u8]) -> Turn {
        match lock(&self.0).entry(key.into()) {
            Entry::Occupied(known) => {
                Turn::Wait(Flight { shared: Arc::clone(known.get()), seat: None })
            }
            Entry::Vacant(vacant) => {
                let shared = Arc::clone(vacant.insert(Arc::default()));
                Turn::Mine(Fetch { flights: Arc::clone(self), key: key.into(), shared })
            }
        }
    }
}

/// The right to fetch something, for which others wait.
pub struct Fetch {
    flights: Arc<Flights>,
    key: Box<[u8]>,
    shared: Arc<Shared>,
}

impl Fetch {
    /// Leaves it to others: nothing has to be fetched. What is returned is over already.
    pub fn give_up(self) -> Flight {
        Flight { shared: Arc::clone(&self.shared), seat: None }
    }
}

impl std::fmt::Debug for Fetch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetch").finish_non_exhaustive()
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        lock(&self.flights.0).remove(&self.key);
        let mut waiting = lock(&self.shared.waiting);
        self.shared.over.store(true, Ordering::Release);
        waiting.drain(..).flatten().for_each(Waker::wake);
    }
}

/// Somebody else's fetch, waited for.
pub struct Flight {
    shared: Arc<Shared>,
    seat: Option<usize>,
}

impl std::fmt::Debug for Flight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flight").finish_non_exhaustive()
    }
}

impl Flight {
    /// Waits until it is over.
    pub fn poll_over(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.shared.over.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        let mut waiting = lock(&self.shared.waiting);
        if self.shared.over.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        let waker = Some(cx.waker().clone());
        match self.seat {
            Some(seat) => waiting[seat] = waker,
            None => {
                self.seat = Some(waiting.len());
                waiting.push(waker);
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_fetches_and_the_others_wait_until_that_is_over() {
        let flights = Arc::new(Flights::default());
        let cx = Context::from_waker(Waker::noop());
        let Turn::Mine(fetch) = flights.claim(b"k") else { panic!("somebody else?") };
        let mut waiting: Vec<_> = (0..3)
            .map(|_| match flights.claim(b"k") {
                Turn::Wait(flight) => flight,
                Turn::Mine(_) => panic!("two fetch"),
            })
            .collect();
        assert!(matches!(flights.claim(b"other"), Turn::Mine(_)));
        assert!(waiting.iter_mut().all(|flight| flight.poll_over(&cx).is_pending()));

        assert!(fetch.give_up().poll_over(&cx).is_ready());

        assert!(waiting.iter_mut().all(|flight| flight.poll_over(&cx).is_ready()));
        assert!(matches!(flights.claim(b"k"), Turn::Mine(_)));
    }
}
