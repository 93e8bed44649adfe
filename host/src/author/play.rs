//! Plays a golden request through a plugin: the gateway's chain, without network.
//!
//! ```text
//! request ─► on-request ─► its body, in pieces ─► answer ─► on-response ─► its body, in pieces ─► on-log
//!                └─ callouts are answered by the case ─────────────┘
//! ```
//!
//! The messages of a WebSocket come behind the answer that opens it.
//!
//! What the gateway does to messages itself (its own fields, hop-by-hop fields) is not part of it: a case
//! shows what the plugin does.
//!
//! Not here: what a case expects (`compare`), and bodies on the wire (`proxy`).

#![expect(clippy::disallowed_methods, reason = "the plugin's time begins now")]

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::case::{Becomes, Case, Message, Verdict};
use super::log;
use super::subject::{self, Subject};
use crate::http::{Fields, Method, Version};
use crate::plugin::body::BodyFilter;
use crate::plugin::callout::{
    Answer, CalloutError, CalloutRequest, CalloutResponse, Outside, Scope,
};
use crate::plugin::{
    BodyStop, Chain, Exchange, Flow, Hook, HookFailure, Instances, MessagePassed, Summary, Wish,
    joined,
};

/// What came of a case.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// What `init` said against the configuration: nothing else has happened then.
    pub(super) refused: Option<String>,
    pub(super) verdict: Option<Verdict>,
    /// The upstream that it chose.
    pub(super) upstream: Option<String>,
    /// What the upstream was sent; none when the plugin answered itself, or failed.
    pub(super) forwarded: Option<Message>,
    /// What others were asked.
    pub(super) callouts: Vec<Made>,
    /// What the client was sent; of a failure, the gateway's 503.
    pub(super) response: Option<Message>,
    /// It was broken off in the middle.
    pub(super) cut: bool,
    /// What became of the messages of the WebSocket, until it was closed.
    pub(super) messages: Vec<Becomes>,
    /// Hook and message of a failure.
    pub(super) failed: Option<String>,
    pub(super) log: Vec<String>,
}

/// A callout that was made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) message: Message,
    /// Why the gateway would not have sent it.
    pub(super) refused: Option<String>,
}

/// Plays a case on a new instance.
pub(super) fn play(subject: &Subject, case: &Case) -> Outcome {
    // What is there was written before.
    log::take();
    let mut outcome = Outcome::default();
    // Cases do not see what others counted or kept.
    let plugin = subject.plugin.with_new_state();
    if let Err(complaints) = plugin.probe(&case.config) {
        outcome.refused = Some(joined(&complaints));
        outcome.log = log::take();
        return outcome;
    }
    // The lines of the instance that was thrown away would be there twice.
    log::take();
    // Nothing is ever waited for but a fiber, which is ready at once.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let chain = Instances::new().chain(&subject::plan(&plugin, &case.config));
    match (chain, runtime) {
        (Ok(chain), Ok(runtime)) => {
            let upstreams = case.upstreams.as_deref().unwrap_or(&subject.upstreams).into();
            let scene = Scene { chain: &chain, case, upstreams, place: None, outcome };
            outcome = runtime.block_on(scene.play());
        }
        (Err(error), _) => outcome.failed = Some(error.to_string()),
        (_, Err(error)) => outcome.failed = Some(error.to_string()),
    }
    outcome.log = log::take();
    outcome
}

/// Longer than any callout that a case answers.
const SCENE: Duration = Duration::from_secs(60);

/// A case that is being played.
struct Scene<'a> {
    chain: &'a Chain,
    case: &'a Case,
    upstreams: Arc<[Arc<str>]>,
    place: Option<Box<Exchange>>,
    outcome: Outcome,
}

/// Why a message goes no further.
enum End {
    /// The plugin has made an answer, which so many links have yet to see.
    Answered { entered: usize },
    /// The gateway answers with this status, because a body is longer than was to be held, or was
    /// broken off.
    Refused(u16),
    /// A hook failed.
    Failed(String),
}

impl From<Box<HookFailure>> for End {
    fn from(failure: Box<HookFailure>) -> Self {
        Self::Failed(failure.to_string())
    }
}

