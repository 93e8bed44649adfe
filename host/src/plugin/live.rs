//! One instance in its store: making it, calling its hooks, and what became of a call.
//!
//! An exchange is lent to the store for the time of a call. What the guest wants done is collected in
//! [`State`] and settled when the call has ended well; a call that fails leaves the two heads as
//! they were.
//!
//! Not here: when an instance is made and thrown away (`instance`).

#![expect(clippy::disallowed_methods, reason = "read where an instance is made, which is slow")]

use std::pin::pin;
use std::task::Context as TaskContext;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::mpsc;
use wasmtime::Store;
use wasmtime::Trap;
use wasmtime::UpdateDeadline;
use wasmtime::WasmBacktrace;
use wasmtime::component::Instance;

use super::backtrace;
use super::body::BODY_BYTES_MAX;
use super::body::ChunkFlow;
use super::body::Showing;
use super::callout::Ask;
use super::callout::Asks;
use super::declared;
use super::declared::Field;
use super::declared::Values;
use super::engine::ticks;
use super::exchange::Exchange;
use super::exchange::Flow;
use super::exchange::Summary;
use super::exports::Guests;
use super::failure::Failure;
use super::failure::FailureKind;
use super::host::Phase;
use super::host::State;
use super::host::bindings::zproxy::gateway::types;
use super::host::bindings::zproxy::gateway::types::ChunkAction;
use super::host::clean;
use super::instance::Hook;
use super::load::Complaint;
use super::load::Plugin;
use super::message::MessageFlow;
use super::message::Peer;
use super::message::SocketMessage;
use super::remote::Handle;
use super::repeat::Repeats;
use super::settle::settle_chunk;
use super::settle::settle_head;
use super::settle::settle_message;

/// What one call of the host may carry: the largest body that can be put in place of another, or the
/// largest reply with its fields.
const HOSTCALL_BYTES_MAX: usize = BODY_BYTES_MAX + 256 * 1024;

/// Component-model handles of one instance: WASI's few, and what the guest makes for itself.
const HANDLES_MAX: usize = 4096;

/// Time for instantiation and `init`. The contract promises a second.
const INIT_TIME_MAX: Duration = Duration::from_secs(1);

/// CPU time after the limit that proves a call to be running, and not waiting for its turn. Half of
/// what a tick of the clock brings, so that the first tick after the limit ends a loop.
const OVERTIME_MAX: Duration = Duration::from_micros(2500);

/// Problems of one configuration that are shown.
const COMPLAINTS_MAX: usize = 100;

/// A store with an initialised instance in it.
pub(super) struct Live {
    store: Store<State>,
    guests: Guests,
    request_fields: Box<[Field]>,
    response_fields: Box<[Field]>,
    values: Values,
    repeats: Repeats,
    /// Its store has a function that waits, so that every call of it has to be on a fiber.
    waits: bool,
    /// Where its questions go, kept from call to call: making one costs more than a call.
    channel: Option<Channel>,
    bounds: Bounds,
    time_max: Duration,
}

/// What one call may take.
#[derive(Clone, Copy)]
struct Bounds {
    ticks: u64,
    fuel: Option<u64>,
}

/// Both ends of the way of an instance's questions.
type Channel = (Asks, mpsc::UnboundedReceiver<Ask>);

/// Whether a call whose time is up by the clock is to be ended; `used` is the thread's CPU time.
///
/// The clock also runs while the thread waits for a CPU, and a plugin is not to blame for a busy
/// machine. So from here on its CPU time counts: a loop ends a tick or two after its limit, whatever
/// that is, and a call that was kept waiting goes on.
fn is_over(overran_at: &mut Option<Duration>, used: Duration) -> bool {
    let since = *overran_at.get_or_insert(used);
    used.saturating_sub(since) >= OVERTIME_MAX
}

/// Calls a function of a guest: at once, or on a fiber that must not wait.
macro_rules! invoke {
    ($waits:expr, $function:expr, $store:expr, $arguments:expr) => {
        if $waits {
            at_once($function.call_async(&mut *$store, $arguments))
        } else {
            $function.call(&mut *$store, $arguments)
        }
    };
}

/// What must be ready at once: nothing has been given to it that it could wait for.
fn at_once<T>(future: impl Future<Output = wasmtime::Result<T>>) -> wasmtime::Result<T> {
    match pin!(future).as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(wasmtime::Error::msg("it waits where it must not")),
    }
}

fn instantiate(plugin: &Plugin, store: &mut Store<State>) -> wasmtime::Result<Instance> {
    match plugin.waits {
        true => at_once(plugin.component.instantiate_async(store)),
        false => plugin.component.instantiate(store),
    }
}

