//! The admin listener: health, numbers, and what the gateway says about itself.
//!
//! Not here: plugins' numbers (`plugins`, `hostile`), readiness under drain (`drain`).

use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Gateway, Upstream, connect, eventually, guest, try_connect};

fn answering() -> (Upstream, Gateway) {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to(&upstream);
    (upstream, gateway)
}

#[test]
fn a_gateway_that_serves_is_alive_and_ready() {
    let (_upstream, gateway) = answering();

    for path in ["/livez", "/readyz"] {
        assert_eq!(gateway.admin(path).status(), 200, "{path}");
        assert_eq!(gateway.admin_ask("HEAD", path, "").status(), 200, "{path}");
    }
}

#[test]
fn admin_pages_are_json_and_name_what_is_there() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::start(json!({
        "workers": { "count": 3, "pin": false },
        "upstreams": { "shop": { "servers": [upstream.address()] } },
        "routes": [
            { "name": "carts", "path": "/carts/{id}", "hosts": ["shop.example"], "upstream": "shop" },
            { "name": "rest", "path": "/", "respond": { "status": 200 } },
        ],
    }));

    for path in ["/info", "/routes", "/plugins", "/workers"] {
        let answer = gateway.admin(path);
        assert_eq!(answer.status(), 200, "{path}: {answer:?}");
        assert_eq!(answer.field("content-type"), Some("application/json"), "{path}");
        answer.json();
    }
    assert_eq!(gateway.admin_json("/info")["version"], env!("CARGO_PKG_VERSION"));
    let routes = gateway.admin_json("/routes").to_string();
    for part in ["carts", "/carts/{id}", "shop.example", "shop", "rest"] {
        assert!(routes.contains(part), "{part} in {routes}");
    }
    let workers = gateway.admin_json("/workers");
    assert_eq!(list_in(&workers).len(), 3, "{workers}");
    assert_eq!(list_in(&gateway.admin_json("/plugins")).len(), 0);
}

/// A page is a list, or an object around one.
pub fn list_in(page: &Value) -> Vec<Value> {
    let list = page.as_array().or_else(|| page.as_object()?.values().find_map(Value::as_array));
    list.unwrap_or_else(|| panic!("no list in {page}")).clone()
}

/// Interface §5: errors are problem+json, changes only by POST.
#[test]
fn what_the_admin_listener_does_not_have_is_a_problem_in_json() {
    let (_upstream, gateway) = answering();

    for (method, path, status) in [
        ("GET", "/nothing", 404),
        ("POST", "/livez", 405),
        ("DELETE", "/metrics", 405),
        ("GET", "/../info", 404),
    ] {
        let answer = gateway.admin_ask(method, path, "Content-Length: 0\r\n");
        assert_eq!(answer.status(), status, "{method} {path}: {answer:?}");
        assert_eq!(
            answer.field("content-type"),
            Some("application/problem+json"),
            "{method} {path}"
        );
        assert_eq!(answer.json()["status"], status);
        assert_eq!(answer.field("allow").is_some(), status == 405, "{method} {path}: {answer:?}");
    }
}

#[test]
fn a_token_guards_everything_but_health() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to_with(
        &upstream,
        json!({ "admin": { "address": "127.0.0.1:0", "token": "open-sesame" } }),
    );

    for fields in [
        "",
        "Authorization: Bearer open\r\n",
        "Authorization: Basic open-sesame\r\n",
        "Authorization: Bearer\r\n",
    ] {
        let answer = gateway.admin_ask("GET", "/info", fields);
        assert_eq!(answer.status(), 401, "{fields:?}: {answer:?}");
        assert!(answer.field("www-authenticate").unwrap().starts_with("Bearer"));
    }
    // RFC 9110 §11.1: the name of the scheme is case-insensitive.
    for scheme in ["Bearer", "bearer"] {
        let fields = format!("Authorization: {scheme} open-sesame\r\n");
        let answer = gateway.admin_ask("GET", "/info", &fields);
        assert_eq!(answer.status(), 200, "{answer:?}");
    }
}

