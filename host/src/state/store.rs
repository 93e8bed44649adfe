//! A map for all workers, bounded in bytes.
//!
//! Its keys are spread over shards, each behind a lock that is held for as long as an entry is read
//! or changed. The budget is one for all of them: what is too much is taken from one shard after the
//! other, since keys are spread evenly.

use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::utils::CachePadded;

use super::lock;
use super::table::Table;

/// So many that workers rarely meet, and still few kilobytes for a plugin.
const SHARDS: usize = 64;

pub(super) struct Store<V> {
    shards: Box<[CachePadded<Mutex<Table<V>>>]>,
    /// Keys come from clients: nobody may know which ones meet.
    hasher: RandomState,
    bytes_max: AtomicUsize,
    bytes: CachePadded<AtomicUsize>,
    entries: AtomicUsize,
    /// The shard that gives next.
    hand: AtomicUsize,
}

/// One key of a store, while its shard is locked.
pub(super) struct Slot<'a, V> {
    table: &'a mut Table<V>,
    hash: u64,
    key: &'a [u8],
}

impl<V> Slot<'_, V> {
    pub(super) fn get(&mut self) -> Option<&mut V> {
        self.table.get(self.hash, self.key)
    }

    /// Puts a value there, with so much heap behind it.
    pub(super) fn set(&mut self, value: V, heap_bytes: usize) -> Option<V> {
        self.table.insert(self.hash, self.key, value, heap_bytes)
    }

    pub(super) fn remove(&mut self) -> Option<V> {
        self.table.remove(self.hash, self.key)
    }
}

impl<V> Default for Store<V> {
    /// For entries that all take about the same: the one that was not used for longest goes.
    fn default() -> Self {
        Self::new(1)
    }
}

impl<V> Store<V> {
    /// For entries of any size: of so many that were not used for longest the largest goes.
    pub(super) fn new(candidates: usize) -> Self {
        let table = || CachePadded::new(Mutex::new(Table::new(candidates)));
        Self {
            shards: (0..SHARDS).map(|_| table()).collect(),
            hasher: RandomState::new(),
            bytes_max: AtomicUsize::new(0),
            bytes: CachePadded::default(),
            entries: AtomicUsize::new(0),
            hand: AtomicUsize::new(0),
        }
    }

    /// How much there may be from now on.
    pub(super) fn limit(&self, bytes_max: usize) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
        self.shrink();
    }

    /// Entries and bytes.
    pub(super) fn usage(&self) -> (usize, usize) {
        (self.entries.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Does something with `key` that nobody can come between.
    pub(super) fn with<R>(&self, key: &[u8], work: impl FnOnce(&mut Slot<'_, V>) -> R) -> R {
        let hash = self.hasher.hash_one(key);
        // The lower bits choose a place within the shard.
        let shard = &self.shards[usize::from((hash >> 48) as u16) % SHARDS];
        let mut table = lock(shard);
        let before = (table.len(), table.bytes());
        let result = work(&mut Slot { table: &mut table, hash, key });
        let has_grown = self.account(before, &table);
        drop(table);
        if has_grown {
            self.shrink();
        }
        result
    }

    /// Removes every entry whose key `condemned` says yes to, one shard after another. How many there were.
    pub(super) fn remove_if(&self, condemned: impl Fn(&[u8]) -> bool) -> usize {
        let removed = self.shards.iter().map(|shard| {
            let mut table = lock(shard);
            let before = (table.len(), table.bytes());
            let removed = table.remove_if(&condemned);
            self.account(before, &table);
            drop(table);
            removed.len()
        });
        removed.sum()
    }

    /// Takes what is too much away.
    fn shrink(&self) {
        let mut empty = 0;
        while self.bytes.load(Ordering::Relaxed) > self.bytes_max.load(Ordering::Relaxed)
            && empty < SHARDS
        {
            let hand = self.hand.fetch_add(1, Ordering::Relaxed) % SHARDS;
            let mut table = lock(&self.shards[hand]);
            let before = (table.len(), table.bytes());
            let evicted = table.evict();
            self.account(before, &table);
            drop(table);
            empty = if evicted.is_some() { 0 } else { empty + 1 };
            // Freed when nobody waits for it.
            drop(evicted);
        }
    }

    /// Takes note of what has become of a shard; whether there is more of it.
    fn account(&self, (len, bytes): (usize, usize), table: &Table<V>) -> bool {
        if table.len() != len {
            self.entries.fetch_add(table.len().wrapping_sub(len), Ordering::Relaxed);
        }
        if table.bytes() != bytes {
            self.bytes.fetch_add(table.bytes().wrapping_sub(bytes), Ordering::Relaxed);
        }
        table.bytes() > bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_never_holds_more_than_it_may() {
        let store = Store::default();
        store.limit(100_000);

        for key in 0..100_000_u32 {
            store.with(&key.to_le_bytes(), |slot| slot.set(key, 0));
            assert!(store.usage().1 <= 100_000);
        }
        let (entries, bytes) = store.usage();
        assert!(bytes > 90_000 && entries > 500, "{entries} {bytes}");

        store.limit(50_000);
        assert!(store.usage().1 <= 50_000);
        store.limit(0);
        assert_eq!(store.usage(), (0, 0));
        store.with(b"key", |slot| slot.set(1, 0));
        assert_eq!(store.usage(), (0, 0), "without a budget nothing is kept");
    }

    #[test]
    fn workers_may_come_together() {
        let store = Store::default();
        store.limit(200_000);

        std::thread::scope(|scope| {
            for thread in 0..4_u32 {
                let store = &store;
                scope.spawn(move || {
                    for key in 0..20_000_u32 {
                        let key = (key * 4 + thread).to_le_bytes();
                        store.with(&key, |slot| slot.set(thread, 0));
                        store.with(&key, |slot| slot.get().copied());
                    }
                });
            }
        });

        let (entries, bytes) = store.usage();
        assert!(bytes <= 200_000, "{bytes}");
        let held = store.shards.iter().map(|shard| lock(shard).len()).sum::<usize>();
        assert_eq!(entries, held);
    }
}
