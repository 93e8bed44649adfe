//! What a plugin costs a request: hooks, field access and edits, without network.
//!
//! Every case runs in turn in each round, and the median over the rounds is shown, so that a change
//! of the machine's speed hits all cases alike. Compare rows of one run, not runs.
//!
//! - `bare` is a hook called with wasmtime alone: the floor. The last column compares with the call
//!   of the SDK's `noop`, best with best.
//! - `chain/N` is what a request and its response pay for N plugins. `reset`, putting a small
//!   request into the exchange again, is in every row. Read the slope, (16 − 1) / 15, not the
//!   points.
//! - `sdk` is a plugin built with the SDK, the others are written by hand and have nothing in them
//!   but what their names say.
//!
//! `make guests`, then `taskset -c 0 cargo bench --bench micro [-- FILTER]`

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;
use std::time::Instant;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256,
    RsaKeyPair, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use serde_json::json;
use wasmtime::Config;
use wasmtime::Engine;
use wasmtime::Store;
use wasmtime::component::Component;
use wasmtime::component::Linker;
use wasmtime::component::TypedFunc;
use zproxy::config::Allow;
use zproxy::config::OnError;
use zproxy::config::PluginLimits;
use zproxy::http::Version;
use zproxy::plugin::Chain;
use zproxy::plugin::ChainPlan;
use zproxy::plugin::Exchange;
use zproxy::plugin::Flow;
use zproxy::plugin::Instances;
use zproxy::plugin::LinkPlan;
use zproxy::plugin::MessagePassed;
use zproxy::plugin::Middleware;
use zproxy::plugin::Peer;
use zproxy::plugin::PlanSource;
use zproxy::plugin::PluginEngine;
use zproxy::plugin::SocketMessage;
use zproxy::state::Now;
use zproxy::state::counters::Counters;
use zproxy::state::counters::Quota;
use zproxy::state::kv::Kv;

#[allow(dead_code, unreachable_pub, reason = "shared with the unit tests")]
#[path = "../host/src/plugin/tests/guest.rs"]
mod guest;

use guest::Guest;

/// Many and short, so that the best round of each case met no one else on its CPU.
const ROUNDS: usize = 101;
const CALLS: u32 = 4_000;

/// Plugins share one engine, as in the gateway: each has a thread of its own that keeps the time.
static ENGINE: LazyLock<Arc<PluginEngine>> = LazyLock::new(|| PluginEngine::new().unwrap());

/// What one call costs at least.
const FLOOR: &str = "bare/on-request";

/// A case: its name, and one iteration of it.
type Case = (&'static str, Box<dyn FnMut()>);

fn main() {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let mut cases: Vec<Case> = cases();
    cases.extend(imports());
    cases.retain(|(name, _)| filter.as_ref().is_none_or(|filter| name.contains(&**filter)));
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); cases.len()];
    for _ in 0..ROUNDS {
        for ((_, iteration), times) in cases.iter_mut().zip(&mut times) {
            let began = Instant::now();
            for _ in 0..CALLS {
                iteration();
            }
            times.push(began.elapsed());
        }
    }
    for times in &mut times {
        times.sort_unstable();
    }
    let nanoseconds = |time: Duration| time.as_secs_f64() * 1e9 / f64::from(CALLS);
    let floor = cases.iter().zip(&times).find(|((name, _), _)| *name == FLOOR);
    let floor = floor.map(|(_, times)| times[0]);
    println!("{:<44} {:>10} {:>10} {:>10}", "ns per iteration", "median", "best", "× bare");
    for ((name, _), times) in cases.iter().zip(&times) {
        let ratio = nanoseconds(times[0]) / floor.map_or(f64::NAN, nanoseconds);
        println!(
            "{name:<44} {:>10.1} {:>10.1} {ratio:>10.2}",
            nanoseconds(times[ROUNDS / 2]),
            nanoseconds(times[0]),
        );
    }
}

