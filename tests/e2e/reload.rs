//! Configurations that are replaced while the gateway runs.
//!
//! Not here: components that are replaced (`swap`).

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Gateway, Launch, Upstream, eventually, guest, run};

/// Two routes through one plugin with configurations of their own.
fn config(upstream: &Upstream, first: &str, second: &str) -> Value {
    let route = |path: &str, name: &str| {
        let plugin = json!({ "plugin": "stamp", "config": { "name": name } });
        json!({ "path": path, "upstream": "test", "middleware": [plugin] })
    };
    json!({
        "listeners": [{ "address": "127.0.0.1:0" }],
        "admin": { "address": "127.0.0.1:0" },
        "workers": { "count": 1, "pin": false },
        "plugins": { "stamp": { "path": guest("versioned") } },
        "upstreams": { "test": { "servers": [upstream.address()] } },
        "routes": [route("/first", first), route("/second", second)],
    })
}

fn write(gateway: &Gateway, config: &Value) {
    std::fs::write(gateway.dir.path().join("zproxy.json"), config.to_string()).unwrap();
}

fn reload(gateway: &Gateway) -> Value {
    let answer = gateway.admin_post("/reload", b"");
    assert_eq!(answer.status(), 200, "{answer:?}");
    answer.json()
}

/// What the plugin on a path says of itself: its configuration, and how many requests it has seen.
fn stamp(gateway: &Gateway, path: &str) -> (String, u32) {
    let answer = gateway.get(path);
    assert_eq!(answer.status(), 200, "{answer:?}");
    let field = |name: &str| answer.field(name).unwrap_or_default().to_owned();
    (field("x-name"), field("x-calls").parse().unwrap())
}

fn said(name: &str, calls: u32) -> (String, u32) {
    (name.to_owned(), calls)
}

#[test]
fn a_hang_up_reloads_the_configuration() {
    let upstream = Upstream::answering("ok");
    let gateway = Gateway::start(config(&upstream, "a", "b"));
    assert_eq!(gateway.get("/third").status(), 404);

    let mut new = config(&upstream, "a", "b");
    new["routes"][0]["path"] = json!("/third");
    write(&gateway, &new);
    gateway.signal(Signal::HUP);

    eventually("the new route", || (gateway.get("/third").status() == 200).then_some(()));
    assert_eq!(gateway.get("/first").status(), 404);
    gateway.counts("zproxy_config_reloads_total", &[("result", "ok")], 1.0);
    gateway.counts("zproxy_config_generation", &[], 2.0);
    assert_eq!(gateway.admin_json("/info")["config_generation"], 2);
}

/// What an instance has gathered in its memory is lost when it is made anew: only who has to loses it.
#[test]
fn a_plugin_whose_configuration_has_not_changed_keeps_its_instance() {
    let upstream = Upstream::answering("ok");
    let gateway = Gateway::start(config(&upstream, "a", "b"));
    for calls in 1..=3 {
        assert_eq!(stamp(&gateway, "/first"), said("a", calls));
        assert_eq!(stamp(&gateway, "/second"), said("b", calls));
    }

    write(&gateway, &config(&upstream, "a", "other"));
    let value = reload(&gateway);

    assert_eq!(value["plugins"], json!([]), "no component has changed");
    assert_eq!(stamp(&gateway, "/first"), said("a", 4));
    assert_eq!(stamp(&gateway, "/second"), said("other", 1));
    assert_eq!(gateway.plugin("stamp")["instances"], 2, "those of the old are gone");
}

#[test]
fn connections_to_upstreams_that_have_not_changed_stay_open() {
    let (kept, changed) = (Upstream::answering("kept"), Upstream::answering("changed"));
    let mut config = json!({
        "listeners": [{ "address": "127.0.0.1:0" }],
        "admin": { "address": "127.0.0.1:0" },
        "workers": { "count": 1, "pin": false },
        "upstreams": {
            "kept": { "servers": [kept.address()] },
            "changed": { "servers": [changed.address()] },
        },
        "routes": [{ "path": "/kept", "upstream": "kept" }, { "path": "/", "upstream": "changed" }],
    });
    let gateway = Gateway::start(config.clone());
    gateway.get("/kept");
    gateway.get("/");

    config["upstreams"]["changed"]["timeouts"] = json!({ "response_ms": 1234 });
    config["upstreams"]["another"] = json!({ "servers": [kept.address()] });
    write(&gateway, &config);
    reload(&gateway);

    eventually("the end of the other's connection", || (changed.ended() == 1).then_some(()));
    gateway.get("/kept");
    gateway.get("/");
    assert_eq!((kept.connections(), changed.connections()), (1, 2));
    gateway.counts("zproxy_upstream_requests_total", &[("upstream", "kept")], 2.0);
    gateway.counts("zproxy_upstream_requests_total", &[("upstream", "changed")], 2.0);
    gateway.counts("zproxy_requests_total", &[], 4.0);
}

