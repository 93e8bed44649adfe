//! Whole gateways in this process.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use super::Gateway;
use crate::plugin::tests::guest::Guest;
use crate::plugin::tests::setter;
use crate::plugin::{Exchange, Flow, Middleware};
use crate::sys::allocations;

const GET: &[u8] = b"GET /path HTTP/1.1\r\nHost: a\r\nUser-Agent: b\r\nAccept: */*\r\n\r\n";

/// Answers every request with the same bytes, on as many connections as come.
fn origin(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer) = (stream.unwrap(), Arc::clone(&answer));
            std::thread::spawn(
                move || {
                    while take(&mut stream) > 0 && stream.write_all(&answer).is_ok() {}
                },
            );
        }
    });
    address
}

/// Reads a message, of which only `Content-Length` matters; how long it was, 0 at the end.
fn take(stream: &mut TcpStream) -> usize {
    let mut bytes = Vec::new();
    let mut part = [0; 64 * 1024];
    loop {
        let head = memchr::memmem::find(&bytes, b"\r\n\r\n").map(|end| end + 4);
        if let Some(head) = head {
            let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
            let length = text
                .split("content-length: ")
                .nth(1)
                .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
            if bytes.len() >= head + length {
                return bytes.len();
            }
        }
        match stream.read(&mut part) {
            Ok(count @ 1..) => bytes.extend_from_slice(&part[..count]),
            _ => return 0,
        }
    }
}

/// Tells how much the worker's thread has allocated when a request comes.
struct Watch(Arc<AtomicU64>);

impl Middleware for Watch {
    fn on_request(&self, _exchange: &mut Exchange) -> Flow {
        self.0.store(allocations::so_far(), Ordering::SeqCst);
        Flow::Next
    }
}

/// Allocates once a request.
struct Wasteful;

impl Middleware for Wasteful {
    fn on_request(&self, exchange: &mut Exchange) -> Flow {
        let _ = exchange.request.fields.set("x-waste", &String::from("wasted").into_bytes());
        Flow::Next
    }
}

/// The fewest allocations of ten requests in a row, of many such rows.
///
/// The fewest, because a pause between two requests makes the connection idle, and a machine that is
/// busy with other tests makes such pauses; what a request always does is in every row.
fn allocations_of_ten(request: &[u8], answer: &[u8], middleware: serde_json::Value) -> u64 {
    let count = Arc::new(AtomicU64::new(0));
    let watched = Arc::clone(&count);
    let folder = tempfile::TempDir::new().unwrap();
    let plugin = |name, guest: Guest| {
        let path = folder.path().join(name);
        std::fs::write(&path, guest.build()).unwrap();
        json!({ "path": path })
    };
    let fields = vec!["user-agent".to_owned(), "accept".to_owned()];
    let reader = Guest { request_fields: fields, ..Guest::noop() };
    let config = json!({
        "listeners": [{ "address": "127.0.0.1:0" }],
        "workers": { "count": 1 },
        "admin": null,
        "access_log": { "path": "off" },
        "plugins": {
            "noop": plugin("noop.wasm", Guest::noop()),
            "reader": plugin("reader.wasm", reader),
            "setter": plugin("setter.wasm", setter("x-set", "by a plugin")),
        },
        "upstreams": { "origin": { "servers": [{ "address": origin(answer.to_vec()).to_string() }] } },
        "routes": [{ "path": "/", "upstream": "origin", "middleware": middleware }],
    });
    let gateway = Gateway::builder(serde_json::from_value(config).unwrap())
        .middleware("watch", move |_| Ok(Box::new(Watch(Arc::clone(&watched)))))
        .middleware("wasteful", |_| Ok(Box::new(Wasteful)))
        .start()
        .unwrap();
    let mut client = TcpStream::connect(gateway.addresses()[0].to_string()).unwrap();
    let mut ask = || {
        client.write_all(request).unwrap();
        assert!(take(&mut client) > answer.len());
        count.load(Ordering::SeqCst)
    };
    let mut fewest = u64::MAX;
    for _ in 0..50 {
        let before = ask();
        let after = (0..10).map(|_| ask()).last().unwrap();
        fewest = fewest.min(after - before);
    }
    fewest
}

fn message(line: &str, body: usize) -> Vec<u8> {
    let body = "x".repeat(body);
    format!("{line}\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[test]
fn a_steady_state_request_allocates_nothing() {
    for (sent, answered) in [(0, 100), (0, 100_000), (1_000, 0), (64 * 1024, 100)] {
        let request = message("POST /path?query HTTP/1.1", sent);
        let answer = message("HTTP/1.1 200 OK", answered);

        let count = allocations_of_ten(&request, &answer, json!(["watch"]));

        assert_eq!(count, 0, "{sent} bytes there, {answered} back");
    }
    assert_eq!(allocations_of_ten(GET, &message("HTTP/1.1 404 No", 10), json!(["watch"])), 0);
}

#[test]
fn what_allocates_is_found() {
    let answer = message("HTTP/1.1 200 OK", 100);

    let count = allocations_of_ten(GET, &answer, json!(["watch", "wasteful"]));

    assert_eq!(count, 10);
}

/// Neither the gateway nor wasmtime, where a plugin does nothing or reads fields. What it hands over
/// arrives as a `String` and a `Vec` of wasmtime's making: two allocations for a field that it sets.
#[test]
fn a_request_through_a_plugin_allocates_only_what_it_hands_over() {
    let answer = message("HTTP/1.1 200 OK", 100);

    for (plugin, expected) in [("noop", 0), ("reader", 0), ("setter", 2)] {
        let count = allocations_of_ten(GET, &answer, json!(["watch", plugin]));

        assert_eq!(count, 10 * expected, "{plugin}");
    }
}
