//! The manual of the configuration, printed from its schema.
//!
//! One table per object, in the order in which the file's objects contain each other.
//!
//! Not here: the texts, which are the doc comments of `file`.

use std::fmt::Write;

use serde_json::Value;

use super::schema::{alternatives, resolve, shared, words};

/// The manual as Markdown, the content of `host/docs/config.md`.
#[must_use]
pub fn manual() -> String {
    let root = shared();
    let mut manual = Manual { root, text: String::new(), waiting: Vec::new() };
    manual.line("# Configuration");
    manual.line("");
    manual.line("<!-- Made by `zproxy schema --format markdown > host/docs/config.md`. -->");
    manual.line("");
    manual.line(&paragraphs(root));
    manual.line("");
    manual.line("A name in capitals stands for any name, `[]` for any element of a list.");
    manual.object("", root);
    manual.text
}

/// An object that gets a table of its own.
struct Section<'a> {
    path: String,
    schema: &'a Value,
}

struct Manual<'a> {
    root: &'a Value,
    text: String,
    /// Objects that the current one contains.
    waiting: Vec<Section<'a>>,
}

impl<'a> Manual<'a> {
    fn line(&mut self, line: &str) {
        // Writing to a string cannot fail.
        _ = writeln!(self.text, "{line}");
    }

    /// The table of one object, and after it those of the objects in it.
    fn object(&mut self, path: &str, schema: &'a Value) {
        let title = if path.is_empty() { "The file".into() } else { format!("`{path}`") };
        self.line(&format!("\n## {title}\n"));
        if !path.is_empty() {
            self.line(&format!("{}\n", paragraphs(schema)));
        }
        self.line("| key | type | default | meaning |");
        self.line("|---|---|---|---|");
        let properties = schema.get("properties").and_then(Value::as_object);
        for (key, property) in properties.into_iter().flatten() {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            self.row(&path, key, property, schema);
        }
        if schema.get("additionalProperties") == Some(&Value::Bool(true)) {
            self.line(&format!("| `{path}.KEY` | anything | | Handed to the plugin as it is. |"));
        }
        for section in std::mem::take(&mut self.waiting) {
            self.object(&section.path, section.schema);
        }
    }

    fn row(&mut self, path: &str, key: &str, property: &'a Value, object: &Value) {
        let kind = self.kind(property, path);
        let required = object.get("required").and_then(Value::as_array);
        let required = required.is_some_and(|keys| keys.iter().any(|name| name == key));
        let default = match property.get("default") {
            _ if required => "required".into(),
            // The keys of such a default have rows of their own.
            Some(Value::Object(_)) | None => String::new(),
            Some(value) => format!("`{value}`"),
        };
        let mut meaning = paragraphs(property);
        for choice in alternatives(self.root, property) {
            let (choice, _) = resolve(self.root, choice);
            if words(choice).len() > 1 {
                for word in choice.get("oneOf").and_then(Value::as_array).into_iter().flatten() {
                    let name = word.get("const").unwrap_or(&Value::Null);
                    _ = write!(meaning, " `{name}`: {}", paragraphs(word));
                }
            }
        }
        if let Some(example) = property.get("examples").and_then(|examples| examples.get(0)) {
            _ = write!(meaning, " Example: `{example}`.");
        }
        let cells = [format!("`{path}`"), kind, default, meaning];
        let cells = cells.map(|cell| cell.replace('|', "\\|"));
        self.line(&format!("| {} |", cells.join(" | ")));
    }

    /// What may be written, in words; objects on the way get a section.
    fn kind(&mut self, schema: &'a Value, path: &str) -> String {
        let kinds: Vec<_> = alternatives(self.root, schema)
            .into_iter()
            .map(|choice| self.single_kind(choice, path))
            .collect();
        kinds.join(" or ")
    }

    fn single_kind(&mut self, choice: &'a Value, path: &str) -> String {
        let (schema, _) = resolve(self.root, choice);
        let words = words(schema);
        if !words.is_empty() {
            let words: Vec<_> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
            return words.join(" or ");
        }
        match schema.get("type") {
            Some(Value::String(kind)) if kind == "array" => {
                let items = schema.get("items").unwrap_or(&Value::Null);
                format!("list of {}", self.kind(items, &format!("{path}[]")))
            }
            Some(Value::String(kind)) if kind == "object" => self.object_kind(schema, path),
            Some(Value::String(kind)) if kind == "boolean" => "`true` or `false`".into(),
            Some(Value::String(kind)) if kind == "integer" || kind == "number" => number(schema),
            Some(Value::String(kind)) if kind == "null" => "`null`".into(),
            Some(Value::String(kind)) => kind.clone(),
            _ => "anything".into(),
        }
    }

    fn object_kind(&mut self, schema: &'a Value, path: &str) -> String {
        if schema.get("properties").is_some() {
            self.waiting.push(Section { path: path.into(), schema });
            return "object".into();
        }
        match schema.get("additionalProperties") {
            Some(values @ Value::Object(_)) => {
                format!("object: NAME → {}", self.kind(values, &format!("{path}.NAME")))
            }
            _ => "object".into(),
        }
    }
}

fn number(schema: &Value) -> String {
    let whole = schema.get("type").is_some_and(|kind| kind == "integer");
    let kind = if whole { "whole number" } else { "number" };
    match (schema.get("minimum"), schema.get("maximum")) {
        (Some(low), Some(high)) => format!("{kind}, {low} to {high}"),
        (Some(low), None) => format!("{kind}, at least {low}"),
        (None, Some(high)) => format!("{kind}, at most {high}"),
        (None, None) => kind.into(),
    }
}

/// A description on one line.
fn paragraphs(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file is what people read in the repository, so it must say what the types say.
    #[test]
    fn the_file_in_docs_is_the_manual() {
        let file = include_str!("../../docs/config.md");

        assert!(
            file == manual(),
            "run: cargo run -- schema --format markdown > host/docs/config.md"
        );
    }

    #[test]
    fn every_key_has_a_row_with_a_meaning() {
        let manual = manual();

        for row in [
            "| `limits.headers_max` | whole number, 1 to 4096 | `100` | Field lines",
            "| `routes[].path` | string | required | Path of the request",
            "| `upstreams.NAME.servers[].weight` | whole number, 1 to 256 |",
            "| `admin.address` | string or `null` | `\"127.0.0.1:9901\"` |",
            "| `middleware.NAME.KEY` | anything |",
        ] {
            assert!(manual.contains(row), "{row}\n{manual}");
        }
        for line in manual.lines().filter(|line| line.starts_with("| `")) {
            let meaning = line.trim_end_matches(" |").rsplit(" | ").next().unwrap();
            assert!(meaning.len() > 15, "{line}");
        }
    }
}
