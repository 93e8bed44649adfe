//! WebSockets whose messages are seen: what passes, what is refused, how they end.
//!
//! Not here: tunnels (`websocket`), floods (`websocket_abuse`), plugins (`websocket_hooks`).

use std::net::TcpStream;
use std::time::Duration;

use http::{Method, Request};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};

use crate::harness::http2::Http2;
use crate::harness::tls::{Authority, shake};
use crate::harness::websocket::{
    Seen, Server, close_code, closed, frame, head, next_frame, open, open_raw, say, upgrade,
};
use crate::harness::{DEADLINE, Gateway, Upstream, Wire, eventually};

fn inspect() -> Value {
    json!({ "inspect": true })
}

fn with(key: &str, value: impl Into<Value>) -> Value {
    let mut settings = inspect();
    settings[key] = value.into();
    settings
}

#[test]
fn messages_of_every_kind_pass() {
    let server = Server::start();
    let gateway = server.gateway(inspect(), json!({}));
    let mut request = format!("ws://{}/", gateway.address()).into_client_request().unwrap();
    let fields = request.headers_mut();
    fields.insert("sec-websocket-protocol", "chat, soap".parse().unwrap());
    fields.insert("sec-websocket-extensions", "permessage-deflate".parse().unwrap());
    let stream = TcpStream::connect(gateway.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();

    let (mut socket, answer) = tokio_tungstenite::tungstenite::client(request, stream).unwrap();

    assert_eq!(answer.headers()["sec-websocket-protocol"], "soap");
    let seen = server.request();
    assert!(seen.iter().all(|(name, _)| name != "sec-websocket-extensions"), "{seen:?}");
    // Several fragments on their way, and as many bytes as a message may have.
    for message in [
        Message::text("grüße"),
        Message::text(""),
        Message::binary(vec![]),
        Message::binary(vec![1; 65_536]),
        Message::text("ä".repeat(100_000)),
        Message::binary(vec![2; 1024 * 1024]),
    ] {
        socket.send(message.clone()).unwrap();
        assert!(socket.read().unwrap() == message);
    }
    socket.send(Message::Ping(b"here?"[..].into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong(b"here?"[..].into()));
}

/// RFC 6455 §7.4: whoever closes, with whatever code and reason, the other side hears it as it was said.
#[test]
fn closes_are_carried_both_ways() {
    let server = Server::start();
    let gateway = server.gateway(inspect(), json!({}));

    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 3000, 4999_u16] {
        let mut socket = open(&gateway);
        let frame = CloseFrame { code: code.into(), reason: "because".into() };
        socket.close(Some(frame)).unwrap();
        assert_eq!(server.sees(), Seen::Closed(Some((code, "because".into()))));
        assert_eq!(closed(&mut socket), Some((code, "because".into())));

        let mut socket = open(&gateway);
        say(&mut socket, &format!("close {code} that is why"));
        assert_eq!(closed(&mut socket), Some((code, "that is why".into())));
        assert_eq!(server.sees(), Seen::Closed(Some((code, "that is why".into()))));
    }
    let mut socket = open(&gateway);
    socket.close(None).unwrap();
    assert_eq!(server.sees(), Seen::Closed(None));
    assert_eq!(closed(&mut socket), None);
}

/// A client that breaks a rule is told which; to the server it has gone away.
#[test]
fn a_client_that_breaks_a_rule_is_told_which() {
    let server = Server::start();
    let gateway = server.gateway(inspect(), json!({}));
    let unmasked = [vec![0x81, 2], b"no".to_vec()].concat();
    for (bytes, code) in [
        (unmasked, 1002),
        // Reserved bits and opcodes; control frames that are long or in parts; parts of nothing.
        (frame(0xc1, b"x"), 1002),
        (frame(0x83, b"x"), 1002),
        (frame(0x8b, b"x"), 1002),
        (frame(0x89, &[0; 126]), 1002),
        (frame(0x09, b"x"), 1002),
        (frame(0x80, b"x"), 1002),
        ([frame(0x01, b"x"), frame(0x81, b"y")].concat(), 1002),
        // Closes that say nothing right.
        (frame(0x88, b"x"), 1002),
        (frame(0x88, &[3, 237]), 1002),
        (frame(0x88, &[0, 5]), 1002),
        // Text that is none, at once and in parts.
        (frame(0x81, b"\xff"), 1007),
        ([frame(0x01, b"\xc3"), frame(0x00, b"\x28")].concat(), 1007),
        (frame(0x88, b"\x03\xe8\xff"), 1007),
    ] {
        let mut client = open_raw(&gateway);
        client.send(&bytes);
        assert_eq!(close_code(&mut client), Some(code), "{bytes:x?}");
        let seen = server.sees();
        // A close that is none is answered, and carried on, as what it is.
        let expected =
            if bytes.ends_with(&[3, 237]) || bytes.ends_with(&[0, 5]) { 1002 } else { 1001 };
        assert!(
            matches!(seen, Seen::Closed(Some((code, _))) if code == expected),
            "{seen:?} {bytes:x?}"
        );
        assert_eq!(client.take_rest().unwrap(), b"");
    }
}

/// What came before the mistake is answered first, as it would be without a gateway.
#[test]
fn a_mistake_does_not_overtake_the_answer_before_it() {
    let server = Server::start();
    let gateway = server.gateway(inspect(), json!({}));
    let mut client = open_raw(&gateway);

    client.send([frame(0x81, b"first"), frame(0xf1, b"second")].concat());

    assert_eq!(next_frame(&mut client), (0x81, b"first".to_vec()));
    assert_eq!(close_code(&mut client), Some(1002));
}

#[test]
fn messages_and_frames_that_are_too_large_are_refused() {
    let server = Server::start();
    let mut settings = with("message_bytes_max", 1000);
    settings["frame_bytes_max"] = 600.into();
    let gateway = server.gateway(settings, json!({}));
    for bytes in [
        frame(0x82, &[1; 601]),
        [frame(0x02, &[1; 600]), frame(0x80, &[1; 401])].concat(),
        // Announced, and never sent.
        [head(0x82, 0x80, 1 << 40), vec![0; 4]].concat(),
    ] {
        let mut client = open_raw(&gateway);
        client.send(&bytes);
        assert_eq!(close_code(&mut client), Some(1009));
        assert_eq!(server.sees(), Seen::Closed(Some((1001, String::new()))));
    }
    // As large as they may be.
    let mut client = open_raw(&gateway);
    let quiet = [&b"quiet "[..], &[b'x'; 594]].concat();
    client.send([frame(0x01, &quiet), frame(0x80, &[b'x'; 400]), frame(0x81, b"x")].concat());
    assert_eq!(next_frame(&mut client), (0x81, b"x".to_vec()));

    // A server's.
    let mut socket = open(&gateway);
    say(&mut socket, "big 601");
    assert_eq!(closed(&mut socket), Some((1011, String::new())));
    assert_eq!(server.sees(), Seen::Closed(Some((1009, String::new()))));
}

#[test]
fn a_side_that_is_lost_is_told_of_to_the_other() {
    let server = Server::start();
    let gateway = server.gateway(inspect(), json!({}));

    let mut socket = open(&gateway);
    say(&mut socket, "leave");
    assert_eq!(closed(&mut socket), Some((1011, String::new())));

    drop(open(&gateway));
    assert_eq!(server.sees(), Seen::Closed(Some((1001, String::new()))));
}

/// The client is slow, and still writes to a server that has said why it leaves, and left.
#[test]
fn the_last_words_of_a_server_are_heard() {
    const LARGE: usize = 20_000_000;
    let accept = derive_accept_key(b"dGhlIHNhbXBsZSBub25jZQ==");
    let upstream = Upstream::start(move |connection| {
        connection.request()?;
        connection.try_send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        ))?;
        let mut large = head(0x82, 0, LARGE);
        large.resize(large.len() + LARGE, 7);
        connection.try_send(large)?;
        connection.try_send([&[0x89, 0, 0x81, 4][..], b"last", &[0x88, 5, 3, 240], b"why"].concat())
    });
    let mut settings = with("message_bytes_max", 2 * LARGE);
    settings["ping_interval_ms"] = 0.into();
    let routes = json!([{ "path": "/", "upstream": upstream.url(), "websocket": settings }]);
    let gateway = Gateway::start(json!({ "routes": routes }));
    let mut client = open_raw(&gateway);
    eventually("the server has left", || (upstream.ended() == 1).then_some(()));
    // What its kernel has not sent yet would be lost with the reset.
    let large = || gateway.metrics().sum("zproxy_websocket_messages_total", &[("from", "server")]);
    eventually("the large message is here", || (large() >= 1.0).then_some(()));

    // The first of these is answered by a reset, and the next cannot be written.
    for _ in 0..20 {
        client.send(frame(0x81, b"x"));
        std::thread::sleep(Duration::from_millis(20));
    }

    let mut bytes = 0;
    while bytes < LARGE {
        let (first, part) = next_frame(&mut client);
        assert!(first & 0x0f < 3, "{first:x} after {bytes} bytes: {part:x?}");
        bytes += part.len();
    }
    assert_eq!(next_frame(&mut client), (0x81, b"last".to_vec()));
    assert_eq!(next_frame(&mut client), (0x88, [&[3, 240][..], b"why"].concat()));
    gateway.counts("zproxy_websocket_closes_total", &[("by", "server"), ("code", "1008")], 1.0);
}

