"""Kill or suspend a process at a named point of a step.

Points are passed in many processes. They are numbered over all of them through files in
one folder, so the n-th passage of a point is hit or spared by the seed alone, whichever
worker it is. So a retry is spared, too, once the budget is used up.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

POINTS = {
    "computing": "a worker is about to call the gradient",
    "computed": "it has an update that is not sent",
    "sent": "its update reached the master and is not acknowledged",
    "descending": "the master is about to call descent",
    "descended": "descent has changed the model and nobody knows it yet",
}
"""Where a process can be hit. ``sent`` needs workers on the master's machine."""


@dataclass(frozen=True)
class Strike:
    """Which passages of which points are hit, from 0 (none) to 1 (each); at most `at_most`.

    With `pause_s` the process is suspended for so many seconds instead of killed.
    """

    name: str
    at: Mapping[str, float]
    at_most: int
    pause_s: float | None = None


@dataclass(frozen=True)
class Points:
    """The points of one run; travels with the gradient.

    Parameters
    ----------
    seed : int
    folder : str
        Where passages are counted: on a disk that all workers share.
    strikes : tuple of Strike
    """

    seed: int
    folder: str
    strikes: tuple[Strike, ...]
    _paused: list[tuple[float, int]] = field(default_factory=list, compare=False, repr=False)

    def strike(self, point: str, pid: int = 0) -> None:
        """Hit a process (0: this one) if this passage of the point is one to be hit."""
        for strike in self.strikes:
            if point in strike.at and os.path.isdir(self.folder) and self._hits(strike, point):
                self._hit(strike, pid)

    def count(self, name: str) -> int:
        """Return how often a strike was dealt."""
        strike = next(s for s in self.strikes if s.name == name)
        path = os.path.join(self.folder, f"hits-{name}")
        return min(os.path.getsize(path), strike.at_most) if os.path.exists(path) else 0

    def wake_paused(self, everybody: bool = False) -> None:
        """Continue the processes that this one has suspended long enough."""
        for entry in list(self._paused):
            until, pid = entry
            if everybody or time.monotonic() >= until:
                self._paused.remove(entry)
                _send(pid, signal.SIGCONT)

    def _hits(self, strike: Strike, point: str) -> bool:
        number = self._next(f"passages-{strike.name}-{point}")
        chance = random.Random(f"{self.seed} {strike.name} {point} {number}")  # noqa: S311
        if chance.random() >= strike.at[point]:
            return False
        return self._next(f"hits-{strike.name}") <= strike.at_most

    def _next(self, name: str) -> int:
        """Count one more of `name`, over all processes, and return its number from 1."""
        path = os.path.join(self.folder, name)
        counter = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(counter, b".")
            return os.lseek(counter, 0, os.SEEK_CUR)
        finally:
            os.close(counter)

    def _hit(self, strike: Strike, pid: int) -> None:
        if strike.pause_s is None:
            _send(pid or os.getpid(), signal.SIGKILL)
        elif pid:
            self._paused.append((time.monotonic() + strike.pause_s, pid))
            _send(pid, signal.SIGSTOP)
        else:
            _suspend_self(strike.pause_s)


def _suspend_self(seconds: float) -> None:
    """Stop this process as SIGSTOP does; a child of it is awake and wakes it up."""
    code = "import os, select, signal; select.select([], [], [], {}); os.kill({}, signal.SIGCONT)"
    alarm = subprocess.Popen(  # noqa: S603 - our own line of Python
        [sys.executable, "-c", code.format(seconds, os.getpid())]
    )
    os.kill(os.getpid(), signal.SIGSTOP)
    alarm.wait()


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it ended meanwhile


@dataclass(frozen=True)
class StruckGradient:
    """The user's gradient with points around it; has the gradient's attributes."""

    points: Points
    gradient: Callable[[Any, Any], Any]

    def __call__(self, model: Any, data: Any) -> Any:
        """Call the gradient between its points."""
        self.points.strike("computing")
        update = self.gradient(model, data)
        if isinstance(update, Iterator):
            return self._each(update)
        self.points.strike("computed")
        return update

    def _each(self, updates: Iterator[Any]) -> Iterator[Any]:
        for update in updates:
            self.points.strike("computed")
            yield update
            self.points.strike("computing")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "gradient":
            raise AttributeError(name)
        return getattr(self.gradient, name)


@dataclass(frozen=True)
class StruckDescent:
    """The user's descent with points around it."""

    points: Points
    descent: Callable[[Any, Any], object]

    def __call__(self, model: Any, update: Any) -> None:
        """Call descent between its points."""
        self.points.strike("descending")
        self.descent(model, update)
        self.points.strike("descended")
