//! One side of a WebSocket whose messages are seen, over a pair of sockets.

#[path = "../../../../host/src/proxy/websocket/side/mod.rs"]
mod side;

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio_tungstenite::tungstenite::protocol::Role;

use self::side::{Heard, Side};
use crate::config::Inspection;
use crate::io::Stream;
use crate::plugin::SocketMessage;

/// What came from a side.
#[derive(Debug, PartialEq)]
pub enum Said {
    Note(SocketMessage),
    Ping,
    Pong,
    Close(Option<(u16, String)>),
    Broken(u16),
    Lost,
}

impl Said {
    fn is_last(&self) -> bool {
        matches!(self, Self::Close(_) | Self::Broken(_) | Self::Lost)
    }
}

impl From<Heard> for Said {
    fn from(heard: Heard) -> Self {
        match heard {
            Heard::Note(note) => Self::Note(note),
            Heard::Ping => Self::Ping,
            Heard::Pong => Self::Pong,
            Heard::Close(frame) => {
                Self::Close(frame.map(|it| (it.code.into(), it.reason.to_string())))
            }
            Heard::Broken(code, _) => Self::Broken(code),
            Heard::Lost => Self::Lost,
        }
    }
}

thread_local! {
    static RUNTIME: Runtime =
        Builder::new_current_thread().enable_io().build().expect("a runtime");
}

fn pair() -> (Stream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    ours.set_nonblocking(true).expect("a socket that does not block");
    (Stream::new(ours.into(), false).expect("a stream"), theirs)
}

/// What a side of this role hears of these bytes, the first of which are there before it is.
pub fn hear(role: Role, rules: &Inspection, early: &[u8], parts: &[&[u8]]) -> Vec<Said> {
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let (mut stream, mut theirs) = pair();
            let mut side =
                Side::new(&mut stream, early.to_vec(), role, rules, Duration::ZERO).await;
            let mut said: Vec<Said> = Vec::new();
            for part in parts {
                theirs.write_all(part).expect("a part is small");
                tokio::task::yield_now().await;
                loop {
                    let heard = poll_fn(|cx| {
                        side.begin();
                        Poll::Ready(match side.poll_heard(cx) {
                            Poll::Ready(heard) => Some(heard),
                            Poll::Pending => None,
                        })
                    });
                    let Some(heard) = heard.await else { break };
                    said.push(heard.into());
                    if said.last().is_some_and(Said::is_last) {
                        return said;
                    }
                }
            }
            theirs.shutdown(Shutdown::Write).expect("an end");
            loop {
                let heard = poll_fn(|cx| {
                    side.begin();
                    side.poll_heard(cx)
                });
                said.push(heard.await.into());
                if said.last().is_some_and(Said::is_last) {
                    return said;
                }
            }
        })
    })
}

/// The bytes that a side of this role writes for a message.
pub fn say(role: Role, rules: &Inspection, note: &SocketMessage) -> Vec<u8> {
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let (mut stream, mut theirs) = pair();
            let mut side = Side::new(&mut stream, Vec::new(), role, rules, Duration::ZERO).await;
            side.send(note.clone());
            poll_fn(|cx| side.poll_sent(cx)).await.expect("it is small");
            drop(side);
            drop(stream);
            let mut bytes = Vec::new();
            theirs.read_to_end(&mut bytes).expect("an end");
            bytes
        })
    })
}
