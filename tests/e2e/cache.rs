//! The built-in plugin `cache`: what many clients get for one fetch, and what nobody must get.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};

use serde_json::{Value, json};

use crate::harness::{Gateway, JWT_SAMPLE, Message, Upstream, Wire, eventually, guest};

const FRESH: &str = "Cache-Control: max-age=600\r\n";

/// A gateway with a cache in front of everything.
fn caching(upstream: &Upstream, config: &Value) -> Gateway {
    Gateway::start(json!({
        "plugins": { "cache": { "path": guest("cache"), "allow": { "cache": true } } },
        "routes": [{
            "path": "/", "upstream": upstream.url(),
            "middleware": [{ "plugin": "cache", "config": config }],
        }],
    }))
}

fn response(fields: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{fields}\r\n{body}", body.len())
}

/// Waits until an answer comes from the cache: one is kept when it has arrived, and its client may be faster.
#[track_caller]
fn hit(gateway: &Gateway, path: &str) -> Message {
    eventually(&format!("{path} in the cache"), || {
        let answer = gateway.get(path);
        (answer.field("cache-status") == Some("zproxy; hit")).then_some(answer)
    })
}

#[test]
fn what_is_fresh_is_answered_without_the_upstream() {
    let upstream = Upstream::sending(response(&format!("{FRESH}ETag: \"1\"\r\n"), "0123456789"));
    let gateway = caching(&upstream, &json!({}));
    let first = gateway.get("/a");
    assert_eq!(first.field("cache-status"), Some("zproxy; fwd=uri-miss; stored"));
    hit(&gateway, "/a");
    let asked = upstream.requests().len();

    for _ in 0..20 {
        let answer = gateway.get("/a");
        assert_eq!((answer.status(), answer.text()), (200, "0123456789"));
        assert!(answer.field("age").is_some());
    }
    let head = gateway.ask("HEAD", "/a", "");
    assert_eq!((head.status(), head.field("content-length")), (200, Some("10")));
    let part = gateway.ask("GET", "/a", "Range: bytes=2-4\r\n");
    assert_eq!((part.status(), part.text()), (206, "234"));
    assert_eq!(part.field("content-range"), Some("bytes 2-4/10"));
    let same = gateway.ask("GET", "/a", "If-None-Match: \"1\"\r\n");
    assert_eq!((same.status(), same.field("etag")), (304, Some("\"1\"")));
    let beyond = gateway.ask("GET", "/a", "Range: bytes=10-\r\n");
    assert_eq!((beyond.status(), beyond.field("content-range")), (416, Some("bytes */10")));
    assert_eq!(upstream.requests().len(), asked);
    let metrics = gateway.metrics();
    assert!(metrics.sum("zproxy_cache_requests_total", &[("result", "hit")]) >= 24.0);
    assert!(metrics.sum("zproxy_cache_requests_total", &[("result", "miss")]) >= 1.0);
    assert!(metrics.sum("zproxy_cache_bytes", &[]) > 0.0);
}

/// A thousand clients that ask for the same at the same time are one request for the upstream, and none of
/// them waits for the end of it.
#[test]
fn clients_who_ask_for_the_same_share_one_fetch_as_it_comes() {
    const CLIENTS: usize = 50;
    let (go, went) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (begin, end) = (Arc::clone(&go), Arc::clone(&went));
    let upstream = Upstream::start(move |connection| {
        connection.request()?;
        begin.wait();
        connection
            .try_send(format!("HTTP/1.1 200 OK\r\n{FRESH}Content-Length: 10\r\n\r\nfirst"))?;
        end.wait();
        connection.try_send("-half")
    });
    let gateway = caching(&upstream, &json!({}));
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.send("GET /slow HTTP/1.1\r\nHost: gateway.test\r\n\r\n");
    }
    gateway.counts("zproxy_connections", &[("state", "active")], 50.0);
    go.wait();

    for client in &mut clients {
        let head = client.try_response_head("GET").unwrap();
        assert_eq!((head.status(), head.field("content-length")), (200, Some("10")));
        assert_eq!(client.take(5).unwrap(), b"first");
    }
    went.wait();
    for client in &mut clients {
        assert_eq!(client.take(5).unwrap(), b"-half");
    }

    assert_eq!(upstream.requests().len(), 1);
    gateway.counts("zproxy_cache_requests_total", &[("result", "collapsed")], 49.0);
    assert_eq!(hit(&gateway, "/slow").text(), "first-half");
}

