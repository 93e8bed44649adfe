//! The protocol of Redis (RESP2), as far as it is needed: commands out, replies in. No sockets.

use std::fmt;

/// Longest line of a reply: a number, a length, or an error's text.
const LINE_BYTES_MAX: usize = 4096;

/// Longest string. What is asked for are numbers.
const BULK_BYTES_MAX: usize = 64 * 1024;

/// Longest array: two numbers for each quota of a request, and one.
const ITEMS_MAX: usize = 1024;

/// What Redis answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Simple(String),
    /// `-ERR …`
    Error(String),
    /// `:1`
    Integer(i64),
    /// A string; `None`: there is none.
    Bulk(Option<Vec<u8>>),
    /// A list of the others.
    Array(Vec<Reply>),
}

/// What a server says that does not speak this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRedis;

impl fmt::Display for NotRedis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it does not speak as Redis does")
    }
}

/// Adds a command.
pub fn write(out: &mut Vec<u8>, parts: &[&[u8]]) {
    write_length(out, b'*', parts.len());
    for part in parts {
        write_length(out, b'$', part.len());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

fn write_length(out: &mut Vec<u8>, kind: u8, length: usize) {
    out.push(kind);
    out.extend_from_slice(length.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The first reply, and how many bytes it takes; `None`: there is more to come.
///
/// # Errors
/// It is none, or longer than any that is asked for.
pub fn read(bytes: &[u8]) -> Result<Option<(Reply, usize)>, NotRedis> {
    let mut place = 0;
    Ok(item(bytes, &mut place, true)?.map(|reply| (reply, place)))
}

fn item(bytes: &[u8], place: &mut usize, outer: bool) -> Result<Option<Reply>, NotRedis> {
    let Some(line) = line(bytes, place)? else { return Ok(None) };
    let Some((kind, rest)) = line.split_first() else { return Err(NotRedis) };
    let text = || String::from_utf8_lossy(rest).into_owned();
    Ok(Some(match kind {
        b'+' => Reply::Simple(text()),
        b'-' => Reply::Error(text()),
        b':' => Reply::Integer(number(rest)?),
        b'$' => match length(rest, BULK_BYTES_MAX)? {
            None => Reply::Bulk(None),
            Some(length) => {
                let Some(content) = bytes.get(*place..*place + length + 2) else { return Ok(None) };
                let Some(content) = content.strip_suffix(b"\r\n") else { return Err(NotRedis) };
                *place += length + 2;
                Reply::Bulk(Some(content.to_vec()))
            }
        },
        // One within another is never asked for.
        b'*' if outer => {
            let count = length(rest, ITEMS_MAX)?.unwrap_or(0);
            let mut items = Vec::with_capacity(count);
            for _ in 0..count {
                match item(bytes, place, false)? {
                    Some(one) => items.push(one),
                    None => return Ok(None),
                }
            }
            Reply::Array(items)
        }
        _ => return Err(NotRedis),
    }))
}

/// The line at `place`, without its end, which `place` is put behind.
fn line<'a>(bytes: &'a [u8], place: &mut usize) -> Result<Option<&'a [u8]>, NotRedis> {
    let rest = bytes.get(*place..).unwrap_or_default();
    let Some(end) = rest.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') else {
        return if rest.len() < LINE_BYTES_MAX { Ok(None) } else { Err(NotRedis) };
    };
    *place += end + 1;
    rest[..end].strip_suffix(b"\r").map(Some).ok_or(NotRedis)
}

fn number(digits: &[u8]) -> Result<i64, NotRedis> {
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(NotRedis)
}

/// `None`: -1, which says that there is nothing.
fn length(digits: &[u8], most: usize) -> Result<Option<usize>, NotRedis> {
    match number(digits)? {
        -1 => Ok(None),
        length => match usize::try_from(length) {
            Ok(length) if length <= most => Ok(Some(length)),
            _ => Err(NotRedis),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_arrays_of_strings() {
        let mut out = Vec::new();
        write(&mut out, &[b"SET", b"a\r\n", b""]);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$3\r\na\r\n\r\n$0\r\n\r\n");
    }

    /// However it is cut: what comes is a stream.
    #[test]
    fn replies_are_read_from_any_pieces() {
        let text = b"+OK\r\n-ERR no\r\n:-7\r\n$3\r\na\r\n\r\n$-1\r\n*3\r\n:1\r\n$1\r\nx\r\n:2\r\n";
        let expected = [
            Reply::Simple("OK".to_owned()),
            Reply::Error("ERR no".to_owned()),
            Reply::Integer(-7),
            Reply::Bulk(Some(b"a\r\n".to_vec())),
            Reply::Bulk(None),
            Reply::Array(vec![
                Reply::Integer(1),
                Reply::Bulk(Some(b"x".to_vec())),
                Reply::Integer(2),
            ]),
        ];
        for piece in 1..text.len() {
            let (mut buffer, mut found) = (Vec::new(), Vec::new());
            for part in text.chunks(piece) {
                buffer.extend_from_slice(part);
                while let Some((reply, taken)) = read(&buffer).unwrap() {
                    found.push(reply);
                    buffer.drain(..taken);
                }
            }
            assert_eq!(found, expected, "{piece}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        let long = [b"+".as_slice(), &b"x".repeat(LINE_BYTES_MAX)].concat();
        for text in [
            b"HTTP/1.1 400 Bad Request\r\n".as_slice(),
            b"\r\n",
            b"+OK\n",
            b":\r\n",
            b":1x\r\n",
            b":99999999999999999999\r\n",
            b"$-2\r\n",
            b"$99999999999\r\n",
            b"$1\r\nabc",
            b"*99999999\r\n",
            b"*1\r\n*1\r\n:1\r\n",
            &long,
        ] {
            assert_eq!(read(text), Err(NotRedis), "{:?}", String::from_utf8_lossy(text));
        }
    }
}
