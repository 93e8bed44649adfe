//! Responses that the gateway keeps for a plugin: captured while they pass, served without the upstream.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::harness::{Gateway, Message, Upstream, eventually, guest};

/// A gateway that keeps what this upstream answers; two names for one component, a route for each.
fn caching(upstream: &Upstream, allow: &Value) -> Gateway {
    let plugin = json!({ "path": guest("cacher"), "allow": { "cache": allow } });
    Gateway::start(json!({
        "upstreams": { "test": { "servers": [upstream.address()] } },
        "plugins": { "one": plugin, "other": plugin },
        "routes": [
            { "name": "all", "path": "/", "upstream": "test", "middleware": ["one"] },
            { "name": "other", "path": "/other", "upstream": "test", "middleware": ["other"] },
        ],
    }))
}

fn order(gateway: &Gateway, path: &str, order: &str) -> Message {
    gateway.ask("GET", path, &format!("X-Do: {order}\r\n"))
}

/// Waits until there is an answer from the cache: an answer is kept when it has arrived, and its client
/// may be faster.
#[track_caller]
fn hit(gateway: &Gateway, path: &str) -> Message {
    eventually(&format!("{path} in the cache"), || {
        let answer = gateway.get(path);
        (answer.field("x-cache") == Some("hit")).then_some(answer)
    })
}

#[test]
fn a_kept_response_is_served_by_every_worker_and_without_the_upstream() {
    let upstream = Upstream::sending(
        "HTTP/1.1 200 OK\r\nContent-Type: text/a\r\nETag: \"1\"\r\nContent-Length: 5\r\n\r\nhello",
    );
    let gateway = caching(&upstream, &json!(true));
    assert_eq!(gateway.get("/a?b").field("x-cache"), None);
    hit(&gateway, "/a?b");
    let asked = upstream.requests().len();

    for _ in 0..20 {
        let answer = gateway.get("/a?b");
        assert_eq!((answer.status(), answer.text()), (200, "hello"));
        assert_eq!(answer.field("content-type"), Some("text/a"));
        assert_eq!(answer.field("etag"), Some("\"1\""));
        assert_eq!(answer.field("content-length"), Some("5"));
        assert_eq!(answer.field("x-cache"), Some("hit"));
    }
    let head = gateway.ask("HEAD", "/a?b", "");
    assert_eq!((head.field("content-length"), head.field("x-cache")), (Some("5"), Some("hit")));
    assert_eq!(upstream.requests().len(), asked, "nobody asked it again");
    assert_eq!(order(&gateway, "/a?b", "look").text(), "Some((200, 5, \"text/a\", \"noted\"))");
    assert_eq!(order(&gateway, "/A?b", "look").text(), "None");
    assert_eq!(order(&gateway, "/other/a?b", "look").text(), "None", "another plugin");
}

