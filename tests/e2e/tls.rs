//! TLS to clients: what is agreed to, who gets which certificate, what becomes of bytes.
//!
//! Not here: files of certificates (`tls_files`), TLS to servers (`tls_upstream`), other people's clients
//! (`tls_clients`).

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::tls::{Authority, Client, V12, V13, shake};
use crate::harness::{Gateway, Launch, Upstream, Wire, eventually};

/// A gateway with a TLS listener in front of an upstream, and someone to believe.
pub(crate) struct Site {
    pub(crate) gateway: Gateway,
    pub(crate) authority: Authority,
}

impl Site {
    /// With a certificate for `a.test` and 127.0.0.1; `tls` and `more` are added to listener and config.
    fn new(upstream: &Upstream, tls: Value, more: Value) -> Self {
        Self::with(upstream, |_, _| tls, more)
    }

    pub(crate) fn with(
        upstream: &Upstream,
        tls: impl FnOnce(&Authority, &TempDir) -> Value,
        more: Value,
    ) -> Self {
        let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
        let files = authority.issue(dir.path(), "a", &["a.test", "127.0.0.1"]);
        let mut listener = json!({ "certificates": [files.entry()] });
        add(&mut listener, tls(&authority, &dir));
        let mut config = json!({
            "listeners": [{ "address": "127.0.0.1:0", "tls": listener }],
            "upstreams": { "test": { "servers": [{ "address": upstream.address() }] } },
            "routes": [{ "name": "all", "path": "/", "upstream": "test" }],
        });
        add(&mut config, more);
        let gateway = Launch::config(config).within(dir).start();
        Self { gateway, authority }
    }

    pub(crate) fn connect(&self) -> Wire {
        self.connect_as(&self.authority.client().config())
    }

    pub(crate) fn connect_as(&self, config: &Arc<ClientConfig>) -> Wire {
        Wire::tls(shake(self.gateway.address(), config, "a.test").unwrap())
    }

    /// Whether such a client gets as far as an answer.
    pub(crate) fn answers(&self, client: Client) -> bool {
        let config = client.config();
        let Ok(session) = shake(self.gateway.address(), &config, "a.test") else { return false };
        let mut wire = Wire::tls(session);
        // With TLS 1.3 a client is done before the server has looked at its certificate.
        wire.try_send(GET).is_ok() && wire.try_response().is_ok()
    }
}

pub(crate) const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn add(config: &mut Value, more: Value) {
    if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
        config.extend(more);
    }
}

#[test]
fn requests_come_by_tls_and_the_upstream_is_told() {
    let upstream = Upstream::answering("hello");
    let site = Site::new(&upstream, json!({}), json!({}));
    for versions in [V12, V13] {
        let config = site.authority.client().versions(versions).config();
        let mut client = site.connect_as(&config);

        for _ in 0..3 {
            assert_eq!(client.exchange(GET).body, b"hello");
        }

        let request = upstream.last_request();
        assert_eq!(request.field("x-forwarded-proto"), Some("https"));
        let closing = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
        assert_eq!(client.exchange(closing).body, b"hello");
        // Not cut: with a goodbye.
        client.closed();
    }
    let done = |version| [("result", "ok"), ("version", version), ("resumed", "false")];
    site.gateway.counts("zproxy_tls_handshakes_total", &done("1.2"), 1.0);
    site.gateway.counts("zproxy_tls_handshakes_total", &done("1.3"), 1.0);
    assert!(site.gateway.metrics().sum("zproxy_tls_certificate_expiry_seconds", &[]) > 4e9);
}

#[test]
fn a_line_of_the_access_log_has_the_facts() {
    let upstream = Upstream::answering("hello");
    let log = json!({ "access_log": { "path": "stdout" } });
    let site = Site::new(&upstream, json!({}), log);

    site.connect().exchange(GET);

    let line: Value =
        eventually("a line", || serde_json::from_str(site.gateway.stdout().lines().next()?).ok());
    assert_eq!(
        (&line["tls_version"], &line["tls_server_name"]),
        (&json!("TLSv1.3"), &json!("a.test"))
    );
    assert!(line["tls_cipher"].as_str().unwrap().starts_with("TLS13_"), "{line}");
}

