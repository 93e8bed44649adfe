//! Signatures and digests, made by the host's native code.

use crate::bindings::imports::zproxy::gateway::crypto::DigestAlgorithm;
use crate::host;

/// A key that the host keeps, bound to one algorithm. The host forgets it when it is dropped.
///
/// To be made while the configuration is read; an instance may have 256.
#[derive(Debug)]
pub struct Key(u32);

impl Key {
    /// Takes a key in. `algorithm` is a JWS name (RFC 7518 §3.1, RFC 8037 §3.1): `HS256` `HS384` `HS512`
    /// `RS256` `RS384` `RS512` `PS256` `PS384` `PS512` `ES256` `ES384` `EdDSA`. `format` says what
    /// `material` is: `secret` (for HS), `pem` (a public key or a certificate), `jwk`.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the key or the names, never what the key is.
    pub fn new(algorithm: &str, format: &str, material: &[u8]) -> Result<Self, String> {
        host::crypto::key(algorithm, format, material).map(Self)
    }

    /// Whether `signature` (raw bytes) is that of `data` under this key, compared in constant time.
    #[must_use]
    pub fn verify(&self, data: &[u8], signature: &[u8]) -> bool {
        host::crypto::verify(self.0, data, signature)
    }

    /// The signature of `data` under an HS key (HMAC); `None` for any other.
    #[must_use]
    pub fn sign(&self, data: &[u8]) -> Option<Vec<u8>> {
        host::crypto::sign(self.0, data)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        host::crypto::forget(self.0);
    }
}

/// A key of a set.
#[derive(Debug)]
pub struct SetKey {
    /// The key.
    pub key: Key,
    /// Its `kid`.
    pub id: Option<String>,
    /// Its algorithm.
    pub algorithm: String,
}

/// Takes the keys of a JWK set (RFC 7517 §5) in that can check signatures; others are left out.
///
/// # Errors
///
/// It is no set, or holds more keys than an instance may have.
pub fn key_set(jwks: &[u8]) -> Result<Vec<SetKey>, String> {
    let keys = host::crypto::key_set(jwks)?;
    let owned = keys.into_iter().map(|one| SetKey {
        key: Key(one.key),
        id: one.id,
        algorithm: one.algorithm,
    });
    Ok(owned.collect())
}

/// SHA-256 of `data`.
#[must_use]
pub fn sha256(data: &[u8]) -> Vec<u8> {
    host::crypto::digest(DigestAlgorithm::Sha256, data)
}

/// SHA-384 of `data`.
#[must_use]
pub fn sha384(data: &[u8]) -> Vec<u8> {
    host::crypto::digest(DigestAlgorithm::Sha384, data)
}

/// SHA-512 of `data`.
#[must_use]
pub fn sha512(data: &[u8]) -> Vec<u8> {
    host::crypto::digest(DigestAlgorithm::Sha512, data)
}

/// Whether two byte strings are equal, in time that depends on their lengths only.
#[must_use]
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    host::crypto::equal(a, b)
}
