//! What of the gateway is unsafe, and what stands on it, compiled without the plugin host: its unit tests under
//! AddressSanitizer, with leaks. What the kernel writes into memory it does not see; that a buffer is not
//! given back while the kernel has it is what the tests of `io::ring` look at.
//!
//! `make sanitize`

#![allow(dead_code, unused_imports, reason = "a part of the gateway, without its callers")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

#[path = "../../../host/src/config/mod.rs"]
pub mod config;
#[path = "../../../host/src/error.rs"]
pub mod error;
#[path = "../../../host/src/http/mod.rs"]
pub mod http;
#[path = "../../../host/src/io/mod.rs"]
pub mod io;
#[path = "../../../host/src/route/mod.rs"]
pub mod route;
#[path = "../../../host/src/sys/mod.rs"]
pub mod sys;
#[path = "../../../host/src/tls/mod.rs"]
pub mod tls;