impl Scene<'_> {
    async fn play(mut self) -> Outcome {
        let mut exchange = Box::new(Exchange::default());
        fill_request(&mut exchange, self.case);
        exchange.upstreams = Some(Arc::clone(&self.upstreams));
        self.place = Some(exchange);
        let entered = match self.request().await {
            Ok(body) => {
                self.outcome.verdict = Some(Verdict::Next);
                let case = self.case;
                let exchange = self.exchange();
                let message = forwarded(exchange, &body);
                fill_answer(exchange, case);
                let chosen = exchange.chosen;
                let chosen = chosen.and_then(|index| self.upstreams.get(index));
                self.outcome.upstream = chosen.map(|name| name.to_string());
                self.outcome.forwarded = Some(message);
                Ok(1)
            }
            Err(End::Answered { entered }) => {
                self.outcome.verdict = Some(Verdict::Respond);
                Ok(entered)
            }
            Err(end) => Err(end),
        };
        let done = match entered {
            Ok(entered) => self.response(entered).await,
            Err(end) => Err(end),
        };
        match done {
            Ok(body) => {
                self.outcome.response = Some(response(self.exchange(), &body));
                self.messages();
            }
            // What was made in its place has no body that is shown.
            Err(End::Answered { .. }) => {
                let made = self.exchange().body.take().unwrap_or_default();
                self.outcome.response = Some(response(self.exchange(), &made));
            }
            Err(End::Refused(status)) => self.give_up(status),
            Err(End::Failed(failure)) => {
                self.outcome.failed = Some(failure);
                self.give_up(503);
            }
        }
        self.log();
        self.outcome
    }

    /// The exchange. Between two calls it is always there.
    fn exchange(&mut self) -> &mut Exchange {
        self.place.get_or_insert_default()
    }

    /// What the gateway answers in the plugin's place, unless another answer is on its way.
    fn give_up(&mut self, status: u16) {
        if self.outcome.response.is_none() {
            let start = vec![status.to_string()];
            self.outcome.response = Some(Message { start, ..Message::default() });
        }
    }

    /// The way of the request; its body as it goes on.
    async fn request(&mut self) -> Result<Vec<u8>, End> {
        let mut body = bytes(&self.case.request);
        let mut from = 0;
        loop {
            let exchange = self.place.take().unwrap_or_default();
            let (exchange, passed) = self.chain.on_request_from(from, exchange, Instant::now());
            self.place = Some(exchange);
            if passed.outcome? == Flow::Respond {
                return Err(End::Answered { entered: passed.entered });
            }
            if !self.exchange().is_halted() {
                break;
            }
            // The hook that was waited for may want to see the body.
            while let Some(halt) = self.exchange().take_halt() {
                from = halt.link + 1;
                match halt.wish {
                    None => {
                        if self.wait(halt.link, Hook::Request).await? == Flow::Respond {
                            return Err(End::Answered { entered: halt.link });
                        }
                    }
                    Some(Wish::Hold(max)) if body.len() > max => return Err(End::Refused(413)),
                    Some(Wish::Hold(_)) => {
                        body = self.whole(halt.link, Hook::RequestBody, body).await?;
                    }
                    Some(Wish::Replace(other)) => body = other,
                    Some(Wish::Skip | Wish::Observe) => {}
                }
            }
        }
        let chain = self.chain;
        match chain.request_filter(self.exchange()) {
            Some(mut filter) if !body.is_empty() => {
                let mut out = Vec::new();
                self.show(&mut filter, &body, &mut out, |_| ())?;
                Ok(out)
            }
            _ => Ok(body),
        }
    }

    /// The way of the response through so many links; its body as it goes on.
    async fn response(&mut self, mut entered: usize) -> Result<Vec<u8>, End> {
        let mut answer = bytes(&self.case.answer);
        loop {
            let exchange = self.place.take().unwrap_or_default();
            let (exchange, flow) = self.chain.on_response(exchange, entered, Instant::now());
            self.place = Some(exchange);
            flow.map_err(|broken| broken.failure)?;
            let Some(halt) = self.exchange().take_halt() else { break };
            entered = halt.link;
            let mut wish = halt.wish;
            if wish.is_none() {
                self.wait(entered, Hook::Response).await?;
                wish = self.exchange().take_halt().and_then(|halt| halt.wish);
            }
            let body = match wish {
                Some(Wish::Replace(other)) => other,
                Some(Wish::Hold(max)) if !self.is_bodiless() => {
                    let body = self.exchange().body.take();
                    let body =
                        body.map_or_else(|| std::mem::take(&mut answer), |body| body.to_vec());
                    if body.len() > max {
                        return Err(End::Refused(502));
                    }
                    self.whole(entered, Hook::ResponseBody, body).await?
                }
                _ => continue,
            };
            self.exchange().body = Some(body.into());
        }
        let chain = self.chain;
        let made = self.exchange().body.take();
        let body = made.map_or(answer, |body| body.to_vec());
        if self.is_bodiless() {
            return Ok(Vec::new());
        }
        match chain.response_filter(self.exchange()) {
            Some(mut filter) if !body.is_empty() => {
                let mut out = Vec::new();
                let shown =
                    self.show(&mut filter, &body, &mut out, |exchange| exchange.sent = true);
                if self.exchange().sent && shown.is_err() {
                    self.outcome.cut = true;
                    self.outcome.response = Some(response(self.exchange(), &out));
                }
                shown.map(|()| out)
            }
            _ => Ok(body),
        }
    }

    /// RFC 9110 §9.3.2, §6.4.1.
    fn is_bodiless(&mut self) -> bool {
        let exchange = self.exchange();
        exchange.request.method == Method::Head || exchange.response.is_bodiless()
    }

    /// Shows a body in pieces; `gone` is called whenever one has gone on.
    fn show(
        &mut self,
        filter: &mut BodyFilter,
        body: &[u8],
        out: &mut Vec<u8>,
        gone: impl Fn(&mut Exchange),
    ) -> Result<(), End> {
        let mut rest = body;
        let mut sizes = self.case.chunks.iter();
        let mut size = body.len();
        while !rest.is_empty() {
            size = sizes.next().copied().unwrap_or(size);
            let (chunk, behind) = rest.split_at(size.min(rest.len()));
            rest = behind;
            let shown = filter.show(&mut self.place, chunk, rest.is_empty(), out);
            shown.map_err(|stop| self.stopped(stop, 1))?;
            gone(self.exchange());
        }
        Ok(())
    }

    fn stopped(&mut self, stop: BodyStop, entered: usize) -> End {
        match stop {
            BodyStop::Failed(failure) => End::Failed(failure),
            BodyStop::Aborted if self.exchange().body.is_some() => End::Answered { entered },
            BodyStop::Aborted => End::Refused(502),
        }
    }

    /// Calls a head hook that may wait.
    async fn wait(&mut self, link: usize, hook: Hook) -> Result<Flow, End> {
        let Self { chain, case, upstreams, place, outcome } = self;
        let mut answer = |request, refused| answer(case, &mut outcome.callouts, request, refused);
        let outside = Outside::Stage { upstreams, answer: &mut answer };
        let until = Instant::now() + SCENE;
        let mut scope = Scope { outside, until, gone: &mut |_| Poll::Pending };
        Ok(chain.call_waiting(link, hook, place, &mut scope).await?)
    }

    /// Shows all of a body at once; what goes on in its place.
    async fn whole(&mut self, link: usize, hook: Hook, body: Vec<u8>) -> Result<Vec<u8>, End> {
        let Self { chain, case, upstreams, place, outcome } = self;
        let mut answer = |request, refused| answer(case, &mut outcome.callouts, request, refused);
        let outside = Outside::Stage { upstreams, answer: &mut answer };
        let until = Instant::now() + SCENE;
        let mut scope = Scope { outside, until, gone: &mut |_| Poll::Pending };
        let shown = chain.show_whole(link, hook, place, body, &mut scope).await;
        shown.map_err(|stop| self.stopped(stop, link))
    }

    /// What comes over the WebSocket, if the request has opened one.
    fn messages(&mut self) {
        // An answer of the plugin's own opens none.
        if self.outcome.verdict != Some(Verdict::Next) {
            return;
        }
        for shown in &self.case.messages {
            let passed = self.chain.on_message(&mut self.place, shown.from, shown.message.clone());
            let became = match passed {
                Ok(MessagePassed::On(message)) if message == shown.message => Becomes::Same,
                Ok(MessagePassed::On(message)) => Becomes::of(&message),
                Ok(MessagePassed::Dropped) => Becomes::Nothing,
                Ok(MessagePassed::Closed(code, reason)) => Becomes::Close(code, Some(reason)),
                Err(failure) => {
                    self.outcome.failed = Some(failure.to_string());
                    Becomes::Close(1011, Some(String::new()))
                }
            };
            let is_last = matches!(became, Becomes::Close(..));
            self.outcome.messages.push(became);
            if is_last {
                return;
            }
        }
    }

    /// The hook that nobody waits for.
    fn log(&mut self) {
        let length = |message: &Option<Message>| {
            let body = message.as_ref().and_then(|message| message.body.as_ref());
            body.map_or(0, |body| body.len() as u64)
        };
        let start = self.outcome.response.as_ref().and_then(|response| response.start.first());
        let summary = Summary {
            status: start.and_then(|status| status.parse().ok()).unwrap_or_default(),
            request_bytes: length(&Some(self.case.request.clone())),
            response_bytes: length(&self.outcome.response),
            ..Summary::default()
        };
        let exchange = self.place.take().unwrap_or_default();
        self.place = Some(self.chain.on_log(exchange, 1, &summary));
    }
}

