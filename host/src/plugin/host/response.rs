//! `zproxy:gateway/response`.

use super::State;
use super::bindings::zproxy::gateway::response::Host;
use super::request::{FIELD_TOO_LONG, pack, shown};
use crate::http::Fields;
use crate::http::ResponseHead;
use crate::plugin::exchange::unpack;

/// What one hook may leave for later.
const LATER_BYTES_MAX: usize = 64 * 1024;

impl State {
    /// The response, for an edit by `what`; `None` while there is no response, so that the edit is
    /// lost as promised.
    fn edited_response(&mut self, what: std::fmt::Arguments<'_>) -> Option<&mut ResponseHead> {
        let response = &mut self.edited(what)?.response;
        (response.status != 0).then_some(response)
    }
}

impl Host for State {
    fn status(&mut self) -> u16 {
        self.seen().map_or(0, |exchange| exchange.response.status)
    }

    fn get(&mut self, name: String) -> Option<Vec<u8>> {
        let fields = &self.seen()?.response.fields;
        if name.eq_ignore_ascii_case("set-cookie") {
            return fields.get(&name).map(<[u8]>::to_vec);
        }
        Some(fields.joined(&name, b", ")?.into_owned())
    }

    fn get_all(&mut self, name: String) -> Vec<Vec<u8>> {
        let Some(exchange) = self.seen() else { return Vec::new() };
        exchange.response.fields.all(&name).map(<[u8]>::to_vec).collect()
    }

    fn packed(&mut self) -> Vec<u8> {
        let packed = self.seen().map(|exchange| pack(&exchange.response.fields));
        packed.unwrap_or(Some(Vec::new())).unwrap_or_else(|| {
            self.violate(format_args!("response.packed"), FIELD_TOO_LONG);
            Vec::new()
        })
    }

    fn set_status(&mut self, status: u16) {
        let what = format_args!("response.set-status");
        let Some(response) = self.edited_response(what) else { return };
        if let Err(error) = response.set_status(status) {
            self.violate(format_args!("response.set-status({status})"), error);
        }
    }

    fn set(&mut self, name: String, value: Vec<u8>) {
        let what = format_args!("response.set");
        let Some(response) = self.edited_response(what) else { return };
        if let Err(error) = response.fields.set(&name, &value) {
            self.violate(format_args!("response.set(\"{}\")", shown(&name)), error);
        }
    }

    fn append(&mut self, name: String, value: Vec<u8>) {
        let what = format_args!("response.append");
        let Some(response) = self.edited_response(what) else { return };
        if let Err(error) = response.fields.append(&name, &value) {
            self.violate(format_args!("response.append(\"{}\")", shown(&name)), error);
        }
    }

    fn append_later(&mut self, packed: Vec<u8>) {
        let what = format_args!("response.append-later");
        let Some(exchange) = self.exchange.as_deref() else {
            self.violate(what, "there is no exchange outside of a hook");
            return;
        };
        let there = exchange.response.status != 0;
        if packed.is_empty() {
            return;
        }
        let left: usize = self.later.iter().map(Vec::len).sum();
        if left + packed.len() > LATER_BYTES_MAX {
            self.violate(what, "more than 64 KiB");
            return;
        }
        for field in unpack(&packed) {
            let problem = match field {
                None => "the buffer is cut short".to_owned(),
                Some((name, value)) => match Fields::check(name, value) {
                    Ok(()) if there => {
                        let (name, value) = (name.to_owned(), value.to_vec());
                        Host::append(self, name, value);
                        continue;
                    }
                    Ok(()) => continue,
                    Err(error) => format!("\"{}\": {error}", shown(name)),
                },
            };
            self.violate(what, problem);
            return;
        }
        if !there {
            self.later.push(packed);
        }
    }

    fn remove(&mut self, name: String) {
        let what = format_args!("response.remove");
        let Some(response) = self.edited_response(what) else { return };
        if let Err(error) = response.fields.remove(&name) {
            self.violate(format_args!("response.remove(\"{}\")", shown(&name)), error);
        }
    }
}
