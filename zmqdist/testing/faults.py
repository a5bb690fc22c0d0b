"""`faults`: put faults under a training, by a seed, and count them."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from zmqdist.core.messages import Message
from zmqdist.errors import ConfigError
from zmqdist.master import Master
from zmqdist.testing.fates import Fates, Rates
from zmqdist.testing.points import POINTS, Points, Strike, StruckDescent, StruckGradient
from zmqdist.testing.sockets import DRIVERS, FaultySockets

ALWAYS = 1_000_000_000
"""At most so many strikes: without bound."""


class Faults:
    """What `faults` is doing; see there."""

    def __init__(self, fates: Fates, points: Points) -> None:
        self._fates = fates
        self._points = points
        self._struck: Counter[str] | None = None

    @property
    def counts(self) -> Counter[str]:
        """Faults so far, by what they were.

        ``dropped``, ``duplicated``, ``reordered``, ``delayed`` and ``truncated`` count
        messages, ``seen`` all that could have been touched, ``killed`` and ``paused``
        processes.
        """
        return self._fates.counts + (self._strikes() if self._struck is None else self._struck)

    def gradient(self, gradient: Callable[[Any, Any], Any]) -> StruckGradient:
        """Return the gradient with the points ``computing`` and ``computed`` in it."""
        return StruckGradient(self._points, gradient)

    def descent(self, descent: Callable[[Any, Any], object]) -> StruckDescent:
        """Return the descent with the points ``descending`` and ``descended`` in it."""
        return StruckDescent(self._points, descent)

    def close(self) -> None:
        """Keep the counts as they are: nothing is struck any more."""
        self._struck = self._strikes()

    def _strikes(self) -> Counter[str]:
        return Counter({s.name: self._points.count(s.name) for s in self._points.strikes})


@contextmanager
def faults(
    *,
    seed: int = 0,
    drop: float = 0.0,
    duplicate: float = 0.0,
    reorder: float = 0.0,
    delay: float = 0.0,
    delay_s: float = 0.5,
    truncate: float = 0.0,
    only: Collection[str] | None = None,
    kill: Mapping[str, float] | None = None,
    max_kills: int | None = None,
    pause: Mapping[str, float] | None = None,
    pause_s: float = 5.0,
    max_pauses: int | None = None,
) -> Iterator[Faults]:
    """Put faults under every master that is started inside the ``with`` block.

    Parameters
    ----------
    seed : int, default=0
        The same seed hits the same messages and the same passages of points.
    drop, duplicate, reorder, delay, truncate : float, default=0
        How likely it is, from 0 to 1, that a message between the master and a worker is
        lost, comes twice, is overtaken by the next one of its worker, comes late, or
        ends too early.
    delay_s : float, default=0.5
        Longest delay, in seconds; each is drawn from 0 to this.
    only : collection of str, optional
        Kinds of messages that are touched, such as ``{"push", "ack"}``; docs/protocol.md
        lists them. Default: all of workers. Those of drivers are never touched.
    kill, pause : mapping of str to float, optional
        How likely it is that a process is killed (SIGKILL) or suspended (SIGSTOP) when it
        passes a point of `POINTS`: ``{"computed": 0.01}``. The points around your
        functions need `Faults.gradient` and `Faults.descent` around these.
    max_kills, max_pauses : int, optional
        Kills and pauses at most. A partition whose worker dies four times ends the run,
        so bound them.
    pause_s : float, default=5
        How long a suspended process sleeps, in seconds.

    Yields
    ------
    Faults

    Raises
    ------
    ConfigError
        A rate is no number from 0 to 1, a point or kind is unknown, or another ``faults``
        is at work in this process.

    Notes
    -----
    Message faults are put between the master's sockets and the master, and so hit Spark
    tasks and local processes alike, see `zmqdist.testing.sockets`. They need the master
    in this process: use it in a `zmqdist-master` by having the module of ``--model``
    enter it.

    Examples
    --------
    >>> with faults(seed=1, drop=0.1, kill={"computed": 0.01}, max_kills=3) as injected:
    ...     with ZmqDist(model) as dd:
    ...         result = dd.train(data, injected.gradient(gradient))
    >>> injected.counts
    Counter({'seen': 412, 'dropped': 40, 'killed': 3})
    """
    rates = {
        "drop": drop,
        "duplicate": duplicate,
        "reorder": reorder,
        "delay": delay,
        "truncate": truncate,
    }
    strikes = (
        Strike("killed", kill or {}, ALWAYS if max_kills is None else max_kills),
        Strike("paused", pause or {}, ALWAYS if max_pauses is None else max_pauses, pause_s),
    )
    _check(rates, strikes, only)
    if Master.sockets_type is FaultySockets:
        raise ConfigError("faults() is at work in this process already; end it first")
    folder = tempfile.mkdtemp(prefix="zmqdist-faults-")
    kinds = None if only is None else frozenset(only)
    fates = Fates(seed, Rates(**rates, delay_s=delay_s, only=kinds))
    points = Points(seed, folder, strikes)
    ordinary = Master.sockets_type
    FaultySockets.fates, FaultySockets.points = fates, points
    Master.sockets_type = FaultySockets
    injected = Faults(fates, points)
    try:
        yield injected
    finally:
        Master.sockets_type = ordinary
        points.wake_paused(everybody=True)
        injected.close()
        shutil.rmtree(folder, ignore_errors=True)


def _check(
    rates: Mapping[str, float], strikes: tuple[Strike, ...], only: Collection[str] | None
) -> None:
    for name, rate in rates.items():
        if not 0 <= rate <= 1:
            raise ConfigError(f"{name} is {rate!r}; expected a number from 0 to 1")
    for strike in strikes:
        for point, rate in strike.at.items():
            if point not in POINTS:
                raise ConfigError(f"unknown point {point!r}; expected one of {', '.join(POINTS)}")
            if not 0 <= rate <= 1:
                raise ConfigError(f"rate at {point} is {rate!r}; expected a number from 0 to 1")
    kinds = {cls.kind for cls in Message.__subclasses__()} - DRIVERS
    if only is not None and (unknown := sorted(set(only) - kinds)):
        raise ConfigError(f"only names {unknown}; expected kinds of {sorted(kinds)}")
