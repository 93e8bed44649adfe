//! What the name of a server means at the moment.
//!
//! ```text
//!            ┌────────── after 5 s ─────────── fresh ◄─┐
//!          stale ── somebody asks ─► running ──────────┤
//!            └────────── after 1 s ────────── failed ◄─┘
//! ```
//!
//! One look-up at a time, whoever asks, so that a resolver that hangs is not asked again and again.
//! Once there was an answer, nobody waits: the old one is used until there is a new one, however long
//! that takes.
//!
//! Not here: the look-up itself, and what is done with addresses (`connect`).

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

/// How long an answer is taken for true.
const FRESH: Duration = Duration::from_secs(5);

/// How long nobody asks again after a failure.
const FAILED: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Stale,
    Running,
    Fresh,
    Failed,
}

/// The addresses of one name.
#[derive(Debug, Default)]
pub struct Names {
    state: Cell<State>,
    /// The last answer; none before the first.
    known: RefCell<Option<Rc<[SocketAddr]>>>,
    /// Rung when a look-up ends.
    ended: Notify,
}

impl Names {
    /// The addresses, looked up by `resolve` when it is time for that. `None`: there never were any.
    pub async fn addresses<F>(
        self: &Rc<Self>,
        resolve: impl FnOnce() -> F,
    ) -> Option<Rc<[SocketAddr]>>
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>> + 'static,
    {
        let ended = self.ended.notified();
        if self.state.get() == State::Stale {
            self.state.set(State::Running);
            tokio::task::spawn_local(Rc::clone(self).run(resolve()));
        }
        let known = self.known.borrow().clone();
        if known.is_some() || self.state.get() != State::Running {
            return known;
        }
        ended.await;
        self.known.borrow().clone()
    }

    async fn run(self: Rc<Self>, resolving: impl Future<Output = io::Result<Vec<SocketAddr>>>) {
        let found = resolving.await.unwrap_or_default();
        let (state, pause) =
            if found.is_empty() { (State::Failed, FAILED) } else { (State::Fresh, FRESH) };
        if state == State::Fresh {
            self.known.replace(Some(found.into()));
        }
        self.state.set(state);
        self.ended.notify_waiters();
        tokio::time::sleep(pause).await;
        self.state.set(State::Stale);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Runs it on a runtime as workers have one.
    pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap()
            .block_on(future)
    }

    /// A resolver that answers when it is let, and counts.
    #[derive(Default)]
    struct Resolver {
        asked: Cell<usize>,
        answer: RefCell<Option<Vec<SocketAddr>>>,
        let_go: Notify,
    }

    impl Resolver {
        fn ask(self: &Rc<Self>) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + 'static {
            let resolver = Rc::clone(self);
            async move {
                resolver.asked.set(resolver.asked.get() + 1);
                resolver.let_go.notified().await;
                resolver.answer.take().ok_or_else(|| io::ErrorKind::NotFound.into())
            }
        }

        fn answers(&self, address: &str) {
            self.answer.replace(Some(vec![address.parse().unwrap()]));
            self.let_go.notify_one();
        }
    }

    fn first(found: Option<Rc<[SocketAddr]>>) -> Option<String> {
        found.map(|list| list[0].to_string())
    }

    #[test]
    fn everybody_who_asks_shares_one_look_up() {
        let (names, resolver) = (Rc::new(Names::default()), Rc::new(Resolver::default()));
        block_on(async {
            let asking: Vec<_> = (0..100)
                .map(|_| {
                    let (names, resolver) = (Rc::clone(&names), Rc::clone(&resolver));
                    tokio::task::spawn_local(async move {
                        first(names.addresses(|| resolver.ask()).await)
                    })
                })
                .collect();
            while resolver.asked.get() == 0 {
                tokio::task::yield_now().await;
            }
            resolver.answers("192.0.2.1:80");

            for one in asking {
                assert_eq!(one.await.unwrap().as_deref(), Some("192.0.2.1:80"));
            }
            assert_eq!(resolver.asked.get(), 1);
        });
    }

    /// A server that was reached a moment ago is not gone because its name cannot be looked up again.
    #[test]
    fn the_old_answer_is_used_while_a_look_up_runs_and_after_it_has_failed() {
        let (names, resolver) = (Rc::new(Names::default()), Rc::new(Resolver::default()));
        let ask = || names.addresses(|| resolver.ask());
        block_on(async {
            resolver.answers("192.0.2.1:80");
            assert_eq!(first(ask().await).as_deref(), Some("192.0.2.1:80"));
            names.state.set(State::Stale);

            assert_eq!(first(ask().await).as_deref(), Some("192.0.2.1:80"), "running");
            resolver.let_go.notify_one();
            while names.state.get() == State::Running {
                tokio::task::yield_now().await;
            }
            assert_eq!(names.state.get(), State::Failed);
            assert_eq!(first(ask().await).as_deref(), Some("192.0.2.1:80"), "failed");
            assert_eq!(resolver.asked.get(), 2);

            names.state.set(State::Stale);
            resolver.answers("192.0.2.2:80");
            ask().await;
            while names.state.get() == State::Running {
                tokio::task::yield_now().await;
            }
            assert_eq!(first(ask().await).as_deref(), Some("192.0.2.2:80"), "new");
        });
    }

    #[test]
    fn a_failure_is_remembered_for_a_moment_only() {
        let (names, resolver) = (Rc::new(Names::default()), Rc::new(Resolver::default()));
        let ask = || names.addresses(|| resolver.ask());
        block_on(async {
            resolver.let_go.notify_one();
            for _ in 0..10 {
                assert_eq!(ask().await, None);
            }
            assert_eq!(resolver.asked.get(), 1);

            while names.state.get() == State::Failed {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            resolver.answers("192.0.2.1:80");
            assert_eq!(first(ask().await).as_deref(), Some("192.0.2.1:80"));
        });
    }
}