#[test]
fn a_client_that_sends_too_often_is_closed() {
    let server = Server::start();
    let gateway = server.gateway(with("messages_per_second", 5), json!({}));
    let mut client = open_raw(&gateway);

    client.send(frame(0x81, b"x").repeat(4));
    // Pings count.
    client.send(frame(0x89, b"").repeat(2));

    assert_eq!(close_code(&mut client), Some(1008));
    assert_eq!(server.sees(), Seen::Closed(Some((1001, String::new()))));

    // So do pongs that nobody has asked for.
    let mut client = open_raw(&gateway);
    client.send(frame(0x8a, b"").repeat(6));
    assert_eq!(close_code(&mut client), Some(1008));
}

#[test]
fn answers_to_pings_of_the_gateway_are_no_messages() {
    let server = Server::start();
    let mut settings = with("messages_per_second", 1);
    settings["ping_interval_ms"] = 20.into();
    let gateway = server.gateway(settings, json!({}));
    let mut socket = open(&gateway);

    // More than come at once, and each is answered.
    for _ in 0..20 {
        assert_eq!(socket.read().unwrap(), Message::Ping(Vec::new().into()));
    }
    say(&mut socket, "x");
    while socket.read().unwrap() != Message::text("x") {}
}

/// Who is silent is asked; who answers stays, who does not is taken for gone.
#[test]
fn silent_sides_are_asked_whether_they_are_there() {
    let server = Server::start();
    let mut settings = with("ping_interval_ms", 100);
    settings["pong_timeout_ms"] = 1500.into();
    let gateway = server.gateway(settings, json!({}));
    let mut socket = open(&gateway);

    for _ in 0..5 {
        assert_eq!(socket.read().unwrap(), Message::Ping(Vec::new().into()));
    }
    say(&mut socket, "still there");
    while socket.read().unwrap() != Message::text("still there") {}
    // From now on it reads nothing, and answers nothing.
    assert_eq!(server.sees(), Seen::Closed(Some((1001, String::new()))));
    gateway.counts("zproxy_websocket_closes_total", &[("by", "client"), ("code", "lost")], 1.0);
}

