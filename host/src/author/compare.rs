//! Compares what came of a golden request with what was expected, and says how they differ.
//!
//! A difference is told in lines: `-` was expected, `+` came, and what has neither is there for
//! orientation. In expected values `*` stands for any text.
//!
//! Not here: where both come from (`case`, `play`).

use super::case::{Becomes, Callout, Case, Forwarded, Message, Pattern, Verdict};
use super::play::Outcome;
use crate::plugin::Peer;
use crate::plugin::callout::CalloutError;

/// Everything in which an outcome differs from what its case expects; nothing when it does not.
pub(super) fn compare(case: &Case, outcome: &Outcome) -> Vec<String> {
    let expected = &case.expected;
    let mut lines = Vec::new();
    match (&expected.refuses, &outcome.refused) {
        (None, None) => {}
        (Some(text), Some(refusal)) if like(text, refusal) => return lines,
        (wanted, came) => {
            differ(&mut lines, "what init says", wanted.as_deref(), came.as_deref());
            return lines;
        }
    }
    match (&expected.fails, &outcome.failed) {
        (None, None) => {}
        (Some(text), Some(failure)) if like(text, failure) => {}
        (wanted, came) => differ(&mut lines, "failure", wanted.as_deref(), came.as_deref()),
    }
    if let Some(verdict) = expected.verdict
        && Some(verdict) != outcome.verdict
    {
        let came = outcome.verdict.map(name).filter(|_| outcome.failed.is_none());
        differ(&mut lines, "verdict", Some(name(verdict)), came);
    }
    if let Some(wanted) = &expected.upstream {
        let came = outcome.upstream.as_deref().unwrap_or_default();
        let shown = |name: &str| if name.is_empty() { "as routed" } else { name }.to_owned();
        if wanted != came {
            differ(&mut lines, "upstream", Some(&shown(wanted)), Some(&shown(came)));
        }
    }
    callouts(&mut lines, case, outcome);
    match (&expected.forwarded, &outcome.forwarded) {
        (None, _) | (Some(Forwarded::Nothing), None) => {}
        (Some(Forwarded::Nothing), Some(request)) => {
            differ(&mut lines, "forwarded", Some("nothing"), Some(&request.start.join(" ")));
        }
        (Some(Forwarded::Request(pattern)), Some(request)) => {
            messages(&mut lines, "forwarded", pattern, request);
        }
        (Some(Forwarded::Request(pattern)), None) => {
            differ(
                &mut lines,
                "forwarded",
                Some(&pattern.message.start.join(" ")),
                Some("nothing"),
            );
        }
    }
    if let Some(pattern) = &expected.response {
        match &outcome.response {
            Some(response) => messages(&mut lines, "response", pattern, response),
            None => differ(&mut lines, "response", Some(&pattern.message.start.join(" ")), None),
        }
    }
    // Whoever expects a failure expects what it does to a response that is on its way.
    if expected.cut != outcome.cut && expected.fails.is_none() {
        let told = |cut| if cut { "broken off in the middle" } else { "sent to its end" };
        differ(&mut lines, "response", Some(told(expected.cut)), Some(told(outcome.cut)));
    }
    sockets(&mut lines, case, outcome);
    log(&mut lines, &expected.log, &outcome.log);
    lines
}

/// What has to become of each message of a WebSocket.
fn sockets(lines: &mut Vec<String>, case: &Case, outcome: &Outcome) {
    for (index, shown) in case.messages.iter().enumerate() {
        let came = outcome.messages.get(index);
        let sent = Becomes::of(&shown.message);
        let Some(wanted) = &shown.expected else { continue };
        let good = match (wanted, came) {
            (Becomes::Same, Some(Becomes::Same)) => true,
            // It may well become what it has been.
            (wanted, Some(Becomes::Same)) => is_like(wanted, &sent),
            (wanted, Some(came)) => is_like(wanted, came),
            (_, None) => false,
        };
        if !good {
            let from = match shown.from {
                Peer::Client => "client",
                Peer::Server => "server",
            };
            lines.push(format!("{from}: {}", told(&sent)));
            lines.push(format!("- {}", told(wanted)));
            let came = came.map_or_else(|| "not shown: nothing is open".to_owned(), told);
            lines.push(format!("+ {came}"));
        }
    }
}

