//! `zproxy plugin`: from nothing to a plugin that is built, tested, looked into, measured and served.
//!
//! Not here: what is in a component's way at load (`plugins`).

mod languages;

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Gateway, Launch, Run, Upstream, binary};

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
    command.env("ZPROXY_TOOLS", root().join("target/tools"));
    // Compiled code, too: components with an interpreter in them take a debug build many seconds.
    command.env("XDG_CACHE_HOME", root().join("target/author"));
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let stderr = text(&output.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
    Run { code: output.status.code(), stdout: text(&output.stdout), stderr }
}

/// A new project in a folder of its own.
fn new_project(language: &str) -> (TempDir, PathBuf) {
    new_project_that_keeps(language, language)
}

/// The same, with what it builds kept under another name: no two projects use one folder at a time, and each
/// finds there what it has left.
fn new_project_that_keeps(language: &str, kept: &str) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let made = plugin(dir.path(), &["new", "door-keeper", "--lang", language]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let project = dir.path().join("door-keeper");
    // C takes no time to compile.
    if language != "c" {
        keep_target(&project, kept);
    }
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
fn serve(project: &Path) -> Gateway {
    serve_with(project, &[])
}

/// The same with servers of the test in place of those of its upstreams.
fn serve_with(project: &Path, upstreams: &[(&str, &str)]) -> Gateway {
    launch(project, upstreams).start()
}

fn launch(project: &Path, upstreams: &[(&str, &str)]) -> Launch {
    let text = std::fs::read_to_string(project.join("zproxy.json")).unwrap();
    let without_comments: Vec<&str> =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut config: Value = serde_json::from_str(&without_comments.join("\n")).unwrap();
    config["listen_port"] = 0.into();
    config["admin"] = serde_json::json!({ "address": "127.0.0.1:0" });
    config["plugin_cache"] = root().join("target/author/zproxy").to_str().unwrap().into();
    config["plugins_dir"] = project.join("plugins").to_str().unwrap().into();
    for (name, address) in upstreams {
        assert!(config["upstreams"][name].is_object(), "{name}: {config}");
        config["upstreams"][name]["servers"] = serde_json::json!([address]);
    }
    Launch::config(config)
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
    let hooks = measured["hooks"].as_array().unwrap();
    // What a hook costs alone is a difference, which other processes may eat up; not that of all of them.
    assert!(hooks.iter().map(|hook| hook["ns"].as_f64().unwrap()).sum::<f64>() > 0.0, "{measured}");
    assert!(hooks.iter().all(|hook| hook["fuel"].as_u64().unwrap() > 0), "{measured}");
    let gateway = serve(&project);
    assert_eq!(gateway.get("/").status(), 403);
    let answer = gateway.ask("GET", "/", "x-api-key: secret\r\n");
    assert_eq!((answer.status(), answer.field("x-served-by")), (200, Some("door-keeper")));
    assert!(!answer.text().contains("x-api-key"), "{}", answer.text());
}

/// Whether a language's tools are here; why not goes into the test's output.
fn can_build(language: &str, program: &str, arguments: &[&str]) -> bool {
    let ran = std::process::Command::new(program).args(arguments).output();
    let there = ran.is_ok_and(|output| output.status.success());
    if !there {
        println!("skipped: {program} is not here, so nothing in {language} can be built");
    }
    there
}

/// What a build that needs the network says where there is none: the test has nothing to look at then.
fn is_cut_off(run: &Run) -> bool {
    let cut_off = run.code == Some(1)
        && ["EAI_AGAIN", "ENOTFOUND", "ETIMEDOUT", "No matching distribution"]
            .iter()
            .any(|reason| run.stderr.contains(reason));
    if cut_off {
        println!("skipped: its tools cannot be installed: {}", run.stderr);
    }
    cut_off
}

const DOOR_KEEPER: &str = "door-keeper/plugins/door-keeper.wasm";
const CLANG_PROBE: [&str; 6] =
    ["--target=wasm32-wasi", "-x", "c", "-fsyntax-only", "-include", "string.h"];

#[test]
fn a_new_c_project_builds_and_passes_its_tests() {
    if !can_build("C", "clang", &[&CLANG_PROBE[..], &["/dev/null"]].concat()) {
        return;
    }
    let (dir, project) = new_project("c");

    let tested = good(plugin(&project, &["test"]));
    let inspected = json(plugin(dir.path(), &["inspect", DOOR_KEEPER, "--format", "json"]));

    assert!(tested.contains("3 passed, 0 failed"), "{tested}");
    // What it does not call it does not import, and nothing of the system at all.
    let imports: Vec<&str> = inspected["imports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["name"].as_str().unwrap())
        .collect();
    assert!(imports.iter().all(|name| name.starts_with("zproxy:gateway/")), "{imports:?}");
    assert!(!imports.contains(&"zproxy:gateway/log@0.1.0"), "{imports:?}");
}

/// `--watch`: from saving a source to the plugin that serves, and nothing of a mistake reaches clients.
#[test]
fn what_is_saved_is_built_and_serves() {
    if !can_build("C", "clang", &[&CLANG_PROBE[..], &["/dev/null"]].concat()) {
        return;
    }
    let (_dir, project) = new_project("c");
    let source = project.join("plugin.c");
    let save = |from: &str, to: &str| {
        let text = std::fs::read_to_string(&source).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&source, text.replace(from, to)).unwrap();
    };
    let folder = project.join("plugins");

    // It has never been built.
    let arguments = ["--watch", "--plugins", folder.to_str().unwrap()];
    let gateway = launch(&project, &[]).arguments(&arguments).start();
    let served_by = || {
        let answer = gateway.ask("GET", "/", "x-api-key: secret\r\n");
        answer.field("x-served-by").unwrap_or_default().to_owned()
    };
    assert_eq!(served_by(), "door-keeper");
    save("\"door-keeper\"", "no C");
    gateway.logs("the plugin was not built");
    assert_eq!(served_by(), "door-keeper");
    save("no C", "\"edited\"");
    crate::harness::eventually("what was saved", || (served_by() == "edited").then_some(()));

    let elsewhere = plugin(project.parent().unwrap(), &["build"]);
    assert_eq!(elsewhere.code, Some(2), "{elsewhere:?}");
}

/// Bodies, the end of an exchange and a choice of upstreams: by the header alone.
#[test]
fn hooks_for_bodies_can_be_written_in_c() {
    if !can_build("C", "clang", &[&CLANG_PROBE[..], &["/dev/null"]].concat()) {
        return;
    }
    let (_dir, project) = new_project("c");
    let source = "#include \"zproxy.h\"\n\
        const char *zproxy_init(zproxy_text config) { (void)config; return NULL; }\n\
        ZPROXY_ON_REQUEST(fields) {\n\
            (void)fields;\n\
            if (zproxy_request_set_upstream(ZPROXY_TEXT(\"none\"))) return ZPROXY_RESPOND;\n\
            zproxy_request_set_upstream(ZPROXY_TEXT(\"b\"));\n\
            zproxy_body_hold(10);\n\
            return ZPROXY_NEXT;\n\
        }\n\
        ZPROXY_ON_REQUEST_BODY(chunk, end) {\n\
            (void)end;\n\
            zproxy_request_set(ZPROXY_TEXT(\"x-body\"), chunk);\n\
            return ZPROXY_DROP;\n\
        }\n\
        ZPROXY_ON_RESPONSE_BODY(chunk, end) {\n\
            char upper[64];\n\
            if (end) return ZPROXY_PASS;\n\
            for (size_t at = 0; at < chunk.length && at < sizeof upper; at++) upper[at] = chunk.data[at] & ~32;\n\
            zproxy_body_replace((zproxy_text){upper, chunk.length});\n\
            return ZPROXY_REPLACED;\n\
        }\n\
        ZPROXY_ON_LOG(summary) {\n\
            zproxy_log(ZPROXY_INFO, summary->status == 201 ? ZPROXY_TEXT(\"made\") : ZPROXY_TEXT(\"not made\"));\n\
        }\n";
    std::fs::write(project.join("plugin.c"), source).unwrap();
    let world = "package local:door-keeper;\nworld plugin {\n\
        import zproxy:gateway/request@0.1.0;\n  import zproxy:gateway/body@0.1.0;\n\
        import zproxy:gateway/log@0.1.0;\n  export zproxy:gateway/lifecycle@0.1.0;\n\
        export zproxy:gateway/request-filter@0.1.0;\n\
        export zproxy:gateway/request-body-filter@0.1.0;\n\
        export zproxy:gateway/response-body-filter@0.1.0;\n\
        export zproxy:gateway/completion@0.1.0;\n}\n";
    std::fs::write(project.join("wit/world.wit"), world).unwrap();
    let cases = "--- upstreams: a, b\n--- chunks: 2\n\
        === all at once\n--- request\nPOST / HTTP/1.1\n\nhello\n\
        --- answer\nHTTP/1.1 201\n\nabcde\n\
        --- upstream: b\n--- forwarded: no body\nPOST / HTTP/1.1\nx-body: hello\n\
        --- response\nHTTP/1.1 201\n\nABCDe\n--- log\ninfo*made\n\
        === more than is held\n--- request\nPOST / HTTP/1.1\n\nhello world\n\
        --- forwarded: nothing\n--- response\nHTTP/1.1 413\n--- log\nnot made\n";
    std::fs::write(project.join("tests/plugin.http"), cases).unwrap();

    let tested = good(plugin(&project, &["test"]));

    assert!(tested.contains("2 passed, 0 failed"), "{tested}");
}

/// A back-trace is worth most when it leads to a line.
#[test]
fn a_trap_in_c_is_told_with_file_and_line() {
    if !can_build("C", "clang", &[&CLANG_PROBE[..], &["/dev/null"]].concat()) {
        return;
    }
    let (_dir, project) = new_project("c");
    let source = "#include \"zproxy.h\"\n\
        const char *zproxy_init(zproxy_text config) { (void)config; return NULL; }\n\
        __attribute__((noinline)) static void fall(void) { __builtin_trap(); }\n\
        ZPROXY_ON_REQUEST(fields) { (void)fields; fall(); return ZPROXY_NEXT; }\n\
        ZPROXY_ON_RESPONSE(status, fields) { (void)status, (void)fields; return ZPROXY_NEXT; }\n";
    std::fs::write(project.join("plugin.c"), source).unwrap();
    let case = "=== it falls\n--- request\nGET /\n--- fails: in `fall` (*plugin.c:3) < \n";
    std::fs::write(project.join("tests/plugin.http"), case).unwrap();

    good(plugin(&project, &["test"]));
}

#[test]
fn the_example_request_id_works_from_a_copy() {
    if !can_build("C", "clang", &[&CLANG_PROBE[..], &["/dev/null"]].concat()) {
        return;
    }
    let (_dir, project) = copy_example("request-id");

    let tested = good(plugin(&project, &["test"]));

    assert!(tested.contains("5 passed, 0 failed"), "{tested}");
    let gateway = serve(&project);
    let answer = gateway.get("/hello");
    let id = answer.field("x-request-id").unwrap();
    gateway.logs(&format!("[edge-1] Request: GET /hello ({id})"));
}

/// Components with an interpreter in them take a debug build many seconds of every CPU to compile: one
/// at a time, so that none meets the limit of a minute.
static INTERPRETED: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn passes_its_tests(project: &Path, cases: usize) {
    // Builds, too.
    let tested = plugin(project, &["test"]);
    if !is_cut_off(&tested) {
        let tested = good(tested);
        assert!(tested.contains(&format!("{cases} passed, 0 failed")), "{tested}");
    }
}

#[test]
fn a_new_javascript_project_builds_and_passes_its_tests() {
    let _alone = INTERPRETED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if can_build("JavaScript", "npm", &["--version"]) {
        let (_dir, project) = new_project("js");
        passes_its_tests(&project, 3);
    }
}

#[test]
fn the_example_ab_cookie_works_from_a_copy() {
    let _alone = INTERPRETED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !can_build("JavaScript", "npm", &["--version"]) {
        return;
    }
    let (_dir, project) = copy_example("ab-cookie");
    passes_its_tests(&project, 6);
    if !project.join("plugins").exists() {
        return;
    }

    let next = Upstream::answering("the next version");
    let gateway = serve_with(&project, &[("next", &next.address().to_string())]);
    let first = gateway.get("/shop");
    let again = gateway.ask("GET", "/shop", "Cookie: version=b\r\n");
    let other = gateway.ask("GET", "/shop", "Cookie: version=a\r\n");

    let dealt = first.field("set-cookie").unwrap();
    assert!(dealt.starts_with("version=a;") || dealt.starts_with("version=b;"), "{dealt}");
    assert_eq!((again.text(), again.field("set-cookie")), ("the next version", None));
    assert_eq!(next.last_request().field("x-version"), Some("b"));
    assert!(other.text().contains("/shop"), "a picture of the request: {}", other.text());
}

/// What an example brings along to try it with, on a free port. Ends with the test.
struct Service(std::process::Child, String);

impl Service {
    fn start(project: &Path) -> Self {
        let mut command = std::process::Command::new("python3");
        command.args(["service.py", "0"]).current_dir(project);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut said = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut said, &mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap_or_default().to_owned();
        Self(child, address)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_example_ask_auth_works_from_a_copy() {
    let _alone = INTERPRETED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !can_build("Python", "python3", &["-c", "import venv, ensurepip"]) {
        return;
    }
    let (_dir, project) = copy_example("ask-auth");
    passes_its_tests(&project, 6);
    if !project.join("plugins").exists() {
        return;
    }

    let service = Service::start(&project);
    let gateway = serve_with(&project, &[("auth", &service.1)]);
    let stranger = gateway.get("/orders");
    let kim = gateway.ask("GET", "/orders", "Authorization: Bearer secret\r\nX-User: admin\r\n");
    let admin = gateway.ask("GET", "/admin", "Authorization: Bearer secret\r\n");
    drop(service);
    let nobody = gateway.ask("GET", "/orders", "Authorization: Bearer secret\r\n");

    assert_eq!((stranger.status(), stranger.field("www-authenticate")), (401, Some("Bearer")));
    assert_eq!(stranger.text(), "who are you?\n");
    assert_eq!(kim.status(), 200);
    assert!(kim.text().contains("kim") && !kim.text().contains("\"admin\""), "{}", kim.text());
    assert_eq!((admin.status(), admin.text()), (403, "not you, kim\n"));
    assert_eq!(nobody.status(), 503);
}

#[test]
fn the_example_redact_json_works_from_a_copy() {
    let (_dir, project) = copy_example("redact-json");

    let tested = good(plugin(&project, &["test"]));

    assert!(tested.contains("6 passed, 0 failed"), "{tested}");
    let gateway = serve(&project);
    let answer = gateway.ask("GET", "/", "Authorization: Basic a2ltOmh1bnRlcjI=\r\n");
    assert_eq!(answer.status(), 200);
    assert!(answer.text().contains("\"***\""), "{}", answer.text());
    assert!(!answer.text().contains("a2lt"), "{}", answer.text());
}

#[test]
fn a_new_python_project_builds_and_passes_its_tests() {
    let _alone = INTERPRETED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if can_build("Python", "python3", &["-c", "import venv, ensurepip"]) {
        let (_dir, project) = new_project("python");
        passes_its_tests(&project, 3);
    }
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
