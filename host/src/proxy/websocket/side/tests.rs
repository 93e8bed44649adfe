//! Frames by chance: the same is heard however they are cut, and what is passed on is heard the same again.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::*;

/// What a side hears of bytes: `early` at first, the others part by part. The last is an end.
async fn hear(role: Role, rules: &Inspection, early: &[u8], parts: &[&[u8]]) -> Vec<String> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut stream = Stream::new(ours.into(), false).unwrap();
    let mut side = Side::new(&mut stream, early.to_vec(), role, rules, Duration::ZERO).await;
    let mut said = Vec::new();
    for part in parts {
        theirs.write_all(part).unwrap();
        tokio::task::yield_now().await;
        while let Some(heard) = poll_fn(|cx| {
            side.begin();
            Poll::Ready(match side.poll_heard(cx) {
                Poll::Ready(heard) => Some(heard),
                Poll::Pending => {
                    // Nothing that matters may be lost with what a large message has left.
                    side.grown = true;
                    side.shed(cx);
                    None
                }
            })
        })
        .await
        {
            if push(&mut said, &heard) {
                return said;
            }
        }
    }
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    loop {
        let heard = poll_fn(|cx| {
            side.begin();
            side.poll_heard(cx)
        });
        if push(&mut said, &heard.await) {
            return said;
        }
    }
}

/// Whether that was the last.
fn push(said: &mut Vec<String>, heard: &Heard) -> bool {
    let (last, text) = match heard {
        Heard::Note(note) => (false, format!("{note:?}")),
        Heard::Ping => (false, "ping".to_owned()),
        Heard::Pong => (false, "pong".to_owned()),
        Heard::Close(frame) => (true, format!("close {frame:?}")),
        Heard::Broken(code, _) => (true, format!("broken {code}")),
        Heard::Lost => (true, "lost".to_owned()),
    };
    said.push(text);
    last
}

/// The bytes that a side of this role writes for a message.
async fn say(role: Role, rules: &Inspection, note: &SocketMessage) -> Vec<u8> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut stream = Stream::new(ours.into(), false).unwrap();
    let mut side = Side::new(&mut stream, Vec::new(), role, rules, Duration::ZERO).await;
    side.send(note.clone());
    poll_fn(|cx| side.poll_sent(cx)).await.unwrap();
    drop(side);
    drop(stream);
    let mut bytes = Vec::new();
    theirs.read_to_end(&mut bytes).unwrap();
    bytes
}

/// A few frames, most of which a peer might send.
fn frames(random: &mut fastrand::Rng, masked: bool) -> Vec<u8> {
    const FIRST: [u8; 14] =
        [0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x80, 0x89, 0x8a, 0x88, 0x09, 0xc1, 0x83, 0x8b];
    let mut bytes = Vec::new();
    for _ in 0..random.usize(1..8) {
        // The later ones end it, and come seldom.
        let first = if random.u8(..10) > 0 { random.usize(..9) } else { random.usize(..14) };
        let length = [0, 1, 2, 5, 125, 126, 200, 201][random.usize(..8)];
        bytes.push(FIRST[first]);
        let mask = if masked { 0x80 } else { 0 };
        match u8::try_from(length) {
            Ok(short @ ..126) => bytes.push(mask | short),
            _ => {
                bytes.push(mask | 126);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
        }
        if masked {
            bytes.extend([0; 4]);
        }
        let text = random.bool();
        let content = (0..length).map(|_| if text { b'a' } else { random.u8(..) });
        bytes.extend(content.collect::<Vec<u8>>());
    }
    bytes
}

#[test]
fn the_cut_of_bytes_does_not_decide_what_is_heard() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let rules =
        Inspection { message_bytes_max: 300, frame_bytes_max: 200, ..Inspection::default() };
    let mut random = fastrand::Rng::with_seed(6455);
    let mut notes = 0;

    for round in 0..1500 {
        let role = if round % 2 == 0 { Role::Server } else { Role::Client };
        let bytes = frames(&mut random, role == Role::Server);
        let (early, rest) = bytes.split_at(random.usize(..=bytes.len()));
        let parts: Vec<&[u8]> = rest.chunks(random.usize(1..50)).collect();
        runtime.block_on(async {
            let whole = hear(role, &rules, &bytes, &[]).await;

            assert_eq!(whole, hear(role, &rules, early, &parts).await, "{bytes:x?}");
            notes += whole.iter().filter(|said| said.starts_with("SocketMessage")).count();
        });
    }

    assert!(notes > 200, "{notes}: most of it were no messages");
}

/// More than one fragment, with a mask and without.
#[test]
fn what_one_side_writes_another_one_hears() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let rules = Inspection::default();
    for bytes in [0, 1, 125, 126, 65_535, 65_536, 65_537, 120_000] {
        for is_text in [true, false] {
            let note = SocketMessage { is_text, data: vec![b'x'; bytes].into() };
            for (from, to) in [(Role::Client, Role::Server), (Role::Server, Role::Client)] {
                let heard = runtime.block_on(async {
                    let written = say(from, &rules, &note).await;
                    hear(to, &rules, &written, &[]).await
                });

                assert_eq!(heard, [format!("{note:?}"), "lost".to_owned()], "{bytes}");
            }
        }
    }
}

/// What has come stays with the kernel when the other end is no more, whether a message cannot be written or
/// the answer to a ping.
#[test]
fn last_words_are_heard_although_nothing_can_be_answered() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    for writes in [true, false] {
        let said = runtime.block_on(async {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let mut stream = Stream::new(ours.into(), false).unwrap();
            let rules = Inspection::default();
            let mut side =
                Side::new(&mut stream, Vec::new(), Role::Client, &rules, Duration::ZERO).await;
            theirs.write_all(&[0x89, 0, 0x81, 3, b'e', b'n', b'd', 0x88, 2, 3, 240]).unwrap();
            drop(theirs);
            if writes {
                side.send(SocketMessage { is_text: false, data: vec![1; 200_000].into() });
                assert!(poll_fn(|cx| side.poll_sent(cx)).await.is_err());
            }
            let mut said = Vec::new();
            loop {
                let heard = poll_fn(|cx| {
                    side.begin();
                    side.poll_heard(cx)
                });
                if push(&mut said, &heard.await) {
                    break;
                }
            }
            assert!(poll_fn(|cx| side.poll_sent(cx)).await.is_err());
            assert!(side.is_deaf() && side.is_behind());
            said
        });

        assert_eq!(said.len(), 3, "{said:?}");
        assert_eq!(said[0], "ping");
        assert!(said[1].starts_with("SocketMessage"), "{said:?}");
        assert!(said[2].starts_with("close Some(CloseFrame { code: Policy"), "{said:?}");
    }
}
