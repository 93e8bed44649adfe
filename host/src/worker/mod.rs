//! The workers: one pinned thread each, with everything that it owns.
//!
//! A worker owns its listening sockets, connections, buffers, deadlines, upstream connections, plugin
//! instances and counts, and shares nothing that is written per request. The control thread
//! reaches it through a mailbox.
//!
//! Drain, in order:
//!
//! 1. no connection begins any more; those whose handshake has begun are still taken;
//! 2. every response says `Connection: close`; connections that stay silent for a moment are closed;
//! 3. when the last connection has ended, the thread ends. A second signal does not wait for it.
//!
//! Balance. The kernel deals connections to the workers by a hash of the addresses, which is fair on the
//! average only: of a few connections that live long, one worker can get twice its share or all. So a
//! worker that has clearly more connections than another one of its node hands on what it accepts. Where
//! connections come and go this would cost a hop for nothing, since what is uneven
//! does not last: a worker that has accepted more in the last second than it holds keeps what it gets.
//! `"acceptors": "dedicated"` deals exactly, at the price of the hop for every connection.
//!
//! Layout: `topology` reads the machine and what this process may use of it, `placement` decides
//! from that and the configuration how many workers there are and where each one sits, `listen`
//! binds, `accept` accepts, `acceptor` does so on a thread of its own, `mailbox` is how others reach a
//! worker.
//!
//! Not here: what a connection does (`connection`), what the workers serve (`control`).

pub mod accept;
pub mod acceptor;
pub mod listen;
pub mod mailbox;
pub mod placement;
pub mod tally;
pub mod topology;

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::Context as _;
use crossbeam::channel::Sender;
use tokio::sync::{Notify, watch};

use crate::connection;
use crate::http::Connection;
use crate::io::{Stream, TICK};
use crate::proxy::client::ClientFacts;
use crate::proxy::{Client, Context, Snapshot};
use crate::sys;
use listen::Listening;
use mailbox::{ARRIVALS_MAX, Accepted, Inbox, Mailbox, Message};
use placement::Placement;
use tally::{Entry, Tally};

/// A worker's stack: a plugin's stack (at most 512 KiB) lies on top of the gateway's own.
const STACK_BYTES: usize = 4 * 1024 * 1024;

/// Connections of one worker that are being turned away at a time: told to come again later, and
/// kept until they have heard it. Beyond this they are closed without a word.
const TURNED_AWAY_MAX: usize = 64;

/// Makes the context of the worker of this index.
pub type MakeContext = dyn Fn(usize, &Arc<Snapshot>) -> anyhow::Result<Context> + Send + Sync;

/// What all workers of a gateway share.
pub struct Shared {
    /// Client connections of the whole gateway, but for those that are being turned away.
    pub connections: Arc<Tally>,
    /// Failures of [`acceptor`]s; workers count their own.
    pub accept_errors: AtomicU64,
    /// Connections that a worker has handed on to another.
    pub handed_on: AtomicU64,
    /// How to reach each worker.
    pub mailboxes: Vec<Mailbox>,
    /// Makes a worker's context, on its own thread.
    pub make_context: Box<MakeContext>,
}

/// A running worker, as the control thread sees it.
pub struct Worker {
    /// Where it sits.
    pub placement: Placement,
    mailbox: Mailbox,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a worker. Returns when it serves.
    ///
    /// # Errors
    ///
    /// It cannot make its runtime, its plugin instances or take over its sockets.
    pub fn start(
        placement: Placement,
        snapshot: Arc<Snapshot>,
        sockets: Vec<(usize, Listening)>,
        shared: Arc<Shared>,
        mailbox: Mailbox,
        inbox: Inbox,
    ) -> anyhow::Result<Self> {
        let (ready, started) = crossbeam::channel::bounded(1);
        let thread = std::thread::Builder::new()
            .name(format!("worker-{}", placement.worker))
            .stack_size(STACK_BYTES)
            .spawn(move || {
                run(placement, &snapshot, sockets, &shared, inbox, &ready);
            })
            .context("cannot start a worker thread")?;
        started
            .recv()
            .context("the worker ended before it was ready")?
            .with_context(|| format!("worker {}", placement.worker))?;
        Ok(Self { placement, mailbox, thread: Some(thread) })
    }

    /// Sends a message. A worker that has ended takes none.
    pub fn send(&self, message: Message) {
        self.mailbox.send(message);
    }

    /// Whether its thread has ended.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for its thread to end.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!(target: "worker", "worker {} panicked", self.placement.worker);
        }
    }
}

impl Drop for Worker {
    /// A start that fails later leaves no worker behind.
    fn drop(&mut self) {
        self.send(Message::Stop);
        self.join();
    }
}

