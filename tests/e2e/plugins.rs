//! Wasm components in chains: real ones, built from this repository.
//!
//! Not here: plugins that misbehave (`hostile`), JWT's own rules (`jwt`), native middleware
//! (`native`).

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::admin::list_in;
use crate::harness::{Gateway, Launch, Run, Upstream, guest, plugins_dir, run};

/// A gateway whose one route leads to `upstream` through this chain.
fn through(upstream: &Upstream, chain: Value) -> Gateway {
    with_plugins(json!({
        "upstreams": { "test": { "servers": [upstream.address()] } },
        "routes": [{ "name": "all", "path": "/", "upstream": "test", "middleware": chain }],
    }))
}

/// All guests are there; only those that are named run.
fn with_plugins(mut config: Value) -> Gateway {
    let plugins: serde_json::Map<String, Value> =
        ["order", "reply", "echo_headers", "print", "noop", "header-stamp"]
            .iter()
            .map(|name| ((*name).to_owned(), json!({ "path": guest(name) })))
            .collect();
    let written = config.as_object_mut().unwrap().entry("plugins").or_insert_with(|| json!({}));
    for (name, plugin) in plugins {
        written.as_object_mut().unwrap().entry(name).or_insert(plugin);
    }
    Gateway::start(config)
}

fn order(name: &str) -> Value {
    json!({ "plugin": "order", "config": { "name": name } })
}

#[test]
fn a_chain_runs_down_in_order_and_back_up_in_reverse() {
    let upstream =
        Upstream::sending("HTTP/1.1 200 OK\r\nX-Order: up\r\nContent-Length: 2\r\n\r\nok");
    let gateway = through(&upstream, json!([order("a"), order("b"), order("c")]));

    for _ in 0..3 {
        let answer = gateway.get("/");

        assert_eq!((answer.status(), answer.text()), (200, "ok"));
        assert_eq!(answer.all("x-order"), ["up", "c", "b", "a"]);
        assert_eq!(upstream.last_request().all("x-order"), ["a", "b", "c"]);
    }
}

/// An answer made by the second passes back through the first, not through the third, and not
/// through its maker.
#[test]
fn an_early_answer_passes_back_through_those_already_entered() {
    let upstream = Upstream::answering("never");
    let gateway = through(
        &upstream,
        json!([order("a"), { "plugin": "reply", "config": { "status": 418, "body": "early" } }, order("c")]),
    );
    let mut client = gateway.connect();

    for _ in 0..2 {
        let answer = client.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n");

        assert_eq!((answer.status(), answer.text()), (418, "early"));
        assert_eq!(answer.field("x-reply"), Some("yes"));
        assert_eq!(answer.all("x-order"), ["a"]);
        assert!(answer.field("date").is_some());
    }
    assert_eq!(upstream.connections(), 0);
}

/// RFC 9110 §6.4.1: HEAD and 204 have no body, whoever answers.
#[test]
fn an_answer_of_a_plugin_keeps_to_the_rules_of_its_status() {
    let upstream = Upstream::answering("never");
    let gateway = through(&upstream, json!([{ "plugin": "reply", "config": { "status": 204 } }]));
    let mut client = gateway.connect();
    for _ in 0..2 {
        let answer = client.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((answer.status(), answer.field("content-length")), (204, None), "{answer:?}");
    }

    let gateway = through(&upstream, json!(["reply"]));
    let mut client = gateway.connect();
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.response_to("HEAD");
        assert_eq!((answer.status(), answer.field("content-length")), (200, Some("7")));
    }
}

