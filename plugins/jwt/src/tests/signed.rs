//! Real signatures by public keys, natively: what the gateway's `crypto` says to them is said by the library that it
//! stands on.

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{DecodingKey, crypto};

use super::*;

/// As the host has it: a key for one algorithm.
fn check_by_jsonwebtoken() {
    testing::check_signatures(|algorithm, material, data, signature| {
        let algorithm: jsonwebtoken::Algorithm = algorithm.parse().unwrap();
        let jwk: Jwk = serde_json::from_slice(material).unwrap();
        let key = DecodingKey::from_jwk(&jwk).unwrap();
        crypto::verify(&encode(signature), data, &key, algorithm).unwrap_or(false)
    });
}

const CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

/// RFC 7515 A.2 and A.3: one key each, without names.
#[test]
fn the_examples_of_rfc_7515_are_verified() {
    check_by_jsonwebtoken();
    set_unix_ms(1_300_819_379_000);
    let rsa = r#"{"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}"#;
    let ec = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
    let config = format!(r#"{{"jwks": {{"keys": [{rsa}, {ec}]}}, "issuer": "joe"}}"#);
    let plugin = testing::load::<Jwt>(&config).unwrap();
    let rs256 = format!(
        "eyJhbGciOiJSUzI1NiJ9.{CLAIMS}.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
    );
    let es256 = format!(
        "eyJhbGciOiJFUzI1NiJ9.{CLAIMS}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    );
    let ask = |token: &str| {
        let request = Request::get("/").with_header("authorization", format!("Bearer {token}"));
        plugin.exchange(request, Response::status(200)).status()
    };

    for token in [&rs256, &es256] {
        assert_eq!(ask(token), 200, "{token}");
        // A bit of the payload, and one of the signature.
        assert_eq!(ask(&token.replace(".eyJpc3Mi", ".eyJpc3Nj")), 401);
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let other = if signature.starts_with('c') { "d" } else { "c" };
        assert_eq!(ask(&format!("{signed}.{other}{}", &signature[1..])), 401);
    }
    set_unix_ms(1_300_819_380_000);
    assert_eq!(ask(&rs256), 401, "it has ended");
}

/// RFC 8037 A.4, and RFC 7520 §4.2 (PS384), whose payloads are no claims: their signatures hold.
#[test]
fn the_examples_of_other_algorithms_are_signed_well() {
    check_by_jsonwebtoken();
    const FRODO: &str = "SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4";
    let bilbo = r#"{"kty":"RSA","kid":"bilbo.baggins@hobbiton.example","alg":"PS384","e":"AQAB","n":"n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJMRBSFKrKb2wqVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw"}"#;
    let okp = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    let plugin =
        testing::load::<Jwt>(&format!(r#"{{"jwks": {{"keys": [{bilbo}, {okp}]}}}}"#)).unwrap();
    let ps384 = format!(
        "eyJhbGciOiJQUzM4NCIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.{FRODO}.cu22eBqkYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDqHCdP6O8TTB5dDDItllVo6_1OLPpcbUrhiUSMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8ZnyPEgVFn442ZdNqiVJRmBqrYRXe8P_ijQ7p8Vdz0TTrxUeT3lm8d9shnr2lfJT8ImUjvAA2Xez2Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlqRHtfa64QQSUmFAAjVKPbByi7xho0uTOcbH510a6GYmJUAfmWjwZ6oD4ifKo8DYM-X72Eaw"
    );
    let eddsa = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    for (token, kind) in [
        (ps384.as_str(), "malformed"),
        (eddsa, "malformed"),
        (&ps384.replace(".cu22", ".cu23"), "signature"),
        (&eddsa.replace(".hgyY", ".hgyZ"), "signature"),
    ] {
        let before = metric(kind).unwrap_or(0.0);
        let request = Request::get("/").with_header("authorization", format!("Bearer {token}"));
        assert_eq!(plugin.exchange(request, Response::status(200)).status(), 401);
        assert_eq!(metric(kind), Some(before + 1.0), "{token}");
    }
}
