//! Notes on the current exchange, shared by the plugins of its chain.
//!
//! Set in one hook, read in later hooks of the same plugin or of others; they end with the
//! exchange.

use crate::host;

/// The note under `key`, if some plugin has made one.
#[must_use]
pub fn get(key: &str) -> Option<Vec<u8>> {
    host::context::get(key)
}

/// Makes or replaces a note. Keys are up to 256 bytes; all notes of an exchange up to 64 KiB and
/// 64 keys. Beyond that the hook fails when it returns.
pub fn set(key: &str, value: impl AsRef<[u8]>) {
    host::context::set(key, value.as_ref());
}
