//! What the built-in plugins cost a request: their hooks, without network.
//!
//! Every case runs in turn in each round; shown are the median over the rounds and the best one. Subtract
//! `nothing`, which puts a request into the exchange and runs it through an empty chain. *Known* is one
//! token that is sent again and again, *fresh* are more different ones than a worker remembers. The rows
//! `native` are the signature alone, without wasm. With `ZPROXY_BENCH_PLUGINS=FOLDER` components come from
//! there, so that a change in one needs no new bench.
//!
//! `taskset -c 0 cargo bench --bench built_in [-- FILTER]`

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

use std::cell::LazyCell;
use std::hint::black_box;
use std::net::Ipv6Addr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use zproxy::config::{Allow, OnError, PluginLimits};
use zproxy::http::Version;
use zproxy::plugin::callout::{Callouts, Outside, Scope};
use zproxy::plugin::{
    Chain, ChainPlan, Exchange, Flow, Hook, Instances, LinkPlan, PlanSource, PluginEngine, built_in,
};

const ROUNDS: usize = 51;
const CALLS: u32 = 1_000;

/// A case: its name, and one iteration of it.
type Case = (&'static str, Box<dyn FnMut()>);

/// Those that are asked for; signing tokens for the others would take longer than the bench.
struct Cases {
    filter: Option<String>,
    made: Vec<Case>,
}

impl Cases {
    fn add(&mut self, name: &'static str, make: impl FnOnce() -> Box<dyn FnMut()>) {
        if self.filter.as_ref().is_none_or(|filter| name.contains(&**filter)) {
            self.made.push((name, make()));
        }
    }
}

fn main() {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let mut cases = Cases { filter, made: Vec::new() };
    make(&mut cases);
    let mut cases = cases.made;
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
    println!("{:<44} {:>10} {:>10}", "ns per iteration", "median", "best");
    for ((name, _), times) in cases.iter().zip(&mut times) {
        times.sort_unstable();
        let nanoseconds = |time: Duration| time.as_secs_f64() * 1e9 / f64::from(CALLS);
        println!(
            "{name:<44} {:>10.1} {:>10.1}",
            nanoseconds(times[ROUNDS / 2]),
            nanoseconds(times[0])
        );
    }
}

fn make(cases: &mut Cases) {
    let engine = PluginEngine::new().unwrap();
    let limit = json!({ "requests_per_second": 100_000_000 });
    let silent = json!({ "requests_per_second": 100_000_000, "headers": false });
    let client = |count: u32| {
        let mut number = 0_u32;
        move |exchange: &mut Exchange| {
            number = (number + 7_919) % count;
            let [a, b, c, d] = number.to_be_bytes();
            let segments = [0x2001, 0xdb8, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
            let [e, f, g, h] = segments;
            exchange.client_ip = Some(Ipv6Addr::new(e, f, g, h, 0, 0, 0, 1).into());
        }
    };
    cases.add("nothing", || run(Instances::new().chain(&ChainPlan::default()).unwrap(), |_| {}));
    for (name, config, clients) in [
        ("rate-limit, 1 client", &limit, 1),
        ("rate-limit, 1 million clients", &limit, 1_000_000),
        ("rate-limit, without fields, 1 client", &silent, 1),
    ] {
        cases.add(name, || {
            let chain = chain(&engine, "rate-limit", config);
            let mut iteration = run(chain, client(clients));
            // All of them are known when the bench begins.
            (0..clients).for_each(|_| iteration());
            iteration
        });
    }
    let jwt = |config: &Value, tokens: &[String]| {
        run(chain(&engine, "jwt", config), bearer(tokens.to_vec()))
    };
    let hs256 = |data: &[u8]| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        hmac::sign(&key, data).as_ref().to_vec()
    };
    let config = json!({ "jwt_secret": SECRET });
    cases.add("jwt HS256, known", || jwt(&config, &tokens(1, "HS256", hs256)));
    cases.add("jwt HS256, fresh", || jwt(&config, &tokens(40_000, "HS256", hs256)));

    let random = SystemRandom::new();
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let rs256 = |data: &[u8]| {
        let mut signature = vec![0; rsa.public_modulus_len()];
        rsa.sign(&RSA_PKCS1_SHA256, &random, data, &mut signature).unwrap();
        signature
    };
    let config = json!({ "public_key_pem": pem(rsa.public_key().as_der().unwrap().as_ref()) });
    let fresh = LazyCell::new(|| tokens(10_000, "RS256", rs256));
    let native = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, rsa.public_key()).unwrap();
    cases.add("native RS256", || check(native, &fresh));
    cases.add("jwt RS256, known", || jwt(&config, &fresh[..1]));
    cases.add("jwt RS256, fresh", || jwt(&config, &fresh));

    let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let es256 = |data: &[u8]| ec.sign(&random, data).unwrap().as_ref().to_vec();
    let config = json!({ "public_key_pem": pem(ec.public_key().as_der().unwrap().as_ref()) });
    let fresh = LazyCell::new(|| tokens(40_000, "ES256", es256));
    let native = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, ec.public_key()).unwrap();
    cases.add("native ES256", || check(native, &fresh));
    cases.add("jwt ES256, fresh", || jwt(&config, &fresh));
}

