//! `crypto`: shared secrets by the algorithms themselves, other keys by what a test says of them.

use std::rc::Rc;

use hmac::{Hmac, Mac};
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

pub(crate) fn key(algorithm: &str, format: &str, material: &[u8]) -> Result<u32, String> {
    if format != "secret" {
        return keep_other(algorithm, material);
    }
    if material.is_empty() {
        return Err("the secret is empty".to_owned());
    }
    let bad_length = |_| "a key of this length is not taken".to_owned();
    let key = match algorithm {
        "HS256" => Key::Hs256(Hmac::new_from_slice(material).map_err(bad_length)?),
        "HS384" => Key::Hs384(Hmac::new_from_slice(material).map_err(bad_length)?),
        "HS512" => Key::Hs512(Hmac::new_from_slice(material).map_err(bad_length)?),
        _ => {
            return Err(format!(
                "a unit test does not know `{algorithm}`; write HS256, HS384 or HS512"
            ));
        }
    };
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

/// Keeps a key that only what a test has said can check.
fn keep_other(algorithm: &str, material: &[u8]) -> Result<u32, String> {
    Host::with(|host| {
        if host.signatures.is_none() {
            return Err("a unit test knows secrets only, before `check_signatures`".to_owned());
        }
        if host.keys.len() == KEYS_MAX {
            return Err(format!("more than {KEYS_MAX} keys"));
        }
        let handle = host.next_key;
        host.next_key += 1;
        let key = Key::Other { algorithm: algorithm.to_owned(), material: material.to_vec() };
        host.keys.insert(handle, key);
        Ok(handle)
    })
}

pub(crate) fn key_set(jwks: &[u8]) -> Result<Vec<SetKey>, String> {
    let set: serde_json::Value =
        serde_json::from_slice(jwks).map_err(|_| "this is no set of JWKs".to_owned())?;
    let keys = set["keys"].as_array().ok_or("this is no set of JWKs")?;
    let mut taken = Vec::new();
    for jwk in keys {
        let usual = match (jwk["kty"].as_str(), jwk["crv"].as_str()) {
            (Some("RSA"), _) => Some("RS256"),
            (Some("EC"), Some("P-256")) => Some("ES256"),
            (Some("EC"), Some("P-384")) => Some("ES384"),
            (Some("OKP"), _) => Some("EdDSA"),
            _ => None,
        };
        let Some(algorithm) = jwk["alg"].as_str().or(usual) else { continue };
        taken.push(SetKey {
            key: keep_other(algorithm, jwk.to_string().as_bytes())?,
            id: jwk["kid"].as_str().map(str::to_owned),
            algorithm: algorithm.to_owned(),
        });
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
