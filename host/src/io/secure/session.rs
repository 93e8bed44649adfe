//! One TLS session as rustls keeps it, for a server and for a client alike: records in, content out, and back.
//!
//! Everything is in memory; nothing waits.
//!
//! Not here: sockets (`secure`).

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{AlertDescription, CommonState, HandshakeKind, InvalidMessage};

use crate::tls::Hello;

/// What a handshake came to. Shared with exchanges, which may be lent to other threads.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// Such as `TLSv1.3`.
    pub version: &'static str,
    /// IANA's name, such as `TLS13_AES_256_GCM_SHA384`.
    pub cipher: &'static str,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// The protocol agreed on by ALPN.
    pub alpn: Option<Box<[u8]>>,
    /// As a server: the name that the client asked for, in lower case.
    pub server_name: Option<Box<str>>,
    /// As a server: the client's verified certificate, as `Client-Cert` has it (RFC 9440 §2.1).
    pub client_cert: Option<Box<str>>,
    /// As a server: those that it was verified with, as `Client-Cert-Chain` has them (RFC 9440 §2.3).
    pub client_cert_chain: Option<Box<str>>,
}

/// A session.
pub(super) enum Session {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// What the session is waiting for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// The handshake goes on with the peer.
    Handshake,
    /// Nothing: content can be sent.
    Nothing,
}

macro_rules! with {
    ($session:expr, $connection:ident => $body:expr) => {
        match $session {
            Session::Server($connection) => $body,
            Session::Client($connection) => $body,
        }
    };
}

impl Session {
    pub(super) fn is_server(&self) -> bool {
        matches!(self, Self::Server(_))
    }

    fn common(&self) -> &CommonState {
        with!(self, connection => connection)
    }

    /// Works on records until there is nothing more to do: how many bytes are used up, what is waited for
    /// then, and whether the peer has said goodbye. Content goes to `sink`, records to `outgoing`.
    pub(super) fn digest(
        &mut self,
        records: &mut [u8],
        outgoing: &mut Vec<u8>,
        mut sink: impl FnMut(&[u8]),
    ) -> (usize, Result<(Wait, bool), rustls::Error>) {
        let (mut used, mut closed) = (0, false);
        loop {
            let (discard, step) = with!(self, connection => {
                let status = connection.process_tls_records(&mut records[used..]);
                step(status, outgoing, &mut sink)
            });
            used += discard;
            match step {
                Ok(Step::Again) => {}
                Ok(Step::PeerClosed) => closed = true,
                Ok(Step::Wait(wait)) => return (used, Ok((wait, closed))),
                Err(error) => {
                    // Its alert is there for the taking, after what was to be sent before it.
                    let at = outgoing.len();
                    while self.common().wants_write()
                        && with!(self, connection => {
                            let status = connection.process_tls_records(&mut []);
                            step_alert(status, outgoing)
                        })
                    {}
                    correct_alert(&error, &mut outgoing[at..]);
                    return (used, Err(error));
                }
            }
        }
    }

