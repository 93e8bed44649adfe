//! `cache`, in a unit test: whole responses in a map.

use std::collections::HashMap;

use super::host::Host;
use super::message::Response;
use crate::bindings::imports::zproxy::gateway::cache::Stored;
pub(crate) use crate::bindings::imports::zproxy::gateway::cache::{Outcome, Terms, Turn};

/// The limits of `wit/`.
const BYTES_MAX: usize = 4096;
const TAGS_MAX: usize = 32;

/// Responses by key.
pub(crate) type Responses = HashMap<Vec<u8>, Kept>;

#[derive(Debug)]
pub(crate) struct Kept {
    response: Response,
    note: Vec<u8>,
    tags: Vec<String>,
    stored_ms: u64,
    ends_ms: u64,
}

fn takes(host: &mut Host, key: &[u8], note: &[u8], tags: &[String]) -> bool {
    let takes = key.len() <= BYTES_MAX && note.len() <= BYTES_MAX && tags.len() <= TAGS_MAX;
    if !takes {
        host.fail("key and note have at most 4 KiB, and there are at most 32 tags");
    }
    takes
}

fn with_kept<T>(key: &[u8], use_it: impl FnOnce(&mut Host, Kept) -> (Kept, T)) -> Option<T> {
    Host::with(|host| {
        if !takes(host, key, b"", &[]) {
            return None;
        }
        let kept = host.cache.remove(key).filter(|kept| host.unix_ms < kept.ends_ms)?;
        let (kept, result) = use_it(host, kept);
        host.cache.insert(key.to_vec(), kept);
        Some(result)
    })
}

pub(crate) fn lookup(key: &[u8]) -> Option<Stored> {
    with_kept(key, |host, kept| {
        let stored = Stored {
            status: kept.response.status,
            age_ms: host.unix_ms.saturating_sub(kept.stored_ms),
            ttl_ms: kept.ends_ms.saturating_sub(host.unix_ms),
            note: kept.note.clone(),
            body_bytes: kept.response.body.len() as u64,
        };
        (kept, stored)
    })
}

pub(crate) fn field(key: &[u8], name: &str) -> Option<Vec<u8>> {
    with_kept(key, |_, kept| {
        let value = kept.response.head.joined(name);
        (kept, value)
    })?
}

/// Makes what is stored under `key` the reply, as `shape` makes it.
fn serve_as(
    key: &[u8],
    fields: &[(String, Vec<u8>)],
    shape: impl FnOnce(&mut Response) -> bool,
) -> bool {
    let served = with_kept(key, |host, kept| {
        let mut response = kept.response.clone();
        let fits = response.status != 0 && shape(&mut response);
        if fits {
            fields.iter().for_each(|(name, value)| response.head.set(name, value));
            host.reply = Some(response);
        }
        (kept, fits)
    });
    served == Some(true)
}

pub(crate) fn serve(key: &[u8], fields: &[(String, Vec<u8>)]) -> bool {
    serve_as(key, fields, |_| true)
}

pub(crate) fn serve_not_modified(key: &[u8], fields: &[(String, Vec<u8>)]) -> bool {
    serve_as(key, fields, |response| {
        response.status = 304;
        response.body.clear();
        response.head.0.retain(|(name, _)| {
            let name = name.to_ascii_lowercase();
            let kept = ["content-location", "content-security-policy"];
            !name.starts_with("content-") || kept.contains(&&*name)
        });
        true
    })
}

pub(crate) fn serve_part(key: &[u8], first: u64, last: u64, fields: &[(String, Vec<u8>)]) -> bool {
    serve_as(key, fields, |response| {
        let whole = std::mem::take(&mut response.body);
        let (first, last) = (usize::try_from(first), usize::try_from(last));
        let (Ok(first), Ok(last)) = (first, last) else { return false };
        let Some(part) = whole.get(first..=last) else { return false };
        response.status = 206;
        response.body = part.to_vec();
        let range = format!("bytes {first}-{last}/{}", whole.len());
        response.head.set("content-range", range.as_bytes());
        true
    })
}

pub(crate) fn store(key: &[u8], note: &[u8], ttl_ms: u32, tags: &[String]) {
    let (note, tags, without) = (note.to_vec(), tags.to_vec(), Vec::new());
    keep(key, &Terms { note, ttl_ms, tags, body_bytes_max: u64::MAX, without });
}

pub(crate) fn keep(key: &[u8], terms: &Terms) {
    let Terms { note, ttl_ms, tags, body_bytes_max, without } = terms;
    Host::with(|host| {
        let fits = host.response.body.len() as u64 <= *body_bytes_max;
        if takes(host, key, note, tags) && fits && host.request.method != "HEAD" {
            let mut response = host.response.clone();
            without.iter().for_each(|name| response.head.remove(name));
            let kept = Kept {
                response,
                note: note.clone(),
                tags: tags.clone(),
                stored_ms: host.unix_ms,
                ends_ms: host.unix_ms.saturating_add((*ttl_ms).into()),
            };
            host.cache.insert(key.to_vec(), kept);
        }
    });
}

pub(crate) fn mark(key: &[u8], note: &[u8], ttl_ms: u32) {
    Host::with(|host| {
        if takes(host, key, note, &[]) {
            let kept = Kept {
                response: Response::status(0),
                note: note.to_vec(),
                tags: Vec::new(),
                stored_ms: host.unix_ms,
                ends_ms: host.unix_ms.saturating_add(ttl_ms.into()),
            };
            host.cache.insert(key.to_vec(), kept);
        }
    });
}

/// There is one request at a time.
pub(crate) fn claim(key: &[u8], _wait_ms: u32) -> Turn {
    Host::with(|host| takes(host, key, b"", &[]));
    Turn::Fetch
}

/// What would be sent on is nobody's to answer here.
pub(crate) fn refetch(key: &[u8]) -> bool {
    Host::with(|host| takes(host, key, b"", &[]));
    true
}

/// Nobody asks.
pub(crate) fn count(_: Outcome) {}

/// Here every hook is called; a test may ask whether it need not have been.
pub(crate) fn repeat(ms: u32, _age: u64, _: Outcome) {
    Host::with(|host| host.repeat_ms = Some(ms));
}

pub(crate) fn refresh(key: &[u8], note: &[u8], ttl_ms: u32) -> bool {
    let refreshed = with_kept(key, |host, mut kept| {
        for (name, _) in &host.response.head.0 {
            kept.response.head.remove(name);
        }
        kept.response.head.0.extend(host.response.head.0.iter().cloned());
        kept.note = note.to_vec();
        kept.stored_ms = host.unix_ms;
        kept.ends_ms = host.unix_ms.saturating_add(ttl_ms.into());
        (kept, ())
    });
    refreshed.is_some()
}

pub(crate) fn remove(key: &[u8]) -> bool {
    let there = lookup(key).is_some();
    Host::with(|host| host.cache.remove(key));
    there
}

pub(crate) fn remove_tagged(tag: &str) -> u32 {
    Host::with(|host| {
        let before = host.cache.len();
        host.cache.retain(|_, kept| !kept.tags.iter().any(|one| one == tag));
        u32::try_from(before - host.cache.len()).unwrap_or(u32::MAX)
    })
}
