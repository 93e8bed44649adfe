//! What is wrong with the meaning of invalid files: each line with its place and its cure.

use super::*;

/// Checks routes: each text is the inside of `{"path": "/api", …}` at 1:13.
pub(super) fn refused_routes(cases: &[(&str, &[&str])]) {
    for (route, lines) in cases {
        let text = format!("{{\"routes\":\n[{{\"path\": \"/api/{{id}}\",\n{route}}}]}}");
        assert_eq!(Fake::default().lines(&text), *lines, "{text}");
    }
}

#[test]
fn addresses_to_listen_on_are_cured() {
    for (address, cure) in [
        (
            "8080",
            "write \"0.0.0.0:8080\" for every interface, or \"127.0.0.1:8080\" for this machine",
        ),
        (
            ":8080",
            "write \"0.0.0.0:8080\" for every interface, or \"127.0.0.1:8080\" for this machine",
        ),
        ("*:80", "write \"0.0.0.0:80\" for every interface, or \"127.0.0.1:80\" for this machine"),
        ("127.0.0.1", "write \"127.0.0.1:8080\""),
        ("::1", "write \"[::1]:8080\""),
        ("::1:80", "write \"[::1:80]:8080\""),
        ("localhost", "write \"127.0.0.1:8080\""),
        ("localhost:80", "write \"127.0.0.1:80\" or \"[::1]:80\""),
        ("example.com:80", "write the IP address of an interface, or \"0.0.0.0:80\" for every one"),
        ("http://127.0.0.1:80/", "write \"127.0.0.1:80\""),
        ("https://127.0.0.1:80/", "write \"127.0.0.1:80\", and `\"tls\": {…}` beside `address`"),
        ("/run/z.sock", "write \"unix:/run/z.sock\""),
        ("unix:z.sock", "write it from the root: \"unix:/run/zproxy.sock\""),
        ("127.0.0.1:70000", "write a port from 0 to 65535"),
        ("127.0.0.1:http", "write \"ip:port\", such as \"127.0.0.1:8080\", or \"unix:/path\""),
        ("", "write \"ip:port\", such as \"127.0.0.1:8080\", or \"unix:/path\""),
    ] {
        let text = format!(r#"{{"listeners": [{{"address": "{address}"}}]}}"#);
        let problems = Fake::default().load(&text).unwrap_err();
        assert_eq!(problems.0.len(), 1, "{problems}");
        assert_eq!(problems.0[0].cure, cure, "{address}");
        assert_eq!(problems.0[0].path, "listeners[0].address");
        assert_eq!((problems.0[0].line, problems.0[0].column), (Some(1), Some(28)));
    }
    refused(&[
        (
            r#"{"listen_address": "127.0.0.1:80"}"#,
            &["1:20: listen_address: `127.0.0.1:80` is not an IP address; write \
                 `\"listen_address\": \"127.0.0.1\", \"listen_port\": 80`"],
        ),
        (
            r#"{"listen_address": "localhost"}"#,
            &["1:20: listen_address: `localhost` is not an IP address; write \"127.0.0.1\""],
        ),
        (
            r#"{"listeners": [{"address": "127.0.0.1:80"}, {"address": "[::1]:0"}, {"address": "[::1]:0"}],
               "listen_port": 80}"#,
            &[
                "2:31: listen_port: is the same address as `listeners[0].address`; remove it, or use another port",
            ],
        ),
        (
            r#"{"listen_port": 9901}"#,
            &[
                "1:17: listen_port: is the default address of the admin listener; use another port, \
                 or set `admin.address`",
            ],
        ),
        (
            r#"{"listen_port": 80, "admin": {"address": "127.0.0.1:80"}}"#,
            &["1:42: admin.address: is the same address as `listen_port`; use another port"],
        ),
        (
            r#"{"admin": {"token": "", "address": "0.0.0.0:1"}}"#,
            &[
                "1:21: admin.token: the token is empty, so anybody would know it; write a long random string",
            ],
        ),
        (
            r#"{"admin": {"token": "two words"}}"#,
            &["1:21: admin.token: the token holds characters that no `Authorization` field can \
                 carry; use letters, digits and `-._~+/=` without spaces"],
        ),
    ]);
}

