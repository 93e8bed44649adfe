//! Values that all workers of the gateway see.
//!
//! A capability: the operator writes `"allow": {"kv": true}`.
//!
//! ```
//! use std::time::Duration;
//! use zproxy_sdk::kv;
//!
//! /// Whether this is the first time within a minute that `id` is seen, on any worker.
//! fn is_new(id: &str) -> bool {
//!     kv::compare_and_swap(id, None, b"", Some(Duration::from_secs(60))).is_ok()
//! }
//! # let _ = is_new;
//! ```
//!
//! Keys are up to 256 bytes, more make the hook fail; values up to 64 KiB. When the memory that was
//! granted is full, entries that were used once or not for longest are forgotten.

use std::fmt;
use std::time::Duration;

use crate::bindings::imports::zproxy::gateway::kv::Error as HostError;
use crate::{host, milliseconds};

/// A value and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Vec<u8>,
    /// Another one after every change of the entry.
    pub version: u64,
}

/// Why a value was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The entry is not as it was expected to be.
    Conflict,
    /// The value is longer than 64 KiB.
    TooLarge,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Conflict => "somebody else has changed the entry",
            Self::TooLarge => "the value is longer than 64 KiB",
        })
    }
}

impl std::error::Error for Error {}

impl From<HostError> for Error {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Conflict => Self::Conflict,
            HostError::TooLarge => Self::TooLarge,
        }
    }
}

/// The entry under `key`, unless its time is up.
#[must_use]
pub fn get(key: impl AsRef<[u8]>) -> Option<Entry> {
    let entry = host::kv::get(key.as_ref())?;
    Some(Entry { value: entry.value, version: entry.version })
}

/// Makes or replaces an entry and returns its version. It ends after `ttl`; without, it has no end.
///
/// # Errors
///
/// [`Error::TooLarge`].
pub fn set(
    key: impl AsRef<[u8]>,
    value: impl AsRef<[u8]>,
    ttl: Option<Duration>,
) -> Result<u64, Error> {
    Ok(host::kv::set(key.as_ref(), value.as_ref(), lifetime(ttl))?)
}

/// The same, if the entry still has the version that is `expected`; `None`: if there is none. Nobody can
/// come between.
///
/// # Errors
///
/// [`Error::Conflict`], [`Error::TooLarge`].
pub fn compare_and_swap(
    key: impl AsRef<[u8]>,
    expected: Option<u64>,
    value: impl AsRef<[u8]>,
    ttl: Option<Duration>,
) -> Result<u64, Error> {
    let (key, value) = (key.as_ref(), value.as_ref());
    Ok(host::kv::compare_and_swap(key, expected, value, lifetime(ttl))?)
}

/// Removes an entry. Whether there was one.
pub fn delete(key: impl AsRef<[u8]>) -> bool {
    host::kv::delete(key.as_ref())
}

/// In milliseconds, where 0 is no end: nothing lives for less than one.
fn lifetime(ttl: Option<Duration>) -> u32 {
    ttl.map_or(0, |ttl| milliseconds(ttl).max(1))
}
