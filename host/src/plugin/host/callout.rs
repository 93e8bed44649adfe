//! `zproxy:gateway/callout`: the one function that waits.
//!
//! Its types are written by hand, because the function is linked by hand: what bindings make of an
//! asynchronous import wants more of the state than a fiber gives.

#![expect(clippy::disallowed_methods, reason = "read around a wait, which is slow")]

use std::time::Duration;
use std::time::Instant;

use tokio::sync::oneshot;
use wasmtime::StoreContextMut;
use wasmtime::component::ComponentType;
use wasmtime::component::Lift;
use wasmtime::component::Linker;
use wasmtime::component::Lower;

use super::State;
use crate::plugin::callout::Ask;
use crate::plugin::callout::Asks;
use crate::plugin::callout::CalloutError;
use crate::plugin::callout::CalloutRequest;
use crate::plugin::callout::CalloutResponse;
use crate::plugin::engine::ticks;

#[derive(ComponentType, Lift)]
#[component(record)]
struct Request {
    method: String,
    url: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    #[component(name = "timeout-ms")]
    timeout_ms: u32,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Response {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

#[derive(ComponentType, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "denied")]
    Denied(String),
    #[component(name = "invalid")]
    Invalid(String),
    #[component(name = "unreachable")]
    Unreachable(String),
    #[component(name = "timeout")]
    Timeout,
    #[component(name = "too-large")]
    TooLarge,
    #[component(name = "busy")]
    Busy,
}

impl From<CalloutError> for Error {
    fn from(error: CalloutError) -> Self {
        match error {
            CalloutError::Denied(what) => Self::Denied(what),
            CalloutError::Invalid(what) => Self::Invalid(what),
            CalloutError::Unreachable(what) => Self::Unreachable(what),
            CalloutError::Timeout => Self::Timeout,
            CalloutError::TooLarge => Self::TooLarge,
            CalloutError::Busy => Self::Busy,
        }
    }
}

/// How the current call of an instance may wait.
#[derive(Default)]
pub(in crate::plugin) struct Waits {
    /// Where its questions go; `None` when this hook may not wait.
    asks: Option<Asks>,
    time_max: Duration,
    /// When it began to run, or went on.
    running_since: Option<Instant>,
    /// What it ran before.
    ran: Duration,
    /// Its callouts, when it belongs to no exchange.
    asked: u32,
    /// How many it may make.
    asked_max: u32,
    /// Those that were too many.
    refused: u32,
}

impl Waits {
    /// Of an instance that may make so many callouts for one request.
    pub(super) fn new(asked_max: u32) -> Self {
        Self { asked_max, ..Self::default() }
    }

    /// A call begins that may wait and run for so long.
    pub(in crate::plugin) fn begin(&mut self, asks: Asks, time_max: Duration) {
        let running_since = Some(Instant::now());
        let (ran, asked_max) = (Duration::ZERO, self.asked_max);
        let (asks, asked, refused) = (Some(asks), 0, 0);
        *self = Self { asks, time_max, running_since, ran, asked, asked_max, refused };
    }

    /// It has ended.
    pub(in crate::plugin) fn end(&mut self) {
        self.asks = None;
    }

    /// Callouts of the last call that were too many.
    pub(in crate::plugin) fn take_refused(&mut self) -> u32 {
        std::mem::take(&mut self.refused)
    }

    /// Whether the current call may wait.
    pub(super) fn may_wait(&self) -> bool {
        self.asks.is_some()
    }

    pub(super) fn pause(&mut self) {
        let since = self.running_since.take();
        self.ran += since.map_or(Duration::ZERO, |since| since.elapsed());
    }

    /// Goes on; the time that is left.
    pub(super) fn resume(&mut self) -> Duration {
        self.running_since = Some(Instant::now());
        self.time_max.saturating_sub(self.ran)
    }
}

impl State {
    /// Leaves a question; what to wait for.
    fn ask(
        &mut self,
        request: CalloutRequest,
    ) -> Result<oneshot::Receiver<Result<CalloutResponse, CalloutError>>, CalloutError> {
        let Some(asks) = &self.waits.asks else {
            let what = "callouts are for hooks that are shown a head, or a body that is held, and for `on-tick`";
            return Err(CalloutError::Denied(what.to_owned()));
        };
        let max = self.waits.asked_max;
        let may = match self.exchange.as_deref_mut() {
            Some(exchange) => exchange.add_callout(self.kept.name(), max),
            // A tick is nobody's request, and has as many for itself.
            None => {
                self.waits.asked = self.waits.asked.saturating_add(1);
                self.waits.asked <= max
            }
        };
        if !may {
            self.waits.refused = self.waits.refused.saturating_add(1);
            return Err(CalloutError::Busy);
        }
        let (answer, answered) = oneshot::channel();
        asks.send(Ask { request, answer }).map_err(|_| CalloutError::Busy)?;
        self.waits.pause();
        Ok(answered)
    }
}

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut interface = linker.instance("zproxy:gateway/callout@0.1.0")?;
    interface.func_wrap_async(
        "send",
        |mut store: StoreContextMut<'_, State>, (request,): (Request,)| {
            Box::new(async move {
                let request = CalloutRequest {
                    method: request.method,
                    url: request.url,
                    headers: request.headers,
                    body: request.body,
                    timeout: Duration::from_millis(request.timeout_ms.into()),
                };
                let answer = match store.data_mut().ask(request) {
                    Ok(answered) => {
                        let answer = answered.await.unwrap_or(Err(CalloutError::Timeout));
                        let state = store.data_mut();
                        state.overran_at = None;
                        let left = state.waits.resume();
                        store.set_epoch_deadline(ticks(left));
                        answer
                    }
                    Err(error) => Err(error),
                };
                let answer: Result<Response, Error> = answer
                    .map(|CalloutResponse { status, headers, body }| Response {
                        status,
                        headers,
                        body,
                    })
                    .map_err(Error::from);
                Ok((answer,))
            })
        },
    )
}
