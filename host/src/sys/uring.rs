//! io_uring: operations on sockets that the kernel carries out, and the memory that it uses for them.
//!
//! What makes this safe to call:
//!
//! - An operation owns whatever the kernel touches: a descriptor that stays open, the bytes to send.
//!   Both are kept until the kernel has said its last word, however early the caller loses interest.
//! - Bytes are received into buffers of the ring, which the kernel hands over one at a time. A
//!   [`Received`] is such a buffer, and gives it back when it is dropped.
//! - A place in the table of operations is used again only after the last word, and has a new
//!   generation then, so cancelling comes too late instead of hitting another operation.
//! - Dropping a ring cancels what is left and waits for the last words. Memory whose operation has
//!   not ended even then is never freed.
//!
//! Not here: when to receive or to send (`io::ring`).

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering, fence};
use std::time::Duration;

use io_uring::types::{BufRingEntry, CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

/// Entries of the completion queue for each of the submission queue. When more have ended, the kernel
/// keeps the rest for a moment.
const ENDED_PER_ENTRY: u32 = 4;

/// A page: heads and small bodies fit, and of a larger body the rest is received in large pieces.
pub const BUFFER_BYTES: usize = BUFFER_LENGTH as usize;
const BUFFER_LENGTH: u32 = 4096;
/// Most buffers that a ring can have.
const BUFFERS_MAX: u16 = 1024;
/// Buffers that it begins with, and that it gets more each time it runs out. The kernel takes them in
/// turn, so few of them stay warm in the processor's caches.
const BUFFERS_STEP: u16 = 64;
/// All buffers are of one group.
const GROUP: u16 = 0;
const PAGE: usize = 4096;

/// `IORING_RECVSEND_POLL_FIRST`: wait, and only then try to receive.
const POLL_FIRST: u16 = 1;

/// `user_data` of what cancels; the table of operations never has so many places.
const CANCELLING: u64 = u64::MAX;

/// Enters in one turn. The kernel handles some twenty events in each, and says when there are more.
const ENTERS_MAX: usize = 16;

/// Buffers for sending that are kept for the next.
const SPARE_MAX: usize = 256;

/// How long the end of a ring waits at a time, how often for bytes to be sent, and how often for
/// what was cancelled.
const LAST_WAIT: Duration = Duration::from_millis(10);
const LAST_SENDS_MAX: usize = 50;
const LAST_WORDS_MAX: usize = 100;

/// A ring. Each operation belongs to a `T`, which has the socket.
pub struct Ring<T> {
    ring: IoUring,
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    in_flight: usize,
    sending: usize,
    /// What found no place in the submission queue.
    waiting: VecDeque<squeue::Entry>,
    group: Rc<Group>,
    spare: Vec<Vec<u8>>,
}

struct Slot<T> {
    generation: u32,
    operation: Option<Operation<T>>,
}

struct Operation<T> {
    owner: T,
    kind: Kind,
}

enum Kind {
    Receive,
    Send(Vec<u8>),
    WatchRead,
    WatchWrite,
}

/// Names an operation, for cancelling it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    place: u32,
    generation: u32,
}

impl Key {
    /// As the kernel gives it back.
    fn user_data(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.place)
    }

    fn of(user_data: u64) -> Self {
        let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        Self { place: half(user_data), generation: half(user_data >> 32) }
    }
}

/// How an operation has ended.
#[derive(Debug)]
pub enum Ended {
    /// One of the receiving side.
    Read(io::Result<Arrived>),
    /// One of the sending side: everything is sent, or can be.
    Write(io::Result<()>),
}

/// What there is to receive.
#[derive(Debug)]
pub enum Arrived {
    /// These bytes, and perhaps more.
    Bytes(Received, bool),
    /// The peer has finished sending.
    End,
    /// Something; it was not taken.
    Something,
}

