"""How a worker's updates become frames: rounded if wanted, then compressed."""

from __future__ import annotations

from collections import deque
from typing import Any

from zmqdist.models.feedback import Feedback
from zmqdist.wire.lossy import parse_codec
from zmqdist.wire.tree import Encoded, encode_tree


class UpdateCoder:
    """Encodes the updates of one worker process, partition after partition.

    Parameters
    ----------
    codec : str
        See `zmqdist.wire.lossy.parse_codec`.
    """

    def __init__(self, codec: str) -> None:
        self.codec = codec
        self._lossless, rounding = parse_codec(codec)
        self._feedback = None if rounding is None else Feedback(rounding)
        self._settled: deque[tuple[int, bool]] = deque()

    def settle(self, step: int, *, applied: bool) -> None:
        """Note what became of a step; for another thread than that of `encode`."""
        if self._feedback is not None:
            self._settled.append((step, applied))

    def encode(self, step: int, update: Any) -> Encoded:
        """Encode the update of a step.

        Raises
        ------
        UpdateError
            As by `encode_tree`.
        """
        if self._feedback is None:
            return encode_tree(update, self._lossless)
        self.take_in()
        return encode_tree(self._feedback.round(step, update), self._lossless)

    def take_in(self) -> None:
        """Take in what `settle` noted; at the end of a partition, before steps count anew."""
        while self._settled and self._feedback is not None:
            step, applied = self._settled.popleft()
            self._feedback.settle(step, applied=applied)

    def close(self) -> None:
        """Nothing is held that others wait for."""