/// Whoever asked first may leave, or read a byte a minute: that is nobody else's business.
#[test]
fn who_asked_first_holds_nobody_up() {
    let (head, tail) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (begin, end) = (Arc::clone(&head), Arc::clone(&tail));
    let large = "x".repeat(3_000_000);
    let upstream = Upstream::start(move |connection| {
        connection.request()?;
        let length = large.len() + 4;
        connection
            .try_send(format!("HTTP/1.1 200 OK\r\n{FRESH}Content-Length: {length}\r\n\r\nhead"))?;
        begin.wait();
        end.wait();
        connection.try_send(&large)
    });
    let gateway = caching(&upstream, &json!({}));
    let mut slow = gateway.connect();
    slow.receive_little();
    slow.send("GET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n");
    slow.try_response_head("GET").unwrap();
    let mut leaves = gateway.connect();
    leaves.send("GET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n");
    leaves.try_response_head("GET").unwrap();
    head.wait();
    drop(leaves);
    tail.wait();

    assert_eq!(gateway.get("/").body.len(), 3_000_004);

    assert_eq!(upstream.requests().len(), 1);
    hit(&gateway, "/");
    assert_eq!(slow.take(4).unwrap(), b"head");
}

/// One that fails must not take the others along, and one that hangs must not hold them for ever.
#[test]
fn a_fetch_that_fails_or_hangs_is_done_by_another() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let (sent, hang) = mpsc::channel::<()>();
    let hang = std::sync::Mutex::new(hang);
    let upstream = Upstream::start(move |connection| {
        let request = connection.request()?;
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            if request.target() == "/hangs" {
                let _ = hang.lock().unwrap().recv();
            }
            return Ok(());
        }
        connection.try_send(response(FRESH, "answer"))
    });
    let gateway = caching(&upstream, &json!({ "collapse_wait_ms": 300 }));
    for path in ["/fails", "/hangs"] {
        asked.store(0, Ordering::SeqCst);
        let mut clients: Vec<_> = (0..5).map(|_| gateway.connect()).collect();
        for client in &mut clients {
            client.send(format!("GET {path} HTTP/1.1\r\nHost: gateway.test\r\n\r\n"));
        }
        // One of them was first, and it need not be the first that was sent.
        let mut failed = 0;
        for client in &mut clients {
            if failed == 0 && client.is_silent(std::time::Duration::from_secs(10)) {
                failed += 1;
                continue;
            }
            let answer = client.response();
            failed += usize::from(answer.text() != "answer");
        }
        assert!(failed <= 1, "{path}: {failed}");
    }
    drop(sent);
}

#[test]
fn stale_responses_are_served_while_another_one_is_fetched() {
    let asked = AtomicUsize::new(0);
    let upstream = Upstream::start(move |connection| {
        loop {
            let request = connection.request()?;
            let count = asked.fetch_add(1, Ordering::SeqCst);
            let fields = "Cache-Control: max-age=0, stale-while-revalidate=600\r\n";
            let etag = format!("{fields}ETag: \"{count}\"\r\n");
            let fields = if count == 0 { etag } else { format!("{FRESH}ETag: \"{count}\"\r\n") };
            assert_eq!(request.field("if-none-match").is_some(), count > 0);
            connection.try_send(response(&fields, &format!("number {count}")))?;
        }
    });
    let gateway = caching(&upstream, &json!({}));
    assert_eq!(gateway.get("/").text(), "number 0");
    eventually("a stale answer", || {
        let answer = gateway.get("/");
        let stale =
            answer.field("cache-status").is_some_and(|said| said.starts_with("zproxy; hit; ttl=-"));
        (stale && answer.text() == "number 0").then_some(())
    });

    eventually("the new one", || (gateway.get("/").text() != "number 0").then_some(()));

    assert_eq!(hit(&gateway, "/").text(), "number 1");
    assert_eq!(upstream.requests().len(), 2);
    gateway.counts("zproxy_upstream_requests_total", &[("status", "200")], 2.0);
}

