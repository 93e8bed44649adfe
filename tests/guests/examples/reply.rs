//! Answers every request itself: `status` (200) and `body` (`replied`), with `x-reply: yes`. With
//! `"on": "response"` it replaces every response instead, with `"on": "status"` only their status.

use zproxy_sdk::{Flow, Middleware, Reply, Request, Response, export};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Answer {
    status: u16,
    body: String,
    on: Hook,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Hook {
    Request,
    Response,
    Status,
}

impl Default for Answer {
    fn default() -> Self {
        Self { status: 200, body: "replied".to_owned(), on: Hook::Request }
    }
}

impl Answer {
    fn reply(&self) -> Reply {
        Reply::status(self.status)
            .header("content-type", "text/plain")
            .header("x-reply", "yes")
            .body(self.body.as_str())
    }
}

impl Middleware for Answer {
    fn on_request(&self, _: &mut Request) -> Flow {
        match self.on {
            Hook::Request => Flow::Reply(self.reply()),
            Hook::Response | Hook::Status => Flow::Next,
        }
    }

    fn on_response(&self, response: &mut Response) {
        match self.on {
            Hook::Request => {}
            Hook::Response => response.replace_with(self.reply()),
            Hook::Status => response.set_status(self.status),
        }
    }
}

export!(Answer);
