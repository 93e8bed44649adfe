//! Which methods a route takes.
//!
//! Not here: what a method means for a message (`http::head`).

/// Known methods, in the order in which `Allow` names them. A method's bit is its position.
const KNOWN: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];

const GET: u16 = 1;
const HEAD: u16 = 1 << 1;

/// The method of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Method<'a> {
    /// Zero for a method that is not in [`KNOWN`].
    bit: u16,
    name: &'a str,
}

impl<'a> Method<'a> {
    pub(super) fn of(name: &'a str) -> Self {
        // Methods are case-sensitive (RFC 9110 §9.1).
        let bit = match name {
            "GET" => GET,
            _ => bit_of(name),
        };
        Self { bit, name }
    }
}

/// The methods that a route takes.
#[derive(Debug)]
pub(super) enum Methods {
    Any,
    Some { known: u16, others: Box<[Box<str>]> },
}

impl Methods {
    /// None listed means any. HEAD comes with GET: it asks for the same without the content
    /// (RFC 9110 §9.3.2).
    pub(super) fn new(names: &[String]) -> Self {
        if names.is_empty() {
            return Self::Any;
        }
        let mut known = names.iter().fold(0, |bits, name| bits | bit_of(name));
        if known & GET != 0 {
            known |= HEAD;
        }
        let others = names.iter().filter(|name| bit_of(name) == 0);
        Self::Some { known, others: others.map(|name| name.as_str().into()).collect() }
    }

    pub(super) fn allow(&self, method: Method<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Some { known, others } => {
                known & method.bit != 0
                    || (method.bit == 0 && others.iter().any(|other| **other == *method.name))
            }
        }
    }
}

/// The value of `Allow` (RFC 9110 §10.2.1) for several routes that match one path.
#[derive(Debug, Default)]
pub(super) struct Allow<'r> {
    known: u16,
    others: Vec<&'r str>,
}

impl<'r> Allow<'r> {
    pub(super) fn add(&mut self, methods: &'r Methods) {
        if let Methods::Some { known, others } = methods {
            self.known |= known;
            for other in others {
                if !self.others.contains(&&**other) {
                    self.others.push(other);
                }
            }
        }
    }

    pub(super) fn value(&self) -> String {
        let known = KNOWN.iter().filter(|name| self.known & bit_of(name) != 0);
        let names: Vec<&str> = known.copied().chain(self.others.iter().copied()).collect();
        names.join(", ")
    }
}

fn bit_of(name: &str) -> u16 {
    KNOWN.iter().position(|known| *known == name).map_or(0, |position| 1 << position)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn methods(names: &[&str]) -> Methods {
        Methods::new(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn head_is_allowed_where_get_is() {
        assert!(methods(&["GET"]).allow(Method::of("HEAD")));
        assert!(!methods(&["POST"]).allow(Method::of("HEAD")));
        assert!(!methods(&["HEAD"]).allow(Method::of("GET")));
    }

    #[test]
    fn methods_are_case_sensitive_and_may_be_unknown() {
        assert!(methods(&[]).allow(Method::of("BREW")));
        assert!(methods(&["BREW"]).allow(Method::of("BREW")));
        assert!(!methods(&["BREW"]).allow(Method::of("brew")));
        assert!(!methods(&["GET"]).allow(Method::of("get")));
    }

    #[test]
    fn allow_names_each_method_once() {
        let (first, second) = (methods(&["BREW", "POST"]), methods(&["GET", "POST", "BREW"]));
        let mut allow = Allow::default();
        allow.add(&first);
        allow.add(&second);

        assert_eq!(allow.value(), "GET, HEAD, POST, BREW");
    }
}
