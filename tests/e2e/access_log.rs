//! One line a request: as JSON, in the combined format, by template.

use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Gateway, Upstream, eventually, guest};

/// A gateway that logs into a file in its own directory.
fn logging(upstream: &Upstream, mut options: Value) -> (Gateway, PathBuf) {
    options["path"] = json!("access.log");
    let gateway = Gateway::to_with(upstream, json!({ "access_log": options }));
    let path = gateway.dir.path().join("access.log");
    (gateway, path)
}

/// Waits for this many lines.
fn lines(path: &PathBuf, count: usize) -> Vec<String> {
    let lines = eventually("lines in the access log", || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count && text.ends_with('\n')).then_some(lines)
    });
    assert_eq!(lines.len(), count, "{lines:#?}");
    lines
}

/// Interface §6, with what the upstream was told: one can be found by the other.
#[test]
fn a_line_of_json_tells_the_story_of_a_request() {
    let upstream = Upstream::answering("hello");
    let (gateway, path) = logging(&upstream, json!({ "format": "json" }));

    let mut client = gateway.connect();
    client.exchange(
        "POST /a/b?c=d HTTP/1.1\r\nHost: shop.example:80\r\nContent-Length: 4\r\n\r\nbody",
    );

    let line: Value = serde_json::from_str(&lines(&path, 1)[0]).unwrap();
    let request = upstream.last_request();
    assert_eq!(line["client"], "127.0.0.1", "{line}");
    assert_eq!(line["method"], "POST");
    assert_eq!(line["host"], "shop.example:80");
    assert!(line["path"].as_str().unwrap().starts_with("/a/b"), "{line}");
    assert_eq!(line["protocol"], "HTTP/1.1");
    assert_eq!(line["status"], 200);
    assert_eq!(line["route"], "all");
    assert_eq!(line["upstream"], "test");
    assert_eq!(line["server"], upstream.address());
    assert_eq!(line["attempts"], 1);
    assert_eq!(line["request_id"], request.field("x-request-id").unwrap());
    let trace = request.field("traceparent").unwrap();
    assert_eq!(line["trace_id"], trace[3..35]);
    assert!(line["bytes_in"].as_u64().unwrap() >= 4, "{line}");
    assert!(line["bytes_out"].as_u64().unwrap() >= 5, "{line}");
    assert!(line["duration_us"].as_u64().unwrap() > 0, "{line}");
    assert!(line["ts"].is_string() || line["ts"].is_number(), "{line}");
}

/// What goes wrong must be found in the log, most of all.
/// Whoever reads the log looks for what the client asked for.
#[test]
fn a_line_shows_the_request_as_it_came_and_not_as_it_was_rewritten() {
    let upstream = Upstream::answering("hello");
    let (gateway, path) = {
        let gateway = Gateway::to_with(
            &upstream,
            json!({
                "routes": [{ "path": "/api/", "upstream": "test",
                    "rewrite": { "strip_prefix": "/api", "host": "inner" } }],
                "access_log": { "path": "access.log" },
            }),
        );
        let path = gateway.dir.path().join("access.log");
        (gateway, path)
    };

    let mut client = gateway.connect();
    for target in ["/api/./x?y", "http://outer:81/api/x"] {
        client.exchange(format!("GET {target} HTTP/1.1\r\nHost: outer:80\r\n\r\n"));
    }

    let lines: Vec<Value> =
        lines(&path, 2).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["path"], &lines[0]["host"]), (&json!("/api/./x?y"), &json!("outer:80")));
    assert_eq!((&lines[1]["path"], &lines[1]["host"]), (&json!("/api/x"), &json!("outer:81")));
    let seen = upstream.last_request();
    assert_eq!((seen.target(), seen.field("host")), ("/x", Some("inner")));
}