/// A message is something said, whatever came with it.
#[test]
fn a_message_behind_a_pong_keeps_a_websocket_open() {
    let server = Server::start();
    let mut settings = with("ping_interval_ms", 0);
    settings["idle_ms"] = 2500.into();
    let gateway = server.gateway(settings, json!({}));
    let mut client = open_raw(&gateway);

    for _ in 0..8 {
        client.send([frame(0x8a, b""), frame(0x81, b"quiet")].concat());
        std::thread::sleep(Duration::from_millis(500));
    }

    client.send(frame(0x81, b"x"));
    assert_eq!(next_frame(&mut client), (0x81, b"x".to_vec()));
}

/// It cannot answer a ping that stands behind what it has still to read.
#[test]
fn who_reads_slowly_is_not_taken_for_gone() {
    const LARGE: usize = 40_000_000;
    let server = Server::start();
    let mut settings = with("ping_interval_ms", 100);
    settings["pong_timeout_ms"] = 2500.into();
    settings["message_bytes_max"] = LARGE.into();
    let gateway = server.gateway(settings, json!({}));
    let mut client = open_raw(&gateway);
    client.send(frame(0x81, format!("big {LARGE}").as_bytes()));

    // Slow for longer than a ping and its answer may take, and never answered.
    let (mut bytes, mut frames) = (0, 0);
    while bytes < LARGE {
        let (first, part) = next_frame(&mut client);
        frames += 1;
        if frames < 300 {
            std::thread::sleep(Duration::from_millis(15));
        }
        if first & 0x0f < 3 {
            bytes += part.len();
        } else {
            assert_eq!(first, 0x89, "after {bytes} bytes");
        }
    }
}

