//! Time, as the host tells it.

use crate::host;

/// Milliseconds since 1970-01-01 UTC.
#[must_use]
pub fn unix_ms() -> u64 {
    host::clock::unix_ms()
}

/// Microseconds since some moment; never goes back. Differences are what counts.
#[must_use]
pub fn monotonic_us() -> u64 {
    host::clock::monotonic_us()
}
