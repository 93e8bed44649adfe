//! What is wrong with the form of invalid files: each line with its place and its cure.

use super::*;

#[test]
fn syntax_errors_are_placed_and_cured() {
    refused(&[
        ("", &["1:1: the file is empty; write at least `{}`"]),
        ("\n// only a comment", &["1:1: the file is empty; write at least `{}`"]),
        ("[1]", &["1:1: the configuration must be an object; write `{ … }`"]),
        ("{\n\"a\" 1}", &["2:5: a colon is missing after the key; write `\"key\": value`"]),
        ("{\n  a: 1}", &["2:3: the key `a` has no quotes; write `\"a\"`"]),
        ("{'a': 1}", &["1:2: strings take double quotes; write `\"` instead of `'`"]),
        ("{\"a\": 1\n\"b\": 2}", &["1:8: a comma is missing here; write `,`"]),
        ("{\"a\": }", &["1:7: a value is expected here, not `}`; remove it or write a value"]),
        ("{\"a\": [1,,2]}", &["1:10: a value is expected here, not `,`; remove one comma"]),
        ("{\"a\": yes}", &["1:7: `yes` is not a value; a string takes quotes: `\"yes\"`"]),
        ("{\"é\": @}", &["1:7: `@` is not JSON; remove it"]),
        (
            "{\"a\": 0x10}",
            &["1:7: this is not a number; write decimal digits, such as `10` or `0.5`"],
        ),
        (
            "{\"a\": \"x,\n\"b\": 1}",
            &["1:7: this string does not end on its line; end it with `\"`; a line break inside \
                 a string is `\\n`"],
        ),
        (
            "{\"a\": \"x\ty\"}",
            &[
                "1:9: a control character inside a string; write a tab as `\\t`, others as `\\u00XX`",
            ],
        ),
        (
            "{\"a\": \"C:\\dir\"}",
            &["1:10: this escape is unknown; write `\\\"`, `\\\\`, `\\/`, `\\n`, `\\t` or \
                 `\\uXXXX`; a single `\\` is `\\\\`"],
        ),
        ("{\"a\": [1, {}", &["1:7: the list that starts here has no end; close it with `]`"]),
        ("{\"a\": {", &["1:7: the object that starts here has no end; close it with `}`"]),
        ("{ /* x\n }", &["1:3: the comment that starts here has no end; close it with `*/`"]),
        (
            "{}}",
            &[
                "1:3: `}` after the end of the configuration; remove it; the file is one object `{ … }`",
            ],
        ),
        ("{\"a\": [1}]", &["1:9: a value is expected here, not `}`; remove it or write a value"]),
    ]);
}

#[test]
fn bytes_that_are_no_text_are_placed() {
    let line = |bytes: &[u8]| {
        let problems = load(bytes, "z.json", &Overrides::default(), &Fake::default(), &[]);
        problems.unwrap_err().to_string()
    };

    let invalid = line(b"{\n  \"a\": \"\xc3\xa9\xff\"}");
    assert_eq!(invalid, "z.json:2:10: this byte is not valid UTF-8; save the file as UTF-8");
    let utf16 = line(b"\xff\xfe{\0}\0");
    assert_eq!(utf16, "z.json:1:1: the file is written in UTF-16; save it as UTF-8");
}

#[test]
fn values_that_json_allows_and_we_do_not_are_named() {
    refused(&[
        (
            "{\"limits\": {}, \n \"limits\": {}}",
            &["2:2: limits: the key `limits` is written twice in this object; remove one of both"],
        ),
        (
            "{\"listen_port\": 1e999}",
            &[
                "1:17: listen_port: `1e999` is too large for a number; write a smaller one, or a string",
            ],
        ),
        (
            "{\"plugins\": {\"jwt\": {\"config\": {\"n\": 18446744073709551616}}}, \"plugins_dir\": \"/p\"}",
            &["1:38: plugins.jwt.config.n: `18446744073709551616` is too large for a number; \
                 write a smaller one, or a string"],
        ),
        (
            "{\"plugins_dir\": \"a\\u0000b\"}",
            &["1:17: plugins_dir: contains a NUL character (`\\u0000`); remove it"],
        ),
    ]);
}

