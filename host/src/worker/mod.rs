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
//! Layout: `topology` reads the machine and what this process may use of it, `placement` decides
//! from that and the configuration how many workers there are and where each one sits, `listen`
//! binds, `accept` accepts.
//!
//! Not here: what a connection does (`connection`), what the workers serve (`control`).

pub mod accept;
pub mod listen;
pub mod placement;
pub mod topology;

use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use anyhow::Context as _;
use crossbeam::channel::{Receiver, SendError, Sender, unbounded};
use tokio::sync::{Notify, watch};

use crate::connection;
use crate::http::Connection;
use crate::io::{Stream, TICK};
use crate::plugin::PluginStats;
use crate::proxy::client::ClientFacts;
use crate::proxy::{Client, Context, Home, Snapshot};
use crate::sys;
use crate::telemetry::WorkerReport;
use listen::Listening;
use placement::Placement;

/// A worker's stack: a plugin's stack (at most 512 KiB) lies on top of the gateway's own.
const STACK_BYTES: usize = 4 * 1024 * 1024;

/// Connections of one worker that are being turned away at a time: told to come again later, and
/// kept until they have heard it. Beyond this they are closed without a word.
const TURNED_AWAY_MAX: usize = 64;

/// When so many connections have ended, and at least half of all, their memory is given back.
const BURST_CONNECTIONS: usize = 1_000;

/// What the control thread asks of a worker.
pub enum Message {
    /// A connection that somebody else has accepted, for the listener of this index.
    Accepted(Accepted),
    /// Report the counts.
    Report(Sender<WorkerReport<PluginStats>>),
    /// Take no more requests and end when the last one has ended.
    Drain,
    /// Do this, between two requests.
    Do(Job),
    /// End now.
    Stop,
}

/// What a worker is to do with its own things. Keeps its requests waiting: microseconds.
pub type Job = Box<dyn FnOnce(&Home) + Send>;

/// An accepted connection on its way to a worker.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, of no runtime yet.
    pub socket: OwnedFd,
    /// Whether it is a TCP socket.
    pub tcp: bool,
    /// Whom it is with.
    pub peer: Option<IpAddr>,
    /// Index of the listener.
    pub listener: usize,
}

/// Makes the context of the worker of this index.
pub type MakeContext = dyn Fn(usize, &Arc<Snapshot>) -> anyhow::Result<Context> + Send + Sync;

/// What all workers of a gateway share.
pub struct Shared {
    /// Client connections of the whole gateway.
    pub connections: AtomicUsize,
    /// Failures of [`Acceptor`]s; workers count their own.
    pub accept_errors: AtomicU64,
    /// Makes a worker's context, on its own thread.
    pub make_context: Box<MakeContext>,
}

/// How to reach a worker.
#[derive(Clone)]
pub struct Mailbox {
    messages: Sender<Message>,
    wake: Arc<Notify>,
}

