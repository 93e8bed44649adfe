//! `zproxy bench`: what it sends, what it counts, and that it tells good servers from bad ones.
//!
//! Not here: its arithmetic (unit tests of `load`).

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::tls::Authority;
use crate::harness::{Gateway, Launch, Run, Upstream, eventually, run, spawn};
use crate::tls::Site;

/// A gateway whose `/echo` answers.
fn gateway() -> Gateway {
    Launch::flags(&["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).start()
}

fn bench(arguments: &[&str]) -> Run {
    let mut all = vec!["bench"];
    all.extend(arguments);
    run(TempDir::new().unwrap().path(), &all)
}

/// The report of a load on a URL.
#[track_caller]
fn report(url: &str, flags: &str) -> Value {
    let mut arguments = vec![url, "--format", "json"];
    arguments.extend(flags.split_whitespace());
    let run = bench(&arguments);
    assert!(matches!(run.code, Some(0 | 1)), "{run:?}");
    let report: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run:?}"));
    assert_eq!(run.code == Some(0), report["statuses"] != json!({}), "{run:?}");
    report
}

#[test]
fn the_report_of_kept_connections_adds_up() {
    let gateway = gateway();
    let url = format!("http://{}/echo", gateway.address());

    let report = report(&url, "--concurrency 8 --requests 400 --threads 2");

    assert_eq!(report["requests"], 400, "{report}");
    assert_eq!((&report["successes"], &report["success_rate"]), (&json!(400), &json!(1.0)));
    assert_eq!(report["statuses"], json!({ "200": 400 }));
    assert_eq!(report["errors"]["total"], 0);
    assert_eq!((&report["connections"], &report["connect_us"]["count"]), (&json!(8), &json!(8)));
    let latency = |name: &str| report["latency_us"][name].as_f64().unwrap();
    let rising = ["min", "p50", "p90", "p99", "p99.9", "max"].map(latency);
    assert!(rising[0] > 0.0 && rising.is_sorted(), "{report}");
    assert!((rising[0]..=rising[5]).contains(&latency("avg")), "{report}");
    let counts = report["latency_histogram"].as_array().unwrap();
    assert_eq!(counts.iter().map(|bucket| bucket["count"].as_u64().unwrap()).sum::<u64>(), 400);
    let second = report["seconds"].as_f64().unwrap();
    let rate = report["requests_per_second"].as_f64().unwrap();
    assert!((rate * second - 400.0).abs() < 1.0, "{report}");
}

#[test]
fn over_http_2_requests_share_connections() {
    let gateway = gateway();
    let url = format!("http://{}/echo", gateway.address());

    let closed = report(&url, "--http2 --concurrency 50 --streams 20 --requests 400");
    let paced = report(&url, "--http2 --concurrency 10 --rate 200 --requests 100 --data hello");
    let apart = report(&url, "--http2 --concurrency 4 --requests 20 --no-keepalive");

    assert_eq!(closed["statuses"], json!({ "200": 400 }), "{closed}");
    assert_eq!((&closed["protocol"], &closed["connections"]), (&json!("h2"), &json!(3)));
    assert_eq!(closed["latency_us"]["count"], 400, "{closed}");
    assert!(closed["bytes_received"].as_u64().unwrap() > 10_000, "{closed}");
    assert_eq!(paced["statuses"], json!({ "200": 100 }), "{paced}");
    assert_eq!(paced["connections"], 1, "{paced}");
    assert_eq!((&apart["successes"], &apart["connections"]), (&json!(20), &json!(20)), "{apart}");
}

#[test]
fn over_tls_it_is_the_same() {
    let body = "x".repeat(300_000);
    let upstream = Upstream::answering(&body);
    let site = Site::with(&upstream, |_, _| json!({}), json!({}));
    let dir = TempDir::new().unwrap();
    let root = site.authority.write(dir.path().join("root.pem"));
    std::fs::write(dir.path().join("body"), vec![b'y'; 300_000]).unwrap();
    let url = format!("https://{}/", site.gateway.address());
    let trust = format!("--ca {}", root.display());
    let upload = format!("--data @{}", dir.path().join("body").display());
    for (flags, protocol, connections) in [
        ("--concurrency 4", "h1", 4),
        ("--concurrency 4 --no-keepalive", "h1", 40),
        ("--concurrency 30 --streams 10 --http2", "h2", 3),
        ("--concurrency 4 --rate 200 --http2", "h2", 1),
        ("--concurrency 4 --no-keepalive --http2", "h2", 40),
    ] {
        for upload in ["", &upload] {
            let report = report(&url, &format!("{flags} --requests 40 {trust} {upload}"));

            assert_eq!(report["statuses"], json!({ "200": 40 }), "{flags}: {report}");
            assert_eq!(report["errors"]["total"], 0, "{flags}: {report}");
            assert_eq!(report["protocol"], protocol);
            assert_eq!(report["connections"], connections, "{flags}: {report}");
            assert_eq!(report["tls"]["version"], "TLSv1.3", "{report}");
            assert!(report["bytes_received"].as_u64() >= Some(40 * 300_000), "{flags}: {report}");
        }
    }
}

/// Who does not know why a server is not believed looks for a fault of the server.
#[test]
fn a_server_is_believed_as_flags_say() {
    let upstream = Upstream::answering("ok");
    let h1 = |_: &_, _: &_| json!({ "alpn": ["http/1.1"] });
    let site = Site::with(&upstream, h1, json!({}));
    let url = format!("https://{}/", site.gateway.address());

    let refused = bench(&[&url, "--requests", "5"]);
    let anyway = bench(&[&url, "--requests", "5", "--insecure"]);
    let other = bench(&[&url, "--requests", "5", "--insecure", "--http2"]);

    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stdout.is_empty() && refused.stderr.contains("certificate"), "{refused:?}");
    assert!(refused.stderr.contains("--ca"), "{refused:?}");
    assert_eq!(anyway.code, Some(0), "{anyway:?}");
    assert!(anyway.stdout.contains("TLSv1.3"), "{anyway:?}");
    assert_eq!(other.code, Some(1), "{other:?}");
}

