//! Keys of several issuers, and those that come from elsewhere.
//!
//! Signatures here are the name of the key and its algorithm, in plain text: which key is asked is what counts.

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::json;

use super::*;

const URL: &str = "http://idp.test/keys";

/// A signature is good if it says which key made it, by which algorithm.
fn trust_names() {
    testing::check_signatures(|algorithm, material, _, signature| {
        let jwk: serde_json::Value = serde_json::from_slice(material).unwrap_or_default();
        let name = jwk["n"].as_str().unwrap_or("pem");
        signature == format!("{algorithm}:{name}").as_bytes()
    });
}

fn rsa(name: &str) -> serde_json::Value {
    json!({ "kty": "RSA", "kid": name, "n": name, "e": "AQAB" })
}

fn set(names: &[&str]) -> String {
    json!({ "keys": names.iter().map(|name| rsa(name)).collect::<Vec<_>>() }).to_string()
}

/// A token that says it was signed by `kid`, and was by `signer`.
fn token(alg: &str, kid: Option<&str>, signer: &str, claims: &str) -> String {
    let mut header = json!({ "alg": alg });
    if let Some(kid) = kid {
        header["kid"] = kid.into();
    }
    let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.as_bytes()));
    format!("{signed}.{}", encode(format!("{alg}:{signer}").as_bytes()))
}

fn load(config: &serde_json::Value) -> testing::Loaded<Jwt> {
    set_unix_ms(NOW * 1000);
    trust_names();
    testing::load(&config.to_string()).unwrap()
}

fn ask(plugin: &testing::Loaded<Jwt>, token: &str) -> u16 {
    let request = Request::get("/").with_header("authorization", format!("Bearer {token}"));
    let answer = plugin.exchange(request, Response::status(200));
    assert_eq!(answer.failure(), None);
    answer.status()
}

#[test]
fn a_set_in_the_configuration_is_chosen_from_by_kid() {
    let text = load(&json!({ "jwks": set(&["a", "b"]) }));
    let object = json!({ "keys": [rsa("a"), rsa("b"), { "kty": "RSA", "n": "c", "alg": "PS256" }, { "kty": 5 }] });
    let object = load(&json!({ "jwks": object }));
    for (kid, signer, alg, expected) in [
        (Some("a"), "a", "RS256", 200),
        (Some("b"), "b", "RS256", 200),
        (Some("b"), "a", "RS256", 401),
        (Some("z"), "a", "RS256", 401),
        (Some(""), "a", "RS256", 401),
        (Some("../../dev/null"), "a", "RS256", 401),
        (Some("a' OR '1'='1"), "a", "RS256", 401),
        // All of them are tried.
        (None, "b", "RS256", 200),
        (None, "z", "RS256", 401),
        // RFC 8725 §3.1: a key is for one algorithm.
        (Some("a"), "a", "RS384", 401),
        (Some("a"), "a", "HS256", 401),
        (Some("a"), "a", "none", 401),
    ] {
        let token = token(alg, kid, signer, "{}");
        assert_eq!(ask(&text, &token), expected, "{kid:?} {signer} {alg}");
        assert_eq!(ask(&object, &token), expected, "{kid:?} {signer} {alg}");
    }
    assert_eq!(ask(&object, &token("PS256", Some("any"), "c", "{}")), 200, "a key without a name");
}

/// Many a set leaves out what its keys are for.
#[test]
fn the_operator_says_what_keys_are_for_that_do_not() {
    let config = json!({ "jwks": set(&["a"]), "algorithms": ["RS512", "PS256", "ES256"] });
    let plugin = load(&config);

    for (alg, expected) in [("RS512", 200), ("PS256", 200), ("RS256", 401), ("ES256", 401)] {
        assert_eq!(ask(&plugin, &token(alg, Some("a"), "a", "{}")), expected, "{alg}");
    }
    let ecdsa = json!({ "keys": [{ "kty": "EC", "crv": "P-256", "n": "a", "alg": "ES256" }] });
    let plugin = load(&json!({ "jwks": ecdsa, "algorithms": ["ES256"] }));
    assert_eq!(ask(&plugin, &token("ES256", None, "a", "{}")), 200);
    let problems =
        testing::problems::<Jwt>(&json!({ "jwks": ecdsa, "algorithms": ["RS256"] }).to_string());
    assert!(problems[0].message.contains("it holds no key"), "{problems:?}");
}

#[test]
fn a_pem_file_is_for_the_algorithms_that_go_with_it() {
    let plugin = load(&json!({ "public_key_pem": "-----BEGIN PUBLIC KEY-----" }));

    // The first that takes it: the host knows which, here all do.
    assert_eq!(ask(&plugin, &token("RS256", Some("any"), "pem", "{}")), 200);
    assert_eq!(ask(&plugin, &token("ES256", None, "pem", "{}")), 401);
}

