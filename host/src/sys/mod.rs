//! What the operating system is asked for directly: the only home of `unsafe`.
//!
//! Every function here is safe to call and cannot be misused. Where the standard library,
//! rustix or socket2 has a safe way, that is the one taken. What only Linux has fails elsewhere
//! with [`io::ErrorKind::Unsupported`], and the gateway runs on without it.
//!
//! Not here: any decision.
#![allow(unsafe_code, reason = "what no safe crate offers is asked for here")]

pub mod private;
#[cfg(target_os = "linux")]
pub mod uring;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The CPUs that the calling thread may run on.
///
/// # Errors
///
/// The system has no such call, or numbers CPUs above 1,023.
#[cfg(target_os = "linux")]
pub fn affinity() -> io::Result<BTreeSet<usize>> {
    use rustix::thread::{CpuSet, sched_getaffinity};

    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// The CPUs that the calling thread may run on.
///
/// # Errors
///
/// Always: this system has no such call.
#[cfg(not(target_os = "linux"))]
pub fn affinity() -> io::Result<BTreeSet<usize>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Keeps the calling thread on these CPUs from here on. Threads that it starts inherit this.
///
/// # Errors
///
/// There is no such CPU, this process may use none of them, or the system cannot pin threads.
#[cfg(target_os = "linux")]
pub fn pin_to_cpus(cpus: impl IntoIterator<Item = usize>) -> io::Result<()> {
    use rustix::thread::{CpuSet, sched_setaffinity};

    let mut set = CpuSet::new();
    for cpu in cpus {
        // The set panics on a number that it has no place for.
        if cpu >= CpuSet::MAX_CPU {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        set.set(cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// Keeps the calling thread on these CPUs from here on.
///
/// # Errors
///
/// Always: this system cannot pin threads.
#[cfg(not(target_os = "linux"))]
pub fn pin_to_cpus(_cpus: impl IntoIterator<Item = usize>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Lets a listening socket hand out a connection only when its first bytes have come, or after
/// about `seconds`. Not for protocols in which the server speaks first.
///
/// # Errors
///
/// The socket is not a TCP one, or the system has no such option.
#[cfg(target_os = "linux")]
pub fn set_tcp_defer_accept(socket: impl AsFd, seconds: u16) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    // Neither rustix 1.1 nor socket2 0.6 has this option.
    let value = libc::c_int::from(seconds);
    let size = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is borrowed and so open, `value` lives across the call, and `size`
    // is its size; the kernel only reads it.
    let status = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const value).cast(),
            size,
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets a listening socket hand out a connection only when its first bytes have come.
///
/// # Errors
///
/// Always: this system has no such option.
#[cfg(not(target_os = "linux"))]
pub fn set_tcp_defer_accept(_socket: impl AsFd, _seconds: u16) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Makes a listening TCP socket ignore clients that begin a handshake; those that have begun theirs
/// are not affected. Connections accepted from now on inherit this, to no effect.
///
/// # Errors
///
/// The socket is not a TCP one, or the system has no such filters.
#[cfg(target_os = "linux")]
pub fn ignore_new_connections(socket: impl AsFd) -> io::Result<()> {
    use socket2::{SockFilter, SockRef};

    // A program for the kernel's packet filter, which sees the segment from its TCP header on: byte
    // 13 holds the flags (RFC 9293 §3.1), and SYN without ACK begins a handshake.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    let load_byte = |at| SockFilter::new(0x30, 0, 0, at);
    let and = |mask| SockFilter::new(0x54, 0, 0, mask);
    let skip_one_unless = |value| SockFilter::new(0x15, 0, 1, value);
    let keep_bytes = |count| SockFilter::new(0x06, 0, 0, count);
    SockRef::from(&socket.as_fd()).attach_filter(&[
        load_byte(FLAGS),
        and(SYN | ACK),
        skip_one_unless(SYN),
        keep_bytes(0),
        keep_bytes(u32::MAX),
    ])
}

/// Makes a listening TCP socket ignore clients that begin a handshake.
///
/// # Errors
///
/// Always: this system has no such filters.
#[cfg(not(target_os = "linux"))]
pub fn ignore_new_connections(_socket: impl AsFd) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Accepts a connection: a socket that does not block, and the address of a TCP peer.
///
/// # Errors
///
/// Those of `accept(2)`.
#[cfg(target_os = "linux")]
pub fn accept(socket: impl AsFd) -> io::Result<(OwnedFd, Option<IpAddr>)> {
    use rustix::net::{SocketFlags, acceptfrom_with};

    let (socket, peer) = acceptfrom_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    Ok((socket, peer.map(|peer| peer.ip())))
}

/// Accepts a connection: a socket that does not block, and the address of a TCP peer.
///
/// # Errors
///
/// Those of `accept(2)`.
#[cfg(not(target_os = "linux"))]
pub fn accept(socket: impl AsFd) -> io::Result<(OwnedFd, Option<IpAddr>)> {
    let (socket, peer) = socket2::SockRef::from(&socket).accept()?;
    socket.set_nonblocking(true)?;
    Ok((socket.into(), peer.as_socket().map(|peer| peer.ip())))
}

/// A descriptor that the runtime watches for something to read.
#[derive(Debug)]
pub struct Watched(AsyncFd<OwnedFd>);

impl Watched {
    /// To be called within a runtime.
    ///
    /// # Errors
    ///
    /// The system cannot watch it.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is owned by what is made, which lends it out by shared reference
        // only, so it stays open and the same as long as it is registered.
        let watched = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
        Ok(Self(watched?))
    }

    /// The descriptor.
    #[must_use]
    pub fn get(&self) -> &OwnedFd {
        self.0.get_ref()
    }

    /// Takes it back from the runtime.
    #[must_use]
    pub fn into_inner(self) -> OwnedFd {
        self.0.into_inner()
    }

    /// Waits until `call` no longer says that it would block.
    ///
    /// # Errors
    ///
    /// Those of `call`.
    pub async fn read<R>(&self, call: impl FnMut(&OwnedFd) -> io::Result<R>) -> io::Result<R> {
        self.0.async_io(Interest::READABLE, call).await
    }

    /// Waits for the next time that there is something, whether it was taken since or not.
    ///
    /// # Errors
    ///
    /// The runtime ends.
    pub fn poll_edge(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_ready(cx).map_ok(|mut guard| guard.clear_ready())
    }
}

/// Allows this process as many open descriptors as it may allow itself. Returns the limit now in
/// force and the highest possible one; [`u64::MAX`] is no limit.
///
/// Each connection is a descriptor, and systems start programs with 1,024 of them. If the limit
/// cannot be raised it stays as it is.
pub fn raise_descriptor_limit() -> (u64, u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // A refusal shows in what is read back.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
    descriptor_limit()
}

/// How many descriptors this process may have open, and how many it may allow itself; [`u64::MAX`] is
/// no limit.
#[must_use]
pub fn descriptor_limit() -> (u64, u64) {
    let limit = getrlimit(Resource::Nofile);
    (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX))
}

/// How many bytes this process may lock in memory; [`u64::MAX`] is no limit.
#[must_use]
pub fn memlock_limit() -> u64 {
    getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX)
}

/// A pipe that holds up to `bytes`, or what the system grants but no less than `least`: its read side
/// and its write side.
///
/// # Errors
///
/// No descriptors are left, or this user has as much memory in pipes as one may have.
#[cfg(target_os = "linux")]
pub fn pipe(bytes: usize, least: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    if fcntl_setpipe_size(&write, bytes).is_err() && fcntl_getpipe_size(&write)? < least {
        return Err(io::ErrorKind::QuotaExceeded.into());
    }
    Ok((read, write))
}

/// A pipe that sockets can be spliced to.
///
/// # Errors
///
/// Always: this system cannot splice.
#[cfg(not(target_os = "linux"))]
pub fn pipe(_bytes: usize, _least: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Moves up to `bytes` from one descriptor to another without copying; one of them is a pipe. Never
/// waits.
///
/// # Errors
///
/// [`io::ErrorKind::WouldBlock`] when there is nothing to move or no room for it;
/// [`io::ErrorKind::InvalidInput`] when one of them cannot be spliced; or the socket has failed.
#[cfg(target_os = "linux")]
pub fn splice(from: impl AsFd, to: impl AsFd, bytes: usize) -> io::Result<usize> {
    use rustix::pipe::SpliceFlags;

    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    Ok(rustix::pipe::splice(from, None, to, None, bytes, flags)?)
}

/// Moves up to `bytes` from one descriptor to another without copying.
///
/// # Errors
///
/// Always: this system cannot splice.
#[cfg(not(target_os = "linux"))]
pub fn splice(_from: impl AsFd, _to: impl AsFd, _bytes: usize) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Gives memory that this process has freed back to the system, as far as its allocator holds on to
/// it. Takes milliseconds where there is much.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn release_free_memory() {
    // SAFETY: takes and keeps no pointers; may be called from any thread at any time.
    unsafe { libc::malloc_trim(0) };
}

/// Gives memory that this process has freed back to the system: nothing to do for allocators that do
/// so by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn release_free_memory() {}

/// CPU time that the calling thread has used so far. One system call.
#[must_use]
pub fn thread_cpu_time() -> std::time::Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
    std::time::Duration::from_secs(seconds) + std::time::Duration::from_nanos(nanos)
}

/// Counts what each thread allocates, in unit tests.
#[cfg(test)]
pub(crate) mod allocations {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    thread_local! {
        static COUNT: Cell<u64> = const { Cell::new(0) };
    }

    struct Counting;

    #[global_allocator]
    static COUNTING: Counting = Counting;

    fn count() {
        // A thread that ends has no counts any more.
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
    }

    /// Allocations of the calling thread so far.
    pub(crate) fn so_far() -> u64 {
        COUNT.get()
    }

    // SAFETY: everything is left to the system's allocator; counting allocates nothing.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            count();
            // SAFETY: the caller's promises are those that are asked for.
            unsafe { System.alloc(layout) }
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            count();
            // SAFETY: as above.
            unsafe { System.alloc_zeroed(layout) }
        }

        unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
            count();
            // SAFETY: as above.
            unsafe { System.realloc(memory, layout, bytes) }
        }

        unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
            // SAFETY: as above.
            unsafe { System.dealloc(memory, layout) }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_pinned_thread_stays_on_its_cpu() {
        let last = *affinity().unwrap().last().unwrap();

        let pinned = thread::spawn(move || {
            pin_to_cpus([last]).unwrap();
            affinity().unwrap()
        });

        assert_eq!(pinned.join().unwrap(), BTreeSet::from([last]));
    }

    /// Who had connected before is not affected.
    #[test]
    fn new_connections_are_ignored() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut before = TcpStream::connect(address).unwrap();

        ignore_new_connections(&listener).unwrap();

        assert!(TcpStream::connect_timeout(&address, Duration::from_millis(50)).is_err());
        before.write_all(b"hello").unwrap();
        let mut received = [0; 5];
        std::io::Read::read_exact(&mut listener.accept().unwrap().0, &mut received).unwrap();
        assert_eq!(&received, b"hello");
    }

    #[test]
    fn a_cpu_that_does_not_exist_is_an_error() {
        thread::spawn(|| {
            assert!(pin_to_cpus([1_023]).is_err());
            assert!(pin_to_cpus([0, 1_024]).is_err());
            assert!(pin_to_cpus([usize::MAX]).is_err());
            assert!(pin_to_cpus([]).is_err());
        })
        .join()
        .unwrap();
    }

    /// The connection is established for the client, but there is nothing to accept until it
    /// speaks.
    #[test]
    fn a_deferred_connection_is_accepted_when_it_speaks() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        set_tcp_defer_accept(&listener, 10).unwrap();

        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        thread::sleep(Duration::from_millis(20));
        let silent = listener.accept().map(|_| ()).map_err(|error| error.kind());
        client.write_all(b"x").unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut spoken = listener.accept();
        while spoken.is_err() && Instant::now() < deadline {
            thread::yield_now();
            spoken = listener.accept();
        }

        assert_eq!(silent, Err(io::ErrorKind::WouldBlock));
        assert!(spoken.is_ok(), "{spoken:?}");
    }

    #[test]
    fn only_tcp_can_be_deferred() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();

        assert!(set_tcp_defer_accept(&socket, 10).is_err());
    }

    #[test]
    fn the_descriptor_limit_rises_to_the_highest_possible() {
        let before = getrlimit(Resource::Nofile);
        // One below the highest: below what was in force, tests beside this one could run out.
        let low = before.maximum.map(|maximum| maximum - 1);
        setrlimit(Resource::Nofile, Rlimit { current: low, ..before }).unwrap();

        let (soft, hard) = raise_descriptor_limit();

        assert_eq!(soft, hard);
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
        assert_eq!(hard, before.maximum.unwrap_or(u64::MAX));
    }
}
