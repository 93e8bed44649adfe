//! Upgrades: from requests to a tunnel of bytes, and what never becomes one.
//!
//! Not here: a 101 that nobody asked for (`bad_upstream`).

use std::net::TcpListener;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};

use crate::harness::{Gateway, Upstream, eventually};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\
                       Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Switches, greets in the same segment, and sends everything back.
fn echo_tunnel() -> Upstream {
    Upstream::start(|connection| {
        connection.request()?;
        connection.try_send(format!("{SWITCH}hello"))?;
        while let Ok(some) = connection.take_some() {
            if some.is_empty() {
                break;
            }
            connection.try_send(some)?;
        }
        connection.try_send("bye")
    })
}

/// RFC 9110 §7.8: after 101 both sides send what they like.
#[test]
fn an_upgrade_becomes_a_tunnel_of_bytes() {
    let upstream = echo_tunnel();
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    let answer = client.exchange(UPGRADE);

    assert_eq!(answer.status(), 101);
    assert_eq!(answer.field("upgrade"), Some("websocket"));
    assert!(answer.field("connection").unwrap().eq_ignore_ascii_case("upgrade"));
    assert_eq!(answer.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(client.take(5).unwrap(), b"hello");
    for piece in [b"GET / HTTP/1.1\r\nHost: b\r\n\r\n".as_slice(), b"\0\xff\x80", b"\r\n"] {
        client.send(piece);
        assert_eq!(client.take(piece.len()).unwrap(), piece);
    }
    // The end goes through one side at a time.
    client.finish();
    assert_eq!(client.take_rest().unwrap(), b"bye");
    let request = upstream.request();
    assert_eq!(request.field("upgrade"), Some("websocket"));
    assert!(request.all("connection").concat().to_ascii_lowercase().contains("upgrade"));
    assert_eq!(request.field("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
}

/// RFC 9110 §7.8: only to what was offered; what both ends take it for must be the same.
#[test]
fn a_switch_to_another_protocol_becomes_a_502() {
    for field in ["", "Upgrade: h2c\r\n", "Upgrade: websocket, h2c\r\n"] {
        let upstream = Upstream::sending_and_closing(format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n{field}\r\n"
        ));
        let gateway = Gateway::to(&upstream);

        let answer = gateway.connect().exchange(UPGRADE);

        assert_eq!(answer.status(), 502, "{field:?}: {answer:?}");
    }
}

/// A server that has heard enough may still have said something.
#[test]
fn the_last_words_of_a_server_that_left_reach_a_client_that_still_talks() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        connection.try_send(SWITCH)?;
        // Closing with something unread resets the connection, after what was sent.
        connection.take(5).map_err(|error| std::io::Error::other(format!("{error:?}")))?;
        connection.try_send("bye")?;
        connection.finish();
        let _ = connection.take_rest();
        Ok(())
    });
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();
    assert_eq!(client.exchange(UPGRADE).status(), 101);

    client.send("hello");

    assert_eq!(client.take(3).unwrap(), b"bye");
    client.finish();
    assert_eq!(client.take_rest().unwrap(), b"");
}

/// A key alone is no wish to switch.
#[test]
fn the_echo_upstream_shows_a_request_that_only_looks_like_a_websocket() {
    let gateway = Gateway::start(json!({ "routes": [{ "path": "/", "upstream": "echo" }] }));

    let answer = gateway.ask("GET", "/", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");

    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(answer.json()["method"], "GET");
}

#[test]
fn the_upstreams_end_of_a_tunnel_reaches_the_client() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        connection.try_send(format!("{SWITCH}bye"))
    });
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    assert_eq!(client.exchange(UPGRADE).status(), 101);

    assert_eq!(client.take_rest().unwrap(), b"bye");
}

