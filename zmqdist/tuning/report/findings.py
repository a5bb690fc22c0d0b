"""What the figures of a study are drawn from."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from functools import cached_property
from typing import Any

from zmqdist.errors import StudyError, ZmqdistError
from zmqdist.tuning.analysis import Cell, best_of, bound_of, cells, curves
from zmqdist.tuning.outcome import Outcome
from zmqdist.tuning.recommend import Recommendation, best_by_workers, recommend
from zmqdist.tuning.running import problem_of
from zmqdist.tuning.scaling import Scaling, fit
from zmqdist.tuning.setting import family
from zmqdist.tuning.study import Study
from zmqdist.tuning.trial import FrozenTrial, Params, TrialState

ENDS = {
    "target": "reached the target",
    "budget": "ran out of time",
    "data": "used all data",
    "fail": "failed",
    "pruned": "were given up",
}
"""How trials ended, for people."""


class Findings:
    """The trials of a study, grouped and judged once for all figures.

    Parameters
    ----------
    study : Study
        From `zmqdist.tuning.running.open_study`.

    Raises
    ------
    StudyError
        The study is another one.

    Attributes
    ----------
    trials : list of FrozenTrial
    cells : list of Cell
    curves : list of list of Cell
        As of `zmqdist.tuning.analysis.curves`.
    advice : Recommendation or None
        None if nothing can be recommended; `why_not` says why.
    """

    def __init__(self, study: Study) -> None:
        if "problem" not in study.settings:
            raise StudyError(
                f"study {study.name!r} was not made from a design, so there is no bound and no "
                "policy to judge; look at study.trials_dataframe() instead"
            )
        self.name = study.name
        self.settings = study.settings
        self.trials = study.trials
        self._study = study
        self._outcomes: dict[int, Outcome] = {}
        self.over: tuple[str, ...] = tuple(self.settings.get("over", ["lr"]))
        self.cells = cells(self.trials)
        self.curves = curves(self.cells, self.over)
        self.why_not = ""
        self.advice: Recommendation | None = None
        try:
            self.advice = recommend(self.trials, self.over, self.scaling)
        except StudyError as error:
            self.why_not = str(error)

    @property
    def target(self) -> float | None:
        """The loss to reach."""
        target: float | None = self.settings.get("target")
        return target

    @property
    def value_name(self) -> str:
        """What the value of a trial is, for axes."""
        return "loss at the end" if self.target is None else f"time to the target ({self.seconds})"

    @property
    def seconds(self) -> str:
        """The unit of times: simulated seconds are not seconds."""
        return "virtual s" if self.settings.get("backend") == "simulate" else "s"

    @cached_property
    def curvature(self) -> float | None:
        """Largest curvature of the loss, if the problem knows it and can be made here."""
        try:
            return problem_of(self.settings).curvature
        except (ZmqdistError, KeyError):
            return None

    @cached_property
    def timed(self) -> list[Outcome]:
        """Of the outcomes of each number of workers one, those that time master and workers."""
        best = best_by_workers(self.trials, self.over)
        outcomes = [self.outcome(cell.trials[0]) for cell in best]
        return [o for o in outcomes if o is not None and o.service_s and o.cycle_s]

    @cached_property
    def scaling(self) -> Scaling | None:
        """The model of time against workers.

        None without a target, as the updates that fit into the budget are not those needed;
        without times; or if less than two numbers of workers reach the target.
        """
        if self.target is None or not self.timed:
            return None
        best = best_by_workers(self.trials, self.over)
        return fit(
            [int(cell.params["workers"]) for cell in best],
            [
                cell.median_of("updates") if math.isfinite(cell.median) else math.inf
                for cell in best
            ],
            statistics.median(o.cycle_s or 0.0 for o in self.timed),
            statistics.median(o.service_s or 0.0 for o in self.timed),
        )

    def outcome(self, trial: FrozenTrial) -> Outcome | None:
        """Return all that came out of a trial."""
        if trial.number not in self._outcomes:
            kept = self._study.outcome(trial.number)
            if kept is None:
                return None
            self._outcomes[trial.number] = Outcome.from_dict(kept)
        return self._outcomes[trial.number]

    def outcomes(self, cell: Cell) -> list[Outcome]:
        """Return the outcomes of a cell's trials."""
        found = [self.outcome(trial) for trial in cell.trials]
        return [outcome for outcome in found if outcome is not None]

    def middle(self, cell: Cell) -> Outcome | None:
        """Return the outcome of the seed with the median value."""
        order = sorted(cell.trials, key=lambda t: math.inf if t.value is None else t.value)
        return self.outcome(order[(len(order) - 1) // 2])

    def missing(self, cell: Cell) -> int:
        """Return how many of the seeds that were asked for a cell has no result of."""
        return len(set(self.settings.get("seeds", ())) - cell.by_seed.keys())

    def shown(self) -> list[Cell]:
        """Return the few cells that most figures show.

        Of the recommended policy (or the first one) the smallest, the recommended and the
        largest bound, and the best of each other policy with the same workers.
        """
        if not self.curves:
            return []
        main = self.curves[0] if self.advice is None else self.advice.curve
        best = main[0] if self.advice is None else self.advice.cell
        found = [main[0], best, main[-1]]
        for curve in self.curves:
            if curve[0].key != main[0].key and curve[0].params["workers"] == best.params["workers"]:
                found.append(best_of(curve))
        unique = {cell.key: cell for cell in found}
        return list(unique.values())[:6]

    def counts(self) -> str:
        """Say how the trials ended."""
        ends: Counter[str] = Counter()
        for trial in self.trials:
            done = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
            end = str(trial.user_attrs.get("ended")) if done else trial.state.lower()
            ends[ENDS.get(end, end)] += 1
        return ", ".join(f"{count} {end}" for end, count in ends.most_common())


def label(params: Params, *, without: tuple[str, ...] = ()) -> str:
    """Return a setting in few words."""
    text = family(str(params["policy"]))
    if params.get("bound") is not None and "bound" not in without:
        text += f", bound {bound_text(float(params['bound']))}"
    for name in ("lr", "workers", "chunk", "merge"):
        if name in params and name not in without:
            text += f", {name} {params[name]}"
    return text


def bound_text(bound: float) -> str:
    """Return a bound for people."""
    return "∞" if math.isinf(bound) else f"{bound:g}"


def bounds_of(found: list[list[Cell]]) -> list[float]:
    """Return all bounds of some curves, rising; policies without one have none."""
    return sorted(
        {bound_of(c) for curve in found for c in curve if c.params.get("bound") is not None}
    )


def json_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings without what is empty."""
    return {name: value for name, value in settings.items() if value not in ({}, [], None)}
