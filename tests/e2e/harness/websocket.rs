//! WebSocket servers and clients: by tungstenite, and frame by frame.

use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};
use tokio_tungstenite::tungstenite::{Error, WebSocket, accept_hdr};

use super::{DEADLINE, Gateway, Wire};

/// What a server of these tests has seen.
#[derive(Debug, PartialEq)]
pub enum Seen {
    /// The fields of its request, by lower-case name.
    Opened(Vec<(String, String)>),
    /// A close, with its code.
    Closed(Option<(u16, String)>),
    /// The end of the connection without one.
    Lost,
}

/// A server that sends messages back. `close 4000 why` makes it close so, `big 5000` send so many bytes,
/// `leave` drop the connection, `hold` read no more; `quiet` is not answered.
pub struct Server {
    pub address: String,
    seen: Receiver<Seen>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (tell, seen) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, tell) = (stream.unwrap(), tell.clone());
                std::thread::spawn(move || serve(stream, &tell));
            }
        });
        Self { address, seen }
    }

    /// What it sees next, after its requests.
    pub fn sees(&self) -> Seen {
        loop {
            match self.seen.recv_timeout(DEADLINE).expect("something is seen") {
                Seen::Opened(_) => {}
                seen => return seen,
            }
        }
    }

    pub fn request(&self) -> Vec<(String, String)> {
        match self.seen.recv_timeout(DEADLINE).unwrap() {
            Seen::Opened(fields) => fields,
            other => panic!("{other:?}"),
        }
    }

    /// A gateway before it, with these WebSocket settings and more.
    pub fn gateway(&self, websocket: Value, mut more: Value) -> Gateway {
        let url = format!("http://{}", self.address);
        more["routes"] = json!([{ "path": "/", "upstream": url, "websocket": websocket }]);
        Gateway::start(more)
    }
}

#[expect(clippy::result_large_err, reason = "the library's")]
fn serve(stream: TcpStream, tell: &Sender<Seen>) {
    use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
    let opened = |request: &Request, mut response: Response| {
        let fields = request.headers().iter();
        let fields: Vec<_> = fields
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        if let Some(offered) = request.headers().get("sec-websocket-protocol") {
            let chosen = offered.to_str().unwrap().split(',').next_back().unwrap().trim();
            response.headers_mut().insert("sec-websocket-protocol", chosen.parse().unwrap());
        }
        let _ = tell.send(Seen::Opened(fields));
        Ok(response)
    };
    let Ok(mut socket) = accept_hdr(stream, opened) else { return };
    loop {
        let message = match socket.read() {
            Ok(message) => message,
            Err(Error::ConnectionClosed) => return,
            Err(_) => {
                let _ = tell.send(Seen::Lost);
                return;
            }
        };
        let text = message.to_text().unwrap_or_default().to_owned();
        let mut words = text.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            _ if message.is_close() => {
                let Message::Close(frame) = message else { continue };
                let frame = frame.map(|it| (it.code.into(), it.reason.to_string()));
                let _ = tell.send(Seen::Closed(frame));
            }
            (Some("close"), Some(code), Some(reason)) => {
                let code: u16 = code.parse().unwrap();
                let frame = CloseFrame { code: code.into(), reason: reason.into() };
                socket.close(Some(frame)).unwrap();
            }
            (Some("big"), Some(count), None) => {
                socket.send(Message::binary(vec![7; count.parse().unwrap()])).unwrap();
            }
            (Some("leave"), ..) => return,
            (Some("hold"), ..) => std::thread::sleep(2 * DEADLINE),
            (Some("quiet"), ..) => {}
            _ if !(message.is_text() || message.is_binary()) => {}
            _ if socket.send(message).is_ok() => {}
            _ => {
                let _ = tell.send(Seen::Lost);
                return;
            }
        }
    }
}

pub type Socket = WebSocket<TcpStream>;

/// A client's WebSocket.
pub fn open(gateway: &Gateway) -> Socket {
    let stream = TcpStream::connect(gateway.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let (socket, _) = tokio_tungstenite::tungstenite::client("ws://gateway.test/", stream).unwrap();
    socket
}

/// The code and reason that a client is closed with; what comes before is passed over.
pub fn closed(socket: &mut Socket) -> Option<(u16, String)> {
    loop {
        match socket.read() {
            Ok(Message::Close(frame)) => {
                let _ = socket.flush();
                return frame.map(|it| (it.code.into(), it.reason.to_string()));
            }
            Ok(_) => {}
            Err(error) => panic!("no close: {error}"),
        }
    }
}

pub fn say(socket: &mut Socket, text: &str) {
    socket.send(Message::text(text)).unwrap();
}

/// Opens a WebSocket by hand, to send what no library sends.
pub fn open_raw(gateway: &Gateway) -> Wire {
    let mut wire = gateway.connect();
    upgrade(&mut wire);
    wire
}

/// The handshake, by hand.
pub fn upgrade(wire: &mut Wire) {
    let answer = wire.exchange(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(answer.status(), 101, "{answer:?}");
}

/// A frame of a client: its first byte, then the payload under a mask of zeros.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(first, 0x80, payload.len());
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// The head of a client's frame, without its mask.
pub fn head(first: u8, masked: u8, length: usize) -> Vec<u8> {
    let mut head = vec![first];
    match length {
        0..126 => head.push(masked | u8::try_from(length).unwrap()),
        126..65_536 => {
            head.push(masked | 126);
            head.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        _ => {
            head.push(masked | 127);
            head.extend((length as u64).to_be_bytes());
        }
    }
    head
}

/// The next frame that a client gets: its first byte, and its payload.
pub fn next_frame(wire: &mut Wire) -> (u8, Vec<u8>) {
    let start = wire.take(2).unwrap();
    let length = match start[1] {
        126 => u64::from(u16::from_be_bytes(wire.take(2).unwrap().try_into().unwrap())),
        127 => u64::from_be_bytes(wire.take(8).unwrap().try_into().unwrap()),
        short => u64::from(short),
    };
    (start[0], wire.take(usize::try_from(length).unwrap()).unwrap())
}

/// The code of the close that a client gets next; other frames are passed over.
pub fn close_code(wire: &mut Wire) -> Option<u16> {
    loop {
        let (first, payload) = next_frame(wire);
        if first == 0x88 {
            return Some(u16::from_be_bytes(payload.get(..2)?.try_into().unwrap()));
        }
    }
}
