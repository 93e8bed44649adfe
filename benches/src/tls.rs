//! Loads over TLS: requests on kept sessions, and sessions that are begun for one request.
//!
//! One thread, one event loop, a session by rustls on each connection. It verifies nothing: what is priced is the
//! proxy's side of a handshake, and a certificate that is verified costs the tools only.
//!
//! Not here: loads without TLS (`zproxy::load`), which sessions a scenario asks for (`scenario`).

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, SignatureScheme,
    StreamOwned,
};
use serde_json::{Value, json};
use zproxy::load::Edge;
use zproxy::load::sockets::{Interest, Moved, Poll, connect, receive, send};

/// Whom the certificate is for.
const NAME: &str = "bench.example";

/// What becomes of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sessions {
    /// Each carries requests until the end.
    Kept,
    /// A new one for each request.
    Full,
    /// An earlier one is resumed for each request.
    Resumed,
}

impl Sessions {
    /// By its name in flags.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "kept" => Self::Kept,
            "full" => Self::Full,
            "resumed" => Self::Resumed,
            _ => bail!("--tls {text}: kept, full or resumed"),
        })
    }

    /// Its name in flags.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Full => "full",
            Self::Resumed => "resumed",
        }
    }
}

/// One load.
pub(crate) struct Plan {
    pub(crate) target: SocketAddr,
    pub(crate) sessions: Sessions,
    pub(crate) connections: usize,
    pub(crate) request: Vec<u8>,
    pub(crate) body_bytes: u64,
    pub(crate) warmup: Duration,
    pub(crate) window: Duration,
}

/// Writes `cert.pem`, `key.pem` and `both.pem` into `folder`: ECDSA on P-256, as most sites have it.
pub(crate) fn write_certificate(folder: &Path) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()])?;
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    std::fs::write(folder.join("cert.pem"), &cert)?;
    std::fs::write(folder.join("key.pem"), &key)?;
    Ok(std::fs::write(folder.join("both.pem"), format!("{cert}{key}"))?)
}

