"""Which setting to use, and how sure that is.

The one-standard-error rule of [1]_: of the bounds whose median lies within one standard error
of the best one, take the simplest. That is the smallest bound for a policy that judges
updates (a late one should never arrive, so nothing is lost and stragglers do least harm), and
the largest for a policy that holds workers back (least waiting).

References
----------
.. [1] L. Breiman, J. Friedman, R. Olshen, C. Stone, "Classification and regression trees",
   1984, section 3.4.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from zmqdist.errors import StudyError
from zmqdist.tuning.analysis import (
    Cell,
    Interval,
    best_over,
    bound_of,
    cells,
    curves,
    difference,
    in_common,
    ratio,
)
from zmqdist.tuning.scaling import Scaling
from zmqdist.tuning.setting import Setting, is_gate
from zmqdist.tuning.trial import FrozenTrial

MARGIN = 0.05
"""Part of the best median by which a bound must be worse to matter at all."""

Compare = Callable[[Sequence[float], Sequence[float]], Interval]


@dataclass(frozen=True)
class Rival:
    """A setting next to the recommended one.

    Attributes
    ----------
    cell : Cell
    ratio : Interval
        Its value over that of the recommended one, paired by seed; NaN if some value of the
        study is not above 0, as ratios mean nothing then.
    difference : Interval
        Its value less that of the recommended one, paired by seed.
    """

    cell: Cell
    ratio: Interval
    difference: Interval


@dataclass(frozen=True)
class Recommendation:
    """What to use.

    Attributes
    ----------
    cell : Cell
        The setting recommended.
    interval : Interval
        Of its value.
    curve : list of Cell
        All bounds of its policy, each at its best learning rate, by rising bound.
    flat : bool
        No bound is shown to be more than `MARGIN` worse than the best: no effect.
    flat_from : float or None
        The bound from which on larger ones make no difference, if some smaller one does.
    chosen : float
        Part of the resampled sets of seeds that give the same recommendation.
    rivals : list of Rival
        Other bounds, and the best of the other policies.
    scaling : Scaling or None
        How the time changes with the number of workers, if that can be said.
    """

    cell: Cell
    interval: Interval
    curve: list[Cell]
    flat: bool
    flat_from: float | None
    chosen: float
    rivals: list[Rival] = field(default_factory=list)
    scaling: Scaling | None = None


def recommend(
    trials: Sequence[FrozenTrial], over: Sequence[str] = ("lr",), scaling: Scaling | None = None
) -> Recommendation:
    """Judge the trials of a study.

    Parameters
    ----------
    trials : sequence of FrozenTrial
    over : sequence of str
        As of `zmqdist.tuning.HalvingSampler`.
    scaling : Scaling, optional
        Passed on.

    Raises
    ------
    StudyError
        No setting reached the target with half of its seeds; says what the trials did.
    """
    found = cells(trials)
    every_curve = curves(found, over)
    if not any(math.isfinite(cell.median) for curve in every_curve for cell in curve):
        raise StudyError(why_none(found))
    curve = min(every_curve, key=lambda c: min(cell.median for cell in c))
    errors = [cell.interval().error for cell in curve]
    by_ratio = all(value > 0 for cell in found for value in cell.values)
    flat = _is_flat(curve, by_ratio)
    chosen = _by_rule(curve, [cell.median for cell in curve], errors)
    if flat:
        chosen = _simplest(curve)
    others = [min(c, key=lambda cell: cell.median) for c in every_curve if c is not curve]
    return Recommendation(
        cell=chosen,
        interval=chosen.interval(),
        curve=curve,
        flat=flat,
        flat_from=_flat_from(curve),
        chosen=_stability(curve, chosen, errors),
        rivals=[
            Rival(
                cell,
                _paired(ratio, cell, chosen) if by_ratio else Interval(math.nan),
                _paired(difference, cell, chosen),
            )
            for cell in [*curve, *sorted(others, key=lambda cell: cell.median)]
            if cell is not chosen
        ],
        scaling=scaling,
    )


def why_none(found: Sequence[Cell]) -> str:
    """Say why no setting can be recommended."""
    trials = [trial for cell in found for trial in cell.trials]
    if not trials:
        return "no trial has come to an end yet: nothing to recommend"
    ends: dict[str, int] = {}
    for trial in trials:
        end = str(trial.user_attrs.get("ended", "unknown"))
        ends[end] = ends.get(end, 0) + 1
    if ends == {"diverged": len(trials)}:
        rates = sorted({trial.params.get("lr", math.nan) for trial in trials})
        return (
            f"all {len(trials)} trials diverged: no setting can be recommended. The learning rates "
            f"were {rates[0]:g} to {rates[-1]:g}; try smaller ones, for instance from "
            f"{rates[0] / 100:g} to {rates[0]:g}"
        )
    best = min(trial.last_value for trial in trials)
    text = ", ".join(f"{count} ended by {end}" for end, count in sorted(ends.items()))
    return (
        f"no setting reached the target with at least half of its seeds ({text}): none can be "
        f"recommended. The lowest loss at the end of a trial was {best:g}; raise the target, "
        "raise budget_s, or try other learning rates"
    )


def best_by_workers(trials: Sequence[FrozenTrial], over: Sequence[str] = ("lr",)) -> list[Cell]:
    """Return the best cell for each number of workers, by rising number."""
    axes = ("policy", "bound", "chunk", "merge", *over)
    best = best_over(cells(trials), axes)
    return sorted(best, key=lambda cell: int(cell.params["workers"]))


def _by_rule(curve: Sequence[Cell], medians: Sequence[float], errors: Sequence[float]) -> Cell:
    """Apply the one-standard-error rule to a curve with these medians."""
    at = int(np.argmin(medians))
    limit = medians[at] + (errors[at] if math.isfinite(errors[at]) else 0.0)
    near = [cell for cell, value in zip(curve, medians, strict=True) if value <= limit]
    return _simplest(near)


def _simplest(near: Sequence[Cell]) -> Cell:
    """Return the smallest bound of a policy that judges updates, the largest of a gate."""
    gate = is_gate(Setting.of({**near[0].params, "seed": 0}).policy)
    return near[-1] if gate else near[0]


def _paired(compare: Compare, cell: Cell, base: Cell) -> Interval:
    """Compare two cells by the seeds that both have."""
    own, others = in_common(cell, base)
    return compare(own, others) if own else Interval(math.nan)


def _is_flat(curve: Sequence[Cell], by_ratio: bool) -> bool:
    """Whether no bound is shown to be worse than the best one."""
    best = min(curve, key=lambda cell: cell.median)
    return len(curve) > 1 and not any(_is_worse(cell, best, by_ratio) for cell in curve)


def _is_worse(cell: Cell, best: Cell, by_ratio: bool) -> bool:
    if math.isinf(cell.median):
        return True
    against = _paired(ratio if by_ratio else difference, cell, best)
    low = against.median if math.isnan(against.low) else against.low
    return low > (1 + MARGIN if by_ratio else MARGIN * abs(best.median))


def _flat_from(curve: Sequence[Cell]) -> float | None:
    """Return the smallest bound from which on all medians lie within `MARGIN`."""
    start = None
    for at in range(len(curve) - 2, -1, -1):
        tail = [cell.median for cell in curve[at:]]
        if not math.isfinite(max(tail)) or max(tail) - min(tail) > MARGIN * abs(min(tail)):
            break
        start = at
    return None if not start else bound_of(curve[start])


def _stability(
    curve: Sequence[Cell], chosen: Cell, errors: Sequence[float], resamples: int = 1000
) -> float:
    """Return how often resampled seeds, the same for all bounds, lead to the same choice."""
    seeds = sorted(set.intersection(*(set(cell.by_seed) for cell in curve)))
    if len(seeds) < 2:
        return math.nan
    table = np.array([[cell.by_seed[seed] for seed in seeds] for cell in curve])
    table[np.isinf(table)] = 1e100  # of two infinite middle values the mean would be NaN
    drawn = np.random.default_rng(0).integers(len(seeds), size=(resamples, len(seeds)))
    medians = np.median(table[:, drawn], axis=2)
    picked = [_by_rule(curve, column, errors) for column in medians.T.tolist()]
    return sum(cell is chosen for cell in picked) / resamples
