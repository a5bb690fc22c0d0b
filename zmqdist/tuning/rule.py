"""The one-standard-error rule for the bounds of a policy, and whether they matter at all.

After [1]_: of the bounds that are worse than the best one by no more than the standard error of
that comparison, take the simplest. That is the smallest bound for a policy that judges updates (a
late one should never arrive, so nothing is lost and stragglers do least harm), and the largest for
a policy that holds workers back (least waiting). Seeds are common to all bounds, so it is the
error of the comparison seed by seed: that of a median is mostly what seeds differ by.

A bound that fails on some seeds is not preferred to a near one that does not: those that fail
least often come first.

References
----------
.. [1] L. Breiman, J. Friedman, R. Olshen, C. Stone, "Classification and regression trees",
   1984, section 3.4.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from zmqdist.tuning.analysis import (
    Cell,
    Interval,
    best_of,
    bound_of,
    difference,
    in_common,
    ratio,
)
from zmqdist.tuning.setting import Setting, is_gate

MARGIN = 0.05
"""Part of the best median by which a bound must be worse to matter at all."""

_NEVER = 1e100
"""What stands for infinity where of two infinite middle values the mean would be NaN."""

Compare = Callable[[Sequence[float], Sequence[float]], Interval]


def choose(curve: Sequence[Cell], best: Cell, by_ratio: bool) -> Cell:
    """Apply the rule.

    Parameters
    ----------
    curve : sequence of Cell
        By rising bound.
    best : Cell
        One of them, of a finite median.
    by_ratio : bool
        Compare by ratios, for which all values are above 0, or else by differences.
    """
    reached = [cell for cell in curve if math.isfinite(cell.median)]
    found = [_excess(cell, best, by_ratio) for cell in reached]
    pairs = [in_common(cell, best) for cell in reached]
    at = _pick(
        [cell is best for cell in reached].index(True),
        [more.median for more in found],
        [_limit(more.error, _margin(best.median, by_ratio)) for more in found],
        [_failed(own) - _failed(base) for own, base in pairs],
        gate=is_gate_of(best),
    )
    return reached[at]


def simplest(curve: Sequence[Cell]) -> Cell:
    """Return the smallest bound of a policy that judges updates, the largest of a gate."""
    return curve[-1] if is_gate_of(curve[0]) else curve[0]


def is_flat(curve: Sequence[Cell], by_ratio: bool) -> bool | None:
    """Say whether the bounds make no difference.

    True if each is shown to be within `MARGIN` of the best, False if one is shown to be more than
    that worse, None if neither is.
    """
    best = best_of(curve)
    if len(curve) < 2 or math.isinf(best.median):
        return None
    margin = _margin(best.median, by_ratio)
    found = [_excess(cell, best, by_ratio) for cell in curve if cell is not best]
    if any(more.tells and more.low > margin for more in found):
        return False
    alike = all(more.tells and -margin <= more.low and more.high <= margin for more in found)
    return True if alike else None


def flat_from(curve: Sequence[Cell], by_ratio: bool) -> float | None:
    """Return the smallest bound but the first from which on they are flat, None without any."""
    start = len(curve) - 1
    while start > 0 and is_flat(curve[start - 1 :], by_ratio):
        start -= 1
    return bound_of(curve[start]) if 0 < start < len(curve) - 1 else None


def stability(curve: Sequence[Cell], chosen: Cell, by_ratio: bool, resamples: int = 1000) -> float:
    """Return how often resampled seeds, the same for all bounds, lead to the same choice."""
    seeds = sorted(set.intersection(*(set(cell.by_seed) for cell in curve)))
    if len(seeds) < 2:
        return math.nan
    table = np.array([[cell.by_seed[seed] for seed in seeds] for cell in curve])
    drawn = np.random.default_rng(0).integers(len(seeds), size=(resamples, len(seeds)))
    failed = np.isinf(table)[:, drawn].mean(axis=2).T
    medians = np.median(np.minimum(table, _NEVER)[:, drawn], axis=2).T
    excess = [
        medians / medians[:, [best]] - 1 if by_ratio else medians - medians[:, [best]]
        for best in range(len(curve))
    ]
    # These resamples have the errors too; a bootstrap for each pair of bounds would take long.
    errors = [np.std(more, axis=0) for more in excess]
    gate, same = is_gate_of(chosen), 0
    for row, (column, parts) in enumerate(zip(medians, failed, strict=True)):
        best = int(np.argmin(column))
        margin = _margin(column[best], by_ratio)
        limits = [_limit(error, margin) for error in errors[best]]
        at = _pick(best, excess[best][row], limits, parts - parts[best], gate=gate)
        same += curve[at] is chosen
    return same / resamples


def paired(compare: Compare, cell: Cell, base: Cell) -> Interval:
    """Compare two cells by the seeds that both have."""
    own, others = in_common(cell, base)
    return compare(own, others) if own else Interval(math.nan)


def is_gate_of(cell: Cell) -> bool:
    """Whether a cell's policy holds workers back, rather than judging their updates."""
    return is_gate(Setting.of({**cell.params, "seed": 0}).policy)


def _excess(cell: Cell, best: Cell, by_ratio: bool) -> Interval:
    """Return by how much a cell is worse than the best one; as a part of it, if by ratio."""
    if not by_ratio:
        return paired(difference, cell, best)
    found = paired(ratio, cell, best)
    return replace(found, median=found.median - 1, low=found.low - 1, high=found.high - 1)


def _margin(best: float, by_ratio: bool) -> float:
    return MARGIN * (1 if by_ratio else abs(best))


def _limit(error: float, margin: float) -> float:
    """Return by how much a bound may be worse than the best one."""
    if error > math.sqrt(_NEVER):  # for failures alone: it says nothing of what did not fail
        return margin
    return 0.0 if math.isnan(error) else error


def _pick(best: int, excess: Any, limits: Sequence[float], failed: Any, *, gate: bool) -> int:
    """Return which bound the rule takes, of those that fail least often if not all do alike."""
    pairs = enumerate(zip(excess, limits, strict=True))
    near = [at for at, (more, limit) in pairs if at == best or more <= limit]
    least = min(failed[at] for at in near)
    near = [at for at in near if failed[at] == least]
    return near[-1] if gate else near[0]


def _failed(values: Sequence[float]) -> float:
    return sum(map(math.isinf, values)) / len(values) if values else 0.0
