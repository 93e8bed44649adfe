//! Where plugins may send requests, as the gateway runs on it.
//!
//! Not here: what operators write for it (`file`), and checking that (`check`).

use super::settings::HostPattern;

/// Where a plugin may send requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To this upstream, an index into `Settings::upstreams`.
    Upstream(usize),
    /// To these URLs.
    Url(UrlPattern),
}

/// URLs that a plugin may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlPattern {
    /// `https`.
    pub tls: bool,
    /// A name in lower case, or an IP address without brackets.
    pub host: HostPattern,
    /// The scheme's, when none was written.
    pub port: u16,
    /// Without a query, beginning with `/`.
    pub path: Box<str>,
    /// Whether everything is meant that begins with `path`, which then ends with `/`.
    pub below: bool,
}

impl UrlPattern {
    /// Whether a request may go there. `host` is as in the pattern; `path` has no query, no dot
    /// segments and no escapes that another server could read as such.
    #[must_use]
    pub fn covers(&self, tls: bool, host: &str, port: u16, path: &str) -> bool {
        let host = match &self.host {
            HostPattern::Exact(name) => name == host,
            HostPattern::Suffix(suffix) => {
                host.strip_suffix(suffix.as_str()).is_some_and(|label| !label.is_empty())
            }
        };
        let path = match self.below {
            true => path.starts_with(&*self.path),
            false => path == &*self.path,
        };
        host && path && tls == self.tls && port == self.port
    }
}
