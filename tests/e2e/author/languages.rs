//! What an SDK offers beside the hooks for heads, in each language: hooks for messages, and all that can be
//! imported.
//!
//! Not here: new projects and examples (`author`).

use std::path::Path;

use super::{
    CLANG_PROBE, INTERPRETED, can_build, good, is_cut_off, json, new_project,
    new_project_that_keeps, plugin,
};

/// Text, binary, drop and close, in both directions: the same for every language.
const CHAT: &str = "\
=== a chat
--- request
GET /chat HTTP/1.1
--- client: hello
--- becomes: HELLO
--- server: hello
--- passes
--- client: drop
--- dropped
--- client binary: 00 01 ff
--- becomes binary: ff 01 00
--- client: bye
--- closes: 4001 as told
--- client: too late
--- response
HTTP/1.1 101
x-later: 1
";

/// Puts these files into a project, with the golden requests of a chat.
fn write(project: &Path, source: (&str, &str), world: &str, cases: &str) {
    std::fs::write(project.join(source.0), source.1).unwrap();
    let world = format!(
        "package local:door-keeper;\nworld plugin {{\n{world}  export zproxy:gateway/lifecycle@0.1.0;\n}}\n"
    );
    std::fs::write(project.join("wit/world.wit"), world).unwrap();
    std::fs::write(project.join("tests/plugin.http"), cases).unwrap();
}

const CHAT_WORLD: &str = "\
  import zproxy:gateway/response@0.1.0;
  import zproxy:gateway/websocket@0.1.0;
  export zproxy:gateway/request-filter@0.1.0;
  export zproxy:gateway/websocket-filter@0.1.0;
  export zproxy:gateway/validation@0.1.0;
";

