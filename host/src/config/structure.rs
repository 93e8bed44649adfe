//! Compares a tree with the schema: keys, kinds of values, ranges.
//!
//! Understands the part of JSON Schema that our types make: `$ref`, `type`, `properties`,
//! `required`, `additionalProperties`, `items`, `minItems`, `anyOf` of alternatives that differ
//! in kind, `oneOf` of words, `minimum`, `maximum`. A refused value is replaced by the smallest
//! valid one, so that what surrounds it can still be read and checked.
//!
//! Not here: anything that needs two values at once, or the meaning of a string (`check`).

use serde_json::{Number, Value};

use super::document::{Content, Member, Node};
use super::later;
use super::problem::{At, Origin, Report, quote, shorten};
use super::schema::{alternatives, resolve, words};

/// Checks `node` against `root`, the schema, and makes it readable.
pub(super) fn check(node: &mut Node, root: &Value, report: &mut Report) {
    Walker { root, report }.value(node, root, &At::default());
}

struct Walker<'a> {
    root: &'a Value,
    report: &'a mut Report,
}

impl Walker<'_> {
    fn value(&mut self, node: &mut Node, schema: &Value, at: &At) {
        if self.report.is_broken(at) {
            *node = smallest(self.root, schema, node.origin);
            return;
        }
        let choices = alternatives(self.root, schema);
        if let Content::Text { text, replaced: true } = &node.content
            && let Some(content) = unquote(self.root, &choices, text)
        {
            node.content = content;
        }
        let fits = |choice: &&&Value| fits(kind(self.root, choice), &node.content);
        let Some(choice) = choices.iter().find(fits) else {
            return self.wrong_kind(node, schema, at);
        };
        let (schema, name) = resolve(self.root, choice);
        let words = words(schema);
        match &mut node.content {
            Content::Text { text, .. } if !words.is_empty() => {
                if !words.contains(&text.as_str()) {
                    let (message, mut cure) =
                        wrong_word(text, &words, name.unwrap_or_default(), self.report);
                    if choices.len() > 1 {
                        cure = self.any_of(&choices, text);
                    }
                    self.refuse(node, schema, at, message, cure);
                }
            }
            Content::Number(_) => self.number(node, schema, at),
            Content::List(_) => self.list(node, schema, at),
            Content::Object(_) => self.object(node, schema, name.unwrap_or_default(), at),
            Content::Null | Content::Bool(_) | Content::Text { .. } => {}
        }
    }

    fn number(&mut self, node: &mut Node, schema: &Value, at: &At) {
        let whole = schema.get("type").is_some_and(|kind| kind == "integer");
        if let Content::Number(number) = &mut node.content
            && whole
            && let Some(integer) = as_integer(number)
        {
            *number = integer;
        }
        let Content::Number(number) = &node.content else { return };
        if whole && number.is_f64() {
            let message = format!("must be a whole number, not `{number}`");
            return self.refuse(node, schema, at, message, range(schema));
        }
        let bound = |keyword| schema.get(keyword).and_then(Value::as_number);
        let below = bound("minimum").is_some_and(|low| exceeds(low, number));
        let above = bound("maximum").is_some_and(|high| exceeds(number, high));
        if below || above {
            let message = format!("`{number}` is out of range");
            self.refuse(node, schema, at, message, range(schema));
        }
    }

    fn list(&mut self, node: &mut Node, schema: &Value, at: &At) {
        let Content::List(elements) = &mut node.content else { return };
        if let Some(items) = schema.get("items") {
            for (index, element) in elements.iter_mut().enumerate() {
                self.value(element, items, &at.index(index));
            }
        }
        let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0);
        if elements.is_empty() && least > 0 {
            let cure = match example(schema) {
                Some(example) => format!("write {example}"),
                None => "add an element, or leave the key out".into(),
            };
            self.report.problem_from(at, node.origin, "the list is empty", cure);
            self.report.mark_broken(at);
        }
    }

    fn object(&mut self, node: &mut Node, schema: &Value, name: &str, at: &At) {
        let origin = node.origin;
        let Content::Object(members) = &mut node.content else { return };
        let properties = schema.get("properties");
        let others = schema.get("additionalProperties");
        members.retain_mut(|member| {
            let below = at.key(&member.key);
            let property = properties.and_then(|all| all.get(&member.key));
            match (property, others) {
                (Some(property), _) => self.value(&mut member.node, property, &below),
                (None, Some(Value::Bool(false))) => {
                    self.unknown_key(member, properties, name, &below);
                    return false;
                }
                (None, Some(schema @ Value::Object(_))) => {
                    self.value(&mut member.node, schema, &below);
                }
                // The keys of a plugin's configuration are the plugin's business.
                (None, _) => {}
            }
            true
        });
        let required = schema.get("required").and_then(Value::as_array);
        for key in required.into_iter().flatten().filter_map(Value::as_str) {
            if members.iter().any(|member| member.key == key) {
                continue;
            }
            let property = properties.and_then(|all| all.get(key)).unwrap_or(&Value::Null);
            let shown = example(property).unwrap_or_else(|| "…".into());
            let message = format!("the key `{key}` is missing");
            self.report.incomplete(at, message, format!("write `\"{key}\": {shown}`"));
            self.report.mark_broken(&at.key(key));
            let node = smallest(self.root, property, origin);
            members.push(Member { key: key.into(), origin, node });
        }
    }

    fn unknown_key(&mut self, member: &Member, all: Option<&Value>, object: &str, at: &At) {
        let key = &member.key;
        let known = || all.and_then(Value::as_object).into_iter().flat_map(|all| all.keys());
        let message = format!("{} is not a key here", quote(key));
        if let Some(comes) = later::key(object, key) {
            self.report.problem_from(at, member.origin, later::refusal(at, comes), "remove it");
        } else if let Some(close) = self.report.closest(key, known().map(String::as_str)) {
            let cure = format!("did you mean `{close}`?");
            self.report.problem_from(at, member.origin, message, cure);
        } else {
            let keys: Vec<_> = known().map(|key| format!("`{key}`")).collect();
            let cure = format!("remove it; the keys here are {}", keys.join(", "));
            self.report.problem_from(at, member.origin, message, cure);
            // It stands for no other key, so one that is missing is missing.
            return;
        }
        self.report.mark_broken(at);
    }

    fn wrong_kind(&mut self, node: &mut Node, schema: &Value, at: &At) {
        let choices = alternatives(self.root, schema);
        let kinds: Vec<_> = choices.iter().map(|choice| kind(self.root, choice)).collect();
        let expected = self.expected(&choices);
        let message = format!("must be {expected}, not {}", describe(&node.content));
        let wants = |wanted: Kind| kinds.contains(&wanted);
        let cure = match &node.content {
            Content::Null => "leave the key out for its default".into(),
            Content::Text { text, .. }
                if is_number(text) && (wants(Kind::Integer) || wants(Kind::Number)) =>
            {
                format!("write {text} without quotes")
            }
            Content::Text { text, .. }
                if wants(Kind::Boolean) && ["true", "false"].contains(&text.as_str()) =>
            {
                format!("write {text} without quotes")
            }
            Content::Number(number) if wants(Kind::Text) => format!("write \"{number}\" in quotes"),
            Content::Text { text, .. } if wants(Kind::List) => {
                format!("write [\"{}\"] in brackets", shorten(text))
            }
            _ => match example(resolve(self.root, schema).0).or_else(|| example(schema)) {
                Some(example) => format!("write {example}"),
                None => self.general_cure(&choices, kinds.first().copied()),
            },
        };
        self.refuse(node, schema, at, message, cure);
    }

    /// The kinds of values that are allowed, in words.
    fn expected(&self, choices: &[&Value]) -> String {
        let describe = |choice: &&Value| match words(resolve(self.root, choice).0) {
            words if words.is_empty() => kind(self.root, choice).describe().to_owned(),
            words => list_words(&words),
        };
        choices.iter().map(describe).collect::<Vec<_>>().join(" or ")
    }

    /// How to write one of several kinds of values, after `text` was none of them.
    fn any_of(&self, choices: &[&Value], text: &str) -> String {
        let number = |choice: &&Value| kind(self.root, choice) == Kind::Integer;
        if is_number(text) && choices.iter().any(number) {
            return format!("write {text} without quotes");
        }
        format!("write {}", self.expected(choices))
    }

    /// How to write a value when there is no example of it.
    fn general_cure(&self, choices: &[&Value], first: Option<Kind>) -> String {
        let schema = choices.first().map(|choice| resolve(self.root, choice).0);
        let words = schema.map(words).unwrap_or_default();
        let keys = schema.and_then(|schema| schema.get("properties")?.as_object());
        match (first, keys) {
            (Some(Kind::Boolean), _) => "write true or false".into(),
            (Some(Kind::Integer | Kind::Number), _) => schema.map_or_else(String::new, range),
            (Some(Kind::Text), _) if !words.is_empty() => format!("write {}", list_words(&words)),
            (Some(Kind::Text), _) => "write it in quotes".into(),
            (Some(Kind::List), _) => "write [ … ]".into(),
            (Some(Kind::Object), Some(keys)) if !keys.is_empty() => {
                let keys: Vec<_> = keys.keys().map(|key| format!("`{key}`")).collect();
                format!("write {{ … }} with the keys {}", keys.join(", "))
            }
            _ => "write { \"name\": … }".into(),
        }
    }

    /// Reports the value and puts a harmless one in its place.
    fn refuse(&mut self, node: &mut Node, schema: &Value, at: &At, message: String, cure: String) {
        self.report.problem_from(at, node.origin, message, cure);
        self.report.mark_broken(at);
        *node = smallest(self.root, schema, node.origin);
    }
}

