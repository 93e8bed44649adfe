//! Says in the log what its hooks are shown. `on` names a hook and `what` it does there: `panic` or `loop`.

use zproxy_sdk::{
    Flow, Middleware, Problem, Reply, Request, Response, Summary, context, export, info,
};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Hooks {
    on: String,
    what: String,
    /// Requests are sent to the upstream of this name.
    upstream: Option<String>,
    /// What `validate` complains of: pointers.
    bad: Vec<String>,
}

impl Hooks {
    fn act(&self, hook: &str) {
        if self.on == hook {
            match self.what.as_str() {
                "panic" => panic!("asked to panic in {hook}"),
                "loop" => loop {
                    std::hint::spin_loop();
                },
                _ => {}
            }
        }
    }
}

impl Middleware for Hooks {
    fn on_request(&self, request: &mut Request) -> Flow {
        let protocol = request.protocol().into_owned();
        let query = request.header(":query").map(|query| query.into_owned());
        let shown = [
            request.param("id").unwrap_or_default(),
            request.param("rest").unwrap_or_default(),
            request.param("none").unwrap_or_else(|| "-".to_owned()),
            query.unwrap_or_else(|| "-".to_owned()),
            protocol,
        ];
        request.set_header("x-shown", shown.join(" "));
        context::set("id", request.id().as_bytes());
        if let Some(upstream) = &self.upstream
            && !request.set_upstream(upstream)
        {
            return Flow::Reply(Reply::status(404).body("no such upstream"));
        }
        Flow::Next
    }

    fn on_response(&self, response: &mut Response) {
        let id = context::get("id").unwrap_or_default();
        response.set_header("x-id", id);
        let upstream = zproxy_sdk::context::get("none");
        assert!(upstream.is_none(), "a note that nobody made");
    }

    fn on_log(&self, request: &Request, response: &Response, summary: &Summary) {
        self.act("on_log");
        info!(
            "logged {} {} {} {} {} {}",
            request.path(),
            request.upstream().unwrap_or_else(|| "-".to_owned()),
            response.header("content-type").unwrap_or_else(|| "-".into()),
            summary.status,
            summary.request_bytes > 0 && summary.response_bytes > 0,
            summary.upstream_us <= summary.duration_us,
        );
    }

    fn on_tick(&self) {
        self.act("on_tick");
        info!("ticked");
    }

    fn shutdown(&self) {
        self.act("shutdown");
        info!("shut down");
    }

    fn validate(&self) -> Vec<Problem> {
        self.bad.iter().map(|path| Problem::new(path.as_str(), "is bad; make it good")).collect()
    }
}

export!(Hooks: on_request, on_response, on_log, on_tick, shutdown, validate);