/// Bytes in are those of the client, whatever became of them.
#[test]
fn what_came_in_is_counted_for_every_answer() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::start(json!({
        "upstreams": { "test": { "servers": [upstream.address()] } },
        "routes": [
            { "path": "/up", "upstream": "test", "rewrite": { "host": "a-much-longer-name" } },
            { "path": "/here", "respond": { "status": 200 } },
            { "path": "/gone", "upstream": "http://127.0.0.1:1" },
        ],
        "access_log": { "path": "access.log", "format": "{bytes_in}" },
    }));
    let mut sent = Vec::new();
    for (path, body) in [
        ("/up", "Content-Length: 5\r\n\r\nhello"),
        ("/up", "Transfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\nA: b\r\n\r\n"),
        ("/here", "Content-Length: 5\r\n\r\nhello"),
        ("/gone", "\r\n"),
        ("/none", "\r\n"),
    ] {
        let request = format!("POST {path} HTTP/1.1\r\nHost: a\r\n{body}");
        gateway.connect().exchange(&request);
        sent.push(request.len().to_string());
    }

    let mut counted = lines(&gateway.dir.path().join("access.log"), sent.len());
    counted.sort();
    sent.sort();
    assert_eq!(counted, sent);
}

/// What could be read of a request is told, though it was refused.
#[test]
fn a_refused_request_leaves_what_was_read_of_it() {
    let upstream = Upstream::answering("hello");
    let (gateway, path) = logging(&upstream, json!({}));

    gateway.connect().exchange("DELETE /a?b HTTP/1.1\r\nHost: h\r\nX : y\r\n\r\n");
    gateway.connect().exchange("\x16\x03\x01\r\n\r\n");

    let mut lines: Vec<Value> =
        lines(&path, 2).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.sort_by_key(|line| line["path"].is_null());
    let told = |name: &str| lines.iter().map(|line| line[name].clone()).collect::<Vec<_>>();
    assert_eq!(told("method"), [json!("DELETE"), Value::Null]);
    assert_eq!(told("path"), [json!("/a?b"), Value::Null]);
    assert_eq!(told("host"), [json!("h"), Value::Null]);
    assert_eq!(told("status"), [400, 400]);
    gateway.counts("zproxy_requests_total", &[("method", "DELETE"), ("status", "400")], 1.0);
    gateway.counts("zproxy_requests_total", &[("method", "other"), ("status", "400")], 1.0);
}

#[test]
fn requests_that_fail_leave_a_line_with_the_cause() {
    let gateway = Gateway::start(json!({
        "access_log": { "path": "access.log", "format": "json" },
        "routes": [{ "path": "/gone", "upstream": "http://127.0.0.1:1" }],
    }));
    let path = gateway.dir.path().join("access.log");

    gateway.get("/gone");
    gateway.get("/nowhere");
    gateway.connect().exchange("GET /bad HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");

    // Each worker writes its own lines, so they may come in any order.
    let lines: Vec<Value> =
        lines(&path, 3).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    for status in [502, 404, 400] {
        let line = lines.iter().find(|line| line["status"] == status);
        let line = line.unwrap_or_else(|| panic!("no {status} in {lines:?}"));
        assert!(line["flags"].as_str().is_some_and(|cause| !cause.is_empty()), "{line}");
    }
}

/// Interface §6: who of the chain has seen the request, and what came of it.
#[test]
fn plugins_are_named_with_their_verdicts() {
    let upstream = Upstream::answering("hello");
    let place = |always: bool, on_error: &str| json!({ "plugin": "panic", "config": { "always": always }, "on_error": on_error });
    let route = |path: &str, chain: Value| json!({ "path": path, "upstream": upstream.url(), "middleware": chain });
    let gateway = Gateway::start(json!({
        "access_log": { "path": "access.log", "format": "json" },
        "plugins": { "panic": { "path": guest("panic") } },
        "routes": [
            route("/fine", json!([place(false, "closed")])),
            route("/open", json!([place(true, "open")])),
            route("/closed", json!([place(true, "closed")])),
            route("/none", json!([])),
        ],
    }));
    let path = gateway.dir.path().join("access.log");

    for path in ["/fine", "/open", "/closed", "/none"] {
        gateway.get(path);
    }

    let mut lines: Vec<Value> =
        lines(&path, 4).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    // A sample is timed, the first request of a worker always.
    let fine = lines.iter().find(|line| line["path"] == "/fine").unwrap();
    assert!(fine["plugins"][0]["us"].as_f64().is_some_and(|us| us > 0.0), "{fine}");
    for plugin in lines.iter_mut().filter_map(|line| line.pointer_mut("/plugins/0")) {
        plugin.as_object_mut().unwrap().remove("us");
    }
    let said = |verdict| json!([{ "name": "panic", "generation": 1, "verdict": verdict }]);
    for (path, status, plugins) in [
        ("/fine", 200, said("next")),
        ("/open", 200, said("trap")),
        ("/closed", 503, said("trap")),
        ("/none", 200, Value::Null),
    ] {
        let line = lines.iter().find(|line| line["path"] == path).unwrap();
        assert_eq!((&line["status"], &line["plugins"]), (&json!(status), &plugins), "{line}");
    }
}

