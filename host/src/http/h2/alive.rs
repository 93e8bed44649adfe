//! Whether a silent peer is still there.
//!
//! ```text
//!   something is heard ─► silence ─► PING ─► silence ─► gone
//!           ▲                         │
//!           └─────────────────────────┘ an answer, or anything else
//! ```
//!
//! Not here: what becomes of the connection (`connection`, `upstream`).

use std::rc::Rc;
use std::task::{Context, Poll};

use h2::{Ping, PingPong};

use super::wire::Account;
use crate::config::Pings;
use crate::io::{Deadlines, Timer};

/// Asks a peer that says nothing for a sign of life.
#[derive(Debug)]
pub struct Alive {
    pings: PingPong,
    times: Pings,
    timer: Timer,
    bound: bool,
    /// The peer has been asked, and has said nothing since.
    asked: bool,
    heard: u64,
}

impl Alive {
    /// For a connection whose pings these are; `None` where nobody is asked.
    pub fn new(
        pings: Option<PingPong>,
        times: Option<Pings>,
        deadlines: &Rc<Deadlines>,
    ) -> Option<Self> {
        let (pings, times) = pings.zip(times)?;
        let timer = deadlines.timer();
        timer.arm(times.interval);
        Some(Self { pings, times, timer, bound: false, asked: false, heard: 0 })
    }

    /// Waits until the peer is known to be gone. To be asked whenever the connection has been driven.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>, account: &Account) -> Poll<()> {
        if !std::mem::replace(&mut self.bound, true) {
            self.timer.bind(cx);
        }
        // An answer is heard as anything is; it is taken so that another ping may follow.
        let _ = self.pings.poll_pong(cx);
        if account.heard() != self.heard {
            self.heard = account.heard();
            self.asked = false;
            self.timer.arm(self.times.interval);
        }
        if !self.timer.is_due() {
            return Poll::Pending;
        }
        if std::mem::replace(&mut self.asked, true) {
            return Poll::Ready(());
        }
        // Fails while an earlier one is not answered, which is as good.
        let _ = self.pings.send_ping(Ping::opaque());
        self.timer.arm(self.times.timeout);
        Poll::Pending
    }
}
