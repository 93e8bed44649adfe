//! Clients of HTTP/2 that mean harm: what they ask for costs them their connection, and nobody else
//! anything.

use bytes::Bytes;
use serde_json::json;

use crate::harness::http2::{
    Http2, PREFACE, block, frame, get_frame, goaway, next_frame, post, take,
};
use crate::harness::{Gateway, Upstream, Wire, connect};

const ENHANCE_YOUR_CALM: u32 = 0xb;

/// What a gateway may grow by.
const GROWN_KIB_MAX: u64 = 8 * 1024;

fn begin(gateway: &Gateway) -> Wire {
    let mut wire = connect(gateway.address());
    wire.send(PREFACE);
    wire.send(frame(4, 0, 0, &[]));
    wire
}

/// Sends this again and again, until the gateway has enough; an honest client goes on meanwhile.
#[track_caller]
fn flood(name: &str, mut next: impl FnMut(u32) -> Vec<u8>) {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to(&upstream);
    let mut honest = Http2::connect(gateway.address());
    assert_eq!(honest.get("/").text(), "hello");
    let before = gateway.memory_kib();
    let mut wire = begin(&gateway);
    let mut sent = 0;

    for round in 0..100_000 {
        let some: Vec<u8> = (0..10).flat_map(|index| next(round * 10 + index)).collect();
        if wire.try_send(some).is_err() {
            break;
        }
        sent = round;
    }

    // The kernel may have thrown away what had come when the connection ended.
    let mut reason = None;
    while let Some(frame) = next_frame(&mut wire) {
        if frame.kind == 7 {
            reason = Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
        }
    }
    assert!(sent < 99_999, "{name}: all was taken");
    assert!(reason.is_none_or(|reason| reason == ENHANCE_YOUR_CALM), "{name}: {reason:?}");
    let grown = gateway.memory_kib().saturating_sub(before);
    assert!(grown < GROWN_KIB_MAX, "{name}: {grown} KiB");
    assert_eq!(honest.get("/").text(), "hello", "{name}");
}

#[test]
fn pings() {
    flood("PING", |_| frame(6, 0, 0, &[0; 8]));
}

#[test]
fn settings() {
    flood("SETTINGS", |_| frame(4, 0, 0, &[]));
}

#[test]
fn priorities() {
    flood("PRIORITY", |index| frame(2, 0, index * 2 + 1, &[0, 0, 0, 0, 1]));
}

#[test]
fn unknown_frames() {
    flood("unknown", |_| frame(0xfa, 0, 0, &[]));
}

#[test]
fn window_updates() {
    flood("WINDOW_UPDATE", |_| frame(8, 0, 0, &[0, 0, 0, 1]));
}

/// CVE-2023-44487.
#[test]
fn rapid_resets() {
    flood("rapid reset", |index| {
        let stream = index * 2 + 1;
        [get_frame(stream, &[]), frame(3, 0, stream, &[0, 0, 0, 8])].concat()
    });
}

/// CVE-2025-8671: resets that the gateway is made to send.
#[test]
fn resets_that_are_provoked() {
    flood("provoked reset", |index| {
        let stream = index * 2 + 1;
        [get_frame(stream, &[]), frame(8, 0, stream, &[0x7f, 0xff, 0xff, 0xff])].concat()
    });
}

#[test]
fn empty_data() {
    let mut begun = false;
    flood("empty DATA", |_| {
        let fields =
            [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
        let head = if begun { Vec::new() } else { frame(1, 0x4, 1, &block(&fields)) };
        begun = true;
        [head, frame(0, 0, 1, &[])].concat()
    });
}

/// Content of a byte each is no work that pays for something else.
#[test]
fn pings_among_bytes_of_content() {
    let mut begun = false;
    flood("PING and one byte", |_| {
        let fields =
            [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
        let head = if begun { Vec::new() } else { frame(1, 0x4, 1, &block(&fields)) };
        begun = true;
        [head, frame(0, 0, 1, b"x"), frame(6, 0, 0, &[0; 8]).repeat(4)].concat()
    });
}

/// CVE-2024-27316.
#[test]
fn continuations() {
    let mut begun = false;
    flood("CONTINUATION", |_| {
        let head = if begun { Vec::new() } else { frame(1, 0x1, 1, &block(&[(":method", "GET")])) };
        begun = true;
        [head, frame(9, 0, 1, &block(&[("x", "some bytes of a head that never ends")]))].concat()
    });
}

/// A small head that grows when it is read (HPACK bomb).
#[test]
fn a_head_that_grows_is_refused() {
    let upstream = Upstream::answering("hello");
    let gateway = Gateway::to(&upstream);
    let before = gateway.memory_kib();
    let mut wire = begin(&gateway);
    // One large field into the table, then references to it.
    let value = "x".repeat(120).repeat(30);
    let mut head = vec![0x40, 1, b'x', 0x7f];
    let mut length = value.len() - 127;
    while length >= 128 {
        head.push(u8::try_from(length % 128 + 128).unwrap());
        length /= 128;
    }
    head.push(u8::try_from(length).unwrap());
    head.extend(value.as_bytes());
    head.extend([0xbe].repeat(12_000));

    wire.send(frame(1, 0x5, 1, &head));

    let refused =
        std::iter::from_fn(|| next_frame(&mut wire)).find(|it| [1, 3, 7].contains(&it.kind));
    assert!(refused.is_some());
    let grown = gateway.memory_kib().saturating_sub(before);
    assert!(grown < GROWN_KIB_MAX, "{grown} KiB");
    assert_eq!(upstream.requests().len(), 0);
}

/// What looks like a flood and is work: many small messages, their windows opened for each, and many pages
/// left at once.
#[test]
fn honest_bulk_is_no_flood() {
    let upstream = Upstream::echoing();
    let gateway = Gateway::to(&upstream);
    let mut client = Http2::connect(gateway.address());

    for round in 0..50 {
        let sent: Vec<_> = (0..100)
            .map(|_| {
                let (response, mut stream) = client.open(post("/"), false);
                for _ in 0..20 {
                    stream.send_data(Bytes::from_static(b"a small message"), false).unwrap();
                }
                stream.send_data(Bytes::new(), true).unwrap();
                response
            })
            .collect();
        for (index, response) in sent.into_iter().enumerate() {
            // A browser that leaves a page, and comes back.
            if round % 10 == 0 && index % 2 == 0 {
                continue;
            }
            let answer = client.run(take(response)).expect("an answer");
            assert_eq!((answer.status, answer.body.len()), (200, 300), "{round}");
        }
    }
}

/// A client that opens no window, or one of a byte, holds what it has asked for and no more, for as long
/// as silence may last.
#[test]
fn window_games() {
    let upstream = Upstream::sending(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{}",
        "x".repeat(1_000_000)
    ));
    let gateway = Gateway::to_with(
        &upstream,
        json!({ "routes": [{
            "name": "all", "path": "/", "upstream": "test", "timeouts": { "idle_ms": 500 },
        }], "limits": { "idle_timeout_ms": 500 } }),
    );
    let mut wire = connect(gateway.address());
    wire.send(PREFACE);
    // SETTINGS_INITIAL_WINDOW_SIZE 0
    wire.send(frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]));
    for index in 0..100 {
        wire.send(get_frame(index * 2 + 1, &[]));
    }

    let mut resets = 0;
    while resets < 100 {
        let frame = next_frame(&mut wire).expect("resets of all streams");
        assert_ne!(frame.kind, 0, "{frame:?}");
        resets += usize::from(frame.kind == 3);
    }
    assert_eq!(goaway(&mut wire), 0);
}
