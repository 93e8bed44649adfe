//! What the admin listener is asked to change, as orders for the control thread.
//!
//! Not here: what a change does (`control::change`).

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{HOST, ORIGIN};
use hyper::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{Admin, Answer, CHANGE_TIME_MAX, Deadline, json, problem, problem_of};
use crate::control::change::{Order, Outcome, Refusal, RefusalKind, Reply};
use crate::plugin::load::COMPONENT_BYTES_MAX;

/// A change that a path asks for.
pub(super) enum Asked<'a> {
    Reload,
    Drain,
    Swap(&'a str),
    Rollback(&'a str),
    Purge,
}

/// The change that a POST to `path` asks for.
pub(super) fn asked(path: &str) -> Option<Asked<'_>> {
    match path {
        "/reload" => return Some(Asked::Reload),
        "/drain" => return Some(Asked::Drain),
        "/cache/purge" => return Some(Asked::Purge),
        _ => {}
    }
    let rest = path.strip_prefix("/plugins/")?;
    let (name, asked) = match rest.strip_suffix("/rollback") {
        Some(name) => (name, Asked::Rollback(name)),
        None => (rest, Asked::Swap(rest)),
    };
    (!name.is_empty() && !name.contains('/')).then_some(asked)
}

/// Whether a web page of another origin may have sent this. Browsers say where a POST comes from, and
/// need nobody's leave to send one; a token no page can know.
pub(super) fn is_foreign(request: &Request<Incoming>) -> bool {
    let fields = request.headers();
    let Some(origin) = fields.get(ORIGIN) else { return false };
    let host = fields.get(HOST).map_or(b"".as_slice(), |host| host.as_bytes());
    origin.as_bytes().strip_prefix(b"http://") != Some(host)
}

/// Has it done, and says what became of it.
pub(super) async fn change(
    admin: &Admin,
    asked: Asked<'_>,
    request: Request<Incoming>,
    deadline: &Deadline,
) -> Answer {
    deadline.extend(CHANGE_TIME_MAX);
    let (sender, outcome) = oneshot::channel::<Outcome>();
    let reply: Reply = Box::new(move |outcome| {
        // Whoever asked may have left.
        let _ = sender.send(outcome);
    });
    let order = match asked {
        Asked::Reload => Order::Reload(reply),
        Asked::Drain => Order::Drain(reply),
        Asked::Rollback(name) => Order::Rollback { name: name.to_owned(), reply },
        // Nothing that the control thread would have to do.
        Asked::Purge => return super::purge::purge(admin, request).await,
        Asked::Swap(name) => {
            // One at a time, since each may be large.
            let Ok(_turn) = admin.uploads.acquire().await else {
                return problem(StatusCode::SERVICE_UNAVAILABLE, "the admin server ends");
            };
            let body = request.into_body();
            if body.size_hint().lower() > COMPONENT_BYTES_MAX as u64 {
                return too_large();
            }
            match Limited::new(body, COMPONENT_BYTES_MAX).collect().await {
                Ok(body) => {
                    Order::Swap { name: name.to_owned(), component: body.to_bytes(), reply }
                }
                Err(error) if error.is::<LengthLimitError>() => return too_large(),
                Err(error) => {
                    return problem(StatusCode::BAD_REQUEST, &format!("the body: {error}"));
                }
            }
        }
    };
    let sent = admin.orders.send(order);
    match outcome.await {
        Ok(Ok(value)) => json(StatusCode::OK, &value),
        Ok(Err(refusal)) => refused(&refusal),
        Err(_) => {
            debug_assert!(sent.is_ok(), "the control thread lives as long as the admin server");
            problem(StatusCode::INTERNAL_SERVER_ERROR, "the control thread has ended; see the log")
        }
    }
}

fn too_large() -> Answer {
    let detail = format!("a component may have {} MiB", COMPONENT_BYTES_MAX >> 20);
    problem(StatusCode::PAYLOAD_TOO_LARGE, &detail)
}

fn refused(refusal: &Refusal) -> Answer {
    let status = match refusal.kind {
        RefusalKind::Missing => StatusCode::NOT_FOUND,
        RefusalKind::Conflict => StatusCode::CONFLICT,
        RefusalKind::Bad => StatusCode::UNPROCESSABLE_ENTITY,
        RefusalKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    };
    let more = match refusal.problems.as_slice() {
        [] => Value::Null,
        problems => json!({ "problems": problems }),
    };
    problem_of(status, &refusal.detail, more)
}