/// Its own pings and what answers them do not make a WebSocket busy.
#[test]
fn a_websocket_that_says_nothing_is_closed() {
    let server = Server::start();
    let mut settings = with("ping_interval_ms", 100);
    settings["idle_ms"] = 1500.into();
    let gateway = server.gateway(settings, json!({}));
    let mut socket = open(&gateway);

    assert_eq!(closed(&mut socket), Some((1001, "idle".into())));
    assert_eq!(server.sees(), Seen::Closed(Some((1001, "idle".into()))));
}

#[test]
fn a_websocket_that_has_lived_long_enough_is_closed() {
    let server = Server::start();
    let gateway = server.gateway(with("lifetime_ms", 700), json!({}));
    let mut socket = open(&gateway);
    say(&mut socket, "x");
    assert_eq!(closed(&mut socket), Some((1001, String::new())));
    assert_eq!(server.sees(), Seen::Closed(Some((1001, String::new()))));
}

/// A server that is not a WebSocket server, or answers somebody else.
#[test]
fn a_switch_that_was_not_agreed_on_becomes_a_502() {
    let accept = derive_accept_key(b"dGhlIHNhbXBsZSBub25jZQ==");
    for fields in [
        String::new(),
        "Sec-WebSocket-Accept: bm9uc2Vuc2U=\r\n".to_owned(),
        format!(
            "Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
        ),
    ] {
        let upstream = Upstream::sending_and_closing(format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n{fields}\r\n"
        ));
        let routes =
            json!([{ "path": "/", "upstream": upstream.url(), "websocket": { "inspect": true } }]);
        let gateway = Gateway::start(json!({ "routes": routes }));

        let answer = gateway.connect().exchange(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );

        assert_eq!(answer.status(), 502, "{fields:?}: {answer:?}");
    }
}

/// Nothing goes past those who look: not by another name either.
#[test]
fn upgrades_to_other_protocols_are_not_made_where_messages_are_seen() {
    let upstream = Upstream::answering("plain");
    let routes =
        json!([{ "path": "/", "upstream": upstream.url(), "websocket": { "inspect": true } }]);
    let gateway = Gateway::start(json!({ "routes": routes }));

    let answer = gateway.ask("GET", "/", "Connection: Upgrade\r\nUpgrade: tunnel\r\n");

    assert_eq!((answer.status(), answer.text()), (200, "plain"));
    assert_eq!(upstream.last_request().field("upgrade"), None);
}

/// RFC 6455 §11.3, with TLS on the client's side.
#[test]
fn messages_are_seen_over_tls() {
    let server = Server::start();
    let (authority, dir) = (Authority::new("root"), tempfile::TempDir::new().unwrap());
    let files = authority.issue(dir.path(), "s", &["gateway.test"]);
    let listener = json!({ "address": "127.0.0.1:0", "tls": { "certificates": [files.entry()] } });
    let gateway = server.gateway(inspect(), json!({ "listeners": [listener] }));
    let config = authority.client().alpn(&["http/1.1"]).config();
    let mut wire = Wire::tls(shake(gateway.address(), &config, "gateway.test").unwrap());
    upgrade(&mut wire);

    let large = vec![3; 300_000];
    wire.send(frame(0x82, &large));
    let mut back = Vec::new();
    loop {
        let (first, part) = next_frame(&mut wire);
        back.extend(part);
        if first & 0x80 != 0 {
            break;
        }
    }

    assert!(back == large);
    wire.send(frame(0x88, &[3, 232]));
    assert_eq!(close_code(&mut wire), Some(1000));
    assert_eq!(server.sees(), Seen::Closed(Some((1000, String::new()))));
}

