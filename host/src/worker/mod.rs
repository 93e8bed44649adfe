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
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use anyhow::Context as _;
use crossbeam::channel::{Receiver, SendError, Sender, unbounded};
use tokio::sync::{Notify, watch};

use crate::config::Io;
use crate::connection;
use crate::http::Connection;
use crate::io::{Attached, Backend, Stream, TICK};
use crate::plugin::PluginStats;
use crate::proxy::client::ClientFacts;
use crate::proxy::{Client, Context, Snapshot};
use crate::sys;
use crate::telemetry::WorkerReport;
use accept::Connected;
use listen::Listening;
use placement::Placement;

/// A worker's stack: a plugin's stack (at most 512 KiB) lies on top of the gateway's own.
const STACK_BYTES: usize = 4 * 1024 * 1024;

/// Connections of one worker that are being turned away at a time: told to come again later, and
/// kept until they have heard it. Beyond this they are closed without a word.
const TURNED_AWAY_MAX: usize = 64;

/// What the control thread asks of a worker.
pub enum Message {
    /// A connection that somebody else has accepted, for the listener of this index.
    Accepted(Connected, usize),
    /// Report the counts.
    Report(Sender<WorkerReport<PluginStats>>),
    /// Take no more requests and end when the last one has ended.
    Drain,
    /// End now.
    Stop,
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
    ) -> anyhow::Result<Self> {
        let (sender, messages) = unbounded();
        let wake = Arc::new(Notify::new());
        let (ready, started) = crossbeam::channel::bounded(1);
        let woken = Arc::clone(&wake);
        let thread = std::thread::Builder::new()
            .name(format!("worker-{}", placement.worker))
            .stack_size(STACK_BYTES)
            .spawn(move || {
                run(placement, backend, &snapshot, sockets, &shared, messages, &woken, &ready);
            })
            .context("cannot start a worker thread")?;
        let backend = started
            .recv()
            .context("the worker ended before it was ready")?
            .with_context(|| format!("worker {}", placement.worker))?;
        let mailbox = Mailbox { messages: sender, wake };
        Ok(Self { placement, backend, mailbox, thread: Some(thread) })
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

#[expect(clippy::too_many_arguments, reason = "a thread's inputs, named once more")]
fn run(
    placement: Placement,
    backend: Backend,
    snapshot: &Arc<Snapshot>,
    sockets: Vec<(usize, Listening)>,
    shared: &Arc<Shared>,
    messages: Receiver<Message>,
    wake: &Notify,
    ready: &Sender<anyhow::Result<Backend>>,
) {
    // First the place, then the memory: what is touched first is local to the node that touches it.
    if let Some(cpu) = placement.cpu
        && let Err(error) = sys::pin_to_cpu(cpu)
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
        let context = (shared.make_context)(placement.worker, snapshot)?;
        Ok((runtime, Rc::new(context)))
    });
    match made {
        Ok((runtime, context)) => {
            let shared = Arc::clone(shared);
            runtime.block_on(async {
                attached.start();
                let state = State::new(context, shared);
                let taken = state.listen(sockets);
                let failed = taken.is_err();
                // A starter that is gone has given up on this worker; it will be stopped.
                let _ = ready.send(taken.map(|()| attached.backend()));
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
    context: Rc<Context>,
    shared: Arc<Shared>,
    stop_accepting: watch::Sender<bool>,
    accepting: Rc<Cell<usize>>,
    open: Rc<Cell<usize>>,
    /// Of those, the ones that are being turned away.
    turned_away: Rc<Cell<usize>>,
    /// Rung when a connection or an accept loop ends.
    ended: Rc<Notify>,
}

impl State {
    fn new(context: Rc<Context>, shared: Arc<Shared>) -> Self {
        Self {
            context,
            shared,
            stop_accepting: watch::Sender::new(false),
            accepting: Rc::default(),
            open: Rc::default(),
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
                    |connected| taking.adopt(connected, listener),
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
                    Message::Accepted(connected, listener) => self.adopt(connected, listener),
                    Message::Report(sender) => {
                        // Whoever asked may have stopped waiting.
                        let _ = sender.send(self.context.report());
                    }
                    Message::Drain => self.drain(),
                    Message::Stop => return,
                }
            }
            let done = self.open.get() == 0 && self.accepting.get() == 0;
            if self.context.draining.get() && done {
                return;
            }
        }
    }

    fn tick(&self, count: u32) {
        const SECOND: u32 = 20;
        self.context.clock.tick();
        self.context.deadlines.tick();
        crate::io::tick();
        if count.is_multiple_of(SECOND) {
            let now = self.context.clock.now();
            for upstream in &self.context.upstreams {
                upstream.sweep(now);
            }
            self.context.telemetry.sample_utilisation(now);
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

    fn adopt(&self, connected: Connected, listener: usize) {
        match Stream::new(connected.socket, connected.tcp) {
            Ok(stream) => self.take(stream, connected.peer, listener),
            Err(error) => self.context.telemetry.accept_error(&error),
        }
    }

    /// Serves a connection from now on.
    fn take(&self, stream: Stream, peer: Option<IpAddr>, listener: usize) {
        let context = Rc::clone(&self.context);
        context.telemetry.connection_accepted(listener);
        let Some(open) = Open::new(self) else {
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
            if open.admitted {
                connection::serve(Rc::clone(&context), client).await;
            } else {
                connection::turn_away(&context, client).await;
            }
            context.telemetry.connection_closed(listener);
            drop(open);
        });
    }
}

/// Counts an open connection: here, and in the whole gateway if there is room for it.
struct Open {
    shared: Arc<Shared>,
    open: Rc<Cell<usize>>,
    turned_away: Rc<Cell<usize>>,
    ended: Rc<Notify>,
    /// Whether it may ask for anything.
    admitted: bool,
}

impl Open {
    /// `None`: there is not even room to be turned away.
    fn new(state: &State) -> Option<Self> {
        let others = state.shared.connections.fetch_add(1, Ordering::Relaxed);
        let admitted = others < state.context.limits().connections_max;
        if !admitted {
            // Whoever is turned away must not keep others out.
            state.shared.connections.fetch_sub(1, Ordering::Relaxed);
            if state.turned_away.get() >= TURNED_AWAY_MAX {
                return None;
            }
            state.turned_away.set(state.turned_away.get() + 1);
        }
        state.open.set(state.open.get() + 1);
        Some(Self {
            shared: Arc::clone(&state.shared),
            open: Rc::clone(&state.open),
            turned_away: Rc::clone(&state.turned_away),
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
            self.turned_away.set(self.turned_away.get() - 1);
        }
        self.open.set(self.open.get() - 1);
        if self.open.get() == 0 {
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
    let take = |connected| {
        let mut message = Message::Accepted(connected, listener);
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
