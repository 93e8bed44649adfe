#!/usr/bin/env python3
"""What idle connections hold of ZProxy that speak TLS or HTTP/2: written memory (RssAnon) before, while and after.

    benches/idle.py --zproxy target/release/zproxy --connections 10000 --out FOLDER

Each connection asks once and is silent then. They come from several addresses of 127.0.0.0/8; both this process and
the gateway need a descriptor for each (`ulimit -n`).

Not here: HTTP/1.1 in clear text, event streams, peers (`zproxy-benches idle`).
"""

import argparse
import json
import socket
import ssl
import subprocess
import tempfile
import time
from pathlib import Path

PORT = 7300
KINDS = [("TLS 1.3", True, False), ("HTTP/2", False, True), ("HTTP/2 over TLS", True, True)]
BODY = b"x" * 100


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


# GET / http bench.example, by the static table.
HEAD = b"\x82\x84\x86\x01\x0dbench.example"


def connect(place, context, http2):
    line = socket.socket()
    line.bind((f"127.1.0.{1 + place // 5000}", 0))
    line.connect(("127.0.0.1", PORT))
    line.settimeout(30)
    if context:
        line = context.wrap_socket(line, server_hostname="localhost")
    if not http2:
        line.sendall(b"GET / HTTP/1.1\r\nHost: bench.example\r\n\r\n")
        answer = b""
        while not answer.endswith(BODY):
            answer += line.recv(4096)
        return line
    line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 5, 1, HEAD))
    answer, ended = b"", False
    while not ended:
        answer += line.recv(65536)
        while len(answer) >= 9 and len(answer) >= (whole := 9 + int.from_bytes(answer[:3], "big")):
            kind, flags = answer[3], answer[4]
            if kind == 4 and not flags & 1:
                line.sendall(frame(4, 1, 0, b""))
            ended |= kind == 0 and flags & 1 == 1 and answer[9:whole] == BODY
            answer = answer[whole:]
    return line


def written_kib(pid):
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("RssAnon")).split()[1])


def measure(options, at, io, kind):
    name, by_tls, http2 = kind
    listener = {"address": f"127.0.0.1:{PORT}"}
    context = None
    if by_tls:
        files = {"cert_path": str(at / "cert.pem"), "key_path": str(at / "key.pem")}
        listener["tls"] = {"certificates": [files]}
        context = ssl.create_default_context(cafile=at / "cert.pem")
        context.set_alpn_protocols(["h2" if http2 else "http/1.1"])
    (at / "zproxy.json").write_text(json.dumps({
        "listeners": [listener],
        "workers": {"count": 1, "pin": False, "io": io},
        "admin": {"address": None},
        "access_log": {"path": "off"},
        "limits": {"idle_timeout_ms": 600_000},
        "routes": [{"path": "/", "respond": {"status": 200, "body": BODY.decode()}}],
    }))
    command = [options.zproxy, "run", "--config", str(at / "zproxy.json")]
    gateway = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)
        for line in [connect(0, context, http2) for _ in range(200)]:
            line.close()
        time.sleep(1.5)
        before = written_kib(gateway.pid)
        lines = [connect(place, context, http2) for place in range(options.connections)]
        time.sleep(1.5)
        held = written_kib(gateway.pid)
        for line in lines:
            line.close()
        time.sleep(2)
        after = written_kib(gateway.pid)
    finally:
        gateway.terminate()
        gateway.wait()
    each = (held - before) * 1024 // options.connections
    return {"kind": name, "io": io, "connections": options.connections, "before_kib": before,
            "held_kib": held, "after_kib": after, "bytes_each": each}


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--zproxy", default="target/release/zproxy")
    flags.add_argument("--connections", type=int, default=10_000)
    flags.add_argument("--io", default="epoll", choices=["epoll", "uring"])
    flags.add_argument("--out", type=Path, required=True)
    options = flags.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, (options.out / "measurements.jsonl").open("a") as kept:
        at = Path(folder)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-keyout", at / "key.pem", "-out", at / "cert.pem", "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost"],
            check=True, capture_output=True)
        (at / "key.pem").chmod(0o600)
        for kind in KINDS:
            row = measure(options, at, options.io, kind)
            print(row)
            kept.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
