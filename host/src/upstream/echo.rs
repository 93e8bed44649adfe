//! The built-in upstream `echo`: answers with a JSON picture of the request that reached it.
//!
//! It is a real server at the other end of a socket pair, so what it shows has gone the whole way.
//! A WebSocket gets each of its messages back.
//!
//! Not here: anything that the gateway needs to work.

use std::io;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use crate::http::websocket::code_of;
use crate::io::Stream;

/// So much of a body is shown.
const BODY_SHOWN_MAX: usize = 64 * 1024;
/// So much of a body is read.
const BODY_READ_MAX: usize = 1024 * 1024 * 1024;
/// A WebSocket message that is sent back; a longer one closes with 1009.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A connection to a new echo server, which runs on this worker and ends with the connection.
pub fn connect() -> io::Result<Stream> {
    let (near, far) = UnixStream::pair()?;
    let near = Stream::new(near.into_std()?.into(), false)?;
    tokio::task::spawn_local(async move {
        let served = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(far), service_fn(answer))
            .with_upgrades()
            .await;
        if let Err(error) = served {
            log::debug!(target: "echo", "{error}");
        }
    });
    Ok(near)
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let websocket = request
        .headers()
        .get(UPGRADE)
        .is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if websocket && let Some(key) = request.headers().get("sec-websocket-key") {
        let accept = derive_accept_key(key.as_bytes());
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::task::spawn_local(async move {
            if let Ok(socket) = upgrade.await {
                let _ = echo_messages(TokioIo::new(socket)).await;
            }
        });
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let fields = response.headers_mut();
        fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&accept) {
            fields.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        return Ok(response);
    }
    let (head, body) = request.into_parts();
    let mut body = Limited::new(body, BODY_READ_MAX);
    let mut shown = Vec::new();
    let mut length: usize = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { break };
        if let Some(data) = frame.data_ref() {
            length += data.len();
            let room = BODY_SHOWN_MAX - shown.len();
            shown.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    let mut headers = serde_json::Map::new();
    for (name, value) in &head.headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        match headers.get_mut(name.as_str()) {
            Some(serde_json::Value::String(joined)) => {
                joined.push_str(", ");
                joined.push_str(&value);
            }
            _ => {
                headers.insert(name.to_string(), value.into());
            }
        }
    }
    let picture = serde_json::json!({
        "method": head.method.as_str(),
        "path": head.uri.path(),
        "query": head.uri.query(),
        "protocol": format!("{:?}", head.version),
        "headers": headers,
        "body_bytes": length,
        "body": String::from_utf8_lossy(&shown),
    });
    let mut text = serde_json::to_vec_pretty(&picture).unwrap_or_default();
    text.push(b'\n');
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

async fn echo_messages(
    socket: TokioIo<hyper::upgrade::Upgraded>,
) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    use futures_util::{SinkExt, StreamExt};
    let limits = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let mut socket = WebSocketStream::from_raw_socket(socket, Role::Server, Some(limits)).await;
    while let Some(message) = socket.next().await {
        match message {
            Ok(message) if message.is_text() || message.is_binary() => socket.send(message).await?,
            // Pings and closes are answered by the library.
            Ok(_) => {}
            Err(error) => {
                let Some(code) = code_of(&error) else { return Err(error) };
                let reason = "".into();
                return socket.close(Some(CloseFrame { code: code.into(), reason })).await;
            }
        }
    }
    Ok(())
}
