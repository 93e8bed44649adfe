//! Signals: how a gateway ends without losing a request.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{DEADLINE, Gateway, Launch, Upstream, WireError, eventually, try_connect};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A gateway that stops waits for a client that has connected, but not for long: one that this machine
/// has kept from sending for so long proves nothing.
const STALL: Duration = Duration::from_millis(100);

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

/// A restart on a Unix socket: the old gateway drains while the new one serves.
#[test]
fn a_gateway_that_ends_leaves_the_socket_of_the_next_one_alone() {
    let dir = tempfile::TempDir::new().unwrap();
    let socket = format!("unix:{}", dir.path().join("socket").display());
    let (upstream, go) = held();
    let listen = json!({ "listeners": [{ "address": socket }] });
    let mut old = Gateway::to_with(&upstream, listen.clone());
    let mut client = old.connect();
    client.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
    upstream_has(&upstream, 1);

    old.signal(Signal::TERM);
    eventually("the end of accepting", || (!dir.path().join("socket").exists()).then_some(()));
    let upstream = Upstream::answering("new");
    let new = Gateway::to_with(&upstream, listen);
    go.send(()).unwrap();
    assert_eq!(client.response().text(), "done");
    assert_eq!(old.exit_code(), 0);

    assert_eq!(new.get("/").text(), "new");
}

/// A count that goes down looks like a restart, and up again like all requests at once.
#[test]
fn what_a_worker_has_counted_is_not_forgotten_when_it_ends() {
    let (upstream, go) = held();
    // Dealt out in turn, so that both workers count something.
    let workers = json!({ "count": 2, "pin": false, "acceptors": "dedicated" });
    let mut gateway = Gateway::to_with(&upstream, json!({ "workers": workers }));
    let mut client = gateway.connect();
    client.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
    upstream_has(&upstream, 1);
    for _ in 0..4 {
        gateway.connect().send("bad\r\n\r\n");
    }
    gateway.counts("zproxy_connections_accepted_total", &[], 5.0);

    gateway.signal(Signal::TERM);
    eventually("the end of a worker", || {
        gateway.admin("/workers").text().contains("\"ended\"").then_some(())
    });

    let metrics = gateway.metrics();
    let accepted = metrics.sum("zproxy_connections_accepted_total", &[]);
    assert!(accepted >= 5.0, "{accepted}");
    assert!(metrics.sum("zproxy_connections", &[]) <= 2.0);
    go.send(()).unwrap();
    assert_eq!(client.response().text(), "done");
    assert_eq!(gateway.exit_code(), 0);
}

/// Log files are rotated whatever the gateway is doing.
#[test]
fn a_draining_gateway_still_opens_its_logs_anew() {
    let (upstream, go) = held();
    let mut gateway = Gateway::to_with(&upstream, json!({ "access_log": { "path": "log" } }));
    let mut client = gateway.connect();
    client.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
    upstream_has(&upstream, 1);
    gateway.signal(Signal::TERM);
    eventually("readiness to end", || (gateway.admin("/readyz").status() == 503).then_some(()));

    std::fs::rename(gateway.dir.path().join("log"), gateway.dir.path().join("log.1")).unwrap();
    gateway.signal(Signal::USR1);

    eventually("a new log", || gateway.dir.path().join("log").exists().then_some(()));
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

/// Under load: every request that was sent was answered, on new connections as on those that had been
/// kept without a word about closing; and every client saw in the end that nobody listens.
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
    assert!(lost.is_empty(), "sent and not answered: {lost:?}");
    assert_eq!(upstream.requests().len(), answered.load(Ordering::SeqCst));
}

/// Asks until nobody listens any more, half of the time on new connections: what got no answer.
fn load(address: &str, client: usize, answered: &AtomicUsize) -> Vec<String> {
    let mut lost = Vec::new();
    let mut wire = None;
    for number in 0.. {
        let target = format!("/{client}/{number}");
        let start = Instant::now();
        let mut connection = match wire.take() {
            Some(connection) => connection,
            None => match try_connect(address) {
                Ok(connection) => connection,
                Err(_) => return lost,
            },
        };
        let sent = connection.try_send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let sent_after = start.elapsed();
        match connection.try_response() {
            Ok(answer) => {
                assert_eq!(answer.text(), target);
                answered.fetch_add(1, Ordering::SeqCst);
                wire = (!answer.says_close() && number % 2 == 0).then_some(connection);
            }
            Err(_) if sent_after > STALL => {}
            Err(WireError::Closed | WireError::Reset) => lost.push(target),
            Err(other) => panic!("{target}, sent: {sent:?}: {other:?}"),
        }
    }
    lost
}

