"""What Python plugins import beside the interfaces of the gateway: text instead of bytes.

    from zproxy import Plugin, export

It imports nothing of the gateway but the types of the hooks: a component may do what its own source
imports, no more.
"""

import json
from typing import Iterable, Iterator, List, Optional, Tuple, Union

from componentize_py_types import Err
from wit_world.imports.types import Action, ChunkAction, MessageAction, MessageKind, Peer, Registration

__all__ = [
    "ABORT",
    "CLOSE",
    "DETACH",
    "DROP",
    "NEXT",
    "PASS",
    "REPLACED",
    "RESPOND",
    "Action",
    "ChunkAction",
    "MessageAction",
    "MessageKind",
    "Peer",
    "Plugin",
    "cookie",
    "export",
    "export_bodies",
    "export_messages",
    "export_others",
    "export_validation",
    "fields",
    "only_keys",
    "pack",
    "text",
]

NEXT = Action.NEXT
RESPOND = Action.RESPOND

PASS = ChunkAction.PASS
REPLACED = ChunkAction.REPLACED
DROP = ChunkAction.DROP
DETACH = ChunkAction.DETACH
ABORT = ChunkAction.ABORT

# Of messages; `PASS`, `REPLACED` and `DROP` are said of them, too.
CLOSE = MessageAction.CLOSE

_OF_MESSAGES = {
    PASS: MessageAction.PASS,
    REPLACED: MessageAction.REPLACED,
    DROP: MessageAction.DROP,
}


class Plugin:
    """A plugin. Override what it needs; one object is made of it per instance."""

    #: Names of fields that the hooks are handed, in that order; `__init__` may set others.
    request_fields: List[str] = []
    response_fields: List[str] = []

    def __init__(self, config: dict):
        """Takes the configuration. A `ValueError` is what the operator reads."""

    def on_request(self, fields: List[Optional[str]]) -> Optional[Action]:
        """`RESPOND` after a call of `reply.send`; anything else goes on."""

    def on_response(self, status: int, fields: List[Optional[str]]) -> Optional[Action]:
        """`RESPOND` after a call of `reply.send` replaces the answer."""

    def on_request_body(self, chunk: bytes, end: bool) -> Optional[ChunkAction]:
        """`REPLACED` after a call of `body.replace`, `DROP`, `DETACH` or `ABORT`; anything else passes it."""

    def on_response_body(self, chunk: bytes, end: bool) -> Optional[ChunkAction]:
        """The same for the answer's body."""

    def on_message(self, sender: Peer, data: Union[str, bytes]) -> Union[ChunkAction, MessageAction, None]:
        """A message of a WebSocket, a text as `str`: `REPLACED` after a call of `websocket.replace`, `CLOSE` after
        one of `websocket.close`, or `DROP`; anything else passes it."""

    def on_log(self, summary) -> None:
        """After the exchange, when nobody waits."""

    def on_tick(self) -> None:
        """About once a second."""

    def shutdown(self) -> None:
        """Before the instance is retired."""

    @staticmethod
    def validate(config: dict) -> List[Tuple[str, str]]:
        """Everything that is wrong with a configuration: JSON pointers, such as `/keys/0`, and what is wrong
        there. `__init__` refuses the same."""
        return []


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


def pack(given: Iterable[Tuple[str, Union[str, bytes]]]) -> bytes:
    """Fields as one buffer, for `response.append_later`: `pack([("x-a", "1")])`."""
    packed = bytearray()
    for name, value in given:
        name = name.encode()
        value = value.encode() if isinstance(value, str) else value
        packed += len(name).to_bytes(2, "little") + len(value).to_bytes(2, "little") + name + value
    return bytes(packed)


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
                running = _Running.plugin = plugin(json.loads(config))
            except ValueError as error:
                raise Err(str(error))
            return Registration(running.request_fields, running.response_fields)

    class RequestFilter:
        def on_request(self, fields: List[Optional[bytes]]) -> Action:
            return _Running.plugin.on_request([text(value) for value in fields]) or NEXT

    class ResponseFilter:
        def on_response(self, status: int, fields: List[Optional[bytes]]) -> Action:
            return _Running.plugin.on_response(status, [text(value) for value in fields]) or NEXT

    return Lifecycle, RequestFilter, ResponseFilter


def export_bodies(plugin: type) -> Tuple[type, type]:
    """`RequestBodyFilter, ResponseBodyFilter = export_bodies(Mine)`; leave out what the world does not export."""

    class RequestBodyFilter:
        def on_request_body(self, chunk: bytes, end: bool) -> ChunkAction:
            return _Running.plugin.on_request_body(chunk, end) or PASS

    class ResponseBodyFilter:
        def on_response_body(self, chunk: bytes, end: bool) -> ChunkAction:
            return _Running.plugin.on_response_body(chunk, end) or PASS

    return RequestBodyFilter, ResponseBodyFilter


def export_messages(plugin: type) -> type:
    """`WebsocketFilter = export_messages(Mine)`."""

    class WebsocketFilter:
        def on_message(self, sender: Peer, kind: MessageKind, data: bytes) -> MessageAction:
            shown = data.decode() if kind == MessageKind.TEXT else data
            answer = _Running.plugin.on_message(sender, shown) or PASS
            return _OF_MESSAGES.get(answer, answer)

    return WebsocketFilter


def export_validation(plugin: type) -> type:
    """`Validation = export_validation(Mine)`."""
    # Only a world that exports it has its types.
    from wit_world.exports.validation import Problem

    class Validation:
        def validate_config(self, config: str) -> list:
            return [Problem(path, message) for path, message in plugin.validate(json.loads(config))]

    return Validation


def export_others(plugin: type) -> Tuple[type, type, type]:
    """`Completion, Ticker, Retirement = export_others(Mine)`; leave out what the world does not export."""

    class Completion:
        def on_log(self, summary) -> None:
            _Running.plugin.on_log(summary)

    class Ticker:
        def on_tick(self) -> None:
            _Running.plugin.on_tick()

    class Retirement:
        def shutdown(self) -> None:
            _Running.plugin.shutdown()

    return Completion, Ticker, Retirement
