//! What servers of HTTP/2 must accept, and what they must refuse and how, frame by frame: the ground that
//! `h2spec` covers, section by section (its numbers are those of RFC 7540 and RFC 7541).
//!
//! Each case has a connection of its own, in clear text and over TLS, to an upstream and to an answer that
//! the gateway makes itself: what is refused may come before or after an answer.
//!
//! Not here: what requests become (`http2`), clients that mean harm (`http2_abuse`).

mod talk;

use serde_json::{Value, json};

use crate::harness::http2::{block, frame};
use crate::harness::tls::{Authority, shake};
use crate::harness::{Gateway, Upstream, Wire, WireError, connect};
use talk::*;

/// Says it all.
macro_rules! send {
    ($talk:ident $(, $frame:expr)*) => {{ $($talk.send($frame);)* }};
}

#[rustfmt::skip]
const GENERIC: &[Case] = &[
    ("generic/1: settings come first", |it| it.lives()),
    ("generic/2.1: PRIORITY, idle", |it| { send!(it, rank(1, 0, 255)); it.lives() }),
    ("generic/2.2: WINDOW_UPDATE, half-closed", |it| {
        it.setting(4, 0);
        send!(it, get(1, WHOLE | END), window(1, 1));
        it.gives(1)
    }),
    ("generic/2.3: PRIORITY, half-closed", |it| {
        it.setting(4, 0);
        send!(it, get(1, WHOLE | END), rank(1, 0, 255), window(1, 1));
        it.gives(1)
    }),
    ("generic/2.4: RST_STREAM, half-closed", |it| { send!(it, get(1, WHOLE | END), reset(1, CANCEL)); it.lives() }),
    ("generic/2.5: PRIORITY, closed", |it| {
        send!(it, get(1, WHOLE | END));
        it.ends()?;
        send!(it, rank(1, 0, 255));
        it.lives()
    }),
    ("generic/3.1/1: DATA", |it| { send!(it, post(&[]), frame(DATA, END, 1, b"test")); it.answers() }),
    ("generic/3.1/2: several DATA", |it| {
        send!(it, post(&[]), frame(DATA, 0, 1, b"test"), frame(DATA, END, 1, b"test"));
        it.answers()
    }),
    ("generic/3.1/3: DATA with padding", |it| {
        send!(it, post(&[]), frame(DATA, END | PADDED, 1, b"\x06test\0\0\0\0\0\0"));
        it.answers()
    }),
    ("generic/3.2/1: HEADERS", |it| { send!(it, get(1, WHOLE | END)); it.answers() }),
    ("generic/3.2/2: HEADERS with padding", |it| {
        send!(it, frame(HEADERS, WHOLE | END | PADDED, 1, &[&[8], &common()[..], &[0; 8]].concat()));
        it.answers()
    }),
    ("generic/3.2/3: HEADERS with a priority", |it| {
        send!(it, frame(HEADERS, WHOLE | END | RANKED, 1, &[&[0, 0, 0, 0, 255], &common()[..]].concat()));
        it.answers()
    }),
    ("generic/3.3/1: the lowest priority", |it| { send!(it, rank(1, 0, 0), get(1, WHOLE | END)); it.answers() }),
    ("generic/3.3/2: the highest", |it| { send!(it, rank(1, 0, 255), get(1, WHOLE | END)); it.answers() }),
    ("generic/3.3/3: after another stream", |it| { send!(it, rank(3, 1, 0), get(1, WHOLE | END)); it.answers() }),
    ("generic/3.3/4: alone after it", |it| { send!(it, rank(1, 1 << 31, 0), get(1, WHOLE | END)); it.answers() }),
    ("generic/3.3/5: of a later stream", |it| { send!(it, rank(3, 0, 255), get(1, WHOLE | END)); it.answers() }),
    ("generic/3.4: RST_STREAM", |it| { send!(it, post(&[]), reset(1, CANCEL)); it.lives() }),
    ("generic/3.5: SETTINGS", |it| { it.setting(3, 100); it.acknowledges() }),
    ("generic/3.7: PING", |it| it.lives()),
    ("generic/3.8: GOAWAY", |it| { send!(it, frame(GOAWAY, 0, 0, &[0; 8])); it.closes() }),
    ("generic/3.9/1: WINDOW_UPDATE, the connection", |it| { send!(it, window(0, 1)); it.lives() }),
    ("generic/3.9/2: WINDOW_UPDATE, a stream", |it| { send!(it, get(1, WHOLE | END), window(1, 1)); it.answers() }),
    ("generic/3.10/1: CONTINUATION", |it| { send!(it, get(1, END), more(1, WHOLE)); it.answers() }),
    ("generic/3.10/2: several", |it| { send!(it, get(1, END), more(1, 0), more(1, WHOLE)); it.answers() }),
    ("generic/4/1: GET", |it| { send!(it, get(1, WHOLE | END)); it.answers() }),
    ("generic/4/2: HEAD", |it| { send!(it, just(&fields("HEAD"))); it.answers() }),
    ("generic/4/3: POST", |it| { send!(it, post(&[]), frame(DATA, END, 1, b"test")); it.answers() }),
    ("generic/4/4: POST with trailers", |it| {
        send!(it, post(&[("trailer", "x-test")]), frame(DATA, 0, 1, b"test"));
        send!(it, frame(HEADERS, WHOLE | END, 1, &block(&[("x-test", "ok")])));
        it.answers()
    }),
    ("generic/5/1: an indexed field", |it| { send!(it, with(b"\xba")); it.answers() }),
    ("generic/5/2: to be indexed, its name too", |it| { send!(it, with(b"\x7a\x05value")); it.answers() }),
    ("generic/5/3: the same by Huffman", |it| { send!(it, with(b"\x7a\x84\x9c\x48\xac\xa4")); it.answers() }),
    ("generic/5/4: to be indexed, a new name", |it| { send!(it, with(b"\x40\x06x-test\x05value")); it.answers() }),
    ("generic/5/5: the same by Huffman", |it| {
        send!(it, with(b"\x40\x85\xf2\xb2\x4a\x84\xff\x84\x9c\x48\xac\xa4"));
        it.answers()
    }),
    ("generic/5/6: not indexed, a known name", |it| { send!(it, with(b"\x0f\x2b\x05value")); it.answers() }),
    ("generic/5/7: the same by Huffman", |it| { send!(it, with(b"\x0f\x2b\x84\x9c\x48\xac\xa4")); it.answers() }),
    ("generic/5/8: not indexed, a new name", |it| { send!(it, with(b"\0\x06x-test\x05value")); it.answers() }),
    ("generic/5/9: the same by Huffman", |it| {
        send!(it, with(b"\0\x85\xf2\xb2\x4a\x84\xff\x84\x9c\x48\xac\xa4"));
        it.answers()
    }),
    ("generic/5/10: never indexed, a known name", |it| { send!(it, with(b"\x1f\x2b\x05value")); it.answers() }),
    ("generic/5/11: the same by Huffman", |it| { send!(it, with(b"\x1f\x2b\x84\x9c\x48\xac\xa4")); it.answers() }),
    ("generic/5/12: never indexed, a new name", |it| { send!(it, with(b"\x10\x06x-test\x05value")); it.answers() }),
    ("generic/5/13: the same by Huffman", |it| {
        send!(it, with(b"\x10\x85\xf2\xb2\x4a\x84\xff\x84\x9c\x48\xac\xa4"));
        it.answers()
    }),
    ("generic/5/14: a smaller table", |it| {
        send!(it, frame(HEADERS, WHOLE | END, 1, &[&[0x20], &common()[..]].concat()));
        it.answers()
    }),
    ("generic/5/15: twice another size", |it| {
        send!(it, frame(HEADERS, WHOLE | END, 1, &[&[0x20, 0x3f, 0xe1, 0x1f], &common()[..]].concat()));
        it.answers()
    }),
];

