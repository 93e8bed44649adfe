//! A body on its way into the cache, and those who read it meanwhile.
//!
//! ```text
//!   Capture ─ push ─► chunk, chunk, chunk … ─ finish ─► whole
//!                       ▲       ▲
//!                    Follow   Follow       each at its own pace, on any worker
//! ```
//!
//! As long as the body is to be kept, so are all of its chunks, and whoever comes late begins at the
//! first. One that has become too large *passes*: nobody new may follow, a chunk goes when all have had
//! it, and the source waits for the slowest of those who are left, until it gives that one up.
//!
//! What has been promised to it, and what it holds when it passes, is charged until it is gone.
//!
//! Not here: what may be promised (`capture`), how long one waits for another (`proxy`).

use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::charges::Charges;
use crate::state::lock;

/// What may wait for the slowest reader of a body that passes.
const WINDOW_BYTES: u64 = 256 * 1024;

/// Why a body was not had to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It did not arrive whole.
    Source,
    /// Others would have had to wait.
    TooSlow,
}

/// A body on its way.
pub(super) struct Coming {
    whole: OnceLock<Bytes>,
    inflow: Mutex<Inflow>,
    charges: Arc<Charges>,
}

#[derive(Default)]
struct Inflow {
    /// With the offset of each.
    chunks: std::collections::VecDeque<(u64, Bytes)>,
    end: u64,
    ended: bool,
    broken: bool,
    passing: bool,
    followers: Vec<Option<Seat>>,
    source: Option<Waker>,
    /// Bytes that it is charged for.
    charged: usize,
}

#[derive(Default)]
struct Seat {
    at: u64,
    waker: Option<Waker>,
    /// It was too slow.
    left: bool,
}

impl Inflow {
    fn wake(&mut self) {
        for seat in self.followers.iter_mut().flatten() {
            if let Some(waker) = seat.waker.take() {
                waker.wake();
            }
        }
    }

    fn seats(&self) -> impl Iterator<Item = &Seat> {
        self.followers.iter().flatten().filter(|seat| !seat.left)
    }

    /// Drops what everybody has had, if nobody else will want it.
    fn forget(&mut self, charges: &Charges) {
        if !self.passing && !self.broken {
            return;
        }
        let slowest = self.seats().map(|seat| seat.at).min();
        let slowest = slowest.unwrap_or(self.end);
        while self
            .chunks
            .front()
            .is_some_and(|(start, chunk)| start + chunk.len() as u64 <= slowest)
        {
            self.chunks.pop_front();
        }
        self.charge(usize::try_from(self.held()).unwrap_or(usize::MAX), charges);
        if let Some(source) = self.source.take() {
            source.wake();
        }
    }

    /// From now on it is charged for so much.
    fn charge(&mut self, bytes: usize, charges: &Charges) {
        match bytes.checked_sub(self.charged) {
            Some(more) => charges.add(more),
            None => charges.release(self.charged - bytes),
        }
        self.charged = bytes;
    }

    fn held(&self) -> u64 {
        self.chunks.front().map_or(0, |(start, _)| self.end - start)
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        lock(&self.inflow).charge(0, &self.charges);
    }
}

impl Coming {
    pub(super) fn new(charges: Arc<Charges>) -> Self {
        Self { whole: OnceLock::new(), inflow: Mutex::default(), charges }
    }

    /// Takes so much of what there is for bodies on their way, `max` for all of them.
    pub(super) fn reserve(&self, bytes: usize, max: usize) -> bool {
        let mut inflow = lock(&self.inflow);
        let more = bytes.saturating_sub(inflow.charged);
        let reserved = self.charges.reserve(more, max);
        if reserved {
            inflow.charged += more;
        }
        reserved
    }

    /// All of it, once it is there.
    pub(super) fn whole(&self) -> Option<&Bytes> {
        self.whole.get()
    }

    /// Adds a piece.
    pub(super) fn push(&self, piece: Bytes) {
        let mut inflow = lock(&self.inflow);
        let start = inflow.end;
        inflow.end += piece.len() as u64;
        inflow.chunks.push_back((start, piece));
        inflow.forget(&self.charges);
        inflow.wake();
    }

    /// Nothing more comes. The whole body, if it was to be kept.
    pub(super) fn finish(&self) -> Option<Bytes> {
        let mut inflow = lock(&self.inflow);
        inflow.ended = true;
        inflow.wake();
        if inflow.passing {
            return None;
        }
        let end = usize::try_from(inflow.end).unwrap_or(0);
        let whole = match inflow.chunks.make_contiguous() {
            [] => Bytes::new(),
            [(_, only)] => only.clone(),
            many => {
                let mut whole = Vec::with_capacity(end);
                many.iter().for_each(|(_, chunk)| whole.extend_from_slice(chunk));
                whole.into()
            }
        };
        inflow.chunks.clear();
        // Under the lock: whoever finds no chunk must find this.
        let whole = self.whole.get_or_init(|| self.charges.body(whole)).clone();
        inflow.charge(0, &self.charges);
        Some(whole)
    }

