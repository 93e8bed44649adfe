//! Plays a golden request through a plugin: the gateway's chain, without network.
//!
//! What the gateway does to messages itself (its own fields, hop-by-hop fields) is not part of it: a case
//! shows what the plugin does.
//!
//! Not here: what a case expects (`compare`).

use super::case::{Case, Message, Verdict};
use super::log;
use super::subject::{self, Subject};
use crate::http::{Fields, Version};
use crate::plugin::{Exchange, Flow, Instances, joined};

/// What came of a case.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// What `init` said against the configuration: nothing else has happened then.
    pub(super) refused: Option<String>,
    pub(super) verdict: Option<Verdict>,
    /// What the upstream was sent; none when the plugin answered itself, or failed.
    pub(super) forwarded: Option<Message>,
    /// What the client was sent; of a failure, the gateway's 503.
    pub(super) response: Option<Message>,
    /// Hook and message of a failure.
    pub(super) failed: Option<String>,
    pub(super) log: Vec<String>,
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
    match Instances::new().chain(&subject::plan(&plugin, &case.config)) {
        Ok(chain) => exchange(&chain, case, &mut outcome),
        Err(error) => outcome.failed = Some(error.to_string()),
    }
    outcome.log = log::take();
    outcome
}

#[expect(clippy::disallowed_methods, reason = "the plugin's time begins now")]
fn exchange(chain: &crate::plugin::Chain, case: &Case, outcome: &mut Outcome) {
    let now = std::time::Instant::now;
    let mut exchange = Box::new(Exchange::default());
    fill_request(&mut exchange, case);
    let (mut exchange, passed) = chain.on_request(exchange, now());
    match passed.outcome {
        Err(failure) => return fail(outcome, &failure.to_string()),
        Ok(Flow::Respond) => outcome.verdict = Some(Verdict::Respond),
        Ok(Flow::Next) => {
            outcome.verdict = Some(Verdict::Next);
            outcome.forwarded = Some(forwarded(&exchange, case));
            fill_answer(&mut exchange, case);
        }
    }
    let (exchange, flow) = chain.on_response(exchange, passed.entered, now());
    if let Err(broken) = flow {
        return fail(outcome, &broken.failure.to_string());
    }
    outcome.response = Some(response(&exchange, case));
}

/// What the gateway makes of a hook that fails, by default.
fn fail(outcome: &mut Outcome, failure: &str) {
    outcome.failed = Some(failure.to_owned());
    outcome.response = Some(Message { start: vec!["503".to_owned()], ..Message::default() });
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
    let status = case.answer.start.first().and_then(|status| status.parse().ok());
    exchange.response.assign(status.unwrap_or(200));
    push(&mut exchange.response.fields, &case.answer);
}

fn push(fields: &mut Fields, message: &Message) {
    for (name, value) in &message.fields {
        fields.push(name, value.as_bytes());
    }
}

fn forwarded(exchange: &Exchange, case: &Case) -> Message {
    let request = &exchange.request;
    Message {
        start: vec![request.method_name().to_owned(), request.target().to_owned()],
        fields: read(&request.fields),
        body: case.request.body.clone(),
    }
}

fn response(exchange: &Exchange, case: &Case) -> Message {
    let made = exchange
        .body
        .as_deref()
        .map(|body| String::from_utf8_lossy(body).trim_end_matches('\n').to_owned());
    let bodiless = exchange.response.is_bodiless();
    let body = made.or_else(|| case.answer.body.clone()).filter(|_| !bodiless);
    Message {
        start: vec![exchange.response.status.to_string()],
        fields: read(&exchange.response.fields),
        body,
    }
}

fn read(fields: &Fields) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    fields.iter().map(|(name, value)| (text(name), text(value))).collect()
}
