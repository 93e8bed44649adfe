//! The built-in plugin `jwt`, as the original's example uses it, and against forged tokens.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::harness::{Gateway, JWT_SAMPLE, Message, Upstream, run};

const SECRET: &str = "your-256-bit-secret";

/// The original's example: a public route, and one behind a token. `more` is added to jwt's config.
fn gateway(upstream: &Upstream, more: Value) -> Gateway {
    let mut config = json!({ "enabled": true, "jwt_secret": SECRET });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    Gateway::start(json!({
        "middleware": { "jwt": config },
        "routes": [
            { "path": "/api/public", "upstream": upstream.url() },
            { "path": "/api/users", "upstream": upstream.url(), "methods": ["GET", "POST"], "middleware": ["jwt"] },
        ],
    }))
}

fn ask(gateway: &Gateway, token: &str) -> Message {
    ask_at(gateway, "/api/users", token)
}

fn ask_at(gateway: &Gateway, path: &str, token: &str) -> Message {
    gateway.ask("GET", path, &format!("Authorization: Bearer {token}\r\n"))
}

fn signed(secret: &str, algorithm: Algorithm, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn refused(answer: &Message, what: &str) {
    assert_eq!(answer.status(), 401, "{what}: {answer:?}");
    let challenge = answer.field("www-authenticate").unwrap();
    assert!(challenge.starts_with("Bearer"), "{what}: {challenge}");
}

/// With the secret and the token that everybody knows from jwt.io.
#[test]
fn the_example_of_the_original_works() {
    let upstream = Upstream::answering("users");
    let gateway = gateway(&upstream, json!({}));

    assert_eq!(gateway.get("/api/public").text(), "users");
    refused(&gateway.get("/api/users"), "no token");
    let answer = ask(&gateway, JWT_SAMPLE);
    assert_eq!((answer.status(), answer.text()), (200, "users"));
    // RFC 9110 §11.1: the scheme's name has no case.
    let answer =
        gateway.ask("GET", "/api/users", &format!("authorization: bearer {JWT_SAMPLE}\r\n"));
    assert_eq!(answer.status(), 200);
    assert_eq!(gateway.ask("DELETE", "/api/users", "").status(), 405);
}

#[test]
fn tokens_that_are_wrong_in_any_way_are_refused() {
    let upstream = Upstream::answering("users");
    let gateway = gateway(&upstream, json!({}));
    let claims = json!({ "sub": "1" });
    let mut parts: Vec<&str> = JWT_SAMPLE.split('.').collect();
    let (head, payload, signature) = (parts[0], parts[1], parts[2]);
    // {"alg":"none","typ":"JWT"}
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    // {"sub":"admin"}
    let admin = "eyJzdWIiOiJhZG1pbiJ9";
    let mut flipped = signature.to_owned();
    flipped.replace_range(0..1, "T");
    parts.clear();
    let rows = [
        ("nonsense", "nonsense".to_owned()),
        ("empty", String::new()),
        ("two parts", format!("{head}.{payload}")),
        ("four parts", format!("{JWT_SAMPLE}.x")),
        ("no signature", format!("{head}.{payload}.")),
        ("alg none", format!("{none}.{payload}.")),
        ("alg none with a signature", format!("{none}.{payload}.{signature}")),
        ("another payload", format!("{head}.{admin}.{signature}")),
        ("a changed signature", format!("{head}.{payload}.{flipped}")),
        ("a cut signature", format!("{head}.{payload}.{}", &signature[..signature.len() - 2])),
        ("padding", format!("{head}.{payload}.{signature}=")),
        ("another secret", signed("another-secret", Algorithm::HS256, &claims)),
        ("another algorithm", signed(SECRET, Algorithm::HS384, &claims)),
        ("expired", signed(SECRET, Algorithm::HS256, &json!({ "exp": now() - 10 }))),
        ("not yet", signed(SECRET, Algorithm::HS256, &json!({ "nbf": now() + 100 }))),
        ("huge", "x".repeat(30_000)),
    ];

    for (what, token) in rows {
        let answer = ask(&gateway, &token);
        refused(&answer, what);
        if !token.is_empty() {
            assert!(answer.field("www-authenticate").unwrap().contains("invalid_token"), "{what}");
        }
    }
    for fields in [
        "Authorization: Basic eDp5\r\n".to_owned(),
        format!("Authorization: {JWT_SAMPLE}\r\n"),
        format!("Authorization: Bearer\t{JWT_SAMPLE}x\r\n"),
        // Which of two would the upstream believe?
        format!("Authorization: Bearer {JWT_SAMPLE}\r\nAuthorization: Bearer nonsense\r\n"),
    ] {
        refused(&gateway.ask("GET", "/api/users", &fields), &fields);
    }
    assert_eq!(upstream.requests(), []);
}

/// Signed well, as who may get tokens can have them made. Where the component runs the stack is small, and
/// nobody may crash it or keep it busy.
#[test]
fn claims_of_any_shape_do_no_harm() {
    let upstream = Upstream::answering("users");
    let gateway = gateway(&upstream, json!({}));
    let token = |claims: &str| {
        use jsonwebtoken::crypto;
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let claims = BASE64_URL_SAFE_NO_PAD.encode(claims);
        let signed = format!("{}.{claims}", JWT_SAMPLE.split('.').next().unwrap());
        let signature = crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).unwrap();
        format!("{signed}.{signature}")
    };
    let deep = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth: usize| format!("{}{{}}{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    let members = |last: &str| {
        let many: String = (0..800).map(|number| format!("\"m{number}\":0,")).collect();
        format!("{{{many}\"{last}\":0}}")
    };

    for (what, claims, expected) in [
        ("lists within lists", deep(120), 200),
        ("objects within objects", objects(120), 200),
        ("too many lists", deep(200), 401),
        ("far too many lists", deep(4_000), 401),
        ("far too many objects", objects(1_500), 401),
        ("many members", members("last"), 200),
        ("many members and a twin", members("m400"), 401),
        ("more than 64 bits", "{\"exp\":18446744073709551617}".to_owned(), 200),
        ("more than 64 bits, in the past", "{\"exp\":-18446744073709551617}".to_owned(), 401),
        ("more than a number", "{\"exp\":1e999}".to_owned(), 401),
        ("a text", "{\"exp\":\"4000000000\"}".to_owned(), 401),
        ("a tail", "{} {}".to_owned(), 401),
    ] {
        let answer = ask(&gateway, &token(&claims));
        assert_eq!(answer.status(), expected, "{what}: {answer:?}");
    }
    let traps = gateway.metrics().sum("zproxy_plugin_traps_total", &[]);
    assert!(traps < 1.0, "{traps}");
}

