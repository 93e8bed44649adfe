//! TLS to servers: whom the gateway believes, what it shows, and what clients hear when that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::server::StoresServerSessions;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::tls::{Authority, Wanted};
use crate::harness::{Gateway, Launch, Upstream, guest};

fn gateway(upstream: &Upstream, tls: Value) -> Gateway {
    Gateway::start(json!({
        "upstreams": { "test": { "servers": [upstream.address()], "tls": tls } },
        "routes": [{ "name": "all", "path": "/", "upstream": "test" }],
    }))
}

fn answering(connection: &mut crate::harness::Connection) -> std::io::Result<()> {
    loop {
        connection.request()?;
        connection.answer("hello")?;
    }
}

/// The cause in `Proxy-Status`.
fn cause(gateway: &Gateway) -> String {
    let answer = gateway.get("/");
    assert_eq!(answer.status(), 502, "{answer:?}");
    answer.field("proxy-status").unwrap().to_owned()
}

#[test]
fn servers_that_prove_who_they_are_are_believed_and_kept() {
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let ca = authority.write(dir.path().join("ca.pem"));
    let files = authority.issue(dir.path(), "s", &["127.0.0.1", "inside.test"]);
    let upstream = Upstream::secure(files.server(), answering);
    for tls in [json!({ "ca_path": ca }), json!({ "ca_path": ca, "sni": "inside.test" })] {
        let before = upstream.connections();
        let gateway = gateway(&upstream, tls);
        for _ in 0..3 {
            assert_eq!(gateway.get("/").body, b"hello");
        }
        let workers = 2;
        assert!(upstream.connections() - before <= workers, "pooled");
    }
}

#[test]
fn bodies_go_to_servers_and_come_back_whole() {
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let ca = authority.write(dir.path().join("ca.pem"));
    let files = authority.issue(dir.path(), "s", &["127.0.0.1"]);
    let upstream = Upstream::secure(files.server(), |connection| {
        loop {
            let request = connection.request()?;
            let length = request.body.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            connection.try_send(head)?;
            connection.try_send(&request.body)?;
        }
    });
    let gateway = gateway(&upstream, json!({ "ca_path": ca }));
    let body: Vec<u8> = (0..4_000_000_u32).map(|at| (at % 251) as u8).collect();
    let mut client = gateway.connect();
    let length = body.len();

    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
    client.send(&body);

    assert!(client.response().body == body);
}

#[test]
fn a_server_that_cannot_be_believed_is_not_asked() {
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let ca = authority.write(dir.path().join("ca.pem"));
    let issue = |authority: &Authority, stem: &str, names: &[&str], years| {
        authority.issue_as(dir.path(), stem, &Wanted { names, years }).server()
    };
    let now = (2020, 2120);
    let stranger = issue(&Authority::new("others"), "stranger", &["127.0.0.1"], now);
    let other = issue(&authority, "other", &["other.test"], now);
    let expired = issue(&authority, "expired", &["127.0.0.1"], (2001, 2002));
    for (name, server) in [("stranger", stranger), ("other", other), ("expired", expired)] {
        let upstream = Upstream::secure(server, answering);
        let gateway = gateway(&upstream, json!({ "ca_path": ca }));

        assert!(cause(&gateway).contains("error=tls_certificate_error"), "{name}");

        assert!(upstream.requests().is_empty());
        gateway.logs("certificate not verified: invalid peer certificate");
    }
}

#[test]
fn other_failures_have_names_of_their_own() {
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let ca = authority.write(dir.path().join("ca.pem"));
    let plain =
        Upstream::start(|connection| connection.try_send("HTTP/1.1 400 Bad Request\r\n\r\n"));
    let strict = authority.issue(dir.path(), "s", &["127.0.0.1"]);
    let strict = Upstream::secure(strict.server_for(&authority), answering);

    let of_plain = cause(&gateway(&plain, json!({ "ca_path": ca })));
    assert!(of_plain.contains("error=tls_protocol_error"), "{of_plain}");
    // TLS 1.3: the alert comes when the gateway has sent its request.
    let of_strict = cause(&gateway(&strict, json!({ "ca_path": ca })));
    assert!(of_strict.contains("error=tls_alert_received"), "{of_strict}");
}

