//! `${env:NAME}`, `${env:NAME:-default}` and `${file:/path}` inside strings.
//!
//! Replaced text is not looked at again, so a secret may contain `${`. Keys are never replaced.

use std::collections::HashMap;
use std::path::Path;

use super::document::{Content, Document, Node, Replaced};
use super::environment::{Environment, reason};
use super::problem::{At, Refusal, Report, quote, shorten};

/// A configuration may take in certificates and keys, not archives.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// Replaces what can be replaced in every string of `document`.
pub(super) fn substitute(
    document: &mut Document<'_>,
    environment: &dyn Environment,
    report: &mut Report,
) {
    visit(&mut document.root, environment, &At::default(), &mut document.replaced, report);
}

/// `text` in a form that [`substitute`] turns back into `text`.
pub(super) fn escape(text: &str) -> String {
    text.replace("${", "$${")
}

fn visit(
    node: &mut Node,
    environment: &dyn Environment,
    at: &At,
    secrets: &mut HashMap<At, Replaced>,
    report: &mut Report,
) {
    match &mut node.content {
        Content::Text { text, replaced } => match replace(text, environment) {
            Ok((new, whole)) => {
                if new != *text {
                    let written = std::mem::take(text);
                    secrets.insert(at.clone(), Replaced { written, value: new.clone() });
                }
                *text = new;
                *replaced = whole;
                if text.contains('\0') {
                    let message = "contains a NUL character (`\\u0000`)";
                    report.problem_from(at, node.origin, message, "remove it");
                    report.mark_broken(at);
                    text.clear();
                }
            }
            Err((message, cure)) => {
                report.problem_from(at, node.origin, message, cure);
                report.mark_broken(at);
                text.clear();
            }
        },
        Content::List(elements) => {
            for (index, element) in elements.iter_mut().enumerate() {
                visit(element, environment, &at.index(index), secrets, report);
            }
        }
        Content::Object(members) => {
            for member in members {
                visit(&mut member.node, environment, &at.key(&member.key), secrets, report);
            }
        }
        Content::Null | Content::Bool(_) | Content::Number(_) => {}
    }
}

/// The text after replacement, and whether all of it came from one place.
fn replace(text: &str, environment: &dyn Environment) -> Result<(String, bool), Refusal> {
    let mut new = String::new();
    let mut rest = text;
    let mut whole = false;
    while let Some(dollar) = rest.find('$') {
        new.push_str(&rest[..dollar]);
        let here = &rest[dollar..];
        if let Some(after) = here.strip_prefix("$${") {
            new.push_str("${");
            rest = after;
        } else if let Some(after) = here.strip_prefix("${") {
            let Some(end) = after.find('}') else {
                let message = format!("{} has no end", quote(here));
                return Err((message, "close it with `}`; for the text itself write `$${`".into()));
            };
            let inner = &after[..end];
            if inner.contains("${") {
                // Its `}` would end both, and the rest become a part of the value.
                let message = format!("{} holds another `${{`", quote(&here[..end + 3]));
                return Err((message, "write the default as plain text".into()));
            }
            new.push_str(&look_up(inner, environment)?);
            rest = &after[end + 1..];
            whole = dollar == 0 && rest.is_empty() && here.len() == text.len();
        } else {
            new.push('$');
            rest = &here[1..];
        }
    }
    new.push_str(rest);
    Ok((new, whole))
}

/// What stands for `inner`, the text between `${` and `}`.
fn look_up(inner: &str, environment: &dyn Environment) -> Result<String, Refusal> {
    if let Some(variable) = inner.strip_prefix("env:") {
        let (name, default) = match variable.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (variable, None),
        };
        return look_up_variable(name, default, environment);
    }
    if let Some(path) = inner.strip_prefix("file:") {
        return look_up_file(path, environment);
    }
    let name = inner.trim();
    let message = format!("`${{{}}}` is not known", shorten(inner));
    let cure = if is_variable_name(name) {
        format!("write `${{env:{name}}}` for a variable; for the text itself write `$${{`")
    } else {
        "write `${env:NAME}` or `${file:/path}`; for the text itself write `$${`".into()
    };
    Err((message, cure))
}

fn look_up_variable(
    name: &str,
    default: Option<&str>,
    environment: &dyn Environment,
) -> Result<String, Refusal> {
    if !is_variable_name(name) {
        let message = format!("{} is not the name of a variable", quote(name));
        return Err((message, "write `${env:NAME}`: letters, digits and `_`".into()));
    }
    // As in a shell, `:-` also stands in for an empty variable.
    match (environment.variable(name), default) {
        (Some(value), Some(default)) if value.is_empty() => Ok(default.into()),
        (Some(value), _) => value.into_string().map_err(|_| {
            let message = format!("the value of the environment variable `{name}` is not UTF-8");
            (message, "set it to text".into())
        }),
        (None, Some(default)) => Ok(default.into()),
        (None, None) => Err((
            format!("the environment variable `{name}` is not set"),
            format!("set it, or give a default: `${{env:{name}:-default}}`"),
        )),
    }
}

fn look_up_file(path: &str, environment: &dyn Environment) -> Result<String, Refusal> {
    let fault = |reason: String| {
        let message = format!("cannot read the file {}: {reason}", quote(path));
        (message, format!("write the path of a text file of at most {FILE_BYTES_MAX} bytes"))
    };
    if path.is_empty() {
        return Err(("`${file:}` names no file".into(), "write `${file:/path}`".into()));
    }
    let content = environment.read(Path::new(path), FILE_BYTES_MAX);
    let content = content.map_err(|error| fault(reason(&error)))?;
    let text = String::from_utf8(content).map_err(|_| fault("it is not UTF-8".into()))?;
    // Editors and `echo` end a file with a line break that belongs to no secret.
    let trimmed = text
        .strip_suffix('\n')
        .map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    Ok(trimmed.into())
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
