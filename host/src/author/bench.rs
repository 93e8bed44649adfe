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
use crate::config::PluginLimits;
use crate::plugin::{Chain, Exchange, Flow, Hook, Instances, Peer, SocketMessage, Summary, joined};

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
    let subject = Subject::load(file, limits, true)?;
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
    let tried = try_once(&chain, &case)?;
    let rows = measure(&subject, &chain, &case, &tried)?;
    let memory: u64 = instances.stats().iter().map(|stats| stats.memory_bytes).sum();
    let fuel = if tried.waits { Vec::new() } else { fuel(&subject, &case)? };
    log::take();
    Ok(answer(file, &subject, &rows, &fuel, starts[STARTS / 2], memory, &tried))
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

/// What came of trying both head hooks, and of looking at the case.
struct Tried {
    flow: Flow,
    /// They may wait for callouts, for which there is nobody here.
    waits: bool,
    /// The case has no message of a WebSocket.
    usual_message: bool,
}

/// What the plugin says to the request. One that fails has no cost worth knowing.
fn try_once(chain: &Chain, case: &Case) -> Result<Tried, Error> {
    let mut exchange = Box::new(Exchange::default());
    play::fill_request(&mut exchange, case);
    let (mut exchange, passed) = chain.on_request(exchange, Instant::now());
    let flow = passed.outcome.map_err(|failure| Error::failure(failure.to_string()))?;
    let waiting =
        |exchange: &mut Exchange| exchange.take_halt().is_some_and(|halt| halt.wish.is_none());
    let waits = waiting(&mut exchange);
    play::fill_answer(&mut exchange, case);
    let (mut exchange, answered) = chain.on_response(exchange, 1, Instant::now());
    answered.map_err(|broken| Error::failure(broken.failure.to_string()))?;
    let waits = waiting(&mut exchange) || waits;
    Ok(Tried { flow, waits, usual_message: case.messages.is_empty() })
}

