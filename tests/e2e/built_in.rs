//! Plugins that the binary brings along: found by their names, and replaced by files.
//!
//! Not here: what each of them does (`jwt`, …).

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Gateway, Launch, Upstream, eventually, guest};

fn config(folder: &Path, upstream: &Upstream) -> Value {
    json!({
        "plugins_dir": folder,
        "middleware": { "jwt": { "jwt_secret": "secret" } },
        "routes": [{ "path": "/", "upstream": upstream.url(), "middleware": ["jwt"] }],
    })
}

/// Interface §7: a file of the same name replaces it, while the gateway runs too; and a reload after the
/// file has gone goes back to what is built in.
#[test]
fn a_file_takes_the_place_of_what_is_built_in() {
    let (folder, upstream) = (TempDir::new().unwrap(), Upstream::answering("ok"));
    let gateway = Gateway::start(config(folder.path(), &upstream));
    assert_eq!(gateway.get("/").status(), 401);
    let before = gateway.plugin("jwt");
    assert_eq!(
        (&before["state"], &before["from"], &before["path"]),
        (&json!("ready"), &json!("built-in"), &Value::Null)
    );

    let file = folder.path().join("jwt.wasm");
    std::fs::copy(guest("noop"), &file).unwrap();
    eventually("the file", || (gateway.get("/").status() == 200).then_some(()));
    let after = gateway.plugin("jwt");
    assert_eq!((&after["from"], &after["path"]), (&json!("file"), &json!(file)));
    assert!(after["generation"].as_u64() > before["generation"].as_u64(), "{after}");

    std::fs::remove_file(&file).unwrap();
    eventually("its end", || (gateway.plugin("jwt")["file"] == "gone").then_some(()));
    assert_eq!(gateway.get("/").status(), 200, "it goes on until a reload");
    assert_eq!(gateway.admin_post("/reload", b"").status(), 200);
    assert_eq!(gateway.get("/").status(), 401);
    let again = gateway.plugin("jwt");
    assert_eq!((&again["from"], &again["digest"]), (&json!("built-in"), &before["digest"]));
}

#[test]
fn a_broken_file_does_not_take_its_place() {
    let (folder, upstream) = (TempDir::new().unwrap(), Upstream::answering("ok"));
    let gateway = Gateway::start(config(folder.path(), &upstream));

    std::fs::write(folder.path().join("jwt.wasm"), "no wasm").unwrap();

    gateway.logs("plugin `jwt`: ");
    gateway.counts("zproxy_plugin_swaps_total", &[("plugin", "jwt"), ("result", "refused")], 1.0);
    assert_eq!(gateway.get("/").status(), 401);
}

/// By hand, too; and a reload, which reads nothing that has changed, does not undo it.
#[test]
fn what_is_built_in_can_be_swapped() {
    let (folder, upstream) = (TempDir::new().unwrap(), Upstream::answering("ok"));
    let gateway = Gateway::start(config(folder.path(), &upstream));

    let other = std::fs::read(guest("noop")).unwrap();
    assert_eq!(gateway.admin_post("/plugins/jwt", &other).status(), 200);
    assert_eq!(gateway.get("/").status(), 200);
    assert_eq!(gateway.admin_post("/reload", b"").status(), 200);
    assert_eq!(gateway.get("/").status(), 200);
    assert_eq!(gateway.admin_post("/plugins/jwt/rollback", b"").status(), 200);
    assert_eq!(gateway.get("/").status(), 401);
}

/// Who starts the program alone sees what it can do.
#[test]
fn the_embedded_default_shows_what_is_built_in() {
    let gateway = Launch::flags(&["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).start();

    assert!(gateway.get("/").text().contains("/try/jwt/"));
    assert_eq!(gateway.get("/try/jwt/").status(), 401);
}
