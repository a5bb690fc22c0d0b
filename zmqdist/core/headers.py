"""Messages as headers: the JSON objects that travel.

`to_header` and `from_header` are the only way in and out, and `from_header` lets
nothing through that is not exactly of the declared type.
"""

from __future__ import annotations

import reprlib
import types
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Union, get_args, get_origin, get_type_hints

from zmqdist.core.messages import PROTOCOL, Message
from zmqdist.errors import RemoteProtocolError

_KINDS: dict[str, type[Message]] = {cls.kind: cls for cls in Message.__subclasses__()}
_HINTS = {cls: get_type_hints(cls) for cls in _KINDS.values()}


def to_header(message: Message) -> dict[str, Any]:
    """Return the JSON object of a message."""
    header = {entry.name: getattr(message, entry.name) for entry in fields(message)}
    header["zmqdist"] = PROTOCOL
    header["kind"] = message.kind
    return header


def from_header(header: object) -> Message:
    """Build a message from a JSON value; keys it does not know are ignored.

    Raises
    ------
    RemoteProtocolError
        If the value is not an object, of another protocol version, of an unknown
        kind, or if a field is missing or of another type than declared.
    """
    if not isinstance(header, dict):
        raise RemoteProtocolError(f"header is a JSON {type(header).__name__}; expected an object")
    if header.get("zmqdist") != PROTOCOL:
        raise RemoteProtocolError(
            f"protocol version is {_short(header.get('zmqdist'))}; expected {PROTOCOL}: install "
            "the same version of zmqdist on the driver, the master and the executors"
        )
    kind = header.get("kind")
    cls = _KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise RemoteProtocolError(f"unknown message kind {_short(kind)}")
    return cls(**_checked(cls, header))


def _checked(cls: type[Message], header: Mapping[str, Any]) -> dict[str, Any]:
    values = {}
    for entry in fields(cls):
        if entry.name not in header:
            continue
        value = header[entry.name]
        if not _fits(value, _HINTS[cls][entry.name]):
            raise RemoteProtocolError(
                f"{cls.kind}.{entry.name} is {_short(value)}; expected {entry.type}"
            )
        values[entry.name] = value
    required = {f.name for f in fields(cls) if f.default is f.default_factory}
    if missing := sorted(required - values.keys()):
        raise RemoteProtocolError(f"{cls.kind} lacks {', '.join(missing)}")
    return values


def _fits(value: object, hint: Any) -> bool:
    """Whether a JSON value is of a declared type; bool is no int, int is a float."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if origin is list:
        (item,) = get_args(hint)
        return isinstance(value, list) and all(_fits(entry, item) for entry in value)
    if origin is dict:
        _, item = get_args(hint)
        return isinstance(value, dict) and all(_fits(entry, item) for entry in value.values())
    if hint is Any:
        return True
    if hint is float and isinstance(value, float):
        return True
    if hint is int or hint is float:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, hint)


def _short(value: object) -> str:
    """Return a repr that a peer can make neither long nor deep."""
    return f"{reprlib.repr(value):.60}"
