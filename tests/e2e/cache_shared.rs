//! The built-in plugin `cache`: what many clients get for one fetch, each at its own pace.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};

use serde_json::json;

use crate::cache::{FRESH, caching, hit, response};
use crate::harness::{Gateway, Upstream, Wire, guest};

/// A thousand clients that ask for the same at the same time are one request for the upstream, and none of
/// them waits for the end of it.
#[test]
fn clients_who_ask_for_the_same_share_one_fetch_as_it_comes() {
    const CLIENTS: usize = 50;
    let (go, went) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (begin, end) = (Arc::clone(&go), Arc::clone(&went));
    let upstream = Upstream::start(move |connection| {
        connection.request()?;
        begin.wait();
        connection
            .try_send(format!("HTTP/1.1 200 OK\r\n{FRESH}Content-Length: 10\r\n\r\nfirst"))?;
        end.wait();
        connection.try_send("-half")
    });
    let gateway = caching(&upstream, &json!({}));
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.send("GET /slow HTTP/1.1\r\nHost: gateway.test\r\n\r\n");
    }
    gateway.counts("zproxy_connections", &[("state", "active")], 50.0);
    go.wait();

    for client in &mut clients {
        let head = client.try_response_head("GET").unwrap();
        assert_eq!((head.status(), head.field("content-length")), (200, Some("10")));
        assert_eq!(client.take(5).unwrap(), b"first");
    }
    went.wait();
    for client in &mut clients {
        assert_eq!(client.take(5).unwrap(), b"-half");
    }

    assert_eq!(upstream.requests().len(), 1);
    gateway.counts("zproxy_cache_requests_total", &[("result", "collapsed")], 49.0);
    assert_eq!(hit(&gateway, "/slow").text(), "first-half");
}

/// Whoever asked first may leave, or read a byte a minute: that is nobody else's business.
#[test]
fn who_asked_first_holds_nobody_up() {
    let (head, tail) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (begin, end) = (Arc::clone(&head), Arc::clone(&tail));
    let large = "x".repeat(3_000_000);
    let upstream = Upstream::start(move |connection| {
        connection.request()?;
        let length = large.len() + 4;
        connection
            .try_send(format!("HTTP/1.1 200 OK\r\n{FRESH}Content-Length: {length}\r\n\r\nhead"))?;
        begin.wait();
        end.wait();
        connection.try_send(&large)
    });
    let gateway = caching(&upstream, &json!({}));
    let mut slow = gateway.connect();
    slow.receive_little();
    slow.send("GET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n");
    slow.try_response_head("GET").unwrap();
    let mut leaves = gateway.connect();
    leaves.send("GET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n");
    leaves.try_response_head("GET").unwrap();
    head.wait();
    drop(leaves);
    tail.wait();

    assert_eq!(gateway.get("/").body.len(), 3_000_004);

    assert_eq!(upstream.requests().len(), 1);
    hit(&gateway, "/");
    assert_eq!(slow.take(4).unwrap(), b"head");
}

/// One that fails must not take the others along, and one that hangs must not hold them for ever.
#[test]
fn a_fetch_that_fails_or_hangs_is_done_by_another() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let (sent, hang) = mpsc::channel::<()>();
    let hang = std::sync::Mutex::new(hang);
    let upstream = Upstream::start(move |connection| {
        let request = connection.request()?;
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            if request.target() == "/hangs" {
                let _ = hang.lock().unwrap().recv();
            }
            return Ok(());
        }
        connection.try_send(response(FRESH, "answer"))
    });
    let gateway = caching(&upstream, &json!({ "collapse_wait_ms": 300 }));
    for path in ["/fails", "/hangs"] {
        asked.store(0, Ordering::SeqCst);
        let mut clients: Vec<_> = (0..5).map(|_| gateway.connect()).collect();
        for client in &mut clients {
            client.send(format!("GET {path} HTTP/1.1\r\nHost: gateway.test\r\n\r\n"));
        }
        // One of them was first, and it need not be the first that was sent.
        let mut failed = 0;
        for client in &mut clients {
            if failed == 0 && client.is_silent(std::time::Duration::from_secs(10)) {
                failed += 1;
                continue;
            }
            let answer = client.response();
            failed += usize::from(answer.text() != "answer");
        }
        assert!(failed <= 1, "{path}: {failed}");
    }
    drop(sent);
}

/// Who shares a body that is too large to be kept waits for slower ones for some seconds, not for as long as
/// those please.
#[test]
fn a_slow_client_does_not_hold_up_those_who_share_with_it() {
    const CHUNKS: usize = 400;
    let shared = Arc::new(Barrier::new(2));
    let go_on = Arc::clone(&shared);
    let upstream = Upstream::start(move |connection| {
        connection.request()?;
        let chunk = format!("{:x}\r\n{}\r\n", 50_000, "x".repeat(50_000));
        connection
            .try_send(format!("HTTP/1.1 200 OK\r\n{FRESH}Transfer-Encoding: chunked\r\n\r\n"))?;
        connection.try_send("1\r\nx\r\n")?;
        go_on.wait();
        for _ in 0..CHUNKS {
            connection.try_send(&chunk)?;
        }
        connection.try_send("0\r\n\r\n")
    });
    let gateway = caching(&upstream, &json!({ "max_body_bytes": 100_000 }));
    let [mut slow, mut fast] = [gateway.connect(), gateway.connect()];
    slow.receive_little();
    let head = |client: &mut Wire| {
        client.send("GET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n");
        client.try_response_head("GET").unwrap()
    };
    let slow_head = head(&mut slow);
    let answer = head(&mut fast);
    shared.wait();

    let answer = fast.take_body(answer).unwrap();

    assert_eq!(answer.body.len(), CHUNKS * 50_000 + 1);
    assert_eq!(upstream.requests().len(), 1);
    assert!(slow.take_body(slow_head).is_err(), "what it has got looks whole");
}

/// An idle time-out is for who takes nothing, not for who takes long.
#[test]
fn a_hit_may_take_as_long_as_its_client_reads() {
    let body = "x".repeat(16 << 20);
    let upstream = Upstream::start(move |connection| {
        loop {
            connection.request()?;
            connection.try_send(response(FRESH, &body))?;
        }
    });
    let grant = json!({ "bytes_max": 100_000_000, "object_bytes_max": 20_000_000 });
    let gateway = Gateway::start(json!({
        "limits": { "idle_timeout_ms": 2000 },
        "plugins": { "cache": { "path": guest("cache"), "allow": { "cache": grant } } },
        "routes": [{ "path": "/", "upstream": upstream.url(), "middleware": ["cache"] }],
    }));
    hit(&gateway, "/");
    let mut slow = gateway.connect();
    slow.receive_little();
    slow.send("GET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n");
    let head = slow.try_response_head("GET").unwrap();
    assert_eq!(head.field("cache-status"), Some("zproxy; hit"));

    // Slower than the time-out altogether, and never silent for so long.
    for _ in 0..64 {
        std::thread::sleep(std::time::Duration::from_millis(80));
        assert_eq!(slow.take(256 << 10).unwrap().len(), 256 << 10);
    }
}
