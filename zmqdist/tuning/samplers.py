"""Which setting to try next: a grid, or successive halving over it.

A sampler is pure: it sees the trials so far and answers with a setting, so a study goes on
where it stopped with nothing but its trials.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from zmqdist.errors import ConfigError
from zmqdist.tuning.trial import FrozenTrial, Params, TrialState, key_of

SEED = "seed"
"""The parameter that repeats a setting with other random numbers."""


def product_of(axes: Mapping[str, Sequence[Any]]) -> list[Params]:
    """Return all combinations of the axes' values, the last axis changing fastest."""
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


class GridSampler:
    """Every setting with every seed; all settings with one seed before the next seed.

    Parameters
    ----------
    settings : iterable of dict
        The settings, without their seed; `product_of` makes them from axes.
    seeds : sequence of int, default=(0,)
        Each setting is tried once with each; the trial's parameter ``seed``.

    Raises
    ------
    ConfigError
        If there is nothing to try, or something twice.
    """

    def __init__(self, settings: Iterable[Params], seeds: Sequence[int] = (0,)) -> None:
        self.settings = list(settings)
        self.seeds = tuple(seeds)
        if not self.settings or not self.seeds:
            raise ConfigError("the grid is empty: each axis needs at least one value")
        if len({key_of(setting) for setting in self.settings}) < len(self.settings):
            raise ConfigError("the grid has the same setting twice")
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"the grid has a seed twice: {list(self.seeds)}")

    @property
    def size(self) -> int:
        """Most trials that will be asked for."""
        return len(self.settings) * len(self.seeds)

    def next(self, trials: Sequence[FrozenTrial]) -> Params | None:
        """Return the next setting to try, None when all were.

        Parameters
        ----------
        trials : sequence of FrozenTrial
            All trials so far, in any state. A setting that one of them has is not tried
            again, whatever came of it.
        """
        known = {trial.key() for trial in trials}
        for seed, setting in product(self.seeds, self.settings):
            params = {**setting, SEED: seed}
            if key_of(params) not in known:
                return params
        return None


class HalvingSampler(GridSampler):
    """Successive halving: few seeds for all settings, more seeds for the better ones.

    Settings compete that differ only in the parameters `over`; so each bound keeps its own
    best learning rate while the curve over the bounds stays whole. All are tried with one
    seed, the best ``1 / eta`` of each competition with ``eta`` seeds, and so on to all seeds.

    Parameters
    ----------
    over : sequence of str
        The parameters among whose values there is competition.
    eta : int, default=3
        Part of the settings that survives, and factor on the seeds; >= 2.

    Raises
    ------
    ConfigError
        If `over` names no parameter, or `eta` is below 2.

    References
    ----------
    .. [1] K. Jamieson, A. Talwalkar, "Non-stochastic best arm identification and
       hyperparameter optimization", AISTATS 2016, arXiv:1502.07943: successive halving. Here
       the budget of a setting is its number of seeds.
    """

    def __init__(
        self,
        settings: Iterable[Params],
        seeds: Sequence[int] = (0,),
        *,
        over: Sequence[str],
        eta: int = 3,
    ) -> None:
        super().__init__(settings, seeds)
        self.over, self.eta = tuple(over), eta
        if eta < 2:
            raise ConfigError(f"eta is {eta!r}; expected an integer >= 2")
        unknown = set(over) - {name for setting in self.settings for name in setting}
        if unknown or not over:
            raise ConfigError(f"over is {list(over)}; expected parameters of the grid")

    def next(self, trials: Sequence[FrozenTrial]) -> Params | None:
        """Return the next setting to try, None when the finalists have all their seeds."""
        by_key = {trial.key(): trial for trial in trials}
        standing: dict[str, list[Params]] = {}
        for setting in self.settings:
            standing.setdefault(key_of(setting, self.over), []).append(setting)
        for n_seeds in self.rungs():
            seeds = self.seeds[:n_seeds]
            for seed, group in product(seeds, standing.values()):
                for setting in group:
                    params = {**setting, SEED: seed}
                    if key_of(params) not in by_key:
                        return params
            standing = {key: self._best(group, seeds, by_key) for key, group in standing.items()}
        return None

    def rungs(self) -> list[int]:
        """Return the numbers of seeds that settings get, rung after rung."""
        counts = [1]
        while counts[-1] < len(self.seeds):
            counts.append(min(len(self.seeds), counts[-1] * self.eta))
        return counts

    def _best(
        self, group: list[Params], seeds: Sequence[int], trials: Mapping[str, FrozenTrial]
    ) -> list[Params]:
        def rank(setting: Params) -> tuple[float, float]:
            tried = [trials[key_of({**setting, SEED: seed})] for seed in seeds]
            return (
                statistics.median(_value(trial) for trial in tried),
                statistics.median(trial.last_value for trial in tried),
            )

        return sorted(group, key=rank)[: math.ceil(len(group) / self.eta)]


def _value(trial: FrozenTrial) -> float:
    """Return the value to rank by: what has none ranks last."""
    if trial.state is not TrialState.COMPLETE or trial.value is None:
        return math.inf
    return trial.value
