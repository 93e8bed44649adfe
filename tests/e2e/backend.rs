//! How workers talk to the kernel: which back end is taken, and what the operator learns of it.
//!
//! Not here: that both do the same, for which the whole suite runs on either (`ZPROXY_E2E_IO`).

use serde_json::{Value, json};

use crate::harness::{Gateway, Launch, run, run_without_io_uring};

fn config(io: &str) -> Value {
    json!({
        "workers": { "count": 2, "pin": false, "io": io },
        "routes": [{ "path": "/", "respond": { "body": "hello" } }],
    })
}

/// What the admin listener says of all workers, when they agree.
fn told(gateway: &Gateway) -> String {
    let info = gateway.admin_json("/info")["io"].as_str().unwrap().to_owned();
    for worker in gateway.admin_json("/workers")["workers"].as_array().unwrap() {
        assert_eq!(worker["io"], info, "{worker}");
        assert_eq!(worker["ring"].is_object(), info == "uring", "{worker}");
    }
    info
}

fn lines_about_io(gateway: &Gateway) -> Vec<String> {
    let log = gateway.stderr();
    log.lines().filter(|line| line.contains(" io: ")).map(str::to_owned).collect()
}

#[test]
fn epoll_can_be_asked_for() {
    let gateway = Gateway::start(config("epoll"));

    assert_eq!(gateway.get("/").text(), "hello");
    assert_eq!(told(&gateway), "epoll");
    assert_eq!(lines_about_io(&gateway).len(), 1);
}

/// Docker forbids io_uring; a gateway must not notice but for its speed.
#[test]
fn where_io_uring_is_forbidden_auto_takes_epoll_and_says_why_once() {
    let gateway = Launch::config(config("auto")).without_io_uring().start();

    assert_eq!(gateway.get("/").text(), "hello");
    assert_eq!(told(&gateway), "epoll");
    let lines = lines_about_io(&gateway);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let says = lines[0].contains("epoll") && lines[0].contains("not permitted");
    assert!(says, "{lines:?}");
}

/// Who asks for it by name wants to know that it cannot be had.
#[test]
fn where_io_uring_is_forbidden_a_gateway_that_must_have_it_does_not_start() {
    let dir = tempfile::TempDir::new().unwrap();
    let mut config = config("uring");
    config["listeners"] = json!([{ "address": "127.0.0.1:0" }]);
    config["admin"] = json!({ "address": null });
    std::fs::write(dir.path().join("zproxy.json"), config.to_string()).unwrap();

    let started = run_without_io_uring(dir.path(), &["run"]);

    assert_eq!(started.code, Some(1), "{started:?}");
    let says = started.stderr.contains("workers.io") && started.stderr.contains("not permitted");
    assert!(says, "{started:?}");
    assert!(!started.stderr.contains("listening"), "{started:?}");
    assert_eq!(run(dir.path(), &["check"]).code, Some(0));
}