/// What each head hook uses of fuel, on an instance whose instructions are counted: the same number on
/// every machine. In its second call, when it is warm.
fn fuel(subject: &Subject, case: &Case) -> Result<Vec<(&'static str, u64)>, Error> {
    let limits = PluginLimits { fuel_max: Some(u64::MAX / 2), ..*subject.plugin.limits() };
    let allow = subject.plugin.allow().clone().into();
    let plugin = subject.engine.load(subject.plugin.name(), &subject.component, &limits, &allow);
    let plugin = plugin.map_err(|error| Error::plugin(error.to_string()))?;
    let mut instances = Instances::new();
    let chain = instances.chain(&subject::plan(&plugin, &case.config));
    let chain = chain.map_err(|error| Error::plugin(error.to_string()))?;
    let hooks = plugin.hooks();
    let mut used = Vec::new();
    for (hook, mut call) in [
        (Hook::Request, Box::new(request(Some(&chain), case)) as Box<dyn FnMut()>),
        (Hook::Response, Box::new(response(Some(&chain), case))),
    ] {
        if hooks.has(hook) {
            call();
            call();
            used.extend(instances.fuel_used().map(|fuel| (hook.as_str(), fuel)));
        }
    }
    Ok(used)
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

/// The row in which nothing is done.
const NOTHING: usize = 3;

/// What a body hook is shown.
const CHUNK_BYTES: usize = 16 * 1024;

/// What a hook for messages is shown, when the case has none.
const MESSAGE_BYTES: usize = 128;

/// Nanoseconds of a bare call, and of each hook.
struct Measured {
    bare: f64,
    hooks: Vec<(&'static str, f64)>,
}

fn measure(
    subject: &Subject,
    chain: &Chain,
    case: &Case,
    tried: &Tried,
) -> Result<Measured, Error> {
    let hooks = subject.plugin.hooks();
    let mut rows = vec![
        Row::new("bare", None, bare(subject)?),
        Row::new("request in place", None, request(None, case)),
        Row::new("answer in place", None, response(None, case)),
        Row::new("nothing", None, || ()),
    ];
    if hooks.has(Hook::Request) && !tried.waits {
        rows.push(Row::new("on-request", Some(1), request(Some(chain), case)));
    }
    if hooks.has(Hook::Response) && !tried.waits {
        rows.push(Row::new("on-response", Some(2), response(Some(chain), case)));
    }
    for hook in [Hook::RequestBody, Hook::ResponseBody].into_iter().filter(|hook| hooks.has(*hook))
    {
        if let Some(shown) = chunk(chain, case, hook) {
            rows.push(Row::new(hook.as_str(), Some(NOTHING), shown));
        }
    }
    if hooks.has(Hook::Message) {
        let shown = message(chain, case)?;
        rows.push(Row::new(Hook::Message.as_str(), Some(NOTHING), shown));
    }
    if hooks.has(Hook::Log) {
        rows.push(Row::new(Hook::Log.as_str(), Some(NOTHING), over(chain, case)));
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

/// Shows a chunk of a body that goes on; nothing when the plugin wants to see none of this message, or all
/// of it at once.
fn chunk<'a>(chain: &'a Chain, case: &'a Case, hook: Hook) -> Option<impl FnMut() + 'a> {
    let mut exchange = Box::<Exchange>::default();
    play::fill_request(&mut exchange, case);
    let (mut exchange, _) = chain.on_request(exchange, Instant::now());
    let body = match hook {
        Hook::RequestBody => &case.request.body,
        _ => {
            play::fill_answer(&mut exchange, case);
            exchange = chain.on_response(exchange, 1, Instant::now()).0;
            &case.answer.body
        }
    };
    let mut filter = match hook {
        Hook::RequestBody => chain.request_filter(&mut exchange)?,
        _ => chain.response_filter(&mut exchange)?,
    };
    let body = body.as_deref().filter(|body| !body.is_empty()).unwrap_or("x");
    let shown: Vec<u8> = body.bytes().cycle().take(CHUNK_BYTES).collect();
    let (mut place, mut out) = (Some(exchange), Vec::new());
    filter.show(&mut place, &shown, false, &mut out).ok()?;
    (!filter.is_idle()).then_some(move || {
        out.clear();
        // One that fails later than at its first chunk is none that is measured.
        let _ = filter.show(&mut place, black_box(&shown), false, &mut out);
    })
}

/// Shows the first message of the case, or a text of 128 bytes.
fn message<'a>(chain: &'a Chain, case: &'a Case) -> Result<impl FnMut() + 'a, Error> {
    let usual = SocketMessage { is_text: true, data: vec![b'x'; MESSAGE_BYTES].into() };
    let (from, message) = match case.messages.first() {
        Some(shown) => (shown.from, shown.message.clone()),
        None => (Peer::Client, usual),
    };
    let mut place = Some(answered(case));
    chain
        .on_message(&mut place, from, message.clone())
        .map_err(|failure| Error::failure(failure.to_string()))?;
    Ok(move || {
        // One that fails later than at its first message is none that is measured.
        let _ = black_box(chain.on_message(&mut place, from, black_box(&message).clone()));
    })
}

/// Says that the exchange is over.
fn over<'a>(chain: &'a Chain, case: &'a Case) -> impl FnMut() + 'a {
    let mut place = Some(answered(case));
    let summary = Summary { status: 200, ..Summary::default() };
    move || {
        let Some(exchange) = place.take() else { return };
        place = Some(chain.on_log(black_box(exchange), 1, &summary));
    }
}

/// An exchange with request and answer.
fn answered(case: &Case) -> Box<Exchange> {
    let mut exchange = Box::<Exchange>::default();
    play::fill_request(&mut exchange, case);
    play::fill_answer(&mut exchange, case);
    exchange
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
    fuel: &[(&'static str, u64)],
    start: Duration,
    memory: u64,
    tried: &Tried,
) -> Answer {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let mut text = format!("{}\n", file.display());
    let bare = measured.bare;
    let mut line = |name: &str, ns: f64, note: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name:<16} {ns:>12.0} ns  {:>8.2} x bare{note}", ns / bare);
    };
    line("bare call", bare, "");
    for (name, ns) in &measured.hooks {
        let of_hook = fuel.iter().find(|(hook, _)| hook == name);
        let mut note = of_hook.map_or_else(String::new, |(_, fuel)| format!("  {fuel:>10} fuel"));
        match (*name, tried.flow) {
            ("on-request", Flow::Respond) => note.push_str("   (it answers this request itself)"),
            ("on-request-body" | "on-response-body", _) => note.push_str("   a chunk of 16 KiB"),
            ("on-message", _) if tried.usual_message => note.push_str("   a text of 128 bytes"),
            _ => {}
        }
        line(name, *ns, &note);
    }
    if tried.waits {
        text.push_str("  its head hooks may wait for callouts, and are not measured\n");
    }
    let _ = writeln!(text, "  memory           {:>12} an instance", project::size(memory));
    let _ = writeln!(text, "  compiling        {:>12.1} ms", ms(subject.compile));
    let _ = write!(text, "  starting         {:>12.3} ms  (instantiate, init)", ms(start));
    if cfg!(debug_assertions) {
        text.push_str(
            "\n  a debug build of the gateway: what is not wasm is many times slower than it is",
        );
    }
    let hooks = measured.hooks.iter().map(|(name, ns)| {
        let fuel = fuel.iter().find(|(hook, _)| hook == name).map(|(_, fuel)| fuel);
        json!({ "hook": name, "ns": ns, "times_bare": ns / bare, "fuel": fuel })
    });
    let json = json!({
        "ok": true,
        "name": **subject.plugin.name(),
        "bytes": subject.component.len(),
        "bare_ns": bare,
        "hooks": hooks.collect::<Vec<Value>>(),
        "memory_bytes": memory,
        "compile_ms": ms(subject.compile),
        "start_ms": ms(start),
        "answers_itself": tried.flow == Flow::Respond,
        "waits": tried.waits,
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
