"""A worker's updates on their way: encoded once, kept until they are acknowledged."""

from __future__ import annotations

from collections import Counter
from typing import Any

from zmqdist.coding import UpdateCoder
from zmqdist.core.messages import Push
from zmqdist.wire.frames import pack
from zmqdist.wire.plan import Buffer
from zmqdist.wire.tree import Encoded


class Outgoing:
    """Updates by step.

    Parameters
    ----------
    coder : UpdateCoder
        Encodes them.
    """

    def __init__(self, coder: UpdateCoder) -> None:
        self.coder = coder
        self._encoded: dict[int, Encoded] = {}
        self._sent: Counter[int] = Counter()

    def encode(self, step: int, update: Any) -> Encoded:
        """Encode the update of a step; shares no memory with it."""
        return self.coder.encode(step, update)

    def keep(self, step: int, encoded: Encoded) -> None:
        """Keep the update of a step until it is forgotten."""
        self._encoded[step] = encoded

    def frames(self, push: Push) -> list[Buffer]:
        """Return the message that sends the update of a step, for the first time or again."""
        encoded = self._encoded.get(push.step)
        if encoded is not None:
            self._sent[push.step] += 1
            self.coder.sent(push.step, encoded)
        return pack(push, encoded)

    def forget(self, step: int, *, applied: bool) -> None:
        """Drop an update that has arrived; its memory serves the next ones.

        Not that of a step that was ever sent again: a copy may still be under way, and the
        answer to one copy cannot be told from that to another, or to what was computed anew.
        """
        self.coder.settle(step, applied=applied)
        encoded = self._encoded.pop(step, None)
        if encoded is not None and self._sent[step] == 1:
            del self._sent[step]
            self.coder.memory.pool.give(encoded.frames)