#[test]
fn a_server_that_asks_is_shown_the_gateways_certificate() {
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let ca = authority.write(dir.path().join("ca.pem"));
    let files = authority.issue(dir.path(), "s", &["127.0.0.1"]);
    let own = authority.issue(dir.path(), "own", &["gateway.test"]);
    let upstream = Upstream::secure(files.server_for(&authority), answering);
    let tls = json!({ "ca_path": ca, "cert_path": own.cert, "key_path": own.key });
    let gateway = gateway(&upstream, tls);

    assert_eq!(gateway.get("/").body, b"hello");
    let certs = gateway.admin_json("/certs");
    assert_eq!(certs["upstreams"][0]["certificates"][0]["names"], json!(["gateway.test"]));
}

/// What is easily written by mistake does not switch verification off; what does is said at every load.
#[test]
fn verification_goes_only_by_its_own_word() {
    let dir = TempDir::new().unwrap();
    let files = Authority::new("nobody").issue(dir.path(), "s", &["else.test"]);
    let upstream = Upstream::secure(files.server(), answering);
    let config = |verify: Value| {
        json!({
            "upstreams": { "test": {
                "servers": [upstream.address()], "tls": { "verify": verify },
            } },
            "routes": [{ "path": "/", "upstream": "test" }],
        })
    };
    for verify in [json!(false), json!("none"), json!("off")] {
        std::fs::write(dir.path().join("zproxy.json"), config(verify.clone()).to_string()).unwrap();
        let run = crate::harness::run(dir.path(), &["check", "--config", "zproxy.json"]);
        assert_eq!(run.code, Some(3), "{verify}: {run:?}");
    }

    let gateway = Gateway::start(config(json!("insecure")));

    assert_eq!(gateway.get("/").body, b"hello");
    gateway.logs("upstream `test`: INSECURE");
}

/// The system's roots are those that every program of this machine believes.
#[test]
fn an_https_url_is_an_upstream_with_the_roots_of_the_system() {
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let ca = authority.write(dir.path().join("ca.pem"));
    let files = authority.issue(dir.path(), "s", &["localhost"]);
    let upstream = Upstream::secure(files.server(), answering);
    let port = upstream.address().rsplit_once(':').unwrap().1.to_owned();
    let url = format!("https://localhost:{port}");
    let config = || json!({ "routes": [{ "path": "/", "upstream": url }] });
    let with = |bundle: &str| Launch::config(config()).environment("SSL_CERT_FILE", bundle).start();

    assert_eq!(with(ca.to_str().unwrap()).get("/").body, b"hello");
    let other = Authority::new("others").write(dir.path().join("other.pem"));
    assert!(cause(&with(other.to_str().unwrap())).contains("tls_certificate_error"));
}

#[test]
fn a_system_without_roots_is_said_so_at_the_start() {
    let dir = TempDir::new().unwrap();
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let config = json!({ "routes": [{ "path": "/", "upstream": "https://localhost:1" }] });
    std::fs::write(dir.path().join("zproxy.json"), config.to_string()).unwrap();
    let line = format!(
        "SSL_CERT_DIR= SSL_CERT_FILE={} exec {} check --config zproxy.json",
        empty.display(),
        crate::harness::binary().display()
    );
    let ran = std::process::Command::new("sh").arg("-c").arg(line).current_dir(dir.path()).output();
    let ran = ran.unwrap();

    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(3), "{said}");
    assert!(said.contains("ca_path") && said.contains("ca-certificates"), "{said}");
}

/// Counts sessions that are taken up again.
#[derive(Debug)]
struct Counting(Arc<dyn StoresServerSessions>, AtomicUsize);

