//! Native middleware in chains.

use std::sync::atomic::{AtomicU16, Ordering};

use super::*;

struct Careless(u16, bool);
impl Careless {
    fn answer(&self, exchange: &mut Exchange) -> Flow {
        match exchange.reply(self.0, [("x-by", b"native".as_slice())], "no") {
            Ok(()) | Err(_) => Flow::Respond,
        }
    }
}
impl Middleware for Careless {
    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        if self.1 { Flow::Respond } else { self.answer(exchange) }
    }
    fn on_response(&self, exchange: &mut Exchange) -> Flow {
        self.on_request(exchange)
    }
}

fn chain(status: u16, silent: bool, on_error: OnError) -> Chain {
    let factory: Arc<NativeFactory> = Arc::new(move |_| Ok(Box::new(Careless(status, silent))));
    let link = LinkPlan {
        plugin: PlanSource::Native(factory),
        name: "careless".into(),
        config: "{}".into(),
        on_error,
    };
    Instances::new().chain(&ChainPlan { links: vec![link] }).unwrap()
}

#[test]
fn an_answer_must_have_been_made() {
    for chain in [chain(200, true, OnError::Closed), chain(700, false, OnError::Closed)] {
        let passed = failure(down(&chain, request(&[])).1);
        let back = up(&chain, response(200, &[]), 1).1.unwrap_err().failure;

        for failed in [passed, *back] {
            assert_eq!(failed.kind, FailureKind::Violation);
            let why = "it answered `Respond` without an answer made by `Exchange::reply`";
            assert_eq!(&*failed.message, why);
        }
    }
}

#[test]
fn a_refused_answer_leaves_the_response_as_it_was() {
    let chain = chain(700, false, OnError::Open);

    let (exchange, flow) = up(&chain, response(404, &[("x-old", "1")]), 1);

    assert_eq!(flow.unwrap(), Flow::Next);
    assert_eq!(exchange.response.status, 404);
    assert_eq!(text(&exchange.response.fields), "x-old: 1; ");
    assert_eq!(exchange.body, None);
}

#[test]
fn an_answer_that_was_made_is_sent() {
    let chain = chain(403, false, OnError::Closed);

    let (exchange, passed) = down(&chain, request(&[]));

    assert_eq!(passed.outcome.unwrap(), Flow::Respond);
    assert_eq!(exchange.response.status, 403);
    assert_eq!(text(&exchange.response.fields), "x-by: native; ");
    assert_eq!(exchange.body.as_deref(), Some(b"no".as_slice()));
}

#[test]
fn a_factory_that_panics_refuses() {
    let link = LinkPlan {
        plugin: PlanSource::Native(Arc::new(|config| panic!("what is {config}?"))),
        name: "careless".into(),
        config: "{}".into(),
        on_error: OnError::Open,
    };

    let error = Instances::new().chain(&ChainPlan { links: vec![link] }).err().unwrap();

    assert_eq!(error.to_string(), "plugin `careless`: it panicked: what is {}?");
}

/// What it has replaced cannot be brought back.
#[test]
fn an_answer_and_then_a_panic_close_even_an_open_link() {
    struct Both;
    impl Middleware for Both {
        fn on_response(&self, exchange: &mut Exchange) -> Flow {
            exchange.reply(200, [], "").unwrap();
            panic!("after all");
        }
    }
    let link = LinkPlan {
        plugin: PlanSource::Native(Arc::new(|_| Ok(Box::new(Both)))),
        name: "both".into(),
        config: "{}".into(),
        on_error: OnError::Open,
    };
    let chain = Instances::new().chain(&ChainPlan { links: vec![link] }).unwrap();
    let mut exchange = response(200, &[("a", "1")]);
    exchange.body = Some(bytes::Bytes::new());

    let (_, flow) = up(&chain, exchange, 1);

    assert_eq!(&*flow.unwrap_err().failure.message, "it panicked: after all");
}

/// Native middleware is shown bodies when it says that it wants to, and never otherwise.
#[test]
fn native_middleware_is_shown_bodies_and_the_end() {
    struct Upper(Arc<AtomicU16>);
    impl Middleware for Upper {
        fn hooks(&self) -> Hooks {
            Hooks::of(&[Hook::Request, Hook::RequestBody, Hook::Log])
        }
        fn on_request_body(&self, _: &mut Exchange, chunk: &[u8], end: bool) -> ChunkFlow {
            assert!(!chunk.starts_with(b"bad"), "asked to panic");
            if end { ChunkFlow::Drop } else { ChunkFlow::Replace(chunk.to_ascii_uppercase()) }
        }
        fn on_log(&self, _: &Exchange, summary: &Summary) {
            self.0.store(summary.status, Ordering::Relaxed);
        }
    }
    let status = Arc::new(AtomicU16::new(0));
    let told = Arc::clone(&status);
    let factory: Arc<NativeFactory> = Arc::new(move |_| Ok(Box::new(Upper(Arc::clone(&told)))));
    let link = LinkPlan {
        plugin: PlanSource::Native(factory),
        name: "upper".into(),
        config: "{}".into(),
        on_error: OnError::Closed,
    };
    let chain = Instances::new().chain(&ChainPlan { links: vec![link] }).unwrap();
    let (mut exchange, passed) = down(&chain, request(&[]));
    let mut filter = chain.request_filter(&mut exchange).unwrap();
    let (mut place, mut out) = (Some(exchange), Vec::new());

    filter.show(&mut place, b"a", false, &mut out).unwrap();
    filter.show(&mut place, b"b", true, &mut out).unwrap();
    assert_eq!(out, b"A");
    let shown = filter.show(&mut place, b"bad", true, &mut out);
    assert!(matches!(shown, Err(BodyStop::Failed(_))), "{shown:?}");

    let summary = Summary { status: 201, ..Summary::default() };
    chain.on_log(place.unwrap(), passed.entered, &summary);
    assert_eq!(status.load(Ordering::Relaxed), 201);
}
