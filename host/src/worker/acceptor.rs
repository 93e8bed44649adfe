//! Threads that only accept: `"acceptors": "dedicated"`.
//!
//! One for each NUMA node that has workers, kept on the CPUs of the node. It deals to the workers of
//! its node, each connection to the one that has the fewest. Counts are exact, not sampled: a connection
//! is counted before it is sent (`mailbox`), and nobody else deals to these workers, so a burst is spread
//! evenly although none of it has been served yet. With stale counts the better of two random workers
//! would be the choice, since everybody would run to the same minimum; here the minimum is the truth.
//!
//! A node's thread has one listening socket for each of its workers, so that the kernel deals to the
//! nodes in proportion to their workers.
//!
//! Not here: when a worker hands on what it has accepted itself (`worker`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Shared;
use super::accept;
use super::listen::Listening;
use super::mailbox::{Accepted, Mailbox, Refusal};
use super::placement::AcceptorPlace;
use crate::sys;

/// How long to wait when the queue of every worker is full. A worker empties its queue in one turn.
const PAUSE: Duration = Duration::from_millis(1);

/// A thread that accepts for the workers of one node.
pub struct Acceptor {
    node: usize,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// Starts an acceptor for each of these places. `sockets` are those of the workers, in their order,
/// with the indexes of the listeners.
///
/// # Errors
///
/// A thread cannot be started.
pub fn start(
    places: Vec<AcceptorPlace>,
    sockets: Vec<Vec<(usize, Listening)>>,
    shared: &Arc<Shared>,
) -> io::Result<Vec<Acceptor>> {
    let mut of_nodes: BTreeMap<usize, Vec<(usize, Listening)>> = BTreeMap::new();
    for (mailbox, own) in shared.mailboxes.iter().zip(sockets) {
        let of_node = of_nodes.entry(mailbox.node()).or_default();
        for (listener, socket) in own {
            // Copies of a Unix socket share one queue; a second one would only wake for nothing.
            let known = matches!(socket, Listening::Unix(_))
                && of_node.iter().any(|(other, _)| *other == listener);
            if !known {
                of_node.push((listener, socket));
            }
        }
    }
    let start = |place: AcceptorPlace| {
        let sockets = of_nodes.remove(&place.node).unwrap_or_default();
        Acceptor::start(place, sockets, Arc::clone(shared))
    };
    places.into_iter().map(start).collect()
}

impl Acceptor {
    fn start(
        place: AcceptorPlace,
        sockets: Vec<(usize, Listening)>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let node = place.node;
        let thread =
            std::thread::Builder::new().name(format!("acceptor-{node}")).spawn(move || {
                if let Some(cpus) = &place.cpus
                    && let Err(error) = sys::pin_to_cpus(cpus.iter().copied())
                {
                    log::warn!(target: "worker", "acceptor of node {node}: {error}");
                }
                if let Err(error) = deal(node, sockets, &shared, &stopped) {
                    log::error!(target: "worker", "acceptor of node {node}: {error}");
                }
            })?;
        Ok(Self { node, stop, thread: Some(thread) })
    }