/// However the upstream frames it, what is kept is the content.
#[test]
fn bodies_of_every_framing_are_kept_whole() {
    let large: String = (0..300_000).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
    let chunked: String = large
        .as_bytes()
        .chunks(70_000)
        .map(|chunk| format!("{:x};x=y\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(chunk)))
        .collect();
    let responses = [
        ("/length", format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{large}", large.len())),
        (
            "/chunked",
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}0\r\nx-t: 1\r\n\r\n"
            ),
        ),
        ("/close", format!("HTTP/1.1 200 OK\r\n\r\n{large}")),
        ("/empty", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned()),
    ];
    let upstream = Upstream::start(move |connection| {
        let request = connection.request()?;
        let response = responses.iter().find(|(path, _)| *path == request.target());
        connection.try_send(&response.unwrap().1)
    });
    let gateway = caching(&upstream, &json!(true));

    for path in ["/length", "/chunked", "/close", "/empty"] {
        let wanted = if path == "/empty" { "" } else { large.as_str() };
        assert!(gateway.get(path).text() == wanted, "{path}");
        let kept = hit(&gateway, path);
        assert!(kept.text() == wanted, "{path} from the cache");
        assert_eq!(kept.field("transfer-encoding"), None);
        assert_eq!(kept.field("content-length"), Some(&*wanted.len().to_string()));
    }
}

#[test]
fn what_is_cut_off_or_too_large_is_not_kept() {
    let large = "x".repeat(200_000);
    let responses = [
        ("/cut", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello".to_owned()),
        ("/large", format!("HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n{large}")),
        ("/endless", format!("HTTP/1.1 200 OK\r\n\r\n{large}")),
        ("/missing", "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno".to_owned()),
        ("/small", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned()),
    ];
    let upstream = Upstream::start(move |connection| {
        let request = connection.request()?;
        let response = responses.iter().find(|(path, _)| *path == request.target());
        connection.try_send(&response.unwrap().1)
    });
    let limits = json!({ "bytes_max": 4_000_000, "object_bytes_max": 100_000 });
    let gateway = caching(&upstream, &limits);

    let mut client = gateway.connect();
    client.send("GET /cut HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(client.try_response().is_err());
    assert_eq!(gateway.get("/large").body.len(), 200_000);
    assert_eq!(gateway.get("/endless").body.len(), 200_000);
    assert_eq!(gateway.ask("HEAD", "/large", "").status(), 200);
    assert_eq!(gateway.get("/missing").status(), 404);
    gateway.get("/small");
    hit(&gateway, "/small");

    for path in ["/cut", "/large", "/endless", "/missing"] {
        assert_eq!(order(&gateway, path, "look").text(), "None", "{path}");
    }
    let bytes = gateway.metrics().sum("zproxy_plugin_state_bytes", &[("kind", "cache")]);
    assert!(bytes < 1000.0, "what was given up is not charged: {bytes}");
}

#[test]
fn kept_responses_are_removed_by_key_and_by_tag() {
    let upstream = Upstream::answering("hello");
    let gateway = caching(&upstream, &json!(true));
    for path in ["/1", "/2", "/3"] {
        gateway.get(path);
        hit(&gateway, path);
    }
    gateway.get("/other/1");
    hit(&gateway, "/other/1");

    assert_eq!(order(&gateway, "/1", "remove").text(), "true");
    assert_eq!(order(&gateway, "/1", "remove").text(), "false");
    assert_eq!(order(&gateway, "/1", "look").text(), "None");
    assert_eq!(order(&gateway, "/", "purge").text(), "2");
    assert_eq!(order(&gateway, "/", "purge").text(), "0");
    assert_eq!(order(&gateway, "/2", "look").text(), "None");
    hit(&gateway, "/other/1");
    gateway.get("/2");
    hit(&gateway, "/2");
}

/// RFC 9111 §4.3.4: a 304 says that what is stored is still good, and what has changed about it.
#[test]
fn a_304_refreshes_what_is_kept_and_the_client_gets_it_whole() {
    let asked = AtomicUsize::new(0);
    let upstream = Upstream::start(move |connection| {
        loop {
            let request = connection.request()?;
            asked.fetch_add(1, Ordering::SeqCst);
            match request.field("if-none-match") {
                Some(_) => connection.try_send(
                    "HTTP/1.1 304 Not Modified\r\nX-Changed: new\r\nContent-Length: 99\r\n\r\n",
                )?,
                None => connection.try_send(
                    "HTTP/1.1 200 OK\r\nX-Changed: old\r\nContent-Type: text/a\r\n\
                     Content-Length: 5\r\n\r\nhello",
                )?,
            }
        }
    });
    let gateway = caching(&upstream, &json!(true));
    gateway.get("/");
    hit(&gateway, "/");

    let fresh = order(&gateway, "/", "revalidate");

    assert_eq!((fresh.status(), fresh.text()), (200, "hello"));
    assert_eq!(fresh.field("x-cache"), Some("revalidated"));
    assert_eq!(fresh.field("x-changed"), Some("new"));
    assert_eq!(fresh.field("content-length"), Some("5"));
    assert_eq!(hit(&gateway, "/").all("x-changed"), ["new"]);
    assert_eq!(order(&gateway, "/", "look").text(), "Some((200, 5, \"text/a\", \"fresh\"))");
}

#[test]
fn a_cache_stays_within_what_was_granted() {
    let body = "x".repeat(50_000);
    let upstream = Upstream::answering(&body);
    let gateway = caching(&upstream, &json!({ "bytes_max": 1_048_576 }));

    for page in 0..100 {
        assert_eq!(gateway.get(&format!("/{page}")).body.len(), 50_000);
    }

    hit(&gateway, "/99");
    let metrics = gateway.metrics();
    let labels = [("plugin", "one"), ("kind", "cache")];
    let bytes = metrics.sum("zproxy_plugin_state_bytes", &labels);
    assert!((900_000.0..=1_048_576.0).contains(&bytes), "{bytes}");
    assert!((15.0..=20.0).contains(&metrics.sum("zproxy_plugin_state_entries", &labels)));
    assert_eq!(order(&gateway, "/", "huge-key").status(), 503);
    gateway.logs("cache.lookup: key and note have at most 4 KiB");
}

/// What a plugin is shown it may change: the store must not keep what the client did not get, nor serve
/// past the plugin.
#[test]
fn a_response_whose_body_a_plugin_is_shown_is_not_kept() {
    let upstream = Upstream::answering("hello");
    let shown = json!({ "at": "response", "chunk": "upper" });
    let gateway = Gateway::start(json!({
        "upstreams": { "test": { "servers": [upstream.address()] } },
        "plugins": {
            "cacher": { "path": guest("cacher"), "allow": { "cache": true } },
            "body": { "path": guest("body"), "config": shown },
        },
        "routes": [
            { "path": "/shown", "upstream": "test", "middleware": ["body", "cacher"] },
            { "path": "/", "upstream": "test", "middleware": ["cacher"] },
        ],
    }));
    gateway.get("/plain");
    hit(&gateway, "/plain");

    for _ in 0..3 {
        let answer = gateway.get("/shown");
        assert_eq!((answer.text(), answer.field("x-cache")), ("HELLO", None));
    }

    // That answer is shown to the plugin, too.
    assert_eq!(order(&gateway, "/shown", "look").text(), "NONE");
}
