//! Requests and responses as a test writes them.

/// Names and values, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head(pub(crate) Vec<(String, Vec<u8>)>);

impl Head {
    pub(crate) fn all(&self, name: &str) -> Vec<Vec<u8>> {
        self.values(name).map(<[u8]>::to_vec).collect()
    }

    pub(crate) fn first(&self, name: &str) -> Option<&[u8]> {
        let mut fields = self.0.iter();
        let field = fields.find(|(found, _)| found.eq_ignore_ascii_case(name))?;
        Some(&field.1)
    }

    pub(crate) fn joined(&self, name: &str) -> Option<Vec<u8>> {
        let separator: &[u8] = if name.eq_ignore_ascii_case("cookie") { b"; " } else { b", " };
        let values: Vec<_> = self.values(name).collect();
        if values.is_empty() { None } else { Some(values.join(separator)) }
    }

    pub(crate) fn append(&mut self, name: &str, value: &[u8]) {
        self.0.push((name.to_owned(), value.to_vec()));
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.0.retain(|(found, _)| !found.eq_ignore_ascii_case(name));
    }

    pub(crate) fn set(&mut self, name: &str, value: &[u8]) {
        self.remove(name);
        self.append(name, value);
    }

    /// Laid out as `request.packed`. What does not fit a length is left out.
    pub(crate) fn packed(&self) -> Vec<u8> {
        let mut packed = Vec::new();
        for (name, value) in &self.0 {
            let lengths = (u16::try_from(name.len()), u16::try_from(value.len()));
            if let (Ok(name_length), Ok(value_length)) = lengths {
                packed.extend_from_slice(&name_length.to_le_bytes());
                packed.extend_from_slice(&value_length.to_le_bytes());
                packed.extend_from_slice(name.as_bytes());
                packed.extend_from_slice(value);
            }
        }
        packed
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0
            .iter()
            .filter(move |(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_slice())
    }
}

/// A request, as a client sends it or as the upstream gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) client_ip: String,
    pub(crate) route: String,
    pub(crate) params: Vec<(String, String)>,
    pub(crate) upstream: Option<String>,
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// A request for `path_and_query` on `localhost`, from 127.0.0.1, on the route `test`.
    #[must_use]
    pub fn new(method: &str, path_and_query: &str) -> Self {
        Self {
            method: method.to_owned(),
            path: path_and_query.to_owned(),
            client_ip: "127.0.0.1".to_owned(),
            route: "test".to_owned(),
            params: Vec::new(),
            upstream: None,
            head: Head(vec![("host".to_owned(), b"localhost".to_vec())]),
            body: Vec::new(),
        }
    }

    /// A request with the method `POST` and this body.
    #[must_use]
    pub fn post(path_and_query: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::new("POST", path_and_query) }
    }

    /// The same with the method `GET`.
    #[must_use]
    pub fn get(path_and_query: &str) -> Self {
        Self::new("GET", path_and_query)
    }

    /// Adds a field.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.head.append(name, value.as_ref());
        self
    }

    /// Sets a parameter of the route's path.
    #[must_use]
    pub fn with_param(mut self, name: &str, value: &str) -> Self {
        self.params.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The upstream that the plugin has chosen, if it has.
    #[must_use]
    pub fn chosen_upstream(&self) -> Option<&str> {
        self.upstream.as_deref()
    }

    /// Sets the client's address.
    #[must_use]
    pub fn from_client(mut self, ip: &str) -> Self {
        ip.clone_into(&mut self.client_ip);
        self
    }

    /// The first value of a field, when it is text.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.head.first(name)?).ok()
    }

    /// Each value of a field, in order.
    #[must_use]
    pub fn values(&self, name: &str) -> Vec<Vec<u8>> {
        self.head.all(name)
    }

    /// Path and query.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        &self.path
    }

    /// A field or a pseudo field.
    pub(crate) fn look_up(&self, name: &str) -> Option<Vec<u8>> {
        let text = |text: &str| Some(text.as_bytes().to_vec());
        match name.to_ascii_lowercase().as_str() {
            ":method" => text(&self.method),
            ":path" => text(&self.path),
            ":query" => self.path.split_once('?').and_then(|(_, query)| text(query)),
            ":protocol" => text("HTTP/1.1"),
            ":request-id" => self.head.joined("x-request-id"),
            ":authority" => self.head.joined("host"),
            ":scheme" => text("http"),
            ":client-ip" => text(&self.client_ip),
            ":client-address" => {
                let address = self.client_ip.parse::<std::net::IpAddr>().ok()?;
                Some(match address.to_canonical() {
                    std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
                    std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
                })
            }
            ":route" => text(&self.route),
            name => self.head.joined(name),
        }
    }
}

/// A response, as an upstream sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub(crate) status: u16,
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// A response without fields or body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, head: Head::default(), body: Vec::new() }
    }

    /// Adds a field.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.head.append(name, value.as_ref());
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The first value of a field, when it is text.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.head.first(name)?).ok()
    }

    /// A field; `set-cookie` is not joined.
    pub(crate) fn look_up(&self, name: &str) -> Option<Vec<u8>> {
        if name.eq_ignore_ascii_case("set-cookie") {
            return self.head.first(name).map(<[u8]>::to_vec);
        }
        self.head.joined(name)
    }
}