/// An answer that ends with the session is whole when the server has said goodbye, though it keeps its socket.
#[test]
fn a_goodbye_ends_an_answer_over_tls() {
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let config = authority.issue(dir.path(), "a", &["127.0.0.1"]).server();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let config = Arc::clone(&config);
            std::thread::spawn(move || -> std::io::Result<()> {
                let session = rustls::ServerConnection::new(config).unwrap();
                let mut stream = rustls::StreamOwned::new(session, socket);
                let mut request = [0; 1];
                stream.read_exact(&mut request)?;
                stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")?;
                stream.conn.send_close_notify();
                stream.flush()?;
                std::io::copy(&mut stream.sock, &mut std::io::sink()).map(drop)
            });
        }
    });

    let report = report(&url, "--requests 10 --concurrency 2 --insecure");

    assert_eq!(
        (&report["successes"], &report["connections"]),
        (&json!(10), &json!(10)),
        "{report}"
    );
}

#[test]
fn without_keepalive_each_request_has_a_connection() {
    let gateway = gateway();
    let url = format!("http://{}/echo", gateway.address());

    let report = report(&url, "--concurrency 8 --requests 100 --no-keepalive");

    assert_eq!((&report["successes"], &report["connections"]), (&json!(100), &json!(100)));
    assert_eq!(report["connect_us"]["count"], 100, "{report}");
    assert_eq!((&report["keepalive"], &report["errors"]["total"]), (&json!(false), &json!(0)));
}

/// The scenario of 500 connections at once: every one of them succeeds.
#[test]
fn the_profile_of_connections_loses_none() {
    let gateway = gateway();
    let url = format!("http://{}/echo", gateway.address());

    let report = report(&url, "--profile connections --requests 2000");

    assert_eq!((&report["concurrency"], &report["keepalive"]), (&json!(500), &json!(false)));
    assert_eq!((&report["requests"], &report["success_rate"]), (&json!(2_000), &json!(1.0)));
}

#[test]
fn a_rate_is_kept_and_latencies_are_corrected() {
    let gateway = gateway();
    let url = format!("http://{}/echo", gateway.address());

    let paced = report(&url, "--rate 200 --requests 100");
    let closed = report(&url, "--requests 100");

    let seconds = paced["seconds"].as_f64().unwrap();
    // The hundredth request is due 495 ms after the first.
    assert!((0.49..10.0).contains(&seconds), "{paced}");
    assert_eq!(paced["successes"], 100, "{paced}");
    assert_eq!(paced["corrected_for_coordinated_omission"], true);
    assert_eq!(closed["corrected_for_coordinated_omission"], false);
}

