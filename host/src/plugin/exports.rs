//! What a component exports: its hooks, whether they can be called, and how to find them.
//!
//! Not here: what a component imports (`load`), and calling (`live`).

use std::fmt::Write;

use wasmtime::Engine;
use wasmtime::Store;
use wasmtime::component::Instance;
use wasmtime::component::InstancePre;
use wasmtime::component::Type;
use wasmtime::component::types;
use wasmtime::component::types::ComponentFunc;
use wasmtime::component::types::ComponentItem;

use super::host::State;
use super::host::bindings::exports::zproxy::gateway::completion;
use super::host::bindings::exports::zproxy::gateway::lifecycle;
use super::host::bindings::exports::zproxy::gateway::request_body_filter;
use super::host::bindings::exports::zproxy::gateway::request_filter;
use super::host::bindings::exports::zproxy::gateway::response_body_filter;
use super::host::bindings::exports::zproxy::gateway::response_filter;
use super::host::bindings::exports::zproxy::gateway::retirement;
use super::host::bindings::exports::zproxy::gateway::ticker;
use super::host::bindings::exports::zproxy::gateway::validation;
use super::host::bindings::exports::zproxy::gateway::websocket_filter;
use super::host::clean;
use super::instance::Hook;
use super::load::COMPATIBLE;
use super::load::LoadError;
use super::load::PACKAGE;
use super::load::listed;

/// An interface that plugins may export.
struct Interface {
    name: &'static str,
    function: &'static str,
    signature: &'static str,
    /// `None`: it is called when an instance is made, and not a hook.
    hook: Option<Hook>,
}

const INTERFACES: [Interface; 10] = [
    Interface {
        name: "lifecycle",
        function: "init",
        signature: "func(string) -> result<record { request-fields: list<string>, \
                    response-fields: list<string> }, string>",
        hook: None,
    },
    Interface {
        name: "validation",
        function: "validate-config",
        signature: "func(string) -> list<record { path: string, message: string }>",
        hook: None,
    },
    Interface {
        name: "request-filter",
        function: "on-request",
        signature: "func(list<option<list<u8>>>) -> enum { next, respond }",
        hook: Some(Hook::Request),
    },
    Interface {
        name: "response-filter",
        function: "on-response",
        signature: "func(u16, list<option<list<u8>>>) -> enum { next, respond }",
        hook: Some(Hook::Response),
    },
    Interface {
        name: "request-body-filter",
        function: "on-request-body",
        signature: "func(list<u8>, bool) -> enum { pass, replaced, drop, detach, abort }",
        hook: Some(Hook::RequestBody),
    },
    Interface {
        name: "response-body-filter",
        function: "on-response-body",
        signature: "func(list<u8>, bool) -> enum { pass, replaced, drop, detach, abort }",
        hook: Some(Hook::ResponseBody),
    },
    Interface {
        name: "websocket-filter",
        function: "on-message",
        signature: "func(enum { client, server }, enum { text, binary }, list<u8>) -> \
                    enum { pass, replaced, drop, close }",
        hook: Some(Hook::Message),
    },
    Interface {
        name: "completion",
        function: "on-log",
        signature: "func(record { status: u16, request-bytes: u64, response-bytes: u64, \
                    duration-us: u64, upstream-us: u64 })",
        hook: Some(Hook::Log),
    },
    Interface { name: "ticker", function: "on-tick", signature: "func()", hook: Some(Hook::Tick) },
    Interface {
        name: "retirement",
        function: "shutdown",
        signature: "func()",
        hook: Some(Hook::Shutdown),
    },
];

/// A set of hooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hooks(u8);

impl Hooks {
    /// These.
    #[must_use]
    pub const fn of(hooks: &[Hook]) -> Self {
        let mut set = 0;
        let mut index = 0;
        while index < hooks.len() {
            set |= 1 << hooks[index] as u8;
            index += 1;
        }
        Self(set)
    }

    /// Whether this hook is among them.
    #[must_use]
    pub const fn has(self, hook: Hook) -> bool {
        self.0 & (1 << hook as u8) != 0
    }

    /// These and those.
    #[must_use]
    pub const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Names of those that are there.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        Hook::ALL.into_iter().filter(|hook| self.has(*hook)).map(Hook::as_str).collect()
    }
}

/// What was found among a component's exports.
pub(super) struct Found {
    pub(super) hooks: Hooks,
    validates: bool,
}

/// Looks for what can be called; refuses what never would be, and what cannot be.
pub(super) fn check(engine: &Engine, component: &types::Component) -> Result<Found, LoadError> {
    let mut lifecycle = false;
    let mut found = Found { hooks: Hooks::default(), validates: false };
    for (export, item) in component.exports(engine) {
        let Some(interface) = export.strip_prefix(PACKAGE) else { continue };
        let (interface, version) = interface.split_once('@').unwrap_or((interface, ""));
        if !version.starts_with(COMPATIBLE) {
            return Err(LoadError::ExportVersion(clean(export.as_bytes(), 128)));
        }
        let Some(interface) = INTERFACES.iter().find(|known| known.name == interface) else {
            return Err(LoadError::UnknownExport(clean(export.as_bytes(), 128)));
        };
        check_signature(engine, export, &item.ty, interface)?;
        match interface.hook {
            Some(hook) => found.hooks = found.hooks.and(Hooks::of(&[hook])),
            None if interface.name == "lifecycle" => lifecycle = true,
            None => found.validates = true,
        }
    }
    if !lifecycle {
        return Err(LoadError::NoLifecycle(listed(
            component.exports(engine).map(|(name, _)| name),
        )));
    }
    // A last word of one that has never been asked anything is nothing.
    if found.hooks.is_empty() || found.hooks == Hooks::of(&[Hook::Shutdown]) {
        return Err(LoadError::NoHook);
    }
    Ok(found)
}

