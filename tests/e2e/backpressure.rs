//! Bodies that come faster than they are taken: the gateway holds a bounded part of them.
//!
//! Each body is 200 MB and goes through whole in the end; in between its reader stops, and what the
//! gateway holds then is seen in its resident memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::harness::{DEADLINE, Gateway, Message, Upstream, Wire};

/// Size of a body on the wire, in pieces of [`PIECE`].
const LARGE: usize = 200_000_000;
const PIECE: usize = 100_000;

/// What the gateway may grow by. The kernel's buffers are not in it, two scratch buffers of 256 KiB
/// and the allocator's slack are.
const HELD_KIB_MAX: u64 = 16 * 1024;

#[test]
fn a_slow_reader_of_a_large_answer_of_known_length_leaves_memory_flat() {
    slow_client("length");
}

#[test]
fn a_slow_reader_of_a_large_chunked_answer_leaves_memory_flat() {
    slow_client("chunked");
}

#[test]
fn a_slow_upstream_of_a_large_request_of_known_length_leaves_memory_flat() {
    slow_upstream("length");
}

#[test]
fn a_slow_upstream_of_a_large_chunked_request_leaves_memory_flat() {
    slow_upstream("chunked");
}

fn slow_client(framing: &'static str) {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let upstream = Upstream::start(move |connection| {
        loop {
            if connection.request()?.target() == "/small" {
                connection.answer("small")?;
                continue;
            }
            connection.try_send(start_of("HTTP/1.1 200 OK", framing))?;
            let piece = piece(framing);
            for _ in 0..LARGE / PIECE {
                connection.try_send(&piece)?;
                counter.fetch_add(PIECE, Ordering::SeqCst);
            }
            connection.try_send(end_of(framing))?;
        }
    });
    let gateway = Gateway::to(&upstream);
    assert_eq!(gateway.get("/small").text(), "small");
    let before = gateway.memory_kib();
    let mut client = gateway.connect();

    client.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.try_response_head("GET").unwrap();
    let arrived = settled(|| sent.load(Ordering::SeqCst));
    let held = gateway.memory_kib().saturating_sub(before);

    assert!(arrived < LARGE / 2, "{arrived} bytes went to a client that does not read");
    assert!(held < HELD_KIB_MAX, "{held} KiB held for a client that does not read");
    assert_eq!(count_body(&mut client, &head), LARGE);
    let held = gateway.memory_kib().saturating_sub(before);
    assert!(held < HELD_KIB_MAX, "{held} KiB held in the end");
}

fn slow_upstream(framing: &'static str) {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |connection| {
        loop {
            let head = connection.request_head()?;
            if head.target() == "/small" {
                connection.answer("small")?;
                continue;
            }
            // An error means that the test has ended.
            let _ = wait.lock().unwrap().recv_timeout(DEADLINE);
            let count = count_body(connection, &head);
            connection.answer(&count.to_string())?;
        }
    });
    let gateway = Gateway::to(&upstream);
    assert_eq!(gateway.get("/small").text(), "small");
    let before = gateway.memory_kib();
    let mut client = gateway.connect();
    client.send(start_of("POST /large HTTP/1.1\r\nHost: a", framing));
    let piece = piece(framing);

    let mut sent = 0;
    settled(|| {
        while let count @ 1.. = client.send_some(&piece[sent % piece.len()..]) {
            sent += count;
        }
        sent
    });
    let held = gateway.memory_kib().saturating_sub(before);

    assert!(sent < LARGE / 2, "{sent} bytes went to an upstream that does not read");
    assert!(held < HELD_KIB_MAX, "{held} KiB held for an upstream that does not read");
    go.send(()).unwrap();
    while sent < piece.len() * (LARGE / PIECE) {
        let rest = &piece[sent % piece.len()..];
        client.send(rest);
        sent += rest.len();
    }
    client.send(end_of(framing));
    assert_eq!(client.response().text(), LARGE.to_string());
}

fn start_of(line: &str, framing: &str) -> String {
    match framing {
        "length" => format!("{line}\r\nContent-Length: {LARGE}\r\n\r\n"),
        _ => format!("{line}\r\nTransfer-Encoding: chunked\r\n\r\n"),
    }
}

/// A part of the body that may be sent again and again.
fn piece(framing: &str) -> Vec<u8> {
    let data = "x".repeat(PIECE);
    match framing {
        "length" => data.into_bytes(),
        _ => format!("{PIECE:x}\r\n{data}\r\n").into_bytes(),
    }
}

fn end_of(framing: &str) -> &'static str {
    if framing == "chunked" { "0\r\n\r\n" } else { "" }
}

/// The value of something that grows, once it has stopped growing.
fn settled(mut value: impl FnMut() -> usize) -> usize {
    let mut last = value();
    let mut still = 0;
    while still < 20 && last < LARGE {
        std::thread::sleep(Duration::from_millis(25));
        let now = value();
        still = if now == last { still + 1 } else { 0 };
        last = now;
    }
    last
}

/// Reads a body of `x` to its end without keeping it: how many there were.
fn count_body(wire: &mut Wire, head: &Message) -> usize {
    let mut count = 0;
    let mut tail = Vec::new();
    loop {
        if head.field("content-length").is_some() && count >= LARGE {
            return count;
        }
        if tail.ends_with(b"\r\n0\r\n\r\n") {
            return count;
        }
        let some = wire.take_some().unwrap();
        assert!(!some.is_empty(), "cut after {count} bytes");
        count += memchr::memchr_iter(b'x', &some).count();
        tail.extend_from_slice(&some[some.len().saturating_sub(7)..]);
        tail.drain(..tail.len().saturating_sub(7));
    }
}
