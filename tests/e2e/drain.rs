//! Signals: how a gateway ends without losing a request.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{DEADLINE, Gateway, Launch, Upstream, WireError, eventually};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// An upstream that answers `/held` only when told to.
fn held() -> (Upstream, mpsc::Sender<()>) {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |connection| {
        loop {
            if connection.request()?.target() == "/held" {
                // An error means that the test has ended.
                let _ = wait.lock().unwrap().recv_timeout(DEADLINE);
            }
            connection.answer("done")?;
        }
    });
    (upstream, go)
}

#[test]
fn a_request_in_flight_is_finished_before_the_gateway_ends() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let (upstream, go) = held();
        let mut gateway = Gateway::to(&upstream);
        let mut client = gateway.connect();
        client.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
        upstream_has(&upstream, 1);

        gateway.signal(signal);
        eventually("the end of accepting", || {
            std::net::TcpStream::connect(gateway.address()).is_err().then_some(())
        });
        assert!(gateway.is_running());
        go.send(()).unwrap();
        let answer = client.response();

        assert_eq!((answer.status(), answer.text()), (200, "done"), "{signal:?}");
        assert!(answer.says_close(), "{answer:?}");
        client.closed();
        assert_eq!(gateway.exit_code(), 0, "{signal:?}");
    }
}

fn upstream_has(upstream: &Upstream, requests: usize) {
    eventually("requests upstream", || (upstream.requests().len() == requests).then_some(()));
}

/// Load balancers look at `/readyz`; it must answer while the rest drains.
#[test]
fn a_draining_gateway_is_alive_and_not_ready() {
    let (upstream, go) = held();
    let mut gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();
    client.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
    upstream_has(&upstream, 1);

    gateway.signal(Signal::TERM);

    eventually("readiness to end", || (gateway.admin("/readyz").status() == 503).then_some(()));
    assert_eq!(gateway.admin("/livez").status(), 200);
    go.send(()).unwrap();
    assert_eq!(client.response().text(), "done");
    assert_eq!(gateway.exit_code(), 0);
}

#[test]
fn idle_connections_do_not_hold_up_a_drain() {
    let upstream = Upstream::answering("hello");
    let mut gateway = Gateway::to(&upstream);
    let _silent: Vec<_> = (0..5).map(|_| gateway.connect()).collect();
    let mut idle: Vec<_> = (0..5).map(|_| gateway.connect()).collect();
    for client in &mut idle {
        assert_eq!(client.exchange(GET).text(), "hello");
    }

    let start = Instant::now();
    gateway.signal(Signal::TERM);

    assert_eq!(gateway.exit_code(), 0);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    for client in &mut idle {
        client.closed();
    }
}

/// Bodies in both directions that are on their way when the signal comes.
/// Some clients end a request with an empty line too many. That is not the beginning of another one.
#[test]
fn an_empty_line_does_not_hold_up_a_drain() {
    let upstream = Upstream::answering("hello");
    let mut gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();
    assert_eq!(client.exchange(format!("{GET}\r\n")).text(), "hello");
    assert!(client.is_silent(Duration::from_millis(50)));
    let start = Instant::now();

    gateway.signal(Signal::TERM);

    assert_eq!(gateway.exit_code(), 0);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn bodies_on_their_way_arrive_whole() {
    let upstream = Upstream::echoing();
    let mut gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n");
    client.send(vec![b'x'; 1_000_000]);
    eventually("the first half", || (upstream.connections() == 1).then_some(()));

    gateway.signal(Signal::TERM);
    eventually("the end of accepting", || {
        std::net::TcpStream::connect(gateway.address()).is_err().then_some(())
    });
    client.send(vec![b'x'; 1_000_000]);

    assert_eq!(client.response().body.len(), 2_000_000);
    assert_eq!(gateway.exit_code(), 0);
}

/// Under load: every request that reached the upstream was answered, and every client saw either
/// an answer or a connection that ended before the gateway had taken the request.
#[test]
fn no_request_is_lost_when_the_signal_comes_under_load() {
    let upstream = Upstream::start(|connection| {
        loop {
            let request = connection.request()?;
            connection.answer(request.target())?;
        }
    });
    let mut gateway = Gateway::to(&upstream);
    let address = gateway.address().to_owned();
    let answered = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let (address, answered) = (address.clone(), Arc::clone(&answered));
            std::thread::spawn(move || load(&address, client, &answered))
        })
        .collect();
    eventually("load", || (answered.load(Ordering::SeqCst) > 400).then_some(()));

    gateway.signal(Signal::TERM);
    assert_eq!(gateway.exit_code(), 0);

    let lost: Vec<String> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    let reached: Vec<String> =
        upstream.requests().iter().map(|request| request.target().to_owned()).collect();
    let lost: Vec<&String> = lost.iter().filter(|target| reached.contains(target)).collect();
    assert!(lost.is_empty(), "reached the upstream and was never answered: {lost:?}");
    assert_eq!(reached.len(), answered.load(Ordering::SeqCst));
}