/// Bytes in a buffer of the ring, which goes back when this is dropped.
#[derive(Debug)]
pub struct Received {
    group: Rc<Group>,
    id: u16,
    start: usize,
    end: usize,
}

impl<T: AsFd> Ring<T> {
    /// A ring for the calling thread alone, which hands over up to so many entries at once.
    ///
    /// # Errors
    ///
    /// The kernel has no such rings or too old ones, this process may not use them, or it may not
    /// lock as much memory as they need.
    pub fn new(entries: u32) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_cqsize(entries.saturating_mul(ENDED_PER_ENTRY))
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_no_sqarray()
            .build(entries)?;
        let params = ring.params();
        if !(params.is_feature_nodrop() && params.is_feature_ext_arg()) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let group = Rc::new(Group::new());
        // SAFETY: the entries are page-aligned, as many as said, and live as long as the group, which
        // outlives the ring or is never freed (`Drop`).
        unsafe {
            let address = group.entries.as_ptr() as u64;
            ring.submitter().register_buf_ring_with_flags(address, BUFFERS_MAX, GROUP, 0)?;
        }
        group.publish_more();
        Ok(Self {
            ring,
            slots: Vec::new(),
            free: Vec::new(),
            in_flight: 0,
            sending: 0,
            waiting: VecDeque::new(),
            group,
            spare: Vec::new(),
        })
    }

    /// Has the kernel signal an eventfd when there is something to be turned over; see
    /// [`sleep`](Self::sleep).
    ///
    /// # Errors
    ///
    /// It is no eventfd.
    pub fn register_wake(&mut self, eventfd: impl AsFd) -> io::Result<()> {
        self.ring.submitter().register_eventfd(eventfd.as_fd().as_raw_fd())
    }

    /// Begins to receive from a socket that seems to have nothing at the moment.
    pub fn receive(&mut self, owner: T) -> Key {
        let descriptor = Fd(owner.as_fd().as_raw_fd());
        let entry = opcode::Recv::new(descriptor, std::ptr::null_mut(), 0)
            .buf_group(GROUP)
            .ioprio(POLL_FIRST)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        self.begin(Operation { owner, kind: Kind::Receive }, entry)
    }

    /// Begins to send a copy of `bytes`, all of them.
    pub fn send(&mut self, owner: T, bytes: &[u8]) -> Key {
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.extend_from_slice(bytes);
        let descriptor = Fd(owner.as_fd().as_raw_fd());
        let length = u32::try_from(copy.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(descriptor, copy.as_ptr(), length)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build();
        self.sending += 1;
        self.begin(Operation { owner, kind: Kind::Send(copy) }, entry)
    }

    /// Begins to wait until there is something to receive.
    pub fn watch_read(&mut self, owner: T) -> Key {
        self.watch(owner, Kind::WatchRead, libc::POLLIN)
    }

    /// Begins to wait until there is room to send.
    pub fn watch_write(&mut self, owner: T) -> Key {
        self.watch(owner, Kind::WatchWrite, libc::POLLOUT)
    }

    fn watch(&mut self, owner: T, kind: Kind, events: libc::c_short) -> Key {
        let descriptor = Fd(owner.as_fd().as_raw_fd());
        let entry = opcode::PollAdd::new(descriptor, u32::from(events.unsigned_abs())).build();
        self.begin(Operation { owner, kind }, entry)
    }

    fn begin(&mut self, operation: Operation<T>, entry: squeue::Entry) -> Key {
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, operation: None });
            u32::try_from(self.slots.len() - 1).expect("fewer operations than descriptors")
        });
        let slot = &mut self.slots[place as usize];
        slot.operation = Some(operation);
        self.in_flight += 1;
        let key = Key { place, generation: slot.generation };
        self.submit(entry.user_data(key.user_data()));
        key
    }
}

