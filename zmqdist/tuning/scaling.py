"""How many workers are worth paying for: a queue for the updates per second, a law for how many.

Time to the target is updates needed over updates per second. More workers make more updates
per second until the master is busy all the time, and need more updates, since each is
computed on an older model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zmqdist.tuning.theory import throughput

EFFICIENT = 0.5
"""Speed-up per worker below which workers are not worth their cost."""


@dataclass(frozen=True)
class Scaling:
    """A fitted model of the time to the target against the number of workers.

    Attributes
    ----------
    offset, slope : float
        Updates needed with n workers are ``(offset + slope sqrt(n)) ** 2``; see `fit`.
    cycle_s, service_s : float
        As in `throughput`.
    """

    offset: float
    slope: float
    cycle_s: float
    service_s: float

    @property
    def noise(self) -> float:
        """The noise scale sigma^2 / eps: how many updates' noise equals their signal."""
        return (self.offset / self.slope) ** 2 if self.slope > 0 else math.inf

    def updates(self, workers: int) -> float:
        """Return the updates needed to the target."""
        return (self.offset + self.slope * math.sqrt(workers)) ** 2

    def rate(self, workers: int) -> float:
        """Return the updates per second."""
        return throughput(workers, self.cycle_s, self.service_s)

    def seconds(self, workers: int) -> float:
        """Return the time to the target."""
        return self.updates(workers) / self.rate(workers)

    def speed_up(self, workers: int) -> float:
        """Return how many times faster than one worker."""
        return self.seconds(1) / self.seconds(workers)

    @property
    def worth(self) -> int:
        """Largest number of workers with a speed-up of at least half of it each."""
        n = 1
        while self.speed_up(2 * n) >= EFFICIENT * 2 * n and n < 2**20:
            n *= 2
        low, high = n, 2 * n
        while high - low > 1:
            middle = (low + high) // 2
            if self.speed_up(middle) >= EFFICIENT * middle:
                low = middle
            else:
                high = middle
        return low


def fit(
    workers: Sequence[int],
    updates: Sequence[float],
    cycle_s: float,
    service_s: float,
) -> Scaling | None:
    """Fit the updates needed at several numbers of workers; None if nothing can be said.

    For n equal workers the time to a gradient norm of eps grows as
    ``h (1 + sigma / sqrt(n eps)) ** 2`` with h the time of a gradient, sigma^2 the variance of the
    gradient: the time of Ringmaster ASGD [1]_ with the threshold that is best for n. With a
    rate of ``n / h`` that makes ``(sqrt(n) + sqrt(sigma^2 / eps)) ** 2`` updates but for a
    factor, so their square root is a straight line in ``sqrt(n)``.

    Parameters
    ----------
    workers : sequence of int
        At least two different numbers.
    updates : sequence of float
        Updates needed with each; infinite ones are left out.
    cycle_s, service_s : float
        As in `throughput`.

    References
    ----------
    .. [1] A. Maranjyan, A. Tyurin, P. Richtarik, "Ringmaster ASGD: the first
       asynchronous SGD with optimal time complexity", arXiv:2501.16168.
    """
    known = [(n, u) for n, u in zip(workers, updates, strict=True) if math.isfinite(u) and u > 0]
    if len({n for n, _ in known}) < 2:
        return None
    root_n, root_u = np.sqrt(np.array(known, float).T)
    slope, offset = np.polyfit(root_n, root_u, 1)
    if slope <= 0:  # within what was tried, more workers needed no more updates
        slope, offset = 0.0, root_u.mean()
    elif offset < 0:
        slope, offset = float(root_n @ root_u / (root_n @ root_n)), 0.0
    return Scaling(float(offset), float(slope), cycle_s, service_s)
