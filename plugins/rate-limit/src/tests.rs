use zproxy_sdk::testing::{self, Answer, Loaded, Request, Response, set_unix_ms};

use super::*;

/// A thread is a host of its own, so that each test begins with nothing counted.
fn plugin(config: &str) -> Loaded<RateLimit> {
    set_unix_ms(1_000_000);
    testing::load(config).unwrap_or_else(|error| panic!("{config}: {error}"))
}

fn at(ms: u64) {
    set_unix_ms(1_000_000 + ms);
}

fn send(plugin: &Loaded<RateLimit>, request: Request) -> Answer {
    let answer = plugin.exchange(request, Response::status(200));
    assert_eq!(answer.failure(), None);
    answer
}

fn status(plugin: &Loaded<RateLimit>, request: Request) -> u16 {
    send(plugin, request).status()
}

/// How many of so many requests pass.
fn passes(plugin: &Loaded<RateLimit>, count: usize, request: &Request) -> usize {
    (0..count).filter(|_| status(plugin, request.clone()) == 200).count()
}

fn from(client: &str) -> Request {
    Request::get("/").from_client(client)
}

#[test]
fn sixty_a_minute_are_sixty_at_once_and_then_one_a_second() {
    let plugin = plugin(r#"{"requests_per_minute": 60}"#);

    assert_eq!(passes(&plugin, 100, &from("10.0.0.1")), 60);
    at(999);
    assert_eq!(passes(&plugin, 5, &from("10.0.0.1")), 0);
    at(1000);
    assert_eq!(passes(&plugin, 5, &from("10.0.0.1")), 1);
    at(11_000);
    assert_eq!(passes(&plugin, 20, &from("10.0.0.1")), 10);
    at(1_000_000);
    assert_eq!(passes(&plugin, 100, &from("10.0.0.1")), 60);
}

#[test]
fn every_window_can_be_written() {
    for (config, passing, back) in [
        (r#"{"requests_per_second": 10}"#, 10, 100),
        (r#"{"requests_per_minute": 10}"#, 10, 6000),
        (r#"{"requests_per_hour": 10}"#, 10, 360_000),
        (r#"{"requests_per_day": 10}"#, 10, 8_640_000),
        (r#"{"limits": [{"requests": 10, "window_seconds": 50}]}"#, 10, 5000),
        (r#"{"requests_per_second": 10, "burst": 3}"#, 3, 100),
        (r#"{"requests_per_second": 10, "burst": 30}"#, 30, 100),
        (r#"{"requests_per_second": 10, "enabled": false}"#, 50, 0),
    ] {
        // A client of its own, since the limits above may have the same name.
        let (plugin, client) = (plugin(config), from(&format!("10.0.0.{passing}")));
        let start = u64::try_from(config.len()).unwrap() * 100_000_000;
        at(start);
        assert_eq!(passes(&plugin, 50, &client), passing, "{config}");
        at(start + back);
        assert_eq!(passes(&plugin, 1, &client), 1, "{config}");
    }
}

/// draft-ietf-httpapi-ratelimit-headers-10, RFC 9110 §10.2.3, RFC 6585 §4.
#[test]
fn answers_say_what_is_left() {
    let plugin = plugin(r#"{"requests_per_minute": 60, "burst": 2}"#);

    let first = send(&plugin, from("10.0.0.1"));
    assert_eq!(first.header("ratelimit-policy"), Some(r#""60-per-minute";q=60;w=60"#));
    assert_eq!(first.header("ratelimit"), Some(r#""60-per-minute";r=1;t=1"#));
    at(500);
    let second = send(&plugin, from("10.0.0.1"));
    assert_eq!(second.header("ratelimit"), Some(r#""60-per-minute";r=0;t=2"#));
    let refused = send(&plugin, from("10.0.0.1"));

    assert_eq!(refused.status(), 429);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.header("ratelimit"), Some(r#""60-per-minute";r=0;t=1"#));
    assert_eq!(refused.header("ratelimit-policy"), Some(r#""60-per-minute";q=60;w=60"#));
    assert_eq!(refused.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(refused.header("proxy-status"), Some("zproxy; error=http_request_denied"));
    assert!(refused.upstream_request().is_none());
    assert_eq!(testing::metric("refused"), Some(1.0));
    let asks_for_json = |accept: &str| {
        let answer = send(&plugin, from("10.0.0.1").with_header("accept", accept));
        answer.header("content-type") == Some("application/problem+json")
    };
    assert!(asks_for_json("text/html, application/*;q=0.1") && asks_for_json("a/b+json"));
    assert!(!asks_for_json("application/json;q=0, */*"));
}

#[test]
fn answers_say_nothing_when_told_so() {
    let plugin = plugin(r#"{"requests_per_minute": 1, "headers": false}"#);

    assert_eq!(send(&plugin, from("10.0.0.1")).header("ratelimit"), None);
    let refused = send(&plugin, from("10.0.0.1"));

    assert_eq!((refused.status(), refused.header("ratelimit")), (429, None));
    assert_eq!(refused.header("retry-after"), Some("60"));
}

/// What a request takes from the first limit it gets back when the second refuses it.
#[test]
fn all_limits_hold_and_a_refused_request_takes_from_none() {
    let plugin = plugin(
        r#"{"limits": [{"requests_per_hour": 1000, "name": "hour"}, {"requests_per_second": 10}]}"#,
    );

    let first = send(&plugin, from("10.0.0.1"));
    assert_eq!(first.header("ratelimit"), Some(r#""hour";r=999;t=4, "10-per-second";r=9;t=1"#));
    assert_eq!(
        first.header("ratelimit-policy"),
        Some(r#""hour";q=1000;w=3600, "10-per-second";q=10;w=1"#)
    );
    assert_eq!(passes(&plugin, 100, &from("10.0.0.1")), 9);

    at(1000);
    let next = send(&plugin, from("10.0.0.1"));
    assert_eq!(next.header("ratelimit"), Some(r#""hour";r=989;t=39, "10-per-second";r=9;t=1"#));
}

/// A customer has a /64 at least (RFC 6177), and could use a new address for every request.
#[test]
fn clients_are_told_apart_by_their_networks() {
    let plugin = plugin(r#"{"requests_per_minute": 1}"#);
    for (client, expected) in [
        ("10.0.0.1", 200),
        ("10.0.0.1", 429),
        ("::ffff:10.0.0.1", 429),
        ("10.0.0.2", 200),
        ("2001:db8::1", 200),
        ("2001:db8::2", 429),
        ("2001:db8:0:0:ffff::", 429),
        ("2001:db8:0:1::1", 200),
        // A Unix socket has no address: all behind it are one.
        ("", 200),
        ("unix", 429),
    ] {
        assert_eq!(status(&plugin, from(client)), expected, "{client}");
    }

    let config = r#"{"requests_per_minute": 1, "ipv4_prefix": 24, "ipv6_prefix": 128}"#;
    let plugin = testing::load::<RateLimit>(config).unwrap();
    for (client, expected) in [
        ("10.0.0.1", 200),
        ("10.0.0.9", 429),
        ("10.0.1.1", 200),
        ("2001:db8::1", 200),
        ("2001:db8::2", 200),
    ] {
        assert_eq!(status(&plugin, from(client)), expected, "{client}");
    }
}

#[test]
fn keys_tell_requests_apart() {
    let by_header = plugin(r#"{"requests_per_minute": 1, "key": "header:X-Api-Key"}"#);
    let long = "k".repeat(5000);
    for (key, client, expected) in [
        (Some("a"), "10.0.0.1", 200),
        (Some("a"), "10.0.0.2", 429),
        (Some("b"), "10.0.0.1", 200),
        (Some(""), "10.0.0.1", 200),
        // Without it the client counts, so that leaving it out frees nobody.
        (None, "10.0.0.1", 200),
        (None, "10.0.0.1", 429),
        (None, "10.0.0.2", 200),
        (Some(&*long), "10.0.0.1", 200),
        (Some(&*long), "10.0.0.1", 429),
        (Some(&long[1..]), "10.0.0.1", 200),
    ] {
        let mut request = from(client);
        if let Some(key) = key {
            request = request.with_header("x-api-key", key);
        }
        assert_eq!(status(&by_header, request), expected, "{:?}", key.map(str::len));
    }

    let both = plugin(r#"{"requests_per_minute": 1, "key": ["header:a", "header:b"]}"#);
    for (a, b, expected) in [
        ("x", "yz", 200),
        ("xy", "z", 200),
        ("x", "yz", 429),
        (&*long, &*long, 200),
        (&*long, &*long, 429),
    ] {
        let request = from("10.0.0.1").with_header("a", a).with_header("b", b);
        assert_eq!(status(&both, request), expected);
    }

    let by_route = plugin(r#"{"requests_per_minute": 1, "key": "route"}"#);
    assert_eq!(status(&by_route, from("10.0.0.1")), 200);
    assert_eq!(status(&by_route, from("10.0.0.2")), 429);
}

/// Two limits never count together, whatever they are; the same limit in two places is one.
#[test]
fn limits_are_told_apart_by_what_they_are() {
    let first = plugin(r#"{"requests_per_minute": 1}"#);
    let same = testing::load::<RateLimit>(r#"{"requests_per_minute": 1}"#).unwrap();
    let other = testing::load::<RateLimit>(r#"{"requests_per_hour": 1}"#).unwrap();

    assert_eq!(status(&first, from("10.0.0.1")), 200);
    assert_eq!(status(&same, from("10.0.0.1")), 429);
    assert_eq!(status(&other, from("10.0.0.1")), 200);

    let worker = r#"{"requests_per_minute": 1, "scope": "worker"}"#;
    for _ in 0..2 {
        let plugin = testing::load::<RateLimit>(worker).unwrap();
        assert_eq!(passes(&plugin, 5, &from("10.0.0.1")), 1);
    }
}

#[test]
fn requests_can_cost_more() {
    let fixed = plugin(r#"{"requests_per_minute": 60, "cost": 25}"#);
    assert_eq!(passes(&fixed, 5, &from("10.0.0.1")), 2);

    let by_header = plugin(r#"{"requests_per_minute": 10, "cost": {"header": "x-cost"}}"#);
    let costing = |cost: &str| status(&by_header, from("10.0.0.1").with_header("X-Cost", cost));
    assert_eq!(costing("4"), 200);
    assert_eq!(costing("11"), 429);
    assert_eq!(costing("99999999999"), 429, "more than can ever be taken");
    assert_eq!(costing("much"), 200, "what is no number is one");
    assert_eq!(costing("-5"), 200);
    assert_eq!(costing("0"), 200, "nobody is free of charge");
    assert_eq!(costing("4"), 429);
    assert_eq!(costing("3"), 200);
    let never = send(&by_header, from("10.0.0.1").with_header("X-Cost", "11"));
    assert_eq!((never.status(), never.header("retry-after")), (429, None));
}

#[test]
fn who_is_on_the_allow_list_is_not_counted() {
    let plugin = plugin(r#"{"requests_per_minute": 1, "allow_list": ["10.0.0.0/8", "::1"]}"#);

    assert_eq!(passes(&plugin, 5, &from("10.1.2.3")), 5);
    assert_eq!(passes(&plugin, 5, &from("::ffff:10.1.2.3")), 5);
    assert_eq!(passes(&plugin, 5, &from("::1")), 5);
    assert_eq!(send(&plugin, from("::1")).header("ratelimit"), None);
    assert_eq!(passes(&plugin, 5, &from("11.1.2.3")), 1);
}

#[test]
fn a_dry_run_refuses_nobody_and_counts_what_it_would() {
    let plugin = plugin(r#"{"requests_per_minute": 2, "dry_run": true}"#);

    assert_eq!(passes(&plugin, 5, &from("10.0.0.1")), 5);
    let answer = send(&plugin, from("10.0.0.1"));

    assert_eq!(answer.header("ratelimit"), None);
    assert_eq!(testing::metric("would_refuse"), Some(4.0));
    let line = "would be refused (dry run) by `2-per-minute`: 10.0.0.1 on route `test`";
    assert!(answer.log().iter().any(|(_, text)| text == line), "{:?}", answer.log());
}

#[test]
fn every_problem_is_told_with_its_place() {
    for (config, expected) in [
        ("{}", &[("", "there is no limit")][..]),
        (r#"{"requests_per_minute": 0}"#, &[("/requests_per_minute", "0 allows nothing")]),
        (r#"{"requests_per_minute": "60"}"#, &[("/requests_per_minute", "invalid type")]),
        (r#"{"requests_per_minute": -1}"#, &[("/requests_per_minute", "invalid value")]),
        (r#"{"requests_per_minuet": 1}"#, &[("/requests_per_minuet", "unknown field")]),
        (
            r#"{"requests_per_minute": 1, "requests_per_second": 1}"#,
            &[("", "says how many requests twice")],
        ),
        (
            r#"{"requests_per_minute": 1, "burst": 0, "key": "ip", "scope": "cluster", "cost": 0,
                "allow_list": ["10.0.0.0/8", "x"], "ipv6_prefix": 129}"#,
            &[
                ("/scope", "there is no scope `cluster`"),
                ("/ipv6_prefix", "`129` is no length"),
                ("/burst", "0 allows nothing"),
                ("/key", "there is no key `ip`"),
                ("/allow_list/1", "`x` is no network"),
                ("/cost", "0 limits nothing"),
            ],
        ),
        (
            r#"{"key": ["client-ip", "header:a b", "claim:"], "limits": [
                {"requests": 5}, {"requests": 5, "window_seconds": 0},
                {"requests_per_hour": 5, "window_seconds": 5}, {"name": "a b", "requests_per_hour": 5}, {}]}"#,
            &[
                ("/limits/0/requests", "in what time?"),
                ("/key/1", "there is no key `header:a b`"),
                ("/key/2", "there is no key `claim:`"),
                ("/limits/1/window_seconds", "write 1 to"),
                ("/limits/2/window_seconds", "`requests_per_hour` says that"),
                ("/limits/3/name", "write letters"),
                ("/limits/4", "says how many requests by none"),
            ],
        ),
        (r#"{"requests_per_minute": 1, "key": []}"#, &[("/key", "is empty")]),
        (r#"{"requests_per_minute": 1, "key": 5}"#, &[("/key", "write a string or")]),
        (r#"{"requests_per_minute": 5, "cost": 6}"#, &[("/cost", "`6` is more than the burst")]),
        (
            r#"{"requests_per_minute": 5, "cost": {"header": ""}}"#,
            &[("/cost/header", "cannot name")],
        ),
        (
            r#"{"burst": 5, "limits": [{"requests_per_hour": 5}]}"#,
            &[("/burst", "belongs to a limit")],
        ),
        (
            r#"{"requests_per_hour": 5, "limits": [{"requests_per_hour": 5}]}"#,
            &[("/limits", "two limits are called `5-per-hour`")],
        ),
    ] {
        let problems = testing::problems::<RateLimit>(config);
        let matches = problems.len() == expected.len()
            && problems.iter().zip(expected).all(|(problem, (path, message))| {
                problem.path == *path && problem.message.contains(message)
            });
        assert!(matches, "{config}\n{problems:#?}");
        assert!(testing::load::<RateLimit>(config).is_err(), "{config}");
    }
}
