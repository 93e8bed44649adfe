//! A thread that writes lines, so that nobody who serves requests waits for a disk or a terminal.
//!
//! Lines travel through a bounded queue. When the writer is slower than the lines come, they are
//! dropped and counted; nothing blocks and nothing grows.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};

/// Batches that may wait for the writer.
const QUEUE_MAX: usize = 1024;

/// How long a flush waits for a writer that is stuck.
const FLUSH_WAIT: Duration = Duration::from_secs(2);

/// Opens what is written to; called at the start and when asked to reopen.
pub type Open = dyn Fn() -> std::io::Result<Box<dyn Write + Send>> + Send;

enum Message {
    Lines(Vec<u8>),
    Reopen,
    Flush(Sender<()>),
}

/// The near end of a writer thread.
#[derive(Clone)]
pub struct Sink {
    queue: Sender<Message>,
    dropped: Arc<AtomicU64>,
}

impl Sink {
    /// Starts a writer.
    ///
    /// # Errors
    ///
    /// The target cannot be opened, or the thread not be started.
    pub fn start(name: &str, open: Box<Open>) -> std::io::Result<Self> {
        let target = open()?;
        let (queue, messages) = bounded(QUEUE_MAX);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || write(target, &open, &messages))?;
        Ok(Self { queue, dropped: Arc::default() })
    }

    /// Hands over whole lines; `count` of them. Never waits.
    pub fn send(&self, lines: Vec<u8>, count: u64) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(Message::Lines(lines))
        {
            self.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Lines that were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Opens the target anew, after it has been moved away.
    pub fn reopen(&self) {
        // A writer that has ended has nothing to reopen.
        let _ = self.queue.send_timeout(Message::Reopen, FLUSH_WAIT);
    }

    /// Waits until everything sent so far has been written, but not for ever.
    pub fn flush(&self) {
        let (done, wait) = bounded(1);
        if self.queue.send_timeout(Message::Flush(done), FLUSH_WAIT).is_ok() {
            // Either it is written or the target is stuck; there is nothing more to do.
            let _ = wait.recv_timeout(FLUSH_WAIT);
        }
    }
}

/// Writes until nobody can send any more. A target that fails loses lines, not the gateway.
fn write(mut target: Box<dyn Write + Send>, open: &Open, messages: &Receiver<Message>) {
    while let Ok(message) = messages.recv() {
        match message {
            Message::Lines(lines) => {
                let _ = target.write_all(&lines);
            }
            Message::Reopen => {
                // The old file is better than none.
                if let Ok(new) = open() {
                    target = new;
                }
            }
            Message::Flush(done) => {
                let _ = target.flush();
                let _ = done.send(());
            }
        }
        if messages.is_empty() {
            let _ = target.flush();
        }
    }
}