/// Clients that connect while the gateway stops: each one gets a whole answer, or no connection. None
/// sees a connection that was made and then cut.
#[test]
fn who_connects_during_the_drain_is_answered_or_refused() {
    for listener in ["tcp", "unix", "dedicated"] {
        let mut config = json!({
            "workers": { "count": 4, "pin": false },
            "routes": [{ "path": "/", "respond": { "status": 200, "body": "hello" } }],
        });
        let dir = tempfile::TempDir::new().unwrap();
        match listener {
            "unix" => {
                let socket = format!("unix:{}", dir.path().join("gateway.sock").display());
                config["listeners"] = json!([{ "address": socket }]);
            }
            "dedicated" => config["workers"]["acceptors"] = json!("dedicated"),
            _ => {}
        }
        let mut gateway = Launch::config(config).start();
        let answered = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = (0..24)
            .map(|_| {
                let (address, answered) = (gateway.address().to_owned(), Arc::clone(&answered));
                std::thread::spawn(move || connect_again_and_again(&address, &answered))
            })
            .collect();
        eventually("load", || (answered.load(Ordering::SeqCst) > 400).then_some(()));

        let start = Instant::now();
        gateway.signal(Signal::TERM);

        assert_eq!(gateway.exit_code(), 0, "{listener}");
        let took = start.elapsed();
        let cut: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
        assert_eq!(cut, 0, "{listener}: of {answered:?}");
        assert!(took < Duration::from_secs(3), "{listener}: {took:?}");
    }
}

/// One request per connection, until there is no connection any more: how many were cut.
fn connect_again_and_again(address: &str, answered: &AtomicUsize) -> usize {
    let mut cut = 0;
    loop {
        let start = Instant::now();
        let Ok(mut wire) = try_connect(address) else { return cut };
        let sent = wire.try_send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let sent_after = start.elapsed();
        match wire.try_response() {
            Ok(answer) => {
                assert_eq!(answer.text(), "hello");
                answered.fetch_add(1, Ordering::SeqCst);
            }
            Err(_) if sent_after > STALL => {}
            Err(error) => {
                eprintln!("{error:?}, sent: {sent:?}");
                cut += 1;
            }
        }
    }
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

/// A tunnel has no end of its own to wait for, and of most protocols it is not known how to say goodbye.
#[test]
fn a_tunnel_does_not_outlive_the_drain() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        connection.try_send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tunnel\r\n\r\n",
        )?;
        let _ = connection.take_some();
        Ok(())
    });
    let mut gateway = Gateway::to_with(&upstream, json!({ "drain_timeout_ms": 500 }));
    let mut client = gateway.connect();
    let answer = client
        .exchange("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tunnel\r\n\r\n");
    assert_eq!(answer.status(), 101);

    gateway.signal(Signal::TERM);

    assert_eq!(gateway.exit_code(), 6);
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

    assert_eq!(gateway.exit_code(), 0);
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

/// The next gateway takes the path over while the last request of the one before is still answered.
#[test]
fn a_gateway_that_ends_leaves_its_successors_socket_alone() {
    let dir = tempfile::TempDir::new().unwrap();
    let socket = format!("unix:{}", dir.path().join("gateway.sock").display());
    let (upstream, go) = held();
    let listeners = json!({ "listeners": [{ "address": socket }] });
    let mut before = Gateway::to_with(&upstream, listeners.clone());
    let mut client = before.connect();
    client.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
    upstream_has(&upstream, 1);

    before.signal(Signal::TERM);
    eventually("the end of accepting", || try_connect(&socket).is_err().then_some(()));
    let after = Gateway::to_with(&upstream, listeners);
    go.send(()).unwrap();

    assert_eq!(client.response().text(), "done");
    assert_eq!(before.exit_code(), 0);
    assert_eq!(after.get("/").text(), "done");
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
