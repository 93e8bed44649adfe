//! What becomes of a configuration before any request.

use super::*;

#[test]
fn the_words_of_init_are_handed_on() {
    let refusing = Guest {
        init: "(i32.store (i32.const 512) (i32.const 1)) (i32.store (i32.const 516) \
               (i32.const 64)) (i32.store (i32.const 520) (i32.const 16)) \
               (return (i32.const 512))",
        ..Guest::noop()
    };

    let refusal = load(&refusing.data(64, "`name` is needed")).probe("{}").unwrap_err();

    assert_eq!(refusal, "`name` is needed");
    assert_eq!(load(&Guest::noop()).probe("{}"), Ok(()));
}

#[test]
fn a_failing_init_is_described() {
    let trapping = Guest { init: "(unreachable)", ..Guest::noop() };
    let endless = Guest { init: "(loop (br 0))", ..Guest::noop() };
    let greedy = Guest { request_fields: vec!["a".to_owned(); 65], ..Guest::noop() };
    let large = PluginLimits { memory_bytes_max: 64 * 1024, ..LIMITS };

    let trap = load(&trapping).probe("{}").unwrap_err();
    let began = Instant::now();
    let time = load(&endless).probe("{}").unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(5));
    let fields = load(&greedy).probe("{}").unwrap_err();
    let memory = ENGINE.load("guest", &Guest::noop().build(), &large, &Arc::default()).unwrap();
    let memory = memory.probe("{}").unwrap_err();

    assert!(trap.contains("unreachable"), "{trap}");
    assert!(time.starts_with("it ran longer than 1s"), "{time}");
    assert_eq!(fields, "`request-fields` has 65 names, at most 64 are allowed");
    assert!(memory.starts_with("it was refused memory"), "{memory}");
}
