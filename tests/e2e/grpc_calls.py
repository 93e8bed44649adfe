"""A server and a client of gRPC around a gateway, made with grpcio; messages are plain bytes.

Prints `port N` of the server, reads the gateway's address (and that of one without a server, that of one with
limits, and for TLS the file of its roots) from standard input, and says of each behaviour what came of it, one line of JSON in the end.

Not here: what is expected of it (`grpc.rs`).
"""

import json
import sys
import threading
import time
from concurrent import futures

import grpc

LIMITS = [
    ("grpc.max_receive_message_length", 80 << 20),
    ("grpc.max_send_message_length", 80 << 20),
    ("grpc.max_metadata_size", 64 << 10),
    ("grpc.absolute_max_metadata_size", 128 << 10),
]
cancelled = threading.Event()


def unary(message, context):
    context.send_initial_metadata((("x-first", "1"), ("x-bytes-bin", b"\x00\xff")))
    seen = dict(context.invocation_metadata())
    context.set_trailing_metadata((("x-last", seen.get("x-asked", "")),))
    return message


def fails(message, context):
    context.set_trailing_metadata((("x-last", "2"),))
    context.abort(grpc.StatusCode.NOT_FOUND, "nothing: 100 % \u00e9")


def waits(message, context):
    context.add_callback(cancelled.set)
    while context.is_active():
        time.sleep(0.01)
    return b""


def remaining(message, context):
    return str(context.time_remaining() < 60).encode()


def streams_out(message, context):
    for index in range(int(message)):
        yield str(index).encode()


def streams_in(messages, context):
    return str(sum(len(message) for message in messages)).encode()


def streams_both(messages, context):
    for message in messages:
        yield message


def binary(message, context):
    seen = dict(context.invocation_metadata())
    context.set_trailing_metadata((("x-back-bin", b"\xff\xfe"),))
    return bytes(seen["x-there-bin"])


def fields(message, context):
    seen = [value for key, value in context.invocation_metadata() if key.startswith("x-field")]
    context.set_trailing_metadata([("x-longest", "y" * max(map(len, seen)))])
    return str(len(seen)).encode()


def denies(message, context):
    context.set_trailing_metadata((("x-why", "late"),))
    context.abort(grpc.StatusCode.PERMISSION_DENIED, "before anything")


def out_fails(message, context):
    for _ in range(3):
        yield b"one"
    context.abort(grpc.StatusCode.DATA_LOSS, "after three")


def in_fails(messages, context):
    next(messages)
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, "enough")


def after_end(messages, context):
    for _ in messages:
        pass
    yield b"after"
    yield b"the end"


def endless(message, context):
    context.add_callback(cancelled.set)
    while context.is_active():
        yield b"more"
        time.sleep(0.01)


def slow(message, context):
    yield b"one"
    yield b"two"
    while context.is_active():
        time.sleep(0.01)


