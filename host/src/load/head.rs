//! As much of a head as a load generator needs: where it ends, how its message is framed.
//!
//! One pass over the lines, nothing copied, most of them not looked at. A mistake in what it reads
//! costs a wrong count and nothing else, so it has none of the rules that protect a gateway.
//!
//! Not here: chunks (`http::body`).

/// A message head found in received bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// Bytes of the head with its blank line: where the body begins.
    pub bytes: usize,
    /// The request or status line.
    pub start_line: &'a [u8],
    /// The value of Content-Length.
    pub content_length: Option<u64>,
    /// Whether the sender will close the connection after this message.
    pub close: bool,
    /// Whether Transfer-Encoding is there, whatever it says.
    pub transfer_encoding: bool,
    /// Whether its last coding is `chunked`.
    pub chunked: bool,
    /// Whether a Content-Length is no number, or there are two that differ.
    pub malformed: bool,
}

impl Head<'_> {
    /// The status code of a response head; none when it is no response.
    pub fn status(&self) -> Option<u16> {
        let digits = self.start_line.strip_prefix(b"HTTP/1.")?.get(2..5)?;
        let status = std::str::from_utf8(digits).ok()?.parse().ok()?;
        (100..=599).contains(&status).then_some(status)
    }

    /// Method and target of a request head.
    pub fn method_and_target(&self) -> Option<(&[u8], &[u8])> {
        let mut words = self.start_line.split(|&byte| byte == b' ');
        Some((words.next()?, words.next()?))
    }
}

/// Finds the head at the beginning of `bytes`; none until its blank line has arrived.
pub fn find_head(bytes: &[u8]) -> Option<Head<'_>> {
    let first_end = memchr::memchr(b'\n', bytes)? + 1;
    let mut head = Head {
        bytes: first_end,
        start_line: bytes[..first_end].trim_ascii_end(),
        content_length: None,
        // A 1.0 message is the last one unless it says otherwise.
        close: is_http10(&bytes[..first_end]),
        transfer_encoding: false,
        chunked: false,
        malformed: false,
    };
    loop {
        let rest = &bytes[head.bytes..];
        let length = memchr::memchr(b'\n', rest)? + 1;
        head.bytes += length;
        let line = rest[..length].trim_ascii_end();
        match line.first() {
            None => return Some(head),
            Some(b'c' | b'C') => {
                if let Some(value) = value_of(line, b"content-length") {
                    head.take_length(value);
                } else if let Some(value) = value_of(line, b"connection") {
                    let says = |word: &[u8]| tokens(value).any(|t| t.eq_ignore_ascii_case(word));
                    head.close = says(b"close") || (head.close && !says(b"keep-alive"));
                }
            }
            Some(b't' | b'T') => {
                if let Some(value) = value_of(line, b"transfer-encoding") {
                    head.transfer_encoding = true;
                    let last = tokens(value).last().unwrap_or_default();
                    head.chunked = last.eq_ignore_ascii_case(b"chunked");
                }
            }
            Some(_) => {}
        }
    }
}

impl Head<'_> {
    fn take_length(&mut self, digits: &[u8]) {
        let length = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
        self.malformed |=
            length.is_none() || self.content_length.is_some_and(|l| Some(l) != length);
        self.content_length = length;
    }
}

/// Whether a start line, of a request or a response, says HTTP/1.0.
fn is_http10(line: &[u8]) -> bool {
    line.starts_with(b"HTTP/1.0 ") || line.trim_ascii_end().ends_with(b" HTTP/1.0")
}

/// The members of a list.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

/// The value of a header line if it has this (lower-case) name.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":")?;
    found.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_head_gives_status_and_framing() {
        let bytes = b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 5\r\nConnection: close\r\n\r\nhello";

        let head = find_head(bytes).unwrap();

        assert_eq!(head.status(), Some(200));
        assert_eq!(head.content_length, Some(5));
        assert!(head.close);
        assert_eq!(&bytes[head.bytes..], b"hello");
    }

    #[test]
    fn a_request_head_gives_method_and_target() {
        let head =
            find_head(b"GET /100k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: a\r\n\r\n").unwrap();

        assert_eq!(head.method_and_target(), Some((&b"GET"[..], &b"/100k"[..])));
        assert!(head.transfer_encoding);
        assert!(!head.close);
    }

    #[test]
    fn a_connection_ends_as_version_and_connection_say() {
        let close = |head: &[u8]| find_head(head).unwrap().close;

        assert!(!close(b"HTTP/1.1 200 OK\r\n\r\n"));
        assert!(close(b"HTTP/1.0 200 OK\r\n\r\n"));
        assert!(!close(b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n\r\n"));
        assert!(close(b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\n\r\n"));
        assert!(close(b"GET / HTTP/1.0\r\n\r\n"));
    }

    #[test]
    fn framing_that_cannot_be_read_is_told() {
        let head = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n").into_bytes();

        assert!(find_head(&head("Content-Length: x\r\n")).unwrap().malformed);
        assert!(find_head(&head("Content-Length: 1\r\nContent-Length: 2\r\n")).unwrap().malformed);
        assert!(!find_head(&head("Content-Length: 1\r\nContent-Length: 1\r\n")).unwrap().malformed);
        assert!(find_head(&head("Transfer-Encoding: gzip, Chunked\r\n")).unwrap().chunked);
        assert!(!find_head(&head("Transfer-Encoding: gzip\r\n")).unwrap().chunked);
        assert_eq!(find_head(b"NONSENSE\r\n\r\n").unwrap().status(), None);
    }

    /// A head can arrive in any two pieces; half of it must never look whole.
    #[test]
    fn an_unfinished_head_is_no_head() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";

        for cut in 0..whole.len() {
            assert_eq!(find_head(&whole[..cut]), None, "cut at {cut}");
        }
        assert!(find_head(whole).is_some());
    }
}
