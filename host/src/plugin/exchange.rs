//! One request and its response, as middleware sees them.
//!
//! Not here: bytes of bodies, and sockets (`proxy`, `connection`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::body::{Halt, Stage, Wish};
use super::failure::FailureKind;
use super::instance::Hook;
use super::repeat::Course;
use crate::http::{EditError, PathAt, RequestHead, RequestMark, ResponseHead, ResponseMark};
use crate::io::TlsFacts;
use crate::route::Params;
use crate::state::cache::{Cache, Capture, Fetch, Flight, Follow, Outcome, Stored};

/// Notes of one exchange: at most this many,
pub const NOTES_MAX: usize = 64;
/// with at most this many bytes altogether.
pub const NOTE_BYTES_MAX: usize = 64 * 1024;
/// Body of an answer that a plugin makes.
pub const REPLY_BYTES_MAX: usize = 1024 * 1024;

/// What middleware tells the gateway to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on along the chain.
    Next,
    /// Go no further: the answer is in the exchange, made by [`Exchange::reply`].
    Respond,
}

/// One request and its response.
#[derive(Debug, Default)]
pub struct Exchange {
    /// What goes upstream.
    pub request: RequestHead,
    /// What goes to the client; empty until there is one.
    pub response: ResponseHead,
    /// The body of an answer that middleware or the gateway made; `None` when the body is the
    /// upstream's.
    pub body: Option<Bytes>,
    /// The client's address, behind trusted proxies the one they name.
    pub client_ip: Option<IpAddr>,
    /// `http` or `https`: the client's, behind a trusted proxy what that one says.
    pub scheme: &'static str,
    /// What the TLS handshake came to.
    pub tls: Option<Arc<TlsFacts>>,
    /// Name of the route; its count of holders is the worker's own, as of all names here.
    pub route: Option<Arc<str>>,
    /// Parameters of the route's path.
    pub(crate) params: Option<RouteParams>,
    /// Upstreams that a plugin may choose from.
    pub(crate) upstreams: Option<Arc<[Arc<str>]>>,
    /// The one that it has chosen: an index into these.
    pub(crate) chosen: Option<usize>,
    /// Upstream and server that the request was sent to.
    pub(crate) sent_to: Option<(Arc<str>, Option<Arc<str>>)>,
    /// Requests that its plugins have sent: which, how many.
    pub(crate) callouts: Vec<(Arc<str>, u32)>,
    /// The head of the answer is on its way to the client.
    pub(crate) sent: bool,
    /// What the plugin that was called last asks for the message's body.
    pub(super) wish: Option<Wish>,
    /// Why the chain has stopped in the middle.
    pub(super) halt: Option<Halt>,
    /// Links that are shown the request's body.
    pub(super) request_stages: Vec<Stage>,
    /// Links that are shown the response's body.
    pub(super) response_stages: Vec<Stage>,
    /// Plugins that failed, and how: for the access log.
    pub(crate) failed: Vec<(Arc<str>, FailureKind)>,
    /// Who keeps the response that is there, with its body when that arrives.
    pub(crate) captures: Vec<Capture>,
    /// What its plugins have found in a cache last.
    pub(crate) looked_up: Option<LookedUp>,
    /// When they looked first: what was removed since is not kept.
    pub(crate) looked_since: Option<u64>,
    /// What this exchange fetches while others wait for it.
    pub(crate) fetches: Vec<Fetch>,
    /// Somebody else's fetch that is to be waited for.
    pub(crate) waiting: Option<Waiting>,
    /// When there has been enough waiting for others, in microseconds of the gateway's clock.
    pub(crate) waits_until_us: Option<u64>,
    /// The body of the answer, while it is on its way into a cache.
    pub(crate) coming: Option<Follow>,
    /// The request goes on in the background once it has been answered.
    pub(crate) refetch: Option<Refetch>,
    /// The answer that has just been made may be given again.
    pub(super) repeat: Option<Box<Course>>,
    /// Fields for the response when it passes a link.
    pub(super) later: Vec<Later>,
    /// Links before this one are not shown the response.
    pub(crate) floor: usize,
    /// What a cache says became of the request: for the access log.
    pub(crate) cached: Option<Outcome>,
    /// What hooks took, of those that were timed, which is a sample: for the access log.
    pub(crate) timed: Vec<(Arc<str>, Duration)>,
    notes: Vec<(String, Vec<u8>)>,
    /// How often an answer was put in place: tells a mark on one response from one on another.
    answers: u32,
}

