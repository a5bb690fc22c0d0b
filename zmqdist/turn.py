"""Whose turn it is at a worker's sockets: the task's, or that of the thread behind it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

AWAY_S = 0.005
"""How long the task must be away before the other thread stands in for it, in seconds."""

MIN_NAP_S = 0.001
"""How long the other thread sleeps at least before it looks again, in seconds."""


class Turn:
    """The right to use the sockets and what goes with them, passed between two threads.

    The task's thread takes it by ``with turn:``, at once as long as its steps are short.
    Once it has been away for `away_s`, the other thread stands in, until the task wants
    its turn back. So a step of some microseconds costs no change of threads, and during a
    longer one somebody attends to the sockets.

    Parameters
    ----------
    wake : callable
        Ends the wait of whoever stands in; called from the task's thread.
    away_s : float, optional
        Default: `AWAY_S`.

    Attributes
    ----------
    wanted : bool
        The one that stands in is to give the turn back.
    """

    def __init__(self, wake: Callable[[], None], away_s: float | None = None) -> None:
        self._wake = wake
        self._away_s = AWAY_S if away_s is None else away_s
        self._lock = threading.Lock()
        self._left_at = time.monotonic()
        self._ended = threading.Event()
        self.wanted = False

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self.wanted = True
            self._wake()
            self._lock.acquire()
            self.wanted = self._ended.is_set()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left_at = time.monotonic()
        self._lock.release()

    def stand_in(self) -> bool:
        """Wait until the task has been away for long and take the turn; False at the end.

        Never stands in line for it: a lock goes to whoever runs when it is released, which
        would be this thread again while the task still wakes up.
        """
        left_s = self._left_s()
        while not self._ended.wait(max(left_s, MIN_NAP_S)):
            if (left_s := self._left_s()) <= 0 and not self.wanted:
                if self._lock.acquire(blocking=False):
                    if self._left_s() <= 0:
                        return True
                    self._lock.release()
                left_s = self._away_s
        return False

    def _left_s(self) -> float:
        """Return how long the task may be away yet."""
        return self._left_at + self._away_s - time.monotonic()

    def give_back(self) -> None:
        """End standing in."""
        self._lock.release()

    def end(self) -> None:
        """Let nobody stand in any more."""
        self._ended.set()
        self.wanted = True
        self._wake()
