//! Responses that the gateway keeps for all workers; their bodies never enter wasm.
//!
//! A capability: the operator writes `"allow": {"cache": true}`. What may be kept, and for how long
//! (RFC 9111), is the plugin's to decide.
//!
//! ```
//! use std::time::Duration;
//! use zproxy_sdk::{Flow, Middleware, Request, Response, cache, export};
//!
//! #[derive(serde::Deserialize)]
//! struct Pages {}
//!
//! impl Middleware for Pages {
//!     fn on_request(&self, request: &mut Request) -> Flow {
//!         let path = request.header_bytes(":path").unwrap_or_default();
//!         match cache::serve(&path, &[("x-cache", b"hit")]) {
//!             Some(reply) => Flow::Reply(reply),
//!             None => {
//!                 zproxy_sdk::context::set("key", &path);
//!                 Flow::Next
//!             }
//!         }
//!     }
//!
//!     fn on_response(&self, response: &mut Response) {
//!         if let (200, Some(key)) = (response.status(), zproxy_sdk::context::get("key")) {
//!             cache::store(key, b"", Duration::from_secs(60), &["pages"]);
//!         }
//!     }
//! }
//!
//! export!(Pages);
//! # fn main() {}
//! ```
//!
//! Keys and notes are up to 4 KiB, more make the hook fail. When the memory that was granted is full,
//! responses that were used once or not for longest are forgotten.

use std::time::Duration;

use crate::{Reply, host, milliseconds};

/// A stored response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its status.
    pub status: u16,
    /// Since it was stored or refreshed.
    pub age: Duration,
    /// Until it is forgotten.
    pub ttl: Duration,
    /// What [`store`] was given.
    pub note: Vec<u8>,
    /// Length of its body; `u64::MAX` while that is still arriving.
    pub body_bytes: u64,
}

/// On which terms [`keep`] keeps a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// What the plugin wants to remember of it.
    pub note: Vec<u8>,
    /// How long it is kept.
    pub ttl: Duration,
    /// Names for [`remove_tagged`].
    pub tags: Vec<String>,
    /// The largest body, when that is less than what the operator grants.
    pub body_bytes_max: Option<u64>,
    /// Names of fields that are not kept.
    pub without: Vec<String>,
}

/// Who fetches what is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// This request; others wait for it.
    Fetch,
    /// Another request: return [`Flow::Next`](crate::Flow::Next), and the hook is called once more.
    Wait,
    /// Everybody for themselves.
    Alone,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered with what is stored and fresh.
    Hit,
    /// Answered with what another request was just fetching.
    Collapsed,
    /// Answered with what is stored and no longer fresh.
    Stale,
    /// Answered with what is stored, after the upstream had said that it is still good.
    Revalidated,
    /// What was stored was no longer good.
    Expired,
    /// Nothing was stored that fits.
    Miss,
    /// Not the cache's business.
    Bypass,
}

impl From<Outcome> for host::cache::Outcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Hit => Self::Hit,
            Outcome::Collapsed => Self::Collapsed,
            Outcome::Stale => Self::Stale,
            Outcome::Revalidated => Self::Revalidated,
            Outcome::Expired => Self::Expired,
            Outcome::Miss => Self::Miss,
            Outcome::Bypass => Self::Bypass,
        }
    }
}

/// What is stored under `key`.
#[must_use]
pub fn lookup(key: impl AsRef<[u8]>) -> Option<Stored> {
    let stored = host::cache::lookup(key.as_ref())?;
    Some(Stored {
        status: stored.status,
        age: Duration::from_millis(stored.age_ms),
        ttl: Duration::from_millis(stored.ttl_ms),
        note: stored.note,
        body_bytes: stored.body_bytes,
    })
}

/// A field of what is stored under `key`, all its values joined with `, `.
#[must_use]
pub fn field(key: impl AsRef<[u8]>, name: &str) -> Option<Vec<u8>> {
    host::cache::field(key.as_ref(), name)
}

/// What is stored under `key` as the answer of this hook, with these fields set on it: to be returned at
/// once, and not to be changed. `None` when there is nothing.
#[must_use]
pub fn serve(key: impl AsRef<[u8]>, fields: &[(&str, &[u8])]) -> Option<Reply> {
    host::cache::serve(key.as_ref(), &owned(fields)).then(Reply::sent)
}

