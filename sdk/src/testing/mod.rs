//! Runs a plugin in a unit test: no gateway, no wasm, milliseconds.
//!
//! ```
//! # use zproxy_sdk::{Middleware, Response, export};
//! # #[derive(serde::Deserialize)]
//! # struct Stamp {}
//! # impl Middleware for Stamp {
//! #     fn on_response(&self, response: &mut Response) {
//! #         response.set_header("x-served-by", "edge-1");
//! #     }
//! # }
//! # export!(Stamp: on_response);
//! use zproxy_sdk::testing::{self, Request, Response as Upstream};
//!
//! let plugin = testing::load::<Stamp>("{}").unwrap();
//! let answer = plugin.exchange(Request::get("/"), Upstream::status(503));
//! assert_eq!(answer.header("x-served-by"), Some("edge-1"));
//! ```
//!
//! The host behind it is a small copy of the gateway's, one per thread: it keeps what the hooks do
//! and checks edits by the rules of `wit/`, so that a hook that the gateway would refuse fails here
//! too. Not here: chains, limits of time and memory, and other workers.

mod message;
pub(crate) mod cache;
pub(crate) mod crypto;
pub(crate) mod host;
pub(crate) mod state;

use std::fmt;
use std::time::Duration;

pub use message::{Request, Response};

use host::{Host, MessageCalls, Wish};

use crate::bindings::imports::zproxy::gateway::types::MessageAction;
use crate::bindings::lifecycle::zproxy::gateway::types::{Action, ChunkAction};
use crate::{Hook, Message, MessageFlow, Peer, Problem, Running, Slot, Summary, callout, log};

/// A plugin that has accepted its configuration.
pub struct Loaded<M> {
    running: Running<M>,
}

// By hand, so that a plugin needs no `Debug` for `load(…).unwrap_err()`.
impl<M> fmt::Debug for Loaded<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").finish_non_exhaustive()
    }
}

/// Reads a configuration, as the gateway does when it loads a plugin.
///
/// The clock stands at zero until [`set_unix_ms`] sets it.
///
/// # Errors
///
/// What the operator would be told.
pub fn load<M: Slot>(config: &str) -> Result<Loaded<M>, String> {
    if M::HOOKS.contains(&Hook::Validate) {
        let problems = problems::<M>(config);
        if !problems.is_empty() {
            let lines =
                problems.iter().map(|Problem { path, message }| format!("{path}: {message}"));
            return Err(lines.collect::<Vec<_>>().join("\n"));
        }
    }
    let running = Running::new(config)?;
    for names in [running.request_fields(), running.response_fields()] {
        if names.len() > host::PUSHED_FIELDS_MAX {
            return Err(format!("more than {} fields", host::PUSHED_FIELDS_MAX));
        }
    }
    Ok(Loaded { running })
}

/// Everything that is wrong with a configuration, as an operator is shown it when the plugin exports
/// `validate`.
#[must_use]
pub fn problems<M: Slot>(config: &str) -> Vec<Problem> {
    Running::<M>::problems(config)
}

/// Names of upstreams that a plugin may choose with [`Request::set_upstream`](crate::Request::set_upstream).
pub fn set_upstreams(names: &[&str]) {
    Host::with(|host| host.upstreams = names.iter().map(|name| (*name).to_owned()).collect());
}

/// Answers the callouts of plugins on this thread from now on; before, they are denied.
pub fn answer_callouts(
    answer: impl FnMut(&callout::Request) -> Result<callout::Response, callout::Error> + 'static,
) {
    Host::with(|host| host.callouts = Some(Box::new(answer)));
}

/// Checks signatures under public keys on this thread from now on; before, keys other than secrets are not
/// taken. `check` is handed the algorithm, the key as it was given (a PEM file, or its JWK), the data and the
/// signature: native signature maths is the gateway's, and a unit test is about what becomes of a yes or no.
pub fn check_signatures(check: impl Fn(&str, &[u8], &[u8], &[u8]) -> bool + 'static) {
    Host::with(|host| host.signatures = Some(std::rc::Rc::new(check)));
}

/// Sets the time of this thread's host, in milliseconds since 1970.
pub fn set_unix_ms(now: u64) {
    Host::with(|host| host.unix_ms = now);
}

/// Grants a variable of the environment; `None`: it is not set.
pub fn set_variable(name: &str, value: Option<&str>) {
    Host::with(|host| host.state.variables.insert(name.to_owned(), value.map(str::to_owned)));
}

/// Grants a secret.
pub fn set_secret(name: &str, value: impl Into<Vec<u8>>) {
    Host::with(|host| host.state.secrets.insert(name.to_owned(), value.into()));
}

/// What a metric of the plugin has come to: a counter's count, a gauge's value, the sum of a histogram.
#[must_use]
pub fn metric(name: &str) -> Option<f64> {
    Host::with(|host| {
        let metric = host.state.metrics.iter().find(|metric| metric.name == name)?;
        Some(metric.number())
    })
}

