//! The JSON Schema of the file, made from the types that are read.
//!
//! It is the one source of what a file may hold: `structure` checks against it, the manual and
//! editors show it. Two marks of the types are resolved here: `x-required` and `x-null`.

use std::sync::LazyLock;

use serde_json::Value;

use super::Config;

/// The schema is the same for every load, and making it takes longer than one.
static SCHEMA: LazyLock<Value> = LazyLock::new(build);

/// The JSON Schema (draft 2020-12) of the configuration file.
#[must_use]
pub fn schema() -> Value {
    let mut schema = SCHEMA.clone();
    allow_replacements(&mut schema);
    schema
}

/// The schema, borrowed.
pub(super) fn shared() -> &'static Value {
    &SCHEMA
}

/// The schema that `schema` stands for, and the name of its type if it has one.
pub(super) fn resolve<'a>(root: &'a Value, schema: &'a Value) -> (&'a Value, Option<&'a str>) {
    let name =
        schema.get("$ref").and_then(Value::as_str).and_then(|to| to.strip_prefix("#/$defs/"));
    match name.and_then(|name| root.get("$defs")?.get(name)) {
        Some(definition) => (definition, name),
        None if std::ptr::eq(root, schema) => (schema, root.get("title").and_then(Value::as_str)),
        None => (schema, None),
    }
}

/// The alternatives of `schema`: itself, unless it is an `anyOf`.
pub(super) fn alternatives<'a>(root: &'a Value, schema: &'a Value) -> Vec<&'a Value> {
    let (resolved, _) = resolve(root, schema);
    match resolved.get("anyOf").and_then(Value::as_array) {
        Some(branches) => branches.iter().flat_map(|branch| alternatives(root, branch)).collect(),
        None => vec![schema],
    }
}

/// The words that `schema` allows, when it is a choice of words.
pub(super) fn words(schema: &Value) -> Vec<&str> {
    let choices = schema.get("oneOf").and_then(Value::as_array);
    choices
        .into_iter()
        .flatten()
        .filter_map(|choice| choice.get("const").and_then(Value::as_str))
        .collect()
}

fn build() -> Value {
    let mut schema = schemars::schema_for!(Config).to_value();
    settle(&mut schema);
    schema
}

/// Resolves the marks of the types, in `schema` and every schema below it.
fn settle(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    match object.remove("x-null") {
        Some(_) => spell_out_null(object),
        None => drop_null(object),
    }
    object.remove("format");
    let mut required = Vec::new();
    if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, property) in properties {
            let Some(property) = property.as_object_mut() else { continue };
            if property.remove("x-required").is_some() {
                // The default is only there because the types are read leniently.
                property.remove("default");
                required.push(Value::from(name.as_str()));
            }
        }
    }
    if !required.is_empty() {
        object.insert("required".into(), required.into());
    }
    for_each_below(object, settle);
}

/// Lets `${…}` stand where a number or a boolean is expected, as a load does.
fn allow_replacements(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    let kind = object.get("type").and_then(Value::as_str);
    if matches!(kind, Some("integer" | "number" | "boolean")) {
        let mut plain = serde_json::Map::new();
        for keyword in ["type", "minimum", "maximum"] {
            plain.extend(object.remove(keyword).map(|value| (keyword.to_owned(), value)));
        }
        let replaced = serde_json::json!({ "type": "string", "pattern": r"^\$\{[^}]*\}$" });
        object.insert("anyOf".into(), vec![Value::from(plain), replaced].into());
        return;
    }
    for_each_below(object, allow_replacements);
}

/// Shows every schema directly below `schema` to `visit`.
fn for_each_below(schema: &mut serde_json::Map<String, Value>, visit: fn(&mut Value)) {
    for (keyword, below) in schema {
        match (keyword.as_str(), below) {
            ("properties" | "$defs", Value::Object(named)) => named.values_mut().for_each(visit),
            ("anyOf" | "oneOf", Value::Array(listed)) => listed.iter_mut().for_each(visit),
            ("items" | "additionalProperties", one) => visit(one),
            _ => {}
        }
    }
}

/// Writes a list of types as alternatives, the only form that readers of the schema know.
fn spell_out_null(schema: &mut serde_json::Map<String, Value>) {
    if let Some(Value::Array(types)) = schema.get("type") {
        let branches = types.iter().map(|kind| serde_json::json!({ "type": kind })).collect();
        schema.insert("anyOf".into(), branches);
        schema.remove("type");
    }
}

/// Takes `null` out of the types that `schema` allows.
fn drop_null(schema: &mut serde_json::Map<String, Value>) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(branches)) = schema.get_mut("anyOf") {
        branches.retain(|branch| branch.get("type").is_none_or(|kind| kind != "null"));
        if let [Value::Object(only)] = branches.as_slice() {
            let only = only.clone();
            schema.remove("anyOf");
            schema.extend(only);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `null` means something only where a default is switched off by it.
    #[test]
    fn only_the_admin_listener_can_be_null() {
        let text = schema().to_string();

        assert_eq!(text.matches("\"null\"").count(), 2, "{text}");
        assert!(!text.contains("\"x-"), "{text}");
    }

    /// The manual promises that a number can come from a variable, and editors go by the schema.
    #[test]
    fn a_replacement_may_stand_for_numbers_and_booleans() {
        let schema = schema();
        let replacement = serde_json::json!({ "type": "string", "pattern": r"^\$\{[^}]*\}$" });

        let port = &schema["properties"]["listen_port"];
        let number = serde_json::json!({ "type": "integer", "minimum": 0, "maximum": 65535 });
        assert_eq!(port["anyOf"], serde_json::json!([number, replacement]));
        assert_eq!(schema["$defs"]["PlacedWorkers"]["properties"]["pin"]["anyOf"][1], replacement);
        assert!(port["description"].is_string());
    }

    #[test]
    fn required_keys_have_no_default() {
        let schema = schema();

        let route = &schema["$defs"]["Route"];
        assert_eq!(route["required"], serde_json::json!(["path"]));
        assert_eq!(route["properties"]["path"].get("default"), None);
        assert_eq!(route["properties"]["match"]["default"], "prefix");
    }
}