impl<T> Ring<T> {
    /// Asks for the end of an operation. It ends all the same with an [`Ended`], perhaps a good one.
    pub fn cancel(&mut self, key: Key) {
        let slot = self.slots.get(key.place as usize);
        if slot.is_some_and(|slot| slot.generation == key.generation && slot.operation.is_some()) {
            self.submit(opcode::AsyncCancel::new(key.user_data()).build().user_data(CANCELLING));
        }
    }

    /// Operations whose last word has not come.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Buffers that hold received bytes.
    #[must_use]
    pub fn buffers_held(&self) -> usize {
        self.group.held.get()
    }

    /// Hands over what was asked for, and adds what has ended to `ended`. Does not wait.
    pub fn turn(&mut self, ended: &mut Vec<(T, Ended)>) {
        self.wake_up();
        for _ in 0..ENTERS_MAX {
            self.flush();
            let count = u32::try_from(self.ring.submission().len()).unwrap_or(u32::MAX);
            // SAFETY: no argument is passed. What fails is tried again with the next turn: the kernel
            // was short of memory or had too many completions to hand over.
            let _ = unsafe {
                let flags = EnterFlags::GETEVENTS.bits();
                self.ring.submitter().enter::<libc::sigset_t>(count, 0, flags, None)
            };
            self.reap(ended);
            if self.waiting.is_empty() && !self.ring.submission().taskrun() {
                break;
            }
        }
    }

    /// From now on the eventfd is signalled. False: there is something already, so take another turn.
    #[must_use]
    pub fn sleep(&mut self) -> bool {
        self.ring.completion().enable_eventfd();
        // The kernel notes that there is something, then looks whether to signal; this side the other
        // way round. One of them sees the other.
        fence(Ordering::SeqCst);
        let mut submission = self.ring.submission();
        let asked = !submission.is_empty() || !self.waiting.is_empty();
        submission.sync();
        let idle = !asked && !submission.taskrun() && !submission.cq_overflow();
        drop(submission);
        idle && self.ring.completion().is_empty()
    }

    /// From now on the eventfd is left alone, until [`sleep`](Self::sleep).
    pub fn wake_up(&mut self) {
        self.ring.completion().disable_eventfd();
    }

