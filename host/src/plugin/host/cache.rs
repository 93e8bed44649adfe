//! `zproxy:gateway/cache`.
//!
//! What is to be kept is kept apart from the exchange until its hook has ended well.

use std::sync::Arc;

use super::State;
use super::bindings::zproxy::gateway::cache::{Host, Outcome, Stored, Terms, Turn};
use super::reply::From;
use crate::http::Method;
use crate::plugin::exchange::{LookedUp, Waiting};
use crate::plugin::repeat::Wish;
use crate::state::cache::{
    self, Cache, KEY_BYTES_MAX, Label, NOTE_BYTES_MAX, TAG_BYTES_MAX, TAGS_MAX,
};

/// Names of fields that are left out, and bytes of all of them.
const WITHOUT_MAX: usize = 64;
const WITHOUT_BYTES_MAX: usize = 4096;

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

    /// What this exchange has looked up last, if that was under `key`. It is there for as long as the
    /// exchange is, whatever becomes of it in the store.
    fn looked_up(&self, key: &[u8]) -> Option<Arc<cache::Stored>> {
        let last = self.exchange.as_deref()?.looked_up.as_ref()?;
        let same = last.key == key && Arc::ptr_eq(&last.cache, self.kept.cache());
        same.then(|| Arc::clone(&last.stored))
    }

    /// Whether there is something else under `key` than what this exchange has looked up.
    fn has_changed(&self, key: &[u8]) -> bool {
        let now = self.kept.cache().lookup(key, self.now());
        match (now, self.looked_up(key)) {
            (Some(now), Some(seen)) => !Arc::ptr_eq(&now, &seen),
            (now, None) => now.is_some(),
            (None, Some(_)) => false,
        }
    }

    fn find(&self, key: &[u8]) -> Option<Arc<cache::Stored>> {
        self.looked_up(key).or_else(|| self.kept.cache().lookup(key, self.now()))
    }

    /// Makes what is stored under `key`, or a part of it, the answer of this hook.
    fn answer_from(
        &mut self,
        what: &str,
        key: &[u8],
        from: From,
        fields: &[(String, Vec<u8>)],
    ) -> bool {
        if !self.takes(what, key, b"", &[]) || self.edited(format_args!("{what}")).is_none() {
            return false;
        }
        let Some(stored) = self.find(key) else { return false };
        match self.reply.take_stored(&stored, from, fields) {
            Ok(taken) => {
                let whole = taken && matches!(from, From::All) && stored.body().is_some();
                self.course.serves(whole.then_some(stored));
                taken
            }
            Err(error) => {
                self.violate(format_args!("{what}"), error);
                true
            }
        }
    }

    /// Keeps the response that is there, if it is one that has a body.
    fn capture(&mut self, what: &str, key: &[u8], terms: &Terms) {
        let Terms { note, ttl_ms, tags, body_bytes_max, without } = terms;
        if !self.takes(what, key, note, tags) {
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
            self.violate(format_args!("{what}"), "a hook keeps at most 4 responses");
            return;
        }
        let body_bytes_max = usize::try_from(*body_bytes_max).unwrap_or(usize::MAX);
        // It may say what was true before somebody had it removed.
        let since = exchange.looked_since.unwrap_or_else(Cache::begun);
        let label = Label { key, note, ttl_ms: *ttl_ms, tags, body_bytes_max, without, since };
        let head = (response.status, &response.fields);
        self.captures.extend(self.kept.cache().capture(head, label, now));
    }
}

impl std::convert::From<Outcome> for cache::Outcome {
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

impl Host for State {
    fn lookup(&mut self, key: Vec<u8>) -> Option<Stored> {
        if !self.takes("cache.lookup", &key, b"", &[]) {
            return None;
        }
        let now = self.now();
        if let Some(exchange) = self.exchange.as_deref_mut() {
            exchange.looked_since.get_or_insert_with(Cache::begun);
        }
        let found = self.kept.cache().lookup(&key, now).or_else(|| self.looked_up(&key));
        let Some(stored) = found else {
            self.course.found_nothing();
            return None;
        };
        if let Some(exchange) = self.exchange.as_deref_mut() {
            let cache = Arc::clone(self.kept.cache());
            let new = LookedUp { cache, key, stored: Arc::clone(&stored) };
            self.course.found(exchange.looked_up.replace(new));
        }
        Some(Stored {
            status: stored.status,
            age_ms: stored.age_ms(now),
            ttl_ms: stored.ttl_ms(now),
            note: stored.note.to_vec(),
            body_bytes: stored.body().map_or(u64::MAX, |body| body.len() as u64),
        })
    }

    fn field(&mut self, key: Vec<u8>, name: String) -> Option<Vec<u8>> {
        if !self.takes("cache.field", &key, b"", &[]) {
            return None;
        }
        let stored = self.find(&key)?;
        Some(stored.fields.joined(&name, b", ")?.into_owned())
    }

    fn serve(&mut self, key: Vec<u8>, fields: Vec<(String, Vec<u8>)>) -> bool {
        self.answer_from("cache.serve", &key, From::All, &fields)
    }

