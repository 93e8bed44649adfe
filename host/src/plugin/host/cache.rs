//! `zproxy:gateway/cache`.
//!
//! What is to be kept is kept apart from the exchange until its hook has ended well.

use std::sync::Arc;

use super::State;
use super::bindings::zproxy::gateway::cache::{Host, Stored};
use crate::http::Method;
use crate::state::cache::{KEY_BYTES_MAX, Label, NOTE_BYTES_MAX, TAG_BYTES_MAX, TAGS_MAX};

/// Responses that one hook may keep.
const CAPTURES_MAX: usize = 4;

impl State {
    fn takes(&mut self, what: &str, key: &[u8], note: &[u8], tags: &[String]) -> bool {
        let takes = key.len() <= KEY_BYTES_MAX
            && note.len() <= NOTE_BYTES_MAX
            && tags.len() <= TAGS_MAX
            && tags.iter().all(|tag| tag.len() <= TAG_BYTES_MAX);
        if !takes {
            self.violate(
                format_args!("{what}"),
                "key and note have at most 4 KiB, and there are at most 32 tags of 256 bytes",
            );
        }
        takes
    }
}

impl Host for State {
    fn lookup(&mut self, key: Vec<u8>) -> Option<Stored> {
        if !self.takes("cache.lookup", &key, b"", &[]) {
            return None;
        }
        let now = self.now();
        let stored = self.kept.cache().lookup(&key, now)?;
        Some(Stored {
            status: stored.status,
            age_ms: stored.age_ms(now),
            ttl_ms: stored.ttl_ms(now),
            note: stored.note.to_vec(),
            body_bytes: u64::try_from(stored.body.len()).unwrap_or(u64::MAX),
        })
    }

    fn field(&mut self, key: Vec<u8>, name: String) -> Option<Vec<u8>> {
        if !self.takes("cache.field", &key, b"", &[]) {
            return None;
        }
        let stored = self.kept.cache().lookup(&key, self.now())?;
        Some(stored.fields.joined(&name, b", ")?.into_owned())
    }

    fn serve(&mut self, key: Vec<u8>, fields: Vec<(String, Vec<u8>)>) -> bool {
        let what = format_args!("cache.serve");
        if !self.takes("cache.serve", &key, b"", &[]) || self.edited(what).is_none() {
            return false;
        }
        let Some(stored) = self.kept.cache().lookup(&key, self.now()) else { return false };
        if let Err(error) = self.reply.take_stored(&stored, &fields) {
            self.violate(what, error);
        }
        true
    }

    fn store(&mut self, key: Vec<u8>, note: Vec<u8>, ttl_ms: u32, tags: Vec<String>) {
        if !self.takes("cache.store", &key, &note, &tags) {
            return;
        }
        let now = self.now();
        let Some(exchange) = self.exchange.as_deref() else { return };
        let response = &exchange.response;
        // There is no response yet, or one whose body does not come.
        if response.status < 200 || exchange.request.method == Method::Head {
            return;
        }
        if self.captures.len() >= CAPTURES_MAX {
            self.violate(format_args!("cache.store"), "a hook keeps at most 4 responses");
            return;
        }
        let label = Label { key: &key, note: &note, ttl_ms, tags: &tags };
        let head = (response.status, &response.fields);
        self.captures.extend(self.kept.cache().capture(head, label, now));
    }

    fn refresh(&mut self, key: Vec<u8>, note: Vec<u8>, ttl_ms: u32) -> bool {
        if !self.takes("cache.refresh", &key, &note, &[]) {
            return false;
        }
        let Some(exchange) = self.exchange.as_deref() else { return false };
        let cache = Arc::clone(self.kept.cache());
        cache.refresh(&key, &exchange.response.fields, &note, ttl_ms, self.now())
    }

    fn remove(&mut self, key: Vec<u8>) -> bool {
        self.takes("cache.remove", &key, b"", &[]) && self.kept.cache().remove(&key, self.now())
    }

    fn remove_tagged(&mut self, tag: String) -> u32 {
        u32::try_from(self.kept.cache().remove_tagged(&tag)).unwrap_or(u32::MAX)
    }
}
