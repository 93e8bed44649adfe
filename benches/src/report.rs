//! From measurements to the table.
//!
//! Every figure is the median over the rounds, with the smallest and largest beside it. A ratio
//! is taken within each round, between two measurements that ran seconds apart, and the median
//! of these is shown: the machine's speed changes between rounds and drops out.
//!
//! Not here: how the figures were measured.

use std::fmt::Write;

use serde_json::Value;

use crate::scenario::Scenario;

/// Below this share of its CPU a proxy was not what limited the rate. Not 1: Linux keeps 5 % of
/// each CPU from SCHED_FIFO when others want it.
const SATURATED: f64 = 0.90;

/// What one contender showed in one round of one scenario.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Measurement {
    /// Name of the scenario.
    pub(crate) scenario: String,
    /// Name of the contender.
    pub(crate) contender: String,
    /// Number of the round.
    pub(crate) round: u64,
    /// CPU time of the contender per request, saturated; µs. Nothing for the direct load.
    pub(crate) cpu_us: f64,
    /// The same of the origin and of the load generator.
    pub(crate) tools_us: (f64, f64),
    /// Share of the window in which the contender ran.
    pub(crate) busy: f64,
    /// Requests per second, saturated.
    pub(crate) rate: f64,
    /// p50 and p99 at the fixed rate; ms.
    pub(crate) paced_ms: (f64, f64),
    /// Errors in both loads.
    pub(crate) errors: u64,
    /// Resident memory after the loads; MiB.
    pub(crate) resident_mib: f64,
}

impl Measurement {
    /// Reads a line of `measurements.jsonl`; none if a load had no answer at all.
    pub(crate) fn from_json(line: &Value) -> Option<Self> {
        let number = |pointer: &str| line.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        let text = |name: &str| Some(line.get(name)?.as_str()?.to_owned());
        let answered = number("/saturated/answered_in_window");
        if answered == 0 || number("/paced/successes") == 0 {
            return None;
        }
        let each_us = |name: &str| {
            let cpu_ns = number(&format!("/saturated/cpu_ns/{name}"));
            cpu_ns as f64 / answered as f64 / 1e3
        };
        let busy = number("/saturated/cpu_ns/proxy") as f64 / number("/saturated/window_ns") as f64;
        let float = |pointer: &str| line.pointer(pointer).and_then(Value::as_f64).unwrap_or(0.0);
        let paced_ms = |name: &str| float(&format!("/paced/latency_us/{name}")) / 1e3;
        Some(Self {
            scenario: text("scenario")?,
            contender: text("contender")?,
            round: number("/round"),
            cpu_us: each_us("proxy"),
            tools_us: (each_us("origin"), each_us("load")),
            busy,
            rate: float("/saturated/answers_per_second"),
            paced_ms: (paced_ms("p50"), paced_ms("p99")),
            errors: number("/saturated/errors/total") + number("/paced/errors/total"),
            resident_mib: number("/resident_kib") as f64 / 1024.0,
        })
    }
}

/// The table of one scenario.
pub(crate) fn table(scenario: &Scenario, all: &[Measurement]) -> String {
    let all: Vec<&Measurement> = all.iter().filter(|m| m.scenario == scenario.name).collect();
    let mut text = format!("{}: {}\n", scenario.name, scenario.title);
    let head = format!(
        "  {:<10} {:>22} {:>18} {:>18} {:>24} {:>6} {:>8} {:>22} {:>5} {:>7}",
        "",
        "CPU µs/request",
        "× haproxy",
        "× nginx",
        "requests/s",
        "busy",
        "p50 ms",
        "p99 ms",
        "MiB",
        "errors"
    );
    let _ = writeln!(text, "{head}");
    let mut unsaturated = false;
    for name in contenders(&all) {
        let of = |field: fn(&Measurement) -> f64| Spread::of(values(&all, &name, field));
        let errors: u64 = all.iter().filter(|m| m.contender == name).map(|m| m.errors).sum();
        let busy = of(|m| m.busy);
        let direct = name == "direct";
        unsaturated |= !direct && busy.median < SATURATED;
        let cell =
            |spread: Spread, digits| if direct { String::new() } else { spread.show(digits) };
        let against = |peer: &str| {
            let ratios = ratios(&all, &name, peer);
            if direct || ratios.is_empty() { String::new() } else { Spread::of(ratios).show(2) }
        };
        let row = format!(
            "  {:<10} {:>22} {:>18} {:>18} {:>24} {:>6} {:>8.2} {:>22} {:>5} {:>7}",
            name,
            cell(of(|m| m.cpu_us), 2),
            against("haproxy"),
            against("nginx"),
            of(|m| m.rate).show(0),
            if direct { String::new() } else { format!("{:.0} %", busy.median * 100.0) },
            of(|m| m.paced_ms.0).median,
            of(|m| m.paced_ms.1).show(2),
            if direct { String::new() } else { format!("{:.0}", of(|m| m.resident_mib).median) },
            errors,
        );
        let _ = writeln!(text, "{row}");
    }
    text.push_str(&tools(&all));
    text.push_str(&slope(&all));
    let _ = writeln!(text, "  p50 and p99 at {} requests/s.", thousands(scenario.rate as f64));
    if unsaturated {
        text.push_str(
            "  Busy below 90 %: that proxy was not saturated, its requests/s is a lower bound.\n",
        );
    }
    text
}

/// What origin and load generator cost beside the proxies.
fn tools(all: &[&Measurement]) -> String {
    let direct = values(all, "direct", |m| m.tools_us.0);
    if direct.is_empty() {
        return String::new();
    }
    let origin = Spread::of(direct).show(2);
    let load = Spread::of(values(all, "direct", |m| m.tools_us.1)).show(2);
    format!("  Tools, asked directly: origin {origin} µs, load generator {load} µs a request.\n")
}

