//! What threads of the gateway share and is our own, in every order in which they can meet there.
//!
//! That is one type, `proxy::tally`: it keeps the gateway's limit of connections, and it lets a worker
//! end only when nothing is on its way to it. Everything else that crosses threads is a queue of
//! crossbeam's, a `Notify` or a `watch` of tokio's, or a counter that is only added to.
//!
//! `make loom`
#![cfg(loom)]

#[path = "../../../host/src/proxy/tally.rs"]
pub mod tally;

#[cfg(test)]
mod models {
    use std::collections::VecDeque;

    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::sync::{Arc, Mutex};
    use loom::thread;

    use super::tally::{Entry, Tally};

    const NO_LIMIT: usize = usize::MAX;

    #[test]
    fn never_more_than_the_limit_are_in() {
        loom::model(|| {
            let tally = Tally::new();
            let inside = Arc::new(AtomicUsize::new(0));
            let come_and_go = |tally: Arc<Tally>, inside: Arc<AtomicUsize>| {
                if let Some(entry) = Tally::enter(&tally, 1) {
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two are in");
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(entry);
                }
            };
            let others: Vec<_> = (0..1)
                .map(|_| {
                    let (tally, inside) = (tally.clone(), inside.clone());
                    thread::spawn(move || come_and_go(tally, inside))
                })
                .collect();
            come_and_go(tally.clone(), inside);
            for other in others {
                other.join().unwrap();
            }

            assert_eq!(tally.count(), 0);
        });
    }

    /// Somebody who is refused must not, by asking, keep a place from somebody else.
    #[test]
    fn a_place_that_is_free_is_given_to_one_of_those_who_ask() {
        loom::model(|| {
            let tally = Tally::new();
            let first = Tally::enter(&tally, 1);
            let asking = tally.clone();
            let other = thread::spawn(move || Tally::enter(&asking, 1));

            drop(first);
            let mine = Tally::enter(&tally, 1);
            let others = other.join().unwrap();

            assert_eq!(usize::from(mine.is_some()) + usize::from(others.is_some()), 1);
        });
    }

    /// A worker that drains, and another one that hands it a connection in the same moment: either the
    /// worker serves it, or the other one keeps it.
    #[test]
    fn no_connection_is_lost_when_a_worker_ends() {
        loom::model(|| {
            let tally = Tally::new();
            let queue: Arc<Mutex<VecDeque<Entry>>> = Arc::default();
            let (their_tally, their_queue) = (tally.clone(), queue.clone());
            let peer = thread::spawn(move || match Tally::enter(&their_tally, NO_LIMIT) {
                Some(entry) => {
                    their_queue.lock().unwrap().push_back(entry);
                    false
                }
                None => true,
            });

            let mut served = false;
            while !tally.close() {
                let arrived = queue.lock().unwrap().pop_front();
                served |= arrived.is_some();
                drop(arrived);
                thread::yield_now();
            }
            let kept = peer.join().unwrap();

            assert!(served != kept, "served: {served}, kept: {kept}");
            assert!(queue.lock().unwrap().is_empty());
        });
    }

    /// Whoever closes sees what was done by those who had been in.
    #[test]
    fn what_was_done_inside_is_seen_after_the_close() {
        loom::model(|| {
            let tally = Tally::new();
            let work = Arc::new(AtomicUsize::new(0));
            let entry = Tally::enter(&tally, NO_LIMIT);
            let done = work.clone();
            let inside = thread::spawn(move || {
                done.store(1, Ordering::Relaxed);
                drop(entry);
            });

            if tally.close() {
                assert_eq!(work.load(Ordering::Relaxed), 1);
            }
            inside.join().unwrap();
        });
    }
}