#[test]
fn addresses_of_servers_are_cured() {
    for (address, message, cure) in [
        ("localhost", "`localhost` has no port", "write \"localhost:80\""),
        ("::1", "`::1` has no port", "write \"[::1]:80\""),
        ("10.0.0.1", "`10.0.0.1` has no port", "write \"10.0.0.1:80\""),
        ("http://h:81/x", "`http://h:81/x` is a URL", "write the address alone: \"h:81\""),
        ("http://h", "`http://h` is a URL", "write the address alone: \"h:80\""),
        ("h:81/x", "`h:81/x` has a path", "write the address alone: \"h:81\""),
        ("/run/x", "`/run/x` is a path, not an address", "write \"unix:/run/x\""),
        ("h:0", "`h:0` has no valid port", "write a port from 1 to 65535"),
        ("h:http", "`h:http` has no valid port", "write a port from 1 to 65535"),
        ("10.0.0.1:0", "`10.0.0.1:0` has port 0", "write the server's port"),
        ("10.0.0.300:80", "`10.0.0.300` is not a host", "write an IP address or a host name"),
        ("a b:80", "`a b` is not a host", "write an IP address or a host name"),
        (":80", "`` is not a host", "write an IP address or a host name"),
        ("unix:x", "`x` is not a whole path", "write it from the root: \"unix:/run/zproxy.sock\""),
        (
            "https://h",
            "`https://h` is a URL",
            "write the address alone: \"h:443\", and `\"tls\": {}` beside `servers`",
        ),
    ] {
        let text = format!(r#"{{"upstreams": {{"a": {{"servers": ["{address}"]}}}}}}"#);
        let problems = Fake::default().load(&text).unwrap_err();
        assert_eq!(problems.0.len(), 1, "{problems}");
        let problem = &problems.0[0];
        assert_eq!((problem.message.as_str(), problem.cure.as_str()), (message, cure), "{address}");
        assert_eq!((&*problem.path, problem.column), ("upstreams.a.servers[0]", Some(34)));
    }
    refused(&[
        (
            r#"{"upstreams": {"a": {"balance": "round-robin", "servers": ["h:1", {"address": "H:1", "weight": 2}]}}}"#,
            &[
                "1:79: upstreams.a.servers[1].address: `H:1` is there twice; remove one; to send it \
                 more, give it a `weight`",
                "1:96: upstreams.a.servers[1].weight: the weight has no effect with `balance` \
                 \"round-robin\"; write \"weighted\", or remove the weight",
            ],
        ),
        (
            r#"{"upstreams": {"a": {"servers": []}}}"#,
            &["1:33: upstreams.a.servers: the list is empty; write [\"127.0.0.1:3000\"]"],
        ),
    ]);
}

#[test]
fn targets_of_routes_are_cured() {
    refused_routes(&[
        (
            r#""name": "x""#,
            &[
                "2:2: routes[0]: the route has no target; write `\"upstream\": \"http://127.0.0.1:3000\"`, \
                 `\"redirect\": {\"to\": …}` or `\"respond\": {\"body\": …}`",
            ],
        ),
        (
            r#""backend": "x""#,
            &[
                "2:2: routes[0]: the route has no target; write `\"upstream\": \"http://127.0.0.1:3000\"`, \
                 `\"redirect\": {\"to\": …}` or `\"respond\": {\"body\": …}`",
                "3:1: routes[0].backend: `backend` is not a key here; remove it; the keys here are \
                 `name`, `hosts`, `path`, `match`, `methods`, `priority`, `upstream`, `redirect`, \
                 `respond`, `rewrite`, `middleware`, `timeouts`, `limits`, `websocket`",
            ],
        ),
        (
            r#""upstream": "echo", "respond": {}"#,
            &[
                "2:2: routes[0]: the route has `upstream` and `respond`, but one target answers it; \
                 keep one of `upstream` and `respond`",
            ],
        ),
        (
            r#""upstream": "127.0.0.1:3000""#,
            &[
                "3:13: routes[0].upstream: `127.0.0.1:3000` is not an upstream; write \"http://127.0.0.1:3000\"",
            ],
        ),
        (
            r#""upstream": "unix:/x""#,
            &[
                "3:13: routes[0].upstream: `unix:/x` is not an upstream; declare it: `\"upstreams\": \
                 {\"NAME\": {\"servers\": [\"unix:/x\"]}}`",
            ],
        ),
        (
            r#""upstream": "backend""#,
            &[
                "3:13: routes[0].upstream: `backend` is not an upstream; declare it in `upstreams`, or \
                 use one of `echo`",
            ],
        ),
        (
            r#""upstream": "http://h:3000/base/""#,
            &[
                "3:13: routes[0].upstream: `http://h:3000/base/` has a path, and a route keeps the path \
                 of the request; write `\"path\": \"/api/{id}/{*rest}\", \"upstream\": \
                 \"http://h:3000\", \"rewrite\": {\"path\": \"/base/{rest}\"}`",
            ],
        ),
        (
            r#""upstream": "http://h?x=y""#,
            &[
                "3:13: routes[0].upstream: `http://h?x=y` has a path, and a route keeps the path of the \
                 request; write \"http://h:80\"",
            ],
        ),
        (
            r#""upstream": "http://h/""#,
            &[
                "3:13: routes[0].upstream: `http://h/` has a path, and a route keeps the path of the \
                 request; write \"http://h:80\", and to take `/api/{id}` off `\"path\": \
                 \"/api/{id}/{*rest}\", \"rewrite\": {\"path\": \"/{rest}\"}`",
            ],
        ),
        (
            r#""upstream": "ftp://h""#,
            &[
                "3:13: routes[0].upstream: `ftp://h` has a scheme that is not served; write `http://host:port`",
            ],
        ),
        (
            r#""upstream": "http://u:p@h""#,
            &[
                "3:13: routes[0].upstream: `http://u:p@h` holds a user name; write `http://host:port`",
            ],
        ),
        (
            r#""upstream": "http://:80""#,
            &["3:13: routes[0].upstream: `` is not a host; write an IP address or a host name"],
        ),
        (
            r#""upstream": [{"upstream": "echo", "weight": 0}, {"upstream": "echo", "weight": 0}]"#,
            &[
                "3:13: routes[0].upstream: every weight is 0; give one upstream a weight above 0",
                "3:62: routes[0].upstream[1].upstream: `echo` is there twice; remove one and add up the weights",
            ],
        ),
        (
            r#""upstream": []"#,
            &["3:13: routes[0].upstream: the list is empty; add an element, or leave the key out"],
        ),
        (
            r#""redirect": {"to": "/{nam}", "status": 200}"#,
            &[
                "3:20: routes[0].redirect.to: `{nam}` is not filled in here; write one of `{path}`, \
                 `{query}`, `{host}`, `{id}`",
                "3:40: routes[0].redirect.status: 200 is not the status of a redirect; write 301 or 308 \
                 (for good), 302, 303 or 307 (for now)",
            ],
        ),
        (
            r#""redirect": {"to": "https://{host}{id}/"}"#,
            &[
                "3:20: routes[0].redirect.to: `{id}` would let the client choose where to be sent; write \
                 a domain or `/` around it: `https://{id}.example.com/` or `https://example.com/{id}`",
            ],
        ),
        (
            r#""redirect": {"to": "{id}"}"#,
            &["3:20: routes[0].redirect.to: `{id}` would let the client choose where to be sent; \
                 write \"/{id}\""],
        ),
        (
            r#""redirect": {"to": "{query}"}"#,
            &[
                "3:20: routes[0].redirect.to: `{query}` would let the client choose where to be sent; \
                 write \"/{query}\"",
            ],
        ),
        (
            r#""methods": ["CONNECT"], "respond": {}"#,
            &["3:13: routes[0].methods[0]: `CONNECT` asks for a tunnel to anywhere, which this \
                 gateway never makes; remove it"],
        ),
        (
            r#""redirect": {"to": "example.com"}"#,
            &["3:20: routes[0].redirect.to: `example.com` is neither a URL nor a path; write \
                 \"https://example.com\" or \"/example.com\""],
        ),
        (
            r#""redirect": {"to": "/a\r\nb: c"}"#,
            &[
                "3:20: routes[0].redirect.to: `/a\\r\\nb: c` holds a space or an unusual character; \
                 write it percent-encoded, a space as `%20`",
            ],
        ),
        (
            r#""respond": {"status": 204, "body": "x", "headers": {"a b": "", "X": "a\nb", "y": " z", "Content-Length": "1", "x": ""}}"#,
            &[
                "3:36: routes[0].respond.body: a response with status 204 has no body; remove the body, \
                 or use another status",
                "3:60: routes[0].respond.headers[\"a b\"]: `a b` is not the name of a header field; \
                 write one like \"content-type\"",
                "3:69: routes[0].respond.headers.X: the value holds a line break or a character that is \
                 not ASCII; use printable ASCII on one line",
                "3:82: routes[0].respond.headers.y: the value begins or ends with a space; write \"z\"",
                "3:106: routes[0].respond.headers.Content-Length: `content-length` is set by the \
                 gateway; remove it",
                "3:116: routes[0].respond.headers.x: `x` is there twice; remove one of both",
            ],
        ),
        (
            r#""respond": {"status": 101}"#,
            &[
                "3:23: routes[0].respond.status: `101` is out of range; write a whole number from 200 to 599",
            ],
        ),
    ]);
}

#[test]
fn conditions_and_rewrites_of_routes_are_cured() {
    refused_routes(&[
        (
            r#""upstream": "echo", "methods": ["get", "G T", "*", "PUT", "PUT"], "hosts": ["*", "a:1", "b", "B"]"#,
            &[
                "3:33: routes[0].methods[0]: `get` is not a method: upper and lower case differ; write \"GET\"",
                "3:40: routes[0].methods[1]: `G T` is not a method; write one like \"GET\", without spaces",
                "3:47: routes[0].methods[2]: `*` is not a method; leave `methods` out for any method",
                "3:59: routes[0].methods[4]: `PUT` is there twice; remove one of both",
                "3:77: routes[0].hosts[0]: `*` is not a host; leave `hosts` out: the route then answers for every host",
                "3:82: routes[0].hosts[1]: `a:1` is not a host; leave the port out: \"a\"",
                "3:94: routes[0].hosts[3]: `B` is there twice; remove one of both",
            ],
        ),
        (
            r#""upstream": "echo", "rewrite": {"strip_prefix": "/v1", "path": "/{idd}", "host": "a b"}"#,
            &[
                "3:32: routes[0].rewrite: `path` replaces what `strip_prefix` would leave; keep one of \
                 `path` and `strip_prefix`",
                "3:49: routes[0].rewrite.strip_prefix: `/v1` is not in front of the route's path; write \
                 the beginning of `/api/`",
                "3:64: routes[0].rewrite.path: `{idd}` is not a parameter of the route's path; did you \
                 mean `{id}`?",
                "3:82: routes[0].rewrite.host: `a b` is not a host; write \"example.com\" or \
                 \"example.com:8080\"",
            ],
        ),
        (
            r#""upstream": "echo", "rewrite": {"strip_prefix": "/api/{id}"}"#,
            &[
                "3:49: routes[0].rewrite.strip_prefix: `/api/{id}` is not a prefix to strip; it takes no \
                 parameters: use `rewrite.path` with `{*rest}`",
            ],
        ),
        (
            r#""upstream": "echo", "rewrite": {"strip_prefix": "/"}"#,
            &[
                "3:49: routes[0].rewrite.strip_prefix: `/` is not a prefix to strip; remove it: there is \
                 nothing to strip",
            ],
        ),
        (
            r#""upstream": "echo", "rewrite": {"strip_prefix": "api"}"#,
            &[
                "3:49: routes[0].rewrite.strip_prefix: `api` is not a prefix to strip; write \"/api\"",
            ],
        ),
        (
            r#""upstream": "echo", "rewrite": {"path": "/../{id}"}"#,
            &[
                "3:41: routes[0].rewrite.path: the path `/../x` is not valid; remove `.` and `..`: no \
                 request's path holds them",
            ],
        ),
        (
            r#""upstream": "echo", "rewrite": {"path": "/x?y"}"#,
            &[
                "3:41: routes[0].rewrite.path: `/x?y` is not a path; remove the query: the request's own stays",
            ],
        ),
        (
            r#""respond": {}, "rewrite": {}"#,
            &[
                "3:27: routes[0].rewrite: changes requests to an upstream, and this route has none; \
                 remove it, or give the route an `upstream`",
            ],
        ),
        (
            r#""respond": {}, "name": """#,
            &[
                "3:24: routes[0].name: `` cannot name a route; use 1 to 128 bytes without control characters",
            ],
        ),
    ]);
    refused(&[
        (
            r#"{"routes": [
{"path": "/{a}", "hosts": ["a", "b"], "name": "x", "respond": {}},
{"path": "/{b}", "hosts": ["B", "a."], "name": "x", "respond": {}},
{"path": "/{b}", "hosts": ["b", "a"], "match": "exact", "respond": {}},
{"path": "/{b}", "hosts": ["b", "a"], "methods": ["PUT"], "respond": {}},
{"path": "/{b}", "hosts": ["b", "a"], "priority": 1, "respond": {}},
{"path": ["/{b}"], "hosts": ["b", "a"], "respond": {}},
{"path": "/c/", "methods": ["GET", "PUT"], "respond": {}},
{"path": "/c", "methods": ["HEAD", "PUT"], "respond": {}},
{"path": "/c", "match": "exact", "methods": ["PUT"], "respond": {}}]}"#,
            &[
                "3:1: routes[1]: matches the same requests as `routes[0]`, which comes first; remove one \
                 of both, or give one a higher `priority`",
                "3:48: routes[1].name: another route has the name `x`; give each route its own name",
                "5:1: routes[3]: matches the same requests as `routes[0]`, which comes first; remove one \
                 of both, or give one a higher `priority`",
                "7:10: routes[5].path: must be a string, not a list; write \"/api/users\"",
                "9:1: routes[7]: matches the same requests as `routes[6]`, which comes first; remove one \
                 of both, or give one a higher `priority`",
            ],
        ),
        (
            r#"{"routes": [{"path": "api", "respond": {}}, {"path": "/x/:id", "respond": {}}]}"#,
            &[
                "1:22: routes[0].path: `api` does not begin with `/`; write \"/api\"",
                "1:54: routes[1].path: the segment `:id` is not valid; write `{id}`",
            ],
        ),
        (
            r#"{"routes": [{"path": "/api", "upstream": "http://h:1/"}]}"#,
            &[
                "1:42: routes[0].upstream: `http://h:1/` has a path, and a route keeps the path of the \
                 request; write \"http://h:1\", and to take `/api` off `\"rewrite\": \
                 {\"strip_prefix\": \"/api\"}`",
            ],
        ),
    ]);
}