/// Whether a request to `target` comes back with 200.
pub(crate) fn answers(target: SocketAddr) -> bool {
    let second = Duration::from_secs(1);
    let ask = || -> Result<bool> {
        let socket = TcpStream::connect_timeout(&target, second)?;
        socket.set_read_timeout(Some(second))?;
        let mut stream = StreamOwned::new(session(&config(Sessions::Full)?)?, socket);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: bench.example\r\nConnection: close\r\n\r\n")?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        Ok(start == *b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

/// What a client runs on that verifies nothing.
pub(crate) fn config(sessions: Sessions) -> Result<Arc<ClientConfig>> {
    let mut config = ClientConfig::builder_with_provider(default_provider().into())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.resumption = match sessions {
        Sessions::Resumed => Resumption::in_memory_sessions(256),
        Sessions::Kept | Sessions::Full => Resumption::disabled(),
    };
    Ok(Arc::new(config))
}

fn session(config: &Arc<ClientConfig>) -> Result<ClientConnection> {
    Ok(ClientConnection::new(Arc::clone(config), ServerName::try_from(NAME)?)?)
}

/// A connection and what is said on it.
struct Slot {
    socket: OwnedFd,
    session: ClientConnection,
    answer: Vec<u8>,
    /// Length of a whole answer, once its head is here.
    whole: Option<usize>,
}

/// What a connection has come to.
enum Done {
    NotYet,
    Answered,
    Failed,
}

#[derive(Default)]
struct Counts {
    answered: u64,
    failed: u64,
    resumed: u64,
    begun: u64,
}

/// Runs a load; `edge` is told when its window begins and ends.
pub(crate) fn run(plan: &Plan, edge: &mut dyn FnMut(Edge)) -> Result<Value> {
    let config = config(plan.sessions)?;
    let poll = Poll::new()?;
    let open = |key: usize| -> Result<Slot> {
        let mut session = session(&config)?;
        session.writer().write_all(&plan.request)?;
        let socket = connect(plan.target)?;
        poll.add(&socket, key as u64, Interest::ReadWrite)?;
        Ok(Slot { socket, session, answer: Vec::new(), whole: None })
    };
    let mut slots = (0..plan.connections).map(open).collect::<Result<Vec<_>>>()?;
    let (mut counts, began) = (Counts::default(), Instant::now());
    let (mut events, mut window) = (Vec::with_capacity(1024), None);
    let mut scratch = vec![0; 64 * 1024];
    loop {
        let now = Instant::now();
        match window {
            None if now.duration_since(began) >= plan.warmup => {
                counts = Counts::default();
                window = Some(now);
                edge(Edge::Begins);
            }
            Some(since) if now.duration_since(since) >= plan.window => {
                edge(Edge::Ends);
                return Ok(outcome(plan, &counts, now.duration_since(since)));
            }
            _ => {}
        }
        poll.wait(&mut events, Some(10))?;
        for event in &events {
            let key = usize::try_from(event.data.u64()).context("a key of ours")?;
            loop {
                let slot = &mut slots[key];
                match slot.go_on(plan.body_bytes, &mut scratch) {
                    Done::NotYet => break,
                    Done::Answered => counts.answered += 1,
                    Done::Failed => counts.failed += 1,
                }
                let failed = slot.answer.is_empty();
                if plan.sessions == Sessions::Kept && !failed {
                    slot.answer.clear();
                    slot.whole = None;
                    slot.session.writer().write_all(&plan.request)?;
                    continue;
                }
                counts.begun += 1;
                let resumed = slot.session.handshake_kind() == Some(HandshakeKind::Resumed);
                counts.resumed += u64::from(resumed);
                slots[key] = open(key)?;
                break;
            }
        }
    }
}

fn outcome(plan: &Plan, counts: &Counts, window: Duration) -> Value {
    let requests = counts.answered + counts.failed;
    let seconds = window.as_secs_f64();
    json!({
        "window_ns": u64::try_from(window.as_nanos()).unwrap_or(u64::MAX),
        "seconds": seconds,
        "requests": requests,
        "requests_per_second": requests as f64 / seconds,
        "successes": counts.answered,
        "success_rate": counts.answered as f64 / requests.max(1) as f64,
        "answered_in_window": counts.answered,
        "answers_per_second": counts.answered as f64 / seconds,
        "errors": { "total": counts.failed },
        "sessions": { "kind": plan.sessions.name(), "begun": counts.begun, "resumed": counts.resumed },
    })
}

impl Slot {
    /// Does what can be done now. A failed one has no answer.
    fn go_on(&mut self, body_bytes: u64, scratch: &mut [u8]) -> Done {
        let failed = |answer: &mut Vec<u8>| {
            answer.clear();
            Done::Failed
        };
        loop {
            let mut records = Vec::new();
            while self.session.wants_write() {
                // Memory takes everything.
                if self.session.write_tls(&mut records).is_err() {
                    return failed(&mut self.answer);
                }
            }
            let mut sent = 0;
            while sent < records.len() {
                match send(&self.socket, &records[sent..]) {
                    Moved::Bytes(count) => sent += count,
                    // The first bytes of a connection go out when it is there; a request is far
                    // smaller than any socket's buffer.
                    Moved::Later if sent == 0 => {
                        std::thread::yield_now();
                    }
                    _ => return failed(&mut self.answer),
                }
            }
            match receive(&self.socket, scratch) {
                Moved::Later => return Done::NotYet,
                Moved::Bytes(count) => {
                    let mut rest = &scratch[..count];
                    while !rest.is_empty() {
                        let read = self.session.read_tls(&mut rest);
                        if read.is_err() || self.session.process_new_packets().is_err() {
                            return failed(&mut self.answer);
                        }
                        let mut piece = [0; 16 * 1024];
                        while let Ok(count @ 1..) = self.session.reader().read(&mut piece) {
                            self.answer.extend_from_slice(&piece[..count]);
                        }
                    }
                }
                Moved::End | Moved::Broken => return failed(&mut self.answer),
            }
            if self.whole.is_none()
                && let Some(end) = memchr::memmem::find(&self.answer, b"\r\n\r\n")
            {
                if !self.answer.starts_with(b"HTTP/1.1 200") {
                    return failed(&mut self.answer);
                }
                self.whole = usize::try_from(body_bytes).ok().map(|body| end + 4 + body);
            }
            match self.whole {
                Some(whole) if self.answer.len() == whole => return Done::Answered,
                Some(whole) if self.answer.len() > whole => return failed(&mut self.answer),
                _ => {}
            }
        }
    }
}

/// Believes everybody.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
