//! One link: its hooks called, timed, counted and judged.
//!
//! Not here: the order of links (`chain`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::body::{BodyStop, ChunkFlow, Halt, Showing, Stage, Wish};
use super::super::exchange::{Exchange, Flow, Summary};
use super::super::failure::{Failure, FailureKind};
use super::super::instance::Hook;
use super::super::message::{MessageFlow, Peer, SocketMessage};
use super::super::native;
use super::super::stats::Outcome;
use super::{HookFailure, Link, Runner, clock};
use crate::config::OnError;

/// Why there is an exchange after a call.
pub(super) const PUT_BACK: &str = "a hook's exchange is put back before its call returns";

impl Link {
    /// Calls a head hook with the exchange in `place`.
    pub(super) fn on_head(
        &self,
        hook: Hook,
        place: &mut Option<Box<Exchange>>,
        now: Instant,
    ) -> Result<Flow, Box<HookFailure>> {
        let called = self.timed(hook, place, |link, place| match &link.runner {
            Runner::Wasm(instance) => {
                instance.call(now, |live, now| live.on_head(hook, place, now))
            }
            Runner::Native(middleware) => native::on_head(&**middleware, hook, place),
        });
        self.judge(hook, place, called)
    }

    /// Counts a call of a head hook, and decides what its failure does to the message.
    pub(super) fn judge(
        &self,
        hook: Hook,
        place: &mut Option<Box<Exchange>>,
        called: Result<Flow, Box<Failure>>,
    ) -> Result<Flow, Box<HookFailure>> {
        match called {
            Ok(flow) => {
                self.meter.record(hook, Outcome::from(flow));
                Ok(flow)
            }
            Err(failure) => self.failed(hook, place, *failure).map(|()| Flow::Next),
        }
    }

    /// Stops the chain at this link, to be called by someone who can wait.
    pub(super) fn waits_at(&self, index: usize, place: &mut Option<Box<Exchange>>) -> bool {
        let Some(exchange) = place else { return false };
        exchange.halt = Some(Halt { link: index, wish: None });
        true
    }

    /// Shows a chunk of a body. One that fails and is overlooked is shown no more of it.
    pub(in crate::plugin) fn show(
        &self,
        hook: Hook,
        place: &mut Option<Box<Exchange>>,
        chunk: (&[u8], bool),
        showing: Showing,
    ) -> Result<ChunkFlow, BodyStop> {
        let shown = self.timed(hook, place, |link, place| match &link.runner {
            Runner::Wasm(instance) => {
                instance.call(clock(), |live, now| live.on_chunk(hook, place, now, chunk, showing))
            }
            Runner::Native(middleware) => {
                native::on_chunk(&**middleware, hook, place, chunk, showing)
            }
        });
        self.judge_chunk(hook, place, shown)
    }

    /// The same for a call of a body hook.
    pub(super) fn judge_chunk(
        &self,
        hook: Hook,
        place: &mut Option<Box<Exchange>>,
        shown: Result<ChunkFlow, Box<Failure>>,
    ) -> Result<ChunkFlow, BodyStop> {
        match shown {
            Ok(flow) => {
                self.meter.record(hook, Outcome::from(&flow));
                Ok(flow)
            }
            Err(failure) => match self.failed(hook, place, *failure) {
                Ok(()) => Ok(ChunkFlow::Detach),
                Err(failure) => Err(BodyStop::Failed(failure.to_string())),
            },
        }
    }

    /// Shows a WebSocket message. Where a failure is overlooked, it passes.
    pub(super) fn on_message(
        &self,
        place: &mut Option<Box<Exchange>>,
        from: Peer,
        message: &SocketMessage,
    ) -> Result<MessageFlow, Box<HookFailure>> {
        let shown = self.timed(Hook::Message, place, |link, place| match &link.runner {
            Runner::Wasm(instance) => {
                instance.call(clock(), |live, now| live.on_message(place, now, from, message))
            }
            Runner::Native(middleware) => native::on_message(&**middleware, place, from, message),
        });
        match shown {
            Ok(flow) => {
                self.meter.record(Hook::Message, Outcome::from(&flow));
                Ok(flow)
            }
            Err(failure) => self.failed(Hook::Message, place, *failure).map(|()| MessageFlow::Pass),
        }
    }

