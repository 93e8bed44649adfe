//! A configuration as a tree of values that remember where they were written.
//!
//! The tree is made by `parse` (a file), by `overrides` (flags) or from a program's `Config`;
//! `substitute` and `structure` change it in place.
//!
//! Not here: what the values mean.

use std::collections::HashMap;

use serde_json::{Map, Number, Value};

use super::problem::{At, Origin, Problem, Problems, Report, Step, shorten};

/// Levels of lists and objects. Far more than a configuration needs, and few enough for every
/// recursive reader, here and in plugins.
pub(super) const DEPTH_MAX: usize = 64;

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Where it begins.
    pub(super) origin: Origin,
    /// What it is.
    pub(super) content: Content,
}

/// The kinds of values.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number.
    Number(Number),
    /// A string.
    Text {
        /// Its characters.
        text: String,
        /// Whether all of it came from one `${…}`: then it may stand for a number or boolean.
        replaced: bool,
    },
    /// A list.
    List(Vec<Node>),
    /// An object, in the order of the file.
    Object(Vec<Member>),
}

/// A key of an object and its value.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// The key.
    pub(super) key: String,
    /// Where the key begins.
    pub(super) origin: Origin,
    /// The value.
    pub(super) node: Node,
}

impl Node {
    /// A value of an origin.
    pub(super) fn new(origin: Origin, content: Content) -> Self {
        Self { origin, content }
    }

    /// An empty object.
    pub(super) fn empty(origin: Origin) -> Self {
        Self::new(origin, Content::Object(Vec::new()))
    }

    /// A string as it was written.
    pub(super) fn text(origin: Origin, text: impl Into<String>) -> Self {
        Self::new(origin, Content::Text { text: text.into(), replaced: false })
    }

    /// The same value with one origin everywhere.
    pub(super) fn from_value(value: &Value, origin: Origin) -> Self {
        let content = match value {
            Value::Null => Content::Null,
            Value::Bool(value) => Content::Bool(*value),
            Value::Number(value) => Content::Number(value.clone()),
            Value::String(value) => Content::Text { text: value.clone(), replaced: false },
            Value::Array(elements) => {
                Content::List(elements.iter().map(|one| Self::from_value(one, origin)).collect())
            }
            Value::Object(members) => Content::Object(
                members
                    .iter()
                    .map(|(key, value)| Member {
                        key: key.clone(),
                        origin,
                        node: Self::from_value(value, origin),
                    })
                    .collect(),
            ),
        };
        Self { origin, content }
    }

    /// The value without its origins.
    pub(super) fn to_value(&self) -> Value {
        match &self.content {
            Content::Null => Value::Null,
            Content::Bool(value) => Value::Bool(*value),
            Content::Number(value) => Value::Number(value.clone()),
            Content::Text { text, .. } => Value::String(text.clone()),
            Content::List(elements) => elements.iter().map(Self::to_value).collect(),
            Content::Object(members) => {
                let mut map = Map::new();
                for member in members {
                    map.insert(member.key.clone(), member.node.to_value());
                }
                Value::Object(map)
            }
        }
    }

    /// Member `key` of an object.
    pub(super) fn member(&self, key: &str) -> Option<&Self> {
        let Content::Object(members) = &self.content else { return None };
        members.iter().find(|member| member.key == key).map(|member| &member.node)
    }

    /// Origin of the deepest value on the way to `at`.
    fn locate(&self, at: &At) -> Origin {
        let mut node = self;
        for step in &at.0 {
            let next = match (&node.content, step) {
                (Content::Object(_), Step::Key(key)) => node.member(key),
                (Content::List(elements), Step::Index(index)) => elements.get(*index),
                _ => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node.origin
    }
}

/// A string that was replaced, which may be a secret now.
pub(super) struct Replaced {
    /// As it is in the file.
    pub(super) written: String,
    /// What it stands for.
    pub(super) value: String,
}

impl Replaced {
    /// `text`, about this value, without the value: a report is read by more people than a secret.
    fn hide(&self, text: String) -> String {
        let value = shorten(&self.value);
        let written = shorten(&self.written);
        // Messages quote a value or a part of it in backticks, cures write it as JSON.
        let hidden = text.split('`').enumerate().map(|(index, part)| {
            let quoted = index % 2 == 1 && !part.is_empty();
            if quoted && (value.contains(part) && !written.contains(part)) {
                written.clone()
            } else if value.len() >= 4 {
                part.replace(&value, &written)
            } else {
                part.to_owned()
            }
        });
        hidden.collect::<Vec<_>>().join("`")
    }
}

/// A configuration on its way to being checked.
pub(super) struct Document<'a> {
    /// Name of the file, for messages.
    pub(super) file: &'a str,
    /// The file's text, for positions.
    pub(super) text: &'a str,
    /// Names of the flags and variables that [`Origin::Override`] counts.
    pub(super) overrides: Vec<String>,
    /// Strings that are not as they were written.
    pub(super) replaced: HashMap<At, Replaced>,
    /// The outermost value.
    pub(super) root: Node,
}

impl Document<'_> {
    /// The findings of `report` with their positions, in the order of the file.
    pub(super) fn problems(&self, report: Report) -> Problems {
        let mut lines = Lines::new(self.text);
        let omitted = report.omitted;
        let mut placed: Vec<_> = report
            .findings
            .into_iter()
            .map(|found| (found.origin.unwrap_or_else(|| self.root.locate(&found.at)), found))
            .collect();
        placed.sort_by_key(|(origin, _)| *origin);
        let mut problems: Vec<_> = placed
            .into_iter()
            .map(|(origin, found)| {
                let (file, line, column) = match origin {
                    Origin::Text(byte) => {
                        let (line, column) = lines.position(byte);
                        (self.file, Some(line), Some(column))
                    }
                    Origin::Override(index) => {
                        (self.overrides.get(index).map_or("", String::as_str), None, None)
                    }
                    Origin::Nowhere => (self.file, None, None),
                };
                let (path, mut message, mut cure) =
                    (found.at.to_string(), found.message, found.cure);
                if let Some(replaced) = self.replaced.get(&found.at) {
                    message = replaced.hide(message);
                    cure = replaced.hide(cure);
                }
                Problem { file: file.into(), line, column, path, message, cure }
            })
            .collect();
        if omitted > 0 {
            problems.push(Problem {
                file: self.file.into(),
                line: None,
                column: None,
                path: String::new(),
                message: format!("there are {omitted} more problems"),
                cure: "mend these first".into(),
            });
        }
        Problems(problems)
    }
}

/// Counts lines and columns of a text.
pub(super) struct Lines<'a> {
    text: &'a str,
    /// A character that was asked for, and its line and column.
    known: (usize, usize, usize),
}

impl<'a> Lines<'a> {
    /// Stands at the beginning of `text`.
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, known: (0, 1, 1) }
    }

    /// Line and column, from 1, of the character at `byte`.
    ///
    /// Counts on from the last one, so that questions in the order of the text cost one pass.
    pub(super) fn position(&mut self, byte: usize) -> (usize, usize) {
        if byte < self.known.0 {
            self.known = (0, 1, 1);
        }
        let (from, mut line, mut column) = self.known;
        for character in self.text.get(from..byte).unwrap_or_default().chars() {
            if character == '\n' {
                (line, column) = (line + 1, 1);
            } else {
                column += 1;
            }
        }
        self.known = (byte, line, column);
        (line, column)
    }
}
