//! What is wrong with a configuration, and how it is collected.
//!
//! Every check puts what it finds into a [`Report`] and goes on, so that one run shows all. A
//! value that was refused is replaced by a harmless one and its path is marked as broken:
//! whatever later checks say about a broken path would be a consequence, not a finding, and is
//! dropped.
//!
//! Not here: positions in the text, which only the document knows (`document`).

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::suggest;

/// Characters of a value that a message repeats.
const QUOTED_CHARS_MAX: usize = 80;

/// Problems of one report. Nobody mends more at once, and a file made by a broken program must
/// not make its own report endless.
const FINDINGS_MAX: usize = 1000;

/// Words that are compared with all that they could have been meant to be. It takes up to some
/// milliseconds each.
const SUGGESTIONS_MAX: usize = 100;

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The file, or the flag or variable that overrides it; empty for a `Config` made by a
    /// program.
    pub file: String,
    /// Line in the file, from 1.
    pub line: Option<usize>,
    /// Column in the line in characters, from 1.
    pub column: Option<usize>,
    /// JSON path, such as `routes[0].upstream`; empty for the whole file.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// How to write it.
    pub cure: String,
}

impl Problem {
    /// A problem with the value at `path`, whose place in the file is not known yet.
    #[must_use]
    pub fn at(path: &str, message: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            file: String::new(),
            line: None,
            column: None,
            path: path.to_owned(),
            message: message.into(),
            cure: cure.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(out, "{}", self.file)?;
            if let (Some(line), Some(column)) = (self.line, self.column) {
                write!(out, ":{line}:{column}")?;
            }
            write!(out, ": ")?;
        }
        if !self.path.is_empty() {
            write!(out, "{}: ", self.path)?;
        }
        write!(out, "{}; {}", self.message, self.cure)
    }
}

/// Everything that is wrong with a configuration, in the order of the file. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            write!(out, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A path into a document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct At(pub(super) Vec<Step>);

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// Into a member of an object.
    Key(String),
    /// Into an element of a list.
    Index(usize),
}

impl At {
    /// The path of the member `key`.
    pub(super) fn key(&self, key: &str) -> Self {
        self.step(Step::Key(key.into()))
    }

    /// The path of the element `index`.
    pub(super) fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    /// The path one `step` further.
    pub(super) fn step(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

impl fmt::Display for At {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(element) => write!(out, "[{element}]")?,
                Step::Key(key) if is_plain(key) => {
                    write!(out, "{}{key}", if index > 0 { "." } else { "" })?;
                }
                Step::Key(key) => write!(out, "[\"{}\"]", shorten(key))?,
            }
        }
        Ok(())
    }
}

/// Whether `key` can stand in a path without quotes.
fn is_plain(key: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-$".contains(&byte);
    !key.is_empty() && key.len() <= QUOTED_CHARS_MAX && key.bytes().all(plain)
}

/// `text` in backticks, on one line and not too long.
pub(super) fn quote(text: &str) -> String {
    format!("`{}`", shorten(text))
}

/// `text` on one line and not too long.
pub(super) fn shorten(text: &str) -> String {
    let mut short = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == QUOTED_CHARS_MAX {
            short.push('…');
            break;
        }
        // A control character could forge a line of the report or steer a terminal.
        if character.is_control() {
            short.extend(character.escape_default());
        } else {
            short.push(character);
        }
    }
    short
}

/// Where a value was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// At this byte of the text.
    Text(usize),
    /// In the override of this index.
    Override(usize),
    /// By a program.
    Nowhere,
}

/// One problem before its position is known.
pub(super) struct Finding {
    /// The path of what is wrong.
    pub(super) at: At,
    /// Where it was written; `None`: where the path leads.
    pub(super) origin: Option<Origin>,
    /// What is wrong.
    pub(super) message: String,
    /// How to write it.
    pub(super) cure: String,
}

/// What is wrong, and how to write it.
pub(super) type Refusal = (String, String);

