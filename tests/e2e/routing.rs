//! Which request goes where, and what routes do without an upstream.
//!
//! Not here: choosing among servers (`balance`).

use serde_json::{Value, json};

use crate::harness::{Gateway, Message, Upstream};

/// A gateway whose routes answer with their own names.
fn named(routes: Value) -> Gateway {
    let mut routes = routes;
    for route in routes.as_array_mut().unwrap() {
        route["respond"] = json!({ "status": 200, "body": route["name"] });
    }
    Gateway::start(json!({ "routes": routes }))
}

fn ask(gateway: &Gateway, method: &str, host: &str, path: &str) -> Message {
    let mut client = gateway.connect();
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    client.response_to(method)
}

/// Interface §3, path syntax: host before no host, exact before the longest literal before a
/// parameter before a wildcard, then priority, then order.
#[test]
fn the_most_specific_route_wins() {
    let gateway = named(json!([
        { "name": "root", "path": "/" },
        { "name": "api", "path": "/api" },
        { "name": "users", "path": "/api/users" },
        { "name": "users-exact", "path": "/api/users", "match": "exact" },
        { "name": "user", "path": "/api/users/{id}" },
        { "name": "me", "path": "/api/users/me" },
        { "name": "posts", "path": "/api/users/{id}/posts", "match": "exact" },
        { "name": "files", "path": "/files/{*rest}" },
        { "name": "readme", "path": "/files/readme.txt" },
        { "name": "exact-only", "path": "/exact", "match": "exact" },
        { "name": "host", "path": "/", "hosts": ["one.example"] },
        { "name": "wild-host", "path": "/", "hosts": ["*.example"] },
        { "name": "wild-deep", "path": "/", "hosts": ["*.deep.example"] },
        { "name": "host-api", "path": "/api", "hosts": ["one.example", "two.test"] },
        { "name": "low", "path": "/equal/{a}", "match": "exact", "priority": -1 },
        { "name": "high", "path": "/equal/{b}", "match": "exact", "priority": 5, "methods": ["GET"] },
        { "name": "first", "path": "/order/{a}", "match": "exact", "methods": ["GET"] },
        { "name": "second", "path": "/order/{b}", "match": "exact" },
    ]));
    let mut problems = Vec::new();

    for (host, path, expected) in [
        ("any", "/", "root"),
        ("any", "/other", "root"),
        ("any", "/apis", "root"),
        ("any", "/api", "api"),
        ("any", "/api?x=/api/users", "api"),
        ("any", "/api/", "api"),
        ("any", "/api/x/y", "api"),
        ("any", "/api/users", "users-exact"),
        ("any", "/api/users?a=b", "users-exact"),
        ("any", "/api/users/7", "user"),
        ("any", "/api/users/7/x", "user"),
        ("any", "/api/users/7/posts", "posts"),
        ("any", "/api/users/7/posts/1", "user"),
        ("any", "/api/users/me", "me"),
        ("any", "/api/users/me/x", "me"),
        ("any", "/API", "root"),
        ("any", "/files/a/b/c", "files"),
        ("any", "/files/readme.txt", "readme"),
        ("any", "/exact", "exact-only"),
        ("any", "/exact/more", "root"),
        ("any", "/equal/1", "high"),
        ("any", "/order/1", "first"),
        ("one.example", "/", "host"),
        ("ONE.Example:8080", "/x", "host"),
        ("one.example", "/api/users", "host-api"),
        ("two.test", "/api/users", "host-api"),
        ("two.test", "/x", "root"),
        ("three.example", "/", "wild-host"),
        ("a.deep.example", "/", "wild-deep"),
        ("a.b.deep.example", "/", "wild-deep"),
        ("example", "/", "root"),
        ("notexample", "/", "root"),
    ] {
        let answer = ask(&gateway, "GET", host, path);
        if answer.text() != expected {
            problems.push(format!("{host} {path}: {} instead of {expected}", answer.text()));
        }
    }

    assert!(problems.is_empty(), "{problems:#?}");
    assert_eq!(ask(&gateway, "POST", "any", "/equal/1").text(), "low");
}

