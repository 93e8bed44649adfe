use hmac::{Hmac, Mac};
use sha2::{Sha256, Sha384, Sha512};
use zproxy_sdk::callout;
use zproxy_sdk::crypto::Key;
use zproxy_sdk::testing::{self, Answer, Request, Response, metric, set_unix_ms};

use super::*;
use crate::keys::Entry;
use crate::token::Algorithm;

mod config;
mod remote;
mod signed;

const SECRET: &str = "your-256-bit-secret";
const NOW: u64 = 1_800_000_000;

/// The token of the README, made by jwt.io with the secret above; it never expires.
const SAMPLE: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c";

fn encode(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut padded = [0; 4];
        padded[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(padded);
        for index in 0..=group.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * index)) as usize & 63]));
        }
    }
    text
}

fn mac<M: Mac + hmac::digest::KeyInit>(signed: &str) -> Vec<u8> {
    <M as Mac>::new_from_slice(SECRET.as_bytes())
        .unwrap()
        .chain_update(signed)
        .finalize()
        .into_bytes()
        .to_vec()
}

/// Signs as the header's beginning says, so that only what a test is about is wrong.
fn sign(header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()));
    let signature = if header.contains("HS512") {
        mac::<Hmac<Sha512>>(&signed)
    } else if header.contains("HS384") {
        mac::<Hmac<Sha384>>(&signed)
    } else {
        mac::<Hmac<Sha256>>(&signed)
    };
    format!("{signed}.{}", encode(&signature))
}

