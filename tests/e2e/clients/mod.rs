//! The gateway before a site, used by the programs that people use: curl, h2load, Python's httpx and
//! requests, Node's undici, fetch and ws. Over HTTP/1.1 and HTTP/2, in clear text and by TLS.
//!
//! A program that cannot be had here is left out, and said so. Each script says its checks line by line
//! and ends at the first that fails.
//!
//! Not here: browsers, which take long to fetch (`browser`), gRPC (`grpc`), what TLS itself is asked for
//! (`tls_clients`).

mod browser;
mod site;

use std::io::{BufRead, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use crate::harness::http2::{Http2, get, post};
use crate::harness::tls::{Authority, shake};
use crate::harness::{Gateway, Launch, Upstream, Wire, tools};

/// The site behind a gateway that speaks everything.
struct Served {
    gateway: Gateway,
    site: Upstream,
    authority: Authority,
    ca: PathBuf,
}

fn serve(websockets: &str) -> Served {
    serve_page(websockets, "<!doctype html>")
}

fn serve_page(websockets: &str, page: &'static str) -> Served {
    let site = site::start(page);
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let ca = authority.write(dir.path().join("ca.pem"));
    let files = authority.issue(dir.path(), "site", &["localhost", "127.0.0.1"]);
    let gateway = Launch::config(json!({
        "listeners": [
            { "address": "127.0.0.1:0" },
            { "address": "127.0.0.1:0", "tls": { "certificates": [files.entry()] } },
        ],
        "access_log": { "path": "stdout", "format": "json" },
        "routes": [
            { "path": "/ws", "upstream": websockets },
            { "path": "/", "upstream": site.url() },
        ],
    }));
    Served { gateway: gateway.within(dir).start(), site, authority, ca }
}

impl Served {
    fn plain(&self) -> String {
        format!("http://{}", self.gateway.address())
    }

    fn secure(&self) -> String {
        format!("https://{}", self.gateway.address_of(1))
    }
}

/// Whether all of these are lines of it.
#[track_caller]
fn has_passed(said: &str, checks: &[&str]) {
    for check in checks {
        assert!(said.lines().any(|line| line == *check), "not passed: {check}\n{said}");
    }
}

/// An event waits for nothing: no other event, no full buffer, no end. The next one is sent when this one has
/// been seen.
#[test]
fn events_arrive_one_by_one() {
    let served = serve("echo");
    let session =
        shake(served.gateway.address_of(1), &served.authority.client().config(), "localhost");
    for (of, mut stream) in
        [("plain", served.gateway.connect()), ("secure", Wire::tls(session.unwrap()))]
    {
        stream.send(format!("GET /events?of={of} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(stream.try_response_head("GET").unwrap().status(), 200);
        let mut seen = String::new();
        for event in 1..=site::EVENTS {
            while !seen.ends_with(&format!("data: event {event}\n\n\r\n")) {
                let some = stream.take_some().unwrap();
                assert!(!some.is_empty(), "{seen}");
                seen.push_str(&String::from_utf8_lossy(&some));
            }
            served.gateway.ask("POST", &format!("/turn?of={of}"), "Content-Length: 0\r\n");
        }
    }
    let mut client = Http2::connect(served.gateway.address());
    let (response, _) = client.open(get("/events?of=streams"), true);
    let mut body = client.run(response).unwrap().into_body();
    for event in 1..=site::EVENTS {
        let data = client.run(body.data()).unwrap().unwrap();
        assert!(data.ends_with(format!("data: event {event}\n\n").as_bytes()), "{data:?}");
        body.flow_control().release_capacity(data.len()).unwrap();
        assert_eq!(client.ask(post("/turn?of=streams"), Some(b"")).status, 200);
    }
    while let Some(data) = client.run(body.data()) {
        assert_eq!(data.unwrap().len(), 0);
    }
}

#[test]
fn httpx_and_requests() {
    let packages = ["httpx[http2]==0.*", "requests==2.*"];
    let Some(python) = tools::python("clients", "httpx, h2, requests", &packages) else { return };
    let served = serve("echo");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/clients/python.py");

    let mut command = Command::new(python);
    command.arg(script).args([served.plain(), served.secure()]).arg(&served.ca);
    let (ok, said) = tools::finish(&mut command, "");

    assert!(ok, "{said}");
    for client in ["httpx h1", "httpx h2c", "httpx h1 tls", "httpx h2 tls"] {
        for check in ["heads", "bodies", "events", "cancelled", "many at once"] {
            has_passed(&said, &[&format!("{client}: {check}")]);
        }
    }
    has_passed(&said, &["requests", "requests tls"]);
}

#[test]
fn undici_and_fetch_and_ws() {
    let Some(modules) = tools::node("clients-node", &["undici@7", "ws@8"]) else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/clients/node.mjs");
    let mut command = Command::new("node");
    command.arg(script).arg(modules).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(running.stdout.take().unwrap()).lines().map(Result::unwrap);
    let port = said.next().expect("a port");
    let served = serve(&format!("http://127.0.0.1:{port}"));

    let addresses = format!("{} {} {}\n", served.plain(), served.secure(), served.ca.display());
    running.stdin.take().unwrap().write_all(addresses.as_bytes()).unwrap();
    let said: Vec<String> = said.collect();

    let ended = running.wait_with_output().unwrap();
    let said = said.join("\n");
    assert!(ended.status.success(), "{said}\n{}", String::from_utf8_lossy(&ended.stderr));
    for client in ["undici h1", "undici h1 pipelined", "undici h1 tls", "undici h2 tls"] {
        for check in ["heads", "bodies", "events", "cancelled", "many at once"] {
            has_passed(&said, &[&format!("{client}: {check}")]);
        }
    }
    has_passed(&said, &["fetch h1", "fetch h1 tls", "fetch h2 tls"]);
    has_passed(&said, &["pipeline h1", "pipeline h1 tls", "http2 clear", "http2 tls"]);
    has_passed(&said, &["ws", "ws deflated", "ws tls", "ws tls deflated"]);
}

/// One connection per way to speak, several requests on each.
#[test]
fn curl_by_every_protocol() {
    let Some(_) = tools::debian("usr/bin/curl", "curl") else { return };
    let served = serve("echo");
    let dir = TempDir::new().unwrap();
    let body = dir.path().join("body");
    std::fs::write(&body, site::large()).unwrap();
    let ca = served.ca.to_str().unwrap();
    let ways = [
        ("1.1", served.plain(), vec!["--http1.1"]),
        ("2", served.plain(), vec!["--http2-prior-knowledge"]),
        ("1.1", served.secure(), vec!["--http1.1", "--cacert", ca]),
        ("2", served.secure(), vec!["--http2", "--cacert", ca]),
    ];
    for (version, base, how) in ways {
        let curl = |more: &[&str]| {
            let mut command = tools::debian("usr/bin/curl", "curl").unwrap();
            let (ok, said) = tools::finish(command.args(["-sS"]).args(&how).args(more), "");
            assert!(ok, "{how:?} {more:?}: {said}");
            said
        };
        let url = |path: &str| format!("{base}{path}");
        let (none, said) =
            ("/dev/null", "%{http_version} %{http_code} %{num_connects} %{size_download};");

        curl(&["-o", none, &url("/hello")]);
        let upload = format!("@{}", body.display());
        let back = dir.path().join("back");
        let there = ["-o", back.to_str().unwrap(), "--data-binary", &upload];
        curl(&[&there[..], &[&url("/echo")]].concat());
        assert!(std::fs::read(&back).unwrap() == site::large(), "{how:?}");
        let chunked = ["-H", "Transfer-Encoding: chunked", "-o", back.to_str().unwrap()];
        curl(&[&chunked[..], &["--data-binary", &upload, &url("/echo")]].concat());
        assert!(std::fs::read(&back).unwrap() == site::large(), "{how:?}");
        assert_eq!(curl(&["-w", "%{http_code}", "-I", "-o", none, &url("/hello")]), "200");
        assert_eq!(curl(&["-w", "%{http_code}", &url("/empty")]), "204");
        assert!(curl(&["-i", &url("/early")]).contains("103"));
        assert!(curl(&["-i", &url("/trailers")]).contains("x-sum: 7"));
        if version == "2" && base.starts_with("http:") {
            // curl 7.88 cannot use such a connection twice.
            continue;
        }
        let twice = curl(&["-w", said, "-o", none, "-o", none, &url("/hello"), &url("/hello")]);
        assert_eq!(twice, format!("{version} 200 1 5;{version} 200 0 5;"));
        assert_eq!(curl(&["-L", &url("/redirect")]), "hello");
        let parallel = ["-Z", "--parallel-max", "50", "-w", "%{http_code};", "-o", none];
        let many =
            curl(&[&parallel[..], &["--no-progress-meter", &url("/hello?[1-100]")]].concat());
        // Only the first has an `-o`.
        assert_eq!(many.matches("200;").count(), 100, "{many}");
    }
}

/// nghttp2's own load: every request is answered, whatever the number of streams.
#[test]
fn h2load_by_every_protocol() {
    if tools::debian("usr/bin/h2load", "nghttp2-client").is_none() {
        return;
    }
    let served = serve("echo");
    let ways = [
        (served.plain(), &["--h1"][..]),
        (served.plain(), &["-m100"]),
        (served.secure(), &["--h1"]),
        (served.secure(), &["-m100"]),
        // The smallest windows that it has: streams wait for their own, and for each other.
        (served.secure(), &["-m100", "-w10", "-W10"]),
    ];
    for (base, how) in ways {
        let h2load = |path: &str, requests: &str| {
            let mut command = tools::debian("usr/bin/h2load", "nghttp2-client").unwrap();
            command.args(["-n", requests, "-c10", "-t1"]).args(how).arg(format!("{base}{path}"));
            let (ok, said) = tools::finish(&mut command, "");
            let all = format!(
                "{requests} total, {requests} started, {requests} done, {requests} succeeded"
            );
            assert!(ok && said.contains(&all), "{how:?} {path}: {said}");
        };
        h2load("/hello", "5000");
        h2load("/large", "20");
    }
}
