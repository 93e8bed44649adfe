//! Middleware in Rust, compiled into the program that embeds the gateway.
//!
//! The same chain runs wasm plugins and native middleware. Native middleware is *dynamic* when it
//! is registered under a name, and routes put it into their chains by that name; *static* when
//! types are chained at compile time: a tuple of middleware is middleware.
//!
//! Not here: wasm (`instance`), and the order in which a chain calls its links (`chain`).

use super::body::ChunkFlow;
use super::exchange::{Exchange, Flow, Summary};
use super::exports::Hooks;
use super::instance::Hook;
use super::message::{MessageFlow, Peer, SocketMessage};

/// A step of a route's chain.
///
/// Made once per worker and configuration, so it needs no lock; what workers share belongs
/// into an `Arc` of its own. Calls run inline on a worker and must not block.
pub trait Middleware {
    /// Which hooks it has. Bodies come by only when it says so here; asked once.
    fn hooks(&self) -> Hooks {
        Hooks::of(&[Hook::Request, Hook::Response])
    }

    /// Called with each request on its way to the upstream.
    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        let _ = exchange;
        Flow::Next
    }

    /// Called with each chunk of a request's body, as [`Exchange::wish_body`] asked in `on_request`.
    /// `end`: nothing comes after it. Edits count only if all of the body is held.
    fn on_request_body(&self, exchange: &mut Exchange, chunk: &[u8], end: bool) -> ChunkFlow {
        let _ = (exchange, chunk, end);
        ChunkFlow::Pass
    }

    /// The same for a response's body.
    fn on_response_body(&self, exchange: &mut Exchange, chunk: &[u8], end: bool) -> ChunkFlow {
        let _ = (exchange, chunk, end);
        ChunkFlow::Pass
    }

    /// Called with each message of a WebSocket; `exchange` is the one that has opened it. A route whose chain
    /// has this hook sees messages.
    fn on_message(&self, exchange: &Exchange, from: Peer, message: &SocketMessage) -> MessageFlow {
        let _ = (exchange, from, message);
        MessageFlow::Pass
    }

    /// Called after an exchange, when its answer has been sent.
    fn on_log(&self, exchange: &Exchange, summary: &Summary) {
        let _ = (exchange, summary);
    }

    /// Called with each response on its way back, in reverse order, if the request had come past.
    fn on_response(&self, exchange: &mut Exchange) -> Flow {
        let _ = exchange;
        Flow::Next
    }
}

/// The end of a static chain.
impl Middleware for () {}

macro_rules! static_chain {
    ($first:ident $($rest:ident)*) => {
        #[allow(non_snake_case, reason = "type names double as binding names")]
        impl<$first: Middleware, $($rest: Middleware),*> Middleware for ($first, $($rest,)*) {
            /// All of them, but for bodies and messages, which are shown to one at a time.
            fn hooks(&self) -> Hooks {
                let ($first, $($rest,)*) = self;
                let log = $first.hooks()$(.and($rest.hooks()))*.has(Hook::Log);
                let heads = Hooks::of(&[Hook::Request, Hook::Response]);
                if log { heads.and(Hooks::of(&[Hook::Log])) } else { heads }
            }

            fn on_log(&self, exchange: &Exchange, summary: &Summary) {
                let ($first, $($rest,)*) = self;
                $first.on_log(exchange, summary);
                $($rest.on_log(exchange, summary);)*
            }

            fn on_request(&self, exchange: &mut Exchange) -> Flow {
                let ($first, $($rest,)*) = self;
                static_chain!(@request exchange $first $($rest)*)
            }

            fn on_response(&self, exchange: &mut Exchange) -> Flow {
                let ($first, $($rest,)*) = self;
                static_chain!(@response exchange $first $($rest)*)
            }
        }
    };
    // An answer goes back through those whose turn had come before, and not through its maker.
    (@request $exchange:ident) => { Flow::Next };
    (@request $exchange:ident $first:ident $($rest:ident)*) => {
        if $first.on_request($exchange) == Flow::Respond {
            Flow::Respond
        } else if static_chain!(@request $exchange $($rest)*) == Flow::Respond {
            $first.on_response($exchange);
            Flow::Respond
        } else {
            Flow::Next
        }
    };
    (@response $exchange:ident) => { Flow::Next };
    (@response $exchange:ident $first:ident $($rest:ident)*) => {{
        let rest = static_chain!(@response $exchange $($rest)*);
        if $first.on_response($exchange) == Flow::Respond { Flow::Respond } else { rest }
    }};
}

static_chain!(A);
static_chain!(A B);
static_chain!(A B C);
static_chain!(A B C D);
static_chain!(A B C D E);
static_chain!(A B C D E F);
static_chain!(A B C D E F G);
static_chain!(A B C D E F G H);

#[cfg(test)]
mod tests {
    use super::*;

    struct Mark(&'static str);
    impl Middleware for Mark {
        fn on_request(&self, exchange: &mut Exchange) -> Flow {
            exchange.request.fields.append("x-in", self.0.as_bytes()).unwrap();
            Flow::Next
        }
        fn on_response(&self, exchange: &mut Exchange) -> Flow {
            exchange.response.fields.append("x-out", self.0.as_bytes()).unwrap();
            Flow::Next
        }
    }

    struct Stop;
    impl Middleware for Stop {
        fn on_request(&self, exchange: &mut Exchange) -> Flow {
            exchange.reply(403, [], "no").unwrap();
            Flow::Respond
        }
    }

    fn values(fields: &crate::http::Fields, name: &str) -> String {
        String::from_utf8(fields.joined(name, b" ").unwrap_or_default().into_owned()).unwrap()
    }

    #[test]
    fn a_static_chain_runs_down_and_back_up() {
        let chain = (Mark("1"), Mark("2"), Mark("3"));
        let mut exchange = Exchange::default();

        assert_eq!(chain.on_request(&mut exchange), Flow::Next);
        exchange.response.assign(200);
        assert_eq!(chain.on_response(&mut exchange), Flow::Next);

        assert_eq!(values(&exchange.request.fields, "x-in"), "1 2 3");
        assert_eq!(values(&exchange.response.fields, "x-out"), "3 2 1");
    }

    #[test]
    fn an_early_answer_passes_back_through_those_already_entered() {
        let chain = (Mark("1"), Mark("2"), Stop, Mark("4"));
        let mut exchange = Exchange::default();

        assert_eq!(chain.on_request(&mut exchange), Flow::Respond);

        assert_eq!(exchange.response.status, 403);
        assert_eq!(values(&exchange.request.fields, "x-in"), "1 2");
        assert_eq!(values(&exchange.response.fields, "x-out"), "2 1");
    }
}
