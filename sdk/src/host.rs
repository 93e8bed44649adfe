//! The host's functions: the real ones in wasm, those of [`crate::testing`] elsewhere.

#[cfg(target_family = "wasm")]
pub(crate) use crate::bindings::imports::zproxy::gateway::{
    body, cache, clock, context, counters, crypto, environment, kv, log, metrics, random, reply,
    request, response,
};

#[cfg(not(target_family = "wasm"))]
pub(crate) use crate::testing::cache;
#[cfg(not(target_family = "wasm"))]
pub(crate) use crate::testing::host::{
    body, clock, context, crypto, log, reply, request, response,
};
#[cfg(not(target_family = "wasm"))]
pub(crate) use crate::testing::state::{counters, environment, kv, metrics, random};
