//! Things that are kept for their next use, as many as have been needed lately.

/// Free things of one kind. What was given back last is lent first: its memory is still warm.
#[derive(Debug)]
pub struct FreeList<T> {
    items: Vec<T>,
    /// The fewest that there were since the last trim.
    unused: usize,
}

impl<T> Default for FreeList<T> {
    fn default() -> Self {
        Self { items: Vec::new(), unused: 0 }
    }
}

impl<T> FreeList<T> {
    /// One that is free.
    pub fn take(&mut self) -> Option<T> {
        let item = self.items.pop();
        self.unused = self.unused.min(self.items.len());
        item
    }

    /// Keeps one.
    pub fn put(&mut self, item: T) {
        self.items.push(item);
    }

    /// How many are free.
    pub fn count(&self) -> usize {
        self.items.len()
    }

    /// Lets go of those that nobody has needed since the last call: half of them, so that a load that
    /// comes and goes finds some; `least` stay. To be called once in a while.
    pub fn trim(&mut self, least: usize) {
        let spare = self.unused.div_ceil(2);
        let kept = self.items.len().saturating_sub(spare).max(least);
        self.items.truncate(kept);
        self.unused = self.items.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_nobody_needed_goes() {
        let mut free = FreeList::default();
        (0..8).for_each(|item| free.put(item));
        free.trim(1);
        assert_eq!((free.count(), free.take()), (8, Some(7)), "they have just come");

        free.put(7);
        free.trim(1);
        assert_eq!(free.count(), 4, "seven were there all the time");
        (0..4).for_each(|_| free.trim(1));
        assert_eq!(free.count(), 1);
    }
}
