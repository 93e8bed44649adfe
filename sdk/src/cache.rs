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
    /// Length of its body.
    pub body_bytes: u64,
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
    let fields: Vec<_> =
        fields.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
    host::cache::serve(key.as_ref(), &fields).then(Reply::sent)
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
