//! What a load counts, and the JSON that it becomes.
//!
//! Not here: deciding what counts (`engine`), the table for people (`table`).

use serde_json::{Map, Value, json};

use super::histogram::Histogram;

/// Why a request is not among the good ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection was refused, or could not be begun.
    Connect,
    /// The connection broke.
    Reset,
    /// The connection was closed before the answer was whole.
    Truncated,
    /// A complete answer with a status that is no success.
    Status,
    /// A complete answer with a body of another length than expected.
    Length,
    /// What came is no answer: no head, contradictory framing, bytes where none belong.
    Malformed,
    /// Given up after the time-out.
    Timeout,
    /// Nothing whole had come back when the run ended, though it had time.
    Unanswered,
}

/// Every fault with its name in the output.
const FAULTS: [(Fault, &str); 8] = [
    (Fault::Connect, "connect"),
    (Fault::Reset, "reset"),
    (Fault::Truncated, "truncated"),
    (Fault::Status, "status"),
    (Fault::Length, "length"),
    (Fault::Malformed, "malformed"),
    (Fault::Timeout, "timeout"),
    (Fault::Unanswered, "unanswered"),
];

/// Statuses have three digits, the first from 1 to 5.
const STATUSES: usize = 600;

/// What one window showed.
#[derive(Debug)]
pub struct Outcome {
    /// How long it was.
    pub window_ns: u64,
    /// Good answers to requests of the window.
    pub successes: u64,
    /// Good answers that came within the window: at a rate some come after it.
    pub answered: u64,
    /// Connections begun.
    pub connects: u64,
    /// Kept connections that the other side has ended.
    pub reconnects: u64,
    /// Bytes that came in, heads included.
    pub bytes_received: u64,
    /// Bytes that went out.
    pub bytes_sent: u64,
    pub(super) latencies_ns: Histogram,
    pub(super) connects_ns: Histogram,
    statuses: Vec<u64>,
    faults: [u64; FAULTS.len()],
}

impl Outcome {
    /// Nothing counted.
    pub(super) fn new() -> Self {
        Self {
            window_ns: 0,
            successes: 0,
            answered: 0,
            connects: 0,
            reconnects: 0,
            bytes_received: 0,
            bytes_sent: 0,
            latencies_ns: Histogram::new(),
            connects_ns: Histogram::new(),
            statuses: vec![0; STATUSES],
            faults: [0; FAULTS.len()],
        }
    }

    /// Adds what another thread counted in the same window.
    pub(super) fn add(&mut self, other: &Self) {
        self.window_ns = self.window_ns.max(other.window_ns);
        self.successes += other.successes;
        self.answered += other.answered;
        self.connects += other.connects;
        self.reconnects += other.reconnects;
        self.bytes_received += other.bytes_received;
        self.bytes_sent += other.bytes_sent;
        self.latencies_ns.add(&other.latencies_ns);
        self.connects_ns.add(&other.connects_ns);
        self.statuses.iter_mut().zip(&other.statuses).for_each(|(own, more)| *own += more);
        self.faults.iter_mut().zip(&other.faults).for_each(|(own, more)| *own += more);
    }

    /// A good answer, after so long.
    pub(super) fn good(&mut self, latency_ns: u64) {
        self.successes += 1;
        self.latencies_ns.record(latency_ns);
    }

    /// A request that went wrong; how long it took is not a latency.
    pub(super) fn bad(&mut self, fault: Fault) {
        self.faults[fault as usize] += 1;
    }

    /// A request that was given up: it waited at least so long, which is a latency.
    pub(super) fn given_up(&mut self, fault: Fault, waited_ns: u64) {
        self.latencies_ns.record(waited_ns);
        self.bad(fault);
    }

    /// The status of a complete answer.
    pub(super) fn status(&mut self, status: u16) {
        if let Some(count) = self.statuses.get_mut(usize::from(status)) {
            *count += 1;
        }
    }

    /// Requests that have ended, well or not.
    pub fn requests(&self) -> u64 {
        self.successes + self.failures()
    }

    /// Requests that went wrong.
    pub fn failures(&self) -> u64 {
        self.faults.iter().sum()
    }

    /// Complete answers, whatever they say.
    pub fn answers(&self) -> u64 {
        self.statuses.iter().sum()
    }

    /// Share of the requests that went well; 0 without any.
    pub fn success_rate(&self) -> f64 {
        self.successes as f64 / self.requests().max(1) as f64
    }

    /// So many of something as a rate over the window.
    pub fn per_second(&self, count: u64) -> f64 {
        count as f64 * 1e9 / self.window_ns.max(1) as f64
    }

    /// Statuses that came, and how often.
    pub fn statuses(&self) -> impl Iterator<Item = (usize, u64)> {
        self.statuses.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }

    /// Faults that occurred, and how often.
    pub fn faults(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let count = |(fault, name): &(Fault, &'static str)| (*name, self.faults[*fault as usize]);
        FAULTS.iter().map(count).filter(|(_, count)| *count > 0)
    }

    /// Everything.
    pub fn to_json(&self) -> Value {
        let mut errors: Map<String, Value> = FAULTS
            .iter()
            .map(|(fault, name)| ((*name).to_owned(), json!(self.faults[*fault as usize])))
            .collect();
        errors.insert("total".to_owned(), json!(self.failures()));
        let statuses = self.statuses().map(|(status, count)| (status.to_string(), json!(count)));
        json!({
            "seconds": self.window_ns as f64 / 1e9,
            "window_ns": self.window_ns,
            "requests": self.requests(),
            "requests_per_second": self.per_second(self.requests()),
            "successes": self.successes,
            "success_rate": self.success_rate(),
            "answered_in_window": self.answered,
            "answers_per_second": self.per_second(self.answered),
            "latency_us": distribution(&self.latencies_ns),
            "latency_histogram": buckets(&self.latencies_ns)
                .map(|(up_to_us, count)| json!({ "up_to_us": up_to_us, "count": count }))
                .collect::<Vec<_>>(),
            "connections": self.connects,
            "reconnects": self.reconnects,
            "connect_us": distribution(&self.connects_ns),
            "statuses": statuses.collect::<Map<_, _>>(),
            "errors": errors,
            "bytes_received": self.bytes_received,
            "bytes_sent": self.bytes_sent,
        })
    }
}

/// What is said of many durations, in microseconds.
fn distribution(durations_ns: &Histogram) -> Value {
    let us = |ns: u64| json!(ns as f64 / 1e3);
    json!({
        "count": durations_ns.total(),
        "min": us(durations_ns.min()),
        "avg": us(durations_ns.mean()),
        "p50": us(durations_ns.quantile(50_000)),
        "p90": us(durations_ns.quantile(90_000)),
        "p99": us(durations_ns.quantile(99_000)),
        "p99.9": us(durations_ns.quantile(99_900)),
        "max": us(durations_ns.max()),
    })
}

/// Durations between limits of 1, 2 and 5 times powers of ten: the limit above in µs, and how many.
/// From the first to the last that has any.
pub(super) fn buckets(durations_ns: &Histogram) -> impl Iterator<Item = (u64, u64)> {
    let mut limits_us = Vec::new();
    let mut decade = 10;
    while limits_us.last().is_none_or(|last: &u64| last * 1_000 < durations_ns.max()) {
        limits_us.extend([1, 2, 5].map(|factor| factor * decade));
        decade *= 10;
    }
    let mut before = 0;
    let total = durations_ns.total();
    limits_us.into_iter().filter_map(move |limit_us| {
        let below = durations_ns.up_to(limit_us * 1_000);
        let count = below - before;
        let is_within = below > 0 && before < total;
        before = below;
        is_within.then_some((limit_us, count))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_threads_counted_adds_up() {
        let (mut left, mut right) = (Outcome::new(), Outcome::new());
        (left.window_ns, right.window_ns) = (2_000_000_000, 1_900_000_000);
        left.good(1_000_000);
        left.status(200);
        right.bad(Fault::Status);
        right.status(503);
        right.given_up(Fault::Timeout, 5_000_000_000);

        left.add(&right);

        assert_eq!(
            (left.requests(), left.successes, left.failures(), left.answers()),
            (3, 1, 2, 2)
        );
        let json = left.to_json();
        assert_eq!(json["statuses"], json!({ "200": 1, "503": 1 }));
        assert_eq!((&json["errors"]["status"], &json["errors"]["total"]), (&json!(1), &json!(2)));
        assert_eq!(json["requests_per_second"], json!(1.5));
        assert_eq!(json["latency_us"]["max"], json!(5_000_000.0));
        assert_eq!(json["latency_us"]["min"], json!(1_000.0));
    }

    #[test]
    fn buckets_reach_from_the_first_to_the_last_and_lose_nothing() {
        let mut durations = Histogram::new();
        [15_000, 18_000, 450_000, 9_000_000].into_iter().for_each(|ns| durations.record(ns));

        let buckets: Vec<(u64, u64)> = buckets(&durations).collect();

        assert_eq!(buckets.first(), Some(&(20, 2)));
        assert_eq!(buckets.last(), Some(&(10_000, 1)));
        assert_eq!(buckets.iter().map(|bucket| bucket.1).sum::<u64>(), 4);
        assert_eq!(super::buckets(&Histogram::new()).count(), 0);
    }
}
