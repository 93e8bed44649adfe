//! Components that are replaced while the gateway runs: by file and by the admin listener.
//!
//! Not here: configurations that are replaced (`reload`).

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, mpsc};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    DEADLINE, Gateway, Launch, Message, Upstream, connect, eventually, guest, version,
};

/// A plugins folder with `stamp.wasm` in this version.
fn folder(number: u32) -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("stamp.wasm"), version(number)).unwrap();
    folder
}

fn config(folder: &Path, upstream: &Upstream) -> Value {
    json!({
        "plugins_dir": folder,
        "upstreams": { "test": { "servers": [upstream.address()] } },
        "routes": [
            { "path": "/", "upstream": "test", "middleware": ["stamp"] },
            { "path": "/plain", "upstream": "test" },
        ],
    })
}

fn gateway(folder: &Path, upstream: &Upstream) -> Gateway {
    Gateway::start(config(folder, upstream))
}

/// Puts a file in the place of another in one step.
fn put(folder: &Path, name: &str, bytes: &[u8]) {
    let new = folder.join(format!(".{name}.new"));
    std::fs::write(&new, bytes).unwrap();
    std::fs::rename(new, folder.join(name)).unwrap();
}

/// The versions that saw a request and its answer.
fn versions(answer: &Message) -> String {
    answer.all("x-version").join(" ")
}

fn serves(gateway: &Gateway, number: u32) {
    eventually(&format!("version {number}"), || {
        let answer = gateway.get("/");
        assert_eq!(answer.status(), 200, "{answer:?}");
        (versions(&answer) == format!("{number:08}")).then_some(())
    });
}

#[test]
fn a_file_that_is_replaced_serves_without_a_restart() {
    let (folder, upstream) = (folder(1), Upstream::answering("ok"));
    let gateway = gateway(folder.path(), &upstream);
    serves(&gateway, 1);
    let before = gateway.plugin("stamp");

    put(folder.path(), "stamp.wasm", &version(2));
    serves(&gateway, 2);

    gateway.counts("zproxy_plugin_swaps_total", &[("plugin", "stamp"), ("result", "swapped")], 1.0);
    let after = gateway.plugin("stamp");
    assert!(after["generation"].as_u64() > before["generation"].as_u64(), "{after}");
    assert_ne!(after["digest"], before["digest"]);
    assert_eq!((&after["state"], &after["from"]), (&json!("ready"), &json!("file")));
    assert_eq!(after["former"][0]["digest"], before["digest"]);
    gateway.logs("plugin `stamp`: generation 2 serves");
}

/// What is half written is neither loaded nor called broken.
#[test]
fn a_file_that_is_copied_slowly_is_loaded_when_it_is_whole() {
    let (folder, upstream) = (folder(1), Upstream::answering("ok"));
    std::fs::copy(guest("noop"), folder.path().join("other.wasm")).unwrap();
    let gateway = gateway(folder.path(), &upstream);
    serves(&gateway, 1);
    let new = version(2);
    let stop = AtomicBool::new(false);

    std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::io::Write as _;
            let mut file = std::fs::File::create(folder.path().join("stamp.wasm")).unwrap();
            for piece in new[..new.len() - 1].chunks(new.len() / 20) {
                file.write_all(piece).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(60));
            }
            // Slower than a look, and faster than patience.
            while !stop.load(Ordering::SeqCst) {
                std::thread::sleep(std::time::Duration::from_millis(300));
                file.set_modified(std::time::SystemTime::now()).unwrap();
            }
            file.write_all(&new[new.len() - 1..]).unwrap();
        });
        // Others are looked after meanwhile.
        std::fs::copy(guest("reply"), folder.path().join("other.wasm")).unwrap();
        eventually("the other", || (gateway.plugin("other")["generation"] != 1).then_some(()));
        assert_eq!(versions(&gateway.get("/")), "00000001");
        stop.store(true, Ordering::SeqCst);
    });
    serves(&gateway, 2);

    assert!(!gateway.stderr().contains("ERROR"), "{}", gateway.stderr());
    assert!(!gateway.metrics().has("zproxy_plugin_swaps_total", &[("result", "refused")]));
}