/// DNS rebinding: a web page at a name that leads to loopback must not read what is there.
#[test]
fn without_a_token_a_host_that_anybody_can_name_gets_nothing() {
    let (_upstream, gateway) = answering();
    let ask = |target: &str, host: &str| {
        let mut client = try_connect(gateway.admin_address()).unwrap();
        client.exchange(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).status()
    };

    for host in ["evil.example", "evil.example:9901", "localhost.evil.example", "127.0.0.1.nip.io"]
    {
        assert_eq!(ask("/info", host), 421, "{host}");
        assert_eq!(ask("/livez", host), 200, "{host}");
    }
    assert_eq!(ask("http://evil.example/info", "localhost"), 421);
    for host in ["127.0.0.1", "127.0.0.1:9901", "[::1]:9901", "localhost", "LOCALHOST:9901"] {
        assert_eq!(ask("/info", host), 200, "{host}");
    }
}

/// Peers that ask and ask and never read must not keep health checks out.
#[test]
fn peers_that_do_not_read_keep_nobody_out() {
    let (_upstream, gateway) = answering();
    let requests = "GET /metrics HTTP/1.1\r\nHost: admin\r\n\r\n".repeat(500);
    let _greedy: Vec<_> = (0..300)
        .map(|_| {
            let mut peer = try_connect(gateway.admin_address()).unwrap();
            peer.receive_little();
            peer.send_some(requests.as_bytes());
            peer
        })
        .collect();

    assert_eq!(gateway.admin("/livez").status(), 200);
}

#[test]
fn the_admin_listener_works_on_a_unix_socket_and_can_be_switched_off() {
    let dir = TempDir::new().unwrap();
    let socket = format!("unix:{}", dir.path().join("admin.sock").display());
    let upstream = Upstream::answering("hello");

    let gateway = Gateway::to_with(&upstream, json!({ "admin": { "address": socket } }));
    assert_eq!(gateway.admin("/livez").status(), 200);

    let gateway = Gateway::to_with(&upstream, json!({ "admin": null }));
    assert_eq!(gateway.get("/").text(), "hello");
    assert!(!gateway.stderr().contains("admin on"), "{}", gateway.stderr());
}

/// The admin listener is not in the way of clients, and clients' routes are not in its way.
#[test]
fn admin_pages_are_not_on_the_clients_listeners() {
    let (_upstream, gateway) = answering();

    assert_eq!(gateway.get("/metrics").text(), "hello");
    assert_eq!(gateway.get("/livez").text(), "hello");
}

/// Interface §6. Counts of all workers are added up when they are read.
#[test]
fn requests_are_counted_by_listener_route_method_and_status() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::start(json!({
        "workers": { "count": 4, "pin": false },
        "upstreams": { "test": { "servers": [upstream.address()] } },
        "routes": [
            { "name": "front", "path": "/front", "upstream": "test" },
            { "name": "fixed", "path": "/fixed", "respond": { "status": 204 } },
        ],
    }));
    for _ in 0..20 {
        gateway.get("/front");
    }
    gateway.ask("POST", "/front", "Content-Length: 0\r\n");
    gateway.get("/fixed");
    gateway.get("/secret-path");

    let total = "zproxy_requests_total";
    gateway.counts(total, &[("route", "front"), ("method", "GET"), ("status", "200")], 20.0);
    gateway.counts(total, &[("route", "front"), ("method", "POST"), ("status", "200")], 1.0);
    gateway.counts(total, &[("route", "fixed"), ("method", "GET"), ("status", "204")], 1.0);
    gateway.counts(total, &[("status", "404")], 1.0);
    gateway.counts(total, &[], 23.0);
    gateway.counts("zproxy_request_duration_seconds_count", &[("route", "front")], 21.0);
    gateway.counts(
        "zproxy_request_duration_seconds_bucket",
        &[("route", "front"), ("le", "+Inf")],
        21.0,
    );
    let server = upstream.address();
    gateway.counts(
        "zproxy_upstream_requests_total",
        &[("upstream", "test"), ("server", &server), ("status", "200")],
        21.0,
    );
    gateway.counts("zproxy_connections_accepted_total", &[], 23.0);
    let metrics = gateway.metrics();
    assert!(metrics.sum("zproxy_request_duration_seconds_sum", &[("route", "front")]) > 0.0);
    assert!(
        metrics.has("zproxy_requests_total", &[("listener", gateway.address())]),
        "{}",
        metrics.text
    );
}