/// The rest of a body that nobody will read must not become the next request.
#[test]
fn an_early_answer_to_a_request_with_a_body_leaves_the_connection_in_step() {
    let upstream = Upstream::answering("never");
    let gateway = through(&upstream, json!(["reply"]));
    let mut client = gateway.connect();

    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n12345678");
    let answer = client.response();

    assert_eq!(answer.text(), "replied");
    if answer.says_close() {
        client.closed();
    } else {
        assert_eq!(client.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").text(), "replied");
    }
    gateway.counts("zproxy_requests_total", &[], if answer.says_close() { 1.0 } else { 2.0 });
}

#[test]
fn a_response_can_be_replaced_body_included() {
    let upstream = Upstream::sending(
        "HTTP/1.1 200 OK\r\nX-Secret: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    );
    let gateway = through(
        &upstream,
        json!([order("a"), { "plugin": "reply", "config": { "on": "response", "status": 503, "body": "replaced" } }]),
    );
    let mut client = gateway.connect();

    for _ in 0..2 {
        let answer = client.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n");

        assert_eq!((answer.status(), answer.text()), (503, "replaced"));
        assert_eq!(answer.field("x-secret"), None);
        assert_eq!(answer.all("x-order"), ["a"]);
    }
}

/// RFC 9110 §8.6: whether a response has a body is up to its status, and so is what says so.
#[test]
fn a_status_that_a_plugin_changes_leaves_the_connection_in_step() {
    let heads = [
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
    ];
    for head in heads {
        let upstream = Upstream::sending(head);
        for (status, length) in [(200, Some("0")), (404, Some("0")), (204, None)] {
            let chain =
                json!([{ "plugin": "reply", "config": { "on": "status", "status": status } }]);
            let gateway = through(&upstream, chain);
            let mut client = gateway.connect();
            for _ in 0..3 {
                let answer = client.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n");

                let keeps = head.ends_with("body") && status != 204;
                let length = if keeps { Some("4") } else { length };
                assert_eq!(
                    (answer.status(), answer.field("content-length")),
                    (status, length),
                    "{head:?}"
                );
            }
        }
    }
}

/// Whoever made the answer that it replaces.
#[test]
fn an_answer_that_a_plugin_makes_of_another_has_a_date() {
    let config = json!({ "on": "response", "status": 503, "body": "replaced" });
    let gateway = with_plugins(json!({
        "routes": [{ "path": "/", "upstream": "http://127.0.0.1:1",
            "middleware": [{ "plugin": "reply", "config": config }] }],
    }));

    let answer = gateway.get("/");

    assert_eq!((answer.status(), answer.text()), (503, "replaced"));
    assert_eq!(answer.all("date").len(), 1, "{answer:?}");
}

/// `response-filter`: called for each response, whoever made it.
#[test]
fn answers_that_the_gateway_makes_pass_back_through_the_chain() {
    let gateway = with_plugins(json!({
        "routes": [
            { "path": "/gone", "upstream": "http://127.0.0.1:1", "middleware": [order("a")] },
            { "path": "/fixed", "respond": { "status": 200, "body": "fixed" }, "middleware": [order("b")] },
        ],
    }));

    let answer = gateway.get("/gone");
    assert_eq!((answer.status(), answer.all("x-order")), (502, vec!["a"]));
    let answer = gateway.get("/fixed");
    assert_eq!((answer.status(), answer.text(), answer.all("x-order")), (200, "fixed", vec!["b"]));
}

/// What a plugin may look at, pushed or asked for.
#[test]
fn a_plugin_sees_the_request_as_it_came() {
    let upstream = Upstream::answering("never");
    let gateway = through(&upstream, json!(["echo_headers"]));

    let answer =
        gateway.ask("PUT", "/a/../b%41?c=%64", "X-One: 1\r\nx-one: 2\r\nContent-Length: 0\r\n");

    let seen = answer.text();
    for line in [
        ":method PUT",
        ":path /bA?c=%64",
        ":authority gateway.test",
        ":scheme http",
        ":client-ip 127.0.0.1",
        ":route all",
    ] {
        assert!(seen.lines().any(|seen| seen == line), "{line}: {seen}");
    }
    let fields: Vec<String> = seen.lines().map(str::to_ascii_lowercase).collect();
    assert!(fields.contains(&"x-one: 1".into()) && fields.contains(&"x-one: 2".into()), "{seen}");
}

/// A place's own config replaces the plugin's; a place can be switched off; so can a plugin.
#[test]
fn configs_belong_to_places() {
    let upstream = Upstream::answering("ok");
    let gateway = with_plugins(json!({
        "plugins": {
            "order": { "path": guest("order"), "config": { "name": "default" } },
            "noop": { "path": guest("noop") },
        },
        "middleware": { "header-stamp": { "enabled": false, "name": "never" } },
        "routes": [{ "path": "/", "upstream": upstream.url(), "middleware": [
            "order",
            order("own"),
            { "plugin": "order", "enabled": false, "config": { "name": "off" } },
            "header-stamp",
            "noop",
        ] }],
    }));

    let answer = gateway.get("/");

    assert_eq!(answer.all("x-order"), ["own", "default"]);
    assert_eq!(answer.field("x-served-by"), None);
}

/// Interface §1: `zproxy --plugins DIR` alone shows every plugin at work.
#[test]
fn every_plugin_of_the_folder_can_be_tried_without_a_config() {
    let dir = plugins_dir(&["header-stamp", "echo_headers"]);
    let folder = dir.path().to_str().unwrap();
    let gateway =
        Launch::flags(&["--plugins", folder, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .start();

    assert!(gateway.get("/").text().contains("header-stamp"));
    for path in ["/try/header-stamp/", "/try/header-stamp/hello?x"] {
        let answer = gateway.get(path);
        assert_eq!((answer.status(), answer.field("x-served-by")), (200, Some("zproxy")), "{path}");
        assert_eq!(answer.json()["method"], "GET", "{path}");
    }
    // `-` and `_` are equal.
    assert!(gateway.get("/try/echo-headers/").text().contains(":method GET"));
    assert!(gateway.get("/echo").field("x-served-by").is_none());
    let plugins = gateway.admin_json("/plugins");
    let from = |origin: &str| list_in(&plugins).iter().filter(|one| one["from"] == origin).count();
    assert_eq!(
        (from("file"), from("built-in")),
        (2, zproxy_guest_build::BUILT_IN.len()),
        "{plugins}"
    );
    assert!(plugins.to_string().contains("header-stamp"), "{plugins}");
}

/// An instance a worker: all of them have it, and what they count adds up.
#[test]
fn plugins_run_on_every_worker_and_are_counted() {
    let upstream = Upstream::answering("ok");
    let gateway = with_plugins(json!({
        "workers": { "count": 4, "pin": false, "acceptors": "dedicated" },
        "upstreams": { "test": { "servers": [upstream.address()] } },
        "routes": [{ "path": "/", "upstream": "test", "middleware": [order("a"), "noop"] }],
    }));

    for _ in 0..40 {
        assert_eq!(gateway.get("/").all("x-order"), ["a"]);
    }

    for plugin in ["order", "noop"] {
        gateway.counts("zproxy_plugin_calls_total", &[("plugin", plugin)], 80.0);
    }
    let metrics = gateway.metrics();
    assert!(metrics.sum("zproxy_plugin_memory_bytes", &[("plugin", "order")]) >= 65_536.0);
    assert!(metrics.has("zproxy_plugin_generation", &[("plugin", "order")]), "{}", metrics.text);
    assert!(metrics.sum("zproxy_plugin_traps_total", &[]).abs() < f64::EPSILON);
}

/// What a plugin prints is for its author: in the log, by name; standard output is not its own.
#[test]
fn what_a_plugin_says_is_in_the_log_under_its_name() {
    let upstream = Upstream::answering("ok");
    let gateway = through(&upstream, json!(["print"]));

    assert_eq!(gateway.get("/said").text(), "ok");

    gateway.logs("error of /said");
    let log = gateway.stderr();
    for level in ["info", "warn", "error"] {
        let line = log.lines().find(|line| line.contains(&format!("{level} of /said")));
        assert!(line.is_some_and(|line| line.contains("print")), "{level}: {log}");
    }
    assert!(!log.contains("debug of /said"), "the level is info: {log}");
    assert!(!gateway.stdout().contains("/said"), "{}", gateway.stdout());
}

/// Without a body hook bodies pass as they would without a plugin.
#[test]
fn bodies_pass_through_a_chain_untouched() {
    let upstream = Upstream::echoing();
    let gateway = through(&upstream, json!([order("a"), "header-stamp"]));
    let mut client = gateway.connect();

    for size in [0, 1000, 2_000_000] {
        let body = vec![b'z'; size];
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"));
        client.send(&body);
        let answer = client.response();

        assert!(answer.body == body, "{size}");
        assert_eq!(answer.field("x-served-by"), Some("zproxy"));
    }
    let answer = client.exchange(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    );
    assert_eq!(answer.text(), "abc");
}

/// Runs `check` on a folder with this file in it, and on a config that names it: both must fail in
/// the same way. The result of the second.
fn check_plugin(name: &str, bytes: &[u8], config: Value) -> Run {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(format!("{name}.wasm"));
    std::fs::write(&path, bytes).unwrap();
    let written = json!({
        "listeners": [{ "address": "127.0.0.1:0" }],
        "admin": null,
        "plugins": { name: { "path": path } },
        "routes": [{ "path": "/", "upstream": "echo", "middleware": [{ "plugin": name, "config": config }] }],
    });
    std::fs::write(dir.path().join("zproxy.json"), written.to_string()).unwrap();
    let started = run(dir.path(), &["run"]);
    assert_eq!(started.code, Some(5), "{started:?}");
    run(dir.path(), &["check"])
}

/// Exit code 5, the file by name, and a reason that an author can act on.
#[test]
fn a_file_that_is_no_plugin_is_refused_with_a_reason() {
    let good = std::fs::read(guest("noop")).unwrap();
    let rows: [(&str, Vec<u8>, &str); 6] = [
        ("text", b"not wasm".to_vec(), "component"),
        ("empty", Vec::new(), "component"),
        ("core", b"\0asm\x01\0\0\0".to_vec(), "component"),
        ("hollow", b"\0asm\x0d\0\x01\0".to_vec(), "lifecycle"),
        ("short", good[..good.len() / 2].to_vec(), ""),
        ("garbled", good.iter().map(|byte| byte ^ (byte >> 3)).collect(), ""),
    ];

    for (name, bytes, reason) in rows {
        let run = check_plugin(name, &bytes, json!({}));

        assert_eq!(run.code, Some(5), "{name}: {run:?}");
        assert!(run.stderr.contains(name), "{name}: {run:?}");
        assert!(run.stderr.contains(reason), "{name} should say {reason:?}: {run:?}");
    }
}

#[test]
fn a_config_that_a_plugin_refuses_is_refused_in_the_plugins_words() {
    let init_error = std::fs::read(guest("init_error")).unwrap();
    let run = check_plugin("init_error", &init_error, json!({}));
    assert_eq!(run.code, Some(5), "{run:?}");
    assert!(run.stderr.contains("this plugin refuses every configuration"), "{run:?}");

    let stamp = std::fs::read(guest("header-stamp")).unwrap();
    let run = check_plugin("header-stamp", &stamp, json!({ "nme": "edge-1" }));
    assert_eq!(run.code, Some(5), "{run:?}");
    assert!(
        run.stderr.contains("nme") && run.stderr.contains("routes[0].middleware[0]"),
        "{run:?}"
    );
}

/// One place for one mistake: where the configuration was written, however many routes take it, and
/// even when none does yet.
#[test]
fn a_refused_configuration_is_told_once_with_its_place_and_cure() {
    let dir = plugins_dir(&["header-stamp"]);
    let route = |path: &str| json!({ "path": path, "respond": {}, "middleware": ["header-stamp"] });
    for routes in [json!([route("/a"), route("/b")]), json!([])] {
        let config = json!({
            "plugins_dir": dir.path(),
            "middleware": { "header-stamp": { "nme": "edge-1" } },
            "routes": routes,
        });
        let text = serde_json::to_string_pretty(&config).unwrap();
        std::fs::write(dir.path().join("zproxy.json"), &text).unwrap();

        let run = run(dir.path(), &["check", "--format", "json"]);

        assert_eq!(run.code, Some(5), "{run:?}");
        let report: Value = serde_json::from_str(&run.stdout).unwrap();
        let [problem] = report["problems"].as_array().unwrap().as_slice() else {
            panic!("{report}")
        };
        let line = text.lines().position(|line| line.contains("\"header-stamp\": {")).unwrap() + 1;
        assert_eq!(problem["file"], "zproxy.json");
        assert_eq!(problem["path"], "middleware.header-stamp");
        assert_eq!(problem["line"], line, "{problem}\n{text}");
        assert!(problem["message"].as_str().unwrap().contains("nme"), "{problem}");
        assert!(problem["cure"].is_string() && problem["column"].is_u64(), "{problem}");
    }
}

/// Nobody can name such a plugin, so nobody needs it.
#[test]
fn a_file_with_an_odd_name_is_told_and_does_not_stop_a_start() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("my plugin.wasm"), "").unwrap();
    let config = json!({ "plugins_dir": dir.path() });
    let gateway = Launch::config(config.clone()).start();
    gateway.logs("my plugin.wasm");

    std::fs::write(dir.path().join("zproxy.json"), config.to_string()).unwrap();
    let checked = run(dir.path(), &["check"]);
    assert_eq!(checked.code, Some(5), "{checked:?}");
    assert!(checked.stderr.contains("my plugin.wasm"), "{checked:?}");
}

/// Everything that is wrong is told at once, and `--format json` too.
#[test]
fn all_bad_plugins_are_told_at_once() {
    let dir = TempDir::new().unwrap();
    for name in ["one", "two"] {
        std::fs::write(dir.path().join(format!("{name}.wasm")), "nonsense").unwrap();
    }
    let config = json!({
        "admin": null,
        "plugins_dir": dir.path(),
        "routes": [{ "path": "/", "upstream": "echo", "middleware": ["one", "two"] }],
    });
    std::fs::write(dir.path().join("zproxy.json"), config.to_string()).unwrap();

    let run = run(dir.path(), &["check", "--format", "json"]);

    assert_eq!(run.code, Some(5), "{run:?}");
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let problems = report["problems"].to_string();
    assert!(problems.contains("one") && problems.contains("two"), "{report}");
}

/// The folder may hold a file that is still being copied; the others are shown all the same.
#[test]
fn the_embedded_default_names_a_bad_plugin_and_serves_the_others() {
    let dir = plugins_dir(&["header-stamp"]);
    std::fs::write(dir.path().join("broken.wasm"), "nonsense").unwrap();
    let folder = dir.path().to_str().unwrap();

    let gateway =
        Launch::flags(&["--plugins", folder, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .start();

    gateway.logs("broken");
    assert_eq!(gateway.get("/try/header-stamp/").field("x-served-by"), Some("zproxy"));
    assert_ne!(gateway.get("/try/broken/").status(), 200);
}

#[test]
fn a_plugin_whose_file_is_missing_is_named() {
    let dir = TempDir::new().unwrap();
    let config = json!({
        "admin": null,
        "plugins": { "ghost": { "path": "./ghost.wasm" } },
        "routes": [{ "path": "/", "upstream": "echo", "middleware": ["ghost"] }],
    });
    std::fs::write(dir.path().join("zproxy.json"), config.to_string()).unwrap();

    let run = run(dir.path(), &["check"]);

    assert!([Some(3), Some(5)].contains(&run.code), "{run:?}");
    assert!(run.stderr.contains("ghost.wasm"), "{run:?}");
}
