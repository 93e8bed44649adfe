//! What the control thread can be asked for, and what it answers.
//!
//! Not here: doing it.

use bytes::Bytes;
use serde_json::Value;

use crate::config::{Problem, Problems, Settings};

/// Where a gateway's settings come from; asked anew for every reload.
pub trait Origin: Send {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    fn load(&mut self) -> Result<Settings, Problems>;

    /// Finds the places of problems that came up later, in what was read last.
    fn place(&self, problems: Problems) -> Problems;

    /// Whether routes are made from what is in the plugins folder, so that a new file there asks for a
    /// reload.
    fn follows_folder(&self) -> bool;
}

/// Why nothing was changed.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// What kind of reason.
    pub kind: RefusalKind,
    /// The reason.
    pub detail: String,
    /// Everything that is wrong with a configuration.
    pub problems: Vec<Problem>,
}

/// Kinds of reasons for a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// There is no such thing.
    Missing,
    /// It cannot be done with what is there.
    Conflict,
    /// What was given is bad.
    Bad,
    /// Not now, or not in time.
    Unavailable,
}

impl Refusal {
    pub(super) fn new(kind: RefusalKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), problems: Vec::new() }
    }
}

/// What became of an order.
pub type Outcome = Result<Value, Refusal>;

/// Who wants to know.
pub type Reply = Box<dyn FnOnce(Outcome) + Send>;

/// What the control thread is asked for.
pub enum Order {
    /// Read the configuration anew and live by it.
    Reload(Reply),
    /// Replace the component of a plugin.
    Swap {
        /// Which plugin.
        name: String,
        /// The new one.
        component: Bytes,
        /// Who wants to know.
        reply: Reply,
    },
    /// Go back to the generation of a plugin that served before.
    Rollback {
        /// Which plugin.
        name: String,
        /// Who wants to know.
        reply: Reply,
    },
    /// Take no more requests.
    Drain(Reply),
    /// End the thread.
    Stop,
}