const SECRET: &str = "a secret of thirty-two bytes....";

fn pem(der: &[u8]) -> String {
    format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        BASE64_STANDARD.encode(der)
    )
}

/// So many different tokens, with the claims that identity providers put in.
fn tokens(count: u32, algorithm: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> Vec<String> {
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let header = encode(format!(r#"{{"alg":"{algorithm}","typ":"JWT"}}"#).as_bytes());
    let token = |number: u32| {
        let claims = json!({
            "iss": "https://idp.example/realms/shop", "aud": "shop-api", "exp": 4_000_000_000_u32,
            "iat": 1_700_000_000, "jti": format!("{number:032}"), "sub": format!("user-{number}"),
            "scope": "openid profile email",
        });
        let signed = format!("{header}.{}", encode(claims.to_string().as_bytes()));
        format!("{signed}.{}", encode(&sign(signed.as_bytes())))
    };
    (0..count).map(token).collect()
}

/// Puts one token after the other into requests.
fn bearer(tokens: Vec<String>) -> impl FnMut(&mut Exchange) {
    let fields: Vec<String> = tokens.iter().map(|token| format!("Bearer {token}")).collect();
    let mut next = 0;
    move |exchange| {
        next = (next + 1) % fields.len();
        exchange.request.fields.push("Authorization", fields[next].as_bytes());
    }
}

/// The signature of one token after the other.
fn check(key: ParsedPublicKey, tokens: &[String]) -> Box<dyn FnMut()> {
    let parts = |token: &String| {
        let (signed, signature) = token.rsplit_once('.').unwrap();
        (signed.as_bytes().to_vec(), BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap())
    };
    let tokens: Vec<_> = tokens.iter().take(1000).map(parts).collect();
    let mut next = 0;
    Box::new(move || {
        next = (next + 1) % tokens.len();
        let (signed, signature) = &tokens[next];
        key.verify_sig(black_box(signed), signature).unwrap();
    })
}

fn chain(engine: &Arc<PluginEngine>, name: &str, config: &Value) -> Chain {
    let limits = PluginLimits {
        memory_bytes_max: 16 * 1024 * 1024,
        time_max: Duration::from_millis(100),
        body_bytes_max: 4 << 20,
        instances_max: 4,
        callouts_max: 16,
        request_time_max: None,
        fuel_max: None,
    };
    let allow =
        Allow { callouts: true, counters: Some(1 << 28), kv: Some(1 << 20), ..Allow::default() };
    let component = match std::env::var_os("ZPROXY_BENCH_PLUGINS") {
        Some(folder) => std::fs::read(Path::new(&folder).join(format!("{name}.wasm"))).unwrap(),
        None => built_in::component(name).unwrap().to_vec(),
    };
    let plugin = engine.load(name, &component, &limits, &Arc::new(allow)).unwrap();
    let link = LinkPlan {
        plugin: PlanSource::Wasm(plugin),
        name: name.into(),
        config: config.to_string().into(),
        on_error: OnError::Closed,
    };
    Instances::new().chain(&ChainPlan { links: vec![link] }).unwrap()
}

/// A request and its response through a chain; `prepare` makes each request another one.
fn run(chain: Chain, mut prepare: impl FnMut(&mut Exchange) + 'static) -> Box<dyn FnMut()> {
    let mut exchange = Some(Box::new(Exchange::default()));
    let callouts = Callouts::default();
    Box::new(move || {
        let mut request = exchange.take().unwrap();
        request.clear();
        request.request.assign("GET", "/api/users?id=42", Version::Http11);
        for (name, value) in [("Host", "api.example.com"), ("Accept", "*/*"), ("X-Other", "1")] {
            request.request.fields.push(name, value.as_bytes());
        }
        prepare(&mut request);
        let now = Instant::now();
        let (mut request, passed) = chain.on_request(black_box(request), now);
        assert_eq!(passed.outcome.unwrap(), Flow::Next);
        if let Some(halt) = request.take_halt() {
            // One that may wait, and does not.
            let mut gone = |_: &mut Context<'_>| Poll::Pending;
            let until = now + Duration::from_secs(10);
            let outside = Outside::World { callouts: &callouts, upstreams: &[], tls: None };
            let mut scope = Scope { outside, until, gone: &mut gone };
            let mut place = Some(request);
            let called = chain.call_waiting(halt.link, Hook::Request, &mut place, &mut scope);
            let mut context = Context::from_waker(Waker::noop());
            let Poll::Ready(flow) = pin!(called).poll(&mut context) else { panic!("it waits") };
            assert_eq!(flow.unwrap(), Flow::Next);
            request = place.unwrap();
        }
        request.response.assign(200);
        request.response.fields.push("content-type", b"application/json");
        let (response, flow) = chain.on_response(request, passed.entered, now);
        assert_eq!(flow.unwrap(), Flow::Next);
        exchange = Some(response);
    })
}