fn cases() -> Vec<Case> {
    const GET: &str =
        "(call $request-get (i32.const 16) (i32.const 6) (i32.const 256)) (i32.const 0)";
    const SET: &str = "(call $request-set (i32.const 16) (i32.const 6) (i32.const 32) (i32.const 12)) \
                       (i32.const 0)";
    let noop = Guest::noop().build();
    let declared = |count: usize| Guest {
        request_fields: vec!["accept".to_owned(); count],
        ..Guest::on_request("(i32.const 0)")
    };
    let declared = |count: usize| declared(count).build();
    let named = |text: &str| {
        let guest = Guest::on_request(text).edits_requests();
        guest.data(16, "accept").data(32, "text/html,abc").build()
    };
    vec![
        ("reset", {
            let mut exchange = Box::new(Exchange::default());
            Box::new(move || small_get(black_box(&mut exchange)))
        }),
        (
            "clock",
            Box::new(|| {
                black_box(Instant::now());
            }),
        ),
        (FLOOR, bare(&sdk("noop"))),
        ("bare/on-request by hand", bare(&noop)),
        ("bare/on-request without parameters", bare_empty()),
        ("chain/0", pair(&noop, 0)),
        ("chain/1 request hook only", pair(&Guest::on_request("(i32.const 0)").build(), 1)),
        ("chain/1", pair(&noop, 1)),
        ("chain/4", pair(&noop, 4)),
        ("chain/5", pair(&noop, 5)),
        ("chain/5 laid out differently", run(different(5))),
        ("chain/16", pair(&noop, 16)),
        ("chain/1 native", native(1)),
        ("request: 1 declared field", pair(&declared(1), 1)),
        ("request: 3 declared fields", pair(&declared(3), 1)),
        ("request: get 1 field", pair(&named(GET), 1)),
        ("request: set 1 field", pair(&named(SET), 1)),
        ("sdk: chain/1", pair(&sdk("noop"), 1)),
        ("sdk: chain/4", pair(&sdk("noop"), 4)),
        ("sdk: chain/5", pair(&sdk("noop"), 5)),
        ("sdk: chain/5 of one instance", run(repeated(&sdk("noop"), 5))),
        ("sdk: read 1 declared", pair(&sdk("read_one"), 1)),
        ("sdk: read 3, set 2", pair(&sdk("read_and_set"), 1)),
        ("sdk: look at all 15", pair(&sdk("all_headers"), 1)),
        ("body: bare, 16 KiB", bare_body(&sdk("chunks"), 16 * 1024)),
        ("body: sdk looks, 16 KiB", body("{}", 16 * 1024)),
        ("body: sdk looks, 64 KiB", body("{}", 64 * 1024)),
        ("body: sdk replaces, 16 KiB", body(REPLACE, 16 * 1024)),
        ("body: sdk replaces, 64 KiB", body(REPLACE, 64 * 1024)),
        ("body: sdk looks, 5 plugins, 16 KiB", bodies(5, "{}", 16 * 1024)),
        ("message: sdk passes, 128 bytes", message(r#"{"from":"server"}"#, 128)),
        ("message: sdk passes, 64 KiB", message(r#"{"from":"server"}"#, 64 * 1024)),
        ("message: sdk replaces, 128 bytes", message(r#"{"mark":"!"}"#, 128)),
    ]
}

/// What a call to the host costs: subtract `imports/nothing`, and compare with the same work without
/// wasm in the row below.
fn imports() -> Vec<Case> {
    let mut cases: Vec<Case> = vec![
        ("imports/nothing", imported(&json!({ "work": "nothing" }))),
        ("imports/metrics.add", imported(&json!({ "work": "add" }))),
        ("imports/counters.take, 1 key", imported(&json!({ "work": "take", "keys": 1 }))),
        ("native/counters.take, 1 key", native_take(1)),
        (
            "imports/counters.take, 1 million keys",
            imported(&json!({ "work": "take", "keys": 1_000_000 })),
        ),
        ("native/counters.take, 1 million keys", native_take(1_000_000)),
        ("imports/kv.get, 100 bytes", imported(&json!({ "work": "get" }))),
        ("native/kv.get, 100 bytes", native_get()),
        ("imports/kv.set, 100 bytes", imported(&json!({ "work": "set" }))),
    ];
    let random = SystemRandom::new();
    let data = vec![b'x'; 300];
    let secret = hmac::Key::new(hmac::HMAC_SHA256, b"a secret of some length");
    let mac = hmac::sign(&secret, &data).as_ref().to_vec();
    let config = verify("HS256", "secret", b"a secret of some length", &data, &mac);
    cases.push(("imports/crypto.verify HS256", imported(&config)));
    let bytes = data.clone();
    cases.push((
        "native/crypto.verify HS256",
        Box::new(move || hmac::verify(&secret, black_box(&bytes), &mac).unwrap()),
    ));
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let mut signature = vec![0; rsa.public_modulus_len()];
    rsa.sign(&RSA_PKCS1_SHA256, &random, &data, &mut signature).unwrap();
    let public = rsa.public_key().as_ref();
    let names = ("RS256", "imports/crypto.verify RS256", "native/crypto.verify RS256");
    cases.extend(public_key(names, &RSA_PKCS1_2048_8192_SHA256, public, &data, &signature));
    let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let signature = ec.sign(&random, &data).unwrap();
    let names = ("ES256", "imports/crypto.verify ES256", "native/crypto.verify ES256");
    let public = ec.public_key().as_der().unwrap();
    let (public, signature) = (public.as_ref(), signature.as_ref());
    cases.extend(public_key(names, &ECDSA_P256_SHA256_FIXED, public, &data, signature));
    let ed = Ed25519KeyPair::generate().unwrap();
    let names = ("EdDSA", "imports/crypto.verify EdDSA", "native/crypto.verify EdDSA");
    let public = ed.public_key().as_der().unwrap();
    cases.extend(public_key(names, &ED25519, public.as_ref(), &data, ed.sign(&data).as_ref()));
    cases
}

fn verify(algorithm: &str, format: &str, key: &[u8], data: &[u8], signature: &[u8]) -> Value {
    json!({
        "work": "verify", "algorithm": algorithm, "format": format, "key": key, "data": data,
        "signature": signature,
    })
}

/// Verification with a public key in DER, by the host for a plugin and without one.
fn public_key(
    (algorithm, imports, native): (&str, &'static str, &'static str),
    verification: &'static dyn VerificationAlgorithm,
    der: &[u8],
    data: &[u8],
    signature: &[u8],
) -> [Case; 2] {
    let label = if algorithm == "RS256" { "RSA PUBLIC KEY" } else { "PUBLIC KEY" };
    let text = BASE64_STANDARD.encode(der);
    let pem = format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n");
    let config = verify(algorithm, "pem", pem.as_bytes(), data, signature);
    let key = ParsedPublicKey::new(verification, der).unwrap();
    let (data, signature) = (data.to_vec(), signature.to_vec());
    let check = move || key.verify_sig(black_box(&data), &signature).unwrap();
    [(imports, imported(&config)), (native, Box::new(check))]
}

/// A request through the plugin that makes one call.
fn imported(config: &Value) -> Box<dyn FnMut()> {
    let allow = Allow { counters: Some(1 << 28), kv: Some(1 << 20), ..Allow::default() };
    let plugin = ENGINE.load("imports", &sdk("imports"), &LIMITS, &Arc::new(allow)).unwrap();
    let link = LinkPlan {
        plugin: PlanSource::Wasm(plugin),
        name: "imports".into(),
        config: config.to_string().into(),
        on_error: OnError::Closed,
    };
    run(Instances::new().chain(&ChainPlan { links: vec![link] }).unwrap())
}

fn native_take(keys: u64) -> Box<dyn FnMut()> {
    let counters = Counters::default();
    counters.limit(1 << 28);
    let quota = Quota { count: 1_000_000, period_ms: 1, burst: 1_000_000 };
    let (mut key, started) = (0, Instant::now());
    Box::new(move || {
        key = (key + 7_919) % keys;
        let monotonic_us = u64::try_from(started.elapsed().as_micros()).unwrap();
        let now = Now { unix_ms: 0, monotonic_us };
        assert!(counters.take(&key.to_le_bytes(), quota, 1, now).allowed);
    })
}

fn native_get() -> Box<dyn FnMut()> {
    let kv = Kv::default();
    kv.limit(1 << 20);
    kv.set(b"key", &[7; 100], 0, Now::default()).unwrap();
    Box::new(move || assert!(kv.get(black_box(b"key"), Now::default()).is_some()))
}

/// A plugin of `tests/guests`.
fn sdk(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guests/tests");
    let file = folder.join(format!("{name}.wasm"));
    std::fs::read(&file).unwrap_or_else(|error| {
        panic!("{}: {error}; `make guests` builds it", file.display());
    })
}

/// A request like those of browsers' scripts: 15 fields.
fn small_get(exchange: &mut Exchange) {
    exchange.clear();
    exchange.request.assign("GET", "/api/users?id=42", Version::Http11);
    for (name, value) in FIELDS {
        exchange.request.fields.push(name, value.as_bytes());
    }
    exchange.response.assign(200);
    exchange.response.fields.push("content-type", b"application/json");
}

const FIELDS: [(&str, &str); 15] = [
    ("Host", "api.example.com"),
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("Accept", "application/json, text/plain, */*"),
    ("Accept-Language", "en-US,en;q=0.5"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Authorization", "Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxIn0.abcdefghijkl"),
    ("Origin", "https://www.example.com"),
    ("Connection", "keep-alive"),
    ("Referer", "https://www.example.com/users"),
    ("Cookie", "session=0123456789abcdef; theme=dark"),
    ("Sec-Fetch-Dest", "empty"),
    ("Sec-Fetch-Mode", "cors"),
    ("Sec-Fetch-Site", "same-site"),
    ("Pragma", "no-cache"),
    ("Cache-Control", "no-cache"),
];

const LIMITS: PluginLimits = PluginLimits {
    memory_bytes_max: 16 * 1024 * 1024,
    time_max: Duration::from_millis(10),
    fuel_max: None,
    body_bytes_max: 4 << 20,
    instances_max: 4,
    callouts_max: 16,
    request_time_max: None,
};

/// A request and its response through `links` plugins.
fn pair(component: &[u8], links: usize) -> Box<dyn FnMut()> {
    // Plugins of a chain are different ones, each with an instance of its own.
    let links = (0..links).map(|index| LinkPlan {
        plugin: PlanSource::Wasm(
            ENGINE.load(&format!("plugin-{index}"), component, &LIMITS, &Arc::default()).unwrap(),
        ),
        name: "plugin".into(),
        config: "{}".into(),
        on_error: OnError::Closed,
    });
    run(Instances::new().chain(&ChainPlan { links: links.collect() }).unwrap())
}

/// Plugins that do nothing, each with its code at another place of its pages. Those of one component lie at the same
/// places, and the cache for instructions has no more than eight lines for those.
fn different(links: usize) -> Chain {
    let links = (0..links).map(|index| {
        let filler = "(drop (i32.div_u (i32.load (i32.const 0)) (i32.load (i32.const 4))))"
            .repeat(30 * index);
        let guest = Guest { core: format!("(func {filler})"), ..Guest::noop() };
        let name = format!("different-{index}");
        let plugin = ENGINE.load(&name, &guest.build(), &LIMITS, &Arc::default()).unwrap();
        LinkPlan {
            plugin: PlanSource::Wasm(plugin),
            name: name.into(),
            config: "{}".into(),
            on_error: OnError::Closed,
        }
    });
    Instances::new().chain(&ChainPlan { links: links.collect() }).unwrap()
}

/// The same plugin several times over: one instance, whose code and memory are warm from the second call on.
fn repeated(component: &[u8], links: usize) -> Chain {
    let link = LinkPlan {
        plugin: PlanSource::Wasm(ENGINE.load("one", component, &LIMITS, &Arc::default()).unwrap()),
        name: "one".into(),
        config: "{}".into(),
        on_error: OnError::Closed,
    };
    Instances::new().chain(&ChainPlan { links: vec![link; links] }).unwrap()
}

/// Makes the plugin `chunks` copy what it is shown.
const REPLACE: &str = r#"{"copy":true}"#;

/// One chunk of a body, shown by the chain and added to what goes on.
fn body(config: &str, bytes: usize) -> Box<dyn FnMut()> {
    bodies(1, config, bytes)
}

fn bodies(links: usize, config: &str, bytes: usize) -> Box<dyn FnMut()> {
    let component = sdk("chunks");
    let links = (0..links).map(|index| LinkPlan {
        plugin: PlanSource::Wasm(
            ENGINE.load(&format!("chunks-{index}"), &component, &LIMITS, &Arc::default()).unwrap(),
        ),
        name: "chunks".into(),
        config: config.into(),
        on_error: OnError::Closed,
    });
    let chain = Instances::new().chain(&ChainPlan { links: links.collect() }).unwrap();
    let mut exchange = Box::new(Exchange::default());
    small_get(&mut exchange);
    let (mut exchange, passed) = chain.on_request(exchange, Instant::now());
    assert_eq!(passed.outcome.unwrap(), Flow::Next);
    let mut filter = chain.request_filter(&mut exchange).unwrap();
    let mut place = Some(exchange);
    let (chunk, mut out) = (vec![b'x'; bytes], Vec::new());
    Box::new(move || {
        out.clear();
        filter.show(&mut place, black_box(&chunk), false, &mut out).unwrap();
        assert_eq!(out.len(), chunk.len());
    })
}

/// A text of a WebSocket, shown by the chain.
fn message(config: &str, bytes: usize) -> Box<dyn FnMut()> {
    let plugin = ENGINE.load("messages", &sdk("messages"), &LIMITS, &Arc::default()).unwrap();
    let link = LinkPlan {
        plugin: PlanSource::Wasm(plugin),
        name: "messages".into(),
        config: config.into(),
        on_error: OnError::Closed,
    };
    let chain = Instances::new().chain(&ChainPlan { links: vec![link] }).unwrap();
    let mut exchange = Box::new(Exchange::default());
    small_get(&mut exchange);
    let mut place = Some(exchange);
    let shown = SocketMessage { is_text: true, data: vec![b'x'; bytes].into() };
    Box::new(move || {
        let passed = chain.on_message(&mut place, Peer::Client, black_box(&shown).clone()).unwrap();
        assert!(matches!(passed, MessagePassed::On(_)));
    })
}

fn native(links: usize) -> Box<dyn FnMut()> {
    struct Nothing;
    impl Middleware for Nothing {}

    let link = LinkPlan {
        plugin: PlanSource::Native(Arc::new(|_| Ok(Box::new(Nothing)))),
        name: "native".into(),
        config: "{}".into(),
        on_error: OnError::Closed,
    };
    run(Instances::new().chain(&ChainPlan { links: vec![link; links] }).unwrap())
}

fn run(chain: Chain) -> Box<dyn FnMut()> {
    let mut exchange = Some(Box::new(Exchange::default()));
    Box::new(move || {
        let mut request = exchange.take().unwrap();
        small_get(&mut request);
        // The gateway reads a clock when a request begins anyway, and once more for the response.
        let now = Instant::now();
        let (request, passed) = chain.on_request(black_box(request), now);
        assert_eq!(passed.outcome.unwrap(), Flow::Next);
        let (response, flow) = chain.on_response(request, passed.entered, now);
        assert_eq!(flow.unwrap(), Flow::Next);
        exchange = Some(response);
    })
}

#[derive(Clone, Copy, PartialEq, wasmtime::component::ComponentType, wasmtime::component::Lift)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "made by the guest")]
enum Action {
    #[component(name = "next")]
    Next,
    #[component(name = "respond")]
    Respond,
}

#[derive(Clone, Copy, PartialEq, wasmtime::component::ComponentType, wasmtime::component::Lift)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "made by the guest")]
enum ChunkAction {
    #[component(name = "pass")]
    Pass,
    #[component(name = "replaced")]
    Replaced,
    #[component(name = "drop")]
    Drop,
    #[component(name = "detach")]
    Detach,
    #[component(name = "abort")]
    Abort,
}

fn bare_engine() -> Engine {
    let mut config = Config::new();
    config.concurrency_support(false).epoch_interruption(true);
    Engine::new(&config).unwrap()
}

/// The same hook with nothing around it.
fn bare(component: &[u8]) -> Box<dyn FnMut()> {
    type Fields<'a> = &'a [Option<&'a [u8]>];
    let engine = bare_engine();
    let component = Component::from_binary(&engine, component).unwrap();
    let mut linker = Linker::new(&engine);
    // `init` is not called, and nothing else calls out.
    linker.define_unknown_imports_as_traps(&component).unwrap();
    let mut store = Store::new(&engine, ());
    store.set_epoch_deadline(1);
    let instance = linker.instantiate(&mut store, &component).unwrap();
    let interface = "zproxy:gateway/request-filter@0.1.0";
    let interface = instance.get_export_index(&mut store, None, interface).unwrap();
    let hook = instance.get_export_index(&mut store, Some(&interface), "on-request").unwrap();
    let hook: TypedFunc<(Fields<'static>,), (Action,)> =
        instance.get_typed_func(&mut store, hook).unwrap();
    Box::new(move || {
        black_box(hook.call(&mut store, (black_box(&[]),)).unwrap().0);
    })
}

/// The body hook with nothing around it.
fn bare_body(component: &[u8], bytes: usize) -> Box<dyn FnMut()> {
    let engine = bare_engine();
    let component = Component::from_binary(&engine, component).unwrap();
    let mut linker = Linker::new(&engine);
    linker.define_unknown_imports_as_traps(&component).unwrap();
    let mut store = Store::new(&engine, ());
    store.set_epoch_deadline(1);
    let instance = linker.instantiate(&mut store, &component).unwrap();
    let interface = "zproxy:gateway/request-body-filter@0.1.0";
    let interface = instance.get_export_index(&mut store, None, interface).unwrap();
    let hook = instance.get_export_index(&mut store, Some(&interface), "on-request-body").unwrap();
    let hook: TypedFunc<(&'static [u8], bool), (ChunkAction,)> =
        instance.get_typed_func(&mut store, hook).unwrap();
    let chunk: &'static [u8] = vec![b'x'; bytes].leak();
    Box::new(move || {
        black_box(hook.call(&mut store, (black_box(chunk), false)).unwrap().0);
    })
}

/// The cheapest call there is.
fn bare_empty() -> Box<dyn FnMut()> {
    let engine = bare_engine();
    let text = "(component (core module $m (func (export \"f\") (result i32) (i32.const 0)))
        (core instance $i (instantiate $m))
        (func (export \"f\") (result u32) (canon lift (core func $i \"f\"))))";
    let component = Component::from_binary(&engine, &wat::parse_str(text).unwrap()).unwrap();
    let mut store = Store::new(&engine, ());
    store.set_epoch_deadline(1);
    let instance = Linker::new(&engine).instantiate(&mut store, &component).unwrap();
    let function: TypedFunc<(), (u32,)> = instance.get_typed_func(&mut store, "f").unwrap();
    Box::new(move || assert!(function.call(&mut store, ()).unwrap().0 == 0))
}