/// Longer than any buffer, both ways at once, and whole.
#[test]
fn large_bodies_arrive_whole_in_both_directions() {
    let upstream = Upstream::echoing();
    let site = Site::new(&upstream, json!({}), json!({}));
    let body: Vec<u8> = (0..5_000_000_u32).map(|at| (at % 251) as u8).collect();
    for versions in [V12, V13] {
        let mut client = site.connect_as(&site.authority.client().versions(versions).config());
        let length = body.len();

        client.send(format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n"));
        client.send(&body);

        assert!(client.response().body == body);
        assert_eq!(client.exchange(GET).body, b"");
    }
}

/// One that reads nothing for a while gets everything in the end.
#[test]
fn a_slow_reader_gets_every_byte() {
    let body = "x".repeat(20_000_000);
    let upstream = Upstream::answering(&body);
    let site = Site::new(&upstream, json!({}), json!({}));
    let mut client = site.connect();

    client.send(GET);
    upstream.request();
    std::thread::sleep(Duration::from_millis(300));

    let answer = client.try_response_head("GET").unwrap();
    assert!(client.take_body(answer).is_ok_and(|answer| answer.body == body.as_bytes()));
}

/// A record can come in pieces, and two of them in one.
#[test]
fn records_are_put_together_from_any_pieces() {
    let upstream = Upstream::answering("hello");
    let site = Site::new(&upstream, json!({}), json!({}));
    let config = site.authority.client().config();
    let mut session = shake(site.gateway.address(), &config, "a.test").unwrap();
    for _ in 0..3 {
        session.conn.writer().write_all(GET.as_bytes()).unwrap();
    }
    let mut records = Vec::new();
    while session.conn.wants_write() {
        session.conn.write_tls(&mut records).unwrap();
    }

    for piece in records.chunks(7) {
        session.sock.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }

    let mut client = Wire::tls(session);
    for _ in 0..3 {
        assert_eq!(client.response().body, b"hello");
    }
}

#[test]
fn the_name_that_is_asked_for_decides_on_the_certificate() {
    let upstream = Upstream::answering("hello");
    let issue = |authority: &Authority, dir: &TempDir| {
        let of = |stem: &str, names: &[&str]| authority.issue(dir.path(), stem, names);
        let mut given = of("given", &["x.given.test", "y.given.test"]).entry();
        given["sni"] = json!(["x.given.test"]);
        json!({ "certificates": [
            of("usual", &["usual.test", "127.0.0.1"]).entry(),
            of("exact", &["one.wild.test"]).entry(),
            of("wild", &["*.wild.test"]).entry(),
            given,
        ] })
    };
    let site = Site::with(&upstream, issue, json!({}));
    let certs = site.gateway.admin_json("/certs");
    let config = site.authority.client().config();
    let shown = |name: &str| {
        let session = shake(site.gateway.address(), &config, name).unwrap();
        let own = &session.conn.peer_certificates().unwrap()[0];
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, own);
        let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let list = certs["listeners"][0]["certificates"].as_array().unwrap();
        list.iter().position(|one| one["sha256"] == digest.as_str()).unwrap()
    };

    assert_eq!(shown("usual.test"), 0);
    assert_eq!(shown("127.0.0.1"), 0, "no name is asked for");
    assert_eq!(shown("one.wild.test"), 1);
    assert_eq!(shown("ONE.wild.test"), 1);
    assert_eq!(shown("two.wild.test"), 2);
    assert_eq!(shown("x.given.test"), 3);
    // In the certificate, but it is not to be shown for it.
    assert!(shake(site.gateway.address(), &config, "y.given.test").is_err());
    assert!(shake(site.gateway.address(), &config, "a.b.wild.test").is_err());
}

#[test]
fn every_listener_has_certificates_of_its_own() {
    let upstream = Upstream::answering("hello");
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let one = authority.issue(dir.path(), "one", &["one.test"]).entry();
    let two = authority.issue(dir.path(), "two", &["two.test"]).entry();
    let gateway = Launch::config(json!({
        "listeners": [
            { "address": "127.0.0.1:0", "tls": { "certificates": [one] } },
            { "address": "127.0.0.1:0", "tls": { "certificates": [two] } },
            { "address": "127.0.0.1:0" },
        ],
        "routes": [{ "path": "/", "upstream": upstream.url() }],
    }));
    let gateway = gateway.within(dir).start();
    let config = authority.client().config();
    let addresses: Vec<String> = gateway.admin_json("/info")["listeners"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one.as_str().unwrap().to_owned())
        .collect();

    assert!(shake(&addresses[0], &config, "one.test").is_ok());
    assert!(shake(&addresses[0], &config, "two.test").is_err());
    assert!(shake(&addresses[1], &config, "two.test").is_ok());
    assert_eq!(gateway.connect_to(2).exchange(GET).status(), 200);
}

#[test]
fn the_short_form_is_a_listener_with_one_certificate() {
    let upstream = Upstream::answering("hello");
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let files = authority.issue(dir.path(), "a", &["a.test"]);
    let gateway = Launch::config(json!({
        "listen_address": "127.0.0.1", "listen_port": 0,
        "tls": { "enabled": true, "cert_path": files.cert, "key_path": files.key },
        "routes": [{ "path": "/", "upstream": upstream.url() }],
    }));
    let gateway = gateway.within(dir).start();
    let session = shake(gateway.address(), &authority.client().config(), "a.test").unwrap();

    assert_eq!(Wire::tls(session).exchange(GET).body, b"hello");
}

