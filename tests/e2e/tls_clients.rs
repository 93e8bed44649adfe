//! TLS as other people's clients speak it: curl, OpenSSL's `s_client`, Python's `ssl`.
//!
//! A client that this machine does not have is left out, and said so.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use crate::harness::tls::Authority;
use crate::harness::{Gateway, Launch, Upstream};

struct Site {
    gateway: Gateway,
    ca: String,
    port: String,
}

fn site(upstream: &Upstream) -> Site {
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let ca = authority.write(dir.path().join("ca.pem")).display().to_string();
    let files = authority.issue(dir.path(), "a", &["localhost", "127.0.0.1"]);
    let gateway = Launch::config(json!({
        "listeners": [{ "address": "127.0.0.1:0", "tls": { "certificates": [files.entry()] } }],
        "routes": [{ "path": "/", "upstream": upstream.url() }],
    }));
    let gateway = gateway.within(dir).start();
    let port = gateway.address().rsplit_once(':').unwrap().1.to_owned();
    Site { gateway, ca, port }
}

/// Runs a program to its end: whether it succeeded, and all that it said. `None`: there is no such program.
fn run(program: &str, arguments: &[&str], input: &str) -> Option<(bool, String)> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        eprintln!("left out: there is no {program}");
        return None;
    };
    // It may end without reading.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let ran = child.wait_with_output().unwrap();
    let said = [ran.stdout, ran.stderr].concat();
    Some((ran.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[test]
fn curl_gets_answers_by_both_versions_and_sends_bodies() {
    let upstream = Upstream::echoing();
    let site = site(&upstream);
    let url = format!("https://localhost:{}/", site.port);
    let dir = TempDir::new().unwrap();
    let body = dir.path().join("body");
    std::fs::write(&body, "x".repeat(1_000_000)).unwrap();
    let data = format!("@{}", body.display());
    for version in [&["--tlsv1.2", "--tls-max", "1.2"], &["--tlsv1.3", "--tls-max", "1.3"]] {
        let resolve = format!("localhost:{}:127.0.0.1", site.port);
        let mut arguments = vec!["-sS", "--cacert", &site.ca, "--resolve", &resolve];
        arguments.extend(version);
        // Twice on one connection.
        arguments.extend(["--data-binary", &data, &url, &url]);
        let Some((ok, said)) = run("curl", &arguments, "") else { return };
        assert!(ok && said.len() == 2_000_000, "{}", &said[..said.len().min(1000)]);
    }
    let old =
        ["-sS", "--cacert", &site.ca, "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0", &url];
    let (ok, said) = run("curl", &old, "").unwrap();
    assert!(!ok, "{said}");
}

#[test]
fn openssl_resumes_sessions_and_gets_no_renegotiation() {
    let upstream = Upstream::answering("hello");
    let site = site(&upstream);
    let address = format!("127.0.0.1:{}", site.port);
    let dir = TempDir::new().unwrap();
    let session = dir.path().join("session").display().to_string();
    let get = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    for version in ["-tls1_2", "-tls1_3"] {
        let base = ["s_client", "-connect", &address, "-CAfile", &site.ca, "-verify_return_error"];
        let more = |last: &[&'static str]| -> Vec<String> {
            let all = base.iter().chain([&version]).chain(["-ign_eof"].iter()).chain(last);
            all.map(ToString::to_string).collect()
        };
        let mut first = more(&["-sess_out"]);
        first.push(session.clone());
        let first: Vec<&str> = first.iter().map(String::as_str).collect();
        let Some((ok, said)) = run("openssl", &first, get) else { return };
        assert!(ok && said.contains("New, TLSv1.") && said.contains("hello"), "{said}");
        assert!(said.contains("Compression: NONE") || version == "-tls1_3", "{said}");

        let mut again = more(&["-sess_in"]);
        again.push(session.clone());
        let again: Vec<&str> = again.iter().map(String::as_str).collect();
        let (ok, said) = run("openssl", &again, get).unwrap();
        assert!(ok && said.contains("Reused, TLSv1.") && said.contains("hello"), "{said}");
    }
    // `R` asks for another handshake.
    let base = ["s_client", "-connect", &address, "-CAfile", &site.ca, "-tls1_2"];
    let (_, said) = run("openssl", &base, "R\n").unwrap();
    assert!(said.contains("RENEGOTIATING"), "{said}");
    assert!(said.contains("no renegotiation") || said.contains("error"), "{said}");
    for old in ["-tls1", "-tls1_1"] {
        let cipher = ["-cipher", "DEFAULT@SECLEVEL=0"];
        let arguments = [&["s_client", "-connect", &address, old], cipher.as_slice()].concat();
        let (ok, said) = run("openssl", &arguments, "").unwrap();
        assert!(!ok, "{said}");
    }
    assert_eq!(site.gateway.admin("/readyz").status(), 200);
}

/// What scanners look for first, without one (`make tls-scan` has two).
#[test]
fn openssl_finds_nothing_old() {
    let upstream = Upstream::answering("hello");
    let site = site(&upstream);
    let address = format!("127.0.0.1:{}", site.port);
    let base = ["s_client", "-connect", &address, "-CAfile", &site.ca];
    let ask = |more: &[&str]| run("openssl", &[&base, more].concat(), "");

    // All that there is of TLS 1.2 but what has both forward secrecy and authenticated encryption.
    let old = ["-tls1_2", "-cipher", "ALL:COMPLEMENTOFALL:!AESGCM:!CHACHA20:@SECLEVEL=0"];
    let Some((ok, said)) = ask(&old) else { return };
    assert!(!ok && said.contains("handshake failure"), "{said}");
    let (ok, said) = ask(&["-tls1_2", "-cipher", "kRSA:kDHE:kPSK:@SECLEVEL=0"]).unwrap();
    assert!(!ok && said.contains("handshake failure"), "{said}");
    let (ok, said) = ask(&["-groups", "P-521:ffdhe2048"]).unwrap();
    assert!(!ok && said.contains("handshake failure"), "{said}");
    // RFC 7301 §3.2: nothing in common is an error, and not a guess.
    let (ok, said) = ask(&["-alpn", "nonsense"]).unwrap();
    assert!(!ok && said.contains("no application protocol"), "{said}");

    let (ok, said) = ask(&["-tls1_2", "-comp", "-status"]).unwrap();
    assert!(ok && said.contains("Secure Renegotiation IS supported"), "{said}");
    assert!(said.contains("Compression: NONE") && said.contains("Extended master secret: yes"));
    let hello = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let new = [&base[..], &["-tls1_3", "-ign_eof"]].concat();
    let (ok, said) = run("openssl", &new, hello).unwrap();
    // What can be replayed is not taken.
    assert!(ok && said.contains("Max Early Data: 0"), "{said}");
}

#[test]
fn python_sees_an_orderly_end() {
    let upstream = Upstream::answering("hello");
    let site = site(&upstream);
    // `suppress_ragged_eofs=False`: an end without a goodbye is an error.
    let script = format!(
        r"
import socket, ssl
context = ssl.create_default_context(cafile={ca:?})
for close in (b'', b'Connection: close\r\n'):
    raw = socket.create_connection(('127.0.0.1', {port}))
    tls = context.wrap_socket(raw, server_hostname='localhost', suppress_ragged_eofs=False)
    tls.sendall(b'GET / HTTP/1.1\r\nHost: localhost\r\n' + close + b'\r\n')
    answer = b''
    while not answer.endswith(b'hello'):
        answer += tls.recv(65536)
    if close:
        assert tls.recv(1) == b''
    tls.unwrap()
    print(tls.version() or 'done')
",
        ca = site.ca,
        port = site.port
    );
    let Some((ok, said)) = run("python3", &["-c", &script], "") else { return };
    assert!(ok, "{said}");
}

/// Whoever reaches the socket's file speaks TLS there as elsewhere.
#[test]
fn curl_speaks_tls_over_a_unix_socket() {
    let upstream = Upstream::answering("hello");
    let (authority, dir) = (Authority::new("root"), TempDir::new().unwrap());
    let ca = authority.write(dir.path().join("ca.pem")).display().to_string();
    let files = authority.issue(dir.path(), "a", &["localhost"]);
    let socket = dir.path().join("s").display().to_string();
    let address = format!("unix:{socket}");
    let gateway = Launch::config(json!({
        "listeners": [{ "address": address, "tls": { "certificates": [files.entry()] } }],
        "routes": [{ "path": "/", "upstream": upstream.url() }],
    }));
    let _gateway = gateway.within(dir).start();

    let arguments = ["-sS", "--cacert", &ca, "--unix-socket", &socket, "https://localhost/"];
    let Some((ok, said)) = run("curl", &arguments, "") else { return };

    assert!(ok && said == "hello", "{said}");
    assert_eq!(upstream.last_request().field("x-forwarded-proto"), Some("https"));
}