/// A new store, which may be busy for `time_max`.
fn make_store(plugin: &Plugin, time_max: Duration) -> Store<State> {
    let state = State::new(plugin.state(), &plugin.allow, plugin.limits(), plugin.engine.started());
    let mut store = Store::new(plugin.component.engine(), state);
    store.limiter(|state| &mut state.limiter);
    if plugin.limits().fuel_max.is_some() {
        // What is made once is bounded by time. It cannot fail: the engine counts.
        let _ = store.set_fuel(u64::MAX);
    }
    store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
    store.set_max_component_handles(HANDLES_MAX);
    store.epoch_deadline_callback(|mut call| {
        let used = crate::sys::thread_cpu_time();
        Ok(match is_over(&mut call.data_mut().overran_at, used) {
            true => UpdateDeadline::Interrupt,
            false => UpdateDeadline::Continue(1),
        })
    });
    store.set_epoch_deadline(ticks(time_max));
    store
}

/// Asks a plugin what is wrong with a configuration, on an instance of its own. Nothing, when it has
/// no answer to that. May take [`INIT_TIME_MAX`].
pub(super) fn validate(plugin: &Plugin, config: &str) -> Result<(), Vec<Complaint>> {
    let Some(validation) = &plugin.exports.validation else { return Ok(()) };
    let began = Instant::now();
    let mut store = make_store(plugin, INIT_TIME_MAX);
    let ask = |store: &mut Store<State>| {
        let instance = instantiate(plugin, store)?;
        let guest = validation.load(&mut *store, &instance)?;
        let validate = guest.func_validate_config();
        wasmtime::Result::Ok(invoke!(plugin.waits, validate, store, (config,))?.0)
    };
    let found = ask(&mut store).map_err(|error| {
        let failure = failure(&error, store.data_mut(), INIT_TIME_MAX, None, began);
        vec![Complaint::of(&failure.message)]
    })?;
    let more = found.len().saturating_sub(COMPLAINTS_MAX);
    let mut complaints: Vec<Complaint> = found
        .into_iter()
        .take(COMPLAINTS_MAX)
        .map(|problem| Complaint {
            pointer: clean(problem.path.as_bytes(), 512),
            message: clean(problem.message.as_bytes(), 2048),
        })
        .collect();
    if more > 0 {
        complaints.push(Complaint::of(&format!("{more} more problems are not shown")));
    }
    if complaints.is_empty() { Ok(()) } else { Err(complaints) }
}

impl Live {
    /// Makes an instance and initialises it. May take [`INIT_TIME_MAX`].
    pub(super) fn new(plugin: &Plugin, config: &str) -> Result<Self, Box<Failure>> {
        let began = Instant::now();
        let limits = plugin.limits();
        let mut store = make_store(plugin, INIT_TIME_MAX);
        let init = |store: &mut Store<State>| {
            let instance = instantiate(plugin, store)?;
            let lifecycle = plugin.exports.lifecycle.load(&mut *store, &instance)?;
            let registration = invoke!(plugin.waits, lifecycle.func_init(), store, (config,))?.0;
            let guests = plugin.exports.load(store, &instance)?;
            wasmtime::Result::Ok((registration, guests))
        };
        let (registration, guests) = init(&mut store)
            .map_err(|error| failure(&error, store.data_mut(), INIT_TIME_MAX, None, began))?;
        let unavailable = |message: String| {
            Failure::new(FailureKind::Unavailable, clean(message.as_bytes(), 2048))
        };
        let registration = registration.map_err(unavailable)?;
        if let Some(violation) = store.data_mut().violation.take() {
            return Err(unavailable(violation));
        }
        let request_fields = declared::request_fields(&registration.request_fields);
        let response_fields = declared::response_fields(&registration.response_fields);
        Ok(Self {
            store,
            guests,
            request_fields: request_fields.map_err(unavailable)?,
            response_fields: response_fields.map_err(unavailable)?,
            values: Values::default(),
            repeats: Repeats::default(),
            waits: plugin.waits,
            channel: None,
            bounds: Bounds { ticks: ticks(limits.time_max), fuel: limits.fuel_max },
            time_max: limits.time_max,
        })
    }

    /// The way of its questions, for one call.
    pub(super) fn take_channel(&mut self) -> Channel {
        self.channel.take().unwrap_or_else(mpsc::unbounded_channel)
    }

    /// Keeps it for the next call; nothing is in there when a call has ended.
    pub(super) fn keep_channel(&mut self, channel: Channel) {
        self.channel = Some(channel);
    }

