//! Which files are plugins, and what the others are told.

use super::*;

fn refusal(bytes: &[u8]) -> String {
    ENGINE.load("guest", bytes, &LIMITS, &Arc::default()).unwrap_err().to_string()
}

fn refused(guest: &Guest) -> String {
    refusal(&guest.build())
}

fn edited(guest: &Guest, from: &str, to: &str) -> Vec<u8> {
    let text = guest.text();
    assert!(text.contains(from), "{text}");
    wat::parse_str(text.replace(from, to)).unwrap()
}

#[test]
fn other_files_are_refused() {
    assert!(refusal(b"").starts_with("not a WebAssembly component"));
    assert!(refusal(b"#!/bin/sh\necho").starts_with("not a WebAssembly component"));
    assert!(refusal(b"\0asm\x0d\0\x01").starts_with("not a WebAssembly component"), "cut off");
    assert!(refusal(b"\0asm\x0d\0\x01\0\xff\xff\xff").starts_with("does not compile: "));
    assert!(refusal(&vec![0; 64 * 1024 * 1024 + 1]).contains("64 MiB"));
    let module = wat::parse_str("(module)").unwrap();
    assert!(refusal(&module).contains("cargo build --target wasm32-wasip2"), "a core module");
}

/// A file can be half-written, or damaged anywhere.
#[test]
fn damaged_components_are_refused_or_work() {
    let goods = [fragile().build(), replying(403, "(i32.const 1)").build()];
    let mut seed = 7_u64;
    for round in 0..300 {
        let good = &goods[round % goods.len()];
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut bytes = good.clone();
        let at = usize::try_from(seed >> 33).unwrap() % bytes.len();
        bytes[at] ^= u8::try_from(seed >> 24 & 0xff).unwrap() | 1;
        if seed & 3 == 0 {
            bytes.truncate(at);
        }
        if let Ok(plugin) = ENGINE.load("guest", &bytes, &LIMITS, &Arc::default()) {
            let _ = plugin.probe("{}");
            let plan =
                LinkPlan { plugin: PlanSource::Wasm(plugin), ..link(&fragile(), OnError::Open) };
            let chain = Instances::new().chain(&ChainPlan { links: vec![plan] }).unwrap();
            let (mut exchange, passed) = down(&chain, request(&[]));
            exchange.response.assign(200);
            let _ = up(&chain, exchange, passed.entered);
        }
    }
}

