"""What a worker process keeps of a run from one partition to the next."""

from __future__ import annotations

import threading
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """Something that may hold what others wait for."""

    def close(self) -> None:
        """Let go of it."""
        ...


T = TypeVar("T", bound=Closable)


class Shelf(Generic[T]):
    """One thing for each run; those of runs that are over are closed."""

    def __init__(self) -> None:
        self._things: dict[str, T] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._things)

    def take(self, run: str) -> T | None:
        """Take down what was put there for this run; close what is of other runs."""
        with self._lock:
            mine = self._things.pop(run, None)
            for other in self._things.values():
                other.close()
            self._things.clear()
        return mine

    def put(self, run: str, thing: T) -> None:
        """Put something there, in the place of what another thread may have put."""
        with self._lock:
            if (other := self._things.pop(run, None)) is not None:
                other.close()
            self._things[run] = thing
