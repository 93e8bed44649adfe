//! What a plugin says of a body: in a head hook by methods of [`Request`] and [`Response`], in a body
//! hook by a [`Chunk`].

use crate::bindings::lifecycle::zproxy::gateway::types::ChunkAction;
use crate::host::body as host;
use crate::{Request, Response};

/// What becomes of a chunk of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a chunk that is not given back to the gateway is lost"]
pub enum Chunk {
    /// It goes on as it is. Nothing is copied back.
    Pass,
    /// This goes on in its place.
    Replace(Vec<u8>),
    /// Nothing goes on in its place.
    Drop,
    /// It goes on, and no more of this message is shown.
    Detach,
    /// The message is broken off. As long as its head is held, the client gets a 502, or what
    /// [`Request::answer`] was given.
    Abort,
}

impl Chunk {
    /// Hands it to the host.
    pub(crate) fn action(self) -> ChunkAction {
        match self {
            Self::Pass => ChunkAction::Pass,
            Self::Replace(bytes) => {
                host::replace(&bytes);
                ChunkAction::Replaced
            }
            Self::Drop => ChunkAction::Drop,
            Self::Detach => ChunkAction::Detach,
            Self::Abort => ChunkAction::Abort,
        }
    }
}

macro_rules! body_methods {
    ($message:ident, $hook:literal) => {
        /// Of the body, to be said in the head hook.
        impl $message {
            #[doc = concat!("`", $hook, "` is not called for this message; its body goes its direct way.")]
            pub fn skip_body(&mut self) {
                host::skip();
            }

            #[doc = concat!("`", $hook, "` only looks: the message keeps its length.")]
            pub fn observe_body(&mut self) {
                host::observe();
            }

            #[doc = concat!("The head waits until the whole body is here; `", $hook, "` is called once, with all of it,")]
            /// and may edit the head. A longer body than `bytes_max` is refused (413, 502). More than 4
            /// MiB, or than the operator allows, make the hook fail.
            pub fn hold_body(&mut self, bytes_max: u32) {
                host::hold(bytes_max);
            }

            /// Sends this body in place of the one that comes, which nobody is shown; empty for none.
            /// More than 4 MiB make the hook fail.
            pub fn replace_body(&mut self, body: impl AsRef<[u8]>) {
                host::replace(body.as_ref());
            }

            /// What the client gets if the body hook then says [`Chunk::Abort`] before the head of the
            /// answer is sent.
            pub fn answer(&mut self, reply: crate::Reply) {
                reply.send();
            }
        }
    };
}

body_methods!(Request, "on_request_body");
body_methods!(Response, "on_response_body");