/// Sets the level from which lines are kept in [`Answer::log`]; all are, at first.
pub fn set_log_level(level: Option<log::Level>) {
    Host::with(|host| host.log_level = level);
    log::ask();
}

impl<M: Slot> Loaded<M> {
    /// Shows the plugin a request and, unless it answers itself, the upstream's response, and their
    /// bodies in the way that it asks for. As in the gateway, a hook that `export!` does not name
    /// is not called.
    #[must_use]
    pub fn exchange(&self, request: Request, upstream: Response) -> Answer {
        let bytes = request.body.len();
        Host::with(|host| host.begin(request));
        let answer = self.request().unwrap_or_else(|| {
            Host::with(|host| host.respond(upstream));
            let response = self.response();
            let mut answer =
                response.unwrap_or_else(|| Answer::new(Host::with(|host| host.response.clone())));
            answer.request = Some(Host::with(|host| host.request.clone()));
            answer
        });
        if M::HOOKS.contains(&Hook::Log) {
            Host::with(|host| host.respond(answer.response.clone()));
            let length = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
            self.running.on_log(&Summary {
                status: answer.status(),
                request_bytes: length(bytes),
                response_bytes: length(answer.body().len()),
                duration_us: 0,
                upstream_us: 0,
            });
        }
        answer
    }

    /// Shows the plugin a WebSocket message, of the exchange that was last; what becomes of it.
    ///
    /// # Errors
    ///
    /// The rule that the hook broke.
    pub fn message(&self, from: Peer, message: &Message) -> Result<MessageFlow, String> {
        if !M::HOOKS.contains(&Hook::Message) {
            return Ok(MessageFlow::Pass);
        }
        Host::with(|host| host.message = Some(MessageCalls::default()));
        let action = self.running.on_message(from, message);
        let (calls, failure) =
            Host::with(|host| (host.message.take().unwrap_or_default(), host.failure.take()));
        match (failure, action, calls.replacement, calls.close) {
            (Some(failure), ..) => Err(failure),
            (_, MessageAction::Pass, ..) => Ok(MessageFlow::Pass),
            (_, MessageAction::Drop, ..) => Ok(MessageFlow::Drop),
            (_, MessageAction::Replaced, Some(message), _) => Ok(MessageFlow::Replace(message)),
            (_, MessageAction::Close, _, Some((code, reason))) => {
                Ok(MessageFlow::Close { code, reason })
            }
            _ => Err("an answer without its call of `websocket`".to_owned()),
        }
    }

    /// What the gateway does about once a second.
    pub fn tick(&self) {
        if M::HOOKS.contains(&Hook::Tick) {
            Host::with(|host| host.sent = 0);
            waiting(|| self.running.on_tick());
        }
    }

    /// What the gateway does with an instance that it needs no more.
    pub fn shutdown(&self) {
        if M::HOOKS.contains(&Hook::Shutdown) {
            self.running.shutdown();
        }
    }

    fn request(&self) -> Option<Answer> {
        if let Some(answer) = self.on_request() {
            return Some(answer);
        }
        let body = Host::with(|host| std::mem::take(&mut host.request.body));
        let shown = self.body(Hook::RequestBody, body, 413);
        shown.map(|body| Host::with(|host| host.request.body = body)).err()
    }

    fn response(&self) -> Option<Answer> {
        if let Some(answer) = self.on_response() {
            return Some(answer);
        }
        let body = Host::with(|host| std::mem::take(&mut host.response.body));
        let shown = self.body(Hook::ResponseBody, body, 502);
        shown.map(|body| Host::with(|host| host.response.body = body)).err()
    }

    /// Shows a body as the head hook has asked for; what goes on, or the end of the exchange.
    #[expect(clippy::result_large_err, reason = "in tests, where an answer is the outcome")]
    fn body(&self, hook: Hook, body: Vec<u8>, too_long: u16) -> Result<Vec<u8>, Answer> {
        let wish = Host::with(|host| host.wish.take());
        let max = match wish {
            Some(Wish::Replace(other)) => return Ok(other),
            _ if !M::HOOKS.contains(&hook) => return Ok(body),
            Some(Wish::Skip) => return Ok(body),
            Some(Wish::Hold(max)) if body.len() > max => {
                return Err(Answer::new(Response::status(too_long)));
            }
            Some(Wish::Hold(max)) => max,
            Some(Wish::Observe) | None if body.is_empty() => return Ok(body),
            Some(Wish::Observe) | None => host::CHUNK_BYTES_MAX,
        };
        let observes = wish == Some(Wish::Observe);
        let held = matches!(wish, Some(Wish::Hold(_)));
        Host::with(|host| host.may_wait = held);
        let mut chunks = body.chunks(max.max(1)).peekable();
        let mut out = Vec::new();
        let mut rest = 0;
        loop {
            let chunk = chunks.next().unwrap_or_default();
            rest += chunk.len();
            let end = chunks.peek().is_none();
            match self.on_chunk(hook, chunk, end, observes)? {
                ChunkAction::Pass => out.extend_from_slice(chunk),
                ChunkAction::Drop => {}
                ChunkAction::Replaced => {
                    let replacement = Host::with(|host| host.replacement.take());
                    out.extend(replacement.unwrap_or_default());
                }
                ChunkAction::Detach => {
                    out.extend_from_slice(chunk);
                    out.extend_from_slice(&body[rest..]);
                    return Ok(out);
                }
                ChunkAction::Abort => {
                    let reply = Host::with(|host| host.reply.take());
                    return Err(Answer::new(reply.unwrap_or_else(|| Response::status(502))));
                }
            }
            if end {
                return Ok(out);
            }
        }
    }

