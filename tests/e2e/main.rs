//! ZProxy's behaviour, seen from outside: the built binary between raw clients and scripted
//! upstreams. One binary, because a second one would link everything once more.
//!
//! `ZPROXY_E2E_BINARY=/path cargo test --test e2e` runs the suite against another build,
//! `ZPROXY_E2E_IO=uring` (or `epoll`) on that back end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::disallowed_methods, reason = "what is tested runs on the real clock")]
#![allow(unreachable_pub, reason = "the harness is written like a library of its own")]

mod access_log;
mod admin;
mod author;
mod backend;
mod backpressure;
mod bad_upstream;
mod balance;
mod bench;
mod bodies;
mod body_hooks;
mod built_in;
mod callouts;
mod cache;
mod cache_shared;
mod cached;
mod cached_again;
mod chaos;
mod cli;
mod clients;
mod combined;
mod config;
mod defaults;
mod drain;
mod framing;
mod grpc;
mod harness;
mod headers;
mod hooks;
mod hostile;
mod http;
mod http2;
mod http2_abuse;
mod http2_conformance;
mod http2_connection;
mod http2_tls;
mod http2_upstream;
mod jwt;
mod jwt_keys;
mod leaving;
mod limits;
mod native;
mod numa;
mod plugins;
mod proxy_protocol;
mod rate_limit;
mod redis;
mod reload;
mod routing;
mod state;
mod swap;
mod tls;
mod tls_clients;
mod tls_files;
mod tls_identity;
mod tls_records;
mod tls_upstream;
mod upstream;
mod websocket;
mod websocket_abuse;
mod websocket_clients;
mod websocket_ends;
mod websocket_hooks;
mod websocket_inspect;
mod workers;