    fn repeat(&mut self, ms: u32, age: u64, outcome: Outcome) {
        let until_us = self.passed().monotonic_us.saturating_add(u64::from(ms) * 1000);
        self.course.wish(Wish { until_us, age, outcome: outcome.into() });
    }

    fn serve_not_modified(&mut self, key: Vec<u8>, fields: Vec<(String, Vec<u8>)>) -> bool {
        self.answer_from("cache.serve-not-modified", &key, From::Head, &fields)
    }

    fn serve_part(
        &mut self,
        key: Vec<u8>,
        first: u64,
        last: u64,
        fields: Vec<(String, Vec<u8>)>,
    ) -> bool {
        self.answer_from("cache.serve-part", &key, From::Part(first, last), &fields)
    }

    fn store(&mut self, key: Vec<u8>, note: Vec<u8>, ttl_ms: u32, tags: Vec<String>) {
        let (body_bytes_max, without) = (u64::MAX, Vec::new());
        self.capture("cache.store", &key, &Terms { note, ttl_ms, tags, body_bytes_max, without });
    }

    fn keep(&mut self, key: Vec<u8>, terms: Terms) {
        let bytes: usize = terms.without.iter().map(String::len).sum();
        if terms.without.len() > WITHOUT_MAX || bytes > WITHOUT_BYTES_MAX {
            self.violate(format_args!("cache.keep"), "at most 64 fields may be left out");
            return;
        }
        self.capture("cache.keep", &key, &terms);
    }

    fn mark(&mut self, key: Vec<u8>, note: Vec<u8>, ttl_ms: u32) {
        if self.takes("cache.mark", &key, &note, &[]) {
            self.kept.cache().mark(&key, &note, ttl_ms, self.now());
        }
    }

    fn claim(&mut self, key: Vec<u8>, wait_ms: u32) -> Turn {
        if !self.takes("cache.claim", &key, b"", &[]) {
            return Turn::Alone;
        }
        if self.fetches.len() >= CAPTURES_MAX {
            self.violate(format_args!("cache.claim"), "a hook claims at most 4 responses");
            return Turn::Alone;
        }
        let now_us = self.now().monotonic_us;
        let Some(exchange) = self.exchange.as_deref_mut() else { return Turn::Alone };
        // It is here already.
        if exchange.response.status != 0 {
            return Turn::Alone;
        }
        exchange.looked_since.get_or_insert_with(Cache::begun);
        let flight = match self.kept.cache().claim(&key) {
            // Somebody has fetched it since this hook has looked: that is to be looked at.
            cache::Turn::Mine(fetch) if self.has_changed(&key) => fetch.give_up(),
            cache::Turn::Mine(fetch) => {
                self.fetches.push(fetch);
                return Turn::Fetch;
            }
            cache::Turn::Wait(flight) => flight,
        };
        let until = now_us.saturating_add(u64::from(wait_ms) * 1000);
        let until = match self.exchange.as_deref_mut() {
            Some(exchange) => *exchange.waits_until_us.get_or_insert(until),
            None => now_us,
        };
        let rest_us = until.saturating_sub(now_us);
        if rest_us == 0 {
            return Turn::Alone;
        }
        self.waiting = Some(Waiting { flight, link: 0, rest_us });
        Turn::Wait
    }

    fn refetch(&mut self, key: Vec<u8>) -> bool {
        let is_answered = self.seen().is_none_or(|exchange| exchange.response.status != 0);
        if !self.takes("cache.refetch", &key, b"", &[]) || is_answered {
            return false;
        }
        match self.kept.cache().claim(&key) {
            cache::Turn::Mine(fetch) if !self.has_changed(&key) => self.refetch = Some(fetch),
            _ => return false,
        }
        true
    }

    fn count(&mut self, outcome: Outcome) {
        let outcome = outcome.into();
        self.kept.cache().count(outcome);
        if let Some(exchange) = self.exchange.as_deref_mut() {
            exchange.cached = Some(outcome);
        }
    }

    fn refresh(&mut self, key: Vec<u8>, note: Vec<u8>, ttl_ms: u32) -> bool {
        if !self.takes("cache.refresh", &key, &note, &[]) {
            return false;
        }
        let (Some(old), now) = (self.find(&key), self.now()) else { return false };
        let cache = Arc::clone(self.kept.cache());
        let Some(exchange) = self.exchange.as_deref_mut() else { return false };
        let fields = &exchange.response.fields;
        let new = cache.refresh(&key, &old, fields, (&note, ttl_ms), now);
        let Some((stored, is_there)) = new else { return false };
        exchange.looked_up = Some(LookedUp { cache, key, stored });
        is_there
    }

    fn remove(&mut self, key: Vec<u8>) -> bool {
        if !self.takes("cache.remove", &key, b"", &[]) {
            return false;
        }
        if let Some(exchange) = self.exchange.as_deref_mut() {
            exchange.looked_up.take_if(|last| last.key == key);
        }
        self.kept.cache().remove(&key, self.now())
    }

    fn remove_tagged(&mut self, tag: String) -> u32 {
        u32::try_from(self.kept.cache().remove_tagged(&tag)).unwrap_or(u32::MAX)
    }
}
