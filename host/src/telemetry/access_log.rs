//! The access log: one line a request, written by a thread of its own.
//!
//! A worker formats lines into a buffer and hands it over when it is large or a tick old. When the
//! writer cannot keep up, lines are dropped and counted (`zproxy_access_log_dropped_total`).
//!
//! Fields, in JSON: `ts request_id trace_id client method host path protocol tls_version tls_cipher
//! tls_server_name status flags bytes_in bytes_out duration_us phases{upstream_us} route upstream server attempts cache
//! websocket{closed_by,code,messages_in,messages_out} plugins[{name,generation,verdict,us}] context{…}`. In
//! `context` are the notes of plugins that the configuration names. A plugin's `us`, its hooks together, is there for a sample of
//! the requests: reading clocks costs as much as a tenth of a call.
//! What does not apply is left out. `method`, `host`, `path` and `protocol` are the client's own,
//! before a rewrite or a plugin changed them. Bytes that are not UTF-8 appear as U+FFFD, and so do
//! control characters that JSON does not escape; nothing a client sends can look like another line or
//! reach a terminal.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::date;
use super::sink::Sink;
use super::{CloseKind, Conversation, Finished};
use crate::config::{AccessLogFormat, AccessLogPath};
use crate::http::RequestHead;
use crate::io::TlsFacts;

/// A worker hands its lines over when they are this many bytes.
const BATCH_BYTES: usize = 16 * 1024;

/// What a line in JSON begins with.
const HEAD: [&str; 11] = [
    "ts",
    "request_id",
    "trace_id",
    "client",
    "method",
    "host",
    "path",
    "protocol",
    "tls_version",
    "tls_cipher",
    "tls_server_name",
];

/// Stands for the value of a header field that must not be written.
const REDACTED: &str = "[redacted]";

/// What the log says of a request.
pub struct AccessRecord<'a> {
    /// What was counted.
    pub finished: &'a Finished,
    /// The request: as it was received, and with the fields that it was sent on with.
    pub request: &'a RequestHead,
    /// Who asked.
    pub client: Option<IpAddr>,
    /// Name of the route.
    pub route: Option<&'a str>,
    /// Name of the upstream.
    pub upstream: Option<&'a str>,
    /// Name of the server.
    pub server: Option<&'a str>,
    /// What went wrong: an error type of RFC 9209, or what broke the response off.
    pub flags: Option<&'a str>,
    /// What the TLS handshake came to.
    pub tls: Option<&'a TlsFacts>,
    /// Hexadecimal trace id.
    pub trace_id: Option<&'a [u8]>,
    /// Milliseconds since 1970.
    pub wall_ms: u64,
    /// Attempts upstream, connections that did not come about included.
    pub attempts: u32,
    /// Bytes written to the client after the head.
    pub body_bytes_out: u64,
    /// What became of a WebSocket whose messages were seen.
    pub websocket: Option<&'a Conversation>,
    /// What a cache says became of it.
    pub cache: Option<&'static str>,
    /// Plugins that have seen the request, with what each one said. Asked only for a line that holds it.
    pub plugins: &'a dyn Fn() -> Vec<PluginRecord<'a>>,
    /// The note that a plugin has made under a key.
    pub note: &'a dyn Fn(&str) -> Option<&'a [u8]>,
}

/// What the log says of a plugin.
pub struct PluginRecord<'a> {
    /// Its name.
    pub name: &'a str,
    /// The generation that was called; native middleware has none.
    pub generation: Option<u64>,
    /// What it said, or how it failed.
    pub verdict: &'static str,
    /// What its hooks took, where that was measured.
    pub took: Option<Duration>,
}

/// An open access log.
pub struct AccessLog {
    sink: Sink,
    format: Format,
    context: Vec<String>,
    sample: f64,
    redact: Vec<String>,
}

#[derive(Clone, Debug)]
enum Format {
    Json,
    Combined,
    Template(Vec<Part>),
}

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Field(String),
    RequestHeader(String),
    Note(String),
    Redacted,
}

/// A worker's end of the log.
pub struct AccessLogger {
    log: Arc<AccessLog>,
    lines: RefCell<(Vec<u8>, u64)>,
    random: RefCell<fastrand::Rng>,
}