    pub(super) fn on_log(&self, place: &mut Option<Box<Exchange>>, summary: &Summary) {
        let called = self.timed(Hook::Log, place, |link, place| match &link.runner {
            Runner::Wasm(instance) => {
                instance.call(clock(), |live, now| live.on_log(place, now, summary))
            }
            Runner::Native(middleware) => native::on_log(&**middleware, place, summary),
        });
        match called {
            Ok(()) => self.meter.record(Hook::Log, Outcome::Next),
            // The exchange is over; there is nobody left to be told.
            Err(failure) => self.meter.fail(Hook::Log, &failure),
        }
    }

    /// One call in some is timed, and each where time is added up.
    pub(super) fn timed<R>(
        &self,
        hook: Hook,
        place: &mut Option<Box<Exchange>>,
        call: impl FnOnce(&Self, &mut Option<Box<Exchange>>) -> Result<R, Box<Failure>>,
    ) -> Result<R, Box<Failure>> {
        if self.adds_up && !matches!(hook, Hook::Message | Hook::Log) {
            return self.timed_within(hook, place, call);
        }
        let began = self.meter.is_timed(hook).then(clock);
        let result = call(self, place);
        if let Some(began) = began {
            let took = began.elapsed();
            self.meter.record_time(hook, took);
            if let Some(exchange) = place {
                exchange.add_time(&self.meter.plugin, took);
            }
        }
        result
    }

    /// Calls a hook, unless those before have taken all the time that this plugin has for a request.
    fn timed_within<R>(
        &self,
        hook: Hook,
        place: &mut Option<Box<Exchange>>,
        call: impl FnOnce(&Self, &mut Option<Box<Exchange>>) -> Result<R, Box<Failure>>,
    ) -> Result<R, Box<Failure>> {
        let max = match &self.runner {
            Runner::Wasm(instance) => instance.plugin().limits().request_time_max,
            Runner::Native(_) => None,
        };
        let max = max.unwrap_or(Duration::MAX);
        let plugin = &self.meter.plugin;
        if place.as_deref().is_some_and(|exchange| exchange.time_of(plugin) >= max) {
            let message =
                format!("its hooks have taken all of the {max:?} that they have for a request");
            return Err(Failure::new(FailureKind::Unavailable, message));
        }
        let began = clock();
        let result = call(self, place);
        let took = began.elapsed();
        self.meter.record_time(hook, took);
        if let Some(exchange) = place {
            exchange.add_time(plugin, took);
        }
        result
    }

    /// Takes note of what the link has asked for the body, the default being to see all of it. True:
    /// the chain has to stop for that.
    pub(super) fn halts(
        &self,
        index: usize,
        hook: Hook,
        place: &mut Option<Box<Exchange>>,
    ) -> bool {
        let Some(exchange) = place.as_deref_mut() else { return false };
        let wish = exchange.wish.take();
        let showing = match wish {
            Some(wish @ Wish::Replace(_)) => {
                exchange.halt = Some(Halt { link: index, wish: Some(wish) });
                return true;
            }
            _ if !self.hooks.has(hook) => return false,
            Some(wish @ Wish::Hold(_)) => {
                exchange.halt = Some(Halt { link: index, wish: Some(wish) });
                return true;
            }
            Some(Wish::Skip) => return false,
            Some(Wish::Observe) => Showing::Glance,
            None => Showing::Chunks,
        };
        exchange.stages(hook).push(Stage { link: index, showing, detached: false });
        false
    }

    /// Counts and logs a failure, and decides what it does to the message.
    #[cold]
    pub(super) fn failed(
        &self,
        hook: Hook,
        place: &mut Option<Box<Exchange>>,
        failure: Failure,
    ) -> Result<(), Box<HookFailure>> {
        self.meter.fail(hook, &failure);
        if let Some(exchange) = place {
            exchange.wish = None;
            // One entry a plugin: a WebSocket may have any number of messages.
            if !exchange.failed.iter().any(|(plugin, _)| *plugin == self.meter.plugin) {
                exchange.failed.push((Arc::clone(&self.meter.plugin), failure.kind));
            }
        }
        // Native middleware that replaced the response and then panicked has left nothing to go on
        // with.
        if self.on_error == OnError::Open && failure.undone {
            return Ok(());
        }
        Err(Box::new(HookFailure {
            plugin: Arc::clone(&self.meter.plugin),
            hook,
            kind: failure.kind,
            message: failure.message,
        }))
    }
}