fn check_signature(
    engine: &Engine,
    export: &str,
    item: &ComponentItem,
    interface: &Interface,
) -> Result<(), LoadError> {
    let Interface { function, signature: expected, .. } = *interface;
    let found = match item {
        ComponentItem::ComponentInstance(interface) => {
            match interface.get_export(engine, function).map(|export| export.ty) {
                Some(ComponentItem::ComponentFunc(function)) => signature(&function),
                _ => "missing".to_owned(),
            }
        }
        _ => "missing".to_owned(),
    };
    if found == expected {
        return Ok(());
    }
    let found = clean(found.as_bytes(), 512);
    Err(LoadError::Signature { function: format!("{export}#{function}"), found, expected })
}

/// Makes the two sides of a hook: where it is in a component, and what an instance is called by.
macro_rules! hooks {
    ($($hook:ident: $module:ident),+ $(,)?) => {
        /// Where a component's exports are.
        pub(super) struct Exports {
            pub(super) lifecycle: lifecycle::GuestIndices,
            pub(super) validation: Option<validation::GuestIndices>,
            $($module: Option<$module::GuestIndices>,)+
        }

        /// The hooks of one instance.
        pub(super) struct Guests {
            $(pub(super) $module: Option<$module::Guest>,)+
        }

        impl Exports {
            pub(super) fn find(
                component: &InstancePre<State>,
                found: &Found,
            ) -> wasmtime::Result<Self> {
                let exists = |exists: bool| exists.then_some(component);
                Ok(Self {
                    lifecycle: lifecycle::GuestIndices::new(component)?,
                    validation: exists(found.validates)
                        .map(validation::GuestIndices::new)
                        .transpose()?,
                    $($module: exists(found.hooks.has(Hook::$hook))
                        .map($module::GuestIndices::new)
                        .transpose()?,)+
                })
            }

            pub(super) fn load(
                &self,
                store: &mut Store<State>,
                instance: &Instance,
            ) -> wasmtime::Result<Guests> {
                Ok(Guests {
                    $($module: self
                        .$module
                        .as_ref()
                        .map(|indices| indices.load(&mut *store, instance))
                        .transpose()?,)+
                })
            }
        }
    };
}

hooks! {
    Request: request_filter,
    Response: response_filter,
    RequestBody: request_body_filter,
    ResponseBody: response_body_filter,
    Message: websocket_filter,
    Log: completion,
    Tick: ticker,
    Shutdown: retirement,
}

/// A function's type as WIT writes it, without the names of parameters.
fn signature(function: &ComponentFunc) -> String {
    let mut text = if function.async_() { "async func(" } else { "func(" }.to_owned();
    text.push_str(&joined(function.params().map(|(_, kind)| written(&kind, 0))));
    text.push(')');
    if let Some(result) = function.results().next() {
        let _ = write!(text, " -> {}", written(&result, 0));
    }
    text
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

/// Types nest as deep as their author likes; what is expected here is at depth 3.
const DEPTH_MAX: usize = 6;

fn written(kind: &Type, depth: usize) -> String {
    if depth > DEPTH_MAX {
        return "…".to_owned();
    }
    let inner = |kind: &Type| written(kind, depth + 1);
    let option = |kind: Option<Type>| kind.map_or("_".to_owned(), |kind| inner(&kind));
    match kind {
        Type::Bool => "bool".to_owned(),
        Type::S8 => "s8".to_owned(),
        Type::U8 => "u8".to_owned(),
        Type::S16 => "s16".to_owned(),
        Type::U16 => "u16".to_owned(),
        Type::S32 => "s32".to_owned(),
        Type::U32 => "u32".to_owned(),
        Type::S64 => "s64".to_owned(),
        Type::U64 => "u64".to_owned(),
        Type::Float32 => "f32".to_owned(),
        Type::Float64 => "f64".to_owned(),
        Type::Char => "char".to_owned(),
        Type::String => "string".to_owned(),
        Type::List(list) => format!("list<{}>", inner(&list.ty())),
        Type::Option(option) => format!("option<{}>", inner(&option.ty())),
        Type::Result(result) => {
            format!("result<{}, {}>", option(result.ok()), option(result.err()))
        }
        Type::Tuple(tuple) => format!("tuple<{}>", joined(tuple.types().map(|kind| inner(&kind)))),
        Type::Enum(cases) => format!("enum {{ {} }}", joined(cases.names().map(str::to_owned))),
        Type::Record(record) => {
            let field = |field: types::Field<'_>| format!("{}: {}", field.name, inner(&field.ty));
            format!("record {{ {} }}", joined(record.fields().map(field)))
        }
        Type::Variant(_) => "variant".to_owned(),
        Type::Flags(_) => "flags".to_owned(),
        Type::Own(_) | Type::Borrow(_) => "resource".to_owned(),
        _ => "something else".to_owned(),
    }
}
