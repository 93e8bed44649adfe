//! Streams over a real ring, against real sockets.

#![allow(clippy::cast_possible_truncation, reason = "a pattern may repeat")]

use std::future::poll_fn;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::driver::ORPHAN_TICKS_MAX;
use super::*;
use crate::io::{PipePool, RingCounts, Stream};

/// Runs on a thread with a ring, and looks afterwards that nothing is left in it. Where there is no
/// io_uring there is nothing to test.
fn on_ring<F: Future<Output = ()> + 'static>(test: impl FnOnce() -> F + Send + 'static) {
    std::thread::spawn(|| {
        let Ok(guard) = install() else {
            eprintln!("no io_uring here");
            return;
        };
        let driver = current().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap();
        runtime.block_on(async {
            tokio::task::spawn_local(Rc::clone(&driver).drive());
            let test = tokio::task::spawn_local(test());
            tokio::time::timeout(Duration::from_secs(20), test).await.unwrap().unwrap();
            until("nothing is in use", || driver.counts() == RingCounts::default()).await;
        });
        drop((runtime, guard));
    })
    .join()
    .unwrap();
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..5000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("not yet: {what}");
}

fn unix() -> (Stream, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    (Stream::new(near.into(), false).unwrap(), far)
}

fn tcp() -> (Stream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let near = listener.accept().unwrap().0;
    near.set_nonblocking(true).unwrap();
    (Stream::new(near.into(), true).unwrap(), far)
}

async fn read(stream: &mut Stream, bytes: &mut [u8]) -> io::Result<usize> {
    poll_fn(|cx| stream.poll_read(cx, bytes)).await
}

async fn read_exactly(stream: &mut Stream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let mut filled = 0;
    while filled < count {
        let taken = read(stream, &mut bytes[filled..]).await.unwrap();
        assert!(taken > 0, "ended after {filled} of {count}");
        filled += taken;
    }
    bytes
}

async fn write_all(stream: &mut Stream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let count = poll_fn(|cx| stream.poll_write(cx, bytes)).await.unwrap();
        bytes = &bytes[count..];
    }
}

/// Polls a read once, so that an operation of its waits.
async fn begin_to_read(stream: &mut Stream) {
    poll_fn(|cx| {
        assert!(stream.poll_read(cx, &mut [0; 64]).is_pending());
        Poll::Ready(())
    })
    .await;
    // It is handed over, and waits.
    tokio::task::yield_now().await;
}

#[test]
fn bytes_of_any_number_arrive_in_order() {
    on_ring(|| async {
        for size in [1, BUFFER, BUFFER + 1, 3 * BUFFER, 1 << 20] {
            let sent: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            for (mut near, mut far) in [split(unix()), split(tcp())] {
                begin_to_read(&mut near).await;
                let copy = sent.clone();
                let writer = std::thread::spawn(move || {
                    far.write_all(&copy).unwrap();
                    let mut back = vec![0; copy.len()];
                    far.read_exact(&mut back).unwrap();
                    back
                });

                let received = read_exactly(&mut near, size).await;
                write_all(&mut near, &received).await;

                assert!(received == sent, "{size}");
                until("it is echoed", || writer.is_finished()).await;
                assert!(writer.join().unwrap() == sent, "{size}");
            }
        }
    });
}

const BUFFER: usize = crate::sys::uring::BUFFER_BYTES;

trait Peer: io::Read + io::Write + Send {}
impl<T: io::Read + io::Write + Send> Peer for T {}

