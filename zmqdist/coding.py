"""How updates become frames: rounded if wanted, and, as versions are, compressed where it pays."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from zmqdist.core.link import Choice, Link
from zmqdist.models.feedback import Feedback
from zmqdist.wire.codec import Memory
from zmqdist.wire.lossy import BitRound, parse_codec
from zmqdist.wire.tree import Encoded, encode_tree


def encode_for(
    speed: float | None, choice: Choice, tree: Any, memory: Memory, *, given: bool = False
) -> Encoded:
    """Encode as `choice` has it for so many bytes per second, and tell it what that took.

    Raises
    ------
    UpdateError
        As by `encode_tree`.
    """
    codec, started = choice.next(speed), time.monotonic()
    encoded = encode_tree(tree, codec, memory, given=given)
    seconds = time.monotonic() - started
    choice.took(codec, encoded.decoded_bytes, encoded.encoded_bytes, seconds)
    return encoded


class UpdateCoder:
    """Encodes the updates of one worker process, partition after partition.

    The thread of the task encodes, that of the sockets says when updates leave and what
    becomes of them.

    Parameters
    ----------
    codec : str
        See `zmqdist.wire.lossy.parse_codec`. With ``"auto"`` and ``"float16"``, nothing is
        compressed while copying is faster on this link.
    tiers : bool, default=False
        The updates are rounded already, to be compressed: the link has no say.

    Attributes
    ----------
    memory : Memory
        What is known of the updates before. Its pool may have their frames back.
    """

    def __init__(self, codec: str, *, tiers: bool = False) -> None:
        self.codec, self.tiers = codec, tiers
        self.memory = Memory()
        self._lossless, rounding = parse_codec(codec)
        self._feedback = None if rounding is None else Feedback(rounding)
        self._link = Link()
        free = self._lossless == "auto" and not isinstance(rounding, BitRound) and not tiers
        self._choice = Choice() if free else None
        self._settled: deque[tuple[int, bool]] = deque()
        self._left: dict[int, tuple[int, float] | None] = {}
        self._travel_s = 0.0

    def encode(self, step: int, update: Any) -> Encoded:
        """Encode the update of a step.

        Raises
        ------
        UpdateError
            As by `encode_tree`.
        """
        self.take_in()
        if self._feedback is not None:
            update = self._feedback.round(step, update)
        if self._choice is None:
            return encode_tree(update, self._lossless, self.memory)
        return encode_for(self._link.bytes_per_s, self._choice, update, self.memory)

    def sent(self, step: int, encoded: Encoded) -> None:
        """Note that an update leaves; one that leaves twice says nothing of the link."""
        again = step in self._left
        self._left[step] = None if again else (encoded.encoded_bytes, time.monotonic())

    def settle(self, step: int, *, applied: bool) -> None:
        """Note what became of a step."""
        self._settled.append((step, applied))
        if (left := self._left.pop(step, None)) is not None:
            seconds = time.monotonic() - left[1]
            self._link.moved(left[0], seconds)
            self._travel_s += seconds

    def take_travel_s(self) -> float:
        """Return how long updates took from leaving to their answer since the last call."""
        travel_s, self._travel_s = self._travel_s, 0.0
        return travel_s

    def take_in(self) -> None:
        """Give back what `settle` noted as not applied."""
        while self._settled:
            step, applied = self._settled.popleft()
            if self._feedback is not None:
                self._feedback.settle(step, applied=applied)

    def close(self) -> None:
        """End a partition: the steps of the next count anew."""
        self.take_in()
        self._left.clear()
