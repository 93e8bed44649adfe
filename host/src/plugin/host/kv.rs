//! `zproxy:gateway/kv`.

use super::State;
use super::bindings::zproxy::gateway::kv::{Entry, Error, Host};
use crate::state::kv::Refusal;

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Conflict => Self::Conflict,
            Refusal::TooLarge => Self::TooLarge,
        }
    }
}

impl Host for State {
    fn get(&mut self, key: Vec<u8>) -> Option<Entry> {
        if !self.takes_key("kv.get", &key) {
            return None;
        }
        let entry = self.kept.kv().get(&key, self.now())?;
        Some(Entry { value: entry.value.to_vec(), version: entry.version })
    }

    fn set(&mut self, key: Vec<u8>, value: Vec<u8>, ttl_ms: u32) -> Result<u64, Error> {
        if !self.takes_key("kv.set", &key) {
            return Err(Error::TooLarge);
        }
        Ok(self.kept.kv().set(&key, &value, ttl_ms, self.now())?)
    }

    fn compare_and_swap(
        &mut self,
        key: Vec<u8>,
        expected: Option<u64>,
        value: Vec<u8>,
        ttl_ms: u32,
    ) -> Result<u64, Error> {
        if !self.takes_key("kv.compare-and-swap", &key) {
            return Err(Error::TooLarge);
        }
        Ok(self.kept.kv().compare_and_swap(&key, expected, &value, ttl_ms, self.now())?)
    }

    fn delete(&mut self, key: Vec<u8>) -> bool {
        self.takes_key("kv.delete", &key) && self.kept.kv().delete(&key, self.now())
    }
}
