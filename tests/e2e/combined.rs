//! The built-in plugins together, in each order: who is checked, who is counted, and what is kept.
//!
//! Not here: each of them alone (`cache`, `jwt`, `rate_limit`).

use serde_json::{Value, json};

use crate::harness::{Gateway, JWT_SAMPLE, Upstream, guest, run};

const PRIVATE: &str = "Cache-Control: max-age=600\r\n";
const PUBLIC: &str = "Cache-Control: public, max-age=600\r\n";

/// Pages that may be kept; what begins with `/public` says that it is for everybody.
fn site() -> Upstream {
    Upstream::start(|connection| {
        loop {
            let request = connection.request()?;
            let fields = if request.target().starts_with("/public") { PUBLIC } else { PRIVATE };
            connection
                .try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n{fields}\r\npage"))?;
        }
    })
}

fn gateway(upstream: &Upstream, order: &[&str], limit: &Value) -> Gateway {
    Gateway::start(json!({
        "middleware": {
            "jwt": { "jwt_secret": "your-256-bit-secret" },
            "rate-limit": limit,
            "cache": { "negative_ttl_seconds": { "4xx": 600, "5xx": 600 } },
        },
        "routes": [{ "path": "/", "upstream": upstream.url(), "middleware": order }],
    }))
}

fn token() -> String {
    format!("Authorization: Bearer {JWT_SAMPLE}\r\n")
}

/// Behind the cache, a limit spares the upstream; before it, the gateway.
#[test]
fn a_limit_counts_hits_where_it_comes_before_the_cache() {
    let limit = json!({ "requests_per_minute": 3, "burst": 3 });
    for (order, counts_hits) in [(["cache", "rate-limit"], false), (["rate-limit", "cache"], true)]
    {
        let upstream = site();
        let gateway = gateway(&upstream, &order, &limit);
        assert_eq!(gateway.get("/a").field("cache-status"), Some("zproxy; fwd=uri-miss; stored"));

        let mut statuses: Vec<u16> = (0..5).map(|_| gateway.get("/a").status()).collect();
        statuses.extend(["/b", "/c", "/d"].map(|path| gateway.get(path).status()));

        let expected = match counts_hits {
            false => [200, 200, 200, 200, 200, 200, 200, 429],
            true => [200, 200, 429, 429, 429, 429, 429, 429],
        };
        assert_eq!(statuses, expected, "{order:?}");
        let refused = gateway.get("/d");
        assert_eq!(refused.status(), 429);
        assert!(refused.field("retry-after").is_some());
        assert_ne!(refused.field("cache-status"), Some("zproxy; hit"), "{order:?}: it was kept");
    }
}

/// Whatever the order: without a token there is nothing but what is public, and that only where nobody
/// asks for one first; no refusal becomes anybody else's answer.
#[test]
fn jwt_rate_limit_and_cache_keep_their_words_in_each_order() {
    let limit = json!({ "requests_per_minute": 12, "burst": 12 });
    for order in [
        ["jwt", "rate-limit", "cache"],
        ["rate-limit", "jwt", "cache"],
        ["jwt", "cache", "rate-limit"],
        ["rate-limit", "cache", "jwt"],
        ["cache", "jwt", "rate-limit"],
        ["cache", "rate-limit", "jwt"],
    ] {
        let upstream = site();
        let gateway = gateway(&upstream, &order, &limit);
        let at = |name| order.iter().position(|known| *known == name);
        let open = at("cache") < at("jwt");

        for _ in 0..2 {
            assert_eq!(gateway.get("/own").status(), 401, "{order:?}");
            let own = gateway.ask("GET", "/own", &token());
            assert_eq!((own.status(), own.text()), (200, "page"), "{order:?}");
        }
        assert_eq!(gateway.ask("GET", "/public", &token()).status(), 200);
        let public = gateway.get("/public");
        assert_eq!(public.status(), if open { 200 } else { 401 }, "{order:?}");
        assert_eq!(public.field("cache-status") == Some("zproxy; hit"), open, "{order:?}");

        let mut paths = (0..100).map(|n| format!("/public/{n}"));
        let refused = paths.find(|path| gateway.ask("GET", path, &token()).status() == 429);
        let refused = gateway.ask("GET", &refused.unwrap(), &token());
        assert_eq!(refused.status(), 429);
        assert_ne!(refused.field("cache-status"), Some("zproxy; hit"), "{order:?}");
        let left = gateway.ask("GET", "/public", &token());
        let counts_hits = at("rate-limit") < at("cache");
        assert_eq!(left.status(), if counts_hits { 429 } else { 200 }, "{order:?}");
    }
}

