//! Frames of a client: never a panic or a hang; and what a request becomes for a server of HTTP/1 is read there as the
//! same request.
//!
//! The connection is served as the gateway does, but for time and routes: every request is answered with its own
//! content and trailers.

#![no_main]

use std::future::poll_fn;
use std::io::{ErrorKind, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{LocalOptions, LocalRuntime};
use zproxy_fuzz::http::h2::{self as heads, Account, PREFACE, Watch, Wire};
use zproxy_fuzz::http::parse::{self, Framing, HeadLimits};
use zproxy_fuzz::http::{RequestHead, write};
use zproxy_fuzz::io::{Deadlines, Multiplexed, Stream};

const LIMITS: HeadLimits =
    HeadLimits { bytes_max: 65_536, fields_max: 100, target_bytes_max: 8192 };

/// What goes on to a server may be longer by what is said in other words.
const WIDE: HeadLimits = HeadLimits { bytes_max: 1 << 20, fields_max: 200, target_bytes_max: 8192 };

/// Less than a socket holds, so that all can be sent before anything is read.
const SENT_BYTES_MAX: usize = 64 * 1024;

const HEADERS: u8 = 1;

/// GET, http, / and an authority, as a block of a head begins.
const HEAD: &[u8] = b"\x82\x86\x84\x41\x01a";

/// A POST to /a?b.
const POST: &[u8] = b"\x83\x86\x04\x04/a?b\x41\x01a";

/// For the head of a request: begins it with what every request has. No flags of HTTP/2.
const BEGIN_GET: u8 = 0x40;
const BEGIN_POST: u8 = 0x80;

thread_local! {
    static RUNTIME: LocalRuntime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("a runtime");
}

/// The frames of an input: of each the length of its payload, its kind, flags and stream, in a byte each.
fn frames(mut input: &[u8]) -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    while let [length, kind, flags, stream, rest @ ..] = input {
        let (payload, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        input = rest;
        let begin = match *kind {
            HEADERS if flags & BEGIN_GET != 0 => HEAD,
            HEADERS if flags & BEGIN_POST != 0 => POST,
            _ => &[],
        };
        let length = (begin.len() + payload.len()) as u32;
        out.extend_from_slice(&length.to_be_bytes()[1..]);
        out.extend_from_slice(&[*kind, *flags, 0, 0, 0, *stream]);
        out.extend_from_slice(begin);
        out.extend_from_slice(payload);
    }
    // Nobody closes a frame that ends with the input: the end of the connection does.
    out.extend_from_slice(input);
    out
}

/// Serves a connection to its end, and waits for its requests.
async fn serve(stream: Stream) {
    let account = Account::new(Watch::client, &Rc::new(Deadlines::default()));
    let wire = Wire::new(stream, None, Rc::clone(&account));
    let outlet = wire.outlet();
    let mut builder = Builder::new();
    builder
        .initial_window_size(1 << 10)
        .max_concurrent_streams(8)
        .max_header_list_size(8 << 10)
        .max_pending_accept_reset_streams(4)
        .max_send_buffer_size(1 << 10)
        .enable_connect_protocol();
    let mut handshake = pin!(builder.handshake::<_, Bytes>(wire));
    let made = poll_fn(|cx| match outlet.poll(cx, |cx| handshake.as_mut().poll(cx)) {
        Poll::Ready(made) => Poll::Ready(made.ok()),
        Poll::Pending if account.offence().is_some() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    let Some(mut connection) = made.await else { return };
    let (mut requests, mut hostile) = (Vec::new(), false);
    loop {
        let accepted = poll_fn(|cx| match outlet.poll(cx, |cx| connection.poll_accept(cx)) {
            Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
            Poll::Pending if account.offence().is_some() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        match accepted.await {
            Some(Some(Ok((request, respond)))) => {
                let work = Rc::clone(account.work());
                requests.push(tokio::task::spawn_local(async move {
                    answer(request, respond, work).await;
                }));
            }
            None if !hostile => {
                hostile = true;
                let reason = account.offence().map_or(h2::Reason::NO_ERROR, |it| it.reason());
                connection.abrupt_shutdown(reason);
            }
            Some(_) | None => break,
        }
    }
    drop(connection);
    for request in requests {
        request.await.expect("no panic");
    }
}

async fn answer(
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
    work: Rc<std::cell::Cell<u64>>,
) {
    let (parts, body) = request.into_parts();
    let ended = body.is_end_stream();
    let mut head = RequestHead::default();
    if let Ok(facts) = heads::request(&parts, ended, &mut head, &LIMITS)
        && !facts.wants_upgrade
    {
        pass_on(&mut head, facts.framing);
    }
    let stream = Multiplexed::asked(body, respond, work, None);
    if stream.respond(http::Response::new(()), false).is_err() {
        return;
    }
    let mut bytes = [0; 700];
    loop {
        let Ok(count) = poll_fn(|cx| stream.poll_read(cx, &mut bytes)).await else { return };
        if count == 0 {
            break;
        }
        let mut sent = 0;
        while sent < count {
            let write = |cx: &mut Context<'_>| stream.poll_write(cx, &bytes[sent..count], false);
            let Ok(part) = poll_fn(write).await else { return };
            sent += part;
        }
    }
    let Ok(trailers) = poll_fn(|cx| stream.poll_trailers(cx)).await else { return };
    let mut lines = Vec::new();
    if let Some(trailers) = trailers
        && heads::read_trailers(&trailers, &LIMITS, &mut lines).is_err()
    {
        return;
    }
    // The client may be gone.
    let _ = stream.end(heads::write_trailers(&lines));
}

/// A server must not read a request in another way than it was meant.
fn pass_on(head: &mut RequestHead, framing: Framing) {
    let framing = if framing == Framing::UntilClose { Framing::Chunked } else { framing };
    let mut written = Vec::new();
    write::request(&mut written, head, framing, None);
    assert_eq!(parse::find_end(&written, 0).ok().flatten(), Some(written.len()));
    let mut again = RequestHead::default();
    let facts = parse::request(&written, &mut again, &WIDE).expect("what is sent on can be read");
    assert_eq!(facts.framing, framing);
    assert_eq!(again.method_name(), head.method_name());
    assert_eq!(again.target(), head.target());
    let fields: Vec<_> = head.fields.iter().collect();
    let fields_again: Vec<_> = again.fields.iter().collect();
    assert_eq!(fields, fields_again);
}

/// Reads what comes, and forgets it.
async fn forget(socket: UnixStream) {
    let socket = tokio::net::UnixStream::from_std(socket).expect("a socket");
    let mut bytes = [0; 4096];
    loop {
        if socket.readable().await.is_err() {
            return;
        }
        match socket.try_read(&mut bytes) {
            Ok(0) => return,
            Err(error) if error.kind() != ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let bytes = frames(input);
    if bytes.len() > SENT_BYTES_MAX {
        return;
    }
    let (near, mut far) = UnixStream::pair().expect("sockets");
    far.write_all(&bytes).expect("room for all of it");
    far.shutdown(Shutdown::Write).expect("an end");
    near.set_nonblocking(true).expect("a socket");
    far.set_nonblocking(true).expect("a socket");
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let forgetting = tokio::task::spawn_local(forget(far));
            let stream = Stream::new(near.into(), false).expect("a stream");
            let served = tokio::time::timeout(Duration::from_secs(5), serve(stream)).await;
            assert!(served.is_ok(), "the connection or a request on it hangs");
            forgetting.abort();
        });
    });
});
