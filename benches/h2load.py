#!/usr/bin/env python3
"""What a request of HTTP/2 over TLS costs ZProxy, nginx and HAProxy, loaded by h2load.

    benches/h2load.py --zproxy target/release/zproxy --benches target/release/zproxy-benches

One worker each on the first CPU, origin and h2load on the second; rounds are interleaved, and what is told is
CPU time of the proxy's processes for each request (schedstat), median (smallest-largest), and each round's share of
nginx's and HAProxy's. A round of a contender is a number of requests on kept connections, handshakes included.

`zproxy-benches run` has a load generator of its own, which speaks HTTP/2 in clear text only.

Not here: other scenarios, latency (`src/`).
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NGINX = """
daemon off; worker_processes 1; worker_cpu_affinity 01; pid {at}/nginx.pid; error_log {at}/error.log error;
events {{ worker_connections 4096; multi_accept on; }}
http {{
    access_log off; tcp_nodelay on; keepalive_timeout 75s; keepalive_requests 1000000000;
    client_body_temp_path {at}/c; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f;
    uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;
    upstream origin {{ server 127.0.0.1:{origin}; keepalive 1024; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} ssl http2 reuseport backlog=4096;
        ssl_certificate {at}/cert.pem; ssl_certificate_key {at}/key.pem; ssl_protocols TLSv1.2 TLSv1.3;
        location / {{
            proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_set_header Host $host; proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_max_temp_file_size 0;
        }}
    }}
}}
"""
HAPROXY = """
global
    nbthread 1
    cpu-map auto:1/1 0
    maxconn 6000
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    http-reuse always
    option forwardfor
frontend gateway
    bind 127.0.0.1:{port} ssl crt {at}/both.pem alpn h2,http/1.1
    http-request set-header X-Forwarded-Proto https
    default_backend origin
backend origin
    server origin 127.0.0.1:{origin}
"""
SCENARIOS = [
    ("small", "100-byte responses, 4 connections with 100 streams each", "/", 4, 100, 15_000),
    ("body-1m", "1 MiB responses, 4 connections with 2 streams each", "/1m", 4, 2, 400),
]
ORIGIN = 7400


def family(pid):
    """A process and those below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += family(int(child))
    return found


def cpu_ns(pid):
    total = 0
    for one in family(pid):
        for task in Path(f"/proc/{one}/task").glob("*/schedstat"):
            total += int(task.read_text().split()[0])
    return total


def contenders(options, at):
    """Name, command and port of each."""
    (at / "nginx.conf").write_text(NGINX.format(at=at, port=7401, origin=ORIGIN))
    (at / "haproxy.cfg").write_text(HAPROXY.format(at=at, port=7402, origin=ORIGIN))
    yield "nginx", ["nginx", "-c", str(at / "nginx.conf")], 7401
    yield "haproxy", ["haproxy", "-f", str(at / "haproxy.cfg")], 7402
    for port, io in ((7403, "epoll"), (7404, "uring")):
        config = {
            "listeners": [{
                "address": f"127.0.0.1:{port}",
                "tls": {"certificates": [{"cert_path": str(at / "cert.pem"), "key_path": str(at / "key.pem")}]},
            }],
            "workers": {"count": 1, "pin": False, "io": io},
            "admin": {"address": None},
            "access_log": {"path": "off"},
            "upstreams": {"origin": {"servers": [f"127.0.0.1:{ORIGIN}"]}},
            "routes": [{"path": "/", "upstream": "origin"}],
        }
        path = at / f"zproxy-{io}.json"
        path.write_text(json.dumps(config, indent=2))
        yield f"zproxy-{io}", ["taskset", "-c", "0", options.zproxy, "run", "--config", str(path)], port


