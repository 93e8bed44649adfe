//! An outcome for people.
//!
//! Not here: what it is made of (`tally`).

use std::fmt::Write as _;

use super::histogram::Histogram;
use super::tally::{Outcome, buckets};
use super::{Expected, Plan};

/// Letters of the longest bar.
const BAR: u64 = 40;

/// The table of a load that ran by this plan.
pub fn table(plan: &Plan, outcome: &Outcome) -> String {
    let mut text = String::new();
    let seconds = outcome.window_ns as f64 / 1e9;
    let per_second = |count| count_of(outcome.per_second(count).round());
    let mut line = |name: &str, rest: String| {
        let _ = writeln!(text, "  {name:<13}{rest}");
    };
    let requests = outcome.requests();
    line(
        "requests",
        format!("{} in {seconds:.2} s, {}/s", count_of(requests as f64), per_second(requests)),
    );
    let good = match plan.expected {
        Expected::Success => "complete answers with a status from 200 to 399".to_owned(),
        Expected::Exactly(bytes) => format!("complete answers with 200 and {bytes} bytes"),
    };
    line("success", format!("{} ({good})", percent(outcome.successes, requests)));
    let kept = if plan.per_request { "one per request" } else { "kept" };
    line(
        "connections",
        format!(
            "{} begun, {}/s; {kept}, {} at once; {} closed by the server while kept",
            count_of(outcome.connects as f64),
            per_second(outcome.connects),
            plan.connections,
            count_of(outcome.reconnects as f64)
        ),
    );
    let rate = |bytes: u64| {
        format!("{} ({}/s)", bytes_of(bytes as f64), bytes_of(outcome.per_second(bytes)))
    };
    let (received, sent) = (rate(outcome.bytes_received), rate(outcome.bytes_sent));
    line("bytes", format!("{received} received, {sent} sent"));
    let statuses =
        outcome.statuses().map(|(status, count)| format!("{status}: {}", count_of(count as f64)));
    line("statuses", or_none(statuses.collect()));
    let faults =
        outcome.faults().map(|(name, count)| format!("{name}: {}", count_of(count as f64)));
    line("errors", or_none(faults.collect()));

    text.push('\n');
    let _ = writeln!(
        text,
        "  {:<13}{:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "ms", "min", "avg", "p50", "p90", "p99", "p99.9", "max"
    );
    for (name, durations) in [("latency", &outcome.latencies_ns), ("connect", &outcome.connects_ns)]
    {
        if durations.total() > 0 {
            let _ = writeln!(text, "  {name:<13}{}", distribution(durations));
        }
    }
    if outcome.latencies_ns.total() > 0 {
        text.push('\n');
        histogram(&mut text, &outcome.latencies_ns);
    }
    text.push_str(match plan.rate {
        Some(_) => {
            "\n  A latency counts from the moment at which its request was due, sent or not.\n"
        }
        None => {
            "\n  A latency counts from when its request was sent: a stall delays what would have been \
             sent\n  meanwhile, unseen. Give --rate to see what clients would have waited.\n"
        }
    });
    text
}

fn distribution(durations: &Histogram) -> String {
    let quantile = |share| durations.quantile(share);
    [
        durations.min(),
        durations.mean(),
        quantile(50_000),
        quantile(90_000),
        quantile(99_000),
        quantile(99_900),
        durations.max(),
    ]
    .map(|ns| format!("{:>9}", milliseconds(ns)))
    .join(" ")
}

/// One line a bucket.
fn histogram(text: &mut String, durations: &Histogram) {
    let most = buckets(durations).map(|bucket| bucket.1).max().unwrap_or(0).max(1);
    for (limit_us, count) in buckets(durations) {
        let bar = "#".repeat(usize::try_from((count * BAR).div_ceil(most)).unwrap_or(0));
        let limit = milliseconds(limit_us * 1_000);
        let share = percent(count, durations.total());
        let _ = writeln!(text, "  up to {limit:>7} ms {share:>9} {bar}");
    }
}

/// With three digits that count.
fn milliseconds(ns: u64) -> String {
    let ms = ns as f64 / 1e6;
    let digits = match ms {
        ms if ms < 1.0 => 3,
        ms if ms < 10.0 => 2,
        ms if ms < 100.0 => 1,
        _ => 0,
    };
    format!("{ms:.digits$}")
}

/// Never 100 % when one is missing.
fn percent(part: u64, whole: u64) -> String {
    let share = part as f64 / whole.max(1) as f64 * 100.0;
    let share = if part < whole { share.min(99.99) } else { share };
    format!("{share:.2} %")
}

fn bytes_of(bytes: f64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, power)| bytes >= (1_u64 << power) as f64) {
        Some((unit, power)) => format!("{:.1} {unit}", bytes / (1_u64 << power) as f64),
        None => format!("{bytes:.0} B"),
    }
}

/// 12345 as `12,345`.
fn count_of(value: f64) -> String {
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

fn or_none(parts: Vec<String>) -> String {
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_honest() {
        assert_eq!(count_of(1_234_567.0), "1,234,567");
        assert_eq!(count_of(999.0), "999");
        assert_eq!(percent(999_999, 1_000_000), "99.99 %");
        assert_eq!(percent(3, 3), "100.00 %");
        assert_eq!(percent(0, 0), "0.00 %");
        assert_eq!(milliseconds(123_456), "0.123");
        assert_eq!(milliseconds(12_345_678), "12.3");
        assert_eq!(bytes_of(1_536.0), "1.5 KiB");
        assert_eq!(bytes_of(12.0), "12 B");
    }
}
