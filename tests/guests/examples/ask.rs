//! Asks another service about each request: a 200 lets it pass, any other status is the client's answer, and
//! without an answer the client gets a 500 that says why. `hook` says where it asks.

use zproxy_sdk::{
    Chunk, Flow, Middleware, Reply, Request, Response, Summary, callout, export, info,
};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    url: String,
    #[serde(default)]
    hook: String,
    #[serde(default)]
    method: Option<String>,
    /// Fields that it sends.
    #[serde(default)]
    fields: Vec<(String, String)>,
    #[serde(default)]
    timeout_ms: u32,
    /// How often it asks; once when nothing is said.
    #[serde(default)]
    times: Option<u32>,
    /// Runs for so many milliseconds after each answer.
    #[serde(default)]
    busy_ms: u64,
}

impl Ask {
    fn ask(&self, path: &str, body: &[u8]) -> Option<Reply> {
        let url = self.url.replace("{path}", path);
        let mut failed = None;
        for _ in 0..self.times.unwrap_or(1) {
            let method = self.method.as_deref().unwrap_or("GET");
            let mut request = callout::request(method, &url).body(body).timeout_ms(self.timeout_ms);
            for (name, value) in &self.fields {
                request = request.header(name, value);
            }
            let answer = request.send();
            let began = zproxy_sdk::clock::monotonic_us();
            while zproxy_sdk::clock::monotonic_us() - began < self.busy_ms * 1000 {
                std::hint::spin_loop();
            }
            match answer {
                Ok(answer) if answer.status() == 200 => {}
                Ok(answer) => return Some(Reply::status(answer.status()).body(answer.body())),
                Err(error) => failed = Some(Reply::status(500).body(error.to_string())),
            }
        }
        failed
    }
}

impl Middleware for Ask {
    fn on_request(&self, request: &mut Request) -> Flow {
        match self.hook.as_str() {
            "body" => request.hold_body(1 << 20),
            "" => {
                if let Some(reply) = self.ask(&request.path(), b"") {
                    return Flow::Reply(reply);
                }
            }
            _ => {}
        }
        Flow::Next
    }

    fn on_response(&self, response: &mut Response) {
        if self.hook == "response"
            && let Some(reply) = self.ask("/response", b"")
        {
            response.replace_with(reply);
        }
    }

    fn on_request_body(&self, request: &mut Request, chunk: &[u8], _: bool) -> Chunk {
        if self.hook != "body" && self.hook != "chunk" {
            return Chunk::Detach;
        }
        match self.ask(&request.path(), chunk) {
            Some(reply) => {
                request.answer(reply);
                Chunk::Abort
            }
            None => Chunk::Pass,
        }
    }

    fn on_log(&self, _: &Request, _: &Response, _: &Summary) {
        if self.hook == "log" {
            info!("logged: {:?}", self.ask("/log", b"").is_some());
        }
    }

    fn on_tick(&self) {
        if self.hook == "tick" {
            info!("ticked: {}", self.ask("/tick", b"").is_none());
        }
    }

    fn shutdown(&self) {
        info!("shut down");
    }
}

export!(Ask: on_request, on_response, on_request_body, on_log, on_tick, shutdown);
