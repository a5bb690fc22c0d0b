"""The versions that a simulated master has published, and when each worker has them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any, NamedTuple

from zmqdist.tuning.cluster import Cluster


class Held(NamedTuple):
    """A version as a worker holds it.

    Attributes
    ----------
    version : int
    clock : int
        The slowest worker's clock when it was taken; updates of earlier clocks are in it.
    model : object
        Its values, None in a simulation without a model.
    """

    version: int
    clock: int
    model: Any


NOTHING = Held(-1, -1, None)


class Publications:
    """Broadcasts in order; every worker gets each of them, one after another.

    A broadcast costs no event of its own: a worker that looks at time t finds, by
    bisection, the newest one that has reached it by then.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._copy_s = cluster.version_bytes / cluster.master_out_bytes_s
        self._line_s = cluster.latency_s + cluster.version_bytes / cluster.line_bytes_s
        self._workers = cluster.workers
        self._out_free_at = 0.0
        self._left: list[float] = []  # when the first copy of each began to leave
        self._held: list[Held] = []
        self._versions: list[int] = []
        self._clocks: list[int] = []
        self._head = 0  # everybody has what is before

    def add(self, held: Held, now: float) -> None:
        """Broadcast a version from `now` on."""
        left = max(now, self._out_free_at)
        self._out_free_at = left + self._copy_s * self._workers
        self._left.append(left)
        self._held.append(held)
        self._versions.append(held.version)
        self._clocks.append(held.clock)

    def reply(self, now: float) -> float:
        """Return when a version that is sent to one worker arrives there."""
        self._out_free_at = max(now, self._out_free_at) + self._copy_s
        return self._out_free_at + self._line_s

    def forget(self, now: float) -> None:
        """Let go of what no worker can read any more."""
        head, left, last = self._head, self._left, len(self._left) - 1
        copies_s, line_s = self._copy_s * self._workers, self._line_s
        while head < last and left[head + 1] + copies_s + line_s <= now:
            self._held[head] = NOTHING
            head += 1
        self._head = head
        if head > 1024:
            for column in (self._left, self._held, self._versions, self._clocks):
                del column[:head]
            self._head = 0

    def _arrives(self, index: int, worker: int) -> float:
        return self._left[index] + self._copy_s * (worker + 1) + self._line_s

    @property
    def newest(self) -> Held:
        """The newest version, wherever its copies are."""
        return self._held[-1]

    def held(self, worker: int, now: float) -> Held:
        """Return the newest version that has reached a worker."""
        left, copies_s, line_s = self._left, self._copy_s * (worker + 1), self._line_s
        if left[-1] + copies_s + line_s <= now:  # mostly; each step passes here
            return self._held[-1]
        index = bisect_right(left, now - (copies_s + line_s), self._head)
        while index > self._head and self._arrives(index - 1, worker) > now:
            index -= 1
        while index < len(left) and self._arrives(index, worker) <= now:
            index += 1  # what a subtraction rounds, the sum of the way need not
        return self._held[index - 1] if index > self._head else NOTHING

    def reaches(self, worker: int, version: int, clock: int) -> float | None:
        """Return when a worker gets the first that is new enough; None if none is published."""
        index = max(
            bisect_left(self._versions, version, self._head),
            bisect_left(self._clocks, clock, self._head),
        )
        return self._arrives(index, worker) if index < len(self._left) else None
