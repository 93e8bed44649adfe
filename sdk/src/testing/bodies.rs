//! Plugins that are shown bodies, and the hooks that nobody waits for.

use std::cell::RefCell;

use super::*;
use crate::{Chunk, Flow, Middleware, Problem, Reply, Summary};

thread_local! {
    static SEEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn see(what: impl Into<String>) {
    SEEN.with_borrow_mut(|seen| seen.push(what.into()));
}

fn seen() -> Vec<String> {
    SEEN.take()
}

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Shown {
    ask: String,
    chunk: String,
    bad: Vec<String>,
    upstream: Option<String>,
}

impl Shown {
    fn say(&self, chunk: &[u8], end: bool) -> Chunk {
        see(format!("{}{}", chunk.len(), if end { " end" } else { "" }));
        match self.chunk.as_str() {
            "upper" => Chunk::Replace(chunk.to_ascii_uppercase()),
            "drop" => Chunk::Drop,
            "detach" => Chunk::Detach,
            "abort" => Chunk::Abort,
            _ => Chunk::Pass,
        }
    }
}

impl Middleware for Shown {
    fn on_request(&self, request: &mut crate::Request) -> Flow {
        match self.ask.as_str() {
            "skip" => request.skip_body(),
            "observe" => request.observe_body(),
            "hold" => request.hold_body(10),
            "greedy" => request.hold_body(5 << 20),
            "replace" => request.replace_body("other"),
            _ => {}
        }
        if let Some(upstream) = &self.upstream
            && !request.set_upstream(upstream)
        {
            return Flow::Reply(Reply::status(404));
        }
        Flow::Next
    }

    fn on_request_body(&self, request: &mut crate::Request, chunk: &[u8], end: bool) -> Chunk {
        if self.ask == "hold" {
            request.set_header("x-length", chunk.len().to_string());
            request.answer(Reply::status(422));
        }
        if self.chunk == "hold" {
            request.hold_body(1);
        }
        self.say(chunk, end)
    }

    fn on_response_body(&self, response: &mut crate::Response, chunk: &[u8], end: bool) -> Chunk {
        see(response.status().to_string());
        self.say(chunk, end)
    }

    fn on_log(&self, request: &crate::Request, response: &crate::Response, summary: &Summary) {
        see(format!("{} {} {}", request.path(), response.status(), summary.request_bytes));
    }

    fn on_tick(&self) {
        see("tick");
    }

    fn shutdown(&self) {
        see("shutdown");
    }

    fn validate(&self) -> Vec<Problem> {
        self.bad.iter().map(|path| Problem::new(path.as_str(), "bad")).collect()
    }
}

crate::export!(Shown: on_request, on_request_body, on_response_body, on_log, on_tick, shutdown, validate);

fn ask(config: &str, body: &str) -> Answer {
    let plugin = load::<Shown>(config).unwrap();
    let answer = plugin.exchange(Request::post("/a", body), Response::status(200));
    see("over");
    answer
}

fn sent(answer: &Answer) -> &str {
    std::str::from_utf8(answer.upstream_request().unwrap().body()).unwrap()
}

#[test]
fn a_body_is_shown_in_chunks_and_goes_on_as_the_plugin_says() {
    assert_eq!(sent(&ask(r#"{ "chunk": "upper" }"#, "hello")), "HELLO");
    assert_eq!(sent(&ask(r#"{ "chunk": "drop" }"#, "hello")), "");
    assert_eq!(sent(&ask("{}", "")), "");
    assert_eq!(seen()[..3], ["5 end", "/a 200 5", "over"]);

    let long = "x".repeat(100_000);
    assert_eq!(sent(&ask("{}", &long)).len(), 100_000);
    assert_eq!(seen()[..2], ["65536", "34464 end"]);
    assert_eq!(sent(&ask(r#"{ "chunk": "detach" }"#, &long)).len(), 100_000);
    assert_eq!(seen()[..2], ["65536", "/a 200 100000"]);
}

#[test]
fn a_head_hook_says_what_is_shown() {
    let panics_not = |ask: &str| format!(r#"{{ "ask": "{ask}", "chunk": "upper" }}"#);
    assert_eq!(sent(&ask(&panics_not("skip"), "hello")), "hello");
    assert_eq!(sent(&ask(&panics_not("replace"), "hello")), "other");

    let held = ask(&panics_not("hold"), "hello");
    assert_eq!(sent(&held), "HELLO");
    assert_eq!(held.upstream_request().unwrap().value("x-length"), Some("5"));
    let empty = ask(&panics_not("hold"), "");
    assert_eq!(empty.upstream_request().unwrap().value("x-length"), Some("0"));
    assert_eq!(ask(&panics_not("hold"), "hello hello").status(), 413);
    assert_eq!(ask(r#"{ "ask": "hold", "chunk": "abort" }"#, "hello").status(), 422);
    assert_eq!(ask(r#"{ "chunk": "abort" }"#, "hello").status(), 502);
}

#[test]
fn what_the_gateway_would_refuse_fails_here_too() {
    for config in [
        r#"{ "ask": "observe", "chunk": "upper" }"#,
        r#"{ "ask": "observe", "chunk": "drop" }"#,
        r#"{ "ask": "greedy" }"#,
        r#"{ "chunk": "hold" }"#,
    ] {
        let answer = ask(config, "hello");
        assert_eq!(answer.status(), 503, "{config}");
        assert!(answer.failure().is_some(), "{config}");
    }
}

#[test]
fn a_response_body_is_shown_with_its_status() {
    let plugin = load::<Shown>(r#"{ "chunk": "upper" }"#).unwrap();

    let upstream = Response::status(201).with_body("hello");
    let answer = plugin.exchange(Request::get("/a"), upstream);

    assert_eq!(answer.body(), b"HELLO");
    assert_eq!(seen(), ["201", "5 end", "/a 201 0"]);
}

#[test]
fn other_hooks_are_called_by_name() {
    let plugin = load::<Shown>("{}").unwrap();

    plugin.tick();
    plugin.shutdown();

    assert_eq!(seen(), ["tick", "shutdown"]);
}

#[test]
fn a_configuration_is_refused_with_everything_that_is_wrong() {
    let problems = problems::<Shown>(r#"{ "bad": ["/a", "/b"] }"#);

    assert_eq!(problems, [Problem::new("/a", "bad"), Problem::new("/b", "bad")]);
    assert_eq!(load::<Shown>(r#"{ "bad": ["/a", "/b"] }"#).unwrap_err(), "/a: bad\n/b: bad");
    assert_eq!(super::problems::<Shown>(r#"{ "bad": [5] }"#)[0].path, "/bad/0");
    assert_eq!(super::problems::<Shown>(r#"{ "what": 1 }"#)[0].path, "/what");
}

#[test]
fn an_upstream_is_chosen_among_those_that_there_are() {
    set_upstreams(&["a"]);

    let chosen = ask(r#"{ "upstream": "a" }"#, "");
    let none = ask(r#"{ "upstream": "b" }"#, "");

    assert_eq!(chosen.upstream_request().unwrap().chosen_upstream(), Some("a"));
    assert_eq!(none.status(), 404);
}

#[derive(serde::Deserialize)]
struct Asking {}

impl Middleware for Asking {
    fn on_request(&self, request: &mut crate::Request) -> Flow {
        let answer = callout::get("upstream://auth/").header("x-path", &*request.path()).send();
        match answer {
            Ok(answer) => Flow::Reply(Reply::status(answer.status()).body(answer.body())),
            Err(error) => Flow::Reply(Reply::status(500).body(error.to_string())),
        }
    }

    fn on_log(&self, _: &crate::Request, _: &crate::Response, _: &Summary) {
        see(format!("{:?}", callout::get("upstream://auth/").send()));
    }

    fn on_tick(&self) {
        let asked = (0..20).take_while(|_| callout::get("upstream://auth/").send().is_ok());
        see(asked.count().to_string());
    }
}

crate::export!(Asking: on_request, on_log, on_tick);

#[test]
fn callouts_are_answered_by_the_test_where_hooks_may_wait() {
    let plugin = load::<Asking>("{}").unwrap();
    let ask = || plugin.exchange(Request::get("/a"), Response::status(200));
    assert_eq!(ask().status(), 500, "nobody answers");

    answer_callouts(|request| Ok(callout::Response::new(202, request.url.clone())));

    let answer = ask();
    assert_eq!((answer.status(), answer.body()), (202, b"upstream://auth/".as_slice()));
    assert!(seen().iter().all(|answer| answer.contains("Denied")), "on_log may not wait");
    plugin.tick();
    plugin.tick();
    assert_eq!(seen(), ["16", "16"], "more are refused, as in the gateway");
}
