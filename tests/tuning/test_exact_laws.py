"""Laws that hold exactly, or to a tolerance that is written here, in the simulator."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from zmqdist.core.staleness import Policy
from zmqdist.optim import SGD
from zmqdist.staleness import (
    Asynchronous,
    BoundedStaleness,
    BulkSynchronous,
    Ringmaster,
    StalenessAware,
    StaleSynchronous,
)
from zmqdist.tuning import theory
from zmqdist.tuning.cluster import Cluster
from zmqdist.tuning.delays import (
    Constant,
    Delay,
    Exponential,
    Gamma,
    Lognormal,
    Pareto,
    Straggler,
    Weibull,
)
from zmqdist.tuning.observer import Simulated
from zmqdist.tuning.problems import quadratic
from zmqdist.tuning.simulate import simulate

DELAYS = [
    Constant(1.0),
    Exponential(1.0),
    Exponential(0.5, shift_s=0.5),
    Lognormal(1.0, 1.0),
    Gamma(16.0, 1.0),
    Weibull(0.6, 1.0),
    Pareto(2.1, 1.0),
    Straggler(Constant(1.0), 0.05, 10.0, run_steps=5.0),
]


def run(policy: Policy, workers: int = 16, **options: Any) -> Simulated:
    """Simulate workers with one update under way each, on a network that costs nothing."""
    machines = {name: options.pop(name) for name in ("apply", "speed") if name in options}
    compute = options.pop("compute", Exponential(1.0))
    cluster = Cluster(workers=workers, compute=compute, **machines)
    return simulate(cluster, staleness=policy, max_in_flight=1, **options)


@pytest.mark.parametrize(
    "policy",
    [
        Asynchronous(),
        BoundedStaleness(0),
        BoundedStaleness(5),
        BoundedStaleness(5, "requeue"),
        Ringmaster("auto"),
        StalenessAware(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("delay", DELAYS, ids=repr)
def test_conservation_of_staleness(policy: Policy, delay: Delay) -> None:
    """Sum of tau applied, turned down and under way: (n - 1) times the versions."""
    result = run(policy, 7, compute=delay, max_updates=500)
    record = result.record
    base_now = np.zeros(7, int)  # of what each worker computes at the end
    applied = record["decision"] == "applied"
    base_now[record["worker"]] = np.cumsum(applied)  # the last of each worker stays
    under_way = (result.version - base_now).sum()
    assert record["tau"].sum() + under_way == 6 * result.version
    assert result.version == applied.sum() == result.applied


@pytest.mark.parametrize("delay", DELAYS, ids=repr)
def test_mean_staleness_is_workers_less_one(delay: Delay) -> None:
    result = run(Asynchronous(), 16, compute=delay, speed=Weibull(2.0, 1.0), max_updates=20_000)
    assert result.staleness_mean == pytest.approx(theory.mean_staleness(16), rel=0.005)


@pytest.mark.parametrize("every", [1, 2, 10, 50])
def test_publishing_each_pth_version_adds_half_of_p_less_one(every: int) -> None:
    result = run(Asynchronous(), 20, max_updates=20_000, publish_every=every)
    expected = theory.mean_staleness(20, every)
    assert result.staleness_mean == pytest.approx(expected, rel=0.005)
    assert result.publications == 20_000 // every + 1


def test_staleness_of_memoryless_workers_is_geometric() -> None:
    taus = run(Asynchronous(), 16, max_updates=60_000).record["tau"]
    counts = np.bincount(taus, minlength=200)[:200]
    seen = np.cumsum(counts) / len(taus)
    expected = np.cumsum(theory.staleness_distribution(16, 200))
    assert np.abs(seen - expected).max() < 0.01
    assert taus.std() == pytest.approx(math.sqrt(16 * 15), rel=0.03)


def test_staleness_of_equal_workers_is_constant() -> None:
    taus = run(Asynchronous(), 16, compute=Constant(1.0), max_updates=2000).record["tau"]
    assert set(taus[16:].tolist()) == {15}


def check_acceptance(workers: int, bound: int, applied: int) -> None:
    result = run(BoundedStaleness(bound), workers, max_updates=applied, record=False)
    accepted = result.applied / (result.applied + result.rejected)
    tolerance = 0.02 if bound >= 7 else 0.12
    assert accepted == pytest.approx(theory.accepted(workers, bound), rel=tolerance)
    assert result.throughput == pytest.approx(accepted * workers, rel=0.03)


@pytest.mark.parametrize(("workers", "bound"), [(8, 0), (8, 7), (32, 7), (32, 31), (128, 127)])
def test_acceptance_of_a_hard_bound(workers: int, bound: int) -> None:
    check_acceptance(workers, bound, applied=15_000)


@pytest.mark.long
@pytest.mark.parametrize("workers", [8, 32, 128])
@pytest.mark.parametrize("bound", [3, 7, 15, 31, 63, 127])
def test_acceptance_of_a_hard_bound_everywhere(workers: int, bound: int) -> None:
    check_acceptance(workers, bound, applied=60_000)


def test_acceptance_of_equal_workers() -> None:
    for bound in (0, 3, 7, 40):
        result = run(BoundedStaleness(bound), 16, compute=Constant(1.0), timeout_s=200.5)
        assert result.throughput == pytest.approx(min(16, bound + 1), rel=0.01)


def test_asynchrony_begets_momentum() -> None:
    check_momentum(4, 150_000, tolerance=0.01)


@pytest.mark.long
@pytest.mark.parametrize("workers", [2, 4, 8, 16])
def test_asynchrony_begets_momentum_to_three_digits(workers: int) -> None:
    check_momentum(workers, 3_000_000, tolerance=0.002)


def check_momentum(workers: int, updates: int, tolerance: float) -> None:
    """Fit E[x_{k+2} - x_{k+1}] = m E[x_{k+1} - x_k] - c E[x_{k+1}] for f = x^2 / 2.

    Memoryless workers forget how long they have been computing, so each stretch of one
    long simulation is a run of its own that begins at the same x.
    """
    steps, lr = 60, 0.3
    bases = run(Asynchronous(), workers, max_updates=updates).record["base"]
    starts = np.arange(0, updates, steps)
    bases = np.maximum(bases.reshape(-1, steps) - starts[:, None], 0)
    x = np.ones((len(bases), steps + 1))
    for k in range(steps):
        x[:, k + 1] = x[:, k] - lr * np.take_along_axis(x, bases[:, k : k + 1], axis=1)[:, 0]
    mean = x.mean(axis=0)
    moves = np.diff(mean)
    causes = np.column_stack([moves[:-1], -mean[1:-1]])
    found, *_ = np.linalg.lstsq(causes, moves[1:], rcond=None)
    assert found[0] == pytest.approx(theory.momentum(workers), abs=tolerance)
    assert found[1] == pytest.approx(lr / workers, abs=tolerance)


@pytest.mark.parametrize("workers", [10, 100, 200])
def test_throughput_of_a_busy_master(workers: int) -> None:
    result = run(Asynchronous(), workers, apply=Exponential(0.01), max_updates=40_000, record=False)
    expected = theory.throughput(workers, 1.0, 0.01)
    assert result.throughput == pytest.approx(expected, rel=0.02)
    assert result.staleness_mean == pytest.approx(workers - 1, rel=0.01)


def test_the_knee() -> None:
    assert theory.knee(1.0, 0.01) == pytest.approx(101)
    assert theory.knee(1.0, 0.0) == math.inf
    assert theory.throughput(1, 1.0, 0.5) == pytest.approx(1 / 1.5)
    assert theory.throughput(1000, 1.0, 0.01) == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize("workers", [4, 12])
def test_synchronous_steps_take_as_long_as_the_slowest(workers: int) -> None:
    rounds = 2000
    result = run(BulkSynchronous(), workers, max_updates=rounds * workers, record=False)
    per_version = result.seconds / result.version
    assert result.version == rounds
    assert per_version == pytest.approx(theory.synchronous_slowdown(workers), rel=0.02)
    assert set(result.staleness) == {0}


@pytest.mark.parametrize("slack", [0, 1, 3])
def test_stale_synchronous_bounds_staleness(slack: int) -> None:
    """While one worker computes, each other can bring at most 2 s + 1 updates."""
    result = run(StaleSynchronous(slack), 16, compute=Pareto(1.5, 1.0), max_updates=5_000)
    assert max(result.staleness) <= (2 * slack + 1) * 15


@pytest.mark.parametrize("workers", [1, 7])
def test_the_largest_stable_rate(workers: int) -> None:
    """Equal workers have constant staleness: below the rate they converge, above they do not."""
    problem = quadratic(np.array([1.0]), start=np.array([1.0]))
    rate = theory.stable_rate(1.0, workers - 1)

    def final(factor: float) -> float:
        model = problem.model()
        result = simulate(
            Cluster(workers=workers, compute=Constant(1.0)),
            model,
            problem.data(workers, 0),
            problem.gradient,
            SGD(factor * rate),
            staleness=Asynchronous(),
            batch_size=1,
            max_in_flight=1,
            max_updates=4000,
        )
        assert result.applied == 4000
        return abs(float(model["x"][0]))

    assert final(0.97) < 1e-3
    assert final(1.03) > 1e2


def test_publishing_to_many_workers_needs_bandwidth() -> None:
    """The master's card sends n copies of each version: too many drown it."""
    workers, rate, size, out = 200, 200.0, 1e6, 1e10
    every = theory.publish_every(workers, rate, size, out)
    assert every == 4

    def late(publish_every: int) -> float:
        cluster = Cluster(
            workers=workers,
            compute=Exponential(1.0),
            version_bytes=int(size),
            master_out_bytes_s=out,
        )
        result = simulate(
            cluster, staleness=Asynchronous(), timeout_s=60.0, publish_every=publish_every
        )
        return float(result.record["tau"][-1000:].mean())

    assert late(1) > 10 * late(2 * every)  # and it goes on growing
    assert late(2 * every) < 1.5 * workers
