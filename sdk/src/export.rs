//! From a [`Middleware`] to the component's exports: [`export!`](crate::export!) and what it expands to.

use std::cell::OnceCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::thread::LocalKey;

use crate::bindings::imports::zproxy::gateway::types::{self, MessageAction, MessageKind};
use crate::bindings::lifecycle::zproxy::gateway::types::{Action, ChunkAction, Registration};
use crate::bindings::{
    lifecycle, on_log, on_message, on_request, on_request_body, on_response, on_response_body,
    on_tick, shutdown, validate,
};
use crate::fields::Pushed;
use crate::{Flow, Message, Middleware, Peer, Problem, Request, Response, Summary, config, log};

/// Makes a component of a [`Middleware`].
///
/// `export!(Type: on_request, on_log)` exports the hooks that it names, which are methods of
/// [`Middleware`]: `on_request`, `on_response`, `on_request_body`,
/// `on_response_body`, `on_message`, `on_log`, `on_tick`, `shutdown` and `validate`. The gateway never calls
/// the others, which then cost nothing. `export!(Type)` is short for `on_request` and
/// `on_response`. Once in a crate of type `cdylib`; outside of wasm it does nothing but check that
/// the type is a `Middleware`.
#[macro_export]
macro_rules! export {
    ($plugin:ty) => {
        $crate::export!($plugin: on_request, on_response);
    };
    ($plugin:ty: $($hook:ident),+ $(,)?) => {
        const _: () = {
            #[cfg(target_family = "wasm")]
            type Exported = $crate::Plugin<$plugin>;

            impl $crate::Slot for $plugin {
                const HOOKS: &'static [$crate::Hook] = &[$($crate::__hook!($hook)),+];

                fn slot() -> &'static ::std::thread::LocalKey<
                    ::std::cell::OnceCell<$crate::Running<Self>>,
                > {
                    ::std::thread_local! {
                        static SLOT: ::std::cell::OnceCell<$crate::Running<$plugin>> =
                            const { ::std::cell::OnceCell::new() };
                    }
                    &SLOT
                }
            }

            #[cfg(target_family = "wasm")]
            $crate::__export_interface!(lifecycle, Exported);
            // What makes the plugin elsewhere, so that it does not count as unused there.
            #[cfg(not(target_family = "wasm"))]
            const _: fn(&str) -> ::std::result::Result<$crate::Running<$plugin>, ::std::string::String> =
                $crate::Running::<$plugin>::new;
            $(
                #[cfg(target_family = "wasm")]
                $crate::__export_interface!($hook, Exported);
            )+
        };
    };
}

/// What stands for a hook's name; any other name ends here.
#[doc(hidden)]
#[macro_export]
macro_rules! __hook {
    (on_request) => {
        $crate::Hook::Request
    };
    (on_response) => {
        $crate::Hook::Response
    };
    (on_request_body) => {
        $crate::Hook::RequestBody
    };
    (on_response_body) => {
        $crate::Hook::ResponseBody
    };
    (on_message) => {
        $crate::Hook::Message
    };
    (on_log) => {
        $crate::Hook::Log
    };
    (on_tick) => {
        $crate::Hook::Tick
    };
    (shutdown) => {
        $crate::Hook::Shutdown
    };
    (validate) => {
        $crate::Hook::Validate
    };
}

/// Exports one interface.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_interface {
    (lifecycle, $exported:ident) => {
        $crate::bindings::lifecycle::__export_lifecycle!(
            $exported with_types_in $crate::bindings::lifecycle
        );
    };
    (on_request, $exported:ident) => {
        $crate::bindings::on_request::__export_on_request!(
            $exported with_types_in $crate::bindings::on_request
        );
    };
    (on_response, $exported:ident) => {
        $crate::bindings::on_response::__export_on_response!(
            $exported with_types_in $crate::bindings::on_response
        );
    };
    (on_request_body, $exported:ident) => {
        $crate::bindings::on_request_body::__export_on_request_body!(
            $exported with_types_in $crate::bindings::on_request_body
        );
    };
    (on_response_body, $exported:ident) => {
        $crate::bindings::on_response_body::__export_on_response_body!(
            $exported with_types_in $crate::bindings::on_response_body
        );
    };
    (on_message, $exported:ident) => {
        $crate::bindings::on_message::__export_on_message!(
            $exported with_types_in $crate::bindings::on_message
        );
    };
    (on_log, $exported:ident) => {
        $crate::bindings::on_log::__export_on_log!(
            $exported with_types_in $crate::bindings::on_log
        );
    };
    (on_tick, $exported:ident) => {
        $crate::bindings::on_tick::__export_on_tick!(
            $exported with_types_in $crate::bindings::on_tick
        );
    };
    (shutdown, $exported:ident) => {
        $crate::bindings::shutdown::__export_shutdown!(
            $exported with_types_in $crate::bindings::shutdown
        );
    };
    (validate, $exported:ident) => {
        $crate::bindings::validate::__export_validate!(
            $exported with_types_in $crate::bindings::validate
        );
    };
}

