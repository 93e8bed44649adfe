//! `zproxy:gateway/request`.

use super::State;
use super::bindings::zproxy::gateway::request::Host;
use super::clean;
use crate::http::Fields;
use crate::http::Name;
use crate::http::parse::is_host;
use crate::plugin::declared::Field;

impl Host for State {
    fn get(&mut self, name: String) -> Option<Vec<u8>> {
        let exchange = self.seen()?;
        if name.starts_with(':') {
            let mut value = Vec::new();
            return Field::pseudo(&name)?.of_request(exchange, &mut value).then_some(value);
        }
        let separator: &[u8] = if name.eq_ignore_ascii_case("cookie") { b"; " } else { b", " };
        Some(exchange.request.fields.joined(&name, separator)?.into_owned())
    }

    fn get_all(&mut self, name: String) -> Vec<Vec<u8>> {
        if name.starts_with(':') {
            return Host::get(self, name).into_iter().collect();
        }
        let Some(exchange) = self.seen() else { return Vec::new() };
        exchange.request.fields.all(&name).map(<[u8]>::to_vec).collect()
    }

    fn packed(&mut self) -> Vec<u8> {
        let packed = self.seen().map(|exchange| pack(&exchange.request.fields));
        packed.unwrap_or(Some(Vec::new())).unwrap_or_else(|| {
            self.violate(format_args!("request.packed"), FIELD_TOO_LONG);
            Vec::new()
        })
    }

    fn set(&mut self, name: String, value: Vec<u8>) {
        let Some(exchange) = self.edited(format_args!("request.set")) else { return };
        let done = if Name::of(name.as_bytes()) == Name::Host {
            let Some(authority) = std::str::from_utf8(&value).ok().filter(|_| is_host(&value))
            else {
                self.violate(format_args!("request.set(\"host\")"), "this is no host");
                return;
            };
            exchange.request.set_authority(authority)
        } else {
            exchange.request.fields.set(&name, &value)
        };
        if let Err(error) = done {
            self.violate(format_args!("request.set(\"{}\")", shown(&name)), error);
        }
    }

    fn append(&mut self, name: String, value: Vec<u8>) {
        let Some(exchange) = self.edited(format_args!("request.append")) else { return };
        // RFC 9112 §3.2: a request has one Host field, no more and no fewer.
        if Name::of(name.as_bytes()) == Name::Host {
            self.violate(format_args!("request.append(\"host\")"), ONE_HOST);
        } else if let Err(error) = exchange.request.fields.append(&name, &value) {
            self.violate(format_args!("request.append(\"{}\")", shown(&name)), error);
        }
    }

    fn remove(&mut self, name: String) {
        let Some(exchange) = self.edited(format_args!("request.remove")) else { return };
        if Name::of(name.as_bytes()) == Name::Host {
            self.violate(format_args!("request.remove(\"host\")"), ONE_HOST);
        } else if let Err(error) = exchange.request.fields.remove(&name) {
            self.violate(format_args!("request.remove(\"{}\")", shown(&name)), error);
        }
    }

    fn set_path(&mut self, path_and_query: String) {
        let Some(exchange) = self.edited(format_args!("request.set-path")) else { return };
        if let Err(error) = exchange.request.set_target(&path_and_query) {
            self.violate(format_args!("request.set-path"), error);
        }
    }

    fn param(&mut self, name: String) -> Option<Vec<u8>> {
        self.seen()?.param(&name).map(|value| value.as_bytes().to_vec())
    }

    fn set_upstream(&mut self, name: String) -> bool {
        let exchange = self.edited(format_args!("request.set-upstream"));
        exchange.is_some_and(|exchange| exchange.set_upstream(&name))
    }
}

const ONE_HOST: &str = "`host` can be set, but neither added nor removed";

pub(super) const FIELD_TOO_LONG: &str = "a field is longer than the 65,535 bytes that fit";

/// A name that a plugin gave, fit for a message.
pub(super) fn shown(name: &str) -> String {
    clean(name.as_bytes(), 64)
}

/// All fields in one buffer; `None` when one of them is too long for its length to fit.
pub(super) fn pack(fields: &Fields) -> Option<Vec<u8>> {
    let mut packed = Vec::with_capacity(fields.written_len());
    for (name, value) in fields.iter() {
        packed.extend_from_slice(&u16::try_from(name.len()).ok()?.to_le_bytes());
        packed.extend_from_slice(&u16::try_from(value.len()).ok()?.to_le_bytes());
        packed.extend_from_slice(name);
        packed.extend_from_slice(value);
    }
    Some(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_packed_in_order() {
        let mut fields = Fields::default();
        fields.push("Ab", b"c");
        fields.push("d", b"");

        assert_eq!(pack(&fields).unwrap(), b"\x02\0\x01\0Abc\x01\0\0\0d");
    }

    /// A plugin that looks for bad values must not be shown a part of one as the whole.
    #[test]
    fn a_field_that_does_not_fit_is_not_cut() {
        let mut fields = Fields::default();
        fields.push("a", &[b'x'; 65_536]);

        assert_eq!(pack(&fields), None);
    }
}
