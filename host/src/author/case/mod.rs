//! Golden requests as text: what a plugin is shown, and what has to come of it.
//!
//! ```text
//! # Lines before the first case hold for all of them.
//! --- config
//! { "key": "secret" }
//!
//! === who has no key gets a 403
//! --- request
//! GET /orders HTTP/1.1
//! host: shop.example
//! --- forwarded: nothing
//! --- response
//! HTTP/1.1 403
//! content-type: text/plain
//! !x-key
//!
//! no
//! ```
//!
//! Given: `config`, `client-ip`, `scheme`, `route`, `upstreams`, `request` (from the client), `answer` (of
//! the upstream, a 200 when left out), `chunks` (in which bodies come), `answers` (of others to callouts),
//! `client` and `server` (messages of a WebSocket). Expected: `verdict`, `upstream`, `forwarded` (what the
//! upstream is sent), `callout` (what others are asked), `response` (what the client is sent), `cut`,
//! `passes`, `becomes`, `dropped` and `closes` (of a message), `log`, `fails`, `refuses`. `sdk/README.md` is
//! the manual.
//!
//! Not here: heads and bodies (`message`), WebSockets (`socket`), playing a case (`play`) and comparing
//! (`compare`).

mod message;
mod socket;

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::plugin::body::CHUNK_BYTES_MAX;
use crate::plugin::callout::CalloutError;

pub(super) use socket::{Becomes, Shown};

/// One golden request.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) name: String,
    /// Where it begins in its file.
    pub(super) line: usize,
    /// A JSON object.
    pub(super) config: String,
    pub(super) client_ip: Option<IpAddr>,
    pub(super) scheme: &'static str,
    pub(super) route: Option<String>,
    /// Names of upstreams that it may choose from; the project's when none are given.
    pub(super) upstreams: Option<Vec<Arc<str>>>,
    pub(super) request: Message,
    pub(super) answer: Message,
    /// Sizes of the pieces in which bodies come, the last one for all that follow.
    pub(super) chunks: Vec<usize>,
    /// In the order in which they are to be made.
    pub(super) callouts: Vec<Callout>,
    /// Messages of the WebSocket that the request has opened.
    pub(super) messages: Vec<Shown>,
    pub(super) expected: Expected,
}

/// A message as a case writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    /// Method and target, or the status.
    pub(super) start: Vec<String>,
    /// In the order written; a name with `!` in front is one that must not be there.
    pub(super) fields: Vec<(String, String)>,
    /// What follows the empty line, without line ends at its end; none without an empty line.
    pub(super) body: Option<String>,
}

/// A request that the plugin has to send, and what comes of it.
#[derive(Clone, Debug)]
pub(super) struct Callout {
    pub(super) asked: Pattern,
    pub(super) answer: Result<Message, CalloutError>,
}

/// What has to come of a case.
#[derive(Clone, Debug, Default)]
pub(super) struct Expected {
    pub(super) verdict: Option<Verdict>,
    /// The upstream that it chooses; empty: none.
    pub(super) upstream: Option<String>,
    /// The response is broken off in the middle.
    pub(super) cut: bool,
    pub(super) forwarded: Option<Forwarded>,
    pub(super) response: Option<Pattern>,
    /// Text of log lines, in this order.
    pub(super) log: Vec<String>,
    /// Text in the message of a hook that fails.
    pub(super) fails: Option<String>,
    /// Text in the error of `init`.
    pub(super) refuses: Option<String>,
}

/// What the plugin makes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Next,
    Respond,
}

/// What goes upstream.
#[derive(Clone, Debug)]
pub(super) enum Forwarded {
    Nothing,
    Request(Pattern),
}

/// A message that another must look like.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    pub(super) message: Message,
    /// Whether fields that it does not name are wrong.
    pub(super) exactly: bool,
}

/// Why a file cannot be read: the line, and what is wrong there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) line: usize,
    pub(super) message: String,
}

/// A `---` line and what follows it.
#[derive(Clone)]
struct Section<'a> {
    line: usize,
    name: &'a str,
    /// What stands behind `:`.
    value: Option<&'a str>,
    lines: Vec<(usize, &'a str)>,
}