fn is_like(wanted: &Becomes, came: &Becomes) -> bool {
    match (wanted, came) {
        (Becomes::Text(pattern), Becomes::Text(text)) => matches(pattern, text),
        (Becomes::Close(wanted, None), Becomes::Close(code, _)) => wanted == code,
        (Becomes::Close(wanted, Some(pattern)), Becomes::Close(code, Some(reason))) => {
            wanted == code && matches(pattern, reason)
        }
        _ => wanted == came,
    }
}

fn told(becomes: &Becomes) -> String {
    match becomes {
        Becomes::Same => "passes".to_owned(),
        Becomes::Text(text) => format!("{text:?}"),
        Becomes::Binary(bytes) => {
            let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("binary {}", digits.join(" "))
        }
        Becomes::Nothing => "dropped".to_owned(),
        Becomes::Close(code, reason) => {
            format!("closes: {code} {}", reason.as_deref().unwrap_or_default())
                .trim_end()
                .to_owned()
        }
    }
}

/// Each callout must be made, in this order, and no other.
fn callouts(lines: &mut Vec<String>, case: &Case, outcome: &Outcome) {
    for (index, made) in outcome.callouts.iter().enumerate() {
        let message = &made.message;
        let wanted = case.callouts.get(index);
        let denied = |callout: &Callout| matches!(callout.answer, Err(CalloutError::Denied(_)));
        match (&made.refused, wanted) {
            // A refusal is what it is there to show.
            (Some(_), Some(callout)) if denied(callout) => {}
            (Some(refused), _) => {
                let wanted = wanted.map(|callout| callout.asked.message.start.join(" "));
                let came = format!("{} is not sent: {refused}", message.start.join(" "));
                differ(lines, "callout", wanted.as_deref(), Some(&came));
                continue;
            }
            (None, _) => {}
        }
        match wanted {
            Some(callout) => messages(lines, "callout", &callout.asked, message),
            None => differ(lines, "callout", Some("none"), Some(&message.start.join(" "))),
        }
    }
    for callout in case.callouts.iter().skip(outcome.callouts.len()) {
        let wanted = callout.asked.message.start.join(" ");
        differ(lines, "callout", Some(&wanted), Some("none"));
    }
}

fn name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Next => "next",
        Verdict::Respond => "respond",
    }
}

fn differ(lines: &mut Vec<String>, what: &str, wanted: Option<&str>, came: Option<&str>) {
    lines.push(what.to_owned());
    lines.extend(wanted.map(|wanted| format!("- {wanted}")));
    lines.extend(came.map(|came| format!("+ {came}")));
}

/// Whether a text holds another, `*` standing for any text.
fn like(pattern: &str, text: &str) -> bool {
    matches(&format!("*{pattern}*"), text)
}

/// Whether a text is as a pattern says, in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        // The first place that fits leaves the most for what follows.
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    true
}

fn messages(lines: &mut Vec<String>, what: &str, pattern: &Pattern, came: &Message) {
    let mut told = Vec::new();
    let mut good = true;
    let start = came.start.join(" ");
    let wanted: Vec<&str> =
        pattern.message.start.iter().take(came.start.len()).map(String::as_str).collect();
    if wanted.iter().zip(&came.start).all(|(wanted, came)| matches(wanted, came)) {
        told.push(format!("  {start}"));
    } else {
        good = false;
        told.push(format!("- {}", wanted.join(" ")));
        told.push(format!("+ {start}"));
    }
    good &= fields(&mut told, pattern, came);
    if let Some(wanted) = &pattern.message.body {
        let came = came.body.as_deref().unwrap_or_default();
        if matches(wanted, came) {
            told.push("  (the body is as expected)".to_owned());
        } else {
            good = false;
            bodies(&mut told, wanted, came);
        }
    }
    if !good {
        lines.push(what.to_owned());
        lines.append(&mut told);
    }
}

