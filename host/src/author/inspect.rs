//! `plugin inspect`: what a component may do, read from its type. Nothing is compiled or run.
//!
//! What it imports is all that it can ever reach: a component has no other way out.
//!
//! Not here: whether the gateway loads it (`check`).

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};
use wasmparser::component_types::ComponentEntityType;
use wasmparser::{Encoding, KnownCustom, Parser, Payload, Validator, WasmFeatures};

use super::subject;
use super::{Answer, Error, project};

/// The hooks by the interfaces that export them.
const HOOKS: [(&str, &str); 10] = [
    ("lifecycle", "init"),
    ("validation", "validate-config"),
    ("retirement", "shutdown"),
    ("request-filter", "on-request"),
    ("response-filter", "on-response"),
    ("request-body-filter", "on-request-body"),
    ("response-body-filter", "on-response-body"),
    ("websocket-filter", "on-message"),
    ("completion", "on-log"),
    ("ticker", "on-tick"),
];

/// What each interface lets a plugin do, and the key of `allow` that grants it, if one must.
const CAPABILITIES: [(&str, Option<&str>, &str); 17] = [
    ("types", None, "nothing: types of the hooks"),
    ("request", None, "read and edit the request"),
    ("response", None, "read and edit the response"),
    ("body", None, "read, replace and hold back bodies"),
    ("websocket", None, "replace WebSocket messages and close WebSockets"),
    ("reply", None, "answer requests itself"),
    ("context", None, "leave notes for later plugins and the access log"),
    ("log", None, "write to the gateway's log, with a bound"),
    ("clock", None, "read the time"),
    ("random", None, "get random bytes"),
    ("crypto", None, "check signatures with keys of its configuration"),
    ("metrics", None, "add metrics of its own to /metrics"),
    ("counters", Some("counters"), "count over all workers"),
    ("kv", Some("kv"), "keep values for all workers"),
    ("cache", Some("cache"), "store responses and answer with them"),
    ("environment", Some("env, secrets"), "read variables and secrets that are granted by name"),
    ("callout", Some("http"), "send requests to the URLs that are granted"),
];

/// Packages of WASI, and what of them there is for plugins.
const WASI: [(&str, &str); 7] = [
    ("wasi:cli/", "no arguments, no variables; stdout and stderr go to the log"),
    ("wasi:clocks/", "the time; no waiting"),
    ("wasi:io/", "streams to the log only"),
    ("wasi:random/", "random bytes"),
    ("wasi:filesystem/", "no files"),
    ("wasi:sockets/", "no network"),
    ("wasi:http/", "not offered: refused at load"),
];

/// Something that a component imports.
struct Import {
    name: String,
    functions: Vec<String>,
}

/// What a component's type says.
struct Shape {
    imports: Vec<Import>,
    exports: Vec<String>,
    /// What tools wrote about themselves, by kind: languages and compilers with their versions.
    producers: Value,
}

/// Describes the component in a file.
pub(super) fn inspect(file: &Path) -> Result<Answer, Error> {
    let bytes = subject::read(file)?;
    let shape =
        shape(&bytes).map_err(|problem| Error::plugin(format!("{}: {problem}", file.display())))?;
    let digest = digest(&SHA256, &bytes);
    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let hooks: Vec<&str> = shape.exports.iter().filter_map(|export| hook(export)).collect();
    let imports: Vec<Value> = shape.imports.iter().map(describe).collect();
    let json = json!({
        "ok": true,
        "file": file,
        "bytes": bytes.len(),
        "digest": digest,
        "hooks": hooks,
        "imports": imports,
        "exports": shape.exports,
        "producers": shape.producers,
    });
    let text = text(&json, &shape, &imports);
    Ok(Answer { text, json, failed: None })
}

/// Imports that no gateway of this version offers.
pub(super) fn unknown_imports(file: &Path) -> Vec<String> {
    let shape = subject::read(file).ok().and_then(|bytes| shape(&bytes).ok());
    let imports = shape.map(|shape| shape.imports).unwrap_or_default();
    let names = imports.into_iter().map(|import| import.name);
    names
        .filter(|name| meaning(name).is_none_or(|(_, text)| text.starts_with("not offered")))
        .collect()
}

/// Reads a component's type, which is in the file: no code is looked at but to see that it is valid.
fn shape(bytes: &[u8]) -> Result<Shape, String> {
    let invalid = |error: wasmparser::BinaryReaderError| format!("not a component: {error}");
    let mut validator = Validator::new_with_features(WasmFeatures::default());
    let types = validator.validate_all(bytes).map_err(invalid)?;
    let mut shape = Shape { imports: Vec::new(), exports: Vec::new(), producers: json!({}) };
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(invalid)? {
            Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => {
                return Err("a core module, not a component".to_owned());
            }
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            // Those of the outermost component; what is inside is connected there.
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    let name = import.map_err(invalid)?.name.name;
                    let item = types.component_item_for_import(name);
                    let functions = item.map(|item| functions(&types, item.ty));
                    let functions = functions.unwrap_or_default();
                    shape.imports.push(Import { name: name.to_owned(), functions });
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    shape.exports.push(export.map_err(invalid)?.name.name.to_owned());
                }
            }
            Payload::CustomSection(section) => {
                if let KnownCustom::Producers(fields) = section.as_known() {
                    // Anybody may write anything here: what does not parse is left out.
                    for field in fields.into_iter().flatten() {
                        let values = field.values.into_iter().flatten();
                        values.for_each(|tool| {
                            shape.producers[field.name][tool.name] = tool.version.into();
                        });
                    }
                }
            }
            _ => {}
        }
    }
    Ok(shape)
}

