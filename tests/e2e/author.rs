//! `zproxy plugin`: from nothing to a plugin that is built, tested, looked into, measured and served.
//!
//! Not here: what is in a component's way at load (`plugins`).

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Launch, Run, binary};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Gives a project a `target` that is kept from run to run, so that what it depends on is compiled
/// once.
fn keep_target(project: &Path, name: &str) {
    let kept = root().join("target/author").join(name);
    std::fs::create_dir_all(&kept).unwrap();
    std::os::unix::fs::symlink(kept, project.join("target")).unwrap();
}

/// Runs `zproxy plugin` to its end: compilers take their time. What it installs is kept from run to run.
fn plugin(dir: &Path, arguments: &[&str]) -> Run {
    let mut command = std::process::Command::new(binary());
    command.arg("plugin").args(arguments).current_dir(dir);
    let output = command.env("ZPROXY_TOOLS", root().join("target/tools")).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let stderr = text(&output.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
    Run { code: output.status.code(), stdout: text(&output.stdout), stderr }
}

/// A new project in a folder of its own.
fn new_project(language: &str) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let made = plugin(dir.path(), &["new", "door-keeper", "--lang", language]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let project = dir.path().join("door-keeper");
    keep_target(&project, language);
    (dir, project)
}

/// A copy of an example, outside of this repository.
fn copy_example(name: &str) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let from = root().join("examples").join(name);
    let listed = std::process::Command::new("cp").arg("-r").arg(&from).arg(dir.path()).status();
    assert!(listed.unwrap().success());
    let project = dir.path().join(name);
    for made in ["target", "plugins", "zproxy-sdk", ".cargo"] {
        let _ = std::fs::remove_dir_all(project.join(made));
    }
    keep_target(&project, name);
    (dir, project)
}

fn good(run: Run) -> String {
    assert_eq!(run.code, Some(0), "{run:?}");
    run.stdout
}

fn json(run: Run) -> Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"))
}

/// The gateway that a project's `zproxy.json` describes, on ports of its own.
fn serve(project: &Path) -> crate::harness::Gateway {
    let text = std::fs::read_to_string(project.join("zproxy.json")).unwrap();
    let without_comments: Vec<&str> =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut config: Value = serde_json::from_str(&without_comments.join("\n")).unwrap();
    config["listen_port"] = 0.into();
    config["admin"] = serde_json::json!({ "address": "127.0.0.1:0" });
    config["plugins_dir"] = project.join("plugins").to_str().unwrap().into();
    Launch::config(config).start()
}

#[test]
fn a_new_rust_project_builds_tests_and_runs_as_it_is() {
    let (_dir, project) = new_project("rust");

    good(plugin(&project, &["build"]));
    let tested = good(plugin(&project, &["test"]));
    let component = "plugins/door-keeper.wasm";
    let config = r#"{ "key": "secret" }"#;
    let checked = good(plugin(&project, &["check", component, "--config", config]));
    let refused = plugin(&project, &["check", component]);
    let inspected = json(plugin(&project, &["inspect", component, "--format", "json"]));
    let measured =
        json(plugin(&project, &["bench", component, "--config", config, "--format", "json"]));

    assert!(tested.contains("3 passed, 0 failed"), "{tested}");
    assert!(checked.contains("on-request, on-response"), "{checked}");
    assert_eq!(refused.code, Some(5), "{refused:?}");
    assert!(refused.stdout.contains("`key`"), "{refused:?}");
    assert_eq!(inspected["hooks"].as_array().map(Vec::len), Some(3), "{inspected}");
    let imports = inspected["imports"].to_string();
    assert!(imports.contains("zproxy:gateway/crypto@0.1.0"), "{imports}");
    assert!(inspected["producers"]["language"]["Rust"].is_string(), "{inspected}");
    for hook in measured["hooks"].as_array().unwrap() {
        assert!(hook["ns"].as_f64().unwrap() > 0.0, "{measured}");
    }
    let gateway = serve(&project);
    assert_eq!(gateway.get("/").status(), 403);
    let answer = gateway.ask("GET", "/", "x-api-key: secret\r\n");
    assert_eq!((answer.status(), answer.field("x-served-by")), (200, Some("door-keeper")));
    assert!(!answer.text().contains("x-api-key"), "{}", answer.text());
}

#[test]
fn golden_requests_that_fail_show_how() {
    let (_dir, project) = copy_example("header-stamp");
    let wrong = "=== wrong name\n--- config: { \"name\": \"a\" }\n--- request\nGET /\n\
                 --- response\nHTTP/1.1 200\nx-served-by: b\n";
    std::fs::write(project.join("wrong.http"), wrong).unwrap();

    let good_ones = good(plugin(&project, &["test"]));
    let component = "plugins/header-stamp.wasm";
    let arguments = ["test", component, "--cases", "wrong.http"];
    let failed = plugin(&project, &arguments);
    let told = json(plugin(&project, &[&arguments[..], &["--format", "json"]].concat()));

    assert!(good_ones.contains("3 passed, 0 failed"), "{good_ones}");
    assert_eq!(failed.code, Some(1), "{failed:?}");
    for line in ["FAILED  wrong name  (wrong.http:1)", "- x-served-by: b", "+ x-served-by: a"] {
        assert!(failed.stdout.contains(line), "{line}: {failed:?}");
    }
    assert_eq!((&told["failed"], &told["cases"][0]["line"]), (&1.into(), &1.into()), "{told}");
    assert_eq!(serve(&project).get("/").field("x-served-by"), Some("edge-1"));
}

#[test]
fn what_is_no_plugin_is_told_with_its_exit_code() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("text.wasm"), "text").unwrap();
    let runs = |arguments: &[&str]| {
        let run = plugin(dir.path(), arguments);
        (run.code, run.stdout + &run.stderr)
    };

    for (arguments, code, words) in [
        (&["build"][..], 2, "no plugin's project"),
        (&["check", "text.wasm"], 5, "not a WebAssembly component"),
        (&["check", "missing.wasm"], 5, "missing.wasm"),
        (&["inspect", "text.wasm"], 5, "not a component"),
        (&["bench", "text.wasm"], 5, "not a WebAssembly component"),
        (&["check", "text.wasm", "--config", "[]"], 2, "not a JSON object"),
        (&["test", "text.wasm"], 1, "tests"),
        (&["new", "Bad Name", "--lang", "rust"], 2, "cannot name a plugin"),
        (&["new", "a", "--lang", "cobol"], 2, "cobol"),
        (&["new", "a", "--lang", "go"], 1, "Go is not supported yet"),
    ] {
        let (came, said) = runs(arguments);
        assert_eq!(came, Some(code), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}