/// What a callout gets: the answer that the case has for the next one.
fn answer(
    case: &Case,
    made: &mut Vec<Made>,
    request: CalloutRequest,
    refused: Option<CalloutError>,
) -> Answer {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let planned = case.callouts.get(made.len());
    made.push(Made {
        message: Message {
            start: vec![request.method, request.url],
            fields: request.headers.into_iter().map(|(name, value)| (name, text(&value))).collect(),
            body: Some(text(&request.body).trim_end_matches('\n').to_owned()),
        },
        refused: refused.as_ref().map(|error| match error {
            CalloutError::Denied(why) | CalloutError::Invalid(why) => why.clone(),
            other => format!("{other:?}"),
        }),
    });
    if let Some(refused) = refused {
        return Err(refused);
    }
    let Some(planned) = planned else {
        return Err(CalloutError::Unreachable("the case has no answer for it".to_owned()));
    };
    planned.answer.clone().map(|message| CalloutResponse {
        status: status(&message),
        body: bytes(&message),
        headers: message.fields.into_iter().map(|(name, value)| (name, value.into())).collect(),
    })
}

pub(super) fn fill_request(exchange: &mut Exchange, case: &Case) {
    exchange.clear();
    // `case::request` has seen to both.
    let [method, target, ..] = &case.request.start[..] else { return };
    exchange.request.assign(method, target, Version::Http11);
    push(&mut exchange.request.fields, &case.request);
    exchange.client_ip = case.client_ip;
    exchange.scheme = case.scheme;
    exchange.route = case.route.as_deref().map(Into::into);
}