#[test]
fn the_metrics_of_the_contract_are_there() {
    let (upstream, gateway) = answering();
    let mut client = gateway.connect();
    client.exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    let server = upstream.address();

    gateway.counts_some("zproxy_requests_total", &[]);
    gateway.counts_some("zproxy_bytes_total", &[]);
    let metrics = gateway.metrics();
    assert!((metrics.sum("zproxy_build_info", &[]) - 1.0).abs() < f64::EPSILON);
    assert!(metrics.sum("zproxy_connections", &[]) >= 1.0, "this client is connected");
    assert!(
        metrics.has("zproxy_upstream_connections", &[("upstream", "test"), ("server", &server)])
    );
    for name in [
        "zproxy_config_generation",
        "zproxy_worker_utilisation",
        "zproxy_connections_accepted_total",
    ] {
        assert!(metrics.has(name, &[]), "{name}: {}", metrics.text);
    }
    // Every family says what it is.
    for name in ["zproxy_requests_total", "zproxy_connections", "zproxy_request_duration_seconds"] {
        assert!(metrics.text.contains(&format!("# TYPE {name}")), "{name}: {}", metrics.text);
    }
    let answer = gateway.admin("/metrics");
    assert!(answer.field("content-type").unwrap().starts_with("text/plain"), "{answer:?}");
    assert!(answer.text().contains("le=\"1\""), "{answer:?}");

    drop(client);
    gateway.counts("zproxy_connections", &[], 0.0);
}

/// What clients sent, whoever answered: heads and bodies, pipelined or not, refused or not.
#[test]
fn bytes_are_counted_as_clients_send_and_get_them() {
    let upstream = Upstream::echoing();
    let gateway = Gateway::start(json!({
        "upstreams": { "test": { "servers": [upstream.address()] } },
        "routes": [
            { "path": "/fixed", "respond": { "status": 200, "body": "fixed" } },
            { "path": "/", "upstream": "test" },
        ],
    }));
    let (mut sent, mut received) = (0, 0);
    let mut ask = |requests: &str| {
        let mut client = gateway.connect();
        let record = std::sync::Arc::default();
        client.record(std::sync::Arc::clone(&record));
        client.send(requests);
        client.finish();
        // All that comes is in the record.
        let _ = client.take_rest();
        sent += requests.len();
        received += record.lock().unwrap().len();
    };

    ask("GET /fixed HTTP/1.1\r\nHost: a\r\n\r\n");
    ask("HEAD /fixed HTTP/1.1\r\nHost: a\r\n\r\n");
    ask("POST /fixed HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    ask("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n");
    ask(&"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody".repeat(3));
    ask("GET / HTTP/1.1\r\n\r\n");

    gateway.counts("zproxy_requests_total", &[], 8.0);
    let whole = |count: usize| f64::from(u32::try_from(count).unwrap());
    let of = |direction| gateway.metrics().sum("zproxy_bytes_total", &[("direction", direction)]);
    assert_eq!((of("in"), of("out")), (whole(sent), whole(received)));
}

/// OpenMetrics 1.0: counters' families have no `_total`, bounds are floats, and the end is marked.
#[test]
fn metrics_come_as_openmetrics_when_asked_for() {
    let (_upstream, gateway) = answering();
    gateway.get("/");
    gateway.counts("zproxy_requests_total", &[], 1.0);

    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
    let answer = gateway.admin_ask("GET", "/metrics", accept);

    let media = answer.field("content-type").unwrap();
    assert!(media.starts_with("application/openmetrics-text; version=1.0.0"), "{media}");
    let text = answer.text();
    assert!(text.contains("# TYPE zproxy_requests counter\n"), "{text}");
    assert!(text.contains("\nzproxy_requests_total{"), "{text}");
    assert!(text.contains("le=\"1.0\"") && !text.contains("le=\"1\""), "{text}");
    assert!(text.contains("le=\"+Inf\"") && text.contains("le=\"0.25\""), "{text}");
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    assert_eq!(text.matches("# EOF").count(), 1);
}

/// Label sets are bounded: what clients make up must not become series.
#[test]
fn what_clients_invent_does_not_become_a_label() {
    let upstream = Upstream::sending("HTTP/1.1 299 Odd\r\nContent-Length: 0\r\n\r\n");
    let gateway = Gateway::to(&upstream);
    for number in 0..30 {
        let mut client = gateway.connect();
        client.exchange(format!(
            "ODD{number} /path{number} HTTP/1.1\r\nHost: host{number}.example\r\n\r\n"
        ));
    }

    gateway.counts("zproxy_requests_total", &[], 30.0);

    let text = gateway.metrics().text;
    for invented in ["ODD7", "path7", "host7"] {
        assert!(!text.contains(invented), "{invented} in {text}");
    }
}

/// Requests that are refused before they have a route count, too.
#[test]
fn refused_requests_are_counted() {
    let (_upstream, gateway) = answering();

    gateway.connect().exchange("GET / HTTP/1.1\r\n\r\n");
    gateway.connect().exchange("GET /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n");

    gateway.counts("zproxy_requests_total", &[], 2.0);
    gateway.counts("zproxy_requests_total", &[("status", "200")], 0.0);
}

/// What an operator would otherwise have to ask for again and again.
#[test]
fn events_are_told_as_they_happen() {
    let upstream = Upstream::answering("ok");
    let gateway = Gateway::start(json!({
        "plugins": { "noop": { "path": guest("noop") } },
        "routes": [{ "path": "/", "upstream": upstream.url(), "middleware": ["noop"] }],
    }));
    let mut stream = std::net::TcpStream::connect(gateway.admin_address()).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut heard = String::new();
    let mut until = |text: &str| {
        while !heard.contains(text) {
            let mut bytes = [0; 4096];
            let read = stream.read(&mut bytes).unwrap();
            assert!(read > 0, "the stream has ended: {heard}");
            heard.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
        heard.clone()
    };

    let first = until("event: now");
    let swapped = gateway.admin_post("/plugins/noop", &std::fs::read(guest("print")).unwrap());
    until("event: swap\ndata: {");
    gateway.admin_post("/plugins/noop", b"not wasm");
    let refused = until("event: refused\ndata: {");
    gateway.admin_post("/reload", b"");
    until("event: reload\ndata: {\"config_generation\":2}");

    assert_eq!(swapped.status(), 200, "{swapped:?}");
    assert!(first.contains("content-type: text/event-stream"), "{first}");
    assert!(refused.contains("not a WebAssembly component"), "{refused}");
    // As many as there may be, and one more.
    let ask = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let more: Vec<_> = (0..31)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(gateway.admin_address()).unwrap();
            stream.write_all(ask).unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            stream
        })
        .collect();
    assert_eq!(gateway.admin("/events").status(), 503);
    drop(more);
    // Those that have gone give their places back.
    eventually("a free place", || {
        let mut stream = std::net::TcpStream::connect(gateway.admin_address()).unwrap();
        stream.write_all(ask).unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        (&head == b"HTTP/1.1 200").then_some(())
    });
}

