use super::*;
use crate::{Flow, Middleware, Reply, context, crypto};

/// Does to an exchange what its configuration says.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Probe {
    set: Option<(String, String)>,
    append: Option<String>,
    remove: Option<String>,
    later: Option<String>,
    path: Option<String>,
    reply: Option<u16>,
    replace: Option<u16>,
    floods: usize,
}

impl Middleware for Probe {
    fn request_fields(&self) -> Vec<&str> {
        vec![":Path", "X-In"]
    }

    fn on_request(&self, request: &mut crate::Request) -> Flow {
        crate::info!("{} {}", request.method(), request.path());
        if let Some(status) = self.reply {
            return Flow::Reply(Reply::status(status).header("x-by", "probe").body("b"));
        }
        if let Some((name, value)) = &self.set {
            request.set_header(name, value);
        }
        if let Some(name) = &self.append {
            request.append_header(name, "a");
        }
        if let Some(name) = &self.remove {
            request.remove_header(name);
        }
        if let Some(value) = &self.later {
            request.append_to_response([("x-later", value), ("x-more", value)]);
        }
        if let Some(path) = &self.path {
            request.set_path(path);
        }
        for _ in 0..self.floods {
            request.append_header("x-flood", [b'x'; 1024]);
        }
        if let Some(value) = request.header("x-in") {
            context::set("in", value.as_bytes());
        }
        Flow::Next
    }

    fn on_response(&self, response: &mut crate::Response) {
        if let Some(note) = context::get("in") {
            response.append_header("x-note", note);
        }
        if let Some(status) = self.replace {
            response.replace_with(Reply::status(status));
        }
    }
}

crate::export!(Probe);

fn run(config: &str) -> Answer {
    let plugin = load::<Probe>(config).unwrap();
    plugin.exchange(Request::get("/a?b=c").with_header("x-in", "1"), Response::status(200))
}

