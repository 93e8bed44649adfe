//! Random files: none panics, every report can be read, every accepted file loads equal again.

use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;

/// Fewer cases than the default keep the suite quick; `PROPTEST_CASES` raises it.
fn cases() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(400),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Loads anything; what is refused must be refused readably.
fn load_any(bytes: &[u8], overrides: &Overrides) {
    let fake = Fake::default().variable("A", "5").file("/p/a.wasm", "");
    let Err(problems) = load(bytes, "z.json", overrides, &fake, &[]) else { return };
    assert!(!problems.0.is_empty());
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
    for problem in &problems.0 {
        let line = problem.to_string();
        assert!(!line.contains('\n') && !problem.message.is_empty(), "{line}");
        assert!(!problem.cure.is_empty(), "{line}");
        assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)), "{line}");
    }
    serde_json::to_string(&problems).unwrap();
}

const VALID: &str = r#"{ // comment
  "listen_port": 8080, "workers": {"count": "${env:A}"},
  "upstreams": {"api": {"servers": ["h:1", {"address": "[::1]:2", "weight": 2}]}},
  "routes": [{"path": "/a/{b}", "hosts": ["*.x.example"], "upstream": [{"upstream": "api"}],
              "rewrite": {"path": "/{b}"}, "middleware": [{"plugin": "a", "config": {"k": [1.5]}}]},
             {"path": "/r", "redirect": {"to": "/x{path}"}}, /* two */
             {"path": "/s", "respond": {"headers": {"a": "b"}, "body": "\u00e9"}},],
  "plugins_dir": "/p", "admin": {"token": "t"}, "trusted_proxies": ["::/0"],
  "access_log": {"format": "{status}"},
}"#;

const TOKENS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\"routes\"",
    "\"path\"",
    "\"upstreams\"",
    "\"/\"",
    "null",
    "true",
    "1",
    "-1",
    "1e999",
    "1.5",
    "99999999999999999999",
    "//",
    "/*",
    "*/",
    "\n",
    "\\",
    "\\u",
    "\\ud800",
    "é",
    "\u{2028}",
    "\0",
    "'",
    "\"a\"",
    "\"${env:A}\"",
    "\"${\"",
    "\"upstream\"",
    "\"$${\"",
    "Infinity",
    "0x1",
    "+",
    ".",
    " ",
    "\u{feff}",
    "\"workers\"",
    "\"admin\"",
    "😀",
];

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        load_any(&bytes, &Overrides::default());
    }

    #[test]
    fn token_soup_never_panics(tokens in prop::collection::vec(prop::sample::select(TOKENS), 0..60)) {
        load_any(tokens.concat().as_bytes(), &Overrides::default());
    }

    #[test]
    fn a_damaged_file_never_panics(
        damage in prop::collection::vec((0..VALID.len(), any::<u8>(), 0..3_u8), 1..6),
    ) {
        let mut bytes = VALID.as_bytes().to_vec();
        for (place, byte, how) in damage {
            let place = place.min(bytes.len() - 1);
            match how {
                0 => bytes[place] = byte,
                1 => bytes.insert(place, byte),
                _ => _ = bytes.remove(place),
            }
        }
        load_any(&bytes, &Overrides::default());
    }

    #[test]
    fn flags_never_panic(
        keys in prop::collection::vec("[a-z.\\[\\]\"0-9_]{0,12}|routes|listeners\\[0\\]|workers.count", 0..4),
        value in "\\PC{0,8}|[\\[{\"]{0,4}",
    ) {
        let mut overrides = Overrides::default();
        for key in keys {
            _ = overrides.set(&format!("{key}={value}"));
            overrides.listen("--listen", &value);
            overrides.workers("--workers", &value);
            overrides.admin("--admin", &value);
        }
        load_any(VALID.as_bytes(), &overrides);
    }
}

#[test]
fn the_file_that_is_damaged_is_valid() {
    let fake = Fake::default().variable("A", "5").file("/p/a.wasm", "");

    load(VALID.as_bytes(), "z.json", &Overrides::default(), &fake, &[]).unwrap();
}

/// Deep nesting must end in a message, not in the guard page of the stack.
#[test]
fn deep_nesting_is_refused() {
    for text in [
        "[".repeat(100_000),
        "{\"a\":".repeat(100_000),
        format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)),
        format!(
            "{{\"plugins\":{{\"a\":{{\"config\":{}1{}}}}}}}",
            "{\"a\":".repeat(90),
            "}".repeat(90)
        ),
    ] {
        let problems = Fake::default().load(&text).unwrap_err();
        let found = problems.to_string();
        assert!(
            found.contains("more than 64 levels of lists and objects; write it flatter"),
            "{found}"
        );
    }
}

/// A report of a huge file stays readable and is made quickly.
#[test]
fn a_huge_wrong_file_is_reported_in_part() {
    let routes = vec![json!({"path": "x", "upstrem": "y", "methods": ["get"]}); 20_000];

    let problems = Fake::default().load(&json!({ "routes": routes }).to_string()).unwrap_err();

    assert_eq!(problems.0.len(), 1001);
    assert_eq!(
        problems.0[1000].to_string(),
        "z.json: there are 78900 more problems; mend these first"
    );
}

