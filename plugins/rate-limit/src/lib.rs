//! Lets only so many requests pass in a time.
//!
//! ```text
//! on the allow-list? ─► each limit: key ─► take from all quotas or from none ─► next, with what is left
//!                                               └─ too little ─► 429
//! ```
//!
//! Quotas are the host's, which keeps one arrival time for each key (GCRA) and changes it in one step: a
//! limit holds over all workers, and over all gateways that share a Redis, which is asked once for all limits of
//! a request. What a key is counted under begins with a digest of the limit, so that two
//! routes with the same limit share it and two limits never meet.
//!
//! Not here: how quotas are kept, and how many (`counters` of the host).

mod address;
mod config;
mod key;

use std::cell::RefCell;
use std::time::Duration;

use zproxy_sdk::counters::{self, Decision, Quota, Shortage, Wanted};
use zproxy_sdk::metrics::Counter;
use zproxy_sdk::{Flow, Middleware, Problem, Reply, Request, debug, export};

use address::Network;
use config::Config;
use key::Part;

/// The plugin: a configuration that is good when it has no problems.
#[derive(Debug, serde::Deserialize)]
#[serde(from = "Config")]
struct RateLimit {
    problems: Vec<Problem>,
    enabled: bool,
    limits: Vec<Limit>,
    allow_list: Vec<Network>,
    cost: Cost,
    dry_run: bool,
    /// The value of `RateLimit-Policy`; `None` when answers are to say nothing.
    policy: Option<String>,
    /// `None` beside a problem that says why.
    refused: Option<Counter>,
    /// A key in the making,
    key: RefCell<Vec<u8>>,
    /// and a value of `RateLimit`.
    left: RefCell<Vec<u8>>,
}

/// A quota for each key.
#[derive(Debug)]
struct Limit {
    name: String,
    quota: Quota,
    /// What its keys begin with.
    prefix: [u8; 8],
    parts: Vec<Part>,
}

/// What a request takes from each limit.
#[derive(Debug)]
enum Cost {
    Fixed(u32),
    /// The number in a field, at least one.
    Header(String),
}

impl Middleware for RateLimit {
    fn request_fields(&self) -> Vec<&str> {
        let mut fields: Vec<&str> =
            self.limits.iter().flat_map(|limit| &limit.parts).flat_map(Part::fields).collect();
        if !self.allow_list.is_empty() {
            fields.push(key::CLIENT);
        }
        if let Cost::Header(name) = &self.cost {
            fields.push(name);
        }
        fields.sort_unstable();
        fields.dedup();
        fields
    }

    fn on_request(&self, request: &mut Request) -> Flow {
        if !self.enabled || self.is_allowed(request) {
            return Flow::Next;
        }
        let cost = self.cost.of(request);
        let mut left = self.left.borrow_mut();
        left.clear();
        if let [limit] = self.limits.as_slice() {
            let mut key = self.key.borrow_mut();
            limit.write_key(request, &mut key);
            let decision = counters::take(&*key, limit.quota, cost);
            if !decision.allowed {
                return self.refuse(request, limit, &decision);
            }
            if self.policy.is_some() {
                limit.write_left(&decision, &mut left);
            }
        } else {
            let wanted = self.limits.iter().map(|limit| {
                let mut key = Vec::new();
                limit.write_key(request, &mut key);
                Wanted { key, quota: limit.quota, cost }
            });
            match counters::take_all(wanted) {
                Ok(decisions) => {
                    for (limit, decision) in self.limits.iter().zip(&decisions) {
                        limit.write_left(decision, &mut left);
                    }
                }
                Err(Shortage { index, decision }) => {
                    let Some(limit) = self.limits.get(index) else { return Flow::Next };
                    return self.refuse(request, limit, &decision);
                }
            }
        }
        if let Some(policy) = self.policy.as_ref().filter(|_| !self.dry_run) {
            let fields = [("ratelimit-policy", policy.as_bytes()), ("ratelimit", &left)];
            request.append_to_response(fields);
        }
        Flow::Next
    }

    fn validate(&self) -> Vec<Problem> {
        self.problems.clone()
    }
}

impl RateLimit {
    fn is_allowed(&self, request: &Request) -> bool {
        if self.allow_list.is_empty() {
            return false;
        }
        let client = request.client_address();
        client.is_some_and(|client| self.allow_list.iter().any(|network| network.holds(client)))
    }

    fn refuse(&self, request: &Request, limit: &Limit, decision: &Decision) -> Flow {
        if let Some(refused) = &self.refused {
            refused.add(1);
        }
        let mode = if self.dry_run { "would be refused (dry run)" } else { "refused" };
        debug!(
            "{mode} by `{}`: {} on route `{}`",
            limit.name,
            request.client_ip(),
            request.route()
        );
        if self.dry_run {
            return Flow::Next;
        }
        let mut reply = Reply::status(429).header("content-type", "application/problem+json").body(
            r#"{"type":"about:blank","title":"Too Many Requests","status":429,"detail":"the quota is used up"}"#,
        );
        // One that costs more than can ever be taken at once has no better time.
        if decision.retry_after != Duration::MAX {
            reply = reply.header("retry-after", seconds(decision.retry_after).max(1).to_string());
        }
        if let Some(policy) = &self.policy {
            let mut left = Vec::new();
            limit.write_left(decision, &mut left);
            reply = reply.header("ratelimit-policy", policy).header("ratelimit", left);
        }
        Flow::Reply(reply)
    }
}

impl Limit {
    fn write_key(&self, request: &Request, key: &mut Vec<u8>) {
        key.clear();
        key.extend_from_slice(&self.prefix);
        for part in &self.parts {
            part.write(request, key);
        }
        key::shorten(key, self.prefix.len());
    }

    /// Adds this limit to the value of `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10).
    fn write_left(&self, decision: &Decision, value: &mut Vec<u8>) {
        if !value.is_empty() {
            value.extend_from_slice(b", ");
        }
        // `t` of a refusal is not later than `Retry-After`, which a client is to believe first.
        let reset = if decision.allowed { decision.reset_after } else { decision.retry_after };
        let left = if decision.allowed { decision.remaining } else { 0 };
        value.push(b'"');
        value.extend_from_slice(self.name.as_bytes());
        value.extend_from_slice(b"\";r=");
        write_number(left.into(), value);
        if reset != Duration::MAX {
            value.extend_from_slice(b";t=");
            write_number(seconds(reset), value);
        }
    }
}

impl Cost {
    fn of(&self, request: &Request) -> u32 {
        match self {
            Self::Fixed(cost) => *cost,
            Self::Header(name) => {
                let written = request.header(name);
                let cost = written.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(1);
                u32::try_from(cost).unwrap_or(u32::MAX).max(1)
            }
        }
    }
}

/// Writes a number, without the machinery of `fmt`, which takes longer than everything else here.
fn write_number(mut number: u64, text: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    text.extend_from_slice(&digits[first..]);
}

/// In whole seconds, never too early.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add((duration.subsec_nanos() > 0).into())
}

export!(RateLimit: on_request, validate);

#[cfg(test)]
mod tests;
