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
pub mod topology;

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use crossbeam::channel::Sender;
use tokio::sync::{Notify, watch};

use crate::config::{Io, Limits};
use crate::connection;
use crate::http::Connection;
use crate::io::{Attached, Backend, Stream, TICK};
use crate::proxy::client::ClientFacts;
use crate::proxy::tally::{Entry, Tally};
use crate::proxy::{Client, Context, Home, Snapshot};
use crate::sys;
use crate::telemetry::Handshake;
use accept::Connected;
use listen::Listening;
use mailbox::{ARRIVALS_MAX, Accepted, Inbox, Mailbox, Message};
use placement::Placement;

/// A worker's stack: a plugin's stack (at most 512 KiB) lies on top of the gateway's own.
const STACK_BYTES: usize = 4 * 1024 * 1024;

/// Connections of one worker that are being turned away at a time: told to come again later, and
/// kept until they have heard it. Beyond this they are closed without a word.
const TURNED_AWAY_MAX: usize = 64;

/// So long before a drain is over, WebSockets are closed that are still open, for their answers to come.
const FAREWELL: Duration = Duration::from_secs(1);

/// When so many connections have ended, and at least half of all, their memory is given back.
const BURST_CONNECTIONS: usize = 1_000;

/// Makes the context of the worker of this index.
pub type MakeContext = dyn Fn(usize, &Arc<Snapshot>) -> anyhow::Result<Context> + Send + Sync;