#[test]
fn what_is_no_plugin_is_refused_by_what_it_lacks() {
    let nothing = wat::parse_str("(component)").unwrap();
    assert!(refusal(&nothing).ends_with("must export; it exports nothing"));

    let other = wat::parse_str(
        "(component (core module $m (func (export \"f\"))) (core instance $i (instantiate $m))
         (func $f (canon lift (core func $i \"f\")))
         (instance $run (export \"run\" (func $f)))
         (export \"wasi:cli/run@0.2.0\" (instance $run)))",
    );
    assert!(refusal(&other.unwrap()).ends_with("it exports `wasi:cli/run@0.2.0`"));

    assert!(refused(&Guest::default()).starts_with("exports no hook"));
    let later = edited(&Guest::noop(), "lifecycle@0.1.0", "lifecycle@0.2.0");
    assert!(refusal(&later).starts_with("exports `zproxy:gateway/lifecycle@0.2.0`; this"));
    let misspelt = edited(&Guest::noop(), "/request-filter@", "/request-filer@");
    assert!(refusal(&misspelt).contains("`zproxy:gateway/request-filer@0.1.0`, which this"));
}

#[test]
fn a_hook_with_another_signature_is_refused_by_both() {
    let other = edited(
        &Guest::on_request("(i32.const 0)"),
        "(param \"fields\" (list (option (list u8))))",
        "(param \"fields\" (list u8))",
    );

    assert_eq!(
        refusal(&other),
        "`zproxy:gateway/request-filter@0.1.0#on-request` is func(list<u8>) -> enum { next, \
         respond }, it must be func(list<option<list<u8>>>) -> enum { next, respond }; build \
         it against wit/ of this version"
    );
}

#[test]
fn imports_that_are_not_offered_are_refused_by_name() {
    let with = |import: &str| {
        let mut guest = Guest::noop();
        guest.imports = format!("(import \"{import}\" (instance (export \"f\" (func))))");
        refused(&guest)
    };

    for import in [
        "zproxy:gateway/telepathy@0.1.0",
        "zproxy:gateway/request@0.2.0",
        "wasi:http/outgoing-handler@0.2.0",
        "wasi:cli/environment@0.3.0",
        "my:own/thing",
    ] {
        let refusal = with(import);
        assert!(refusal.starts_with(&format!("imports `{import}`, which this")), "{refusal}");
    }
    let unknown_function = with("zproxy:gateway/request@0.1.0");
    assert!(unknown_function.starts_with("cannot be linked: "), "{unknown_function}");
    assert!(unknown_function.contains("zproxy:gateway/request"), "{unknown_function}");
}

#[test]
fn the_same_file_is_the_same_plugin() {
    let bytes = setter("x-same", "1").build();
    let first = ENGINE.load("same", &bytes, &LIMITS, &Arc::default()).unwrap();

    let again = ENGINE.load("same", &bytes, &LIMITS, &Arc::default()).unwrap();
    let renamed = ENGINE.load("other", &bytes, &LIMITS, &Arc::default()).unwrap();

    assert!(Arc::ptr_eq(&first, &again));
    assert!(renamed.generation() > first.generation());
    assert_eq!(renamed.digest(), first.digest());
    assert_eq!(first.digest().len(), 64);
    assert_eq!(first.hooks(), Hooks::of(&[Hook::Request]));
}

/// A capability that nobody granted is refused at load, not at three in the morning.
#[test]
fn a_capability_that_is_not_granted_is_refused_with_the_line_to_write() {
    let mut guest = Guest::noop();
    guest.imports = "(import \"zproxy:gateway/kv@0.1.0\" (instance
        (export \"delete\" (func (param \"key\" (list u8)) (result bool)))))"
        .to_owned();

    assert_eq!(
        refused(&guest),
        "imports `zproxy:gateway/kv` (`delete`), which is not granted; if you trust it with that, \
         write `\"plugins\": {\"guest\": {\"allow\": {\"kv\": true}}}`"
    );
    let bytes = guest.build();
    let allow = |allow: Allow| ENGINE.load("guest", &bytes, &LIMITS, &Arc::new(allow));
    let others = Allow { counters: Some(1), cache: None, ..Allow::default() };
    assert!(allow(others).is_err());
    allow(Allow { kv: Some(1), ..Allow::default() }).unwrap();
    for (interface, grant) in [
        ("counters", "{\"counters\": true}"),
        ("environment", "{\"env\": [\"NAME\"], \"secrets\": "),
    ] {
        guest.imports = format!("(import \"zproxy:gateway/{interface}@0.1.0\" (instance))");
        let refusal = refused(&guest);
        assert!(refusal.contains(&format!("zproxy:gateway/{interface}` (nothing)")), "{refusal}");
        assert!(refusal.contains(grant), "{refusal}");
    }
}

/// An operator takes a grant back by a reload, and no file has changed.
#[test]
fn other_grants_are_checked_against_what_it_imports() {
    let mut guest = Guest::noop();
    guest.imports = "(import \"zproxy:gateway/kv@0.1.0\" (instance
        (export \"delete\" (func (param \"key\" (list u8)) (result bool)))))"
        .to_owned();
    let bytes = guest.build();
    let granted = Arc::new(Allow { kv: Some(1), ..Allow::default() });
    let plugin = ENGINE.load("regranted", &bytes, &LIMITS, &granted).unwrap();

    let refused = plugin.under(&LIMITS, &Arc::default()).unwrap_err().to_string();
    let other = Arc::new(Allow { kv: Some(2), ..Allow::default() });
    let more = plugin.under(&LIMITS, &other).unwrap();

    assert!(refused.contains("`zproxy:gateway/kv` (`delete`), which is not granted"), "{refused}");
    assert!(ENGINE.load("regranted", &bytes, &LIMITS, &Arc::default()).is_err());
    assert!(Arc::ptr_eq(&plugin, &plugin.under(&LIMITS, &granted).unwrap()));
    assert!(more.generation() > plugin.generation() && more.allow().kv == Some(2));
    assert!(Arc::ptr_eq(more.state(), plugin.state()), "it keeps what it has");
}
