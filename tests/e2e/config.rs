//! Config files: what is accepted, how what is wrong is told, and the schema that says so.
//!
//! Not here: what the keys do; each has its tests where it acts.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Launch, Run, run};

fn check(text: &str) -> Run {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("zproxy.json"), text).unwrap();
    run(dir.path(), &["check"])
}

/// Strict: every one of these would otherwise be a setting that silently does nothing.
#[test]
fn a_mistake_is_told_with_place_path_and_cure() {
    let rows = [
        ("{\n  \"listen_prot\": 8080\n}", "zproxy.json:2:", "listen_port"),
        (
            "{ \"routes\": [{ \"path\": \"/\", \"upstrem\": \"echo\" }] }",
            "zproxy.json:1:",
            "upstream",
        ),
        ("{ \"routes\": [{ \"path\": \"/\" }] }", "routes[0]", "upstream"),
        (
            "{ \"routes\": [{ \"path\": \"/\", \"upstream\": \"none\" }] }",
            "routes[0].upstream",
            "none",
        ),
        ("{ \"upstreams\": { \"a\": { \"servers\": [] } } }", "upstreams.a.servers", ""),
        (
            "{ \"upstreams\": { \"a\": { \"servers\": [\"localhost\"] } } }",
            "upstreams.a.servers[0]",
            "localhost:",
        ),
        (
            "{ \"routes\": [{ \"path\": \"/\", \"upstream\": \"ftp://a:1\" }] }",
            "routes[0].upstream",
            "",
        ),
        ("{ \"limits\": { \"headers_max\": \"many\" } }", "limits.headers_max", "number"),
        ("{ \"workers\": 0 }", "workers", ""),
        ("{ \"trusted_proxies\": [\"10.0.0.0/99\"] }", "trusted_proxies[0]", ""),
        ("{ \"admin\": { \"address\": \"0.0.0.0:9901\" } }", "admin", "token"),
        (
            "{ \"routes\": [{ \"path\": \"/\", \"respond\": { \"status\": 99 } }] }",
            "routes[0].respond.status",
            "",
        ),
        ("{ \"routes\": [{ \"path\": \"/{a}/{a}\", \"respond\": {} }] }", "routes[0].path", "`a`"),
        (
            "{ \"routes\": [{ \"path\": \"/\", \"respond\": { \"headers\": { \"a b\": \"c\" } } }] }",
            "routes[0].respond.headers",
            "",
        ),
        (
            "{ \"routes\": [{ \"path\": \"/\", \"respond\": {}, \"middleware\": [\"no-such-plugin\"] }] }",
            "routes[0].middleware[0]",
            "no-such-plugin",
        ),
        ("{ \"a\": 1, \"a\": 2 }", "zproxy.json:1:", "a"),
        ("{ \"routes\": [", "zproxy.json:1:", ""),
        ("", "zproxy.json", ""),
        ("[]", "zproxy.json:1:1", ""),
    ];
    let mut problems = Vec::new();

    for (text, place, cure) in rows {
        let run = check(text);
        if run.code != Some(3) || !run.stderr.contains(place) || !run.stderr.contains(cure) {
            problems.push(format!("{text}\n  should name {place:?} and {cure:?}: {run:?}"));
        }
    }

    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The issue: keys of later versions are refused with a message that says so.
#[test]
fn what_comes_later_is_refused_by_name() {
    for config in [
        json!({ "upstreams": { "a": { "servers": ["a:1"], "health": { "path": "/" } } } }),
        json!({ "upstreams": { "a": { "servers": ["a:1"], "balance": "maglev" } } }),
        json!({ "routes": [{ "path": "/", "match": "regex", "respond": {} }] }),
        json!({ "routes": [{ "path": "/", "component": "x.wasm" }] }),
        json!({ "telemetry": { "otlp": {} } }),
        json!({ "routes": [{ "path": "/", "respond": {}, "compression": {} }] }),
    ] {
        let run = check(&config.to_string());
        assert_eq!(run.code, Some(3), "{config}: {run:?}");
        let says = run.stderr.contains("later") || run.stderr.contains("not supported");
        assert!(says, "{config}: {run:?}");
    }
}

/// Nothing in a file may bring the program down, or take for ever.
#[test]
fn a_file_of_any_bytes_is_refused_in_peace() {
    let deep = "[".repeat(100_000);
    let deep_object = "{\"a\":".repeat(50_000);
    let long = format!("{{\"listen_address\": \"{}\"}}", "x".repeat(2_000_000));
    let wide = format!("{{\"routes\": [{}]}}", vec!["{}"; 20_000].join(","));
    let number = format!("{{\"listen_port\": {}}}", "9".repeat(10_000));
    for text in [
        "\0\0\0",
        "\u{feff}",
        "nonsense",
        "{\"a\": \"\\ud800\"}",
        "/*",
        "{\"listen_port\": 1e999}",
        &deep,
        &deep_object,
        &long,
        &wide,
        &number,
    ] {
        let run = check(text);
        assert_eq!(run.code, Some(3), "{:?}…: {:?}", &text[..text.len().min(30)], run.code);
        assert!(run.stderr.len() < 10_000_000);
    }
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("zproxy.json"), b"{\"a\": \"\xff\xfe\"}").unwrap();
    assert_eq!(run(dir.path(), &["check"]).code, Some(3));
    assert_eq!(run(dir.path(), &["check", "--config", "."]).code, Some(3));
    assert_eq!(run(dir.path(), &["check", "--config", "missing.json"]).code, Some(3));
}

