//! From a [`Middleware`] to the component's exports: [`export!`](crate::export!) and what it expands to.

use std::cell::OnceCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::thread::LocalKey;

use crate::bindings::lifecycle::zproxy::gateway::types::{Action, Registration};
use crate::bindings::{lifecycle, on_request, on_response};
use crate::fields::Pushed;
use crate::{Flow, Middleware, Request, Response, config, log};

/// Makes a component of a [`Middleware`].
///
/// `export!(Type)` exports both hooks. `export!(Type: on_request)` and `export!(Type: on_response)`
/// export one: the gateway never calls the other, which then costs nothing. Once in a crate of type
/// `cdylib`; outside of wasm it does nothing but check that the type is a `Middleware`.
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
}

/// A hook that `export!` named.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `on_request`.
    Request,
    /// `on_response`.
    Response,
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
