"""The worker: runs the user's gradient over one partition, step by step.

The same code runs in Spark tasks and in local processes. A step is one update; its
number within the partition is what makes it count once, so the steps of a partition
must hold the same data at each attempt.
"""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from zmqdist.connection import Assignment, Connection
from zmqdist.core.messages import Push
from zmqdist.errors import ConfigError, GradientError, Stopped, UpdateError
from zmqdist.models.base import Parameters, parameters_of
from zmqdist.models.update import Update

Gradient = Callable[[Any, Any], Any]
_Begun = tuple[int, int]  # base version and clock
_END = object()

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

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dict of JSON values."""
        return asdict(self)


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
    with Connection(assignment, partition, attempt, worker) as link:
        task = _Task(link, parameters, gradient, summary)
        items = iter(data)
        try:
            if not link.complete and (head := list(itertools.islice(items, 1))):
                summary.items = True
                data = itertools.chain(head, items)
                if assignment.batch_size is not None:
                    task.run_batches(data, assignment.batch_size)
                else:
                    task.run_gradient(data)
        except Stopped as stop:
            summary.stopped = str(stop)
        else:
            summary.complete = link.complete or link.finish(summary.steps)
    return summary


class _Data(Iterator[Any]):
    """The partition's iterator; remembers what was read since the last update."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = iter(items)
        self._read: list[Any] = []
        self.count = 0

    def __next__(self) -> Any:
        item = next(self._items)
        self.count += 1
        if self.count <= KEEP_ITEMS:
            self._read.append(item)
        return item

    def take_read(self) -> tuple[int, list[Any] | None]:
        """Return how many items were read since the last call, and the items if kept."""
        count, read = self.count, self._read
        self.count, self._read = 0, []
        return count, read if count <= KEEP_ITEMS else None


@dataclass
class _Task:
    link: Connection
    parameters: Parameters
    gradient: Gradient
    summary: Summary
    _kept: dict[int, list[Any]] = field(default_factory=dict)

    def run_batches(self, data: Iterable[Any], size: int) -> None:
        """One update per `size` items; settled steps are skipped without computing."""
        for step, batch in enumerate(_batches(data, size)):
            self.summary.steps = step + 1
            if self.link.settled(step):
                continue
            self._compute(step, batch)
            self._compute_requeued(self._compute)
        self._settle_all(self._compute)

    def run_gradient(self, data: Iterable[Any]) -> None:
        """One update for the partition, or one per yield."""
        source = _Data(data)
        begun = self._begin(0)
        result = self._call(0, lambda: self.gradient(self.parameters.model, source))
        if isinstance(result, Iterator):
            self._run_yields(result, source, begun)
            return
        self.summary.steps = 1
        self._send(0, begun, result, *source.take_read())
        self._settle_all(self._compute_again)

    def _run_yields(self, updates: Iterator[Any], source: _Data, begun: _Begun | None) -> None:
        """Send what the generator yields; the model is fresh after each yield.

        A generator cannot be wound forward, so a later attempt runs it through the
        settled steps too and throws those updates away.
        """
        for step in itertools.count():
            if step:
                begun = self._begin(step)
            update = self._call(step, lambda: next(updates, _END))
            if update is _END:
                break
            self.summary.steps = step + 1
            self._send(step, begun, update, *source.take_read())
            self._compute_requeued(self._compute_again)
        self._settle_all(self._compute_again)

    # ---- one step -----------------------------------------------------------------------

    def _begin(self, step: int) -> _Begun | None:
        """Make the model fresh for a step; None for one that is settled and thrown away."""
        if self.link.settled(step):
            self.link.restore(self.parameters)
            return None
        return self.link.start(self.parameters)

    def _compute(self, step: int, batch: list[Any]) -> None:
        """Compute a step from its batch."""
        begun = self.link.start(self.parameters)
        update = self._call(step, lambda: self.gradient(self.parameters.model, batch))
        if isinstance(update, Iterator):
            raise ConfigError(
                "gradient returned a generator although batch_size= is given; return one update "
                "per batch, or leave batch_size out and yield"
            )
        self._send(step, begun, update, len(batch), batch)

    def _compute_again(self, step: int, items: list[Any]) -> None:
        """Compute a step anew from the items that its gradient had read.

        If the gradient does not read them all for one update, its updates depend on
        more than what it read since the last: the step stays open, and the partition
        is run again after this one.
        """
        begun = self.link.start(self.parameters)
        source = _Data(items)
        update = self._call(step, lambda: self.gradient(self.parameters.model, source))
        if isinstance(update, Iterator):
            updates = update
            update = self._call(step, lambda: next(updates, None))
        count, read = source.take_read()
        if count == len(items):
            self._send(step, begun, update, count, read)

    def _send(
        self, step: int, begun: _Begun | None, update: Any, count: int, items: list[Any] | None
    ) -> None:
        if begun is None:
            self.summary.replayed += 1
            return
        base, clock = begun
        wrapped = update if isinstance(update, Update) else Update(update)
        push = Push(
            session=0,
            step=step,
            base=base,
            clock=clock,
            examples=count if wrapped.examples is None else wrapped.examples,
            empty=wrapped.empty,
            metrics=wrapped.finite_metrics(),
        )
        self.summary.computed += 1
        self._kept = {s: kept for s, kept in self._kept.items() if s in self.link.in_flight()}
        if items is not None:
            self._kept[step] = items
        try:
            self.link.push(push, wrapped.arrays)
        except UpdateError as error:
            where = f"partition {self.summary.partition}, step {step}: {error}"
            self.link.fail(step, "update", str(error), "")
            raise UpdateError(where, partition=self.summary.partition, step=step) from error

    def _compute_requeued(self, compute: Callable[[int, list[Any]], None]) -> None:
        while (step := self.link.take_requeued()) is not None:
            items = self._kept.pop(step, None)
            if items is not None:
                compute(step, items)

    def _settle_all(self, compute: Callable[[int, list[Any]], None]) -> None:
        """Wait until nothing is under way, computing again what comes back."""
        while self.link.in_flight():
            self.link.wait_for_acks()
            self._compute_requeued(compute)

    def _call(self, step: int, compute: Callable[[], Any]) -> Any:
        """Run the user's code; what it raises is reported with partition and step."""
        try:
            return compute()
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            trace = traceback.format_exc()
            self.link.fail(step, "gradient", text, trace)
            raise GradientError(
                f"gradient raised on partition {self.summary.partition}, step {step}: {text}",
                partition=self.summary.partition,
                step=step,
                traceback=trace,
            ) from error


def _batches(data: Iterable[Any], size: int) -> Iterator[list[Any]]:
    items = iter(data)
    while batch := list(itertools.islice(items, size)):
        yield batch
