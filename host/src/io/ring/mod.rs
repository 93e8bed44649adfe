//! Sockets driven by io_uring, beside tokio's epoll and on the same thread.
//!
//! ```text
//!   task ─ poll_read ──► bytes that have arrived, or a receive that waits ─┐
//!   task ─ poll_write ─► a send ───────────────────────────────────────────┤
//!                                                                          ▼
//!   task ◄─ wake ── what has ended ◄──── one enter for all of them: `drive`, after the tasks
//! ```
//!
//! The ring carries what is small, and that is nearly everything: it waits for bytes, receives the
//! first of them, and sends heads with small bodies. What is large goes through `recv(2)`, `send(2)`
//! and `splice(2)` directly, as with epoll, and the ring only waits. So a body is not copied once
//! more, and buffers that the kernel fills are few.
//!
//! A socket whose bytes have all been taken has a receive that waits. It shows what epoll would: an
//! upstream that closes an idle connection, a client that leaves.
//!
//! What is sent was copied, so a write is done at once, and how it ended shows later: in the next
//! write, or in what is received. Only as much is sent this way as fits a socket's buffer whose peer
//! reads (`UNHEARD_MAX`); whoever sends more waits as with epoll.
//!
//! Dropping a stream cancels what waits, lets a send end, and closes the socket after that. Nothing that
//! the kernel uses depends on a future (`sys::uring`).
//!
//! Not here: what is safe and why (`sys::uring`), which back end a worker has (`backend`).

mod driver;
mod stream;
#[cfg(test)]
mod tests;

pub(super) use driver::{Driver, Guard, current, install, probe};
pub(super) use stream::RingStream;