#[test]
fn old_versions_and_other_protocols_are_refused() {
    let upstream = Upstream::answering("hello");
    let site = Site::new(&upstream, json!({ "min_version": "1.3" }), json!({}));
    let client = || site.authority.client();

    assert!(!site.answers(client().versions(V12)));
    assert!(site.answers(client().versions(V13)));
    assert!(site.answers(client().alpn(&["h3", "http/1.1"])));
    assert!(!site.answers(client().alpn(&["imap"])));

    let failed = [("result", "failed"), ("version", "")];
    site.gateway.counts("zproxy_tls_handshakes_total", &failed, 2.0);
    let config = client().alpn(&["http/1.1"]).config();
    let session = shake(site.gateway.address(), &config, "a.test").unwrap();
    assert_eq!(session.conn.alpn_protocol(), Some(b"http/1.1".as_slice()));
    assert_eq!(session.conn.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let group = session.conn.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), rustls::NamedGroup::X25519MLKEM768);
}

/// A person with the wrong scheme in the address bar.
#[test]
fn plain_http_on_a_tls_port_is_told_so() {
    let upstream = Upstream::answering("hello");
    let site = Site::new(&upstream, json!({}), json!({}));
    let mut client = site.gateway.connect();

    let answer = client.exchange(GET);

    assert_eq!(answer.status(), 400);
    assert!(answer.text().contains("https://"), "{answer:?}");
    client.closed();
    site.gateway.counts("zproxy_tls_handshakes_total", &[("result", "http")], 1.0);
    let mut garbage = site.gateway.connect();
    garbage.send([0; 100]);
    assert!(garbage.take_rest().is_ok());
    assert!(upstream.requests().is_empty());
}

/// Tickets are opened by whichever worker gets them.
#[test]
fn sessions_are_resumed_by_every_worker() {
    let upstream = Upstream::answering("hello");
    let workers = json!({ "workers": { "count": 2, "pin": false, "acceptors": "dedicated" } });
    let site = Site::new(&upstream, json!({}), workers);
    for versions in [V12, V13] {
        let config = site.authority.client().versions(versions).config();
        site.connect_as(&config).exchange(GET);

        // All open at a time, so that each worker gets half of them.
        let sessions: Vec<_> = (0..8)
            .map(|_| {
                let session = shake(site.gateway.address(), &config, "a.test").unwrap();
                let kind = session.conn.handshake_kind().unwrap();
                let mut wire = Wire::tls(session);
                assert_eq!(wire.exchange(GET).body, b"hello");
                (wire, kind)
            })
            .collect();

        let kinds: Vec<_> = sessions.iter().map(|(_, kind)| *kind).collect();
        assert_eq!(kinds, [HandshakeKind::Resumed; 8], "{versions:?}");
        let workers = site.gateway.admin_json("/workers");
        let held = |worker: usize| workers["workers"][worker]["connections"].as_u64().unwrap();
        assert!(held(0) >= 3 && held(1) >= 3, "{workers}");
    }
    let resumed = [("result", "ok"), ("resumed", "true")];
    site.gateway.counts("zproxy_tls_handshakes_total", &resumed, 16.0);
}

#[test]
fn a_request_for_another_certificate_is_misdirected() {
    let upstream = Upstream::answering("hello");
    let issue = |authority: &Authority, dir: &TempDir| {
        let of = |stem: &str, names: &[&str]| authority.issue(dir.path(), stem, names).entry();
        json!({ "certificates": [of("a", &["a.test", "also.test"]), of("b", &["*.b.test"])] })
    };
    let site = Site::with(&upstream, issue, json!({}));
    let mut client = site.connect();
    let mut status =
        |host: &str| client.exchange(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).status();

    assert_eq!(status("a.test"), 200);
    assert_eq!(status("A.test:443"), 200);
    assert_eq!(status("also.test"), 200);
    assert_eq!(status("of-no-certificate.test"), 200);
    assert_eq!(status("x.b.test"), 421);
    assert_eq!(status("a.test"), 200);
}

#[test]
fn a_handshake_that_does_not_end_is_ended() {
    let upstream = Upstream::answering("hello");
    let limits = json!({ "limits": { "handshake_timeout_ms": 300 } });
    let site = Site::new(&upstream, json!({}), limits);
    let mut silent = site.gateway.connect();
    // The beginning of a record that says that 512 bytes follow.
    silent.send([0x16, 3, 1, 2, 0, 1]);

    silent.closed();

    site.gateway.counts("zproxy_tls_handshakes_total", &[("result", "timeout")], 1.0);
    assert_eq!(site.connect().exchange(GET).body, b"hello");
}