/// Comments, trailing commas, and values from outside.
#[test]
fn comments_and_replacements_work_inside_a_file() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("motd"), "from a file").unwrap();
    let text = format!(
        "// one line\n{{\n  /* several\n lines */ \"listeners\": [{{ \"address\": \"127.0.0.1:0\" }}],\n\
         \"admin\": {{ \"address\": \"127.0.0.1:0\" }},\n \"routes\": [\n\
         {{ \"path\": \"/env\", \"respond\": {{ \"body\": \"a ${{env:MOTD}} b\" }} }},\n\
         {{ \"path\": \"/default\", \"respond\": {{ \"body\": \"${{env:NO_SUCH_VARIABLE:-default}}\" }} }},\n\
         {{ \"path\": \"/file\", \"respond\": {{ \"body\": \"${{file:{}}}\" }} }},\n ],\n}}\n",
        dir.path().join("motd").display(),
    );
    std::fs::write(dir.path().join("zproxy.json"), text).unwrap();

    let gateway = Launch::flags(&[]).environment("MOTD", "from outside").within(dir).start();

    assert_eq!(gateway.get("/env").text(), "a from outside b");
    assert_eq!(gateway.get("/default").text(), "default");
    assert_eq!(gateway.get("/file").text(), "from a file");

    let run = check("{ \"listen_address\": \"${env:NO_SUCH_VARIABLE}\" }");
    assert_eq!(run.code, Some(3));
    assert!(run.stderr.contains("NO_SUCH_VARIABLE"), "{run:?}");
}

/// `zproxy schema` describes exactly what is accepted: editors complete by it.
#[test]
fn every_example_satisfies_the_schema_and_mistakes_do_not() {
    let dir = TempDir::new().unwrap();
    let run = run(dir.path(), &["schema"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let schema: Value = serde_json::from_str(&run.stdout).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let examples = files_below(&root.join("examples"));
    let examples: Vec<_> = examples
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    assert!(!examples.is_empty(), "no example config");
    for example in examples {
        let text = std::fs::read_to_string(example).unwrap();
        let config = without_comments(&text);
        let errors: Vec<_> = schema.iter_errors(&config).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{}: {errors:?}", example.display());
    }
    for good in [
        json!({}),
        json!({ "routes": [{ "path": "/", "upstream": "http://127.0.0.1:3000", "middleware": ["jwt"] }] }),
        json!({ "workers": "auto", "upstreams": { "a": { "servers": [{ "address": "a:1", "weight": 3 }] } } }),
        json!({ "admin": null, "trusted_proxies": ["::1"], "plugins": { "jwt": { "config": { "any": 1 } } } }),
    ] {
        assert!(schema.is_valid(&good), "{good}");
    }
    for wrong in [
        json!([]),
        json!({ "unknown": 1 }),
        json!({ "listen_port": "8080" }),
        json!({ "listen_port": 70_000 }),
        json!({ "routes": [{}] }),
        json!({ "routes": [{ "path": "/", "match": "loosely" }] }),
        json!({ "upstreams": { "a": { "servers": [{ "address": "a:1", "wait": 3 }] } } }),
    ] {
        assert!(!schema.is_valid(&wrong), "{wrong}");
    }
}

fn files_below(path: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries.map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files.extend(files_below(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}

/// JSON with whole lines of `//` comments.
fn without_comments(text: &str) -> Value {
    let lines: Vec<&str> =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    serde_json::from_str(&lines.join("\n")).unwrap()
}