#[rustfmt::skip]
const HPACK: &[Case] = &[
    ("hpack/2.3.3/1: an index that is none", |it| { send!(it, with(b"\xfe")); it.fails(&[COMPRESSION]) }),
    ("hpack/2.3.3/2: a name's that is none", |it| { send!(it, with(b"\x7e\x05value")); it.fails(&[COMPRESSION]) }),
    ("hpack/4.2: another size after fields", |it| { send!(it, with(b"\x21")); it.fails(&[COMPRESSION]) }),
    ("hpack/5.2/1: Huffman with too much padding", |it| {
        send!(it, with(b"\0\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"));
        it.fails(&[COMPRESSION])
    }),
    ("hpack/5.2/2: with padding of zeros", |it| {
        send!(it, with(b"\0\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"));
        it.fails(&[COMPRESSION])
    }),
    ("hpack/5.2/3: with an end in it", |it| {
        send!(it, with(b"\0\x85\xf2\xb2\x4a\x87\xff\xff\xff\xfd\x25\x42\x7f"));
        it.fails(&[COMPRESSION])
    }),
    ("hpack/6.1: index 0", |it| { send!(it, with(b"\x80")); it.fails(&[COMPRESSION]) }),
    ("hpack/6.3: a table larger than allowed", |it| {
        send!(it, frame(HEADERS, WHOLE | END, 1, &[&[0x3f, 0xe2, 0x1f], &common()[..]].concat()));
        it.fails(&[COMPRESSION])
    }),
];