/// What was found in a cache.
pub struct LookedUp {
    /// In which,
    pub cache: Arc<Cache>,
    /// under which key,
    pub key: Vec<u8>,
    /// and what.
    pub stored: Arc<Stored>,
}

impl std::fmt::Debug for LookedUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LookedUp").field("status", &self.stored.status).finish_non_exhaustive()
    }
}

/// A request that waits for what another one fetches.
#[derive(Debug)]
pub struct Waiting {
    /// That fetch.
    pub flight: Flight,
    /// The link to go on with.
    pub link: usize,
    /// How much longer, in microseconds.
    pub rest_us: u64,
}

/// Fields that are added to the response when it passes a link.
#[derive(Debug)]
pub(super) struct Later {
    /// Which; none as long as its hook has only just come back.
    pub(super) link: Option<usize>,
    /// As plugins write fields, checked.
    pub(super) packed: Vec<u8>,
}

/// A request that goes on in the background.
#[derive(Debug)]
pub struct Refetch {
    /// What it holds while it is there.
    pub fetch: Fetch,
    /// The link that has answered.
    pub link: usize,
}

/// Parameters of a route's path.
#[derive(Clone, Debug)]
pub struct RouteParams {
    /// Their names, by place.
    pub names: Arc<[Box<str>]>,
    /// Where they are in the path.
    pub params: Params,
    /// Where the path is in the request's head, whatever becomes of it.
    pub path: PathAt,
}

/// An exchange that is over.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// The status that the client was sent.
    pub status: u16,
    /// Bytes received from the client.
    pub request_bytes: u64,
    /// Bytes sent to the client.
    pub response_bytes: u64,
    /// From the request's head to the response's last byte.
    pub duration: Duration,
    /// Of these, waiting for the upstream's head.
    pub upstream: Duration,
}

/// A moment in the life of an [`Exchange`] that its heads can go back to.
#[derive(Clone, Copy, Debug)]
pub struct ExchangeMark {
    request: RequestMark,
    response: ResponseMark,
    answers: u32,
    body: Option<usize>,
    chosen: Option<usize>,
}

impl Exchange {
    /// Remembers this moment.
    pub fn mark(&self) -> ExchangeMark {
        ExchangeMark {
            request: self.request.mark(),
            response: self.response.mark(),
            answers: self.answers,
            body: self.body.as_ref().map(Bytes::len),
            chosen: self.chosen,
        }
    }

    /// Undoes every edit of either head since `mark`. False when that is impossible, because
    /// [`reply`](Self::reply) has replaced the response or its body since.
    ///
    /// Notes stay: no peer ever sees them.
    pub fn roll_back(&mut self, mark: &ExchangeMark) -> bool {
        self.chosen = mark.chosen;
        self.request.roll_back(&mark.request)
            && self.answers == mark.answers
            && self.response.roll_back(&mark.response)
            && self.body.as_ref().map(Bytes::len) == mark.body
    }

    /// The link that has just been called is this one: says so of what it has left for later.
    pub(super) fn note_later(&mut self, link: usize) {
        for later in self.later.iter_mut().rev().take_while(|later| later.link.is_none()) {
            later.link = Some(link);
        }
    }

    /// The response passes this link.
    pub(super) fn add_later(&mut self, link: usize) {
        for later in self.later.iter().filter(|later| later.link == Some(link)) {
            for (name, value) in unpack(&later.packed).flatten() {
                // What is more than edits may hold is left out.
                let _ = self.response.fields.append_checked(name, value);
            }
        }
    }

