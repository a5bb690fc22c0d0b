"""Virtual time: what happens when, in order."""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

Call = Callable[[float, Any], object]
"""What happens: called with the time, in seconds, and its subject."""


class Agenda:
    """Events that are still to come; those of one instant happen in the order of their entry."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Call, Any]] = []
        self.entered = 0
        self.now = 0.0
        self.over = False

    def at(self, time_s: float, call: Call, subject: Any) -> None:
        """Enter an event; its time must not be past."""
        self.entered += 1
        heappush(self._heap, (time_s, self.entered, call, subject))

    def run(self, until_s: float = math.inf) -> None:
        """Let everything happen until nothing is left, the time is up, or `over` is set."""
        heap = self._heap
        while heap and not self.over:
            if heap[0][0] > until_s:
                self.now = until_s
                return
            now, _, call, subject = heappop(heap)
            self.now = now
            call(now, subject)

    @property
    def happened(self) -> int:
        """Number of events that have happened."""
        return self.entered - len(self._heap)
