//! The workers: one pinned thread each, with everything that it owns.
//!
//! A worker owns its listening sockets, connections, buffers, deadlines, upstream connections, plugin
//! instances and counts, and shares nothing that is written per request. The control thread
//! reaches it through a mailbox.
//!
//! Drain, in order:
//!
//! 1. accepting ends; connections whose handshake is complete are still taken;
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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use crossbeam::channel::{Receiver, Sender, unbounded};
use tokio::sync::Notify;

use crate::connection;
use crate::http::Connection;
use crate::io::{Stream, TICK};
use crate::plugin::PluginStats;
use crate::proxy::client::ClientFacts;
use crate::proxy::{Client, Context, Snapshot};
use crate::sys;
use crate::telemetry::WorkerReport;
use listen::Listening;
use placement::Placement;

/// A worker's stack: a plugin's stack (at most 512 KiB) lies on top of the gateway's own.
const STACK_BYTES: usize = 4 * 1024 * 1024;

/// What the control thread asks of a worker.
pub enum Message {
    /// A connection that somebody else has accepted, for the listener of this index.
    Accepted(Accepted),
    /// Report the counts.
    Report(Sender<WorkerReport<PluginStats>>),
    /// Take no more requests and end when the last one has ended.
    Drain,
    /// End now.
    Stop,
}

/// An accepted connection on its way to a worker.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, of no runtime yet.
    pub socket: std::os::fd::OwnedFd,
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
    /// Makes a worker's context, on its own thread.
    pub make_context: Box<MakeContext>,
}

/// A running worker, as the control thread sees it.
pub struct Worker {
    /// Where it sits.
    pub placement: Placement,
    mailbox: Sender<Message>,
    wake: Arc<Notify>,
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
        let (mailbox, messages) = unbounded();
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
        Ok(Self { placement, mailbox, wake, thread: Some(thread) })
    }

    /// Sends a message. A worker that has ended takes none.
    pub fn send(&self, message: Message) {
        if self.mailbox.send(message).is_ok() {
            self.wake.notify_one();
        }
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
        Ok((runtime, Rc::new(context)))
    });
    match made {
        Ok((runtime, context)) => {
            let shared = Arc::clone(shared);
            runtime.block_on(async {
                let state = State::new(context, shared);
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
    context: Rc<Context>,
    shared: Arc<Shared>,
    stop_accepting: Rc<Notify>,
    accepting: Rc<Cell<usize>>,
    open: Rc<Cell<usize>>,
    /// Rung when a connection or an accept loop ends.
    ended: Rc<Notify>,
}

impl State {
    fn new(context: Rc<Context>, shared: Arc<Shared>) -> Self {
        Self {
            context,
            shared,
            stop_accepting: Rc::new(Notify::new()),
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
                let (taking, counting) = (state.clone(), state.context.clone());
                let accepted = accept::accept(
                    listening,
                    Rc::clone(&state.stop_accepting),
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
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
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
        // One permit for each accept loop; `notify_waiters` would miss one that is not waiting.
        for _ in 0..self.accepting.get() {
            self.stop_accepting.notify_one();
        }
        self.stop_accepting.notify_waiters();
        self.context.deadlines.wake_all();
        for upstream in &self.context.upstreams {
            upstream.close_idle();
        }
    }

    fn adopt(&self, accepted: Accepted) {
        let Accepted { socket, tcp, peer, listener } = accepted;
        let stream = if tcp {
            tokio::net::TcpStream::from_std(socket.into()).map(Stream::Tcp)
        } else {
            tokio::net::UnixStream::from_std(socket.into()).map(Stream::Unix)
        };
        match stream {
            Ok(stream) => self.take(stream, peer, listener),
            Err(error) => self.context.telemetry.accept_error(&error),
        }
    }

    /// Serves a connection from now on.
    fn take(&self, stream: Stream, peer: Option<IpAddr>, listener: usize) {
        let context = Rc::clone(&self.context);
        context.telemetry.connection_accepted(listener);
        let trusted = &context.settings().trusted_proxies;
        let facts = ClientFacts::new(peer, "http", trusted);
        let client = Client {
            connection: Connection::new(stream),
            timer: context.deadlines.timer(),
            facts,
            listener,
        };
        let guard = Open::new(self);
        let full = guard.others >= context.limits().connections_max;
        tokio::task::spawn_local(async move {
            if full {
                connection::turn_away(&context, client).await;
            } else {
                connection::serve(Rc::clone(&context), client).await;
            }
            context.telemetry.connection_closed(listener);
            drop(guard);
        });
    }
}

/// Counts an open connection, here and in the whole gateway.
struct Open {
    shared: Arc<Shared>,
    open: Rc<Cell<usize>>,
    ended: Rc<Notify>,
    /// Connections that were open before.
    others: usize,
}

impl Open {
    fn new(state: &State) -> Self {
        state.open.set(state.open.get() + 1);
        let others = state.shared.connections.fetch_add(1, Ordering::Relaxed);
        let (open, ended) = (Rc::clone(&state.open), Rc::clone(&state.ended));
        Self { shared: Arc::clone(&state.shared), open, ended, others }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
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
    stop: Arc<Notify>,
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
        workers: Vec<(Sender<Message>, Arc<Notify>)>,
    ) -> io::Result<Self> {
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let thread =
            std::thread::Builder::new().name(format!("acceptor-{listener}")).spawn(move || {
                if let Err(error) = deal(listener, listening, &workers, &stopped) {
                    log::error!(target: "worker", "cannot accept: {error}");
                }
            })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops accepting; what the kernel has accepted already is still dealt out.
    pub fn stop(&mut self) {
        self.stop.notify_one();
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
    workers: &[(Sender<Message>, Arc<Notify>)],
    stop: &Arc<Notify>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build_local(tokio::runtime::LocalOptions::default())?;
    let mut next = 0;
    let mut last_warning: Option<std::time::Instant> = None;
    runtime.block_on(async {
        let local_stop = Rc::new(Notify::new());
        let (ring, asked) = (Rc::clone(&local_stop), Arc::clone(stop));
        tokio::task::spawn_local(async move {
            asked.notified().await;
            ring.notify_one();
        });
        let take = |stream: Stream, peer| {
            let (socket, tcp) = match stream {
                Stream::Tcp(stream) => (stream.into_std().map(Into::into), true),
                Stream::Unix(stream) => (stream.into_std().map(Into::into), false),
            };
            if let (Ok(socket), Some((mailbox, wake))) = (socket, workers.get(next)) {
                let accepted = Accepted { socket, tcp, peer, listener };
                if mailbox.send(Message::Accepted(accepted)).is_ok() {
                    wake.notify_one();
                }
            }
            next = (next + 1) % workers.len().max(1);
        };
        let failed = |error: &io::Error| {
            let now = crate::proxy::Clock::new().now();
            if last_warning.is_none_or(|last| now - last > Duration::from_secs(1)) {
                last_warning = Some(now);
                log::warn!(target: "worker", "accept: {error}");
            }
        };
        accept::accept(listening, local_stop, take, failed).await
    })
}

impl Worker {
    /// What an [`Acceptor`] needs to reach the worker.
    #[must_use]
    pub fn address(&self) -> (Sender<Message>, Arc<Notify>) {
        (self.mailbox.clone(), Arc::clone(&self.wake))
    }
}