    /// Callouts of the last call that were one too many.
    pub(super) fn take_busy(&mut self) -> u32 {
        self.store.data_mut().waits.take_refused()
    }

    /// Counters that other gateways share are asked for there.
    pub(super) fn reach(&mut self, remote: Option<Handle>) {
        self.store.data_mut().remote = remote;
    }

    /// Linear memory that it holds.
    pub(super) fn memory_bytes(&self) -> usize {
        self.store.data().limiter.memory_bytes()
    }

    /// Fuel that the last call has used, where it is counted.
    pub(super) fn fuel_used(&self) -> Option<u64> {
        Some(self.bounds.fuel?.saturating_sub(self.store.get_fuel().ok()?))
    }

    /// Log lines lost since this was last asked.
    pub(super) fn take_lines_dropped(&self) -> u64 {
        self.store.data().journal().take_dropped()
    }

    /// Calls `on-request` or `on-response`.
    pub(super) fn on_head(
        &mut self,
        hook: Hook,
        place: &mut Option<Box<Exchange>>,
        began: Instant,
    ) -> Result<Flow, Box<Failure>> {
        let Some(exchange) = place.as_deref() else { return Ok(Flow::Next) };
        let answer = match (hook, &self.guests) {
            (Hook::Request, Guests { request_filter: Some(guest), .. }) => {
                let find = |field: &Field, out: &mut Vec<u8>| field.of_request(exchange, out);
                self.values.find(&self.request_fields, find);
                let state = self.store.data();
                let again = self.repeats.give(&self.values, state.cache(), place, state.at(began));
                if let Some(flow) = again {
                    return Ok(flow);
                }
                begin(&mut self.store, self.bounds, Phase::Head, place);
                self.values.hand(|fields| guest.call_on_request(&mut self.store, fields))
            }
            (Hook::Response, Guests { response_filter: Some(guest), .. }) => {
                let status = exchange.response.status;
                let fields = &exchange.response.fields;
                let find = |field: &Field, out: &mut Vec<u8>| field.of_response(fields, out);
                self.values.find(&self.response_fields, find);
                begin(&mut self.store, self.bounds, Phase::Head, place);
                self.values.hand(|fields| guest.call_on_response(&mut self.store, status, fields))
            }
            _ => return Ok(Flow::Next),
        };
        let flow = self.end(answer, place, began, settle_head)?;
        if let (Hook::Request, Some(exchange)) = (hook, place.as_deref_mut()) {
            self.repeats.keep(&self.values, self.store.data().cache(), exchange);
        }
        Ok(flow)
    }

    /// The same for a plugin that waits; its questions go to `asks`.
    pub(super) async fn on_head_waiting(
        &mut self,
        hook: Hook,
        place: &mut Option<Box<Exchange>>,
        began: Instant,
        asks: Asks,
    ) -> Result<Flow, Box<Failure>> {
        let Some(exchange) = place.as_deref() else { return Ok(Flow::Next) };
        let (store, bounds, time_max) = (&mut self.store, self.bounds, self.time_max);
        let answer = match (hook, &self.guests) {
            (Hook::Request, Guests { request_filter: Some(guest), .. }) => {
                let find = |field: &Field, out: &mut Vec<u8>| field.of_request(exchange, out);
                self.values.find(&self.request_fields, find);
                let fields = self.values.all();
                begin(store, bounds, Phase::Head, place);
                store.data_mut().waits.begin(asks, time_max);
                guest.func_on_request().call_async(store, (&fields,)).await
            }
            (Hook::Response, Guests { response_filter: Some(guest), .. }) => {
                let status = exchange.response.status;
                let given = &exchange.response.fields;
                let find = |field: &Field, out: &mut Vec<u8>| field.of_response(given, out);
                self.values.find(&self.response_fields, find);
                let fields = self.values.all();
                begin(store, bounds, Phase::Head, place);
                store.data_mut().waits.begin(asks, time_max);
                guest.func_on_response().call_async(store, (status, &fields)).await
            }
            _ => return Ok(Flow::Next),
        };
        self.store.data_mut().waits.end();
        self.end(answer.map(|(action,)| action), place, began, settle_head)
    }

