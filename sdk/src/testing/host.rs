//! The host of one thread: every function of `wit/`, by its rules.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::Ipv6Addr;

use super::cache::Responses;
use super::crypto::{Key, Signatures};
use super::message::{Head, Request, Response};
use super::state::State;
use crate::Message;
use crate::log::Level;

/// The limits of `wit/`.
pub(crate) const PUSHED_FIELDS_MAX: usize = 64;
const EDIT_BYTES_MAX: usize = 64 * 1024;
const CONTEXT_BYTES_MAX: usize = 64 * 1024;
const CONTEXT_KEYS_MAX: usize = 64;
const CONTEXT_KEY_BYTES_MAX: usize = 256;
const REPLY_BYTES_MAX: usize = 1024 * 1024;
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
pub(crate) const CHUNK_BYTES_MAX: usize = 64 * 1024;
const LOG_LINE_BYTES_MAX: usize = 4096;

/// Fields that frame a message, which no plugin may touch.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What a test says to callouts.
pub(crate) type Answers = Box<
    dyn FnMut(&crate::callout::Request) -> Result<crate::callout::Response, crate::callout::Error>,
>;

/// What the functions read and write.
pub(crate) struct Host {
    pub(crate) request: Request,
    pub(crate) response: Response,
    pub(crate) reply: Option<Response>,
    has_response: bool,
    /// Fields for the response when there is one.
    later: Vec<(String, Vec<u8>)>,
    /// The first rule that the running hook broke.
    pub(crate) failure: Option<String>,
    pub(crate) unix_ms: u64,
    pub(crate) log_level: Option<Level>,
    pub(crate) log: Vec<(Level, String)>,
    pub(crate) wish: Option<Wish>,
    pub(crate) replacement: Option<Vec<u8>>,
    /// What a message hook has asked for; `None`: none runs.
    pub(crate) message: Option<MessageCalls>,
    /// Whether a body hook runs.
    pub(crate) in_body: bool,
    pub(crate) upstreams: Vec<String>,
    /// What a test says to callouts.
    pub(crate) callouts: Option<Answers>,
    /// What a test says to signatures under keys that are no secrets.
    pub(crate) signatures: Option<Signatures>,
    /// Whether the running hook may send any.
    pub(crate) may_wait: bool,
    /// Sent for this request, or in this tick.
    pub(crate) sent: u32,
    edit_bytes: usize,
    context: HashMap<String, Vec<u8>>,
    pub(super) keys: BTreeMap<u32, Key>,
    pub(super) next_key: u32,
    pub(crate) state: State,
    pub(crate) cache: Responses,
    /// For how long the running hook lets its answer be given again.
    pub(crate) repeat_ms: Option<u32>,
}

/// What a message hook asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MessageCalls {
    pub(crate) replacement: Option<Message>,
    pub(crate) close: Option<(u16, String)>,
}

/// What a head hook asks for the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Skip,
    Observe,
    Hold(usize),
    Replace(Vec<u8>),
}

thread_local! {
    pub(super) static HOST: RefCell<Host> = RefCell::new(Host::new());
}

impl Host {
    fn new() -> Self {
        Self {
            request: Request::get("/"),
            response: Response::status(200),
            reply: None,
            failure: None,
            unix_ms: 0,
            log_level: Some(Level::Debug),
            log: Vec::new(),
            wish: None,
            replacement: None,
            message: None,
            in_body: false,
            upstreams: Vec::new(),
            callouts: None,
            signatures: None,
            may_wait: false,
            sent: 0,
            edit_bytes: 0,
            context: HashMap::new(),
            keys: BTreeMap::new(),
            next_key: 0,
            has_response: false,
            later: Vec::new(),
            state: State::default(),
            cache: Responses::default(),
            repeat_ms: None,
        }
    }

    /// Runs `f` on this thread's host.
    pub(crate) fn with<T>(f: impl FnOnce(&mut Self) -> T) -> T {
        HOST.with_borrow_mut(f)
    }

    /// A new exchange.
    pub(crate) fn begin(&mut self, request: Request) {
        self.request = request;
        self.response = Response::status(200);
        self.has_response = false;
        self.later.clear();
        self.reply = None;
        self.failure = None;
        self.wish = None;
        self.replacement = None;
        self.sent = 0;
        self.edit_bytes = 0;
        self.repeat_ms = None;
        self.context.clear();
    }

    /// The exchange has got its response.
    pub(crate) fn respond(&mut self, response: Response) {
        self.response = response;
        self.has_response = true;
        for (name, value) in std::mem::take(&mut self.later) {
            self.response.head.append(&name, &value);
        }
        self.edit_bytes = 0;
    }