#[test]
fn all_problems_of_a_file_are_reported_at_once() {
    refused(&[(
        r#"{
  // one problem of every kind
  "listen_adress": "127.0.0.1",
  "listen_port": "8080",
  "upstreams": {
    "api": { "servers": ["localhost"], "health": {} },
    "none": {}
  },
  "routes": [
    { "pth": "/x", "upstream": "apii" },
    { "path": "/y", "upstream": 5, "methods": ["get"] },
    { "path": "/z", "upstream": "none" }
  ],
  "admin": { "address": "0.0.0.0:9901" },
  "drain_timeout_ms": null
}"#,
        &[
            "3:3: listen_adress: `listen_adress` is not a key here; did you mean `listen_address`?",
            "4:18: listen_port: must be a whole number, not a string; write 8080 without quotes",
            "6:26: upstreams.api.servers[0]: `localhost` has no port; write \"localhost:80\"",
            "6:40: upstreams.api.health: `upstreams.api.health` is not supported by this version: \
             active health checks come later; remove it",
            "7:13: upstreams.none: the key `servers` is missing; write `\"servers\": [\"127.0.0.1:3000\"]`",
            "10:7: routes[0].pth: `pth` is not a key here; did you mean `path`?",
            "10:32: routes[0].upstream: `apii` is not an upstream; did you mean `api`?",
            "11:33: routes[1].upstream: must be a string or a list, not a number; write \"5\" in quotes",
            "11:48: routes[1].methods[0]: `get` is not a method: upper and lower case differ; write \"GET\"",
            "14:25: admin.address: other machines can reach this address, and there is no token; \
             add `admin.token`, or write \"127.0.0.1:9901\"",
            "15:23: drain_timeout_ms: must be a whole number, not null; leave the key out for its default",
        ],
    )]);
}