/// A hook that `export!` named.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `on_request`.
    Request,
    /// `on_response`.
    Response,
    /// `on_request_body`.
    RequestBody,
    /// `on_response_body`.
    ResponseBody,
    /// `on_message`.
    Message,
    /// `on_log`.
    Log,
    /// `on_tick`.
    Tick,
    /// `shutdown`.
    Shutdown,
    /// `validate`.
    Validate,
}

/// A plugin that has read its configuration.
#[doc(hidden)]
pub struct Running<M> {
    middleware: M,
    request_fields: Rc<[String]>,
    response_fields: Rc<[String]>,
}

impl<M: Middleware> Running<M> {
    /// Reads the configuration. The error is for the operator.
    ///
    /// # Errors
    ///
    /// What the operator is told.
    pub fn new(config: &str) -> Result<Self, String> {
        log::ask();
        let middleware: M = config::read(config)?;
        // Also where nobody has asked before: what is known to be wrong never serves.
        let problems = middleware.validate();
        if !problems.is_empty() {
            let lines =
                problems.iter().map(|Problem { path, message }| format!("{path}: {message}"));
            return Err(lines.collect::<Vec<_>>().join("; "));
        }
        let request_fields = lower_case(middleware.request_fields());
        let response_fields = lower_case(middleware.response_fields());
        Ok(Self { middleware, request_fields, response_fields })
    }

    /// The names to hand over with each request.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn request_fields(&self) -> &[String] {
        &self.request_fields
    }

    /// The names to hand over with each response.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn response_fields(&self) -> &[String] {
        &self.response_fields
    }

    pub(crate) fn on_request(&self, fields: Vec<Option<Vec<u8>>>) -> Action {
        let pushed = Pushed::new(Rc::clone(&self.request_fields), fields);
        match self.middleware.on_request(&mut Request::new(pushed)) {
            Flow::Next => Action::Next,
            Flow::Reply(reply) => {
                reply.send();
                Action::Respond
            }
        }
    }

    pub(crate) fn on_response(&self, status: u16, fields: Vec<Option<Vec<u8>>>) -> Action {
        let pushed = Pushed::new(Rc::clone(&self.response_fields), fields);
        let mut response = Response::new(status, pushed);
        self.middleware.on_response(&mut response);
        match response.into_replacement() {
            None => Action::Next,
            Some(reply) => {
                reply.send();
                Action::Respond
            }
        }
    }
}

impl<M: Middleware> Running<M> {
    pub(crate) fn on_request_body(&self, chunk: &[u8], end: bool) -> ChunkAction {
        let mut request = Request::new(Pushed::default());
        self.middleware.on_request_body(&mut request, chunk, end).action()
    }

    pub(crate) fn on_response_body(&self, chunk: &[u8], end: bool) -> ChunkAction {
        let mut response = Response::unseen();
        self.middleware.on_response_body(&mut response, chunk, end).action()
    }

    pub(crate) fn on_message(&self, from: Peer, message: &Message) -> MessageAction {
        let request = Request::new(Pushed::default());
        self.middleware.on_message(&request, from, message).action()
    }

    pub(crate) fn on_log(&self, summary: &Summary) {
        let (request, response) = (Request::new(Pushed::default()), Response::unseen());
        self.middleware.on_log(&request, &response, summary);
    }

    pub(crate) fn on_tick(&self) {
        self.middleware.on_tick();
    }

    pub(crate) fn shutdown(&self) {
        self.middleware.shutdown();
    }

    /// Everything that is wrong with a configuration.
    pub(crate) fn problems(config: &str) -> Vec<Problem> {
        match config::read_or_problem::<M>(config) {
            Ok(middleware) => middleware.validate(),
            Err(problem) => vec![problem],
        }
    }
}

/// The WIT wants lower case; field names are compared without regard to it.
fn lower_case(names: Vec<&str>) -> Rc<[String]> {
    names.into_iter().map(str::to_ascii_lowercase).collect()
}

