//! From the bytes of a file to a tree: JSON with comments and trailing commas.
//!
//! A syntax error ends the reading, since nothing after it can be trusted; duplicate keys,
//! numbers out of range and the like are reported all at once.
//!
//! Not here: what keys and values are allowed (`structure`).

use jsonc_parser::ast;
use jsonc_parser::errors::{ParseError, ParseErrorKind};
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde_json::Number;

use super::document::{Content, DEPTH_MAX, Lines, Member, Node};
use super::problem::{At, Origin, Problem, Problems, Refusal, Report, quote};

/// Comments and trailing commas are the only liberties over JSON.
const OPTIONS: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_loose_object_property_names: false,
    allow_trailing_commas: true,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// The text of a file without its byte order mark.
pub(super) fn decode<'a>(bytes: &'a [u8], file: &str) -> Result<&'a str, Problems> {
    let at_fault = |valid: usize, message: &str, cure: &str| {
        let before = bytes.get(..valid).unwrap_or_default();
        let before = std::str::from_utf8(before).unwrap_or_default();
        single(file, before, valid, message, cure)
    };
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(at_fault(0, "the file is written in UTF-16", "save it as UTF-8"));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Err(error) => {
            let valid = error.valid_up_to();
            Err(at_fault(valid, "this byte is not valid UTF-8", "save the file as UTF-8"))
        }
    }
}

/// The tree that `text` describes.
pub(super) fn parse(text: &str, file: &str, report: &mut Report) -> Result<Node, Problems> {
    if let Some((byte, message, cure)) = broken_string(text) {
        return Err(single(file, text, byte, message, cure));
    }
    let root = parse_to_ast(text, &CollectOptions::default(), &OPTIONS);
    match root {
        Ok(parsed) => match parsed.value {
            Some(value) => {
                Ok(convert(&value, &mut |byte| Origin::Text(byte), &At::default(), report))
            }
            None => Err(single(file, text, 0, "the file is empty", "write at least `{}`")),
        },
        Err(error) => {
            let (message, cure) = explain(&error, text);
            Err(single(file, text, error.range().start, &message, &cure))
        }
    }
}

/// The tree that the value of a flag describes; `None` when it is no JSON.
pub(super) fn parse_value(
    text: &str,
    origin: Origin,
    at: &At,
    report: &mut Report,
) -> Option<Node> {
    if broken_string(text).is_some() {
        return None;
    }
    let value = parse_to_ast(text, &CollectOptions::default(), &OPTIONS).ok()?.value?;
    Some(convert(&value, &mut |_| origin, at, report))
}

/// The one problem of a text that cannot be read on.
fn single(file: &str, text: &str, byte: usize, message: &str, cure: &str) -> Problems {
    let (line, column) = Lines::new(text).position(byte);
    Problems(vec![Problem {
        file: file.into(),
        line: Some(line),
        column: Some(column),
        path: String::new(),
        message: message.into(),
        cure: cure.into(),
    }])
}

/// The first string that holds a raw control character.
///
/// The parser would take it, and so swallow the lines after a forgotten quote and complain far
/// from it. RFC 8259 §7: control characters must be escaped.
fn broken_string(text: &str) -> Option<(usize, &'static str, &'static str)> {
    let bytes = text.as_bytes();
    let mut next = 0;
    while let Some(byte) = bytes.get(next) {
        let rest = &bytes[next..];
        if *byte == b'"' {
            let start = next;
            next += 1;
            loop {
                match bytes.get(next) {
                    None | Some(b'\n' | b'\r') => {
                        let cure = "end it with `\"`; a line break inside a string is `\\n`";
                        return Some((start, "this string does not end on its line", cure));
                    }
                    Some(b'"') => break,
                    // A backslash before the end of the line escapes nothing.
                    Some(b'\\') if bytes.get(next + 1).is_some_and(|byte| *byte >= 0x20) => {
                        next += 2;
                    }
                    Some(0..0x20) => {
                        let cure = "write a tab as `\\t`, others as `\\u00XX`";
                        return Some((next, "a control character inside a string", cure));
                    }
                    Some(_) => next += 1,
                }
            }
            next += 1;
        } else if rest.starts_with(b"//") {
            next += rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        } else if rest.starts_with(b"/*") {
            let end = rest.windows(2).skip(2).position(|pair| pair == b"*/");
            next += end.map_or(rest.len(), |inside| inside + 4);
        } else {
            next += 1;
        }
    }
    None
}

