//! What it costs to hand something to another thread: through a queue without a lock, as connections
//! are handed to workers, against a locked one.
//!
//! - `crossbeam` is `crossbeam::channel::bounded`, an array with a sequence number in each slot,
//! - `mutex` is a `VecDeque` in a `Mutex` with a `Condvar`.
//!
//! `one by one` is one producer that hands over and one consumer that waits, `contended` four producers
//! and one consumer, `there and back` a ping-pong over two queues, in which each hand-over wakes a
//! sleeper. Both kinds run in turn in each round; the median over the rounds is shown, with the median,
//! least and largest of the ratios within a round. With fewer CPUs than threads, what is measured is
//! also the scheduler.
//!
//! `cargo bench --bench hand_over`

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Instant;

use crossbeam::channel::{Receiver, Sender, bounded};

const ROUNDS: usize = 31;
const ITEMS: usize = 100_000;
const TURNS: usize = 10_000;

/// As many as a worker's queue holds.
const ROOM: usize = 256;

trait Queue: Sync {
    fn send(&self, item: usize);
    fn receive(&self) -> usize;
}

struct Crossbeam(Sender<usize>, Receiver<usize>);

impl Crossbeam {
    fn new() -> Self {
        let (sender, receiver) = bounded(ROOM);
        Self(sender, receiver)
    }
}

impl Queue for Crossbeam {
    fn send(&self, item: usize) {
        self.0.send(item).unwrap();
    }

    fn receive(&self) -> usize {
        self.1.recv().unwrap()
    }
}

#[derive(Default)]
struct Locked {
    items: Mutex<VecDeque<usize>>,
    filled: Condvar,
    emptied: Condvar,
}

impl Queue for Locked {
    fn send(&self, item: usize) {
        let items = self.items.lock().unwrap();
        let mut items = self.emptied.wait_while(items, |items| items.len() >= ROOM).unwrap();
        items.push_back(item);
        drop(items);
        self.filled.notify_one();
    }

    fn receive(&self) -> usize {
        let items = self.items.lock().unwrap();
        let mut items = self.filled.wait_while(items, |items| items.is_empty()).unwrap();
        let item = items.pop_front().unwrap();
        drop(items);
        self.emptied.notify_one();
        item
    }
}

/// Nanoseconds for each item.
fn stream(queue: &impl Queue, producers: usize) -> f64 {
    let each = ITEMS / producers;
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..producers {
            scope.spawn(|| (0..each).for_each(|item| queue.send(item)));
        }
        for _ in 0..each * producers {
            queue.receive();
        }
    });
    began.elapsed().as_secs_f64() * 1e9 / ITEMS as f64
}

/// Nanoseconds for each hand-over.
fn there_and_back(there: &impl Queue, back: &impl Queue) -> f64 {
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| (0..TURNS).for_each(|_| back.send(there.receive())));
        for turn in 0..TURNS {
            there.send(turn);
            back.receive();
        }
    });
    began.elapsed().as_secs_f64() * 1e9 / (2 * TURNS) as f64
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    type Case = (&'static str, fn() -> f64, fn() -> f64);
    let cases: [Case; 3] = [
        ("one by one", || stream(&Crossbeam::new(), 1), || stream(&Locked::default(), 1)),
        ("contended", || stream(&Crossbeam::new(), 4), || stream(&Locked::default(), 4)),
        (
            "there and back",
            || there_and_back(&Crossbeam::new(), &Crossbeam::new()),
            || there_and_back(&Locked::default(), &Locked::default()),
        ),
    ];
    println!("{:<16}{:>12}{:>12}   crossbeam/mutex", "ns per item", "crossbeam", "mutex");
    for (name, free, locked) in cases {
        let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (one, other) = (free(), locked());
            ours.push(one);
            theirs.push(other);
            ratios.push(one / other);
        }
        let ratio = median(&mut ratios);
        println!(
            "{name:<16}{:>12.0}{:>12.0}   {ratio:.2} ({:.2} to {:.2})",
            median(&mut ours),
            median(&mut theirs),
            ratios[0],
            ratios[ROUNDS - 1],
        );
    }
}