#[rustfmt::skip]
const STREAMS: &[Case] = &[
    ("4.1/1: an unknown kind", |it| { send!(it, frame(22, 0, 0, &[0; 8])); it.lives() }),
    ("4.1/2: unknown flags", |it| {
        send!(it, frame(PING, 0x16, 0, b"any data"));
        it.until(false, |it| (it.kind == PING).then_some(it.flags == ACK))
    }),
    ("4.1/3: the reserved bit", |it| {
        send!(it, frame(PING, 0, 1 << 31, b"any data"));
        it.until(false, |it| (it.kind == PING).then_some(it.flags == ACK))
    }),
    ("4.2/1: the longest frame", |it| { send!(it, post(&[]), frame(DATA, END, 1, &[b'x'; 16_384])); it.answers() }),
    ("4.2/2: a longer DATA", |it| { send!(it, post(&[]), frame(DATA, END, 1, &[b'x'; 16_385])); it.resets(&[FRAME_SIZE]) }),
    ("4.2/3: a longer HEADERS", |it| {
        let long = block(&[("x", "of some length, again and again and again")].repeat(400));
        send!(it, with(&long));
        it.fails(&[FRAME_SIZE])
    }),
    ("4.3/1: a head that is none", |it| { send!(it, b"\0\0\x01\x01\x05\0\0\0\x01\x40"); it.fails(&[COMPRESSION]) }),
    ("4.3/2: PRIORITY within a head", |it| {
        send!(it, get(1, 0), rank(1, 0, 255), more(1, WHOLE));
        it.fails(&[PROTOCOL])
    }),
    ("4.3/3: another head within a head", |it| {
        send!(it, get(1, 0), get(3, WHOLE | END), more(1, WHOLE));
        it.fails(&[PROTOCOL])
    }),
    ("5.1/1: idle, DATA", |it| { send!(it, frame(DATA, END, 1, b"test")); it.fails(&[PROTOCOL]) }),
    ("5.1/2: idle, RST_STREAM", |it| { send!(it, reset(1, CANCEL)); it.fails(&[PROTOCOL]) }),
    ("5.1/3: idle, WINDOW_UPDATE", |it| { send!(it, window(1, 100)); it.fails(&[PROTOCOL]) }),
    ("5.1/4: idle, CONTINUATION", |it| { send!(it, more(1, WHOLE)); it.fails(&[PROTOCOL]) }),
    ("5.1/5: half-closed, DATA", |it| { send!(it, get(1, WHOLE | END), frame(DATA, END, 1, b"test")); it.resets(&[CLOSED]) }),
    ("5.1/6: half-closed, HEADERS", |it| { send!(it, get(1, WHOLE | END), get(1, WHOLE | END)); it.resets(&[CLOSED]) }),
    ("5.1/7: half-closed, CONTINUATION", |it| {
        send!(it, get(1, WHOLE | END), more(1, WHOLE));
        it.resets(&[CLOSED, PROTOCOL])
    }),
    ("5.1/8: reset, DATA", |it| {
        send!(it, get(1, WHOLE), reset(1, CANCEL), frame(DATA, END, 1, b"test"));
        it.resets(&[CLOSED])
    }),
    ("5.1/9: reset, HEADERS", |it| { send!(it, get(1, WHOLE), reset(1, CANCEL), get(1, WHOLE | END)); it.resets(&[CLOSED]) }),
    ("5.1/10: reset, CONTINUATION", |it| {
        send!(it, get(1, WHOLE), reset(1, CANCEL), more(1, WHOLE));
        it.resets(&[CLOSED, PROTOCOL])
    }),
    ("5.1/11: closed, DATA", |it| {
        send!(it, get(1, WHOLE | END));
        it.ends()?;
        send!(it, frame(DATA, END, 1, b"test"));
        it.fails(&[CLOSED])
    }),
    ("5.1/12: closed, HEADERS", |it| {
        send!(it, get(1, WHOLE | END));
        it.ends()?;
        send!(it, get(1, WHOLE | END));
        it.fails(&[CLOSED])
    }),
    ("5.1/13: closed, CONTINUATION", |it| {
        send!(it, get(1, WHOLE | END));
        it.ends()?;
        send!(it, more(1, WHOLE));
        it.fails(&[CLOSED, PROTOCOL])
    }),
    ("5.1.1/1: an even identifier", |it| { send!(it, get(2, WHOLE | END)); it.fails(&[PROTOCOL]) }),
    ("5.1.1/2: one that is smaller", |it| { send!(it, get(5, WHOLE | END), get(3, WHOLE | END)); it.fails(&[PROTOCOL]) }),
    ("5.1.1/3: one that is taken", |it| { send!(it, get(5, WHOLE | END), get(5, WHOLE | END)); it.resets(&[CLOSED]) }),
    ("5.1.2: one stream too many", |it| {
        it.setting(4, 0);
        for index in 0..129 {
            it.send(get(index * 2 + 1, WHOLE | END));
        }
        it.resets(&[PROTOCOL, REFUSED])
    }),
    ("5.3.1/1: HEADERS after itself", |it| {
        send!(it, frame(HEADERS, WHOLE | END | RANKED, 1, &[&[0, 0, 0, 1, 255], &common()[..]].concat()));
        it.resets(&[PROTOCOL])
    }),
    ("5.3.1/2: PRIORITY after itself", |it| { send!(it, rank(1, 1, 255)); it.resets(&[PROTOCOL]) }),
    ("5.4.1/1: an error ends the connection", |it| { send!(it, frame(PING, 0, 3, &[0; 8])); it.closes() }),
    ("5.4.1/2: and says why", |it| {
        send!(it, frame(PING, 0, 3, &[0; 8]));
        it.until(false, |it| (it.kind == GOAWAY).then_some(code(it) == PROTOCOL))
    }),
    ("5.5/1: an extension", |it| { send!(it, frame(22, 0, 0, &[0; 8])); it.lives() }),
    ("5.5/2: one within a head", |it| { send!(it, get(1, END), frame(22, 0, 0, &[0; 8])); it.fails(&[PROTOCOL]) }),
];