impl AccessLog {
    /// Opens the log; `None` when it is switched off.
    ///
    /// # Errors
    ///
    /// The file cannot be opened.
    pub fn open(settings: &crate::config::AccessLog) -> io::Result<Option<Arc<Self>>> {
        let path = settings.path.clone();
        if path == AccessLogPath::Off {
            return Ok(None);
        }
        let open = move || match &path {
            AccessLogPath::File(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path)?;
                Ok(Box::new(file) as Box<dyn Write + Send>)
            }
            AccessLogPath::Off | AccessLogPath::Stdout => {
                Ok(Box::new(io::stdout()) as Box<dyn Write + Send>)
            }
        };
        let sink = Sink::start("access-log", Box::new(open))?;
        let format = match &settings.format {
            AccessLogFormat::Json => Format::Json,
            AccessLogFormat::Combined => Format::Combined,
            AccessLogFormat::Template(text) => Format::Template(parts(text, &settings.redact)),
        };
        let (sample, redact) = (settings.sample, settings.redact.clone());
        let context = settings.context.clone();
        Ok(Some(Arc::new(Self { sink, format, context, sample, redact })))
    }

    /// An end of the log for a worker.
    pub fn logger(self: &Arc<Self>) -> AccessLogger {
        AccessLogger {
            log: Arc::clone(self),
            lines: RefCell::default(),
            random: RefCell::new(fastrand::Rng::new()),
        }
    }

    /// Opens the file anew, after it has been moved away.
    pub fn reopen(&self) {
        self.sink.reopen();
    }

    /// Lines that were dropped.
    pub fn dropped(&self) -> u64 {
        self.sink.dropped()
    }

    /// Waits until everything handed over is written, but not for ever.
    pub fn flush(&self) {
        self.sink.flush();
    }
}

impl AccessLogger {
    /// Whether it is an end of this log.
    pub fn is_of(&self, log: &Arc<AccessLog>) -> bool {
        Arc::ptr_eq(&self.log, log)
    }

    /// Writes a request's line, if it is in the sample.
    pub fn write(&self, record: &AccessRecord<'_>) {
        let sample = self.log.sample;
        if sample < 1.0 && self.random.borrow_mut().f64() >= sample {
            return;
        }
        let mut lines = self.lines.borrow_mut();
        let (bytes, count) = &mut *lines;
        match &self.log.format {
            Format::Json => json(bytes, record, &self.log.redact, &self.log.context),
            Format::Combined => combined(bytes, record, &self.log.redact),
            Format::Template(parts) => template(bytes, record, parts),
        }
        *count += 1;
        if bytes.len() >= BATCH_BYTES {
            drop(lines);
            self.flush();
        }
    }

    /// Hands over what has been written so far.
    pub fn flush(&self) {
        let (bytes, count) = self.lines.take();
        if !bytes.is_empty() {
            self.log.sink.send(bytes, count);
        }
    }
}

impl Drop for AccessLogger {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Appends a member to a JSON object that has been begun.
fn member(out: &mut Vec<u8>, name: &str, value: &str) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    // Writing a string to a vector cannot fail.
    let _ = serde_json::to_writer(&mut *out, name);
    out.push(b':');
    let _ = serde_json::to_writer(&mut *out, value);
}

fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    let _ = write!(out, "\"{name}\":{value}");
}