#[test]
fn a_broken_file_is_refused_by_reason_and_the_old_one_goes_on() {
    let (folder, upstream) = (folder(1), Upstream::answering("ok"));
    let gateway = gateway(folder.path(), &upstream);
    let whole = version(2);

    put(folder.path(), "stamp.wasm", &whole[..whole.len() / 2]);

    let refused = [("plugin", "stamp"), ("result", "refused")];
    gateway.counts("zproxy_plugin_swaps_total", &refused, 1.0);
    gateway.logs("plugin `stamp`: ");
    gateway.logs("stamp.wasm: does not compile");
    gateway.logs("generation 1 goes on");
    let plugin = gateway.plugin("stamp");
    assert_eq!(plugin["state"], "ready");
    assert!(plugin["problem"].as_str().unwrap().contains("does not compile"), "{plugin}");
    serves(&gateway, 1);

    put(folder.path(), "stamp.wasm", &whole);
    gateway.counts("zproxy_plugin_swaps_total", &[("plugin", "stamp"), ("result", "swapped")], 1.0);
    serves(&gateway, 2);
    assert_eq!(gateway.plugin("stamp")["problem"], Value::Null);
}

/// A component may be sound and refuse the configuration that its routes give it.
#[test]
fn a_component_that_refuses_its_configuration_is_refused() {
    let (folder, upstream) = (folder(1), Upstream::answering("ok"));
    let gateway = gateway(folder.path(), &upstream);

    let answer = gateway.admin_post("/plugins/stamp", &version(66_666_666));

    assert_eq!(answer.status(), 422);
    assert_eq!(answer.field("content-type"), Some("application/problem+json"));
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("this version refuses every configuration"), "{detail}");
    serves(&gateway, 1);
}

/// Taking a file away must not take a plugin, which may be what keeps strangers out, off its routes.
#[test]
fn a_plugin_whose_file_is_deleted_goes_on_and_says_so() {
    let (folder, upstream) = (folder(1), Upstream::answering("ok"));
    let gateway = gateway(folder.path(), &upstream);

    std::fs::remove_file(folder.path().join("stamp.wasm")).unwrap();

    gateway.logs("stamp.wasm has gone; what was loaded goes on until a reload");
    assert_eq!(gateway.plugin("stamp")["file"], "gone");
    serves(&gateway, 1);

    put(folder.path(), "stamp.wasm", &version(2));
    serves(&gateway, 2);
    assert_eq!(gateway.plugin("stamp")["file"], "present");
}

/// As Kubernetes does it: files are links through `..data`, which is put elsewhere in one step.
#[test]
fn a_link_that_is_put_elsewhere_is_a_new_file() {
    let (folder, upstream) = (TempDir::new().unwrap(), Upstream::answering("ok"));
    let at = |name: &str| folder.path().join(name);
    for (number, name) in [(1, "..one"), (2, "..two")] {
        std::fs::create_dir(at(name)).unwrap();
        std::fs::write(at(name).join("stamp.wasm"), version(number)).unwrap();
    }
    std::os::unix::fs::symlink("..one", at("..data")).unwrap();
    std::os::unix::fs::symlink("..data/stamp.wasm", at("stamp.wasm")).unwrap();
    let gateway = gateway(folder.path(), &upstream);
    serves(&gateway, 1);

    std::os::unix::fs::symlink("..two", at("..data_tmp")).unwrap();
    std::fs::rename(at("..data_tmp"), at("..data")).unwrap();

    serves(&gateway, 2);
}

