//! Configuration: what operators write, and what the gateway runs on.
//!
//! [`load`] is the way of a file:
//!
//! ```text
//! bytes ─► parse ─► overrides ─► substitute ─► structure ─► Config ─► check ─► Settings
//!          tree      flags        ${env:…}      schema       types     meaning
//! ```
//!
//! Each step but a syntax error lets the next one run, so that all problems of a file are
//! reported at once. The types of `file` are the single source: the schema is made from them,
//! the structure is checked against the schema, and the manual is printed from it.
//!
//! A program that builds a [`Config`] enters at [`check()`].
//!
//! Not here: reading the configuration file itself, the command line, watching for changes.

mod check;
mod destination;
mod document;
mod embedded;
mod environment;
mod file;
mod later;
mod manual;
mod overrides;
mod parse;
mod problem;
mod schema;
mod redis;
mod settings;
mod structure;
mod substitute;
mod suggest;
mod websocket;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use document::{Document, Node};
use problem::{At, Origin, Report, Step};

pub use check::built_in_names;
pub use destination::*;
pub use embedded::{EMBEDDED, embedded, load_embedded};
pub use environment::{Environment, System};
pub use file::*;
pub use manual::manual;
pub use overrides::Overrides;
pub use problem::{Problem, Problems};
pub use redis::{Redis, StateError};
pub use schema::schema;
pub use settings::*;
pub use websocket::*;

/// Reads a configuration file and checks it.
///
/// `file` is its name in messages. `native` names the middleware that the program brings along,
/// which a chain may name like a plugin.
///
/// # Errors
/// Everything that is wrong with the file and the overrides.
pub fn load(
    text: &[u8],
    file: &str,
    overrides: &Overrides,
    environment: &dyn Environment,
    native: &[&str],
) -> Result<(Config, Settings), Problems> {
    let mut report = Report::default();
    let text = parse::decode(text, file)?;
    let root = parse::parse(text, file, &mut report)?;
    let mut document =
        Document { file, text, overrides: Vec::new(), replaced: HashMap::new(), root };
    if !matches!(document.root.content, document::Content::Object(_)) {
        let message = "the configuration must be an object";
        report.problem_from(&At::default(), document.root.origin, message, "write `{ … }`");
        return Err(document.problems(report));
    }
    overrides.apply(&mut document, &mut report);
    substitute::substitute(&mut document, environment, &mut report);
    finish(document, environment, native, report)
}

/// Checks a configuration that a program has made.
///
/// # Errors
/// Everything that is wrong with it; problems have paths but no positions.
pub fn check(
    config: &Config,
    environment: &dyn Environment,
    native: &[&str],
) -> Result<Settings, Problems> {
    let mut report = Report::default();
    let root = Node::from_value(&to_value(config), Origin::Nowhere);
    let document =
        Document { file: "", text: "", overrides: Vec::new(), replaced: HashMap::new(), root };
    if let Some(at) = first_nul(&document.root, &At::default()) {
        report.problem(&at, "contains a NUL character", "remove it");
    }
    finish(document, environment, native, report).map(|(_, settings)| settings)
}

/// Names and files of the plugins in a folder.
///
/// # Errors
/// The folder cannot be read.
pub fn plugins_in(
    folder: &Path,
    environment: &dyn Environment,
) -> io::Result<BTreeMap<String, PathBuf>> {
    check::files_in(folder, environment)
}

/// A plugin that has come into the plugins folder since the configuration was checked.
#[must_use]
pub fn plugin_from_folder(name: &str, path: PathBuf, settings: &Settings) -> Plugin {
    check::unmentioned(name, path, settings.state.as_ref().map(|redis| redis.on_error))
}

/// The one spelling of a plugin's name.
#[must_use]
pub fn plugin_name(written: &str) -> String {
    check::normal(written)
}

/// Where a JSON pointer (RFC 6901) leads from `at`, a path as problems have it.
#[must_use]
pub fn below(at: &str, pointer: &str) -> String {
    let mut steps = overrides::path(at).unwrap_or_default();
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        let index = token.parse().ok().filter(|index: &usize| index.to_string() == token);
        steps.push(index.map_or(Step::Key(token), Step::Index));
    }
    At(steps).to_string()
}

/// Problems that were found after the checks, with their places in the file: a plugin refuses the
/// configuration at a path such as [`ChainItem::at`].
///
/// `text`, `file` and `overrides` are those of the load. A text that cannot be read gives problems
/// without places, never other ones.
#[must_use]
pub fn place(text: &[u8], file: &str, overrides: &Overrides, problems: Problems) -> Problems {
    let mut ignored = Report::default();
    let text = parse::decode(text, file).unwrap_or_default();
    let root = parse::parse(text, file, &mut ignored);
    let root = root.unwrap_or_else(|_| Node::empty(Origin::Nowhere));
    let mut document =
        Document { file, text, overrides: Vec::new(), replaced: HashMap::new(), root };
    overrides.apply(&mut document, &mut ignored);
    let mut report = Report::default();
    for Problem { path, message, cure, .. } in problems.0 {
        let at = overrides::path(&path).map(At).unwrap_or_default();
        report.problem(&at, message, cure);
    }
    document.problems(report)
}

impl Config {
    /// The configuration as the text of a file that loads equal.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut value = to_value(self);
        escape(&mut value);
        // The alternative form of a `Value` is indented.
        format!("{value:#}\n")
    }
}

/// The steps that files and programs share.
fn finish(
    mut document: Document<'_>,
    environment: &dyn Environment,
    native: &[&str],
    mut report: Report,
) -> Result<(Config, Settings), Problems> {
    structure::check(&mut document.root, schema::shared(), &mut report);
    let config: Config = match serde_json::from_value(document.root.to_value()) {
        Ok(config) => config,
        Err(error) => {
            // The structure has been checked, so this is a consequence of what was found.
            if report.findings.is_empty() {
                report.problem(&At::default(), error.to_string(), "compare with `zproxy schema`");
            }
            return Err(document.problems(report));
        }
    };
    let settings = check::settings(&config, environment, native, &mut report);
    if report.findings.is_empty() {
        return Ok((config, settings));
    }
    Err(document.problems(report))
}

/// The value of a configuration. A number that JSON cannot hold becomes `null` and is refused.
fn to_value(config: &Config) -> Value {
    serde_json::to_value(config).unwrap_or_default()
}

/// Escapes what a load would replace.
fn escape(value: &mut Value) {
    match value {
        Value::String(text) => *text = substitute::escape(text),
        Value::Array(elements) => elements.iter_mut().for_each(escape),
        Value::Object(members) => members.values_mut().for_each(escape),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The first string with a NUL character, which no file or header can take.
fn first_nul(node: &Node, at: &At) -> Option<At> {
    use document::Content;

    match &node.content {
        Content::Text { text, .. } => text.contains('\0').then(|| at.clone()),
        Content::List(elements) => elements
            .iter()
            .enumerate()
            .find_map(|(index, element)| first_nul(element, &at.index(index))),
        Content::Object(members) => {
            members.iter().find_map(|member| first_nul(&member.node, &at.key(&member.key)))
        }
        Content::Null | Content::Bool(_) | Content::Number(_) => None,
    }
}
