"""Settings judged over their seeds: medians, intervals, the curve over the bounds.

A trial that diverged, missed its target or was pruned counts as infinite. Medians and
percentiles are meant for that: half of the seeds may fail before a median does. Seeds are
common to all settings, so settings are compared seed by seed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zmqdist.errors import ConfigError
from zmqdist.tuning.samplers import SEED
from zmqdist.tuning.trial import FrozenTrial, Params, TrialState, key_of

RESAMPLES = 2000
"""Bootstrap resamples of an interval."""

FEW_SEEDS = 5
"""Below so many seeds nothing is told from an interval; the true median is in that of 3 in 75 %."""

_NEVER = 1e100
"""What stands for infinity in the bootstrap, whose interpolation would make NaN of it."""


@dataclass(frozen=True)
class Interval:
    """A median with its bootstrap interval and standard error.

    Attributes
    ----------
    median : float
    low, high : float
        95 % of the resampled medians lie between them; with less than `FEW_SEEDS` seeds the
        smallest and the largest value; NaN for a single seed.
    error : float
        Standard deviation of the resampled medians; NaN for a single seed.
    seeds : int
        How many it is from.
    """

    median: float
    low: float = math.nan
    high: float = math.nan
    error: float = math.nan
    seeds: int = 1

    @property
    def tells(self) -> bool:
        """Whether its ends say something about other seeds."""
        return self.seeds >= FEW_SEEDS

    @property
    def kind(self) -> str | None:
        """What lies between the ends; None for a single seed."""
        return "95 % interval" if self.tells else "range" if self.seeds > 1 else None


@dataclass(frozen=True)
class Cell:
    """A setting with the trials of its seeds.

    Attributes
    ----------
    params : dict
        The setting, without its seed.
    trials : tuple of FrozenTrial
        Those that came to an end: complete or pruned, by seed.
    """

    params: Params
    trials: tuple[FrozenTrial, ...]

    @property
    def key(self) -> str:
        """The same for equal settings."""
        return key_of(self.params)

    @property
    def values(self) -> list[float]:
        """The value of each seed; ``inf`` for one that was pruned."""
        return [math.inf if t.value is None else t.value for t in self.trials]

    @property
    def by_seed(self) -> dict[int, float]:
        """The values by seed."""
        return {
            t.params.get(SEED, 0): value for t, value in zip(self.trials, self.values, strict=True)
        }

    @property
    def median(self) -> float:
        """Median value."""
        return statistics.median(self.values)

    def count(self, ended: str) -> int:
        """Return how many trials ended so: ``diverged``, ``budget``, ``pruned`` ..."""
        return sum(trial.user_attrs.get("ended") == ended for trial in self.trials)

    def median_of(self, fact: str) -> float:
        """Return the median of a fact (`zmqdist.tuning.objective.facts`) over the seeds."""
        found = self.by_seed_of(fact).values()
        return statistics.median(found) if found else math.nan

    def by_seed_of(self, fact: str) -> dict[int, float]:
        """Return a fact by seed, of the trials that have it."""
        return {
            t.params.get(SEED, 0): t.user_attrs[fact] for t in self.trials if fact in t.user_attrs
        }

    def interval(self) -> Interval:
        """Return the median with its interval."""
        return interval(self.values)


def cells(trials: Iterable[FrozenTrial]) -> list[Cell]:
    """Group what came to an end by setting, in order of appearance."""
    groups: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            groups.setdefault(key_of(trial.params, (SEED,)), []).append(trial)
    return [
        Cell(
            {name: value for name, value in group[0].params.items() if name != SEED},
            tuple(sorted(group, key=lambda trial: trial.params.get(SEED, 0))),
        )
        for group in groups.values()
    ]


def best_over(found: Iterable[Cell], over: Sequence[str]) -> list[Cell]:
    """Return the best cell of each competition.

    Of settings with most seeds that is the lowest median; one with fewer seeds is better if its
    median is lower on the seeds that both have.

    Parameters
    ----------
    found : iterable of Cell
    over : sequence of str
        Parameters whose values compete.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in found:
        groups.setdefault(key_of(cell.params, tuple(over)), []).append(cell)
    return [best_of(group) for group in groups.values()]


def best_of(group: Sequence[Cell]) -> Cell:
    """Return the best of some cells, as `best_over` does."""
    best, *rest = sorted(group, key=lambda cell: (-len(cell.trials), cell.median, _last(cell)))
    for cell in rest:
        # Who lost a rung of halving lost it on these very seeds, so finalists keep their place.
        own, base = in_common(cell, best)
        if own and statistics.median(own) < statistics.median(base):
            best = cell
    return best


