"""What is seen of a simulation: counts, the record, and the history of evaluations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from zmqdist.core.staleness import Verdict
from zmqdist.errors import ConfigError
from zmqdist.result import TrainResult
from zmqdist.tuning.agenda import Agenda
from zmqdist.tuning.record import Rows
from zmqdist.tuning.virtual_master import Served

Evaluate = Callable[[Any], float | Mapping[str, float]]
Entry = dict[str, float]


@dataclass
class Simulated(TrainResult):
    """What a simulation did; `seconds` and all other times but `wall_s` are virtual.

    Attributes
    ----------
    record : dict of str to ndarray
        One entry per decision of the master, by column; see `zmqdist.tuning.record`.
    stopped_s : float or None
        When `stop` said that it was enough; None if it never did.
    diverged : bool
        An update or an evaluation was not finite: the simulation ended there.
    publications, pulls : int
        Versions broadcast, and those sent to a worker that asked.
    busy_s : float
        Time that the master was at work.
    events : int
        Events that happened.
    wall_s : float
        Real time that the simulation took.
    """

    record: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    stopped_s: float | None = None
    diverged: bool = False
    publications: int = 0
    pulls: int = 0
    busy_s: float = 0.0
    events: int = 0
    wall_s: float = 0.0

    @property
    def throughput(self) -> float:
        """Applied updates per virtual second."""
        return self.applied / self.seconds if self.seconds else 0.0


class Observer:
    """Counts what the master decides, and evaluates the model now and then.

    Parameters
    ----------
    agenda : Agenda
    result : Simulated
        Filled in.
    rows : Rows or None
    model : object
    evaluate, stop, callbacks, max_updates
        As in `zmqdist.tuning.simulate.simulate`.
    every, every_s : int, float or None
        ``evaluate_every`` and ``evaluate_every_s``.
    figures : callable () -> dict of str to float
        What the policy shows; see `zmqdist.core.staleness.Policy.figures`.
    """

    def __init__(
        self,
        agenda: Agenda,
        result: Simulated,
        rows: Rows | None,
        model: Any,
        *,
        evaluate: Evaluate | None,
        every: int | None,
        every_s: float | None,
        stop: Callable[[Entry], bool] | None,
        callbacks: Sequence[Callable[[Entry], object]],
        max_updates: int | None,
        figures: Callable[[], Entry],
    ) -> None:
        if evaluate is not None and every is None and every_s is None:
            raise ConfigError("evaluate needs evaluate_every or evaluate_every_s")
        if evaluate is None and (stop is not None or every is not None or every_s is not None):
            raise ConfigError("stop, evaluate_every and evaluate_every_s need evaluate")
        if (every is not None and every < 1) or (every_s is not None and not every_s > 0):
            raise ConfigError("evaluate_every and evaluate_every_s must be above 0")
        self._agenda, self._result, self._rows, self._model = agenda, result, rows, model
        self._evaluate = evaluate or (lambda model: {})
        self._every, self._every_s = every, every_s
        self._stop, self._callbacks, self._figures = stop, callbacks, figures
        self._max_updates = math.inf if max_updates is None else max_updates
        self._taus: Counter[int] = Counter()
        self._sum_tau = self._count = 0
        if evaluate is not None:
            agenda.at(0.0, self._look, None)

    def applied(self, now: float, served: list[Served]) -> None:
        """Take note of a new version, of one update or of several."""
        result = self._result
        result.version += 1
        result.applied += len(served)
        for each in served:
            self._taus[each.tau] += 1
            self._sum_tau += each.tau
            result.examples += each.step.examples
            if self._rows is not None:
                self._rows.add(each)
        self._count += len(served)
        if self._every is not None and not result.version % self._every:
            self._look(now, None)
        if result.applied >= self._max_updates:
            self._agenda.over = True

    def turned_down(self, served: Served) -> None:
        """Take note of an update that is not applied."""
        result = self._result
        if served.decision == Verdict.REJECT:
            result.rejected += 1
        elif served.decision == Verdict.REQUEUE:
            result.requeued += 1
        else:
            result.skipped += 1
        if self._rows is not None:
            self._rows.add(served)

    def diverged(self) -> None:
        """End the simulation: values are not finite any more."""
        self._result.diverged = self._agenda.over = True

    def _look(self, now: float, _: object) -> None:
        found = self._evaluate(self._model)
        figures = dict(found) if isinstance(found, Mapping) else {"loss": float(found)}
        result = self._result
        entry: Entry = {
            "seconds": now,
            "version": result.version,
            "applied": result.applied,
            "examples": result.examples,
            "staleness": self._sum_tau / self._count if self._count else 0.0,
            **self._figures(),
            **{name: float(value) for name, value in figures.items()},
        }
        self._sum_tau = self._count = 0
        result.history.append(entry)
        for callback in self._callbacks:
            callback(entry)
        if not all(map(math.isfinite, figures.values())):
            self.diverged()
        elif self._stop is not None and self._stop(entry):
            result.stopped_s = now
            self._agenda.over = True
        if self._every_s is not None:
            self._agenda.at(now + self._every_s, self._look, None)

    def finish(self, end_s: float) -> Simulated:
        """Fill in the rest of the result."""
        result = self._result
        result.seconds = end_s
        result.policy = self._figures()
        result.staleness = dict(sorted(self._taus.items()))
        result.events = self._agenda.happened
        if self._rows is not None:
            result.record = self._rows.columns()
        return result