    /// Forgets the exchange, keeps the memory.
    pub fn clear(&mut self) {
        self.request.clear();
        self.response.clear();
        self.body = None;
        self.client_ip = None;
        self.scheme = "http";
        self.tls = None;
        self.route = None;
        self.params = None;
        self.upstreams = None;
        self.chosen = None;
        self.sent_to = None;
        self.callouts.clear();
        self.sent = false;
        self.wish = None;
        self.halt = None;
        self.request_stages.clear();
        self.response_stages.clear();
        self.failed.clear();
        self.captures.clear();
        self.looked_up = None;
        self.looked_since = None;
        self.fetches.clear();
        self.waiting = None;
        self.waits_until_us = None;
        self.coming = None;
        self.repeat = None;
        self.later.clear();
        self.refetch = None;
        self.floor = 0;
        self.cached = None;
        self.timed.clear();
        self.notes.clear();
    }

    /// Answers the request here and now; to be followed by [`Flow::Respond`].
    ///
    /// On an error the exchange stays as it was.
    pub fn reply<'a>(
        &mut self,
        status: u16,
        fields: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        body: impl Into<Vec<u8>>,
    ) -> Result<(), EditError> {
        let mut head = ResponseHead::default();
        let body = body.into();
        write_answer(&mut head, status, fields, &body)?;
        self.put_answer(&mut head, body.into());
        Ok(())
    }

    /// Takes note that a hook of this plugin took so long. One entry a plugin: a body may have many chunks.
    pub(super) fn add_time(&mut self, plugin: &Arc<str>, took: Duration) {
        match self.timed.iter_mut().find(|(timed, _)| timed == plugin) {
            Some((_, sum)) => *sum += took,
            None => self.timed.push((Arc::clone(plugin), took)),
        }
    }

    /// How long the hooks of this plugin took that were timed.
    pub(super) fn time_of(&self, plugin: &str) -> Duration {
        let timed = self.timed.iter().find(|(timed, _)| **timed == *plugin);
        timed.map_or(Duration::ZERO, |(_, took)| *took)
    }

    /// Counts a callout of this plugin; false, and it is not counted, when it has made as many as it may.
    pub(super) fn add_callout(&mut self, plugin: &Arc<str>, max: u32) -> bool {
        let index = match self.callouts.iter().position(|(known, _)| known == plugin) {
            Some(index) => index,
            None => {
                self.callouts.push((Arc::clone(plugin), 0));
                self.callouts.len() - 1
            }
        };
        let made = &mut self.callouts[index].1;
        let may = *made < max;
        *made += u32::from(may);
        may
    }

    /// Makes `head` and `body` the response. What it takes the place of is in `head` then.
    pub(super) fn put_answer(&mut self, head: &mut ResponseHead, body: Bytes) {
        std::mem::swap(&mut self.response, head);
        self.answered(body);
    }

    /// The same with a copy of `head`.
    pub(super) fn answer_again(&mut self, head: &ResponseHead, body: Bytes) {
        self.response.copy_from(head);
        self.answered(body);
    }

    fn answered(&mut self, body: Bytes) {
        self.body = Some(body);
        // Nobody reads the body of the response that was there.
        self.captures.clear();
        self.coming = None;
        // Those who would have been shown the body of the answer before are not shown this one.
        self.response_stages.clear();
        self.answers = self.answers.wrapping_add(1);
    }

    /// Says, in `on_request` or `on_response`, how native middleware wants to be shown the message's body.
    pub fn wish_body(&mut self, wish: Wish) {
        self.wish = Some(wish);
    }

    /// Moves the request into another exchange, with all that is known of it, and forgets it here.
    pub(crate) fn move_into(&mut self, other: &mut Self) {
        std::mem::swap(&mut self.request, &mut other.request);
        std::mem::swap(&mut self.notes, &mut other.notes);
        other.looked_up = self.looked_up.take();
        other.looked_since = self.looked_since;
        other.client_ip = self.client_ip;
        other.scheme = self.scheme;
        other.route = self.route.take();
        other.params = self.params.take();
        other.upstreams = self.upstreams.take();
        other.chosen = self.chosen;
    }

    /// Whether the chain has stopped in the middle.
    pub fn is_halted(&self) -> bool {
        self.halt.is_some()
    }

    /// Takes what the chain has stopped for; `None` when it has come to its end.
    pub fn take_halt(&mut self) -> Option<Halt> {
        self.halt.take()
    }

    /// Forgets who wanted to see the body of the answer, which is another one now.
    pub fn forget_response_stages(&mut self) {
        self.response_stages.clear();
    }

    /// Where those are kept who are shown a body.
    pub(super) fn stages(&mut self, hook: Hook) -> &mut Vec<Stage> {
        match hook {
            Hook::Request | Hook::RequestBody => &mut self.request_stages,
            _ => &mut self.response_stages,
        }
    }

    /// A parameter of the route's path, as it was sent.
    pub fn param(&self, name: &str) -> Option<&str> {
        let RouteParams { names, params, path } = self.params.as_ref()?;
        let place = names.iter().position(|known| **known == *name)?;
        Some(params.get(place, self.request.text_at(*path)))
    }

    /// Sends the request to this upstream, whatever the route says. False, and nothing changes, when
    /// there is none of this name.
    pub fn set_upstream(&mut self, name: &str) -> bool {
        let known = self.upstreams.iter().flat_map(|names| names.iter());
        let found = known.enumerate().find(|(_, known)| ***known == *name);
        if let Some((index, _)) = found {
            self.chosen = Some(index);
        }
        found.is_some()
    }

    /// The note under `key`, if some middleware of the chain has made one.
    pub fn note(&self, key: &str) -> Option<&[u8]> {
        self.notes.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_slice())
    }

    /// Every note, in the order made.
    pub fn notes(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.notes.iter().map(|(key, value)| (key.as_str(), value.as_slice()))
    }

    /// Makes or replaces a note for later middleware.
    pub fn set_note(&mut self, key: &str, value: &[u8]) -> Result<(), EditError> {
        let others = self.notes.iter().filter(|(known, _)| known != key);
        let held: usize = others.map(|(key, value)| key.len() + value.len()).sum();
        if key.len() > 256 || held + key.len() + value.len() > NOTE_BYTES_MAX {
            return Err(EditError::TooLarge);
        }
        if let Some((_, old)) = self.notes.iter_mut().find(|(known, _)| known == key) {
            old.clear();
            old.extend_from_slice(value);
        } else if self.notes.len() < NOTES_MAX {
            self.notes.push((key.to_owned(), value.to_vec()));
        } else {
            return Err(EditError::TooLarge);
        }
        Ok(())
    }
}

