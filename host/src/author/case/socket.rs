//! Messages of a WebSocket as cases write them, each with what has to become of it.
//!
//! ```text
//! --- client: hello
//! --- becomes: HELLO
//! --- server binary: 00 ff
//! --- passes
//! ```
//!
//! Not here: sections (`case`).

use super::{Mistake, Section, mistake, value};
use crate::plugin::{Peer, SocketMessage};

/// A message that the plugin is shown.
#[derive(Clone, Debug)]
pub(in crate::author) struct Shown {
    pub(in crate::author) from: Peer,
    pub(in crate::author) message: SocketMessage,
    /// What has to become of it; nothing: whatever the plugin likes, but no failure.
    pub(in crate::author) expected: Option<Becomes>,
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::author) enum Becomes {
    /// It goes on as it is.
    Same,
    /// A text in which `*` stands for any.
    Text(String),
    Binary(Vec<u8>),
    Nothing,
    /// Both ends are closed, with this code and, if one is given, a reason like this.
    Close(u16, Option<String>),
}

impl Becomes {
    /// What a message is that goes on as it is.
    pub(in crate::author) fn of(message: &SocketMessage) -> Self {
        match message.is_text {
            true => Self::Text(String::from_utf8_lossy(&message.data).into_owned()),
            false => Self::Binary(message.data.to_vec()),
        }
    }
}

/// The names of these sections.
pub(super) const SECTIONS: [&str; 6] =
    ["client", "server", "passes", "becomes", "dropped", "closes"];

/// A message: `client`, `server`, each also with `binary`.
pub(super) fn shown(section: &Section<'_>) -> Result<Shown, Mistake> {
    let from = match section.name.starts_with("client") {
        true => Peer::Client,
        false => Peer::Server,
    };
    let is_text = !is_binary(section)?;
    let data = match is_text {
        true => text(section).into_bytes(),
        false => binary(section)?,
    };
    let message = SocketMessage { is_text, data: data.into() };
    Ok(Shown { from, message, expected: None })
}

/// What has to become of the message before.
pub(super) fn becomes(section: &Section<'_>) -> Result<Becomes, Mistake> {
    match section.name {
        "passes" => Ok(Becomes::Same),
        "dropped" => Ok(Becomes::Nothing),
        "closes" => close(section),
        _ if is_binary(section)? => binary(section).map(Becomes::Binary),
        _ => Ok(Becomes::Text(text(section))),
    }
}

fn is_binary(section: &Section<'_>) -> Result<bool, Mistake> {
    match section.name.split_once(' ') {
        None => Ok(false),
        Some((_, "binary")) => Ok(true),
        Some((name, other)) => {
            let message = format!("`{other}` is not `binary`: a text is `--- {name}: hello`");
            Err(mistake(section.line, message))
        }
    }
}

/// What stands behind `:`, or all that follows but for line ends at its end.
fn text(section: &Section<'_>) -> String {
    if let Some(value) = section.value {
        return value.to_owned();
    }
    let lines: Vec<&str> = section.lines.iter().map(|(_, line)| *line).collect();
    lines.join("\n").trim_end_matches('\n').to_owned()
}

/// Bytes in hexadecimal digits.
fn binary(section: &Section<'_>) -> Result<Vec<u8>, Mistake> {
    let wrong = || mistake(section.line, "write bytes as pairs of digits: `00 ff 1a`");
    let text: String = text(section).split_whitespace().collect();
    if !text.len().is_multiple_of(2) || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let pairs = (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16));
    pairs.collect::<Result<_, _>>().map_err(|_| wrong())
}

fn close(section: &Section<'_>) -> Result<Becomes, Mistake> {
    let value = value(section)?;
    let (code, reason) = match value.split_once(' ') {
        Some((code, reason)) => (code, Some(reason.trim().to_owned())),
        None => (value, None),
    };
    let code = code.parse().map_err(|_| {
        mistake(section.line, format!("`{code}` is no code: `--- closes: 1008 not here`"))
    })?;
    Ok(Becomes::Close(code, reason))
}
