//! Where counters are kept.

use super::*;

fn redis(text: &str) -> Arc<Redis> {
    let text = format!(r#"{{"state": {{"backend": "redis", {text}}}}}"#);
    let (_, settings) = Fake::default().load(&text).unwrap_or_else(|problems| panic!("{problems}"));
    settings.state.unwrap()
}

fn refused(text: &str) -> String {
    let text = format!(r#"{{"state": {{{text}}}}}"#);
    Fake::default().load(&text).unwrap_err().to_string()
}

#[test]
fn counters_are_in_memory_unless_redis_is_named() {
    let state = |text: &str| Fake::default().load(text).unwrap().1.state;
    assert_eq!(state("{}"), None);
    assert_eq!(state(r#"{"state": {"backend": "memory"}}"#), None);
}

#[test]
fn urls_of_redis_are_read_as_its_clients_read_them() {
    let name = |host: &str, port| ServerAddress::Name { host: host.into(), port };
    for (url, address, database, user, password, tls) in [
        ("redis://r.test", name("r.test", 6379), 0, None, None, false),
        ("REDIS://r.test:1/", name("r.test", 1), 0, None, None, false),
        ("redis://r.test/15", name("r.test", 6379), 15, None, None, false),
        ("rediss://:pw@r.test/2", name("r.test", 6379), 2, None, Some("pw"), true),
        ("redis://u:p%40%3a%2F%25@r.test:5", name("r.test", 5), 0, Some("u"), Some("p@:/%"), false),
        ("redis://u:a:b@c@r.test", name("r.test", 6379), 0, Some("u"), Some("a:b@c"), false),
        ("redis://[::1]:7", ServerAddress::Ip("[::1]:7".parse().unwrap()), 0, None, None, false),
        (
            "redis://10.0.0.1",
            ServerAddress::Ip("10.0.0.1:6379".parse().unwrap()),
            0,
            None,
            None,
            false,
        ),
        (
            "unix:/run/redis.sock",
            ServerAddress::Unix("/run/redis.sock".into()),
            0,
            None,
            None,
            false,
        ),
        (
            "redis+unix:///run/r.sock?db=4",
            ServerAddress::Unix("/run/r.sock".into()),
            4,
            None,
            None,
            false,
        ),
    ] {
        let found = redis(&format!(r#""url": "{url}""#));
        assert_eq!((&found.address, found.database), (&address, database), "{url}");
        let text = |secret: &Option<Secret>| {
            secret.as_ref().map(|one| String::from_utf8(one.expose().to_vec()).unwrap())
        };
        assert_eq!(text(&found.user).as_deref(), user, "{url}");
        assert_eq!(text(&found.password).as_deref(), password, "{url}");
        assert_eq!(found.tls.is_some(), tls, "{url}");
    }
    let found = redis(
        r#""url": "redis://u@r.test", "password": "p%", "timeout_ms": 7, "prefix": "a:", "on_error": "closed""#,
    );
    assert_eq!(found.password.as_ref().unwrap().expose(), b"p%");
    assert_eq!((&*found.prefix, found.timeout), ("a:", Duration::from_millis(7)));
    assert_eq!(found.on_error, StateError::Closed);
    assert!(!format!("{found:?}").contains("p%"));
}

/// Each names the place and the way out, and none shows a password.
#[test]
fn mistakes_are_told_with_their_places() {
    for (text, place, said) in [
        (r#""backend": "redis""#, "state:", "there is no `url`"),
        (r#""backend": "etcd""#, "state.backend:", "etcd"),
        (r#""url": "redis://r""#, "state.url:", "write `\"backend\": \"redis\"`"),
        (r#""backend": "redis", "url": "r.test:6379""#, "state.url:", "is no URL"),
        (r#""backend": "redis", "url": "http://r.test""#, "state.url:", "`http` is a scheme"),
        (r#""backend": "redis", "url": "redis://""#, "state.url:", "no host"),
        (r#""backend": "redis", "url": "redis://:secret@""#, "state.url:", "no host"),
        (r#""backend": "redis", "url": "redis://:secret@r.test:0""#, "state.url:", "valid port"),
        (
            r#""backend": "redis", "url": "redis://:secret@r.test/x""#,
            "state.url:",
            "`x` is not the number",
        ),
        (
            r#""backend": "redis", "url": "redis://:secret@r.test/1/2""#,
            "state.url:",
            "not the number",
        ),
        (r#""backend": "redis", "url": "redis://:secret%zz@r.test""#, "state.url:", "%25"),
        (r#""backend": "redis", "url": "redis://:%ff@r.test""#, "state.url:", "no UTF-8"),
        (r#""backend": "redis", "url": "redis://r.test?timeout=1""#, "state.url:", "query"),
        (r#""backend": "redis", "url": "unix:relative""#, "state.url:", "relative"),
        (r#""backend": "redis", "url": "unix:/r.sock?x=1""#, "state.url:", "?db=1"),
        (r#""backend": "redis", "url": "redis://u@r.test""#, "state:", "without a password"),
        (
            r#""backend": "redis", "url": "redis://:a@r.test", "password": "b""#,
            "state.password:",
            "the URL has one",
        ),
        (
            r#""backend": "redis", "url": "redis://r.test", "password": """#,
            "state.password:",
            "empty",
        ),
        (r#""backend": "redis", "url": "redis://r.test", "tls": {}"#, "state.tls:", "rediss://"),
        (
            r#""backend": "redis", "url": "rediss://r.test", "tls": {"enabled": false}"#,
            "state.tls.enabled:",
            "with TLS",
        ),
        (
            r#""backend": "redis", "url": "rediss://r.test", "tls": {"verify": false}"#,
            "state.tls.verify:",
            "ca_path",
        ),
        (
            r#""backend": "redis", "url": "redis://r.test", "timeout_ms": 0"#,
            "state.timeout_ms:",
            "0",
        ),
        (
            r#""backend": "redis", "url": "redis://r.test", "prefix": "a b""#,
            "state.prefix:",
            "visible",
        ),
        (
            r#""backend": "redis", "url": "redis://r.test", "on_error": "ignore""#,
            "state.on_error:",
            "ignore",
        ),
        (r#""backend": "redis", "uri": "redis://r.test""#, "state.uri:", "url"),
    ] {
        let message = refused(text);
        assert!(message.contains(place) && message.contains(said), "{text}: {message}");
        assert!(!message.contains("secret"), "{message}");
    }
}

/// Only plugins that count are told, also those that come into the folder later.
#[test]
fn plugins_that_count_are_told_where() {
    let fake = Fake::default().file("/p/a.wasm", "").file("/p/b.wasm", "");
    let text = r#"{"plugins_dir": "/p", "plugins": {"a": {"allow": {"counters": true}}},
        "state": {"backend": "redis", "url": "redis://r.test", "on_error": "open"},
        "routes": [{"path": "/", "upstream": "echo", "middleware": ["a", "b", "rate-limit"]}]}"#;
    let (_, settings) = fake.load(text).unwrap();
    let told: Vec<_> =
        settings.plugins.iter().map(|plugin| (&*plugin.name, plugin.allow.redis)).collect();
    let open = Some(StateError::Open);
    assert_eq!(told, [("a", open), ("b", None), ("rate-limit", open)]);
    let came = crate::config::plugin_from_folder("rate-limit", "/p/x.wasm".into(), &settings);
    assert_eq!(came.allow.redis, open);
}

/// Whoever switches the check off does not mean that clients may say who they are.
#[test]
fn jwt_that_is_switched_off_still_guards_its_fields() {
    let chain = |middleware: &str, defaults: &str| {
        let text = format!(
            r#"{{"middleware": {{"jwt": {defaults}}},
                "routes": [{{"path": "/", "upstream": "echo", "middleware": [{middleware}]}}]}}"#
        );
        let (_, settings) = Fake::default().load(&text).unwrap();
        settings.routes[0].chain.iter().map(|item| item.config.to_string()).collect::<Vec<_>>()
    };
    let fields = r#"{"jwt_secret": "s", "claims_to_headers": {"sub": "x-user"}}"#;
    let off = r#"{"jwt_secret":"s","claims_to_headers":{"sub":"x-user"},"enabled":false}"#;

    assert_eq!(chain(r#"{"plugin": "jwt", "enabled": false}"#, fields), [off]);
    assert_eq!(chain(r#"{"plugin": "jwt", "enabled": false}"#, r#"{"jwt_secret": "s"}"#), [""; 0]);
    let disabled =
        fields.replace('}', "").replace(r#""x-user""#, r#""x-user"}, "enabled": false}"#);
    assert_eq!(chain(r#""jwt""#, &disabled), [off]);
}
