//! `crypto`: shared secrets by the algorithms themselves, other keys by what a test says of them.

use std::rc::Rc;

use hmac::{Hmac, Mac};
use serde_json::Value;
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::host::{HOST, Host};
use crate::bindings::imports::zproxy::gateway::crypto::{DigestAlgorithm, SetKey};

/// The limit of `wit/`.
const KEYS_MAX: usize = 256;

/// What a test says to signatures: algorithm, key, data, signature.
pub(crate) type Signatures = std::rc::Rc<dyn Fn(&str, &[u8], &[u8], &[u8]) -> bool>;

/// A key with the algorithm that it is bound to.
#[derive(Debug)]
pub(super) enum Key {
    Hs256(Hmac<Sha256>),
    Hs384(Hmac<Sha384>),
    Hs512(Hmac<Sha512>),
    /// One that is known by what a test says of it.
    Other {
        algorithm: String,
        material: Vec<u8>,
    },
}

/// Every algorithm, with `kty` and `crv` of its keys (RFC 7518 §3.1, RFC 8037 §3.1).
const ALGORITHMS: [(&str, &str, &str); 12] = [
    ("HS256", "oct", ""),
    ("HS384", "oct", ""),
    ("HS512", "oct", ""),
    ("RS256", "RSA", ""),
    ("RS384", "RSA", ""),
    ("RS512", "RSA", ""),
    ("PS256", "RSA", ""),
    ("PS384", "RSA", ""),
    ("PS512", "RSA", ""),
    ("ES256", "EC", "P-256"),
    ("ES384", "EC", "P-384"),
    ("EdDSA", "OKP", "Ed25519"),
];

pub(crate) fn key(algorithm: &str, format: &str, material: &[u8]) -> Result<u32, String> {
    let known = ALGORITHMS.iter().find(|(name, ..)| *name == algorithm);
    let Some((_, kind, _)) = known else {
        return Err(format!("algorithm `{algorithm}` is not known"));
    };
    match (format, *kind) {
        ("secret", "oct") => keep_secret(algorithm, material),
        ("pem", "RSA" | "EC" | "OKP") => keep_other(algorithm, material),
        ("jwk", _) => {
            let jwk = serde_json::from_slice(material).map_err(|_| "this is no JWK".to_owned())?;
            keep_jwk(algorithm, &jwk, material)
        }
        ("secret" | "pem", _) => Err(format!("format `{format}` does not go with {algorithm}")),
        _ => Err(format!("format `{format}` is not known; known are secret, pem, jwk")),
    }
}

fn keep_secret(algorithm: &str, secret: &[u8]) -> Result<u32, String> {
    if secret.is_empty() {
        return Err("the secret is empty".to_owned());
    }
    let bad_length = |_| "a key of this length is not taken".to_owned();
    keep(match algorithm {
        "HS256" => Key::Hs256(Hmac::new_from_slice(secret).map_err(bad_length)?),
        "HS384" => Key::Hs384(Hmac::new_from_slice(secret).map_err(bad_length)?),
        _ => Key::Hs512(Hmac::new_from_slice(secret).map_err(bad_length)?),
    })
}

/// Keeps a key that only what a test has said can check.
fn keep_other(algorithm: &str, material: &[u8]) -> Result<u32, String> {
    if Host::with(|host| host.signatures.is_none()) {
        return Err("a unit test knows secrets only, before `check_signatures`".to_owned());
    }
    keep(Key::Other { algorithm: algorithm.to_owned(), material: material.to_vec() })
}

fn keep(key: Key) -> Result<u32, String> {
    Host::with(|host| {
        if host.keys.len() == KEYS_MAX {
            return Err(format!("more than {KEYS_MAX} keys"));
        }
        let handle = host.next_key;
        host.next_key += 1;
        host.keys.insert(handle, key);
        Ok(handle)
    })
}