#[test]
fn a_new_file_is_loaded_and_shown_though_no_route_names_it() {
    let (folder, upstream) = (folder(1), Upstream::answering("ok"));
    let gateway = gateway(folder.path(), &upstream);

    put(folder.path(), "newcomer.wasm", &std::fs::read(guest("noop")).unwrap());
    put(folder.path(), "broken.wasm", b"no component");

    eventually("the newcomer", || (gateway.plugin("newcomer")["state"] == "ready").then_some(()));
    eventually("the broken one", || (gateway.plugin("broken")["state"] == "refused").then_some(()));
    serves(&gateway, 1);
}

/// Somebody tries the gateway without a configuration, and builds a plugin.
#[test]
fn without_a_configuration_a_new_file_gets_a_route_of_its_own() {
    let folder = folder(1);
    let path = folder.path().to_str().unwrap();
    let arguments = ["--plugins", path, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let gateway = Launch::flags(&arguments).start();
    assert_eq!(gateway.get("/try/late/").status(), 404);

    put(folder.path(), "late.wasm", &version(7));

    eventually("its route", || (versions(&gateway.get("/try/late/")) == "00000007").then_some(()));
    assert!(gateway.get("/").text().contains("/try/late/"));
    put(folder.path(), "late.wasm", b"half");
    gateway.counts_some("zproxy_plugin_swaps_total", &[("plugin", "late"), ("result", "refused")]);
    assert_eq!(versions(&gateway.get("/try/late/")), "00000007");
}

#[test]
fn a_component_can_be_posted_and_is_acknowledged_when_every_worker_serves_it() {
    let (folder, upstream) = (folder(1), Upstream::answering("ok"));
    let gateway = gateway(folder.path(), &upstream);

    let answer = gateway.admin_post("/plugins/stamp", &version(2));

    assert_eq!(answer.status(), 200, "{answer:?}");
    let said = answer.json();
    for _ in 0..20 {
        assert_eq!(versions(&gateway.get("/")), "00000002");
    }
    let plugin = gateway.plugin("stamp");
    assert_eq!((&said["generation"], &said["digest"]), (&plugin["generation"], &plugin["digest"]));
    assert_eq!(plugin["from"], "body");
    assert_eq!(gateway.admin_post("/plugins/stamp", &version(2)).json()["result"], "unchanged");
}

/// The file is the same as before, so it has nothing new to say.
#[test]
fn what_was_posted_stays_until_the_file_changes() {
    let (folder, upstream) = (folder(1), Upstream::answering("ok"));
    let gateway = gateway(folder.path(), &upstream);
    gateway.admin_post("/plugins/stamp", &version(2));

    put(folder.path(), "stamp.wasm", &version(1));
    assert_eq!(gateway.admin_post("/reload", b"").status(), 200);
    serves(&gateway, 2);

    put(folder.path(), "stamp.wasm", &version(3));
    serves(&gateway, 3);
}

#[test]
fn a_bad_component_is_answered_with_the_reason() {
    let (folder, upstream) = (folder(1), Upstream::answering("ok"));
    let gateway = gateway(folder.path(), &upstream);
    let ask = |path: &str, body: &[u8]| {
        let answer = gateway.admin_post(path, body);
        (answer.status(), answer.json()["detail"].as_str().unwrap().to_owned())
    };

    let (status, detail) = ask("/plugins/stamp", b"no component");
    assert_eq!(status, 422);
    assert!(detail.starts_with("plugin `stamp`: not a WebAssembly component"), "{detail}");
    let (status, detail) = ask("/plugins/nobody", &version(2));
    assert_eq!(status, 404);
    assert!(detail.contains("there are: stamp"), "{detail}");
    let (status, detail) = ask("/plugins/stamp/rollback", b"");
    assert_eq!(status, 409);
    assert!(detail.contains("no former generation"), "{detail}");

    let mut client = connect(gateway.admin_address());
    client.send(
        "POST /plugins/stamp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
    );
    assert_eq!(client.response_to("POST").status(), 413);
    assert_eq!(gateway.admin("/plugins/stamp").status(), 405);
    serves(&gateway, 1);
}

/// A web page needs nobody's leave to send a POST to this machine.
#[test]
fn pages_of_other_origins_change_nothing() {
    let (folder, upstream) = (folder(1), Upstream::answering("ok"));
    let gateway = gateway(folder.path(), &upstream);
    let ask = |origin: &str| {
        let fields = format!("Origin: {origin}\r\nContent-Length: 0\r\n");
        gateway.admin_ask("POST", "/reload", &fields).status()
    };

    assert_eq!(ask("http://elsewhere.example"), 403);
    assert_eq!(ask("null"), 403);
    assert_eq!(ask("http://localhost"), 200);
}

#[test]
fn changes_need_the_token() {
    let (folder, upstream) = (folder(1), Upstream::answering("ok"));
    let mut config = config(folder.path(), &upstream);
    config["admin"] = json!({ "address": "127.0.0.1:0", "token": "secret" });
    let gateway = Gateway::start(config);
    let ask = |fields: &str| gateway.admin_ask("POST", "/reload", fields).status();

    assert_eq!(ask("Content-Length: 0\r\n"), 401);
    assert_eq!(ask("Content-Length: 0\r\nAuthorization: Bearer secret\r\n"), 200);
}

#[test]
fn a_rollback_goes_back_to_what_served_before() {
    let (folder, upstream) = (folder(1), Upstream::answering("ok"));
    let gateway = gateway(folder.path(), &upstream);
    let first = gateway.plugin("stamp");
    gateway.admin_post("/plugins/stamp", &version(2));
    gateway.admin_post("/plugins/stamp", &version(3));

    let answer = gateway.admin_post("/plugins/stamp/rollback", b"");
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(versions(&gateway.get("/")), "00000002");
    let answer = gateway.admin_post("/plugins/stamp/rollback", b"");
    assert_eq!(versions(&gateway.get("/")), "00000001");
    assert_eq!(answer.json()["digest"], first["digest"]);
    assert_eq!(answer.json()["generation"], 5, "a number of its own");

    assert_eq!(gateway.admin_post("/plugins/stamp/rollback", b"").status(), 409);
    let rolled_back = [("plugin", "stamp"), ("result", "rolled-back")];
    gateway.counts("zproxy_plugin_swaps_total", &rolled_back, 2.0);
}

/// A request that has begun on one generation ends on it: both of its hooks.
#[test]
fn a_request_in_flight_ends_on_the_generation_that_it_began_with() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |connection| {
        loop {
            let held = connection.request()?.target() == "/held";
            if held {
                // An error means that the test has ended.
                let _ = wait.lock().unwrap().recv_timeout(DEADLINE);
            }
            connection.answer("done")?;
        }
    });
    let folder = folder(1);
    let gateway = gateway(folder.path(), &upstream);
    let mut client = gateway.connect();
    client.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request upstream", || (upstream.requests().len() == 1).then_some(()));

    let new = gateway.admin_post("/plugins/stamp", &version(2)).json();
    assert_eq!(versions(&gateway.get("/")), "00000002");
    let generations = gateway.plugin("stamp")["generations"].as_array().unwrap().len();
    assert_eq!(generations, 2, "the old one is still needed");
    go.send(()).unwrap();
    let answer = client.response();

    assert_eq!(versions(&answer), "00000001");
    assert_eq!(upstream.requests()[0].field("x-version"), Some("00000001"));
    eventually("the end of the old generation", || {
        let plugin = gateway.plugin("stamp");
        (plugin["generations"] == json!([{ "generation": new["generation"], "instances": 2 }]))
            .then_some(())
    });
    // The next request of the same connection is a new one.
    let answer = client.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(versions(&answer), "00000002");
    gateway.counts("zproxy_config_generations_alive", &[], 1.0);
}

