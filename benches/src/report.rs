//! From measurements to tables that can be pasted, and to goals that are met or not.
//!
//! Every figure is the median over the rounds, with the smallest and largest beside it. A ratio
//! is taken within each round, between two measurements that ran seconds apart, and the median
//! of these is shown: the machine's speed changes between rounds and drops out.
//!
//! Not here: how the figures were measured, which goals there are (`scenario`).

use std::fmt::Write;

use serde_json::Value;

use crate::scenario::{Goal, Scenario};

/// Below this share of its CPU a proxy was not what limited the rate. Not 1: Linux keeps 5 % of
/// each CPU from SCHED_FIFO when others want it.
const SATURATED: f64 = 0.90;

/// Whom the others are compared with, where they take part.
const PEERS: [&str; 7] = [
    "haproxy",
    "haproxy-fields",
    "haproxy-splice",
    "haproxy-tls",
    "nginx",
    "nginx-tuned",
    "nginx-tls",
];

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
    /// p50 and p99 at the fixed rate, where there was one; ms.
    pub(crate) paced_ms: Option<(f64, f64)>,
    /// Good answers and requests of both loads.
    pub(crate) successes: (u64, u64),
    /// Resident memory after the loads; MiB.
    pub(crate) resident_mib: f64,
}

impl Measurement {
    /// Reads a line of `measurements.jsonl`; none if a load had no answer at all.
    pub(crate) fn from_json(line: &Value) -> Option<Self> {
        let number = |pointer: &str| line.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        let float = |pointer: &str| line.pointer(pointer).and_then(Value::as_f64).unwrap_or(0.0);
        let text = |name: &str| Some(line.get(name)?.as_str()?.to_owned());
        let answered = number("/saturated/answered_in_window");
        let was_loaded = line.get("saturated").is_some();
        let was_paced = line.get("paced").is_some_and(|paced| !paced.is_null());
        if (was_loaded && answered == 0) || (was_paced && number("/paced/successes") == 0) {
            return None;
        }
        let each_us = |name: &str| {
            let cpu_ns = number(&format!("/saturated/cpu_ns/{name}"));
            cpu_ns as f64 / answered as f64 / 1e3
        };
        let busy = number("/saturated/cpu_ns/proxy") as f64 / number("/saturated/window_ns") as f64;
        let paced_ms = |name: &str| float(&format!("/paced/latency_us/{name}")) / 1e3;
        let both =
            |name: &str| number(&format!("/saturated/{name}")) + number(&format!("/paced/{name}"));
        Some(Self {
            scenario: text("scenario")?,
            contender: text("contender")?,
            round: number("/round"),
            cpu_us: each_us("proxy"),
            tools_us: (each_us("origin"), each_us("load")),
            busy,
            rate: float("/saturated/answers_per_second"),
            paced_ms: was_paced.then(|| (paced_ms("p50"), paced_ms("p99"))),
            successes: (both("successes"), both("requests")),
            resident_mib: number("/resident_kib") as f64 / 1024.0,
        })
    }
}

