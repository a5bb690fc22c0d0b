"""A message and its tree <-> the frames of one multipart message.

The first frame is the header, strict JSON in UTF-8: the message's fields and, under
``"tree"``, the description of the arrays in the frames behind it. Reading the header
decodes no array, so that the master can decide about an update before it spends
anything on it.

The tree comes last and on a line of its own, in which nobody but we would look for it:
it is the same text from one update to the next, and is then not read again.
"""

from __future__ import annotations

import functools
import json
from typing import Any, NamedTuple

from zmqdist.core.headers import from_header, to_header
from zmqdist.core.messages import Message
from zmqdist.errors import LocalProtocolError, RemoteProtocolError
from zmqdist.wire.plan import FRAME_BYTES, Buffer, Look
from zmqdist.wire.tree import Encoded, Plan, plan_tree

MAX_HEADER_BYTES = FRAME_BYTES
"""Largest header, in bytes: room for about 10,000 arrays."""


_TREE = b',\n"tree":'
_KEPT_PLANS = 256
_KEPT_PLAN_BYTES = 4096
_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


class Received(NamedTuple):
    """A message with its tree not decoded yet; bytes are the tree's text, not read yet."""

    message: Message
    tree: Any
    frames: list[Buffer]

    def decode(self, max_bytes: int, look: Look | None = None) -> Any:
        """Decode the tree, once; see `zmqdist.wire.tree.Plan.decode`."""
        if not isinstance(self.tree, bytes):
            plan = plan_tree(self.tree)
        elif len(self.tree) <= _KEPT_PLAN_BYTES:
            plan = _kept_plan(self.tree)
        else:
            plan = plan_tree(_json(self.tree))
        frames = self.frames.copy()
        self.frames.clear()
        return plan.decode(frames, max_bytes=max_bytes, look=look)


def pack(message: Message, encoded: Encoded | None = None) -> list[Buffer]:
    """Return the frames of a message, with the tree that follows it if any."""
    text = _encoder.encode(to_header(message)).encode()
    if encoded is not None:
        text = b"".join((text[:-1], _TREE, _encoder.encode(encoded.spec).encode(), b"}"))
    if len(text) > MAX_HEADER_BYTES:
        raise LocalProtocolError(
            f"{message.kind} header has {len(text)} bytes; at most {MAX_HEADER_BYTES} fit: "
            "put many small numbers or arrays into one array"
        )
    return [text, *(encoded.frames if encoded is not None else [])]


def unpack(frames: list[Buffer]) -> Received:
    """Read the header of a message.

    Raises
    ------
    RemoteProtocolError
        If the header is missing, too large, no strict JSON or no message.
    """
    if not frames:
        raise RemoteProtocolError("message without frames; expected a header")
    if len(frames[0]) > MAX_HEADER_BYTES:
        raise RemoteProtocolError(
            f"header has {len(frames[0])} bytes; expected at most {MAX_HEADER_BYTES}"
        )
    text, apart, tree = bytes(frames[0]).partition(_TREE)
    if apart and tree.endswith(b"}"):
        return Received(from_header(_json(text + b"}")), tree[:-1], frames[1:])
    header = _json(bytes(frames[0]))
    return Received(from_header(header), header.get("tree"), frames[1:])


@functools.lru_cache(_KEPT_PLANS)
def _kept_plan(text: bytes) -> Plan:
    return plan_tree(_json(text))


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_no_constant)


def _json(text: bytes) -> Any:
    try:
        return _decoder.decode(text.decode())
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"header is not JSON: {error!s:.80}") from None
