"""What Python plugins import beside the interfaces of the gateway: text instead of bytes.

    from zproxy import Plugin, export

It imports nothing of the gateway but the types of the hooks: a component may do what its own source
imports, no more.
"""

import json
from typing import Iterator, List, Optional, Tuple

from componentize_py_types import Err
from wit_world.imports.types import Action, Registration

__all__ = ["NEXT", "RESPOND", "Action", "Plugin", "cookie", "export", "fields", "only_keys", "text"]

NEXT = Action.NEXT
RESPOND = Action.RESPOND


class Plugin:
    """A plugin. Override what it needs; one object is made of it per instance."""

    #: Names of fields that the hooks are handed, in that order.
    request_fields: List[str] = []
    response_fields: List[str] = []

    def __init__(self, config: dict):
        """Takes the configuration. A `ValueError` is what the operator reads."""

    def on_request(self, fields: List[Optional[str]]) -> Optional[Action]:
        """`RESPOND` after a call of `reply.send`; anything else goes on."""

    def on_response(self, status: int, fields: List[Optional[str]]) -> Optional[Action]:
        """`RESPOND` after a call of `reply.send` replaces the answer."""


def only_keys(config: dict, known: List[str]) -> None:
    """Refuses keys that a configuration should not have, so that a misspelt one is told by name."""
    for key in config:
        if key not in known:
            raise ValueError(f"unknown key `{key}`; there are {', '.join(known)}")


def text(value: Optional[bytes]) -> Optional[str]:
    """Bytes as text. Bytes that are not UTF-8 become U+FFFD."""
    return None if value is None else value.decode("utf-8", "replace")


def fields(packed: bytes) -> Iterator[Tuple[str, bytes]]:
    """Name and value of each field in what `request.packed()` and `response.packed()` give."""
    at = 0
    while at + 4 <= len(packed):
        name_end = at + 4 + int.from_bytes(packed[at : at + 2], "little")
        value_end = name_end + int.from_bytes(packed[at + 2 : at + 4], "little")
        yield packed[at + 4 : name_end].decode(), packed[name_end:value_end]
        at = value_end


def cookie(field: Optional[str], name: str) -> Optional[str]:
    """The value of a cookie in a `cookie` field."""
    for part in (field or "").split(";"):
        key, _, value = part.partition("=")
        if key.strip() == name:
            return value.strip()
    return None


class _Running:
    plugin: Optional[Plugin] = None


def export(plugin: type) -> Tuple[type, type, type]:
    """The classes that a component exports: `Lifecycle, RequestFilter, ResponseFilter = export(Mine)`.

    Leave out what the world does not export: `Lifecycle, RequestFilter, _ = export(Mine)`.
    """

    class Lifecycle:
        def init(self, config: str) -> Registration:
            try:
                _Running.plugin = plugin(json.loads(config))
            except ValueError as error:
                raise Err(str(error))
            return Registration(plugin.request_fields, plugin.response_fields)

    class RequestFilter:
        def on_request(self, fields: List[Optional[bytes]]) -> Action:
            return _Running.plugin.on_request([text(value) for value in fields]) or NEXT

    class ResponseFilter:
        def on_response(self, status: int, fields: List[Optional[bytes]]) -> Action:
            return _Running.plugin.on_response(status, [text(value) for value in fields]) or NEXT

    return Lifecycle, RequestFilter, ResponseFilter