/// What plugins know of a request: in the log, where the operator says so.
#[test]
fn notes_of_plugins_are_shown_where_they_are_named() {
    let upstream = Upstream::answering("hello");
    let log = |format: &str, context: Value| {
        let gateway = Gateway::start(json!({
            "access_log": { "path": "access.log", "format": format, "context": context },
            "plugins": { "hooks": { "path": guest("hooks") } },
            "routes": [{ "path": "/", "upstream": upstream.url(), "middleware": ["hooks"] }],
        }));
        gateway.get("/");
        let id = upstream.last_request().field("x-request-id").unwrap().to_owned();
        (lines(&gateway.dir.path().join("access.log"), 1).remove(0), id)
    };

    let (line, id) = log("json", json!(["id", "nobody's"]));
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["context"], json!({ "id": id }));
    let (line, _) = log("json", json!([]));
    assert!(!line.contains("context"), "{line}");
    let (line, id) = log("{status} {context.id} {context.none}", json!([]));
    assert_eq!(line, format!("200 {id} -"));
}

/// The Combined Log Format of Apache and nginx, which every tool reads.
#[test]
fn the_combined_format_is_that_of_apache_and_nginx() {
    let upstream = Upstream::answering("hello");
    let (gateway, path) = logging(&upstream, json!({ "format": "combined" }));

    gateway.get("/plain");
    let line = lines(&path, 1).remove(0);
    assert!(line.ends_with(" \"-\" \"-\""), "{line}");
    gateway.ask(
        "GET",
        "/a?b",
        "Referer: http://from.example/\r\nUser-Agent: tester/1.0 (\"x\")\r\n",
    );

    let line = lines(&path, 2).remove(1);
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    let (time, rest) = line["127.0.0.1 - - [".len()..].split_once("] ").unwrap();
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert!(shape.ends_with(":00:00:00 +0000") && shape.starts_with("00/"), "{time}");
    assert!(rest.starts_with("\"GET /a?b HTTP/1.1\" 200 "), "{rest}");
    assert!(rest.contains(" \"http://from.example/\" \"tester/1.0 ("), "{rest}");
}

/// A client must not be able to write lines of its own, or to end a quoted field.
#[test]
fn a_client_cannot_forge_lines() {
    let upstream = Upstream::answering("hello");
    for format in ["json", "combined", "{method} {request_header.user-agent}"] {
        let (gateway, path) = logging(&upstream, json!({ "format": format }));
        let mut client = gateway.connect();

        client.exchange(
            b"GET /%0a%22x HTTP/1.1\r\nHost: a\r\nUser-Agent: a\" 200 \"b\t\\\" \xe2\x80\xa8\xff\r\n\r\n",
        );
        client.exchange("GET /next HTTP/1.1\r\nHost: a\r\n\r\n");

        let lines = lines(&path, 2);
        if format == "json" {
            serde_json::from_str::<Value>(&lines[0]).unwrap();
        }
        if format == "combined" {
            assert!(!lines[0].contains("a\" 200 \"b"), "{}", lines[0]);
        }
    }
}

#[test]
fn a_template_says_what_a_line_holds() {
    let upstream = Upstream::answering("hello");
    let (gateway, path) = logging(
        &upstream,
        json!({ "format": "{client} {method} {path} {status} <{request_header.x-a}>" }),
    );

    gateway.ask("GET", "/a", "X-A: b\r\n");

    assert_eq!(lines(&path, 1), ["127.0.0.1 GET /a 200 <b>"]);
}