#[test]
fn what_no_route_takes_gets_a_404() {
    let gateway = named(json!([
        { "name": "api", "path": "/api" },
        { "name": "host", "path": "/", "hosts": ["one.example"] },
    ]));

    for (host, path) in [("any", "/"), ("any", "/apis"), ("two.example", "/x")] {
        assert_eq!(ask(&gateway, "GET", host, path).status(), 404, "{host} {path}");
    }
}

/// RFC 9110 §15.5.6, §10.2.1: 405 names what is allowed; HEAD goes where GET goes.
#[test]
fn a_method_that_no_route_takes_gets_a_405_with_allow() {
    let gateway = named(json!([
        { "name": "read", "path": "/things", "methods": ["GET"] },
        { "name": "write", "path": "/things", "methods": ["POST", "PUT"] },
        { "name": "odd", "path": "/odd", "methods": ["PROPFIND"] },
        // It must not take what the routes above refuse: they may have a guard in their chain.
        { "name": "rest", "path": "/" },
    ]));

    assert_eq!(ask(&gateway, "GET", "a", "/things").text(), "read");
    assert_eq!(ask(&gateway, "HEAD", "a", "/things").status(), 200);
    assert_eq!(ask(&gateway, "PUT", "a", "/things").text(), "write");
    assert_eq!(ask(&gateway, "PROPFIND", "a", "/odd").text(), "odd");
    // RFC 9110 §9.1: methods are case-sensitive.
    for method in ["DELETE", "get"] {
        let answer = ask(&gateway, method, "a", "/things");
        assert_eq!(answer.status(), 405, "{method}");
        let mut allowed: Vec<&str> = answer.field("allow").unwrap().split(", ").collect();
        allowed.sort_unstable();
        allowed.retain(|method| *method != "OPTIONS");
        assert_eq!(allowed, ["GET", "HEAD", "POST", "PUT"]);
    }
}

/// One spelling for every path: what a route guards cannot be reached by another spelling.
#[test]
fn a_guarded_path_cannot_be_reached_by_another_spelling() {
    let upstream = Upstream::answering("reached");
    let gateway = Gateway::start(json!({
        "routes": [
            { "path": "/", "upstream": upstream.url() },
            { "path": "/admin", "respond": { "status": 403, "body": "guarded" } },
        ],
    }));

    for path in [
        "/admin",
        "/admin/",
        "/admin/x",
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public/.%2E/admin/x",
        "/./admin",
        "/%2e/admin",
        "/%61dmin",
        "/%61%64%6d%69%6e",
        "/admin?x",
        "/admin/../admin",
        "/public/..;/admin",
        "/public/..%2fadmin",
        "/public/..%5cadmin",
        "/public\\..\\admin",
        "/../admin",
        "/public/../../admin",
        "/admin%00",
        "/admin%zz",
        "http://a/admin",
        "http://a/public/../admin",
    ] {
        let answer = ask(&gateway, "GET", "a", path);
        assert!([400, 403, 404].contains(&answer.status()), "{path}: {answer:?}");
    }
    assert_eq!(upstream.requests(), []);

    // The upstream sees the spelling by which the route was chosen.
    assert_eq!(ask(&gateway, "GET", "a", "/admin/../%7Eme/./a%2fb?q=%2e%2e/").text(), "reached");
    assert_eq!(upstream.last_request().target(), "/~me/a%2Fb?q=%2e%2e/");
}