    pub(crate) fn pushed_request(&self, names: &[String]) -> Vec<Option<Vec<u8>>> {
        names.iter().map(|name| self.request.look_up(name)).collect()
    }

    pub(crate) fn pushed_response(&self, names: &[String]) -> Vec<Option<Vec<u8>>> {
        names.iter().map(|name| self.response.look_up(name)).collect()
    }

    pub(crate) fn fail(&mut self, reason: impl Into<String>) {
        self.failure.get_or_insert(reason.into());
    }

    /// Checks an edit; whether it may be made.
    fn may_edit(&mut self, name: &str, value: &[u8]) -> bool {
        self.spend(field_bytes(name, value));
        if let Some(reason) = refuse_field(name, value) {
            self.fail(reason);
        }
        self.failure.is_none()
    }

    fn spend(&mut self, bytes: usize) {
        self.edit_bytes = self.edit_bytes.saturating_add(bytes);
        if self.edit_bytes > EDIT_BYTES_MAX {
            self.fail("edits of more than 64 KiB");
        }
    }
}

/// Why a field must not be sent, if so.
fn refuse_field(name: &str, value: &[u8]) -> Option<String> {
    // RFC 9110 §5.6.2: what a token is made of.
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        return Some(format!("`{name}` is no field name"));
    }
    // RFC 9110 §5.5: some of them would end the field, or the message.
    if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Some(format!("the value of `{name}` has a control character"));
    }
    let framing = FRAMING.iter().any(|framing| framing.eq_ignore_ascii_case(name));
    framing.then(|| format!("`{name}` frames the message"))
}

/// What a field adds to a head: name, colon, space, value, line end.
fn field_bytes(name: &str, value: &[u8]) -> usize {
    name.len() + value.len() + 4
}

/// `uri-host [":" port]` (RFC 3986 §3.2.2, §3.2.3).
fn is_host(value: &[u8]) -> bool {
    let Ok(value) = std::str::from_utf8(value) else { return false };
    let (name, port) = match value.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((address, port))) if address.parse::<Ipv6Addr>().is_ok() => (address, port),
        Some(_) => return false,
        None => value.split_at(value.find(':').unwrap_or(value.len())),
    };
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%:".contains(&byte);
    let escaped = |rest: &str| {
        rest.as_bytes()
            .first_chunk()
            .is_some_and(|code: &[u8; 2]| code.iter().all(u8::is_ascii_hexdigit))
    };
    let digits = port.strip_prefix(':').unwrap_or_default();
    !name.is_empty()
        && name.bytes().all(known)
        && name.split('%').skip(1).all(escaped)
        && (port.is_empty() || port.starts_with(':'))
        && digits.len() <= 5
        && digits.bytes().all(|digit| digit.is_ascii_digit())
}

/// `edit` on the head of the request or response, if the edit keeps to the rules.
fn edit(
    name: &str,
    value: &[u8],
    head: impl FnOnce(&mut Host) -> &mut Head,
    edit: impl FnOnce(&mut Head),
) {
    Host::with(|host| {
        if host.may_edit(name, value) {
            edit(head(host));
        }
    });
}

/// Removes a field, which costs no bytes.
fn remove(name: &str, head: impl FnOnce(&mut Host) -> &mut Head) {
    Host::with(|host| match refuse_field(name, b"") {
        Some(reason) => host.fail(reason),
        None => head(host).remove(name),
    });
}

/// `request`.
pub(crate) mod request {
    use super::{Host, edit, is_host};

    pub(crate) fn get(name: &str) -> Option<Vec<u8>> {
        Host::with(|host| host.request.look_up(name))
    }

    pub(crate) fn get_all(name: &str) -> Vec<Vec<u8>> {
        Host::with(|host| host.request.head.all(name))
    }

    pub(crate) fn packed() -> Vec<u8> {
        Host::with(|host| host.request.head.packed())
    }

    pub(crate) fn set(name: &str, value: &[u8]) {
        if name.eq_ignore_ascii_case("host") && !is_host(value) {
            Host::with(|host| host.fail("`host` is set to what is no host"));
        }
        edit(name, value, |host| &mut host.request.head, |head| head.set(name, value));
    }

    pub(crate) fn append(name: &str, value: &[u8]) {
        keep_one_host(name);
        edit(name, value, |host| &mut host.request.head, |head| head.append(name, value));
    }

    pub(crate) fn remove(name: &str) {
        keep_one_host(name);
        super::remove(name, |host| &mut host.request.head);
    }

    /// RFC 9112 §3.2: a request has one Host field, no more and no fewer.
    fn keep_one_host(name: &str) {
        if name.eq_ignore_ascii_case("host") {
            Host::with(|host| host.fail("`host` can be set, but neither added nor removed"));
        }
    }

