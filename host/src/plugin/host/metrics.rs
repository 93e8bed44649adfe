//! `zproxy:gateway/metrics`.

use super::State;
use super::bindings::zproxy::gateway::metrics::Host;
use crate::state::metrics::NoSuchMetric;

impl State {
    fn counted(&mut self, what: &str, id: u32, done: Result<(), NoSuchMetric>) {
        if done.is_err() {
            self.violate(
                format_args!("metrics.{what}({id})"),
                "there is no such metric of its kind",
            );
        }
    }
}

impl Host for State {
    fn counter(&mut self, name: String, help: String) -> Result<u32, String> {
        self.metrics.counter(&name, &help)
    }

    fn gauge(&mut self, name: String, help: String) -> Result<u32, String> {
        self.metrics.gauge(&name, &help)
    }

    fn histogram(&mut self, name: String, help: String, bounds: Vec<f64>) -> Result<u32, String> {
        self.metrics.histogram(&name, &help, &bounds)
    }

    fn add(&mut self, id: u32, count: u64) {
        let done = self.metrics.add(id, count);
        self.counted("add", id, done);
    }

    fn set(&mut self, id: u32, value: f64) {
        let done = self.metrics.set(id, value);
        self.counted("set", id, done);
    }

    fn observe(&mut self, id: u32, value: f64) {
        let done = self.metrics.observe(id, value);
        self.counted("observe", id, done);
    }
}