    /// Encrypts `content` into `out` from `at` on; how many bytes that is.
    pub(super) fn encrypt(
        &mut self,
        content: &[u8],
        out: &mut Vec<u8>,
        at: usize,
    ) -> io::Result<usize> {
        let mut before = Vec::new();
        loop {
            let encrypted = with!(self, connection => {
                let UnbufferedStatus { state, .. } = connection.process_tls_records(&mut []);
                match state {
                    Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                        Some(traffic.encrypt(content, &mut out[at + before.len()..]))
                    }
                    Ok(ConnectionState::EncodeTlsData(mut data)) => {
                        encode(&mut before, |place| data.encode(place));
                        None
                    }
                    Ok(ConnectionState::TransmitTlsData(transmit)) => {
                        transmit.done();
                        None
                    }
                    Ok(ConnectionState::PeerClosed) => None,
                    _ => return Err(io::ErrorKind::NotConnected.into()),
                }
            });
            match encrypted {
                None => {}
                Some(Ok(count)) => {
                    out[at..at + before.len()].copy_from_slice(&before);
                    return Ok(before.len() + count);
                }
                Some(Err(EncryptError::InsufficientSize(InsufficientSizeError {
                    required_size,
                }))) => out.resize(at + before.len() + required_size, 0),
                Some(Err(EncryptError::EncryptExhausted)) => {
                    return Err(io::Error::other("the keys have been used up"));
                }
            }
        }
    }

    /// Appends the alert that says that nothing follows.
    pub(super) fn say_goodbye(&mut self, outgoing: &mut Vec<u8>) {
        loop {
            let done = with!(self, connection => {
                let UnbufferedStatus { state, .. } = connection.process_tls_records(&mut []);
                match state {
                    Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                        let mut alert = [0; 256];
                        if let Ok(count) = traffic.queue_close_notify(&mut alert) {
                            outgoing.extend_from_slice(&alert[..count]);
                        }
                        true
                    }
                    Ok(ConnectionState::EncodeTlsData(mut data)) => {
                        encode(outgoing, |place| data.encode(place));
                        false
                    }
                    Ok(ConnectionState::TransmitTlsData(transmit)) => {
                        transmit.done();
                        false
                    }
                    Ok(ConnectionState::PeerClosed) => false,
                    _ => true,
                }
            });
            if done {
                return;
            }
        }
    }

    /// What the handshake came to.
    pub(super) fn facts(&self, hello: Option<Hello>) -> TlsFacts {
        let common = self.common();
        let cipher = common.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        let (own, chain) = match (self, common.peer_certificates()) {
            (Self::Server(_), Some([own, chain @ ..])) => (Some(own), chain),
            _ => (None, [].as_slice()),
        };
        // RFC 8941 §3.3.5: bytes in a structured field.
        let item = |one: &CertificateDer<'_>| format!(":{}:", STANDARD.encode(one));
        let items: Vec<String> = chain.iter().map(item).collect();
        TlsFacts {
            version: crate::tls::version_name(common.protocol_version()),
            cipher: cipher.unwrap_or_default(),
            resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
            alpn: common.alpn_protocol().map(Into::into),
            server_name: hello.and_then(|hello| hello.server_name),
            client_cert: own.map(|own| item(own).into()),
            client_cert_chain: (!items.is_empty()).then(|| items.join(", ").into()),
        }
    }
}

enum Step {
    Again,
    PeerClosed,
    Wait(Wait),
}

/// Does what the state of a session asks for; also says how many bytes of its input are used up.
fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    outgoing: &mut Vec<u8>,
    sink: &mut impl FnMut(&[u8]),
) -> (usize, Result<Step, rustls::Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    sink(record.payload);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Step::Again),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            encode(outgoing, |place| data.encode(place));
            Ok(Step::Again)
        }
        Ok(ConnectionState::TransmitTlsData(transmit)) => {
            transmit.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Step::PeerClosed),
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Wait(Wait::Handshake)),
        // Early data is never agreed to.
        Ok(_) => Ok(Step::Wait(Wait::Nothing)),
        Err(error) => Err(error),
    };
    (discard, step)
}

/// Takes a record that an error has left behind; whether there was one.
fn step_alert<D>(status: UnbufferedStatus<'_, '_, D>, outgoing: &mut Vec<u8>) -> bool {
    let Ok(ConnectionState::EncodeTlsData(mut data)) = status.state else { return false };
    encode(outgoing, |place| data.encode(place));
    true
}

/// RFC 8446 §5, §5.1 have alerts of their own for what is wrong with a record's header, where rustls says that it cannot
/// be decoded. Once there are keys, nothing can be changed any more.
fn correct_alert(error: &rustls::Error, record: &mut [u8]) {
    let alert = match error {
        rustls::Error::InvalidMessage(InvalidMessage::MessageTooLarge) => {
            AlertDescription::RecordOverflow
        }
        rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::InvalidEmptyPayload,
        ) => AlertDescription::UnexpectedMessage,
        _ => return,
    };
    if let [21, _, _, 0, 2, _, description] = record {
        *description = alert.into();
    }
}

/// Appends a record of the session itself.
fn encode(outgoing: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let at = outgoing.len();
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) =
        encode(&mut [])
    {
        outgoing.resize(at + required_size, 0);
        let count = encode(&mut outgoing[at..]).unwrap_or(0);
        outgoing.truncate(at + count);
    }
}