    pub(crate) fn param(name: &str) -> Option<Vec<u8>> {
        Host::with(|host| {
            let params = host.request.params.iter();
            let found = params.rev().find(|(known, _)| known == name)?;
            Some(found.1.clone().into_bytes())
        })
    }

    pub(crate) fn set_upstream(name: &str) -> bool {
        Host::with(|host| {
            let known = host.upstreams.iter().any(|known| known == name);
            if known {
                host.request.upstream = Some(name.to_owned());
            }
            known
        })
    }

    pub(crate) fn set_path(path_and_query: &str) {
        Host::with(|host| {
            host.spend(path_and_query.len());
            let visible = path_and_query.bytes().all(|byte| byte.is_ascii_graphic());
            if path_and_query.starts_with('/') && visible && !path_and_query.contains('#') {
                path_and_query.clone_into(&mut host.request.path);
            } else {
                host.fail("the path must begin with `/` and hold visible ASCII only");
            }
        });
    }
}

/// `body`.
pub(crate) mod body {
    use super::{BODY_BYTES_MAX, Host, Wish};

    fn wish(wish: Wish) {
        Host::with(|host| {
            if host.in_body {
                host.fail("a body hook asks for what a head hook may ask for");
            } else {
                host.wish = Some(wish);
            }
        });
    }

    pub(crate) fn skip() {
        wish(Wish::Skip);
    }

    pub(crate) fn observe() {
        wish(Wish::Observe);
    }

    pub(crate) fn hold(bytes_max: u32) {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        if bytes_max > BODY_BYTES_MAX {
            Host::with(|host| host.fail("a hold of more than 4 MiB"));
        }
        wish(Wish::Hold(bytes_max));
    }

    pub(crate) fn replace(bytes: &[u8]) {
        if bytes.len() > BODY_BYTES_MAX {
            Host::with(|host| host.fail("a body of more than 4 MiB"));
        } else if Host::with(|host| host.in_body) {
            Host::with(|host| host.replacement = Some(bytes.to_vec()));
        } else {
            wish(Wish::Replace(bytes.to_vec()));
        }
    }
}

/// `websocket`.
pub(crate) mod websocket {
    use super::{BODY_BYTES_MAX, Host, MessageCalls};
    use crate::Message;
    use crate::bindings::imports::zproxy::gateway::types::MessageKind;

    fn ask(ask: impl FnOnce(&mut MessageCalls)) {
        Host::with(|host| match &mut host.message {
            Some(calls) => ask(calls),
            None => host.fail("a call of `websocket` outside of `on_message`"),
        });
    }

    pub(crate) fn replace(kind: MessageKind, data: &[u8]) {
        if data.len() > BODY_BYTES_MAX {
            Host::with(|host| host.fail("a message of more than 4 MiB"));
        }
        ask(|calls| calls.replacement = Some(Message::received(kind, data.to_vec())));
    }

    pub(crate) fn close(code: u16, reason: &str) {
        if !matches!(code, 1000..=1003 | 1007..=1013 | 3000..=4999) {
            Host::with(|host| host.fail(format!("{code} is no code that an end may be told")));
        }
        if reason.len() > 123 {
            Host::with(|host| host.fail("a reason of more than 123 bytes"));
        }
        ask(|calls| calls.close = Some((code, reason.to_owned())));
    }
}

/// `callout`.
pub(crate) mod callout {
    use super::Host;
    use crate::callout::{Error, Request, Response};

    /// `limits.callouts_max`, where the operator says nothing.
    const CALLOUTS_MAX: u32 = 16;

    pub(crate) fn send(request: Request) -> Result<Response, Error> {
        // Taken out while it runs: it is the test's own code, which may use this host.
        let answer = Host::with(|host| match (host.may_wait, host.sent < CALLOUTS_MAX) {
            (false, _) => Err(Error::Denied("this hook may not send requests".to_owned())),
            (true, false) => Err(Error::Busy),
            (true, true) => {
                host.sent += 1;
                Ok(host.callouts.take())
            }
        })?;
        let Some(mut answer) = answer else {
            return Err(Error::Denied("the test answers no callouts".to_owned()));
        };
        let answered = answer(&request);
        Host::with(|host| host.callouts = Some(answer));
        answered
    }
}

/// `response`.
pub(crate) mod response {
    use super::{Host, edit};
    use crate::fields::Fields;

    pub(crate) fn status() -> u16 {
        Host::with(|host| host.response.status)
    }

    pub(crate) fn get(name: &str) -> Option<Vec<u8>> {
        Host::with(|host| host.response.look_up(name))
    }

