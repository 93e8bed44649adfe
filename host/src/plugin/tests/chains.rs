//! Requests on their way down a chain, and responses on their way back.

use super::*;

#[test]
fn requests_go_down_and_responses_back_up() {
    const SET: &str = "(param \"name\" string) (param \"value\" (list u8))";
    let marker = |mark: &str| {
        Guest {
        on_request: Some(
            "(call $in (i32.const 64) (i32.const 1) (i32.const 65) (i32.const 1)) (i32.const 0)"
                .to_owned(),
        ),
        on_response: Some(
            "(call $out (i32.const 64) (i32.const 1) (i32.const 65) (i32.const 1)) \
             (i32.const 0)"
                .to_owned(),
        ),
        ..Guest::default()
    }
    .import("request", &[("in", "$request \"append\"", SET, "(param i32 i32 i32 i32)")])
    .import("response", &[("out", "$response \"append\"", SET, "(param i32 i32 i32 i32)")])
    .data(64, &format!("m{mark}"))
    };
    let guests = [marker("1"), marker("2"), marker("3")];
    let chain = Instances::new().chain(&plan(&guests)).unwrap();

    let (mut exchange, passed) = down(&chain, request(&[]));
    assert_eq!(passed.outcome.unwrap(), Flow::Next);
    exchange.response.assign(200);
    let (exchange, flow) = up(&chain, exchange, passed.entered);

    assert_eq!(flow.unwrap(), Flow::Next);
    assert_eq!(text(&exchange.request.fields), "m: 1; m: 2; m: 3; ");
    assert_eq!(text(&exchange.response.fields), "m: 3; m: 2; m: 1; ");
}

/// A guest that leaves one buffer of fields for later, from `on-request`.
fn later(packed: &str, length: usize, flow: &str) -> Guest {
    let body = format!("(call $later (i32.const 64) (i32.const {length})) {flow}");
    Guest::on_request(&body)
        .import(
            "response",
            &[(
                "later",
                "$response \"append-later\"",
                "(param \"packed\" (list u8))",
                "(param i32 i32)",
            )],
        )
        .data(64, packed)
}

/// In the order in which response hooks would have added them, whoever makes the answer.
#[test]
fn fields_are_left_for_the_response() {
    let one = |name: char| {
        later(&format!("\\01\\00\\01\\00{name}1\\01\\00\\00\\00{name}"), 11, "(i32.const 0)")
    };
    let chain = Instances::new().chain(&plan(&[one('a'), one('b')])).unwrap();

    for entered in [2, 1, 0] {
        let (mut exchange, passed) = down(&chain, request(&[]));
        assert_eq!((passed.outcome.unwrap(), passed.entered), (Flow::Next, 2));
        assert_eq!(text(&exchange.response.fields), "");
        exchange.response.assign(200);
        let (exchange, _) = up(&chain, exchange, entered);
        let expected = ["", "a: 1; a: ; ", "b: 1; b: ; a: 1; a: ; "][entered];
        assert_eq!(text(&exchange.response.fields), expected);
    }
}

/// What is refused in any other edit is refused here, and nothing of a hook that failed is left.
#[test]
fn what_is_left_for_the_response_is_checked() {
    for (packed, length) in [
        ("\\01\\00\\01\\00a", 5),
        ("\\01\\00\\01", 3),
        ("\\01\\00\\ff\\ffab", 6),
        ("\\01\\00\\01\\00a\\0a", 6),
        ("\\01\\00\\01\\00 b", 6),
        ("\\00\\00\\01\\00b", 5),
        ("\\01\\00\\01\\00\\ffb", 6),
        ("\\02\\00\\01\\00teb", 7),
    ] {
        let chain =
            Instances::new().chain(&plan([&later(packed, length, "(i32.const 0)")])).unwrap();
        let failed = failure(down(&chain, request(&[])).1);
        assert_eq!(failed.kind, FailureKind::Violation, "{packed}: {failed}");
    }
    let link = link(&later("\\01\\00\\01\\00ab", 6, "(unreachable)"), OnError::Open);
    let chain = Instances::new().chain(&ChainPlan { links: vec![link] }).unwrap();
    let (mut exchange, passed) = down(&chain, request(&[]));
    assert_eq!(passed.outcome.unwrap(), Flow::Next);
    exchange.response.assign(200);
    assert_eq!(text(&up(&chain, exchange, 1).0.response.fields), "");
}

