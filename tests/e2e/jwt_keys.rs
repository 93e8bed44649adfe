//! The built-in plugin `jwt` with public keys: real signatures, and keys that come from an issuer.
//!
//! Not here: which key is tried, and how often an issuer is asked (unit tests of the plugin, on a clock of
//! their own); tokens under a shared secret (`jwt`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::harness::{Gateway, Message, Upstream, eventually};

fn gateway(upstream: &Upstream, config: &Value) -> Gateway {
    Gateway::start(json!({
        "routes": [{ "path": "/", "upstream": upstream.url(),
                     "middleware": [{ "plugin": "jwt", "config": config }] }],
    }))
}

fn ask(gateway: &Gateway, token: &str) -> Message {
    gateway.ask("GET", "/", &format!("Authorization: Bearer {token}\r\n"))
}

fn base64url(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn pem(der: &[u8]) -> String {
    let body = BASE64_STANDARD.encode(der);
    format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
}

/// Someone who signs, with the public key as others see it.
struct Signer {
    algorithm: &'static str,
    pem: String,
    jwk: Value,
    sign: Box<Sign>,
}

type Sign = dyn Fn(&[u8]) -> Vec<u8>;

impl Signer {
    fn token(&self, header: &Value, claims: &Value) -> String {
        let mut whole = json!({ "alg": self.algorithm });
        for (key, value) in header.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let signed = format!("{}.{}", base64url(whole.to_string()), base64url(claims.to_string()));
        format!("{signed}.{}", base64url((self.sign)(signed.as_bytes())))
    }

    fn jwk(&self, kid: &str) -> Value {
        let mut jwk = self.jwk.clone();
        jwk["kid"] = json!(kid);
        jwk["alg"] = json!(self.algorithm);
        jwk
    }
}

fn rsa(algorithm: &'static str, encoding: &'static dyn RsaEncoding) -> Signer {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let public = pair.public_key();
    let (n, e) = (public.modulus(), public.exponent());
    Signer {
        algorithm,
        pem: pem(public.as_der().unwrap().as_ref()),
        jwk: json!({ "kty": "RSA", "n": base64url(n.big_endian_without_leading_zero()),
                     "e": base64url(e.big_endian_without_leading_zero()) }),
        sign: Box::new(move |data| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(encoding, &SystemRandom::new(), data, &mut signature).unwrap();
            signature
        }),
    }
}

