//! How others reach a worker: messages from the control thread, connections from whoever has accepted
//! them.
//!
//! Two queues, since they differ in kind. Messages are few and must arrive. Connections can be many at
//! once: their queue is bounded, and whoever finds it full keeps the connection or waits.
//!
//! A connection on its way holds an [`Entry`] in the worker's tally from before it is sent, so the
//! count that others compare is never behind, and a worker cannot end while something is on its way to
//! it.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded, unbounded};
use tokio::sync::Notify;

use super::accept::Connected;
use super::placement::Placement;
use crate::plugin::PluginStats;
use crate::proxy::Home;
use crate::proxy::tally::{Entry, Tally};
use crate::telemetry::WorkerReport;

/// Connections on their way to one worker. Little: they wait as well in the queue of the kernel, which
/// is bounded by `backlog` and costs no descriptors.
pub const ARRIVALS_MAX: usize = 256;

/// What the control thread asks of a worker.
pub enum Message {
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

/// An accepted connection that no runtime has.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub socket: OwnedFd,
    /// Whether it is a TCP socket.
    pub tcp: bool,
    /// Whom it is with.
    pub peer: Option<IpAddr>,
    /// Index of the listener.
    pub listener: usize,
}

/// Why a worker did not take a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its queue is full.
    Full,
    /// It has drained, or panicked.
    Ended,
}

impl Accepted {
    /// A connection of the listener of this index.
    pub fn new(connected: Connected, listener: usize) -> Self {
        let Connected { socket, tcp, peer } = connected;
        Self { socket, tcp, peer, listener }
    }
}

/// The sender's side.
#[derive(Clone)]
pub struct Mailbox {
    node: usize,
    tally: Arc<Tally>,
    messages: Sender<Message>,
    arrivals: Sender<(Accepted, Entry)>,
    wake: Arc<Notify>,
}

/// The worker's side.
pub struct Inbox {
    /// Of this worker's connections.
    pub tally: Arc<Tally>,
    /// From the control thread.
    pub messages: Receiver<Message>,
    /// From whoever has accepted them.
    pub arrivals: Receiver<(Accepted, Entry)>,
    /// Rung when something has been sent.
    pub wake: Arc<Notify>,
}

/// Both sides, for the worker of this placement.
#[must_use]
pub fn mailbox(placement: Placement) -> (Mailbox, Inbox) {
    let (messages, sent) = unbounded();
    let (arrivals, arrived) = bounded(ARRIVALS_MAX);
    let (tally, wake) = (Tally::new(), Arc::new(Notify::new()));
    let inbox = Inbox {
        tally: Arc::clone(&tally),
        messages: sent,
        arrivals: arrived,
        wake: Arc::clone(&wake),
    };
    (Mailbox { node: placement.node, tally, messages, arrivals, wake }, inbox)
}

impl Mailbox {
    /// Sends a message. A worker that has ended takes none.
    pub fn send(&self, message: Message) {
        // There is nobody to tell that it has ended.
        let _ = self.messages.send(message);
        self.wake.notify_one();
    }

    /// Hands a connection over.
    ///
    /// # Errors
    ///
    /// The connection, and why it was not taken.
    pub fn hand_over(&self, accepted: Accepted) -> Result<(), (Accepted, Refusal)> {
        let Some(entry) = Tally::enter(&self.tally, usize::MAX) else {
            return Err((accepted, Refusal::Ended));
        };
        match self.arrivals.try_send((accepted, entry)) {
            Ok(()) => {
                self.wake.notify_one();
                Ok(())
            }
            Err(TrySendError::Full((accepted, _))) => Err((accepted, Refusal::Full)),
            Err(TrySendError::Disconnected((accepted, _))) => Err((accepted, Refusal::Ended)),
        }
    }

    /// The worker's connections, and those on their way to it.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.tally.count()
    }

    /// The NUMA node of the worker.
    #[must_use]
    pub fn node(&self) -> usize {
        self.node
    }
}