/// Comparing every unknown word with all known ones took minutes for a few megabytes.
#[test]
fn only_some_unknown_names_are_compared_with_the_known_ones() {
    let routes = vec![json!({"path": "/", "upstream": "upstreen", "methods": ["A"]}); 1000];
    let file = json!({ "upstreams": {"upstream": {"servers": ["a:1"]}}, "routes": routes });

    let problems = Fake::default().load(&file.to_string()).unwrap_err();

    let cures = problems.0.iter().filter(|problem| problem.cure.starts_with("did you mean"));
    assert_eq!(cures.count(), 100);
}

/// A generator of files that follow the schema, with a seed that a failure prints.
struct Seeded(u64);

impl Seeded {
    /// A number below `limit`. The constants are Knuth's for a 64-bit congruential generator.
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    fn value(&mut self, root: &Value, schema: &Value, depth: usize) -> Value {
        let examples = schema.get("examples").and_then(Value::as_array);
        if let Some(examples) = examples
            && self.below(3) > 0
        {
            return self.pick(examples).clone();
        }
        let choices = schema::alternatives(root, schema);
        let choice = *self.pick(choices.as_slice());
        let (schema, _) = schema::resolve(root, choice);
        let words = schema::words(schema);
        if !words.is_empty() {
            return json!(self.pick(words.as_slice()));
        }
        match schema.get("type").and_then(Value::as_str) {
            Some("null") => Value::Null,
            Some("boolean") => json!(self.below(2) == 0),
            Some("number") => json!(f64::from(u32::try_from(self.below(1000)).unwrap()) / 999.0),
            Some("integer") => {
                let low = schema.get("minimum").and_then(Value::as_i64).unwrap_or(0);
                let high = schema.get("maximum").and_then(Value::as_i64).unwrap_or(i64::MAX);
                let any = low + i64::try_from(self.below(1 << 30)).unwrap();
                json!(*self.pick(&[low, high, any.min(high)]))
            }
            Some("array") => {
                (0..=self.below(2)).map(|_| self.value(root, &schema["items"], depth + 1)).collect()
            }
            Some("object") => self.object(root, schema, depth),
            _ => json!(self.pick(&[
                "a",
                "/x",
                "echo",
                "h:1",
                "127.0.0.1:3",
                "json",
                "off",
                "${env:A}",
                "$${x",
                "é"
            ])),
        }
    }

    fn object(&mut self, root: &Value, schema: &Value, depth: usize) -> Value {
        let mut object = Map::new();
        let required =
            schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        for (key, property) in
            schema.get("properties").and_then(Value::as_object).into_iter().flatten()
        {
            if required.contains(&json!(key)) || self.below(8) == 0 {
                object.insert(key.clone(), self.value(root, property, depth));
            }
        }
        match schema.get("additionalProperties") {
            Some(values @ Value::Object(_)) => {
                let key = *self.pick(&["a", "b", "x-y"]);
                object.insert(key.into(), self.value(root, values, depth + 1));
            }
            Some(Value::Bool(true)) => {
                let free = json!([1, -2, 0.1, 1e300, null, "$${env:A}", {"deep": [true]}]);
                object.insert("free".into(), self.pick(free.as_array().unwrap()).clone());
            }
            _ => {}
        }
        Value::Object(object)
    }
}

#[test]
fn every_accepted_file_loads_equal_again() {
    let root = super::schema::shared().clone();
    let fake = Fake::default().variable("A", "5").file("/p/a.wasm", "").file("/p/jwt.wasm", "");
    let fake = fake.file("/p/b.wasm", "").file("/p/x-y.wasm", "").file("/p/rate-limit.wasm", "");
    let mut accepted = 0;
    for seed in 0..2000 {
        let mut file = Seeded(seed).value(&root, &root, 0);
        file["plugins_dir"] = json!("/p");
        if let Some(routes) = file.get_mut("routes").and_then(Value::as_array_mut) {
            for route in routes {
                route["respond"] = json!({ "body": "x" });
                for other in ["upstream", "redirect", "rewrite"] {
                    route.as_object_mut().unwrap().remove(other);
                }
            }
        }
        let text = file.to_string();
        let Ok((config, settings)) = fake.load(&text) else { continue };
        accepted += 1;

        let (again, same) = fake.load(&config.to_text()).unwrap_or_else(|problems| {
            panic!("seed {seed}: {text}\n{}\n{problems}", config.to_text())
        });

        assert_eq!(again, config, "seed {seed}: {text}");
        assert_eq!(format!("{same:?}"), format!("{settings:?}"), "seed {seed}");
        let checked = check(&config, &fake, &["native-one"]).unwrap();
        assert_eq!(format!("{checked:?}"), format!("{settings:?}"), "seed {seed}");
    }
    assert!(accepted > 200, "only {accepted} files were accepted");
}