/// Keeps a JWK as the host would; `text` is what it was read from.
fn keep_jwk(algorithm: &str, jwk: &Value, text: &[u8]) -> Result<u32, String> {
    let is = |name: &str, wanted: &str| jwk[name].as_str() == Some(wanted);
    let fits = ALGORITHMS.iter().any(|(name, kind, curve)| {
        *name == algorithm && is("kty", kind) && (curve.is_empty() || is("crv", curve))
    });
    let verifies = |ops: &Vec<Value>| ops.iter().any(|op| op == "verify" || op == "sign");
    if !fits || jwk["alg"].as_str().is_some_and(|alg| alg != algorithm) {
        return Err(format!("the key is not one for {algorithm}"));
    }
    if jwk["use"].as_str().is_some_and(|usage| usage != "sig")
        || !jwk["key_ops"].as_array().is_none_or(verifies)
    {
        return Err("the key says that it is not for signatures".to_owned());
    }
    if !jwk["d"].is_null() {
        return Err("this is a private key; give the public one".to_owned());
    }
    if !is("kty", "oct") {
        return keep_other(algorithm, text);
    }
    let secret = jwk["k"].as_str().and_then(decode);
    keep_secret(algorithm, &secret.ok_or("`k` of the key is not base64url without padding")?)
}

/// Base64url without padding (RFC 7515 §2).
fn decode(text: &str) -> Option<Vec<u8>> {
    const SYMBOLS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for symbol in text.bytes() {
        let value = SYMBOLS.iter().position(|known| *known == symbol)?;
        bits = bits << 6 | u32::try_from(value).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    (count < 6 && bits & ((1 << count) - 1) == 0).then_some(bytes)
}

pub(crate) fn key_set(jwks: &[u8]) -> Result<Vec<SetKey>, String> {
    let set: Value =
        serde_json::from_slice(jwks).map_err(|_| "this is no set of JWKs".to_owned())?;
    let keys = set["keys"].as_array().ok_or("this is no set of JWKs")?;
    let mut taken = Vec::new();
    for jwk in keys {
        let usual = match (jwk["kty"].as_str(), jwk["crv"].as_str()) {
            (Some("RSA"), _) => Some("RS256"),
            (Some("EC"), Some("P-256")) => Some("ES256"),
            (Some("EC"), Some("P-384")) => Some("ES384"),
            (Some("OKP"), Some("Ed25519")) => Some("EdDSA"),
            _ => None,
        };
        let Some(algorithm) = jwk["alg"].as_str().or(usual) else { continue };
        match keep_jwk(algorithm, jwk, jwk.to_string().as_bytes()) {
            Ok(key) => taken.push(SetKey {
                key,
                id: jwk["kid"].as_str().map(str::to_owned),
                algorithm: algorithm.to_owned(),
            }),
            // What the test has to say first is no fault of the key.
            Err(error) if error.contains("check_signatures") => return Err(error),
            Err(_) => {}
        }
    }
    Ok(taken)
}

/// Keys can outlive the thread's host.
pub(crate) fn forget(key: u32) {
    let _ = HOST.try_with(|host| host.borrow_mut().keys.remove(&key));
}

pub(crate) fn verify(key: u32, data: &[u8], signature: &[u8]) -> bool {
    let other = Host::with(|host| match (host.keys.get(&key), &host.signatures) {
        (Some(Key::Other { algorithm, material }), Some(check)) => {
            Some((Rc::clone(check), algorithm.clone(), material.clone()))
        }
        _ => None,
    });
    match other {
        Some((check, algorithm, material)) => check(&algorithm, &material, data, signature),
        None => sign(key, data).is_some_and(|made| equal(&made, signature)),
    }
}

pub(crate) fn sign(key: u32, data: &[u8]) -> Option<Vec<u8>> {
    Host::with(|host| {
        Some(match host.keys.get(&key)? {
            Key::Hs256(key) => sign_with(key, data),
            Key::Hs384(key) => sign_with(key, data),
            Key::Hs512(key) => sign_with(key, data),
            Key::Other { .. } => return None,
        })
    })
}

fn sign_with<M: Mac + Clone>(key: &M, data: &[u8]) -> Vec<u8> {
    key.clone().chain_update(data).finalize().into_bytes().to_vec()
}

pub(crate) fn digest(algorithm: DigestAlgorithm, data: &[u8]) -> Vec<u8> {
    match algorithm {
        DigestAlgorithm::Sha256 => Sha256::digest(data).to_vec(),
        DigestAlgorithm::Sha384 => Sha384::digest(data).to_vec(),
        DigestAlgorithm::Sha512 => Sha512::digest(data).to_vec(),
    }
}

pub(crate) fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |found, (a, b)| found | (a ^ b)) == 0
}
