"""What is known exactly, or in closed form, of asynchronous SGD in time.

The simulator is held against these laws, and the report draws them beside what was measured.
n is the number of workers, each with one update under way; tau the staleness of an update.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def mean_staleness(workers: int, publish_every: int = 1) -> float:
    """Return the mean staleness of n workers when nothing is turned down.

    It is ``n - 1`` whatever the computing times are: each version is one update's, and while
    an update is under way the others bring all versions but its own. Publishing each p-th
    version adds ``(p - 1) / 2``.
    """
    return workers - 1 + (publish_every - 1) / 2


def staleness_distribution(workers: int, size: int) -> NDArray[np.float64]:
    """Return P(tau = 0 ... size - 1) for exponential computing times.

    Memoryless workers are equally likely to be next, so tau is geometric:
    ``P(tau = t) = (1 / n) (1 - 1 / n)^t``.
    """
    return (1 - 1 / workers) ** np.arange(size) / workers


def accepted(workers: int, max_staleness: int) -> float:
    """Return the part of the updates that a hard bound applies, for exponential times.

    While one update is under way the other workers bring a geometric number of applied
    ones, so the part a solves ``a = 1 - (a (n-1) / (1 + a (n-1)))^(max_staleness + 1)``. The
    numbers are not independent after a rejection: it is within 2 % from a bound of 7 up,
    and within 12 % at 0.
    """
    others = workers - 1

    def surplus(a: float) -> float:
        return 1 - (a * others / (1 + a * others)) ** (max_staleness + 1) - a

    low, high = 0.0, 1.0
    if not others:
        return 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if surplus(middle) > 0 else (low, middle)
    return (low + high) / 2


def throughput(workers: int, compute_s: float, service_s: float) -> float:
    """Return the updates per second of n workers and one master that serves them in turn.

    Exact mean value analysis of a closed network [1]_ with a delay station (computing) and
    one queue (the master) with exponential service: by the arrival theorem an update finds
    the queue that n - 1 workers leave on average. The knee lies at
    ``(compute_s + service_s) / service_s`` workers, the limit at ``1 / service_s``.

    References
    ----------
    .. [1] M. Reiser, S. S. Lavenberg, "Mean-value analysis of closed multichain queuing
       networks", Journal of the ACM 27(2), 1980.
    """
    queue = rate = 0.0
    for n in range(1, workers + 1):
        response_s = service_s * (1 + queue)
        rate = n / (compute_s + response_s)
        queue = rate * response_s
    return rate


def knee(compute_s: float, service_s: float) -> float:
    """Return the number of workers from which on the master is the bottleneck."""
    return (compute_s + service_s) / service_s if service_s else math.inf


def synchronous_slowdown(workers: int) -> float:
    """Return how much longer a synchronous step takes than one worker's mean: exponential times.

    The expected largest of n: the harmonic number ``H_n``.
    """
    return math.fsum(1 / k for k in range(1, workers + 1))


def momentum(workers: int) -> float:
    """Return the implicit momentum of asynchronous SGD with exponential times, ``1 - 1/n``.

    In expectation ``x_{k+2} - x_{k+1} = (1 - 1/n) (x_{k+1} - x_k) - (lr / n) g(x_{k+1})`` [1]_.

    References
    ----------
    .. [1] I. Mitliagkas, C. Zhang, S. Hadjis, C. Re, "Asynchrony begets momentum, with an
       application to deep learning", Allerton 2016, arXiv:1605.09774.
    """
    return 1 - 1 / workers


def stable_rate(curvature: float, staleness: int) -> float:
    """Return the largest stable learning rate at constant staleness, without momentum.

    ``x_{k+1} = x_k - lr L x_{k-tau}`` is stable for
    ``lr L < 2 sin(pi / (2 (2 tau + 1)))``.
    """
    return 2 * math.sin(math.pi / (2 * (2 * staleness + 1))) / curvature


def publish_every(
    workers: int, updates_per_s: float, version_bytes: float, out_bytes_s: float
) -> int:
    """Return the smallest p for which the master's card can send each p-th version to all."""
    return max(1, math.ceil(workers * version_bytes * updates_per_s / out_bytes_s))
