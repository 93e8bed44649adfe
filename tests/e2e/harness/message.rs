//! A strict reader of HTTP/1 heads: what is not exactly as RFC 9112 writes it is an error.
//!
//! Not here: sockets and bodies (`wire`).

use std::fmt;

/// A request or response, as it was on the wire.
#[derive(Clone, PartialEq)]
pub struct Message {
    /// Request line or status line, without its end.
    pub start: String,
    /// Names as received, values without white space around them.
    pub fields: Vec<(String, String)>,
    /// Start line and fields, with the empty line.
    pub head: Vec<u8>,
    /// Content, without transfer coding.
    pub body: Vec<u8>,
    /// How the end of the body was told.
    pub framing: Body,
    /// Fields after a chunked body.
    pub trailers: Vec<(String, String)>,
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    None,
    /// Content-Length.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
    /// The connection's end.
    Close,
}

impl Message {
    /// Reads a head, empty line included. The body is left empty.
    pub fn parse(head: &[u8]) -> Result<Self, String> {
        let text: String = head.iter().map(|byte| char::from(*byte)).collect();
        let lines = text.strip_suffix("\r\n\r\n").ok_or("no empty line in the end")?;
        let mut lines = lines.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        if start.contains(['\r', '\n', '\0']) {
            return Err(format!("start line {start:?}"));
        }
        let fields = lines.map(field).collect::<Result<_, _>>()?;
        let head = head.to_vec();
        let (body, trailers) = (Vec::new(), Vec::new());
        Ok(Self { start, fields, head, body, framing: Body::None, trailers })
    }

    /// How a request's body ends, by RFC 9112 §6.
    pub fn request_framing(&self) -> Result<Body, String> {
        let parts: Vec<&str> = self.start.split(' ').collect();
        let good = parts.len() == 3
            && is_token(parts[0])
            && !parts[1].is_empty()
            && ["HTTP/1.1", "HTTP/1.0"].contains(&parts[2]);
        if !good {
            return Err(format!("request line {:?}", self.start));
        }
        Ok(self.coding()?.unwrap_or(Body::None))
    }

    /// How the body of a response to `method` ends, by RFC 9112 §6.
    pub fn response_framing(&self, method: &str) -> Result<Body, String> {
        let status = self.start.get(9..12).and_then(|digits| digits.parse::<u16>().ok());
        let good = (self.start.starts_with("HTTP/1.1 ") || self.start.starts_with("HTTP/1.0 "))
            && self.start.as_bytes().get(12) == Some(&b' ');
        let Some(status) = status.filter(|status| good && *status >= 100) else {
            return Err(format!("status line {:?}", self.start));
        };
        let coding = self.coding()?;
        if coding == Some(Body::Chunked) && (self.version() == "HTTP/1.0" || status < 200) {
            return Err("chunked where it cannot be".into());
        }
        let empty = status < 200 || status == 204 || status == 304 || method == "HEAD";
        Ok(if empty { Body::None } else { coding.unwrap_or(Body::Close) })
    }

    /// Status code of a response.
    pub fn status(&self) -> u16 {
        self.start[9..12].parse().unwrap()
    }

    /// Method of a request.
    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap()
    }

    /// Target of a request.
    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap()
    }

    /// `HTTP/1.0` or `HTTP/1.1`.
    pub fn version(&self) -> &str {
        let at = if self.start.starts_with("HTTP/") { 0 } else { self.start.len() - 8 };
        &self.start[at..at + 8]
    }

    /// The value of a field; fails when there are two.
    pub fn field(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() < 2, "{name} is there {} times: {values:?}", values.len());
        values.first().copied()
    }

    /// The values of every field of a name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body of text")
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Whether the sender says that this is the connection's last message.
    pub fn says_close(&self) -> bool {
        self.all("connection").iter().any(|value| value.to_ascii_lowercase().contains("close"))
    }

    fn coding(&self) -> Result<Option<Body>, String> {
        let (lengths, codings) = (self.all("content-length"), self.all("transfer-encoding"));
        match (lengths.as_slice(), codings.as_slice()) {
            ([], []) => Ok(None),
            ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(Some(Body::Chunked)),
            ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
                let length = length.parse().map_err(|_| format!("length {length:?}"))?;
                Ok(Some(Body::Length(length)))
            }
            _ => Err(format!("framing: lengths {lengths:?}, codings {codings:?}")),
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(500)]);
        let head = String::from_utf8_lossy(&self.head);
        write!(formatter, "{head}{body:?} ({} bytes) {:?}", self.body.len(), self.trailers)
    }
}

/// Reads one field line, without its end.
pub fn field(line: &str) -> Result<(String, String), String> {
    let (name, value) = line.split_once(':').ok_or(format!("no colon in {line:?}"))?;
    if !is_token(name) || value.contains(['\r', '\n', '\0']) {
        return Err(format!("field line {line:?}"));
    }
    Ok((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()))
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_is_not_exactly_right_is_refused() {
        for head in [
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n",
        ] {
            assert!(Message::parse(head.as_bytes()).is_err(), "{head:?}");
        }
    }

    #[test]
    fn framing_that_can_be_read_in_two_ways_is_refused() {
        for fields in [
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: +1\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ] {
            let response = Message::parse(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes());
            assert!(response.unwrap().response_framing("GET").is_err(), "{fields:?}");
            let request = Message::parse(format!("POST / HTTP/1.1\r\n{fields}\r\n").as_bytes());
            assert!(request.unwrap().request_framing().is_err(), "{fields:?}");
        }
    }

    #[test]
    fn start_lines_are_read_strictly() {
        for line in ["HTTP/1.1 200", "HTTP/1.1 20 OK", "HTTP/2 200 OK", "HTTP/1.1 099 X", ""] {
            let head = Message::parse(format!("{line}\r\n\r\n").as_bytes()).unwrap();
            assert!(head.response_framing("GET").is_err(), "{line:?}");
        }
        for line in ["GET /", "GET  / HTTP/1.1", "GET / HTTP/1.1 ", "G(T / HTTP/1.1"] {
            let head = Message::parse(format!("{line}\r\n\r\n").as_bytes()).unwrap();
            assert!(head.request_framing().is_err(), "{line:?}");
        }
    }
}
