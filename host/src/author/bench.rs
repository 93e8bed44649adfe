//! `plugin bench`: what a plugin costs a request, beside the cheapest call that there is.
//!
//! Every row is measured in turn in each round, and the median over the rounds is shown, so that a
//! change of the machine's speed hits all rows alike. What putting the message in place again costs is
//! measured, too, and taken off. Compare rows of one run, not runs.
//!
//! Not here: what plugins cost in general (`benches/`).

#![expect(clippy::disallowed_methods, reason = "a bench measures real time")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wasmtime::Store;
use wasmtime::component::{Component, Linker, TypedFunc};

use super::case::{self, Case};
use super::subject::{self, Subject};
use super::{Answer, Error, Limits, log, play, project};
use crate::plugin::{Chain, Exchange, Flow, Hook, Instances, joined};

/// Many and short, so that the median met nobody else on its CPU.
const ROUNDS: usize = 101;

/// How long a row takes in one round, about.
const ROUND: Duration = Duration::from_millis(2);

/// Instances made to see what making one takes.
const STARTS: usize = 5;

/// A request like those of browsers' scripts: 15 fields, 690 bytes.
const USUAL: &str = "\
=== usual
--- client-ip: 192.0.2.1
--- scheme: https
--- verdict: next
--- request
GET /api/users?id=42 HTTP/1.1
Host: api.example.com
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0
Accept: application/json, text/plain, */*
Accept-Language: en-US,en;q=0.5
Accept-Encoding: gzip, deflate, br, zstd
Authorization: Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxIn0.abcdefghijkl
Origin: https://www.example.com
X-Requested-With: XMLHttpRequest
Referer: https://www.example.com/users
Cookie: session=0123456789abcdef; theme=dark
Sec-Fetch-Dest: empty
Sec-Fetch-Mode: cors
Sec-Fetch-Site: same-site
Pragma: no-cache
Cache-Control: no-cache
--- answer
HTTP/1.1 200
content-type: application/json
";

/// The cheapest component: one function, from nothing to a number. Its text is in the test below.
const BARE: &[u8] = b"\0asm\x0d\0\x01\0\
    \x01\x22\0asm\x01\0\0\0\x01\x05\x01\x60\0\x01\x7f\x03\x02\x01\0\x07\x05\x01\x01f\0\0\
    \x0a\x06\x01\x04\0\x41\0\x0b\
    \x02\x04\x01\0\0\0\
    \x07\x05\x01\x40\0\0\x79\
    \x06\x07\x01\0\0\x01\0\x01f\
    \x08\x06\x01\0\0\0\0\0\
    \x0b\x07\x01\0\x01f\x01\0\0";

/// Measures a component.
pub(super) fn bench(
    file: &Path,
    config: Option<&str>,
    case: Option<&Path>,
    limits: &Limits,
) -> Result<Answer, Error> {
    let mut case = sample(case)?;
    if let Some(config) = config {
        case.config = subject::object(config)?;
    }
    log::keep();
    let subject = Subject::load(file, limits)?;
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let began = Instant::now();
        subject.plugin.probe(&case.config).map_err(|complaints| {
            let refusal = joined(&complaints);
            Error::plugin(format!("{}: with {}: {refusal}", file.display(), case.config))
        })?;
        starts.push(began.elapsed());
    }
    starts.sort_unstable();
    let mut instances = Instances::new();
    let chain = instances.chain(&subject::plan(&subject.plugin, &case.config));
    let chain = chain.map_err(|error| Error::plugin(error.to_string()))?;
    let verdict = try_once(&chain, &case)?;
    let rows = measure(&subject, &chain, &case)?;
    let memory: u64 = instances.stats().iter().map(|stats| stats.memory_bytes).sum();
    log::take();
    Ok(answer(file, &subject, &rows, starts[STARTS / 2], memory, verdict))
}

/// The first case of a file, or the usual one.
fn sample(file: Option<&Path>) -> Result<Case, Error> {
    let Some(file) = file else {
        let case = case::parse(USUAL).ok().and_then(|mut cases| cases.pop());
        return case.ok_or_else(|| Error::failure("the usual request does not parse"));
    };
    let shown = file.display();
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| Error::failure(format!("{shown}: {error}")))?;
    let cases = case::parse(&text).map_err(|mistake| {
        Error::failure(format!("{shown}:{}: {}", mistake.line, mistake.message))
    })?;
    let first = cases.into_iter().find(|case| !case.request.start.is_empty());
    first.ok_or_else(|| Error::failure(format!("{shown}: no case with a request")))
}

/// What the plugin says to the request. One that fails has no cost worth knowing.
fn try_once(chain: &Chain, case: &Case) -> Result<Flow, Error> {
    let mut exchange = Box::new(Exchange::default());
    play::fill_request(&mut exchange, case);
    let (mut exchange, passed) = chain.on_request(exchange, Instant::now());
    let flow = passed.outcome.map_err(|failure| Error::failure(failure.to_string()))?;
    play::fill_answer(&mut exchange, case);
    let (_, answered) = chain.on_response(exchange, 1, Instant::now());
    answered.map_err(|broken| Error::failure(broken.failure.to_string()))?;
    Ok(flow)
}

/// One thing that is measured.
struct Row<'a> {
    name: &'static str,
    /// The row whose time is part of this one's, and taken off.
    without: Option<usize>,
    iteration: Box<dyn FnMut() + 'a>,
    calls: u32,
    times: Vec<Duration>,
}

impl<'a> Row<'a> {
    fn new(name: &'static str, without: Option<usize>, iteration: impl FnMut() + 'a) -> Self {
        let mut row =
            Self { name, without, iteration: Box::new(iteration), calls: 1, times: Vec::new() };
        // Warm, and long enough to be timed.
        while row.round() < ROUND && row.calls < 1 << 20 {
            row.calls *= 2;
        }
        row
    }

    fn round(&mut self) -> Duration {
        let began = Instant::now();
        for _ in 0..self.calls {
            (self.iteration)();
        }
        began.elapsed()
    }

    /// Nanoseconds of one iteration.
    fn median(&mut self) -> f64 {
        self.times.sort_unstable();
        let median = self.times.get(self.times.len() / 2).copied().unwrap_or_default();
        median.as_secs_f64() * 1e9 / f64::from(self.calls)
    }
}

/// Nanoseconds of a bare call, and of each hook.
struct Measured {
    bare: f64,
    hooks: Vec<(&'static str, f64)>,
}

fn measure(subject: &Subject, chain: &Chain, case: &Case) -> Result<Measured, Error> {
    let hooks = subject.plugin.hooks();
    let mut rows = vec![
        Row::new("bare", None, bare(subject)?),
        Row::new("request in place", None, request(None, case)),
        Row::new("answer in place", None, response(None, case)),
    ];
    if hooks.has(Hook::Request) {
        rows.push(Row::new("on-request", Some(1), request(Some(chain), case)));
    }
    if hooks.has(Hook::Response) {
        rows.push(Row::new("on-response", Some(2), response(Some(chain), case)));
    }
    for _ in 0..ROUNDS {
        for row in &mut rows {
            let took = row.round();
            row.times.push(took);
        }
    }
    let medians: Vec<f64> = rows.iter_mut().map(Row::median).collect();
    let net = |(row, median): (&Row<'_>, &f64)| {
        let without = row.without.and_then(|index| medians.get(index))?;
        Some((row.name, (median - without).max(0.0)))
    };
    Ok(Measured { bare: medians[0], hooks: rows.iter().zip(&medians).filter_map(net).collect() })
}

/// Puts the request in place, and takes it through the chain if there is one.
fn request<'a>(chain: Option<&'a Chain>, case: &'a Case) -> impl FnMut() + 'a {
    let mut place = Some(Box::<Exchange>::default());
    move || {
        let Some(mut exchange) = place.take() else { return };
        play::fill_request(&mut exchange, case);
        if let Some(chain) = chain {
            // The gateway reads a clock when a request begins anyway.
            exchange = chain.on_request(black_box(exchange), Instant::now()).0;
        }
        place = Some(black_box(exchange));
    }
}

/// The same for the answer. The request stays as it was.
fn response<'a>(chain: Option<&'a Chain>, case: &'a Case) -> impl FnMut() + 'a {
    let mut exchange = Box::<Exchange>::default();
    play::fill_request(&mut exchange, case);
    let mut place = Some(exchange);
    move || {
        let Some(mut exchange) = place.take() else { return };
        exchange.body = None;
        play::fill_answer(&mut exchange, case);
        if let Some(chain) = chain {
            exchange = chain.on_response(black_box(exchange), 1, Instant::now()).0;
        }
        place = Some(black_box(exchange));
    }
}

/// A call with nothing in it, by the same engine.
fn bare(subject: &Subject) -> Result<impl FnMut() + 'static, Error> {
    let failed = |error: wasmtime::Error| Error::failure(format!("the bare call: {error:#}"));
    let engine = subject.engine.wasmtime();
    let component = Component::from_binary(engine, BARE).map_err(failed)?;
    let mut store = Store::new(engine, ());
    // The engine's clock goes on for years.
    store.set_epoch_deadline(u64::MAX / 2);
    let instance = Linker::new(engine).instantiate(&mut store, &component).map_err(failed)?;
    let function: TypedFunc<(), (u32,)> =
        instance.get_typed_func(&mut store, "f").map_err(failed)?;
    Ok(move || {
        // It cannot fail; what it gives does not matter.
        let _ = black_box(function.call(&mut store, ()));
    })
}

fn answer(
    file: &Path,
    subject: &Subject,
    measured: &Measured,
    start: Duration,
    memory: u64,
    verdict: Flow,
) -> Answer {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let mut text = format!("{}\n", file.display());
    let bare = measured.bare;
    let mut line = |name: &str, ns: f64, note: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name:<12} {ns:>12.0} ns  {:>8.2} x bare{note}", ns / bare);
    };
    line("bare call", bare, "");
    for (name, ns) in &measured.hooks {
        let note = match (*name, verdict) {
            ("on-request", Flow::Respond) => "   (it answers this request itself)",
            _ => "",
        };
        line(name, *ns, note);
    }
    let _ = writeln!(text, "  memory       {:>12} an instance", project::size(memory));
    let _ = writeln!(text, "  compiling    {:>12.1} ms", ms(subject.compile));
    let _ = write!(text, "  starting     {:>12.3} ms  (instantiate, init)", ms(start));
    if cfg!(debug_assertions) {
        text.push_str(
            "\n  a debug build of the gateway: what is not wasm is many times slower than it is",
        );
    }
    let hooks = measured
        .hooks
        .iter()
        .map(|(name, ns)| json!({ "hook": name, "ns": ns, "times_bare": ns / bare }));
    let json = json!({
        "ok": true,
        "name": **subject.plugin.name(),
        "bytes": subject.bytes,
        "bare_ns": bare,
        "hooks": hooks.collect::<Vec<Value>>(),
        "memory_bytes": memory,
        "compile_ms": ms(subject.compile),
        "start_ms": ms(start),
        "answers_itself": verdict == Flow::Respond,
        "debug_build": cfg!(debug_assertions),
    });
    Answer { text, json, failed: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bare_component_is_what_its_comment_says() {
        let text = "(component (core module (func (export \"f\") (result i32) (i32.const 0)))
            (core instance (instantiate 0))
            (func (export \"f\") (result u32) (canon lift (core func 0 \"f\"))))";

        assert_eq!(wat::parse_str(text).unwrap(), BARE);
    }

    #[test]
    fn the_usual_request_parses() {
        assert_eq!(sample(None).unwrap().request.fields.len(), 15);
    }
}
