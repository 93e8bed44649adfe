//! What a socket can do, the buffers that bytes pass through, and when to stop waiting.
//!
//! Everything here belongs to one worker and is never shared between threads.
//!
//! Not here: what the bytes mean (`http`).

mod buffer;
mod deadline;
mod pipe;
mod stream;

pub use buffer::{Buffer, BufferPool};
pub use deadline::{Deadlines, TICK, Timer};
pub use pipe::{Pipe, PipePool};
pub use stream::{Reader, Stream, Writer};