#[rustfmt::skip]
const FRAMES: &[Case] = &[
    ("6.1/1: DATA of no stream", |it| { send!(it, frame(DATA, END, 0, b"test")); it.fails(&[PROTOCOL]) }),
    ("6.1/2: DATA, half-closed", |it| {
        send!(it, just(&fields("POST")), frame(DATA, END, 1, b"test"));
        it.resets(&[CLOSED])
    }),
    ("6.1/3: DATA with more padding than there is", |it| {
        send!(it, post(&[("content-length", "4")]), frame(DATA, END | PADDED, 1, b"\x06Test"));
        it.fails(&[PROTOCOL])
    }),
    ("6.2/1: HEADERS, then PRIORITY", |it| { send!(it, get(1, 0), rank(1, 0, 255), more(1, WHOLE)); it.fails(&[PROTOCOL]) }),
    ("6.2/2: HEADERS, then HEADERS", |it| { send!(it, get(1, 0), get(3, WHOLE | END), more(1, WHOLE)); it.fails(&[PROTOCOL]) }),
    ("6.2/3: HEADERS of no stream", |it| { send!(it, get(0, WHOLE | END)); it.fails(&[PROTOCOL]) }),
    ("6.2/4: HEADERS with more padding than there is", |it| {
        let head = common();
        let padding = u8::try_from(head.len() + 2).unwrap();
        send!(it, frame(HEADERS, WHOLE | END | PADDED, 1, &[&[padding], &head[..]].concat()));
        it.resets(&[PROTOCOL])
    }),
    ("6.3/1: PRIORITY of no stream", |it| { send!(it, rank(0, 0, 255)); it.fails(&[PROTOCOL]) }),
    ("6.3/2: PRIORITY that is too short", |it| {
        send!(it, get(1, WHOLE), frame(PRIORITY, 0, 1, &[0x80, 0, 0, 1]));
        it.resets(&[FRAME_SIZE])
    }),
    ("6.4/1: RST_STREAM of no stream", |it| { send!(it, reset(0, CANCEL)); it.fails(&[PROTOCOL]) }),
    ("6.4/2: RST_STREAM, idle", |it| { send!(it, reset(1, CANCEL)); it.fails(&[PROTOCOL]) }),
    ("6.4/3: RST_STREAM that is too short", |it| { send!(it, get(1, WHOLE), frame(RESET, 0, 1, &[0; 3])); it.fails(&[FRAME_SIZE]) }),
    ("6.5/1: an acknowledgement with more", |it| { send!(it, frame(SETTINGS, ACK, 0, &[0; 1])); it.fails(&[FRAME_SIZE]) }),
    ("6.5/2: SETTINGS of a stream", |it| { send!(it, frame(SETTINGS, 0, 1, &setting(3, 100))); it.fails(&[PROTOCOL]) }),
    ("6.5/3: half a setting", |it| { send!(it, frame(SETTINGS, 0, 0, &[0, 3, 0])); it.fails(&[FRAME_SIZE]) }),
    ("6.5.2/1: ENABLE_PUSH neither yes nor no", |it| { it.setting(2, 2); it.fails(&[PROTOCOL]) }),
    ("6.5.2/2: too large a window", |it| { it.setting(4, 1 << 31); it.fails(&[FLOW_CONTROL]) }),
    ("6.5.2/3: too small frames", |it| { it.setting(5, 16_383); it.fails(&[PROTOCOL]) }),
    ("6.5.2/4: too large frames", |it| { it.setting(5, 1 << 24); it.fails(&[PROTOCOL]) }),
    ("6.5.2/5: an unknown setting", |it| { it.setting(0xff, 1); it.lives() }),
    ("6.5.3/1: the last value holds", |it| {
        send!(it, frame(SETTINGS, 0, 0, &[setting(4, 100), setting(4, 1)].concat()));
        it.acknowledges()?;
        send!(it, get(1, WHOLE | END));
        it.gives(1)
    }),
    ("6.5.3/2: SETTINGS are acknowledged", |it| { it.setting(2, 0); it.acknowledges() }),
    ("6.7/1: PING", |it| it.lives()),
    ("6.7/2: an answer to none", |it| { send!(it, frame(PING, ACK, 0, b"invalid!")); it.lives() }),
    ("6.7/3: PING of a stream", |it| { send!(it, frame(PING, 0, 1, &[0; 8])); it.fails(&[PROTOCOL]) }),
    ("6.7/4: PING that is too short", |it| { send!(it, frame(PING, 0, 0, &[0; 6])); it.fails(&[FRAME_SIZE]) }),
    ("6.8: GOAWAY of a stream", |it| { send!(it, frame(GOAWAY, 0, 1, &[0; 8])); it.fails(&[PROTOCOL]) }),
    ("6.9/1: a connection's window by nothing", |it| { send!(it, window(0, 0)); it.fails(&[PROTOCOL]) }),
    ("6.9/2: a stream's window by nothing", |it| { send!(it, get(1, WHOLE), window(1, 0)); it.resets(&[PROTOCOL]) }),
    ("6.9/3: WINDOW_UPDATE that is too short", |it| { send!(it, frame(WINDOW, 0, 0, &[0; 3])); it.fails(&[FRAME_SIZE]) }),
    ("6.9.1/1: a window of 1", |it| {
        it.setting(4, 1);
        it.acknowledges()?;
        send!(it, get(1, WHOLE | END));
        it.gives(1)
    }),
    ("6.9.1/2: a connection's window that overflows", |it| {
        send!(it, window(0, 0x7fff_ffff), window(0, 0x7fff_ffff));
        it.until(false, |it| (it.kind == GOAWAY).then_some(code(it) == FLOW_CONTROL))
    }),
    ("6.9.1/3: a stream's window that overflows", |it| {
        send!(it, get(1, WHOLE), window(1, 0x7fff_ffff), window(1, 0x7fff_ffff));
        it.until(false, |it| (it.kind == RESET).then_some(code(it) == FLOW_CONTROL))
    }),
    ("6.9.2/1: windows that exist grow", |it| {
        it.setting(4, 0);
        it.acknowledges()?;
        send!(it, get(1, WHOLE | END));
        it.setting(4, 1);
        it.gives(1)
    }),
    ("6.9.2/2: and become negative", |it| {
        it.setting(4, 3);
        it.acknowledges()?;
        send!(it, get(1, WHOLE | END));
        it.gives(3)?;
        it.setting(4, 2);
        it.acknowledges()?;
        send!(it, window(1, 2));
        it.gives(1)
    }),
    ("6.9.2/3: but not too large", |it| { it.setting(4, 1 << 31); it.fails(&[FLOW_CONTROL]) }),
    ("6.10/1: several CONTINUATION", |it| { send!(it, get(1, END), more(1, 0), more(1, WHOLE)); it.answers() }),
    ("6.10/2: another frame before the last", |it| {
        send!(it, get(1, 0), more(1, 0), frame(DATA, END, 1, b"test"));
        it.fails(&[PROTOCOL])
    }),
    ("6.10/3: CONTINUATION of no stream", |it| { send!(it, get(1, END), more(0, WHOLE)); it.fails(&[PROTOCOL]) }),
    ("6.10/4: after a whole head", |it| { send!(it, get(1, WHOLE | END), more(1, WHOLE)); it.fails(&[PROTOCOL]) }),
    ("6.10/5: after the last CONTINUATION", |it| {
        send!(it, get(1, END), more(1, WHOLE), more(1, WHOLE));
        it.fails(&[PROTOCOL])
    }),
    ("6.10/6: after DATA", |it| {
        send!(it, get(1, 0), frame(DATA, END, 1, b"test"), more(1, 0), more(0, WHOLE));
        it.fails(&[PROTOCOL])
    }),
    ("7/1: GOAWAY for an unknown reason", |it| { send!(it, frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff])); it.closes() }),
    ("7/2: RST_STREAM for an unknown reason", |it| { send!(it, post(&[]), reset(1, 0xff)); it.lives() }),
];

