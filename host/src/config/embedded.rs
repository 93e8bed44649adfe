//! The configuration of a gateway that was started without one.
//!
//! It shows what there is: a page that says what to try, the `echo` upstream, and one route
//! through each plugin.
//!
//! Not here: when it is used (`main`).

use std::collections::HashMap;
use std::fmt::Write;

use serde_json::json;

use super::check::{built_in_names, listen, names_in};
use super::document::{Content, Document, Node};
use super::problem::{Origin, Report};
use super::{
    Address, Config, Environment, MatchConfig, Overrides, PluginConfig, Problems, RespondConfig,
    RewriteConfig, RouteConfig, Settings, load,
};

/// Name of the embedded default in messages.
pub const EMBEDDED: &str = "embedded default";

/// The sample token that jwt.io made known: HS256 over [`SAMPLE_SECRET`], subject 1234567890.
const SAMPLE_TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.\
    eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ.\
    SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c";

/// What [`SAMPLE_TOKEN`] is signed with.
const SAMPLE_SECRET: &str = "your-256-bit-secret";

/// Loads the embedded default as overridden by flags.
///
/// # Errors
/// What is wrong with the overrides or the plugins folder.
pub fn load_embedded(
    overrides: &Overrides,
    environment: &dyn Environment,
    native: &[&str],
) -> Result<(Config, Settings), Problems> {
    // The page names plugins and address, so the overrides are looked at before it is made.
    let mut glimpse = Document {
        file: EMBEDDED,
        text: "",
        overrides: Vec::new(),
        replaced: HashMap::new(),
        root: Node::empty(Origin::Nowhere),
    };
    overrides.apply(&mut glimpse, &mut Report::default());
    let folder = glimpse.root.member("plugins_dir").and_then(text_of);
    let mut plugins = folder.map(|folder| names_in(folder, environment)).unwrap_or_default();
    plugins.extend(native.iter().copied().chain(built_in_names()).map(str::to_owned));
    plugins.sort();
    plugins.dedup();
    let listener =
        glimpse.root.member("listeners").and_then(|listeners| match &listeners.content {
            Content::List(elements) => text_of(elements.first()?.member("address")?),
            _ => None,
        });
    let config = embedded(&plugins, listener.unwrap_or("127.0.0.1:8080"));
    load(config.to_text().as_bytes(), EMBEDDED, overrides, environment, native)
}

/// The embedded default for a gateway with these plugins that listens on `address`.
#[must_use]
pub fn embedded(plugins: &[String], address: &str) -> Config {
    let mut config = Config::default();
    config.routes.push(RouteConfig {
        name: Some("welcome".into()),
        path: "/".into(),
        matching: MatchConfig::Exact,
        methods: vec!["GET".into()],
        respond: Some(RespondConfig { body: page(plugins, address), ..RespondConfig::default() }),
        ..RouteConfig::default()
    });
    config.routes.push(RouteConfig {
        name: Some("echo".into()),
        path: "/echo".into(),
        upstream: Some("echo".into()),
        ..RouteConfig::default()
    });
    for plugin in plugins {
        let path = format!("/try/{plugin}");
        config.routes.push(RouteConfig {
            name: Some(format!("try-{plugin}")),
            path: path.clone(),
            upstream: Some("echo".into()),
            rewrite: Some(RewriteConfig { strip_prefix: Some(path), ..RewriteConfig::default() }),
            middleware: vec![plugin.as_str().into()],
            ..RouteConfig::default()
        });
    }
    let demos = [
        ("jwt", json!({ "jwt_secret": SAMPLE_SECRET })),
        ("rate-limit", json!({ "requests_per_minute": 10 })),
    ];
    for (name, demo) in demos {
        if plugins.iter().any(|plugin| plugin == name) {
            let demo = demo.as_object().cloned();
            config
                .plugins
                .insert(name.into(), PluginConfig { config: demo, ..PluginConfig::default() });
        }
    }
    config
}

/// What `/` answers.
fn page(plugins: &[String], address: &str) -> String {
    let curl = curl(address);
    let mut page = format!(
        "ZProxy {} runs with its embedded default: no configuration file was given.\n\n\
         Routes\n\
         \x20 /              this page\n\
         \x20 /echo          a JSON picture of your request, by the built-in upstream `echo`\n",
        env!("CARGO_PKG_VERSION"),
    );
    let mut line = |text: String| {
        // Writing to a string cannot fail.
        _ = writeln!(page, "{text}");
    };
    for plugin in plugins {
        line(format!("  /try/{plugin}/  the same through the plugin `{plugin}`"));
    }
    line(String::new());
    line(format!("Plugins found: {}", plugins.join(", ")));
    line("The log says which of them could not be loaded, if any.".into());
    line("Start with `--plugins DIR` to load every *.wasm file in DIR as well.".into());
    line("\nTry".into());
    if curl.ends_with(":PORT") {
        line("  (PORT is in the gateway's log: `listening on …`)".into());
    }
    line(format!("  {curl}/echo"));
    for plugin in plugins {
        line(format!("  {curl}/try/{plugin}/hello"));
        if plugin == "jwt" {
            line(format!(
                "  {} -H 'Authorization: Bearer {SAMPLE_TOKEN}'",
                format_args!("{curl}/try/jwt/hello"),
            ));
        }
    }
    line("\nYour own gateway: write zproxy.json, for a start".into());
    line(r#"  { "routes": [{ "path": "/api", "upstream": "http://127.0.0.1:3000" }] }"#.to_owned());
    line("and see `zproxy schema --format markdown` for all keys.".into());
    page
}

/// The command that reaches a gateway on `address`, up to the path.
fn curl(address: &str) -> String {
    match listen(address) {
        Ok(Address::Unix(path)) => {
            format!("curl -i --unix-socket {} http://localhost", path.display())
        }
        Ok(Address::Tcp(socket)) if socket.ip().is_unspecified() => {
            let ip = if socket.is_ipv4() { "127.0.0.1" } else { "[::1]" };
            curl(&format!("{ip}:{}", socket.port()))
        }
        // Which one was chosen is not known before the gateway listens.
        Ok(Address::Tcp(socket)) if socket.port() == 0 => {
            format!("curl -i http://{}:PORT", address.trim_end_matches(":0"))
        }
        _ => format!("curl -i http://{address}"),
    }
}

fn text_of(node: &Node) -> Option<&str> {
    match &node.content {
        Content::Text { text, .. } => Some(text),
        _ => None,
    }
}