class Service(grpc.GenericRpcHandler):
    def service(self, details):
        kinds = {
            "Unary": grpc.unary_unary_rpc_method_handler(unary),
            "Fails": grpc.unary_unary_rpc_method_handler(fails),
            "Waits": grpc.unary_unary_rpc_method_handler(waits),
            "Remaining": grpc.unary_unary_rpc_method_handler(remaining),
            "Out": grpc.unary_stream_rpc_method_handler(streams_out),
            "In": grpc.stream_unary_rpc_method_handler(streams_in),
            "Both": grpc.stream_stream_rpc_method_handler(streams_both),
            "Binary": grpc.unary_unary_rpc_method_handler(binary),
            "Fields": grpc.unary_unary_rpc_method_handler(fields),
            "Denies": grpc.unary_unary_rpc_method_handler(denies),
            "OutFails": grpc.unary_stream_rpc_method_handler(out_fails),
            "InFails": grpc.stream_unary_rpc_method_handler(in_fails),
            "AfterEnd": grpc.stream_stream_rpc_method_handler(after_end),
            "Endless": grpc.unary_stream_rpc_method_handler(endless),
            "Slow": grpc.unary_stream_rpc_method_handler(slow),
            # grpc.health.v1.Health/Check, its messages by hand: status SERVING.
            "Check": grpc.unary_unary_rpc_method_handler(lambda message, context: b"\x08\x01"),
        }
        return kinds.get(details.method.rsplit("/", 1)[1])


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def told(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("no error")


def more(found, channel, closed, patience):
    """Metadata, errors and ends of all kinds, and answers that the gateway gives."""
    prefix = "/test.Service/"
    unary = channel.unary_unary
    answer, call = unary(prefix + "Binary").with_call(
        b"", metadata=(("x-there-bin", b"\x00\x01\xff"),), **patience
    )
    back = dict(call.trailing_metadata())["x-back-bin"]
    found["binary"] = [list(answer), list(back)]
    many = [(f"x-field-{at}", "v") for at in range(59)] + [("x-field-long", "v" * 8000)]
    answer, call = unary(prefix + "Fields").with_call(b"", metadata=many, **patience)
    found["many fields"] = int(answer)
    found["large field"] = len(dict(call.trailing_metadata())["x-longest"])
    text = b"the same again, " * 100_000
    squeezed = unary(prefix + "Unary")(text, compression=grpc.Compression.Gzip, **patience)
    found["compressed"] = squeezed == text
    error = told(lambda: unary(prefix + "Denies")(b"", **patience))
    why = dict(error.trailing_metadata()).get("x-why")
    found["no trailers first"] = [error.code().name, error.details(), why]
    stream, seen = channel.unary_stream(prefix + "OutFails")(b"", **patience), []
    error = told(lambda: seen.extend(stream))
    found["out fails"] = [len(seen), error.code().name, error.details()]
    sends = channel.stream_unary(prefix + "InFails")
    error = told(lambda: sends(iter([b"x" * 1000] * 1000), **patience))
    found["in fails"] = [error.code().name, error.details()]
    ended = channel.stream_stream(prefix + "AfterEnd")(iter([b"a", b"b"]), **patience)
    found["half-closed"] = [it.decode() for it in ended]
    cancelled.clear()
    stream = channel.unary_stream(prefix + "Endless")(b"", timeout=120)
    next(stream)
    stream.cancel()
    found["out cancelled"] = cancelled.wait(60)
    both = channel.stream_stream(prefix + "Both")
    found["large stream"] = sum(len(it) for it in both(iter([b"x" * (1 << 20)] * 64), **patience)) >> 20
    streams = [both(iter([b"%d" % at]), **patience) for at in range(1000)]
    found["streams at once"] = sum(list(it) == [b"%d" % at] for at, it in enumerate(streams))
    found["health"] = unary("/grpc.health.v1.Health/Check")(b"", **patience) == b"\x08\x01"
    stream, seen = channel.unary_stream(prefix + "Slow")(b"", timeout=1.5), []
    error = told(lambda: seen.extend(stream))
    found["deadline in a stream"] = [len(seen), error.code().name]
    found["empty messages"] = len(list(both(iter([b""] * 5), **patience)))
    error = told(lambda: closed.unary_unary(prefix + "Unary")(b"", **patience))
    asks = "www-authenticate" in {**dict(error.trailing_metadata()), **dict(error.initial_metadata())}
    found["refused by jwt"] = [error.code().name, asks]
    out = closed.unary_stream(prefix + "Out")
    found["refused by rate-limit"] = [failure(lambda: list(out(b"1", **patience))) for _ in range(2)]
    both = closed.stream_stream(prefix + "Both")
    found["too large"] = failure(lambda: list(both(iter([b"x" * 2000]), **patience)))
    error = told(lambda: closed.unary_unary(prefix + "Closed")(b"", **patience))
    found["closed by a route"] = [error.code().name, error.details()]
    found["calls after all"] = unary(prefix + "Unary")(b"still there", **patience).decode()


def main():
    server = grpc.server(futures.ThreadPoolExecutor(64), options=LIMITS)
    server.add_generic_rpc_handlers((Service(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print("port", port, flush=True)
    gateway, deserted, closed, *roots = sys.stdin.readline().split()
    if roots:
        trust = grpc.ssl_channel_credentials(open(roots[0], "rb").read())
        channel = grpc.secure_channel(gateway, trust, options=LIMITS)
    else:
        channel = grpc.insecure_channel(gateway, options=LIMITS)
    nobody = grpc.insecure_channel(deserted)
    patience = {"timeout": 120, "wait_for_ready": False}
    found = {}

    answer, call = channel.unary_unary("/test.Service/Unary").with_call(
        b"hello", metadata=(("x-asked", "yes"), ("x-asked-bin", b"\x00\x01")), **patience
    )
    first = dict(call.initial_metadata())
    found["unary"] = [
        answer.decode(), first.get("x-first"), list(first.get("x-bytes-bin", b"")),
        dict(call.trailing_metadata()).get("x-last"),
    ]
    found["empty"] = len(channel.unary_unary("/test.Service/Unary")(b"", **patience))
    try:
        channel.unary_unary("/test.Service/Fails")(b"", **patience)
    except grpc.RpcError as error:
        last = dict(error.trailing_metadata()).get("x-last")
        found["error"] = [error.code().name, error.details(), last]
    found["out"] = [int(it) for it in channel.unary_stream("/test.Service/Out")(b"100", **patience)]
    found["in"] = int(
        channel.stream_unary("/test.Service/In")(iter([b"x" * 1000] * 1000), **patience)
    )
    both = channel.stream_stream("/test.Service/Both")
    found["both"] = [it.decode() for it in both(iter([b"a", b"b", b"c"]), **patience)]

    # Each message waits for the answer to the one before.
    answered = threading.Semaphore(1)

    def turns():
        for index in range(20):
            answered.acquire()
            yield str(index).encode()

    turned = []
    for message in both(turns(), **patience):
        turned.append(int(message))
        answered.release()
    found["turns"] = turned
    large = b"x" * (64 << 20)
    found["large"] = channel.unary_unary("/test.Service/Unary")(large, **patience) == large
    many = [channel.unary_unary("/test.Service/Unary").future(b"%d" % at, **patience) for at in range(1000)]
    found["many"] = all(one.result() == b"%d" % at for at, one in enumerate(many))
    found["remaining"] = channel.unary_unary("/test.Service/Remaining")(b"", timeout=50).decode()
    found["unknown"] = failure(lambda: channel.unary_unary("/test.Service/Nope")(b"", **patience))
    found["no route"] = failure(lambda: channel.unary_unary("/other/Nope")(b"", **patience))
    found["no server"] = failure(lambda: nobody.unary_unary("/test.Service/Unary")(b"", **patience))
    waiting = channel.unary_unary("/test.Service/Waits")
    found["deadline"] = failure(lambda: waiting(b"", timeout=0.3))
    found["deadline told"] = cancelled.wait(60)
    cancelled.clear()
    call = waiting.future(b"", timeout=120)
    time.sleep(0.3)
    call.cancel()
    found["cancel told"] = cancelled.wait(60)
    stream = both(iter(threading.Event().wait, None), timeout=120)
    stream.cancel()
    found["cancelled"] = failure(lambda: next(stream))
    more(found, channel, grpc.insecure_channel(closed), patience)
    print(json.dumps(found), flush=True)
    server.stop(None)


main()
