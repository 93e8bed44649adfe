//! The access log: where it goes and how a line looks.
//!
//! Not here: writing it (`telemetry`).

use std::io;
use std::path::Path;

use super::pattern::{placeholders, short_enough};
use super::route::is_field_name;
use crate::config::environment::{Environment, reason};
use crate::config::file::AccessLogConfig;
use crate::config::problem::{At, Refusal, Report, quote};
use crate::config::settings::{AccessLog, AccessLogFormat, AccessLogPath};
use crate::config::{later, suggest};

/// Places of a template, in the order of the JSON object.
const FIELDS: &[&str] = &[
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
    "status",
    "flags",
    "bytes_in",
    "bytes_out",
    "duration_us",
    "upstream_us",
    "route",
    "upstream",
    "server",
    "attempts",
];

/// The longest key that a plugin can give a note (`wit/context.wit`).
const NOTE_KEY_BYTES_MAX: usize = 256;

/// Fields that lines will have: (field, what comes later).
const LATER: &[(&str, &str)] =
    &[("cache", "the response cache comes later"), ("plugins", "what each plugin did comes later")];

/// Turns the written access log into the one that runs.
pub(super) fn check(
    log: &AccessLogConfig,
    at: &At,
    environment: &dyn Environment,
    report: &mut Report,
) -> AccessLog {
    let mut redact = Vec::new();
    for (index, name) in log.redact.iter().enumerate() {
        if is_field_name(name) {
            redact.push(name.to_ascii_lowercase());
        } else {
            let message = format!("{} is not the name of a header field", quote(name));
            report.problem(&at.key("redact").index(index), message, "write one like \"cookie\"");
        }
    }
    for (index, key) in log.context.iter().enumerate() {
        if key.is_empty() || key.len() > NOTE_KEY_BYTES_MAX {
            let message = format!("{} is not the key of a note", quote(key));
            let cure = "write the key that the plugin gives it, of 1 to 256 bytes";
            report.problem(&at.key("context").index(index), message, cure);
        }
    }
    AccessLog {
        path: report
            .take(&at.key("path"), path(&log.path, environment))
            .unwrap_or(AccessLogPath::Off),
        format: report
            .take(&at.key("format"), format(&log.format))
            .unwrap_or(AccessLogFormat::Json),
        context: log.context.clone(),
        sample: log.sample,
        redact,
    }
}

fn path(text: &str, environment: &dyn Environment) -> Result<AccessLogPath, Refusal> {
    match text {
        "off" => Ok(AccessLogPath::Off),
        "stdout" => Ok(AccessLogPath::Stdout),
        "" | "stderr" | "none" | "on" | "-" => {
            let message = format!("{} is not a place for the access log", quote(text));
            Err((message, "write \"stdout\", \"off\" or the path of a file".into()))
        }
        file => match environment.can_append(Path::new(file)) {
            Ok(()) => Ok(AccessLogPath::File(file.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let message = format!("there is no folder for the file {}", quote(file));
                Err((message, "make the folder, or give another path".into()))
            }
            Err(error) => {
                let message = format!("cannot write the file {}: {}", quote(file), reason(&error));
                Err((message, "give a file that the gateway may write".into()))
            }
        },
    }
}

fn format(text: &str) -> Result<AccessLogFormat, Refusal> {
    match text {
        "json" => Ok(AccessLogFormat::Json),
        "combined" => Ok(AccessLogFormat::Combined),
        _ if !text.contains(['{', '}']) => {
            let message = format!("{} is not a format", quote(text));
            Err(match suggest::closest(text, ["json", "combined"]) {
                Some(close) => (message, format!("did you mean \"{close}\"?")),
                None => {
                    (message, "write \"json\", \"combined\" or a template with `{status}`".into())
                }
            })
        }
        _ if text.contains(['\n', '\r']) => {
            Err(("the template holds a line break".into(), "remove it: each line gets one".into()))
        }
        template => {
            check_fields(template)?;
            Ok(AccessLogFormat::Template(template.to_owned()))
        }
    }
}

/// Checks that every place of `template` is a field of the line or of the request's head.
fn check_fields(template: &str) -> Result<(), Refusal> {
    short_enough(template)?;
    let mut known = FIELDS.to_vec();
    for place in template.split('{').skip(1) {
        let name = place.split('}').next().unwrap_or_default();
        if name.strip_prefix("request_header.").is_some_and(is_field_name) {
            known.push(name);
        }
        if name.strip_prefix("context.").is_some_and(|key| !key.is_empty()) {
            known.push(name);
        }
        if let Some((_, comes)) = LATER.iter().find(|(later, _)| *later == name) {
            let message = later::refusal(format_args!("{{{name}}}"), comes);
            return Err((message, "remove it".into()));
        }
        if name == "phases" {
            let message = "`{phases}` has several values".into();
            return Err((message, "write the one that you mean: `{upstream_us}`".into()));
        }
    }
    placeholders(template, &known, "a field of the access log")
}
