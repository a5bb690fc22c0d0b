"""One trial of a design: run it, watch it, say what it is worth."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from zmqdist.errors import TrialPruned
from zmqdist.tuning.outcome import Outcome, Point, Watch
from zmqdist.tuning.problems import Problem
from zmqdist.tuning.setting import Setting
from zmqdist.tuning.trial import Trial


class Backend(Protocol):
    """Runs a setting."""

    def run(
        self,
        problem: Problem,
        setting: Setting,
        *,
        budget_s: float,
        evaluate_every_s: float,
        watch: Watch,
    ) -> Outcome:
        """Train until `watch` says why to end, the time is up or the data is used.

        `watch` is called with each evaluation, the first one before anything is applied.
        """
        ...

    def close(self) -> None:
        """Give back what is held over several trials."""
        ...


class TimeToTarget:
    """The objective of a study.

    The value is the time of the first evaluation with a loss of at most `target`, in seconds;
    without a target it is the last loss. A trial that diverges, or whose time is up before it
    reaches the target, is worth ``inf``: that is a result, and a missing value would favour
    settings that seldom come through.

    Parameters
    ----------
    problem : Problem
    backend : Backend
    target : float or None
    budget_s : float
        Time that a trial may take, virtual or wall, in seconds.
    evaluate_every_s : float
    diverged : float, default=10.0
        A trial has diverged when its loss is not finite, or so many times the first one if that is
        above 0: of a loss that may be negative, as minus a log density, no multiple means anything.
    on_point : callable (), optional
        Called after each evaluation: to show it.
    """

    def __init__(
        self,
        problem: Problem,
        backend: Backend,
        *,
        target: float | None,
        budget_s: float,
        evaluate_every_s: float,
        diverged: float = 10.0,
        on_point: Callable[[], object] | None = None,
    ) -> None:
        self._problem, self._backend, self._target = problem, backend, target
        self._budget_s, self._evaluate_every_s = budget_s, evaluate_every_s
        self._diverged, self._on_point = diverged, on_point

    def __call__(self, trial: Trial) -> float:
        """Run a trial and return its value."""
        first: float | None = None

        def watch(point: Point) -> str | None:
            nonlocal first
            trial.report(point.loss, point.seconds)
            if self._on_point is not None:
                self._on_point()
            if first is None:
                first = point.loss
            limit = self._diverged * first if first > 0 else math.inf
            if not math.isfinite(point.loss) or point.loss > limit:
                return "diverged"
            if self._target is not None and point.loss <= self._target:
                return "target"
            return "pruned" if trial.should_prune() else None

        outcome = self._backend.run(
            self._problem,
            Setting.of(trial.params),
            budget_s=self._budget_s,
            evaluate_every_s=self._evaluate_every_s,
            watch=watch,
        )
        trial.outcome = outcome.as_dict()
        for name, fact in facts(outcome).items():
            trial.set_user_attr(name, fact)
        if outcome.ended == "pruned":
            raise TrialPruned(f"trial {trial.number} was pruned at {outcome.seconds:g} s")
        if self._target is None:
            return outcome.loss
        return outcome.curve[-1].seconds if outcome.ended == "target" else math.inf


def facts(outcome: Outcome) -> dict[str, float | int | str]:
    """Return the figures of an outcome that tables show."""
    return {
        "ended": outcome.ended,
        "loss": outcome.loss,
        "seconds": outcome.seconds,
        "updates": outcome.version,
        "updates_per_s": outcome.version / outcome.seconds if outcome.seconds else 0.0,
        "staleness": outcome.staleness_mean,
        "accepted": outcome.accepted,
        **{f"policy_{name}": value for name, value in outcome.policy.items()},
    }
