"""Which setting to use, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from zmqdist.errors import StudyError
from zmqdist.tuning.analysis import (
    Cell,
    Interval,
    best_of,
    best_over,
    cells,
    curves,
    difference,
    ratio,
)
from zmqdist.tuning.rule import choose, flat_from, is_flat, paired, simplest, stability
from zmqdist.tuning.scaling import Scaling
from zmqdist.tuning.trial import FrozenTrial


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
    best : Cell
        The best of them.
    flat : bool or None
        As of `zmqdist.tuning.rule.is_flat`: True for no effect, None if that cannot be told.
    flat_from : float or None
        The bound from which on larger ones are shown to make no difference, if not all are.
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
    best: Cell
    flat: bool | None
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
    reached = [cell for curve in every_curve for cell in curve if math.isfinite(cell.median)]
    if not reached:
        raise StudyError(why_none(found))
    best = best_of(reached)
    (curve,) = (curve for curve in every_curve if any(cell is best for cell in curve))
    by_ratio = all(value > 0 for cell in found for value in cell.values)
    flat = is_flat(curve, by_ratio)
    chosen = simplest(curve) if flat else choose(curve, best, by_ratio)
    others = [best_of(c) for c in every_curve if c is not curve]
    return Recommendation(
        cell=chosen,
        interval=chosen.interval(),
        curve=curve,
        best=best,
        flat=flat,
        flat_from=flat_from(curve, by_ratio),
        chosen=stability(curve, chosen, by_ratio),
        rivals=[
            Rival(
                cell,
                paired(ratio, cell, chosen) if by_ratio else Interval(math.nan),
                paired(difference, cell, chosen),
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
