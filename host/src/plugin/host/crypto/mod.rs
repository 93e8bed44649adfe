//! `zproxy:gateway/crypto`.
//!
//! Everything stands on aws-lc directly: prepared keys and raw bytes. The verifiers of jsonwebtoken
//! take signatures as base64url text and prepare the key anew for each call.
//!
//! Not here: reading keys (`key`).

mod der;
mod key;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;

use super::State;
use super::bindings::zproxy::gateway::crypto::{DigestAlgorithm, Host, SetKey};
use key::Key;

/// Keys per instance: a large identity provider publishes some ten.
const KEYS_MAX: usize = 256;

/// Bytes of one key's material. A certificate has some 2 KiB.
const MATERIAL_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a set: all keys of an instance, each with a certificate beside it.
const SET_BYTES_MAX: usize = 1024 * 1024;

/// The keys of one instance.
#[derive(Default)]
pub(super) struct Keys {
    /// By handle, rising.
    keys: Vec<(u32, Key)>,
    /// Handles are not given out again: a stale one must not become another key.
    next: u32,
}

impl Keys {
    fn add(&mut self, algorithm: &str, format: &str, material: &[u8]) -> Result<u32, String> {
        if material.len() > MATERIAL_BYTES_MAX {
            return Err(format!("the key is longer than {MATERIAL_BYTES_MAX} bytes"));
        }
        let key = Key::read(algorithm, format, material)?;
        self.room_for(1)?;
        Ok(self.push(key))
    }

    fn add_set(&mut self, jwks: &[u8]) -> Result<Vec<SetKey>, String> {
        if jwks.len() > SET_BYTES_MAX {
            return Err(format!("the set is longer than {SET_BYTES_MAX} bytes"));
        }
        let set = key::read_set(jwks)?;
        self.room_for(set.len())?;
        let taken = set.into_iter().map(|member| SetKey {
            key: self.push(member.key),
            id: member.id,
            algorithm: member.algorithm.to_owned(),
        });
        Ok(taken.collect())
    }

    fn room_for(&self, more: usize) -> Result<(), String> {
        let handles = u32::try_from(more).ok().and_then(|more| self.next.checked_add(more));
        if self.keys.len().saturating_add(more) > KEYS_MAX || handles.is_none() {
            return Err(format!("an instance has at most {KEYS_MAX} keys"));
        }
        Ok(())
    }

    fn push(&mut self, key: Key) -> u32 {
        let handle = self.next;
        self.next += 1;
        self.keys.push((handle, key));
        handle
    }

    fn find(&self, handle: u32) -> Option<&Key> {
        let place = self.keys.binary_search_by_key(&handle, |(handle, _)| *handle).ok()?;
        self.keys.get(place).map(|(_, key)| key)
    }

    fn forget(&mut self, handle: u32) {
        if let Ok(place) = self.keys.binary_search_by_key(&handle, |(handle, _)| *handle) {
            self.keys.remove(place);
        }
    }
}

impl Host for State {
    fn key(&mut self, algorithm: String, format: String, material: Vec<u8>) -> Result<u32, String> {
        self.keys.add(&algorithm, &format, &material)
    }

    fn key_set(&mut self, jwks: Vec<u8>) -> Result<Vec<SetKey>, String> {
        self.keys.add_set(&jwks)
    }

    fn forget(&mut self, key: u32) {
        self.keys.forget(key);
    }

    fn verify(&mut self, key: u32, data: Vec<u8>, signature: Vec<u8>) -> bool {
        self.keys.find(key).is_some_and(|key| key.verify(&data, &signature))
    }

    fn sign(&mut self, key: u32, data: Vec<u8>) -> Option<Vec<u8>> {
        self.keys.find(key)?.sign(&data)
    }

    fn digest(&mut self, algorithm: DigestAlgorithm, data: Vec<u8>) -> Vec<u8> {
        let algorithm = match algorithm {
            DigestAlgorithm::Sha256 => &digest::SHA256,
            DigestAlgorithm::Sha384 => &digest::SHA384,
            DigestAlgorithm::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, &data).as_ref().to_vec()
    }

    fn equal(&mut self, a: Vec<u8>, b: Vec<u8>) -> bool {
        verify_slices_are_equal(&a, &b).is_ok()
    }
}

#[cfg(test)]
mod tests;