const SECTIONS: &str = "config, client-ip, scheme, route, upstreams, request, answer, chunks, answers, \
                        client, server, verdict, upstream, forwarded, callout, response, cut, passes, \
                        becomes, dropped, closes, log, fails and refuses";

/// Reads a file of cases.
pub(super) fn parse(text: &str) -> Result<Vec<Case>, Mistake> {
    let mut common: Vec<Section<'_>> = Vec::new();
    let mut cases: Vec<(usize, &str, Vec<Section<'_>>)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let sections = cases.last_mut().map_or(&mut common, |(_, _, sections)| sections);
        if let Some(name) = line.strip_prefix("===") {
            let name = name.trim();
            if name.is_empty() {
                return Err(mistake(number, "a case needs a name: `=== what it shows`"));
            }
            cases.push((number, name, Vec::new()));
        } else if let Some(header) = line.strip_prefix("---") {
            let (name, value) = match header.split_once(':') {
                Some((name, value)) => (name, Some(value.trim())),
                None => (header, None),
            };
            let name = name.trim();
            let again = |section: &Section<'_>| kind(section.name) == kind(name);
            if ![CALLOUTS, MESSAGES].contains(&kind(name)) && sections.iter().any(again) {
                return Err(mistake(number, format!("`{name}` is there twice")));
            }
            sections.push(Section { line: number, name, value, lines: Vec::new() });
        } else if let Some(section) = sections.last_mut() {
            section.lines.push((number, line));
        } else if !is_nothing(line) {
            return Err(mistake(
                number,
                "begin a section with `--- NAME`, or a case with `=== NAME`",
            ));
        }
    }
    if cases.is_empty() {
        return Err(mistake(1, "no case; one begins with `=== what it shows`"));
    }
    cases.into_iter().map(|(line, name, own)| case(line, name, &common, own)).collect()
}

/// Those that a case may have several of: questions, each with its answer, and messages, each with what
/// becomes of it.
const CALLOUTS: &str = "callout";
const MESSAGES: &str = "client";

fn first_word(name: &str) -> &str {
    name.split(' ').next().unwrap_or(name)
}

/// What a section is about, however it is written.
fn kind(name: &str) -> &str {
    match first_word(name) {
        "answers" => CALLOUTS,
        first if socket::SECTIONS.contains(&first) => MESSAGES,
        first => first,
    }
}

/// An empty line or a comment.
fn is_nothing(line: &str) -> bool {
    line.trim().is_empty() || line.starts_with('#')
}

fn mistake(line: usize, message: impl Into<String>) -> Mistake {
    Mistake { line, message: message.into() }
}

