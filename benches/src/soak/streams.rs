//! A client of HTTP/2: many streams on one connection, all checked, some given up in the middle.
//!
//! Not here: which client does so when (`client`).

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use tokio::net::TcpStream;

use super::client::{Done, Outcome, broken};
use super::content::{Broken, Content};

/// Longest time for a connection and its streams.
const WITHIN: Duration = Duration::from_secs(60);

/// Streams of one connection.
const STREAMS: std::ops::Range<usize> = 1..24;

/// What is sent at once.
const PIECE_BYTES: usize = 16 * 1024;

/// What becomes of a stream.
#[derive(Clone, Copy)]
enum Fate {
    Download,
    Upload,
    /// Given up in the middle of its answer.
    ResetDownload,
    /// Given up in the middle of its body.
    ResetUpload,
    /// Its upstream dies in the middle.
    Dies,
}

/// One connection and its streams.
pub(super) fn run(target: SocketAddr, random: &mut fastrand::Rng) -> Done {
    let lost = |error: std::io::Error| Outcome::Lost(format!("HTTP/2: {error}"));
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_io().enable_time().build().map_err(lost)?;
    let done = runtime.block_on(async { tokio::time::timeout(WITHIN, talk(target, random)).await });
    done.unwrap_or_else(|_| Err(Outcome::Lost("HTTP/2: it takes too long".into())))
}

async fn talk(target: SocketAddr, random: &mut fastrand::Rng) -> Done {
    let failed = |error: &dyn std::fmt::Display| Outcome::Lost(format!("HTTP/2: {error}"));
    let socket = TcpStream::connect(target).await.map_err(|error| failed(&error))?;
    let (ask, connection) = h2::client::handshake(socket).await.map_err(|error| failed(&error))?;
    tokio::spawn(async move {
        // Each stream tells what it makes of this.
        let _ = connection.await;
    });
    let streams = (0..random.usize(STREAMS)).map(|_| {
        let fate = match random.u8(..10) {
            0 => Fate::ResetDownload,
            1 => Fate::ResetUpload,
            2 => Fate::Dies,
            3..=5 => Fate::Upload,
            _ => Fate::Download,
        };
        let length = match random.u8(..10) {
            0 => random.u64(500_000..2_000_000),
            1..=3 => random.u64(30_000..200_000),
            _ => random.u64(0..4_000),
        };
        tokio::spawn(stream(ask.clone(), fate, random.u64(..), length))
    });
    let streams: Vec<_> = streams.collect();
    drop(ask);
    let mut done = Ok(());
    for stream in streams {
        let ended = stream.await.map_err(|error| failed(&error))?;
        done = done.and(ended);
    }
    done
}

async fn stream(ask: SendRequest<Bytes>, fate: Fate, seed: u64, length: u64) -> Done {
    match exchange(ask, fate, seed, length).await {
        Ok(done) => done,
        // Whoever drains takes no more, and says so.
        Err(error) if error.is_go_away() && error.reason() == Some(Reason::NO_ERROR) => Ok(()),
        Err(error) if error.reason() == Some(Reason::REFUSED_STREAM) => Ok(()),
        // An answer that breaks off.
        Err(error) if matches!(fate, Fate::Dies) && error.is_reset() => Ok(()),
        Err(error) => Err(Outcome::Lost(format!("stream: {error}"))),
    }
}

async fn exchange(
    ask: SendRequest<Bytes>,
    fate: Fate,
    seed: u64,
    length: u64,
) -> Result<Done, h2::Error> {
    let uploads = matches!(fate, Fate::Upload | Fate::ResetUpload);
    let manner = match fate {
        Fate::Dies => "dies",
        _ if seed.is_multiple_of(2) => "length",
        _ => "chunked",
    };
    let method = if uploads { "POST" } else { "GET" };
    let uri = format!("http://soak/{seed}/{length}/{manner}");
    let request = Request::builder().method(method).uri(uri).header("x-soak", seed).body(());
    let Ok(request) = request else { return Ok(Err(Outcome::Wrong("no request".into()))) };
    let mut ask = ask.ready().await?;
    let (response, mut body) = ask.send_request(request, !uploads)?;
    if uploads {
        let part = if matches!(fate, Fate::ResetUpload) { length / 2 } else { length };
        let sent = send(&mut body, Content::new(seed, length), length - part).await;
        if matches!(fate, Fate::ResetUpload) {
            body.send_reset(Reason::CANCEL);
            return Ok(Ok(()));
        }
        sent?;
    }
    let response = response.await?;
    if matches!(fate, Fate::Dies) && response.status() == 502 {
        return Ok(Ok(()));
    }
    if let Err(outcome) = check(&response, seed) {
        return Ok(Err(outcome));
    }
    if uploads {
        return Ok(Ok(()));
    }
    let content = Content::new(seed, length);
    let early = if matches!(fate, Fate::ResetDownload) { length / 2 } else { 0 };
    let received = receive(response.into_body(), content, early).await?;
    Ok(match received {
        Ok(()) if matches!(fate, Fate::Dies) && length > 0 => {
            Err(Outcome::Wrong("a body was whole that its upstream had not sent".into()))
        }
        received => received.map_err(broken),
    })
}

/// Sends what the windows let go, until so much is left.
async fn send(
    body: &mut SendStream<Bytes>,
    mut content: Content,
    until: u64,
) -> Result<(), h2::Error> {
    let mut piece = vec![0; PIECE_BYTES];
    while content.left() > until {
        let wanted =
            usize::try_from(content.left() - until).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        body.reserve_capacity(wanted);
        let Some(room) = poll_fn(|cx| body.poll_capacity(cx)).await else { return Ok(()) };
        let room = room?.min(wanted);
        let bytes = Bytes::copy_from_slice(content.take(&mut piece[..room]));
        body.send_data(bytes, false)?;
    }
    if until == 0 { body.send_data(Bytes::new(), true) } else { Ok(()) }
}

/// Takes the body until so much is left, and checks it. Dropping it early resets the stream.
async fn receive(
    mut body: RecvStream,
    mut content: Content,
    until: u64,
) -> Result<Result<(), Broken>, h2::Error> {
    while content.left() > until || until == 0 {
        let Some(bytes) = body.data().await else { break };
        let bytes = bytes?;
        if let Err(broken) = content.check(&bytes) {
            return Ok(Err(broken));
        }
        body.flow_control().release_capacity(bytes.len())?;
    }
    let left = content.left();
    // An end in due form of a body that is not whole is the worst there is.
    Ok(if left > until { Err(Broken::Wrong { left }) } else { Ok(()) })
}

fn check(response: &Response<RecvStream>, seed: u64) -> Done {
    let mark = response.headers().get("x-soak").and_then(|mark| mark.to_str().ok());
    match response.status().as_u16() {
        200 if mark == Some(&seed.to_string()) => Ok(()),
        502 => Err(Outcome::Lost(format!("502: {:?}", response.headers()))),
        status => Err(Outcome::Wrong(format!("not the answer to {seed}: {status} {mark:?}"))),
    }
}
