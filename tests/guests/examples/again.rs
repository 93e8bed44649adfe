//! Keeps every 200 under the path of its request, lets what it serves be given again for `ms`, and says in `x-calls` how
//! often it was called. `/remove/a` forgets `/a`; below `/two/` it looks for `/first` as well.

use std::cell::Cell;
use std::time::Duration;

use zproxy_sdk::cache::{self, Outcome};
use zproxy_sdk::{Flow, Middleware, Reply, Request, Response, context, export};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Again {
    ms: u64,
    #[serde(skip)]
    calls: Cell<u32>,
}

impl Middleware for Again {
    fn request_fields(&self) -> Vec<&str> {
        vec![":path", "x-who"]
    }

    fn on_request(&self, request: &mut Request) -> Flow {
        let path = request.path().into_owned();
        if let Some(key) = path.strip_prefix("/remove") {
            return Flow::Reply(Reply::status(200).body(cache::remove(key).to_string()));
        }
        self.calls.set(self.calls.get() + 1);
        if path.starts_with("/two/") && cache::lookup("/first").is_none() {
            return Flow::Reply(Reply::status(200).body("there is no first"));
        }
        if cache::lookup(&path).is_some() {
            let calls = self.calls.get().to_string();
            let fields = [("x-calls", calls.as_bytes()), ("age", b"0".as_slice())];
            if let Some(reply) = cache::serve(&path, &fields) {
                let (time, age) = (Duration::from_millis(self.ms), Duration::from_secs(100));
                cache::repeat(time, age, Outcome::Hit);
                return Flow::Reply(reply);
            }
        }
        context::set("key", path);
        Flow::Next
    }

    fn on_response(&self, response: &mut Response) {
        if let (200, Some(key)) = (response.status(), context::get("key")) {
            cache::store(key, "", Duration::from_secs(600), &[]);
        }
    }
}

export!(Again);