fn case(
    line: usize,
    name: &str,
    common: &[Section<'_>],
    own: Vec<Section<'_>>,
) -> Result<Case, Mistake> {
    let inherited = common
        .iter()
        .filter(|section| !own.iter().any(|other| kind(other.name) == kind(section.name)));
    let mut case = Case {
        name: name.to_owned(),
        line,
        config: "{}".to_owned(),
        client_ip: None,
        scheme: "http",
        route: None,
        upstreams: None,
        request: Message::default(),
        answer: Message { start: vec!["200".to_owned()], ..Message::default() },
        chunks: vec![CHUNK_BYTES_MAX],
        callouts: Vec::new(),
        messages: Vec::new(),
        expected: Expected::default(),
    };
    let mut answered = false;
    for section in inherited.cloned().chain(own.iter().cloned()) {
        answered |= section.name == "answer";
        take(&mut case, &section)?;
    }
    if !case.messages.is_empty() && !answered {
        case.answer.start = vec!["101".to_owned()];
    }
    let expected = &case.expected;
    if case.request.start.is_empty() && expected.refuses.is_none() {
        return Err(mistake(line, format!("`{name}` has no `--- request`")));
    }
    let nothing = expected.verdict.is_none()
        && expected.upstream.is_none()
        && case.callouts.is_empty()
        && case.messages.iter().all(|shown| shown.expected.is_none())
        && !expected.cut
        && expected.forwarded.is_none()
        && expected.response.is_none()
        && expected.log.is_empty()
        && expected.fails.is_none()
        && expected.refuses.is_none();
    if nothing {
        return Err(mistake(line, format!("`{name}` expects nothing")));
    }
    Ok(case)
}

/// Puts a section into its case.
fn take(case: &mut Case, section: &Section<'_>) -> Result<(), Mistake> {
    let expected = &mut case.expected;
    match section.name {
        "config" => case.config = config(section)?,
        "client-ip" => {
            let value = value(section)?;
            let address = value.parse().map_err(|_| {
                mistake(section.line, format!("`{value}` is no address, such as 192.0.2.1"))
            })?;
            case.client_ip = Some(address);
        }
        "scheme" => {
            case.scheme = match value(section)? {
                "http" => "http",
                "https" => "https",
                other => {
                    let message = format!("`{other}` is neither http nor https");
                    return Err(mistake(section.line, message));
                }
            }
        }
        "route" => case.route = Some(value(section)?.to_owned()),
        "upstreams" => {
            let names = value(section)?.split(',').map(|name| name.trim().into());
            case.upstreams = Some(names.collect());
        }
        "request" => case.request = message::request(section)?,
        "answer" => case.answer = message::response(section)?,
        "chunks" => case.chunks = chunks(section)?,
        name @ ("callout" | "callout exactly") => {
            let exactly = name != "callout";
            let asked = Pattern { message: message::callout(section)?, exactly };
            let answer = Message { start: vec!["200".to_owned()], ..Message::default() };
            case.callouts.push(Callout { asked, answer: Ok(answer) });
        }
        "answers" => {
            let answer = answers(section)?;
            let before =
                mistake(section.line, "what is answered? Write the `--- callout` before it");
            case.callouts.last_mut().ok_or(before)?.answer = answer;
        }
        name if socket::SECTIONS[..2].iter().any(|peer| first_word(name) == *peer) => {
            case.messages.push(socket::shown(section)?);
        }
        name if socket::SECTIONS.contains(&first_word(name)) => {
            let before = mistake(
                section.line,
                "of which message? Write `--- client: …` or `--- server: …` before",
            );
            case.messages.last_mut().ok_or(before)?.expected = Some(socket::becomes(section)?);
        }
        "upstream" => {
            expected.upstream = Some(match value(section)? {
                "as routed" => String::new(),
                name => name.to_owned(),
            });
        }
        "cut" => expected.cut = true,
        "verdict" => {
            expected.verdict = Some(match value(section)? {
                "next" => Verdict::Next,
                "respond" => Verdict::Respond,
                other => {
                    let message = format!("`{other}` is neither next nor respond");
                    return Err(mistake(section.line, message));
                }
            });
        }
        "forwarded" if section.value == Some("nothing") => {
            expected.forwarded = Some(Forwarded::Nothing);
        }
        name @ ("forwarded" | "forwarded exactly") => {
            let exactly = name != "forwarded";
            let pattern = Pattern { message: message::request(section)?, exactly };
            expected.forwarded = Some(Forwarded::Request(pattern));
        }
        name @ ("response" | "response exactly") => {
            let exactly = name != "response";
            expected.response = Some(Pattern { message: message::response(section)?, exactly });
        }
        "log" => {
            let lines = section.lines.iter().filter(|(_, line)| !is_nothing(line));
            expected.log = lines.map(|(_, line)| line.trim().to_owned()).collect();
        }
        "fails" => expected.fails = Some(value(section)?.to_owned()),
        "refuses" => expected.refuses = Some(value(section)?.to_owned()),
        other => {
            let message = format!("there is no section `{other}`; there are {SECTIONS}");
            return Err(mistake(section.line, message));
        }
    }
    Ok(())
}

/// What stands behind the section's `:`.
fn value<'a>(section: &Section<'a>) -> Result<&'a str, Mistake> {
    section.value.filter(|value| !value.is_empty()).ok_or_else(|| {
        let name = section.name;
        mistake(section.line, format!("write what it is on the same line: `--- {name}: …`"))
    })
}