    /// Shows all of a body to a plugin that waits.
    pub(super) async fn on_whole_waiting(
        &mut self,
        hook: Hook,
        place: &mut Option<Box<Exchange>>,
        began: Instant,
        body: &[u8],
        asks: Asks,
    ) -> Result<ChunkFlow, Box<Failure>> {
        let (store, bounds, time_max) = (&mut self.store, self.bounds, self.time_max);
        begin(store, bounds, Phase::Chunk, place);
        store.data_mut().waits.begin(asks, time_max);
        let answer = match (hook, &self.guests) {
            (Hook::RequestBody, Guests { request_body_filter: Some(guest), .. }) => {
                guest.func_on_request_body().call_async(store, (body, true)).await
            }
            (Hook::ResponseBody, Guests { response_body_filter: Some(guest), .. }) => {
                guest.func_on_response_body().call_async(store, (body, true)).await
            }
            _ => Ok((ChunkAction::Pass,)),
        };
        self.store.data_mut().waits.end();
        self.end(answer.map(|(action,)| action), place, began, |action, state, exchange| {
            settle_chunk(action, state, exchange, Showing::Whole)
        })
    }

    /// Calls `on-request-body` or `on-response-body`.
    pub(super) fn on_chunk(
        &mut self,
        hook: Hook,
        place: &mut Option<Box<Exchange>>,
        began: Instant,
        (chunk, end): (&[u8], bool),
        showing: Showing,
    ) -> Result<ChunkFlow, Box<Failure>> {
        let (store, bounds, waits) = (&mut self.store, self.bounds, self.waits);
        let answer = match (hook, &self.guests) {
            (Hook::RequestBody, Guests { request_body_filter: Some(guest), .. }) => {
                begin(store, bounds, Phase::Chunk, place);
                invoke!(waits, guest.func_on_request_body(), store, (chunk, end))
            }
            (Hook::ResponseBody, Guests { response_body_filter: Some(guest), .. }) => {
                begin(store, bounds, Phase::Chunk, place);
                invoke!(waits, guest.func_on_response_body(), store, (chunk, end))
            }
            _ => return Ok(ChunkFlow::Pass),
        };
        let answer = answer.map(|(action,)| action);
        self.end(answer, place, began, |action, state, exchange| {
            settle_chunk(action, state, exchange, showing)
        })
    }

    /// Calls `on-message`.
    pub(super) fn on_message(
        &mut self,
        place: &mut Option<Box<Exchange>>,
        began: Instant,
        from: Peer,
        message: &SocketMessage,
    ) -> Result<MessageFlow, Box<Failure>> {
        let Some(guest) = &self.guests.websocket_filter else { return Ok(MessageFlow::Pass) };
        begin(&mut self.store, self.bounds, Phase::Message, place);
        let from = match from {
            Peer::Client => types::Peer::Client,
            Peer::Server => types::Peer::Server,
        };
        let kind = match message.is_text {
            true => types::MessageKind::Text,
            false => types::MessageKind::Binary,
        };
        let arguments = (from, kind, &message.data[..]);
        let answer = invoke!(self.waits, guest.func_on_message(), &mut self.store, arguments);
        self.end(answer.map(|(action,)| action), place, began, settle_message)
    }

    /// Calls `on-log`.
    pub(super) fn on_log(
        &mut self,
        place: &mut Option<Box<Exchange>>,
        began: Instant,
        summary: &Summary,
    ) -> Result<(), Box<Failure>> {
        let Some(guest) = &self.guests.completion else { return Ok(()) };
        begin(&mut self.store, self.bounds, Phase::Other, place);
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let summary = types::Summary {
            status: summary.status,
            request_bytes: summary.request_bytes,
            response_bytes: summary.response_bytes,
            duration_us: us(summary.duration),
            upstream_us: us(summary.upstream),
        };
        let answer = invoke!(self.waits, guest.func_on_log(), &mut self.store, (summary,));
        self.end(answer, place, began, |(), _, _| Ok(()))
    }

    /// Calls `on-tick` or `shutdown`, which have no exchange.
    pub(super) fn on_time(&mut self, hook: Hook, began: Instant) -> Result<(), Box<Failure>> {
        let (store, mut place) = (&mut self.store, None);
        begin(store, self.bounds, Phase::Other, &mut place);
        let answer = match (hook, &self.guests) {
            (Hook::Tick, Guests { ticker: Some(guest), .. }) => {
                invoke!(self.waits, guest.func_on_tick(), store, ())
            }
            (Hook::Shutdown, Guests { retirement: Some(guest), .. }) => {
                invoke!(self.waits, guest.func_shutdown(), store, ())
            }
            _ => return Ok(()),
        };
        self.end(answer, &mut place, began, |(), _, _| Ok(()))
    }