def load(port, scenario):
    _, _, path, connections, streams, requests = scenario
    words = ["taskset", "-c", "1", "h2load", "-n", requests, "-c", connections, "-m", streams]
    words.append(f"https://127.0.0.1:{port}{path}")
    said = subprocess.run([str(word) for word in words], capture_output=True, text=True).stdout
    good = re.search(r"(\d+) succeeded, (\d+) failed", said)
    if not good or int(good[1]) != requests:
        sys.exit(f"not every request was answered: {said}")
    return float(re.search(r"([\d.]+) req/s", said)[1])


def said(*words):
    ran = subprocess.run(words, capture_output=True, text=True)
    return (ran.stdout or ran.stderr).strip().splitlines()[0]


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--zproxy", default="target/release/zproxy")
    flags.add_argument("--benches", default="target/release/zproxy-benches")
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument("--out", type=Path, required=True)
    options = flags.parse_args()
    os.environ["PATH"] += ":/usr/sbin"
    at = Path(tempfile.mkdtemp())
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", at / "key.pem", "-out", at / "cert.pem", "-days", "2", "-subj", "/CN=localhost"],
        check=True, capture_output=True)
    (at / "both.pem").write_text((at / "cert.pem").read_text() + (at / "key.pem").read_text())
    (at / "key.pem").chmod(0o600)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    origin = ["taskset", "-c", "1", options.benches, "origin", "--port", str(ORIGIN)]
    running = [subprocess.Popen(origin, **quiet)]
    try:
        proxies = {}
        for name, command, port in contenders(options, at):
            running.append(subprocess.Popen(command, **quiet))
            proxies[name] = (running[-1].pid, port)
        time.sleep(2)
        measure(options, proxies)
    finally:
        for one in running:
            one.terminate()
        for one in running:
            one.wait()
    (options.out / "configs").mkdir(exist_ok=True)
    for config in [*at.glob("*.cfg"), *at.glob("*.conf"), *at.glob("*.json")]:
        text = config.read_text().replace(str(at), "FOLDER")
        (options.out / "configs" / config.name).write_text(text)
    shutil.rmtree(at)


def measure(options, proxies):
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "run.json").write_text(json.dumps({
        "command": f"benches/h2load.py --rounds {options.rounds}",
        "began": said("date", "-u", "+%Y-%m-%dT%H:%M:%SZ"),
        "uname": said("uname", "-srvm"),
        "commit": said("git", "describe", "--always", "--dirty", "--abbrev=12"),
        "nginx": said("nginx", "-v"),
        "haproxy": said("haproxy", "-v"),
        "h2load": said("h2load", "--version"),
        "scenarios": [list(scenario) for scenario in SCENARIOS],
    }, indent=2) + "\n")
    table, names = [], list(proxies)
    with (options.out / "measurements.jsonl").open("w") as lines:
        for scenario in SCENARIOS:
            costs = {name: [] for name in names}
            for turn in range(options.rounds):
                first = turn % len(names)
                for name in names[first:] + names[:first]:
                    pid, port = proxies[name]
                    before = cpu_ns(pid)
                    rate = load(port, scenario)
                    cost = (cpu_ns(pid) - before) / scenario[5] / 1000
                    costs[name].append(cost)
                    one = {"scenario": scenario[0], "round": turn, "contender": name,
                           "cpu_us": round(cost, 2), "rate": rate}
                    lines.write(json.dumps(one) + "\n")
            table += rows(scenario, costs)
    (options.out / "table.md").write_text("\n".join(table) + "\n")
    print("\n".join(table))


def rows(scenario, costs):
    def spread(values, digits):
        low, high = min(values), max(values)
        return f"{statistics.median(values):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"

    yield f"### {scenario[1]}\n"
    yield "| | CPU us/request | x nginx | x haproxy |\n|---|---|---|---|"
    for name, own in costs.items():
        shares = [spread([a / b for a, b in zip(own, costs[peer])], 2) for peer in ("nginx", "haproxy")]
        yield f"| {name} | {spread(own, 1)} | {shares[0]} | {shares[1]} |"
    yield ""


if __name__ == "__main__":
    main()