/// What [`export!`](crate::export!) adds: the hooks, and where the component keeps its one plugin.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not exported",
    note = "write `export!({Self}: on_request, on_response);` with the hooks that it has"
)]
pub trait Slot: Middleware {
    /// What the gateway will call.
    const HOOKS: &'static [Hook];

    /// Empty until `init` has been called.
    fn slot() -> &'static LocalKey<OnceCell<Running<Self>>>;
}

/// Implements the exports for a plugin.
#[doc(hidden)]
#[derive(Debug)]
pub struct Plugin<M>(PhantomData<M>);

impl<M: Slot> lifecycle::exports::zproxy::gateway::lifecycle::Guest for Plugin<M> {
    fn init(config: String) -> Result<Registration, String> {
        let running = Running::<M>::new(&config)?;
        let registration = Registration {
            request_fields: running.request_fields.to_vec(),
            response_fields: running.response_fields.to_vec(),
        };
        M::slot().with(|slot| match slot.set(running) {
            Ok(()) => Ok(registration),
            Err(_) => Err("init was called twice".to_owned()),
        })
    }
}

impl<M: Slot> on_request::exports::zproxy::gateway::request_filter::Guest for Plugin<M> {
    fn on_request(fields: Vec<Option<Vec<u8>>>) -> Action {
        // Before `init` there is nothing to ask: an answer without a reply is a failed hook.
        M::slot().with(|slot| match slot.get() {
            Some(running) => running.on_request(fields),
            None => Action::Respond,
        })
    }
}

impl<M: Slot> on_response::exports::zproxy::gateway::response_filter::Guest for Plugin<M> {
    fn on_response(status: u16, fields: Vec<Option<Vec<u8>>>) -> Action {
        M::slot().with(|slot| match slot.get() {
            Some(running) => running.on_response(status, fields),
            None => Action::Respond,
        })
    }
}

impl<M: Slot> on_request_body::exports::zproxy::gateway::request_body_filter::Guest for Plugin<M> {
    fn on_request_body(chunk: Vec<u8>, end: bool) -> ChunkAction {
        M::slot().with(|slot| match slot.get() {
            Some(running) => running.on_request_body(&chunk, end),
            None => ChunkAction::Replaced,
        })
    }
}

impl<M: Slot> on_response_body::exports::zproxy::gateway::response_body_filter::Guest
    for Plugin<M>
{
    fn on_response_body(chunk: Vec<u8>, end: bool) -> ChunkAction {
        M::slot().with(|slot| match slot.get() {
            Some(running) => running.on_response_body(&chunk, end),
            None => ChunkAction::Replaced,
        })
    }
}

impl<M: Slot> on_message::exports::zproxy::gateway::websocket_filter::Guest for Plugin<M> {
    fn on_message(sender: types::Peer, kind: MessageKind, data: Vec<u8>) -> MessageAction {
        let from = match sender {
            types::Peer::Client => Peer::Client,
            types::Peer::Server => Peer::Server,
        };
        let message = Message::received(kind, data);
        M::slot().with(|slot| match slot.get() {
            Some(running) => running.on_message(from, &message),
            None => MessageAction::Replaced,
        })
    }
}

impl<M: Slot> on_log::exports::zproxy::gateway::completion::Guest for Plugin<M> {
    fn on_log(summary: on_log::zproxy::gateway::types::Summary) {
        let summary = Summary {
            status: summary.status,
            request_bytes: summary.request_bytes,
            response_bytes: summary.response_bytes,
            duration_us: summary.duration_us,
            upstream_us: summary.upstream_us,
        };
        M::slot().with(|slot| slot.get().map(|running| running.on_log(&summary)));
    }
}

impl<M: Slot> on_tick::exports::zproxy::gateway::ticker::Guest for Plugin<M> {
    fn on_tick() {
        M::slot().with(|slot| slot.get().map(Running::on_tick));
    }
}

impl<M: Slot> shutdown::exports::zproxy::gateway::retirement::Guest for Plugin<M> {
    fn shutdown() {
        M::slot().with(|slot| slot.get().map(Running::shutdown));
    }
}

impl<M: Slot> validate::exports::zproxy::gateway::validation::Guest for Plugin<M> {
    fn validate_config(
        config: String,
    ) -> Vec<validate::exports::zproxy::gateway::validation::Problem> {
        let problems = Running::<M>::problems(&config).into_iter();
        problems
            .map(|Problem { path, message }| {
                validate::exports::zproxy::gateway::validation::Problem { path, message }
            })
            .collect()
    }
}
