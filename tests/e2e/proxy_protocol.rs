//! The PROXY protocol: whose word about a client is believed, in which form.
//!
//! Not here: every form of a header (unit tests of `connection::proxy_protocol`).

use std::net::TcpStream;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::tls::{Authority, shake_over};
use crate::harness::{Gateway, Launch, Message, Upstream, Wire};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
const V1: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";

/// Version 2: PROXY, TCP over IPv4, with a field behind the addresses.
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x11\xc0\0\x02\x08\xc6\x33\x64\x01\xdc\x04\x01\xbb\x04\0\x02hi";
/// Version 2: LOCAL.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn gateway(upstream: &Upstream, more: Value) -> Gateway {
    let mut config = json!({
        "listeners": [{ "address": "127.0.0.1:0", "proxy_protocol": true }],
        "trusted_proxies": ["127.0.0.1"],
        "routes": [{ "name": "all", "path": "/", "upstream": upstream.url() }],
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Gateway::start(config)
}

fn client_of(request: &Message) -> Option<&str> {
    request.field("x-forwarded-for")
}

#[test]
fn a_trusted_peer_says_who_the_client_is() {
    let upstream = Upstream::answering("hello");
    let gateway = gateway(&upstream, json!({}));
    for (header, client) in [
        (V1.as_bytes(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n", "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (V2, "192.0.2.8"),
        (LOCAL, "127.0.0.1"),
    ] {
        let mut wire = gateway.connect();
        assert_eq!(wire.exchange([header, GET.as_bytes()].concat()).body, b"hello");
        assert_eq!(client_of(&upstream.last_request()), Some(client));
        // Once for a connection.
        assert_eq!(wire.exchange(GET).body, b"hello");
        assert_eq!(client_of(&upstream.last_request()), Some(client));

        let mut slow = gateway.connect();
        for byte in header {
            slow.send([*byte]);
        }
        assert_eq!(slow.exchange(GET).body, b"hello");
        assert_eq!(client_of(&upstream.last_request()), Some(client));
    }
}

/// What stands in the header is the peer: whether its own fields are believed is decided by that.
#[test]
fn the_named_client_is_trusted_no_more_than_by_its_own_address() {
    let upstream = Upstream::answering("hello");
    let gateway = gateway(&upstream, json!({}));
    let forged = "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 10.9.9.9\r\n\r\n";

    gateway.connect().exchange(format!("{V1}{forged}"));
    assert_eq!(client_of(&upstream.last_request()), Some("192.0.2.7"));
    gateway.connect().exchange([LOCAL, forged.as_bytes()].concat());
    assert_eq!(client_of(&upstream.last_request()), Some("10.9.9.9, 127.0.0.1"));
}

#[test]
fn others_speak_for_themselves() {
    let upstream = Upstream::answering("hello");
    let gateway = gateway(&upstream, json!({ "trusted_proxies": ["192.0.2.0/24"] }));

    assert_eq!(gateway.connect().exchange(GET).body, b"hello");
    assert_eq!(client_of(&upstream.last_request()), Some("127.0.0.1"));
    let mut liar = gateway.connect();
    assert_eq!(liar.exchange(format!("{V1}{GET}")).status(), 400);
    liar.closed();
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_trusted_peer_that_sends_none_is_not_served() {
    let upstream = Upstream::answering("hello");
    let limits = json!({ "limits": { "handshake_timeout_ms": 300 } });
    let gateway = gateway(&upstream, limits);
    for bytes in [GET, "PROXY TCP4 nonsense\r\n", "\r\n\r\nGET / HTTP/1.1\r\n\r\n"] {
        let mut wire = gateway.connect();
        wire.send(bytes);
        wire.closed();
    }
    let mut silent = gateway.connect();
    silent.send("PROXY TCP4 192.0.2.7");
    silent.closed();

    assert!(upstream.requests().is_empty());
    gateway.counts("zproxy_connections", &[("state", "active")], 0.0);
}

/// The header comes first, in the clear, and may come in one piece with the handshake.
#[test]
fn it_stands_in_front_of_tls() {
    let upstream = Upstream::answering("hello");
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let files = authority.issue(dir.path(), "a", &["a.test"]);
    let gateway = Launch::config(json!({
        "listeners": [{
            "address": "127.0.0.1:0", "proxy_protocol": true,
            "tls": { "certificates": [files.entry()] },
        }],
        "trusted_proxies": ["127.0.0.1"],
        "routes": [{ "path": "/", "upstream": upstream.url() }],
    }));
    let gateway = gateway.within(dir).start();
    for header in [V1.as_bytes(), V2] {
        let mut socket = TcpStream::connect(gateway.address()).unwrap();
        std::io::Write::write_all(&mut socket, header).unwrap();
        let session = shake_over(socket, &authority.client().config(), "a.test").unwrap();
        let mut wire = Wire::tls(session);

        assert_eq!(wire.exchange(GET).body, b"hello");

        let request = upstream.last_request();
        assert!(client_of(&request).unwrap().starts_with("192.0.2."), "{request:?}");
        assert_eq!(request.field("x-forwarded-proto"), Some("https"));
    }
}

/// Who may connect there is decided by the rights of the file.
#[test]
fn peers_of_a_unix_socket_send_one() {
    let upstream = Upstream::answering("hello");
    let dir = TempDir::new().unwrap();
    let address = format!("unix:{}", dir.path().join("s").display());
    let gateway = Launch::config(json!({
        "listeners": [{ "address": address, "proxy_protocol": true }],
        "routes": [{ "path": "/", "upstream": upstream.url() }],
    }));
    let gateway = gateway.within(dir).start();

    assert_eq!(gateway.connect().exchange(format!("{V1}{GET}")).body, b"hello");
    assert_eq!(client_of(&upstream.last_request()), Some("192.0.2.7"));
    let mut wire = gateway.connect();
    wire.send(GET);
    wire.closed();
}
