//! `zproxy doctor`: what limits the gateway on this host, and how to lift it.
//!
//! [`Facts`] are what the host says, gathered in one place and never guessed: what is not visible, as in
//! a sandbox, is not judged. [`judge()`] is a pure function from facts to findings, [`render`] and
//! [`describe`] show them to people and programs.
//!
//! Not here: changing anything. What costs root's word is root's to decide.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

mod facts;
mod judge;

pub use facts::{Facts, Ring};
pub use judge::{Finding, Verdict, judge};

use crate::config::Settings;

/// What this host says, and what these settings want of it.
#[must_use]
pub fn examine(settings: &Settings) -> Facts {
    Facts::gather(Path::new("/"), settings)
}

/// Whether a gateway could not do its work here.
#[must_use]
pub fn is_bad(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.verdict == Verdict::Bad)
}

/// The findings, for programs.
#[must_use]
pub fn describe(findings: &[Finding]) -> Value {
    json!({ "ok": !is_bad(findings), "findings": findings })
}

/// The findings, for people: a line each, and below those that are not well why, and the cure. Ends with
/// a line break.
#[must_use]
pub fn render(findings: &[Finding]) -> String {
    let name = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<5} {:<name$}  {}",
            finding.verdict.as_str(),
            finding.name,
            finding.value
        );
        if finding.verdict != Verdict::Ok {
            let _ = writeln!(text, "      {:<name$}  why: {}", "", finding.why);
            if let Some(cure) = &finding.cure {
                let _ = writeln!(text, "      {:<name$}  do:  {cure}", "");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests;
