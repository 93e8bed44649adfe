//! The keys of an issuer that publishes them under a URL (RFC 7517 §5).
//!
//! One instance fetches for all workers: what came is kept in `kv`, where every instance sees within a
//! second that there is something new. Who fetches is who gets hold of an entry that ends when the next
//! fetch is due:
//!
//! ```text
//! due:  none ─► "busy" while somebody fetches ─► "good" for `jwks_refresh_seconds`
//!                                           └──► "bad" for 1, 2, 4 … 60 s: the keys that are there stay
//! ```
//!
//! A token with a `kid` that is not known has them fetched at once, no more than once a minute, and waits for
//! that. So do requests that come before the first keys.

use std::cell::Cell;
use std::time::Duration;

use zproxy_sdk::{callout, kv, random, warn};

use crate::keys::{Entry, take_set};
use crate::token::Algorithm;

/// Between two fetches because of a key that is not known. Whoever makes names up must not make the
/// gateway ask for each.
const EARLY_PAUSE: Duration = Duration::from_secs(60);

/// The longest pause after failures.
const PAUSE_MAX_MS: u32 = 60_000;

/// Where an issuer's keys come from.
#[derive(Debug)]
pub(crate) struct Remote {
    url: String,
    refresh: Duration,
    timeout_ms: u32,
    /// What the operator allows, if that was said.
    wanted: Option<Vec<Algorithm>>,
    /// Tells this URL from others in `kv`.
    name: String,
    /// Of the set that this instance has taken in.
    version: Cell<Option<u64>>,
}

const BUSY: &[u8] = b"busy";
const GOOD: &[u8] = b"good";
const BAD: &[u8] = b"bad";

impl Remote {
    pub(crate) fn new(
        url: String,
        refresh: Duration,
        timeout_ms: u32,
        wanted: Option<Vec<Algorithm>>,
    ) -> Self {
        let name = format!("{:016x}", digest(&url));
        Self { url, refresh, timeout_ms, wanted, name, version: Cell::new(None) }
    }

    /// Whether there are keys; old ones are better than none.
    pub(crate) fn is_ready(&self) -> bool {
        self.version.get().is_some()
    }

    /// To be called once a second: fetches when that is due. New keys, if there are any.
    pub(crate) fn look_after(&self) -> Option<Vec<Entry>> {
        if self.has_lease() { self.fetch() } else { self.take_in() }
    }

    /// Whether the last attempt to fetch has failed.
    pub(crate) fn has_failed(&self) -> bool {
        kv::get(self.key("failures")).is_some()
    }

    /// Whether nobody fetches, and nobody need not.
    pub(crate) fn is_due(&self) -> bool {
        kv::get(self.key("due")).is_none()
    }

    /// Fetches keys for a request that comes before any, also while another instance is at it. Not while the
    /// issuer is given a pause.
    pub(crate) fn make_ready(&self) -> Option<Vec<Entry>> {
        if !self.has_lease() && kv::get(self.key("due")).is_some_and(|due| due.value == BAD) {
            return None;
        }
        self.fetch()
    }

    /// Fetches keys for a request whose token names one that is not here.
    pub(crate) fn refresh_early(&self) -> Option<Vec<Entry>> {
        let key = self.key("early");
        if kv::compare_and_swap(key, None, b"", Some(EARLY_PAUSE)).is_err() {
            return None;
        }
        self.fetch()
    }

    fn key(&self, what: &str) -> String {
        format!("{what}:{}", self.name)
    }

    /// Whether it is this instance's turn to fetch.
    fn has_lease(&self) -> bool {
        // Whoever has it may be cut off.
        let time = Duration::from_millis(u64::from(self.timeout_ms) + 5000);
        kv::compare_and_swap(self.key("due"), None, BUSY, Some(time)).is_ok()
    }

    /// Takes in what somebody has fetched, unless that has been done.
    pub(crate) fn take_in(&self) -> Option<Vec<Entry>> {
        let set = kv::get(self.key("set"))?;
        if self.version.get() == Some(set.version) {
            return None;
        }
        // Bad or not: it need not be looked at again.
        self.version.set(Some(set.version));
        take_set(&set.value, self.wanted.as_deref(), true).ok()
    }

    fn fetch(&self) -> Option<Vec<Entry>> {
        let fetched = self.ask().and_then(|set| {
            let entries = take_set(&set, self.wanted.as_deref(), true)?;
            let known = kv::get(self.key("set"));
            let version = match known.filter(|known| known.value == set) {
                Some(known) => known.version,
                None => kv::set(self.key("set"), &set, None).map_err(|error| error.to_string())?,
            };
            Ok((entries, version))
        });
        match fetched {
            Ok((entries, version)) => {
                self.pause(GOOD, self.refresh);
                kv::delete(self.key("failures"));
                (self.version.replace(Some(version)) != Some(version)).then_some(entries)
            }
            Err(reason) => {
                let failures = kv::get(self.key("failures"));
                let failures = failures.and_then(|entry| entry.value.first().copied()).unwrap_or(0);
                let pause = 1000_u32.checked_shl(failures.into()).unwrap_or(u32::MAX);
                // Gateways that lost their issuer together should not come back together.
                let pause = pause.min(PAUSE_MAX_MS);
                let chance = u32::try_from(random::number() % 256).unwrap_or(0);
                let pause = pause - pause / 4 * chance / 256;
                self.pause(BAD, Duration::from_millis(pause.into()));
                // An hour later it is another failure.
                let kept = Some(Duration::from_secs(3600));
                let _ = kv::set(self.key("failures"), [failures.saturating_add(1).min(16)], kept);
                let stays =
                    if self.is_ready() { "those that are there stay" } else { "there are none" };
                warn!(
                    "the keys of {} were not fetched: {reason}; {stays}, the next attempt is in {pause} ms",
                    self.url
                );
                None
            }
        }
    }

    fn ask(&self) -> Result<Vec<u8>, String> {
        let request = callout::get(&self.url).header("accept", "application/json");
        let answer =
            request.timeout_ms(self.timeout_ms).send().map_err(|error| error.to_string())?;
        match answer.status() {
            200 => Ok(answer.body().to_vec()),
            status => Err(format!("the answer has status {status}")),
        }
    }

    /// Says what came of a fetch, and that nobody need fetch for so long.
    fn pause(&self, state: &[u8], pause: Duration) {
        // Short values are always taken.
        let _ = kv::set(self.key("due"), state, Some(pause));
    }
}

/// FNV-1a: tells the few URLs of one operator apart.
fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
