//! WebSocket: never a panic; the same however the bytes are cut; what goes on is what strict readers take for
//! the same; a handshake is what was asked for.

#![no_main]

use http::header::{HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use tokio_tungstenite::tungstenite::protocol::Role;
use zproxy_fuzz::config::Inspection;
use zproxy_fuzz::http::parse::{self, Framing, HeadLimits};
use zproxy_fuzz::http::websocket::{self, Frames, close};
use zproxy_fuzz::http::{Fields, Method, Name, RequestHead, h2, write};
use zproxy_fuzz::proxy::websocket::{Said, hear, say};

const LIMITS: HeadLimits =
    HeadLimits { bytes_max: 65_536, fields_max: 100, target_bytes_max: 8192 };

fuzz_target!(|bytes: &[u8]| {
    let [choice, cut, bytes @ ..] = bytes else { return };
    let (cut, role) =
        (usize::from(*cut).max(1), if choice & 4 == 0 { Role::Server } else { Role::Client });
    match choice & 3 {
        0 | 1 => messages(role, cut, bytes),
        2 => passing(role, cut, bytes),
        _ => handshake(bytes),
    }
});

/// Messages are heard, and go on.
fn messages(role: Role, cut: usize, bytes: &[u8]) {
    let rules =
        Inspection { message_bytes_max: 600, frame_bytes_max: 400, ..Inspection::default() };
    let bytes = &bytes[..bytes.len().min(4096)];
    let whole = hear(role, &rules, bytes, &[]);
    let (early, rest) = bytes.split_at(cut.min(bytes.len()));
    let parts: Vec<&[u8]> = rest.chunks(cut.max(16)).collect();
    assert_eq!(whole, hear(role, &rules, early, &parts), "the cut decides");
    let other = if role == Role::Server { Role::Client } else { Role::Server };
    for said in whole {
        match said {
            Said::Note(note) => {
                assert!(note.data.len() <= 600);
                assert!(!note.is_text || std::str::from_utf8(&note.data).is_ok());
                let written = say(other, &rules, &note);
                // What came in parts goes on in one.
                let rules = Inspection { frame_bytes_max: 600, ..rules.clone() };
                assert_eq!(hear(role, &rules, &written, &[]), [Said::Note(note), Said::Lost]);
            }
            Said::Broken(code) => assert!([1002, 1007, 1009].contains(&code), "{code}"),
            Said::Close(Some((code, reason))) => {
                assert!((1000..5000).contains(&code) && ![1004, 1005, 1006, 1015].contains(&code));
                assert!(reason.len() <= 123);
            }
            Said::Close(None) | Said::Ping | Said::Pong | Said::Lost => {}
        }
    }
}

/// Where frames end that nobody reads, and where a close may be put.
fn passing(role: Role, cut: usize, bytes: &[u8]) {
    let fresh = if role == Role::Server { Frames::of_client() } else { Frames::of_server() };
    let mask = (role == Role::Server).then_some([1, 2, 3, 4]);
    let mut whole = fresh.clone();
    whole.pass(bytes);
    let (mut parts, mut unseen) = (fresh.clone(), fresh);
    for part in bytes.chunks(cut) {
        parts.pass(part);
        let over = usize::try_from(unseen.payload()).map_or(part.len(), |it| it.min(part.len()));
        if !unseen.is_lost() && !unseen.is_closed() {
            unseen.skip(over as u64);
        }
        unseen.pass(&part[over..]);
    }
    let state = |it: &Frames| (it.is_lost(), it.is_closed(), it.is_between(), it.payload());
    assert_eq!(state(&whole), state(&parts), "the cut decides");
    assert_eq!(state(&whole), state(&unseen), "what was not looked at decides");
    if whole.is_between() && bytes.len() < 4096 {
        // Whoever has taken everything for what it is takes the close for one, but within a message that
        // should never have begun.
        let rules = Inspection {
            message_bytes_max: 1 << 20,
            frame_bytes_max: 1 << 20,
            ..Inspection::default()
        };
        let closed = [bytes, &close(1001, mask)].concat();
        let last = hear(role, &rules, &closed, &[]).pop();
        let before = hear(role, &rules, bytes, &[]).pop();
        let expected = match before {
            Some(Said::Lost) => Some(Said::Close(Some((1001, String::new())))),
            other => other,
        };
        assert_eq!(last, expected);
    }
}

/// An extended CONNECT becomes the upgrade that HTTP/1.1 has, and nothing else.
fn handshake(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut builder =
        http::Request::builder().method(http::Method::CONNECT).version(http::Version::HTTP_2);
    let Some(uri) = lines.next().and_then(|line| std::str::from_utf8(line).ok()) else { return };
    builder = builder.uri(uri);
    let protocol = lines.next().unwrap_or_default();
    let Ok(protocol) = std::str::from_utf8(protocol) else { return };
    builder = builder.extension(::h2::ext::Protocol::from(protocol));
    for line in lines.take(50) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        else {
            continue;
        };
        builder = builder.header(name, value);
    }
    let Ok(request) = builder.body(()) else { return };
    let (parts, ()) = request.into_parts();
    let mut head = RequestHead::default();
    let Ok(facts) = h2::request(&parts, false, &mut head, &LIMITS) else { return };
    assert!(facts.wants_upgrade && websocket::is_websocket(protocol.as_bytes()));
    assert_eq!((head.method, facts.framing), (Method::Get, Framing::None));
    websocket::withhold_extensions(&mut head.fields);
    assert_eq!(head.fields.get("sec-websocket-extensions"), None);
    let mut answer = Fields::default();
    for (name, value) in head.fields.iter() {
        answer.push(&String::from_utf8_lossy(name), value);
    }
    let agreed = websocket::check_switch(&head.fields, &answer).is_ok();
    assert!(!agreed || answer.get("sec-websocket-accept").is_some_and(|it| it.len() == 28));
    // The proxy takes it off, and what is written says it again.
    head.fields.remove_known(Name::Upgrade);
    let mut written = Vec::new();
    write::request(&mut written, &mut head, facts.framing, Some(b"websocket"));
    assert_eq!(parse::find_end(&written, 0).ok().flatten(), Some(written.len()));
    let mut again = RequestHead::default();
    let facts = parse::request(&written, &mut again, &LIMITS).expect("what was written is read");
    assert!(facts.wants_upgrade, "{}", String::from_utf8_lossy(&written));
    assert_eq!((again.method, facts.framing), (Method::Get, Framing::None));
    assert_eq!(again.target(), head.target());
}
