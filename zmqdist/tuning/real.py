"""Trials of the real thing: `ZmqDist` with local worker processes or on Spark; wall time."""

from __future__ import annotations

import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from zmqdist.api import ZmqDist
from zmqdist.engines import start_spark
from zmqdist.errors import ConfigError, UpdateError
from zmqdist.record import read_record
from zmqdist.tuning.catalogue import Task, task_of
from zmqdist.tuning.delays import Delay, delay_from
from zmqdist.tuning.outcome import Outcome, Point, Watch
from zmqdist.tuning.problems import Problem
from zmqdist.tuning.setting import Setting
from zmqdist.tuning.streams import Purpose, generator

SPARE_S = 60.0
"""Time beyond its budget after which a trial that does not move is given up, in seconds."""


class RealBackend(ABC):
    """Runs settings with `ZmqDist`; subclasses say where.

    Times count from the first update, so that starting processes does not count.

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
        seen = _Seen(watch, budget_s)
        with TemporaryDirectory(prefix="zmqdist-tune-") as folder:
            path = Path(folder) / "record.csv"
            try:
                result = self._train(problem, setting, task, seen, evaluate_every_s, path)
            finally:
                seen.close()
            record: dict[str, Any] = read_record(path).columns
            if task.tiers is not None:
                record = computed_once(record)
            seen.take(result, record, setting.workers)
        return seen.outcome

    def _train(
        self,
        problem: Problem,
        setting: Setting,
        task: Task,
        seen: _Seen,
        evaluate_every_s: float,
        record: Path,
    ) -> Mapping[str, Any]:
        """Run `ZmqDist` and return the totals; says in the outcome how it ended."""
        data, workers = self._place(task.data, setting.workers)
        descent = None if task.descent is None else seen.noting_the_first(task.descent)
        with ZmqDist(
            task.model,
            staleness=setting.policy,
            merge=setting.merge,
            progress=False,
            record=record,
            **self._options,
        ) as dd:
            seen.begin()
            try:
                result = dd.train(
                    data,
                    task.gradient,
                    descent,
                    epochs=task.epochs,
                    batch_size=task.batch_size,
                    tiers=task.tiers,
                    evaluate=problem.evaluate,
                    evaluate_every_s=evaluate_every_s,
                    stop_when=seen.look,
                    timeout_s=seen.budget_s + SPARE_S,
                    workers=workers,
                )
            except UpdateError as error:
                if "NaN or inf" not in str(error):
                    raise
                seen.end("diverged")
                return dd.stats()
        seen.end("data")
        return vars(result)

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


def computed_once(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a run in place, where what was sent back is only sent again."""
    again = record["decision"] == "requeue"
    return {**record, "examples": np.where(again, 0, record["examples"])}


class _Seen:
    """What is seen of a run while it goes on.

    Evaluations are told from a thread of their own, of which one may outlive a run that was
    interrupted: nothing is taken in after the end.
    """

    def __init__(self, watch: Watch, budget_s: float) -> None:
        self.outcome = Outcome()
        self.budget_s = budget_s
        self._watch = watch
        self._began = math.nan
        self._first_s: float | None = None
        self._lock = threading.Lock()
        self._ended = False

    def begin(self) -> None:
        """Note the time from which `look` counts."""
        self._began = time.monotonic()

    def noting_the_first(self, descent: Any) -> Any:
        """Return a descent that notes when it is first called."""

        def noting(model: Any, update: Any) -> None:
            if self._first_s is None:
                self._first_s = time.monotonic() - self._began
            descent(model, update)

        return noting

    def look(self, entry: Mapping[str, float]) -> bool:
        """Take in an evaluation; return whether to end."""
        with self._lock:
            if not self._ended:
                at = self._since_the_first(entry["seconds"])
                point = Point(at, int(entry["version"]), int(entry["examples"]), 0, entry["loss"])
                self.outcome.curve.append(point)
                reason = self._watch(point) or ("budget" if at >= self.budget_s else None)
                if reason is not None:
                    self._ended, self.outcome.ended = True, reason
            return self._ended

    def end(self, reason: str) -> None:
        """Say why the run ended, unless an evaluation did."""
        with self._lock:
            if not self._ended:
                self._ended, self.outcome.ended = True, reason

    def close(self) -> None:
        """Take in nothing more; waits for an evaluation that is being taken in."""
        with self._lock:
            self._ended = True

    def take(self, result: Mapping[str, Any], record: Mapping[str, Any], workers: int) -> None:
        """Take over a run's totals and its record."""
        outcome = self.outcome
        outcome.fill(result)
        outcome.seconds = self._since_the_first(result["seconds"])
        outcome.read_record(record, workers)
        applied = record["decision"] == "applied"
        if applied.any():
            outcome.service_s = float(record["master_s"][applied].mean())

    def _since_the_first(self, seconds: float) -> float:
        return max(0.0, seconds - (self._first_s or 0.0))


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
