//! Plugins that are shown the messages of WebSockets.
//!
//! The guest `messages` does what the text of a message says.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::harness::websocket::{Seen, Server, Socket, closed, open, say};
use crate::harness::{Gateway, guest, run};

/// Before the echo, through these configurations of the guest.
fn gateway(chain: &[Value]) -> Gateway {
    let chain: Vec<Value> =
        chain.iter().map(|config| json!({ "plugin": "messages", "config": config })).collect();
    of("echo", Value::Array(chain))
}

fn of(upstream: &str, chain: Value) -> Gateway {
    Gateway::start(json!({
        "workers": { "count": 1, "pin": false },
        "plugins": { "messages": { "path": guest("messages") } },
        "routes": [{ "path": "/", "upstream": upstream, "middleware": chain }],
    }))
}

fn hears(socket: &mut Socket) -> Message {
    socket.read().unwrap()
}

/// `inspect` is not written anywhere: who wants to see messages is shown them.
#[test]
fn messages_are_passed_replaced_and_dropped() {
    let gateway = gateway(&[json!({ "from": "client" })]);
    let mut socket = open(&gateway);

    for text in ["upper case", "drop this", "as it is", "", "path"] {
        say(&mut socket, text);
    }
    socket.send(Message::binary(vec![1, 2, 3])).unwrap();

    for expected in ["UPPER CASE", "as it is", "", "/"] {
        assert_eq!(hears(&mut socket), Message::text(expected));
    }
    assert_eq!(hears(&mut socket), Message::binary(vec![3, 2, 1]));
    gateway.counts(
        "zproxy_plugin_calls_total",
        &[("hook", "on-message"), ("outcome", "next")],
        11.0,
    );
}

/// A client's messages go down the chain, a server's back up.
#[test]
fn plugins_are_shown_messages_in_the_order_of_the_chain_and_back() {
    let gateway = gateway(&[json!({ "mark": "1" }), json!({ "mark": "2" })]);
    let mut socket = open(&gateway);

    say(&mut socket, "x");

    assert_eq!(hears(&mut socket), Message::text("x1221"));
}

/// What belongs to one WebSocket is kept in the notes of its exchange.
#[test]
fn notes_last_as_long_as_the_websocket() {
    let gateway = gateway(&[json!({ "from": "client" })]);
    let (mut one, mut other) = (open(&gateway), open(&gateway));

    for (socket, count) in [(&mut one, "1"), (&mut other, "1")] {
        say(socket, "count");
        assert_eq!(hears(socket), Message::text(count));
    }
    for count in ["2", "3"] {
        say(&mut one, "count");
        assert_eq!(hears(&mut one), Message::text(count));
    }
}

#[test]
fn a_plugin_closes_both_ends() {
    let server = Server::start();
    let chain = json!([{ "plugin": "messages", "config": {} }]);
    let gateway = of(&format!("http://{}", server.address), chain);
    let mut socket = open(&gateway);

    say(&mut socket, "shut 4001 not here");

    assert_eq!(closed(&mut socket), Some((4001, "not here".into())));
    assert_eq!(server.sees(), Seen::Closed(Some((4001, "not here".into()))));
    gateway.counts("zproxy_websocket_closes_total", &[("by", "plugin"), ("code", "4xxx")], 1.0);
}

/// A trap, a rule that is broken: 1011, and the next WebSocket finds a new instance.
#[test]
fn a_hook_that_fails_closes_both_ends() {
    let server = Server::start();
    let chain = json!([{ "plugin": "messages", "config": {} }]);
    let gateway = of(&format!("http://{}", server.address), chain);

    for told in ["panic", "large", "shut 1006 never", "shut 4000 ", "loop"] {
        let told =
            if told.ends_with("4000 ") { &format!("{told}{}", "y".repeat(124)) } else { told };
        let mut socket = open(&gateway);
        say(&mut socket, told);
        assert_eq!(closed(&mut socket), Some((1011, String::new())), "{told}");
        assert_eq!(server.sees(), Seen::Closed(Some((1011, String::new()))));
    }
    let mut socket = open(&gateway);
    say(&mut socket, "quite well");
    assert_eq!(hears(&mut socket), Message::text("quite well"));
}

#[test]
fn a_hook_that_fails_open_lets_the_message_pass() {
    let gateway = of(
        "echo",
        json!([{ "plugin": "messages", "config": { "from": "client" }, "on_error": "open" }]),
    );
    let mut socket = open(&gateway);

    for told in ["panic", "upper", "shut 1006 never"] {
        say(&mut socket, told);
    }

    for expected in ["panic", "UPPER", "shut 1006 never"] {
        assert_eq!(hears(&mut socket), Message::text(expected));
    }
}

/// A protection that would never be called is none.
#[test]
fn a_route_that_keeps_messages_from_a_plugin_is_refused() {
    let dir = tempfile::TempDir::new().unwrap();
    let check = |websocket: Value, chain: Value| {
        let config = json!({
            "plugins": { "messages": { "path": guest("messages") } },
            "routes": [{ "path": "/", "upstream": "echo", "middleware": chain, "websocket": websocket }],
        });
        std::fs::write(dir.path().join("zproxy.json"), config.to_string()).unwrap();
        run(dir.path(), &["check"])
    };

    let blind = check(json!({ "inspect": false }), json!(["messages"]));
    assert_eq!(blind.code, Some(3), "{blind:?}");
    assert!(blind.stderr.contains("routes[0].websocket.inspect"), "{blind:?}");
    assert!(
        blind.stderr.contains("plugin `messages` of this route wants to see messages"),
        "{blind:?}"
    );
    let idle = check(
        json!({ "messages_per_second": 5 }),
        json!([{ "plugin": "rate-limit", "config": { "requests_per_minute": 60 } }]),
    );
    assert!(idle.stderr.contains("which no plugin of this route wants to see"), "{idle:?}");
    assert_eq!(check(json!({ "messages_per_second": 5 }), json!(["messages"])).code, Some(0));
}
