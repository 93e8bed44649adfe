//! A worker's connection to Redis, for counters that several gateways share.
//!
//! ```text
//!   guest, on a fiber ── Job ──► Handle ── channel ──► task ──► session ──► Redis
//!          ▲                                                       │
//!          └───────────────────── answer, or none ◄────────────────┘
//!
//!            ┌──────────────── answers ◄──────────────────┐
//!   connecting ──► connected ──► (no answer in time, lost) ──► away ──► connecting …
//!   jobs wait      jobs go out                                 no job is taken
//! ```
//!
//! One connection for all requests of the worker: commands go out as they come, in one write for all that came
//! together, and answers come back in the same order. So nobody waits for another's round trip.
//!
//! Redis is *away* when it does not answer in time: the connection is given up, and those who wait are told so,
//! and everybody after them at once, until it has been reached again. An attempt follows another after 0.1,
//! 0.2 … 5 seconds.
//!
//! Not here: what is said to Redis (`state::redis`), what is done without it (`host::remote`).

mod session;

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::config::Redis;
use crate::state::redis::{Ask, RemoteCounts, Scripts, Told};
use crate::tls::UpstreamTls;
use session::Session;

/// Requests that may wait for Redis on one worker. More would only wait for their time to be up.
const JOBS_MAX: usize = 1024;

/// Time for a connection, from the look-up of the name to the first answers.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// Between two attempts to connect: the shortest and the longest pause.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Between two lines of the log about the same thing.
const QUIET: Duration = Duration::from_secs(1);

/// What is asked, and who wants to know.
struct Job {
    /// Whose counters these are.
    plugin: Arc<str>,
    ask: Ask,
    /// `None`: nobody. Dropped without a word: there is no answer.
    answer: Option<oneshot::Sender<Told>>,
}

/// Where to connect.
#[derive(Clone)]
pub struct Target {
    /// What is written about it.
    settings: Arc<Redis>,
    /// How TLS is spoken there.
    tls: Option<Arc<ClientConfig>>,
}

impl Target {
    /// What is written, with what was made of it for TLS.
    pub fn of(settings: Option<&Arc<Redis>>, tls: Option<&Arc<UpstreamTls>>) -> Option<Self> {
        let tls = tls.map(|tls| Arc::clone(&tls.config));
        Some(Self { settings: Arc::clone(settings?), tls })
    }

    fn is(&self, other: &Self) -> bool {
        let same_tls = match (&self.tls, &other.tls) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        same_tls && self.settings == other.settings
    }
}

/// What has been counted. Written by one worker only.
#[derive(Debug, Default)]
struct Facts {
    /// No job is taken.
    away: AtomicBool,
    connected: AtomicBool,
    answered: AtomicU64,
    unanswered: AtomicU64,
    connects: AtomicU64,
    failures: AtomicU64,
}

/// A worker's connection.
pub(super) struct Remote {
    jobs: mpsc::Sender<Job>,
    facts: Arc<Facts>,
    shared: Rc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// `None`: state is in memory.
    target: RefCell<Option<Target>>,
    /// Of the target: another one after every change.
    version: Cell<u64>,
    news: Notify,
}

impl Shared {
    /// Ends when the target is another one than that of this version.
    async fn changed(&self, since: u64) {
        while self.version.get() == since {
            self.news.notified().await;
        }
    }
}

/// Where a plugin's instances on a worker leave their questions.
#[derive(Clone)]
pub(super) struct Handle {
    /// Whose counters these are. The count of its holders is the worker's own.
    plugin: Arc<str>,
    jobs: mpsc::Sender<Job>,
    facts: Arc<Facts>,
}

impl Handle {
    /// Asks; the answer is dropped when there is none. `None`: nobody can be asked now.
    pub(super) fn ask(&self, ask: Ask) -> Option<oneshot::Receiver<Told>> {
        let (answer, told) = oneshot::channel();
        self.send(ask, Some(answer)).then_some(told)
    }

    /// Says something that needs no answer.
    pub(super) fn tell(&self, ask: Ask) {
        self.send(ask, None);
    }

    fn send(&self, ask: Ask, answer: Option<oneshot::Sender<Told>>) -> bool {
        let job = Job { plugin: Arc::clone(&self.plugin), ask, answer };
        let taken = !self.facts.away.load(Ordering::Relaxed) && self.jobs.try_send(job).is_ok();
        if !taken {
            self.facts.unanswered.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }
}

impl Remote {
    /// Begins; to be called where tasks can be spawned.
    pub(super) fn start() -> Self {
        let (jobs, asked) = mpsc::channel(JOBS_MAX);
        let facts = Arc::new(Facts::default());
        let shared = Rc::new(Shared::default());
        let task = Task {
            shared: Rc::clone(&shared),
            asked,
            facts: Arc::clone(&facts),
            scripts: Scripts::default(),
            said: None,
            says: true,
        };
        tokio::task::spawn_local(task.run());
        Self { jobs, facts, shared }
    }

    /// Connects there from now on. What is under way to another place is answered first.
    pub(super) fn aim(&self, target: Option<Target>) {
        let mut current = self.shared.target.borrow_mut();
        let same = match (&*current, &target) {
            (Some(one), Some(other)) => one.is(other),
            (one, other) => one.is_none() && other.is_none(),
        };
        if !same {
            *current = target;
            self.shared.version.set(self.shared.version.get() + 1);
            self.shared.news.notify_one();
        }
    }