/// Compares name by name; what a pattern has of one name must be all there is of it, in that order.
fn fields(told: &mut Vec<String>, pattern: &Pattern, came: &Message) -> bool {
    let mut good = true;
    let mut seen: Vec<&str> = Vec::new();
    for (name, _) in &pattern.message.fields {
        let bare = name.trim_start_matches('!');
        if seen.iter().any(|seen| seen.eq_ignore_ascii_case(bare)) {
            continue;
        }
        seen.push(bare);
        let wanted: Vec<&str> = values(&pattern.message, name);
        let found: Vec<&str> = values(came, bare);
        if name.starts_with('!') {
            good &= found.is_empty();
            told.push(format!("{} !{bare}", if found.is_empty() { ' ' } else { '-' }));
            told.extend(found.iter().map(|value| format!("+ {bare}: {value}")));
            continue;
        }
        let same = wanted.len() == found.len()
            && wanted.iter().zip(&found).all(|(wanted, found)| matches(wanted, found));
        if same {
            told.extend(found.iter().map(|value| format!("  {bare}: {value}")));
        } else {
            good = false;
            told.extend(wanted.iter().map(|value| format!("- {bare}: {value}")));
            told.extend(found.iter().map(|value| format!("+ {bare}: {value}")));
        }
    }
    if pattern.exactly {
        let others = came
            .fields
            .iter()
            .filter(|(name, _)| !seen.iter().any(|seen| seen.eq_ignore_ascii_case(name)));
        for (name, value) in others {
            good = false;
            told.push(format!("+ {name}: {value}"));
        }
    }
    good
}

fn values<'a>(message: &'a Message, name: &str) -> Vec<&'a str> {
    let of_name = message.fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
    of_name.map(|(_, value)| value.as_str()).collect()
}

/// Lines around a difference that are shown for orientation.
const AROUND: usize = 2;