fn split((near, far): (Stream, impl Peer + 'static)) -> (Stream, Box<dyn Peer>) {
    (near, Box::new(far))
}

/// What a client has sent must never reach another one, whenever it leaves.
#[test]
fn a_read_dropped_in_flight_never_lends_its_buffer_to_another() {
    on_ring(|| async {
        for round in 0..20_u8 {
            let mut pairs: Vec<_> = (0..100).map(|_| unix()).collect();
            for (near, _) in &mut pairs {
                begin_to_read(near).await;
            }
            for (index, (_, far)) in pairs.iter_mut().enumerate() {
                far.write_all(&[round, index as u8]).unwrap();
            }
            // Every other one goes, some before the kernel was asked again and some after.
            if round % 2 == 0 {
                tokio::task::yield_now().await;
            }
            let mut index = 0;
            pairs.retain(|_| {
                index += 1;
                index % 2 == 0
            });
            // What takes their places in the ring at once.
            let mut fresh: Vec<_> = (0..50).map(|_| unix()).collect();
            for (near, _) in &mut fresh {
                begin_to_read(near).await;
            }
            for (index, (_, far)) in fresh.iter_mut().enumerate() {
                far.write_all(&[round, 200 + (index % 50) as u8]).unwrap();
            }

            for (index, (near, _)) in pairs.iter_mut().enumerate() {
                assert_eq!(read_exactly(near, 2).await, [round, (2 * index + 1) as u8]);
            }
            for (index, (near, _)) in fresh.iter_mut().enumerate() {
                assert_eq!(read_exactly(near, 2).await, [round, 200 + (index % 50) as u8]);
            }
        }
    });
}

/// A response whose connection is closed after it must arrive, and its bytes must stay what they were.
#[test]
fn what_was_written_arrives_after_the_stream_is_gone() {
    on_ring(|| async {
        let mut fars = Vec::new();
        for index in 0..100_u8 {
            let (mut near, far) = tcp();
            begin_to_read(&mut near).await;
            write_all(&mut near, &[index; 1000]).await;
            fars.push(far);
        }

        until("all are closed", || current().unwrap().counts() == RingCounts::default()).await;

        for (index, mut far) in fars.into_iter().enumerate() {
            let mut bytes = Vec::new();
            far.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, [index as u8; 1000]);
        }
    });
}

#[test]
fn more_silent_bytes_than_there_are_buffers_keep_nobody_waiting() {
    on_ring(|| async {
        let mut pairs: Vec<_> = (0..1100).map(|_| unix()).collect();
        for (near, _) in &mut pairs {
            begin_to_read(near).await;
        }
        for (index, (_, far)) in pairs.iter_mut().enumerate() {
            far.write_all(&(index as u32).to_be_bytes()).unwrap();
        }
        let counts = || current().unwrap().counts();
        until("all have heard", || counts().operations == 0).await;
        assert!((64..=1024).contains(&counts().buffers), "{:?}", counts());

        for (index, (near, _)) in pairs.iter_mut().enumerate() {
            assert_eq!(read_exactly(near, 4).await, (index as u32).to_be_bytes());
        }
        assert_eq!(counts().buffers, 0);
    });
}

#[test]
fn an_end_a_reset_and_bytes_show_on_an_idle_stream() {
    on_ring(|| async {
        let (mut silent, _far) = tcp();
        let (mut ended, end) = tcp();
        let (mut reset, resets) = tcp();
        let (mut spoken, mut speaks) = tcp();
        for stream in [&mut silent, &mut ended, &mut reset, &mut spoken] {
            begin_to_read(stream).await;
            assert!(!stream.is_readable());
        }

        drop(end);
        socket2::SockRef::from(&resets).set_linger(Some(Duration::ZERO)).unwrap();
        drop(resets);
        speaks.write_all(b"x").unwrap();

        for stream in [&mut ended, &mut reset, &mut spoken] {
            until("it is heard", || stream.is_readable()).await;
            assert!(stream.is_dead());
        }
        assert!(!ended.holds_bytes() && !reset.holds_bytes() && spoken.holds_bytes());
        assert!(!silent.is_readable() && !silent.is_dead());
        assert!(poll_fn(|cx| reset.split().0.poll_left(cx)).await);
        assert!(!poll_fn(|cx| ended.split().0.poll_left(cx)).await);
        assert!(!poll_fn(|cx| spoken.split().0.poll_left(cx)).await);
        assert_eq!(read(&mut spoken, &mut [0; 9]).await.unwrap(), 1);
        assert_eq!(read(&mut ended, &mut [0; 9]).await.unwrap(), 0);
        assert!(read(&mut reset, &mut [0; 9]).await.is_err());
    });
}

