//! Chance, from the system's cryptographic generator.

use crate::host;

/// So many random bytes; more than 65,536 make the hook fail.
#[must_use]
pub fn bytes(count: u32) -> Vec<u8> {
    host::random::bytes(count)
}

/// A random number.
#[must_use]
pub fn number() -> u64 {
    host::random::number()
}
