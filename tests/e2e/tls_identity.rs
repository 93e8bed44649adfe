//! Certificates that clients show: who is let in, and who hears of them.

use rustls::HandshakeKind;
use serde_json::json;
use tempfile::TempDir;

use crate::harness::tls::{Authority, V12, V13, shake};
use crate::harness::{Launch, Upstream, Wire, WireError, guest};
use crate::tls::{GET, Site};

#[test]
fn clients_show_certificates_where_they_are_asked_for() {
    let upstream = Upstream::answering("hello");
    for (mode, without) in [("optional", true), ("required", false)] {
        let clients = Authority::new("clients");
        let asked = |_: &Authority, dir: &TempDir| {
            let ca = clients.write(dir.path().join("clients.pem"));
            json!({ "client_ca_path": ca, "client_auth": mode })
        };
        let site = Site::with(&upstream, asked, json!({}));
        let dir = TempDir::new().unwrap();
        let known = clients.issue(dir.path(), "known", &["client.test"]);
        let stranger = Authority::new("others").issue(dir.path(), "stranger", &["client.test"]);
        let client = || site.authority.client();

        assert_eq!(site.answers(client()), without, "{mode}");
        assert!(site.answers(client().identity(&known)), "{mode}");
        assert!(!site.answers(client().identity(&stranger)), "{mode}");
    }
}

/// With TLS 1.3 a client learns it after its request has gone out, and learns why.
#[test]
fn a_client_that_is_not_let_in_is_told_why() {
    let upstream = Upstream::answering("hello");
    let clients = Authority::new("clients");
    let asked = |_: &Authority, dir: &TempDir| {
        let ca = clients.write(dir.path().join("clients.pem"));
        json!({ "client_ca_path": ca, "client_auth": "required" })
    };
    let site = Site::with(&upstream, asked, json!({}));
    let config = site.authority.client().versions(V13).config();
    for _ in 0..10 {
        let mut client = site.connect_as(&config);
        // It may have been refused by now.
        let _ = client.try_send(GET);

        match client.try_response() {
            Err(WireError::Refused(why)) => assert!(why.contains("CertificateRequired"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}

/// RFC 9440: upstreams believe these fields, so nobody else may send them.
#[test]
fn a_verified_certificate_is_passed_on_and_a_claimed_one_is_not() {
    let upstream = Upstream::answering("hello");
    let clients = Authority::new("clients");
    let asked = |_: &Authority, dir: &TempDir| {
        let ca = clients.write(dir.path().join("clients.pem"));
        json!({ "client_ca_path": ca, "client_auth": "optional" })
    };
    let trusted = json!({ "trusted_proxies": ["127.0.0.1"] });
    let site = Site::with(&upstream, asked, trusted);
    let dir = TempDir::new().unwrap();
    let known = clients.issue(dir.path(), "known", &["client.test"]);
    let claiming = "GET / HTTP/1.1\r\nHost: a.test\r\nClient-Cert: :YQ==:\r\nclient_cert: :Yg==:\r\n\
                    Client-Cert-Chain: :Yw==:\r\nClient-Certain: yes\r\n\r\n";

    site.connect_as(&site.authority.client().identity(&known).config()).exchange(claiming);
    let request = upstream.last_request();
    let pem = std::fs::read_to_string(&known.cert).unwrap();
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    assert_eq!(request.all("client-cert"), [format!(":{base64}:")]);
    assert_eq!(request.all("client_cert"), [""; 0]);
    assert_eq!(request.all("client-cert-chain"), [""; 0]);
    assert_eq!(request.field("client-certain"), Some("yes"));

    site.connect().exchange(claiming);
    let request = upstream.last_request();
    assert_eq!(request.all("client-cert"), [""; 0]);
    assert_eq!(request.all("client_cert"), [""; 0]);
}

/// The certificate was looked at when the session began; resuming must not be a way around it.
#[test]
fn a_resumed_session_keeps_its_certificate_and_none_goes_to_a_stricter_listener() {
    let upstream = Upstream::answering("hello");
    let clients = Authority::new("clients");
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let own = authority.issue(dir.path(), "a", &["a.test"]).entry();
    let ca = clients.write(dir.path().join("clients.pem"));
    let known = clients.issue(dir.path(), "known", &["client.test"]);
    let gateway = Launch::config(json!({
        "listeners": [
            { "address": "127.0.0.1:0", "tls": { "certificates": [own] } },
            { "address": "127.0.0.1:0", "tls": {
                "certificates": [own], "client_ca_path": ca, "client_auth": "required",
            } },
        ],
        "routes": [{ "path": "/", "upstream": upstream.url() }],
    }));
    let gateway = gateway.within(dir).start();
    let strict = gateway.admin_json("/info")["listeners"][1].as_str().unwrap().to_owned();
    for versions in [V12, V13] {
        let open = authority.client().versions(versions).config();
        let session = shake(gateway.address(), &open, "a.test").unwrap();
        Wire::tls(session).exchange(GET);

        let through = shake(&strict, &open, "a.test").is_ok_and(|session| {
            let mut wire = Wire::tls(session);
            wire.try_send(GET).is_ok() && wire.try_response().is_ok()
        });
        assert!(!through, "without a certificate, by a ticket of the other listener");

        let config = authority.client().versions(versions).identity(&known).config();
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let session = shake(&strict, &config, "a.test").unwrap();
            assert_eq!(session.conn.handshake_kind(), Some(kind));
            assert_eq!(Wire::tls(session).exchange(GET).status(), 200);
            assert!(upstream.last_request().field("client-cert").is_some(), "{kind:?}");
        }
    }
}

#[test]
fn plugins_see_what_the_handshake_came_to() {
    let upstream = Upstream::answering("never");
    let clients = Authority::new("clients");
    let asked = |_: &Authority, dir: &TempDir| {
        let ca = clients.write(dir.path().join("clients.pem"));
        json!({ "client_ca_path": ca, "client_auth": "optional" })
    };
    let plugin = json!({
        "plugins": { "echo": { "path": guest("echo_headers") } },
        "routes": [{ "path": "/", "upstream": "test", "middleware": ["echo"] }],
    });
    let site = Site::with(&upstream, asked, plugin);
    let dir = TempDir::new().unwrap();
    let known = clients.issue(dir.path(), "known", &["client.test"]);
    let config = site.authority.client().identity(&known).config();

    let seen = site.connect_as(&config).exchange(GET);
    for line in [":scheme https", ":tls-version TLSv1.3", ":tls-server-name a.test"] {
        assert!(seen.text().lines().any(|seen| seen == line), "{line}: {seen:?}");
    }
    assert!(seen.text().contains(":tls-cipher TLS13_"), "{seen:?}");
    let pem = std::fs::read_to_string(&known.cert).unwrap().replace("\r\n", "\n");
    assert!(seen.text().contains(pem.trim()), "{seen:?}");

    let seen = site.connect().exchange(GET);
    assert!(!seen.text().contains(":tls-client-certificate"), "{seen:?}");
}