/// A plugin that is shown a body may change it, for this client alone: in both orders it sees each response
/// once, and none is kept.
#[test]
fn a_cache_beside_a_plugin_that_changes_bodies_keeps_nothing() {
    for order in [["cache", "body"], ["body", "cache"]] {
        let upstream = site();
        let gateway = Gateway::start(json!({
            "middleware": { "body": { "at": "response", "chunk": "append", "with": "!" } },
            "plugins": { "body": { "path": guest("body") } },
            "routes": [{ "path": "/", "upstream": upstream.url(), "middleware": order }],
        }));
        for count in 1..4 {
            let answer = gateway.get("/");
            assert_eq!((answer.status(), answer.text()), (200, "page!"), "{order:?}");
            assert_ne!(answer.field("cache-status"), Some("zproxy; hit"), "{order:?}");
            assert_eq!(upstream.requests().len(), count);
        }
    }
}

/// What cannot work is refused before anything runs, each with its place.
#[test]
fn hostile_configurations_of_a_cache_are_refused_with_their_place() {
    for (config, message) in [
        (json!({ "ttl_seconds": -1 }), "ttl_seconds"),
        (json!({ "ttl_seconds": 4_294_967_296_u64 }), "ttl_seconds"),
        (json!({ "ttl_seconds": "60" }), "ttl_seconds"),
        (json!({ "ttl_second": 60 }), "ttl_second"),
        (json!({ "key": [] }), "middleware[1].config.key: plugin `cache`: without `path`"),
        (json!({ "key": ["path", "header:a\r\nb"] }), "middleware[1].config.key[1]: "),
        (json!({ "key": vec!["path"; 30] }), "at most 24 parts"),
        (json!({ "vary": ["a:b"] }), "middleware[1].config.vary[0]: "),
        (json!({ "vary": ["x", "a:b"], "max_body_bytes": 0 }), "middleware[1].config.vary[1]: "),
        (json!({ "vary": ["a:b"], "max_body_bytes": 0 }), "middleware[1].config.max_body_bytes: "),
        (json!({ "bypass_header": "x y" }), "config.bypass_header: "),
        (json!({ "negative_ttl_seconds": { "206": 1 } }), "config.negative_ttl_seconds"),
        (json!({ "negative_ttl_seconds": { "*": 1 } }), "negative_ttl_seconds"),
        (json!({ "heuristic_percent": 256 }), "heuristic_percent"),
        (json!({ "max_body_bytes": 0 }), "config.max_body_bytes: "),
        (json!([60]), "must be an object"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let place = json!({ "plugin": "cache", "config": config });
        let whole = json!({
            "listen_port": 0,
            "routes": [{ "path": "/", "upstream": "http://127.0.0.1:9", "middleware": ["jwt", place] }],
            "middleware": { "jwt": { "jwt_secret": "your-256-bit-secret" } },
        });
        std::fs::write(dir.path().join("zproxy.json"), whole.to_string()).unwrap();

        let checked = run(dir.path(), &["check"]);

        assert_ne!(checked.code, Some(0), "{config}");
        let said = &checked.stderr;
        assert!(
            said.contains("routes[0].middleware[1]") && said.contains(message),
            "{config}: {said}"
        );
    }
}