/// Asks until nobody listens any more, half of the time on new connections: what got no answer.
fn load(address: &str, client: usize, answered: &AtomicUsize) -> Vec<String> {
    let mut lost = Vec::new();
    let mut wire = None;
    for number in 0.. {
        let target = format!("/{client}/{number}");
        let mut connection = match wire.take() {
            Some(connection) => connection,
            None => match std::net::TcpStream::connect(address) {
                Ok(socket) => crate::harness::Wire::tcp(socket),
                Err(_) => return lost,
            },
        };
        let sent = connection.try_send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        match connection.try_response() {
            Ok(answer) => {
                assert_eq!(answer.text(), target);
                answered.fetch_add(1, Ordering::SeqCst);
                wire = (!answer.says_close() && number % 2 == 0).then_some(connection);
            }
            Err(WireError::Closed | WireError::Reset) => lost.push(target),
            Err(other) => panic!("{target}, sent: {sent:?}: {other:?}"),
        }
    }
    lost
}

/// Interface §1: exit code 6.
#[test]
fn a_drain_that_takes_too_long_is_cut_and_says_so() {
    let (upstream, _go) = held();
    let mut gateway = Gateway::to_with(&upstream, json!({ "drain_timeout_ms": 300 }));
    let mut client = gateway.connect();
    client.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
    upstream_has(&upstream, 1);

    gateway.signal(Signal::TERM);

    assert_eq!(gateway.exit_code(), 6);
    assert!(client.try_response().is_err());
}

/// A tunnel has no end of its own to wait for.
#[test]
fn a_tunnel_does_not_outlive_the_drain() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        connection.try_send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )?;
        let _ = connection.take_some();
        Ok(())
    });
    let mut gateway = Gateway::to_with(&upstream, json!({ "drain_timeout_ms": 500 }));
    let mut client = gateway.connect();
    let answer = client.exchange(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(answer.status(), 101);

    gateway.signal(Signal::TERM);

    assert!([0, 6].contains(&gateway.exit_code()));
    client.closed();
}

/// An operator who presses Ctrl-C twice means it.
#[test]
fn a_second_signal_stops_at_once() {
    let (upstream, _go) = held();
    let mut gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();
    client.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
    upstream_has(&upstream, 1);

    gateway.signal(Signal::INT);
    eventually("the end of accepting", || {
        std::net::TcpStream::connect(gateway.address()).is_err().then_some(())
    });
    let start = Instant::now();
    gateway.signal(Signal::INT);

    gateway.exit_code();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

/// Signals that ask for what this version cannot do yet must not end it: their default would.
#[test]
fn other_signals_do_not_end_the_gateway() {
    let upstream = Upstream::answering("hello");
    let mut gateway = Gateway::to(&upstream);
    let mut client = gateway.connect();

    for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::PIPE] {
        gateway.signal(signal);
        assert_eq!(client.exchange(GET).text(), "hello");
    }

    assert_eq!(gateway.get("/").text(), "hello");
    assert!(gateway.is_running());
}

/// After a crash the socket's file is still there.
#[test]
fn a_stale_unix_socket_does_not_keep_a_gateway_from_starting() {
    let dir = tempfile::TempDir::new().unwrap();
    let socket = dir.path().join("gateway.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());

    let gateway = Launch::config(json!({
        "listeners": [{ "address": format!("unix:{}", socket.display()) }],
        "routes": [{ "path": "/", "respond": { "status": 200, "body": "hello" } }],
    }))
    .start();

    assert_eq!(gateway.get("/").text(), "hello");
}