#[test]
fn declared_fields_arrive_by_value() {
    // Copies the value of the second field, which has 5 bytes, to `x-copy`.
    let guest = Guest {
        request_fields: vec!["x-none".to_owned(), "X-Some".to_owned()],
        ..Guest::on_request(
            "(if (i32.load8_u (local.get $fields)) (then (unreachable)))
             (call $request-set (i32.const 64) (i32.const 6)
               (i32.load offset=16 (local.get $fields)) (i32.load offset=20 (local.get $fields)))
             (i32.const 0)",
        )
    };
    let guest = guest.edits_requests().data(64, "x-copy");
    let chain = Instances::new().chain(&plan([&guest])).unwrap();

    let (exchange, passed) = down(&chain, request(&[("x-some", "a"), ("X-SOME", "b")]));

    assert_eq!(passed.outcome.unwrap(), Flow::Next);
    assert_eq!(exchange.request.fields.get("x-copy"), Some(b"a, b".as_slice()));
}

#[test]
fn an_early_answer_goes_back_through_those_entered_only() {
    let stop = replying(403, "(i32.const 1)");
    let chain = Instances::new().chain(&plan([&setter("x-a", "1"), &stop, &fragile()])).unwrap();

    let (exchange, passed) = down(&chain, request(&[("x-bad", "not seen")]));

    assert_eq!(passed.outcome.unwrap(), Flow::Respond);
    assert_eq!(passed.entered, 1, "not its maker");
    assert_eq!(exchange.response.status, 403);
    assert_eq!(text(&exchange.response.fields), "x-by: guest; ");
    assert_eq!(exchange.body.as_deref(), Some(b"gone".as_slice()));
}

#[test]
fn a_response_can_be_replaced() {
    let chain = Instances::new().chain(&plan([&replying(410, "(i32.const 1)")])).unwrap();

    let (exchange, flow) = up(&chain, response(200, &[("x-old", "1")]), 1);

    assert_eq!(flow.unwrap(), Flow::Respond);
    assert_eq!(exchange.response.status, 410);
    assert_eq!(text(&exchange.response.fields), "x-by: guest; ");
    assert_eq!(exchange.body.as_deref(), Some(b"gone".as_slice()));
}

#[test]
fn a_link_without_the_hook_is_skipped() {
    let mut instances = Instances::new();
    let chain = instances.chain(&plan([&Guest::on_response("(i32.const 0)")])).unwrap();

    let (_, passed) = down(&chain, request(&[]));

    assert_eq!((passed.outcome.unwrap(), passed.entered), (Flow::Next, 1));
    assert_eq!(instances.stats()[0].hooks[0].calls.iter().sum::<u64>(), 0);
}

#[test]
fn native_middleware_stands_in_the_same_chain() {
    struct Stamp(String);
    impl Middleware for Stamp {
        fn on_request(&self, exchange: &mut Exchange) -> Flow {
            assert!(exchange.request.fields.get("x-bad").is_none(), "that was bad");
            exchange.request.fields.set("x-stamp", self.0.as_bytes()).unwrap();
            Flow::Next
        }
    }
    let factory: Arc<NativeFactory> = Arc::new(|config| {
        let name = config["name"].as_str().ok_or("`name` is missing")?;
        Ok(Box::new(Stamp(name.to_owned())))
    });
    let native = |config: &str, on_error| LinkPlan {
        plugin: PlanSource::Native(Arc::clone(&factory)),
        name: "stamp".into(),
        config: config.into(),
        on_error,
    };
    let mut instances = Instances::new();
    let plan = |on_error| ChainPlan {
        links: vec![
            link(&setter("x-wasm", "1"), OnError::Closed),
            native(r#"{"name":"n"}"#, on_error),
        ],
    };
    let chain = instances.chain(&plan(OnError::Open)).unwrap();
    let closed = instances.chain(&plan(OnError::Closed)).unwrap();

    let (good, _) = down(&chain, request(&[]));
    let (bad, passed) = down(&chain, request(&[("x-bad", "")]));
    let (_, refused) = down(&closed, request(&[("x-bad", "")]));

    assert_eq!(text(&good.request.fields), "x-wasm: 1; x-stamp: n; ");
    assert_eq!(text(&bad.request.fields), "x-bad: ; x-wasm: 1; ");
    assert_eq!(passed.outcome.unwrap(), Flow::Next, "open");
    assert_eq!(refused.entered, 1);
    assert_eq!(&*failure(refused).message, "it panicked: that was bad");
    let bad = ChainPlan { links: vec![native("{}", OnError::Closed)] };
    let error = instances.chain(&bad).err().unwrap();
    assert_eq!(error.to_string(), "plugin `stamp`: `name` is missing");
}