/// Both bodies from the first line in which they differ to the last.
fn bodies(told: &mut Vec<String>, wanted: &str, came: &str) {
    let (wanted, came): (Vec<&str>, Vec<&str>) = (wanted.lines().collect(), came.lines().collect());
    let same_start = wanted.iter().zip(&came).take_while(|(a, b)| a == b).count();
    let rest = wanted.len().min(came.len()) - same_start;
    let same_end =
        wanted.iter().rev().zip(came.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    told.push(String::new());
    let before = same_start.saturating_sub(AROUND)..same_start;
    told.extend(wanted[before].iter().map(|line| format!("  {line}")));
    let changed = |lines: &[&str], sign: char, told: &mut Vec<String>| {
        let lines = &lines[same_start..lines.len() - same_end];
        told.extend(lines.iter().map(|line| format!("{sign} {line}")));
    };
    changed(&wanted, '-', told);
    changed(&came, '+', told);
    let after = &came[came.len() - same_end..];
    told.extend(after.iter().take(AROUND).map(|line| format!("  {line}")));
}

/// Each line that is expected must come after the one before it.
fn log(lines: &mut Vec<String>, wanted: &[String], came: &[String]) {
    let mut rest = came.iter();
    let missing: Vec<&String> =
        wanted.iter().filter(|wanted| !rest.any(|line| like(wanted, line))).collect();
    if missing.is_empty() {
        return;
    }
    lines.push("log".to_owned());
    lines.extend(missing.iter().map(|line| format!("- {line}")));
    lines.extend(came.iter().map(|line| format!("+ {line}")));
}

#[cfg(test)]
mod tests {
    use super::super::case::parse;
    use super::super::play::Made;
    use super::*;

    fn told(expected: &str, outcome: &Outcome) -> String {
        let text = format!("=== a\n--- request\nGET /\n{expected}");
        compare(&parse(&text).unwrap()[0], outcome).join("\n")
    }

    fn response(status: &str, fields: &[(&str, &str)], body: &str) -> Outcome {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let message = Message {
            start: vec![status.to_owned()],
            fields: fields.collect(),
            body: Some(body.to_owned()),
        };
        Outcome { verdict: Some(Verdict::Next), response: Some(message), ..Outcome::default() }
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("a", "b", false),
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "acb", false),
            ("a*b*c", "axbyc", true),
            ("a*b*c", "acb", false),
            ("*b", "ab", true),
            ("ab*ba", "aba", false),
            ("a*a*a", "aa", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn what_is_not_named_does_not_matter_unless_exactly_is_said() {
        let came = response("200", &[("a", "1"), ("B", "2")], "x");

        assert_eq!(told("--- response\n200\nb: 2\n", &came), "");
        assert_eq!(
            told("--- response exactly\n200\nb: *\n", &came),
            "response\n  200\n  b: 2\n+ a: 1"
        );
    }

    #[test]
    fn a_difference_is_shown_with_what_is_around_it() {
        let came = response("404", &[("a", "1"), ("a", "2")], "one\ntwo\nthree\nfour");

        assert_eq!(
            told("--- response\n200\na: 1\n!a\n", &came),
            "response\n- 200\n+ 404\n- a: 1\n+ a: 1\n+ a: 2",
        );
        assert_eq!(told("--- response\n404\n!a\n", &came), "response\n  404\n- !a\n+ a: 1\n+ a: 2");
        assert_eq!(
            told("--- response\n404\n\none\n2\nthree\nfour\n", &came),
            "response\n  404\n\n  one\n- 2\n+ two\n  three\n  four",
        );
    }

    /// A hook that fails is never what a case wants without saying so.
    #[test]
    fn a_failure_must_be_expected() {
        let failed = Outcome { failed: Some("it trapped".to_owned()), ..response("503", &[], "") };

        assert_eq!(told("--- response\n503\n", &failed), "failure\n+ it trapped");
        assert_eq!(told("--- fails: trap\n", &failed), "");
        let refused = Outcome { refused: Some("no key".to_owned()), ..Outcome::default() };
        assert_eq!(told("--- verdict: next\n", &refused), "what init says\n+ no key");
        assert_eq!(told("--- refuses: key\n", &refused), "");
    }

    #[test]
    fn each_callout_must_be_made_and_no_other() {
        let made = |url: &str, refused: Option<&str>| Made {
            message: Message {
                start: vec!["GET".to_owned(), url.to_owned()],
                ..Message::default()
            },
            refused: refused.map(str::to_owned),
        };
        let mut came = response("200", &[], "");
        assert_eq!(told("--- callout\nGET http://a/\n", &came), "callout\n- GET http://a/\n+ none");

        came.callouts = vec![made("http://a/1", None), made("http://b/", None)];
        assert_eq!(told("--- callout\nGET http://a/*\n--- callout\nGET http://b/\n", &came), "");
        assert_eq!(
            told("--- callout\nGET http://a/*\n", &came),
            "callout\n- none\n+ GET http://b/"
        );

        came.callouts = vec![made("http://a/", Some("not granted"))];
        let denied = "--- callout\nGET http://a/\n--- answers: denied\n";
        assert_eq!(told(denied, &came), "");
        assert_eq!(
            told("--- callout\nGET http://a/\n", &came),
            "callout\n- GET http://a/\n+ GET http://a/ is not sent: not granted"
        );
    }

    #[test]
    fn the_chosen_upstream_and_the_end_of_a_response_are_compared() {
        let mut came = response("200", &[], "");
        assert_eq!(told("--- upstream: as routed\n", &came), "");
        assert_eq!(told("--- upstream: b\n", &came), "upstream\n- b\n+ as routed");

        came.cut = true;
        assert_eq!(told("--- cut\n", &came), "");
        let told = told("--- response\n200\n", &came);
        assert!(told.ends_with("+ broken off in the middle"), "{told}");
    }

    #[test]
    fn each_message_must_become_what_is_said_behind_it() {
        let case = "--- client: hello\n--- becomes: HE*\n--- server binary: 00 FF\n--- passes\n\
                    --- client: bye\n--- closes: 4000\n";
        let mut came = response("101", &[], "");
        came.messages = vec![
            Becomes::Text("HELLO".to_owned()),
            Becomes::Same,
            Becomes::Close(4000, Some("as told".to_owned())),
        ];
        assert_eq!(told(case, &came), "");
        assert_eq!(
            told("--- client: same\n--- becomes: same\n", &came),
            "client: \"same\"\n- \"same\"\n+ \"HELLO\""
        );

        came.messages = vec![Becomes::Same, Becomes::Nothing];
        assert_eq!(
            told(case, &came),
            "client: \"hello\"\n- \"HE*\"\n+ passes\nserver: binary 00 ff\n- passes\n+ dropped\n\
             client: \"bye\"\n- closes: 4000\n+ not shown: nothing is open",
        );
        assert_eq!(told("--- client: same\n--- becomes: same\n", &came), "");
    }

    #[test]
    fn log_lines_are_found_in_their_order() {
        let mut came = response("200", &[], "");
        came.log = vec!["info p: one".to_owned(), "warn p: two".to_owned()];

        assert_eq!(told("--- log\none\ntwo\n", &came), "");
        assert_eq!(told("--- log\ntwo\none\n", &came), "log\n- one\n+ info p: one\n+ warn p: two");
    }
}
