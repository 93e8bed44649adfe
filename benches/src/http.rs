//! As much HTTP/1.1 as an origin and a load generator need: where a head ends, its framing.
//!
//! One pass over the lines, nothing copied. Both sides talk only to proxies under test, in
//! messages of their own making, so anything unusual is reported, never interpreted.
//!
//! Not here: chunked bodies (no scenario has one) and every rule that protects a gateway.

/// A message head found in received bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    /// Bytes of the head with its blank line: where the body begins.
    pub(crate) bytes: usize,
    /// The request or status line.
    pub(crate) start_line: &'a [u8],
    /// The value of Content-Length when there is one that can be read.
    pub(crate) content_length: Option<u64>,
    /// Whether the sender will close the connection after this message.
    pub(crate) close: bool,
    /// Whether Transfer-Encoding is there, whatever it says.
    pub(crate) transfer_encoding: bool,
}

impl Head<'_> {
    /// The status code of a response head.
    pub(crate) fn status(&self) -> Option<u16> {
        let digits = self.start_line.strip_prefix(b"HTTP/1.")?.get(2..5)?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    /// Method and target of a request head.
    pub(crate) fn method_and_target(&self) -> Option<(&[u8], &[u8])> {
        let mut words = self.start_line.split(|&byte| byte == b' ');
        Some((words.next()?, words.next()?))
    }
}

/// Finds the head at the beginning of `bytes`; none until its blank line has arrived.
pub(crate) fn find_head(bytes: &[u8]) -> Option<Head<'_>> {
    let first_end = memchr::memchr(b'\n', bytes)? + 1;
    let mut head = Head {
        bytes: first_end,
        start_line: bytes[..first_end].trim_ascii_end(),
        content_length: None,
        close: false,
        transfer_encoding: false,
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
                    head.content_length =
                        std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                } else if let Some(value) = value_of(line, b"connection") {
                    head.close = value.eq_ignore_ascii_case(b"close");
                }
            }
            Some(b't' | b'T') => {
                head.transfer_encoding |= value_of(line, b"transfer-encoding").is_some();
            }
            Some(_) => {}
        }
    }
}

/// A body: so many letters of the alphabet, over and over.
pub(crate) fn letters(bytes: usize) -> Vec<u8> {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
    let mut body = ALPHABET.repeat(bytes.div_ceil(ALPHABET.len()));
    body.truncate(bytes);
    body
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