/// Problems as they are found.
#[derive(Default)]
pub(super) struct Report {
    /// In the order of the checks.
    pub(super) findings: Vec<Finding>,
    /// How many more there were.
    pub(super) omitted: usize,
    /// Words that were looked for among others.
    suggestions: usize,
    /// Paths of values that were refused.
    broken: HashSet<At>,
    /// Paths above broken ones.
    above_broken: HashSet<At>,
}

impl Report {
    /// Adds a problem with the value at `at`.
    pub(super) fn problem(&mut self, at: &At, message: impl Into<String>, cure: impl Into<String>) {
        self.add(at, None, message.into(), cure.into());
    }

    /// Adds a problem with what was written at `origin`, which need not be the value.
    pub(super) fn problem_from(
        &mut self,
        at: &At,
        origin: Origin,
        message: impl Into<String>,
        cure: impl Into<String>,
    ) {
        self.add(at, Some(origin), message.into(), cure.into());
    }

    /// Adds a problem with the value at `at` that could come from a part of it being broken,
    /// such as a missing key where an unknown one was written.
    pub(super) fn incomplete(
        &mut self,
        at: &At,
        message: impl Into<String>,
        cure: impl Into<String>,
    ) {
        if !self.above_broken.contains(at) {
            self.problem(at, message, cure);
        }
    }

    /// The value, or nothing and a problem.
    pub(super) fn take<T>(&mut self, at: &At, result: Result<T, Refusal>) -> Option<T> {
        result.map_err(|(message, cure)| self.problem(at, message, cure)).ok()
    }

    /// The candidate that `written` was most likely meant to be; none after the first hundred, so
    /// that a huge file is checked in time.
    pub(super) fn closest<'c>(
        &mut self,
        written: &str,
        candidates: impl IntoIterator<Item = &'c str>,
    ) -> Option<&'c str> {
        if self.suggestions == SUGGESTIONS_MAX {
            return None;
        }
        self.suggestions += 1;
        suggest::closest(written, candidates)
    }

    /// Marks the value at `at` as refused.
    pub(super) fn mark_broken(&mut self, at: &At) {
        for length in 0..at.0.len() {
            self.above_broken.insert(At(at.0[..length].to_vec()));
        }
        self.broken.insert(at.clone());
    }

    /// Whether the value at `at`, or one around it, was refused.
    pub(super) fn is_broken(&self, at: &At) -> bool {
        !self.broken.is_empty()
            && (0..=at.0.len()).any(|length| self.broken.contains(&At(at.0[..length].to_vec())))
    }

    fn add(&mut self, at: &At, origin: Option<Origin>, message: String, cure: String) {
        if self.is_broken(at) {
            return;
        }
        if self.findings.len() >= FINDINGS_MAX {
            self.omitted += 1;
        } else {
            self.findings.push(Finding { at: at.clone(), origin, message, cure });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_it_would_in_a_program() {
        let at = At::default().key("routes").index(3).key("rewrite").key("a.b").key("c");

        assert_eq!(at.to_string(), "routes[3].rewrite[\"a.b\"].c");
    }

    #[test]
    fn a_problem_is_one_line_whatever_it_quotes() {
        let long = format!("a\nb\u{1b}[31m{}", "x".repeat(200));

        let quoted = quote(&long);

        assert!(quoted.starts_with("`a\\nb\\u{1b}[31mxx"), "{quoted}");
        assert!(quoted.ends_with("x…`") && quoted.chars().count() < 100, "{quoted}");
    }

    #[test]
    fn what_follows_from_a_broken_value_is_not_reported() {
        let mut report = Report::default();
        let route = At::default().key("routes").index(0);
        report.mark_broken(&route.key("path"));

        report.problem(&route.key("path"), "consequence", "");
        report.incomplete(&route, "consequence", "");
        report.problem(&route, "finding", "");
        report.problem(&route.key("name"), "finding", "");

        let messages: Vec<_> = report.findings.iter().map(|found| &found.message).collect();
        assert_eq!(messages, ["finding", "finding"]);
    }
}
