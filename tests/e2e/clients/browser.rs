//! Chromium before the gateway: a page with what pages do, over HTTP/2 and TLS, and over HTTP/1.1.
//!
//! `make browsers`: fetching the browser takes as long as the network does. What is checked is in
//! `page.html`, and what becomes of it is told by the page itself.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Served, serve_page, site};
use crate::harness::{Gateway, eventually, tools};

/// Killed when dropped, and with it the processes that it has started.
struct Browser(Child);

impl Drop for Browser {
    fn drop(&mut self) {
        // Debian starts it by a script, which is not all that has to end.
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}

fn browser() -> Option<Command> {
    tools::debian("usr/lib/chromium/chromium-headless-shell", "chromium-headless-shell")
}

fn open(mut browser: Command, dir: &Path, url: &str) -> Browser {
    browser.args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
    // Its own updates and reports are not what is tested.
    browser.args(["--disable-background-networking", "--no-first-run", "--no-proxy-server"]);
    // It trusts no authority of a test; all else of TLS is as ever.
    browser.args(["--ignore-certificate-errors", "--remote-debugging-port=0"]);
    browser.arg(format!("--user-data-dir={}", dir.display())).arg(url);
    browser
        .process_group(0)
        .env("HOME", dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Browser(browser.spawn().unwrap())
}

/// What the page at `base` has found.
fn report(served: &Served, base: &str) -> Option<Value> {
    let (browser, dir) = (browser()?, TempDir::new().unwrap());
    let _browser = open(browser, dir.path(), &format!("{base}/page"));
    let body = eventually("a report", || {
        let requests = served.site.requests();
        let report = requests.into_iter().find(|request| request.target() == "/report");
        report.map(|report| report.body)
    });
    Some(serde_json::from_slice(&body).unwrap())
}

fn digest() -> String {
    use std::fmt::Write as _;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &site::large());
    digest.as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[track_caller]
fn check(found: &Value, expected: &Value) {
    for (name, expected) in expected.as_object().unwrap() {
        assert_eq!(&found[name], expected, "{name}: {found:#}");
    }
}

/// What every protocol has in common.
fn expected(protocol: &str, scheme: &str) -> Value {
    json!({
        "page": protocol,
        "fetch": [200, "hello", protocol, 204, 404, true, "hello", "5"],
        "fields": ["a=1; b=2", scheme, if protocol == "h2" { "2.0 zproxy" } else { "1.1 zproxy" }],
        "large": digest(),
        "upload": [digest(), true],
        "streamed answer": 5,
        "event source": ["1 event 1", "2 event 2", "3 event 3", "4 event 4", "5 event 5"],
        "aborted": "AbortError",
        "many": true,
        "websocket": ["grüße", "", true, 4321, "enough", true],
    })
}

#[test]
#[ignore = "needs a browser: make browsers"]
fn a_page_by_http_2() {
    // The WebSocket goes on to a server of HTTP/1.1, which another gateway is.
    let echo = Gateway::start(json!({ "routes": [{ "path": "/", "upstream": "echo" }] }));
    let served = serve_page(&format!("http://{}", echo.address()), include_str!("page.html"));
    let Some(found) = report(&served, &served.secure()) else { return };

    check(&found, &expected("h2", "https"));
    assert_eq!(found["streamed upload"], 140_001);
    // All of it on one connection, the WebSocket too (RFC 8441), unless it was closed in between.
    let lines = served.gateway.stdout();
    let websocket = lines.lines().find(|line| line.contains("\"/ws\"")).expect("a line for /ws");
    assert!(websocket.contains("HTTP/2"), "{websocket}");
}

#[test]
#[ignore = "needs a browser: make browsers"]
fn a_page_by_http_1() {
    let echo = Gateway::start(json!({ "routes": [{ "path": "/", "upstream": "echo" }] }));
    let served = serve_page(&format!("http://{}", echo.address()), include_str!("page.html"));
    // A page in clear text is trusted with digests on loopback only, where it is.
    let Some(found) = report(&served, &served.plain()) else { return };

    check(&found, &expected("http/1.1", "http"));
}
