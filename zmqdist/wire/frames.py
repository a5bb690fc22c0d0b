"""A message and its tree <-> the frames of one multipart message.

The first frame is the header, strict JSON in UTF-8: the message's fields and, under
``"tree"``, the description of the arrays in the frames behind it. Reading the header
decodes no array, so that the master can decide about an update before it spends
anything on it.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from zmqdist.core.headers import from_header, to_header
from zmqdist.core.messages import Message
from zmqdist.errors import LocalProtocolError, RemoteProtocolError
from zmqdist.wire.codec import FRAME_BYTES, Buffer
from zmqdist.wire.tree import Encoded, decode_tree

MAX_HEADER_BYTES = FRAME_BYTES
"""Largest header, in bytes: room for about 10,000 arrays."""


class Received(NamedTuple):
    """A message with its tree not decoded yet."""

    message: Message
    tree: Any
    frames: list[Buffer]

    def decode(self, max_bytes: int) -> Any:
        """Decode the tree; see `zmqdist.wire.tree.decode_tree`."""
        return decode_tree(self.tree, self.frames, max_bytes=max_bytes)


def pack(message: Message, encoded: Encoded | None = None) -> list[Buffer]:
    """Return the frames of a message, with the tree that follows it if any."""
    header = to_header(message)
    if encoded is not None:
        header["tree"] = encoded.spec
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
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
    try:
        header = json.loads(bytes(frames[0]), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"header is not JSON: {error!s:.80}") from None
    message = from_header(header)
    return Received(message, header.get("tree"), frames[1:])


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