    /// The body is this one.
    pub(super) fn finish_with(&self, body: &Bytes) {
        let mut inflow = lock(&self.inflow);
        inflow.ended = true;
        inflow.chunks.clear();
        self.whole.get_or_init(|| self.charges.body(body.clone()));
        inflow.charge(0, &self.charges);
        inflow.wake();
    }

    /// The rest does not come.
    pub(super) fn give_up(&self) {
        let mut inflow = lock(&self.inflow);
        if !inflow.ended {
            inflow.broken = true;
            inflow.forget(&self.charges);
        }
        inflow.wake();
    }

    /// From here on it passes. False when nobody follows it.
    pub(super) fn pass(&self) -> bool {
        let mut inflow = lock(&self.inflow);
        inflow.passing = true;
        inflow.forget(&self.charges);
        inflow.seats().next().is_some()
    }

    /// Whether some have had everything, and get no more because others are slower.
    pub(super) fn is_held_up(&self) -> bool {
        let inflow = lock(&self.inflow);
        let is_full = inflow.passing && inflow.held() >= WINDOW_BYTES;
        is_full && inflow.seats().any(|seat| seat.at == inflow.end)
    }

    /// Gives those up who are a whole window behind.
    pub(super) fn leave_slowest(&self) {
        let mut inflow = lock(&self.inflow);
        let end = inflow.end;
        for seat in inflow.followers.iter_mut().flatten() {
            if end - seat.at >= WINDOW_BYTES {
                seat.left = true;
                if let Some(waker) = seat.waker.take() {
                    waker.wake();
                }
            }
        }
        inflow.forget(&self.charges);
    }

    /// Waits until there is room for more. False when nobody wants it any longer.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut inflow = lock(&self.inflow);
        if !inflow.passing {
            return Poll::Ready(true);
        }
        if inflow.seats().next().is_none() {
            return Poll::Ready(false);
        }
        if inflow.held() < WINDOW_BYTES {
            return Poll::Ready(true);
        }
        inflow.source = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Reads along from the first byte; `None` when that is gone.
    pub(super) fn follow(self: &Arc<Self>, length: Option<u64>) -> Option<Follow> {
        let mut inflow = lock(&self.inflow);
        if inflow.broken || inflow.passing {
            return None;
        }
        let free = inflow.followers.iter().position(Option::is_none);
        let seat = free.unwrap_or_else(|| {
            inflow.followers.push(None);
            inflow.followers.len() - 1
        });
        inflow.followers[seat] = Some(Seat::default());
        drop(inflow);
        Some(Follow { coming: Arc::clone(self), length, seat, at: 0 })
    }
}

/// Somebody who reads a body on its way.
pub struct Follow {
    coming: Arc<Coming>,
    length: Option<u64>,
    seat: usize,
    at: u64,
}

