//! HTTP/2 over TLS: agreed on by ALPN, with clients and with servers.
//!
//! Not here: TLS itself (`tls`, `tls_upstream`), HTTP/2 itself (`http2`, `http2_upstream`).

use std::net::TcpListener;
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::http2::{await_frame, frame, next_frame};
use crate::harness::tls::{Authority, Files};
use crate::harness::{Gateway, Launch, Upstream, Wire, websocket};

struct Site {
    files: Files,
    dir: TempDir,
}

impl Site {
    fn new() -> Self {
        let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
        let files = authority.issue(dir.path(), "s", &["localhost", "127.0.0.1"]);
        authority.write(dir.path().join("ca.pem"));
        Self { files, dir }
    }

    /// A gateway that speaks TLS, before an upstream in clear text.
    fn outer(&self, upstream: &Upstream, listener: Value) -> Gateway {
        let mut entry = json!({
            "address": "127.0.0.1:0", "tls": { "certificates": [self.files.entry()] },
        });
        for (key, value) in listener.as_object().unwrap() {
            entry[key] = value.clone();
        }
        Launch::config(json!({
            "listeners": [entry],
            "workers": { "count": 1, "pin": false },
            "upstreams": { "test": { "servers": [upstream.address()] } },
            "routes": [{ "path": "/", "upstream": "test" }],
        }))
        .start()
    }

    /// A gateway in clear text whose upstream is that one.
    fn inner(&self, outer: &Gateway, protocol: &str) -> Gateway {
        Gateway::start(json!({
            "workers": { "count": 1, "pin": false },
            "upstreams": { "test": {
                "servers": [outer.address()],
                "protocol": protocol,
                "tls": { "ca_path": self.dir.path().join("ca.pem") },
            } },
            "routes": [{ "path": "/", "upstream": "test" }],
        }))
    }
}

/// What gateways have added on the way.
fn via(upstream: &Upstream) -> Vec<String> {
    upstream.last_request().all("via").iter().map(ToString::to_string).collect()
}

#[test]
fn both_sides_agree_on_http_2_where_both_speak_it() {
    let site = Site::new();
    let upstream = Upstream::echoing();
    for (spoken, asked, expected) in [
        (json!(["h1", "h2"]), "auto", "2.0 zproxy"),
        (json!(["h1"]), "auto", "1.1 zproxy"),
        (json!(["h1", "h2"]), "h1", "1.1 zproxy"),
        (json!(["h2"]), "h2", "2.0 zproxy"),
    ] {
        let outer = site.outer(&upstream, json!({ "protocols": spoken }));
        let inner = site.inner(&outer, asked);
        let mut client = inner.connect();
        for body in ["", "a body", &"long ".repeat(100_000)] {
            let length = body.len();
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
            let answer = client.exchange(format!("{head}{body}"));
            assert_eq!((answer.status(), answer.text()), (200, body), "{asked} {spoken}");
        }
        assert_eq!(via(&upstream), ["1.1 zproxy", expected], "{asked} {spoken}");
    }
}

#[test]
fn a_server_that_agrees_to_nothing_of_this_is_a_bad_one() {
    let site = Site::new();
    let upstream = Upstream::answering("hello");
    let outer = site.outer(&upstream, json!({ "protocols": ["h1"] }));

    let answer = site.inner(&outer, "h2").get("/");

    assert_eq!(answer.status(), 502, "{answer:?}");
    assert_eq!(upstream.requests().len(), 0);
}

/// The upstream is told the scheme, and plugins and logs what they are told of any TLS connection.
#[test]
fn a_stream_knows_the_tls_of_its_connection() {
    let site = Site::new();
    let upstream = Upstream::answering("hello");
    let outer = site.outer(&upstream, json!({}));

    assert_eq!(site.inner(&outer, "auto").get("/").text(), "hello");

    let request = upstream.request();
    // The nearer gateway is not trusted by the farther one, so it is told what that one saw.
    assert_eq!(request.field("x-forwarded-proto"), Some("https"));
}

/// RFC 9113 §8.6 has no upgrades: who asks for one gets a connection that the server was not offered HTTP/2 on.
/// Requests stay on theirs.
#[test]
fn a_websocket_goes_to_a_server_that_prefers_http_2() {
    let (site, server) = (Site::new(), websocket::Server::start());
    let outer = Launch::config(json!({
        "listeners": [{ "address": "127.0.0.1:0", "tls": { "certificates": [site.files.entry()] } }],
        "routes": [
            { "path": "/", "upstream": format!("http://{}", server.address) },
            { "path": "/plain", "upstream": "echo" },
        ],
    }))
    .start();
    for rules in [json!({}), json!({ "inspect": true })] {
        let inner = Gateway::start(json!({
            "workers": { "count": 1, "pin": false },
            "upstreams": { "test": {
                "servers": [outer.address()],
                "tls": { "ca_path": site.dir.path().join("ca.pem") },
            } },
            "routes": [{ "path": "/", "upstream": "test", "websocket": rules }],
        }));
        let speaks_h2 = || inner.get("/plain").text().contains("2.0 zproxy");
        assert!(speaks_h2());

        let mut socket = websocket::open(&inner);
        websocket::say(&mut socket, "hello");

        assert_eq!(socket.read().unwrap().to_text().unwrap(), "hello");
        // A second one, since what the first has found out is about itself.
        websocket::say(&mut websocket::open(&inner), "leave");
        assert!(speaks_h2());
        socket.close(None).unwrap();
    }
}

/// It may have been restarted as another program; what it chose once is no reason never to ask it again.
#[test]
fn a_server_may_choose_another_protocol_later() {
    let site = Site::new();
    let (h1, mut h2) = (site.files.server(), Arc::unwrap_or_clone(site.files.server()));
    h2.alpn_protocols = vec![b"h2".to_vec()];
    let h2 = Arc::new(h2);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let accept = move |config: &Arc<ServerConfig>| {
        let session = ServerConnection::new(Arc::clone(config)).unwrap();
        Wire::tls(StreamOwned::new(session, listener.accept().unwrap().0))
    };
    let server = std::thread::spawn(move || {
        let mut first = accept(&h1);
        first.try_request().unwrap();
        first.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nfirst");
        first.finish();
        let mut second = accept(&h2);
        second.take(24).unwrap();
        second.send(frame(4, 0, 0, &[]));
        await_frame(&mut second, |frame| frame.kind == 1);
        second.send([frame(1, 4, 1, &[0x88]), frame(0, 1, 1, b"second")].concat());
        while next_frame(&mut second).is_some() {}
    });
    let gateway = Gateway::start(json!({
        "workers": { "count": 1, "pin": false },
        "upstreams": { "test": {
            "servers": [address.to_string()],
            "tls": { "ca_path": site.dir.path().join("ca.pem") },
        } },
        "routes": [{ "path": "/", "upstream": "test" }],
    }));

    let answers = [gateway.get("/"), gateway.get("/")];

    assert_eq!(answers.each_ref().map(|answer| answer.text()), ["first", "second"]);
    drop(gateway);
    server.join().unwrap();
}
