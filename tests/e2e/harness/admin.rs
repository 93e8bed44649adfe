//! The admin listener and what its numbers say.
//!
//! Not here: what each endpoint must answer (`crate::admin`).

use std::collections::BTreeMap;

use serde_json::Value;

use super::gateway::{Gateway, connect};
use super::{Message, eventually};

/// One scrape of `/metrics`.
#[derive(Debug)]
pub struct Metrics {
    samples: Vec<Sample>,
    /// The page itself.
    pub text: String,
}

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Gateway {
    /// The answer of the admin listener to a GET.
    #[track_caller]
    pub fn admin(&self, path: &str) -> Message {
        self.admin_ask("GET", path, "")
    }

    /// The answer of the admin listener; `fields` are whole lines.
    #[track_caller]
    pub fn admin_ask(&self, method: &str, path: &str, fields: &str) -> Message {
        let mut client = connect(self.admin_address());
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"));
        client.response_to(method)
    }

    /// The answer of the admin listener to a POST with this body.
    #[track_caller]
    pub fn admin_post(&self, path: &str, body: &[u8]) -> Message {
        let mut client = connect(self.admin_address());
        let length = body.len();
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
        ));
        client.send(body);
        client.response_to("POST")
    }

    /// The entry of this plugin in `/plugins`.
    #[track_caller]
    pub fn plugin(&self, name: &str) -> Value {
        let all = self.admin_json("/plugins");
        let mut plugins = all["plugins"].as_array().unwrap().iter();
        plugins.find(|plugin| plugin["name"] == name).cloned().unwrap_or_default()
    }

    /// The JSON that the admin listener answers.
    #[track_caller]
    pub fn admin_json(&self, path: &str) -> Value {
        let answer = self.admin(path);
        assert_eq!(answer.status(), 200, "{path}: {answer:?}");
        answer.json()
    }

    /// A scrape.
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        let answer = self.admin("/metrics");
        assert_eq!(answer.status(), 200, "{answer:?}");
        Metrics::parse(answer.text())
    }

    /// Waits until the sum of a metric over these labels is `value`.
    ///
    /// A request is counted when its answer has gone out, so the client may be first.
    #[track_caller]
    pub fn counts(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let mut last = self.metrics().sum(name, labels);
        let what = format!("{name}{labels:?} = {value}");
        let start = std::time::Instant::now();
        while (last - value).abs() > f64::EPSILON {
            assert!(start.elapsed() < super::DEADLINE, "{what}, it is {last}");
            std::thread::sleep(std::time::Duration::from_millis(5));
            last = self.metrics().sum(name, labels);
        }
    }

    /// Waits until a metric has a sample with these labels that is above zero.
    #[track_caller]
    pub fn counts_some(&self, name: &str, labels: &[(&str, &str)]) {
        eventually(&format!("{name}{labels:?}"), || {
            (self.metrics().sum(name, labels) > 0.0).then_some(())
        });
    }
}

impl Metrics {
    /// Reads the Prometheus text format, strictly.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        Self { samples: lines.map(Sample::parse).collect(), text: text.to_owned() }
    }

    /// The sum of all samples of this name that have these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|sample| sample.value).sum()
    }

    /// Whether there is such a sample.
    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.matching(name, labels).next().is_some()
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| {
            let has = |(name, value): &(&str, &str)| {
                sample.labels.get(*name).map(String::as_str) == Some(*value)
            };
            sample.name == name && labels.iter().all(has)
        })
    }
}

impl Sample {
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("sample {line:?}"));
        let value = value.parse().unwrap_or_else(|_| panic!("value of {line:?}"));
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').expect("a closing brace")),
            None => (series, ""),
        };
        let mut sample = Self { name: name.to_owned(), labels: BTreeMap::new(), value };
        let mut rest = labels;
        while !rest.is_empty() {
            let (name, after) =
                rest.split_once("=\"").unwrap_or_else(|| panic!("label in {line:?}"));
            // Label values of this product have no quotes inside.
            let (value, after) =
                after.split_once('"').unwrap_or_else(|| panic!("label in {line:?}"));
            sample.labels.insert(name.to_owned(), value.to_owned());
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_add_up_over_labels() {
        let text = "# HELP a b\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\na_total 5\n";

        let metrics = Metrics::parse(text);

        assert!((metrics.sum("a", &[("x", "1")]) - 7.0).abs() < f64::EPSILON);
        assert!((metrics.sum("a", &[("y", "2")]) - 3.0).abs() < f64::EPSILON);
        assert!(metrics.has("a_total", &[]) && !metrics.has("a", &[("y", "4")]));
    }
}
