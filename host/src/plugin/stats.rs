//! What a worker counts about its plugins: plain integers, read when somebody asks.
//!
//! Not here: adding up workers, and how metrics are written (`control::metrics`).

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use super::body::ChunkFlow;
use super::callout::OUTCOMES;
use super::exchange::Flow;
use super::failure::Failure;
use super::failure::FailureKind;
use super::instance::Hook;
use super::message::MessageFlow;

/// Upper bounds of the duration buckets, in nanoseconds; a last bucket takes what is longer. Finer
/// where good plugins are (0.2 to 5 µs), ending above the usual time limit (10 ms).
pub const DURATION_BOUNDS_NS: [u64; 14] = [
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    1_000_000,
    5_000_000,
    20_000_000,
    100_000_000,
];

/// Buckets of durations.
pub const DURATION_BUCKETS: usize = DURATION_BOUNDS_NS.len() + 1;

/// One call of a hook in so many is timed: reading a clock twice costs a tenth of a call.
const TIMED: u32 = 16;

/// Lines about failures that one plugin may cost per second and worker: enough to see what goes on,
/// not enough to fill a disk.
const LINES_PER_SECOND_MAX: u32 = 5;

/// How a hook call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The chain goes on.
    Next,
    /// The plugin answered.
    Respond,
    /// It broke a body off.
    Abort,
    /// It failed.
    Failed(FailureKind),
}

impl Outcome {
    /// All there are, in the order of [`HookStats::calls`].
    pub const ALL: [Self; 9] = [
        Self::Next,
        Self::Respond,
        Self::Abort,
        Self::Failed(FailureKind::Trap),
        Self::Failed(FailureKind::Timeout),
        Self::Failed(FailureKind::Fuel),
        Self::Failed(FailureKind::Memory),
        Self::Failed(FailureKind::Violation),
        Self::Failed(FailureKind::Unavailable),
    ];

    /// As metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Respond => "respond",
            Self::Abort => "abort",
            Self::Failed(kind) => kind.as_str(),
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Next => 0,
            Self::Respond => 1,
            Self::Abort => 2,
            Self::Failed(FailureKind::Trap) => 3,
            Self::Failed(FailureKind::Timeout) => 4,
            Self::Failed(FailureKind::Fuel) => 5,
            Self::Failed(FailureKind::Memory) => 6,
            Self::Failed(FailureKind::Violation) => 7,
            Self::Failed(FailureKind::Unavailable) => 8,
        }
    }
}

impl From<Flow> for Outcome {
    fn from(flow: Flow) -> Self {
        match flow {
            Flow::Next => Self::Next,
            Flow::Respond => Self::Respond,
        }
    }
}

impl From<&ChunkFlow> for Outcome {
    fn from(flow: &ChunkFlow) -> Self {
        match flow {
            ChunkFlow::Abort => Self::Abort,
            _ => Self::Next,
        }
    }
}

impl From<&MessageFlow> for Outcome {
    fn from(flow: &MessageFlow) -> Self {
        match flow {
            MessageFlow::Close(..) => Self::Abort,
            _ => Self::Next,
        }
    }
}

/// What happened in one hook of a plugin, since the worker began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookStats {
    /// Calls by outcome, in the order of [`Outcome::ALL`].
    pub calls: [u64; Outcome::ALL.len()],
    /// Timed calls by duration, a sample of all; not cumulative; bounds are [`DURATION_BOUNDS_NS`].
    pub durations: [u64; DURATION_BUCKETS],
    /// Their durations together, in nanoseconds.
    pub duration_ns_sum: u64,
}

/// What happened to one plugin on one worker. Counts never go back, whatever is reloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginStats {
    /// Its name.
    pub plugin: Arc<str>,
    /// Generations that have instances here, and how many; the newest last. None of native
    /// middleware.
    pub generations: Vec<(u64, usize)>,
    /// Instances held here.
    pub instances: usize,
    /// Linear memory of those instances.
    pub memory_bytes: u64,
    /// Instances thrown away after a trap, a time-out or the memory cap.
    pub traps: u64,
    /// Why an instance of the newest generation is broken, if one is.
    pub broken: Option<Arc<str>>,
    /// Log lines that were not written because there were too many.
    pub lines_dropped: u64,
    /// Callouts by what came of them, in the order of [`OUTCOMES`].
    pub callouts: [u64; OUTCOMES.len()],
    /// In the order of [`Hook::ALL`].
    pub hooks: [HookStats; Hook::ALL.len()],
}

/// The counts of one plugin on one worker.
pub(super) struct Meter {
    pub(super) plugin: Arc<str>,
    hooks: [HookMeter; Hook::ALL.len()],
    lines_dropped: Cell<u64>,
    callouts: [Cell<u64>; OUTCOMES.len()],
    complaints: Cell<u32>,
    suppressed: Cell<u64>,
    second: Cell<Option<Instant>>,
}

/// In this order: what every call touches is in one line of the cache.
#[derive(Default)]
#[repr(C)]
struct HookMeter {
    /// Calls until the next that is timed.
    untimed: Cell<u32>,
    calls: [Cell<u64>; Outcome::ALL.len()],
    durations: [Cell<u64>; DURATION_BUCKETS],
    duration_ns_sum: Cell<u64>,
}

fn add(count: &Cell<u64>, amount: u64) {
    count.set(count.get().wrapping_add(amount));
}

impl Meter {
    pub(super) fn new(plugin: Arc<str>) -> Self {
        Self {
            plugin,
            hooks: Default::default(),
            lines_dropped: Cell::new(0),
            callouts: Default::default(),
            complaints: Cell::new(0),
            suppressed: Cell::new(0),
            second: Cell::new(None),
        }
    }