/// The key of one must never vouch for another.
#[test]
fn issuers_have_keys_of_their_own() {
    let plugin = load(&json!({
        "audience": "shop",
        "issuers": [
            { "issuer": "https://a", "jwks": set(&["a", "both"]) },
            { "issuer": "https://b", "jwks": set(&["b", "both"]), "audience": ["b-only"] },
            { "issuer": "https://c", "jwt_secret": SECRET },
        ],
    }));
    let from = |iss: &str, aud: &str| format!(r#"{{"iss":"{iss}","aud":"{aud}"}}"#);
    for (key, claims, expected) in [
        ("a", from("https://a", "shop"), 200),
        ("a", from("https://b", "b-only"), 401),
        ("a", from("https://a", "b-only"), 401),
        ("b", from("https://b", "b-only"), 200),
        ("b", from("https://b", "shop"), 401),
        ("both", from("https://a", "shop"), 200),
        ("both", from("https://b", "b-only"), 200),
        ("both", from("https://c", "shop"), 401),
        ("a", from("https://evil", "shop"), 401),
        ("a", r#"{"aud":"shop"}"#.to_owned(), 401),
    ] {
        assert_eq!(
            ask(&plugin, &token("RS256", Some(key), key, &claims)),
            expected,
            "{key} {claims}"
        );
    }
    assert_eq!(ask(&plugin, &hs256(&from("https://c", "shop"))), 200);
    assert_eq!(ask(&plugin, &hs256(&from("https://a", "shop"))), 401);
}

/// However many there are, a token is tried with its own issuer's keys only.
#[test]
fn tokens_of_the_last_of_many_issuers_pass() {
    let issuers: Vec<_> = (0..32)
        .map(|number| json!({ "issuer": format!("https://{number}"), "jwks": set(&["same"]) }))
        .collect();
    let mut issuers = json!({ "issuers": issuers });
    issuers["issuers"][31] = json!({ "issuer": "https://31", "jwt_secret": SECRET });
    issuers["issuers"][30] =
        json!({ "issuer": "https://30", "jwt_secret": "another secret of 32 bytes at least" });
    let plugin = load(&issuers);

    assert_eq!(ask(&plugin, &hs256(r#"{"iss":"https://31"}"#)), 200);
    assert_eq!(ask(&plugin, &hs256(r#"{"iss":"https://30"}"#)), 401);
    for number in [0, 15, 29] {
        let claims = format!(r#"{{"iss":"https://{number}"}}"#);
        assert_eq!(ask(&plugin, &token("RS256", None, "same", &claims)), 200, "{number}");
    }
}

/// One that hangs takes its time-out from every tick in which it is asked.
#[test]
fn an_issuer_that_hangs_keeps_no_other_waiting() {
    let asked = Rc::new(RefCell::new(Vec::new()));
    let log = Rc::clone(&asked);
    testing::answer_callouts(move |request| {
        let url = format!("{request:?}");
        let name = ["bad-1", "bad-2", "good"].into_iter().find(|name| url.contains(name)).unwrap();
        log.borrow_mut().push(name);
        match name {
            "good" => Ok(callout::Response::new(200, set(&["good"]))),
            _ => Err(callout::Error::Timeout),
        }
    });
    let issuer = |name: &str| json!({ "issuer": name, "jwks_url": format!("http://{name}.test/") });
    let plugin = load(&json!({ "issuers": [issuer("bad-1"), issuer("bad-2"), issuer("good")] }));

    plugin.tick();
    assert_eq!(asked.take(), ["bad-1", "bad-2", "good"]);
    for hour in 1..5_u64 {
        // All are due.
        set_unix_ms((NOW + hour * 1000) * 1000);
        plugin.tick();
        let first = asked.take();
        plugin.tick();
        let second = asked.take();
        assert_eq!((first.len(), first[0], second.len()), (2, "good", 1), "{first:?} {second:?}");
        assert!(first[1] != second[0] && second[0] != "good", "{first:?} {second:?}");
    }
    let claims = r#"{"iss":"good"}"#;
    assert_eq!(ask(&plugin, &token("RS256", Some("good"), "good", claims)), 200);
}

/// What the issuer answers, and how often it was asked.
#[derive(Clone)]
struct Idp(Rc<RefCell<(Result<callout::Response, callout::Error>, u32)>>);

impl Idp {
    fn publishing(set: &str) -> Self {
        let idp = Self(Rc::new(RefCell::new((Ok(callout::Response::new(200, set)), 0))));
        let own = idp.clone();
        testing::answer_callouts(move |request| {
            assert_eq!(format!("{request:?}").matches(URL).count(), 1);
            let mut state = own.0.borrow_mut();
            state.1 += 1;
            state.0.clone()
        });
        idp
    }

    fn publish(&self, set: &str) {
        self.0.borrow_mut().0 = Ok(callout::Response::new(200, set));
    }

    fn fail(&self, error: callout::Error) {
        self.0.borrow_mut().0 = Err(error);
    }

    fn asked(&self) -> u32 {
        self.0.borrow().1
    }
}

fn remote() -> testing::Loaded<Jwt> {
    load(&json!({ "jwks_url": URL, "jwks_refresh_seconds": 300 }))
}

fn good(kid: &str) -> String {
    token("RS256", Some(kid), kid, "{}")
}

#[test]
fn the_first_request_waits_for_the_keys_and_a_tick_keeps_them_fresh() {
    let idp = Idp::publishing(&set(&["a"]));
    let (plugin, other) = (remote(), remote());

    assert_eq!(ask(&plugin, &good("a")), 200);
    assert_eq!((ask(&other, &good("a")), idp.asked()), (200, 1), "one fetches for all");
    idp.publish(&set(&["b"]));
    set_unix_ms((NOW + 299) * 1000);
    plugin.tick();
    assert_eq!((ask(&plugin, &good("a")), idp.asked()), (200, 1));
    set_unix_ms((NOW + 300) * 1000);
    other.tick();
    plugin.tick();

    assert_eq!(idp.asked(), 2);
    for plugin in [&plugin, &other] {
        assert_eq!(
            ask(plugin, &good("a")),
            401,
            "the key was taken back, and so is what it vouched for"
        );
        assert_eq!(ask(plugin, &good("b")), 200);
    }
}

#[test]
fn keys_stay_when_the_issuer_is_down_and_it_is_given_time() {
    let idp = Idp::publishing(&set(&["a"]));
    let plugin = remote();
    plugin.tick();
    assert_eq!(ask(&plugin, &good("a")), 200);

    for error in [
        callout::Error::Timeout,
        callout::Error::Unreachable("refused".to_owned()),
        callout::Error::TooLarge,
    ] {
        idp.fail(error);
        let before = idp.asked();
        set_unix_ms(NOW * 1000 + 300_000 + u64::from(before) * 20_000);
        plugin.tick();
        plugin.tick();
        assert_eq!(idp.asked(), before + 1, "a pause after each failure");
        assert_eq!(ask(&plugin, &good("a")), 200);
    }
    for broken in [
        "",
        "[]",
        "<html>",
        r#"{"keys":[]}"#,
        r#"{"keys":[{"kty":"oct","k":"AAAA","alg":"HS256"}]}"#,
    ] {
        idp.publish(broken);
        set_unix_ms(NOW * 1000 + u64::from(idp.asked()) * 1_000_000);
        let before = idp.asked();
        plugin.tick();
        assert_eq!((idp.asked(), ask(&plugin, &good("a"))), (before + 1, 200), "{broken}");
    }
    set_unix_ms(NOW * 1000 + u64::from(idp.asked()) * 1_000_000);
    plugin.tick();
    let answer = plugin.exchange(Request::get("/"), Response::status(200));
    let said = |(_, line): &(_, String)| line.contains("those that are there stay");
    assert!(answer.log().iter().any(said), "{:?}", answer.log());
}

/// Whoever makes up names of keys must not make the gateway ask for each.
#[test]
fn an_unknown_kid_has_keys_fetched_once_a_minute_at_most() {
    let idp = Idp::publishing(&set(&["a"]));
    let (plugin, other) = (remote(), remote());
    assert_eq!(ask(&plugin, &good("a")), 200);
    assert_eq!(ask(&other, &good("a")), 200);

    for number in 0..50 {
        assert_eq!(ask(&plugin, &token("RS256", Some(&number.to_string()), "x", "{}")), 401);
        assert_eq!(ask(&other, &token("RS256", Some(&number.to_string()), "x", "{}")), 401);
    }
    assert_eq!(idp.asked(), 2);
    idp.publish(&set(&["a", "b"]));
    set_unix_ms((NOW + 60) * 1000);

    assert_eq!(ask(&plugin, &good("b")), 200, "the request with the new key waits for it");
    assert_eq!((ask(&other, &good("b")), idp.asked()), (200, 3));
    // Without a name, or with an algorithm that is not taken, there is nothing to ask for.
    set_unix_ms((NOW + 120) * 1000);
    assert_eq!(ask(&plugin, &token("RS256", None, "x", "{}")), 401);
    assert_eq!(ask(&plugin, &token("HS256", Some("y"), "x", "{}")), 401);
    assert_eq!(idp.asked(), 3);
}

#[test]
fn without_keys_nobody_passes_and_the_issuer_is_given_time() {
    let idp = Idp::publishing("");
    idp.fail(callout::Error::Timeout);
    let plugin = remote();

    for _ in 0..5 {
        assert_eq!(ask(&plugin, &good("a")), 503);
    }
    assert_eq!(idp.asked(), 1);
    let request = Request::get("/").with_header("authorization", format!("Bearer {}", good("a")));
    let answer = plugin.exchange(request, Response::status(200));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(ask(&plugin, "x"), 401);
    idp.publish(&set(&["a"]));
    set_unix_ms(NOW * 1000 + 1001);
    assert_eq!(ask(&plugin, &good("a")), 200);
}

/// Everybody can read what is published: a secret among it is none.
#[test]
fn a_secret_that_was_published_checks_nothing() {
    let secret = json!({ "kty": "oct", "kid": "s", "n": "s", "alg": "HS256", "k": "c2VjcmV0" });
    Idp::publishing(&json!({ "keys": [rsa("a"), secret] }).to_string());
    let plugin = remote();

    assert_eq!(ask(&plugin, &good("a")), 200);
    assert_eq!(ask(&plugin, &token("HS256", Some("s"), "s", "{}")), 401);
}
