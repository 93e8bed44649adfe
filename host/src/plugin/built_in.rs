//! The components of the plugins that the binary brings along, made by `build.rs`.
//!
//! Not here: their sources (`plugins/`), and what they are granted (`config`).

static COMPONENTS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/built_in.rs"));

/// The component of this name.
///
/// # Errors
///
/// It is not in this binary. Says why.
pub fn component(name: &str) -> Result<&'static [u8], String> {
    let found = COMPONENTS.iter().find(|(known, _)| *known == name);
    found.map(|(_, component)| *component).ok_or_else(|| {
        format!(
            "this binary was built without its built-in plugins, because nothing compiled \
             wasm32-wasip2 there; put {name}.wasm into the plugins folder, or build it again \
             after `rustup target add wasm32-wasip2`"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is built, what can be named, and what is in here are three lists.
    #[test]
    fn every_built_in_plugin_can_be_named_and_is_here() {
        let named: Vec<_> = crate::config::built_in_names().collect();

        assert_eq!(named, zproxy_guest_build::BUILT_IN);
        for name in named {
            assert!(component(name).unwrap().starts_with(b"\0asm"), "{name}");
        }
        assert!(component("other").is_err());
    }
}