#[test]
fn plugins_are_found_or_the_way_to_them_is_told() {
    refused(&[
        (
            r#"{"routes": [{"path": "/", "upstream": "echo", "middleware": ["cors", {"plugin": "native_on"}]}]}"#,
            &[
                "1:62: routes[0].middleware[0]: there is no plugin `cors`; put cors.wasm into the plugins folder \
                 (--plugins DIR), or give `plugins.cors.path`",
                "1:81: routes[0].middleware[1].plugin: there is no plugin `native-on`; did you mean `native-one`?",
            ],
        ),
        (
            r#"{"plugins_dir": "/none", "routes": [{"path": "/", "upstream": "echo", "middleware": ["jwt"]}]}"#,
            &[
                "1:17: plugins_dir: cannot read the folder `/none`: it does not exist; give the folder \
                 that holds the `*.wasm` files",
            ],
        ),
        (
            r#"{"plugins_dir": "/two"}"#,
            &[
                "1:17: plugins_dir: `/two/a-b.wasm` and `/two/a_b.wasm` are one name; remove one of both: \
                 `-` and `_` are equal",
            ],
        ),
        (
            r#"{"plugins_dir": "/p", "plugins": {"a": {}, "b": {"path": "/x"}, "JWT": {"config": {}}, "jwt": {}, "?": {}},
                "routes": [{"path": "/", "upstream": "echo", "middleware": ["a", "b"]}]}"#,
            &[
                "1:40: plugins.a: there is no plugin `a`; put a.wasm into the plugins folder (--plugins \
                 DIR), or give `plugins.a.path`",
                "1:58: plugins.b.path: there is no file `/x`; give the path of a component",
                "1:95: plugins.jwt: `jwt` is there twice; remove one of both: `-` and `_` are equal",
                "1:104: plugins[\"?\"]: `?` cannot name a plugin; use letters, digits, `-`, `_` and `.`, at \
                 most 64, and no `.` in front",
            ],
        ),
        (
            r#"{"plugins_dir": "/p", "plugins": {"jwt": {"config": {}}}, "middleware": {"jwt": {"a": 1},
                "rate-limit": {}, "rate_limit": {}, "rate-limt": {"x": 1}, "cache": {"ttl_seconds": 60}}}"#,
            &[
                "1:81: middleware.jwt: `plugins.jwt.config` configures this plugin already; keep one of both",
                "2:49: middleware.rate_limit: is the same plugin as `middleware.rate-limit`; remove one of \
                 both: `-` and `_` are equal",
                "2:66: middleware.rate-limt: there is no plugin `rate-limt`; did you mean `rate-limit`?",
            ],
        ),
        (
            r#"{"middleware": {"jwt": {"enabled": 1}}, "routes": [{"path": "/", "upstream": "echo",
                "middleware": [{"name": "jwt"}, {"plugin": "native-one", "on_error": "close"}, 5]}]}"#,
            &[
                "1:36: middleware.jwt.enabled: must be true or false, not a number; write true or false",
                "2:32: routes[0].middleware[0]: the key `plugin` is missing; write `\"plugin\": \"jwt\"`",
                "2:33: routes[0].middleware[0].name: `name` is not a key here; remove it; the keys here are \
                 `plugin`, `config`, `on_error`, `enabled`",
                "2:86: routes[0].middleware[1].on_error: `close` is not known here; did you mean \"closed\"?",
                "2:96: routes[0].middleware[2]: must be a string or an object, not a number; write \"5\" in quotes",
            ],
        ),
    ]);
}

