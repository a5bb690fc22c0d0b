"""What every way of running a partition shares: its data, its pushes, its errors."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from zmqdist.connection import Connection
from zmqdist.core.lineage import Point
from zmqdist.core.messages import Push
from zmqdist.errors import GradientError, UpdateError
from zmqdist.models.base import Parameters
from zmqdist.models.update import Update

Gradient = Callable[[Any, Any], Any]
RAISED = (Exception, SystemExit)
"""What counts as an error of the user's code: a worker that exits would be taken for dead."""

END = object()
"""What `next` returns at the end of a generator of updates."""

KEEP_ITEMS = 100_000
"""Items kept per unacknowledged update, so that it can be computed again. Of an update
from more, the whole partition is run again."""


@dataclass
class Summary:
    """What one task did; the engine returns it to the driver."""

    partition: int
    steps: int = 0
    computed: int = 0
    items: bool = False
    replayed: int = 0
    complete: bool = False
    stopped: str = ""


class Read(NamedTuple):
    """What a gradient has read for one update.

    Attributes
    ----------
    n_items : int
    items : list or None
        None if there are more than `KEEP_ITEMS`.
    ended : bool
        Whether it asked for more than there was.
    """

    n_items: int
    items: list[Any] | None
    ended: bool


class Data(Iterator[Any]):
    """The partition's iterator; remembers what was read since the last update.

    Attributes
    ----------
    passes : float
        How often the data had been gone through when the partition was first begun: 2.25 in
        the third epoch of a `train()`, of which a quarter of the partitions was complete.
        The same at each attempt, so that a gradient may cut its chunks by it.
    """

    def __init__(self, items: Iterable[Any], passes: float = 0.0) -> None:
        self._items = iter(items)
        self.passes = passes
        self._read: list[Any] = []
        self._count, self._ended = 0, False

    def __next__(self) -> Any:
        try:
            item = next(self._items)
        except StopIteration:
            self._ended = True
            raise
        self._count += 1
        if self._count <= KEEP_ITEMS:
            self._read.append(item)
        return item

    def take_read(self) -> Read:
        """Return what was read since the last call."""
        kept = self._read if self._count <= KEEP_ITEMS else None
        read = Read(self._count, kept, self._ended)
        self._read, self._count, self._ended = [], 0, False
        return read


@dataclass
class Task:
    """One partition being run: the connection, the model, the user's gradient."""

    link: Connection
    parameters: Parameters
    gradient: Gradient
    summary: Summary
    _computed_s: float = 0.0

    def push(
        self,
        step: int,
        base: Point,
        clock: int,
        update: Update,
        examples: int,
        *,
        abandoned: bool = False,
    ) -> None:
        """Send the update of a step.

        Parameters
        ----------
        step, base, clock : int
            See `zmqdist.core.messages.Push`.
        update : Update
        examples : int
            What it was computed from, unless the update says.
        abandoned : bool, default=False
            Send its header only, for the master to turn it down.

        Raises
        ------
        UpdateError
            If the update holds what cannot travel.
        """
        half_dot, half_sq = update.finite_halves()
        push = Push(
            session=0,
            step=step,
            base=base.version,
            incarnation=base.incarnation,
            clock=clock,
            examples=examples if update.examples is None else update.examples,
            empty=update.empty and not abandoned,
            metrics=update.finite_metrics(),
            abandoned=abandoned,
            compute_s=round(self._computed_s, 6),
            half_dot=half_dot,
            half_sq=half_sq,
        )
        self._computed_s = 0.0
        self.summary.computed += 1
        try:
            self.link.push(push, None if push.empty or abandoned else update.arrays)
        except UpdateError as error:
            where = f"partition {self.summary.partition}, step {step}: {error}"
            self.link.fail(step, "update", str(error), "")
            raise UpdateError(where, partition=self.summary.partition, step=step) from error

    def timed(self, compute: Callable[[], Any]) -> Any:
        """Run the user's code; its time goes with the next update."""
        started = time.monotonic()
        result = compute()
        self._computed_s += time.monotonic() - started
        return result

    def call(self, step: int, compute: Callable[[], Any]) -> Any:
        """Run the user's code; what it raises is reported with partition and step."""
        try:
            return self.timed(compute)
        except RAISED as error:
            text = f"{type(error).__name__}: {error}"
            if isinstance(error, SystemExit):
                text += "; raise an exception to end the run, return None to skip a step"
            trace = traceback.format_exc()
            self.link.fail(step, "gradient", text, trace)
            raise GradientError(
                f"gradient raised on partition {self.summary.partition}, step {step}: {text}",
                partition=self.summary.partition,
                step=step,
                traceback=trace,
            ) from error