/// The soak in small: two workers, eight connections that never rest, and swaps meanwhile. Whoever
/// asks after a swap was acknowledged is answered by it or by a later one.
#[test]
fn swaps_under_load_fail_no_request_and_none_is_late() {
    const SWAPS: u32 = 50;
    let (folder, upstream) = (folder(1), Upstream::answering("ok"));
    let gateway = gateway(folder.path(), &upstream);
    let acknowledged = AtomicU32::new(1);
    let stop = AtomicBool::new(false);

    let answered = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let (mut client, mut answered) = (gateway.connect(), 0_u32);
                    while !stop.load(Ordering::SeqCst) {
                        let least = acknowledged.load(Ordering::SeqCst);
                        let answer = client.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                        assert_eq!(answer.status(), 200, "{answer:?}");
                        let version: u32 = versions(&answer).parse().unwrap();
                        assert!(version >= least, "{version} after {least} was acknowledged");
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        for number in 2..2 + SWAPS {
            let answer = gateway.admin_post("/plugins/stamp", &version(number));
            if answer.status() != 200 {
                stop.store(true, Ordering::SeqCst);
                panic!("{answer:?}");
            }
            acknowledged.store(number, Ordering::SeqCst);
        }
        stop.store(true, Ordering::SeqCst);
        clients.into_iter().map(|client| client.join().unwrap()).sum::<u32>()
    });

    assert!(answered > SWAPS, "{answered} requests say nothing about {SWAPS} swaps");
    let plugin = gateway.plugin("stamp");
    assert_eq!(plugin["generations"].as_array().unwrap().len(), 1, "{plugin}");
    assert_eq!(plugin["former"].as_array().unwrap().len(), 2, "{plugin}");
}