fn json(out: &mut Vec<u8>, record: &AccessRecord<'_>, redact: &[String], context: &[String]) {
    out.push(b'{');
    for name in HEAD {
        match text_field(record, name) {
            Some(_) if is_redacted(header_of(name), redact) => member(out, name, REDACTED),
            Some(value) => member(out, name, &value),
            None => {}
        }
    }
    number(out, "status", u64::from(record.finished.status));
    if let Some(flags) = record.flags {
        member(out, "flags", flags);
    }
    number(out, "bytes_in", record.finished.bytes_in);
    number(out, "bytes_out", record.finished.bytes_out);
    number(out, "duration_us", micros(record.finished.duration));
    if let Some(wait) = record.finished.upstream_wait {
        let _ = write!(out, ",\"phases\":{{\"upstream_us\":{}}}", micros(wait));
    }
    for name in ["route", "upstream", "server"] {
        if let Some(value) = text_field(record, name) {
            member(out, name, &value);
        }
    }
    if record.attempts > 0 {
        number(out, "attempts", u64::from(record.attempts));
    }
    if let Some(cache) = record.cache {
        member(out, "cache", cache);
    }
    if let Some(Conversation { by, kind, messages: [came, went] }) = record.websocket {
        let _ = write!(out, ",\"websocket\":{{\"closed_by\":\"{}\"", by.as_str());
        if let CloseKind::Code(code) = kind {
            number(out, "code", u64::from(*code));
        }
        number(out, "messages_in", *came);
        number(out, "messages_out", *went);
        out.push(b'}');
    }
    let plugins = (record.plugins)();
    if !plugins.is_empty() {
        out.extend_from_slice(b",\"plugins\":[");
        for (index, plugin) in plugins.into_iter().enumerate() {
            out.extend_from_slice(if index == 0 { "{" } else { ",{" }.as_bytes());
            member(out, "name", plugin.name);
            if let Some(generation) = plugin.generation {
                number(out, "generation", generation);
            }
            member(out, "verdict", plugin.verdict);
            if let Some(took) = plugin.took {
                // A good plugin takes less than one.
                let _ = write!(out, ",\"us\":{:.3}", took.as_secs_f64() * 1e6);
            }
            out.push(b'}');
        }
        out.push(b']');
    }
    let mut notes = context.iter().filter_map(|key| Some((key, (record.note)(key)?))).peekable();
    if notes.peek().is_some() {
        out.extend_from_slice(b",\"context\":{");
        notes.for_each(|(key, value)| member(out, key, &printable(value)));
        out.push(b'}');
    }
    out.extend_from_slice(b"}\n");
}

/// `%h - - [%t] "%r" %>s %O "%{Referer}i" "%{User-Agent}i"`, as Apache writes it, and nginx.
fn combined(out: &mut Vec<u8>, record: &AccessRecord<'_>, redact: &[String]) {
    let client = text_field(record, "client").unwrap_or_else(|| "-".to_owned());
    let _ = write!(out, "{client} - - [{}] \"", date::clf_time(record.wall_ms));
    let head = record.request;
    if head.received_target().is_empty() {
        // It could not be read.
        out.push(b'-');
    } else {
        let line =
            format!("{} {} {}", head.method_name(), head.received_target(), head.version.as_str());
        escape(out, line.as_bytes());
    }
    let _ = write!(out, "\" {} {}", record.finished.status, record.body_bytes_out);
    for name in ["referer", "user-agent"] {
        out.extend_from_slice(b" \"");
        match head.fields.get(name) {
            Some(_) if is_redacted(Some(name), redact) => {
                out.extend_from_slice(REDACTED.as_bytes())
            }
            value => escape(out, value.unwrap_or(b"-")),
        }
        out.push(b'"');
    }
    out.push(b'\n');
}

/// The header field that a field of the line shows, if it does.
fn header_of(name: &str) -> Option<&str> {
    match name {
        "request_id" => Some("x-request-id"),
        "host" => Some("host"),
        name => name.strip_prefix("request_header."),
    }
}

fn is_redacted(header: Option<&str>, redact: &[String]) -> bool {
    header.is_some_and(|header| redact.iter().any(|name| name.eq_ignore_ascii_case(header)))
}

fn template(out: &mut Vec<u8>, record: &AccessRecord<'_>, parts: &[Part]) {
    for part in parts {
        match part {
            Part::Text(text) => out.extend_from_slice(text.as_bytes()),
            Part::Redacted => out.extend_from_slice(REDACTED.as_bytes()),
            Part::RequestHeader(name) => {
                escape(out, record.request.fields.get(name).unwrap_or(b"-"));
            }
            Part::Note(key) => escape(out, (record.note)(key).unwrap_or(b"-")),
            Part::Field(name) => match number_field(record, name) {
                Some(value) => {
                    let _ = write!(out, "{value}");
                }
                None => {
                    escape(out, text_field(record, name).as_deref().unwrap_or("-").as_bytes());
                }
            },
        }
    }
    out.push(b'\n');
}

fn number_field(record: &AccessRecord<'_>, name: &str) -> Option<u64> {
    let done = record.finished;
    Some(match name {
        "status" => u64::from(done.status),
        "bytes_in" => done.bytes_in,
        "bytes_out" => done.bytes_out,
        "duration_us" => micros(done.duration),
        "attempts" => u64::from(record.attempts),
        "upstream_us" => micros(done.upstream_wait?),
        _ => return None,
    })
}

