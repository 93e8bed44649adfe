//! The host's functions: the real ones in wasm, those of [`crate::testing`] elsewhere.

#[cfg(target_family = "wasm")]
pub(crate) use crate::bindings::imports::zproxy::gateway::{
    clock, context, crypto, log, reply, request, response,
};

#[cfg(not(target_family = "wasm"))]
pub(crate) use crate::testing::host::{clock, context, crypto, log, reply, request, response};