/// The kinds of values that a schema tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Null,
    Boolean,
    Integer,
    Number,
    Text,
    List,
    Object,
    /// Any value at all.
    Any,
}

impl Kind {
    fn describe(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "true or false",
            Self::Integer => "a whole number",
            Self::Number => "a number",
            Self::Text => "a string",
            Self::List => "a list",
            Self::Object => "an object",
            Self::Any => "a value",
        }
    }
}

/// The kind of values that a schema without alternatives allows.
fn kind(root: &Value, schema: &Value) -> Kind {
    let (schema, _) = resolve(root, schema);
    match schema.get("type").and_then(Value::as_str) {
        Some("null") => Kind::Null,
        Some("boolean") => Kind::Boolean,
        Some("integer") => Kind::Integer,
        Some("number") => Kind::Number,
        Some("string") => Kind::Text,
        Some("array") => Kind::List,
        Some("object") => Kind::Object,
        _ if !words(schema).is_empty() => Kind::Text,
        _ => Kind::Any,
    }
}

fn fits(kind: Kind, content: &Content) -> bool {
    let exact = match content {
        Content::Null => Kind::Null,
        Content::Bool(_) => Kind::Boolean,
        // A fraction is told from a whole number later, with a better message.
        Content::Number(_) if kind == Kind::Integer => Kind::Integer,
        Content::Number(_) => Kind::Number,
        Content::Text { .. } => Kind::Text,
        Content::List(_) => Kind::List,
        Content::Object(_) => Kind::Object,
    };
    kind == exact || kind == Kind::Any
}

