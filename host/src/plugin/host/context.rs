//! `zproxy:gateway/context`.

use super::State;
use super::bindings::zproxy::gateway::context::Host;

impl Host for State {
    fn get(&mut self, key: String) -> Option<Vec<u8>> {
        self.seen()?.note(&key).map(<[u8]>::to_vec)
    }

    fn set(&mut self, key: String, value: Vec<u8>) {
        let Some(exchange) = self.edited(format_args!("context.set")) else { return };
        if exchange.set_note(&key, &value).is_err() {
            self.violate(
                format_args!("context.set"),
                "a key has up to 256 bytes, all notes of an exchange up to 64 KiB and 64 keys",
            );
        }
    }
}