/// Both ways at once, more than any buffer holds.
#[test]
fn a_tunnel_carries_megabytes_both_ways_at_once() {
    let upstream = echo_tunnel();
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();
    assert_eq!(client.exchange(UPGRADE).status(), 101);
    assert_eq!(client.take(5).unwrap(), b"hello");
    let data: Vec<u8> =
        (0..8_000_000_u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();

    let mut back = Vec::new();
    let mut sent = 0;
    while sent < data.len() {
        sent += client.send_some(&data[sent..]);
        back.extend(client.take_some().unwrap());
    }
    client.finish();
    back.extend(client.take_rest().unwrap());

    assert!(back.strip_suffix(b"bye".as_slice()) == Some(data.as_slice()), "{} bytes", back.len());
}

/// RFC 9110 §7.8: the body comes first, the new protocol after it.
#[test]
fn an_upgrade_with_a_body_keeps_body_and_tunnel_apart() {
    let upstream = Upstream::start(|connection| {
        let request = connection.request()?;
        if request.field("upgrade").is_none() {
            return connection.answer(request.text());
        }
        connection.try_send(format!("{SWITCH}{}|", request.text()))?;
        let some =
            connection.take(6).map_err(|error| std::io::Error::other(format!("{error:?}")))?;
        connection.try_send(some)
    });
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    client.send(UPGRADE.replace("\r\n\r\n", "\r\nContent-Length: 4\r\n\r\nbody"));
    let answer = client.response();

    // An upgrade may be ignored.
    if answer.status() == 101 {
        client.send("tunnel");
        assert_eq!(client.take_rest().unwrap(), b"body|tunnel");
    } else {
        assert_eq!((answer.status(), answer.text()), (200, "body"));
    }
}

/// An upstream may say no; then it was a request like any other.
#[test]
fn a_refused_upgrade_leaves_an_ordinary_connection() {
    let upstream = Upstream::sending("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    let gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    for _ in 0..2 {
        let answer = client.exchange(UPGRADE);

        assert_eq!((answer.status(), answer.text()), (403, "no"));
        assert!(!answer.says_close(), "{answer:?}");
    }
}

/// RFC 9110 §7.8 leaves upgrades to each hop; h2c behind a gateway's back is a smuggling tunnel.
#[test]
fn an_upgrade_to_h2c_is_not_forwarded() {
    let upstream = Upstream::answering("plain");
    let gateway = Gateway::to(&upstream);

    for upgrade in ["h2c", "H2C", "websocket, h2c", "h2c, websocket", "h2", "HTTP/2.0"] {
        let answer = gateway.ask(
            "GET",
            "/",
            &format!(
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\nHTTP2-Settings: AAMAAABk\r\n"
            ),
        );

        assert!([200, 400].contains(&answer.status()), "{upgrade}: {answer:?}");
        if answer.status() == 200 {
            let request = upstream.last_request();
            let passed = request.all("upgrade").concat().to_ascii_lowercase();
            assert!(!passed.contains("h2"), "{upgrade}: {request:?}");
            assert!(!passed.contains("http/2"), "{upgrade}: {request:?}");
            assert_eq!(request.field("http2-settings"), None);
        }
    }
}

/// HTTP/1.0 has no upgrades (RFC 9110 §7.8).
#[test]
fn an_upgrade_in_http_1_0_is_ignored() {
    let upstream = Upstream::answering("plain");
    let gateway = Gateway::to(&upstream);

    let answer = gateway.connect().exchange(UPGRADE.replace("HTTP/1.1", "HTTP/1.0"));

    assert_eq!((answer.status(), answer.text()), (200, "plain"));
    assert_eq!(upstream.last_request().field("upgrade"), None);
}

#[test]
fn a_tunnel_that_is_silent_for_too_long_is_closed() {
    let upstream = echo_tunnel();
    let gateway = Gateway::to_with(
        &upstream,
        json!({ "upstreams": { "test": { "timeouts": { "idle_ms": 1000 } } } }),
    );
    let mut client = gateway.connect();
    assert_eq!(client.exchange(UPGRADE).status(), 101);
    assert_eq!(client.take(5).unwrap(), b"hello");

    // Used, it stays; unused, it ends.
    for _ in 0..15 {
        std::thread::sleep(Duration::from_millis(100));
        client.send("x");
        assert_eq!(client.take(1).unwrap(), b"x");
    }

    // The upstream's farewell may be cut off with the tunnel.
    let rest = client.take_rest().unwrap_or_default();
    assert!(rest.is_empty() || rest == b"bye", "{rest:?}");
    eventually("the end upstream", || (upstream.ended() == 1).then_some(()));
}

/// A real client and a real server: text, binary, ping, a close with its reason.
#[test]
fn a_real_websocket_works_through_the_gateway() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = Gateway::start(json!({
        "routes": [{ "path": "/ws", "upstream": format!("http://{}", listener.local_addr().unwrap()) }],
    }));
    std::thread::spawn(move || runtime().block_on(serve_websockets(listener)));

    runtime().block_on(async {
        let (mut socket, _) = websocket(&gateway, "/ws").await;
        converse(&mut socket).await;
        let reason = CloseFrame { code: CloseCode::Library(4321), reason: "enough".into() };
        socket.close(Some(reason)).await.unwrap();
        match socket.next().await {
            Some(Ok(Message::Close(Some(frame)))) => assert_eq!(frame.reason.as_str(), "enough"),
            other => panic!("{other:?}"),
        }
    });
}

/// The built-in upstream speaks WebSocket too.
#[test]
fn the_echo_upstream_sends_messages_back() {
    let gateway = Gateway::start(json!({ "routes": [{ "path": "/", "upstream": "echo" }] }));

    runtime().block_on(async {
        let (mut socket, _) = websocket(&gateway, "/any").await;
        converse(&mut socket).await;
    });
}

type Socket = tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>;

async fn websocket(
    gateway: &Gateway,
    path: &str,
) -> (Socket, tokio_tungstenite::tungstenite::handshake::client::Response) {
    let stream = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
    tokio_tungstenite::client_async(format!("ws://gateway.test{path}"), stream).await.unwrap()
}

async fn converse(socket: &mut Socket) {
    let large = vec![7; 1_000_000];
    for message in [Message::text("grüße"), Message::text(""), Message::binary(large)] {
        socket.send(message.clone()).await.unwrap();
        let answer = tokio::time::timeout(crate::harness::DEADLINE, socket.next()).await.unwrap();
        assert!(answer.unwrap().unwrap() == message);
    }
    socket.send(Message::Ping(b"here?"[..].into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong(b"here?"[..].into()));
}

async fn serve_websockets(listener: TcpListener) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.unwrap();
            }
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
