//! TLS by hand: records and hellos that no library would send, and the alerts with which they are answered.
//!
//! Not here: what other people's clients and scanners find (`tls_clients`, `make tls-scan`).

use std::io::{Read as _, Write as _};

use serde_json::json;

use crate::harness::Upstream;
use crate::harness::tls::{V12, V13, shake};
use crate::tls::{GET, Site};

const UNEXPECTED_MESSAGE: u8 = 10;
const RECORD_OVERFLOW: u8 = 22;
const HANDSHAKE_FAILURE: u8 = 40;
const ILLEGAL_PARAMETER: u8 = 47;
const DECODE_ERROR: u8 = 50;
const PROTOCOL_VERSION: u8 = 70;
const NO_APPLICATION_PROTOCOL: u8 = 120;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

fn with_length<const BYTES: usize>(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&length[4 - BYTES..], content].concat()
}

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    [&[kind, 3, 1][..], &with_length::<2>(content)].concat()
}

fn message(kind: u8, content: &[u8]) -> Vec<u8> {
    [&[kind][..], &with_length::<3>(content)].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &with_length::<2>(content)].concat()
}

/// What a client says first; what is left out here is not said.
#[derive(Clone)]
struct Hello {
    version: [u8; 2],
    ciphers: Vec<u8>,
    compressions: Vec<u8>,
    extensions: Vec<Vec<u8>>,
}

impl Hello {
    /// Of TLS 1.2, as it should be.
    fn v12() -> Self {
        Self {
            version: [3, 3],
            ciphers: vec![0xc0, 0x2b, 0xc0, 0x2f],
            compressions: vec![0],
            extensions: vec![
                // X25519, by one way to sign: ECDSA on P-256.
                extension(10, &[0, 2, 0, 29]),
                extension(13, &[0, 2, 4, 3]),
                extension(23, &[]),
            ],
        }
    }

    /// Of TLS 1.3, as it should be.
    fn v13() -> Self {
        let mut hello = Self::v12();
        hello.ciphers = vec![0x13, 1];
        hello.extensions.push(extension(43, &[2, 3, 4]));
        let share = [&[0, 29, 0, 32][..], &[9; 32]].concat();
        hello.extensions.push(extension(51, &with_length::<2>(&share)));
        hello
    }

    fn with(mut self, extension: Vec<u8>) -> Self {
        self.extensions.push(extension);
        self
    }

    fn without(mut self, kind: u16) -> Self {
        self.extensions.retain(|one| one[..2] != kind.to_be_bytes());
        self
    }

    fn message(&self) -> Vec<u8> {
        let content = [
            &self.version[..],
            &[7; 32],
            &with_length::<1>(&[]),
            &with_length::<2>(&self.ciphers),
            &with_length::<1>(&self.compressions),
            &with_length::<2>(&self.extensions.concat()),
        ];
        message(CLIENT_HELLO, &content.concat())
    }

    fn record(&self) -> Vec<u8> {
        record(HANDSHAKE, &self.message())
    }
}

/// The alert in what was received, in clear text.
fn alert(mut received: &[u8]) -> Option<u8> {
    while let [kind, _, _, high, low, rest @ ..] = received {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if *kind == 21 && length == 2 {
            return rest.get(1).copied();
        }
        received = rest.get(length..)?;
    }
    None
}

