//! gRPC through the gateway, with the server and the client that most people run: grpcio.
//!
//! Not here: the calls themselves (`grpc_calls.py`, `grpc_drain.py`).

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::http2::{Http2, Http2Upstream, post};
use crate::harness::tls::Authority;
use crate::harness::{Gateway, eventually, tools};

#[test]
fn calls_of_every_kind_pass() {
    calls(json!({ "address": "127.0.0.1:0" }), "");
}

#[test]
fn calls_of_every_kind_pass_over_tls() {
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let files = authority.issue(dir.path(), "s", &["localhost", "127.0.0.1"]);
    let roots = authority.write(dir.path().join("ca.pem"));
    let tls = json!({ "certificates": [files.entry()] });
    calls(json!({ "address": "127.0.0.1:0", "tls": tls }), roots.to_str().unwrap());
}

/// A script that is a server and a client, the lines that it prints, and the server's port.
fn script(name: &str) -> Option<(Child, Lines<BufReader<ChildStdout>>, String)> {
    let python = tools::python("grpc", "grpc", &["grpcio==1.*"])?;
    let mut running = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e").join(name))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(running.stdout.take().unwrap()).lines();
    let port = said.next().unwrap().unwrap().strip_prefix("port ").unwrap().to_owned();
    Some((running, said, port))
}

fn calls(listener: Value, roots: &str) {
    let Some((mut running, mut said, port)) = script("grpc_calls.py") else { return };
    let gateway = Gateway::start(json!({
        "listeners": [listener],
        "upstreams": { "grpc": { "servers": [format!("127.0.0.1:{port}")], "protocol": "h2" } },
        "routes": [
            { "path": "/test.Service", "upstream": "grpc" },
            { "path": "/grpc.health.v1.Health", "upstream": "grpc" },
        ],
    }));
    let closed = Gateway::start(json!({
        "middleware": { "rate-limit": { "requests_per_minute": 1 }, "jwt": { "jwt_secret": "a secret of enough bytes for HS256" } },
        "upstreams": { "grpc": { "servers": [format!("127.0.0.1:{port}")], "protocol": "h2" } },
        "limits": { "body_bytes_max": 1000 },
        "routes": [
            { "path": "/test.Service/Unary", "upstream": "grpc", "middleware": ["jwt"] },
            { "path": "/test.Service/Out", "upstream": "grpc", "middleware": ["rate-limit"] },
            { "path": "/test.Service/Both", "upstream": "grpc" },
            { "path": "/test.Service/Closed", "respond": { "status": 503, "body": "50 % of it, later",
                "headers": { "content-type": "text/plain" } } },
        ],
    }));
    let deserted = Gateway::start(json!({
        "upstreams": { "grpc": { "servers": ["127.0.0.1:1"], "protocol": "h2" } },
        "routes": [{ "path": "/", "upstream": "grpc" }],
    }));

    let addresses =
        format!("{} {} {} {roots}\n", gateway.address(), deserted.address(), closed.address());
    running.stdin.take().unwrap().write_all(addresses.as_bytes()).unwrap();
    let found: Value = serde_json::from_str(&said.next().expect("results").unwrap()).unwrap();
    assert!(running.wait().unwrap().success());

    let expected = json!({
        "unary": ["hello", "1", [0, 255], "yes"],
        "empty": 0,
        "error": ["NOT_FOUND", "nothing: 100 % \u{e9}", "2"],
        "out": (0..100).collect::<Vec<_>>(),
        "in": 1_000_000,
        "both": ["a", "b", "c"],
        "turns": (0..20).collect::<Vec<_>>(),
        "large": true,
        "many": true,
        "remaining": "True",
        "unknown": "UNIMPLEMENTED",
        "no route": "UNIMPLEMENTED",
        "no server": "UNAVAILABLE",
        "deadline": "DEADLINE_EXCEEDED",
        "deadline told": true,
        "cancel told": true,
        "cancelled": "CANCELLED",
        "binary": [[0, 1, 255], [255, 254]],
        "many fields": 60,
        "large field": 8000,
        "compressed": true,
        "no trailers first": ["PERMISSION_DENIED", "before anything", "late"],
        "out fails": [3, "DATA_LOSS", "after three"],
        "in fails": ["INVALID_ARGUMENT", "enough"],
        "half-closed": ["after", "the end"],
        "out cancelled": true,
        "large stream": 64,
        "streams at once": 1000,
        "health": true,
        "deadline in a stream": [2, "DEADLINE_EXCEEDED"],
        "empty messages": 5,
        "refused by jwt": ["UNAUTHENTICATED", true],
        "refused by rate-limit": ["OK", "UNAVAILABLE"],
        "too large": "RESOURCE_EXHAUSTED",
        "closed by a route": ["UNAVAILABLE", "50 % of it, later"],
        "calls after all": "still there",
    });
    for (name, expected) in expected.as_object().unwrap() {
        assert_eq!(&found[name], expected, "{name}");
    }
}

/// Calls that have begun end as if nothing were, whatever their kind; new ones find another gateway.
#[test]
fn calls_in_flight_outlive_a_drain() {
    let Some((mut running, mut said, port)) = script("grpc_drain.py") else { return };
    let mut input = running.stdin.take().unwrap();
    let gateway = |path: &str| {
        Gateway::start(json!({
            "upstreams": { "grpc": { "servers": [format!("127.0.0.1:{port}")], "protocol": "h2" } },
            "routes": [{ "path": path, "upstream": "grpc" }],
        }))
    };
    let (mut first, second) = (gateway("/"), gateway("/test.Service/Second"));
    writeln!(input, "{} {}", first.address(), second.address()).unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "begun");

    first.signal(Signal::TERM);
    eventually("the end of accepting", || {
        std::net::TcpStream::connect(first.address()).is_err().then_some(())
    });
    writeln!(input, "drained").unwrap();

    let found: Value = serde_json::from_str(&said.next().expect("results").unwrap()).unwrap();
    assert!(running.wait().unwrap().success());
    let expected = json!({
        "unary": "hello",
        "in": "before after",
        "out": ["first", "0", "1", "2"],
        "both": ["before", "after"],
        "new": "new",
        "deadline": "DEADLINE_EXCEEDED",
    });
    assert_eq!(found, expected);
    assert_eq!(first.exit_code(), 0);
}

/// The gateway itself keeps to the time that a call has, and says so in gRPC's words.
#[test]
fn a_deadline_is_kept_for_clients_that_do_not() {
    let upstream = Http2Upstream::start(|asked| async move {
        let mut asked = asked;
        // Until it is given up.
        let _ = std::future::poll_fn(|cx| asked.respond.poll_reset(cx)).await;
    });
    let gateway = upstream.gateway(json!({}));
    let mut client = Http2::connect(gateway.address());
    let mut call = post("/test.Service/Waits");
    call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    call.headers_mut().insert("grpc-timeout", "200m".parse().unwrap());

    let answer = client.ask(call, Some(b"\0\0\0\0\0"));

    assert_eq!(answer.status, 200);
    assert_eq!(answer.field("content-type"), Some("application/grpc"));
    assert_eq!(answer.field("grpc-status"), Some("4"));
    assert_eq!(answer.field("proxy-status"), Some("zproxy; error=http_response_timeout"));
    assert!(answer.body.is_empty() && answer.trailers.is_none());
}
