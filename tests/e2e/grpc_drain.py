"""A server and a client of gRPC around two gateways, of which the first is drained while calls are in flight.

Prints `port N` of the server, reads the gateways' addresses from standard input, begins calls by the first and prints
`begun`; reads a line when that one takes no more, and says what came of the calls, one line of JSON in the end.

Not here: what is expected of it (`grpc.rs`).
"""

import json
import queue
import sys
import threading
from concurrent import futures

import grpc

BEGUN = 5
begun = threading.Semaphore(0)
go = threading.Event()


def held(message, context):
    begun.release()
    go.wait()
    return message


def out(message, context):
    yield b"first"
    begun.release()
    go.wait()
    for index in range(3):
        yield str(index).encode()


def collect(messages, context):
    begun.release()
    return b" ".join(messages)


def both(messages, context):
    begun.release()
    for message in messages:
        yield message


def waits(message, context):
    begun.release()
    ended = threading.Event()
    context.add_callback(ended.set)
    ended.wait()
    return b""


class Service(grpc.GenericRpcHandler):
    def service(self, details):
        kinds = {
            "Held": grpc.unary_unary_rpc_method_handler(held),
            "Out": grpc.unary_stream_rpc_method_handler(out),
            "In": grpc.stream_unary_rpc_method_handler(collect),
            "Both": grpc.stream_stream_rpc_method_handler(both),
            "Waits": grpc.unary_unary_rpc_method_handler(waits),
            "Second": grpc.unary_unary_rpc_method_handler(lambda message, context: message),
        }
        return kinds.get(details.method.rsplit("/", 1)[1])


server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
server.add_generic_rpc_handlers((Service(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(f"port {port}", flush=True)
first, second = sys.stdin.readline().split()

# Asked in this order; a connection that goes away is replaced by one to whoever accepts.
channel = grpc.insecure_channel(
    f"ipv4:{first},{second}", [("grpc.default_authority", "a.test"), ("grpc.enable_retries", 0)]
)
service = "/test.Service/"
said = queue.Queue()
told = queue.Queue()
answered = channel.stream_stream(service + "Both")(iter(told.get, None))
told.put(b"before")
both_got = [next(answered)]
collected = channel.stream_unary(service + "In").future(iter(said.get, None))
said.put(b"before")
streamed = channel.unary_stream(service + "Out")(b"")
out_got = [next(streamed)]
unary = channel.unary_unary(service + "Held").future(b"hello")
late = channel.unary_unary(service + "Waits").future(b"", timeout=5)
for _ in range(BEGUN):
    begun.acquire()
print("begun", flush=True)
sys.stdin.readline()

new = channel.unary_unary(service + "Second")(b"new", timeout=20, wait_for_ready=True)
deadline = late.code().name
for messages in (said, told):
    messages.put(b"after")
    messages.put(None)
go.set()
found = {
    "unary": unary.result().decode(),
    "in": collected.result().decode(),
    "out": [one.decode() for one in out_got + list(streamed)],
    "both": [one.decode() for one in both_got + list(answered)],
    "new": new.decode(),
    "deadline": deadline,
}
print(json.dumps(found), flush=True)
