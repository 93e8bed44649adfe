//! Looks at each chunk of a request's body and passes it, or with `"copy": true` puts a copy in its place.

use zproxy_sdk::{Chunk, Middleware, Request, export};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Chunks {
    copy: bool,
}

impl Middleware for Chunks {
    fn on_request_body(&self, _: &mut Request, chunk: &[u8], _: bool) -> Chunk {
        if self.copy {
            Chunk::Replace(chunk.to_vec())
        } else {
            std::hint::black_box(chunk.first());
            Chunk::Pass
        }
    }
}

export!(Chunks: on_request_body);