impl Mailbox {
    /// Sends a message. A worker that has ended takes none, and it comes back.
    fn send(&self, message: Message) -> Result<(), Message> {
        self.messages.send(message).map_err(|SendError(message)| message)?;
        self.wake.notify_one();
        Ok(())
    }
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
    ) -> anyhow::Result<Self> {
        let (sender, messages) = unbounded();
        let wake = Arc::new(Notify::new());
        let (ready, started) = crossbeam::channel::bounded(1);
        let woken = Arc::clone(&wake);
        let thread = std::thread::Builder::new()
            .name(format!("worker-{}", placement.worker))
            .stack_size(STACK_BYTES)
            .spawn(move || {
                run(placement, &snapshot, sockets, &shared, messages, &woken, &ready);
            })
            .context("cannot start a worker thread")?;
        started
            .recv()
            .context("the worker ended before it was ready")?
            .with_context(|| format!("worker {}", placement.worker))?;
        let mailbox = Mailbox { messages: sender, wake };
        Ok(Self { placement, mailbox, thread: Some(thread) })
    }

    /// Sends a message. A worker that has ended takes none.
    pub fn send(&self, message: Message) {
        // There is nobody to tell that it has ended.
        let _ = self.mailbox.send(message);
    }

    /// What an [`Acceptor`] needs to reach it.
    #[must_use]
    pub fn mailbox(&self) -> Mailbox {
        self.mailbox.clone()
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
    messages: Receiver<Message>,
    wake: &Notify,
    ready: &Sender<anyhow::Result<()>>,
) {
    // First the place, then the memory: what is touched first is local to the node that touches it.
    if let Some(cpu) = placement.cpu
        && let Err(error) = sys::pin_to_cpu(cpu)
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
        Ok((runtime, Rc::new(Home::new(context))))
    });
    match made {
        Ok((runtime, home)) => {
            let shared = Arc::clone(shared);
            runtime.block_on(async {
                let state = State::new(home, shared);
                let taken = state.listen(sockets);
                let failed = taken.is_err();
                // A starter that is gone has given up on this worker; it will be stopped.
                let _ = ready.send(taken);
                if !failed {
                    state.work(&messages, wake).await;
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
    home: Rc<Home>,
    shared: Arc<Shared>,
    stop_accepting: watch::Sender<bool>,
    accepting: Rc<Cell<usize>>,
    open: Rc<OpenCount>,
    /// Rung when a connection or an accept loop ends.
    ended: Rc<Notify>,
}

/// A worker's connections.
#[derive(Default)]
struct OpenCount {
    all: Cell<usize>,
    /// Of those, the ones that are being turned away.
    turned_away: Cell<usize>,
    /// The most that there were since memory was given back.
    most: Cell<usize>,
}

impl State {
    fn new(home: Rc<Home>, shared: Arc<Shared>) -> Self {
        Self {
            home,
            shared,
            stop_accepting: watch::Sender::new(false),
            accepting: Rc::default(),
            open: Rc::default(),
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
                    |stream, peer| taking.take(stream, peer, listener),
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
    async fn work(&self, messages: &Receiver<Message>, wake: &Notify) {
        let mut ticks = tokio::time::interval(TICK);
        // A late tick must not put off those that follow: deadlines count them.
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut count: u32 = 0;
        loop {
            tokio::select! {
                () = wake.notified() => {}
                () = self.ended.notified() => {}
                _ = ticks.tick() => {
                    count = count.wrapping_add(1);
                    self.tick(count);
                }
            }
            while let Ok(message) = messages.try_recv() {
                match message {
                    Message::Accepted(accepted) => self.adopt(accepted),
                    Message::Report(sender) => {
                        // Whoever asked may have stopped waiting.
                        let _ = sender.send(self.home.report());
                    }
                    Message::Drain => self.drain(),
                    Message::Do(job) => job(&self.home),
                    Message::Stop => return,
                }
            }
            let done = self.open.all.get() == 0 && self.accepting.get() == 0;
            if self.home.draining.get() && done {
                return;
            }
        }
    }

    fn tick(&self, count: u32) {
        const SECOND: u32 = 20;
        self.home.clock.tick();
        self.home.deadlines.tick();
        if count.is_multiple_of(SECOND) {
            let now = self.home.clock.now();
            for upstream in &self.home.current().upstreams {
                upstream.sweep(now);
            }
            self.home.telemetry.sample_utilisation(now);
            self.home.pool.trim();
            if self.open.has_fallen() {
                // Where an allocator has to be told, and takes its time.
                tokio::task::spawn_blocking(sys::release_free_memory);
            }
        }
        for context in self.home.all() {
            if let Some(log) = &context.access_log {
                log.flush();
            }
        }
    }

    fn drain(&self) {
        self.home.draining.set(true);
        self.stop_accepting.send_replace(true);
        self.home.deadlines.wake_all();
        for upstream in &self.home.current().upstreams {
            upstream.close_idle();
        }
    }

    fn adopt(&self, accepted: Accepted) {
        let Accepted { socket, tcp, peer, listener } = accepted;
        let stream = if tcp {
            tokio::net::TcpStream::from_std(socket.into()).map(Stream::from)
        } else {
            tokio::net::UnixStream::from_std(socket.into()).map(Stream::from)
        };
        match stream {
            Ok(stream) => self.take(stream, peer, listener),
            Err(error) => self.home.telemetry.accept_error(&error),
        }
    }

    /// Serves a connection from now on.
    fn take(&self, stream: Stream, peer: Option<IpAddr>, listener: usize) {
        let home = Rc::clone(&self.home);
        home.telemetry.connection_accepted(listener);
        let context = home.current();
        let Some(open) = Open::new(self, context.limits().connections_max) else {
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

impl OpenCount {
    /// Whether so many connections have ended since this was true last that their memory is worth
    /// asking back.
    fn has_fallen(&self) -> bool {
        let (now, most) = (self.all.get(), self.most.get());
        let fallen = most.saturating_sub(now) >= BURST_CONNECTIONS && now <= most / 2;
        self.most.set(if fallen { now } else { most.max(now) });
        fallen
    }
}

/// A connection from its beginning to its end. While it is idle this is what it costs, so nothing is
/// in here twice: `client` is moved in and from then on only borrowed, and what an active connection
/// needs is in boxes.
#[expect(clippy::manual_async_fn, reason = "an async fn would hold its arguments twice")]
fn serve(home: Rc<Home>, mut client: Client, open: Open) -> impl Future<Output = ()> {
    async move {
        if open.admitted {
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

/// Counts an open connection: here, and in the whole gateway if there is room for it.
struct Open {
    shared: Arc<Shared>,
    open: Rc<OpenCount>,
    ended: Rc<Notify>,
    /// Whether it may ask for anything.
    admitted: bool,
}

impl Open {
    /// `None`: there is not even room to be turned away.
    fn new(state: &State, connections_max: usize) -> Option<Self> {
        let others = state.shared.connections.fetch_add(1, Ordering::Relaxed);
        let admitted = others < connections_max;
        if !admitted {
            // Whoever is turned away must not keep others out.
            state.shared.connections.fetch_sub(1, Ordering::Relaxed);
            let turned_away = state.open.turned_away.get();
            if turned_away >= TURNED_AWAY_MAX {
                return None;
            }
            state.open.turned_away.set(turned_away + 1);
        }
        state.open.all.set(state.open.all.get() + 1);
        Some(Self {
            shared: Arc::clone(&state.shared),
            open: Rc::clone(&state.open),
            ended: Rc::clone(&state.ended),
            admitted,
        })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.admitted {
            self.shared.connections.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.open.turned_away.set(self.open.turned_away.get() - 1);
        }
        self.open.all.set(self.open.all.get() - 1);
        if self.open.all.get() == 0 {
            self.ended.notify_one();
        }
    }
}

/// Accepts on a thread of its own and deals connections out to workers in turn.
///
/// For few workers with uneven connections: the kernel's hash may give one worker more than its
/// share. Costs a hand-over between threads per connection, never per request.
pub struct Acceptor {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Acceptor {
    /// Starts accepting for the listener of this index.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub fn start(
        listener: usize,
        listening: Listening,
        workers: Vec<Mailbox>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let thread =
            std::thread::Builder::new().name(format!("acceptor-{listener}")).spawn(move || {
                if let Err(error) = deal(listener, listening, &workers, &shared, stopped) {
                    log::error!(target: "worker", "cannot accept: {error}");
                }
            })?;
        Ok(Self { stop, thread: Some(thread) })
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
            log::error!(target: "worker", "an acceptor panicked");
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.stop();
    }
}

fn deal(
    listener: usize,
    listening: Listening,
    workers: &[Mailbox],
    shared: &Shared,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build_local(tokio::runtime::LocalOptions::default())?;
    let mut next = 0;
    let failed = |error: &io::Error| {
        let so_far = shared.accept_errors.fetch_add(1, Ordering::Relaxed) + 1;
        if so_far.is_power_of_two() {
            log::warn!(target: "worker", "accept: {error} ({so_far} so far)");
        }
    };
    let take = |stream: Stream, peer| {
        let (socket, tcp) = match stream.into_descriptor() {
            Ok(socket) => socket,
            Err(error) => return failed(&error),
        };
        let mut message = Message::Accepted(Accepted { socket, tcp, peer, listener });
        for _ in 0..workers.len() {
            let worker = &workers[next];
            next = (next + 1) % workers.len();
            // One that has ended, by a panic, leaves it to the others.
            match worker.send(message) {
                Ok(()) => return,
                Err(back) => message = back,
            }
        }
        failed(&io::Error::other("no worker is left"));
    };
    runtime.block_on(accept::accept(listening, stop, take, failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, F>(_: impl FnOnce(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    fn after(counts: &[usize]) -> Vec<bool> {
        let open = OpenCount::default();
        let seen = counts.iter().map(|count| {
            open.all.set(*count);
            open.has_fallen()
        });
        seen.collect()
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
