//! Small components in text form, for tests and benches: no toolchain, nothing between the hook and
//! the instructions that a test wants run.
//!
//! Memory: constants below 1024 are the guest's own (`core` may put data there), 1024 to 8191 hold
//! the registration, and from 8192 on `realloc` hands out space that each hook gives back.

/// What a component consists of.
#[derive(Clone, Default)]
pub(crate) struct Guest {
    /// Component-level text: imported instances.
    pub(crate) imports: String,
    /// Imported functions: label in the core module, function of an imported instance, core type.
    pub(crate) lowers: Vec<(&'static str, &'static str, &'static str)>,
    /// Declared names.
    pub(crate) request_fields: Vec<String>,
    /// Declared names.
    pub(crate) response_fields: Vec<String>,
    /// Instructions at the start of `realloc`, which the host calls while it hands something over. It may
    /// `call_indirect` through `$table`, in which `core` may put functions.
    pub(crate) on_realloc: &'static str,
    /// Instructions at the start of `init`.
    pub(crate) init: &'static str,
    /// Instructions of `on-request`, which leave its answer: 0 for next, 1 for respond.
    pub(crate) on_request: Option<String>,
    /// Instructions of `on-response`, likewise.
    pub(crate) on_response: Option<String>,
    /// Instructions of `on-message`, which leave its answer: 0 to pass, 1 for replaced, 2 to drop, 3 to close.
    pub(crate) on_message: Option<String>,
    /// Further items of the core module.
    pub(crate) core: String,
}

/// What `on-message` speaks of, within the import of `types`.
const MESSAGE_TYPES: &str = "
    (type $p (enum \"client\" \"server\")) (export \"peer\" (type (eq $p)))
    (type $k (enum \"text\" \"binary\")) (export \"message-kind\" (type (eq $k)))
    (type $m (enum \"pass\" \"replaced\" \"drop\" \"close\")) (export \"message-action\" (type (eq $m)))";

const MESSAGE_EXPORT: &str = "
  (alias export $types \"peer\" (type $peer))
  (alias export $types \"message-kind\" (type $message-kind))
  (alias export $types \"message-action\" (type $message-action))
  (func $on-message (param \"sender\" $peer) (param \"kind\" $message-kind) (param \"data\" (list u8))
    (result $message-action)
    (canon lift (core func $main \"on-message\") (memory (core memory $libc \"memory\"))
      (realloc (core func $libc \"realloc\"))))
  (instance $websocket-filter (export \"on-message\" (func $on-message)))
  (export \"zproxy:gateway/websocket-filter@0.1.0\" (instance $websocket-filter))
";

impl Guest {
    /// Both hooks do nothing.
    pub(crate) fn noop() -> Self {
        Self {
            on_request: Some("(i32.const 0)".to_owned()),
            on_response: Some("(i32.const 0)".to_owned()),
            ..Self::default()
        }
    }

    /// `on-request` alone.
    pub(crate) fn on_request(instructions: &str) -> Self {
        Self { on_request: Some(instructions.to_owned()), ..Self::default() }
    }

    /// `on-response` alone.
    pub(crate) fn on_response(instructions: &str) -> Self {
        Self { on_response: Some(instructions.to_owned()), ..Self::default() }
    }

    /// `on-message` alone.
    pub(crate) fn on_message(instructions: &str) -> Self {
        Self { on_message: Some(instructions.to_owned()), ..Self::default() }
    }

    /// Imports an interface of the gateway: label, function name, its type, its core type.
    pub(crate) fn import(
        mut self,
        interface: &str,
        functions: &[(&'static str, &'static str, &str, &'static str)],
    ) -> Self {
        self.imports.push_str(&format!(
            "(import \"zproxy:gateway/{interface}@0.1.0\" (instance ${interface}"
        ));
        for (label, target, kind, core) in functions {
            let function = target.rsplit('"').nth(1).unwrap();
            self.imports.push_str(&format!(" (export \"{function}\" (func {kind}))"));
            self.lowers.push((label, target, core));
        }
        self.imports.push_str("))\n");
        self
    }

    /// Imports `request.set`, `request.get` and `request.append`.
    pub(crate) fn edits_requests(self) -> Self {
        const SET: &str = "(param \"name\" string) (param \"value\" (list u8))";
        const GET: &str = "(param \"name\" string) (result (option (list u8)))";
        self.import(
            "request",
            &[
                ("request-set", "$request \"set\"", SET, "(param i32 i32 i32 i32)"),
                ("request-append", "$request \"append\"", SET, "(param i32 i32 i32 i32)"),
                ("request-get", "$request \"get\"", GET, "(param i32 i32 i32)"),
            ],
        )
    }

    /// Adds text at an address below 1024.
    pub(crate) fn data(mut self, address: usize, text: &str) -> Self {
        self.core.push_str(&format!("(data (i32.const {address}) \"{text}\")\n"));
        self
    }

    /// The component's bytes.
    pub(crate) fn build(&self) -> Vec<u8> {
        wat::parse_str(self.text()).unwrap()
    }

    /// The component's text.
    pub(crate) fn text(&self) -> String {
        let (lowered, given, taken) = self.lowers.iter().fold(
            (String::new(), String::new(), String::new()),
            |(mut lowered, mut given, mut taken), (label, target, core)| {
                lowered.push_str(&format!(
                    "(core func ${label} (canon lower (func {target}) \
                     (memory (core memory $libc \"memory\")) (realloc (core func $libc \"realloc\"))))\n"
                ));
                given.push_str(&format!("(export \"{label}\" (func ${label}))"));
                taken.push_str(&format!("(import \"host\" \"{label}\" (func ${label} {core}))\n"));
                (lowered, given, taken)
            },
        );
        let mut hooks = String::new();
        let mut exports = String::new();
        for (interface, hook, core, kind, body) in [
            ("request-filter", "on-request", "", "", &self.on_request),
            (
                "response-filter",
                "on-response",
                "(param $status i32)",
                "(param \"status\" u16)",
                &self.on_response,
            ),
        ] {
            let Some(body) = body else { continue };
            hooks.push_str(&format!(
                "(func (export \"{hook}\") {core} (param $fields i32) (param $count i32) \
                 (result i32) {body} (global.set $top (i32.const 8192)))\n"
            ));
            exports.push_str(&format!(
                "(func ${hook} {kind} (param \"fields\" (list (option (list u8)))) (result $action) \
                 (canon lift (core func $main \"{hook}\") (memory (core memory $libc \"memory\")) \
                 (realloc (core func $libc \"realloc\"))))\n\
                 (instance ${interface} (export \"{hook}\" (func ${hook})))\n\
                 (export \"zproxy:gateway/{interface}@0.1.0\" (instance ${interface}))\n"
            ));
        }
        let mut types = "";
        if let Some(body) = &self.on_message {
            types = MESSAGE_TYPES;
            hooks.push_str(&format!(
                "(func (export \"on-message\") (param $sender i32) (param $kind i32) (param $data i32) \
                 (param $length i32) (result i32) {body} (global.set $top (i32.const 8192)))\n"
            ));
            exports.push_str(MESSAGE_EXPORT);
        }
        let (init, core, imports) = (self.init, &self.core, &self.imports);
        let on_realloc = self.on_realloc;
        let registration = self.registration();
        format!(
            "(component
  (import \"zproxy:gateway/types@0.1.0\" (instance $types
    (type $a (enum \"next\" \"respond\")) (export \"action\" (type (eq $a)))
    (type $r (record (field \"request-fields\" (list string))
      (field \"response-fields\" (list string))))
    (export \"registration\" (type (eq $r)))
    {types}))
  (alias export $types \"action\" (type $action))
  (alias export $types \"registration\" (type $registration))
  {imports}
  (core module $libc-code
    (memory (export \"memory\") 4)
    (table $table (export \"table\") 1 funcref)
    (global $top (export \"top\") (mut i32) (i32.const 8192))
    (func (export \"realloc\") (param i32 i32 i32 i32) (result i32) (local $at i32)
      {on_realloc}
      (local.set $at (i32.and
        (i32.add (global.get $top) (i32.sub (local.get 2) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get 2))))
      (global.set $top (i32.add (local.get $at) (local.get 3)))
      (local.get $at)))
  (core instance $libc (instantiate $libc-code))
  {lowered}
  (core instance $host {given})
  (core module $main-code
    (import \"libc\" \"memory\" (memory 4))
    (import \"libc\" \"table\" (table $table 1 funcref))
    (import \"libc\" \"top\" (global $top (mut i32)))
    {taken}
    {registration}
    {core}
    (func (export \"init\") (param i32 i32) (result i32) {init} (i32.const 1024))
    {hooks})
  (core instance $main (instantiate $main-code
    (with \"libc\" (instance $libc)) (with \"host\" (instance $host))))
  (func $init (param \"config\" string) (result (result $registration (error string)))
    (canon lift (core func $main \"init\") (memory (core memory $libc \"memory\"))
      (realloc (core func $libc \"realloc\"))))
  (instance $lifecycle (export \"init\" (func $init)))
  (export \"zproxy:gateway/lifecycle@0.1.0\" (instance $lifecycle))
  {exports})"
        )
    }

    /// The value that `init` returns, laid out as the canonical ABI wants it.
    fn registration(&self) -> String {
        const LISTS: usize = 1024 + 20;
        let names: Vec<&String> = self.request_fields.iter().chain(&self.response_fields).collect();
        let mut strings = LISTS + names.len() * 8;
        let split = LISTS + self.request_fields.len() * 8;
        let mut words =
            vec![0, LISTS, self.request_fields.len(), split, self.response_fields.len()];
        let mut text = String::new();
        for name in names {
            words.extend([strings, name.len()]);
            strings += name.len();
            text.push_str(name);
        }
        assert!(strings < 8192, "the registration does not fit");
        let bytes: String = words
            .iter()
            .flat_map(|word| u32::try_from(*word).unwrap().to_le_bytes())
            .map(|byte| format!("\\{byte:02x}"))
            .collect();
        format!("(data (i32.const 1024) \"{bytes}{text}\")")
    }
}
