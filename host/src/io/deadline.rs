//! When to stop waiting: one coarse deadline per connection.
//!
//! A worker's deadlines are one array of ticks. Arming one is a store; once a tick the worker walks
//! the array and wakes the tasks whose time has come. No timer is armed, moved or cancelled per
//! request. Each walk reads 8 bytes per connection, twenty times a second, which is why it is not a
//! wheel: that would cost on every arming, which happens several times a request.
//!
//! A deadline fires up to two ticks late, and never early in ticks. A worker that is late for a tick
//! is not late for the next; ticks that it misses as a whole do not count: nobody's time is up because
//! the worker did not look.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

/// How often deadlines are looked at.
pub const TICK: Duration = Duration::from_millis(50);

const NEVER: u64 = u64::MAX;

/// All deadlines of a worker.
#[derive(Debug, Default)]
pub struct Deadlines {
    now: Cell<u64>,
    /// Ticks, by slot.
    due: RefCell<Vec<u64>>,
    wakers: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<u32>>,
}

/// The deadline of one connection.
#[derive(Debug)]
pub struct Timer {
    table: Rc<Deadlines>,
    slot: u32,
    /// Longest silence that the current phase allows.
    phase: Cell<u64>,
    /// End of the whole exchange, whatever happens in between.
    limit: Cell<u64>,
}

impl Deadlines {
    /// A timer for a connection.
    pub fn timer(self: &Rc<Self>) -> Timer {
        let mut due = self.due.borrow_mut();
        let slot = self.free.borrow_mut().pop().unwrap_or_else(|| {
            due.push(NEVER);
            self.wakers.borrow_mut().push(None);
            u32::try_from(due.len() - 1).expect("fewer connections than 2^32")
        });
        Timer { table: Rc::clone(self), slot, phase: Cell::new(NEVER), limit: Cell::new(NEVER) }
    }

    /// Ticks so far.
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// Moves time on by one tick, and wakes whoever is due.
    pub fn tick(&self) {
        let now = self.now.get() + 1;
        self.now.set(now);
        for (slot, due) in self.due.borrow_mut().iter_mut().enumerate() {
            if *due <= now {
                *due = NEVER;
                if let Some(waker) = &self.wakers.borrow()[slot] {
                    waker.wake_by_ref();
                }
            }
        }
    }

    /// Wakes everybody, to look at something that has changed.
    pub fn wake_all(&self) {
        for waker in self.wakers.borrow().iter().flatten() {
            waker.wake_by_ref();
        }
    }

    fn after(&self, wait: Duration) -> u64 {
        // In 64 bits: a request comes by here several times.
        let millis = u64::try_from(wait.as_millis()).unwrap_or(NEVER);
        let ticks = millis.div_ceil(TICK.subsec_millis().into());
        // One more, because the current tick has begun some time ago.
        self.now.get().saturating_add(ticks).saturating_add(1)
    }
}

impl Timer {
    /// Names the task to wake. Called once, by the task that owns the connection.
    pub fn bind(&self, context: &Context<'_>) {
        self.table.wakers.borrow_mut()[self.slot as usize] = Some(context.waker().clone());
    }

    /// All deadlines of its worker.
    pub fn deadlines(&self) -> &Rc<Deadlines> {
        &self.table
    }

    /// The current phase may be silent for `wait` from now on.
    pub fn arm(&self, wait: Duration) {
        self.phase.set(self.table.after(wait));
        self.store();
    }

    /// The current phase may take as long as it likes.
    pub fn disarm(&self) {
        self.phase.set(NEVER);
        self.store();
    }

    /// All phases together may take `wait` from now on; `None` lifts the limit.
    pub fn limit(&self, wait: Option<Duration>) {
        self.limit.set(wait.map_or(NEVER, |wait| self.table.after(wait)));
        self.store();
    }

    /// All phases together may take at most `wait` from now on, or what is left of their limit.
    pub fn tighten(&self, wait: Duration) {
        self.limit.set(self.limit.get().min(self.table.after(wait)));
        self.store();
    }

    /// Whether it is the limit that has been reached.
    pub fn is_over(&self) -> bool {
        self.limit.get() <= self.table.now.get()
    }

    /// Whether time is up.
    pub fn is_due(&self) -> bool {
        self.phase.get().min(self.limit.get()) <= self.table.now.get()
    }

    fn store(&self) {
        self.table.due.borrow_mut()[self.slot as usize] = self.phase.get().min(self.limit.get());
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.table.due.borrow_mut()[self.slot as usize] = NEVER;
        self.table.wakers.borrow_mut()[self.slot as usize] = None;
        self.table.free.borrow_mut().push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_early_and_at_most_two_ticks_late() {
        let table = Rc::new(Deadlines::default());
        let timer = table.timer();
        timer.arm(TICK * 3);

        let ticks = (1..).find(|_| {
            table.tick();
            timer.is_due()
        });

        assert!(matches!(ticks, Some(3..=5)), "{ticks:?}");
    }

    #[test]
    fn the_limit_holds_while_phases_are_armed_anew() {
        let table = Rc::new(Deadlines::default());
        let timer = table.timer();
        timer.limit(Some(TICK * 4));

        for _ in 0..10 {
            timer.arm(TICK * 2);
            table.tick();
        }

        assert!(timer.is_due() && timer.is_over());
        timer.limit(None);
        assert!(!timer.is_due());
    }

    #[test]
    fn a_limit_is_tightened_and_never_widened() {
        let table = Rc::new(Deadlines::default());
        let timer = table.timer();
        timer.limit(Some(TICK * 4));
        timer.tighten(TICK * 100);
        for _ in 0..5 {
            table.tick();
        }
        assert!(timer.is_over());

        timer.limit(Some(TICK * 100));
        timer.tighten(TICK);
        for _ in 0..3 {
            table.tick();
        }
        assert!(timer.is_over());
    }

    #[test]
    fn a_slot_is_used_again_without_its_old_deadline() {
        let table = Rc::new(Deadlines::default());
        let first = table.timer();
        first.arm(TICK);
        drop(first);
        let second = table.timer();

        table.tick();
        table.tick();
        table.tick();

        assert!(!second.is_due());
        assert_eq!(table.due.borrow().len(), 1);
    }
}
