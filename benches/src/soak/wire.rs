//! As much of HTTP/1 as the two ends of a soak need, over blocking sockets.

use std::io::{self, BufRead};

use super::content::{Broken, Content};

/// A head, taken apart.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) start: String,
    fields: Vec<(String, String)>,
}

impl Head {
    /// Reads one; `None` when the peer has finished before it began.
    pub(super) fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut head = Self::default();
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 {
                let began = !head.start.is_empty();
                return if began { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(None) };
            }
            let line = line.trim_end_matches(['\r', '\n']);
            if head.start.is_empty() {
                line.clone_into(&mut head.start);
            } else if line.is_empty() {
                return Ok(Some(head));
            } else if let Some((name, value)) = line.split_once(':') {
                head.fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|field| field.0 == name).map(|field| field.1.as_str())
    }

    pub(super) fn length(&self) -> Option<u64> {
        self.field("content-length")?.parse().ok()
    }

    pub(super) fn is_chunked(&self) -> bool {
        self.field("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    }

    /// Whether the connection ends with this message.
    pub(super) fn says_close(&self) -> bool {
        self.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The status of a response; 0 when it is none.
    pub(super) fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }
}

/// Receives a body in whichever framing its head announces, and checks it.
pub(super) fn receive(
    head: &Head,
    from: &mut impl BufRead,
    content: &mut Content,
) -> Result<(), Broken> {
    if head.is_chunked() {
        return receive_chunks(from, content);
    }
    if let Some(length) = head.length() {
        if length != content.left() {
            return Err(Broken::Wrong { left: content.left() });
        }
        return content.receive(from);
    }
    content.receive(from)?;
    // The close is the end: nothing may follow, and a reset would be no end at all.
    match from.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Broken::Wrong { left: 0 }),
        Err(error) => Err(Broken::Short(error)),
    }
}

fn receive_chunks(from: &mut impl BufRead, content: &mut Content) -> Result<(), Broken> {
    loop {
        let mut line = String::new();
        from.read_line(&mut line).map_err(Broken::Short)?;
        let digits = line.trim_end_matches(['\r', '\n']);
        let Ok(size) = usize::from_str_radix(digits, 16) else {
            return Err(Broken::Short(io::ErrorKind::UnexpectedEof.into()));
        };
        let mut chunk = vec![0; size + 2];
        from.read_exact(&mut chunk).map_err(Broken::Short)?;
        content.check(&chunk[..size])?;
        if size == 0 {
            // An end in due form of a body that is not whole is the worst there is.
            let left = content.left();
            return if left == 0 { Ok(()) } else { Err(Broken::Wrong { left }) };
        }
    }
}