#[test]
fn limits_logs_and_proxies_are_cured() {
    refused(&[
        (
            r#"{"limits": {"header_bytes_max": 2000, "uri_bytes_max": 2001}}"#,
            &[
                "1:56: limits.uri_bytes_max: `2001` is more than `header_bytes_max`, which is `2000`; \
                 lower it, or raise `limits.header_bytes_max`",
            ],
        ),
        (
            r#"{"trusted_proxies": ["10.0.0.1/8", "example.com", "10.0.0.0/33"]}"#,
            &[
                "1:22: trusted_proxies[0]: `10.0.0.1/8` has bits set behind its prefix; write `10.0.0.0/8`",
                "1:36: trusted_proxies[1]: `example.com` is not a CIDR block; write a block like \
                 `10.0.0.0/8` or an address like `192.0.2.1`",
                "1:51: trusted_proxies[2]: `10.0.0.0/33` is not a CIDR block; write a block like \
                 `10.0.0.0/8` or an address like `192.0.2.1`",
            ],
        ),
        (
            r#"{"access_log": {"path": "stderr", "format": "jsn", "redact": ["a:"]}}"#,
            &[
                "1:25: access_log.path: `stderr` is not a place for the access log; write \"stdout\", \
                 \"off\" or the path of a file",
                "1:45: access_log.format: `jsn` is not a format; did you mean \"json\"?",
                "1:63: access_log.redact[0]: `a:` is not the name of a header field; write one like \"cookie\"",
            ],
        ),
        (
            r#"{"access_log": {"context": ["user", ""]}}"#,
            &[
                "1:37: access_log.context[1]: `` is not the key of a note; write the key that the plugin gives \
                 it, of 1 to 256 bytes",
            ],
        ),
        (
            r#"{"access_log": {"format": "{methd} {status}"}}"#,
            &[
                "1:27: access_log.format: `{methd}` is not a field of the access log; did you mean `{method}`?",
            ],
        ),
        (
            r#"{"access_log": {"format": "{request_header.a b}\n"}}"#,
            &[
                "1:27: access_log.format: the template holds a line break; remove it: each line gets one",
            ],
        ),
        (
            r#"{"access_log": {"format": "{plugins}"}}"#,
            &["1:27: access_log.format: `{plugins}` is a list; remove it, or write \"json\" \
                 for the whole format"],
        ),
        (
            r#"{"access_log": {"format": "{phases}"}}"#,
            &[
                "1:27: access_log.format: `{phases}` has several values; write the one that you mean: \
                 `{upstream_us}`",
            ],
        ),
        (
            r#"{"access_log": {"path": "/none/z.log"}}"#,
            &["1:25: access_log.path: there is no folder for the file `/none/z.log`; make the \
                 folder, or give another path"],
        ),
        (
            r#"{"access_log": {"path": "/locked/z.log"}}"#,
            &["1:25: access_log.path: cannot write the file `/locked/z.log`: permission denied; \
                 give a file that the gateway may write"],
        ),
        (
            r#"{"limits": {"header_bytes_max": 262144}}"#,
            &[
                "1:33: limits.header_bytes_max: `262144` is out of range; write a whole number from \
                 1024 to 196608",
            ],
        ),
        (
            r#"{"upstreams": {"a": {"balance": "p2c", "servers": [{"address": "a:1", "weight": 2}]}}}"#,
            &["1:33: upstreams.a.balance: `p2c` is not supported by this version: this balancing \
                 comes later; write \"round-robin\" or \"weighted\""],
        ),
        (
            r#"{"access_log": {"format": "main"}}"#,
            &[
                "1:27: access_log.format: `main` is not a format; write \"json\", \"combined\" or a \
                 template with `{status}`",
            ],
        ),
    ]);
}
