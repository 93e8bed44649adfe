//! What a load counts, and the JSON that it becomes.
//!
//! Not here: deciding what counts (`engine`).

use serde_json::{Map, Value, json};

use crate::histogram::Histogram;

/// Why a request is not among the good ones.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Refused, reset, or no descriptor left.
    Connection,
    /// Ended before its response was whole.
    Truncated,
    /// Not 200.
    Status,
    /// 200, with a body of another length than expected.
    Length,
    /// No Content-Length, bytes beyond the body, or a head without end.
    Malformed,
    /// Nothing whole came back by the end of the run.
    Unanswered,
}

/// Every fault with its name in the output.
const FAULTS: [(Fault, &str); 6] = [
    (Fault::Connection, "connection"),
    (Fault::Truncated, "truncated"),
    (Fault::Status, "status"),
    (Fault::Length, "length"),
    (Fault::Malformed, "malformed"),
    (Fault::Unanswered, "unanswered"),
];

/// The counts of one window.
pub(crate) struct Tally {
    /// Good answers to requests of the window.
    pub(crate) requests: u64,
    /// Good answers that came within the window: what the CPU time is divided by.
    pub(crate) answered: u64,
    /// Connections made.
    pub(crate) connects: u64,
    /// Kept connections that the other side has ended.
    pub(crate) reconnects: u64,
    latencies_ns: Histogram,
    faults: [u64; FAULTS.len()],
}

impl Tally {
    /// Nothing counted.
    pub(crate) fn new() -> Self {
        Self {
            requests: 0,
            answered: 0,
            connects: 0,
            reconnects: 0,
            latencies_ns: Histogram::new(),
            faults: [0; FAULTS.len()],
        }
    }

    /// Forgets the warm-up.
    pub(crate) fn clear(&mut self) {
        self.requests = 0;
        self.answered = 0;
        self.connects = 0;
        self.reconnects = 0;
        self.latencies_ns.clear();
        self.faults = [0; FAULTS.len()];
    }

    /// A good answer, after so long.
    pub(crate) fn good(&mut self, latency_ns: u64) {
        self.requests += 1;
        self.latencies_ns.record(latency_ns);
    }

    /// A request that went wrong; how long it took is not a latency.
    pub(crate) fn bad(&mut self, fault: Fault) {
        self.faults[fault as usize] += 1;
    }

    /// A request that was given up: it waited at least so long, which is a latency.
    pub(crate) fn unanswered(&mut self, waited_ns: u64) {
        self.latencies_ns.record(waited_ns);
        self.bad(Fault::Unanswered);
    }

    /// Everything, over a window of this length.
    pub(crate) fn to_json(&self, window_ns: u64, cpu_ns: &Map<String, Value>) -> Value {
        let mut errors: Map<String, Value> = FAULTS
            .iter()
            .map(|(fault, name)| ((*name).to_owned(), json!(self.faults[*fault as usize])))
            .collect();
        errors.insert("total".to_owned(), json!(self.faults.iter().sum::<u64>()));
        let quantile = |share| json!(self.latencies_ns.quantile(share) / 1_000);
        json!({
            "requests": self.requests,
            "answered_in_window": self.answered,
            "errors": errors,
            "connects": self.connects,
            "reconnects": self.reconnects,
            "window_ns": window_ns,
            "requests_per_second": per_second(self.answered, window_ns),
            "latency_us": {
                "p50": quantile(50_000),
                "p90": quantile(90_000),
                "p99": quantile(99_000),
                "p99.9": quantile(99_900),
                "max": self.latencies_ns.max() / 1_000,
            },
            "cpu_ns": cpu_ns,
        })
    }
}

fn per_second(count: u64, window_ns: u64) -> u64 {
    let scaled = u128::from(count) * 1_000_000_000 / u128::from(window_ns.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}
