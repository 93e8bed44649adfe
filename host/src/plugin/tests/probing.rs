//! What becomes of a configuration before any request.

use super::*;

/// What the operator reads about the configuration as a whole.
fn refusal(plugin: &Arc<Plugin>) -> String {
    let complaints = plugin.probe("{}").unwrap_err();
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert_eq!(complaints[0].pointer, "");
    complaints[0].message.clone()
}

#[test]
fn the_words_of_init_are_handed_on() {
    let refusing = Guest {
        init: "(i32.store (i32.const 512) (i32.const 1)) (i32.store (i32.const 516) \
               (i32.const 64)) (i32.store (i32.const 520) (i32.const 16)) \
               (return (i32.const 512))",
        ..Guest::noop()
    };

    let refusal = self::refusal(&load(&refusing.data(64, "`name` is needed")));

    assert_eq!(refusal, "`name` is needed");
    assert_eq!(load(&Guest::noop()).probe("{}"), Ok(()));
}

#[test]
fn a_failing_init_is_described() {
    let trapping = Guest { init: "(unreachable)", ..Guest::noop() };
    let endless = Guest { init: "(loop (br 0))", ..Guest::noop() };
    let greedy = Guest { request_fields: vec!["a".to_owned(); 65], ..Guest::noop() };
    let large = PluginLimits { memory_bytes_max: 64 * 1024, ..LIMITS };

    let trap = refusal(&load(&trapping));
    let began = Instant::now();
    let time = refusal(&load(&endless));
    assert!(began.elapsed() < Duration::from_secs(5));
    let fields = refusal(&load(&greedy));
    let memory = ENGINE.load("guest", &Guest::noop().build(), &large, &Arc::default()).unwrap();
    let memory = refusal(&memory);

    assert!(trap.contains("unreachable"), "{trap}");
    assert!(time.starts_with("it ran longer than 1s"), "{time}");
    assert_eq!(fields, "`request-fields` has 65 names, at most 64 are allowed");
    assert!(memory.starts_with("it was refused memory"), "{memory}");
}