#[test]
fn the_table_is_for_people_and_tells_the_same() {
    let gateway = gateway();

    // Without a scheme, as one types it.
    let run = bench(&[&format!("{}/echo", gateway.address()), "--requests", "50", "-c", "5"]);

    assert_eq!(run.code, Some(0), "{run:?}");
    for part in ["100.00 %", "p99.9", "latency", "connect", "200: 50", "up to", "errors"] {
        assert!(run.stdout.contains(part), "{part}: {}", run.stdout);
    }
}

#[test]
fn method_fields_and_body_are_sent_as_given() {
    let upstream = Upstream::answering("ok");
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("body.bin"), "from a file").unwrap();
    let url = upstream.url() + "/path?query=1";
    let bench = |arguments: &[&str]| {
        let mut all = vec!["bench", &url, "-n", "1", "-c", "1"];
        all.extend(arguments);
        assert_eq!(run(dir.path(), &all).code, Some(0));
        upstream.last_request()
    };

    let post = bench(&["--data", "some text", "--header", "X-One: 1", "-H", "Host:other.test"]);
    let put = bench(&["--data", "@body.bin", "--method", "PUT"]);

    assert_eq!(post.start, "POST /path?query=1 HTTP/1.1");
    assert_eq!((post.text(), post.field("x-one")), ("some text", Some("1")));
    assert_eq!(post.field("host"), Some("other.test"));
    assert_eq!((put.start.as_str(), put.text()), ("PUT /path?query=1 HTTP/1.1", "from a file"));
    assert_eq!(put.field("host"), Some(&*upstream.address()));
}

/// What a server does wrong has a name in the report, and is no success.
#[test]
fn each_misbehaviour_is_an_error_of_its_kind() {
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf";
    let more = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nmore than two";
    let bad_chunks =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n";
    let half_chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab";
    let two_lengths = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx";
    for (answer, kind) in [
        (&half[..], "truncated"),
        (b"HTTP/1.1 200 OK\r\nContent-", "truncated"),
        (b"", "truncated"),
        (half_chunks, "truncated"),
        (more, "malformed"),
        (bad_chunks, "malformed"),
        (two_lengths, "malformed"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "malformed"),
    ] {
        let upstream = Upstream::sending_and_closing(answer);

        let report = report(&upstream.url(), "--requests 20 --concurrency 4");

        let text = String::from_utf8_lossy(answer);
        assert_eq!(report["errors"][kind], 20, "{text}: {report}");
        assert_eq!((&report["requests"], &report["successes"]), (&json!(20), &json!(0)));
    }
}

#[test]
fn a_reset_is_told_from_an_end() {
    let upstream = Upstream::start(|connection| {
        connection.request_head()?;
        connection.reset_at_end();
        Ok(())
    });

    let report = report(&upstream.url(), "--requests 20 --concurrency 4");

    assert_eq!(report["errors"]["reset"], 20, "{report}");
}

/// Some of the requests: the others are good, and the share says so.
#[test]
fn the_success_rate_counts_good_answers_among_all_requests() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        connection.answer("ok")?;
        connection.request()?;
        connection.try_send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")?;
        connection.request()?;
        connection.try_send("HTTP/1.1 304 Not Modified\r\n\r\n")?;
        connection.request()?;
        connection.try_send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    });

    let report = report(&upstream.url(), "--requests 40 --concurrency 1");

    assert_eq!(report["statuses"], json!({ "200": 10, "304": 10, "503": 10 }), "{report}");
    assert_eq!(
        (&report["errors"]["status"], &report["errors"]["truncated"]),
        (&json!(10), &json!(10))
    );
    assert_eq!(report["success_rate"], 0.5);
}

