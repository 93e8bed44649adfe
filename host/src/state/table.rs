//! A map that knows in which order its entries were used.
//!
//! Two lists run through the entries, each from the entry used last to that which was not used for
//! longest: `once` of those that nobody has come back to, `often` of the others. What goes first is the
//! end of `once`, so that a flood of new keys does not wash away those in use.
//!
//! Our own, and not a kept library (quick_cache, moka): a count has to be read and written as one
//! step, an entry's memory has to be charged to a budget that can change, and those libraries give
//! neither without a second lock or an allocation per entry. `benches/stores` compares what they keep.
//!
//! Not here: locks and budgets (`store`).

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as IndexEntry;

/// No entry.
const NONE: u32 = u32::MAX;

/// Slots of the index, which is between seven sixteenths and seven eighths full.
const INDEX_BYTES: usize = 12;

pub(super) struct Table<V> {
    index: HashTable<u32>,
    entries: Vec<Entry<V>>,
    /// The first of the places in `entries` that are free, which are chained by `older`.
    free: u32,
    once: List,
    often: List,
    /// So many entries are looked at to find one that may go.
    candidates: usize,
}

struct Entry<V> {
    hash: u64,
    key: Box<[u8]>,
    /// `None` in a free place.
    value: Option<V>,
    bytes: usize,
    newer: u32,
    older: u32,
    is_often: bool,
}

struct List {
    newest: u32,
    oldest: u32,
    bytes: usize,
    len: usize,
}

impl List {
    const EMPTY: Self = Self { newest: NONE, oldest: NONE, bytes: 0, len: 0 };
}

/// What an allocation of so many bytes takes.
pub(super) fn heap_bytes(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { (bytes + 8).next_multiple_of(16).max(32) }
}

fn place(index: u32) -> usize {
    index as usize
}

impl<V> Table<V> {
    /// `candidates`: one, where all entries take about the same.
    pub(super) fn new(candidates: usize) -> Self {
        Self {
            index: HashTable::new(),
            entries: Vec::new(),
            free: NONE,
            once: List::EMPTY,
            often: List::EMPTY,
            candidates,
        }
    }

    /// Memory that all entries are charged for.
    pub(super) fn bytes(&self) -> usize {
        self.once.bytes + self.often.bytes
    }

    /// Entries.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// The value under `key`, which is used by that.
    pub(super) fn get(&mut self, hash: u64, key: &[u8]) -> Option<&mut V> {
        let found = *self.index.find(hash, |at| *self.entries[place(*at)].key == *key)?;
        // What everybody asks for is at the front already.
        if self.often.newest != found {
            self.unlink(found);
            self.link(found, true);
        }
        self.entries[place(found)].value.as_mut()
    }

    /// What an entry with so long a key and so much heap behind its value is charged for.
    pub(super) fn charge(key_bytes: usize, value_bytes: usize) -> usize {
        // `entries` grows by an eighth.
        let place = size_of::<Entry<V>>() * 9 / 8 + INDEX_BYTES;
        place + heap_bytes(key_bytes) + value_bytes
    }

    /// Makes or replaces an entry with so much heap behind its value. Returns what was there.
    pub(super) fn insert(
        &mut self,
        hash: u64,
        key: &[u8],
        value: V,
        value_bytes: usize,
    ) -> Option<V> {
        let bytes = Self::charge(key.len(), value_bytes);
        let entries = &self.entries;
        let known = self.index.find(hash, |at| *entries[place(*at)].key == *key).copied();
        if let Some(found) = known {
            self.unlink(found);
            let entry = &mut self.entries[place(found)];
            entry.bytes = bytes;
            let old = entry.value.replace(value);
            self.link(found, true);
            return old;
        }
        let entry = Entry {
            hash,
            key: key.into(),
            value: Some(value),
            bytes,
            newer: NONE,
            older: NONE,
            is_often: false,
        };
        let at = self.put(entry)?;
        let entries = &self.entries;
        let new = self.index.entry(hash, |_| false, |at| entries[place(*at)].hash);
        if let IndexEntry::Vacant(vacant) = new {
            vacant.insert(at);
        }
        self.link(at, false);
        None
    }

    /// Removes an entry.
    pub(super) fn remove(&mut self, hash: u64, key: &[u8]) -> Option<V> {
        let found = *self.index.find(hash, |at| *self.entries[place(*at)].key == *key)?;
        self.take(found)
    }

    /// Removes every entry whose key `condemned` says yes to.
    pub(super) fn remove_if(&mut self, condemned: impl Fn(&[u8]) -> bool) -> Vec<V> {
        let found: Vec<u32> = (0..)
            .zip(&self.entries)
            .filter(|(_, entry)| entry.value.is_some() && condemned(&entry.key))
            .map(|(at, _)| at)
            .collect();
        found.into_iter().filter_map(|at| self.take(at)).collect()
    }

    /// Removes the entry that is missed least: of the candidates, which were not used for longest, the one that
    /// takes most, in whose place several others have room.
    pub(super) fn evict(&mut self) -> Option<V> {
        // A fifth is kept for new keys, so that they have a chance to be used again.
        let new = self.once.bytes >= self.bytes() / 5;
        let (first, second) =
            if new { (&self.once, &self.often) } else { (&self.often, &self.once) };
        let list = if first.oldest == NONE { second } else { first };
        // Not those that have just come: they have not had their chance.
        let candidates = self.candidates.min(list.len / 2);
        let (mut largest, mut at) = (list.oldest, list.oldest);
        for _ in 1..candidates {
            at = self.entries[place(at)].newer;
            if self.entries[place(at)].bytes > self.entries[place(largest)].bytes {
                largest = at;
            }
        }
        self.take(largest)
    }