/// A plugin that fails too much is broken, and whole again when it has stopped failing for a while.
#[test]
fn a_plugin_that_breaks_and_recovers_is_told() {
    let upstream = Upstream::answering("ok");
    let gateway = Gateway::start(json!({
        "workers": { "count": 1, "pin": false },
        "plugins": { "panic": { "path": guest("panic"), "config": {} } },
        "routes": [{ "path": "/", "upstream": upstream.url(), "middleware": ["panic"] }],
    }));
    let mut events = connect(gateway.admin_address());
    events.send("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let state = || {
        let plugins = gateway.admin_json("/plugins");
        plugins["plugins"][0]["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(state(), "ready");

    let heard = Arc::new(Mutex::new(String::new()));
    let listener = Arc::clone(&heard);
    std::thread::spawn(move || {
        while let Ok(some) = events.take_some() {
            if some.is_empty() {
                break;
            }
            listener.lock().unwrap().push_str(&String::from_utf8_lossy(&some));
        }
    });
    let has_heard = |what: &str| heard.lock().unwrap().contains(what);
    let mut client = gateway.connect();
    eventually("a broken plugin", || {
        for _ in 0..100 {
            client.exchange("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        has_heard("event: broken\ndata: {\"generation\"").then_some(())
    });
    assert!(has_heard("asked to panic"), "{}", heard.lock().unwrap());
    assert_eq!(state(), "broken");
    gateway.counts("zproxy_plugin_broken", &[("plugin", "panic")], 1.0);

    eventually("a plugin that answers", || {
        let answer = client.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        (answer.status() == 200 && has_heard("event: recovered\ndata: {")).then_some(())
    });
    assert_eq!(state(), "ready");
    gateway.logs("plugin `panic` is broken");
    gateway.logs("plugin `panic` has recovered");
}
