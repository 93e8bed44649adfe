//! Messages as cases write them: a start line, fields, an empty line, a body.
//!
//! Not here: sections (`case`).

use super::{Message, Mistake, Section, mistake};
use crate::http::fields::{is_token, is_value};

/// What stands behind the `:` of a section whose message must have none: without a body in a pattern any
/// will do.
const NO_BODY: &str = "no body";

pub(super) fn request(section: &Section<'_>) -> Result<Message, Mistake> {
    let message = message(section)?;
    let wrong = || mistake(section.line, "begin with a request line: `GET /path HTTP/1.1`");
    let [method, target, ..] = &message.start[..] else { return Err(wrong()) };
    // A pattern may leave both open.
    let is_target = (target.starts_with('/') || target == "*") && !target.contains('#');
    if !is_token(method.as_bytes()) || !is_target {
        return Err(wrong());
    }
    Ok(message)
}

pub(super) fn response(section: &Section<'_>) -> Result<Message, Mistake> {
    let mut message = message(section)?;
    if message.start.first().is_some_and(|word| word.starts_with("HTTP/")) {
        message.start.remove(0);
    }
    // What the status is called is nobody's business.
    message.start.truncate(1);
    match message.start.first().map(|status| status.parse()) {
        // 101 is what opens a WebSocket.
        Some(Ok(101 | 200..=599_u16)) => Ok(message),
        _ => Err(mistake(section.line, "begin with a status line: `HTTP/1.1 200`")),
    }
}

/// Method and URL, then as a request.
pub(super) fn callout(section: &Section<'_>) -> Result<Message, Mistake> {
    let message = message(section)?;
    match &message.start[..] {
        [method, url] if is_token(method.as_bytes()) && (url.contains("://") || url == "*") => {
            Ok(message)
        }
        _ => Err(mistake(section.line, "begin with method and URL: `GET http://host/path`")),
    }
}

/// A start line, fields, and after an empty line the body.
fn message(section: &Section<'_>) -> Result<Message, Mistake> {
    let mut message = Message::default();
    let mut lines = section.lines.iter();
    for (number, line) in lines.by_ref() {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            let rest: Vec<&str> = lines.map(|(_, line)| *line).collect();
            message.body = Some(rest.join("\n").trim_end_matches('\n').to_owned());
            break;
        }
        if message.start.is_empty() {
            message.start = line.split_whitespace().map(str::to_owned).collect();
            continue;
        }
        message.fields.push(field(*number, line)?);
    }
    // The empty lines that set a section apart are no body.
    message.body = message.body.filter(|body| !body.is_empty());
    match section.value {
        None => {}
        Some(NO_BODY) => message.body = message.body.or(Some(String::new())),
        Some(other) => {
            let message = format!("`{other}` is not `{NO_BODY}`; a message is written below");
            return Err(mistake(section.line, message));
        }
    }
    Ok(message)
}

fn field(number: usize, line: &str) -> Result<(String, String), Mistake> {
    let (name, value) = match (line.strip_prefix('!'), line.split_once(':')) {
        (Some(_), _) => (line.trim(), ""),
        (None, Some((name, value))) => (name, value.trim()),
        (None, None) => {
            return Err(mistake(
                number,
                "a field is `name: value`, one that must not be there `!name`",
            ));
        }
    };
    if !is_token(name.trim_start_matches('!').as_bytes()) || !is_value(value.as_bytes()) {
        return Err(mistake(number, format!("`{line}` is no field (RFC 9110 5)")));
    }
    Ok((name.to_owned(), value.to_owned()))
}
