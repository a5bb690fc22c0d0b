"""Set-ups of published results for the simulator; each function is one point of a figure.

The data are the handwritten digits that scikit-learn carries, or a quadratic, so that a point
takes seconds. All times are virtual. `published.py` draws the figures, and the tests hold what
is claimed against these functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from zmqdist.optim import SGD, Momentum
from zmqdist.staleness import Asynchronous, Composed, Policy, SoftSync, StaleSynchronous
from zmqdist.tuning.cluster import Cluster
from zmqdist.tuning.delays import Constant, Delay, Exponential, Gamma, Lognormal, Straggler
from zmqdist.tuning.observer import Simulated
from zmqdist.tuning.problems import Problem, classification, quadratic, tridiagonal
from zmqdist.tuning.simulate import simulate


def digits(hidden: int = 0, l2: float = 0.0) -> Problem:
    """Return the digits: 1500 to train on, 297 to test on."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    rows, labels = found.data[order] / 16.0, found.target[order]
    test = (rows[1500:], labels[1500:])
    return classification(rows[:1500], labels[:1500], hidden=hidden, l2=l2, test=test)


def run(
    problem: Problem, cluster: Cluster, policy: Policy, descent: Any, seed: int, **options: Any
) -> tuple[Simulated, dict[str, float]]:
    """Simulate the training of a problem; return the result and the last evaluation."""
    model = problem.model()
    result = simulate(
        cluster,
        model,
        problem.data(cluster.workers, seed),
        problem.gradient,
        descent,
        staleness=policy,
        seed=seed,
        record=False,
        **options,
    )
    return result, problem.evaluate(model)


# ---- stale synchronous parallel: Ho et al., NIPS 2013 --------------------------------------------


def ssp(slack: int, refresh: str, seed: int, lr: float = 0.2) -> dict[str, float]:
    """Train softmax regression on the digits until its loss is 0.30.

    16 workers, 5 % of the steps take ten times as long. Lazy workers fetch a version when
    their cache is too old, which takes 0.5 s; to eager ones each version is sent.
    """
    cluster = Cluster(
        workers=16,
        compute=Straggler(Lognormal(math.exp(-0.02), 0.2), 0.05, 10.0),
        latency_s=0.25,
    )
    problem = digits(l2=1e-4)
    result, _ = run(
        problem,
        cluster,
        StaleSynchronous(slack, refresh),
        SGD(lr),
        seed,
        batch_size=8,
        evaluate=problem.evaluate,
        evaluate_every=25,
        stop=lambda entry: entry["loss"] <= 0.30,
        max_updates=8_000,
        max_in_flight=10_000,  # updates leave without anybody waiting for an answer
        publish_every=10**9 if refresh == "lazy" else 1,
    )
    return {
        "seconds": math.inf if result.stopped_s is None else result.stopped_s,
        "staleness": result.staleness_mean,
        "throughput": result.throughput,
        "fetches": result.pulls / result.applied,
    }


# ---- staleness-aware learning rates: Zhang et al., IJCAI 2016 ------------------------------------


def softsync_accuracy(n: int, policy: Policy | None, seed: int = 0, epochs: int = 20) -> float:
    """Train a network on the digits with n-softsync; return its accuracy on the test rows.

    30 learners, batches of 4, momentum 0.9. `policy` weighs by staleness; None does not.
    """
    soft = SoftSync(n, timeout_s=1e9)
    _, last = run(
        digits(hidden=32),
        Cluster(workers=30, compute=Gamma(16.0, 1.0)),
        soft if policy is None else Composed(soft, policy),
        Momentum(0.02, 0.9),
        seed,
        batch_size=4,
        max_updates=epochs * 1500 // 4,
        max_in_flight=1,
    )
    return last["accuracy"]


# ---- linear speed-up -----------------------------------------------------------------------------


def seconds_to_target(workers: int, noise: float, target: float, seed: int = 0) -> float:
    """Return the time until a quadratic is at its target, with the best of 20 learning rates.

    50 coordinates with curvatures from 0.1 to 1, exponential times, noise in each gradient of
    total variance ``noise^2``.
    """
    d = 50
    curvature = np.geomspace(0.1, 1.0, d)
    problem = quadratic(curvature, start=np.ones(d), noise=noise / math.sqrt(d))
    best = math.inf
    for lr in np.geomspace(0.02, 2.0, 20):
        result, _ = run(
            problem,
            Cluster(workers=workers, compute=Exponential(1.0)),
            Asynchronous(),
            SGD(float(lr)),
            seed,
            batch_size=1,
            evaluate=problem.evaluate,
            evaluate_every=max(1, workers // 2),
            stop=lambda entry: entry["loss"] <= target or entry["loss"] > 1e3,
            timeout_s=min(best, 3000.0),
            max_in_flight=1,
        )
        if result.stopped_s is not None and result.history[-1]["loss"] <= target:
            best = min(best, result.stopped_s)
    return best


# ---- Ringmaster: Maranjyan et al., 2025 ----------------------------------------------------------


def ringmaster(
    policy: Policy,
    lr: float,
    *,
    workers: int = 4000,
    seconds: float = 2000.0,
    power: float = 1.0,
    d: int = 1729,
    looks: int = 40,
) -> list[tuple[float, float]]:
    """Return (time, squared norm of the true gradient) on the paper's quadratic.

    Worker i needs ``i^power + |N(0, i)|`` seconds for each step; the noise of a gradient has
    standard deviation 0.01 in each coordinate.
    """
    i = np.arange(1, workers + 1)
    spread = np.abs(np.random.default_rng(0).normal(0.0, np.sqrt(i)))
    times: Sequence[Delay] = tuple(Constant(float(t)) for t in i**power + spread)
    problem = tridiagonal(d, 0.01)
    result, _ = run(
        problem,
        Cluster(workers=workers, compute=times),
        policy,
        SGD(lr),
        0,
        batch_size=1,
        evaluate=problem.evaluate,
        evaluate_every_s=seconds / looks,
        timeout_s=seconds * (1 + 1e-9),
        max_in_flight=1,
        publish_every=1,
    )
    return [(entry["seconds"], entry["gradient"]) for entry in result.history]
