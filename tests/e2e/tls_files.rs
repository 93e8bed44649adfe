//! Files of certificates and keys: what is wrong with them is said by name, and new ones are taken.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::tls::{Authority, Files, Wanted, shake};
use crate::harness::{Gateway, Launch, Upstream, Wire, eventually, run};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn config(certificates: &Value) -> Value {
    json!({
        "listeners": [{ "address": "127.0.0.1:0", "tls": { "certificates": certificates } }],
        "routes": [{ "path": "/", "respond": { "status": 200, "body": "hello" } }],
        "admin": { "address": "127.0.0.1:0" },
    })
}

/// What `zproxy check` says of this configuration, and its exit code.
fn check(dir: &Path, config: &Value) -> (Option<i32>, String) {
    std::fs::write(dir.join("zproxy.json"), format!("{config:#}")).unwrap();
    let run = run(dir, &["check", "--config", "zproxy.json"]);
    (run.code, format!("{}{}", run.stdout, run.stderr))
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_cannot_be_used_is_refused_by_name_and_place() {
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let issue = |stem: &str| authority.issue(dir.path(), stem, &["a.test"]);
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    };
    let (one, two, open) = (issue("one"), issue("two"), issue("open"));
    mode(&open.key, 0o666);
    write("text.pem", b"hello");
    write("der.pem", &[0x30, 0x82, 1, 1]);
    write("broken.pem", b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n");
    write("nonsense.pem", b"-----BEGIN CERTIFICATE-----\nYWFh\n-----END CERTIFICATE-----\n");
    write(
        "locked.pem",
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nYWFh\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let pair = |cert: &str, key: &str| json!({ "cert_path": cert, "key_path": key });
    for (entry, place, message) in [
        (pair("none.pem", "one-key.pem"), "cert_path", "cannot read none.pem: it does not exist"),
        (pair("one.pem", "none.pem"), "key_path", "cannot read none.pem: it does not exist"),
        (pair(".", "one-key.pem"), "cert_path", "not a regular file"),
        (pair("text.pem", "one-key.pem"), "cert_path", "holds no certificate: it is not PEM"),
        (pair("der.pem", "one-key.pem"), "cert_path", "holds no certificate: it is DER, not PEM"),
        (pair("broken.pem", "one-key.pem"), "cert_path", "broken.pem is not good PEM"),
        (pair("nonsense.pem", "one-key.pem"), "cert_path", "a certificate that is broken"),
        (pair("one-key.pem", "one-key.pem"), "cert_path", "holds no certificate"),
        (pair("one.pem", "one.pem"), "key_path", "holds no private key"),
        (pair("one.pem", "locked.pem"), "key_path", "is encrypted"),
        (
            pair("one.pem", "two-key.pem"),
            "key_path",
            "is not the key of the certificate in one.pem",
        ),
        (pair("open.pem", "open-key.pem"), "key_path", "can be changed by everybody"),
    ] {
        let (code, said) = check(dir.path(), &config(&json!([entry])));

        assert_eq!(code, Some(3), "{entry}: {said}");
        let at = format!("listeners[0].tls.certificates[0].{place}: ");
        assert!(said.contains(&at) && said.contains(message), "{entry}: {said}");
        // With its place in the file.
        assert!(said.contains("zproxy.json:"), "{said}");
    }
    let good = json!([pair("one.pem", "one-key.pem")]);
    assert_eq!(check(dir.path(), &config(&good)).0, Some(0));
    let mut bad_roots = config(&good);
    bad_roots["listeners"][0]["tls"]["client_auth"] = json!("required");
    bad_roots["listeners"][0]["tls"]["client_ca_path"] = json!("text.pem");
    let (code, said) = check(dir.path(), &bad_roots);
    assert!(code == Some(3) && said.contains("listeners[0].tls.client_ca_path: "), "{said}");
    drop((one, two));
}

/// Nobody is served better by a gateway that does not start.
#[test]
fn what_should_not_be_used_is_warned_about_and_used() {
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let wanted = |years| Wanted { names: &["a.test"], years };
    let expired = authority.issue_as(dir.path(), "expired", &wanted((2001, 2002)));
    let early = authority.issue_as(dir.path(), "early", &wanted((2100, 2101)));
    let read = authority.issue(dir.path(), "read", &["r.test"]);
    mode(&read.key, 0o644);
    let mut other = authority.issue(dir.path(), "other", &["other.test"]).entry();
    other["sni"] = json!(["else.test"]);
    let list = json!([expired.entry(), early.entry(), read.entry(), other]);

    let (code, said) = check(dir.path(), &config(&list));
    assert!(code == Some(0) && said.contains("it has expired"), "{said}");

    let gateway = Launch::config(config(&list)).within(dir).start();

    for said in [
        "expired.pem: it has expired 2002-01-01T00:00:00Z",
        "early.pem: it is not valid before 2100-01-01T00:00:00Z",
        "read-key.pem can be read by everybody on this machine (mode 0644); run `chmod 600`",
        "other.pem: it is shown for else.test, which it is not for",
    ] {
        assert!(gateway.stderr().contains(said), "{said}");
    }
    let certs = gateway.admin_json("/certs");
    let first = &certs["listeners"][0]["certificates"][0];
    assert_eq!(first["names"], json!(["a.test"]));
    assert_eq!(first["not_after"], "2002-01-01T00:00:00Z");
    assert!(first["problems"][0].as_str().unwrap().contains("expired"), "{first}");
    assert!(first["issuer"].as_str().unwrap().contains("root"), "{first}");
}

/// The name of the certificate that is shown, as the authority has issued it.
fn shown(gateway: &Gateway, authority: &Authority) -> Vec<u8> {
    let session = shake(gateway.address(), &authority.client().config(), "a.test").unwrap();
    session.conn.peer_certificates().unwrap()[0].to_vec()
}

fn put(from: &Files, to: &Files) {
    for (from, to) in [(&from.cert, &to.cert), (&from.key, &to.key)] {
        let beside = to.with_extension("new");
        std::fs::copy(from, &beside).unwrap();
        std::fs::rename(&beside, to).unwrap();
    }
}

#[test]
fn new_files_are_taken_without_a_dropped_connection() {
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let elsewhere = TempDir::new().unwrap();
    let files = authority.issue(dir.path(), "a", &["a.test"]);
    let renewed = authority.issue(elsewhere.path(), "new", &["a.test"]);
    let gateway = Launch::config(config(&json!([files.entry()]))).within(dir).start();
    let client = authority.client().config();
    let session = shake(gateway.address(), &client, "a.test").unwrap();
    let mut open = Wire::tls(session);
    open.exchange(GET);
    let before = shown(&gateway, &authority);

    put(&renewed, &files);

    eventually("the new certificate", || (shown(&gateway, &authority) != before).then_some(()));
    assert_eq!(open.exchange(GET).body, b"hello");
    let resumed = shake(gateway.address(), &client, "a.test").unwrap();
    assert_eq!(resumed.conn.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
    gateway.logs("read anew");
}

#[test]
fn files_that_cannot_be_used_leave_the_old_ones_serving() {
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let elsewhere = TempDir::new().unwrap();
    let files = authority.issue(dir.path(), "a", &["a.test"]);
    let renewed = authority.issue(elsewhere.path(), "new", &["a.test"]);
    let gateway = Launch::config(config(&json!([files.entry()]))).within(dir).start();
    let before = shown(&gateway, &authority);

    // The key of another certificate.
    std::fs::copy(&renewed.key, &files.key).unwrap();
    gateway.logs("what was read before goes on");
    assert_eq!(shown(&gateway, &authority), before);
    let refused = gateway.admin_ask("POST", "/reload", "");
    assert_eq!(refused.status(), 422, "{refused:?}");
    assert!(refused.text().contains("listeners[0].tls.certificates[0].key_path"), "{refused:?}");
    assert_eq!(shown(&gateway, &authority), before);

    // Its certificate follows.
    std::fs::copy(&renewed.cert, &files.cert).unwrap();
    eventually("the new certificate", || (shown(&gateway, &authority) != before).then_some(()));
}

/// What is spoken on a listener can change with a reload; where it listens cannot.
#[test]
fn a_reload_brings_tls_and_other_certificates() {
    let upstream = Upstream::answering("hello");
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let files = authority.issue(dir.path(), "a", &["a.test"]);
    let path = dir.path().join("zproxy.json");
    let mut written = config(&json!([files.entry()]));
    written["routes"] = json!([{ "path": "/", "upstream": upstream.url() }]);
    let tls = written["listeners"][0].as_object_mut().unwrap().remove("tls").unwrap();
    let gateway = Launch::config(written.clone()).within(dir).start();
    let mut plain = gateway.connect();
    assert_eq!(plain.exchange(GET).body, b"hello");

    written["listeners"][0]["tls"] = tls;
    written["workers"] = json!({ "count": 2, "pin": false });
    if let Ok(io) = std::env::var("ZPROXY_E2E_IO") {
        written["workers"]["io"] = json!(io);
    }
    std::fs::write(&path, written.to_string()).unwrap();
    let taken = gateway.admin_ask("POST", "/reload", "");

    assert_eq!(taken.status(), 200, "{taken:?}");
    assert!(taken.json().get("restart_needed").is_none(), "{taken:?}");
    let session = shake(gateway.address(), &authority.client().config(), "a.test").unwrap();
    assert_eq!(Wire::tls(session).exchange(GET).body, b"hello");
    assert_eq!(plain.exchange(GET).body, b"hello", "what has begun goes on");
}
