//! `zproxy:gateway/reply`.
//!
//! A reply is kept apart from the exchange until its hook has ended well, so that a hook that
//! fails after `send` has not destroyed the response that it was shown.

use bytes::Bytes;

use super::State;
use super::bindings::zproxy::gateway::reply::Host;
use crate::http::EditError;
use crate::http::ResponseHead;
use crate::plugin::exchange::Exchange;
use crate::plugin::exchange::write_answer;
use crate::state::cache::Stored;

/// What `send` was given.
#[derive(Default)]
pub(in crate::plugin) struct Reply {
    head: ResponseHead,
    body: Option<Bytes>,
}

impl Reply {
    fn take(
        &mut self,
        status: u16,
        headers: &[(String, Vec<u8>)],
        body: Vec<u8>,
    ) -> Result<(), EditError> {
        self.body = None;
        let fields = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        write_answer(&mut self.head, status, fields, &body)?;
        self.body = Some(body.into());
        Ok(())
    }

    /// Takes a stored response, whose body is shared and not copied, with these fields set on it.
    pub(super) fn take_stored(
        &mut self,
        stored: &Stored,
        fields: &[(String, Vec<u8>)],
    ) -> Result<(), EditError> {
        self.body = None;
        self.head.assign(stored.status);
        for (name, value) in stored.fields.iter() {
            // Names of fields are ASCII.
            self.head.fields.push(std::str::from_utf8(name).unwrap_or_default(), value);
        }
        fields.iter().try_for_each(|(name, value)| self.head.fields.set(name, value))?;
        self.body = Some(stored.body.clone());
        Ok(())
    }

    /// Makes the reply the exchange's response. False when there is none.
    pub(in crate::plugin) fn put_into(&mut self, exchange: &mut Exchange) -> bool {
        let Some(body) = self.body.take() else { return false };
        exchange.put_answer(&mut self.head, body);
        self.head.clear();
        true
    }

    /// Forgets a reply that the hook did not use.
    pub(in crate::plugin) fn forget(&mut self) {
        if self.body.take().is_some() {
            self.head.clear();
        }
    }
}

impl Host for State {
    fn send(&mut self, status: u16, headers: Vec<(String, Vec<u8>)>, body: Vec<u8>) {
        let what = format_args!("reply.send({status})");
        if self.edited(what).is_none() {
            return;
        }
        if let Err(error) = self.reply.take(status, &headers, body) {
            self.violate(what, error);
        }
    }
}