pub(super) fn fill_answer(exchange: &mut Exchange, case: &Case) {
    exchange.response.assign(status(&case.answer));
    push(&mut exchange.response.fields, &case.answer);
}

fn status(message: &Message) -> u16 {
    message.start.first().and_then(|status| status.parse().ok()).unwrap_or(200)
}

fn bytes(message: &Message) -> Vec<u8> {
    message.body.as_deref().unwrap_or_default().into()
}

fn push(fields: &mut Fields, message: &Message) {
    for (name, value) in &message.fields {
        fields.push(name, value.as_bytes());
    }
}

fn forwarded(exchange: &Exchange, body: &[u8]) -> Message {
    let request = &exchange.request;
    Message {
        start: vec![request.method_name().to_owned(), request.target().to_owned()],
        fields: read(&request.fields),
        body: text(body),
    }
}

fn response(exchange: &Exchange, body: &[u8]) -> Message {
    Message {
        start: vec![exchange.response.status.to_string()],
        fields: read(&exchange.response.fields),
        body: text(body),
    }
}

/// A body as cases write it.
fn text(body: &[u8]) -> Option<String> {
    Some(String::from_utf8_lossy(body).trim_end_matches('\n').to_owned())
}

fn read(fields: &Fields) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    fields.iter().map(|(name, value)| (text(name), text(value))).collect()
}
