//! Commands that ask a running gateway, over its admin listener.
//!
//! Not here: what it does about it (`control`).

use std::io;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use zproxy::config::Problem;

/// Longer than the gateway takes for anything it is asked.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(310);

/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Which gateway is asked.
#[derive(Args)]
pub(crate) struct Whom {
    /// Admin address of the gateway: ip:port or unix:/path.
    #[arg(long, value_name = "ADDR", env = "ZPROXY_ADMIN", default_value = "127.0.0.1:9901")]
    admin: String,
    /// Its token [a flag can be seen by others on this machine; prefer the variable].
    #[arg(long, value_name = "TOKEN", env = "ZPROXY_ADMIN_TOKEN", hide_env_values = true)]
    admin_token: Option<String>,
}

/// Has `path` done by a running gateway; what it said about it.
pub(crate) fn post(whom: &Whom, path: &str) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = async { tokio::time::timeout(ANSWER_TIME_MAX, ask(whom, path)).await };
    let (answer, body) = runtime
        .block_on(asked)
        .map_err(anyhow::Error::from)
        .flatten()
        .with_context(|| format!("the gateway at {}", whom.admin))?;
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    if answer.status().is_success() {
        return Ok(format!("{value:#}"));
    }
    let detail = value["detail"].as_str().unwrap_or_default();
    let mut text = format!("the gateway says {}: {detail}", answer.status());
    let problems = serde_json::from_value::<Vec<Problem>>(value["problems"].clone());
    for problem in problems.unwrap_or_default() {
        text.push_str(&format!("\n{problem}"));
    }
    bail!(text)
}

async fn ask(whom: &Whom, path: &str) -> anyhow::Result<(Response<()>, Bytes)> {
    match whom.admin.strip_prefix("unix:") {
        Some(socket) => {
            send(tokio::net::UnixStream::connect(socket).await?, "localhost", whom, path).await
        }
        None => {
            let stream = tokio::net::TcpStream::connect(&whom.admin).await?;
            send(stream, &whom.admin, whom, path).await
        }
    }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    host: &str,
    whom: &Whom,
    path: &str,
) -> anyhow::Result<(Response<()>, Bytes)> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::post(path).header(HOST, host);
    if let Some(token) = &whom.admin_token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Empty::<Bytes>::new())?;
    let answered = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(io::Error::other)?.to_bytes();
        anyhow::Ok((Response::from_parts(head, ()), body))
    };
    let mut answered = std::pin::pin!(answered);
    tokio::select! {
        biased;
        answer = &mut answered => answer,
        ended = connection => {
            ended?;
            answered.await
        }
    }
}
