//! How WebSockets end for which time is up, and how many there may be: tunnels, and those whose messages are
//! seen.
//!
//! Not here: closes of clients and servers, and of who breaks a rule (`websocket_inspect`).

use std::net::TcpStream;

use http::{Method, Request};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::harness::http2::Http2;
use crate::harness::websocket::{Seen, Server, closed, frame, next_frame, open, open_raw, say};
use crate::harness::{Gateway, Upstream, eventually};

const AWAY: u16 = 1001;

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A tunnel, and one whose messages are seen.
fn both() -> [Value; 2] {
    [json!({}), json!({ "inspect": true, "message_bytes_max": 16_777_216 })]
}

/// Nobody looks into a tunnel, but where its frames end is known.
#[test]
fn tunnels_are_closed_when_time_is_up() {
    let server = Server::start();
    for settings in [json!({ "lifetime_ms": 2500 }), json!({ "idle_ms": 2500 })] {
        let gateway = server.gateway(settings.clone(), json!({}));
        let mut socket = open(&gateway);
        say(&mut socket, "x");
        assert_eq!(socket.read().unwrap(), Message::text("x"));

        assert_eq!(closed(&mut socket), Some((AWAY, String::new())), "{settings}");
        assert_eq!(server.sees(), Seen::Closed(Some((AWAY, String::new()))));
        gateway.counts("zproxy_websockets", &[], 0.0);
    }
}

/// A second before the end both sides are told, so that nothing is cut off.
#[test]
fn a_drain_closes_websockets_in_good_order() {
    for settings in both() {
        let server = Server::start();
        let mut gateway = server.gateway(settings, json!({ "drain_timeout_ms": 6000 }));
        let mut socket = open(&gateway);
        // Much of it goes past unseen.
        say(&mut socket, "big 8000000");
        assert_eq!(socket.read().unwrap().len(), 8_000_000);

        gateway.signal(Signal::TERM);
        eventually("the end of accepting", || {
            TcpStream::connect(gateway.address()).is_err().then_some(())
        });
        // Until then it goes on as before.
        say(&mut socket, "still here");
        assert_eq!(socket.read().unwrap(), Message::text("still here"));

        assert_eq!(closed(&mut socket), Some((AWAY, String::new())));
        assert_eq!(server.sees(), Seen::Closed(Some((AWAY, String::new()))));
        drop(socket);
        assert_eq!(gateway.exit_code(), 0);
    }
}

/// RFC 6455 §5.4: nothing but a frame of its own comes between two frames, and nothing into one.
#[test]
fn a_close_waits_for_the_end_of_a_frame() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        connection.try_send([SWITCH.as_bytes(), &[0x01, 5, b'h', b'e']].concat())?;
        // The other way nothing is passing: a close, under a mask.
        let close = connection.take(8).unwrap_or_default();
        assert_eq!(close[..2], [0x88, 0x82]);
        assert_eq!([close[6] ^ close[2], close[7] ^ close[3]], AWAY.to_be_bytes());
        connection.try_send(b"llo")?;
        let _ = connection.take_rest();
        Ok(())
    });
    let gateway = Gateway::start(json!({
        "routes": [{ "path": "/", "upstream": upstream.url(), "websocket": { "lifetime_ms": 500 } }],
    }));

    let mut client = open_raw(&gateway);

    assert_eq!(next_frame(&mut client), (0x01, b"hello".to_vec()));
    assert_eq!(next_frame(&mut client), (0x88, AWAY.to_be_bytes().to_vec()));
    client.send(frame(0x88, &AWAY.to_be_bytes()));
    assert_eq!(client.take_rest().unwrap(), b"");
}

/// What a server has closed is not closed once more.
#[test]
fn a_close_that_has_passed_is_the_last_frame() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        connection.try_send([SWITCH.as_bytes(), &[0x88, 2, 0x0f, 0xa0]].concat())?;
        let _ = connection.take_rest();
        Ok(())
    });
    let gateway = Gateway::start(json!({
        "routes": [{ "path": "/", "upstream": upstream.url(), "websocket": { "lifetime_ms": 500 } }],
    }));

    let mut client = open_raw(&gateway);

    assert_eq!(next_frame(&mut client), (0x88, vec![0x0f, 0xa0]));
    assert_eq!(client.take_rest().unwrap(), b"");
}

/// RFC 8441: the close is the last that the stream has.
#[test]
fn a_tunnel_in_a_stream_is_closed_when_time_is_up() {
    let server = Server::start();
    let gateway = server.gateway(json!({ "lifetime_ms": 1500 }), json!({}));
    let mut client = Http2::connect(gateway.address());
    // Settings are known with the first answer.
    client.get("/");
    let request = Request::builder().method(Method::CONNECT).uri("http://a/");
    let request = request.header("sec-websocket-version", "13");
    let request = request.extension(h2::ext::Protocol::from_static("websocket"));

    let (response, _stream) = client.open(request.body(()).unwrap(), false);
    let response = client.run(response).unwrap();
    assert_eq!(response.status(), 200);

    let mut received = response.into_body();
    let mut bytes = Vec::new();
    while let Some(data) = client.run(received.data()) {
        bytes.extend_from_slice(&data.unwrap());
    }
    assert_eq!(bytes, [0x88, 2, 0x03, 0xe9]);
    assert_eq!(server.sees(), Seen::Closed(Some((AWAY, String::new()))));
}

/// With whichever worker they are, and however often the configuration is read anew.
#[test]
fn a_route_has_room_for_so_many_websockets() {
    for mut settings in both() {
        settings["connections_max"] = 2.into();
        let server = Server::start();
        let workers = json!({ "count": 2, "pin": false });
        let gateway = server.gateway(settings, json!({ "workers": workers }));
        let refused = |times: f64| {
            let answer = gateway.ask("GET", "/", "Connection: Upgrade\r\nUpgrade: websocket\r\n");
            assert_eq!((answer.status(), answer.field("retry-after")), (503, Some("1")));
            let cause = Some("zproxy; error=connection_limit_reached");
            assert_eq!(answer.field("proxy-status"), cause);
            gateway.counts("zproxy_websockets_refused_total", &[("route", "/")], times);
        };
        let (first, mut second) = (open(&gateway), open(&gateway));

        refused(1.0);
        assert_eq!(gateway.admin_post("/reload", b"").status(), 200);
        refused(2.0);

        drop(first);
        eventually("room for another one", || {
            let mut wire = gateway.connect();
            let answer = wire.exchange(
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            );
            (answer.status() == 101).then_some(())
        });
        say(&mut second, "as before");
        assert_eq!(second.read().unwrap(), Message::text("as before"));
    }
}

/// A request that did not become a WebSocket takes no room from those that do.
#[test]
fn a_refused_upgrade_gives_its_place_back() {
    let upstream = Upstream::sending("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    let gateway = Gateway::start(json!({
        "routes": [{ "path": "/", "upstream": upstream.url(), "websocket": { "connections_max": 1 } }],
    }));

    for _ in 0..3 {
        let answer = gateway.ask("GET", "/", "Connection: Upgrade\r\nUpgrade: websocket\r\n");
        assert_eq!((answer.status(), answer.text()), (403, "no"));
    }
}
