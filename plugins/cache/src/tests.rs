//! The plugin as a whole, through the SDK's host.

use zproxy_sdk::testing::{self, Answer, Loaded, Request, Response};

use super::*;

/// A moment after which there is a past.
const NOW_MS: u64 = 1_700_000_000_000;

struct Site {
    plugin: Loaded<Cache>,
    now_ms: std::cell::Cell<u64>,
}

impl Site {
    fn new(config: &str) -> Self {
        testing::set_unix_ms(NOW_MS);
        let plugin = testing::load::<Cache>(config).unwrap();
        Self { plugin, now_ms: NOW_MS.into() }
    }

    fn wait(&self, seconds: u64) {
        self.now_ms.set(self.now_ms.get() + seconds * 1000);
        testing::set_unix_ms(self.now_ms.get());
    }

    #[track_caller]
    fn ask(&self, request: Request, upstream: Response) -> Answer {
        let answer = self.plugin.exchange(request, upstream);
        assert_eq!(answer.failure(), None);
        answer
    }

    #[track_caller]
    fn get(&self, fields: &[(&str, &str)], upstream: Response) -> Answer {
        let mut request = Request::get("/");
        for (name, value) in fields {
            request = request.with_header(name, value);
        }
        self.ask(request, upstream)
    }
}

fn ok(fields: &[(&str, &str)], body: &str) -> Response {
    let mut response = Response::status(200).with_body(body);
    for (name, value) in fields {
        response = response.with_header(name, value);
    }
    response
}

fn said(answer: &Answer) -> &str {
    answer.header("cache-status").unwrap_or_default()
}

const FRESH: (&str, &str) = ("cache-control", "max-age=100");

#[test]
fn a_fresh_response_is_served_with_its_age() {
    let site = Site::new("{}");
    let first = site.get(&[], ok(&[FRESH, ("x-a", "1")], "one"));
    assert_eq!(said(&first), "zproxy; fwd=uri-miss; stored");
    site.wait(7);

    let second = site.get(&[], ok(&[], "two"));

    assert_eq!((second.status(), second.body(), said(&second)), (200, &b"one"[..], "zproxy; hit"));
    assert_eq!((second.header("age"), second.header("x-a")), (Some("7"), Some("1")));
    site.wait(94);
    assert_eq!(site.get(&[], ok(&[], "three")).body(), b"three");
}