/// The table of one scenario.
pub(crate) fn table(scenario: &Scenario, all: &[Measurement]) -> String {
    let all: Vec<&Measurement> = all.iter().filter(|m| m.scenario == scenario.name).collect();
    let mut text = format!("### {}: {}\n\n", scenario.name, scenario.title);
    if scenario.idle {
        text.push_str(&memory(&all));
        return text;
    }
    let names = contenders(&all);
    let peers: Vec<&str> =
        PEERS.into_iter().filter(|peer| names.iter().any(|n| n == peer)).collect();
    let doubled = names.iter().any(|name| name.ends_with("-2w"));
    let is_paced = scenario.rate.is_some();
    let mut head = vec![String::new(), "CPU µs/request".to_owned()];
    head.extend(peers.iter().map(|peer| format!("× {peer}")));
    head.extend(doubled.then(|| "× one worker".to_owned()));
    head.extend(["requests/s", "busy"].map(str::to_owned));
    head.extend(is_paced.then(|| ["p50 ms", "p99 ms"].map(str::to_owned)).into_iter().flatten());
    head.extend(["success", "MiB"].map(str::to_owned));
    let mut rows = vec![head];
    let mut unsaturated = false;
    for name in &names {
        let of = |field: fn(&Measurement) -> f64| Spread::of(values(&all, name, field));
        let is_proxy = name != "direct";
        // Two workers are busy for twice the time at most.
        let cpus = if name.ends_with("-2w") { 2.0 } else { 1.0 };
        let busy = of(|m| m.busy).median / cpus;
        unsaturated |= is_proxy && busy < SATURATED;
        let against = |peer: &str| {
            let ratios = ratios(&all, name, peer);
            if ratios.is_empty() { String::new() } else { Spread::of(ratios).show(2) }
        };
        let or_nothing = |text: String| if is_proxy { text } else { String::new() };
        let mut row = vec![name.clone(), or_nothing(of(|m| m.cpu_us).show(2))];
        row.extend(peers.iter().map(|peer| or_nothing(against(peer))));
        if doubled {
            row.push(name.strip_suffix("-2w").map(against).unwrap_or_default());
        }
        row.push(of(|m| m.rate).show(0));
        row.push(or_nothing(format!("{:.0} %", busy * 100.0)));
        if is_paced {
            row.push(format!("{:.2}", of(|m| m.paced_ms.unwrap_or_default().0).median));
            row.push(of(|m| m.paced_ms.unwrap_or_default().1).show(2));
        }
        row.push(success(&all, name));
        row.push(or_nothing(format!("{:.0}", of(|m| m.resident_mib).median)));
        rows.push(row);
    }
    text.push_str(&markdown(&rows));
    text.push('\n');
    text.push_str(&tools(&all));
    text.push_str(&slope(&all));
    if let Some(rate) = scenario.rate {
        let _ = writeln!(text, "- p50 and p99 at {} requests/s.", thousands(rate as f64));
    }
    if unsaturated {
        text.push_str(
            "- Busy below 90 %: that proxy was not saturated, its rate is a lower bound.\n",
        );
    }
    text
}

/// What is held at rest.
fn memory(all: &[&Measurement]) -> String {
    let mut rows = vec![vec![String::new(), "MiB resident".to_owned()]];
    for name in contenders(all) {
        let resident = Spread::of(values(all, &name, |m| m.resident_mib)).show(1);
        rows.push(vec![name, resident]);
    }
    markdown(&rows)
}

/// Share of the requests of all rounds that were answered well; never 100 % when one was not.
fn success(all: &[&Measurement], name: &str) -> String {
    let (good, requests) = successes(all, name);
    let failed = requests - good.min(requests);
    let share = good as f64 / requests.max(1) as f64 * 100.0;
    if failed == 0 {
        "100 %".to_owned()
    } else {
        format!("{:.3} % ({failed} failed)", share.min(99.999))
    }
}

fn successes(all: &[&Measurement], name: &str) -> (u64, u64) {
    let own = all.iter().filter(|m| m.contender == name).map(|m| m.successes);
    own.fold((0, 0), |sum, (good, requests)| (sum.0 + good, sum.1 + requests))
}

/// A goal and what was measured.
pub(crate) struct Judged {
    scenario: &'static str,
    contender: &'static str,
    goal: String,
    measured: String,
    is_met: bool,
}

/// The goals of a scenario, as far as those that they are about took part.
pub(crate) fn goals(scenario: &Scenario, all: &[Measurement]) -> Vec<Judged> {
    let all: Vec<&Measurement> = all.iter().filter(|m| m.scenario == scenario.name).collect();
    scenario.goals.iter().filter_map(|goal| judge(scenario.name, *goal, &all)).collect()
}