/// A browser asks before a request to another site, without credentials (Fetch §4.8): it is answered by a route
/// of its own.
#[test]
fn a_preflight_passes_where_a_route_is_there_for_it() {
    let upstream = Upstream::answering("allowed");
    let gateway = Gateway::start(json!({
        "middleware": { "jwt": { "jwt_secret": SECRET } },
        "routes": [
            { "path": "/api", "methods": ["OPTIONS"], "upstream": upstream.url() },
            { "path": "/api", "upstream": upstream.url(), "middleware": ["jwt"] },
        ],
    }));

    let preflight = "Origin: https://app.example\r\nAccess-Control-Request-Method: GET\r\n";
    assert_eq!(gateway.ask("OPTIONS", "/api", preflight).status(), 200);
    refused(&gateway.ask("GET", "/api", preflight), "what follows it");
    assert_eq!(ask_at(&gateway, "/api", JWT_SAMPLE).status(), 200);
}

#[test]
fn tokens_that_are_right_pass() {
    let upstream = Upstream::answering("users");
    let gateway = gateway(&upstream, json!({ "leeway_seconds": 60 }));

    for claims in [
        json!({ "exp": now() + 100, "nbf": now() - 100, "iat": now() }),
        // Within the leeway.
        json!({ "exp": now() - 10 }),
        json!({}),
    ] {
        let token = signed(SECRET, Algorithm::HS256, &claims);
        assert_eq!(ask(&gateway, &token).status(), 200, "{claims}");
    }
}

#[test]
fn claims_can_be_required() {
    let upstream = Upstream::answering("users");
    let gateway = gateway(
        &upstream,
        json!({ "issuer": "https://idp.example", "audience": "shop", "required_claims": ["sub"] }),
    );
    let token = |claims: Value| signed(SECRET, Algorithm::HS256, &claims);
    let good = json!({ "iss": "https://idp.example", "aud": ["other", "shop"], "sub": "1" });

    assert_eq!(ask(&gateway, &token(good.clone())).status(), 200);
    for (key, value) in
        [("iss", json!("https://evil.example")), ("aud", json!("other")), ("sub", Value::Null)]
    {
        let mut claims = good.clone();
        claims[key] = value;
        refused(&ask(&gateway, &token(claims)), key);
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(key);
        refused(&ask(&gateway, &token(claims)), &format!("without {key}"));
    }
}

/// Upstreams believe these fields; a client must not be able to bring its own.
#[test]
fn claims_become_fields_that_clients_cannot_forge() {
    let upstream = Upstream::answering("users");
    let gateway = gateway(
        &upstream,
        json!({ "claims_to_headers": { "sub": "x-user-id", "role": "x-role" }, "forward_token": false }),
    );

    let answer = gateway.ask(
        "GET",
        "/api/users",
        &format!("Authorization: Bearer {JWT_SAMPLE}\r\nX-User-Id: 666\r\nX-Role: admin\r\n"),
    );

    assert_eq!(answer.status(), 200);
    let request = upstream.last_request();
    assert_eq!(request.field("x-user-id"), Some("1234567890"));
    assert_eq!(request.field("x-role"), None);
    assert_eq!(request.field("authorization"), None);
}