/// What a plugin adds: the first one, and each of the next three.
fn slope(all: &[&Measurement]) -> String {
    let by_round = |more: &str, less: &str, plugins: f64| -> Vec<f64> {
        let pairs = pairs(all, more, less);
        pairs.iter().map(|(more, less)| (more.cpu_us - less.cpu_us) / plugins).collect()
    };
    let first = by_round("zproxy+1", "zproxy", 1.0);
    let next = by_round("zproxy+4", "zproxy+1", 3.0);
    let mut text = String::new();
    for (added, what) in [(first, "the first plugin"), (next, "each of three more, (4 − 1) / 3")]
    {
        if !added.is_empty() {
            let _ = writeln!(text, "  Added µs a request, {what}: {}.", Spread::of(added).show(2));
        }
    }
    text
}

/// Names in the order of their first measurement.
fn contenders(all: &[&Measurement]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for measurement in all {
        if !names.contains(&measurement.contender) {
            names.push(measurement.contender.clone());
        }
    }
    names
}

fn values(all: &[&Measurement], contender: &str, field: impl Fn(&Measurement) -> f64) -> Vec<f64> {
    all.iter().filter(|m| m.contender == contender).map(|m| field(m)).collect()
}

/// Measurements of two contenders in the same round.
fn pairs<'a>(
    all: &[&'a Measurement],
    left: &str,
    right: &str,
) -> Vec<(&'a Measurement, &'a Measurement)> {
    let lefts = all.iter().copied().filter(|m| m.contender == left);
    let other =
        |m: &Measurement| all.iter().copied().find(|o| o.contender == right && o.round == m.round);
    lefts.filter_map(|m| Some((m, other(m)?))).collect()
}

/// CPU time as a share of the peer's, round by round.
fn ratios(all: &[&Measurement], contender: &str, peer: &str) -> Vec<f64> {
    pairs(all, contender, peer).iter().map(|(own, peer)| own.cpu_us / peer.cpu_us).collect()
}

/// Median, smallest and largest of the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => f64::NAN,
            length if length % 2 == 1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        };
        Self {
            median,
            least: values.first().copied().unwrap_or(f64::NAN),
            most: values.last().copied().unwrap_or(f64::NAN),
        }
    }

    /// `1.23 (1.20–1.30)`, or with thousands apart where there are no digits.
    fn show(self, digits: usize) -> String {
        let one = |value: f64| {
            if digits == 0 { thousands(value) } else { format!("{value:.digits$}") }
        };
        format!("{} ({}–{})", one(self.median), one(self.least), one(self.most))
    }
}

/// 12345.6 as `12,346`.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::SCENARIOS;
    use serde_json::json;

    fn measurement(contender: &str, round: u64, cpu_us: f64) -> Measurement {
        Measurement {
            scenario: "keepalive".to_owned(),
            contender: contender.to_owned(),
            round,
            cpu_us,
            tools_us: (3.0, 4.0),
            busy: 1.0,
            rate: 50_000.0,
            paced_ms: (0.1, 0.5),
            errors: 0,
            resident_mib: 10.0,
        }
    }

    /// The machine ran at half speed in the second round: ratios must not notice.
    #[test]
    fn a_ratio_compares_within_a_round() {
        let all = [
            measurement("haproxy", 0, 10.0),
            measurement("zproxy", 0, 7.0),
            measurement("haproxy", 1, 20.0),
            measurement("zproxy", 1, 14.0),
        ];

        let table = table(&SCENARIOS[0], &all);

        let row = table.lines().find(|line| line.starts_with("  zproxy")).unwrap();
        assert!(row.contains("10.50 (7.00–14.00)"), "{table}");
        assert!(row.contains("0.70 (0.70–0.70)"), "{table}");
        assert!(row.contains("50,000"), "{table}");
    }

    #[test]
    fn plugins_are_priced_by_slopes() {
        let all = [
            measurement("zproxy", 0, 10.0),
            measurement("zproxy+1", 0, 10.5),
            measurement("zproxy+4", 0, 11.7),
        ];

        let table = table(&SCENARIOS[0], &all);

        assert!(table.contains("the first plugin: 0.50"), "{table}");
        assert!(table.contains("(4 − 1) / 3: 0.40"), "{table}");
    }

    #[test]
    fn a_median_of_rounds_ignores_one_that_went_wrong() {
        assert_eq!(Spread::of(vec![9.0, 1.0, 2.0]), Spread { median: 2.0, least: 1.0, most: 9.0 });
        assert_eq!(thousands(1_234_567.0), "1,234,567");
        assert_eq!(thousands(999.0), "999");
    }

    #[test]
    fn a_line_of_raw_output_is_read_back() {
        let line = json!({
            "scenario": "keepalive", "contender": "nginx", "round": 2, "resident_kib": 10_240,
            "saturated": {
                "answered_in_window": 1_000, "answers_per_second": 500, "window_ns": 40_000_000,
                "errors": { "total": 1 },
                "cpu_ns": { "proxy": 20_000_000, "origin": 3_000_000, "load": 4_000_000 },
            },
            "paced": {
                "successes": 10, "errors": { "total": 2 }, "latency_us": { "p50": 100, "p99": 900 },
            },
        });

        let read = Measurement::from_json(&line).unwrap();

        assert_eq!((read.cpu_us, read.tools_us, read.busy), (20.0, (3.0, 4.0), 0.5));
        assert_eq!((read.paced_ms, read.errors, read.round), ((0.1, 0.9), 3, 2));
        assert_eq!(Measurement::from_json(&json!({ "scenario": "x", "contender": "y" })), None);
    }
}