#[test]
fn respond_answers_with_what_is_written() {
    let gateway = Gateway::start(json!({
        "routes": [
            { "path": "/teapot", "respond": {
                "status": 418,
                "headers": { "content-type": "application/json", "x-kind": "pot" },
                "body": "{\"short\":true}",
            } },
            { "path": "/empty", "respond": { "status": 204 } },
            { "path": "/plain", "respond": { "status": 200, "body": "text" } },
        ],
    }));
    let mut client = gateway.connect();

    let answer = client.exchange("GET /teapot HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((answer.status(), answer.text()), (418, "{\"short\":true}"));
    assert_eq!(answer.field("content-type"), Some("application/json"));
    assert_eq!(answer.field("x-kind"), Some("pot"));
    let answer = client.exchange("GET /empty HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((answer.status(), answer.field("content-length")), (204, None));
    // A body that nobody wants is taken off the connection, or the connection ends.
    let answer =
        client.exchange("POST /plain HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!((answer.status(), answer.text()), (200, "text"));
    if !answer.says_close() {
        client.send("HEAD /plain HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.response_to("HEAD");
        assert_eq!((answer.status(), answer.field("content-length")), (200, Some("4")));
    }
}

/// RFC 9110 §15.4.
#[test]
fn redirects_lead_where_they_say() {
    let gateway = Gateway::start(json!({
        "routes": [
            { "path": "/old/{*rest}", "redirect": { "to": "/new/{rest}", "status": 301 } },
            { "path": "/secure", "redirect": { "to": "https://{host}{path}?{query}", "status": 308 } },
            { "path": "/away", "redirect": { "to": "https://elsewhere.example/" } },
        ],
    }));

    for (path, status, location) in [
        ("/old/a/b", 301, "/new/a/b"),
        ("/secure/x?y=z", 308, "https://gateway.test/secure/x?y=z"),
        ("/away", 302, "https://elsewhere.example/"),
    ] {
        let answer = gateway.get(path);
        assert_eq!((answer.status(), answer.field("location")), (status, Some(location)), "{path}");
    }
    // What a client puts into a path cannot become a field.
    let answer = gateway.get("/old/a%0d%0aSet-Cookie:%20x=1");
    assert_eq!(answer.field("set-cookie"), None);
    assert!([301, 400].contains(&answer.status()), "{answer:?}");
}

#[test]
fn rewrites_change_what_the_upstream_sees() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::start(json!({
        "upstreams": { "test": { "servers": [upstream.address()] } },
        "routes": [
            { "path": "/strip", "upstream": "test", "rewrite": { "strip_prefix": "/strip" } },
            { "path": "/v1/{*rest}", "upstream": "test", "rewrite": { "path": "/v2/{rest}" } },
            { "path": "/host", "upstream": "test", "rewrite": { "host": "inside.example:81" } },
        ],
    }));

    for (path, seen, host) in [
        ("/strip/a?b=c", "/a?b=c", "gateway.test"),
        ("/strip", "/", "gateway.test"),
        ("/strip/", "/", "gateway.test"),
        ("/strip?b", "/?b", "gateway.test"),
        ("/v1/x/y%2Fz?q", "/v2/x/y%2Fz?q", "gateway.test"),
        ("/host/x", "/host/x", "inside.example:81"),
    ] {
        assert_eq!(gateway.get(path).text(), "hello", "{path}");
        let request = upstream.last_request();
        assert_eq!((request.target(), request.field("host")), (seen, Some(host)), "{path}");
        assert_eq!(request.field("x-forwarded-host"), Some("gateway.test"), "{path}");
    }
}

/// The file that the original's documentation shows, but for its ports.
#[test]
fn the_short_form_of_the_original_works() {
    let upstream = Upstream::answering("users");
    let gateway = Gateway::start(json!({
        "listen_address": "127.0.0.1",
        "listen_port": 0,
        "tls": { "enabled": false, "cert_path": "cert.pem", "key_path": "key.pem" },
        "routes": [
            { "path": "/api/users", "upstream": upstream.url(), "methods": ["GET", "POST"], "middleware": [] },
        ],
    }));

    assert_eq!(gateway.get("/api/users").text(), "users");
    assert_eq!(gateway.get("/api/users/7").text(), "users");
    assert_eq!(gateway.ask("DELETE", "/api/users", "").status(), 405);
    assert_eq!(gateway.get("/").status(), 404);
}
