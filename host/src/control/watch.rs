//! Sees which plugin files have changed, by looking at them.
//!
//! A file is looked at by what the system says of it (size, times, inode), behind links, so that a
//! rename over it, a copy into it and a link that is put elsewhere all look the same. It counts as
//! changed when it has been quiet for [`QUIET`]; whoever cannot use it then is offered it once more when
//! it has been quiet for [`PATIENCE`], and may call it broken: until then it may be half written.
//!
//! The system's notifications (inotify) only say when to look. Where there are none, because their
//! number is limited or the folder is on a network, the look every [`POLL`] finds everything a little
//! later.
//!
//! Not here: what is done about a change (`change`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

/// How often files are looked at without being told to.
const POLL: Duration = Duration::from_millis(500);

/// How long a file must have been quiet to be read. Copying writes far more often.
const QUIET: Duration = Duration::from_millis(200);

/// How long a file that cannot be used must have been quiet to be called broken: longer than a copy
/// over a bad network stalls, and short enough for somebody who waits for the answer.
const PATIENCE: Duration = Duration::from_millis(1500);

/// What tells one content of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    place: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(facts: &Metadata) -> Self {
        Self {
            place: (facts.dev(), facts.ino()),
            bytes: facts.size(),
            modified: (facts.mtime(), facts.mtime_nsec()),
            changed: (facts.ctime(), facts.ctime_nsec()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offered {
    Not,
    /// It could not be used.
    InVain,
    Done,
}

#[derive(Debug)]
struct Seen {
    /// `None`: there is no such file.
    stamp: Option<Stamp>,
    since: Instant,
    offered: Offered,
}

/// What was seen of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// It is another than before, or seen for the first time.
    Changed {
        /// Which.
        path: PathBuf,
        /// It has been quiet for so long that it is as it was meant to be.
        last: bool,
    },
    /// It is no longer there.
    Gone(PathBuf),
}

/// What is known of the files that are watched.
pub(super) struct Watch {
    seen: BTreeMap<PathBuf, Seen>,
    notifier: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
}

impl Watch {
    /// Watches nothing yet. `wake` is told when it is worth looking.
    pub(super) fn new(wake: Sender<()>) -> Self {
        let told = move |event: notify::Result<notify::Event>| {
            // Reading is no change, and looking reads.
            let worth = event.map_or(true, |event| match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
                EventKind::Access(_) => false,
                _ => true,
            });
            if worth {
                // It is full when it has been told already.
                let _ = wake.try_send(());
            }
        };
        let notifier = notify::recommended_watcher(told);
        if let Err(error) = &notifier {
            log::warn!(target: "plugin", "no notifications of files ({error}): looking instead");
        }
        Self { seen: BTreeMap::new(), notifier: notifier.ok(), folders: BTreeSet::new() }
    }

    /// Wants notifications from these folders and no others.
    pub(super) fn listen_to(&mut self, folders: BTreeSet<PathBuf>) {
        let Some(notifier) = &mut self.notifier else { return };
        for folder in self.folders.difference(&folders) {
            // It may have gone by itself.
            let _ = notifier.unwatch(folder);
        }
        for folder in folders.difference(&self.folders) {
            if let Err(error) = notifier.watch(folder, RecursiveMode::NonRecursive) {
                let folder = folder.display();
                log::warn!(
                    target: "plugin",
                    "no notifications of files in {folder} ({error}): looking instead"
                );
            }
        }
        self.folders = folders;
    }

    /// Looks at these files, which are all there are; says what has become of them.
    pub(super) fn look(&mut self, paths: &BTreeSet<PathBuf>, now: Instant) -> Vec<Sight> {
        self.see(paths, now, |path| std::fs::metadata(path).ok().as_ref().map(Stamp::from))
    }

    fn see(
        &mut self,
        paths: &BTreeSet<PathBuf>,
        now: Instant,
        stamp_of: impl Fn(&Path) -> Option<Stamp>,
    ) -> Vec<Sight> {
        self.seen.retain(|path, _| paths.contains(path));
        let mut sights = Vec::new();
        for path in paths {
            let stamp = stamp_of(path);
            let fresh = Seen { stamp, since: now, offered: Offered::Not };
            let seen = self.seen.entry(path.clone()).or_insert(fresh);
            if seen.stamp != stamp {
                *seen = Seen { stamp, since: now, offered: Offered::Not };
            }
            let quiet = now.saturating_duration_since(seen.since);
            let last = match seen.offered {
                Offered::Not if quiet >= QUIET => quiet >= PATIENCE,
                Offered::InVain if quiet >= PATIENCE => true,
                _ => continue,
            };
            seen.offered = Offered::Done;
            let path = path.clone();
            sights.push(match stamp {
                Some(_) => Sight::Changed { path, last },
                None => Sight::Gone(path),
            });
        }
        sights
    }

    /// The file could not be used: it is offered once more when it has been quiet for longer.
    pub(super) fn in_vain(&mut self, path: &Path) {
        if let Some(seen) = self.seen.get_mut(path) {
            seen.offered = Offered::InVain;
        }
    }

    /// Whether the file may still be half written.
    pub(super) fn is_settling(&self, path: &Path, now: Instant) -> bool {
        let stamp = std::fs::metadata(path).ok().as_ref().map(Stamp::from);
        self.seen.get(path).is_none_or(|seen| {
            seen.stamp != stamp || now.saturating_duration_since(seen.since) < PATIENCE
        })
    }

    /// How long nothing needs to be looked at.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        let wait = |seen: &Seen| {
            let until = match seen.offered {
                Offered::Not => QUIET,
                Offered::InVain => PATIENCE,
                Offered::Done => return POLL,
            };
            until.saturating_sub(now.saturating_duration_since(seen.since)).min(POLL)
        };
        self.seen.values().map(wait).min().unwrap_or(POLL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Desk {
        watch: Watch,
        start: Instant,
    }

    impl Desk {
        fn new() -> Self {
            let (wake, _) = crossbeam::channel::bounded(1);
            Self { watch: Watch::new(wake), start: Instant::now() }
        }

        /// Looks at a file of so many bytes, or none, at so many milliseconds.
        fn see(&mut self, at_ms: u64, bytes: Option<u64>) -> Vec<Sight> {
            let stamp = bytes.map(|bytes| Stamp {
                place: (1, 1),
                bytes,
                modified: (0, 0),
                changed: (0, 0),
            });
            let paths = BTreeSet::from([PathBuf::from("p.wasm")]);
            self.watch.see(&paths, self.start + Duration::from_millis(at_ms), |_| stamp)
        }
    }

    fn changed(last: bool) -> Vec<Sight> {
        vec![Sight::Changed { path: "p.wasm".into(), last }]
    }

    #[test]
    fn a_file_that_is_being_written_is_left_alone_until_it_is_quiet() {
        let mut desk = Desk::new();

        for step in 0..50 {
            assert_eq!(desk.see(step * 100, Some(step)), [], "after {step} steps");
        }

        assert_eq!(desk.see(5_099, Some(49)), []);
        assert_eq!(desk.see(5_100, Some(49)), changed(false));
        assert_eq!(desk.see(9_000, Some(49)), [], "once is enough");
    }

    /// A copy may stall for longer than a moment.
    #[test]
    fn a_file_that_cannot_be_used_is_offered_once_more_before_it_counts_as_broken() {
        let mut desk = Desk::new();
        desk.see(0, Some(1));
        assert_eq!(desk.see(200, Some(1)), changed(false));

        desk.watch.in_vain(Path::new("p.wasm"));

        assert_eq!(desk.see(1_499, Some(1)), []);
        assert_eq!(desk.see(1_500, Some(1)), changed(true));
        assert_eq!(desk.see(9_000, Some(1)), []);
    }

    #[test]
    fn a_file_that_is_away_for_a_moment_only_has_changed() {
        let mut desk = Desk::new();
        desk.see(0, Some(1));
        desk.see(200, Some(1));

        assert_eq!(desk.see(300, None), []);
        assert_eq!(desk.see(400, Some(2)), []);
        assert_eq!(desk.see(600, Some(2)), changed(false));

        assert_eq!(desk.see(700, None), []);
        assert_eq!(desk.see(900, None), [Sight::Gone("p.wasm".into())]);
    }
}