/// A hit that depends on nothing but the fields that the hook is handed may be given again, to the end of its freshness.
#[test]
fn plain_hits_may_be_given_again_until_they_are_stale() {
    let site =
        Site::new(r#"{ "key": ["host", "path", "cookie:lang"], "bypass_header": "x-past" }"#);
    let repeats = |fields: &[(&str, &str)]| site.get(fields, ok(&[], "new")).repeats_for();
    assert_eq!(
        site.get(&[], ok(&[FRESH, ("age", "20"), ("etag", "\"1\"")], "one")).repeats_for(),
        None
    );
    site.wait(7);

    assert_eq!(repeats(&[]), Some(Duration::from_secs(73)));

    for told in [
        ("cache-control", "max-age=50"),
        ("if-none-match", "\"1\""),
        ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("range", "bytes=0-0"),
        ("x-past", "1"),
    ] {
        assert_eq!(repeats(&[told]), None, "{told:?}");
    }
}

/// Which variant it is must be seen in the declared fields.
#[test]
fn variants_may_be_given_again_when_their_field_is_declared() {
    for (config, path, vary, repeats) in [
        ("{}", "/a", "accept-encoding", true),
        ("{}", "/b", "accept", false),
        ("{}", "/c", "accept-encoding, x", false),
        // The operator has named it.
        (r#"{ "vary": ["accept"] }"#, "/d", "accept", true),
    ] {
        let site = Site::new(config);
        site.ask(Request::get(path), ok(&[FRESH, ("vary", vary)], "one"));
        let again = site.ask(Request::get(path), ok(&[], "two"));
        assert_eq!((again.body(), again.repeats_for().is_some()), (&b"one"[..], repeats), "{path}");
    }
}

/// What is stale is served for as long as its upstream is away, which nobody knows beforehand.
#[test]
fn what_is_stale_is_not_given_again() {
    let site = Site::new("{}");
    site.get(&[], ok(&[("cache-control", "max-age=1, stale-while-revalidate=60")], "one"));
    site.wait(5);
    let stale = site.get(&[], ok(&[], "two"));
    assert_eq!((stale.body(), stale.repeats_for()), (&b"one"[..], None));
}

#[test]
fn requests_may_want_less_or_more_than_what_is_stored() {
    let site = Site::new("{}");
    site.get(&[], ok(&[FRESH], "one"));
    site.wait(10);
    let body = |directives| {
        let answer =
            site.get(&[("cache-control", directives)], ok(&[("cache-control", "no-store")], "new"));
        String::from_utf8(answer.body().to_vec()).unwrap()
    };

    assert_eq!(body("max-age=10"), "one");
    assert_eq!(body("min-fresh=90"), "one");
    assert_eq!(body("only-if-cached"), "one");
    assert_eq!(body("no-store"), "new");
    assert_eq!(body("max-age=9"), "new");
    site.get(&[], ok(&[FRESH], "two"));
    assert_eq!(body("no-cache"), "new");
    site.get(&[], ok(&[FRESH], "three"));
    site.wait(105);
    assert_eq!(body("max-stale=4"), "new");
    site.get(&[], ok(&[FRESH], "four"));
    site.wait(105);
    assert_eq!(body("max-stale=5"), "four");
    assert_eq!(body("max-stale"), "four");
    let nothing =
        site.ask(Request::get("/none").with_header("cache-control", "only-if-cached"), ok(&[], ""));
    assert_eq!(nothing.status(), 504);
}

#[test]
fn each_variant_is_found_again() {
    let site = Site::new("{}");
    let vary = |body: &str| ok(&[FRESH, ("vary", "Accept-Language")], body);
    let ask = |language: &str, body: &str| {
        let answer = site.get(&[("accept-language", language)], vary(body));
        String::from_utf8(answer.body().to_vec()).unwrap()
    };

    assert_eq!([ask("en", "english"), ask("de", "deutsch")], ["english", "deutsch"]);
    assert_eq!([ask("EN", "x"), ask("de", "x")], ["english", "deutsch"]);
    assert_eq!(site.get(&[], vary("none")).body(), b"none");
    assert_eq!(site.get(&[], vary("x")).body(), b"none");
    for star in ["*", "a, *", ", *", "*, *"] {
        let site = Site::new("{}");
        testing::load::<Cache>("{}").unwrap();
        let request = || Request::get(&format!("/{star}").replace([' ', '*', ','], "s"));
        site.ask(request(), ok(&[FRESH, ("vary", star)], "one"));
        assert_eq!(site.ask(request(), ok(&[], "two")).body(), b"two", "{star}");
    }
}

#[test]
fn what_is_stale_is_asked_about_and_good_again() {
    let site = Site::new("{}");
    site.get(&[], ok(&[FRESH, ("etag", "\"1\""), ("x-a", "old")], "one"));
    site.wait(101);
    let not_modified = || {
        Response::status(304).with_header("x-a", "new").with_header("cache-control", "max-age=50")
    };

    let validated = site.get(&[], not_modified());

    assert_eq!((validated.status(), validated.body()), (200, &b"one"[..]));
    assert_eq!(validated.header("x-a"), Some("new"));
    assert_eq!(said(&validated), "zproxy; fwd=stale; fwd-status=304");
    let hit = site.get(&[], ok(&[], "two"));
    assert_eq!(
        (hit.body(), hit.header("x-a"), said(&hit)),
        (&b"one"[..], Some("new"), "zproxy; hit")
    );
    site.wait(51);
    let client_has_it = site.get(&[("if-none-match", "\"1\"")], not_modified());
    assert_eq!((client_has_it.status(), client_has_it.body()), (304, &b""[..]));
}

#[test]
fn conditions_and_ranges_are_answered_from_the_store() {
    let site = Site::new("{}");
    site.get(&[], ok(&[FRESH, ("etag", "\"1\""), ("content-type", "a/b")], "0123456789"));

    let same = site.get(&[("if-none-match", "\"1\"")], ok(&[], ""));
    assert_eq!((same.status(), same.header("etag")), (304, Some("\"1\"")));
    assert_eq!(same.header("content-type"), None);
    let part = site.get(&[("range", "bytes=2-4")], ok(&[], ""));
    assert_eq!((part.status(), part.body()), (206, &b"234"[..]));
    assert_eq!(part.header("content-range"), Some("bytes 2-4/10"));
    let beyond = site.get(&[("range", "bytes=10-")], ok(&[], ""));
    assert_eq!((beyond.status(), beyond.header("content-range")), (416, Some("bytes */10")));
    let other = site.get(&[("range", "bytes=2-4"), ("if-range", "\"2\"")], ok(&[], ""));
    assert_eq!((other.status(), other.body().len()), (200, 10));
}

#[test]
fn an_upstream_that_fails_is_covered_by_what_is_stale() {
    let site = Site::new(r#"{ "stale_if_error_seconds": 10 }"#);
    site.get(&[], ok(&[FRESH], "one"));
    site.wait(105);

    let stale = site.get(&[], Response::status(503));
    assert_eq!(
        (stale.status(), stale.body(), stale.header("age")),
        (200, &b"one"[..], Some("105"))
    );
    site.wait(10);
    assert_eq!(site.get(&[], Response::status(503)).status(), 503);
    let site = Site::new("{}");
    let strict = ("cache-control", "max-age=1, must-revalidate");
    site.ask(Request::get("/strict"), ok(&[strict], "one"));
    site.wait(2);
    assert_eq!(site.ask(Request::get("/strict"), Response::status(503)).status(), 503);
}

/// RFC 9211 §2: every answer says what the cache did, or why it did nothing.
#[test]
fn every_outcome_is_said() {
    let site = Site::new(r#"{ "bypass_header": "x-past" }"#);
    let stale = ("cache-control", "max-age=10, stale-while-revalidate=5, stale-if-error=20");
    let fields = [stale, ("etag", "\"1\""), ("vary", "a")];
    let page = || ok(&fields, "page");
    let asks = |fields: &[(&str, &str)], upstream| said(&site.get(fields, upstream)).to_owned();

    assert_eq!(asks(&[("a", "1")], page()), "zproxy; fwd=uri-miss; stored");
    assert_eq!(asks(&[("a", "2")], page()), "zproxy; fwd=vary-miss; stored");
    assert_eq!(asks(&[("a", "1")], page()), "zproxy; hit");
    assert_eq!(
        asks(&[("a", "1"), ("cache-control", "no-cache")], Response::status(304)),
        "zproxy; fwd=request; fwd-status=304"
    );
    assert_eq!(asks(&[("a", "1"), ("x-past", "1")], page()), "zproxy; fwd=bypass");
    assert_eq!(
        asks(&[("a", "3"), ("cache-control", "only-if-cached")], page()),
        "zproxy; detail=only-if-cached"
    );
    site.wait(12);
    assert_eq!(asks(&[("a", "1")], page()), "zproxy; hit; ttl=-2");
    site.wait(5);
    assert_eq!(
        asks(&[("a", "1")], Response::status(503)),
        "zproxy; fwd=stale; fwd-status=503; detail=stale-if-error"
    );
    assert_eq!(asks(&[("a", "1")], Response::status(304)), "zproxy; fwd=stale; fwd-status=304");
    site.wait(60);
    assert_eq!(asks(&[("a", "1")], page()), "zproxy; fwd=stale; stored");
    let own = ("cache-control", "no-store");
    assert_eq!(said(&site.ask(Request::get("/own"), ok(&[own], ""))), "zproxy; fwd=uri-miss");
    let post = site.ask(Request::new("POST", "/"), ok(&[], ""));
    assert_eq!(said(&post), "zproxy; fwd=method");
    let behind = ok(&[FRESH, ("cache-status", "inner; hit")], "");
    let behind = site.ask(Request::get("/behind"), behind);
    assert_eq!(said(&behind), "inner; hit", "the first of two lines");
    assert_eq!(said(&site.ask(Request::get("/behind"), page())), "inner; hit, zproxy; hit");
}

/// As many as there are: each stays, and none is another's.
#[test]
fn a_url_may_have_many_variants() {
    let site = Site::new("{}");
    let ask = |number: u32| {
        let value = number.to_string();
        let answer = site.get(&[("x-user", &value)], ok(&[FRESH, ("vary", "x-user")], &value));
        (answer.body() == value.as_bytes(), said(&answer).ends_with("hit"))
    };
    assert!((0..1000).all(|number| ask(number) == (true, false)));
    assert!((0..1000).all(|number| ask(number) == (true, true)));
}

/// One client's cookie must not come with everybody's page, unless its server says that it may.
#[test]
fn pages_with_cookies_are_kept_when_they_say_so() {
    let site = Site::new("{}");
    let cookie = ("set-cookie", "session=1");
    for (path, asked, answered, kept) in [
        ("/sets", None, vec![cookie], false),
        ("/reads", Some("session=1"), vec![], false),
        ("/neither", None, vec![], true),
        ("/stated", Some("session=1"), vec![FRESH], true),
        ("/public", Some("session=1"), vec![("cache-control", "public")], true),
    ] {
        let mut request = Request::get(path);
        if let Some(cookie) = asked {
            request = request.with_header("cookie", cookie);
        }
        site.ask(request, ok(&answered, "one"));
        let next = site.ask(Request::get(path), ok(&[], "two"));
        assert_eq!(next.body() == b"one", kept, "{path}");
    }
}

#[test]
fn writing_to_a_url_forgets_what_is_stored_for_it() {
    let site = Site::new("{}");
    let store = |path: &str| {
        site.ask(Request::get(path), ok(&[FRESH], "old"));
    };
    let is_stored = |path: &str| {
        let request = Request::get(path).with_header("cache-control", "only-if-cached");
        site.ask(request, ok(&[], "")).status() == 200
    };
    ["/a", "/b", "/c", "/d"].iter().for_each(|path| store(path));
    let write = |method, path, status, fields: &[(&str, &str)]| {
        let mut response = Response::status(status);
        for (name, value) in fields {
            response = response.with_header(name, value);
        }
        site.ask(Request::new(method, path), response);
    };

    write("POST", "/a", 500, &[]);
    write("OPTIONS", "/a", 200, &[]);
    assert!(is_stored("/a"));
    write("PUT", "/a", 204, &[("location", "/b"), ("content-location", "http://localhost/c")]);
    assert_eq!(["/a", "/b", "/c", "/d"].map(is_stored), [false, false, false, true]);
    write("M-SEARCH", "/x", 200, &[("location", "http://elsewhere/d")]);
    assert!(is_stored("/d"));
    write("M-SEARCH", "/d", 200, &[]);
    assert!(!is_stored("/d"));
}

/// Nobody may get with a clean request what another has made with fields that nobody looks at.
#[test]
fn what_fields_outside_of_the_key_may_have_changed_is_not_stored() {
    let site = Site::new("{}");
    for name in UNKEYED {
        let request = Request::get("/p").with_header(name, "evil");
        site.ask(request, ok(&[FRESH], "poison"));
        let answer = site.ask(Request::get("/p"), ok(&[("cache-control", "no-store")], "clean"));
        assert_eq!(answer.body(), b"clean", "{name}");
    }
    site.ask(Request::get("/q").with_header("content-length", "3"), ok(&[FRESH], "poison"));
    assert_eq!(site.ask(Request::get("/q"), ok(&[], "clean")).body(), b"clean");
    let of = |path: &str| site.ask(Request::get(path), ok(&[FRESH], path));
    for path in ["/x", "/X", "/x/", "/x?", "/x?a=1", "/x?a=1&", "/%78"] {
        assert_eq!(of(path).body(), path.as_bytes(), "{path} is its own");
    }
}

/// A trusted proxy may name the host that its client has asked for, and an upstream may heed that.
#[test]
fn hosts_behind_a_trusted_proxy_have_responses_of_their_own() {
    let site = Site::new("{}");
    let of = |host: &str, body: &str| {
        let request = Request::get("/").with_header("x-forwarded-host", host);
        String::from_utf8(site.ask(request, ok(&[FRESH], body)).body().to_vec()).unwrap()
    };
    assert_eq!([of("a", "one"), of("b", "two")], ["one", "two"]);
    assert_eq!([of("a", "x"), of("b", "x")], ["one", "two"]);
    assert_eq!(site.get(&[], ok(&[FRESH], "own")).body(), b"own");
    assert_eq!(of("LOCALHOST", "x"), "own", "the same as `Host`");
}

#[test]
fn each_of_several_parameters_is_in_the_key() {
    let site = Site::new(r#"{ "key": ["path", "query:p"] }"#);
    let of = |query: &str| {
        let path = format!("/?{query}");
        site.ask(Request::get(&path), ok(&[FRESH], query)).body().to_vec()
    };
    assert_eq!([of("p=1"), of("p=1&x=2")], [b"p=1", b"p=1"]);
    for query in ["p=1&p=2", "p=2&p=1", "p=1&%70=3", "%70=1", "p", "p="] {
        assert_eq!(of(query), query.as_bytes());
    }
}

#[test]
fn authenticated_answers_are_not_for_others() {
    let site = Site::new("{}");
    let authorized = || Request::get("/").with_header("authorization", "Bearer x");
    site.ask(authorized(), ok(&[FRESH], "secret"));
    assert_eq!(site.get(&[], ok(&[("cache-control", "no-store")], "public")).body(), b"public");
    site.ask(authorized(), ok(&[("cache-control", "public, max-age=9")], "for all"));
    assert_eq!(site.get(&[], ok(&[], "")).body(), b"for all");
}

#[test]
fn the_operator_may_leave_requests_out() {
    let site = Site::new(r#"{ "bypass_header": "X-No-Cache" }"#);
    site.get(&[], ok(&[FRESH], "one"));
    let past = site.get(&[("x-no-cache", "1")], ok(&[FRESH], "two"));
    assert_eq!((past.body(), said(&past)), (&b"two"[..], "zproxy; fwd=bypass"));
    assert_eq!(site.get(&[], ok(&[], "")).body(), b"one");
}

#[test]
fn configurations_are_refused_by_the_key_that_is_wrong() {
    for (config, message) in [
        (r#"{ "ttl": 1 }"#, "unknown field `ttl`"),
        (r#"{ "ttl_seconds": -1 }"#, "ttl_seconds"),
        (r#"{ "key": ["host"] }"#, "/key: without `path`"),
        (r#"{ "key": ["path", "hots"] }"#, "/key/1: `hots` is no part"),
        (r#"{ "vary": ["a", "a b"] }"#, "/vary/1: `a b`"),
        (r#"{ "bypass_header": "" }"#, "/bypass_header: "),
        (r#"{ "negative_ttl_seconds": { "4x4": 1 } }"#, "/negative_ttl_seconds/4x4: `4x4`"),
        (r#"{ "negative_ttl_seconds": { "304": 1 } }"#, "`304`"),
        (r#"{ "heuristic_percent": 101 }"#, "0 to 100"),
        (r#"{ "heuristic_percent": 101, "vary": [""] }"#, "write 0 to 100\n/vary/0: `` cannot"),
        (r#"{ "max_body_bytes": 0 }"#, "max_body_bytes"),
    ] {
        let error = testing::load::<Cache>(config).unwrap_err();
        assert!(error.contains(message), "{config}: {error}");
    }
}