/// What is wrong with the syntax, and how to write it.
fn explain(error: &ParseError, text: &str) -> Refusal {
    use ParseErrorKind as Kind;

    let range = error.range();
    let shown = text.get(range.start..range.end).unwrap_or_default();
    let word = text.get(range.start..).unwrap_or_default();
    let word = word.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next();
    let word = word.unwrap_or_default();
    let (message, cure) = match error.kind() {
        Kind::ExpectedComma => ("a comma is missing here".into(), "write `,`".into()),
        Kind::ExpectedColonAfterObjectKey => {
            ("a colon is missing after the key".into(), "write `\"key\": value`".into())
        }
        Kind::ExpectedObjectValue => {
            ("a value is missing after the colon".into(), "write `\"key\": value`".into())
        }
        Kind::ExpectedStringObjectProperty => {
            (format!("the key {} has no quotes", quote(word)), format!("write `\"{word}\"`"))
        }
        Kind::SingleQuotedStringsNotAllowed => {
            ("strings take double quotes".into(), "write `\"` instead of `'`".into())
        }
        Kind::HexadecimalNumbersNotAllowed
        | Kind::UnaryPlusNumbersNotAllowed
        | Kind::BareDecimalPointNumbersNotAllowed
        | Kind::ExpectedDigit
        | Kind::ExpectedDigitFollowingNegativeSign
        | Kind::ExpectedPlusMinusOrDigitInNumberLiteral
        | Kind::NonFiniteNumbersNotAllowed => {
            ("this is not a number".into(), "write decimal digits, such as `10` or `0.5`".into())
        }
        Kind::MultipleRootJsonValues => (
            format!("{} after the end of the configuration", quote(shown)),
            "remove it; the file is one object `{ … }`".into(),
        ),
        Kind::String(_) => (
            "this escape is unknown".into(),
            "write `\\\"`, `\\\\`, `\\/`, `\\n`, `\\t` or `\\uXXXX`; a single `\\` is `\\\\`"
                .into(),
        ),
        Kind::UnexpectedCloseBrace => {
            ("a value is expected here, not `}`".into(), "remove it or write a value".into())
        }
        Kind::UnexpectedCloseBracket => {
            ("a value is expected here, not `]`".into(), "remove it or write a value".into())
        }
        Kind::UnexpectedColon => {
            ("a value is expected here, not `:`".into(), "remove it or write a value".into())
        }
        Kind::UnexpectedComma => {
            ("a value is expected here, not `,`".into(), "remove one comma".into())
        }
        Kind::UnexpectedTokenInObject => (
            format!("a key or `}}` is expected here, not {}", quote(shown)),
            "write `\"key\": value` or close the object with `}`".into(),
        ),
        Kind::UnexpectedWord | Kind::UnexpectedToken if word.is_empty() => {
            (format!("{} is not JSON", quote(shown)), "remove it".into())
        }
        Kind::UnexpectedWord | Kind::UnexpectedToken => (
            format!("{} is not a value", quote(word)),
            format!("a string takes quotes: `\"{word}\"`"),
        ),
        Kind::UnterminatedArray => {
            ("the list that starts here has no end".into(), "close it with `]`".into())
        }
        Kind::UnterminatedObject => {
            ("the object that starts here has no end".into(), "close it with `}`".into())
        }
        Kind::UnterminatedCommentBlock => {
            ("the comment that starts here has no end".into(), "close it with `*/`".into())
        }
        Kind::NestingDepthExceeded => too_deep(),
        other => (other.to_string().to_lowercase(), "write JSON".into()),
    };
    (message, cure)
}

fn too_deep() -> Refusal {
    (format!("more than {DEPTH_MAX} levels of lists and objects"), "write it flatter".into())
}

/// The tree of a parsed value. Recursion is bounded by `DEPTH_MAX`.
fn convert(
    value: &ast::Value<'_>,
    origin_at: &mut dyn FnMut(usize) -> Origin,
    at: &At,
    report: &mut Report,
) -> Node {
    let range = match value {
        ast::Value::StringLit(node) => node.range,
        ast::Value::NumberLit(node) => node.range,
        ast::Value::BooleanLit(node) => node.range,
        ast::Value::Object(node) => node.range,
        ast::Value::Array(node) => node.range,
        ast::Value::NullKeyword(node) => node.range,
    };
    let origin = origin_at(range.start);
    if at.0.len() > DEPTH_MAX {
        let (message, cure) = too_deep();
        report.problem_from(at, origin, message, cure);
        report.mark_broken(at);
        return Node::new(origin, Content::Null);
    }
    let content = match value {
        ast::Value::NullKeyword(_) => Content::Null,
        ast::Value::BooleanLit(node) => Content::Bool(node.value),
        ast::Value::StringLit(node) => {
            Content::Text { text: node.value.clone().into_owned(), replaced: false }
        }
        ast::Value::NumberLit(node) => number(node.value).map_or_else(
            || {
                let message = format!("{} is too large for a number", quote(node.value));
                report.problem_from(at, origin, message, "write a smaller one, or a string");
                report.mark_broken(at);
                Content::Null
            },
            Content::Number,
        ),
        ast::Value::Array(node) => Content::List(
            node.elements
                .iter()
                .enumerate()
                .map(|(index, element)| convert(element, origin_at, &at.index(index), report))
                .collect(),
        ),
        ast::Value::Object(node) => members(node, origin_at, at, report),
    };
    Node::new(origin, content)
}

/// The members of an object, each key once.
fn members(
    object: &ast::Object<'_>,
    origin_at: &mut dyn FnMut(usize) -> Origin,
    at: &At,
    report: &mut Report,
) -> Content {
    let mut members: Vec<Member> = Vec::with_capacity(object.properties.len());
    let mut seen = std::collections::HashSet::new();
    for property in &object.properties {
        let (key, range) = match &property.name {
            ast::ObjectPropName::String(name) => (name.value.clone().into_owned(), name.range),
            ast::ObjectPropName::Word(name) => (name.value.to_owned(), name.range),
        };
        let origin = origin_at(range.start);
        let below = at.key(&key);
        if !seen.insert(key.clone()) {
            let message = format!("the key {} is written twice in this object", quote(&key));
            report.problem_from(&below, origin, message, "remove one of both");
            continue;
        }
        let node = convert(&property.value, origin_at, &below, report);
        members.push(Member { key, origin, node });
    }
    Content::Object(members)
}

/// The number that `text` describes; `None` when it cannot be kept exactly or at all.
fn number(text: &str) -> Option<Number> {
    if text.contains(['.', 'e', 'E']) {
        return Number::from_f64(text.parse().ok()?);
    }
    text.parse::<u64>().map(Number::from).or_else(|_| text.parse::<i64>().map(Number::from)).ok()
}
