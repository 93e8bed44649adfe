//! Metrics of a plugin's own, on the gateway's `/metrics` as `zproxy_plugin_<plugin>_<name>`.
//!
//! Make them while the configuration is read; counting is then one cheap call.
//!
//! ```
//! use zproxy_sdk::metrics::Counter;
//! use zproxy_sdk::{Flow, Middleware, Request, export};
//!
//! #[derive(serde::Deserialize)]
//! #[serde(try_from = "Config")]
//! struct Hits {
//!     hits: Counter,
//! }
//!
//! #[derive(serde::Deserialize)]
//! struct Config {}
//!
//! impl TryFrom<Config> for Hits {
//!     type Error = String;
//!
//!     fn try_from(_: Config) -> Result<Self, String> {
//!         Ok(Self { hits: Counter::new("hits", "Requests seen.")? })
//!     }
//! }
//!
//! impl Middleware for Hits {
//!     fn on_request(&self, _: &mut Request) -> Flow {
//!         self.hits.add(1);
//!         Flow::Next
//!     }
//! }
//!
//! export!(Hits: on_request);
//! # fn main() {}
//! ```
//!
//! Names are `[a-z][a-z0-9_]*`, up to 64 bytes. An instance has at most 64 metrics.

use crate::host;

/// A number that only grows; the gateway adds `_total` to its name.
#[derive(Debug)]
pub struct Counter(u32);

impl Counter {
    /// Makes a counter, or finds the one that has been made.
    ///
    /// # Errors
    ///
    /// The name is bad or taken, or there are too many.
    pub fn new(name: &str, help: &str) -> Result<Self, String> {
        host::metrics::counter(name, help).map(Self)
    }

    /// Adds to it.
    pub fn add(&self, count: u64) {
        host::metrics::add(self.0, count);
    }
}

/// A number that goes up and down. Every instance sets its own; shown is their sum.
#[derive(Debug)]
pub struct Gauge(u32);

impl Gauge {
    /// Makes a gauge, or finds the one that has been made.
    ///
    /// # Errors
    ///
    /// The name is bad or taken, or there are too many.
    pub fn new(name: &str, help: &str) -> Result<Self, String> {
        host::metrics::gauge(name, help).map(Self)
    }

    /// Sets it.
    pub fn set(&self, value: f64) {
        host::metrics::set(self.0, value);
    }
}

/// A distribution of values.
#[derive(Debug)]
pub struct Histogram(u32);

impl Histogram {
    /// Makes a histogram with these upper ends of its buckets, or finds the one that has been made.
    ///
    /// # Errors
    ///
    /// The name is bad or taken, the bounds do not rise, or there are too many.
    pub fn new(name: &str, help: &str, bounds: &[f64]) -> Result<Self, String> {
        host::metrics::histogram(name, help, bounds).map(Self)
    }

    /// Counts a value.
    pub fn observe(&self, value: f64) {
        host::metrics::observe(self.0, value);
    }
}
