//! Bodies: never a panic, and the same result however the bytes are cut.

#![no_main]

use libfuzzer_sys::fuzz_target;
use zproxy_fuzz::http::body::{BodyReader, Form};
use zproxy_fuzz::http::parse::{Framing, HeadLimits};

const LIMITS: HeadLimits = HeadLimits { bytes_max: 4096, fields_max: 20, target_bytes_max: 8192 };

struct Read {
    forwarded: Vec<u8>,
    consumed: usize,
    done: bool,
}

fn read(bytes: &[u8], cut: usize, framing: Framing, form: Form) -> Option<Read> {
    let mut body = BodyReader::new(framing, form, 1 << 20, &LIMITS);
    let mut read = Read { forwarded: Vec::new(), consumed: 0, done: body.is_done() };
    for part in bytes.chunks(cut) {
        if read.done {
            break;
        }
        let (mut pieces, mut tail) = (Vec::new(), Vec::new());
        let step = body.advance(part, &mut pieces, &mut tail).ok()?;
        for piece in &pieces {
            assert!(piece.end <= step.consumed, "forwards only what it consumed");
            read.forwarded.extend_from_slice(&part[piece.clone()]);
        }
        read.forwarded.extend_from_slice(&tail);
        read.consumed += step.consumed;
        read.done = step.done;
        assert!(step.done || step.consumed == part.len(), "stops only at the end");
    }
    Some(read)
}

fuzz_target!(|bytes: &[u8]| {
    let [choice, cut, bytes @ ..] = bytes else { return };
    let framing = match choice & 3 {
        0 => Framing::Length(u64::from(*cut) + 1),
        1 => Framing::UntilClose,
        _ => Framing::Chunked,
    };
    for form in [Form::Same, Form::Content] {
        let whole = read(bytes, bytes.len().max(1), framing, form);
        let parts = read(bytes, usize::from(*cut).max(1), framing, form);
        match (&whole, &parts) {
            (Some(whole), Some(parts)) => {
                assert_eq!(whole.forwarded, parts.forwarded);
                assert_eq!(whole.consumed, parts.consumed);
                assert_eq!(whole.done, parts.done);
            }
            (None, None) => {}
            _ => panic!("the cut decides whether the body is valid"),
        }
        // What is sent on is a body that every strict reader takes, and ends where ours ended.
        if let (Form::Same, Framing::Chunked, Some(whole)) = (form, framing, whole)
            && whole.done
        {
            let again = read(&whole.forwarded, whole.forwarded.len(), framing, form)
                .expect("what was forwarded can be read");
            assert!(again.done);
            assert_eq!(again.forwarded, whole.forwarded);
        }
    }
});
