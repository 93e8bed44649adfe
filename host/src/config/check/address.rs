//! Addresses as they are written: where to listen, where servers are, URLs.
//!
//! Most of the code guesses what a wrong one was meant to be, so that the cure can be copied.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::config::problem::{Refusal, quote};
use crate::config::settings::{Address, ServerAddress};

/// What a socket's path may hold: `sun_path` of Linux less its final zero.
const UNIX_PATH_BYTES_MAX: usize = 107;

/// Where a listener listens.
pub(in crate::config) fn listen(text: &str) -> Result<Address, Refusal> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(path).map(Address::Unix);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Address::Tcp(address));
    }
    Err(wrong_listen(text))
}

/// The address of the short form, which has its port in a key of its own.
pub(super) fn listen_ip(text: &str) -> Result<IpAddr, Refusal> {
    if let Ok(ip) = text.parse() {
        return Ok(ip);
    }
    let wrong = |cure: String| Err((format!("{} is not an IP address", quote(text)), cure));
    if let Ok(address) = text.parse::<SocketAddr>() {
        let (ip, port) = (address.ip(), address.port());
        return wrong(format!("write `\"listen_address\": \"{ip}\", \"listen_port\": {port}`"));
    }
    match text {
        "localhost" => wrong("write \"127.0.0.1\"".into()),
        "*" | "" => wrong("write \"0.0.0.0\" for every interface".into()),
        _ if text.starts_with("unix:") => {
            wrong(format!("write `\"listeners\": [{{\"address\": {}}}]`", json(text)))
        }
        _ => wrong("write one like \"127.0.0.1\", \"0.0.0.0\" or \"::\"".into()),
    }
}

/// Whether only this machine can reach `address`.
pub(super) fn is_local(address: &Address) -> bool {
    match address {
        Address::Tcp(address) => address.ip().to_canonical().is_loopback(),
        Address::Unix(_) => true,
    }
}

/// Where a server of an upstream is.
pub(super) fn server(text: &str) -> Result<ServerAddress, Refusal> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(path).map(ServerAddress::Unix);
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let tls = scheme.eq_ignore_ascii_case("https");
        let host = with_port(rest.split('/').next().unwrap_or_default(), tls);
        let message = format!("{} is a URL", quote(text));
        let mut cure = format!("write the address alone: {}", json(&host));
        if tls {
            cure += ", and `\"tls\": {}` beside `servers`";
        }
        return Err((message, cure));
    }
    if text.starts_with('/') {
        let message = format!("{} is a path, not an address", quote(text));
        return Err((message, format!("write {}", json(&format!("unix:{text}")))));
    }
    if text.contains('/') {
        let host = text.split('/').next().unwrap_or_default();
        let message = format!("{} has a path", quote(text));
        return Err((message, format!("write the address alone: {}", json(host))));
    }
    if !has_port(text) {
        return Err(no_port(text, 80));
    }
    host_and_port(text)
}

/// The server that a URL leads to, the URL in one spelling, and whether it speaks TLS.
///
/// A path is refused: for nginx it replaces the route's prefix, for others it is put in front,
/// and `rewrite` says either clearly. `route` is the path of the route, for the cure.
pub(super) fn url(text: &str, route: &str) -> Result<(ServerAddress, String, bool), Refusal> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        _ => {
            let message = format!("{} has a scheme that is not served", quote(text));
            return Err((message, "write `http://host:port`".into()));
        }
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.contains('@') {
        let message = format!("{} holds a user name", quote(text));
        return Err((message, "write `http://host:port`".into()));
    }
    let with_port = with_port(authority, tls);
    let server = host_and_port(&with_port)?;
    let url = format!("{}://{with_port}", if tls { "https" } else { "http" });
    if path.is_empty() || path == "/" && route == "/" {
        return Ok((server, url, tls));
    }
    Err(url_with_path(text, &url, path, route))
}

/// `authority` with a port: the usual one, when it has none.
fn with_port(authority: &str, tls: bool) -> String {
    match (has_port(authority), tls) {
        (true, _) => authority.to_owned(),
        (false, true) => format!("{authority}:443"),
        (false, false) => format!("{authority}:80"),
    }
}

/// Host and port of a server, both present.
fn host_and_port(text: &str) -> Result<ServerAddress, Refusal> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        if address.port() == 0 {
            return Err((format!("{} has port 0", quote(text)), "write the server's port".into()));
        }
        return Ok(ServerAddress::Ip(address));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let Some(port) = port.parse::<u16>().ok().filter(|port| *port > 0) else {
        let message = format!("{} has no valid port", quote(text));
        return Err((message, "write a port from 1 to 65535".into()));
    };
    if let Ok(IpAddr::V6(ip)) = host.parse() {
        let message = format!("{} is IPv6 without brackets", quote(text));
        return Err((message, format!("write \"[{ip}]:{port}\"")));
    }
    if !is_host_name(host) {
        let message = format!("{} is not a host", quote(host));
        return Err((message, "write an IP address or a host name".into()));
    }
    Ok(ServerAddress::Name { host: host.to_ascii_lowercase().into(), port })
}

