//! What a guest may try to do with the system, each on a worker's runtime, where waiting panics.

use super::*;

fn failed(guest: &Guest) -> HookFailure {
    on_worker(|| {
        let chain = Instances::new().chain(&plan([guest])).unwrap();
        failure(down(&chain, request(&[])).1)
    })
}

/// As a panic of a Rust guest does it.
fn printing(then: &str) -> Guest {
    let mut guest = Guest::on_request(&format!(
        "(call $write (call $get-stderr) (i32.const 64) (i32.const 13) (i32.const 512)) {then}"
    ));
    guest.imports = "
        (import \"wasi:io/error@0.2.0\" (instance $io-error
          (export \"error\" (type (sub resource)))))
        (alias export $io-error \"error\" (type $error))
        (import \"wasi:io/streams@0.2.0\" (instance $streams
          (export \"output-stream\" (type $output (sub resource)))
          (alias outer 1 $error (type $e))
          (export \"error\" (type $error (eq $e)))
          (type $v (variant (case \"last-operation-failed\" (own $error)) (case \"closed\")))
          (export \"stream-error\" (type $stream-error (eq $v)))
          (export \"[method]output-stream.blocking-write-and-flush\" (func
            (param \"self\" (borrow $output)) (param \"contents\" (list u8))
            (result (result (error $stream-error)))))))
        (alias export $streams \"output-stream\" (type $output))
        (import \"wasi:cli/stderr@0.2.0\" (instance $stderr
          (alias outer 1 $output (type $o))
          (export \"output-stream\" (type $output (eq $o)))
          (export \"get-stderr\" (func (result (own $output))))))"
        .to_owned();
    guest.lowers = vec![
        ("get-stderr", "$stderr \"get-stderr\"", "(result i32)"),
        (
            "write",
            "$streams \"[method]output-stream.blocking-write-and-flush\"",
            "(param i32 i32 i32 i32)",
        ),
    ];
    guest.data(64, "panicked: \\22no\\0a")
}

#[test]
fn printing_is_no_reason_to_fail() {
    on_worker(|| {
        let chain = Instances::new().chain(&plan([&printing("(i32.const 0)")])).unwrap();
        assert_eq!(down(&chain, request(&[])).1.outcome.unwrap(), Flow::Next);
    });
}

#[test]
fn the_message_of_a_panic_is_in_the_failure() {
    let failed = failed(&printing("(unreachable)"));

    assert_eq!(failed.kind, FailureKind::Trap);
    assert!(failed.message.ends_with("; it wrote: panicked: \"no"), "{}", failed.message);
}

fn sleeping() -> Guest {
    let mut guest = Guest::on_request(
        "(call $block (call $subscribe (i64.const 1000000000000))) (i32.const 0)",
    );
    guest.imports = "
        (import \"wasi:io/poll@0.2.0\" (instance $poll
          (export \"pollable\" (type $pollable (sub resource)))
          (export \"[method]pollable.block\" (func (param \"self\" (borrow $pollable))))))
        (alias export $poll \"pollable\" (type $pollable))
        (import \"wasi:clocks/monotonic-clock@0.2.0\" (instance $monotonic
          (alias outer 1 $pollable (type $p))
          (export \"pollable\" (type $pollable (eq $p)))
          (export \"subscribe-duration\" (func (param \"when\" u64)
            (result (own $pollable))))))"
        .to_owned();
    guest.lowers = vec![
        ("block", "$poll \"[method]pollable.block\"", "(param i32)"),
        ("subscribe", "$monotonic \"subscribe-duration\"", "(param i64) (result i32)"),
    ];
    guest
}

#[test]
fn sleeping_is_a_failure_at_once() {
    let began = Instant::now();

    let failed = failed(&sleeping());

    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(failed.kind, FailureKind::Trap);
    assert!(
        failed.message.starts_with("it tried to wait, and a plugin may not wait"),
        "{}",
        failed.message
    );
}

#[test]
fn exit_is_a_failure_that_says_so() {
    let mut guest = Guest::on_request("(call $exit (i32.const 1)) (i32.const 0)");
    guest.imports = "(import \"wasi:cli/exit@0.2.0\" (instance $cli-exit
        (export \"exit\" (func (param \"status\" (result))))))"
        .to_owned();
    guest.lowers = vec![("exit", "$cli-exit \"exit\"", "(param i32)")];

    assert!(failed(&guest).message.starts_with("it called exit(1)"));
}

/// std turns these answers into ordinary I/O errors.
#[test]
fn files_and_sockets_answer_no() {
    // Traps unless there are no directories, and creating a socket is an error of case 1.
    let mut guest = Guest::on_request(
        "(call $directories (i32.const 512))
         (if (i32.load offset=4 (i32.const 512)) (then (unreachable)))
         (call $socket (i32.const 0) (i32.const 512))
         (if (i32.ne (i32.load8_u (i32.const 512)) (i32.const 1)) (then (unreachable)))
         (if (i32.ne (i32.load8_u offset=4 (i32.const 512)) (i32.const 1)) (then (unreachable)))
         (drop (call $network))
         (i32.const 0)",
    );
    guest.imports = "
        (import \"wasi:filesystem/types@0.2.0\" (instance $files
          (export \"descriptor\" (type (sub resource)))))
        (alias export $files \"descriptor\" (type $descriptor))
        (import \"wasi:filesystem/preopens@0.2.0\" (instance $preopens
          (alias outer 1 $descriptor (type $d))
          (export \"descriptor\" (type $descriptor (eq $d)))
          (export \"get-directories\" (func
            (result (list (tuple (own $descriptor) string)))))))
        (import \"wasi:sockets/network@0.2.0\" (instance $net
          (export \"network\" (type (sub resource)))
          (type $c (enum \"unknown\" \"access-denied\"))
          (export \"error-code\" (type (eq $c)))
          (type $f (enum \"ipv4\" \"ipv6\"))
          (export \"ip-address-family\" (type (eq $f)))))
        (alias export $net \"network\" (type $network))
        (alias export $net \"error-code\" (type $error-code))
        (alias export $net \"ip-address-family\" (type $family))
        (import \"wasi:sockets/instance-network@0.2.0\" (instance $instance-network
          (alias outer 1 $network (type $n))
          (export \"network\" (type $network (eq $n)))
          (export \"instance-network\" (func (result (own $network))))))
        (import \"wasi:sockets/tcp@0.2.0\" (instance $tcp
          (export \"tcp-socket\" (type (sub resource)))))
        (alias export $tcp \"tcp-socket\" (type $tcp-socket))
        (import \"wasi:sockets/tcp-create-socket@0.2.0\" (instance $create
          (alias outer 1 $tcp-socket (type $s)) (export \"tcp-socket\" (type $socket (eq $s)))
          (alias outer 1 $error-code (type $c)) (export \"error-code\" (type $code (eq $c)))
          (alias outer 1 $family (type $f))
          (export \"ip-address-family\" (type $family (eq $f)))
          (export \"create-tcp-socket\" (func (param \"address-family\" $family)
            (result (result (own $socket) (error $code)))))))"
        .to_owned();
    guest.lowers = vec![
        ("directories", "$preopens \"get-directories\"", "(param i32)"),
        ("socket", "$create \"create-tcp-socket\"", "(param i32 i32)"),
        ("network", "$instance-network \"instance-network\"", "(result i32)"),
    ];
    on_worker(|| {
        let chain = Instances::new().chain(&plan([&guest])).unwrap();

        let (_, passed) = down(&chain, request(&[]));

        assert_eq!(passed.outcome.map_err(|failure| failure.message), Ok(Flow::Next));
    });
}