    fn take(&mut self, at: u32) -> Option<V> {
        if at == NONE {
            return None;
        }
        self.unlink(at);
        let hash = self.entries[place(at)].hash;
        if let Ok(found) = self.index.find_entry(hash, |other| *other == at) {
            found.remove();
        }
        let entry = &mut self.entries[place(at)];
        entry.key = Box::default();
        entry.older = self.free;
        self.free = at;
        entry.value.take()
    }

    /// Finds a place for an entry; none when there are four thousand million already.
    fn put(&mut self, entry: Entry<V>) -> Option<u32> {
        if self.free != NONE {
            let at = self.free;
            self.free = self.entries[place(at)].older;
            self.entries[place(at)] = entry;
            return Some(at);
        }
        let at = u32::try_from(self.entries.len()).ok().filter(|at| *at != NONE)?;
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(self.entries.len() / 8 + 8);
        }
        self.entries.push(entry);
        Some(at)
    }

    fn list(&mut self, is_often: bool) -> &mut List {
        if is_often { &mut self.often } else { &mut self.once }
    }

    fn unlink(&mut self, at: u32) {
        let Entry { newer, older, is_often, bytes, .. } = self.entries[place(at)];
        match newer {
            NONE => self.list(is_often).newest = older,
            newer => self.entries[place(newer)].older = older,
        }
        match older {
            NONE => self.list(is_often).oldest = newer,
            older => self.entries[place(older)].newer = newer,
        }
        let list = self.list(is_often);
        list.bytes -= bytes;
        list.len -= 1;
    }

    /// Makes an entry the newest of a list.
    fn link(&mut self, at: u32, is_often: bool) {
        let entry = &self.entries[place(at)];
        let bytes = entry.bytes;
        let list = self.list(is_often);
        list.bytes += bytes;
        list.len += 1;
        let older = std::mem::replace(&mut list.newest, at);
        if older == NONE {
            list.oldest = at;
        } else {
            self.entries[place(older)].newer = at;
        }
        let entry = &mut self.entries[place(at)];
        (entry.newer, entry.older, entry.is_often) = (NONE, older, is_often);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One with neighbours.
    fn hash(key: u32) -> u64 {
        (u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15) << 3) | u64::from(key % 7)
    }

    fn insert_large(table: &mut Table<u32>, key: u32, bytes: usize) {
        assert_eq!(table.insert(hash(key), &key.to_le_bytes(), key, bytes), None);
    }

    fn insert(table: &mut Table<u32>, key: u32) {
        insert_large(table, key, 0);
    }

    fn get(table: &mut Table<u32>, key: u32) -> Option<u32> {
        table.get(hash(key), &key.to_le_bytes()).copied()
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let mut table = Table::new(1);
        (0..20).for_each(|key| insert(&mut table, key));
        assert_eq!(get(&mut table, 0), Some(0));
        assert_eq!(get(&mut table, 99), None);

        let gone: Vec<_> = std::iter::from_fn(|| table.evict()).collect();

        // New keys keep a fifth, and the one that was used goes before the last of them.
        assert_eq!(gone.len(), 20);
        assert_eq!(gone[..4], [1, 2, 3, 4]);
        assert_eq!((table.len(), table.bytes()), (0, 0));
    }

    /// Who sends many keys must not make the gateway forget those that others use.
    #[test]
    fn a_flood_of_new_keys_spares_those_in_use() {
        let mut table = Table::new(1);
        for key in 0..50 {
            insert(&mut table, key);
            assert_eq!(get(&mut table, key), Some(key));
        }
        for key in 1000..1020 {
            insert(&mut table, key);
        }

        for key in 2000..12_000 {
            insert(&mut table, key);
            assert!(table.evict().unwrap() >= 1000);
        }

        assert!((0..50).all(|key| get(&mut table, key) == Some(key)));
        assert_eq!(table.len(), 70);
        assert!(table.entries.capacity() <= 100, "places are used again");
    }

    #[test]
    fn of_those_that_may_go_the_largest_goes() {
        let mut table = Table::new(8);
        for key in 0..20 {
            insert_large(&mut table, key, if key % 5 == 3 { 1000 } else { 10 });
        }

        let gone: Vec<_> = std::iter::from_fn(|| table.evict()).take(5).collect();

        assert_eq!(gone, [3, 8, 0, 1, 2], "and never one of the newer half");
        assert!(std::iter::from_fn(|| table.evict()).count() == 15);
        assert_eq!((table.len(), table.bytes()), (0, 0));
    }

    #[test]
    fn entries_are_replaced_and_removed() {
        let mut table = Table::new(1);
        insert(&mut table, 1);
        let small = table.bytes();

        assert_eq!(table.insert(hash(1), &1_u32.to_le_bytes(), 5, 1000), Some(1));

        assert_eq!((table.len(), table.bytes()), (1, small + 1000));
        assert_eq!(table.remove(hash(1), &1_u32.to_le_bytes()), Some(5));
        assert_eq!(table.remove(hash(1), &1_u32.to_le_bytes()), None);
        assert_eq!((table.len(), table.bytes()), (0, 0));
    }
}
