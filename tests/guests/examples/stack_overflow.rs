//! Calls itself until the stack is full.

use std::hint::black_box;

use zproxy_sdk::{Flow, Middleware, Request, export};

#[derive(serde::Deserialize)]
struct StackOverflow {}

impl Middleware for StackOverflow {
    fn on_request(&self, _: &mut Request) -> Flow {
        black_box(dig(black_box(0)));
        Flow::Next
    }
}

/// Has no end; the array and the use of its result keep it from becoming a loop.
#[allow(unconditional_recursion, reason = "the point of this guest")]
fn dig(depth: u64) -> u64 {
    let room = black_box([depth; 64]);
    dig(black_box(depth.wrapping_add(1))).wrapping_add(room[0])
}

export!(StackOverflow: on_request);
