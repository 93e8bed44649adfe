//! Loads against servers of a few lines; the command against the gateway is in `tests/e2e`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::*;

const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// Does on each connection what the script says, until the end of the test.
fn server(
    script: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let script = Arc::new(script);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let script = Arc::clone(&script);
            // The end of the script, good or bad, is the end of the connection.
            std::thread::spawn(move || script(&mut stream));
        }
    });
    address
}

/// Reads one request without a body.
fn request(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    Ok(())
}

/// Answers over HTTP/2, after `hold` each time.
fn http2_server(hold: impl Fn() + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let socket = listener.accept().unwrap().0;
            socket.set_nonblocking(true).unwrap();
            let socket = tokio::net::TcpStream::from_std(socket).unwrap();
            let mut connection = h2::server::handshake(socket).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                hold();
                respond.send_response(http::Response::new(()), true).unwrap();
            }
        });
    });
    address
}

fn hello() -> SocketAddr {
    server(|stream| {
        loop {
            request(stream)?;
            stream.write_all(HELLO)?;
        }
    })
}

fn plan(target: SocketAddr) -> Plan {
    let url = Target::parse(&format!("http://{target}/")).unwrap();
    Plan {
        target,
        connections: 4,
        per_request: false,
        rate: None,
        warmup: Duration::ZERO,
        window: Duration::from_secs(20),
        requests: Some(50),
        timeout: Duration::from_secs(10),
        tls: None,
        request: Request::new(&url, "GET", &[], None, false).unwrap(),
        expected: Expected::Success,
        tunnel: None,
    }
}

fn outcome(plan: &Plan, threads: usize) -> Outcome {
    run(plan, threads, &Live::default()).unwrap()
}

#[test]
fn exactly_so_many_requests_are_sent_whatever_the_threads() {
    for (threads, connections) in [(1, 4), (3, 4), (8, 2)] {
        let plan = Plan { connections, ..plan(hello()) };

        let outcome = outcome(&plan, threads);

        assert_eq!((outcome.successes, outcome.failures()), (50, 0), "{outcome:?}");
        assert_eq!(outcome.connects, connections as u64);
        assert_eq!(outcome.bytes_received, 50 * HELLO.len() as u64);
        assert_eq!(outcome.bytes_sent, 50 * plan.request.bytes.len() as u64);
    }
}

#[test]
fn a_rate_is_kept_by_all_threads_together() {
    let plan = Plan {
        rate: Some(500),
        requests: None,
        window: Duration::from_millis(400),
        ..plan(hello())
    };

    let outcome = outcome(&plan, 2);

    assert!((195..=205).contains(&outcome.requests()), "{outcome:?}");
    assert_eq!(outcome.failures(), 0, "{outcome:?}");
}

/// The only connection is blocked for half a second: what was due meanwhile waited, and says so.
#[test]
fn a_stall_at_a_rate_is_seen_by_all_that_it_delayed() {
    let answers = AtomicU64::new(0);
    let address = server(move |stream| {
        loop {
            request(stream)?;
            if answers.fetch_add(1, Ordering::Relaxed) == 20 {
                std::thread::sleep(Duration::from_millis(500));
            }
            stream.write_all(HELLO)?;
        }
    });
    let plan = Plan { rate: Some(200), connections: 1, requests: Some(150), ..plan(address) };

    let outcome = outcome(&plan, 1);

    assert_eq!((outcome.successes, outcome.failures()), (150, 0), "{outcome:?}");
    let within = |ms: u64| outcome.latencies_ns.up_to(ms * 1_000_000);
    // Due every 5 ms, the hundred in those 500 ms waited 500, 495, 490, … ms.
    assert!(outcome.latencies_ns.max() >= 495_000_000, "{outcome:?}");
    assert!((150 - within(250)) >= 45, "{} waited more than 250 ms", 150 - within(250));
}

/// What was due in the window is sent after it when nobody was free before: a slot that is late for the end must
/// not make the server look as if it had not answered.
#[test]
fn what_was_due_is_sent_though_the_window_has_ended() {
    for over_http2 in [false, true] {
        let (end, ended) = std::sync::mpsc::channel();
        let ended = std::sync::Mutex::new(Some(ended));
        let hold = move || {
            if let Some(ended) = ended.lock().unwrap().take() {
                ended.recv().unwrap();
            }
        };
        let target = if over_http2 {
            http2_server(hold)
        } else {
            server(move |stream| {
                loop {
                    request(stream)?;
                    hold();
                    stream.write_all(HELLO)?;
                }
            })
        };
        let mut plan = Plan {
            rate: Some(20),
            connections: 1,
            requests: None,
            window: Duration::from_millis(500),
            ..plan(target)
        };
        if over_http2 {
            plan.request = plan.request.over_http2(1).unwrap();
        }

        let mut edge = |edge| {
            if edge == Edge::Ends {
                end.send(()).unwrap();
            }
        };
        let outcome = run_here(&plan, &Live::default(), &mut edge).unwrap();

        let (good, bad) = (outcome.successes, outcome.failures());
        // The window is as long from its own beginning, which may be a moment after the first request.
        assert!((10..=11).contains(&good) && bad == 0, "{over_http2}: {good} and {bad}");
    }
}

#[test]
fn bodies_end_where_their_framing_says() {
    for (answer, ends) in [
        (&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"[..], false),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", true),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", true),
        (b"HTTP/1.1 204 No Content\r\n\r\n", false),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false),
    ] {
        let text = String::from_utf8_lossy(answer);
        let address = server(move |stream| {
            loop {
                request(stream)?;
                // In two pieces, so that a head comes apart too.
                stream.write_all(&answer[..7])?;
                std::thread::sleep(Duration::from_millis(1));
                stream.write_all(&answer[7..])?;
                if ends {
                    return Ok(());
                }
            }
        });

        let outcome = outcome(&plan(address), 1);

        assert_eq!((outcome.successes, outcome.failures()), (50, 0), "{text}: {outcome:?}");
        assert_eq!(outcome.connects > 4, ends, "{text}: {outcome:?}");
    }
}

/// A tunnel counts messages, not its beginning.
#[test]
fn messages_in_a_tunnel_are_answered_each() {
    let address = server(|stream| {
        request(stream)?;
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")?;
        let mut message = [0; 4];
        loop {
            stream.read_exact(&mut message)?;
            stream.write_all(b"reply!")?;
        }
    });
    let plan = Plan {
        tunnel: Some(Tunnel { message: (*b"ping").into(), reply_bytes: 6 }),
        ..plan(address)
    };

    let outcome = outcome(&plan, 1);

    assert_eq!(
        (outcome.successes, outcome.failures(), outcome.connects),
        (50, 0, 4),
        "{outcome:?}"
    );
}

#[test]
fn a_stop_ends_a_load_that_would_go_on() {
    let plan = Plan { requests: None, window: Duration::MAX, ..plan(hello()) };
    let live = Live::default();

    let outcome = std::thread::scope(|scope| {
        let load = scope.spawn(|| run(&plan, 2, &live).unwrap());
        while live.counts().0 == 0 {
            std::thread::yield_now();
        }
        live.stop.store(true, Ordering::Relaxed);
        load.join().unwrap()
    });

    assert!(outcome.successes > 0 && outcome.window_ns > 0, "{outcome:?}");
}