/// A key that is misspelt must not pass as a default; the operator has to read which it is.
#[test]
fn fields_are_left_for_the_response() {
    let answer = run(r#"{"later": "1"}"#);
    assert_eq!((answer.header("x-later"), answer.header("x-more")), (Some("1"), Some("1")));
    // Not for an answer of the plugin's own, and nothing that could not be edited.
    let answer = run(r#"{"later": "1", "reply": 403}"#);
    assert_eq!((answer.status(), answer.header("x-later")), (403, None));
    assert!(run(r#"{"later": "a\r\nb: c"}"#).failure().is_some());
}

#[test]
fn an_unknown_key_is_refused_by_name() {
    let error = load::<Probe>(r#"{ "sett": 1 }"#).unwrap_err();

    assert!(error.contains("unknown field `sett`"), "{error}");
}

/// A test that calls what the gateway never calls would pass for a plugin that does nothing.
#[test]
fn a_hook_that_is_not_exported_is_not_called() {
    #[derive(serde::Deserialize)]
    struct Half {}
    impl Middleware for Half {
        fn on_request(&self, _: &mut crate::Request) -> Flow {
            Flow::Reply(Reply::status(418))
        }
        fn on_response(&self, response: &mut crate::Response) {
            response.set_header("x-half", "1");
        }
    }
    crate::export!(Half: on_response);

    let plugin = load::<Half>("{}").unwrap();
    let answer = plugin.exchange(Request::get("/"), Response::status(200));

    assert_eq!((answer.status(), answer.header("x-half")), (200, Some("1")));
}

#[test]
fn a_note_made_on_the_request_is_read_on_the_response() {
    let answer = run("{}");

    assert_eq!(answer.header("x-note"), Some("1"));
    assert_eq!(answer.failure(), None);
    assert_eq!(answer.log(), [(log::Level::Info, "GET /a".to_owned())]);
}

/// What was handed over with the call is stale after an edit.
#[test]
fn a_declared_field_is_read_anew_after_an_edit() {
    let answer = run(r#"{ "set": ["X-IN", "2"] }"#);

    assert_eq!(answer.header("x-note"), Some("2"));
    assert_eq!(answer.upstream_request().unwrap().value("x-in"), Some("2"));
}

#[test]
fn a_plugin_is_not_shown_its_own_answer() {
    let answer = run(r#"{ "reply": 418 }"#);

    assert_eq!((answer.status(), answer.body()), (418, b"b".as_slice()));
    assert_eq!(answer.header("x-by"), Some("probe"));
    assert_eq!(answer.header("x-note"), None);
    assert!(answer.upstream_request().is_none());
}

#[test]
fn a_response_can_be_replaced() {
    let answer = run(r#"{ "replace": 502 }"#);

    assert_eq!(answer.status(), 502);
    assert_eq!(answer.header("x-note"), None);
}

/// By the rules in `wit/`: the gateway would refuse each of these when the hook returns.
#[test]
fn a_forbidden_edit_fails_the_hook() {
    for config in [
        r#"{ "set": ["x", "a\r\nb"] }"#,
        r#"{ "set": ["x y", "a"] }"#,
        r#"{ "set": ["x", "a\u001b"] }"#,
        r#"{ "set": ["x", "a\u007f"] }"#,
        r#"{ "set": ["", "a"] }"#,
        r#"{ "set": ["Proxy-Connection", "close"] }"#,
        r#"{ "set": ["http2-settings", "a"] }"#,
        r#"{ "set": ["Host", "a/b"] }"#,
        r#"{ "set": ["Host", "a:b:c"] }"#,
        r#"{ "set": ["Host", "[::1"] }"#,
        r#"{ "set": ["Host", "%zz"] }"#,
        r#"{ "append": "host" }"#,
        r#"{ "remove": "host" }"#,
        r#"{ "set": ["Content-Length", "1"] }"#,
        r#"{ "path": "a" }"#,
        r#"{ "path": "/a b" }"#,
        r#"{ "reply": 101 }"#,
        r#"{ "replace": 600 }"#,
        r#"{ "floods": 64 }"#,
    ] {
        let answer = run(config);

        assert!(answer.failure().is_some(), "{config}");
        assert_eq!(answer.status(), 503, "{config}");
    }
}

#[test]
fn a_path_can_be_replaced() {
    let answer = run(r#"{ "path": "/z?y" }"#);

    assert_eq!(answer.upstream_request().unwrap().path_and_query(), "/z?y");
}

#[test]
fn cookies_and_parameters_are_found_by_their_whole_name() {
    Host::with(|host| {
        host.begin(
            Request::get("/?ab=1&b=2&b=3")
                .with_header("cookie", "ab=1; b=2=2")
                .with_header("cookie", "c=3"),
        );
    });
    let request = crate::Request::new(crate::fields::Pushed::default());

    assert_eq!(request.query_parameter("b").as_deref(), Some("2"));
    assert_eq!(request.query_parameter("a"), None);
    assert_eq!(request.cookie("b").as_deref(), Some("2=2"));
    assert_eq!(request.cookie("c").as_deref(), Some("3"));
    let fields = request.headers();
    assert_eq!(
        fields.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        ["host", "cookie", "cookie"]
    );
}

#[test]
fn a_host_can_be_replaced() {
    for host in ["example.com:80", "[::1]:8080", "a%20b"] {
        let answer = run(&format!(r#"{{ "set": ["Host", "{host}"] }}"#));

        assert_eq!(answer.failure(), None);
        assert_eq!(answer.upstream_request().unwrap().value("host"), Some(host));
    }
}

/// RFC 4231 §4.3 (test case 2).
#[test]
fn a_key_knows_its_signature_and_no_other() {
    let key = crypto::Key::new("HS256", "secret", b"Jefe").unwrap();
    let signature = [
        0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e, 0x6a, 0x04, 0x24, 0x26, 0x08, 0x95, 0x75,
        0xc7, 0x5a, 0x00, 0x3f, 0x08, 0x9d, 0x27, 0x39, 0x83, 0x9d, 0xec, 0x58, 0xb9, 0x64, 0xec,
        0x38, 0x43,
    ];
    let data = b"what do ya want for nothing?";

    assert!(key.verify(data, &signature));
    assert!(!key.verify(data, &signature[..31]));
    assert!(!key.verify(b"what", &signature));
    assert!(crypto::Key::new("none", "secret", b"").is_err());
    assert!(crypto::Key::new("HS256", "pem", b"a").is_err());
    assert!(crypto::Key::new("HS256", "secret", b"").is_err());
}

/// RFC 7515 A.1, and what the gateway says to keys that are not what they are taken for.
#[test]
fn secrets_come_as_jwks_too() {
    let k =
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let jwk = |more: &str| format!(r#"{{"kty":"oct","k":"{k}"{more}}}"#);
    let data = b"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let signature = [0x74, 0x18, 0xdf, 0xb4];

    let key = crypto::Key::new("HS256", "jwk", jwk("").as_bytes()).unwrap();
    assert_eq!(key.sign(data).unwrap()[..4], signature);
    let set = format!(
        r#"{{"keys":[{}, {}, {}, {{"kty":"RSA","use":"enc"}}]}}"#,
        jwk(r#","alg":"HS256","kid":"a""#),
        jwk(r#","alg":"HS512","use":"enc""#),
        jwk("")
    );
    let set = crypto::key_set(set.as_bytes()).unwrap();
    assert_eq!(set.len(), 1, "the others are not for signatures, or do not say which");
    assert_eq!((set[0].id.as_deref(), &*set[0].algorithm), (Some("a"), "HS256"));
    assert_eq!(set[0].key.sign(data).unwrap()[..4], signature);
    for (algorithm, format, material) in [
        ("HS512", "jwk", jwk(r#","alg":"HS256""#)),
        ("RS256", "jwk", jwk("")),
        ("HS256", "jwk", jwk(r#","key_ops":["encrypt"]"#)),
        ("HS256", "jwk", r#"{"kty":"oct","k":"a+b="}"#.to_owned()),
        ("HS256", "jwk", "x".to_owned()),
        ("RS256", "secret", "x".to_owned()),
        ("HS256", "der", "x".to_owned()),
    ] {
        assert!(crypto::Key::new(algorithm, format, material.as_bytes()).is_err(), "{material}");
    }

    super::check_signatures(|algorithm, _, _, _| algorithm == "ES256");
    let ec = r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#;
    assert!(crypto::Key::new("ES256", "jwk", ec.as_bytes()).unwrap().verify(b"", b""));
    assert!(crypto::Key::new("ES384", "jwk", ec.as_bytes()).is_err());
    let private = r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA","d":"AA"}"#;
    assert!(crypto::Key::new("ES256", "jwk", private.as_bytes()).is_err());
}

/// Uses all that a plugin can keep; answers with what came of it.
#[derive(serde::Deserialize)]
struct Keeping {}

impl Middleware for Keeping {
    fn on_request(&self, request: &mut crate::Request) -> Flow {
        use crate::{counters, environment, kv, metrics, random};
        use std::time::Duration;

        let second = Duration::from_secs(1);
        let path = request.header(":path").unwrap_or_default().to_string();
        let said = match path.as_str() {
            "/take" => {
                let decision = counters::take("k", counters::Quota::new(2, second), 1);
                format!("{} {}", decision.allowed, decision.retry_after.as_millis())
            }
            "/count" => counters::add("k", 2, second).to_string(),
            "/swap" => format!("{:?}", kv::compare_and_swap("k", None, "v", Some(second))),
            "/get" => format!("{:?}", kv::get("k").map(|entry| entry.value)),
            "/delete" => kv::delete("k").to_string(),
            "/long" => format!("{:?}", kv::get([0; 257])),
            "/random" => random::bytes(20).len().to_string(),
            "/region" => format!("{:?}", environment::variable("REGION")),
            "/secret" => format!("{:?}", environment::secret("db")),
            _ => match metrics::Counter::new("hits", "") {
                Ok(hits) => {
                    hits.add(3);
                    format!("{:?}", metrics::Gauge::new("hits", "").is_err())
                }
                Err(error) => error,
            },
        };
        Flow::Reply(Reply::status(200).body(said))
    }
}

crate::export!(Keeping: on_request);

#[test]
fn what_a_plugin_keeps_is_kept_by_the_rules_of_the_gateway() {
    let plugin = load::<Keeping>("{}").unwrap();
    let say = |path: &str| {
        let answer = plugin.exchange(Request::get(path), Response::status(200));
        match answer.failure() {
            Some(failure) => format!("failed: {failure}"),
            None => String::from_utf8(answer.body().to_vec()).unwrap(),
        }
    };
    set_unix_ms(10_000);

    assert_eq!([say("/take"), say("/take"), say("/take")], ["true 0", "true 0", "false 500"]);
    assert_eq!([say("/count"), say("/count")], ["2", "4"]);
    assert_eq!([say("/swap"), say("/swap")], ["Ok(1)", "Err(Conflict)"]);
    assert_eq!(say("/get"), "Some([118])");
    set_unix_ms(11_000);
    assert_eq!(say("/get"), "None");
    assert_eq!(say("/delete"), "false");
    assert_eq!(say("/count"), "2");
    assert_eq!(say("/take"), "true 0");
    assert_eq!(say("/long"), "failed: a key has at most 256 bytes");
    assert_eq!(say("/random"), "20");
    assert_eq!(say("/region"), "failed: the variable `REGION` was not granted");
    set_variable("REGION", Some("eu-1"));
    set_secret("db", "x");
    assert_eq!(say("/region"), "Some(\"eu-1\")");
    assert_eq!(say("/secret"), "[120]");
    assert_eq!(say("/metric"), "true");
    assert_eq!(metric("hits"), Some(3.0));
    assert_eq!(metric("misses"), None);
}

#[test]
fn keys_sign_and_are_forgotten_with_their_owner() {
    let key = crypto::Key::new("HS256", "secret", b"Jefe").unwrap();
    let signature = key.sign(b"what do ya want for nothing?").unwrap();

    assert_eq!(signature[..4], [0x5b, 0xdc, 0xc1, 0x46]);
    assert!(key.verify(b"what do ya want for nothing?", &signature));
    for _ in 0..1000 {
        drop(crypto::Key::new("HS256", "secret", b"k").unwrap());
    }
    assert_eq!(crypto::sha256(b"abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
}

/// Says of a message what it says itself.
#[derive(serde::Deserialize)]
struct Chat {}

impl Middleware for Chat {
    fn on_message(&self, _: &crate::Request, from: Peer, message: &Message) -> MessageFlow {
        match message.text() {
            Some("close") => MessageFlow::close(4000, "as told"),
            Some("never") => MessageFlow::close(1006, ""),
            Some("drop") => MessageFlow::Drop,
            Some(text) if from == Peer::Client => {
                MessageFlow::Replace(Message::Text(text.to_uppercase()))
            }
            _ => MessageFlow::Pass,
        }
    }
}

mod chat {
    crate::export!(super::Chat: on_message);
}

#[test]
fn messages_are_shown_and_judged() {
    let plugin = load::<Chat>("{}").unwrap();
    let told = |from, text: &str| plugin.message(from, &Message::Text(text.into()));

    let upper = Message::Text("HELLO".into());
    assert_eq!(told(Peer::Client, "hello"), Ok(MessageFlow::Replace(upper)));
    assert_eq!(told(Peer::Server, "hello"), Ok(MessageFlow::Pass));
    assert_eq!(told(Peer::Server, "drop"), Ok(MessageFlow::Drop));
    assert_eq!(told(Peer::Client, "close"), Ok(MessageFlow::close(4000, "as told")));
    assert!(told(Peer::Client, "never").unwrap_err().contains("1006"));
    assert_eq!(plugin.message(Peer::Client, &Message::Binary(vec![1])), Ok(MessageFlow::Pass));
}