/// RFC 8446 §4 to §6, RFC 5246 §7.
#[test]
fn what_is_no_hello_is_answered_with_its_alert() {
    let upstream = Upstream::answering("hello");
    let site = Site::with(&upstream, |_, _| json!({}), json!({}));
    let old = |minor| Hello { version: [3, minor], ..Hello::v12() };
    let mut others = Vec::new();
    let cut = {
        let mut record = Hello::v13().record();
        // The list of ciphers says that it is longer than the message.
        record[5 + 4 + 2 + 32 + 1] = 0xff;
        record
    };
    for (name, sent, expected) in [
        (
            "a record that is too long",
            [&[HANDSHAKE, 3, 1, 0xff, 0xff][..], &[1; 200]].concat(),
            RECORD_OVERFLOW,
        ),
        ("a record of no type", record(0x63, b"abc"), UNEXPECTED_MESSAGE),
        ("a heartbeat", record(24, &[1, 0, 3, 1, 2, 3]), UNEXPECTED_MESSAGE),
        ("content", record(23, &[0; 100]), UNEXPECTED_MESSAGE),
        ("an empty message", record(HANDSHAKE, &[]), UNEXPECTED_MESSAGE),
        ("a message of no type", record(HANDSHAKE, &message(0x63, b"abc")), UNEXPECTED_MESSAGE),
        (
            "a message that is not due",
            record(HANDSHAKE, &message(20, &[0; 32])),
            UNEXPECTED_MESSAGE,
        ),
        ("a hello that is cut", cut, DECODE_ERROR),
        ("SSL 3", old(0).record(), PROTOCOL_VERSION),
        ("TLS 1.0", old(1).record(), PROTOCOL_VERSION),
        ("TLS 1.1", old(2).record(), PROTOCOL_VERSION),
        (
            "an unknown version only",
            Hello::v13().without(43).with(extension(43, &[2, 3, 9])).record(),
            PROTOCOL_VERSION,
        ),
        (
            "no cipher that is known",
            Hello { ciphers: vec![0, 5, 0, 10], ..Hello::v12() }.record(),
            HANDSHAKE_FAILURE,
        ),
        (
            "no cipher of its version",
            Hello { ciphers: vec![0xc0, 0x2b], ..Hello::v13() }.record(),
            HANDSHAKE_FAILURE,
        ),
        // RFC 8446 §9.2 has missing_extension for these two; rustls looks before it knows the version.
        ("no way to sign", Hello::v13().without(13).record(), HANDSHAKE_FAILURE),
        ("no groups", Hello::v13().without(10).record(), HANDSHAKE_FAILURE),
        (
            "compression only",
            Hello { compressions: vec![1], ..Hello::v12() }.record(),
            ILLEGAL_PARAMETER,
        ),
        ("an extension twice", Hello::v13().with(extension(23, &[])).record(), ILLEGAL_PARAMETER),
        (
            "a key share that is none",
            Hello::v13().without(51).with(extension(51, &[0, 6, 0, 29, 0, 2, 1, 1])).record(),
            ILLEGAL_PARAMETER,
        ),
        (
            "protocols that are not spoken",
            Hello::v12().with(extension(16, &[0, 5, 4, b'i', b'm', b'a', b'p'])).record(),
            NO_APPLICATION_PROTOCOL,
        ),
        (
            "a name that is empty",
            Hello::v13().with(extension(0, &[0, 3, 0, 0, 0])).record(),
            DECODE_ERROR,
        ),
    ] {
        let mut client = site.gateway.connect();
        // It may be answered before all of it has been sent.
        let _ = client.try_send(&sent);

        let received = client.take_rest().unwrap_or_default();

        if alert(&received) != Some(expected) {
            others.push((name, received));
        }
    }
    assert!(others.is_empty(), "{others:02x?}");
    assert_eq!(site.connect().exchange(GET).body, b"hello");
    assert_eq!(upstream.requests().len(), 1);
}

/// Hellos as they may be: in pieces, with what nobody knows, and with early data, which is not taken.
#[test]
fn a_hello_may_be_unusual() {
    let upstream = Upstream::answering("hello");
    let site = Site::with(&upstream, |_, _| json!({}), json!({}));
    let whole = Hello::v13();
    let pieces: Vec<u8> =
        whole.message().chunks(7).flat_map(|piece| record(HANDSHAKE, piece)).collect();
    let greased = Hello { ciphers: [&[0x1a, 0x1a][..], &whole.ciphers].concat(), ..whole.clone() };
    let greased = greased.with(extension(0xfafa, &[0])).with(extension(21, &[0; 900]));
    for (name, sent) in [
        ("whole", whole.record()),
        ("in pieces", pieces),
        ("greased", greased.record()),
        ("in the words of TLS 1.2", Hello::v12().record()),
    ] {
        let mut client = site.gateway.connect();
        client.send(&sent);

        let answer = client.take(6).unwrap();

        assert_eq!((answer[0], answer[5]), (HANDSHAKE, 2), "{name}: {answer:02x?}");
    }
}

/// What has been changed on its way ends a session and no other.
#[test]
fn a_session_ends_with_the_alert_for_its_fault() {
    let upstream = Upstream::answering("hello");
    let site = Site::with(&upstream, |_, _| json!({}), json!({}));
    for (versions, name) in [(V12, "TLS 1.2"), (V13, "TLS 1.3")] {
        let config = site.authority.client().versions(versions).config();
        let mut session = shake(site.gateway.address(), &config, "a.test").unwrap();
        session.write_all(GET.as_bytes()).unwrap();
        session.read_exact(&mut [0; 10]).unwrap();

        session.sock.write_all(&record(23, &[b'a'; 64])).unwrap();

        let error = session.read_to_end(&mut Vec::new()).unwrap_err();
        let error = error.get_ref().and_then(|it| it.downcast_ref::<rustls::Error>());
        let expected = rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac);
        assert_eq!(error, Some(&expected), "{name}");
    }
    assert_eq!(site.connect().exchange(GET).body, b"hello");
}