#[test]
fn wrong_kinds_say_what_to_write() {
    refused(&[
        (r#"{"routes": {}}"#, &["1:12: routes: must be a list, not an object; write [ … ]"]),
        (
            r#"{"limits": 5}"#,
            &["1:12: limits: must be an object, not a number; write { … } with the keys \
                 `connections_max`, `header_bytes_max`, `headers_max`, `uri_bytes_max`, \
                 `body_bytes_max`, `header_timeout_ms`, `handshake_timeout_ms`, `handshakes_max`, \
                 `idle_timeout_ms`, `request_timeout_ms`, `h2_streams_max`, `h2_ping_interval_ms`, \
                 `h2_ping_timeout_ms`"],
        ),
        (
            r#"{"upstreams": []}"#,
            &["1:15: upstreams: must be an object, not a list; write { \"name\": … }"],
        ),
        (
            r#"{"tls": {"enabled": "false"}}"#,
            &["1:21: tls.enabled: must be true or false, not a string; write false without quotes"],
        ),
        (
            r#"{"tls": {"enabled": 0}}"#,
            &["1:21: tls.enabled: must be true or false, not a number; write true or false"],
        ),
        (
            r#"{"trusted_proxies": "::1"}"#,
            &["1:21: trusted_proxies: must be a list, not a string; write [\"::1\"] in brackets"],
        ),
        (
            r#"{"listen_address": true}"#,
            &["1:20: listen_address: must be a string, not a boolean; write \"127.0.0.1\""],
        ),
        (
            r#"{"admin": "127.0.0.1:1"}"#,
            &["1:11: admin: must be an object or null, not a string; write { … } with the keys \
                 `address`, `token`"],
        ),
        (
            r#"{"workers": true}"#,
            &[
                "1:13: workers: must be a whole number or \"auto\" or an object, not a boolean; write 4",
            ],
        ),
        (
            r#"{"workers": "many"}"#,
            &[
                "1:13: workers: `many` is not known here; write a whole number or \"auto\" or an object",
            ],
        ),
        (r#"{"workers": "4"}"#, &["1:13: workers: `4` is not known here; write 4 without quotes"]),
        (
            r#"{"workers": 0}"#,
            &["1:13: workers: `0` is out of range; write a whole number from 1 to 1024"],
        ),
        (
            r#"{"workers": 1.5}"#,
            &[
                "1:13: workers: must be a whole number, not `1.5`; write a whole number from 1 to 1024",
            ],
        ),
        (
            r#"{"listen_port": 65536, "limits": {"idle_timeout_ms": -1, "body_bytes_max": 0}}"#,
            &[
                "1:17: listen_port: `65536` is out of range; write a whole number from 0 to 65535",
                "1:54: limits.idle_timeout_ms: `-1` is out of range; write a whole number from 1 to 2592000000",
                "1:76: limits.body_bytes_max: `0` is out of range; write a whole number of at least 1",
            ],
        ),
        (
            r#"{"access_log": {"sample": 1.01}}"#,
            &["1:27: access_log.sample: `1.01` is out of range; write a number from 0.0 to 1.0"],
        ),
        (
            r#"{"listeners": []}"#,
            &["1:15: listeners: the list is empty; add an element, or leave the key out"],
        ),
        (
            r#"{"upstreams": {"a": {"servers": ["h:1"], "balance": "weigthed"}}}"#,
            &[
                "1:53: upstreams.a.balance: `weigthed` is not known here; did you mean \"weighted\"?",
            ],
        ),
        (
            r#"{"upstreams": {"a b": {"servers": [{}], "foo": 1}}}"#,
            &[
                "1:23: upstreams[\"a b\"]: `a b` cannot name an upstream; use letters, digits, `-`, \
                 `_` and `.`, at most 64",
                "1:36: upstreams[\"a b\"].servers[0]: the key `address` is missing; write \
                 `\"address\": \"127.0.0.1:3000\"`",
                "1:41: upstreams[\"a b\"].foo: `foo` is not a key here; remove it; the keys here are \
                 `servers`, `protocol`, `balance`, `tls`, `timeouts`, `keepalive`",
            ],
        ),
    ]);
}

#[test]
fn what_comes_later_is_refused_by_name() {
    for (text, path, comes) in [
        (r#"{"telemetry": {}}"#, "telemetry", "OpenTelemetry"),
        (
            r#"{"limits": {"connections_per_ip_max": 1}}"#,
            "limits.connections_per_ip_max",
            "per client",
        ),
        (r#"{"upstreams": {"a": {"retries": 1}}}"#, "upstreams.a.retries", "retries"),
        (r#"{"upstreams": {"a": {"outlier": 1}}}"#, "upstreams.a.outlier", "ejection"),
        (r#"{"upstreams": {"a": {"hash_on": 1}}}"#, "upstreams.a.hash_on", "hash"),
        (r#"{"upstreams": {"a": {"limits": {}}}}"#, "upstreams.a.limits", "limits per upstream"),
        (
            r#"{"upstreams": {"a": {"servers": [{"address": "h:1", "backup": true}]}}}"#,
            "upstreams.a.servers[0].backup",
            "backup",
        ),
        (r#"{"routes": [{"headers": {}}]}"#, "routes[0].headers", "header fields"),
        (r#"{"routes": [{"component": "x"}]}"#, "routes[0].component", "components"),
        (r#"{"routes": [{"mirror": "x"}]}"#, "routes[0].mirror", "mirroring"),
        (r#"{"routes": [{"compression": true}]}"#, "routes[0].compression", "compression"),
    ] {
        let lines = Fake::default().lines(text);
        let wanted = format!(": {path}: `{path}` is not supported by this version: ");
        let line =
            lines.iter().find(|line| line.contains(&wanted)).unwrap_or_else(|| panic!("{lines:?}"));
        assert!(line.contains(comes) && line.contains("later; remove it"), "{line}");
        // A key that cannot be used yet is no reason to call another one missing.
        assert!(!lines.iter().any(|line| line.contains("no target")), "{lines:?}");
    }
    refused(&[
        (
            r#"{"upstreams": {"a": {"servers": ["h:1"], "balance": "maglev"}}}"#,
            &["1:53: upstreams.a.balance: `maglev` is not supported by this version: this \
                 balancing comes later; write \"round-robin\" or \"weighted\""],
        ),
        (
            r#"{"listeners": [{"address": "127.0.0.1:1", "protocols": ["h1", "h3"]}]}"#,
            &[
                "1:63: listeners[0].protocols[1]: `h3` is not supported by this version: HTTP/3 comes \
               later; write \"h1\" or \"h2\"",
            ],
        ),
        (
            r#"{"routes": [{"path": "/", "match": "regex", "upstream": "ftp://h"}]}"#,
            &[
                "1:36: routes[0].match: `regex` is not supported by this version: matching by regular \
                 expression comes later; write \"prefix\" or \"exact\"",
                "1:57: routes[0].upstream: `ftp://h` has a scheme that is not served; write \
                 `http://host:port`",
            ],
        ),
    ]);
}

#[test]
fn replacements_that_fail_are_placed_and_cured() {
    refused(&[
        (
            r#"{"listen_address": "${env:NONE}", "plugins_dir": "${HOME}"}"#,
            &[
                "1:20: listen_address: the environment variable `NONE` is not set; set it, or give a \
                 default: `${env:NONE:-default}`",
                "1:50: plugins_dir: `${HOME}` is not known; write `${env:HOME}` for a variable; for the \
                 text itself write `$${`",
            ],
        ),
        (
            r#"{"plugins_dir": "a${env:X"}"#,
            &[
                "1:17: plugins_dir: `${env:X` has no end; close it with `}`; for the text itself write `$${`",
            ],
        ),
        (
            r#"{"plugins_dir": "${env:a-b}"}"#,
            &[
                "1:17: plugins_dir: `a-b` is not the name of a variable; write `${env:NAME}`: letters, digits and `_`",
            ],
        ),
        (
            r#"{"admin": {"token": "${file:/none}"}}"#,
            &[
                "1:21: admin.token: cannot read the file `/none`: it does not exist; write the path of a \
                 text file of at most 1048576 bytes",
            ],
        ),
        (
            r#"{"admin": {"token": "${file:/binary}"}}"#,
            &[
                "1:21: admin.token: cannot read the file `/binary`: it is not UTF-8; write the path of a \
                 text file of at most 1048576 bytes",
            ],
        ),
        (
            r#"{"listen_address": "${env:A:-${env:B:-x}}"}"#,
            &[
                "1:20: listen_address: `${env:A:-${env:B:-x}` holds another `${`; write the default \
                 as plain text",
            ],
        ),
        (
            r#"{"routes": [{"path": "/", "upstream": "${env:LINES}"}]}"#,
            &["1:39: routes[0].upstream: `${env:LINES}` is not an upstream; declare it in \
                 `upstreams`, or use one of `echo`"],
        ),
        (
            r#"{"listen_address": "${env:LINES}"}"#,
            &[
                "1:20: listen_address: `${env:LINES}` is not an IP address; write one like \"127.0.0.1\", \"0.0.0.0\" or \"::\"",
            ],
        ),
    ]);
}

#[test]
fn wrong_flags_are_named_in_place_of_the_file() {
    let mut overrides = Overrides::default();
    overrides.workers("ZPROXY_WORKERS", "many");
    overrides.admin("--admin", "0.0.0.0:1");
    for argument in [
        "limits.headers_max=no",
        "workers.count.x=1",
        "routes.9.path=/",
        "upstreams.a.servers=[\"h\"]",
        "upstreams.a.nope=1",
        "routes[0].respond.body=${env:NONE}",
    ] {
        overrides.set(argument).unwrap();
    }

    let text = br#"{"routes": [{"path": "/"}]}"#;
    let problems = load(text, "z.json", &overrides, &Fake::default(), &[]).unwrap_err();

    assert_eq!(
        problems.to_string(),
        "ZPROXY_WORKERS: workers: `many` is not known here; write a whole number or \"auto\" or an object\n\
         --admin: admin.address: other machines can reach this address, and there is no token; add \
         `admin.token`, or write \"127.0.0.1:9901\"\n\
         --set limits.headers_max: limits.headers_max: must be a whole number, not a string; write a \
         whole number from 1 to 4096\n\
         --set workers.count.x: workers: has no keys, so there is no `count` to set; give a path that \
         exists, or set the whole value as JSON\n\
         --set routes.9.path: routes: has no element 9 to set; give a path that exists, or set the \
         whole value as JSON\n\
         --set upstreams.a.servers: upstreams.a.servers[0]: `h` has no port; write \"h:80\"\n\
         --set upstreams.a.nope: upstreams.a.nope: `nope` is not a key here; remove it; the keys here \
         are `servers`, `protocol`, `balance`, `tls`, `timeouts`, `keepalive`\n\
         --set routes[0].respond.body: routes[0].respond.body: the environment variable `NONE` is not \
         set; set it, or give a default: `${env:NONE:-default}`"
    );
}

#[test]
fn problems_are_data_for_programs() {
    let problems = Fake::default().load("{\n \"x\": 1}").unwrap_err();

    let json = serde_json::to_value(&problems).unwrap();

    let first = &json[0];
    assert_eq!(
        (&first["file"], &first["line"], &first["column"]),
        (&"z.json".into(), &2.into(), &2.into())
    );
    assert_eq!((&first["path"], &first["message"]), (&"x".into(), &"`x` is not a key here".into()));
    assert!(first["cure"].as_str().unwrap().starts_with("remove it; the keys here are `$schema`"));
}

/// A plugin's `init` runs after all checks, and its refusal must lead to the file as well.
#[test]
fn what_a_plugin_refuses_has_a_place_too() {
    let mut overrides = Overrides::default();
    overrides.set("routes[1].middleware=[\"jwt\"]").unwrap();
    let text = b"{\"routes\": [{},\n {\"middleware\": [\"x\"]}]}";
    let at = |text: &[u8], path: &str| {
        let problem = Problem::at(path, "no secret", "give one");
        place(text, "z.json", &overrides, Problems(vec![problem])).to_string()
    };

    let flag = at(text, "routes[1].middleware[0]");
    let file = at(text, "routes[1]");
    let gone = at(b"{\xff", "plugins[\"a.b\"]");

    assert_eq!(flag, "--set routes[1].middleware: routes[1].middleware[0]: no secret; give one");
    assert_eq!(file, "z.json:2:2: routes[1]: no secret; give one");
    assert_eq!(gone, "z.json: plugins[\"a.b\"]: no secret; give one");
}