/// What all workers of a gateway share.
pub struct Shared {
    /// Client connections of the whole gateway, but for those that are being turned away.
    pub connections: Arc<Tally>,
    /// Of these, those in the middle of a TLS handshake.
    pub handshakes: Arc<Tally>,
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
    /// How it talks to the kernel.
    pub backend: Backend,
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
        backend: Backend,
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
                run(placement, backend, &snapshot, sockets, &shared, inbox, &ready);
            })
            .context("cannot start a worker thread")?;
        let backend = started
            .recv()
            .context("the worker ended before it was ready")?
            .with_context(|| format!("worker {}", placement.worker))?;
        Ok(Self { placement, backend, mailbox, thread: Some(thread) })
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
    backend: Backend,
    snapshot: &Arc<Snapshot>,
    sockets: Vec<(usize, Listening)>,
    shared: &Arc<Shared>,
    inbox: Inbox,
    ready: &Sender<anyhow::Result<Backend>>,
) {
    // First the place, then the memory: what is touched first is local to the node that touches it.
    if let Some(cpu) = placement.cpu
        && let Err(error) = sys::pin_to_cpus([cpu])
    {
        log::warn!(target: "worker", "worker {}: CPU {cpu}: {error}", placement.worker);
    }
    let attached = match attach(placement, backend, snapshot) {
        Ok(attached) => attached,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(2)
        .build_local(tokio::runtime::LocalOptions::default())
        .context("cannot make a runtime");
    let made = runtime.and_then(|runtime| {
        // What it makes may have tasks, which begin when the worker does.
        let entered = runtime.enter();
        let context = (shared.make_context)(placement.worker, snapshot)?;
        drop(entered);
        Ok((runtime, Rc::new(Home::new(context))))
    });
    match made {
        Ok((runtime, home)) => {
            let shared = Arc::clone(shared);
            runtime.block_on(async {
                attached.start();
                let state = State::new(home, shared, &inbox);
                let taken = state.listen(sockets);
                let failed = taken.is_err();
                // A starter that is gone has given up on this worker; it will be stopped.
                let _ = ready.send(taken.map(|()| attached.backend()));
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

/// Makes a worker's back end. That this process may use io_uring does not say that there is memory for
/// as many rings as there are workers.
fn attach(placement: Placement, backend: Backend, snapshot: &Snapshot) -> anyhow::Result<Attached> {
    let attached = Attached::new(backend);
    match attached {
        Err(error) if snapshot.settings.workers.io == Io::Auto => {
            log::info!(target: "worker", "worker {}: epoll, no ring: {error}", placement.worker);
            Ok(Attached::new(Backend::Epoll)?)
        }
        attached => attached.context("cannot make a ring; see `workers.io`"),
    }
}

/// A worker's own view of itself.
#[derive(Clone)]
struct State {
    home: Rc<Home>,
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
    burst: Rc<Burst>,
    /// Rung when a connection or an accept loop ends.
    ended: Rc<Notify>,
}

/// The most connections that there were since memory was given back.
#[derive(Default)]
struct Burst(Cell<usize>);

impl State {
    fn new(home: Rc<Home>, shared: Arc<Shared>, inbox: &Inbox) -> Self {
        let node = shared.mailboxes[home.worker].node();
        let others = shared.mailboxes.iter().enumerate();
        let peers = others.filter(|(other, one)| *other != home.worker && one.node() == node);
        let peers = peers.map(|(other, _)| other).collect();
        Self {
            home,
            shared,
            stop_accepting: watch::Sender::new(false),
            accepting: Rc::default(),
            tally: Arc::clone(&inbox.tally),
            peers,
            pace: Rc::default(),
            turned_away: Rc::default(),
            burst: Rc::default(),
            ended: Rc::new(Notify::new()),
        }
    }

    fn listen(&self, sockets: Vec<(usize, Listening)>) -> anyhow::Result<()> {
        for (listener, listening) in sockets {
            let state = self.clone();
            self.accepting.set(self.accepting.get() + 1);
            tokio::task::spawn_local(async move {
                let (taking, counting) = (state.clone(), state.home.clone());
                let accepted = accept::accept(
                    listening,
                    state.stop_accepting.subscribe(),
                    |connected| taking.accept(connected, listener),
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
                        let _ = sender.send(self.home.report());
                    }
                    Message::Drain => self.drain(),
                    Message::Do(job) => job(&self.home),
                    Message::Stop => return,
                }
            }
            // Closing fails while a connection is open or on its way here.
            let idle = self.home.draining.get() && self.accepting.get() == 0;
            if idle && self.tally.close() {
                return;
            }
        }
    }

    fn tick(&self, count: u32) {
        const SECOND: u32 = 20;
        self.home.clock.tick();
        self.home.deadlines.tick();
        crate::io::tick();
        if count.is_multiple_of(SECOND) {
            let now = self.home.clock.now();
            for upstream in &self.home.current().upstreams {
                upstream.sweep(now);
            }
            self.home.telemetry.sample_utilisation(now);
            self.home.tick_plugins();
            self.home.callouts.sweep();
            self.home.pool.trim();
            self.home.pipes.trim();
            self.home.exchanges.borrow_mut().trim(1);
            if self.burst.has_fallen(self.tally.count()) {
                // Where an allocator has to be told, and takes its time.
                tokio::task::spawn_blocking(sys::release_free_memory);
            }
            self.pace.set((0, self.pace.get().0));
        }
        for context in self.home.all() {
            if let Some(log) = &context.access_log {
                log.flush();
            }
        }
    }

    fn drain(&self) {
        self.home.draining.set(true);
        let limit = self.home.current().settings().drain_timeout;
        let left = limit.saturating_sub(FAREWELL.min(limit / 2)).as_millis() / TICK.as_millis();
        let now = self.home.deadlines.now();
        let tick = now.saturating_add(u64::try_from(left).unwrap_or(u64::MAX));
        self.home.closes_at.set(Some(tick));
        self.stop_accepting.send_replace(true);
        self.home.deadlines.wake_all();
        for upstream in &self.home.current().upstreams {
            upstream.close_idle();
        }
    }

    /// Serves a connection that this worker has accepted, or lets another one do so.
    fn accept(&self, connected: Connected, listener: usize) {
        let mut accepted = Accepted::new(connected, listener);
        if let Some(other) = self.lighter_peer() {
            match other.hand_over(accepted) {
                Ok(()) => {
                    self.shared.handed_on.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err((back, _)) => accepted = back,
            }
        } else {
            let (kept, before) = self.pace.get();
            self.pace.set((kept + 1, before));
        }
        // Not closed: this worker runs.
        if let Some(entry) = Tally::enter(&self.tally, usize::MAX) {
            self.adopt(accepted, entry);
        }
    }

    /// A worker of this node that has clearly fewer connections, where that will not pass by itself.
    fn lighter_peer(&self) -> Option<&Mailbox> {
        let own = self.tally.count();
        let (_, last_second) = self.pace.get();
        if self.peers.is_empty() || self.home.draining.get() || last_second > own {
            return None;
        }
        // The better of two: as good as the best of all in the long run, for two cache lines.
        let mut random = self.home.random.borrow_mut();
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
        match Stream::new(socket, tcp) {
            Ok(stream) => self.take(stream, peer, listener, entry),
            Err(error) => self.home.telemetry.accept_error(&error),
        }
    }

    /// Serves a connection from now on.
    fn take(&self, stream: Stream, peer: Option<IpAddr>, listener: usize, entry: Entry) {
        let home = Rc::clone(&self.home);
        home.telemetry.connection_accepted(listener);
        let context = home.current();
        let needs_opening = connection::open::is_needed(&context, listener);
        let open = Open::new(self, entry, context.limits(), needs_opening);
        let Some(open) = open else {
            if needs_opening {
                home.telemetry.handshake(listener, Handshake::Refused);
            }
            home.telemetry.connection_closed(listener);
            return;
        };
        let facts = ClientFacts::new(peer, "http", &context.settings().trusted_proxies);
        let client = Client {
            connection: Connection::new(stream),
            timer: home.deadlines.timer(),
            facts,
            listener,
            counted: 0,
        };
        tokio::task::spawn_local(serve(home, client, open));
    }
}

impl Burst {
    /// Whether so many connections have ended since this was true last that their memory is worth
    /// asking back.
    fn has_fallen(&self, now: usize) -> bool {
        let most = self.0.get();
        let fallen = most.saturating_sub(now) >= BURST_CONNECTIONS && now <= most / 2;
        self.0.set(if fallen { now } else { most.max(now) });
        fallen
    }
}

/// A connection from its beginning to its end. While it is idle this is what it costs, so nothing is
/// in here twice: `client` is moved in and from then on only borrowed, and what an active connection
/// needs is in boxes.
#[expect(clippy::manual_async_fn, reason = "an async fn would hold its arguments twice")]
fn serve(home: Rc<Home>, mut client: Client, mut open: Open) -> impl Future<Output = ()> {
    async move {
        let ready = match open.handshake.take() {
            Some(_in_flight) => Box::pin(connection::open::open(&home, &mut client)).await,
            None => true,
        };
        if !ready {
            // It has asked for nothing.
        } else if open.place.is_some() {
            connection::serve(&home, &mut client).await;
        } else {
            Box::pin(connection::turn_away(&home, &mut client)).await;
        }
        let listener = client.listener;
        drop(client);
        home.telemetry.connection_closed(listener);
        drop(open);
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
    /// A place among those that are not ready for their first request.
    handshake: Option<Entry>,
    /// Taken when dropped.
    entry: Option<Entry>,
    turned_away: Rc<Cell<usize>>,
    ended: Rc<Notify>,
}

impl Open {
    /// `None`: there is not even room to be turned away, or that would take more than saying so.
    fn new(state: &State, entry: Entry, limits: &Limits, needs_opening: bool) -> Option<Self> {
        let place = Tally::enter(&state.shared.connections, limits.connections_max);
        let handshake = if needs_opening {
            place.as_ref()?;
            Some(Tally::enter(&state.shared.handshakes, limits.handshakes_max)?)
        } else {
            None
        };
        if place.is_none() {
            if state.turned_away.get() >= TURNED_AWAY_MAX {
                return None;
            }
            state.turned_away.set(state.turned_away.get() + 1);
        }
        Some(Self {
            place,
            handshake,
            entry: Some(entry),
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
        if self.entry.take().is_some_and(|entry| entry.leave() == 0) {
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

    fn size_of_future<A, B, C, F>(_: impl FnOnce(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    fn after(counts: &[usize]) -> Vec<bool> {
        let burst = Burst::default();
        counts.iter().map(|count| burst.has_fallen(*count)).collect()
    }

    #[test]
    fn memory_is_given_back_after_a_burst_and_not_at_every_turn() {
        assert_eq!(after(&[5_000, 2_600, 2_400, 2_400, 0]), [false, false, true, false, true]);
        assert_eq!(after(&[900, 0, 900, 0]), [false; 4]);
        assert_eq!(after(&[100_000, 99_000, 51_000]), [false; 3]);
    }

    /// Everything that an idle connection holds in this process is its task, which holds this, the
    /// runtime's entry for its socket, and its place among the deadlines (`ARCHITECTURE.md`).
    #[test]
    fn an_idle_connection_is_small() {
        let bytes = size_of_future(serve);

        assert!(bytes <= 400, "{bytes} bytes, of which {} know the client", size_of::<Client>());
    }
}
