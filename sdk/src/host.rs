//! The host's functions: the real ones in wasm, those of [`crate::testing`] elsewhere.

#[cfg(target_family = "wasm")]
pub(crate) use crate::bindings::imports::zproxy::gateway::{
    body, clock, context, crypto, log, reply, request, response,
};

#[cfg(not(target_family = "wasm"))]
pub(crate) use crate::testing::host::{
    body, clock, context, crypto, log, reply, request, response,
};