#[test]
fn an_upstream_that_is_gone_is_covered_by_what_is_stale() {
    let first = AtomicUsize::new(0);
    let upstream = Upstream::start(move |connection| {
        connection.request()?;
        if first.fetch_add(1, Ordering::SeqCst) == 0 {
            let fields = "Cache-Control: max-age=0\r\nETag: \"1\"\r\n";
            connection.try_send(response(fields, "old"))?;
        }
        Ok(())
    });
    let gateway = caching(&upstream, &json!({}));
    gateway.get("/");

    let stale = eventually("a stale answer", || {
        let answer = gateway.get("/");
        (answer.status() == 200).then_some(answer)
    });

    assert_eq!(stale.text(), "old");
    let said = stale.field("cache-status").unwrap();
    assert!(said.starts_with("zproxy; fwd=stale; fwd-status=502"), "{said}");
}

#[test]
fn operators_purge_by_url_prefix_and_surrogate_key() {
    let upstream = Upstream::start(|connection| {
        loop {
            let request = connection.request()?;
            let key = if request.target().starts_with("/img/") { "images" } else { "pages other" };
            let fields = format!("{FRESH}Surrogate-Key: {key}\r\nVary: Accept\r\n");
            connection.try_send(response(&fields, "x"))?;
        }
    });
    let gateway = caching(&upstream, &json!({}));
    let base = "http://gateway.test";
    let fill = || {
        for path in ["/a", "/a?b", "/img/1", "/img/2"] {
            gateway.get(path);
            hit(&gateway, path);
        }
    };
    let purge = |body: Value| {
        let answer = gateway.admin_post("/cache/purge", body.to_string().as_bytes());
        (answer.status(), answer.json()["removed"].as_u64())
    };
    let stored =
        |path: &str| gateway.ask("GET", path, "Cache-Control: only-if-cached\r\n").status() == 200;
    let all = || ["/a", "/a?b", "/img/1", "/img/2"].map(stored);
    fill();

    // Each has its variant, and a note that there are such.
    assert_eq!(purge(json!({ "url": format!("{base}/a") })), (200, Some(2)));
    assert_eq!(all(), [false, true, true, true]);
    fill();
    assert_eq!(purge(json!({ "prefix": format!("{base}/img/") })), (200, Some(4)));
    assert_eq!(all(), [true, true, false, false]);
    fill();
    assert_eq!(purge(json!({ "surrogate_key": "pages" })), (200, Some(2)));
    assert_eq!(all(), [false, false, true, true]);
    assert_eq!(purge(json!({ "all": true, "plugin": "cache" })).0, 200);
    assert_eq!(all(), [false; 4]);
    for bad in [json!({}), json!({ "url": "a", "all": true }), json!({ "uri": "a" }), json!([])] {
        assert_eq!(purge(bad.clone()).0, 422, "{bad}");
    }
    assert_eq!(purge(json!({ "all": true, "plugin": "none" })).0, 404);
    assert_eq!(gateway.admin("/cache/purge").status(), 405);
}

/// What a plugin behind the cache lets pass for one client is not for the next; before it, neither.
#[test]
fn a_cache_beside_jwt_lets_nobody_read_what_is_anothers() {
    let upstream = Upstream::start(|connection| {
        loop {
            let request = connection.request()?;
            let fields = match request.target() {
                "/public" => "Cache-Control: public, max-age=600\r\n",
                _ => FRESH,
            };
            connection.try_send(response(fields, "secret"))?;
        }
    });
    let jwt = json!({ "jwt_secret": "your-256-bit-secret", "forward_token": false });
    let by_cookie = json!({ "jwt_secret": "your-256-bit-secret", "token_from": { "cookie": "t" } });
    for (order, config) in [
        (["cache", "jwt"], &jwt),
        (["jwt", "cache"], &jwt),
        (["cache", "jwt"], &by_cookie),
        (["jwt", "cache"], &by_cookie),
    ] {
        let gateway = Gateway::start(json!({
            "plugins": {
                "cache": { "path": guest("cache"), "allow": { "cache": true } },
                "jwt": { "path": guest("jwt"), "config": config },
            },
            "routes": [{ "path": "/", "upstream": upstream.url(), "middleware": order }],
        }));
        let token = format!("Authorization: Bearer {JWT_SAMPLE}\r\nCookie: t={JWT_SAMPLE}\r\n");
        for _ in 0..3 {
            let own = gateway.ask("GET", "/own", &token);
            assert_eq!((own.status(), own.text()), (200, "secret"));
            assert_eq!(gateway.get("/own").status(), 401, "{order:?} {config}");
        }
        // What says that it is for everybody is, where the cache comes first.
        gateway.ask("GET", "/public", &token);
        eventually("a public page in the cache", || {
            let answer = gateway.ask("GET", "/public", &token);
            (answer.field("cache-status") == Some("zproxy; hit")).then_some(())
        });
        let expected = if order[0] == "cache" { 200 } else { 401 };
        assert_eq!(gateway.get("/public").status(), expected, "{order:?}");
    }
}

