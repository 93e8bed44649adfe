//! One place for a request in flight: its connection, and how far its answer has come.
//!
//! Not here: sockets' events and the clock (`engine`).

use super::head::{self, Head};
use super::link::Link;
use super::sockets::Interest;
use super::tally::Fault;
use super::{Expected, Plan};
use crate::http::body::{BodyReader, Form};
use crate::http::{Framing, HeadLimits};

/// A head, or trailers, that have not ended by then will not.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// What trailers may take up.
const TRAILERS: HeadLimits =
    HeadLimits { bytes_max: HEAD_BYTES_MAX, fields_max: 1_000, target_bytes_max: 0 };

/// Where a slot stands with its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has none.
    Idle,
    /// The request is not out.
    Sending,
    /// Waits for the head of the answer, or the rest of it.
    Head,
    /// In a body of known length, or the reply in a tunnel.
    Body,
    /// In a chunked body.
    Chunks,
    /// In a body that ends with the connection.
    UntilClose,
    /// The answer is there, the server has yet to close.
    Ending,
}

/// What received bytes came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// There is more to come.
    Part,
    /// The answer is whole.
    Whole,
    /// The connection is a tunnel now.
    Tunnel,
    /// This is no answer.
    Wrong(Fault),
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) socket: Option<Link>,
    pub(super) stage: Stage,
    /// How the socket is registered, if it is.
    pub(super) interest: Option<Interest>,
    /// When the connection was begun, until it is known to be there.
    pub(super) connecting_since_ns: Option<u64>,
    /// Answers on this connection so far.
    pub(super) answers: u64,
    /// Bytes of the request that are out.
    pub(super) sent: usize,
    /// When the request was sent, or due; nanoseconds of the run.
    pub(super) began_ns: u64,
    /// When the slot began what it is in.
    pub(super) since_ns: u64,
    /// Bytes of the body still to come.
    pub(super) left: u64,
    /// Status of the answer; 0 in a tunnel.
    pub(super) status: u16,
    /// What is wrong with the answer; told when the body has passed.
    pub(super) fault: Option<Fault>,
    /// The server will close the connection.
    pub(super) close: bool,
    /// The beginning of a head of which the rest has not come.
    partial: Vec<u8>,
    /// Something of the answer has come.
    heard: bool,
    /// The connection carries messages of a tunnel.
    in_tunnel: bool,
    chunks: Option<Box<BodyReader>>,
}

impl Slot {
    /// Without a connection.
    pub(super) fn new() -> Self {
        Self {
            socket: None,
            stage: Stage::Idle,
            interest: None,
            connecting_since_ns: None,
            answers: 0,
            sent: 0,
            began_ns: 0,
            since_ns: 0,
            left: 0,
            status: 0,
            fault: None,
            close: false,
            partial: Vec::new(),
            heard: false,
            in_tunnel: false,
            chunks: None,
        }
    }

    /// Takes a connection that was begun now.
    pub(super) fn connect(&mut self, socket: Link, now_ns: u64) {
        self.socket = Some(socket);
        self.interest = None;
        self.connecting_since_ns = Some(now_ns);
        self.answers = 0;
        self.in_tunnel = false;
    }

    /// Closes the connection.
    pub(super) fn disconnect(&mut self) {
        self.socket = None;
        self.connecting_since_ns = None;
        self.partial.clear();
        self.chunks = None;
    }

    /// Forgets the last answer: the next request goes out from its first byte.
    pub(super) fn begin(&mut self) {
        self.stage = Stage::Sending;
        self.sent = 0;
        self.status = 0;
        self.fault = None;
        self.close = false;
        self.heard = false;
    }

