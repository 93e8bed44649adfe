//! A WebSocket client and server that many people run, around the gateway: Python's websockets.
//!
//! Not here: what they do (`websocket_calls.py`).

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Gateway, tools};

/// Through a tunnel they agree on compression; where messages are seen they do not.
#[test]
fn pythons_websockets_behave_as_without_a_gateway() {
    let package = "websockets>=14,<17";
    let Some(python) = tools::python("websockets", "websockets.asyncio.server", &[package]) else {
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/websocket_calls.py");
    let mut running = Command::new(python)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(running.stdout.take().unwrap()).lines();
    let port = said.next().unwrap().unwrap();
    let url = format!("http://127.0.0.1:{}", port.strip_prefix("port ").unwrap());
    let gateway = Gateway::start(json!({
        "routes": [
            { "path": "/tunnel", "upstream": url },
            { "path": "/inspect", "upstream": url, "websocket": { "inspect": true } },
        ],
    }));

    let address = format!("{}\n", gateway.address());
    running.stdin.take().unwrap().write_all(address.as_bytes()).unwrap();
    let found: Value = serde_json::from_str(&said.next().expect("results").unwrap()).unwrap();
    assert!(running.wait().unwrap().success());

    let expected = |compressed: bool| {
        json!({
            "subprotocol": "chat",
            "compressed": compressed,
            "echoed": true,
            "fragments": "in three parts",
            "pong": true,
            "streamed": true,
            "closed by the client": [1000, 1000],
            "with a code": [4321, 4321],
            "closed by the server": [4001, "as asked", 4001],
            "at once": true,
        })
    };
    assert_eq!(found, json!({ "tunnel": expected(true), "inspect": expected(false) }));
}