/// Secrets do not belong into logs.
#[test]
fn redacted_fields_are_never_written() {
    let upstream = Upstream::answering("hello");
    let format = "{request_header.authorization} {request_header.cookie} {request_header.x-key}";
    let (gateway, path) = logging(&upstream, json!({ "format": format }));
    gateway.ask(
        "GET",
        "/",
        "Authorization: Bearer secret1\r\nCookie: a=secret2\r\nX-Key: shown\r\n",
    );
    let line = lines(&path, 1).remove(0);
    assert!(!line.contains("secret") && line.contains("shown"), "{line}");

    let (gateway, path) = logging(&upstream, json!({ "format": format, "redact": ["X-Key"] }));
    gateway.ask("GET", "/", "X-Key: secret3\r\n");
    let line = lines(&path, 1).remove(0);
    assert!(!line.contains("secret3"), "{line}");
}

/// `sample`: that share of the requests has a line, whoever asked and whatever came of it.
#[test]
fn a_sample_is_a_share_of_the_lines() {
    for (sample, least, most) in [(0.0, 0, 0), (0.5, 350, 650), (1.0, 1000, 1000)] {
        let options = json!({ "path": "access.log", "format": "json", "sample": sample });
        let mut gateway = Gateway::start(json!({
            "access_log": options,
            "routes": [{ "path": "/", "respond": { "status": 200 } }],
        }));
        let path = gateway.dir.path().join("access.log");
        let mut client = gateway.connect();
        for _ in 0..10 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100));
            for _ in 0..100 {
                client.response();
            }
        }

        // At its end the gateway writes what it has.
        gateway.signal(Signal::TERM);
        assert_eq!(gateway.exit_code(), 0);

        // Half of a thousand: 150 from the middle are more than nine standard deviations.
        let count = std::fs::read_to_string(path).unwrap_or_default().lines().count();
        assert!((least..=most).contains(&count), "{sample}: {count}");
    }
}

/// A disk that is full costs lines, which are counted, and no request.
#[cfg(target_os = "linux")]
#[test]
fn lines_that_cannot_be_written_are_counted() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to_with(
        &upstream,
        json!({ "access_log": { "path": "/dev/full", "format": "json" } }),
    );

    for _ in 0..10 {
        assert_eq!(gateway.get("/").text(), "hello");
    }

    gateway.counts("zproxy_access_log_dropped_total", &[], 10.0);
    gateway.logs("access-log cannot write");
}

#[test]
fn lines_go_to_standard_output_when_told_so() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to_with(
        &upstream,
        json!({ "access_log": { "path": "stdout", "format": "json" } }),
    );

    gateway.get("/here");

    eventually("a line on stdout", || gateway.stdout().contains("/here").then_some(()));
}

/// SIGUSR1: whoever rotates logs moves the file away and asks for a new one.
#[test]
fn a_log_that_was_moved_away_is_opened_anew() {
    let upstream = Upstream::answering("hello");
    let (gateway, path) = logging(&upstream, json!({ "format": "{path}" }));
    gateway.get("/before");
    assert_eq!(lines(&path, 1), ["/before"]);
    let moved = path.with_extension("1");
    std::fs::rename(&path, &moved).unwrap();

    gateway.signal(Signal::USR1);

    eventually("a new log", || path.exists().then_some(()));
    gateway.get("/after");
    assert_eq!(lines(&path, 1), ["/after"]);
    assert_eq!(lines(&moved, 1), ["/before"]);
}

/// What was written is there when the gateway has ended.
#[test]
fn no_line_is_lost_when_the_gateway_ends() {
    let upstream = Upstream::answering("hello");
    let (mut gateway, path) = logging(&upstream, json!({ "format": "{path}" }));
    let mut client = gateway.connect();
    for number in 0..500 {
        client.exchange(format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }

    gateway.signal(Signal::TERM);

    assert_eq!(gateway.exit_code(), 0);
    assert_eq!(lines(&path, 500)[499], "/499");
}
