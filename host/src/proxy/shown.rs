//! Content on its way past plugins, and how what they make of it is framed.
//!
//! Not here: reading and writing it (`relay`), which plugins (`plugin::body`).

use super::relay::Place;
use crate::error::RequestError;
use crate::plugin::{BodyFilter, BodyStop};

/// The end of a body in chunks, without trailers.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Plugins that are shown a body, and how what they make of it is framed.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) filter: Box<BodyFilter>,
    pub(super) to_chunks: bool,
    out: Vec<u8>,
}

impl Shown {
    /// For a body that is shown by `filter` and framed in chunks, or not.
    pub(super) fn new(filter: Box<BodyFilter>, to_chunks: bool) -> Self {
        Self { filter, to_chunks, out: Vec::new() }
    }

    /// Shows a part of the content; what is sent of it, framed and after `head`. `end` is there when
    /// nothing comes after it: the trailers, up to their empty line, or nothing.
    pub(super) fn run(
        &mut self,
        head: &[u8],
        content: &[u8],
        end: Option<&[u8]>,
        place: &mut Place,
    ) -> Result<Vec<u8>, RequestError> {
        if content.is_empty() && end.is_none() {
            return Ok(head.to_vec());
        }
        self.out.clear();
        self.filter.show(place, content, end.is_some(), &mut self.out).map_err(stopped)?;
        let size = if self.to_chunks { format!("{:x}\r\n", self.out.len()) } else { String::new() };
        let tail = end.map_or(0, |trailers| trailers.len() + LAST_CHUNK.len());
        let mut run = Vec::with_capacity(head.len() + size.len() + self.out.len() + 2 + tail);
        run.extend_from_slice(head);
        if !self.to_chunks {
            run.extend_from_slice(&self.out);
            return Ok(run);
        }
        if !self.out.is_empty() {
            run.extend_from_slice(size.as_bytes());
            run.extend_from_slice(&self.out);
            run.extend_from_slice(b"\r\n");
        }
        match end {
            None => {}
            Some([]) => run.extend_from_slice(LAST_CHUNK),
            Some(trailers) => {
                run.extend_from_slice(b"0\r\n");
                run.extend_from_slice(trailers);
            }
        }
        Ok(run)
    }
}

/// What a client is told when plugins let a body go no further.
pub(super) fn stopped(stop: BodyStop) -> RequestError {
    match stop {
        BodyStop::Aborted => RequestError::Aborted,
        BodyStop::Failed(_) => RequestError::Plugin,
    }
}