impl std::fmt::Debug for Follow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follow").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Follow {
    /// All of it, if nothing has been read yet and it is there.
    pub fn whole(&self) -> Option<Bytes> {
        self.coming.whole().filter(|_| self.at == 0).cloned()
    }

    /// How long the whole body is, if that is known.
    pub fn length(&self) -> Option<u64> {
        self.coming.whole().map(|whole| whole.len() as u64).or(self.length)
    }

    /// The next piece; `None` at the end.
    pub fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        if let Some(whole) = self.coming.whole.get().cloned() {
            return Poll::Ready(Ok(self.rest_of(&whole)));
        }
        let coming = Arc::clone(&self.coming);
        let mut inflow = lock(&coming.inflow);
        if let Some(whole) = coming.whole.get().cloned() {
            drop(inflow);
            return Poll::Ready(Ok(self.rest_of(&whole)));
        }
        if let Some(Some(Seat { left: true, .. })) = inflow.followers.get(self.seat) {
            return Poll::Ready(Err(Broken::TooSlow));
        }
        // What is read ends where a chunk ends.
        let next = inflow.chunks.partition_point(|(start, _)| *start < self.at);
        if let Some((_, chunk)) = inflow.chunks.get(next) {
            let chunk = chunk.clone();
            self.at += chunk.len() as u64;
            if let Some(Some(seat)) = inflow.followers.get_mut(self.seat) {
                seat.at = self.at;
            }
            inflow.forget(&coming.charges);
            return Poll::Ready(Ok(Some(chunk)));
        }
        if inflow.broken {
            return Poll::Ready(Err(Broken::Source));
        }
        if inflow.ended {
            return Poll::Ready(Ok(None));
        }
        if let Some(Some(seat)) = inflow.followers.get_mut(self.seat) {
            seat.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn rest_of(&mut self, whole: &Bytes) -> Option<Bytes> {
        let at = usize::try_from(self.at).unwrap_or(usize::MAX).min(whole.len());
        self.at = whole.len() as u64;
        (at < whole.len()).then(|| whole.slice(at..))
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let mut inflow = lock(&self.coming.inflow);
        if let Some(seat) = inflow.followers.get_mut(self.seat) {
            *seat = None;
        }
        inflow.forget(&self.coming.charges);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(follow: &mut Follow) -> Poll<Result<Option<Bytes>, Broken>> {
        follow.poll_next(&Context::from_waker(Waker::noop()))
    }

    fn piece(bytes: &'static [u8]) -> Poll<Result<Option<Bytes>, Broken>> {
        Poll::Ready(Ok(Some(Bytes::from_static(bytes))))
    }

    #[test]
    fn everybody_reads_all_of_it_whenever_they_came() {
        let coming = Arc::new(Coming::new(Arc::default()));
        let mut early = coming.follow(None).unwrap();
        assert_eq!(next(&mut early), Poll::Pending);
        coming.push(Bytes::from_static(b"one"));
        assert_eq!(next(&mut early), piece(b"one"));
        let mut late = coming.follow(None).unwrap();
        coming.push(Bytes::from_static(b"two"));
        assert_eq!(next(&mut late), piece(b"one"));

        assert_eq!(coming.finish().unwrap(), &b"onetwo"[..]);

        assert_eq!(next(&mut early), piece(b"two"));
        assert_eq!(next(&mut late), piece(b"two"));
        let mut last = coming.follow(None).unwrap();
        assert_eq!(next(&mut last), piece(b"onetwo"));
        for follow in [&mut early, &mut late, &mut last] {
            assert_eq!(next(follow), Poll::Ready(Ok(None)));
        }
    }

    #[test]
    fn who_follows_a_body_that_breaks_off_is_told_after_what_there_was() {
        let coming = Arc::new(Coming::new(Arc::default()));
        let mut follow = coming.follow(None).unwrap();
        coming.push(Bytes::from_static(b"one"));

        coming.give_up();

        assert_eq!(next(&mut follow), piece(b"one"));
        assert_eq!(next(&mut follow), Poll::Ready(Err(Broken::Source)));
        assert!(coming.follow(None).is_none());
    }

    /// What is too large to be kept must not pile up either.
    #[test]
    fn a_body_that_passes_waits_for_the_slowest_reader_and_for_nobody_else() {
        let coming = Arc::new(Coming::new(Arc::default()));
        let (mut fast, mut slow) = (coming.follow(None).unwrap(), coming.follow(None).unwrap());
        let cx = Context::from_waker(Waker::noop());
        let large = Bytes::from(vec![0; 150_000]);
        coming.push(large.clone());
        assert!(coming.pass());
        assert!(coming.follow(None).is_none(), "its beginning may be gone");
        assert_eq!(coming.poll_room(&cx), Poll::Ready(true));
        coming.push(large.clone());

        for _ in 0..2 {
            assert_eq!(next(&mut fast), Poll::Ready(Ok(Some(large.clone()))));
        }
        assert_eq!(coming.poll_room(&cx), Poll::Pending);
        assert!(coming.is_held_up());
        assert_eq!(next(&mut slow), Poll::Ready(Ok(Some(large.clone()))));
        assert_eq!(coming.poll_room(&cx), Poll::Ready(true));
        drop(slow);
        coming.push(large.clone());
        assert_eq!(next(&mut fast), Poll::Ready(Ok(Some(large))));
        assert_eq!(coming.finish(), None);
        assert_eq!(next(&mut fast), Poll::Ready(Ok(None)));
        drop(fast);
        assert_eq!(coming.poll_room(&cx), Poll::Ready(false));
    }

    #[test]
    fn who_is_too_slow_is_given_up_and_nobody_else() {
        let charges = Arc::<Charges>::default();
        let coming = Arc::new(Coming::new(Arc::clone(&charges)));
        let (mut fast, mut slow) = (coming.follow(None).unwrap(), coming.follow(None).unwrap());
        let cx = Context::from_waker(Waker::noop());
        coming.push(Bytes::from(vec![0; 300_000]));
        assert!(coming.pass());
        assert_eq!((coming.poll_room(&cx), coming.is_held_up()), (Poll::Pending, false));
        assert!(matches!(next(&mut fast), Poll::Ready(Ok(Some(_)))));
        assert!(coming.is_held_up());
        assert_eq!(charges.outside(), 300_000);

        coming.leave_slowest();

        assert_eq!((coming.poll_room(&cx), charges.outside()), (Poll::Ready(true), 0));
        assert_eq!(next(&mut slow), Poll::Ready(Err(Broken::TooSlow)));
        coming.push(Bytes::from_static(b"more"));
        assert_eq!(next(&mut fast), piece(b"more"));
        drop(fast);
        assert_eq!(coming.poll_room(&cx), Poll::Ready(false), "who was given up wants nothing");
    }
}