    #[expect(clippy::result_large_err, reason = "in tests, where an answer is the outcome")]
    fn on_chunk(
        &self,
        hook: Hook,
        chunk: &[u8],
        end: bool,
        observes: bool,
    ) -> Result<ChunkAction, Answer> {
        Host::with(|host| host.in_body = true);
        let action = match hook {
            Hook::RequestBody => self.running.on_request_body(chunk, end),
            _ => self.running.on_response_body(chunk, end),
        };
        let failure = Host::with(|host| {
            host.in_body = false;
            host.may_wait = false;
            let missing = action == ChunkAction::Replaced && host.replacement.is_none();
            let changed = matches!(action, ChunkAction::Replaced | ChunkAction::Drop);
            let failure = host.failure.take();
            failure
                .or_else(|| missing.then(|| "replaced without a replacement".to_owned()))
                .or_else(|| (observes && changed).then(|| "an observed body changed".to_owned()))
        });
        match failure {
            None => Ok(action),
            Some(failure) => {
                Err(Answer { failure: Some(failure), ..Answer::new(Response::status(503)) })
            }
        }
    }

    fn on_request(&self) -> Option<Answer> {
        if !M::HOOKS.contains(&Hook::Request) {
            return None;
        }
        let pushed = Host::with(|host| host.pushed_request(self.running.request_fields()));
        let action = waiting(|| self.running.on_request(pushed));
        after_hook(action)
    }

    fn on_response(&self) -> Option<Answer> {
        if !M::HOOKS.contains(&Hook::Response) {
            return None;
        }
        let pushed = Host::with(|host| host.pushed_response(self.running.response_fields()));
        let status = Host::with(|host| host.response.status);
        let action = waiting(|| self.running.on_response(status, pushed));
        after_hook(action)
    }
}

/// Calls a hook that may wait.
fn waiting<T>(call: impl FnOnce() -> T) -> T {
    Host::with(|host| host.may_wait = true);
    let called = call();
    Host::with(|host| host.may_wait = false);
    called
}

/// The exchange's end, if this hook was it.
fn after_hook(action: Action) -> Option<Answer> {
    if let Some(failure) = Host::with(|host| host.failure.take()) {
        return Some(Answer { failure: Some(failure), ..Answer::new(Response::status(503)) });
    }
    match action {
        Action::Next => None,
        Action::Respond => Some(match Host::with(|host| host.reply.take()) {
            Some(reply) => Answer::new(reply),
            None => Answer {
                failure: Some("respond without a reply".to_owned()),
                ..Answer::new(Response::status(503))
            },
        }),
    }
}

/// What the client gets, and what happened on the way.
#[derive(Debug)]
pub struct Answer {
    response: Response,
    request: Option<Request>,
    failure: Option<String>,
    log: Vec<(log::Level, String)>,
    repeats_for: Option<Duration>,
}

impl Answer {
    fn new(response: Response) -> Self {
        let (log, repeat_ms) = Host::with(|host| (std::mem::take(&mut host.log), host.repeat_ms));
        let repeats_for = repeat_ms.map(|ms| Duration::from_millis(ms.into()));
        Self { response, request: None, failure: None, log, repeats_for }
    }

    /// The status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.response.status
    }

    /// The first value of a field, when it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.value(name)
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.response.body
    }

    /// The request as the upstream got it; none when the plugin answered itself.
    #[must_use]
    pub fn upstream_request(&self) -> Option<&Request> {
        self.request.as_ref()
    }

    /// Why the hook failed by the rules of `wit/`; the answer is then the gateway's 503.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// For how long the gateway may give this answer again, when the plugin has said so
    /// ([`cache::repeat`](crate::cache::repeat)). In a test every hook is called all the same.
    #[must_use]
    pub fn repeats_for(&self) -> Option<Duration> {
        self.repeats_for
    }

    /// The lines that the plugin wrote to the log since the last exchange ended.
    #[must_use]
    pub fn log(&self) -> &[(log::Level, String)] {
        &self.log
    }
}

#[cfg(test)]
mod bodies;
#[cfg(test)]
mod tests;