    pub(crate) fn get_all(name: &str) -> Vec<Vec<u8>> {
        Host::with(|host| host.response.head.all(name))
    }

    pub(crate) fn packed() -> Vec<u8> {
        Host::with(|host| host.response.head.packed())
    }

    pub(crate) fn set_status(status: u16) {
        Host::with(|host| {
            if (200..600).contains(&status) {
                host.response.status = status;
                if matches!(status, 204 | 304) {
                    host.response.body.clear();
                }
            } else {
                host.fail(format!("status {status} is not within 200 to 599"));
            }
        });
    }

    pub(crate) fn set(name: &str, value: &[u8]) {
        edit(name, value, |host| &mut host.response.head, |head| head.set(name, value));
    }

    pub(crate) fn append_later(packed: &[u8]) {
        if Host::with(|host| host.has_response) {
            for (name, value) in Fields::new(packed.to_vec()).iter() {
                append(name, value);
            }
            return;
        }
        Host::with(|host| {
            for (name, value) in Fields::new(packed.to_vec()).iter() {
                if host.may_edit(name, value) {
                    host.later.push((name.to_owned(), value.to_vec()));
                }
            }
        });
    }

    pub(crate) fn append(name: &str, value: &[u8]) {
        edit(name, value, |host| &mut host.response.head, |head| head.append(name, value));
    }

    pub(crate) fn remove(name: &str) {
        super::remove(name, |host| &mut host.response.head);
    }
}

/// `reply`.
pub(crate) mod reply {
    use super::{EDIT_BYTES_MAX, Head, Host, REPLY_BYTES_MAX, Response, field_bytes, refuse_field};

    pub(crate) fn send(status: u16, headers: &[(String, Vec<u8>)], body: &[u8]) {
        Host::with(|host| {
            if !(200..600).contains(&status) {
                host.fail(format!("status {status} is not within 200 to 599"));
            }
            if body.len() > REPLY_BYTES_MAX {
                host.fail("a body of more than 1 MiB");
            }
            let bytes: usize = headers.iter().map(|(name, value)| field_bytes(name, value)).sum();
            if bytes > EDIT_BYTES_MAX {
                host.fail("fields of more than 64 KiB");
            }
            for (name, value) in headers {
                if let Some(reason) = refuse_field(name, value) {
                    host.fail(reason);
                }
            }
            let head = Head(headers.to_vec());
            host.reply = Some(Response { status, head, body: body.to_vec() });
        });
    }
}

/// `context`.
pub(crate) mod context {
    use super::{CONTEXT_BYTES_MAX, CONTEXT_KEY_BYTES_MAX, CONTEXT_KEYS_MAX, Host};

    pub(crate) fn get(key: &str) -> Option<Vec<u8>> {
        Host::with(|host| host.context.get(key).cloned())
    }

    pub(crate) fn set(key: &str, value: &[u8]) {
        Host::with(|host| {
            let others = host.context.iter().filter(|(known, _)| *known != key);
            let (count, bytes) = others.fold((0, 0), |(count, bytes), (key, value)| {
                (count + 1, bytes + key.len() + value.len())
            });
            if key.len() > CONTEXT_KEY_BYTES_MAX
                || bytes + key.len() + value.len() > CONTEXT_BYTES_MAX
                || count == CONTEXT_KEYS_MAX
            {
                host.fail("more notes than an exchange may have");
            } else {
                host.context.insert(key.to_owned(), value.to_vec());
            }
        });
    }
}

/// `log`.
pub(crate) mod log {
    use super::{Host, LOG_LINE_BYTES_MAX};
    use crate::log::Level as Ours;

    pub(crate) enum Level {
        Debug,
        Info,
        Warn,
        Error,
    }

    pub(crate) fn max_level() -> Option<Level> {
        Host::with(|host| host.log_level).map(|level| match level {
            Ours::Debug => Level::Debug,
            Ours::Info => Level::Info,
            Ours::Warn => Level::Warn,
            Ours::Error => Level::Error,
        })
    }

    pub(crate) fn write(level: Level, message: &str) {
        let level = match level {
            Level::Debug => Ours::Debug,
            Level::Info => Ours::Info,
            Level::Warn => Ours::Warn,
            Level::Error => Ours::Error,
        };
        let cut = message.floor_char_boundary(LOG_LINE_BYTES_MAX);
        Host::with(|host| host.log.push((level, message[..cut].to_owned())));
    }
}

/// `clock`.
pub(crate) mod clock {
    use super::Host;

    pub(crate) fn unix_ms() -> u64 {
        Host::with(|host| host.unix_ms)
    }

    pub(crate) fn monotonic_us() -> u64 {
        Host::with(|host| host.unix_ms.saturating_mul(1000))
    }
}
