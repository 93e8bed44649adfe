//! What `wit-bindgen` makes of `wit/`: one module per interface that a plugin exports, so that
//! `export!` can leave a hook out, and one for all imports.
//!
//! Not here: anything that a plugin's author sees.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated code")]

pub mod imports {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package zproxy:sdk-imports;
            world everything {
                include zproxy:gateway/imports@0.1.0;
                include zproxy:gateway/capabilities@0.1.0;
            }",
        world: "zproxy:sdk-imports/everything",
        generate_all,
    });
}

pub mod lifecycle {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package zproxy:sdk-lifecycle; world lifecycle { export zproxy:gateway/lifecycle@0.1.0; }",
        world: "zproxy:sdk-lifecycle/lifecycle",
        with: { "zproxy:gateway/types@0.1.0": generate },
        pub_export_macro: true,
        export_macro_name: "__export_lifecycle",
        default_bindings_module: "zproxy_sdk::bindings::lifecycle",
    });
}

pub mod on_request {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package zproxy:sdk-on-request; world on-request { export zproxy:gateway/request-filter@0.1.0; }",
        world: "zproxy:sdk-on-request/on-request",
        with: { "zproxy:gateway/types@0.1.0": crate::bindings::lifecycle::zproxy::gateway::types },
        pub_export_macro: true,
        export_macro_name: "__export_on_request",
        default_bindings_module: "zproxy_sdk::bindings::on_request",
    });
}

pub mod on_response {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package zproxy:sdk-on-response; world on-response { export zproxy:gateway/response-filter@0.1.0; }",
        world: "zproxy:sdk-on-response/on-response",
        with: { "zproxy:gateway/types@0.1.0": crate::bindings::lifecycle::zproxy::gateway::types },
        pub_export_macro: true,
        export_macro_name: "__export_on_response",
        default_bindings_module: "zproxy_sdk::bindings::on_response",
    });
}
