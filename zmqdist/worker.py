"""The worker: runs the user's gradient over one partition, step by step.

The same code runs in Spark tasks and in local processes. A step is one update; its
number within the partition is what makes it count once, so the steps of a partition
must hold the same data at each attempt.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from zmqdist.assignment import Assignment
from zmqdist.connection import Connection
from zmqdist.core.lineage import Point
from zmqdist.errors import ConfigError, Stopped
from zmqdist.exchange import InPlaceConnection
from zmqdist.in_place import InPlace
from zmqdist.models.base import Parameters, parameters_of
from zmqdist.models.tiers import REFRESH
from zmqdist.models.update import as_update
from zmqdist.shared import SharedConnection
from zmqdist.staleness.abandon import Watch
from zmqdist.task import END, RAISED, Data, Gradient, Read, Summary, Task

log = logging.getLogger(__name__)

_Begun = tuple[Point, int]  # base and clock


def run_partition(
    assignment: Assignment,
    model: Any,
    gradient: Gradient,
    *,
    partition: int,
    attempt: int,
    data: Iterable[Any],
    worker: str = "",
) -> Summary:
    """Run `gradient` over one partition and send its updates.

    Parameters
    ----------
    assignment : Assignment
        Where the master is and what it expects.
    model : object
        The worker's own copy; overwritten with each version read.
    gradient : callable (model, data) -> update, or a generator of updates
        With ``assignment.batch_size``, `data` is a list of that many items and one
        update is returned; otherwise it is an iterator over the partition.
    partition, attempt : int
        Which partition; which attempt at it, unique within the run.
    data : iterable
        The partition.
    worker : str
        Name for people.

    Returns
    -------
    Summary
        Also after a `Stop` from the master, with the reason.

    Raises
    ------
    GradientError
        `gradient` raised; the error names partition and step.
    UpdateError
        An update cannot be sent.
    MasterUnreachable, MasterLost, ModelMismatch
        See these.
    """
    parameters: Parameters = parameters_of(model)
    parameters.check(assignment.schema)
    summary = Summary(partition)
    with _kind(assignment)(assignment, partition, attempt, worker) as link:
        items = iter(data)
        try:
            if not link.complete and (head := list(itertools.islice(items, 1))):
                summary.items = True
                data = itertools.chain(head, items)
                if isinstance(link, InPlaceConnection) and assignment.tiers is not None:
                    InPlace(link, parameters, gradient, summary).run(data, assignment.tiers)
                elif assignment.batch_size is not None:
                    updates = _Updates(link, parameters, gradient, summary)
                    updates.run_batches(data, assignment.batch_size)
                else:
                    _Updates(link, parameters, gradient, summary).run_gradient(data)
        except Stopped as stop:
            summary.stopped = str(stop)
        else:
            summary.complete = link.complete or link.finish(summary.steps)
    return summary


def _kind(assignment: Assignment) -> type[Connection]:
    if assignment.tiers is not None:
        return InPlaceConnection
    return SharedConnection if assignment.shares else Connection


@dataclass
class _Updates(Task):
    """Runs a gradient that returns updates, or yields them."""

    _kept: dict[int, Read] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._watch = Watch(self.link.too_stale)

    def run_batches(self, data: Iterable[Any], size: int) -> None:
        """One update per `size` items; settled steps are skipped without computing."""
        for step, batch in enumerate(_batches(data, size)):
            self.summary.steps = step + 1
            if self.link.settled(step):
                continue
            self._compute(step, Read(len(batch), batch, ended=False))
            self._compute_requeued(self._compute)
        self._settle_all(self._compute)

    def run_gradient(self, data: Iterable[Any]) -> None:
        """One update for the partition, or one per yield."""
        source = Data(data, self.link.passes)
        begun = self._begin(0)
        result = self.call(0, lambda: self.gradient(self.parameters.model, source))
        if isinstance(result, Iterator):
            self._run_yields(result, source, begun)
            return
        self.summary.steps = 1
        self._send(0, begun, result, source.take_read())
        self._settle_all(self._compute_again)

    def _run_yields(self, updates: Iterator[Any], source: Data, begun: _Begun | None) -> None:
        """Send what the generator yields; the model is fresh after each yield.

        A generator cannot be wound forward, so a later attempt runs it through the
        settled steps too and throws those updates away.
        """
        for step in itertools.count():
            if step:
                begun = self._begin(step)
            update = self.call(step, lambda: next(updates, END))
            if update is END:
                if begun is not None:
                    self.link.cancel()
                break
            self.summary.steps = step + 1
            self._send(step, begun, update, source.take_read())
            self._compute_requeued(self._compute_again)
        self._settle_all(self._compute_again)

    # ---- one step -----------------------------------------------------------------------

    def _begin(self, step: int) -> _Begun | None:
        """Make the model fresh for a step; None for one that is settled and thrown away."""
        if self.link.settled(step):
            self.link.restore(self.parameters)
            return None
        return self._start()

    def _start(self) -> _Begun:
        begun = self.link.start(self.parameters)
        self._watch.begin()
        return begun

    def timed(self, compute: Callable[[], Any]) -> Any:
        """Run the user's code, which may ask whether it is too stale."""
        with self._watch.watching():
            return super().timed(compute)

    def _compute(self, step: int, batch: Read) -> None:
        """Compute a step from its batch."""
        begun = self._start()
        update = self.call(step, lambda: self.gradient(self.parameters.model, batch.items))
        if isinstance(update, Iterator):
            raise ConfigError(
                "gradient returned a generator although batch_size= is given; return one update "
                "per batch, or leave batch_size out and yield"
            )
        self._send(step, begun, update, batch)

    def _compute_again(self, step: int, read: Read) -> None:
        """Compute a step anew from the items that its gradient had read.

        If it does not read these as it did, or fails on them, its updates depend on more than
        what it read since the last: the step stays open, and the partition is run again.
        """
        begun = self._start()
        source = Data(read.items or [], self.link.passes)
        try:
            update = self.timed(lambda: self._first(source))
        except RAISED as error:  # the run of the whole partition raises it again, if it is one
            log.info("step %d cannot be computed again from its own items: %r", step, error)
            return self.link.cancel()
        again = source.take_read()
        if (again.n_items, again.ended) != (read.n_items, read.ended):
            return self.link.cancel()
        self._send(step, begun, update, read)

    def _first(self, source: Data) -> Any:
        """Return what the gradient returns, or first yields."""
        made = self.gradient(self.parameters.model, source)
        return next(made, None) if isinstance(made, Iterator) else made

    def _send(self, step: int, begun: _Begun | None, update: Any, read: Read) -> None:
        if begun is None:
            self.summary.replayed += 1
            return
        if update is REFRESH:
            raise ConfigError(
                "gradient yielded REFRESH, which is for one that trains its model in place; pass "
                "tiers=Tiers(...) to train(), or yield updates only"
            )
        base, clock = begun
        alive = self.link.in_flight()
        self._kept = {s: kept for s, kept in self._kept.items() if s in alive}
        if read.items:  # what was read earlier, or is too much, is read by a new run only
            self._kept[step] = read
        result = as_update(update)
        abandoned = self._watch.told or (not result.empty and self._watch.too_stale())
        self.push(step, base, clock, result, read.n_items, abandoned=abandoned)

    def _compute_requeued(self, compute: Callable[[int, Read], None]) -> None:
        while (step := self.link.take_requeued()) is not None:
            if (read := self._kept.pop(step, None)) is not None:
                compute(step, read)

    def _settle_all(self, compute: Callable[[int, Read], None]) -> None:
        """Wait until nothing is under way, computing again what comes back."""
        while self.link.in_flight():
            self.link.wait_for_acks()
            self._compute_requeued(compute)


def _batches(data: Iterable[Any], size: int) -> Iterator[list[Any]]:
    items = iter(data)
    while batch := list(itertools.islice(items, size)):
        yield batch