fn judge(scenario: &'static str, goal: Goal, all: &[&Measurement]) -> Option<Judged> {
    let has = |name: &str| all.iter().any(|m| m.contender == name);
    let (contender, goal, measured, is_met) = match goal {
        Goal::Share(own, peer, at_most) => {
            let spread = Spread::of_some(ratios(all, own, peer))?;
            let goal = format!("CPU ≤ {at_most:.2} × {peer}");
            (own, goal, spread.show(2), spread.median <= at_most)
        }
        Goal::Added(own, base, at_most) => {
            let pairs = pairs(all, own, base);
            let added = pairs.iter().map(|(own, base)| own.cpu_us - base.cpu_us);
            let spread = Spread::of_some(added.collect())?;
            let goal = format!("adds ≤ {at_most:.2} µs to {base}");
            (own, goal, format!("{} µs", spread.show(2)), spread.median <= at_most)
        }
        Goal::AddsLess([own, base], [peer, peer_base]) => {
            let added = |own: &str, base: &str| {
                let pairs = pairs(all, own, base);
                let added = pairs.iter().map(|(own, base)| own.cpu_us - base.cpu_us);
                Spread::of_some(added.collect())
            };
            let (ours, theirs) = (added(own, base)?, added(peer, peer_base)?);
            let goal = format!("adds less than {peer}");
            let measured = format!("{} µs, {peer} {}", ours.show(2), theirs.show(2));
            (own, goal, measured, ours.median < theirs.median)
        }
        Goal::ShareOfBest(own, peers, at_most) => {
            // The same one in every round, or luck would choose.
            let shares = peers
                .iter()
                .filter_map(|peer| Some((Spread::of_some(ratios(all, own, peer))?, *peer)));
            let (spread, peer) = shares.max_by(|a, b| a.0.median.total_cmp(&b.0.median))?;
            let goal = format!("CPU ≤ {at_most:.2} × the best peer");
            (own, goal, format!("{} × {peer}", spread.show(2)), spread.median <= at_most)
        }
        Goal::NoFailure(own) => {
            let (good, requests) = successes(all, own);
            (own, "success 100 %".to_owned(), success(all, own), has(own) && good == requests)
        }
        Goal::Resident(own, at_most) => {
            let spread = Spread::of_some(values(all, own, |m| m.resident_mib))?;
            let goal = format!("≤ {at_most:.0} MB at rest");
            let measured = format!("{} MiB", spread.show(1));
            (own, goal, measured, spread.median * 1.048_576 <= at_most)
        }
        Goal::LowestP99(own) => {
            let p99 = |name: &str| {
                Spread::of_some(values(all, name, |m| m.paced_ms.unwrap_or_default().1))
            };
            let own_p99 = p99(own)?;
            let others = contenders(all)
                .into_iter()
                .filter(|name| name != "direct" && name != own && !name.starts_with("zproxy"));
            let best = others.filter_map(|name| Some((p99(&name)?.median, name)));
            let (best, name) = best.min_by(|a, b| a.0.total_cmp(&b.0))?;
            let measured = format!("{} ms, {name} {best:.2}", own_p99.show(2));
            (own, "lowest p99 at the rate".to_owned(), measured, own_p99.median <= best)
        }
    };
    has(contender).then_some(Judged { scenario, contender, goal, measured, is_met })
}

/// All goals that could be looked at.
pub(crate) fn goal_table(goals: &[Judged]) -> String {
    let head = ["scenario", "contender", "goal", "measured", "met"].map(str::to_owned);
    let mut rows = vec![head.to_vec()];
    for goal in goals {
        let met = if goal.is_met { "yes" } else { "**no**" };
        let texts = [goal.scenario, goal.contender, &goal.goal, &goal.measured, met];
        rows.push(texts.map(str::to_owned).to_vec());
    }
    format!("### Goals\n\n{}", markdown(&rows))
}

/// A table whose columns also line up as plain text.
fn markdown(rows: &[Vec<String>]) -> String {
    let length = |text: &String| text.chars().count();
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column| rows.iter().filter_map(|row| row.get(column)).map(length).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0).max(3)).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "| {cell:<width$} ");
        }
        text.push_str("|\n");
        if number == 0 {
            widths.iter().for_each(|width| text.extend(["|", &"-".repeat(width + 2)]));
            text.push_str("|\n");
        }
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
    format!("- Tools, asked directly: origin {origin} µs, load generator {load} µs a request.\n")
}

