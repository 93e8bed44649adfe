//! One connection to Redis: opened, then asked over and over until it is lost.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{End, Job, Target, Task, late};
use crate::io::Stream;
use crate::plugin::host::clean;
use crate::state::redis::{Owner, Reply, Scripts, read, write};
use crate::tls;
use crate::upstream::connect::{Dialer, Secure};

/// Commands whose answers are outstanding.
const PENDING_MAX: usize = 1024;

/// Read at once.
const READ_BYTES: usize = 4 * 1024;

/// What is kept of the buffers between two rounds.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// Errors after which a connection is of no use: another one may reach a server that can do it.
const FATAL: [&str; 6] = ["NOSCRIPT", "READONLY", "LOADING", "MASTERDOWN", "NOAUTH", "CLUSTERDOWN"];

/// An open connection.
pub(super) struct Session {
    stream: Stream,
    /// Received and not yet read.
    received: Vec<u8>,
}

/// A job that waits for its answer, and until when.
struct Pending {
    job: Job,
    until: Instant,
}

impl Session {
    /// Connects and says who asks and for what. The caller limits the time.
    pub(super) async fn open(target: &Target, scripts: &Scripts) -> Result<Self, String> {
        let settings = &target.settings;
        let name = settings.tls.as_ref().map(|tls| tls::server_name(tls, &settings.address));
        let secure = match (name, &target.tls) {
            (None, _) => None,
            (Some(Some(name)), Some(config)) => Some(Secure { config: Arc::clone(config), name }),
            _ => return Err("its name cannot be in a certificate".to_owned()),
        };
        let dialer = Dialer::new(settings.address.clone(), secure);
        let stream = dialer.connect().await.map_err(|failure| match failure.detail {
            Some(detail) => format!("{}: {detail}", failure.error),
            None => failure.error.to_string(),
        })?;
        let mut session = Self { stream, received: Vec::new() };
        let (out, count) = greeting(target, scripts);
        session.send(&out).await?;
        for _ in 0..count {
            let reply = poll_fn(|cx| session.poll_reply(cx)).await?;
            if let Reply::Error(error) = reply {
                return Err(format!("it refuses: {}", clean(error.as_bytes(), 256)));
            }
        }
        Ok(session)
    }

