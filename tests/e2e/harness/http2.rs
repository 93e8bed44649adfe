//! Both sides of HTTP/2, made with crate `h2`; and frames by hand, for what that would not send.
//!
//! Not here: what a gateway makes of it (`http2`, `http2_upstream`, `http2_abuse`).

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};

use super::{Wire, WireError, patience};

/// A client on one connection. Everything happens while one of its methods waits.
pub struct Http2 {
    runtime: tokio::runtime::Runtime,
    requests: SendRequest<Bytes>,
}

/// A whole response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub fields: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body of text")
    }

    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| value.to_str().unwrap())
    }
}

/// A GET of this path.
pub fn get(path: &str) -> Request<()> {
    Request::get(format!("http://a{path}")).body(()).unwrap()
}

/// A POST to this path.
pub fn post(path: &str) -> Request<()> {
    Request::post(format!("http://a{path}")).body(()).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

impl Http2 {
    /// Connects with prior knowledge.
    pub fn connect(address: &str) -> Self {
        Self::connect_with(address, &h2::client::Builder::new())
    }

    /// The same with settings of one's own.
    pub fn connect_with(address: &str, builder: &h2::client::Builder) -> Self {
        let runtime = runtime();
        let requests = runtime.block_on(async {
            let socket = tokio::net::TcpStream::connect(address).await.unwrap();
            let (requests, connection) = builder.handshake(socket).await.unwrap();
            tokio::spawn(async move {
                // How it ends, its requests tell.
                let _ = connection.await;
            });
            requests
        });
        Self { runtime, requests }
    }

    /// Runs this to its end, and the connection meanwhile.
    #[track_caller]
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let all = async { tokio::time::timeout(patience(), future).await };
        self.runtime.block_on(all).expect("an end within the patience of tests")
    }

    /// Drives the connection until something elsewhere has happened.
    #[track_caller]
    pub fn wait(&self, happened: impl Fn() -> bool) {
        self.run(async {
            while !happened() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }

    /// Sends the head of a request.
    #[track_caller]
    pub fn open(&mut self, request: Request<()>, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let mut requests = self.requests.clone();
        self.run(async move {
            requests = requests.ready().await.unwrap();
            requests.send_request(request, end).unwrap()
        })
    }

    /// Sends a request with its body, if it has one; and takes the response.
    pub fn try_ask(
        &mut self,
        request: Request<()>,
        body: Option<&[u8]>,
    ) -> Result<Answer, h2::Error> {
        let (response, mut stream) = self.open(request, body.is_none());
        if let Some(body) = body {
            stream.send_data(Bytes::copy_from_slice(body), true)?;
        }
        self.run(take(response))
    }

    /// The same, which must not fail.
    #[track_caller]
    pub fn ask(&mut self, request: Request<()>, body: Option<&[u8]>) -> Answer {
        self.try_ask(request, body).unwrap()
    }

    /// The same for a GET.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Answer {
        self.ask(get(path), None)
    }
}

/// Takes a response to its end.
pub async fn take(response: ResponseFuture) -> Result<Answer, h2::Error> {
    let (head, mut stream) = response.await?.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        body.extend_from_slice(&data);
        stream.flow_control().release_capacity(data.len())?;
    }
    let trailers = stream.trailers().await?;
    Ok(Answer { status: head.status.as_u16(), fields: head.headers, body, trailers })
}

/// A server that speaks HTTP/2 with prior knowledge. It ends with the test.
pub struct Http2Upstream {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A request that such a server has had.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Of its connection, counted from 0.
    pub connection: usize,
    pub head: Arc<Request<()>>,
}

/// One request at such a server.
pub struct Asked {
    /// Of its connection, counted from 0.
    pub connection: usize,
    pub head: Arc<Request<()>>,
    pub body: RecvStream,
    pub respond: SendResponse<Bytes>,
}