/// The end must not overtake what is being sent.
#[test]
fn the_end_follows_the_last_bytes() {
    on_ring(|| async {
        let (mut near, mut far) = tcp();
        write_all(&mut near, b"last words").await;
        poll_fn(|cx| near.poll_shutdown(cx)).await.unwrap();

        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            far.read_to_end(&mut bytes).unwrap();
            far.write_all(b"still here").unwrap();
            bytes
        });

        assert_eq!(read_exactly(&mut near, 10).await, b"still here");
        assert_eq!(reader.join().unwrap(), b"last words");
    });
}

#[test]
fn a_pipe_gets_what_the_ring_took_and_then_the_rest() {
    on_ring(|| async {
        let size = 3_000_000;
        let (mut from, mut sender) = tcp();
        let (mut to, mut receiver) = tcp();
        begin_to_read(&mut from).await;
        let sent: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let copy = sent.clone();
        let writer = std::thread::spawn(move || sender.write_all(&copy).unwrap());
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            receiver.read_to_end(&mut bytes).unwrap();
            bytes
        });

        let pipes = PipePool::default();
        loop {
            let mut pipe = pipes.take().unwrap();
            let max = size;
            if poll_fn(|cx| from.split().0.poll_splice(cx, &mut pipe, max)).await.unwrap() == 0 {
                break;
            }
            while !pipe.is_empty() {
                poll_fn(|cx| to.split().1.poll_splice(cx, &mut pipe)).await.unwrap();
            }
            pipes.give_back(pipe);
        }
        drop(to);

        assert_eq!(from.received(), size as u64);
        writer.join().unwrap();
        until("all is read", || reader.is_finished()).await;
        assert!(reader.join().unwrap() == sent);
    });
}

/// A client that never reads must not keep a closed connection's memory for ever.
#[test]
fn a_send_that_nobody_takes_is_given_up_after_its_stream() {
    on_ring(|| async {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        // The socket is full before the ring has it.
        while (&near).write(&[0; 4096]).is_ok() {}
        let mut stream = Stream::new(near.into(), false).unwrap();
        write_all(&mut stream, b"never").await;
        drop(stream);
        let driver = current().unwrap();
        until("it waits", || driver.counts().operations == 1).await;

        for _ in 0..=ORPHAN_TICKS_MAX {
            driver.tick();
        }

        until("it is given up", || driver.counts().operations == 0).await;
        drop(far);
    });
}

#[test]
fn a_refused_connection_is_an_error_and_a_made_one_works() {
    on_ring(|| async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();

        let mut stream = Stream::connect_tcp(address).await.unwrap();
        write_all(&mut stream, b"hello").await;
        let mut bytes = [0; 5];
        let mut far = listener.accept().unwrap().0;
        tokio::task::yield_now().await;
        far.read_exact(&mut bytes).unwrap();
        drop(listener);
        let refused = Stream::connect_tcp(address).await.unwrap_err();

        assert_eq!(&bytes, b"hello");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    });
}

/// What arrives while the worker sleeps must wake it, at once and every time.
#[test]
fn a_sleeping_worker_is_woken() {
    on_ring(|| async {
        let (mut near, mut far) = tcp();
        far.set_nodelay(true).unwrap();
        let peer = std::thread::spawn(move || {
            let mut byte = [0];
            for _ in 0..500 {
                far.write_all(b"?").unwrap();
                far.read_exact(&mut byte).unwrap();
            }
        });

        for _ in 0..500 {
            assert_eq!(read_exactly(&mut near, 1).await, b"?");
            write_all(&mut near, b"!").await;
        }

        until("the peer has its answers", || peer.is_finished()).await;
    });
}

/// As on kernels that signal an eventfd once and never again.
#[test]
fn a_wake_up_that_was_lost_is_made_up_for_by_a_tick() {
    on_ring(|| async {
        let driver = current().unwrap();
        let (mut near, mut far) = tcp();
        begin_to_read(&mut near).await;
        let reader = tokio::task::spawn_local(async move { read(&mut near, &mut [0; 8]).await });
        until("it sleeps", || driver.is_deafened()).await;

        far.write_all(b"?").unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!reader.is_finished(), "it was woken after all");
        driver.tick();

        assert_eq!(reader.await.unwrap().unwrap(), 1);
    });
}