fn url_with_path(text: &str, url: &str, path: &str, route: &str) -> Refusal {
    let message = format!("{} has a path, and a route keeps the path of the request", quote(text));
    if path.contains(['?', '#']) {
        return (message, format!("write {}", json(url)));
    }
    let path = path.trim_end_matches('/');
    let below = route.trim_end_matches('/');
    if path.is_empty() && !route.contains('{') {
        let strip = format!("`\"rewrite\": {{\"strip_prefix\": {}}}`", json(route));
        let cure = format!("write {}, and to take {} off {strip}", json(url), quote(route));
        return (message, cure);
    }
    let wild = if below.contains("{*") { below.to_owned() } else { format!("{below}/{{*rest}}") };
    let name = wild.rsplit("{*").next().unwrap_or_default().trim_end_matches('}');
    let new = json(&format!("{path}/{{{name}}}"));
    let (wild, shown) = (json(&wild), json(url));
    let cure = if path.is_empty() {
        let rewrite = format!("`\"path\": {wild}, \"rewrite\": {{\"path\": {new}}}`");
        format!("write {shown}, and to take {} off {rewrite}", quote(route))
    } else {
        format!("write `\"path\": {wild}, \"upstream\": {shown}, \"rewrite\": {{\"path\": {new}}}`")
    };
    (message, cure)
}

/// Path of a Unix socket.
fn unix(path: &str) -> Result<PathBuf, Refusal> {
    if !path.starts_with('/') {
        let message = format!("{} is not a whole path", quote(path));
        return Err((message, "write it from the root: \"unix:/run/zproxy.sock\"".into()));
    }
    if path.len() > UNIX_PATH_BYTES_MAX {
        let message = format!("{} is longer than {UNIX_PATH_BYTES_MAX} bytes", quote(path));
        return Err((message, "use a shorter path, the system allows no more".into()));
    }
    Ok(path.into())
}

fn wrong_listen(text: &str) -> Refusal {
    let message = format!("{} is not an address to listen on", quote(text));
    let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    if let Some(bare) = text.strip_prefix("https://") {
        let bare = json(bare.trim_end_matches('/'));
        return (message, format!("write {bare}, and `\"tls\": {{…}}` beside `address`"));
    }
    if bare != text && bare.parse::<SocketAddr>().is_ok() {
        return (message, format!("write {}", json(bare)));
    }
    if text.starts_with('/') {
        return (message, format!("write {}", json(&format!("unix:{text}"))));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return no_port(&SocketAddr::new(ip, 8080).to_string().replace(":8080", ""), 8080);
    }
    let (host, port) = bare.rsplit_once(':').unwrap_or(("", bare));
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        let cure = match (host, port) {
            ("", "localhost") => "write \"127.0.0.1:8080\"",
            _ => "write \"ip:port\", such as \"127.0.0.1:8080\", or \"unix:/path\"",
        };
        return (message, cure.into());
    }
    let Ok(port) = port.parse::<u16>() else {
        return (message, "write a port from 0 to 65535".into());
    };
    let cure = match host {
        "" | "*" => format!(
            "write \"0.0.0.0:{port}\" for every interface, or \"127.0.0.1:{port}\" for this machine"
        ),
        "localhost" => format!("write \"127.0.0.1:{port}\" or \"[::1]:{port}\""),
        _ if host.parse::<IpAddr>().is_ok() => format!("write \"[{host}]:{port}\""),
        _ => format!("write the IP address of an interface, or \"0.0.0.0:{port}\" for every one"),
    };
    (message, cure)
}

fn no_port(host: &str, port: u16) -> Refusal {
    let bracketed = match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => format!("[{host}]:{port}"),
        _ => format!("{host}:{port}"),
    };
    (format!("{} has no port", quote(host)), format!("write {}", json(&bracketed)))
}

/// Whether `text` ends in a port; the colons of an IPv6 address are none.
pub(super) fn has_port(text: &str) -> bool {
    match text.rsplit_once(':') {
        Some((host, _)) => !host.contains(':') || host.ends_with(']'),
        None => false,
    }
}

/// Whether `text` can be the name of a host. RFC 1123 §2.1; `_` is common inside clusters.
pub(super) fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(inner)
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    // RFC 1123 §2.1: a last label of digits only would be a mistyped IPv4 address.
    let numeric =
        name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    name.len() <= 253 && name.split('.').all(label) && !numeric
}

/// `text` as it is written in the file.
pub(super) fn json(text: &str) -> String {
    serde_json::Value::from(crate::config::problem::shorten(text)).to_string()
}
