//! What valid files mean.

use super::*;

fn tcp(text: &str) -> Address {
    Address::Tcp(text.parse().unwrap())
}

/// The file of the original ZProxy, as its users have it.
const SHORT: &str = r#"{
  "listen_address": "127.0.0.1", "listen_port": 8080,
  "tls": { "enabled": false, "cert_path": "cert.pem", "key_path": "key.pem" },
  "middleware": {
    "rate-limit": { "enabled": true, "requests_per_minute": 60 },
    "jwt":        { "enabled": true, "jwt_secret": "${env:JWT_SECRET}" },
    "cache":      { "enabled": true, "ttl_seconds": 60 }
  },
  "routes": [
    { "path": "/api/users", "upstream": "http://127.0.0.1:3000", "methods": ["GET", "POST"],
      "middleware": ["jwt", "rate-limit"] }
  ],
  "plugins_dir": "/p"
}"#;

#[test]
fn the_short_form_is_the_full_form_in_few_words() {
    let fake = Fake::default()
        .variable("JWT_SECRET", "se\"cret")
        .file("/p/jwt.wasm", "")
        .file("/p/rate_limit.wasm", "")
        .file("/p/.jwt.wasm", "half a copy")
        .file("/p/README.md", "");

    let (config, settings) = fake.load(SHORT).unwrap();

    assert_eq!(config.middleware["rate-limit"].config["requests_per_minute"], 60);
    assert_eq!(settings.listeners.len(), 1);
    assert_eq!(settings.listeners[0].address, tcp("127.0.0.1:8080"));
    let route = &settings.routes[0];
    assert_eq!((&*route.name, &*route.path), ("/api/users", "/api/users"));
    assert_eq!(
        (route.matching, &route.methods),
        (Matching::Prefix, &vec!["GET".into(), "POST".into()])
    );
    let Target::Upstream(0) = route.target else { panic!("{:?}", route.target) };
    assert_eq!(&*settings.upstreams[0].name, "http://127.0.0.1:3000");
    let plugins: Vec<_> = settings.plugins.iter().map(|plugin| &*plugin.name).collect();
    assert_eq!(plugins, ["jwt", "rate-limit"]);
    assert_eq!(settings.plugins[1].source, PluginSource::File("/p/rate_limit.wasm".into()));
    let chain: Vec<_> =
        route.chain.iter().map(|item| (item.plugin, &*item.config, &*item.at)).collect();
    assert_eq!(
        chain,
        [
            (0, r#"{"jwt_secret":"se\"cret"}"#, "middleware.jwt"),
            (1, r#"{"requests_per_minute":60}"#, "middleware.rate-limit"),
        ]
    );
}

#[test]
fn an_empty_file_has_every_default() {
    let settings = settings("\u{feff}{}");

    assert_eq!(settings.listeners.len(), 1);
    assert_eq!(settings.listeners[0].address, tcp("127.0.0.1:8080"));
    assert_eq!(settings.listeners[0].backlog, 4096);
    assert_eq!((settings.workers.count, settings.workers.pin), (None, true));
    assert_eq!(settings.workers.acceptors, Acceptors::PerWorker);
    let limits = &settings.limits;
    assert_eq!(
        (limits.header_bytes_max, limits.headers_max, limits.uri_bytes_max, limits.body_bytes_max),
        (65_536, 100, 8192, None)
    );
    assert_eq!(limits.header_timeout, Duration::from_secs(10));
    assert_eq!(limits.idle_timeout, Duration::from_secs(75));
    assert_eq!(limits.request_timeout, Duration::from_secs(60));
    let admin = settings.admin.unwrap();
    assert_eq!((admin.address, admin.token), (tcp("127.0.0.1:9901"), None));
    assert_eq!(settings.access_log.path, AccessLogPath::Off);
    assert_eq!(settings.access_log.format, AccessLogFormat::Json);
    assert_eq!(settings.drain_timeout, Duration::from_secs(30));
    assert!(settings.routes.is_empty() && settings.upstreams.is_empty());
}

#[test]
fn listeners_are_written_in_short_and_in_full() {
    for (text, addresses) in [
        (r#"{"listen_port": 81}"#, vec![tcp("127.0.0.1:81")]),
        (r#"{"listen_address": "::1"}"#, vec![tcp("[::1]:8080")]),
        (r#"{"listeners": [{"address": "[::]:80", "backlog": 7}]}"#, vec![tcp("[::]:80")]),
        (
            r#"{"listen_port": 1, "listeners": [{"address": "unix:/run/z"}, {"address": "0.0.0.0:0"}]}"#,
            vec![Address::Unix("/run/z".into()), tcp("0.0.0.0:0"), tcp("127.0.0.1:1")],
        ),
    ] {
        let settings = settings(text);
        let found: Vec<_> = settings.listeners.into_iter().map(|one| one.address).collect();
        assert_eq!(found, addresses, "{text}");
    }
}

#[test]
fn workers_are_a_number_a_word_or_an_object() {
    for (text, count, pin, acceptors) in [
        ("3", Some(3), true, Acceptors::PerWorker),
        (r#""auto""#, None, true, Acceptors::PerWorker),
        (r#""${env:N}""#, Some(5), true, Acceptors::PerWorker),
        (r#"{"count": 2, "pin": false}"#, Some(2), false, Acceptors::PerWorker),
        (r#"{"count": "${env:N}", "io": "epoll"}"#, Some(5), true, Acceptors::PerWorker),
        (r#"{"count": "auto", "acceptors": "dedicated"}"#, None, true, Acceptors::Dedicated),
    ] {
        let fake = Fake::default().variable("N", "5");
        let workers = fake.load(&format!(r#"{{"workers": {text}}}"#)).unwrap().1.workers;
        assert_eq!(
            (workers.count, workers.pin, workers.acceptors),
            (count, pin, acceptors),
            "{text}"
        );
    }
}

#[test]
fn upstreams_keep_their_servers_in_order() {
    let settings = settings(
        r#"{"upstreams": {
            "a": {"servers": ["LOCALHOST:3000", "unix:/run/a", {"address": "[::1]:1"}],
                  "timeouts": {"connect_ms": 1}, "keepalive": {"connections_max": 0}},
            "b": {"servers": [{"address": "10.0.0.1:80", "weight": 3}, "10.0.0.2:80"]},
            "c": {"servers": [{"address": "10.0.0.1:80"}], "balance": "weighted"}
        }}"#,
    );

    let a = &settings.upstreams[0];
    let UpstreamKind::Servers(servers) = &a.kind else { panic!("{a:?}") };
    let addresses: Vec<_> = servers.iter().map(|server| server.address.clone()).collect();
    assert_eq!(
        addresses,
        [
            ServerAddress::Name { host: "localhost".into(), port: 3000 },
            ServerAddress::Unix("/run/a".into()),
            ServerAddress::Ip("[::1]:1".parse().unwrap()),
        ]
    );
    assert_eq!((a.balance, a.connect_timeout), (Balance::RoundRobin, Duration::from_millis(1)));
    assert_eq!((a.keepalive_connections_max, a.idle_timeout), (0, Duration::from_secs(60)));
    let UpstreamKind::Servers(servers) = &settings.upstreams[1].kind else { panic!() };
    assert_eq!(servers.iter().map(|server| server.weight).collect::<Vec<_>>(), [3, 1]);
    assert_eq!(settings.upstreams[1].balance, Balance::Weighted);
    assert_eq!(settings.upstreams[2].balance, Balance::Weighted);
}

#[test]
fn routes_share_the_upstream_of_one_url() {
    let settings = settings(
        r#"{"upstreams": {"api": {"servers": ["h:1"]}}, "routes": [
            {"path": "/a", "upstream": "http://x"},
            {"path": "/b", "upstream": "HTTP://x:80"},
            {"path": "/", "upstream": "http://x:80/"},
            {"path": "/c", "upstream": "echo"},
            {"path": "/d", "upstream": [{"upstream": "api", "weight": 9}, {"upstream": "http://y:2"}]},
            {"path": "/e", "upstream": [{"upstream": "api"}, {"upstream": "echo", "weight": 0}]}
        ]}"#,
    );

    let targets: Vec<_> =
        settings.routes.iter().map(|route| format!("{:?}", route.target)).collect();
    assert_eq!(
        targets,
        [
            "Upstream(1)",
            "Upstream(1)",
            "Upstream(1)",
            "Upstream(2)",
            "Split([(0, 9), (3, 1)])",
            "Upstream(0)",
        ]
    );
    let names: Vec<_> = settings.upstreams.iter().map(|upstream| &*upstream.name).collect();
    assert_eq!(names, ["api", "http://x:80", "echo", "http://y:2"]);
    assert!(matches!(settings.upstreams[2].kind, UpstreamKind::Echo));
}

#[test]
fn a_file_may_have_its_own_echo() {
    let settings = settings(
        r#"{"upstreams": {"echo": {"servers": ["h:1"]}}, "routes": [{"path": "/", "upstream": "echo"}]}"#,
    );

    assert!(matches!(settings.upstreams[0].kind, UpstreamKind::Servers(_)));
    assert_eq!(settings.upstreams.len(), 1);
}

#[test]
fn a_route_has_everything_that_was_written() {
    let settings = settings(
        r#"{"routes": [{
            "name": "one", "hosts": ["A.example.", "*.b.example"], "path": "/v1/{id}/{*rest}",
            "match": "exact", "methods": ["GET", "PURGE"], "priority": -3, "upstream": "echo",
            "rewrite": {"path": "/x/{id}/{rest}", "host": "in.example:81"},
            "timeouts": {"request_ms": 5, "idle_ms": 6}, "limits": {"body_bytes_max": 7},
        }, {
            "path": "/old", "redirect": {"to": "https://{host}/new{path}", "status": 308},
        }, {
            "path": "/old", "methods": ["GET"], "priority": 1,
            "respond": {"status": 503, "headers": {"Retry-After": "5"}, "body": "later"},
        }, {
            "path": "/old", "hosts": ["h"], "respond": {},
        }, {
            "path": "/api/v1", "upstream": "echo", "rewrite": {"strip_prefix": "/api/"},
        }]}"#,
    );

    let [one, redirect, respond, empty, strip] = settings.routes.as_slice() else { panic!() };
    assert_eq!(&*one.name, "one");
    let hosts = [HostPattern::Exact("a.example".into()), HostPattern::Suffix(".b.example".into())];
    assert_eq!(one.hosts, hosts);
    assert_eq!((one.matching, one.priority), (Matching::Exact, -3));
    assert_eq!(one.rewrite.path.as_deref(), Some("/x/{id}/{rest}"));
    assert_eq!(one.rewrite.host.as_deref(), Some("in.example:81"));
    assert_eq!(one.request_timeout, Some(Duration::from_millis(5)));
    assert_eq!(one.idle_timeout, Some(Duration::from_millis(6)));
    assert_eq!(one.body_bytes_max, Some(7));
    let Target::Redirect { status: 308, to } = &redirect.target else { panic!("{redirect:?}") };
    assert_eq!(to, "https://{host}/new{path}");
    let Target::Respond { status: 503, headers, body } = &respond.target else { panic!() };
    let text = ("content-type".to_owned(), "text/plain; charset=utf-8".to_owned());
    assert_eq!(headers, &[("Retry-After".into(), "5".into()), text]);
    assert_eq!(&**body, b"later");
    let Target::Respond { status: 200, headers, .. } = &empty.target else { panic!() };
    assert_eq!(headers.len(), 0);
    assert_eq!(strip.rewrite.strip_prefix.as_deref(), Some("/api"));
    let names: Vec<_> = settings.routes.iter().map(|route| &*route.name).collect();
    assert_eq!(names, ["one", "/old", "/old#2", "h/old", "/api/v1"]);
}

#[test]
fn a_chain_takes_its_own_config_before_the_plugins() {
    let fake =
        Fake::default().file("/p/a.wasm", "").file("/elsewhere/b.wasm", "").file("/p/c.wasm", "");
    let (_, settings) = fake
        .load(
            r#"{"plugins_dir": "/p",
            "plugins": {"A": {"config": {"k": 1}, "on_error": "open",
                              "limits": {"memory_bytes_max": 65536, "time_ms_max": 3, "fuel_max": 5000}},
                        "b": {"path": "/elsewhere/b.wasm"}},
            "middleware": {"native_one": {"x": [1.5]}, "c": {"enabled": false}},
            "routes": [{"path": "/", "upstream": "echo", "middleware": [
                "a", {"plugin": "a", "config": {}}, {"plugin": "a", "on_error": "closed"},
                {"plugin": "b", "enabled": false}, "c", {"plugin": "c", "config": {"z": 1}},
                "native-one", "b"
            ]}]}"#,
        )
        .unwrap();

    let names: Vec<_> = settings.plugins.iter().map(|plugin| &*plugin.name).collect();
    assert_eq!(names, ["a", "b", "c", "native-one"]);
    assert_eq!(settings.plugins[3].source, PluginSource::Native);
    let limits = PluginLimits {
        memory_bytes_max: 65536,
        time_max: Duration::from_millis(3),
        fuel_max: Some(5000),
        body_bytes_max: 4 << 20,
        instances_max: 32,
        callouts_max: 16,
        request_time_max: None,
    };
    assert_eq!(settings.plugins[0].limits, limits);
    let chain: Vec<_> = settings.routes[0]
        .chain
        .iter()
        .map(|item| (item.plugin, &*item.config, item.on_error))
        .collect();
    assert_eq!(
        chain,
        [
            (0, r#"{"k":1}"#, OnError::Open),
            (0, "{}", OnError::Open),
            (0, r#"{"k":1}"#, OnError::Closed),
            (3, r#"{"x":[1.5]}"#, OnError::Closed),
            (1, "{}", OnError::Closed),
        ]
    );
}

#[test]
fn a_file_in_the_plugins_folder_replaces_native_middleware() {
    let fake = Fake::default().file("/p/Native_One.wasm", "");

    let (_, settings) = fake.load(r#"{"plugins_dir": "/p"}"#).unwrap();

    assert_eq!(settings.plugins.len(), 1);
    assert_eq!(settings.plugins[0].source, PluginSource::File("/p/Native_One.wasm".into()));
}

#[test]
fn strings_take_in_variables_and_files() {
    let fake = Fake::default()
        .variable("A", "va")
        .variable("EMPTY", "")
        .variable("TRICK", "${env:A} $${")
        .file("/s", "secret\r\n\n");
    for (text, expected) in [
        ("${env:A}", "va"),
        ("x${env:A}${env:A}y", "xvavay"),
        ("${env:NONE:-d:-e}", "d:-e"),
        ("${env:NONE:-}", ""),
        ("${env:EMPTY:-d}", "d"),
        ("${env:EMPTY}", ""),
        ("${file:/s}", "secret\r\n"),
        ("$${env:A}", "${env:A}"),
        ("$$${env:A}", "$${env:A}"),
        ("$ $$ $x {}", "$ $$ $x {}"),
        ("${env:TRICK}", "${env:A} $${"),
    ] {
        let file = json_respond(text);
        let (config, _) = fake.load(&file).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(config.routes[0].respond.as_ref().unwrap().body, expected, "{text}");
    }
}

fn json_respond(body: &str) -> String {
    serde_json::json!({"routes": [{"path": "/", "respond": {"body": body}}]}).to_string()
}

#[test]
fn a_string_that_is_one_replacement_may_be_a_number_or_boolean() {
    let fake = Fake::default().variable("PORT", "81").variable("YES", "true").variable("N", "7");

    let (config, _) = fake
        .load(
            r#"{"listen_port": "${env:PORT}", "workers": {"pin": "${env:YES}"},
                "access_log": {"sample": "${env:NO:-0.25}"},
                "routes": [{"path": "/", "respond": {"body": "${env:N}"}}],
                "plugins": {"native-one": {"config": {"n": "${env:N}"}}}}"#,
        )
        .unwrap();

    assert_eq!(config.listen_port, Some(81));
    assert!((config.access_log.sample - 0.25).abs() < f64::EPSILON);
    // Where any value may stand, a string stays a string.
    assert_eq!(config.routes[0].respond.as_ref().unwrap().body, "7");
    assert_eq!(config.plugins["native-one"].config.as_ref().unwrap()["n"], "7");
}

/// JSON Schema takes `8080.0` for an integer, and so do editors that check a file with ours.
#[test]
fn a_whole_number_may_be_written_with_a_point() {
    let (config, _) =
        Fake::default().load(r#"{"listen_port": 8080.0, "limits": {"headers_max": 1e2}}"#).unwrap();

    assert_eq!((config.listen_port, config.limits.headers_max), (Some(8080), 100));
}

/// `[::]` takes IPv4 as well, so that two such listeners on one port could not both be bound.
#[test]
fn a_port_can_be_shared_by_both_families() {
    let listeners = |text: &str| {
        let list = settings(&format!(r#"{{"listeners": [{text}]}}"#)).listeners;
        list.iter().map(|listener| listener.only_v6).collect::<Vec<_>>()
    };

    assert_eq!(
        listeners(r#"{"address": "0.0.0.0:80"}, {"address": "[::]:80"}, {"address": "[::]:81"}"#),
        [false, true, false]
    );
    // The default admin listener is on 127.0.0.1:9901.
    assert_eq!(listeners(r#"{"address": "[::]:9901"}"#), [true]);
    assert_eq!(listeners(r#"{"address": "0.0.0.0:0"}, {"address": "[::]:0"}"#), [false, false]);
}

/// `check` tries them even if no route uses them.
#[test]
fn plugins_keep_the_configuration_that_was_written_for_them() {
    let fake = Fake::default().file("/p/a.wasm", "").file("/p/b.wasm", "").file("/p/c.wasm", "");

    let (_, settings) = fake
        .load(
            r#"{"plugins_dir": "/p", "plugins": {"a": {"config": {"x": 1}}},
                "middleware": {"B": {"y": 2}, "c": {"z": 3, "enabled": false}}}"#,
        )
        .unwrap();

    let written: Vec<_> = settings.plugins.iter().map(|plugin| plugin.config.clone()).collect();
    let a = Some((r#"{"x":1}"#.into(), "plugins.a.config".into()));
    let b = Some((r#"{"y":2}"#.into(), "middleware.B".into()));
    assert_eq!(written, [a, b, None]);
}

/// No chain can name such a file; a start that it would refuse is worse.
#[test]
fn a_file_that_cannot_name_a_plugin_is_none() {
    let fake = Fake::default().file("/odd/my plugin.wasm", "").file("/odd/good.wasm", "");

    let (_, settings) = fake.load(r#"{"plugins_dir": "/odd"}"#).unwrap();

    assert_eq!(settings.plugins.len(), 1);
    assert_eq!(settings.misnamed, [Path::new("/odd/my plugin.wasm")]);
}

#[test]
fn admin_can_be_off_moved_and_guarded() {
    for (text, expected) in [
        ("null", None),
        (r#"{"address": null}"#, None),
        (r#"{"address": "unix:/run/a"}"#, Some((Address::Unix("/run/a".into()), None))),
        (r#"{"token": "t"}"#, Some((tcp("127.0.0.1:9901"), Some("t")))),
        (r#"{"address": "0.0.0.0:1", "token": "t"}"#, Some((tcp("0.0.0.0:1"), Some("t")))),
        (r#"{"address": "[::ffff:127.0.0.1]:1"}"#, Some((tcp("[::ffff:127.0.0.1]:1"), None))),
    ] {
        let admin = settings(&format!(r#"{{"admin": {text}}}"#)).admin;
        let expected = expected.map(|(address, token)| (address, token.map(Arc::from)));
        assert_eq!(admin.map(|admin| (admin.address, admin.token)), expected, "{text}");
    }
}

#[test]
fn logs_and_proxies_are_parsed() {
    let settings = settings(
        r#"{"access_log": {"path": "/var/log/z", "sample": 0.5, "redact": ["X-Key"],
             "format": "{client} {request_header.User-Agent} {status} {context.user}", "context": ["a b"]},
            "trusted_proxies": ["10.0.0.0/8", "::1", "192.0.2.1"]}"#,
    );

    let log = &settings.access_log;
    assert_eq!(log.path, AccessLogPath::File("/var/log/z".into()));
    let template = "{client} {request_header.User-Agent} {status} {context.user}";
    assert_eq!(log.context, ["a b"]);
    assert_eq!(log.format, AccessLogFormat::Template(template.into()));
    assert_eq!(log.redact, ["x-key"]);
    let trusted: Vec<_> = settings.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(trusted, ["10.0.0.0/8", "::1/128", "192.0.2.1/32"]);
}

#[test]
fn flags_override_the_file() {
    let mut overrides = Overrides::default();
    overrides.listen("--listen", "0.0.0.0:1");
    overrides.workers("ZPROXY_WORKERS", "2");
    overrides.admin("--admin", "127.0.0.1:2");
    overrides.plugins_dir("--plugins", "/p");
    for argument in [
        "limits.headers_max=7",
        "routes[0].upstream=echo",
        "routes.1={\"path\": \"/new\", /* a comment */ \"upstream\": \"echo\"}",
        "middleware.jwt.jwt_secret=a=b",
        "upstreams[\"a.b\"].servers=[\"h:1\"]",
        "access_log.path=${env:LOG}",
        "trusted_proxies[0]=10.0.0.1",
    ] {
        overrides.set(argument).unwrap();
    }
    let text = br#"{"listen_port": 5, "listeners": [{"address": "wrong"}], "admin": null,
        "workers": {"pin": false, "count": 9}, "routes": [{"path": "/", "upstream": "none"}]}"#;
    let fake = Fake::default().variable("LOG", "stdout").file("/p/jwt.wasm", "");

    let (config, settings) = load(text, "z.json", &overrides, &fake, &[]).unwrap();

    assert_eq!(settings.listeners.len(), 1);
    assert_eq!(settings.listeners[0].address, tcp("0.0.0.0:1"));
    assert_eq!((settings.workers.count, settings.workers.pin), (Some(2), false));
    assert_eq!(settings.admin.unwrap().address, tcp("127.0.0.1:2"));
    assert_eq!(settings.limits.headers_max, 7);
    assert_eq!(settings.routes[1].path, "/new");
    assert_eq!(config.middleware["jwt"].config["jwt_secret"], "a=b");
    assert_eq!(&*settings.upstreams[0].name, "a.b");
    assert_eq!(settings.access_log.path, AccessLogPath::Stdout);
    assert_eq!(config.trusted_proxies, ["10.0.0.1"]);
    assert_eq!(settings.plugins_dir, Some("/p".into()));
}

#[test]
fn a_program_builds_the_same_configuration() {
    let mut config = Config { listeners: vec!["127.0.0.1:0".into()], ..Config::default() };
    config.upstreams.insert(
        "api".into(),
        UpstreamConfig { servers: vec!["127.0.0.1:1".into()], ..UpstreamConfig::default() },
    );
    config.routes.push(RouteConfig {
        path: "/x".into(),
        upstream: Some("api".into()),
        middleware: vec!["native_one".into()],
        ..RouteConfig::default()
    });

    let settings = check(&config, &Fake::default(), &["native-one"]).unwrap();

    assert!(matches!(settings.routes[0].target, Target::Upstream(0)));
    assert_eq!(settings.plugins[0].source, PluginSource::Native);
}

#[test]
fn a_programs_mistakes_have_paths_and_cures() {
    let mut config = Config { drain_timeout_ms: 0, ..Config::default() };
    config.routes.push(RouteConfig { path: "x".into(), ..RouteConfig::default() });
    config.routes[0].respond =
        Some(RespondConfig { body: "a\0b".into(), ..RespondConfig::default() });
    config.upstreams.insert("api".into(), UpstreamConfig::default());
    config.access_log.sample = f64::NAN;

    let problems = check(&config, &Fake::default(), &[]).unwrap_err();

    assert_eq!(
        problems.to_string(),
        "routes[0].respond.body: contains a NUL character; remove it\n\
         upstreams.api.servers: the list is empty; write [\"127.0.0.1:3000\"]\n\
         access_log.sample: must be a number, not null; leave the key out for its default\n\
         drain_timeout_ms: `0` is out of range; write a whole number from 1 to 86400000\n\
         routes[0].path: `x` does not begin with `/`; write \"/x\""
    );
}

/// `${` in a value is text, and a file must say so.
#[test]
fn a_configuration_written_as_text_loads_equal() {
    let fake = Fake::default().file("/p/jwt.wasm", "").file("/p/rate-limit.wasm", "");
    let fake = fake.variable("JWT_SECRET", "${env:X} $${");
    let (config, _) = fake.load(SHORT).unwrap();

    let (again, _) = fake.load(&config.to_text()).unwrap();

    assert_eq!(again, config);
    assert_eq!(again.middleware["jwt"].config["jwt_secret"], "${env:X} $${");
}

/// A file of the same name takes its place, and what it may do stays the same.
#[test]
fn a_built_in_plugin_is_found_by_its_name_unless_there_is_a_file() {
    let text = r#"{"plugins_dir": "/p", "plugins": {"jwt": {"config": {"jwks_url": "http://idp.test:81/keys?a=b"}}},
        "routes": [{"path": "/", "upstream": "echo", "middleware": [
            "jwt", {"plugin": "jwt", "config": {"issuers": [{"jwks_url": "http://10.0.0.1/k"}, {"jwks_url": 1}],
                                                "other": "http://evil.test/"}}]}]}"#;
    let built_in = Fake::default().file("/p/other.wasm", "").load(text).unwrap().1;
    let replaced = Fake::default().file("/p/jwt.wasm", "").load(text).unwrap().1;

    assert_eq!(built_in.plugins[0].source, PluginSource::BuiltIn);
    assert_eq!(replaced.plugins[0].source, PluginSource::File("/p/jwt.wasm".into()));
    let url = |host: &str, port, path: &str| {
        let host = HostPattern::Exact(host.into());
        Destination::Url(UrlPattern { tls: false, host, port, path: path.into(), below: false })
    };
    let granted = vec![url("idp.test", 81, "/keys"), url("10.0.0.1", 80, "/k")];
    assert_eq!(built_in.plugins[0].allow.http, granted);
    assert_eq!(replaced.plugins[0].allow.http, granted);
}

/// A pattern in a URL to ask would grant more than the operator has named.
#[test]
fn a_pattern_grants_a_built_in_plugin_nothing() {
    for url in ["http://*.test/k", "http://idp.test/*", "ftp://idp.test/k", "upstream:idp", ""] {
        let text = format!(
            r#"{{"routes": [{{"path": "/", "upstream": "echo", "middleware": [
                {{"plugin": "jwt", "config": {{"jwks_url": "{url}"}}}}]}}]}}"#
        );
        assert_eq!(settings(&text).plugins[0].allow.http, [], "{url}");
    }
}