fn describe(content: &Content) -> &'static str {
    match content {
        Content::Null => "null",
        Content::Bool(_) => "a boolean",
        Content::Number(_) => "a number",
        Content::Text { .. } => "a string",
        Content::List(_) => "a list",
        Content::Object(_) => "an object",
    }
}

/// The number or boolean that a replaced string stands for, where no string is allowed.
fn unquote(root: &Value, choices: &[&Value], text: &str) -> Option<Content> {
    let kinds: Vec<_> = choices.iter().map(|choice| kind(root, choice)).collect();
    let word = choices.iter().any(|choice| words(resolve(root, choice).0).contains(&text));
    if word || kinds.contains(&Kind::Any) {
        return None;
    }
    match serde_json::from_str(text.trim()).ok()? {
        Value::Bool(value) if kinds.contains(&Kind::Boolean) => Some(Content::Bool(value)),
        Value::Number(value)
            if kinds.iter().any(|kind| matches!(kind, Kind::Integer | Kind::Number)) =>
        {
            Some(Content::Number(value))
        }
        _ => None,
    }
}

/// The smallest value that `schema` allows.
fn smallest(root: &Value, schema: &Value, origin: Origin) -> Node {
    let first = alternatives(root, schema).into_iter().next().unwrap_or(schema);
    let (schema, _) = resolve(root, first);
    let content = match kind(root, schema) {
        Kind::Null | Kind::Any => Content::Null,
        Kind::Boolean => Content::Bool(false),
        Kind::Integer | Kind::Number => {
            let least = schema.get("minimum").and_then(Value::as_number);
            Content::Number(least.cloned().unwrap_or_else(|| 0.into()))
        }
        Kind::Text => {
            let text = words(schema).first().copied().unwrap_or_default().to_owned();
            Content::Text { text, replaced: false }
        }
        Kind::List => Content::List(Vec::new()),
        Kind::Object => {
            let required = schema.get("required").and_then(Value::as_array);
            let required = required.into_iter().flatten().filter_map(Value::as_str);
            let members = required.map(|key| {
                let property = &schema["properties"][key];
                Member { key: key.into(), origin, node: smallest(root, property, origin) }
            });
            Content::Object(members.collect())
        }
    };
    Node::new(origin, content)
}