#[test]
fn a_bad_configuration_changes_nothing_and_every_problem_is_told() {
    let upstream = Upstream::answering("ok");
    let gateway = Gateway::start(config(&upstream, "a", "b"));
    stamp(&gateway, "/first");
    let mut bad = config(&upstream, "a", "b");
    bad["routes"][0]["middleware"][0]["config"] = json!({ "nonsense": 1 });
    bad["routes"][1]["path"] = json!("/else");

    // One that fits together and does not suit the plugin.
    write(&gateway, &bad);
    let answer = gateway.admin_post("/reload", b"");
    assert_eq!(answer.status(), 422);
    let problem = &answer.json()["problems"][0];
    assert_eq!(problem["path"], "routes[0].middleware[0].config");
    assert!(problem["message"].as_str().unwrap().contains("nonsense"), "{problem}");
    assert_eq!(problem["line"], 1);

    // One that does not fit together, in two places.
    bad["limitz"] = json!({});
    bad["routes"][1]["upstream"] = json!("nobody");
    write(&gateway, &bad);
    let answer = gateway.admin_post("/reload", b"");
    assert_eq!(answer.status(), 422);
    assert_eq!(answer.json()["problems"].as_array().unwrap().len(), 2, "{answer:?}");
    gateway.signal(Signal::HUP);
    gateway.counts("zproxy_config_reloads_total", &[("result", "refused")], 3.0);
    gateway.logs("reload refused: the configuration has 2 problems");
    gateway.logs("did you mean `limits`?");

    assert_eq!(stamp(&gateway, "/first"), said("a", 2));
    assert_eq!(gateway.get("/else").status(), 404);
    gateway.counts("zproxy_config_generation", &[], 1.0);
}

/// New sockets and threads need a new process; everything else of the file is taken.
#[test]
fn what_needs_a_restart_is_named_and_left_as_it_is() {
    let upstream = Upstream::answering("ok");
    let gateway = Gateway::start(config(&upstream, "a", "b"));
    let mut new = config(&upstream, "new", "b");
    new["listeners"] = json!([{ "address": "127.0.0.1:0" }, { "address": "127.0.0.1:0" }]);
    new["workers"] = json!(2);

    write(&gateway, &new);
    let value = reload(&gateway);

    assert_eq!(value["restart_needed"], json!(["listeners", "workers"]));
    gateway.logs("restart needed: listeners, workers");
    assert_eq!(stamp(&gateway, "/first"), said("new", 1));
    assert_eq!(gateway.admin_json("/workers")["workers"].as_array().unwrap().len(), 1);
}

#[test]
fn limits_token_and_access_log_are_taken_from_the_new_configuration() {
    let upstream = Upstream::answering("ok");
    let mut config = config(&upstream, "a", "b");
    let gateway = Gateway::start(config.clone());
    let mut client = gateway.connect();
    client.exchange("GET /first HTTP/1.1\r\nHost: a\r\n\r\n");

    config["limits"] = json!({ "headers_max": 2 });
    config["access_log"] = json!({ "path": "access.log" });
    config["admin"]["token"] = json!("secret");
    write(&gateway, &config);
    reload(&gateway);

    let answer = client.exchange("GET /first HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\n\r\n");
    assert_eq!(answer.status(), 431, "on a connection from before, too");
    assert_eq!(gateway.admin("/info").status(), 401);
    eventually("a line in the log", || {
        let log = std::fs::read_to_string(gateway.dir.path().join("access.log")).ok()?;
        log.contains("\"status\":431").then_some(())
    });
}

#[test]
fn the_commands_ask_a_running_gateway() {
    let upstream = Upstream::answering("ok");
    let mut gateway = Launch::config(config(&upstream, "a", "b")).start();
    let ask = |gateway: &Gateway, command: &str| {
        run(gateway.dir.path(), &[command, "--admin", gateway.admin_address()])
    };

    let done = ask(&gateway, "reload");
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{done:?}");
    assert_eq!(serde_json::from_str::<Value>(&done.stdout).unwrap()["config_generation"], 2);

    write(&gateway, &json!({ "routes": 1 }));
    let done = ask(&gateway, "reload");
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains("zproxy.json:1:"), "{done:?}");

    let done = ask(&gateway, "drain");
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(gateway.exit_code(), 0);
    let address = "127.0.0.1:1";
    let done = run(gateway.dir.path(), &["reload", "--admin", address]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains(address), "{done:?}");
}