fn config(section: &Section<'_>) -> Result<String, Mistake> {
    let lines: Vec<&str> =
        section.value.into_iter().chain(section.lines.iter().map(|(_, line)| *line)).collect();
    let object: Map<String, Value> = serde_json::from_str(&lines.join("\n"))
        .map_err(|error| mistake(section.line, format!("the config is no JSON object: {error}")))?;
    Ok(Value::Object(object).to_string())
}

/// Sizes of pieces.
fn chunks(section: &Section<'_>) -> Result<Vec<usize>, Mistake> {
    let sizes = value(section)?.split_whitespace().map(str::parse);
    let sizes: Vec<usize> = sizes.collect::<Result<_, _>>().unwrap_or_default();
    if sizes.is_empty() || sizes.iter().any(|size| !(1..=CHUNK_BYTES_MAX).contains(size)) {
        let message = format!("write sizes of 1 to {CHUNK_BYTES_MAX} bytes: `--- chunks: 3 1 100`");
        return Err(mistake(section.line, message));
    }
    Ok(sizes)
}

/// What comes of a callout: a response, or why there is none.
fn answers(section: &Section<'_>) -> Result<Result<Message, CalloutError>, Mistake> {
    let Some(value) = section.value else { return message::response(section).map(Ok) };
    let told = || "by the test".to_owned();
    Ok(Err(match value {
        "denied" => CalloutError::Denied(told()),
        "unreachable" => CalloutError::Unreachable(told()),
        "timeout" => CalloutError::Timeout,
        "too-large" => CalloutError::TooLarge,
        "busy" => CalloutError::Busy,
        other => {
            let message = format!(
                "`{other}` is none of denied, unreachable, timeout, too-large and busy; a response \
                 is written below"
            );
            return Err(mistake(section.line, message));
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::Peer;

    #[test]
    fn a_file_is_read_section_by_section() {
        let cases = parse(
            "# about\n--- config\n{ \"a\": 1 }\n\n=== first\n--- request\nGET /x HTTP/1.1\nHost: a\n\n\
             body\nof two\n\n=== second\n--- config: {}\n--- client-ip: 192.0.2.1\n--- request\n\
             # a comment\nPOST /\n--- answer\nHTTP/1.1 404 Not Found\nx-a: b: c\n\
             --- response exactly\n404\n!x-a\n--- forwarded: nothing\n",
        );
        // The first one expects nothing.
        assert_eq!(cases.unwrap_err(), mistake(5, "`first` expects nothing"));

        let cases = parse(
            "--- config\n{ \"a\": 1 }\n--- verdict: next\n=== first\n--- request\nGET /x HTTP/1.1\n\
             Host: a\n\nbody\nof two\n\n=== second\n--- config: {}\n--- request\n# a comment\n\
             POST /\n--- answer\nHTTP/1.1 404 Not Found\nx-a: b: c\n--- response exactly\n404\n!x-a\n",
        )
        .unwrap();
        let [first, second] = &cases[..] else { panic!("{cases:?}") };
        assert_eq!((&*first.config, &*second.config), ("{\"a\":1}", "{}"));
        assert_eq!(first.request.body.as_deref(), Some("body\nof two"));
        assert_eq!(second.request.start, ["POST", "/"]);
        assert_eq!(second.answer.start, ["404"]);
        assert_eq!(second.answer.fields, [("x-a".to_owned(), "b: c".to_owned())]);
        let response = second.expected.response.as_ref().unwrap();
        assert!(response.exactly && response.message.fields[0].0 == "!x-a");
        assert_eq!(second.expected.verdict, Some(Verdict::Next), "what holds for all holds here");
    }

    #[test]
    fn a_case_may_have_several_callouts_with_their_answers() {
        let cases = parse(
            "--- callout\nGET http://all/\n--- answers: timeout\n--- upstreams: a, b\n--- chunks: 3 1\n\
             === inherits\n--- request\nGET /\n=== own\n--- request\nGET /\n--- upstream: as routed\n\
             --- callout exactly\nPOST http://a/x\nx-a: 1\n\nbody\n--- answers\nHTTP/1.1 204\n\
             --- callout\nGET upstream://b/\n--- cut\n",
        )
        .unwrap();

        let [inherits, own] = &cases[..] else { panic!("{cases:?}") };
        assert_eq!(inherits.callouts.len(), 1);
        assert_eq!(inherits.callouts[0].answer, Err(CalloutError::Timeout));
        assert_eq!(inherits.upstreams.as_deref(), Some(&["a".into(), "b".into()][..]));
        assert_eq!(inherits.chunks, [3, 1]);
        let [first, second] = &own.callouts[..] else { panic!("{own:?}") };
        assert!(first.asked.exactly && first.asked.message.start == ["POST", "http://a/x"]);
        assert_eq!(first.asked.message.body.as_deref(), Some("body"));
        assert_eq!(first.answer.as_ref().unwrap().start, ["204"]);
        assert_eq!(second.answer.as_ref().unwrap().start, ["200"]);
        assert_eq!((own.expected.upstream.as_deref(), own.expected.cut), (Some(""), true));
    }

    #[test]
    fn messages_of_a_websocket_are_read_with_what_becomes_of_them() {
        let cases = parse(
            "=== chat\n--- request\nGET /\n--- client: hello\n--- becomes\ntwo\nlines\n\n--- client:\n\
             --- dropped\n--- server binary: 00 fF\n--- becomes binary: 01\n--- server: x\n\
             --- closes: 1008 not * here\n--- client: y\n",
        )
        .unwrap();

        let case = &cases[0];
        assert_eq!(case.answer.start, ["101"], "which opens a WebSocket");
        let shown = |index: usize| {
            let Shown { from, message, expected } = &case.messages[index];
            (*from, Becomes::of(message), expected.clone())
        };
        let text = |text: &str| Becomes::Text(text.to_owned());
        assert_eq!(shown(0), (Peer::Client, text("hello"), Some(text("two\nlines"))));
        assert_eq!(shown(1), (Peer::Client, text(""), Some(Becomes::Nothing)));
        let bytes = Becomes::Binary(vec![0, 255]);
        assert_eq!(shown(2), (Peer::Server, bytes, Some(Becomes::Binary(vec![1]))));
        let close = Becomes::Close(1008, Some("not * here".to_owned()));
        assert_eq!(shown(3), (Peer::Server, text("x"), Some(close)));
        assert_eq!(shown(4), (Peer::Client, text("y"), None));
    }

    #[test]
    fn mistakes_are_named_with_their_lines() {
        for (text, line, words) in [
            ("hello\n", 1, "begin a section"),
            ("", 1, "no case"),
            ("===\n", 1, "needs a name"),
            ("=== a\n--- nonsense\n", 2, "no section `nonsense`"),
            ("=== a\n--- request\n\n--- verdict: next\n", 2, "request line"),
            ("=== a\n--- request\nGET /\n--- verdict: maybe\n", 4, "neither"),
            ("=== a\n--- request\nGET /\nno field\n", 4, "a field is"),
            ("=== a\n--- request\nGET /\na b: c\n", 4, "no field"),
            ("=== a\n--- config\n[]\n--- request\nGET /\n", 2, "no JSON object"),
            ("=== a\n--- verdict: next\n", 1, "no `--- request`"),
            ("=== a\n--- log: x\n--- log\n", 3, "twice"),
            ("=== a\n--- response\nHTTP/1.1 99\n", 2, "status line"),
            ("=== a\n--- client binary: 0\n", 2, "pairs of digits"),
            ("=== a\n--- client loud: x\n", 2, "not `binary`"),
            ("=== a\n--- passes\n", 2, "of which message?"),
            ("=== a\n--- client: x\n--- closes: now\n", 3, "no code"),
            ("=== a\n--- chunks: 0\n", 2, "write sizes"),
            ("=== a\n--- chunks: many\n", 2, "write sizes"),
            ("=== a\n--- answers: timeout\n", 2, "what is answered?"),
            ("=== a\n--- callout\nGET /path\n", 2, "method and URL"),
            ("=== a\n--- callout\nGET http://a/\n--- answers: maybe\n", 4, "none of denied"),
        ] {
            let mistake = parse(text).unwrap_err();
            assert_eq!(mistake.line, line, "{text:?}: {mistake:?}");
            assert!(mistake.message.contains(words), "{text:?}: {mistake:?}");
        }
    }
}
