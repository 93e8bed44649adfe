"""Asks another service whether a request may pass, as nginx's auth_request does.

The service is sent method, path and some fields of the request. 2xx: the request goes on, with what the service
says about the client. 401 and 403: that is the client's answer. Anything else, and no answer at all: 503.
"""

from componentize_py_types import Err
from wit_world.imports import callout, log, reply, request
from zproxy import RESPOND, Plugin, export, only_keys

# Fields of a refusal that the client needs.
PASSED_BACK = ("content-type", "www-authenticate", "location", "set-cookie")


class AskAuth(Plugin):
    def __init__(self, config):
        only_keys(config, ["url", "ask_with", "take", "timeout_ms"])
        if not isinstance(config.get("url"), str):
            raise ValueError("`url` is missing: the service, such as upstream://auth/check")
        self.url = config["url"]
        self.ask_with = [name.lower() for name in config.get("ask_with", ["authorization", "cookie"])]
        self.take = [name.lower() for name in config.get("take", [])]
        self.timeout_ms = config.get("timeout_ms", 500)
        # Every call of the hook reads them.
        self.request_fields = [":method", ":path", *self.ask_with]

    def on_request(self, fields):
        method, path, *values = fields
        asked = [("x-forwarded-method", method.encode()), ("x-forwarded-uri", path.encode())]
        asked += [(name, value.encode()) for name, value in zip(self.ask_with, values) if value is not None]
        # What a client says about itself is not what the service says.
        for name in self.take:
            request.remove(name)
        try:
            answer = callout.send(callout.Request("GET", self.url, asked, b"", self.timeout_ms))
        except Err as error:
            log.write(log.Level.WARN, f"{self.url}: {error.value}")
            reply.send(503, [], b"nobody can say whether you may\n")
            return RESPOND
        if 200 <= answer.status < 300:
            for name, value in answer.headers:
                if name.lower() in self.take:
                    request.append(name, value)
            return None
        if answer.status in (401, 403):
            back = [(name, value) for name, value in answer.headers if name.lower() in PASSED_BACK]
            reply.send(answer.status, back, answer.body)
        else:
            log.write(log.Level.WARN, f"{self.url}: status {answer.status}")
            reply.send(503, [], b"nobody can say whether you may\n")
        return RESPOND


Lifecycle, RequestFilter, _ = export(AskAuth)