    fn submit(&mut self, entry: squeue::Entry) {
        // SAFETY: what the entry points at is in the table of operations until its last word.
        if !self.waiting.is_empty() || unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.waiting.push_back(entry);
        }
    }

    /// Moves what waits into the submission queue.
    fn flush(&mut self) {
        let mut submission = self.ring.submission();
        while let Some(entry) = self.waiting.front() {
            // SAFETY: as above.
            if unsafe { submission.push(entry) }.is_err() {
                break;
            }
            self.waiting.pop_front();
        }
    }

    fn reap(&mut self, ended: &mut Vec<(T, Ended)>) {
        let mut short = false;
        let completion = self.ring.completion();
        for entry in completion {
            let (result, flags) = (entry.result(), entry.flags());
            let bytes = cqueue::buffer_select(flags).map(|id| {
                let end = usize::try_from(result).unwrap_or(0).min(BUFFER_BYTES);
                self.group.held.set(self.group.held.get() + 1);
                Received { group: Rc::clone(&self.group), id, start: 0, end }
            });
            if entry.user_data() == CANCELLING {
                continue;
            }
            let Key { place, .. } = Key::of(entry.user_data());
            let slot = &mut self.slots[place as usize];
            let Some(Operation { owner, kind }) = slot.operation.take() else { continue };
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(place);
            self.in_flight -= 1;
            let failed = (result < 0).then(|| io::Error::from_raw_os_error(-result));
            let end = match (kind, failed) {
                (Kind::Receive, Some(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    short = true;
                    Ended::Read(Ok(Arrived::Something))
                }
                (Kind::Receive | Kind::WatchRead, Some(error)) => Ended::Read(Err(error)),
                (Kind::WatchRead, None) => Ended::Read(Ok(Arrived::Something)),
                (Kind::Receive, None) => Ended::Read(Ok(match bytes {
                    Some(bytes) if !bytes.is_empty() => {
                        let more = cqueue::sock_nonempty(flags) || bytes.len() == BUFFER_BYTES;
                        Arrived::Bytes(bytes, more)
                    }
                    _ => Arrived::End,
                })),
                (Kind::Send(mut copy), failed) => {
                    self.sending -= 1;
                    // Less than everything: something has ended it in the middle.
                    let whole = usize::try_from(result).is_ok_and(|sent| sent == copy.len());
                    if self.spare.len() < SPARE_MAX {
                        copy.clear();
                        self.spare.push(copy);
                    }
                    let broken = || io::ErrorKind::BrokenPipe.into();
                    Ended::Write(if whole { Ok(()) } else { Err(failed.unwrap_or_else(broken)) })
                }
                (Kind::WatchWrite, failed) => Ended::Write(failed.map_or(Ok(()), Err)),
            };
            ended.push((owner, end));
        }
        if short {
            self.group.publish_more();
        }
    }

    /// Turns and waits, as long as `more` says so, and until it has waited in vain for `tries` times.
    fn wait_while(&mut self, tries: usize, more: impl Fn(&Self) -> bool) {
        let mut tries = tries;
        let mut ended = Vec::new();
        while more(self) && tries > 0 {
            self.flush();
            let wait = Timespec::from(LAST_WAIT);
            let arguments = SubmitArgs::new().timespec(&wait);
            if self.ring.submitter().submit_with_args(1, &arguments).is_err() {
                tries -= 1;
            }
            self.reap(&mut ended);
            ended.clear();
        }
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        self.wait_while(LAST_SENDS_MAX, |ring| ring.sending > 0);
        if self.in_flight > 0 {
            let all = opcode::AsyncCancel2::new(CancelBuilder::any());
            self.submit(all.build().user_data(CANCELLING));
            self.wait_while(LAST_WORDS_MAX, |ring| ring.in_flight > 0);
        }
        if self.in_flight > 0 {
            std::mem::forget(std::mem::take(&mut self.slots));
            std::mem::forget(Rc::clone(&self.group));
        }
    }
}

/// The buffers that the kernel receives into: an array of entries that it reads, and the memory that
/// they tell of.
#[derive(Debug)]
struct Group {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    tail: Cell<u16>,
    /// Buffers that have been published so far; those beyond were never touched.
    published: Cell<u16>,
    held: Cell<usize>,
}

impl Group {
    const ENTRIES: Layout = layout(BUFFERS_MAX as usize * size_of::<BufRingEntry>());
    const MEMORY: Layout = layout(BUFFERS_MAX as usize * BUFFER_BYTES);

    fn new() -> Self {
        // SAFETY: the size is not zero.
        let entries = unsafe { alloc_zeroed(Self::ENTRIES) };
        // SAFETY: the size is not zero. The memory is left untouched, so that only what is used becomes
        // resident; nobody reads what the kernel has not written.
        let memory = unsafe { alloc(Self::MEMORY) };
        Self {
            entries: allocated(entries, Self::ENTRIES).cast(),
            memory: allocated(memory, Self::MEMORY),
            tail: Cell::new(0),
            published: Cell::new(0),
            held: Cell::new(0),
        }
    }

    fn publish_more(&self) {
        let first = self.published.get();
        let end = first.saturating_add(BUFFERS_STEP).min(BUFFERS_MAX);
        for id in first..end {
            self.publish(id);
        }
        self.published.set(end);
    }