fn ecdsa(algorithm: &'static str) -> Signer {
    let (curve, signing) = match algorithm {
        "ES256" => ("P-256", &ECDSA_P256_SHA256_FIXED_SIGNING),
        _ => ("P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
    };
    let pair = EcdsaKeyPair::generate(signing).unwrap();
    let point = pair.public_key().as_ref();
    let (x, y) = point[1..].split_at(point.len() / 2);
    Signer {
        algorithm,
        pem: pem(pair.public_key().as_der().unwrap().as_ref()),
        jwk: json!({ "kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y) }),
        sign: Box::new(move |data| {
            pair.sign(&SystemRandom::new(), data).unwrap().as_ref().to_vec()
        }),
    }
}

fn ed25519() -> Signer {
    let pair = Ed25519KeyPair::generate().unwrap();
    Signer {
        algorithm: "EdDSA",
        pem: pem(pair.public_key().as_der().unwrap().as_ref()),
        jwk: json!({ "kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key()) }),
        sign: Box::new(move |data| pair.sign(data).as_ref().to_vec()),
    }
}

/// Each kind of key, as a PEM file and as a JWK.
#[test]
fn public_keys_check_what_their_owners_signed() {
    let upstream = Upstream::answering("ok");
    let signers = [
        rsa("RS256", &RSA_PKCS1_SHA256),
        rsa("PS512", &RSA_PSS_SHA512),
        ecdsa("ES256"),
        ecdsa("ES384"),
        ed25519(),
    ];
    let claims = json!({ "sub": "1" });
    let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk(signer.algorithm)).collect();
    let set = gateway(&upstream, &json!({ "jwks": { "keys": keys } }));

    for signer in &signers {
        let algorithm = signer.algorithm;
        let token = signer.token(&json!({ "kid": algorithm }), &claims);
        assert_eq!(ask(&set, &token).status(), 200, "{algorithm}");
        assert_eq!(ask(&set, &token).status(), 200, "{algorithm}, a second time");
        let other = signer.token(&json!({ "kid": "other" }), &claims);
        assert_eq!(ask(&set, &other).status(), 401, "{algorithm}");
        let mut changed = token.clone().into_bytes();
        let middle = token.find('.').unwrap() + 3;
        changed[middle] = if changed[middle] == b'A' { b'B' } else { b'A' };
        assert_eq!(ask(&set, &String::from_utf8(changed).unwrap()).status(), 401, "{algorithm}");
    }
    for signer in &signers {
        let algorithm = signer.algorithm;
        let named = json!({ "public_key_pem": signer.pem, "algorithms": [algorithm] });
        let alone = gateway(&upstream, &named);
        assert_eq!(ask(&alone, &signer.token(&json!({}), &claims)).status(), 200, "{algorithm}");
        assert_eq!(ask(&alone, &ecdsa("ES256").token(&json!({}), &claims)).status(), 401);
    }
    // Without a word about the algorithm it goes by the key.
    let alone = gateway(&upstream, &json!({ "public_key_pem": signers[3].pem }));
    assert_eq!(ask(&alone, &signers[3].token(&json!({}), &claims)).status(), 200);
}

/// RFC 7515 A.2 and A.3, RFC 7520 §4.1 and §4.2, RFC 8037 A.4. The last three sign no claims: that their
/// signatures hold shows in why they are refused.
#[test]
fn the_examples_of_the_rfcs_are_verified() {
    const CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    const FRODO: &str = "SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4";
    let upstream = Upstream::answering("ok");
    let keys = json!([
        { "kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ" },
        { "kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" },
        { "kty": "RSA", "kid": "bilbo.baggins@hobbiton.example", "use": "sig", "e": "AQAB", "n": "n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJMRBSFKrKb2wqVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw" },
        { "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" },
    ]);
    let config = json!({
        "jwks": { "keys": keys },
        "algorithms": ["RS256", "PS384", "ES256", "EdDSA"],
        // They ended in 2011.
        "leeway_seconds": 4_000_000_000_u32,
    });
    let gateway = gateway(&upstream, &config);
    let rs256 = format!(
        "eyJhbGciOiJSUzI1NiJ9.{CLAIMS}.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
    );
    let es256 = format!(
        "eyJhbGciOiJFUzI1NiJ9.{CLAIMS}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    );
    for token in [&rs256, &es256] {
        assert_eq!(ask(&gateway, token).status(), 200, "{token}");
    }
    let bilbo = "ImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9";
    let others = [
        format!("eyJhbGciOiJSUzI1NiIs{bilbo}.{FRODO}.MRjdkly7_-oTPTS3AXP41iQIGKa80A0ZmTuV5MEaHoxnW2e5CZ5NlKtainoFmKZopdHM1O2U4mwzJdQx996ivp83xuglII7PNDi84wnB-BDkoBwA78185hX-Es4JIwmDLJK3lfWRa-XtL0RnltuYv746iYTh_qHRD68BNt1uSNCrUCTJDt5aAE6x8wW1Kt9eRo4QPocSadnHXFxnt8Is9UzpERV0ePPQdLuW3IS_de3xyIrDaLGdjluPxUAhb6L2aXic1U12podGU0KLUQSE_oI-ZnmKJ3F4uOZDnd6QZWJushZ41Axf_fcIe8u9ipH84ogoree7vjbU5y18kDquDg"),
        format!("eyJhbGciOiJQUzM4NCIs{bilbo}.{FRODO}.cu22eBqkYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDqHCdP6O8TTB5dDDItllVo6_1OLPpcbUrhiUSMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8ZnyPEgVFn442ZdNqiVJRmBqrYRXe8P_ijQ7p8Vdz0TTrxUeT3lm8d9shnr2lfJT8ImUjvAA2Xez2Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlqRHtfa64QQSUmFAAjVKPbByi7xho0uTOcbH510a6GYmJUAfmWjwZ6oD4ifKo8DYM-X72Eaw"),
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg".to_owned(),
    ];
    for token in &others {
        assert_eq!(ask(&gateway, token).status(), 401);
    }
    gateway.counts("zproxy_plugin_jwt_malformed_total", &[], 3.0);
    gateway.counts("zproxy_plugin_jwt_accepted_total", &[], 2.0);
    let last = if rs256.ends_with('w') { "A" } else { "w" };
    assert_eq!(ask(&gateway, &format!("{}{last}", &rs256[..rs256.len() - 1])).status(), 401);
}

/// What attackers send to somebody who checks by public keys, RFC 8725 §2 and §3.
#[test]
fn attacks_on_public_keys_fail() {
    let upstream = Upstream::answering("ok");
    let (signer, evil) = (ecdsa("ES256"), ecdsa("ES256"));
    let gateway = gateway(&upstream, &json!({ "jwks": { "keys": [signer.jwk("a")] } }));
    let claims = json!({ "sub": "root" });
    let hmac = |secret: &str| {
        use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
        let header = Header { kid: Some("a".to_owned()), ..Header::new(Algorithm::HS256) };
        encode(&header, &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    };
    let good = signer.token(&json!({ "kid": "a" }), &claims);
    let parts: Vec<&str> = good.split('.').collect();
    let none = base64url(r#"{"alg":"none","kid":"a"}"#);
    // CVE-2022-21449: r and s are zero.
    let psychic = base64url([0; 64]);
    for (what, token) in [
        ("the public key as a secret", hmac(&signer.pem)),
        ("the point as a secret", hmac(signer.jwk["x"].as_str().unwrap())),
        ("a key that it brings along", evil.token(&json!({ "jwk": evil.jwk("a") }), &claims)),
        (
            "the same under the name of another",
            evil.token(&json!({ "kid": "a", "jwk": evil.jwk("a") }), &claims),
        ),
        (
            "a set that it leads to",
            evil.token(&json!({ "kid": "b", "jku": upstream.url() }), &claims),
        ),
        (
            "a certificate that it leads to",
            evil.token(&json!({ "x5u": upstream.url(), "x5c": ["AA"] }), &claims),
        ),
        (
            "a critical extension",
            signer.token(&json!({ "kid": "a", "crit": ["b64"], "b64": false }), &claims),
        ),
        ("no signature", format!("{none}.{}.", parts[1])),
        ("none, and a signature", format!("{none}.{}.{}", parts[1], parts[2])),
        ("nothing but zeros", format!("{}.{}.{psychic}", parts[0], parts[1])),
        (
            "a signature as DER",
            format!("{}.{}.{}", parts[0], parts[1], base64url([0x30, 0x06, 2, 1, 1, 2, 1, 1])),
        ),
        ("another's claims", format!("{}.{}.{}", parts[0], base64url(r#"{"sub":"x"}"#), parts[2])),
        ("trailing garbage", format!("{good}.")),
        ("trailing base64", format!("{good}AAAA")),
        ("padding", format!("{good}==")),
    ] {
        let answer = ask(&gateway, &token);
        assert_eq!(answer.status(), 401, "{what}");
        assert!(!answer.text().contains("key"), "{what}: {}", answer.text());
    }
    assert_eq!(upstream.requests(), []);
    assert_eq!(ask(&gateway, &good).status(), 200);
}

/// An identity provider: its set can be changed, and it can be broken.
struct Idp {
    server: Upstream,
    set: Arc<Mutex<Option<String>>>,
}

impl Idp {
    fn publishing(signers: &[(&str, &Signer)]) -> Self {
        let set: Arc<Mutex<Option<String>>> = Arc::default();
        let shown = Arc::clone(&set);
        let server = Upstream::start(move |connection| {
            loop {
                connection.request()?;
                let set = shown.lock().unwrap().clone();
                match set {
                    Some(set) => connection.answer(&set)?,
                    None => connection.try_send("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")?,
                }
            }
        });
        let idp = Self { server, set };
        idp.publish(signers);
        idp
    }

    fn publish(&self, signers: &[(&str, &Signer)]) {
        let keys: Vec<Value> = signers.iter().map(|(kid, signer)| signer.jwk(kid)).collect();
        *self.set.lock().unwrap() = Some(json!({ "keys": keys }).to_string());
    }

    fn break_down(&self) {
        *self.set.lock().unwrap() = None;
    }

    fn asked(&self) -> usize {
        self.server.requests().len()
    }

    fn url(&self) -> String {
        format!("{}/jwks.json?a=b", self.server.url())
    }
}

/// The whole way: no grant is written, the address is private, both workers have the keys, one asks.
#[test]
fn keys_come_from_a_url_and_are_kept_fresh() {
    let (upstream, a, b) = (Upstream::answering("ok"), ecdsa("ES256"), ecdsa("ES256"));
    let idp = Idp::publishing(&[("a", &a)]);
    let config = json!({ "jwks_url": idp.url(), "jwks_refresh_seconds": 1 });
    let gateway = gateway(&upstream, &config);
    let claims = json!({ "sub": "1" });
    let (by_a, by_b) =
        (a.token(&json!({ "kid": "a" }), &claims), b.token(&json!({ "kid": "b" }), &claims));

    // At once: the request waits for the keys.
    assert_eq!(ask(&gateway, &by_a).status(), 200);
    assert_eq!(idp.server.requests()[0].target(), "/jwks.json?a=b");
    idp.publish(&[("b", &b)]);
    eventually("the key to be taken back", || {
        let statuses: Vec<u16> = (0..8).map(|_| ask(&gateway, &by_a).status()).collect();
        statuses.iter().all(|status| *status == 401).then_some(())
    });
    assert_eq!(ask(&gateway, &by_b).status(), 200);

    idp.break_down();
    let asked = idp.asked();
    eventually("two vain attempts", || (idp.asked() >= asked + 2).then_some(()));
    gateway.logs("were not fetched: the answer has status 500; those that are there stay");
    assert_eq!(ask(&gateway, &by_b).status(), 200);
}

/// One in a minute, whatever clients make up, and for all workers together.
#[test]
fn unknown_keys_are_asked_for_once() {
    let (upstream, a, b) = (Upstream::answering("ok"), ed25519(), ed25519());
    let idp = Idp::publishing(&[("a", &a)]);
    let gateway = gateway(&upstream, &json!({ "jwks_url": idp.url() }));
    let claims = json!({ "sub": "1" });
    // The set, and when it is due again: then nobody asks for it any more.
    gateway.counts("zproxy_plugin_state_entries", &[("plugin", "jwt"), ("kind", "kv")], 2.0);
    assert_eq!(ask(&gateway, &a.token(&json!({ "kid": "a" }), &claims)).status(), 200);
    idp.publish(&[("a", &a), ("b", &b)]);

    assert_eq!(
        ask(&gateway, &b.token(&json!({ "kid": "b" }), &claims)).status(),
        200,
        "it waits for its key"
    );
    for number in 0..20 {
        let token = b.token(&json!({ "kid": number.to_string() }), &claims);
        assert_eq!(ask(&gateway, &token).status(), 401);
    }

    assert_eq!(idp.asked(), 2);
    let outcomes = BTreeMap::from([("accepted", 2.0), ("unknown_key", 20.0)]);
    for (outcome, count) in outcomes {
        gateway.counts(&format!("zproxy_plugin_jwt_{outcome}_total"), &[], count);
    }
}

#[test]
fn without_keys_the_answer_is_to_come_again() {
    let (upstream, a) = (Upstream::answering("ok"), ed25519());
    let idp = Idp::publishing(&[]);
    idp.break_down();
    let gateway = gateway(&upstream, &json!({ "jwks_url": idp.url() }));
    let token = a.token(&json!({ "kid": "a" }), &json!({}));

    let answer = ask(&gateway, &token);
    assert_eq!((answer.status(), answer.field("retry-after")), (503, Some("1")));
    idp.publish(&[("a", &a)]);

    eventually("keys", || (ask(&gateway, &token).status() == 200).then_some(()));
}

/// Two issuers, one of them down: the other's tokens go on.
#[test]
fn issuers_do_not_depend_on_each_other() {
    let (upstream, a, b) = (Upstream::answering("ok"), ecdsa("ES256"), ecdsa("ES384"));
    let idp = Idp::publishing(&[]);
    idp.break_down();
    let gateway = gateway(
        &upstream,
        &json!({ "issuers": [
        { "issuer": "https://a", "jwks_url": idp.url() },
        { "issuer": "https://b", "public_key_pem": b.pem },
    ] }),
    );

    let token = b.token(&json!({}), &json!({ "iss": "https://b" }));
    assert_eq!(ask(&gateway, &token).status(), 200);
    let token = b.token(&json!({}), &json!({ "iss": "https://a" }));
    assert_ne!(ask(&gateway, &token).status(), 200);
    idp.publish(&[("a", &a)]);
    let token = a.token(&json!({ "kid": "a" }), &json!({ "iss": "https://a" }));
    eventually("the other", || (ask(&gateway, &token).status() == 200).then_some(()));
    let token = a.token(&json!({ "kid": "a" }), &json!({ "iss": "https://b" }));
    assert_eq!(ask(&gateway, &token).status(), 401);
}