    async fn send(&mut self, out: &[u8]) -> Result<(), String> {
        let mut sent = 0;
        poll_fn(|cx| self.poll_send(cx, out, &mut sent)).await
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        out: &[u8],
        sent: &mut usize,
    ) -> Poll<Result<(), String>> {
        while *sent < out.len() {
            match self.stream.poll_write(cx, &out[*sent..]) {
                Poll::Ready(Ok(count)) => *sent += count,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.to_string())),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, String>> {
        loop {
            match read(&self.received) {
                Err(error) => return Poll::Ready(Err(error.to_string())),
                Ok(Some((reply, taken))) => {
                    self.received.drain(..taken);
                    return Poll::Ready(Ok(reply));
                }
                Ok(None) => {}
            }
            let end = self.received.len();
            self.received.resize(end + READ_BYTES, 0);
            let got = self.stream.poll_read(cx, &mut self.received[end..]);
            let count = if let Poll::Ready(Ok(count)) = got { count } else { 0 };
            self.received.truncate(end + count);
            match got {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err("it has closed the connection".to_owned()));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.to_string())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Asks what there is to ask, until the connection is lost or not wanted any more.
    pub(super) async fn serve(mut self, task: &mut Task, target: &Target, version: u64) -> End {
        let shared = Rc::clone(&task.shared);
        let mut changed = pin!(shared.changed(version));
        let mut changing = false;
        let mut pending: VecDeque<Pending> = VecDeque::new();
        let (mut out, mut sent) = (Vec::new(), 0);
        let mut alarm = pin!(sleep_until(Instant::now()));
        let mut armed = false;
        let end = poll_fn(|cx| {
            changing = changing || changed.as_mut().poll(cx).is_ready();
            // New jobs; not more of them while answers are outstanding for another target.
            while !changing && pending.len() < PENDING_MAX {
                match task.asked.poll_recv(cx) {
                    Poll::Ready(Some(job)) => {
                        let owner = Owner { prefix: &target.settings.prefix, plugin: &job.plugin };
                        job.ask.write(&task.scripts, owner, &mut out);
                        let until = Instant::now() + target.settings.timeout;
                        pending.push_back(Pending { job, until });
                    }
                    Poll::Ready(None) if pending.is_empty() => return Poll::Ready(End::Unused),
                    Poll::Ready(None) | Poll::Pending => break,
                }
            }
            let full = pending.len() == PENDING_MAX;
            if sent < out.len() {
                match self.poll_send(cx, &out, &mut sent) {
                    Poll::Ready(Ok(())) => {
                        out.clear();
                        sent = 0;
                        out.shrink_to(KEPT_BYTES_MAX);
                    }
                    Poll::Ready(Err(why)) => return Poll::Ready(End::Lost(why)),
                    Poll::Pending => {}
                }
            }
            while let Poll::Ready(reply) = self.poll_reply(cx) {
                let reply = match reply {
                    Ok(reply) => reply,
                    Err(why) => return Poll::Ready(End::Lost(why)),
                };
                let Some(Pending { job, .. }) = pending.pop_front() else {
                    let why = match reply {
                        Reply::Error(error) => clean(error.as_bytes(), 256),
                        _ => "it answers what was not asked".to_owned(),
                    };
                    return Poll::Ready(End::Lost(why));
                };
                if let Err(why) = settle(task, target, job, &reply) {
                    return Poll::Ready(End::Lost(why));
                }
            }
            self.received.shrink_to(KEPT_BYTES_MAX);
            // Nobody was asked for new jobs, so that nobody would wake us for them.
            if full && pending.len() < PENDING_MAX {
                cx.waker().wake_by_ref();
            }
            if changing && pending.is_empty() {
                return Poll::Ready(End::Changed);
            }
            if is_late(cx, alarm.as_mut(), &mut armed, pending.front()) {
                return Poll::Ready(End::Lost(late(target.settings.timeout)));
            }
            Poll::Pending
        })
        .await;
        let lost = u64::try_from(pending.len()).unwrap_or(u64::MAX);
        task.facts.unanswered.fetch_add(lost, Ordering::Relaxed);
        end
    }
}

/// Hands an answer over. An error is the end of the connection.
fn settle(task: &mut Task, target: &Target, job: Job, reply: &Reply) -> Result<(), String> {
    if let Reply::Error(error) = reply {
        task.facts.unanswered.fetch_add(1, Ordering::Relaxed);
        let text = clean(error.as_bytes(), 256);
        if FATAL.iter().any(|fatal| error.starts_with(fatal)) {
            return Err(text);
        }
        task.complain(target, &text);
        return Ok(());
    }
    let Some(told) = job.ask.read(reply) else {
        task.facts.unanswered.fetch_add(1, Ordering::Relaxed);
        return Err("it answers what was not asked".to_owned());
    };
    task.facts.answered.fetch_add(1, Ordering::Relaxed);
    if let Some(answer) = job.answer {
        // Who does not wait any more needs no answer.
        let _ = answer.send(told);
    }
    Ok(())
}

/// Whether the oldest question has waited for too long. The alarm is set once for many of them.
fn is_late(
    cx: &mut Context<'_>,
    mut alarm: Pin<&mut Sleep>,
    armed: &mut bool,
    oldest: Option<&Pending>,
) -> bool {
    let Some(oldest) = oldest else { return false };
    loop {
        if *armed && alarm.as_mut().poll(cx).is_pending() {
            return false;
        }
        *armed = false;
        if oldest.until <= Instant::now() {
            return true;
        }
        alarm.as_mut().reset(oldest.until);
        *armed = true;
    }
}

/// The first commands, and how many there are.
fn greeting(target: &Target, scripts: &Scripts) -> (Vec<u8>, usize) {
    let (mut out, mut count) = (Vec::new(), 0);
    let settings = &target.settings;
    if let Some(password) = &settings.password {
        match &settings.user {
            Some(user) => write(&mut out, &[b"AUTH", user.expose(), password.expose()]),
            None => write(&mut out, &[b"AUTH", password.expose()]),
        }
        count += 1;
    }
    if settings.database != 0 {
        write(&mut out, &[b"SELECT", settings.database.to_string().as_bytes()]);
        count += 1;
    }
    count += scripts.load(&mut out);
    (out, count)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use tokio::sync::{mpsc, oneshot};
    use tokio::time::timeout;

    use super::super::Facts;
    use super::*;
    use crate::config::{Redis, ServerAddress, StateError};
    use crate::state::redis::{Ask, Told};

    /// Longer than the test may take, so that no alarm goes off meanwhile.
    const NEVER: Duration = Duration::from_secs(600);

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Answers so many commands at once, then the next one.
    fn answer(mut stream: UnixStream, at_once: usize) {
        let mut received = Vec::new();
        for count in [at_once, 1] {
            for _ in 0..count {
                let taken = loop {
                    if let Some((_, taken)) = read(&received).unwrap() {
                        break taken;
                    }
                    let mut more = [0; 4096];
                    let got = stream.read(&mut more).unwrap();
                    assert!(got > 0, "closed");
                    received.extend(&more[..got]);
                };
                received.drain(..taken);
            }
            stream.write_all(":7\r\n".repeat(count).as_bytes()).unwrap();
        }
    }

    fn job() -> (Job, oneshot::Receiver<Told>) {
        let (answer, told) = oneshot::channel();
        let ask = Ask::Add { key: b"k".to_vec(), delta: 1, window_ms: 0, unix_ms: 0 };
        (Job { plugin: "p".into(), ask, answer: Some(answer) }, told)
    }

    /// As many commands as may be outstanding, all of them answered in one go, and one more.
    #[test]
    fn who_asks_after_a_full_round_is_answered() {
        let settings = Redis {
            address: ServerAddress::Unix("unused".into()),
            tls: None,
            user: None,
            password: None,
            database: 0,
            prefix: "z".into(),
            timeout: NEVER,
            on_error: StateError::Open,
        };
        let target = Target { settings: Arc::new(settings), tls: None };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let (ours, theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let server = std::thread::spawn(move || answer(theirs, PENDING_MAX));
            let session =
                Session { stream: Stream::new(ours.into(), false).unwrap(), received: Vec::new() };
            let (jobs, asked) = mpsc::channel(PENDING_MAX);
            let mut task = Task {
                shared: Rc::default(),
                asked,
                facts: Arc::new(Facts::default()),
                scripts: Scripts::default(),
                said: None,
                says: true,
            };
            let mut waiting = Vec::new();
            for _ in 0..PENDING_MAX {
                let (job, told) = job();
                assert!(jobs.try_send(job).is_ok());
                waiting.push(told);
            }
            tokio::task::spawn_local(async move { session.serve(&mut task, &target, 0).await });
            for told in waiting {
                assert_eq!(timeout(PATIENCE, told).await.unwrap().unwrap(), Told::Count(7));
            }

            let (job, told) = job();
            assert!(jobs.try_send(job).is_ok());

            assert_eq!(timeout(PATIENCE, told).await.unwrap().unwrap(), Told::Count(7));
            server.join().unwrap();
        });
    }
}
