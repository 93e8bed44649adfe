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

pub mod callouts {
    wit_bindgen::generate!({
        path: "wit",
        world: "zproxy:gateway/callouts",
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

pub mod on_request_body {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package zproxy:sdk-on-request-body; world on-request-body { export zproxy:gateway/request-body-filter@0.1.0; }",
        world: "zproxy:sdk-on-request-body/on-request-body",
        with: { "zproxy:gateway/types@0.1.0": crate::bindings::lifecycle::zproxy::gateway::types },
        pub_export_macro: true,
        export_macro_name: "__export_on_request_body",
        default_bindings_module: "zproxy_sdk::bindings::on_request_body",
    });
}

pub mod on_response_body {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package zproxy:sdk-on-response-body; world on-response-body { export zproxy:gateway/response-body-filter@0.1.0; }",
        world: "zproxy:sdk-on-response-body/on-response-body",
        with: { "zproxy:gateway/types@0.1.0": crate::bindings::lifecycle::zproxy::gateway::types },
        pub_export_macro: true,
        export_macro_name: "__export_on_response_body",
        default_bindings_module: "zproxy_sdk::bindings::on_response_body",
    });
}

pub mod on_message {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package zproxy:sdk-on-message; world on-message { export zproxy:gateway/websocket-filter@0.1.0; }",
        world: "zproxy:sdk-on-message/on-message",
        with: { "zproxy:gateway/types@0.1.0": crate::bindings::imports::zproxy::gateway::types },
        pub_export_macro: true,
        export_macro_name: "__export_on_message",
        default_bindings_module: "zproxy_sdk::bindings::on_message",
    });
}

pub mod on_log {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package zproxy:sdk-on-log; world on-log { export zproxy:gateway/completion@0.1.0; }",
        world: "zproxy:sdk-on-log/on-log",
        with: { "zproxy:gateway/types@0.1.0": generate },
        pub_export_macro: true,
        export_macro_name: "__export_on_log",
        default_bindings_module: "zproxy_sdk::bindings::on_log",
    });
}

pub mod on_tick {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package zproxy:sdk-on-tick; world on-tick { export zproxy:gateway/ticker@0.1.0; }",
        world: "zproxy:sdk-on-tick/on-tick",
        pub_export_macro: true,
        export_macro_name: "__export_on_tick",
        default_bindings_module: "zproxy_sdk::bindings::on_tick",
    });
}

pub mod validate {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package zproxy:sdk-validate; world validate { export zproxy:gateway/validation@0.1.0; }",
        world: "zproxy:sdk-validate/validate",
        pub_export_macro: true,
        export_macro_name: "__export_validate",
        default_bindings_module: "zproxy_sdk::bindings::validate",
    });
}

pub mod shutdown {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package zproxy:sdk-shutdown; world shutdown { export zproxy:gateway/retirement@0.1.0; }",
        world: "zproxy:sdk-shutdown/shutdown",
        pub_export_macro: true,
        export_macro_name: "__export_shutdown",
        default_bindings_module: "zproxy_sdk::bindings::shutdown",
    });
}
