//! What a socket can do, the buffers that bytes pass through, and when to stop waiting.
//!
//! Everything here belongs to one worker and is never shared between threads.
//!
//! Layout: `stream` is what everybody uses: a `socket` over epoll or over `ring`, with TLS by `secure` or
//! without, or one stream of an HTTP/2 connection (`multiplexed`); `backend` chooses.
//!
//! Not here: what the bytes mean (`http`).

mod backend;
mod buffer;
mod deadline;
mod free;
mod multiplexed;
mod pipe;
#[cfg(target_os = "linux")]
mod ring;
#[cfg(not(target_os = "linux"))]
#[path = "no_ring.rs"]
mod ring;
mod secure;
mod socket;
mod stream;

pub use backend::{Attached, Backend, RingCounts, choose, ring_counts, tick};
pub use buffer::{Buffer, BufferPool};
pub use deadline::{Deadlines, TICK, Timer};
pub use free::FreeList;
pub use multiplexed::{Multiplexed, ReceivedHead};
pub use pipe::{Pipe, PipePool};
pub use secure::{HandshakeError, TlsFacts};
pub use stream::{Reader, Stream, Writer};
