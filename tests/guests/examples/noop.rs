//! Exports both hooks and does nothing: what is left is the price of a call.

use zproxy_sdk::{Middleware, export};

#[derive(serde::Deserialize)]
struct Noop {}

impl Middleware for Noop {}

export!(Noop);