/// Compiling takes up to seconds; what was compiled once is there after a restart.
#[test]
fn compiled_code_is_kept_for_the_next_start() {
    let (plugins, upstream) = (folder(1), Upstream::answering("ok"));
    let cache = TempDir::new().unwrap();
    let files = || {
        let entries = std::fs::read_dir(cache.path().join("code")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    let mut config = config(plugins.path(), &upstream);
    config["plugin_cache"] = json!(cache.path().join("code"));

    serves(&Gateway::start(config.clone()), 1);
    let [file] = files().try_into().unwrap();
    let written = std::fs::metadata(&file).unwrap().modified().unwrap();
    serves(&Gateway::start(config.clone()), 1);
    assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), written, "it was used");

    // Damage costs time and nothing else.
    std::fs::write(&file, b"damaged").unwrap();
    let gateway = Gateway::start(config);
    serves(&gateway, 1);
    gateway.logs("is compiled anew");
    assert!(std::fs::metadata(&file).unwrap().len() > 1000);
}

/// `init` may take a second. It is the control thread's second, and no request's.
#[test]
fn a_slow_start_of_a_new_component_keeps_no_request_waiting() {
    const INIT: std::time::Duration = std::time::Duration::from_millis(700);
    let (folder, upstream) = (folder(1), Upstream::answering("ok"));
    let mut config = config(folder.path(), &upstream);
    let slow = json!({ "plugin": "stamp", "config": { "slow_ms": INIT.as_millis() } });
    config["routes"][0]["middleware"] = json!([slow]);
    config["workers"] = json!({ "count": 1, "pin": false });
    let gateway = Gateway::start(config);
    let stop = AtomicBool::new(false);

    let longest = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let (mut client, mut longest) = (gateway.connect(), std::time::Duration::ZERO);
            while !stop.load(Ordering::SeqCst) {
                let began = std::time::Instant::now();
                assert_eq!(client.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status(), 200);
                longest = longest.max(began.elapsed());
            }
            longest
        });
        let answer = gateway.admin_post("/plugins/stamp", &version(2));
        stop.store(true, Ordering::SeqCst);
        assert_eq!(answer.status(), 200, "{answer:?}");
        client.join().unwrap()
    });

    assert_eq!(versions(&gateway.get("/")), "00000002");
    assert!(longest < INIT, "a request took {longest:?}");
}
