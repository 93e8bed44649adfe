//! TLS and the PROXY protocol as they are written.

use super::*;
use crate::config::{ClientAuth, HostPattern, ServerAddress, TlsVersion, UpstreamKind};

const PAIR: &str = r#"{"cert_path": "c.pem", "key_path": "k.pem"}"#;

#[test]
fn a_listener_says_which_certificates_and_how_strict() {
    let (_, settings) = Fake::default()
        .load(
            r#"{"listeners": [{
                "address": "127.0.0.1:1", "proxy_protocol": true,
                "tls": {
                    "certificates": [
                        {"cert_path": "a.pem", "key_path": "a.key", "sni": ["A.test", "*.b.test"]},
                        {"cert_path": "c.pem", "key_path": "c.key"}
                    ],
                    "client_auth": "optional", "client_ca_path": "ca.pem", "min_version": "1.3"
                }
            }], "trusted_proxies": ["10.0.0.0/8"]}"#,
        )
        .unwrap();

    let listener = &settings.listeners[0];
    assert!(listener.proxy_protocol);
    let tls = listener.tls.as_ref().unwrap();
    let names =
        [HostPattern::Exact("a.test".into()), HostPattern::Suffix(".b.test".into())].to_vec();
    assert_eq!(tls.certificates[0].sni, names);
    assert_eq!(&*tls.certificates[1].at, "listeners[0].tls.certificates[1]");
    assert_eq!(tls.client_auth, ClientAuth::Optional("ca.pem".into()));
    assert_eq!(
        (tls.min_version, tls.alpn.as_slice()),
        (TlsVersion::V13, ["h2", "http/1.1"].as_slice())
    );
}

#[test]
fn servers_speak_tls_by_a_block_or_by_their_url() {
    let (_, settings) = Fake::default()
        .load(
            r#"{
            "upstreams": {
                "a": {"servers": ["h:1"], "tls": {"sni": "Inside.test", "verify": "insecure"}},
                "b": {"servers": ["h:1"], "tls": {"enabled": false}}
            },
            "routes": [
                {"path": "/a", "upstream": "a"}, {"path": "/b", "upstream": "b"},
                {"path": "/c", "upstream": "https://Secure.test"}
            ]}"#,
        )
        .unwrap();

    let [a, b, c] = settings.upstreams.as_slice() else { panic!("{settings:?}") };
    let tls = a.tls.as_ref().unwrap();
    assert_eq!((tls.server_name.as_deref(), tls.verify), (Some("inside.test"), false));
    assert!(b.tls.is_none());
    assert!(c.tls.as_ref().is_some_and(|tls| tls.verify && tls.server_name.is_none()));
    let UpstreamKind::Servers(servers) = &c.kind else { panic!("{c:?}") };
    let address = ServerAddress::Name { host: "secure.test".into(), port: 443 };
    assert_eq!((&servers[0].address, &*c.name), (&address, "https://Secure.test:443"));
}

#[test]
fn what_would_protect_less_than_it_says_is_refused() {
    let listener =
        |tls: &str| format!(r#"{{"listeners": [{{"address": "[::]:1", "tls": {tls}}}]}}"#);
    let upstream = |server: &str, tls: &str| {
        format!(r#"{{"upstreams": {{"a": {{"servers": ["{server}"], "tls": {tls}}}}}}}"#)
    };
    for (text, expected) in [
        (listener("{}"), "listeners[0].tls: the key `certificates` is missing"),
        (listener(r#"{"certificates": []}"#), "listeners[0].tls.certificates: "),
        (
            listener(&format!(r#"{{"certificates": [{PAIR}], "client_ca_path": "ca"}}"#)),
            "listeners[0].tls.client_ca_path: clients are not asked",
        ),
        (
            listener(&format!(r#"{{"certificates": [{PAIR}], "client_auth": "required"}}"#)),
            "listeners[0].tls.client_auth: nothing says whose certificates",
        ),
        (
            listener(&format!(r#"{{"certificates": [{PAIR}], "min_version": "1.1"}}"#)),
            "listeners[0].tls.min_version: `1.1` is not known here",
        ),
        (
            r#"{"listeners": [{"address": "0.0.0.0:1", "proxy_protocol": true}]}"#.into(),
            "listeners[0].proxy_protocol: nobody is trusted",
        ),
        (r#"{"tls": {"enabled": true}}"#.into(), "tls: TLS needs `cert_path`"),
        (
            r#"{"listeners": [{"address": "0.0.0.0:1"}], "tls": {"enabled": true, "cert_path": "c", "key_path": "k"}}"#.into(),
            "tls: there is no `listen_address`",
        ),
        (upstream("h:1", r#"{"verify": false}"#), "upstreams.a.tls.verify: without verification"),
        (upstream("h:1", r#"{"sni": "*.test"}"#), "upstreams.a.tls.sni: `*.test` is not the name of one host"),
        (upstream("h:1", r#"{"cert_path": "c"}"#), "upstreams.a.tls.cert_path: its key is missing"),
        (upstream("unix:/s", "{}"), "upstreams.a.tls: a server at a Unix socket has no name"),
    ] {
        let lines = Fake::default().lines(&text);
        assert!(lines.iter().any(|line| line.contains(expected)), "{expected}: {lines:?}");
    }
}
