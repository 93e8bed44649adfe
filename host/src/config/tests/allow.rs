//! What plugins are granted.

use super::*;

fn fake() -> Fake {
    Fake::default()
        .variable("REGION", "eu-1")
        .file("/run/secrets/db", "hunter2")
        .file("/p/a.wasm", "")
}

fn allow(text: &str) -> Arc<Allow> {
    let text = format!(
        r#"{{"plugins_dir": "/p", "upstreams": {{"auth": {{"servers": ["h:1"]}}}},
            "plugins": {{"a": {{"allow": {text}}}}}}}"#
    );
    let (_, settings) = fake().load(&text).unwrap_or_else(|problems| panic!("{problems}"));
    Arc::clone(&settings.plugins[0].allow)
}

#[test]
fn nothing_is_granted_unless_it_is_written() {
    assert_eq!(*allow("{}"), Allow::default());
    assert_eq!(*allow(r#"{"kv": false, "cache": false, "http": []}"#), Allow::default());
    let by_folder = fake().load(r#"{"plugins_dir": "/p"}"#).unwrap().1;
    assert_eq!(*by_folder.plugins[0].allow, Allow::default());
}

#[test]
fn stores_are_granted_with_a_size() {
    let granted = allow(r#"{"counters": true, "kv": {"bytes_max": 2000000}, "cache": true}"#);

    assert_eq!(granted.counters, Some(16 * 1024 * 1024));
    assert_eq!(granted.kv, Some(2_000_000));
    let usual = CacheSize { bytes_max: 64 * 1024 * 1024, object_bytes_max: 4 * 1024 * 1024 };
    assert_eq!(granted.cache, Some(usual));
    let small = allow(r#"{"cache": {"bytes_max": 8000000}}"#);
    let fitting = CacheSize { bytes_max: 8_000_000, object_bytes_max: 2_000_000 };
    assert_eq!(small.cache, Some(fitting));
    let granted = allow(r#"{"cache": {"bytes_max": 8000000, "object_bytes_max": 1000}}"#);
    assert_eq!(granted.cache, Some(CacheSize { bytes_max: 8_000_000, object_bytes_max: 1000 }));
}

#[test]
fn variables_and_secrets_are_read_at_the_load() {
    let granted =
        allow(r#"{"env": ["REGION", "NONE"], "secrets": {"db": "${file:/run/secrets/db}"}}"#);

    assert_eq!(granted.env["REGION"].as_deref(), Some("eu-1"));
    assert_eq!(granted.env["NONE"], None);
    assert_eq!(granted.secrets["db"].expose(), b"hunter2");
    assert!(!format!("{granted:?}").contains("hunter2"));
}

/// What a pattern lets through is what its author would expect, and no host beside it.
#[test]
fn urls_are_covered_by_scheme_host_port_and_path() {
    let pattern = |text: &str| match allow(&format!(r#"{{"http": ["{text}"]}}"#)).http[0].clone() {
        Destination::Url(pattern) => pattern,
        Destination::Upstream(_) => panic!("{text}"),
    };

    let all = pattern("https://IDP.example/*");
    assert!(all.covers(true, "idp.example", 443, "/"));
    assert!(all.covers(true, "idp.example", 443, "/a/b"));
    assert!(!all.covers(false, "idp.example", 443, "/"));
    assert!(!all.covers(true, "idp.example", 8443, "/"));
    assert!(!all.covers(true, "idp.example.evil", 443, "/"));
    assert!(!all.covers(true, "evil-idp.example", 443, "/"));
    let keys = pattern("http://10.0.0.1:8080/keys");
    assert!(keys.covers(false, "10.0.0.1", 8080, "/keys"));
    assert!(!keys.covers(false, "10.0.0.1", 8080, "/keys/1"));
    let below = pattern("https://*.example/v1/*");
    assert!(below.covers(true, "a.b.example", 443, "/v1/x"));
    assert!(!below.covers(true, "example", 443, "/v1/x"));
    assert!(!below.covers(true, ".example", 443, "/v1/x"));
    assert!(!below.covers(true, "a.example", 443, "/v1"));
    let six = pattern("http://[::1]/*");
    assert!(six.covers(false, "::1", 80, "/"));
}

#[test]
fn upstreams_are_granted_by_name() {
    let granted = allow(r#"{"http": ["upstream:auth", "upstream:echo"]}"#);

    assert_eq!(granted.http, [Destination::Upstream(0), Destination::Upstream(1)]);
}

#[test]
fn mistakes_are_placed_and_cured() {
    let cases: &[(&str, &str)] = &[
        (r#"{"https": []}"#, "allow.https: `https` is not a key here; did you mean `http`?"),
        (
            r#"{"kv": "yes"}"#,
            "allow.kv: must be true or false or an object, not a string; write true or false",
        ),
        (
            r#"{"kv": {"bytes_max": 5}}"#,
            "allow.kv.bytes_max: `5` is out of range; write a whole number from 1048576 to \
             68719476736",
        ),
        (
            r#"{"kv": {"bytes": 5}}"#,
            "allow.kv.bytes: `bytes` is not a key here; remove it; the keys here are `bytes_max`",
        ),
        (
            r#"{"cache": {"bytes_max": 1048576, "object_bytes_max": 2000000}}"#,
            "allow.cache.object_bytes_max: `2000000` is more than a quarter of `bytes_max`, which \
             is `262144`; lower it, or raise `bytes_max`",
        ),
        (
            r#"{"env": ["A=B"]}"#,
            "allow.env[0]: `A=B` cannot name a variable; write its name alone, such as \"REGION\"",
        ),
        (
            r#"{"env": "REGION"}"#,
            "allow.env: must be a list, not a string; write [\"REGION\"] in brackets",
        ),
        (
            r#"{"secrets": {"db": ""}}"#,
            "allow.secrets.db: the secret is empty; write where it is: \
             \"${file:/run/secrets/NAME}\" or \"${env:NAME}\"",
        ),
        (
            r#"{"http": ["https://idp.example"]}"#,
            "allow.http[0]: `https://idp.example` has no path; write \"https://idp.example/*\" \
             for everything there",
        ),
        (
            r#"{"http": ["idp.example/*"]}"#,
            "allow.http[0]: `idp.example/*` is no URL; write one like \"https://idp.example/*\" \
             or \"upstream:NAME\"",
        ),
        (
            r#"{"http": ["https://h/a*"]}"#,
            "allow.http[0]: `https://h/a*` has a `*` in its path; write it last, after a `/`",
        ),
        (
            r#"{"http": ["https://h/?a=b"]}"#,
            "allow.http[0]: `https://h/?a=b` has a query; leave it out: every query is allowed",
        ),
        (
            r#"{"http": ["https://u@h/*"]}"#,
            "allow.http[0]: `https://u@h/*` holds a user name; write one like \
             \"https://idp.example/*\" or \"upstream:NAME\"",
        ),
        (
            r#"{"http": ["https://h/../*"]}"#,
            "allow.http[0]: `https://h/../*` has a path that requests do not have; write it plain",
        ),
        (
            r#"{"http": ["https://*.10.0.0.1/*"]}"#,
            "allow.http[0]: `*.10.0.0.1` is not a host; write a host name",
        ),
        (
            r#"{"http": ["ftp://h/*"]}"#,
            "allow.http[0]: `ftp://h/*` has a scheme that is not served; write one like \
             \"https://idp.example/*\" or \"upstream:NAME\"",
        ),
        (
            r#"{"http": ["upstream:aut"]}"#,
            "allow.http[0]: `aut` is not an upstream; did you mean `auth`?",
        ),
    ];
    for (text, line) in cases {
        let lines = fake().lines(&format!(
            r#"{{"plugins_dir": "/p", "upstreams": {{"auth": {{"servers": ["h:1"]}}}},
                "plugins": {{"a": {{"allow": {text}}}}}}}"#
        ));
        let [found] = lines.as_slice() else { panic!("{lines:?}") };
        assert!(found.ends_with(&format!(": plugins.a.{line}")), "{found}\n{line}");
    }
}
