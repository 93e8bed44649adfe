//! Peers of WebSockets that mean harm: memory stays bounded, and an honest client goes on.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::harness::websocket::{Server, close_code, frame, open, open_raw, say};
use crate::harness::{DEADLINE, Gateway, eventually};

/// What a gateway may grow by: a few messages of the largest size, and what the allocator keeps.
const GROWN_KIB_MAX: u64 = 12 * 1024;

/// Sends `bytes` again and again for as long as somebody takes them, up to 64 MiB, while an honest client
/// goes on. The wire that was used.
#[track_caller]
fn flood(gateway: &Gateway, name: &str, begin: &[u8], bytes: &[u8]) -> crate::harness::Wire {
    let mut honest = open(gateway);
    let before = gateway.memory_kib();
    let mut wire = open_raw(gateway);
    wire.send(begin);
    let bytes = bytes.repeat(65_536 / bytes.len());
    let (mut sent, mut told, until) = (0, 0, Instant::now() + DEADLINE / 4);
    while sent < 64 * 1024 * 1024 && Instant::now() < until {
        // What did not fit goes on where it was cut.
        match wire.send_some(&bytes[sent % bytes.len()..]) {
            0 => std::thread::sleep(Duration::from_millis(1)),
            count => sent += count,
        }
        if sent - told > 4 * 1024 * 1024 {
            told = sent;
            say(&mut honest, "still there");
            assert_eq!(honest.read().unwrap(), Message::text("still there"), "{name}");
        }
    }
    let grown = gateway.memory_kib().saturating_sub(before);
    assert!(grown < GROWN_KIB_MAX, "{name}: {grown} KiB after {sent} bytes");
    say(&mut honest, "and now");
    assert_eq!(honest.read().unwrap(), Message::text("and now"), "{name}");
    wire
}

fn gateway(server: &Server) -> Gateway {
    let workers = json!({ "count": 1, "pin": false });
    server.gateway(json!({ "inspect": true }), json!({ "workers": workers }))
}

/// Answers that nobody reads are not kept, but for the last.
#[test]
fn pings_without_reading_the_answers() {
    let server = Server::start();
    flood(&gateway(&server), "pings", &[], &frame(0x89, &[b'x'; 125]));
}

/// A message that never ends, in parts without content: nothing grows, and nobody else waits.
#[test]
fn fragments_without_content() {
    let server = Server::start();
    flood(&gateway(&server), "empty fragments", &frame(0x02, &[]), &frame(0x00, &[]));
}

/// The same in parts of one byte: it is too large one day.
#[test]
fn fragments_of_one_byte() {
    let server = Server::start();
    let gateway = gateway(&server);
    let mut wire = flood(&gateway, "small fragments", &frame(0x02, &[]), &frame(0x00, &[1]));
    assert_eq!(close_code(&mut wire), Some(1009));
}

/// Large frames that are announced and not sent cost what has come of them.
#[test]
fn frames_that_are_only_announced() {
    let server = Server::start();
    let gateway = gateway(&server);
    let before = gateway.memory_kib();
    let mut head = frame(0x82, &vec![0; 1024 * 1024]);
    head.truncate(14 + 100);

    let wires: Vec<_> = (0..200)
        .map(|_| {
            let mut wire = open_raw(&gateway);
            wire.send(&head);
            wire
        })
        .collect();
    let mut honest = open(&gateway);
    say(&mut honest, "hello");
    assert_eq!(honest.read().unwrap(), Message::text("hello"));

    // 200 MiB were announced; a connection in a debug build is some 100 KiB.
    let grown = gateway.memory_kib().saturating_sub(before);
    assert!(grown < 40 * 1024, "{grown} KiB");
    drop(wires);
}

/// Clients that ask for much and read nothing hold a message each, and the server is not read from.
#[test]
fn readers_that_have_stopped() {
    let server = Server::start();
    let gateway = gateway(&server);
    let before = gateway.memory_kib();

    let stopped: Vec<_> = (0..10)
        .map(|_| {
            let mut socket = open(&gateway);
            for _ in 0..20 {
                say(&mut socket, "big 1000000");
            }
            socket
        })
        .collect();
    let mut honest = open(&gateway);
    for _ in 0..20 {
        say(&mut honest, "big 1000000");
        assert_eq!(honest.read().unwrap().len(), 1_000_000);
    }

    // 200 MB were asked for. A message, what has come of the next, and what the allocator keeps.
    let grown = gateway.memory_kib().saturating_sub(before);
    assert!(grown < 10 * 4 * 1024 + GROWN_KIB_MAX, "{grown} KiB");
    drop(stopped);
}

/// A client that reads byte by byte is slow, and at it.
#[test]
fn a_slow_reader_gets_all_of_it() {
    let server = Server::start();
    let gateway = server
        .gateway(json!({ "inspect": true, "idle_ms": 2000, "ping_interval_ms": 0 }), json!({}));
    let mut socket = open(&gateway);
    say(&mut socket, "big 1000000");
    std::thread::sleep(Duration::from_millis(500));
    let stream: &mut TcpStream = socket.get_mut();
    stream.set_nodelay(true).unwrap();

    assert_eq!(socket.read().unwrap().len(), 1_000_000);
}

/// What it took goes back when nothing more comes; and it goes on as before.
#[test]
fn a_large_frame_leaves_nothing_behind() {
    // So large that the allocator keeps none of it.
    const LARGE: usize = 40 * 1024 * 1024;
    let server = Server::start();
    let settings = json!({ "inspect": true, "message_bytes_max": LARGE, "ping_interval_ms": 300 });
    let gateway = server.gateway(settings, json!({}));
    let before = gateway.memory_kib();
    let mut socket = open(&gateway);

    let large = format!("quiet {}", "x".repeat(LARGE - 6));
    socket.send(Message::binary(large.into_bytes())).unwrap();
    say(&mut socket, "small");
    let wait_for = |socket: &mut crate::harness::websocket::Socket, text: &str| {
        while socket.read().unwrap() != Message::text(text) {}
    };
    wait_for(&mut socket, "small");

    eventually("memory that is given back", || {
        // Pings are answered meanwhile.
        say(&mut socket, "drop");
        wait_for(&mut socket, "drop");
        std::thread::sleep(Duration::from_millis(1000));
        (gateway.memory_kib() < before + GROWN_KIB_MAX).then_some(())
    });
    say(&mut socket, "and now");
    wait_for(&mut socket, "and now");
}