    /// Stops accepting; what the kernel has accepted already is still dealt out. Does not wait.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until the last connection has been dealt out.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!(target: "worker", "the acceptor of node {} panicked", self.node);
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Accepts on every socket until told to stop.
fn deal(
    node: usize,
    sockets: Vec<(usize, Listening)>,
    shared: &Arc<Shared>,
    stop: &watch::Receiver<bool>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build_local(tokio::runtime::LocalOptions::default())?;
    let workers = shared.mailboxes.iter().filter(|mailbox| mailbox.node() == node);
    let dealer = Rc::new(RefCell::new(Dealer { workers: workers.cloned().collect(), turn: 0 }));
    runtime.block_on(async {
        let mut accepting = JoinSet::new();
        for (listener, listening) in sockets {
            let (stop, shared, dealer) = (stop.clone(), Arc::clone(shared), Rc::clone(&dealer));
            accepting.spawn_local(async move {
                let failed = |error: &io::Error| {
                    let so_far = shared.accept_errors.fetch_add(1, Ordering::Relaxed) + 1;
                    if so_far.is_power_of_two() {
                        log::warn!(target: "worker", "accept: {error} ({so_far} so far)");
                    }
                };
                let take = |connected| {
                    let accepted = Accepted::new(connected, listener);
                    let dealt = dealer.borrow_mut().deal(accepted);
                    if let Err(error) = dealt {
                        failed(&error);
                    }
                };
                accept::accept(listening, stop, take, failed).await
            });
        }
        while let Some(ended) = accepting.join_next().await {
            ended.map_err(io::Error::other)??;
        }
        Ok(())
    })
}

struct Dealer {
    workers: Vec<Mailbox>,
    /// Who is first among equals.
    turn: usize,
}

impl Dealer {
    /// Hands a connection to the worker that has the fewest. When every queue is full it waits: this
    /// thread has nothing else to do, and what comes meanwhile is kept by the kernel.
    fn deal(&mut self, accepted: Accepted) -> io::Result<()> {
        let mut accepted = accepted;
        loop {
            let mut alive = false;
            for worker in self.in_order() {
                match self.workers[worker].hand_over(accepted) {
                    Ok(()) => {
                        self.turn = worker + 1;
                        return Ok(());
                    }
                    Err((back, refusal)) => {
                        accepted = back;
                        alive |= refusal == Refusal::Full;
                    }
                }
            }
            if !alive {
                return Err(io::Error::other("no worker is left"));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Indexes of the workers, the one with the fewest connections first.
    fn in_order(&self) -> Vec<usize> {
        let count = self.workers.len();
        let mut order: Vec<usize> = (0..count).map(|next| (self.turn + next) % count).collect();
        // Each count is read once: they change while they are compared.
        order.sort_by_cached_key(|worker| self.workers[*worker].connections());
        order
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::super::mailbox::{ARRIVALS_MAX, Inbox, mailbox};
    use super::super::placement::Placement;
    use super::*;
    use crate::proxy::tally::Tally;

    fn workers(count: usize) -> (Dealer, Vec<Inbox>) {
        let pairs = (0..count).map(|worker| mailbox(Placement { worker, cpu: None, node: 0 }));
        let (workers, inboxes) = pairs.unzip();
        (Dealer { workers, turn: 0 }, inboxes)
    }

    fn connection() -> Accepted {
        let socket = OwnedFd::from(UnixStream::pair().unwrap().0);
        Accepted { socket, tcp: false, peer: None, listener: 0 }
    }

    #[test]
    fn connections_go_to_whoever_has_the_fewest() {
        let (mut dealer, inboxes) = workers(3);
        let held: Vec<_> = (0..4).map(|_| Tally::enter(&inboxes[1].tally, usize::MAX)).collect();

        for _ in 0..8 {
            dealer.deal(connection()).unwrap();
        }

        let counts = |inboxes: &[Inbox]| inboxes.iter().map(|one| one.tally.count()).collect();
        let dealt: Vec<usize> = counts(&inboxes);
        assert_eq!(dealt, [4, 4, 4]);
        drop(held);
        for _ in 0..4 {
            dealer.deal(connection()).unwrap();
        }
        let dealt: Vec<usize> = counts(&inboxes);
        assert_eq!(dealt, [4, 4, 4]);
    }

    #[test]
    fn a_worker_that_has_ended_or_is_stuck_leaves_it_to_the_others() {
        let (mut dealer, mut inboxes) = workers(3);
        assert!(inboxes[0].tally.close());
        drop(inboxes.remove(0));

        for _ in 0..ARRIVALS_MAX {
            dealer.workers[1].hand_over(connection()).unwrap();
        }
        // The other one serves at once, but has more connections in all.
        let others: Vec<_> =
            (0..2 * ARRIVALS_MAX).map(|_| Tally::enter(&inboxes[1].tally, usize::MAX)).collect();
        dealer.deal(connection()).unwrap();

        assert_eq!(inboxes[0].arrivals.len(), ARRIVALS_MAX);
        assert_eq!(inboxes[1].arrivals.len(), 1);
        drop(others);
    }

    #[test]
    fn a_full_queue_makes_the_acceptor_wait_and_nobody_left_is_an_error() {
        let (mut dealer, mut inboxes) = workers(1);
        for _ in 0..ARRIVALS_MAX {
            dealer.deal(connection()).unwrap();
        }

        let inbox = inboxes.remove(0);
        let dealing = std::thread::spawn(move || (dealer.deal(connection()), dealer));
        let arrivals = inbox.arrivals.clone();
        for _ in 0..=ARRIVALS_MAX {
            arrivals.recv_timeout(Duration::from_secs(20)).unwrap();
        }
        let (dealt, mut dealer) = dealing.join().unwrap();

        dealt.unwrap();
        drop((inbox, arrivals));
        assert!(dealer.deal(connection()).is_err());
    }
}
