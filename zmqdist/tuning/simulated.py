"""Trials in the simulator: virtual time, real gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from zmqdist.errors import ConfigError
from zmqdist.tuning.catalogue import task_of
from zmqdist.tuning.cluster import Cluster
from zmqdist.tuning.outcome import Outcome, Point, Watch
from zmqdist.tuning.problems import Problem
from zmqdist.tuning.setting import Setting
from zmqdist.tuning.simulate import simulate


class SimulateBackend:
    """Runs settings on a simulated cluster.

    Parameters
    ----------
    tables : mapping
        ``cluster``: as `Cluster.from_dict` takes it, but for the workers, which a setting has.
    options : mapping
        As of `Design.options`.
    workers : int
        Most workers that a setting has; not needed here.

    Raises
    ------
    ConfigError
        The cluster cannot be.
    """

    def __init__(self, tables: Mapping[str, Any], options: Mapping[str, Any], workers: int) -> None:
        cluster = dict(tables.get("cluster", {}))
        if "workers" in cluster:
            raise ConfigError("[cluster] has workers; they are in [grid], as one of the axes")
        if "compute" not in cluster:
            raise ConfigError(
                "[cluster] has no compute, the time of one update; for instance "
                'compute = { name = "exponential", mean = 1.0 }'
            )
        self._cluster = Cluster.from_dict({**cluster, "workers": 1})
        self._options = dict(options)

    def run(
        self,
        problem: Problem,
        setting: Setting,
        *,
        budget_s: float,
        evaluate_every_s: float,
        watch: Watch,
    ) -> Outcome:
        """Simulate until `watch` says why to end, the virtual time is up or the data is used."""
        task = task_of(problem, setting)
        if task.tiers is not None:
            raise ConfigError(
                "the problem trains in place (tiers), which is not simulated; use the backend "
                "'local' or 'spark'"
            )
        outcome = Outcome()

        def stop(entry: Mapping[str, float]) -> bool:
            outcome.curve.append(_point(entry))
            reason = watch(outcome.curve[-1])
            outcome.ended = reason or outcome.ended
            return reason is not None

        result = simulate(
            self._cluster.with_workers(setting.workers),
            task.model,
            task.data,
            task.gradient,
            task.descent,
            staleness=setting.policy,
            merge=setting.merge,
            epochs=task.epochs,
            batch_size=task.batch_size,
            evaluate=problem.evaluate,
            evaluate_every_s=evaluate_every_s,
            stop=stop,
            timeout_s=budget_s,
            seed=setting.seed,
            **self._options,
        )
        if result.diverged:
            last = Point(result.seconds, result.version, result.examples, 0, math.inf)
            outcome.curve.append(last)
            watch(last)
            outcome.ended = "diverged"
        outcome.fill(vars(result))
        outcome.read_record(result.record, setting.workers)
        outcome.service_s = result.busy_s / max(1, len(result.record["time_s"]))
        return outcome

    def close(self) -> None:
        """Nothing is held."""


def _point(entry: Mapping[str, float]) -> Point:
    return Point(entry["seconds"], int(entry["version"]), int(entry["examples"]), 0, entry["loss"])