/// RFC 8441 §5: the same frames, in a stream.
#[test]
fn messages_are_seen_over_http2() {
    let server = Server::start();
    let gateway = server.gateway(inspect(), json!({}));
    let mut client = Http2::connect(gateway.address());
    // Settings are known with the first answer.
    client.get("/");
    let request = Request::builder().method(Method::CONNECT).uri("http://a/");
    let request = request.header("sec-websocket-version", "13");
    let request = request.header("sec-websocket-extensions", "permessage-deflate");
    let request = request.extension(h2::ext::Protocol::from_static("websocket"));

    let (response, mut stream) = client.open(request.body(()).unwrap(), false);
    let response = client.run(response).unwrap();
    assert_eq!(response.status(), 200);
    let fields = server.request();
    assert!(fields.iter().all(|(name, _)| name != "sec-websocket-extensions"), "{fields:?}");
    let mut received = response.into_body();
    stream.send_data(frame(0x81, b"hello").into(), false).unwrap();
    let mut bytes = Vec::new();
    while bytes.len() < 7 {
        bytes.extend_from_slice(&client.run(received.data()).unwrap().unwrap());
    }
    assert_eq!(bytes, [&[0x81, 5][..], b"hello"].concat());
    stream.send_data(frame(0x88, &[0x0f, 0xa0]).into(), false).unwrap();

    let mut bytes = Vec::new();
    while let Some(data) = client.run(received.data()) {
        bytes.extend_from_slice(&data.unwrap());
    }
    assert_eq!(bytes, [0x88, 2, 0x0f, 0xa0]);
    assert_eq!(server.sees(), Seen::Closed(Some((4000, String::new()))));
}

#[test]
fn messages_and_closes_are_counted_and_logged() {
    let server = Server::start();
    let gateway =
        server.gateway(inspect(), json!({ "access_log": { "path": "log", "format": "json" } }));
    let mut socket = open(&gateway);
    say(&mut socket, "four");
    assert_eq!(socket.read().unwrap(), Message::text("four"));
    say(&mut socket, "quiet");
    gateway.counts("zproxy_websockets", &[("route", "/")], 1.0);
    gateway.counts("zproxy_websocket_messages_total", &[("from", "client")], 2.0);
    gateway.counts("zproxy_websocket_message_bytes_total", &[("from", "client")], 9.0);
    gateway.counts("zproxy_websocket_messages_total", &[("from", "server")], 1.0);
    let frame = CloseFrame { code: 4321.into(), reason: "".into() };
    socket.close(Some(frame)).unwrap();
    assert_eq!(closed(&mut socket), Some((4321, String::new())));

    gateway.counts("zproxy_websocket_closes_total", &[("by", "client"), ("code", "4xxx")], 1.0);
    gateway.counts("zproxy_websockets", &[("route", "/")], 0.0);
    let line = eventually("a line", || {
        let log = std::fs::read_to_string(gateway.dir.path().join("log")).ok()?;
        serde_json::from_str::<Value>(log.lines().next()?).ok()
    });
    assert_eq!(line["status"], 101);
    let expected =
        json!({ "closed_by": "client", "code": 4321, "messages_in": 2, "messages_out": 1 });
    assert_eq!(line["websocket"], expected);
}

/// A server that reads no more holds one message here; the rest stays with the client.
#[test]
fn a_receiver_that_has_stopped_stops_the_sender() {
    let server = Server::start();
    let gateway = server.gateway(inspect(), json!({}));
    let mut socket = open(&gateway);
    say(&mut socket, "hold");
    let before = gateway.memory_kib();
    let stream = socket.get_mut();
    stream.set_write_timeout(Some(Duration::from_secs(3))).unwrap();

    let mut sent = 0;
    while socket.send(Message::binary(vec![1; 500_000])).is_ok() {
        sent += 1;
        assert!(sent < 1000, "somebody takes it all");
    }

    let grown = gateway.memory_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB");
}
