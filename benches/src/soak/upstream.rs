//! The upstream of a soak: answers with content that can be checked, in every framing, and dies when asked.
//!
//! What it does is in the path: `/<seed>/<length>/<manner>`.

use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;

use super::content::{Broken, Content};
use super::wire::{self, Head};

/// Bodies of requests that arrived other than they were sent.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) wrong: AtomicU64,
}

/// Serves until the process ends. Returns the port.
pub(super) fn start(verdict: Arc<Verdict>) -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    std::thread::Builder::new().name("upstream".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let verdict = Arc::clone(&verdict);
            let serve = move || {
                let _ = serve(stream, &verdict);
            };
            // Without a thread the connection is dropped: one more upstream that died.
            let _ = std::thread::Builder::new().stack_size(256 * 1024).spawn(serve);
        }
    })?;
    Ok(port)
}

/// One connection, until it ends or is to die. What fails here fails because the gateway has left.
fn serve(stream: TcpStream, verdict: &Verdict) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.set_write_timeout(Some(Duration::from_secs(60)))?;
    let mut to = stream.try_clone()?;
    let mut from = BufReader::with_capacity(64 * 1024, stream);
    while let Some(head) = Head::read(&mut from)? {
        let mut words = head.start.split([' ', '/']).skip(2);
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        let (seed, length) = (number(), number());
        let manner = words.next().unwrap_or_default().to_owned();
        // The same for the same path, so a cache may answer with it.
        let mark = format!(
            "X-Soak: {}\r\nCache-Control: max-age=5\r\n",
            head.field("x-soak").unwrap_or("none")
        );
        if manner == "tunnel" {
            let switch =
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: soak\r\n";
            to.write_all(format!("{switch}{mark}\r\n").as_bytes())?;
            return echo(&mut from, &mut to);
        }
        if head.field("expect").is_some() {
            to.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if head.start.starts_with("POST") {
            let mut content = Content::new(seed, length);
            match wire::receive(&head, &mut from, &mut content) {
                Ok(()) => {}
                Err(Broken::Wrong { .. }) => {
                    verdict.wrong.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(Broken::Short(error)) => return Err(error),
            }
            to.write_all(format!("HTTP/1.1 200 OK\r\n{mark}Content-Length: 0\r\n\r\n").as_bytes())?;
            continue;
        }
        let mut content = Content::new(seed, length);
        let mut some = Content::new(seed, length / 2);
        match manner.as_str() {
            "length" => {
                let head = format!("HTTP/1.1 200 OK\r\n{mark}Content-Length: {length}\r\n\r\n");
                to.write_all(head.as_bytes())?;
                content.send(&mut to)?;
            }
            "chunked" => {
                let head = format!("HTTP/1.1 200 OK\r\n{mark}Transfer-Encoding: chunked\r\n\r\n");
                to.write_all(head.as_bytes())?;
                content.send_chunks(&mut to, 5000)?;
            }
            "close" => {
                to.write_all(format!("HTTP/1.1 200 OK\r\n{mark}\r\n").as_bytes())?;
                return content.send(&mut to);
            }
            "dies" => {
                let head = format!("HTTP/1.1 200 OK\r\n{mark}Content-Length: {length}\r\n\r\n");
                to.write_all(head.as_bytes())?;
                return some.send(&mut to);
            }
            "dies-chunked" => {
                let head = format!("HTTP/1.1 200 OK\r\n{mark}Transfer-Encoding: chunked\r\n\r\n");
                to.write_all(head.as_bytes())?;
                let mut piece = vec![0; 5000];
                while some.left() > 0 {
                    let piece = some.take(&mut piece);
                    to.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
                    to.write_all(piece)?;
                    to.write_all(b"\r\n")?;
                }
                return Ok(());
            }
            // Anything else: without a word.
            _ => return Ok(()),
        }
    }
    Ok(())
}

fn echo(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<()> {
    let mut block = vec![0; 64 * 1024];
    loop {
        match from.read(&mut block)? {
            0 => return Ok(()),
            count => to.write_all(&block[..count])?,
        }
    }
}
