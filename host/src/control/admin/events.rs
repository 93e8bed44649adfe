//! `/events`: what happens to the gateway, as it happens (server-sent events).
//!
//! ```text
//!   control, any thread ── tell ──► the last 64 events ──► a task for each listener ──► 8 messages ──► socket
//! ```
//!
//! Nothing waits for a listener: one that does not read misses events, is told how many, and holds no more
//! than is drawn here. After an hour its stream ends; whoever listens comes back by himself.
//!
//! Not here: what there is to tell (`control`).

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc};

/// Events that a slow listener may be behind.
const BEHIND_MAX: usize = 64;

/// Messages on their way to a socket.
const MESSAGES_MAX: usize = 8;

/// After so long without an event a comment is sent, so that both sides learn when the other is gone.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// How long a stream may take.
pub(super) const STREAM_TIME_MAX: Duration = Duration::from_secs(3600);

/// Streams at a time: dashboards, not clients.
pub(super) const STREAMS_MAX: usize = 32;

/// Where events are told, and listened to.
pub struct Events {
    sender: broadcast::Sender<Bytes>,
    next: AtomicU64,
}

impl Default for Events {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(BEHIND_MAX), next: AtomicU64::new(1) }
    }
}

impl Events {
    /// Tells everybody who listens. Never waits.
    pub fn tell(&self, kind: &'static str, data: &Value) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        // That nobody listens is no error.
        let _ = self.sender.send(message(kind, Some(id), data));
    }

    fn listen(&self) -> broadcast::Receiver<Bytes> {
        self.sender.subscribe()
    }
}

/// JSON in one line: a line end would end the event (HTML 9.2.5).
fn message(kind: &str, id: Option<u64>, data: &Value) -> Bytes {
    let id = id.map_or_else(String::new, |id| format!("id: {id}\n"));
    Bytes::from(format!("{id}event: {kind}\ndata: {data}\n\n"))
}

/// The body of an answer: all there is, or a stream of events.
pub(super) enum Content {
    Full(Full<Bytes>),
    Events(mpsc::Receiver<Bytes>),
}

impl Body for Content {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Full(body) => Pin::new(body).poll_frame(cx),
            Self::Events(messages) => {
                let message = ready!(messages.poll_recv(cx));
                Poll::Ready(message.map(|message| Ok(Frame::data(message))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(body) => body.is_end_stream(),
            Self::Events(_) => false,
        }
    }
}

/// A stream that begins with `now`, what there is to know at its beginning. It ends when its listener
/// goes; `place` is its place among the streams.
pub(super) fn stream(events: &Events, now: &Value, place: OwnedSemaphorePermit) -> Content {
    let (sender, messages) = mpsc::channel(MESSAGES_MAX);
    let mut events = events.listen();
    let first = message("now", None, now);
    tokio::task::spawn_local(async move {
        let _place = place;
        let mut next = first;
        while sender.send(next).await.is_ok() {
            // A listener that goes while nothing happens is noticed at once.
            let event = tokio::select! {
                () = sender.closed() => return,
                event = tokio::time::timeout(SILENCE_MAX, events.recv()) => event,
            };
            next = match event {
                Ok(Ok(event)) => event,
                Ok(Err(broadcast::error::RecvError::Lagged(missed))) => {
                    message("missed", None, &json!({ "events": missed }))
                }
                Ok(Err(broadcast::error::RecvError::Closed)) => return,
                Err(_) => Bytes::from_static(b": nothing new\n\n"),
            };
        }
    });
    Content::Events(messages)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::BodyExt as _;
    use tokio::sync::Semaphore;

    use super::*;

    async fn next(content: &mut Content) -> String {
        let frame = content.frame().await.unwrap().unwrap().into_data().unwrap();
        String::from_utf8(frame.to_vec()).unwrap()
    }

    /// Somebody who has stopped reading costs what was promised, and learns what was missed.
    #[test]
    fn a_listener_that_does_not_read_misses_events_and_is_told() {
        let options = tokio::runtime::LocalOptions::default();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build_local(options);
        runtime.unwrap().block_on(async {
            let (events, places) = (Events::default(), Arc::new(Semaphore::new(1)));
            let place = Arc::clone(&places).try_acquire_owned().unwrap();
            let mut content = stream(&events, &json!({ "a": "b\nc" }), place);
            assert_eq!(next(&mut content).await, "event: now\ndata: {\"a\":\"b\\nc\"}\n\n");

            events.tell("swap", &json!({}));
            assert_eq!(next(&mut content).await, "id: 1\nevent: swap\ndata: {}\n\n");
            for _ in 0..1000 {
                events.tell("swap", &json!({}));
            }

            let mut missed = next(&mut content).await;
            while !missed.contains("missed") {
                missed = next(&mut content).await;
            }
            assert_eq!(missed, "event: missed\ndata: {\"events\":936}\n\n");
            assert!(next(&mut content).await.starts_with("id: 938\n"));
            drop(content);
            while places.available_permits() == 0 {
                tokio::task::yield_now().await;
            }
        });
    }
}
