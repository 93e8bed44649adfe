//! A thread that writes lines, so that nobody who serves requests waits for a disk or a terminal.
//!
//! Lines travel through a bounded queue. When the writer is slower than the lines come, they are
//! dropped and counted; nothing blocks and nothing grows. Lines that cannot be written are counted, too.

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
    Lines(Vec<u8>, u64),
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
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Writer { target, open, dropped: Arc::clone(&dropped), failures: 0 };
        std::thread::Builder::new().name(name.to_owned()).spawn(move || writer.run(&messages))?;
        Ok(Self { queue, dropped })
    }

    /// Hands over whole lines; `count` of them. Never waits.
    pub fn send(&self, lines: Vec<u8>, count: u64) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(Message::Lines(lines, count))
        {
            self.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Lines that were dropped, or could not be written.
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

struct Writer {
    target: Box<dyn Write + Send>,
    open: Box<Open>,
    dropped: Arc<AtomicU64>,
    failures: u64,
}

impl Writer {
    /// Writes until nobody can send any more. A target that fails loses lines, not the gateway.
    fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(message) = messages.recv() {
            match message {
                Message::Lines(lines, count) => {
                    let written = self.target.write_all(&lines).and_then(|()| self.target.flush());
                    if let Err(error) = written {
                        self.dropped.fetch_add(count, Ordering::Relaxed);
                        self.failed("cannot write", &error);
                    }
                }
                Message::Reopen => match (self.open)() {
                    Ok(target) => self.target = target,
                    // The old file is better than none.
                    Err(error) => self.failed("cannot be opened anew", &error),
                },
                Message::Flush(done) => {
                    // Whoever asked may have stopped waiting.
                    let _ = done.send(());
                }
            }
        }
    }

    /// Says so in the gateway's log, at powers of two: the first time, and then less and less. When it
    /// is that log which fails, this ends soon for the same reason.
    fn failed(&mut self, what: &str, error: &std::io::Error) {
        self.failures += 1;
        if self.failures.is_power_of_two() {
            let thread = std::thread::current();
            let (name, so_far) = (thread.name().unwrap_or_default(), self.failures);
            log::warn!(target: "telemetry", "{name} {what}: {error} ({so_far} so far)");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const WAIT: Duration = Duration::from_secs(10);

    /// A target that takes nothing before it is let.
    struct Gated {
        let_in: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.let_in.recv_timeout(WAIT).map_err(std::io::Error::other)?;
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Whoever serves requests must neither wait for a disk that hangs nor hoard lines for it.
    #[test]
    fn a_writer_that_is_stuck_costs_lines_and_no_time() {
        let (gate, let_in) = crossbeam::channel::unbounded();
        let written: Arc<Mutex<Vec<u8>>> = Arc::default();
        let kept = Arc::clone(&written);
        let open = move || -> std::io::Result<Box<dyn Write + Send>> {
            Ok(Box::new(Gated { let_in: let_in.clone(), written: Arc::clone(&kept) }))
        };
        let sink = Sink::start("test", Box::new(open)).unwrap();
        let sent = QUEUE_MAX + 100;

        for _ in 0..sent {
            sink.send(b"two\nlines\n".to_vec(), 2);
        }

        // One may be in the writer's hands already.
        let dropped = usize::try_from(sink.dropped()).unwrap();
        assert!((198..=200).contains(&dropped), "{dropped}");
        for _ in 0..sent {
            gate.send(()).unwrap();
        }
        sink.flush();
        let lines = written.lock().unwrap().iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(lines + dropped, 2 * sent);
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_the_writer_goes_on() {
        let (opened, times) = bounded(2);
        let open = move || -> std::io::Result<Box<dyn Write + Send>> {
            // Once; then the file can no longer be opened.
            opened.try_send(()).map_err(std::io::Error::other)?;
            Ok(Box::new(Full))
        };
        let sink = Sink::start("test", Box::new(open)).unwrap();
        times.recv().unwrap();

        sink.send(b"a\nb\nc\n".to_vec(), 3);
        drop(times);
        sink.reopen();
        sink.send(b"d\n".to_vec(), 1);
        sink.flush();

        assert_eq!(sink.dropped(), 4);
    }
}