#[rustfmt::skip]
const MESSAGES: &[Case] = &[
    ("8.1: a second head that does not end the stream", |it| {
        send!(it, post(&[]), frame(DATA, 0, 1, b"test"));
        send!(it, frame(HEADERS, WHOLE, 1, &block(&[("x-test", "ok")])));
        it.resets(&[PROTOCOL])
    }),
    ("8.1.2: an upper-case name", |it| { send!(it, and(("X-TEST", "ok"))); it.resets(&[PROTOCOL]) }),
    ("8.1.2.1/1: an unknown pseudo-field", |it| { send!(it, and((":test", "ok"))); it.resets(&[PROTOCOL]) }),
    ("8.1.2.1/2: one of responses", |it| { send!(it, and((":status", "200"))); it.resets(&[PROTOCOL]) }),
    ("8.1.2.1/3: one in trailers", |it| {
        send!(it, post(&[]), frame(DATA, 0, 1, b"test"));
        send!(it, frame(HEADERS, WHOLE, 1, &block(&[(":method", "POST")])));
        it.resets(&[PROTOCOL])
    }),
    ("8.1.2.1/4: one after a field", |it| {
        send!(it, just(&[vec![("x-test", "ok")], fields("GET")].concat()));
        it.resets(&[PROTOCOL])
    }),
    ("8.1.2.2/1: a field about the connection", |it| { send!(it, and(("connection", "keep-alive"))); it.resets(&[PROTOCOL]) }),
    ("8.1.2.2/2: TE other than trailers", |it| {
        send!(it, just(&[fields("GET"), vec![("trailers", "test"), ("te", "trailers, deflate")]].concat()));
        it.resets(&[PROTOCOL])
    }),
    ("8.1.2.3/1: an empty path", |it| {
        send!(it, just(&[(":method", "GET"), (":scheme", "http"), (":path", ""), (":authority", "a")]));
        it.resets(&[PROTOCOL])
    }),
    ("8.1.2.3/2: no method", |it| { send!(it, but(":method")); it.resets(&[PROTOCOL]) }),
    ("8.1.2.3/3: no scheme", |it| { send!(it, but(":scheme")); it.resets(&[PROTOCOL]) }),
    ("8.1.2.3/4: no path", |it| { send!(it, but(":path")); it.resets(&[PROTOCOL]) }),
    ("8.1.2.3/5: two methods", |it| { send!(it, and((":method", "GET"))); it.resets(&[PROTOCOL]) }),
    ("8.1.2.3/6: two schemes", |it| { send!(it, and((":scheme", "http"))); it.resets(&[PROTOCOL]) }),
    ("8.1.2.3/7: two paths", |it| { send!(it, and((":path", "/"))); it.resets(&[PROTOCOL]) }),
    ("8.1.2.6/1: other content than announced", |it| {
        send!(it, post(&[("content-length", "1")]), frame(DATA, END, 1, b"test"));
        it.resets(&[PROTOCOL])
    }),
    ("8.1.2.6/2: in several frames", |it| {
        send!(it, post(&[("content-length", "1")]), frame(DATA, 0, 1, b"test"), frame(DATA, END, 1, b"test"));
        it.resets(&[PROTOCOL])
    }),
    ("8.2: PUSH_PROMISE", |it| {
        send!(it, frame(PROMISE, WHOLE, 1, &[&[0, 0, 0, 3], &common()[..]].concat()));
        it.fails(&[PROTOCOL])
    }),
];