    /// What goes out next on this connection.
    pub(super) fn bytes_to_send<'a>(&self, plan: &'a Plan) -> &'a [u8] {
        match &plan.tunnel {
            Some(tunnel) if self.in_tunnel => &tunnel.message,
            _ => &plan.request.bytes,
        }
    }

    /// All is out.
    pub(super) fn await_answer(&mut self, plan: &Plan) {
        self.stage = Stage::Head;
        if let Some(tunnel) = plan.tunnel.as_ref().filter(|_| self.in_tunnel) {
            self.stage = Stage::Body;
            self.left = tunnel.reply_bytes;
        }
    }

    /// Whether no byte of the answer has come.
    pub(super) fn has_heard_nothing(&self) -> bool {
        !self.heard
    }

    /// Takes the next bytes that came, in a plain body none of which was kept.
    pub(super) fn take(&mut self, bytes: &[u8], plan: &Plan) -> Received {
        self.heard = true;
        match self.stage {
            Stage::Body => {
                self.left = self.left.saturating_sub(bytes.len() as u64);
                if self.left == 0 { Received::Whole } else { Received::Part }
            }
            Stage::UntilClose => Received::Part,
            Stage::Chunks => self.take_chunks(bytes),
            Stage::Sending if self.in_tunnel => Received::Wrong(Fault::Malformed),
            _ if self.partial.is_empty() => self.take_heads(bytes, plan),
            _ => {
                let mut joined = std::mem::take(&mut self.partial);
                joined.extend_from_slice(bytes);
                self.take_heads(&joined, plan)
            }
        }
    }

    /// Reads heads up to the one of the answer, and what follows it.
    fn take_heads(&mut self, mut bytes: &[u8], plan: &Plan) -> Received {
        while let Some(head) = head::find_head(bytes) {
            let rest = &bytes[head.bytes..];
            match head.status() {
                None => return Received::Wrong(Fault::Malformed),
                Some(101) if plan.tunnel.is_some() && rest.is_empty() => {
                    self.in_tunnel = true;
                    return Received::Tunnel;
                }
                // RFC 9110 §15.2: the answer itself follows.
                Some(100 | 102..=199) => bytes = rest,
                Some(status) => return self.begin_body(&head, status, rest, plan),
            }
        }
        if bytes.len() > HEAD_BYTES_MAX {
            return Received::Wrong(Fault::Malformed);
        }
        self.partial = bytes.to_vec();
        Received::Part
    }

    /// Reads the head's framing (RFC 9112 §6.3); `rest` has come behind it.
    fn begin_body(&mut self, head: &Head<'_>, status: u16, rest: &[u8], plan: &Plan) -> Received {
        self.status = status;
        self.close |= head.close;
        self.fault = match plan.expected {
            Expected::Success => (!(200..400).contains(&status)).then_some(Fault::Status),
            Expected::Exactly(_) if status != 200 => Some(Fault::Status),
            Expected::Exactly(bytes) => match head.content_length {
                None => return Received::Wrong(Fault::Malformed),
                Some(length) => (length != bytes).then_some(Fault::Length),
            },
        };
        let bodiless = !plan.request.answer_has_body || matches!(status, 101 | 204 | 304);
        if head.malformed {
            return Received::Wrong(Fault::Malformed);
        }
        if head.transfer_encoding && !bodiless {
            if !head.chunked {
                return Received::Wrong(Fault::Malformed);
            }
            let reader = BodyReader::new(Framing::Chunked, Form::Content, u64::MAX, &TRAILERS);
            self.chunks = Some(Box::new(reader));
            self.stage = Stage::Chunks;
            return self.take_chunks(rest);
        }
        let length = if bodiless { Some(0) } else { head.content_length };
        let Some(length) = length else {
            self.stage = Stage::UntilClose;
            self.close = true;
            return Received::Part;
        };
        let Some(left) = length.checked_sub(rest.len() as u64) else {
            // More than it said: the next answer on this connection would begin with the rest.
            return Received::Wrong(Fault::Malformed);
        };
        // A protocol that nobody asked for has the connection now.
        self.close |= status == 101;
        self.left = left;
        self.stage = Stage::Body;
        if left == 0 { Received::Whole } else { Received::Part }
    }

    fn take_chunks(&mut self, bytes: &[u8]) -> Received {
        let Some(reader) = &mut self.chunks else { return Received::Wrong(Fault::Malformed) };
        match reader.advance(bytes, &mut Vec::new(), &mut Vec::new()) {
            Ok(step) if step.done && step.consumed == bytes.len() => {
                self.chunks = None;
                Received::Whole
            }
            Ok(step) if step.done => Received::Wrong(Fault::Malformed),
            Ok(_) => Received::Part,
            Err(_) => Received::Wrong(Fault::Malformed),
        }
    }
}
