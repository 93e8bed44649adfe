//! `zproxy:gateway/crypto`.
//!
//! HMAC stands on aws-lc directly: a prepared key and raw bytes. The verifier of jsonwebtoken takes
//! the signature as base64url text and prepares the key anew for each call.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;

use super::State;
use super::bindings::zproxy::gateway::crypto::Host;
use super::request::shown;

/// Keys per instance: a large identity provider publishes some ten.
const KEYS_MAX: usize = 256;

/// Bytes of one key's material; a hash function folds longer secrets anyway.
const MATERIAL_BYTES_MAX: usize = 16 * 1024;

/// The keys of one instance; a handle is an index.
#[derive(Default)]
pub(super) struct Keys(Vec<hmac::Key>);

impl Keys {
    fn add(&mut self, algorithm: &str, format: &str, material: &[u8]) -> Result<u32, String> {
        // RFC 7518 §3.2.
        let hash = match algorithm {
            "HS256" => hmac::HMAC_SHA256,
            "HS384" => hmac::HMAC_SHA384,
            "HS512" => hmac::HMAC_SHA512,
            _ => {
                return Err(format!(
                    "algorithm `{}` is not known; known are HS256, HS384, HS512",
                    shown(algorithm)
                ));
            }
        };
        if format != "secret" {
            return Err(format!(
                "format `{}` does not go with {algorithm}; `secret` does",
                shown(format)
            ));
        }
        if material.is_empty() {
            return Err("the secret is empty".to_owned());
        }
        if material.len() > MATERIAL_BYTES_MAX {
            return Err(format!("the secret is longer than {MATERIAL_BYTES_MAX} bytes"));
        }
        let handle = u32::try_from(self.0.len()).map_err(|_| "too many keys")?;
        if self.0.len() >= KEYS_MAX {
            return Err(format!("an instance has at most {KEYS_MAX} keys"));
        }
        self.0.push(hmac::Key::new(hash, material));
        Ok(handle)
    }

    fn verify(&self, key: u32, data: &[u8], signature: &[u8]) -> bool {
        let key = usize::try_from(key).ok().and_then(|index| self.0.get(index));
        key.is_some_and(|key| hmac::verify(key, data, signature).is_ok())
    }
}

impl Host for State {
    fn key(&mut self, algorithm: String, format: String, material: Vec<u8>) -> Result<u32, String> {
        self.keys.add(&algorithm, &format, &material)
    }

    fn verify(&mut self, key: u32, data: Vec<u8>, signature: Vec<u8>) -> bool {
        self.keys.verify(key, &data, &signature)
    }

    fn equal(&mut self, a: Vec<u8>, b: Vec<u8>) -> bool {
        verify_slices_are_equal(&a, &b).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231 §4.3, test case 2.
    #[test]
    fn a_signature_is_that_of_its_data_and_key_only() {
        let mut keys = Keys::default();
        let key = keys.add("HS256", "secret", b"Jefe").unwrap();
        let data = b"what do ya want for nothing?";
        let signature = [
            0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e, 0x6a, 0x04, 0x24, 0x26, 0x08, 0x95,
            0x75, 0xc7, 0x5a, 0x00, 0x3f, 0x08, 0x9d, 0x27, 0x39, 0x83, 0x9d, 0xec, 0x58, 0xb9,
            0x64, 0xec, 0x38, 0x43,
        ];

        assert!(keys.verify(key, data, &signature));
        assert!(!keys.verify(key, b"something else", &signature));
        assert!(!keys.verify(key, data, &signature[..31]));
        assert!(!keys.verify(key, data, b""));
        assert!(!keys.verify(key + 1, data, &signature), "no such key");
        let other = keys.add("HS512", "secret", b"Jefe").unwrap();
        assert!(!keys.verify(other, data, &signature), "bound to its algorithm");
    }

    #[test]
    fn refusals_say_what_is_known_and_never_the_key() {
        let mut keys = Keys::default();
        let mut refusal =
            |algorithm, format, material| keys.add(algorithm, format, material).unwrap_err();

        assert_eq!(
            refusal("none", "secret", b"hidden"),
            "algorithm `none` is not known; known are HS256, HS384, HS512"
        );
        assert_eq!(
            refusal("HS256", "pem", b"hidden"),
            "format `pem` does not go with HS256; `secret` does"
        );
        assert_eq!(refusal("HS256", "secret", b""), "the secret is empty");
    }

    #[test]
    fn keys_are_bounded() {
        let mut keys = Keys::default();
        let taken = (0..1000).take_while(|_| keys.add("HS256", "secret", b"k").is_ok()).count();

        assert_eq!(taken, KEYS_MAX);
    }
}
