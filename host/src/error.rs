//! What can be wrong with a request, with its way or with its answer, and what becomes of it then.
//!
//! Start and reload fail with `anyhow::Error` or `config::Problems`, for a person to read.

/// Why a request is not answered as its client wished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The client's bytes are no request, or one that two parsers could read differently.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// The head is longer than `limits.header_bytes_max` or has more than `headers_max` fields.
    #[error("request head too large")]
    HeadTooLarge,
    /// The target is longer than `limits.uri_bytes_max`.
    #[error("request target too long")]
    TargetTooLong,
    /// HTTP without TLS, on a port that speaks TLS.
    #[error("plain HTTP was sent to a port that speaks TLS: use https://")]
    PlainHttp,
    /// The connection was made to another host, with a certificate that is not for this one.
    #[error("this connection is not for this host")]
    Misdirected,
    /// The body is longer than the route allows.
    #[error("request body too large")]
    BodyTooLarge,
    /// The client did not finish its request in time.
    #[error("client too slow")]
    ClientTimeout,
    /// The client left before it had its answer.
    #[error("client left")]
    ClientGone,
    /// An HTTP version that this gateway does not speak.
    #[error("HTTP version not supported")]
    Version,
    /// A transfer coding other than chunked, or a method that only a forward proxy has.
    #[error("not implemented: {0}")]
    NotImplemented(&'static str),
    /// An expectation other than 100-continue.
    #[error("expectation failed")]
    Expectation,
    /// No route for this host and path.
    #[error("no route for this host and path")]
    NoRoute,
    /// The route does not allow this method.
    #[error("method not allowed")]
    MethodNotAllowed,
    /// Every connection that `limits.connections_max` allows is taken.
    #[error("too many connections")]
    Overloaded,
    /// Every WebSocket that the route's `websocket.connections_max` allows is open.
    #[error("too many WebSockets")]
    WebSocketsTaken,
    /// A plugin failed, and its `on_error` is closed.
    #[error("a plugin failed")]
    Plugin,
    /// A plugin broke off the message whose body it was shown.
    #[error("a plugin broke the message off")]
    Aborted,
    /// The server's name cannot be resolved.
    #[error("server name cannot be resolved")]
    Dns,
    /// The server refused the connection.
    #[error("connection refused")]
    Refused,
    /// The server cannot be reached for another reason.
    #[error("cannot connect")]
    Connect,
    /// The server's certificate cannot be believed.
    #[error("certificate not verified")]
    TlsCertificate,
    /// The server has ended the handshake.
    #[error("TLS alert from the server")]
    TlsAlert,
    /// The server and the gateway do not agree on TLS, or the server speaks none.
    #[error("TLS handshake failed")]
    TlsProtocol,
    /// The connection was not established in time.
    #[error("connect timed out")]
    ConnectTimeout,
    /// No response head in time.
    #[error("response timed out")]
    ResponseTimeout,
    /// The server has not begun with the request, and says so.
    #[error("the server did not take the request")]
    Unprocessed,
    /// The connection ended before a response.
    #[error("connection ended before a response")]
    Closed,
    /// The upstream's bytes are no response, or an ambiguous one.
    #[error("malformed response: {0}")]
    BadResponse(&'static str),
    /// The upstream has cancelled the request.
    #[error("the upstream has cancelled the request")]
    Cancelled,
    /// The upstream has had enough of what this gateway asks for.
    #[error("the upstream takes no more")]
    Exhausted,
    /// The upstream's response head is too large.
    #[error("response head too large")]
    ResponseHeadTooLarge,
}

impl RequestError {
    /// What the client sees. It never learns more than this: details go to the log.
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed(_) | Self::PlainHttp => 400,
            Self::NoRoute => 404,
            Self::MethodNotAllowed => 405,
            Self::ClientTimeout => 408,
            Self::BodyTooLarge => 413,
            Self::TargetTooLong => 414,
            // Nobody sees it; the access log does.
            Self::ClientGone => 499,
            Self::Expectation => 417,
            Self::Misdirected => 421,
            Self::HeadTooLarge => 431,
            Self::NotImplemented(_) => 501,
            Self::Dns
            | Self::Refused
            | Self::Connect
            | Self::TlsCertificate
            | Self::TlsAlert
            | Self::TlsProtocol
            | Self::Closed
            | Self::Unprocessed
            | Self::Aborted
            | Self::BadResponse(_)
            | Self::Cancelled
            | Self::Exhausted
            | Self::ResponseHeadTooLarge => 502,
            Self::Overloaded | Self::WebSocketsTaken | Self::Plugin => 503,
            Self::ConnectTimeout | Self::ResponseTimeout => 504,
            Self::Version => 505,
        }
    }

    /// The error type of `Proxy-Status` (RFC 9209 §2.3), for what happened between gateway and
    /// upstream or inside the gateway.
    pub fn proxy_status(self) -> &'static str {
        match self {
            Self::Malformed(_)
            | Self::PlainHttp
            | Self::Misdirected
            | Self::HeadTooLarge
            | Self::TargetTooLong
            | Self::BodyTooLarge
            | Self::ClientTimeout
            | Self::ClientGone
            | Self::Version
            | Self::NotImplemented(_)
            | Self::Expectation => "http_request_error",
            Self::NoRoute => "destination_not_found",
            Self::MethodNotAllowed => "http_request_denied",
            Self::Overloaded | Self::WebSocketsTaken => "connection_limit_reached",
            Self::Plugin => "proxy_internal_error",
            Self::Aborted => "proxy_internal_response",
            Self::Dns => "dns_error",
            Self::Refused => "connection_refused",
            Self::Connect => "destination_ip_unroutable",
            Self::TlsCertificate => "tls_certificate_error",
            Self::TlsAlert => "tls_alert_received",
            Self::TlsProtocol => "tls_protocol_error",
            Self::ConnectTimeout => "connection_timeout",
            Self::ResponseTimeout => "http_response_timeout",
            Self::Closed | Self::Unprocessed => "connection_terminated",
            Self::BadResponse(_) | Self::Cancelled | Self::Exhausted => "http_protocol_error",
            Self::ResponseHeadTooLarge => "http_response_header_section_size",
        }
    }
}