    /// For the instances of this plugin.
    pub(super) fn handle(&self, plugin: &str) -> Handle {
        let (jobs, facts) = (self.jobs.clone(), Arc::clone(&self.facts));
        Handle { plugin: plugin.into(), jobs, facts }
    }

    /// `None`: state is in memory.
    pub(super) fn counts(&self) -> Option<RemoteCounts> {
        self.shared.target.borrow().as_ref()?;
        let Facts { connected, answered, unanswered, connects, failures, .. } = &*self.facts;
        Some(RemoteCounts {
            connected: connected.load(Ordering::Relaxed),
            answered: answered.load(Ordering::Relaxed),
            unanswered: unanswered.load(Ordering::Relaxed),
            connects: connects.load(Ordering::Relaxed),
            failures: failures.load(Ordering::Relaxed),
        })
    }
}

/// Why a session has ended.
enum End {
    /// Everybody who could ask has gone.
    Unused,
    /// Another target.
    Changed,
    /// Redis is away, and why.
    Lost(String),
}

struct Task {
    shared: Rc<Shared>,
    asked: mpsc::Receiver<Job>,
    facts: Arc<Facts>,
    scripts: Scripts,
    /// When the log was last told.
    said: Option<Instant>,
    /// Whether the log was told that Redis is away.
    says: bool,
}

impl Task {
    async fn run(mut self) {
        // Failures since the last answer.
        let mut failures = 0;
        // Whether requests may wait until a connection is there.
        let mut patient = true;
        loop {
            let version = self.shared.version.get();
            let target = self.shared.target.borrow().clone();
            let Some(target) = target else {
                self.set_away(true);
                self.shared.changed(version).await;
                patient = true;
                continue;
            };
            self.set_away(!patient);
            let why = match self.connect(&target, patient).await {
                Ok(session) => {
                    self.facts.connects.fetch_add(1, Ordering::Relaxed);
                    self.facts.connected.store(true, Ordering::Relaxed);
                    self.say_back(&target);
                    self.set_away(false);
                    let before = self.facts.answered.load(Ordering::Relaxed);
                    let end = session.serve(&mut self, &target, version).await;
                    self.facts.connected.store(false, Ordering::Relaxed);
                    match end {
                        End::Unused => return,
                        End::Changed => {
                            (patient, failures) = (true, 0);
                            continue;
                        }
                        End::Lost(why) => {
                            if self.facts.answered.load(Ordering::Relaxed) > before {
                                failures = 0;
                            }
                            why
                        }
                    }
                }
                Err(why) => why,
            };
            patient = false;
            self.facts.failures.fetch_add(1, Ordering::Relaxed);
            self.say_away(&target, &why);
            self.set_away(true);
            // One that was lost may be there again at once.
            if failures > 0 {
                let pause = PAUSE_MIN.saturating_mul(1 << (failures - 1).min(8)).min(PAUSE_MAX);
                // Gateways that lost it together should not come back together.
                let pause = pause.mul_f64(0.75 + fastrand::f64() / 4.0);
                tokio::select! {
                    () = sleep(pause) => {}
                    () = self.shared.changed(version) => patient = true,
                }
            }
            failures += 1;
            if self.asked.is_closed() {
                return;
            }
        }
    }

    async fn connect(&mut self, target: &Target, patient: bool) -> Result<Session, String> {
        let scripts = &self.scripts;
        let connecting = timeout(CONNECT_TIME_MAX, Session::open(target, scripts));
        let mut connecting = pin!(connecting);
        if patient {
            match timeout(target.settings.timeout, &mut connecting).await {
                Ok(opened) => return opened.unwrap_or_else(|_| Err(late(CONNECT_TIME_MAX))),
                Err(_) => {
                    self.facts.away.store(true, Ordering::Relaxed);
                    drain(&mut self.asked, &self.facts);
                }
            }
        }
        connecting.await.unwrap_or_else(|_| Err(late(CONNECT_TIME_MAX)))
    }

    /// From now on no job is taken, or jobs are.
    fn set_away(&mut self, away: bool) {
        self.facts.away.store(away, Ordering::Relaxed);
        if away {
            drain(&mut self.asked, &self.facts);
        }
    }

    fn say_away(&mut self, target: &Target, why: &str) {
        if self.says && self.may_say() {
            let what = match target.settings.on_error {
                crate::config::StateError::Local => "each gateway counts for itself",
                crate::config::StateError::Open => "everything is allowed",
                crate::config::StateError::Closed => "what counts is refused",
            };
            log::warn!(
                target: "state",
                "redis at {}: {why}; until it is back, {what}",
                target.settings.address
            );
            self.says = false;
        }
    }

    fn say_back(&mut self, target: &Target) {
        if !std::mem::replace(&mut self.says, true) {
            log::info!(target: "state", "redis at {}: it is back", target.settings.address);
        }
    }

    /// Says that one command was refused.
    fn complain(&mut self, target: &Target, why: &str) {
        if self.may_say() {
            log::warn!(target: "state", "redis at {}: {why}", target.settings.address);
        }
    }

    fn may_say(&mut self) -> bool {
        let now = Instant::now();
        let may = self.said.is_none_or(|said| now.saturating_duration_since(said) >= QUIET);
        if may {
            self.said = Some(now);
        }
        may
    }
}

/// Leaves everybody without an answer who has asked.
fn drain(asked: &mut mpsc::Receiver<Job>, facts: &Facts) {
    while asked.try_recv().is_ok() {
        facts.unanswered.fetch_add(1, Ordering::Relaxed);
    }
}

fn late(limit: Duration) -> String {
    format!("no answer within {limit:?}")
}