/// A server may end a kept connection whenever it is idle (RFC 9112 §9.3.1): no error, a new one.
#[test]
fn a_server_that_closes_kept_connections_is_asked_anew() {
    let silently = Upstream::sending_and_closing("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let announced = Upstream::sending_and_closing(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    );

    for upstream in [silently, announced] {
        for pace in ["", "--rate 1000"] {
            let flags = format!("--requests 50 --concurrency 4 {pace}");
            let report = report(&upstream.url(), &flags);

            assert_eq!(report["successes"], 50, "{pace}: {report}");
            assert_eq!(report["errors"]["total"], 0, "{pace}: {report}");
            assert!(report["connections"].as_u64() >= Some(50), "{pace}: {report}");
            assert!(report["reconnects"].as_u64() >= Some(46), "{pace}: {report}");
        }
    }
}

/// What must not be sent twice is not (RFC 9110 §9.2.2).
#[test]
fn a_post_that_may_have_arrived_is_not_sent_again() {
    let upstream = Upstream::start(|connection| {
        connection.request()?;
        connection.answer("ok")?;
        connection.request_head()?;
        Ok(())
    });

    let report = report(&upstream.url(), "--requests 20 --concurrency 1 --data x");

    let errors = report["errors"]["total"].as_u64().unwrap();
    assert_eq!((errors, &report["successes"]), (10, &json!(10)), "{report}");
}

#[test]
fn who_never_answers_is_given_up_and_its_waiting_is_a_latency() {
    let upstream = Upstream::start(|connection| {
        connection.request_head()?;
        // Until the other side gives up.
        connection.request_head().map(drop)
    });

    let report = report(&upstream.url(), "--requests 8 --concurrency 4 --timeout 300ms");

    assert_eq!(report["errors"]["timeout"], 8, "{report}");
    assert!(report["latency_us"]["min"].as_f64() >= Some(300_000.0), "{report}");
}

#[test]
fn nobody_there_is_exit_code_1() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);

    let refused = bench(&[&format!("http://{address}/"), "--duration", "300ms"]);
    let unknown = bench(&["http://no-such-host.invalid/", "--duration", "300ms"]);

    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stdout.contains("connect: "), "{refused:?}");
    assert!(refused.stderr.contains("answered nothing"), "{refused:?}");
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(unknown.stderr.contains("no-such-host.invalid"), "{unknown:?}");
}

#[test]
fn wrong_usage_is_told_before_anything_is_sent() {
    for (arguments, part) in [
        (&["bench"][..], "URL"),
        (&["bench", "ftp://a.test/"], "http://"),
        (&["bench", "http://a.test/", "--insecure"], "https://"),
        (&["bench", "https://a.test/", "--insecure", "--ca", "a.pem"], "--ca"),
        (&["bench", "https://a.test/", "--ca", "no-such-file"], "no-such-file"),
        (&["bench", "http://a.test/", "--streams", "2"], "--http2"),
        (&["bench", "http://a.test/", "--header", "no colon"], "no colon"),
        (&["bench", "http://a.test/", "--header", "Content-Length: 3"], "Content-Length"),
        (&["bench", "http://a.test/", "--data", "@no-such-file"], "no-such-file"),
        (&["bench", "http://a.test/", "--requests", "0"], "--requests"),
        (&["bench", "http://a.test/", "--duration", "0"], "--duration"),
        (&["bench", "http://a.test/", "--duration", "1y"], "--duration"),
        (&["bench", "http://a.test/", "--profile", "other"], "--profile"),
    ] {
        let run = run(Path::new("/"), arguments);

        assert_eq!(run.code, Some(2), "{arguments:?}: {run:?}");
        assert!(run.stderr.contains(part), "{arguments:?}: {run:?}");
        assert!(run.stdout.is_empty(), "{arguments:?}: {run:?}");
    }
}

/// Ctrl-C on a long run: what was measured so far is the reason to press it.
#[test]
fn an_interrupt_ends_it_early_with_its_report() {
    let upstream = Upstream::answering("ok");
    let dir = TempDir::new().unwrap();
    let arguments = ["bench", &upstream.url(), "--duration", "10m", "--format", "json"];

    let running = spawn(dir.path(), &arguments);
    eventually("requests", || (upstream.requests().len() > 20).then_some(()));
    running.signal(Signal::INT);
    let run = running.end();

    assert_eq!((run.code, &*run.stderr), (Some(0), ""), "{run:?}");
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["interrupted"], true);
    assert!(report["successes"].as_u64() > Some(10), "{report}");
}