/// A client that has its answer, or its refusal, and never closes does not keep the connection.
#[test]
fn a_client_that_never_closes_is_closed() {
    let upstream = Upstream::answering("hello");
    let site = Site::new(&upstream, json!({}), json!({}));
    let closing = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    let mut clients = Vec::new();
    for (versions, request, status) in [
        (V12, closing, 200),
        (V13, closing, 200),
        (V12, "GET / HTTP/1.1\r\nHost: a b\r\n\r\nand more", 400),
        (V13, "GET / HTTP/1.1\r\nHost: a b\r\n\r\nand more", 400),
    ] {
        let mut client = site.connect_as(&site.authority.client().versions(versions).config());
        client.send(request);
        assert_eq!(client.response().status(), status);
        // Neither a goodbye nor an end.
        clients.push(client);
    }

    eventually("the end of all connections", || {
        let open = site.gateway.metrics().sum("zproxy_connections", &[]);
        (open == 0.0).then_some(())
    });

    clients.iter_mut().for_each(Wire::closed);
}

#[test]
fn only_so_many_handshakes_go_on_at_a_time() {
    let upstream = Upstream::answering("hello");
    let limits = json!({ "limits": { "handshakes_max": 3 } });
    let site = Site::new(&upstream, json!({}), limits);
    let begun: Vec<TcpStream> = (0..3)
        .map(|_| {
            let mut socket = TcpStream::connect(site.gateway.address()).unwrap();
            socket.write_all(&[0x16, 3, 1, 2, 0, 1]).unwrap();
            socket
        })
        .collect();
    let active = [("state", "active")];
    site.gateway.counts("zproxy_connections", &active, 3.0);

    assert!(shake(site.gateway.address(), &site.authority.client().config(), "a.test").is_err());

    site.gateway.counts("zproxy_tls_handshakes_total", &[("result", "refused")], 1.0);
    drop(begun);
    site.gateway.counts("zproxy_connections", &active, 0.0);
    assert_eq!(site.connect().exchange(GET).body, b"hello");
}

/// A body whose end is the connection's is whole only after a goodbye: without, somebody may have cut it.
#[test]
fn a_response_that_is_cut_off_does_not_look_whole() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        connection.try_send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")?;
        connection.reset_at_end();
        Ok(())
    });
    let site = Site::new(&upstream, json!({}), json!({}));
    let mut client = site.connect();

    // HTTP/1.0 knows no chunks, but a length is passed on.
    client.send("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n");

    let answer = client.try_response();
    assert!(answer.is_err(), "{answer:?}");
}

#[test]
fn an_upgraded_connection_goes_both_ways_and_ends_by_halves() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        connection.try_send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: test\r\n\r\nfirst",
        )?;
        while let Ok(bytes) = connection.take_some() {
            if bytes.is_empty() {
                break;
            }
            connection.try_send(&bytes)?;
        }
        connection.try_send("last")
    });
    let site = Site::new(&upstream, json!({}), json!({}));
    let mut client = site.connect();

    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: test\r\n\r\n");
    assert_eq!(client.try_response_head("GET").unwrap().status(), 101);
    assert_eq!(client.take(5).unwrap(), b"first");
    let bulk = vec![7; 3_000_000];
    client.send(&bulk);
    assert!(client.take(bulk.len()).unwrap() == bulk);
    client.finish();

    assert_eq!(client.take(4).unwrap(), b"last");
    client.closed();
}

/// Whoever is in the middle of a request ends it, and is told that there will be no other.
#[test]
fn a_drain_lets_a_request_end_and_says_goodbye() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        std::thread::sleep(Duration::from_millis(300));
        connection.answer("late")
    });
    let mut site = Site::new(&upstream, json!({}), json!({}));
    let (mut busy, mut idle) = (site.connect(), site.connect());
    busy.send(GET);
    upstream_has_it(&site);

    site.gateway.signal(rustix::process::Signal::TERM);

    let answer = busy.response();
    assert_eq!((answer.text(), answer.field("connection")), ("late", Some("close")));
    busy.closed();
    idle.closed();
    assert_eq!(site.gateway.exit_code(), 0);
}

fn upstream_has_it(site: &Site) {
    let active = [("state", "active")];
    eventually("a request upstream", || {
        let metrics = site.gateway.metrics();
        (metrics.sum("zproxy_upstream_connections", &active) > 0.0).then_some(())
    });
}

#[test]
fn bytes_that_are_no_records_end_the_connection() {
    let upstream = Upstream::answering("hello");
    let site = Site::new(&upstream, json!({}), json!({}));
    let config = site.authority.client().config();
    let mut session = shake(site.gateway.address(), &config, "a.test").unwrap();

    session.sock.write_all(b"\x17\x03\x03\x00\x20aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa").unwrap();

    let mut rest = Vec::new();
    assert!(session.read_to_end(&mut rest).is_err(), "an alert says so");
    assert_eq!(site.connect().exchange(GET).body, b"hello");
}
