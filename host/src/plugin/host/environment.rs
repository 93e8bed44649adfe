//! `zproxy:gateway/environment`.

use super::State;
use super::bindings::zproxy::gateway::environment::Host;
use super::request::shown;

impl Host for State {
    fn variable(&mut self, name: String) -> Option<String> {
        let Some(value) = self.allow.env.get(name.as_str()) else {
            let name = shown(&name);
            let what = format_args!("environment.variable(\"{name}\")");
            self.violate(what, "not granted by `allow.env`");
            return None;
        };
        value.as_deref().map(str::to_owned)
    }

    fn secret(&mut self, name: String) -> Vec<u8> {
        let Some(secret) = self.allow.secrets.get(name.as_str()) else {
            let name = shown(&name);
            let what = format_args!("environment.secret(\"{name}\")");
            self.violate(what, "not granted by `allow.secrets`");
            return Vec::new();
        };
        secret.expose().to_vec()
    }
}