/// Whoever switches the check off for a while does not mean that clients may say who they are.
#[test]
fn switched_off_in_a_route_it_still_guards_its_fields() {
    let upstream = Upstream::answering("ok");
    let gateway = Gateway::start(json!({
        "middleware": { "jwt": { "jwt_secret": SECRET, "claims_to_headers": { "sub": "x-user" } } },
        "routes": [{
            "path": "/", "upstream": upstream.url(),
            "middleware": [{ "plugin": "jwt", "enabled": false }],
        }],
    }));

    let answer = gateway.ask("GET", "/", "X-User: root\r\nX_User: root\r\nX-Other: 1\r\n");

    assert_eq!(answer.status(), 200);
    let request = upstream.last_request();
    assert_eq!((request.field("x-user"), request.field("x_user")), (None, None));
    assert_eq!(request.field("x-other"), Some("1"));
}

/// A claim with a line end would be a field of its own.
#[test]
fn a_claim_cannot_become_another_field() {
    let upstream = Upstream::answering("users");
    let gateway = gateway(&upstream, json!({ "claims_to_headers": { "sub": "x-user-id" } }));
    let token = signed(SECRET, Algorithm::HS256, &json!({ "sub": "1\r\nx-role: admin" }));

    let answer = ask(&gateway, &token);

    assert!([200, 401, 503].contains(&answer.status()), "{answer:?}");
    for request in upstream.requests() {
        assert_eq!(request.field("x-role"), None, "{request:?}");
    }
}

#[test]
fn the_token_may_come_in_a_cookie_or_the_query() {
    let upstream = Upstream::answering("users");
    let cookie = gateway(&upstream, json!({ "token_from": { "cookie": "session" } }));
    let answer = cookie.ask("GET", "/api/users", &format!("Cookie: a=b; session={JWT_SAMPLE}\r\n"));
    assert_eq!(answer.status(), 200, "{answer:?}");
    refused(&ask(&cookie, JWT_SAMPLE), "a header, where a cookie is asked for");

    let query = gateway(&upstream, json!({ "token_from": { "query": "token" } }));
    assert_eq!(query.get(&format!("/api/users?a=b&token={JWT_SAMPLE}")).status(), 200);
    refused(&query.get("/api/users?token=x"), "a bad one in the query");
}

/// A route's own configuration takes the place of the default as a whole.
#[test]
fn a_route_can_ask_for_another_token() {
    let upstream = Upstream::answering("ok");
    let own = json!({ "plugin": "jwt", "config": { "jwt_secret": "another-secret", "algorithms": ["HS512"] } });
    let gateway = Gateway::start(json!({
        "middleware": { "jwt": { "jwt_secret": SECRET } },
        "routes": [
            { "path": "/", "upstream": upstream.url(), "middleware": ["jwt"] },
            { "path": "/own", "upstream": upstream.url(), "middleware": [own] },
        ],
    }));
    let other = signed("another-secret", Algorithm::HS512, &json!({}));

    assert_eq!(ask_at(&gateway, "/", JWT_SAMPLE).status(), 200);
    assert_eq!(ask_at(&gateway, "/own", &other).status(), 200);
    refused(&ask_at(&gateway, "/own", JWT_SAMPLE), "the default's token");
    refused(&ask_at(&gateway, "/", &other), "the route's token");
}

/// The default's and a route's, all of them, with their places and without a secret.
#[test]
fn mistakes_are_told_with_their_places() {
    let own = json!({ "plugin": "jwt", "config": { "jwt_secret": "271828", "algorithms": ["HS256", "none"] } });
    let config = json!({
        "listen_port": 0,
        "middleware": { "jwt": { "jwt_secret": "", "realm": "\"", "token_from": { "query": "" } } },
        "routes": [{ "path": "/", "upstream": "http://127.0.0.1:9", "middleware": ["jwt"] },
                   { "path": "/own", "upstream": "http://127.0.0.1:9", "middleware": [own] }],
    });
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("zproxy.json"), config.to_string()).unwrap();

    let run = run(dir.path(), &["check", "--format", "json"]);

    assert_eq!(run.code, Some(5), "{run:?}");
    assert!(!format!("{}{}", run.stdout, run.stderr).contains("271828"), "{run:?}");
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let problems = report["problems"].as_array().unwrap().iter();
    let paths: Vec<&str> = problems.map(|problem| problem["path"].as_str().unwrap()).collect();
    let expected = [
        "middleware.jwt.jwt_secret",
        "middleware.jwt.realm",
        "middleware.jwt.token_from.query",
        "routes[1].middleware[0].config.algorithms[1]",
    ];
    assert!(expected.iter().all(|path| paths.contains(path)), "{paths:?}");
}

/// A WebSocket begins as a request, and is guarded like one.
#[test]
fn an_upgrade_needs_a_token_too() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        connection.try_send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi",
        )
    });
    let gateway = gateway(&upstream, json!({}));
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    refused(&gateway.ask("GET", "/api/users", upgrade), "an upgrade");
    let mut client = gateway.connect();
    let answer = client.exchange(format!(
        "GET /api/users HTTP/1.1\r\nHost: a\r\n{upgrade}Authorization: Bearer {JWT_SAMPLE}\r\n\r\n"
    ));

    assert_eq!(answer.status(), 101);
    assert_eq!(client.take_rest().unwrap(), b"hi");
}
