"""Lets requests pass that carry a key, and marks every answer."""

from wit_world.imports import crypto, reply, request, response
from zproxy import RESPOND, Plugin, export, only_keys


class MyPlugin(Plugin):
    # Fields that every call reads come with the call.
    request_fields = ["x-api-key"]

    def __init__(self, config):
        only_keys(config, ["key"])
        if "key" not in config:
            raise ValueError("`key` is missing: requests must carry it in x-api-key")
        self.key = str(config["key"]).encode()

    def on_request(self, fields):
        (sent,) = fields
        # Comparing secrets must not tell, by its time, how much of one was right.
        if sent is None or not crypto.equal(sent.encode(), self.key):
            reply.send(403, [("content-type", b"text/plain")], b"no\n")
            return RESPOND
        request.remove("x-api-key")

    def on_response(self, status, fields):
        response.set("x-served-by", b"my-plugin")


Lifecycle, RequestFilter, ResponseFilter = export(MyPlugin)