    /// Whether the call that begins now is to be timed: the first, and one in [`TIMED`] from then on.
    pub(super) fn is_timed(&self, hook: Hook) -> bool {
        let untimed = &self.hooks[hook as usize].untimed;
        let is_timed = untimed.get() == 0;
        untimed.set(if is_timed { TIMED - 1 } else { untimed.get() - 1 });
        is_timed
    }

    /// Counts a call.
    pub(super) fn record(&self, hook: Hook, outcome: Outcome) {
        add(&self.hooks[hook as usize].calls[outcome.index()], 1);
    }

    /// Counts the duration of a call that was timed.
    pub(super) fn record_time(&self, hook: Hook, took: Duration) {
        let meter = &self.hooks[hook as usize];
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // Most calls end in the first buckets, so that counting up to them is the quickest search.
        let bucket = DURATION_BOUNDS_NS.iter().take_while(|bound| nanoseconds > **bound).count();
        add(&meter.durations[bucket], 1);
        add(&meter.duration_ns_sum, nanoseconds);
    }

    pub(super) fn add_lines_dropped(&self, lines: u64) {
        add(&self.lines_dropped, lines);
    }

    /// Counts what came of a callout, by its place in [`OUTCOMES`].
    pub(super) fn record_callout(&self, outcome: usize) {
        if let Some(count) = self.callouts.get(outcome) {
            add(count, 1);
        }
    }

    /// Counts and logs a call that failed.
    #[expect(clippy::disallowed_methods, reason = "a failure is rare")]
    pub(super) fn fail(&self, hook: Hook, failure: &Failure) {
        self.record(hook, Outcome::Failed(failure.kind));
        self.complain(hook.as_str(), failure, Instant::now());
    }

    /// Logs a failure, unless too many were logged in this second.
    pub(super) fn complain(&self, hook: &str, failure: &Failure, now: Instant) {
        let Some(suppressed) = self.may_complain(now) else { return };
        let (plugin, kind) = (&self.plugin, failure.kind.as_str());
        let message = &failure.message;
        match suppressed {
            0 => {
                log::warn!(target: "plugin", "plugin `{plugin}` failed in {hook} ({kind}): {message}")
            }
            more => log::warn!(
                target: "plugin",
                "plugin `{plugin}` failed in {hook} ({kind}): {message} ({more} earlier failures \
                 were not logged)"
            ),
        }
    }

    /// Whether a failure may be logged, and how many were not since the last that was.
    fn may_complain(&self, now: Instant) -> Option<u64> {
        let began = self.second.get();
        if began.is_none_or(|began| now.duration_since(began) >= Duration::from_secs(1)) {
            self.second.set(Some(now));
            self.complaints.set(0);
        }
        if self.complaints.get() >= LINES_PER_SECOND_MAX {
            add(&self.suppressed, 1);
            return None;
        }
        self.complaints.set(self.complaints.get() + 1);
        Some(self.suppressed.take())
    }

    /// The counts, without what only instances know.
    pub(super) fn read(&self) -> PluginStats {
        let hooks = self.hooks.each_ref().map(HookMeter::read);
        use FailureKind::{Fuel, Memory, Timeout, Trap};
        let discarding = [Trap, Timeout, Fuel, Memory];
        let traps = |hook: &HookStats| -> u64 {
            discarding.iter().map(|kind| hook.calls[Outcome::Failed(*kind).index()]).sum()
        };
        PluginStats {
            plugin: Arc::clone(&self.plugin),
            generations: Vec::new(),
            instances: 0,
            memory_bytes: 0,
            traps: hooks.iter().map(traps).sum(),
            broken: None,
            lines_dropped: self.lines_dropped.get(),
            callouts: self.callouts.each_ref().map(Cell::get),
            hooks,
        }
    }
}

impl HookMeter {
    fn read(&self) -> HookStats {
        HookStats {
            calls: self.calls.each_ref().map(Cell::get),
            durations: self.durations.each_ref().map(Cell::get),
            duration_ns_sum: self.duration_ns_sum.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_outcome_and_duration() {
        let meter = Meter::new("p".into());

        meter.record(Hook::Request, Outcome::Next);
        meter.record_time(Hook::Request, Duration::from_nanos(250));
        meter.record(Hook::Request, Outcome::Respond);
        meter.record_time(Hook::Request, Duration::from_nanos(251));
        meter.record(Hook::Response, Outcome::Failed(FailureKind::Timeout));
        meter.record_time(Hook::Response, Duration::from_secs(5));

        let stats = meter.read();
        assert_eq!(stats.hooks[0].calls, [1, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(stats.hooks[0].durations[..3], [1, 1, 0]);
        assert_eq!(stats.hooks[0].duration_ns_sum, 501);
        assert_eq!(stats.hooks[1].calls, [0, 0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(stats.hooks[1].durations[DURATION_BUCKETS - 1], 1);
        assert_eq!(stats.traps, 1);
    }

    #[test]
    fn the_first_call_of_each_hook_is_timed_and_then_one_in_some() {
        let meter = Meter::new("p".into());
        let timed = |hook| (0..33).filter(|_| meter.is_timed(hook)).count();

        assert_eq!(timed(Hook::Request), 3);
        assert_eq!(timed(Hook::Response), 3);
    }

    #[test]
    fn outcomes_are_in_the_order_of_the_list() {
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome.index(), index);
        }
    }

    #[test]
    fn complaints_are_bounded_and_those_left_out_counted() {
        let meter = Meter::new("p".into());
        let now = Instant::now();

        let written = (0..100).filter(|_| meter.may_complain(now).is_some()).count();

        assert_eq!(written, 5);
        assert_eq!(meter.may_complain(now + Duration::from_secs(1)), Some(95));
    }
}
