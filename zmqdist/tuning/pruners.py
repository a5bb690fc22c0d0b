"""When to give a trial up: pure rules on times and reported values.

A trial is compared with its rivals: trials that differ from it only in the parameters
`over`, so with the same seed, the same delays and the same order of the data. The step of a
report is time, virtual or wall. Rules look at time, never at counts of updates, which policies
reach at very different speeds. None prunes in the first tenth of the budget: who is ahead
there says little, since a large learning rate or a large bound often starts badly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from zmqdist.errors import ConfigError
from zmqdist.tuning.trial import FrozenTrial, TrialState


class Pruner:
    """Base of all pruners: prunes nothing."""

    def prune(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
        """Decide whether to give up a running trial.

        Parameters
        ----------
        trial : FrozenTrial
            The one under way.
        trials : sequence of FrozenTrial
            All of the study.
        """
        return False


class _TimedPruner(Pruner):
    def __init__(self, budget_s: float, *, over: Sequence[str], grace: float) -> None:
        if not (budget_s > 0 and math.isfinite(budget_s)):
            raise ConfigError(f"budget_s is {budget_s!r}; expected seconds > 0")
        if not 0.1 <= grace < 1:
            raise ConfigError(
                f"grace is {grace!r}; expected a part of the budget, from 0.1 to below 1"
            )
        self.budget_s, self.over, self.grace = budget_s, tuple(over), grace

    def _rivals(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        key = trial.key(self.over)
        return [
            other
            for other in trials
            if other.number != trial.number and other.key(self.over) == key
        ]


class LateTrialPruner(_TimedPruner):
    """Give up a trial that has taken `factor` times as long as a rival's whole way.

    For studies whose value is a time to target. Loses nothing: the trial could only end with
    a value more than `factor` times the rival's.

    Parameters
    ----------
    budget_s : float
        Time that a trial may take, in seconds.
    over : sequence of str
        Parameters in which rivals differ.
    factor : float, default=3.0
        Times a rival's value; > 1.
    grace : float, default=0.1
        Part of the budget in which nothing is pruned.
    """

    def __init__(
        self, budget_s: float, *, over: Sequence[str], factor: float = 3.0, grace: float = 0.1
    ) -> None:
        super().__init__(budget_s, over=over, grace=grace)
        if not factor > 1:
            raise ConfigError(f"factor is {factor!r}; expected a number > 1")
        self.factor = factor

    def prune(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
        """Compare the time taken with the rivals' times to the target."""
        now = max(trial.intermediate_values, default=0.0)
        if now <= self.grace * self.budget_s:
            return False
        reached = [
            other.value
            for other in self._rivals(trial, trials)
            if other.state is TrialState.COMPLETE and other.value is not None
        ]
        return now > self.factor * min(reached, default=math.inf)


class SuccessiveHalvingPruner(_TimedPruner):
    """Give up a trial that is not among the best ``1 / eta`` of its rivals at a rung.

    Rungs are times: ``budget_s / eta**k``, down to `grace` of the budget. A trial passes a rung
    if its best value until then is among the best ``max(1, m // eta)`` of the m trials that
    got there, itself included; a rival that finished earlier with a finite value got there
    with its best one. This is the asynchronous rule of [1]_.

    Parameters
    ----------
    budget_s : float
        Time that a trial may take, in seconds.
    over : sequence of str
        Parameters in which rivals differ.
    eta : int, default=3
        >= 2.
    grace : float, default=0.1
        Part of the budget in which nothing is pruned.

    References
    ----------
    .. [1] L. Li et al., "A system for massively parallel hyperparameter tuning", MLSys 2020,
       arXiv:1810.05934: ASHA.
    """

    def __init__(
        self, budget_s: float, *, over: Sequence[str], eta: int = 3, grace: float = 0.1
    ) -> None:
        super().__init__(budget_s, over=over, grace=grace)
        if eta < 2:
            raise ConfigError(f"eta is {eta!r}; expected an integer >= 2")
        self.eta = eta

    def rungs(self) -> list[float]:
        """Return the times of the rungs in seconds, first to last."""
        count = int(math.log(1 / self.grace) / math.log(self.eta) + 1e-9)
        return [self.budget_s / self.eta**k for k in range(count, 0, -1)]

    def prune(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
        """Look at the last rung that the trial has reached."""
        steps = sorted(trial.intermediate_values)
        passed = [rung for rung in self.rungs() if steps and rung <= steps[-1]]
        if not passed or (len(steps) > 1 and steps[-2] >= passed[-1]):
            return False  # on no rung, or judged on this one before
        rung = passed[-1]
        own, *rivals = (_best_until(other, rung) for other in [trial, *self._rivals(trial, trials)])
        there = sorted(value for value in [own, *rivals] if value is not None)
        return own is not None and own > there[max(1, len(there) // self.eta) - 1]


def _best_until(trial: FrozenTrial, rung: float) -> float | None:
    """Return the best value reported up to a rung, None for a trial that never got there."""
    steps = trial.intermediate_values
    if max(steps, default=0.0) < rung:
        if not steps or trial.state is not TrialState.COMPLETE:
            return None
        if trial.value is None or not math.isfinite(trial.value):
            return math.inf
        # What reached a target is ahead of all that go on, who have not. Without a target a trial
        # that used up its data may be the worst.
    return min(value for step, value in steps.items() if step <= rung or step == min(steps))
