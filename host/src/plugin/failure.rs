//! How a hook fails, as chains, metrics and logs see it.
//!
//! Not here: what a failure costs the plugin (`backoff`), what it does to a request (`chain`).

use std::sync::Arc;

/// How a hook can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// It ended abnormally: a panic, a stack overflow, `exit`, an import that plugins do not get.
    Trap,
    /// It ran longer than it may.
    Timeout,
    /// It used more fuel than it may.
    Fuel,
    /// It trapped after it was refused memory.
    Memory,
    /// It broke a rule of an interface: a bad field name, a bad reply.
    Violation,
    /// There is no instance: `init` failed, or its failures have cost so much that it has to wait. Or what
    /// it needs is away.
    Unavailable,
}

impl FailureKind {
    /// Whether an instance that failed so can be called again: it has come to the end of its call.
    pub(super) fn leaves_it_sound(self) -> bool {
        matches!(self, Self::Violation | Self::Unavailable)
    }

    /// As metrics and logs name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Timeout => "timeout",
            Self::Fuel => "fuel",
            Self::Memory => "memory",
            Self::Violation => "violation",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A hook that failed.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    /// What an operator or author reads.
    pub(super) message: Arc<str>,
    /// Whether the exchange is as it was before the hook; notes aside, which nobody outside sees.
    pub(super) undone: bool,
}

impl Failure {
    pub(super) fn new(kind: FailureKind, message: impl Into<Arc<str>>) -> Box<Self> {
        Box::new(Self { kind, message: message.into(), undone: true })
    }
}
