"""Messages as headers: the JSON objects that travel.

`to_header` and `from_header` are the only way in and out, and `from_header` lets
nothing through that is not exactly of the declared type. What the declarations ask for
is worked out once, when the module is imported: each update and each answer passes here.
"""

from __future__ import annotations

import math
import reprlib
import types
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from zmqdist.core.messages import PROTOCOL, Message
from zmqdist.errors import RemoteProtocolError


def to_header(message: Message) -> dict[str, Any]:
    """Return the JSON object of a message; fields that are as declared are left out."""
    header: dict[str, Any] = {"zmqdist": PROTOCOL, "kind": message.kind}
    for entry in _ENTRIES[type(message)]:
        value = getattr(message, entry.name)
        if entry.required or value != entry.default:
            header[entry.name] = value
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
    values = {}
    for name, allowed, fits, required, _, declared in _ENTRIES[cls]:
        if name in header:
            value = values[name] = header[name]
            if type(value) not in allowed or (fits is not None and not fits(value)):
                raise RemoteProtocolError(f"{kind}.{name} is {_short(value)}; expected {declared}")
        elif required:
            missing = sorted(e.name for e in _ENTRIES[cls] if e.required and e.name not in header)
            raise RemoteProtocolError(f"{kind} lacks {', '.join(missing)}")
    return cls(**values)


Check = Callable[[Any], bool]


class _Entry(NamedTuple):
    """One field of a message: the types that it may have, and what else of a value holds."""

    name: str
    allowed: frozenset[Any]
    fits: Check | None
    required: bool
    default: Any
    declared: str


_JSON = frozenset({bool, int, float, str, list, dict, type(None)})


def _declared(hint: Any) -> tuple[frozenset[Any], Check | None]:
    """Return the types of JSON that fit a hint, and a further check; an int is a float."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return _JSON, None
    if hint is int or hint is float:
        return frozenset({int, hint}), _bounded
    if origin in (Union, types.UnionType):
        (other,) = (option for option in arguments if option is not type(None))
        allowed, inner = _declared(other)
        return allowed | {type(None)}, inner and (lambda value: value is None or inner(value))
    if origin in (list, dict):
        allowed, check = _declared(arguments[-1])

        def fits(value: Any) -> bool:
            parts = value.values() if isinstance(value, dict) else value
            return all(type(part) in allowed and (not check or check(part)) for part in parts)

        return frozenset({origin}), None if arguments[-1] is Any else fits
    return frozenset({hint}), None


def _bounded(number: float) -> bool:
    """Whether a number may be added up: JSON reads 1e999 as infinity."""
    return math.isfinite(number) if type(number) is float else -(2**63) < number < 2**63


def _entry(cls: type[Message], entry: Field[Any]) -> _Entry:
    allowed, fits = _declared(get_type_hints(cls)[entry.name])
    factory = entry.default_factory
    default = entry.default if factory is MISSING else factory()
    return _Entry(entry.name, allowed, fits, default is MISSING, default, str(entry.type))


_KINDS: dict[str, type[Message]] = {cls.kind: cls for cls in Message.__subclasses__()}
_ENTRIES = {cls: [_entry(cls, field) for field in fields(cls)] for cls in _KINDS.values()}


def _short(value: object) -> str:
    """Return a repr that a peer can make neither long nor deep."""
    return f"{reprlib.repr(value):.60}"
