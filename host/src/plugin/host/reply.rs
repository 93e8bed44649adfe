//! `zproxy:gateway/reply`.
//!
//! A reply is kept apart from the exchange until its hook has ended well, so that a hook that
//! fails after `send` has not destroyed the response that it was shown.

use bytes::Bytes;

use super::State;
use super::bindings::zproxy::gateway::reply::Host;
use crate::http::EditError;
use crate::http::ResponseHead;
use crate::plugin::exchange::Exchange;
use crate::plugin::exchange::write_answer;
use crate::state::cache::{Follow, Stored};

/// What `send` was given.
#[derive(Default)]
pub(in crate::plugin) struct Reply {
    head: ResponseHead,
    body: Option<Bytes>,
    /// Its body, when that is still on its way.
    coming: Option<Follow>,
}

/// How much of a stored response an answer is made of.
#[derive(Clone, Copy)]
pub(super) enum From {
    /// All of it.
    All,
    /// Its head, as a 304.
    Head,
    /// These bytes of its body, as a 206.
    Part(u64, u64),
}

/// The bytes `first` to `last`, if there are such.
fn part(whole: &Bytes, first: u64, last: u64) -> Option<Bytes> {
    let (first, last) = (usize::try_from(first).ok()?, usize::try_from(last).ok()?);
    (first <= last && last < whole.len()).then(|| whole.slice(first..=last))
}

fn is_about_body(name: &[u8]) -> bool {
    let starts = name.get(..8).is_some_and(|start| start.eq_ignore_ascii_case(b"content-"));
    let kept = [&b"content-location"[..], b"content-security-policy"];
    starts && !kept.iter().any(|kept| name.eq_ignore_ascii_case(kept))
}

impl Reply {
    fn take(
        &mut self,
        status: u16,
        headers: &[(String, Vec<u8>)],
        body: Vec<u8>,
    ) -> Result<(), EditError> {
        self.body = None;
        self.coming = None;
        let fields = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        write_answer(&mut self.head, status, fields, &body)?;
        self.body = Some(body.into());
        Ok(())
    }

    /// Takes a stored response, whose body is shared and not copied, with these fields set on it. False
    /// when there is no such part of it.
    pub(super) fn take_stored(
        &mut self,
        stored: &Stored,
        from: From,
        fields: &[(String, Vec<u8>)],
    ) -> Result<bool, EditError> {
        if stored.status == 0 {
            return Ok(false);
        }
        let mut coming = None;
        let (body, length) = match (from, stored.body()) {
            (From::Head, _) => (Bytes::new(), 0),
            (From::All, Some(whole)) => (whole.clone(), whole.len()),
            (From::All, None) => {
                coming = stored.follow();
                if coming.is_none() {
                    return Ok(false);
                }
                (Bytes::new(), 0)
            }
            (From::Part(first, last), Some(whole)) => match part(whole, first, last) {
                Some(part) => (part, whole.len()),
                None => return Ok(false),
            },
            (From::Part(..), None) => return Ok(false),
        };
        self.body = None;
        self.head.assign(match from {
            From::All => stored.status,
            From::Head => 304,
            From::Part(..) => 206,
        });
        for (name, value) in stored.fields.iter() {
            // RFC 9110 §15.4.5: a 304 says of the body only what tells stored ones apart.
            if !matches!(from, From::Head) || !is_about_body(name) {
                // Names of fields are ASCII.
                self.head.fields.push(std::str::from_utf8(name).unwrap_or_default(), value);
            }
        }
        if let From::Part(first, last) = from {
            let range = format!("bytes {first}-{last}/{length}");
            self.head.fields.set("content-range", range.as_bytes())?;
        }
        fields.iter().try_for_each(|(name, value)| self.head.fields.set(name, value))?;
        self.body = Some(body);
        self.coming = coming;
        Ok(true)
    }

    /// Whether there is one.
    pub(in crate::plugin) fn is_made(&self) -> bool {
        self.body.is_some()
    }

    /// Makes the reply, if there is one, the exchange's response.
    pub(in crate::plugin) fn put_into(&mut self, exchange: &mut Exchange) {
        let Some(body) = self.body.take() else { return };
        exchange.put_answer(&mut self.head, body);
        exchange.coming = self.coming.take();
        self.head.clear();
    }

    /// Forgets a reply that the hook did not use.
    pub(in crate::plugin) fn forget(&mut self) {
        self.coming = None;
        if self.body.take().is_some() {
            self.head.clear();
        }
    }
}

impl Host for State {
    fn send(&mut self, status: u16, headers: Vec<(String, Vec<u8>)>, body: Vec<u8>) {
        let what = format_args!("reply.send({status})");
        if self.edited(what).is_none() {
            return;
        }
        if let Err(error) = self.reply.take(status, &headers, body) {
            self.violate(what, error);
        }
    }
}
