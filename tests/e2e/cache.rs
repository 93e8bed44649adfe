//! The built-in plugin `cache`: what is answered without the upstream, and what nobody must get.
//!
//! Not here: one fetch for many clients (`cache_shared`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use serde_json::{Value, json};

use crate::harness::{Gateway, JWT_SAMPLE, Message, Upstream, eventually, guest, run};

pub(crate) const FRESH: &str = "Cache-Control: max-age=600\r\n";

/// A gateway with a cache in front of everything.
pub(crate) fn caching(upstream: &Upstream, config: &Value) -> Gateway {
    Gateway::start(json!({
        "plugins": { "cache": { "path": guest("cache"), "allow": { "cache": true } } },
        "routes": [{
            "path": "/", "upstream": upstream.url(),
            "middleware": [{ "plugin": "cache", "config": config }],
        }],
    }))
}

pub(crate) fn response(fields: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{fields}\r\n{body}", body.len())
}

/// Waits until an answer comes from the cache: one is kept when it has arrived, and its client may be faster.
#[track_caller]
pub(crate) fn hit(gateway: &Gateway, path: &str) -> Message {
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

/// Who names a Redis for the counters must not believe that it has the responses, too.
#[test]
fn a_check_says_that_responses_stay_in_each_gateway() {
    let dir = tempfile::TempDir::new().unwrap();
    let config = json!({
        "listeners": [{ "address": "127.0.0.1:0" }],
        "state": { "backend": "redis", "url": "redis://127.0.0.1:6379" },
        "routes": [{ "path": "/", "upstream": "http://127.0.0.1:1", "middleware": ["cache", "rate-limit"] }],
        "middleware": { "rate-limit": { "requests_per_minute": 60 } },
    });
    std::fs::write(dir.path().join("zproxy.json"), config.to_string()).unwrap();

    let checked = run(dir.path(), &["check"]);

    assert_eq!(checked.code, Some(0), "{checked:?}");
    let says = "plugin `cache` keeps its cached responses in the memory of each gateway";
    assert!(checked.stderr.contains(says), "{checked:?}");
    assert!(!checked.stderr.contains("`rate-limit` keeps"), "{checked:?}");
}

/// A purge or a write must reach what is given again without a call of the component, too.
#[test]
fn what_is_hit_again_and_again_can_be_purged_and_changed() {
    let version = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&version);
    let upstream = Upstream::start(move |connection| {
        loop {
            let request = connection.request()?;
            let plain = request.target().starts_with("/plain");
            let fields =
                if plain { FRESH.to_owned() } else { format!("{FRESH}Vary: Accept-Encoding\r\n") };
            let body = format!("version {}", now.load(Ordering::SeqCst));
            connection.try_send(response(&fields, &body))?;
        }
    });
    let gateway = caching(&upstream, &json!({}));
    for path in ["/plain", "/varied"] {
        for change in ["purge", "write"] {
            let old = format!("version {}", version.load(Ordering::SeqCst));
            gateway.get(path);
            hit(&gateway, path);
            for _ in 0..20 {
                assert_eq!(gateway.get(path).text(), old);
            }
            let new = format!("version {}", version.fetch_add(1, Ordering::SeqCst) + 1);

            match change {
                "purge" => {
                    let what = json!({ "url": format!("http://gateway.test{path}") });
                    gateway.admin_post("/cache/purge", what.to_string().as_bytes());
                }
                _ => assert_eq!(gateway.ask("POST", path, "Content-Length: 0\r\n").status(), 200),
            }

            assert_eq!(gateway.get(path).text(), new, "{path} after a {change}");
        }
    }
}

/// However a path is spelled: what its client gets from the cache is what the upstream would have answered to it.
#[test]
fn no_spelling_of_a_path_gets_anothers_page() {
    let upstream = Upstream::start(|connection| {
        loop {
            let request = connection.request()?;
            connection.try_send(response(FRESH, request.target()))?;
        }
    });
    let gateway = caching(&upstream, &json!({}));
    let paths = [
        "/a",
        "/A",
        "/a/",
        "//a",
        "/b/../a",
        "/%61",
        "/%2561",
        "/a%2f",
        "/a/.",
        "/a;x",
        "/a?",
        "/a?x",
        "/a?x&y",
        "/a?y&x",
        "/a%3fx",
        "/b/%2e%2e/a",
        "/a%00",
        "/a%0d%0aX:1",
    ];
    let truths: Vec<_> = paths
        .iter()
        .map(|path| gateway.ask("GET", path, "Cache-Control: no-store\r\n"))
        .map(|answer| (answer.status(), answer.text().to_owned()))
        .collect();

    for _ in 0..3 {
        for (path, truth) in paths.iter().zip(&truths) {
            let answer = gateway.get(path);
            let same = (answer.status(), answer.text()) == (truth.0, &*truth.1);
            assert!(same || truth.0 >= 400 && answer.status() == truth.0, "{path}: {answer:?}");
        }
    }
    assert!(truths.iter().filter(|(status, _)| *status == 200).count() > 10, "{truths:?}");
}