/// A response that two parsers would end at different places must not become somebody's page.
#[test]
fn what_is_framed_twice_or_cut_is_never_stored() {
    let upstream = Upstream::start(|connection| {
        let request = connection.request()?;
        let framing = match request.target() {
            "/both" => {
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK"
            }
            "/two" => "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
            "/cut" => "Content-Length: 50\r\n\r\nhello",
            _ => "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
        };
        connection.try_send(format!("HTTP/1.1 200 OK\r\n{FRESH}{framing}"))
    });
    let gateway = caching(&upstream, &json!({}));

    for path in ["/both", "/two", "/cut", "/bad"] {
        for _ in 0..2 {
            let mut client = gateway.connect();
            client.send(format!("GET {path} HTTP/1.1\r\nHost: gateway.test\r\n\r\n"));
            if let Ok(answer) = client.try_response() {
                assert_ne!(answer.status(), 200, "{path}");
            }
        }
        let stored = format!(
            "GET {path} HTTP/1.1\r\nHost: gateway.test\r\nCache-Control: only-if-cached\r\n\r\n"
        );
        assert_eq!(gateway.connect().exchange(stored).status(), 504, "{path}");
    }
}

/// More than may be stored is passed on all the same, to everybody who asks meanwhile.
#[test]
fn what_is_too_large_is_not_stored_but_arrives() {
    let body = "0123456789".repeat(50_000);
    let chunks: String = body
        .as_bytes()
        .chunks(50_000)
        .map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(chunk)))
        .collect();
    let upstream = Upstream::start(move |connection| {
        loop {
            let request = connection.request()?;
            match request.target() {
                "/chunked" => connection.try_send(format!(
                    "HTTP/1.1 200 OK\r\n{FRESH}Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"
                ))?,
                _ => connection.try_send(response(FRESH, &body))?,
            }
        }
    });
    let gateway = caching(&upstream, &json!({ "max_body_bytes": 100_000 }));

    for path in ["/chunked", "/length"] {
        for _ in 0..3 {
            let answer = gateway.get(path);
            assert_eq!((answer.status(), answer.body.len()), (200, 500_000), "{path}");
            assert_ne!(answer.field("cache-status"), Some("zproxy; hit"));
        }
    }
}

