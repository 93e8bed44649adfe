//! Signatures, checked by the host's native code.

use crate::host;

/// A key that the host keeps, bound to one algorithm.
///
/// To be made while the configuration is read; an instance may have 256.
#[derive(Debug)]
pub struct Key(u32);

impl Key {
    /// Takes a key in. `algorithm` is a JWS name (RFC 7518 §3.1), `format` says what `material`
    /// is: `secret` for `HS256`, `HS384` and `HS512`.
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
}

/// Whether two byte strings are equal, in time that depends on their lengths only.
#[must_use]
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    host::crypto::equal(a, b)
}
