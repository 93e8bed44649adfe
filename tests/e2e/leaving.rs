//! Clients that leave before their answer is whole: nobody waits for it any more, so nobody shall work for it.
//!
//! While the server is silent nothing is written, so that only looking at the client tells.
//!
//! Not here: clients that finish sending and still listen (`http`), streams that are cancelled (`http2`).

use std::sync::{Mutex, mpsc};

use serde_json::json;

use crate::harness::http2::{PREFACE, await_frame, frame, get_frame};
use crate::harness::{DEADLINE, Gateway, Upstream, Wire, eventually};
use crate::tls::Site;

#[derive(Clone, Copy, Debug)]
enum Protocol {
    Http1,
    Http2,
}

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
enum Leave {
    Reset,
    /// Closes its socket, with TLS without a goodbye.
    Close,
}

/// Asks, waits until the server has the request or until the first part of an answer is here, leaves, and waits until
/// the server has heard of it.
fn leaves(protocol: Protocol, tls: bool, leave: Leave) {
    for answered in [false, true] {
        let (told, ended) = mpsc::channel();
        let told = Mutex::new(told);
        let upstream = Upstream::start(move |connection| {
            connection.request()?;
            if answered {
                connection.try_send(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: one\n\n",
                )?;
            }
            // Until the gateway gives the request up.
            let _ = connection.take_rest();
            told.lock().unwrap().send(()).unwrap();
            Ok(())
        });
        let (site, gateway);
        let mut client: Wire = if tls {
            site = Site::with(&upstream, |_, _| json!({}), json!({}));
            let alpn = if matches!(protocol, Protocol::Http2) { "h2" } else { "http/1.1" };
            site.connect_as(&site.authority.client().alpn(&[alpn]).config())
        } else {
            gateway = Gateway::to(&upstream);
            gateway.connect()
        };
        match protocol {
            Protocol::Http1 => client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            Protocol::Http2 => {
                client.send([PREFACE, &frame(4, 0, 0, &[]), &get_frame(1, &[])].concat());
            }
        }
        eventually("the request", || upstream.requests().pop());
        match protocol {
            Protocol::Http1 if answered => {
                let mut got = Vec::new();
                while !got.ends_with(b"data: one\n\n\r\n") {
                    got.extend(client.take_some().unwrap());
                }
            }
            Protocol::Http2 if answered => {
                await_frame(&mut client, |frame| frame.payload == b"data: one\n\n");
            }
            _ => {}
        }

        if let Leave::Reset = leave {
            client.reset_at_end();
        }
        drop(client);

        let heard = ended.recv_timeout(DEADLINE);
        assert!(heard.is_ok(), "{protocol:?}, TLS {tls}, {leave:?}, answered {answered}");
    }
}

#[test]
fn a_reset_ends_a_request_of_http_1() {
    leaves(Protocol::Http1, false, Leave::Reset);
}

#[test]
fn a_reset_ends_a_request_over_tls() {
    leaves(Protocol::Http1, true, Leave::Reset);
}

#[test]
fn a_reset_ends_the_requests_of_http_2() {
    leaves(Protocol::Http2, false, Leave::Reset);
    leaves(Protocol::Http2, true, Leave::Reset);
}

/// RFC 8446 §6.1: who only finishes sending says so.
#[test]
fn an_end_without_a_goodbye_ends_a_request_over_tls() {
    leaves(Protocol::Http1, true, Leave::Close);
}

#[test]
fn the_end_of_the_connection_ends_the_requests_of_http_2() {
    leaves(Protocol::Http2, false, Leave::Close);
    leaves(Protocol::Http2, true, Leave::Close);
}

/// With TLS a client may finish sending by a goodbye and still listen.
#[test]
fn a_goodbye_over_tls_leaves_the_answer_to_come() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |connection| {
        connection.request()?;
        connection.try_send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive.")?;
        wait.lock().unwrap().recv().unwrap();
        connection.try_send("five.")
    });
    let site = Site::with(&upstream, |_, _| json!({}), json!({}));
    let mut client = site.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.try_response_head("GET").unwrap();
    assert_eq!(client.take(5).unwrap(), b"five.");

    client.finish();
    go.send(()).unwrap();

    assert_eq!((head.status(), &*client.take(5).unwrap()), (200, &b"five."[..]));
}