def in_common(cell: Cell, base: Cell) -> tuple[list[float], list[float]]:
    """Return the values of two cells for the seeds that both have, in the same order."""
    common = [seed for seed in base.by_seed if seed in cell.by_seed]
    return [cell.by_seed[seed] for seed in common], [base.by_seed[seed] for seed in common]


def curves(found: Iterable[Cell], over: Sequence[str]) -> list[list[Cell]]:
    """Return for each way to set all but the bound the best cells, by rising bound."""
    groups: dict[str, list[Cell]] = {}
    for cell in best_over(found, over):
        groups.setdefault(key_of(cell.params, ("bound", *over)), []).append(cell)
    return [sorted(group, key=bound_of) for group in groups.values()]


def bound_of(cell: Cell) -> float:
    """Return a cell's bound; ``inf`` for a policy that has none."""
    bound = cell.params.get("bound")
    return math.inf if bound is None else float(bound)


def interval(values: Sequence[float]) -> Interval:
    """Return the median of some values with its percentile bootstrap interval, or their range.

    References
    ----------
    .. [1] B. Efron, R. Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
    """
    median = statistics.median(values)
    if len(values) < 2:
        return Interval(median)
    return _with_ends(median, (_finite(values),), _median)


def ratio(values: Sequence[float], base: Sequence[float]) -> Interval:
    """Return the ratio of two settings' medians, with seeds resampled for both together.

    Parameters
    ----------
    values, base : sequence of float
        Values of the same seeds in the same order; those of `base` above 0.
    """
    return _compared(values, base, _ratio_of_medians)


def difference(values: Sequence[float], base: Sequence[float]) -> Interval:
    """Return the difference of two settings' medians, with seeds resampled for both together.

    Parameters
    ----------
    values, base : sequence of float
        Values of the same seeds in the same order.
    """
    return _compared(values, base, _difference_of_medians)


def _compared(values: Sequence[float], base: Sequence[float], statistic: Any) -> Interval:
    sides = (_finite(values), _finite(base))
    estimate = _restored(float(statistic(*sides)))
    if len(values) < 2:
        return Interval(estimate)
    return _with_ends(estimate, sides, statistic)


def _with_ends(estimate: float, samples: tuple[Any, ...], statistic: Any) -> Interval:
    low, high, error = _bootstrap(samples, statistic)
    seeds = len(samples[0])
    if seeds < FEW_SEEDS:
        each = statistic(*(sample[:, np.newaxis] for sample in samples))  # of one seed alone
        low, high = _restored(each.min()), _restored(each.max())
    return Interval(estimate, low, high, error, seeds)


def _median(values: Any, axis: int = -1) -> Any:
    return np.median(values, axis=axis)


def _ratio_of_medians(values: Any, base: Any, axis: int = -1) -> Any:
    return np.median(values, axis=axis) / np.median(base, axis=axis)


def _difference_of_medians(values: Any, base: Any, axis: int = -1) -> Any:
    return np.median(values, axis=axis) - np.median(base, axis=axis)


def _bootstrap(samples: tuple[Any, ...], statistic: Any) -> tuple[float, float, float]:
    """Return the interval's ends and the standard error."""
    if all(np.ptp(sample) == 0 for sample in samples):
        same = _restored(float(statistic(*samples)))
        return same, same, 0.0
    try:
        from scipy.stats import bootstrap
    except ImportError:
        raise ConfigError("intervals need scipy: pip install 'zmqdist[tune]'") from None
    with np.errstate(over="ignore"):
        found = bootstrap(
            samples,
            statistic,
            paired=len(samples) > 1,
            vectorized=True,
            n_resamples=RESAMPLES,
            method="percentile",
            random_state=np.random.default_rng(0),
        )
    # Those of scipy.stats may lie beyond two equal medians that they are interpolated between.
    low, high = np.quantile(found.bootstrap_distribution, [0.025, 0.975])
    return _restored(low), _restored(high), _restored(found.standard_error)


def _finite(values: Sequence[float]) -> Any:
    return np.minimum(np.asarray(values, float), _NEVER)


def _restored(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) > math.sqrt(_NEVER) else float(value)


def _last(cell: Cell) -> float:
    return statistics.median(trial.last_value for trial in cell.trials)
