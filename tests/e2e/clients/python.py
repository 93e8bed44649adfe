"""httpx and requests against a gateway before the site of site.rs: `python.py PLAIN SECURE CA`.

Each check that has passed is a line of the output; the first that fails ends it.
"""

import asyncio
import hashlib
import ssl
import sys
import time

import httpx
import requests

PLAIN, SECURE, CA = sys.argv[1:]
LARGE = bytes((at ^ (at >> 8) ^ (at >> 16)) & 0xFF for at in range(8 << 20))
DEADLINE = 20


def digest(parts):
    sum = hashlib.sha256()
    for part in parts:
        sum.update(part)
    return sum.hexdigest()


LARGE_DIGEST = digest([LARGE])


def eventually(what, ready):
    until = time.monotonic() + DEADLINE
    while not ready():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.02)


def passed(*what):
    print(*what, sep=": ", flush=True)


def with_httpx(name, base, version, **options):
    context = ssl.create_default_context(cafile=CA)
    of = name.replace(" ", "-")
    with httpx.Client(base_url=base, verify=context, timeout=DEADLINE, **options) as client:
        answer = client.get("/hello")
        assert (answer.status_code, answer.text, answer.http_version) == (200, "hello", version)
        assert client.head("/hello").headers["content-length"] == "5"
        assert client.get("/empty").status_code == 204
        assert client.get("/missing").status_code == 404
        assert client.get("/redirect", follow_redirects=True).text == "hello"
        assert client.get("/early").text == "late"
        client.get("/cookies")
        assert dict(client.cookies) == {"a": "1", "b": "2"}
        fields = client.get("/fields", headers={"x-odd": "ü".encode("latin-1")}).json()
        fields = {name.lower(): value for name, value in fields}
        assert fields["x-forwarded-proto"] == base.split(":")[0], fields
        assert (fields["cookie"], fields["x-odd"]) == ("a=1; b=2", "ü"), fields
        passed(name, "heads")

        assert client.post("/echo", content=LARGE[: 1 << 20]).content == LARGE[: 1 << 20]
        parts = (LARGE[at : at + 9_999] for at in range(0, 1 << 20, 9_999))
        assert client.post("/echo", content=parts).content == LARGE[: (1 << 20) // 9_999 * 9_999 + 9_999]
        with client.stream("GET", "/large") as answer:
            assert digest(answer.iter_bytes()) == LARGE_DIGEST
        assert client.post("/echo", files={"file": b"x" * 100_000}).content.count(b"x") >= 100_000
        passed(name, "bodies")

        with client.stream("GET", f"/events?of={of}") as answer:
            seen = 0
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    seen += 1
                    assert line == f"data: event {seen}"
                    client.post(f"/turn?of={of}")
            assert seen == 5
        passed(name, "events")

        try:
            client.get(f"/never?of={of}", timeout=0.5)
            raise AssertionError("an answer that nobody gave")
        except httpx.ReadTimeout:
            pass
        # Over HTTP/1.1 it looks like a client that has said all and waits for its answer.
        if version == "HTTP/2":
            eventually("the end upstream", lambda: client.get(f"/gone?of={of}").text == "1")
        with client.stream("GET", "/large") as answer:
            next(answer.iter_bytes())
        assert client.get("/hello").text == "hello"
        passed(name, "cancelled")

    async def many():
        async with httpx.AsyncClient(base_url=base, verify=context, timeout=DEADLINE, **options) as client:
            bodies = [LARGE[n * 1_000 : n * 2_000] for n in range(100)]
            answers = await asyncio.gather(*(client.post("/echo", content=body) for body in bodies))
            assert [answer.content for answer in answers] == bodies

    asyncio.run(many())
    passed(name, "many at once")


def with_requests(name, base):
    with requests.Session() as session:
        # Else a variable of the environment counts more than `verify`.
        session.trust_env, session.verify = False, CA
        assert session.get(f"{base}/hello").text == "hello"
        assert session.head(f"{base}/hello").headers["content-length"] == "5"
        assert session.get(f"{base}/redirect").history[0].status_code == 302
        assert session.get(f"{base}/empty").status_code == 204
        session.get(f"{base}/cookies")
        assert session.cookies.get_dict() == {"a": "1", "b": "2"}
        assert session.post(f"{base}/echo", data=LARGE).content == LARGE
        parts = [b"a" * 70_000, b"b", b"c" * 70_000]
        assert session.post(f"{base}/echo", data=iter(parts)).content == b"".join(parts)
        with session.get(f"{base}/large", stream=True) as answer:
            assert digest(answer.iter_content(10_000)) == LARGE_DIGEST
        assert session.put(f"{base}/echo", json={"ä": [1]}).json() == {"ä": [1]}
        with session.get(f"{base}/events?of=requests-{base}", stream=True) as answer:
            events = [line for line in following(session, base, answer) if line.startswith(b"data: ")]
        assert events == [b"data: event %d" % n for n in range(1, 6)], events
    passed(name)


def following(session, base, answer):
    for line in answer.iter_lines(chunk_size=None):
        if line.startswith(b"data: "):
            session.post(f"{base}/turn?of=requests-{base}")
        yield line


with_httpx("httpx h1", PLAIN, "HTTP/1.1")
with_httpx("httpx h2c", PLAIN, "HTTP/2", http1=False, http2=True)
with_httpx("httpx h1 tls", SECURE, "HTTP/1.1")
with_httpx("httpx h2 tls", SECURE, "HTTP/2", http2=True)
with_requests("requests", PLAIN)
with_requests("requests tls", SECURE)