impl Asked {
    /// Reads the body to its end.
    pub async fn whole(&mut self) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
        let mut all = Vec::new();
        while let Some(data) = self.body.data().await {
            let data = data?;
            all.extend_from_slice(&data);
            self.body.flow_control().release_capacity(data.len())?;
        }
        Ok((all, self.body.trailers().await?))
    }

    /// Answers with a body, if there is one.
    pub fn answer(&mut self, status: u16, body: &[u8]) {
        let head = Response::builder().status(status).body(()).unwrap();
        if let Ok(mut stream) = self.respond.send_response(head, body.is_empty())
            && !body.is_empty()
        {
            let _ = stream.send_data(Bytes::copy_from_slice(body), true);
        }
    }
}

impl Http2Upstream {
    /// Does for each request what `script` says.
    pub fn start<F: Future<Output = ()> + Send + 'static>(
        script: impl Fn(Asked) -> F + Clone + Send + 'static,
    ) -> Self {
        Self::start_with(h2::server::Builder::new(), script)
    }

    /// The same with settings of one's own.
    pub fn start_with<F: Future<Output = ()> + Send + 'static>(
        builder: h2::server::Builder,
        script: impl Fn(Asked) -> F + Clone + Send + 'static,
    ) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let seeing = Arc::clone(&seen);
        std::thread::spawn(move || {
            runtime().block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                for connection in 0.. {
                    let Ok((socket, _)) = listener.accept().await else { return };
                    let (builder, script) = (builder.clone(), script.clone());
                    let seen = Arc::clone(&seeing);
                    tokio::spawn(async move {
                        let Ok(mut served) = builder.handshake(socket).await else { return };
                        while let Some(Ok((request, respond))) = served.accept().await {
                            let (parts, body) = request.into_parts();
                            let head = Arc::new(Request::from_parts(parts, ()));
                            let one = Seen { connection, head: Arc::clone(&head) };
                            seen.lock().unwrap().push(one);
                            tokio::spawn(script(Asked { connection, head, body, respond }));
                        }
                    });
                }
            });
        });
        Self { address, seen }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// A gateway that sends everything to it.
    pub fn gateway(&self, more: serde_json::Value) -> super::Gateway {
        let mut config = serde_json::json!({
            "workers": { "count": 1, "pin": false },
            "upstreams": { "test": { "servers": [self.address()], "protocol": "h2" } },
            "routes": [{ "name": "all", "path": "/", "upstream": "test" }],
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        super::Gateway::start(config)
    }
}

/// What a client sends first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block: every field literal, none of them to be remembered.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "short ones only");
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// A request that ends with its head.
pub fn get_frame(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    let mut fields =
        vec![(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    fields.extend(more);
    frame(1, 0x5, stream, &block(&fields))
}

/// A received frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// The next frame; `None` at the connection's end.
pub fn next_frame(wire: &mut Wire) -> Option<Frame> {
    try_next_frame(wire).ok()
}

/// The next frame, or why there is none.
pub fn try_next_frame(wire: &mut Wire) -> Result<Frame, WireError> {
    let header = wire.take(9)?;
    let length =
        usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
    let payload = wire.take(length)?;
    let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
    Ok(Frame { kind: header[3], flags: header[4], stream, payload })
}

/// Reads until this frame.
#[track_caller]
pub fn await_frame(wire: &mut Wire, wanted: impl Fn(&Frame) -> bool) -> Frame {
    let mut others = Vec::new();
    while let Some(frame) = next_frame(wire) {
        if wanted(&frame) {
            return frame;
        }
        others.push(frame);
    }
    panic!("the connection has ended after {others:?}");
}

/// The reason of the GOAWAY with which the connection ends.
#[track_caller]
pub fn goaway(wire: &mut Wire) -> u32 {
    let frame = await_frame(wire, |frame| frame.kind == 7);
    u32::from_be_bytes(frame.payload[4..8].try_into().unwrap())
}
