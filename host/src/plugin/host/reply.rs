//! `zproxy:gateway/reply`.
//!
//! A reply is kept apart from the exchange until its hook has ended well, so that a hook that
//! fails after `send` has not destroyed the response that it was shown.

use super::State;
use super::bindings::zproxy::gateway::reply::Host;
use crate::http::EditError;
use crate::http::ResponseHead;
use crate::plugin::exchange::Exchange;
use crate::plugin::exchange::REPLY_BYTES_MAX;

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
        self.head.assign(status);
        self.head.set_status(status)?;
        headers.iter().try_for_each(|(name, value)| self.head.fields.append(name, value))?;
        self.body = Some(body);
        Ok(())
    }

    /// Makes the reply the exchange's response. False when there is none.
    pub(in crate::plugin) fn put_into(&mut self, exchange: &mut Exchange) -> bool {
        let Some(body) = self.body.take() else { return false };
        std::mem::swap(&mut exchange.response, &mut self.head);
        self.head.clear();
        exchange.body = Some(body);
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
        if body.len() > REPLY_BYTES_MAX {
            self.violate(what, "the body exceeds 1 MiB");
        } else if let Err(error) = self.reply.take(status, &headers, body) {
            self.violate(what, error);
        }
    }
}