    /// Calls `on-tick` of a plugin that waits; its questions go to `asks`.
    pub(super) async fn on_tick_waiting(
        &mut self,
        began: Instant,
        asks: Asks,
    ) -> Result<(), Box<Failure>> {
        let (store, mut place) = (&mut self.store, None);
        let Some(guest) = &self.guests.ticker else { return Ok(()) };
        begin(store, self.bounds, Phase::Other, &mut place);
        store.data_mut().waits.begin(asks, self.time_max);
        let answer = guest.func_on_tick().call_async(&mut *store, ()).await;
        store.data_mut().waits.end();
        self.end(answer.map(|_| ()), &mut place, began, |(), _, _| Ok(()))
    }

    /// Takes the exchange back and judges the call; `settle` does what a good one asked for, or says
    /// which rule it broke.
    fn end<A, R>(
        &mut self,
        answer: wasmtime::Result<A>,
        place: &mut Option<Box<Exchange>>,
        began: Instant,
        settle: impl FnOnce(A, &mut State, Option<&mut Exchange>) -> Result<R, &'static str>,
    ) -> Result<R, Box<Failure>> {
        let state = self.store.data_mut();
        std::mem::swap(&mut state.exchange, place);
        let missing = state.missing.take();
        let mut failure = match (answer, state.violation.take()) {
            (Ok(_), None) if missing.is_some() => {
                Failure::new(FailureKind::Unavailable, missing.unwrap_or_default())
            }
            (Ok(answer), None) => match settle(answer, state, place.as_deref_mut()) {
                Ok(result) => {
                    state.reply.forget();
                    state.forget_cached();
                    return Ok(result);
                }
                Err(rule) => Failure::new(FailureKind::Violation, rule),
            },
            (Ok(_), Some(violation)) => Failure::new(FailureKind::Violation, violation),
            (Err(error), _) => failure(&error, state, self.time_max, self.bounds.fuel, began),
        };
        state.reply.forget();
        state.forget_cached();
        if let (Some(mark), Some(exchange)) = (&state.mark, place) {
            failure.undone = exchange.roll_back(mark);
        }
        Err(failure)
    }
}

/// Hands the exchange over and starts the clock.
fn begin(
    store: &mut Store<State>,
    bounds: Bounds,
    phase: Phase,
    place: &mut Option<Box<Exchange>>,
) {
    let state = store.data_mut();
    std::mem::swap(&mut state.exchange, place);
    state.mark = None;
    state.overran_at = None;
    state.limiter.forget_refused();
    state.later.clear();
    state.body.begin(phase);
    state.websocket.begin();
    store.set_epoch_deadline(bounds.ticks);
    if let Some(fuel) = bounds.fuel {
        // It cannot fail: the engine counts.
        let _ = store.set_fuel(fuel);
    }
}

/// Puts an error of wasmtime into words.
fn failure(
    error: &wasmtime::Error,
    state: &mut State,
    time_max: Duration,
    fuel_max: Option<u64>,
    began: Instant,
) -> Box<Failure> {
    let refused = state.limiter.refused();
    let trap = error.downcast_ref::<Trap>();
    let (kind, mut message) = match trap {
        Some(Trap::Interrupt) => (FailureKind::Timeout, format!("it ran longer than {time_max:?}")),
        Some(Trap::OutOfFuel) => {
            let fuel = fuel_max.unwrap_or(u64::MAX);
            (FailureKind::Fuel, format!("it used more fuel than its {fuel}"))
        }
        Some(Trap::StackOverflow) => (FailureKind::Trap, "it overflowed its stack".to_owned()),
        _ if refused => {
            let held = state.limiter.memory_bytes() / 1024;
            (FailureKind::Memory, format!("it was refused memory beyond the {held} KiB it has"))
        }
        Some(trap) => (FailureKind::Trap, trap.to_string()),
        None => (FailureKind::Trap, error.root_cause().to_string()),
    };
    if let Some(trace) = error.downcast_ref::<WasmBacktrace>() {
        message.push_str(&backtrace::way(trace));
    }
    let mut journal = state.journal();
    let lines = journal.last_lines(began);
    if !lines.is_empty() {
        message = format!("{message}; it wrote: {}", lines.join(" | "));
    }
    Failure::new(kind, clean(message.as_bytes(), 4096))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_call_that_runs_is_ended_at_its_limit() {
        let ms = Duration::from_millis;
        let mut running = None;
        let mut waiting = None;

        assert!(!is_over(&mut running, ms(100)), "it may only just be back");
        assert!(!is_over(&mut running, ms(102)));
        assert!(is_over(&mut running, ms(103)));
        assert!((0..1000).all(|_| !is_over(&mut waiting, ms(100))));
    }
}