/// Interface §3 and §7: the short form, without a file, a plugins entry or a grant.
#[test]
fn the_short_form_of_the_original_works_with_what_is_built_in() {
    let upstream = Upstream::answering("silent");
    let gateway = Gateway::start(json!({
        "middleware": { "cache": { "enabled": true, "ttl_seconds": 60 } },
        "routes": [{ "path": "/", "upstream": upstream.url(), "middleware": ["cache"] }],
    }));

    gateway.get("/");

    assert_eq!(hit(&gateway, "/").text(), "silent");
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn the_access_log_says_what_the_cache_did() {
    let upstream = Upstream::sending(response(FRESH, "x"));
    let gateway = Gateway::start(json!({
        "access_log": { "path": "stdout" },
        "plugins": { "cache": { "path": guest("cache"), "allow": { "cache": true } } },
        "routes": [{ "path": "/", "upstream": upstream.url(), "middleware": ["cache"] }],
    }));
    gateway.get("/");
    hit(&gateway, "/");

    eventually("both in the log", || {
        let log = gateway.stdout();
        (log.contains("\"cache\":\"miss\"") && log.contains("\"cache\":\"hit\"")).then_some(())
    });
}

/// A field that a plugin behind the cache sets is not the client's: who sends it has not proved anything.
#[test]
fn what_a_plugin_behind_the_cache_adds_tells_no_clients_apart() {
    let upstream = Upstream::start(|connection| {
        loop {
            let user = connection.request()?.field("x-user").unwrap_or("nobody").to_owned();
            let fields = "Cache-Control: public, max-age=600\r\nVary: X-User\r\n";
            connection.try_send(response(fields, &user))?;
        }
    });
    let jwt =
        json!({ "jwt_secret": "your-256-bit-secret", "claims_to_headers": { "sub": "x-user" } });
    let gateway = Gateway::start(json!({
        "plugins": {
            "cache": { "path": guest("cache"), "allow": { "cache": true } },
            "jwt": { "path": guest("jwt"), "config": jwt },
        },
        "routes": [{ "path": "/", "upstream": upstream.url(), "middleware": ["cache", "jwt"] }],
    }));
    let token = format!("Authorization: Bearer {JWT_SAMPLE}\r\n");

    for _ in 0..3 {
        let own = gateway.ask("GET", "/", &token);
        assert_eq!((own.status(), own.text()), (200, "1234567890"));
        assert_eq!(gateway.ask("GET", "/", "X-User: 1234567890\r\n").status(), 401);
        assert_eq!(gateway.get("/").status(), 401);
    }
}

/// What a server says to the client that it was asked for stays between the two.
#[test]
fn a_cookie_that_comes_with_a_validation_is_nobody_elses() {
    let upstream = Upstream::start(|connection| {
        loop {
            let request = connection.request()?;
            connection.try_send(match request.field("if-none-match") {
                None => response("Cache-Control: no-cache\r\nETag: \"1\"\r\n", "page"),
                Some(_) => format!(
                    "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n{FRESH}Set-Cookie: sid=alice\r\n\r\n"
                ),
            })?;
        }
    });
    let gateway = caching(&upstream, &json!({}));
    gateway.get("/");

    let hers = eventually("a validation", || {
        let answer = gateway.get("/");
        answer
            .field("cache-status")
            .is_some_and(|said| said.contains("fwd-status=304"))
            .then_some(answer)
    });
    assert_eq!((hers.text(), hers.field("set-cookie")), ("page", Some("sid=alice")));
    let his = hit(&gateway, "/");
    assert_eq!((his.text(), his.field("set-cookie")), ("page", None));
}

/// A fetch that began before the change brings what was true before it, also when it is for one of
/// several variants.
#[test]
fn what_was_under_way_when_its_url_changed_is_not_kept() {
    let (arrived, changed) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (here, go_on) = (Arc::clone(&arrived), Arc::clone(&changed));
    let old = AtomicUsize::new(0);
    let upstream = Upstream::start(move |connection| {
        loop {
            let request = connection.request()?;
            let fields = format!("{FRESH}Vary: Accept-Language\r\n");
            let german = request.field("accept-language") == Some("de");
            if request.method() == "GET" && german && old.fetch_add(1, Ordering::SeqCst) == 0 {
                here.wait();
                go_on.wait();
                connection.try_send(response(&fields, "old"))?;
            } else {
                connection.try_send(response(&fields, "new"))?;
            }
        }
    });
    let gateway = caching(&upstream, &json!({}));
    let ask = |language: &str| gateway.ask("GET", "/", &format!("Accept-Language: {language}\r\n"));
    ask("en");
    assert_eq!(ask("en").field("cache-status"), Some("zproxy; hit"), "its variants are known");

    let early = std::thread::scope(|scope| {
        let early = scope.spawn(|| ask("de"));
        arrived.wait();
        assert_eq!(gateway.ask("PUT", "/", "Content-Length: 0\r\n").status(), 200);
        changed.wait();
        early.join().unwrap()
    });

    assert_eq!(early.text(), "old", "who asked before gets what was true then");
    assert_eq!(ask("de").text(), "new");
    assert_eq!(ask("de").field("cache-status"), Some("zproxy; hit"));
}

/// Who shares a body that is too large to be kept waits for slower ones for some seconds, not for as long as
/// those please.
#[test]
fn a_slow_client_does_not_hold_up_those_who_share_with_it() {
    const CHUNKS: usize = 400;
    let shared = Arc::new(Barrier::new(2));
    let go_on = Arc::clone(&shared);
    let upstream = Upstream::start(move |connection| {
        connection.request()?;
        let chunk = format!("{:x}\r\n{}\r\n", 50_000, "x".repeat(50_000));
        connection
            .try_send(format!("HTTP/1.1 200 OK\r\n{FRESH}Transfer-Encoding: chunked\r\n\r\n"))?;
        connection.try_send("1\r\nx\r\n")?;
        go_on.wait();
        for _ in 0..CHUNKS {
            connection.try_send(&chunk)?;
        }
        connection.try_send("0\r\n\r\n")
    });
    let gateway = caching(&upstream, &json!({ "max_body_bytes": 100_000 }));
    let [mut slow, mut fast] = [gateway.connect(), gateway.connect()];
    slow.receive_little();
    let head = |client: &mut Wire| {
        client.send("GET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n");
        client.try_response_head("GET").unwrap()
    };
    let slow_head = head(&mut slow);
    let answer = head(&mut fast);
    shared.wait();

    let answer = fast.take_body(answer).unwrap();

    assert_eq!(answer.body.len(), CHUNKS * 50_000 + 1);
    assert_eq!(upstream.requests().len(), 1);
    assert!(slow.take_body(slow_head).is_err(), "what it has got looks whole");
}

/// An idle time-out is for who takes nothing, not for who takes long.
#[test]
fn a_hit_may_take_as_long_as_its_client_reads() {
    let body = "x".repeat(16 << 20);
    let upstream = Upstream::start(move |connection| {
        loop {
            connection.request()?;
            connection.try_send(response(FRESH, &body))?;
        }
    });
    let grant = json!({ "bytes_max": 100_000_000, "object_bytes_max": 20_000_000 });
    let gateway = Gateway::start(json!({
        "limits": { "idle_timeout_ms": 2000 },
        "plugins": { "cache": { "path": guest("cache"), "allow": { "cache": grant } } },
        "routes": [{ "path": "/", "upstream": upstream.url(), "middleware": ["cache"] }],
    }));
    hit(&gateway, "/");
    let mut slow = gateway.connect();
    slow.receive_little();
    slow.send("GET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n");
    let head = slow.try_response_head("GET").unwrap();
    assert_eq!(head.field("cache-status"), Some("zproxy; hit"));

    // Slower than the time-out altogether, and never silent for so long.
    for _ in 0..64 {
        std::thread::sleep(std::time::Duration::from_millis(80));
        assert_eq!(slow.take(256 << 10).unwrap().len(), 256 << 10);
    }
}

/// Behind a proxy that ends TLS, a page for `https` is another than for `http`; who is not trusted cannot choose.
#[test]
fn the_scheme_of_a_key_is_what_a_trusted_proxy_says() {
    let upstream = Upstream::start(|connection| {
        loop {
            let scheme = connection.request()?.field("x-forwarded-proto").unwrap_or("").to_owned();
            connection.try_send(response(FRESH, &scheme))?;
        }
    });
    for trusted in [true, false] {
        let gateway = Gateway::start(json!({
            "trusted_proxies": if trusted { vec!["127.0.0.0/8"] } else { vec![] },
            "routes": [{ "path": "/", "upstream": upstream.url(), "middleware": ["cache"] }],
        }));
        for scheme in ["https", "http", "https"] {
            let answer = gateway.ask("GET", "/", &format!("X-Forwarded-Proto: {scheme}\r\n"));
            assert_eq!(answer.text(), if trusted { scheme } else { "http" });
        }
        let url = if trusted { "https://gateway.test/" } else { "http://gateway.test/" };
        let purged =
            gateway.admin_post("/cache/purge", json!({ "url": url }).to_string().as_bytes());
        assert_eq!(purged.json()["removed"], 1, "{}", purged.text());
    }
}