fn wrong_word(text: &str, words: &[&str], kind: &str, report: &mut Report) -> (String, String) {
    if let Some(comes) = later::value(kind, text) {
        return (later::refusal(text, comes), format!("write {}", list_words(words)));
    }
    let message = format!("{} is not known here", quote(text));
    match report.closest(text, words.iter().copied()) {
        Some(close) => (message, format!("did you mean \"{close}\"?")),
        None => (message, format!("write {}", list_words(words))),
    }
}

fn list_words(words: &[&str]) -> String {
    let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
    words.join(" or ")
}

/// How to write a number that `schema` allows.
fn range(schema: &Value) -> String {
    let whole = schema.get("type").is_some_and(|kind| kind == "integer");
    let number = if whole { "a whole number" } else { "a number" };
    match (schema.get("minimum"), schema.get("maximum")) {
        (Some(low), Some(high)) => format!("write {number} from {low} to {high}"),
        (Some(low), None) => format!("write {number} of at least {low}"),
        (None, Some(high)) => format!("write {number} of at most {high}"),
        (None, None) => format!("write {number}"),
    }
}

/// A whole number that was written with a point, such as `8080.0`, which JSON Schema takes as well.
fn as_integer(number: &Number) -> Option<Number> {
    let float = number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0)?;
    format!("{float:.0}").parse::<i64>().ok().map(Number::from)
}

/// Whether `left` is greater than `right`, exactly for whole numbers.
fn exceeds(left: &Number, right: &Number) -> bool {
    match (left.as_i128(), right.as_i128()) {
        (Some(left), Some(right)) => left > right,
        _ => left.as_f64() > right.as_f64(),
    }
}

fn is_number(text: &str) -> bool {
    serde_json::from_str::<Number>(text).is_ok()
}

/// The first example in `schema`, as it would be written.
fn example(schema: &Value) -> Option<String> {
    schema.get("examples")?.get(0).map(ToString::to_string)
}