fn text_field(record: &AccessRecord<'_>, name: &str) -> Option<String> {
    let head = record.request;
    match name {
        "ts" => Some(date::timestamp(record.wall_ms)),
        "request_id" => head.fields.get("x-request-id").map(printable),
        "trace_id" => record.trace_id.map(printable),
        "client" => record.client.map(|client| client.to_string()),
        // A head that could not be read has none.
        "method" => Some(head.method_name()).filter(|name| !name.is_empty()).map(str::to_owned),
        "host" => head.received_authority().map(str::to_owned),
        "path" => Some(head.received_target()).filter(|path| !path.is_empty()).map(str::to_owned),
        "protocol" => Some(head.version.as_str().to_owned()),
        "tls_version" => record.tls.map(|tls| tls.version.to_owned()),
        "tls_cipher" => record.tls.map(|tls| tls.cipher.to_owned()),
        "tls_server_name" => record.tls?.server_name.as_deref().map(str::to_owned),
        "flags" => record.flags.map(str::to_owned),
        "route" => record.route.map(str::to_owned),
        "upstream" => record.upstream.map(str::to_owned),
        "server" => record.server.map(str::to_owned),
        _ => None,
    }
}

/// As text for JSON, which escapes control characters up to U+001F only.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace(|c: char| c > ' ' && c.is_control(), "\u{fffd}")
}

/// Cuts a template into parts. Unknown fields were refused with the configuration.
fn parts(template: &str, redact: &[String]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let Some(length) = rest[open..].find('}') else { break };
        parts.push(Part::Text(rest[..open].to_owned()));
        let name = &rest[open + 1..open + length];
        parts.push(match name.split_once('.') {
            _ if is_redacted(header_of(name), redact) => Part::Redacted,
            Some(("request_header", header)) => Part::RequestHeader(header.to_owned()),
            Some(("context", key)) => Part::Note(key.to_owned()),
            _ => Part::Field(name.to_owned()),
        });
        rest = &rest[open + length + 1..];
    }
    parts.push(Part::Text(rest.to_owned()));
    parts
}

