//! Names that many entries share, to remove all of them at once.
//!
//! An entry holds its groups; a group that has been removed is looked at when the entry is, so that
//! removing costs the same however many there are.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::state::lock;

/// What was stored with one tag.
pub(super) struct Group {
    pub(super) name: Box<str>,
    removed: AtomicBool,
    groups: Arc<Groups>,
}

/// Groups by tag; each goes with the last that is in it.
#[derive(Default)]
pub(super) struct Groups(Mutex<HashMap<Box<str>, Weak<Group>>>);

impl Groups {
    pub(super) fn of(self: &Arc<Self>, tag: &str) -> Arc<Group> {
        let mut groups = lock(&self.0);
        if let Some(group) = groups.get(tag).and_then(Weak::upgrade) {
            return group;
        }
        let removed = AtomicBool::new(false);
        let group = Arc::new(Group { name: tag.into(), removed, groups: Arc::clone(self) });
        groups.insert(tag.into(), Arc::downgrade(&group));
        group
    }

    /// Removes what is in a group. How much that was.
    pub(super) fn remove(&self, tag: &str) -> usize {
        let group = lock(&self.0).remove(tag).and_then(|group| group.upgrade());
        let Some(group) = group else { return 0 };
        group.removed.store(true, Ordering::Release);
        Arc::strong_count(&group) - 1
    }
}

impl Group {
    pub(super) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let mut groups = lock(&self.groups.0);
        // Another one may have taken the name.
        if groups.get(&self.name).is_some_and(|group| group.strong_count() == 0) {
            groups.remove(&self.name);
        }
    }
}
