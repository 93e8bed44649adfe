//! `zproxy:gateway/reply`.
//!
//! A reply is kept apart from the exchange until its hook has ended well, so that a hook that
//! fails after `send` has not destroyed the response that it was shown.

use super::State;
use super::bindings::zproxy::gateway::reply::Host;
use crate::http::EditError;
use crate::http::ResponseHead;
use crate::plugin::exchange::Exchange;
use crate::plugin::exchange::write_answer;

/// What `send` was given.
#[derive(Default)]
pub(in crate::plugin) struct Reply {
    head: ResponseHead,
    body: Option<Vec<u8>>,
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
        self.body = Some(body);
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