/// Writes the head of an answer, by what middleware may send.
pub(super) fn write_answer<'a>(
    head: &mut ResponseHead,
    status: u16,
    fields: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    body: &[u8],
) -> Result<(), EditError> {
    head.assign(status);
    head.set_status(status)?;
    fields.into_iter().try_for_each(|(name, value)| head.fields.append(name, value))?;
    if body.len() > REPLY_BYTES_MAX {
        return Err(EditError::Body);
    }
    Ok(())
}
/// The fields of `(u16le name length, u16le value length, name, value)*`; `None` for what is no field, which ends
/// it.
pub(super) fn unpack(mut packed: &[u8]) -> impl Iterator<Item = Option<(&str, &[u8])>> {
    let mut broken = false;
    std::iter::from_fn(move || {
        if packed.is_empty() || broken {
            return None;
        }
        let field = split_field(packed);
        broken = field.is_none();
        let (name, value, rest) = field.unwrap_or_default();
        packed = rest;
        Some((!broken).then_some((name, value)))
    })
}

fn split_field(packed: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let (lengths, rest) = packed.split_first_chunk::<4>()?;
    let [a, b, c, d] = *lengths;
    let (name, rest) = rest.split_at_checked(u16::from_le_bytes([a, b]).into())?;
    let (value, rest) = rest.split_at_checked(u16::from_le_bytes([c, d]).into())?;
    Some((std::str::from_utf8(name).ok()?, value, rest))
}
