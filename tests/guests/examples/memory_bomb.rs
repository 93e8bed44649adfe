//! Takes memory for as long as it is given any: 1 MiB at a time, all of it touched.

use zproxy_sdk::{Flow, Middleware, Request, export};

#[derive(serde::Deserialize)]
struct MemoryBomb {}

impl Middleware for MemoryBomb {
    fn on_request(&self, _: &mut Request) -> Flow {
        let mut taken = Vec::new();
        loop {
            taken.push(std::hint::black_box(vec![1_u8; 1 << 20]));
        }
    }
}

export!(MemoryBomb: on_request);