/// All of them, on each of these connections; what has failed is told in the end.
fn run(name: &str, connect: impl Fn() -> Wire) {
    let mut failed = Vec::new();
    for (case, script) in [GENERIC, HPACK, STREAMS, FRAMES, MESSAGES].concat() {
        if let Err(seen) = script(&mut Talk::begin(connect())) {
            failed.push(format!("{case}: {seen:?}"));
        }
    }
    // What begins with anything else is no connection of HTTP/2.
    let mut wire = connect();
    wire.send("INVALID CONNECTION PREFACE\r\n\r\n");
    if matches!(wire.take_rest(), Err(WireError::Late(_))) {
        failed.push("3.5/2: an invalid preface".into());
    }
    assert!(failed.is_empty(), "{name}:\n{}", failed.join("\n"));
}

/// A gateway that speaks as `tls` says.
fn gateway(route: &Value, upstream: &Upstream, tls: Option<&Value>) -> Gateway {
    let mut listener = json!({ "address": "127.0.0.1:0" });
    if let Some(tls) = tls {
        listener["tls"] = json!({ "certificates": [tls] });
    }
    let mut route = route.clone();
    route["path"] = json!("/");
    Gateway::start(json!({
        "listeners": [listener],
        "upstreams": { "test": { "servers": [upstream.address()] } },
        "routes": [route],
    }))
}

#[test]
fn in_clear_text() {
    let upstream = Upstream::answering("hello");
    for route in
        [json!({ "upstream": "test" }), json!({ "respond": { "status": 200, "body": "hello" } })]
    {
        let gateway = gateway(&route, &upstream, None);

        run(&route.to_string(), || connect(gateway.address()));
    }
}

#[test]
fn over_tls() {
    let upstream = Upstream::answering("hello");
    let (authority, dir) = (Authority::new("root"), tempfile::TempDir::new().unwrap());
    let files = authority.issue(dir.path(), "s", &["localhost"]);
    let gateway = gateway(&json!({ "upstream": "test" }), &upstream, Some(&files.entry()));
    let client = authority.client().alpn(&["h2"]).config();

    run("TLS", || Wire::tls(shake(gateway.address(), &client, "localhost").unwrap()));
}
