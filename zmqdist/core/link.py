"""How fast the link is, and whether compressing for it is worth while."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

AUTO, RAW = "auto", "raw"

SAMPLES = 16
"""Transfers that are remembered; the fastest of them counts."""

SMALL_BYTES = 1 << 16
"""Transfers and updates below this say little of the link, and cost little."""

TRY_AGAIN = 64
"""Updates or versions sent raw before compressing is tried again: they may have changed."""

DECODING = 0.75
"""What taking apart compressed bytes takes, of the time that compressing them took: between
0.6 and 0.9 for lz4 and floats, rounded ones and integers, 1 MiB each."""

_SMOOTHING = 0.2


class Link:
    """Speed of the link between a worker and the master, learned from acknowledgements.

    Between the sending of an update and its acknowledgement the master also did other
    work, so each says "at least so fast", and the fastest of the last ones counts. A
    worker measures that itself; the master goes by the time that its messages tell.
    """

    def __init__(self) -> None:
        self._rates: deque[float] = deque(maxlen=SAMPLES)
        self._sizes: deque[int] = deque(maxlen=2)

    def moved(self, nbytes: int, seconds: float) -> None:
        """Note that so many bytes were sent and acknowledged within so many seconds."""
        if nbytes >= SMALL_BYTES and seconds > 0:
            self._rates.append(nbytes / seconds)

    def told(self, nbytes: int, seconds: float) -> None:
        """Note an update of so many bytes that came with the times of some before it.

        Of which is not said: of the last two, or of more, which took longer together.
        """
        if self._sizes:
            self.moved(min(self._sizes), seconds)
        self._sizes.append(nbytes)

    @property
    def bytes_per_s(self) -> float | None:
        """The speed; None while it is not known."""
        return max(self._rates, default=None)


def slowest(links: Iterable[Link]) -> float | None:
    """Return the speed of the slowest link, in bytes per second; None if none is known."""
    speeds = [speed for link in links if (speed := link.bytes_per_s) is not None]
    return min(speeds, default=None)


class Choice:
    """Whether to compress the next update or version, by what it costs and what it saves.

    One of n bytes is there after n (c + r / B + 0.75 c) seconds if compressing takes c
    seconds per byte and leaves r bytes of one, on a link of B bytes per second, and is
    undone in three quarters of its time; after n (k + 1 / B) if it is only copied, at k
    seconds per byte. The smaller one is chosen. c, r, B and k are measured, and averaged
    with more weight on what is recent.
    """

    def __init__(self) -> None:
        self._seconds_per_byte: dict[str, float] = {}
        self._left = 1.0
        self._raw_in_a_row = 0

    def next(self, speed: float | None) -> str:
        """Return how to code the next one for so many bytes per second: "auto" or "raw"."""
        if speed is None or AUTO not in self._seconds_per_byte:
            return AUTO
        compressed = self._seconds_per_byte[AUTO] * (1 + DECODING) + self._left / speed
        copied = self._seconds_per_byte.get(RAW, 0.0) + 1 / speed
        if compressed <= copied or self._raw_in_a_row >= TRY_AGAIN:
            self._raw_in_a_row = 0
            return AUTO
        self._raw_in_a_row += 1
        return RAW

    def took(self, codec: str, before_bytes: int, after_bytes: int, seconds: float) -> None:
        """Note what coding one took and left."""
        if before_bytes < SMALL_BYTES:
            return
        known = self._seconds_per_byte.get(codec)
        per_byte = seconds / before_bytes
        self._seconds_per_byte[codec] = per_byte if known is None else _mixed(known, per_byte)
        if codec == AUTO:
            left = after_bytes / before_bytes
            self._left = left if known is None else _mixed(self._left, left)


def _mixed(known: float, news: float) -> float:
    return (1 - _SMOOTHING) * known + _SMOOTHING * news
