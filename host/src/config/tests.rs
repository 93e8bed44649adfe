//! t
#[cfg(test)] mod x {}