fn run(
    placement: Placement,
    snapshot: &Arc<Snapshot>,
    sockets: Vec<(usize, Listening)>,
    shared: &Arc<Shared>,
    inbox: Inbox,
    ready: &Sender<anyhow::Result<()>>,
) {
    // First the place, then the memory: what is touched first is local to the node that touches it.
    if let Some(cpu) = placement.cpu
        && let Err(error) = sys::pin_to_cpus([cpu])
    {
        log::warn!(target: "worker", "worker {}: CPU {cpu}: {error}", placement.worker);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(2)
        .build_local(tokio::runtime::LocalOptions::default())
        .context("cannot make a runtime");
    let made = runtime.and_then(|runtime| {
        let context = (shared.make_context)(placement.worker, snapshot)?;
        Ok((runtime, Rc::new(context)))
    });
    match made {
        Ok((runtime, context)) => {
            let shared = Arc::clone(shared);
            runtime.block_on(async {
                let state = State::new(context, shared, &inbox);
                let taken = state.listen(sockets);
                let failed = taken.is_err();
                // A starter that is gone has given up on this worker; it will be stopped.
                let _ = ready.send(taken);
                if !failed {
                    state.work(&inbox).await;
                }
            });
            // Connections that are still open end here, with the runtime.
            runtime.shutdown_background();
        }
        Err(error) => {
            let _ = ready.send(Err(error));
        }
    }
}

/// A worker's own view of itself.
#[derive(Clone)]
struct State {
    context: Rc<Context>,
    shared: Arc<Shared>,
    stop_accepting: watch::Sender<bool>,
    accepting: Rc<Cell<usize>>,
    /// Of this worker's connections.
    tally: Arc<Tally>,
    /// Indexes of the other workers of this node.
    peers: Rc<[usize]>,
    /// Connections accepted and kept since a second began, and in the second before.
    pace: Rc<Cell<(usize, usize)>>,
    /// Connections that are being turned away.
    turned_away: Rc<Cell<usize>>,
    /// Rung when a connection or an accept loop ends.
    ended: Rc<Notify>,
}

impl State {
    fn new(context: Rc<Context>, shared: Arc<Shared>, inbox: &Inbox) -> Self {
        let node = shared.mailboxes[context.worker].node();
        let others = shared.mailboxes.iter().enumerate();
        let peers = others.filter(|(other, one)| *other != context.worker && one.node() == node);
        let peers = peers.map(|(other, _)| other).collect();
        Self {
            context,
            shared,
            stop_accepting: watch::Sender::new(false),
            accepting: Rc::default(),
            tally: Arc::clone(&inbox.tally),
            peers,
            pace: Rc::default(),
            turned_away: Rc::default(),
            ended: Rc::new(Notify::new()),
        }
    }

    fn listen(&self, sockets: Vec<(usize, Listening)>) -> anyhow::Result<()> {
        for (listener, listening) in sockets {
            let state = self.clone();
            self.accepting.set(self.accepting.get() + 1);
            tokio::task::spawn_local(async move {
                let (taking, counting) = (state.clone(), state.context.clone());
                let accepted = accept::accept(
                    listening,
                    state.stop_accepting.subscribe(),
                    |stream, peer| taking.accept(stream, peer, listener),
                    |error| counting.telemetry.accept_error(error),
                );
                if let Err(error) = accepted.await {
                    log::error!(target: "worker", "cannot accept: {error}");
                }
                state.accepting.set(state.accepting.get() - 1);
                state.ended.notify_one();
            });
        }
        Ok(())
    }

    /// Handles messages and time until the worker has nothing left to do.
    async fn work(&self, inbox: &Inbox) {
        let mut ticks = tokio::time::interval(TICK);
        // A late tick must not put off those that follow: deadlines count them.
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut count: u32 = 0;
        loop {
            tokio::select! {
                () = inbox.wake.notified() => {}
                () = self.ended.notified() => {}
                _ = ticks.tick() => {
                    count = count.wrapping_add(1);
                    self.tick(count);
                }
            }
            for (accepted, entry) in inbox.arrivals.try_iter().take(ARRIVALS_MAX) {
                self.adopt(accepted, entry);
            }
            if !inbox.arrivals.is_empty() {
                // Those that are in come first.
                inbox.wake.notify_one();
            }
            while let Ok(message) = inbox.messages.try_recv() {
                match message {
                    Message::Report(sender) => {
                        // Whoever asked may have stopped waiting.
                        let _ = sender.send(self.context.report());
                    }
                    Message::Drain => self.drain(),
                    Message::Stop => return,
                }
            }
            // Closing fails while a connection is open or on its way here.
            let idle = self.context.draining.get() && self.accepting.get() == 0;
            if idle && self.tally.close() {
                return;
            }
        }
    }

    fn tick(&self, count: u32) {
        const SECOND: u32 = 20;
        self.context.clock.tick();
        self.context.deadlines.tick();
        if count.is_multiple_of(SECOND) {
            let now = self.context.clock.now();
            for upstream in &self.context.upstreams {
                upstream.sweep(now);
            }
            self.context.telemetry.sample_utilisation(now);
            self.pace.set((0, self.pace.get().0));
        }
        if let Some(log) = &self.context.access_log {
            log.flush();
        }
    }

    fn drain(&self) {
        self.context.draining.set(true);
        self.stop_accepting.send_replace(true);
        self.context.deadlines.wake_all();
        for upstream in &self.context.upstreams {
            upstream.close_idle();
        }
    }

    /// Serves a connection that this worker has accepted, or lets another one do so.
    fn accept(&self, stream: Stream, peer: Option<IpAddr>, listener: usize) {
        let Some(other) = self.lighter_peer() else {
            let (kept, before) = self.pace.get();
            self.pace.set((kept + 1, before));
            // Not closed: this worker runs.
            if let Some(entry) = Tally::enter(&self.tally, usize::MAX) {
                self.take(stream, peer, listener, entry);
            }
            return;
        };
        let handed_on = Accepted::new(stream, peer, listener).map(|one| other.hand_over(one));
        match handed_on {
            Ok(Ok(())) => {
                self.shared.handed_on.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Err((back, _))) => {
                if let Some(entry) = Tally::enter(&self.tally, usize::MAX) {
                    self.adopt(back, entry);
                }
            }
            Err(error) => self.context.telemetry.accept_error(&error),
        }
    }

    /// A worker of this node that has clearly fewer connections, where that will not pass by itself.
    fn lighter_peer(&self) -> Option<&Mailbox> {
        let own = self.tally.count();
        let (_, last_second) = self.pace.get();
        if self.peers.is_empty() || self.context.draining.get() || last_second > own {
            return None;
        }
        // The better of two: as good as the best of all in the long run, for two cache lines.
        let mut random = self.context.random.borrow_mut();
        let picks = [0, 1].map(|_| random.usize(..self.peers.len()));
        // With two peers, both of them.
        let picks = [picks[0], if self.peers.len() == 2 { 1 - picks[0] } else { picks[1] }];
        let mailboxes = picks.map(|pick| &self.shared.mailboxes[self.peers[pick]]);
        let counted = mailboxes.map(|mailbox| (mailbox.connections(), mailbox));
        let (count, lightest) = counted.into_iter().min_by_key(|(count, _)| *count)?;
        is_clearly_more(own, count).then_some(lightest)
    }

    fn adopt(&self, accepted: Accepted, entry: Entry) {
        let Accepted { socket, tcp, peer, listener } = accepted;
        let stream = if tcp {
            tokio::net::TcpStream::from_std(socket.into()).map(Stream::from)
        } else {
            tokio::net::UnixStream::from_std(socket.into()).map(Stream::from)
        };
        match stream {
            Ok(stream) => self.take(stream, peer, listener, entry),
            Err(error) => self.context.telemetry.accept_error(&error),
        }
    }

    /// Serves a connection from now on.
    fn take(&self, stream: Stream, peer: Option<IpAddr>, listener: usize, entry: Entry) {
        let context = Rc::clone(&self.context);
        context.telemetry.connection_accepted(listener);
        let Some(open) = Open::new(self, entry) else {
            context.telemetry.connection_closed(listener);
            return;
        };
        let trusted = &context.settings().trusted_proxies;
        let facts = ClientFacts::new(peer, "http", trusted);
        let client = Client {
            connection: Connection::new(stream),
            timer: context.deadlines.timer(),
            facts,
            listener,
            counted: 0,
        };
        tokio::task::spawn_local(async move {
            if open.place.is_some() {
                connection::serve(Rc::clone(&context), client).await;
            } else {
                connection::turn_away(&context, client).await;
            }
            context.telemetry.connection_closed(listener);
            drop(open);
        });
    }
}

/// Whether a worker with `own` connections should hand on the next one to a worker that has `other`.
/// Exact where few connections make the difference, an eighth where many do.
fn is_clearly_more(own: usize, other: usize) -> bool {
    own > other.saturating_add(other / 8)
}

/// Counts an open connection: here, and in the whole gateway if there is room for it.
struct Open {
    /// Its place in the gateway; without one it may not ask for anything.
    place: Option<Entry>,
    /// Taken when dropped.
    entry: Option<Entry>,
    tally: Arc<Tally>,
    turned_away: Rc<Cell<usize>>,
    ended: Rc<Notify>,
}

impl Open {
    /// `None`: there is not even room to be turned away.
    fn new(state: &State, entry: Entry) -> Option<Self> {
        let place = Tally::enter(&state.shared.connections, state.context.limits().connections_max);
        if place.is_none() {
            if state.turned_away.get() >= TURNED_AWAY_MAX {
                return None;
            }
            state.turned_away.set(state.turned_away.get() + 1);
        }
        Some(Self {
            place,
            entry: Some(entry),
            tally: Arc::clone(&state.tally),
            turned_away: Rc::clone(&state.turned_away),
            ended: Rc::clone(&state.ended),
        })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.place.is_none() {
            self.turned_away.set(self.turned_away.get() - 1);
        }
        // Out before the bell is rung.
        self.entry = None;
        if self.tally.count() == 0 {
            self.ended.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_connections_are_spread_exactly_and_many_nearly() {
        for (own, other, expected) in [
            (0, 0, false),
            (1, 0, true),
            (1, 1, false),
            (2, 1, true),
            (9, 8, false),
            (10, 8, true),
            (900, 800, false),
            (901, 800, true),
            // The other one has ended.
            (1, usize::MAX, false),
        ] {
            assert_eq!(is_clearly_more(own, other), expected, "{own} and {other}");
        }
    }
}
