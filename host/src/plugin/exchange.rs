//! One request and its response, as middleware sees them.
//!
//! Not here: bytes of bodies, and sockets (`proxy`, `connection`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::instance::FailureKind;
use crate::http::{EditError, RequestHead, RequestMark, ResponseHead, ResponseMark};
use crate::state::cache::Capture;

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
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Name of the route.
    pub route: Option<Arc<str>>,
    /// Plugins that failed, and how: for the access log.
    pub(crate) failed: Vec<(Arc<str>, FailureKind)>,
    /// Who keeps the response that is there, with its body when that arrives.
    pub(crate) captures: Vec<Capture>,
    /// What hooks took, of those that were timed, which is a sample: for the access log.
    pub(crate) timed: Vec<(Arc<str>, Duration)>,
    notes: Vec<(String, Vec<u8>)>,
    /// How often an answer was put in place: tells a mark on one response from one on another.
    answers: u32,
}

/// A moment in the life of an [`Exchange`] that its heads can go back to.
#[derive(Clone, Copy, Debug)]
pub struct ExchangeMark {
    request: RequestMark,
    response: ResponseMark,
    answers: u32,
    body: Option<usize>,
}

impl Exchange {
    /// Remembers this moment.
    pub fn mark(&self) -> ExchangeMark {
        ExchangeMark {
            request: self.request.mark(),
            response: self.response.mark(),
            answers: self.answers,
            body: self.body.as_ref().map(Bytes::len),
        }
    }

    /// Undoes every edit of either head since `mark`. False when that is impossible, because
    /// [`reply`](Self::reply) has replaced the response or its body since.
    ///
    /// Notes stay: no peer ever sees them.
    pub fn roll_back(&mut self, mark: &ExchangeMark) -> bool {
        self.request.roll_back(&mark.request)
            && self.answers == mark.answers
            && self.response.roll_back(&mark.response)
            && self.body.as_ref().map(Bytes::len) == mark.body
    }

    /// Forgets the exchange, keeps the memory.
    pub fn clear(&mut self) {
        self.request.clear();
        self.response.clear();
        self.body = None;
        self.client_ip = None;
        self.scheme = "http";
        self.route = None;
        self.failed.clear();
        self.captures.clear();
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

    /// Makes `head` and `body` the response. What it takes the place of is in `head` then.
    pub(super) fn put_answer(&mut self, head: &mut ResponseHead, body: Bytes) {
        std::mem::swap(&mut self.response, head);
        self.body = Some(body);
        // Nobody reads the body of the response that was there.
        self.captures.clear();
        self.answers = self.answers.wrapping_add(1);
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