    /// Gives a buffer to the kernel. There are as many entries as buffers, so one is free.
    fn publish(&self, id: u16) {
        let tail = self.tail.get();
        let next = tail.wrapping_add(1);
        // SAFETY: entry and buffer lie within their allocations, which live as long as the group. The
        // kernel does not look at the entry before the new tail is stored, and nobody else has the
        // buffer: it was not published yet, or its only `Received` is being dropped.
        unsafe {
            let entry = self.entries.as_ptr().add(usize::from(tail % BUFFERS_MAX));
            let address = self.memory.as_ptr().add(usize::from(id) * BUFFER_BYTES);
            (*entry).set_addr(address as u64);
            (*entry).set_len(BUFFER_LENGTH);
            (*entry).set_bid(id);
            let shared = BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>();
            (*shared).store(next, Ordering::Release);
        }
        self.tail.set(next);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: both were allocated with these layouts, and the ring that knew them is gone.
        unsafe {
            dealloc(self.entries.as_ptr().cast(), Self::ENTRIES);
            dealloc(self.memory.as_ptr(), Self::MEMORY);
        }
    }
}

impl Received {
    /// Uses up the first `count` bytes.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the buffer lies within the group's memory. The kernel has written what is before
        // `end`, has handed the buffer over, and gets it back when this is dropped.
        unsafe {
            let buffer = self.group.memory.as_ptr().add(usize::from(self.id) * BUFFER_BYTES);
            std::slice::from_raw_parts(buffer.add(self.start), self.end - self.start)
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.group.publish(self.id);
        self.group.held.set(self.group.held.get() - 1);
    }
}

const fn layout(bytes: usize) -> Layout {
    match Layout::from_size_align(bytes, PAGE) {
        Ok(layout) => layout,
        Err(_) => panic!("a constant that fits"),
    }
}

fn allocated(memory: *mut u8, layout: Layout) -> NonNull<u8> {
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn turn(ring: &mut Ring<UnixStream>) -> Vec<(UnixStream, Ended)> {
        let mut ended = Vec::new();
        ring.turn(&mut ended);
        ended
    }

    /// A key outlives its operation; used late, it must not end the operation in the same place.
    #[test]
    fn cancelling_too_late_hits_nobody() {
        let Ok(mut ring) = Ring::new(64) else { return };
        let (first, mut to_first) = UnixStream::pair().unwrap();
        let (second, mut to_second) = UnixStream::pair().unwrap();
        let old = ring.receive(first);
        to_first.write_all(b"1").unwrap();
        assert_eq!(turn(&mut ring).len(), 1);
        let new = ring.receive(second);

        ring.cancel(old);
        assert!(turn(&mut ring).is_empty());
        assert_eq!(new.place, old.place, "the same place");
        to_second.write_all(b"2").unwrap();

        let ended = turn(&mut ring);
        assert!(
            matches!(&ended[..], [(_, Ended::Read(Ok(Arrived::Bytes(bytes, _))))] if **bytes == *b"2"),
            "{ended:?}"
        );
    }

    #[test]
    fn a_cancelled_operation_still_has_its_last_word() {
        let Ok(mut ring) = Ring::new(64) else { return };
        let (near, _far) = UnixStream::pair().unwrap();
        let key = ring.receive(near);
        assert!(turn(&mut ring).is_empty());

        ring.cancel(key);

        assert!(matches!(&turn(&mut ring)[..], [(_, Ended::Read(Err(_)))]));
        assert_eq!(ring.in_flight(), 0);
    }

    /// Its sends go out first; whoever waits for bytes is let go, and sees its socket closed.
    #[test]
    fn the_end_of_a_ring_is_the_end_of_its_operations() {
        let Ok(mut ring) = Ring::new(64) else { return };
        let mut peers = Vec::new();
        for _ in 0..2000 {
            let (near, far) = UnixStream::pair().unwrap();
            ring.send(near.try_clone().unwrap(), b"bye");
            ring.receive(near);
            peers.push(far);
            if peers.len() == 400 {
                turn(&mut ring);
                peers.clear();
            }
        }

        drop(ring);

        for mut peer in peers {
            let mut bytes = Vec::new();
            peer.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, b"bye");
        }
    }
}