/// Names of the functions of an imported interface.
fn functions(types: &wasmparser::types::Types, kind: ComponentEntityType) -> Vec<String> {
    let ComponentEntityType::Instance(id) = kind else { return Vec::new() };
    let exports = types[id].exports.iter();
    let functions = exports.filter(|(_, item)| matches!(item.ty, ComponentEntityType::Func(_)));
    functions.map(|(name, _)| name.clone()).collect()
}

/// The hook behind an export, if it is one of the gateway's.
fn hook(export: &str) -> Option<&'static str> {
    let interface = interface(export)?;
    HOOKS.iter().find(|(name, _)| *name == interface).map(|(_, hook)| *hook)
}

/// `kv` of `zproxy:gateway/kv@0.1.0`.
fn interface(name: &str) -> Option<&str> {
    let rest = name.strip_prefix("zproxy:gateway/")?;
    Some(rest.split_once('@').map_or(rest, |(interface, _)| interface))
}

/// The key of `allow` that an import needs, and what it lets a plugin do.
fn meaning(import: &str) -> Option<(Option<&'static str>, &'static str)> {
    if let Some(interface) = interface(import) {
        let found = CAPABILITIES.iter().find(|(name, ..)| *name == interface);
        return found.map(|(_, grant, text)| (*grant, *text));
    }
    let found = WASI.iter().find(|(package, _)| import.starts_with(package));
    found.map(|(_, text)| (None, *text))
}

fn describe(import: &Import) -> Value {
    let (grant, text) = meaning(&import.name).unwrap_or((None, "not offered: refused at load"));
    json!({ "name": import.name, "functions": import.functions, "may": text, "allow": grant })
}

fn text(json: &Value, shape: &Shape, imports: &[Value]) -> String {
    let part = |key: &str| json[key].as_str().unwrap_or_default();
    let size = project::size(json["bytes"].as_u64().unwrap_or_default());
    let mut text = format!("{}\n  size     {size}\n  sha256   {}\n", part("file"), part("digest"));
    for (field, entries) in shape.producers.as_object().into_iter().flatten() {
        let entries = entries.as_object().into_iter().flatten().map(|(name, version)| {
            format!("{name} {}", version.as_str().unwrap_or_default()).trim().to_owned()
        });
        let entries: Vec<String> = entries.collect();
        text.push_str(&format!("  {field:<8} {}\n", entries.join(", ")));
    }
    let hooks: Vec<&str> = shape.exports.iter().filter_map(|export| hook(export)).collect();
    let hooks = if hooks.is_empty() { "none".to_owned() } else { hooks.join(", ") };
    text.push_str(&format!("  hooks    {hooks}\n"));
    let exports = &shape.exports;
    let others: Vec<&str> =
        exports.iter().map(String::as_str).filter(|export| hook(export).is_none()).collect();
    if !others.is_empty() {
        text.push_str(&format!(
            "  exports  {}, which the gateway does not call\n",
            others.join(", ")
        ));
    }
    text.push_str("  imports, and so may:\n");
    let mut packages: Vec<String> = Vec::new();
    for import in imports {
        let part = |key: &str| import[key].as_str().unwrap_or_default();
        let name = part("name");
        if interface(name).is_none() {
            // One line for each package of WASI, since none of its functions leads anywhere.
            let version = name.split_once('@').map_or("", |(_, version)| version);
            let package = name.split_once('/').map_or(name, |(package, _)| package);
            let line = format!("    {package}@{version}: {}\n", part("may"));
            if !packages.contains(&line) {
                packages.push(line);
            }
            continue;
        }
        text.push_str(&format!("    {name}: {}\n", part("may")));
        if let Some(grant) = import["allow"].as_str() {
            text.push_str(&format!("      only with `allow`: {grant}\n"));
        }
        let functions = import["functions"].as_array().into_iter().flatten();
        let functions: Vec<&str> = functions.filter_map(Value::as_str).collect();
        if !functions.is_empty() {
            text.push_str(&format!("      {}\n", functions.join(", ")));
        }
    }
    packages.iter().for_each(|line| text.push_str(line));
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::author::kit;

    /// An interface that is added to the contract must be explained here.
    #[test]
    fn every_interface_of_the_contract_is_known_with_what_grants_it() {
        let mut seen = 0;
        for (path, content) in kit::files("wit").filter(|(path, _)| path.ends_with(".wit")) {
            let text = std::str::from_utf8(content).unwrap();
            let mut doc = String::new();
            for line in text.lines() {
                if let Some(line) = line.strip_prefix("///") {
                    doc.push_str(line);
                } else if let Some(name) = line.strip_prefix("interface ") {
                    let name = name.trim_end_matches(" {");
                    seen += 1;
                    if HOOKS.iter().any(|(interface, _)| *interface == name) {
                        continue;
                    }
                    let import = format!("zproxy:gateway/{name}@0.1.0");
                    let (grant, _) = meaning(&import).unwrap_or_else(|| panic!("{path}: {name}"));
                    assert_eq!(grant.is_some(), doc.contains("A capability: `allow"), "{name}");
                } else if !line.starts_with('@') {
                    doc.clear();
                }
            }
        }
        assert_eq!(seen, HOOKS.len() + CAPABILITIES.len());
    }
}