/// Plays the chat, and tries a configuration that is wrong in two places.
fn chats(project: &Path) {
    let tested = plugin(project, &["test"]);
    if is_cut_off(&tested) {
        return;
    }
    let component = "plugins/door-keeper.wasm";
    let checked = plugin(project, &["check", component, "--config", r#"{ "bad": 1 }"#]);

    assert!(good(tested).contains("1 passed, 0 failed"));
    assert_eq!(checked.code, Some(5), "{checked:?}");
    for said in ["/bad", "no such key", "/other", "is missing"] {
        assert!(checked.stdout.contains(said), "{said}: {checked:?}");
    }
}

#[test]
fn messages_in_c() {
    if !can_build("C", "clang", &[&CLANG_PROBE[..], &["/dev/null"]].concat()) {
        return;
    }
    let (_dir, project) = new_project("c");
    let source = r#"#include "zproxy.h"
const char *zproxy_init(zproxy_text config) {
    return config.length > 2 ? "no keys" : NULL;
}
ZPROXY_VALIDATE(config) {
    if (config.length <= 2) return;
    zproxy_problem("/bad", "no such key");
    zproxy_problem("/other", "it is missing");
}
ZPROXY_ON_REQUEST(fields) {
    (void)fields;
    zproxy_field later = {ZPROXY_TEXT("x-later"), ZPROXY_TEXT("1")};
    zproxy_response_append_later(&later, 1);
    return ZPROXY_NEXT;
}
ZPROXY_ON_MESSAGE(sender, kind, data) {
    char changed[64];
    if (sender == ZPROXY_SERVER || data.length > sizeof changed) return ZPROXY_MESSAGE_PASS;
    if (kind == ZPROXY_BINARY_MESSAGE) {
        for (size_t at = 0; at < data.length; at++) changed[at] = data.data[data.length - 1 - at];
    } else if (zproxy_equal(data, ZPROXY_TEXT("drop"))) {
        return ZPROXY_MESSAGE_DROP;
    } else if (zproxy_equal(data, ZPROXY_TEXT("bye"))) {
        zproxy_websocket_close(4001, ZPROXY_TEXT("as told"));
        return ZPROXY_MESSAGE_CLOSE;
    } else {
        for (size_t at = 0; at < data.length; at++) changed[at] = data.data[at] & ~32;
    }
    zproxy_websocket_replace(kind, (zproxy_text){changed, data.length});
    return ZPROXY_MESSAGE_REPLACED;
}
"#;
    write(&project, ("plugin.c", source), CHAT_WORLD, CHAT);

    chats(&project);
    let arguments = ["bench", "plugins/door-keeper.wasm", "--format", "json"];
    let measured = json(plugin(&project, &arguments));
    let hooks: Vec<_> =
        measured["hooks"].as_array().unwrap().iter().map(|hook| &hook["hook"]).collect();
    assert_eq!(hooks, ["on-request", "on-message"], "{measured}");
}

#[test]
fn messages_in_javascript() {
    let _alone = INTERPRETED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !can_build("JavaScript", "npm", &["--version"]) {
        return;
    }
    let (_dir, project) = new_project_that_keeps("js", "js-chat");
    let source = "\
import { appendLater } from 'zproxy:gateway/response@0.1.0';
import { close, replace } from 'zproxy:gateway/websocket@0.1.0';
import { bytes, onlyKeys, pack, plugin } from './zproxy.js';

export const { lifecycle, requestFilter, websocketFilter, validation } = plugin({
  init: (config) => onlyKeys(config, []),
  validate: (config) =>
    config.bad
      ? [{ path: '/bad', message: 'no such key' }, { path: '/other', message: 'it is missing' }]
      : [],
  onRequest() {
    appendLater(pack([['x-later', '1']]));
  },
  onMessage(sender, kind, data) {
    if (sender === 'server') return 'pass';
    if (data === 'drop') return 'drop';
    if (data === 'bye') {
      close(4001, 'as told');
      return 'close';
    }
    replace(kind, kind === 'text' ? bytes(data.toUpperCase()) : data.slice().reverse());
    return 'replaced';
  },
});
";
    write(&project, ("plugin.js", source), CHAT_WORLD, CHAT);

    chats(&project);
}

#[test]
fn messages_in_python() {
    let _alone = INTERPRETED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !can_build("Python", "python3", &["-c", "import venv, ensurepip"]) {
        return;
    }
    let (_dir, project) = new_project_that_keeps("python", "python-chat");
    let source = "\
from wit_world.imports import response, websocket
from zproxy import (
    CLOSE,
    DROP,
    REPLACED,
    MessageKind,
    Peer,
    Plugin,
    export,
    export_messages,
    export_validation,
    only_keys,
    pack,
)


class Chat(Plugin):
    def __init__(self, config):
        only_keys(config, [])

    @staticmethod
    def validate(config):
        return [('/bad', 'no such key'), ('/other', 'it is missing')] if config else []

    def on_request(self, fields):
        response.append_later(pack([('x-later', '1')]))

    def on_message(self, sender, data):
        if sender == Peer.SERVER:
            return None
        if data == 'drop':
            return DROP
        if data == 'bye':
            websocket.close(4001, 'as told')
            return CLOSE
        if isinstance(data, str):
            websocket.replace(MessageKind.TEXT, data.upper().encode())
        else:
            websocket.replace(MessageKind.BINARY, data[::-1])
        return REPLACED


Lifecycle, RequestFilter, _ = export(Chat)
WebsocketFilter = export_messages(Chat)
Validation = export_validation(Chat)
";
    write(&project, ("plugin.py", source), CHAT_WORLD, CHAT);

    chats(&project);
}

/// Everything else that `zproxy.h` has: what each call gives is in a field of the answer.
#[test]
fn all_imports_in_c() {
    if !can_build("C", "clang", &[&CLANG_PROBE[..], &["/dev/null"]].concat()) {
        return;
    }
    let (_dir, project) = new_project("c");
    let source = r#"#include "zproxy.h"

static uint32_t seen, size, took, key;

const char *zproxy_init(zproxy_text config) {
    static const double bounds[] = {1, 10};
    (void)config;
    zproxy_made made = zproxy_counter(ZPROXY_TEXT("Bad Name"), ZPROXY_TEXT(""));
    if (!made.problem.data) return "a bad name is taken";
    seen = zproxy_counter(ZPROXY_TEXT("seen"), ZPROXY_TEXT("Requests seen.")).id;
    size = zproxy_gauge(ZPROXY_TEXT("size"), ZPROXY_TEXT("A size.")).id;
    took = zproxy_histogram(ZPROXY_TEXT("took"), ZPROXY_TEXT("A time."), bounds, 2).id;
    made = zproxy_key(ZPROXY_TEXT("HS256"), ZPROXY_TEXT("secret"), ZPROXY_TEXT("0123456789abcdef0123456789abcdef"));
    if (made.problem.data) return zproxy_keep(made.problem);
    key = made.id;
    return NULL;
}

static void say(const char *name, long long number) {
    char text[24];
    int length = snprintf(text, sizeof text, "%lld", number);
    zproxy_response_append(zproxy_string(name), (zproxy_text){text, (size_t)length});
}

ZPROXY_ON_TICK() {}
ZPROXY_SHUTDOWN() {}

ZPROXY_ON_RESPONSE(status, fields) {
    (void)status, (void)fields;
    zproxy_counter_add(seen, 1);
    zproxy_gauge_set(size, 1.5);
    zproxy_histogram_observe(took, 2.5);

    say("x-equal", zproxy_secret_equal(ZPROXY_TEXT("a"), ZPROXY_TEXT("a")) * 10 + zproxy_secret_equal(ZPROXY_TEXT("a"), ZPROXY_TEXT("b")));
    zproxy_text signature = zproxy_sign(key, ZPROXY_TEXT("data"));
    say("x-signed", zproxy_verify(key, ZPROXY_TEXT("data"), signature) * 10 + zproxy_verify(key, ZPROXY_TEXT("date"), signature));
    zproxy_text digest = zproxy_digest(ZPROXY_SHA256, ZPROXY_TEXT(""));
    say("x-digest", digest.length * 1000 + (unsigned char)digest.data[0]);
    say("x-random", (long long)zproxy_random_bytes(7).length);

    zproxy_text name = ZPROXY_TEXT("name");
    say("x-count", zproxy_count(name, 2, 0) * 100 + zproxy_count(name, 3, 0) * 10 + zproxy_counted(name, 0));
    zproxy_quota quota = {10, 86400000, 10};
    zproxy_decision decision = zproxy_quota_take(ZPROXY_TEXT("q"), quota, 4);
    say("x-take", decision.allowed * 100 + decision.remaining);
    zproxy_quota_give_back(ZPROXY_TEXT("q"), quota, 1);
    zproxy_decision decisions[2];
    zproxy_wanted wanted[] = {{ZPROXY_TEXT("q"), quota, 5}, {ZPROXY_TEXT("r"), quota, 1}};
    int taken = zproxy_quota_take_all(wanted, 2, decisions);
    say("x-take-all", taken * 1000 - (int)(decisions[0].remaining * 10 + decisions[1].remaining));
    zproxy_wanted more[] = {{ZPROXY_TEXT("r"), quota, 1}, {ZPROXY_TEXT("q"), quota, 5}};
    say("x-short", zproxy_quota_take_all(more, 2, decisions) * 100 + decisions[0].allowed * 10 + decisions[0].remaining);

    say("x-none", zproxy_kv_get(name).there);
    uint64_t version = zproxy_kv_set(name, ZPROXY_TEXT("value"), 0);
    zproxy_entry entry = zproxy_kv_get(name);
    say("x-kept", entry.there && entry.version == version && zproxy_equal(entry.value, ZPROXY_TEXT("value")));
    say("x-swap", (zproxy_kv_swap(name, 0, ZPROXY_TEXT("x"), 0) != 0) * 10 + (zproxy_kv_swap(name, version, ZPROXY_TEXT("x"), 0) > version));
    say("x-delete", zproxy_kv_delete(name) * 10 + zproxy_kv_delete(name));

    zproxy_response_append(ZPROXY_TEXT("x-secret"), zproxy_secret(ZPROXY_TEXT("db")));
    say("x-variable", zproxy_variable(ZPROXY_TEXT("ZPROXY_NOT_SET")).data != NULL);

    zproxy_field asked = {ZPROXY_TEXT("x-asked"), ZPROXY_TEXT("1")};
    zproxy_answer answer = zproxy_callout(ZPROXY_TEXT("POST"), ZPROXY_TEXT("http://auth.example/x"), &asked, 1, ZPROXY_TEXT("who"), 500);
    say("x-status", answer.status);
    for (size_t at = 0; at < answer.count; at++) zproxy_response_append(answer.fields[at].name, answer.fields[at].value);
    zproxy_response_append(ZPROXY_TEXT("x-body"), answer.body);
    answer = zproxy_callout(ZPROXY_TEXT("GET"), ZPROXY_TEXT("http://auth.example/"), NULL, 0, ZPROXY_TEXT(""), 0);
    say("x-timeout", answer.status * 10 + answer.error);
    answer = zproxy_callout(ZPROXY_TEXT("GET"), ZPROXY_TEXT("http://other.example/"), NULL, 0, ZPROXY_TEXT(""), 0);
    say("x-denied", answer.status * 10 + answer.error);
    if (!answer.problem.length) say("x-denied", -1);
    return ZPROXY_NEXT;
}
"#;
    let world = "  include zproxy:gateway/imports@0.1.0;\n  include zproxy:gateway/capabilities@0.1.0;\n  \
                 include zproxy:gateway/callouts@0.1.0;\n  export zproxy:gateway/response-filter@0.1.0;\n  \
                 export zproxy:gateway/ticker@0.1.0;\n  export zproxy:gateway/retirement@0.1.0;\n";
    let cases = "\
=== each call gives what it should
--- request
GET / HTTP/1.1
--- callout
POST http://auth.example/x
x-asked: 1

who
--- answers
HTTP/1.1 201
x-user: kim

me
--- callout
GET http://auth.example/
--- answers: timeout
--- callout
GET http://other.example/
--- answers: denied
--- response exactly
HTTP/1.1 200
x-equal: 10
x-signed: 10
x-digest: 32227
x-random: 7
x-count: 255
x-take: 106
x-take-all: -1029
x-short: 102
x-none: 0
x-kept: 1
x-swap: 1
x-delete: 10
x-secret: hunter2
x-variable: 0
x-status: 201
x-user: kim
x-body: me
x-timeout: 3
x-denied: 0
";
    write(&project, ("plugin.c", source), world, cases);
    let allow = serde_json::json!({
        "counters": true, "kv": true, "env": ["ZPROXY_NOT_SET"], "secrets": { "db": "hunter2" },
        "http": ["http://auth.example/*"],
    });

    let ungranted = plugin(&project, &["test"]);
    let tested = good(plugin(&project, &["test", "--allow", &allow.to_string()]));

    assert_eq!(ungranted.code, Some(5), "{ungranted:?}");
    assert!(tested.contains("1 passed, 0 failed"), "{tested}");
}