/// Writes bytes so that they can be neither the end of a quoted string nor that of a line.
fn escape(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            0x20..=0x7e => out.push(*byte),
            _ => {
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::http::{HeadLimits, Method, parse};

    fn request(bytes: &[u8]) -> RequestHead {
        let limits = HeadLimits { bytes_max: 4096, fields_max: 10, target_bytes_max: 1000 };
        let mut head = RequestHead::default();
        parse::request(bytes, &mut head, &limits).unwrap();
        head
    }

    fn line(format: impl Fn(&mut Vec<u8>, &AccessRecord<'_>)) -> Vec<u8> {
        line_of(EXAMPLE, format)
    }

    const EXAMPLE: &[u8] =
        b"GET /a?b=\"c HTTP/1.1\r\nHost: h\r\nUser-Agent: x\"\ty\xff\r\nX-Key: s\r\n\r\n";

    fn line_of(head: &[u8], format: impl Fn(&mut Vec<u8>, &AccessRecord<'_>)) -> Vec<u8> {
        let head = if head.is_empty() { RequestHead::default() } else { request(head) };
        let finished = Finished {
            listener: 0,
            route: Some(0),
            method: Method::Get,
            status: 502,
            upstream: None,
            upstream_status: None,
            rate_limited: false,
            bytes_in: 1,
            bytes_out: 2,
            duration: Duration::from_micros(3),
            upstream_wait: Some(Duration::from_micros(2)),
            retries: 0,
        };
        let record = AccessRecord {
            finished: &finished,
            request: &head,
            client: Some(IpAddr::from([192, 0, 2, 1])),
            route: Some("api"),
            upstream: None,
            server: None,
            flags: Some("connection_refused"),
            tls: None,
            trace_id: None,
            wall_ms: 1_795_244_400_123,
            attempts: 1,
            body_bytes_out: 2,
            websocket: None,
            cache: None,
            plugins: &|| {
                let took = Some(Duration::from_nanos(412));
                let jwt = PluginRecord { name: "jwt", generation: Some(3), verdict: "next", took };
                let (name, generation, verdict) = ("stamp", None, "trap");
                vec![jwt, PluginRecord { name, generation, verdict, took: None }]
            },
            note: &|key| match key {
                "user" => Some(b"k\"im"),
                "raw" => Some(b"a\xc2\x9b\nb\xff"),
                _ => None,
            },
        };
        let mut out = Vec::new();
        format(&mut out, &record);
        out
    }

    #[test]
    fn a_json_line_is_one_object_with_the_fields_that_apply() {
        let out = line(|out, record| json(out, record, &[], &[]));

        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "ts": "2026-11-21T07:00:00.123Z", "client": "192.0.2.1", "method": "GET",
                "host": "h", "path": "/a?b=\"c", "protocol": "HTTP/1.1", "status": 502,
                "flags": "connection_refused", "bytes_in": 1, "bytes_out": 2, "duration_us": 3,
                "phases": { "upstream_us": 2 }, "route": "api", "attempts": 1,
                "plugins": [
                    { "name": "jwt", "generation": 3, "verdict": "next", "us": 0.412 },
                    { "name": "stamp", "verdict": "trap" },
                ],
            })
        );
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
    }

    #[test]
    fn notes_are_shown_where_they_are_asked_for() {
        let asked = ["user", "none", "raw"].map(str::to_owned);
        let out = line(|out, record| json(out, record, &[], &asked));
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let notes = serde_json::json!({ "user": "k\"im", "raw": "a\u{fffd}\nb\u{fffd}" });
        assert_eq!(value["context"], notes);
        let out = line(|out, record| json(out, record, &[], &["none".to_owned()]));
        assert!(!String::from_utf8(out).unwrap().contains("context"));

        let parts = parts("{context.user} {context.none} {context.raw}", &[]);
        let text = String::from_utf8(line(|out, record| template(out, record, &parts))).unwrap();
        assert_eq!(text, "k\\\"im - a\\xc2\\x9b\\x0ab\\xff\n");
    }

    #[test]
    fn a_combined_line_cannot_be_broken_by_what_a_client_sends() {
        let text = String::from_utf8(line(|out, record| combined(out, record, &[]))).unwrap();

        assert_eq!(
            text,
            "192.0.2.1 - - [21/Nov/2026:07:00:00 +0000] \"GET /a?b=\\\"c HTTP/1.1\" 502 2 \
             \"-\" \"x\\\"\\x09y\\xff\"\n"
        );
    }

    #[test]
    fn a_request_that_could_not_be_read_has_no_request_line() {
        let out = line_of(b"", |out, record| combined(out, record, &[]));

        let text = String::from_utf8(out).unwrap();
        assert!(text.ends_with("] \"-\" 502 2 \"-\" \"-\"\n"), "{text}");
    }

    /// In every format, also where the value stands under another name.
    #[test]
    fn what_must_not_be_written_is_not() {
        let head = b"GET / HTTP/1.1\r\nHost: secret\r\nReferer: secret\r\n\
            User-Agent: secret\r\nX-Request-Id: secret\r\n\r\n";
        let redact = ["host", "referer", "user-agent", "x-request-id"].map(str::to_owned);
        let parts = parts("{host} {request_id} {request_header.referer}", &redact);

        for out in [
            line_of(head, |out, record| json(out, record, &redact, &[])),
            line_of(head, |out, record| combined(out, record, &redact)),
            line_of(head, |out, record| template(out, record, &parts)),
        ] {
            let text = String::from_utf8(out).unwrap();
            assert!(!text.contains("secret") && text.contains("[redacted]"), "{text}");
        }
    }

    /// A terminal takes U+009B for the beginning of a command.
    #[test]
    fn a_json_line_holds_no_control_characters() {
        let head = "GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: a\u{9b}31mb\r\n\r\n";

        let out = line_of(head.as_bytes(), |out, record| json(out, record, &[], &[]));

        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("\"request_id\":\"a\u{fffd}31mb\""), "{text}");
    }

    #[test]
    fn a_template_fills_in_fields_and_redacts() {
        let parts = parts(
            "{status} {route} {server} {request_header.x-key} {request_header.user-agent}",
            &["x-key".to_owned()],
        );

        let text = String::from_utf8(line(|out, record| template(out, record, &parts))).unwrap();

        assert_eq!(text, "502 api - [redacted] x\\\"\\x09y\\xff\n");
    }
}