/// What a plugin adds: the first one, and each of the next three.
fn slope(all: &[&Measurement]) -> String {
    let by_round = |more: &str, less: &str, plugins: f64| -> Vec<f64> {
        let pairs = pairs(all, more, less);
        pairs.iter().map(|(more, less)| (more.cpu_us - less.cpu_us) / plugins).collect()
    };
    let first = by_round("zproxy-epoll+1", "zproxy-epoll", 1.0);
    let next = by_round("zproxy-epoll+4", "zproxy-epoll+1", 3.0);
    let mut text = String::new();
    for (added, what) in [(first, "the first plugin"), (next, "each of three more, (4 − 1) / 3")]
    {
        if !added.is_empty() {
            let _ = writeln!(text, "- Added µs a request, {what}: {}.", Spread::of(added).show(2));
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
    /// Of none there is none.
    fn of_some(values: Vec<f64>) -> Option<Self> {
        (!values.is_empty()).then(|| Self::of(values))
    }

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
            paced_ms: Some((0.1, 0.5)),
            successes: (100, 100),
            resident_mib: 10.0,
        }
    }

    /// The machine ran at half speed in the second round: ratios must not notice.
    #[test]
    fn a_ratio_compares_within_a_round() {
        let all = [
            measurement("haproxy", 0, 10.0),
            measurement("zproxy-epoll", 0, 7.0),
            measurement("haproxy", 1, 20.0),
            measurement("zproxy-epoll", 1, 14.0),
        ];

        let table = table(&SCENARIOS[0], &all);
        let goals = goals(&SCENARIOS[0], &all);

        let row = table.lines().find(|line| line.starts_with("| zproxy-epoll")).unwrap();
        assert!(row.contains("10.50 (7.00–14.00)"), "{table}");
        assert!(row.contains("0.70 (0.70–0.70)"), "{table}");
        assert!(row.contains("50,000") && row.contains("100 %"), "{table}");
        assert!(goals[0].is_met && goals[0].measured.starts_with("0.70"), "{}", goal_table(&goals));
        // Nobody ran on io_uring: no goal of it is judged.
        assert!(goals.iter().all(|goal| goal.contender == "zproxy-epoll"));
    }

    #[test]
    fn a_goal_is_missed_by_a_little_and_by_one_failure() {
        let scenario = SCENARIOS.iter().find(|scenario| scenario.name == "connections").unwrap();
        let mut own = measurement("zproxy-epoll", 0, 8.51);
        own.successes = (99_999_999, 100_000_000);
        let mut all = [measurement("haproxy", 0, 10.0), own];
        all.iter_mut().for_each(|m| m.scenario = "connections".to_owned());

        let goals = goals(scenario, &all);

        assert_eq!(goals.iter().map(|goal| goal.is_met).collect::<Vec<_>>(), [false, false]);
        assert!(goal_table(&goals).contains("99.999 % (1 failed)"), "{}", goal_table(&goals));
    }

    /// The best peer is the one that is hardest to beat, and p99 is compared with every other.
    #[test]
    fn goals_about_many_compare_with_the_best_of_them() {
        let best = Goal::ShareOfBest("zproxy-epoll", &["haproxy", "nginx"], 0.95);
        let mut all = ["haproxy", "nginx", "zproxy-epoll"].map(|name| measurement(name, 0, 10.0));
        all[1].cpu_us = 8.0;
        all[2].paced_ms = Some((0.1, 0.6));
        let all: Vec<&Measurement> = all.iter().collect();

        let best = judge("x", best, &all).unwrap();
        let p99 = judge("x", Goal::LowestP99("zproxy-epoll"), &all).unwrap();

        assert!(!best.is_met && best.measured.contains("1.25") && best.measured.contains("nginx"));
        assert!(!p99.is_met, "{}", p99.measured);
    }

    #[test]
    fn plugins_are_priced_by_slopes() {
        let all = [
            measurement("zproxy-epoll", 0, 10.0),
            measurement("zproxy-epoll+1", 0, 10.5),
            measurement("zproxy-epoll+4", 0, 11.7),
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
                "successes": 999, "requests": 1_000,
                "cpu_ns": { "proxy": 20_000_000, "origin": 3_000_000, "load": 4_000_000 },
            },
            "paced": {
                "successes": 10, "requests": 10, "latency_us": { "p50": 100, "p99": 900 },
            },
        });

        let read = Measurement::from_json(&line).unwrap();

        assert_eq!((read.cpu_us, read.tools_us, read.busy), (20.0, (3.0, 4.0), 0.5));
        assert_eq!((read.paced_ms, read.successes), (Some((0.1, 0.9)), (1_009, 1_010)));
        assert_eq!(read.round, 2);
        let silent = json!({ "scenario": "x", "contender": "y", "saturated": {} });
        assert_eq!(Measurement::from_json(&silent), None);
    }
}
