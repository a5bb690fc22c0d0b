"""Trials of the real thing: `ZmqDist` with local worker processes or on Spark; wall time."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from zmqdist.api import ZmqDist
from zmqdist.engines import start_spark
from zmqdist.errors import ConfigError, UpdateError
from zmqdist.tuning.catalogue import Task, loss_of, task_of
from zmqdist.tuning.delays import Delay, delay_from
from zmqdist.tuning.outcome import Outcome, Point, Watch
from zmqdist.tuning.problems import Problem
from zmqdist.tuning.setting import Setting
from zmqdist.tuning.streams import Purpose, generator

SPARE_S = 60.0
"""Time beyond its budget after which a trial that does not move is given up, in seconds."""


class RealBackend(ABC):
    """Runs settings with `ZmqDist`; subclasses say where.

    Times count from the first update, so that starting processes does not count. The loss is
    looked at about each second at most.

    Parameters
    ----------
    options : mapping
        As of `Design.options`.
    delay : Delay or None
        Added to each computation, drawn by the setting's seed: for machines with fewer cores
        than workers, which would measure themselves, and for delays common to all policies.
    """

    def __init__(self, options: Mapping[str, Any], delay: Delay | None) -> None:
        self._options, self._delay = dict(options), delay

    @abstractmethod
    def _place(self, data: list[Iterable[Any]], workers: int) -> tuple[Any, int | None]:
        """Return the data as `ZmqDist.train` takes it here, and its ``workers=``."""

    def run(
        self,
        problem: Problem,
        setting: Setting,
        *,
        budget_s: float,
        evaluate_every_s: float,
        watch: Watch,
    ) -> Outcome:
        """Train until `watch` says why to end, the time is up or the data is used."""
        task = task_of(problem, setting)
        if self._delay is not None:
            task = delayed(task, self._delay, setting.seed)
        data, workers = self._place(task.data, setting.workers)
        seen = _Seen(problem, task.model, watch, budget_s, evaluate_every_s)
        seen.look({"seconds": 0.0, "version": 0, "examples": 0})
        with ZmqDist(
            task.model,
            staleness=setting.policy,
            merge=setting.merge,
            progress=False,
            **self._options,
        ) as dd:
            try:
                result = dd.train(
                    data,
                    task.gradient,
                    None if task.descent is None else seen.noting_the_first(task.descent),
                    epochs=task.epochs,
                    batch_size=task.batch_size,
                    tiers=task.tiers,
                    callbacks=[seen.look_if_due],
                    timeout_s=budget_s + SPARE_S,
                    workers=workers,
                )
            except _Enough:
                return seen.filled(dd.stats())
            except UpdateError as error:
                if "NaN or inf" not in str(error):
                    raise
                seen.outcome.ended = "diverged"
                return seen.filled(dd.stats())
        if not seen.look(vars(result)):
            seen.outcome.ended = "data"
        return seen.filled(vars(result))

    @abstractmethod
    def close(self) -> None:
        """Give back what is held over several trials."""


class LocalBackend(RealBackend):
    """Runs settings with worker processes on this machine.

    Parameters
    ----------
    tables : mapping
        ``local``: ``delay``, as of `zmqdist.tuning.delays.delay_from`.
    options : mapping
    workers : int
        Most workers that a setting has; not needed here.

    Raises
    ------
    ConfigError
        An option is unknown or cannot be.
    """

    def __init__(self, tables: Mapping[str, Any], options: Mapping[str, Any], workers: int) -> None:
        super().__init__(options, _delay(tables, "local", {"delay"}))

    def _place(self, data: list[Iterable[Any]], workers: int) -> tuple[Any, int | None]:
        return data, workers

    def close(self) -> None:
        """Nothing is held: each trial has its own processes."""


class SparkBackend(RealBackend):
    """Runs settings as Spark jobs.

    Parameters
    ----------
    tables : mapping
        ``spark``: ``master`` (default: ``local[N]`` with as many slots as the largest setting has
        workers), ``conf`` (a table of Spark's options) and ``delay``.
    options : mapping
    workers : int
        Most workers that a setting has.

    Raises
    ------
    ConfigError
        An option is unknown or cannot be, or pyspark is not installed.
    """

    def __init__(self, tables: Mapping[str, Any], options: Mapping[str, Any], workers: int) -> None:
        super().__init__(options, _delay(tables, "spark", {"delay", "master", "conf"}))
        table = tables.get("spark", {})
        master, conf = table.get("master", f"local[{workers}]"), table.get("conf", {})
        if not isinstance(master, str) or not isinstance(conf, Mapping):
            raise ConfigError(
                f"[spark] has master = {master!r}, conf = {conf!r}; expected a text and a table"
            )
        self._session = start_spark(master, {str(k): str(v) for k, v in conf.items()})

    def _place(self, data: list[Iterable[Any]], workers: int) -> tuple[Any, int | None]:
        context = self._session.sparkContext
        if context.defaultParallelism < workers:
            raise ConfigError(
                f"Spark has {context.defaultParallelism} slots for {workers} workers, which have "
                "to run at the same time; use a master with more, or fewer workers"
            )
        return context.parallelize(data, len(data)).flatMap(iter), None

    def close(self) -> None:
        """Stop the session."""
        self._session.stop()


class _Enough(Exception):
    """Ends a run from its callback."""


class _Seen:
    """What is seen of a run while it goes on.

    The model is evaluated where it is, in the driver, while the master changes it: an
    evaluation may see an update half applied, which is as much as one update more or less.
    """

    def __init__(
        self,
        problem: Problem,
        model: Any,
        watch: Watch,
        budget_s: float,
        evaluate_every_s: float,
    ) -> None:
        self.outcome = Outcome()
        self._problem, self._model = problem, model
        self._watch, self._budget_s = watch, budget_s
        self._every_s, self._due_s = evaluate_every_s, evaluate_every_s
        self._began = time.monotonic()
        self._first: float | None = None

    def noting_the_first(self, descent: Any) -> Any:
        """Return a descent that notes when it is first called."""

        def noting(model: Any, update: Any) -> None:
            if self._first is None:
                self._first = time.monotonic() - self._began
            descent(model, update)

        return noting

    def since_the_first(self, seconds: float) -> float:
        return max(0.0, seconds - (self._first or 0.0))

    def look_if_due(self, stats: Mapping[str, Any]) -> None:
        """Evaluate, and end the run if that is enough; a callback of `train`."""
        if stats["seconds"] >= self._due_s:
            self._due_s = stats["seconds"] + self._every_s
            if self.look(stats):
                raise _Enough

    def look(self, stats: Mapping[str, Any]) -> bool:
        """Evaluate; return whether to end."""
        at = self.since_the_first(stats["seconds"])
        returned = stats.get("rejected", 0) + stats.get("requeued", 0)
        computed = round(stats["examples"] * (1 + returned / max(1, stats.get("applied", 0))))
        loss = loss_of(self._problem, self._model)
        point = Point(at, int(stats["version"]), int(stats["examples"]), computed, loss)
        self.outcome.curve.append(point)
        reason = self._watch(point)
        if reason is None and at >= self._budget_s:
            reason = "budget"
        self.outcome.ended = reason or self.outcome.ended
        return reason is not None

    def filled(self, result: Mapping[str, Any]) -> Outcome:
        """Return the outcome with the run's totals."""
        outcome = self.outcome
        outcome.seconds = self.since_the_first(result["seconds"])
        for name in ("applied", "rejected", "requeued", "version", "staleness"):
            setattr(outcome, name, result[name])
        return outcome


# ---- delays ---------------------------------------------------------------------------------


def delayed(task: Task, delay: Delay, seed: int) -> Task:
    """Return a task whose every computation takes longer, by a stream for each partition."""
    if task.batch_size is None:
        raise ConfigError("delay needs a problem that computes batches; leave it out")
    data: list[Iterable[Any]] = [_Numbered(n, part) for n, part in enumerate(task.data)]
    gradient = _Delayed(task.gradient, delay, seed)
    return Task(task.model, data, gradient, task.descent, task.batch_size, task.epochs)


@dataclass(frozen=True)
class _Numbered:
    """A partition whose items carry its number."""

    number: int
    items: Iterable[Any]

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        return ((self.number, item) for item in self.items)


@dataclass
class _Delayed:
    """A gradient that takes its time."""

    gradient: Any
    delay: Delay
    seed: int
    streams: dict[int, Iterator[float]] = field(default_factory=dict)

    def __call__(self, model: Any, batch: list[tuple[int, Any]]) -> Any:
        number = batch[0][0]
        if number not in self.streams:
            rng = generator(self.seed, number, Purpose.COMPUTE)
            self.streams[number] = self.delay.stream(rng)
        ends = time.monotonic() + next(self.streams[number])
        update = self.gradient(model, [item for _, item in batch])
        threading.Event().wait(max(0.0, ends - time.monotonic()))
        return update


def _delay(tables: Mapping[str, Any], name: str, known: set[str]) -> Delay | None:
    table = tables.get(name, {})
    if unknown := sorted(table.keys() - known):
        raise ConfigError(f"[{name}] has unknown {unknown}; expected {sorted(known)}")
    return delay_from(table["delay"]) if "delay" in table else None