/// In `on_request`, after [`serve`]: for so long the gateway may give this answer again without calling this hook,
/// to whoever asks with the same [`request_fields`](crate::Middleware::request_fields): for a hook that has
/// decided by nothing else, and done nothing else. It does so as long as all that this call has looked up is still what
/// is stored there, sets `age` to `age` more than what is served has been stored for, and counts
/// `outcome`, as [`count`] does.
pub fn repeat(time: Duration, age: Duration, outcome: Outcome) {
    host::cache::repeat(milliseconds(time), age.as_secs(), outcome.into());
}

/// As [`serve`], with the status 304 and without body.
#[must_use]
pub fn serve_not_modified(key: impl AsRef<[u8]>, fields: &[(&str, &[u8])]) -> Option<Reply> {
    host::cache::serve_not_modified(key.as_ref(), &owned(fields)).then(Reply::sent)
}

/// As [`serve`], with the status 206 and the bytes `first` to `last` of the body. `None` when it has none.
#[must_use]
pub fn serve_part(
    key: impl AsRef<[u8]>,
    first: u64,
    last: u64,
    fields: &[(&str, &[u8])],
) -> Option<Reply> {
    host::cache::serve_part(key.as_ref(), first, last, &owned(fields)).then(Reply::sent)
}

fn owned(fields: &[(&str, &[u8])]) -> Vec<(String, Vec<u8>)> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect()
}

/// In `on_response`: as [`store`], on these terms.
pub fn keep(key: impl AsRef<[u8]>, terms: Terms) {
    let Terms { note, ttl, tags, body_bytes_max, without } = terms;
    let (ttl_ms, body_bytes_max) = (milliseconds(ttl), body_bytes_max.unwrap_or(u64::MAX));
    let terms = host::cache::Terms { note, ttl_ms, tags, body_bytes_max, without };
    host::cache::keep(key.as_ref(), &terms);
}

/// Keeps a note alone: [`lookup`] finds it with the status 0, and [`serve`] does not.
pub fn mark(key: impl AsRef<[u8]>, note: impl AsRef<[u8]>, ttl: Duration) {
    host::cache::mark(key.as_ref(), note.as_ref(), milliseconds(ttl));
}

/// In `on_request`: whose turn it is to fetch what belongs under `key`, when others have to be waited for
/// no longer than `wait` altogether.
#[must_use]
pub fn claim(key: impl AsRef<[u8]>, wait: Duration) -> Turn {
    match host::cache::claim(key.as_ref(), milliseconds(wait)) {
        host::cache::Turn::Fetch => Turn::Fetch,
        host::cache::Turn::Wait => Turn::Wait,
        host::cache::Turn::Alone => Turn::Alone,
    }
}

/// In `on_request`, before a reply: also sends the request on, when that has been sent. Its response meets
/// `on_response`. False when one is on its way for `key`.
pub fn refetch(key: impl AsRef<[u8]>) -> bool {
    host::cache::refetch(key.as_ref())
}

/// Counts what became of this request, for metrics and access log.
pub fn count(outcome: Outcome) {
    host::cache::count(outcome.into());
}

/// In `on_response`: keeps this response under `key` once it has arrived in whole, with the status and
/// fields that it has now. One that is cut off, too large, replaced, or the answer to a `HEAD` is not kept.
pub fn store(key: impl AsRef<[u8]>, note: impl AsRef<[u8]>, ttl: Duration, tags: &[&str]) {
    let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
    host::cache::store(key.as_ref(), note.as_ref(), milliseconds(ttl), &tags);
}

/// In `on_response`: takes the fields of this response, a 304, over into what is stored under `key`,
/// which is young again. Whether there is such a thing.
pub fn refresh(key: impl AsRef<[u8]>, note: impl AsRef<[u8]>, ttl: Duration) -> bool {
    host::cache::refresh(key.as_ref(), note.as_ref(), milliseconds(ttl))
}

/// Forgets what is stored under `key`. Whether there was something.
pub fn remove(key: impl AsRef<[u8]>) -> bool {
    host::cache::remove(key.as_ref())
}

/// Forgets everything that was stored with `tag`. How much that was.
pub fn remove_tagged(tag: &str) -> u32 {
    host::cache::remove_tagged(tag)
}
