//! Values that all workers see.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Now;
use super::store::{Slot, Store};
use super::table::heap_bytes;

/// The longest value.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;

/// A value and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Arc<[u8]>,
    /// No two entries of a plugin ever have the same one.
    pub version: u64,
}

/// Why a value was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The entry is not as it was expected to be.
    Conflict,
    /// The value is too long.
    TooLarge,
}

struct Kept {
    entry: Entry,
    /// On the monotonic clock, in microseconds.
    ends_us: u64,
}

/// The values of one plugin.
#[derive(Default)]
pub struct Kv {
    store: Store<Kept>,
    version: AtomicU64,
}

impl Kv {
    /// Memory for all of them from now on.
    pub fn limit(&self, bytes_max: usize) {
        self.store.limit(bytes_max);
    }

    /// Entries and bytes.
    pub fn usage(&self) -> (usize, usize) {
        self.store.usage()
    }

    /// The entry under `key`, unless its time is up.
    pub fn get(&self, key: &[u8], now: Now) -> Option<Entry> {
        self.store.with(key, |slot| current(slot, now))
    }

    /// Makes or replaces an entry and returns its version. `ttl_ms` 0: no end.
    pub fn set(&self, key: &[u8], value: &[u8], ttl_ms: u32, now: Now) -> Result<u64, Refusal> {
        self.put(key, value, ttl_ms, now, |_| true)
    }

    /// The same, if the entry still has the version `expected`; `None`: if there is none.
    pub fn compare_and_swap(
        &self,
        key: &[u8],
        expected: Option<u64>,
        value: &[u8],
        ttl_ms: u32,
        now: Now,
    ) -> Result<u64, Refusal> {
        self.put(key, value, ttl_ms, now, |entry| entry.map(|entry| entry.version) == expected)
    }

    /// Removes an entry. Whether there was one.
    pub fn delete(&self, key: &[u8], now: Now) -> bool {
        self.store.with(key, |slot| current(slot, now).is_some() && slot.remove().is_some())
    }

    fn put(
        &self,
        key: &[u8],
        value: &[u8],
        ttl_ms: u32,
        now: Now,
        may: impl FnOnce(Option<Entry>) -> bool,
    ) -> Result<u64, Refusal> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(Refusal::TooLarge);
        }
        let ends_us = match ttl_ms {
            0 => u64::MAX,
            ttl_ms => now.monotonic_us.saturating_add(u64::from(ttl_ms) * 1000),
        };
        // Copied while nobody waits. The counts in front of the bytes take 16.
        let heap = heap_bytes(value.len() + 16);
        let value: Arc<[u8]> = value.into();
        self.store.with(key, |slot| {
            if !may(current(slot, now)) {
                return Err(Refusal::Conflict);
            }
            let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
            slot.set(Kept { entry: Entry { value, version }, ends_us }, heap);
            Ok(version)
        })
    }
}

/// What is in a slot; what is over goes.
fn current(slot: &mut Slot<'_, Kept>, now: Now) -> Option<Entry> {
    let kept = slot.get()?;
    if now.monotonic_us < kept.ends_us {
        return Some(kept.entry.clone());
    }
    slot.remove();
    None
}