fn hs256(claims: &str) -> String {
    sign(r#"{"alg":"HS256"}"#, claims)
}

/// `config` without the outer braces, beside the secret.
fn plugin(config: &str) -> testing::Loaded<Jwt> {
    set_unix_ms(NOW * 1000);
    let separator = if config.is_empty() { "" } else { "," };
    testing::load(&format!(r#"{{ "jwt_secret": "{SECRET}"{separator} {config} }}"#)).unwrap()
}

fn send(config: &str, request: Request) -> Answer {
    plugin(config).exchange(request, Response::status(200))
}

fn status(config: &str, token: &str) -> u16 {
    let request = Request::get("/").with_header("authorization", format!("Bearer {token}"));
    let answer = send(config, request);
    assert_eq!(answer.failure(), None, "{token}");
    answer.status()
}

#[test]
fn a_token_made_elsewhere_passes() {
    assert_eq!(status("", SAMPLE), 200);
    assert_eq!(status("", &hs256("{}")), 200);
}

/// RFC 7515 A.1: white space in the header, a key that is no text, a claim that is a URL.
#[test]
fn the_example_of_rfc_7515_is_verified() {
    let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let secret = [
        3, 35, 53, 75, 43, 15, 165, 188, 131, 126, 6, 101, 119, 123, 166, 143, 90, 179, 40, 230,
        240, 84, 201, 40, 169, 15, 132, 178, 210, 80, 46, 191, 211, 251, 90, 146, 210, 6, 71, 239,
        150, 138, 180, 195, 119, 98, 61, 34, 61, 46, 33, 114, 5, 46, 79, 8, 192, 205, 154, 245,
        103, 208, 128, 163,
    ];
    let algorithm = Algorithm::parse("HS256").unwrap();
    let key = Key::new("HS256", "secret", &secret).unwrap();
    let keys = KeyRing::new(vec![Entry { algorithm, id: None, key }], vec![algorithm]);
    let token = Token::parse(token, &mut Headers::default()).unwrap();

    assert_eq!(keys.verify(&token), Found::Signed);
    let payload = token.payload().unwrap();
    let claims = json::object(&payload).unwrap();
    assert_eq!(claims.get("iss").and_then(Json::as_str), Some("joe"));
    let policy = Policy {
        issuer: Some("joe".to_owned()),
        audience: None,
        leeway_seconds: 0,
        required: Vec::new(),
    };
    assert!(policy.check(&claims, 1_300_819_379_999).is_ok());
    assert!(policy.check(&claims, 1_300_819_380_000).is_err());
}

#[test]
fn a_refusal_says_nothing_but_that() {
    let answer = send("", Request::get("/").with_header("accept", "application/json"));

    assert_eq!(answer.status(), 401);
    assert_eq!(answer.header("www-authenticate"), Some(r#"Bearer error="invalid_token""#));
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.header("proxy-status"), Some("zproxy; error=http_request_denied"));
    assert!(answer.body().len() < 128);
    assert!(answer.upstream_request().is_none());
    assert_eq!(answer.log()[0].1, "refused: there is no token");
}

#[test]
fn the_algorithm_is_what_the_operator_allows() {
    let all = r#""algorithms": ["HS256", "HS384", "HS512"]"#;
    for algorithm in ["HS256", "HS384", "HS512"] {
        let token = sign(&format!(r#"{{"alg":"{algorithm}"}}"#), "{}");
        let only = format!(r#""algorithms": ["{algorithm}"]"#);
        assert_eq!(status(all, &token), 200, "{algorithm}");
        assert_eq!(status(&only, &token), 200, "{algorithm}");
        assert_eq!(status("", &token), if algorithm == "HS256" { 200 } else { 401 });
    }
}

/// What attackers send. Each is signed with the right secret where a signature can be.
#[test]
fn a_token_with_a_bad_header_is_refused() {
    let all = r#""algorithms": ["HS256", "HS384", "HS512"]"#;
    for header in [
        r#"{"alg":"none"}"#,
        r#"{"alg":"None"}"#,
        r#"{"alg":"NONE"}"#,
        r#"{"alg":""}"#,
        r#"{"alg":"hs256"}"#,
        r#"{"alg":"RS256"}"#,
        r#"{"alg":"ES256"}"#,
        r#"{"alg":["HS256"]}"#,
        r#"{"alg":null}"#,
        r#"{"typ":"JWT"}"#,
        "{}",
        r#"["alg","HS256"]"#,
        r#"{"alg":"none","alg":"HS256"}"#,
        r#"{"alg":"HS256","alg":"HS256"}"#,
        r#"{"alg":"HS256","crit":["exp"],"exp":1}"#,
        r#"{"alg":"HS256","crit":["b64"],"b64":false}"#,
        r#"{"alg":"HS256","crit":[]}"#,
        r#"{"alg":"HS256"} x"#,
        r#"{"alg":"HS256""#,
    ] {
        assert_eq!(status(all, &sign(header, "{}")), 401, "{header}");
    }
}

/// CVE-2018-0114 and its kin: a token that brings its key along.
#[test]
fn keys_in_the_header_change_nothing() {
    let embedded = r#"{"alg":"HS256","kid":"../../dev/null","jku":"http://evil.example/","x5u":"x","jwk":{"kty":"oct","k":"AAAA"}}"#;
    let right = sign(embedded, "{}");
    let empty_key = {
        let signed = format!("{}.{}", encode(embedded.as_bytes()), encode(b"{}"));
        let mac = <Hmac<Sha256> as Mac>::new_from_slice(&[0, 0, 0]).unwrap();
        let signature = mac.chain_update(&signed).finalize().into_bytes();
        format!("{signed}.{}", encode(&signature))
    };

    assert_eq!(status("", &right), 200);
    assert_eq!(status("", &empty_key), 401);
}

#[test]
fn a_token_that_is_not_exactly_itself_is_refused() {
    let good = hs256(r#"{"sub":"a"}"#);
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("three parts")
    };
    let other = encode(br#"{"sub":"b"}"#);
    let none = encode(br#"{"alg":"none"}"#);
    // The last symbol of 32 bytes has two bits that stand for nothing.
    let last = signature.chars().last().unwrap();
    let twin = char::from(u8::try_from(last).unwrap() + 1);
    let forged_tail = format!("{}{twin}", &signature[..signature.len() - 1]);

    for token in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "...".to_owned(),
        "a.b.c".to_owned(),
        format!("{header}.{payload}"),
        format!("{header}.{payload}."),
        format!("{header}..{signature}"),
        format!(".{payload}.{signature}"),
        format!("{header}.{payload}.{signature}."),
        format!(".{header}.{payload}.{signature}"),
        format!("{header}.{payload}.{signature}.{signature}"),
        format!("{header}.{payload}.{signature}="),
        format!("{header}=.{payload}.{signature}"),
        format!("{header}.{payload}.{}", &signature[..signature.len() - 1]),
        format!("{header}.{payload}.{forged_tail}"),
        format!("{header}.{payload}.{signature}A"),
        format!("{header}.{payload}.{signature} x"),
        format!("{header}.{payload}.{signature}, {good}"),
        format!("{header}.{other}.{signature}"),
        format!("{none}.{payload}."),
        format!("{none}.{payload}.{signature}"),
        format!("{header}. {payload}.{signature}"),
        format!("{header}.{payload}.{signature}\u{e4}"),
        "A".repeat(16 * 1024 + 1),
        hs256(&format!(r#"{{"a":"{}"}}"#, "x".repeat(16 * 1024))),
    ] {
        assert_eq!(status("", &token), 401, "{token}");
    }
    assert_eq!(status("", &good), 200);
}

#[test]
fn claims_that_are_not_one_plain_object_are_refused() {
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(5000), "]".repeat(5000));
    for claims in [
        "",
        "null",
        "[]",
        "1",
        r#""x""#,
        "{",
        "{}x",
        r#"{"a":1,"a":2}"#,
        r#"{"exp":9e9,"\u0065xp":1}"#,
        &deep,
    ] {
        assert_eq!(status("", &hs256(claims)), 401, "{claims}");
    }
}

/// RFC 7519 §4.1.4 to §4.1.6, at `NOW`.
#[test]
fn dates_are_numbers_and_hold() {
    for (claims, expected) in [
        (r#"{"exp":1800000001}"#, 200),
        (r#"{"exp":1800000000.5}"#, 200),
        (r#"{"exp":18446744073709551615}"#, 200),
        (r#"{"exp":1e300}"#, 200),
        (r#"{"exp":1800000000}"#, 401),
        (r#"{"exp":1799999999.999}"#, 401),
        (r#"{"exp":0}"#, 401),
        (r#"{"exp":-9223372036854775808}"#, 401),
        (r#"{"exp":-1e300}"#, 401),
        (r#"{"exp":1e400}"#, 401),
        (r#"{"exp":"1900000000"}"#, 401),
        (r#"{"exp":null}"#, 401),
        (r#"{"exp":true}"#, 401),
        (r#"{"exp":[1900000000]}"#, 401),
        (r#"{"nbf":1800000000}"#, 200),
        (r#"{"nbf":1800000000.5}"#, 401),
        (r#"{"nbf":18446744073709551615}"#, 401),
        (r#"{"nbf":"0"}"#, 401),
        (r#"{"iat":1800000000}"#, 200),
        (r#"{"iat":1800000000.5}"#, 401),
        (r#"{"iat":1900000000,"nbf":0}"#, 401),
        (r#"{"iat":"now"}"#, 401),
    ] {
        assert_eq!(status("", &hs256(claims)), expected, "{claims}");
    }
}

#[test]
fn leeway_is_for_both_ends() {
    for (claims, expected) in [
        (r#"{"exp":1799999941}"#, 200),
        (r#"{"exp":1799999940}"#, 401),
        (r#"{"nbf":1800000060}"#, 200),
        (r#"{"nbf":1800000061}"#, 401),
        (r#"{"iat":1800000060}"#, 200),
        (r#"{"iat":1800000061}"#, 401),
    ] {
        assert_eq!(status(r#""leeway_seconds": 60"#, &hs256(claims)), expected, "{claims}");
    }
}

#[test]
fn issuer_audience_and_required_claims_must_be_right() {
    for (config, claims, expected) in [
        (r#""issuer": "a""#, r#"{"iss":"a"}"#, 200),
        (r#""issuer": "a""#, r#"{"iss":"A"}"#, 401),
        (r#""issuer": "a""#, r#"{"iss":["a"]}"#, 401),
        (r#""issuer": "a""#, "{}", 401),
        (r#""audience": "a""#, r#"{"aud":"a"}"#, 200),
        (r#""audience": "a""#, r#"{"aud":["b","a"]}"#, 200),
        (r#""audience": ["x", "a"]"#, r#"{"aud":"a"}"#, 200),
        (r#""audience": "a""#, r#"{"aud":["a",1]}"#, 401),
        (r#""audience": "a""#, r#"{"aud":[]}"#, 401),
        (r#""audience": "a""#, r#"{"aud":"ab"}"#, 401),
        (r#""audience": "a""#, r#"{"aud":{"a":1}}"#, 401),
        (r#""audience": "a""#, "{}", 401),
        (r#""required_claims": ["exp", "sub"]"#, r#"{"exp":1900000000,"sub":"a"}"#, 200),
        (r#""required_claims": ["exp", "sub"]"#, r#"{"sub":"a"}"#, 401),
        (r#""required_claims": ["sub"]"#, r#"{"sub":null}"#, 401),
    ] {
        assert_eq!(status(config, &hs256(claims)), expected, "{config} {claims}");
    }
}

/// A client must not be able to say who it is by sending the field itself.
#[test]
fn fields_of_claims_are_the_plugins_alone() {
    let config = r#""claims_to_headers": { "sub": "X-User", "roles": "x-roles", "org": "x-org" }"#;
    let token = hs256(r#"{"sub":"ann","roles":["a","b"]}"#);
    let request = Request::get("/")
        .with_header("authorization", format!("bearer  {token}"))
        .with_header("x-user", "root")
        .with_header("X-USER", "root")
        .with_header("x-Org", "root");

    let answer = send(config, request);

    let request = answer.upstream_request().unwrap();
    assert_eq!(request.value("x-user"), Some("ann"));
    assert_eq!(request.values("x-user").len(), 1);
    assert_eq!(request.value("x-roles"), Some(r#"["a","b"]"#));
    assert_eq!(request.value("x-org"), None);
    assert!(request.value("authorization").is_some());
}

/// An upstream behind CGI or WSGI reads `x_user` as `x-user`.
#[test]
fn fields_that_look_like_those_of_claims_never_get_through() {
    let config = r#""claims_to_headers": { "sub": "x-user-id", "org": "org_id" }"#;
    let request = Request::get("/")
        .with_header("authorization", format!("Bearer {}", hs256(r#"{"sub":"ann"}"#)))
        .with_header("X_User_Id", "root")
        .with_header("x-user_id", "root")
        .with_header("Org-Id", "root")
        .with_header("x-user-idx", "1");

    let answer = send(config, request);

    let request = answer.upstream_request().unwrap();
    assert_eq!(request.value("x-user-id"), Some("ann"));
    for name in ["x_user_id", "x-user_id", "org-id", "org_id"] {
        assert_eq!(request.value(name), None, "{name}");
    }
    assert_eq!(request.value("x-user-idx"), Some("1"));
    assert_eq!(answer.failure(), None);
}

#[test]
fn a_claim_that_would_break_out_of_its_field_is_refused() {
    let config = r#""claims_to_headers": { "sub": "x-user" }"#;

    assert_eq!(status(config, &hs256(r#"{"sub":"a\r\nx-admin: 1"}"#)), 401);
    assert_eq!(status(config, &hs256(r#"{"sub":"a\u0000"}"#)), 401);
    assert_eq!(status(config, &hs256(r#"{"sub":"Zoë"}"#)), 200);
}

#[test]
fn only_a_bearer_counts() {
    for (value, expected) in [
        (format!("BEARER {SAMPLE}"), 200),
        (format!("Basic {SAMPLE}"), 401),
        (format!("Bearer{SAMPLE}"), 401),
        (SAMPLE.to_owned(), 401),
        ("Bearer ".to_owned(), 401),
        ("Bearer".to_owned(), 401),
    ] {
        let answer = send("", Request::get("/").with_header("authorization", &value));
        assert_eq!(answer.status(), expected, "{value}");
    }
    let twice = Request::get("/")
        .with_header("authorization", format!("Bearer {SAMPLE}"))
        .with_header("authorization", format!("Bearer {SAMPLE}"));
    assert_eq!(send("", twice).status(), 401);
}

#[test]
fn a_token_is_found_and_kept_back_where_the_operator_says() {
    let config = r#""token_from": {"cookie": "session"}, "forward_token": false"#;
    let cookies = format!("a=1; session={SAMPLE}; xsession=2");
    let answer = send(config, Request::get("/").with_header("cookie", cookies));
    assert_eq!(answer.upstream_request().unwrap().value("cookie"), Some("a=1; xsession=2"));
    for cookie in [format!("session={SAMPLE}"), format!(" session\t= {SAMPLE}")] {
        let answer = send(config, Request::get("/").with_header("cookie", cookie));
        assert_eq!(answer.upstream_request().unwrap().value("cookie"), None);
    }

    let config = r#""token_from": {"query": "t"}, "forward_token": false"#;
    let answer = send(config, Request::get(&format!("/p?a=1&t={SAMPLE}&b")));
    assert_eq!(answer.upstream_request().unwrap().path_and_query(), "/p?a=1&b");
    let answer = send(config, Request::get(&format!("/p?t={SAMPLE}")));
    assert_eq!(answer.upstream_request().unwrap().path_and_query(), "/p");

    let bearer = Request::get("/").with_header("authorization", format!("Bearer {SAMPLE}"));
    assert_eq!(send(config, bearer.clone()).status(), 401);
    let answer = send(r#""forward_token": false"#, bearer);
    assert_eq!(answer.upstream_request().unwrap().value("authorization"), None);
}

/// Of two tokens one would be checked, and the upstream might believe the other.
#[test]
fn two_tokens_in_one_place_are_refused() {
    let cookie = r#""token_from": {"cookie": "session"}"#;
    let query = r#""token_from": {"query": "t"}"#;
    let bad = SAMPLE.replace('S', "T");
    let cookies = |text: String| Request::get("/").with_header("cookie", text);
    for (config, request, expected) in [
        (cookie, cookies(format!("session={SAMPLE}")), 200),
        (cookie, cookies(format!("session={SAMPLE}; session={bad}")), 401),
        (cookie, cookies(format!("session={SAMPLE}; session")), 401),
        (cookie, cookies(format!("session =x; session={SAMPLE}")), 401),
        (cookie, cookies(format!("session={SAMPLE}; session\t=x")), 401),
        (cookie, cookies(format!("session={SAMPLE}")).with_header("cookie", "session=x"), 401),
        (query, Request::get(&format!("/?t={SAMPLE}&tt=1&T=2")), 200),
        (query, Request::get(&format!("/?%74={SAMPLE}&%7=1&%zz=2")), 200),
        (query, Request::get(&format!("/?t={SAMPLE}&t={bad}")), 401),
        (query, Request::get(&format!("/?t={SAMPLE}&%74={bad}")), 401),
    ] {
        let shown = format!("{request:?}");

        assert_eq!(send(config, request).status(), expected, "{shown}");
    }
}

/// RFC 6750 §3: the code says which kind of mistake it was, and no more.
#[test]
fn a_challenge_says_what_kind_of_mistake_it_was() {
    let bearer =
        |token: &str| Request::get("/").with_header("authorization", format!("Bearer {token}"));
    let two = bearer(SAMPLE).with_header("authorization", "Bearer x");
    let scoped =
        |claims: &str| send(r#""required_scopes": ["read", "write"]"#, bearer(&hs256(claims)));
    for (answer, status, challenge, kind) in [
        (send("", bearer("x")), 401, r#"Bearer error="invalid_token""#, "malformed"),
        (send("", two), 401, r#"Bearer error="invalid_request""#, "ambiguous"),
        (
            send(r#""realm": "shop, a""#, Request::get("/")),
            401,
            r#"Bearer realm="shop, a", error="invalid_token""#,
            "missing",
        ),
        (
            scoped(r#"{"scope":"read readwrite"}"#),
            403,
            r#"Bearer error="insufficient_scope", scope="read write""#,
            "scope",
        ),
    ] {
        assert_eq!((answer.status(), answer.header("www-authenticate")), (status, Some(challenge)));
        assert_eq!(metric(kind), Some(1.0), "{kind}");
    }
    for claims in [
        r#"{"scope":"write x read"}"#,
        r#"{"scp":["read","write"]}"#,
        r#"{"scp":"read","scope":"write"}"#,
    ] {
        assert_eq!(scoped(claims).status(), 200, "{claims}");
    }
    assert_eq!(metric("accepted"), Some(3.0));
}

/// A token that was seen is not checked again, but for its time.
#[test]
fn a_known_token_ends_with_its_time() {
    let plugin = plugin(r#""leeway_seconds": 5, "claims_to_headers": {"sub": "x-user"}"#);
    let token = hs256(r#"{"exp":1800000010,"nbf":1799999999,"sub":"ann"}"#);
    let ask = |unix: u64| {
        set_unix_ms(unix * 1000);
        let request = Request::get("/").with_header("authorization", format!("Bearer {token}"));
        plugin.exchange(request, Response::status(200))
    };

    for unix in [NOW, NOW + 10, NOW + 14] {
        let answer = ask(unix);
        assert_eq!(answer.upstream_request().unwrap().value("x-user"), Some("ann"), "{unix}");
    }
    assert_eq!(ask(NOW + 15).status(), 401);
    assert_eq!(ask(NOW - 7).status(), 401, "the clock was set back");
    assert_eq!(metric("expired"), Some(2.0));
    assert_eq!(ask(NOW).status(), 200);
}

/// Tokens of one issuer have the same header, which is read once; another one is read for itself.
#[test]
fn a_header_that_is_known_vouches_for_no_other() {
    let plugin = plugin(r#""algorithms": ["HS256", "HS512"]"#);
    let ask = |token: &str| {
        let request = Request::get("/").with_header("authorization", format!("Bearer {token}"));
        plugin.exchange(request, Response::status(200)).status()
    };
    let good = hs256(r#"{"sub":"a"}"#);
    let (_, rest) = good.split_once('.').unwrap();

    for (token, expected) in [
        (good.clone(), 200),
        (hs256(r#"{"sub":"b"}"#), 200),
        (sign(r#"{"alg":"HS512"}"#, "{}"), 200),
        (format!("{}.{rest}", encode(br#"{"alg":"HS512"}"#)), 401),
        (sign(r#"{"alg":"none"}"#, "{}"), 401),
        (sign(r#"{"alg":"HS256","crit":["exp"]}"#, "{}"), 401),
        (format!("{}.{rest}", encode(br#"{"alg":"none"}"#)), 401),
        (good, 200),
    ] {
        assert_eq!(ask(&token), expected, "{token}");
    }
}

#[test]
fn switched_off_it_asks_for_nothing() {
    assert_eq!(send(r#""enabled": false"#, Request::get("/")).status(), 200);
    // Not even for keys; and what nobody has checked does not look as if somebody had.
    let off = r#"{"enabled": false, "claims_to_headers": {"sub": "x-user"}}"#;
    let request = Request::get("/").with_header("X_User", "root").with_header("x-user", "root");
    let plugin = testing::load::<Jwt>(off).unwrap();
    let answer = plugin.exchange(request, Response::status(200));
    assert_eq!(answer.status(), 200);
    let request = answer.upstream_request().unwrap();
    assert_eq!((request.value("x-user"), request.value("x_user")), (None, None));
}
