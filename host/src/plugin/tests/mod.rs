//! Whole plugins: from bytes to what a request and its response look like afterwards.

mod chains;
mod failing;
pub(crate) mod guest;
mod imports;
mod lists;
mod loading;
mod messages;
mod native;
mod probing;
mod sharing;
mod system;

use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;
use std::time::Instant;

use guest::Guest;

use super::*;
use crate::config::Allow;
use crate::config::OnError;
use crate::config::PluginLimits;
use crate::http::Version;

static ENGINE: LazyLock<Arc<PluginEngine>> = LazyLock::new(|| PluginEngine::new().unwrap());

const LIMITS: PluginLimits = PluginLimits {
    memory_bytes_max: 2 * 1024 * 1024,
    time_max: Duration::from_millis(20),
    fuel_max: None,
    body_bytes_max: 1 << 20,
    instances_max: 4,
    callouts_max: 16,
    request_time_max: None,
};

fn load(guest: &Guest) -> Arc<Plugin> {
    let loaded = ENGINE.load("guest", &guest.build(), &LIMITS, &Arc::default());
    loaded.unwrap_or_else(|error| panic!("{error}"))
}

fn link(guest: &Guest, on_error: OnError) -> LinkPlan {
    LinkPlan {
        plugin: PlanSource::Wasm(load(guest)),
        name: "guest".into(),
        config: "{}".into(),
        on_error,
    }
}

fn plan<'a>(guests: impl IntoIterator<Item = &'a Guest>) -> ChainPlan {
    ChainPlan { links: guests.into_iter().map(|guest| link(guest, OnError::Closed)).collect() }
}

fn open(guest: &Guest) -> ChainPlan {
    ChainPlan { links: vec![link(guest, OnError::Open)] }
}

/// Made on a worker, whose runtime must not mind what plugins do.
fn on_worker<R>(work: impl FnOnce() -> R) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { work() })
}

fn request(fields: &[(&str, &str)]) -> Box<Exchange> {
    let mut exchange = Box::new(Exchange::default());
    exchange.request.assign("GET", "/", Version::Http11);
    for (name, value) in fields {
        exchange.request.fields.push(name, value.as_bytes());
    }
    exchange
}

fn response(status: u16, fields: &[(&str, &str)]) -> Box<Exchange> {
    let mut exchange = request(&[]);
    exchange.response.assign(status);
    for (name, value) in fields {
        exchange.response.fields.push(name, value.as_bytes());
    }
    exchange
}

fn text(fields: &crate::http::Fields) -> String {
    let mut out = Vec::new();
    fields.write(&mut out);
    String::from_utf8(out).unwrap().replace("\r\n", "; ")
}

fn down(chain: &Chain, exchange: Box<Exchange>) -> (Box<Exchange>, Passed) {
    chain.on_request(exchange, Instant::now())
}

fn up(
    chain: &Chain,
    exchange: Box<Exchange>,
    entered: usize,
) -> (Box<Exchange>, Result<Flow, Broken>) {
    chain.on_response(exchange, entered, Instant::now())
}

fn failure(passed: Passed) -> HookFailure {
    *passed.outcome.unwrap_err()
}

/// Sets the field `name` to `value`; both are put at an address of their own.
fn setting(mut guest: Guest, at: usize, function: &str, name: &str, value: &str) -> Guest {
    guest = guest.data(at, &format!("{name}{value}"));
    let call = format!(
        "(call ${function} (i32.const {at}) (i32.const {}) (i32.const {}) (i32.const {}))",
        name.len(),
        at + name.len(),
        value.len()
    );
    let body = guest.on_request.take().unwrap_or_default();
    guest.on_request = Some(format!("{call} {body}"));
    guest
}

pub(crate) fn setter(name: &str, value: &str) -> Guest {
    setting(Guest::on_request("(i32.const 0)").edits_requests(), 64, "request-set", name, value)
}

/// Traps when the request has a field `x-bad`, else does nothing.
fn fragile() -> Guest {
    Guest {
        request_fields: vec!["x-bad".to_owned()],
        ..Guest::on_request(
            "(if (i32.load8_u (local.get $fields)) (then (unreachable))) (i32.const 0)",
        )
    }
}

/// Calls `reply.send` with status, one field `x-by: guest` and the body `gone`.
fn replying(status: u16, answer: &str) -> Guest {
    let send = "(param \"status\" u16) (param \"headers\" (list (tuple string (list u8)))) \
                (param \"body\" (list u8))";
    let body = format!(
        "(i32.store (i32.const 128) (i32.const 64)) (i32.store (i32.const 132) (i32.const 4))
         (i32.store (i32.const 136) (i32.const 68)) (i32.store (i32.const 140) (i32.const 5))
         (call $send (i32.const {status}) (i32.const 128) (i32.const 1) (i32.const 73) (i32.const 4))
         {answer}"
    );
    let guest =
        Guest { on_request: Some(body.clone()), on_response: Some(body), ..Guest::default() };
    guest
        .import("reply", &[("send", "$reply \"send\"", send, "(param i32 i32 i32 i32 i32)")])
        .data(64, "x-byguestgone")
}
