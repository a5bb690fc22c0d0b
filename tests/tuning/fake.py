"""A backend with a known answer: time to the target by formula, no simulator and no clock."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from zmqdist.tuning.outcome import Outcome, Point, Watch
from zmqdist.tuning.problems import Problem
from zmqdist.tuning.setting import UNBOUNDED, Setting


def bowl() -> Problem:
    """Return a problem that only the fake backend solves."""
    nothing: Any = None
    return Problem(nothing, nothing, nothing, nothing, curvature=1.0)


class FakeBackend:
    """Losses fall exponentially; the best bound is 4, the best rate shrinks with the bound.

    A rate above ``2 / (1 + staleness)`` diverges. Small bounds reject, large ones are stale.
    Losses end at `lowest`. `own_noise` differs between bounds too, `noise` between seeds only.
    """

    def __init__(
        self,
        *,
        noise: float = 0.05,
        effect: float = 1.0,
        service_s: float | None = 0.01,
        lowest: float = 0.0,
        own_noise: float = 0.0,
    ) -> None:
        self.own_noise = own_noise
        self.noise, self.effect, self.service_s, self.lowest = noise, effect, service_s, lowest
        self.runs: list[Setting] = []

    def run(
        self,
        problem: Problem,
        setting: Setting,
        *,
        budget_s: float,
        evaluate_every_s: float,
        watch: Watch,
    ) -> Outcome:
        self.runs.append(setting)
        rng = np.random.default_rng(setting.seed)
        bound = min(getattr(setting.policy, "max_staleness", UNBOUNDED), UNBOUNDED)
        n = setting.workers
        mean_tau = min(n - 1, bound / 2)
        stable = setting.lr * (mean_tau + 0.5) < math.pi / 2
        rate = n * (1 - self.effect / (2 + bound)) / (1 + 0.01 * n)
        needed = 100 * (1 + self.effect * mean_tau / 4) * (1 + math.log(setting.lr / 0.1) ** 2)
        scale = needed / rate * math.exp(self.noise * rng.normal())
        if self.own_noise:
            own = np.random.default_rng([setting.seed, int(bound)])
            scale *= math.exp(self.own_noise * own.normal())
        accepted = 1 - self.effect / (2 + bound)
        outcome = Outcome(service_s=self.service_s, cycle_s=1.0)
        time = 0.0
        while time <= budget_s:
            diverging = math.exp(time) if time < 20 else math.inf
            loss = self.lowest + 2.3 * (math.exp(-2 * time / scale) if stable else diverging)
            applied = round(time * rate)
            computed = round(applied / accepted) * setting.chunk
            point = Point(time, applied, applied * setting.chunk, computed, loss)
            outcome.curve.append(point)
            outcome.seconds, outcome.applied = time, applied
            if (reason := watch(point)) is not None:
                outcome.ended = reason
                break
            time += evaluate_every_s
        outcome.version = outcome.applied
        outcome.rejected = round(outcome.applied / accepted) - outcome.applied
        taus = np.minimum(rng.geometric(1 / (1 + mean_tau), size=500) - 1, bound)
        found, counts = np.unique(taus, return_counts=True)
        outcome.staleness = dict(zip(found.tolist(), counts.tolist(), strict=True))
        outcome.waits_s = {"compute": 0.8 * time * n, "gate": 0.0, "answer": 0.1 * time * n}
        share = outcome.applied * setting.chunk // n
        outcome.by_partition = [share + 3 * i for i in range(n)]
        return outcome

    def close(self) -> None:
        pass