impl StoresServerSessions for Counting {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.0.put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        let taken = self.0.take(key);
        self.1.fetch_add(usize::from(taken.is_some()), Ordering::SeqCst);
        taken
    }

    fn can_cache(&self) -> bool {
        true
    }
}

#[test]
fn sessions_with_servers_are_resumed() {
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let ca = authority.write(dir.path().join("ca.pem"));
    let files = authority.issue(dir.path(), "s", &["127.0.0.1"]);
    let store = rustls::server::ServerSessionMemoryCache::new(64);
    let counting = Arc::new(Counting(store, AtomicUsize::new(0)));
    let mut config = Arc::unwrap_or_clone(files.server());
    config.session_storage = Arc::clone(&counting) as Arc<dyn StoresServerSessions>;
    let upstream = Upstream::secure(Arc::new(config), |connection| {
        connection.request()?;
        connection.answer("hello")
    });
    let gateway = gateway(&upstream, json!({ "ca_path": ca }));

    for _ in 0..5 {
        assert_eq!(gateway.get("/").body, b"hello");
    }

    assert!(counting.1.load(Ordering::SeqCst) >= 3, "{counting:?}");
}

/// A body whose end is the connection's is whole only if the server has said so.
#[test]
fn a_body_that_was_cut_does_not_look_whole() {
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let ca = authority.write(dir.path().join("ca.pem"));
    let files = authority.issue(dir.path(), "s", &["127.0.0.1"]);
    for orderly in [true, false] {
        let upstream = Upstream::secure(files.server(), move |connection| {
            connection.request()?;
            connection.try_send("HTTP/1.1 200 OK\r\n\r\npart")?;
            if orderly {
                connection.finish();
            }
            Ok(())
        });
        let gateway = gateway(&upstream, json!({ "ca_path": ca }));
        let mut client = gateway.connect();

        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");

        let answer = client.try_response();
        assert_eq!(
            answer.as_ref().is_ok_and(|answer| answer.body == b"part"),
            orderly,
            "{answer:?}"
        );
    }
}

/// The same client for what plugins ask: by the system's roots, or by the upstream's own.
#[test]
fn plugins_ask_by_https() {
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let ca = authority.write(dir.path().join("ca.pem"));
    let files = authority.issue(dir.path(), "s", &["localhost", "127.0.0.1"]);
    let auth = Upstream::secure(files.server(), answering);
    let main = Upstream::answering("ok");
    let port = auth.address().rsplit_once(':').unwrap().1.to_owned();
    let answer = |url: &str, allow: &str, bundle: &str| {
        let gateway = Launch::config(json!({
            "workers": { "count": 1, "pin": false },
            "plugins": { "ask": {
                "path": guest("ask"), "config": { "url": url }, "allow": { "http": [allow] },
            } },
            "upstreams": { "auth": { "servers": [auth.address()], "tls": { "ca_path": ca } } },
            "routes": [{ "path": "/", "upstream": main.url(), "middleware": ["ask"] }],
        }));
        let gateway = gateway.environment("SSL_CERT_FILE", bundle).start();
        let mut client = gateway.connect();
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        (client.exchange(get).text().to_owned(), client.exchange(get).text().to_owned())
    };
    let url = format!("https://localhost:{port}/good");
    let good = ("ok".to_owned(), "ok".to_owned());
    let ca = ca.to_str().unwrap();
    let other = Authority::new("others").write(dir.path().join("other.pem"));

    assert_eq!(answer(&url, &url, ca), good);
    assert_eq!(auth.connections(), 1, "connections are kept");
    assert_eq!(answer("upstream://auth/good", "upstream:auth", ca), good);
    let before = auth.requests().len();
    assert_ne!(answer(&url, &url, other.to_str().unwrap()), good);
    assert_eq!(auth.requests().len(), before, "whom it does not believe it does not ask");
}
