//! `zproxy:gateway/body`.
//!
//! What is asked for is kept apart until its hook has ended well, as a reply is.

use super::State;
use super::bindings::zproxy::gateway::body::Host;
use crate::plugin::body::Wish;

/// Which kind of hook runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::plugin) enum Phase {
    /// One that has nothing to do with bodies, or none.
    #[default]
    Other,
    /// One that is shown a head.
    Head,
    /// One that is shown a body.
    Chunk,
    /// One that is shown a WebSocket message.
    Message,
}

/// What was asked for during a call.
#[derive(Default)]
pub(in crate::plugin) struct BodyCalls {
    phase: Phase,
    bytes_max: usize,
    /// In a head hook, the last that counts.
    pub(in crate::plugin) wish: Option<Wish>,
    /// In a body hook, what takes the place of the chunk.
    pub(in crate::plugin) replacement: Option<Vec<u8>>,
}

impl BodyCalls {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, ..Self::default() }
    }

    /// Whether such a hook runs.
    pub(super) fn is_in(&self, phase: Phase) -> bool {
        self.phase == phase
    }

    /// Forgets the call before.
    pub(in crate::plugin) fn begin(&mut self, phase: Phase) {
        self.phase = phase;
        self.wish = None;
        self.replacement = None;
    }
}

impl State {
    fn wish(&mut self, what: &str, wish: Wish) {
        if self.body.phase == Phase::Head {
            self.body.wish = Some(wish);
        } else {
            self.violate(format_args!("body.{what}"), "it is for hooks that are shown a head");
        }
    }

    pub(super) fn too_large(&mut self, what: &str, bytes: usize) -> bool {
        let max = self.body.bytes_max;
        if bytes > max {
            let why = format!("{bytes} bytes are more than the {max} that it may hold");
            self.violate(format_args!("{what}"), why);
        }
        bytes > max
    }
}

impl Host for State {
    fn skip(&mut self) {
        self.wish("skip", Wish::Skip);
    }

    fn observe(&mut self) {
        self.wish("observe", Wish::Observe);
    }

    fn hold(&mut self, bytes_max: u32) {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        if !self.too_large("body.hold", bytes_max) {
            self.wish("hold", Wish::Hold(bytes_max));
        }
    }

    fn replace(&mut self, bytes: Vec<u8>) {
        if self.too_large("body.replace", bytes.len()) {
            return;
        }
        match self.body.phase {
            Phase::Head => self.body.wish = Some(Wish::Replace(bytes)),
            Phase::Chunk => self.body.replacement = Some(bytes),
            Phase::Other | Phase::Message => {
                self.violate(format_args!("body.replace"), "this hook is shown no message");
            }
        }
    }
}
