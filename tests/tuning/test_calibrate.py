"""Calibrating finds again what a run was made of, and predicts others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zmqdist.errors import ConfigError
from zmqdist.staleness import Asynchronous, BoundedStaleness
from zmqdist.tuning.calibrate import _between_steps, calibrate, compare, fit
from zmqdist.tuning.cluster import Cluster
from zmqdist.tuning.delays import (
    Constant,
    Delay,
    Exponential,
    Gamma,
    Lognormal,
    Pareto,
    Replay,
    Straggler,
    Weibull,
)
from zmqdist.tuning.simulate import simulate
from zmqdist.tuning.streams import Purpose, generator

FAMILIES: list[Delay] = [
    Exponential(2.0),
    Exponential(0.5, shift_s=1.0),
    Lognormal(1.0, 0.4),
    Lognormal(0.2, 0.8, shift_s=1.0),
    Gamma(9.0, 1.0),
    Weibull(0.6, 1.0),
    Pareto(2.5, 1.0),
]


@pytest.mark.parametrize("delay", FAMILIES, ids=repr)
def test_the_family_and_its_parameters_are_found(delay: Delay) -> None:
    times = delay.draw(generator(0, 0, Purpose.COMPUTE), 4000)
    best = fit(times)[0]
    assert type(best.delay) is type(delay)
    found, true = best.delay.as_dict(), delay.as_dict()
    for name in true.keys() - {"name", "shift_s", "maximum_s"}:
        assert found[name] == pytest.approx(true[name], rel=0.1)
    assert best.delay.mean == pytest.approx(delay.mean, rel=0.05)
    assert best.distance < 0.03


def test_equal_times_are_a_constant() -> None:
    assert fit(np.full(100, 0.5))[0].delay == Constant(0.5)


def run(workers: int, max_in_flight: int, **options: Any) -> Any:
    machines = {
        "compute": Lognormal(0.02, 0.3),
        "apply": Exponential(0.001),
        "latency_s": 0.002,
        **options.pop("machines", {}),
    }
    cluster = Cluster(workers=workers, **machines)
    return simulate(
        cluster, **{"max_updates": 3000, "max_in_flight": max_in_flight, "seed": 7, **options}
    )


@pytest.mark.parametrize("max_in_flight", [1, 2])
def test_a_calibrated_cluster_predicts_others(max_in_flight: int) -> None:
    policy = Asynchronous()
    seen = run(4, max_in_flight, staleness=policy)
    calibrated = calibrate(seen.record, max_in_flight=max_in_flight, staleness=policy)
    assert calibrated.cluster.workers == 4
    assert calibrated.cluster.latency_s == pytest.approx(0.002, rel=0.15)
    assert isinstance(calibrated.fits[0].delay, Lognormal | Gamma)
    assert abs(calibrated.autocorrelation) < 0.1
    assert calibrated.tail_index > 3
    truth = run(16, max_in_flight, staleness=policy)
    predicted = simulate(
        calibrated.cluster.with_workers(16),
        staleness=policy,
        max_updates=3000,
        max_in_flight=max_in_flight,
    )
    errors = compare(truth.record, predicted.record)
    assert abs(errors.throughput) < 0.03
    assert abs(errors.mean_staleness) < 0.02
    assert errors.staleness_distance < 0.05
    assert errors.accepted == 0


def test_workers_that_differ_keep_their_own_times() -> None:
    slow = (Constant(0.01), Lognormal(0.05, 0.1))
    seen = run(4, 1, machines={"compute": slow}, staleness=Asynchronous())
    cluster = calibrate(seen.record, max_in_flight=1, staleness=Asynchronous()).cluster
    assert isinstance(cluster.compute, tuple)
    means = [delay.mean for delay in cluster.compute]
    assert means == pytest.approx([0.01, 0.05, 0.01, 0.05], rel=0.05)


def test_time_between_steps_counts() -> None:
    """Of a real run a record does not say what reading and being scheduled cost."""
    seen = run(4, 2, machines={"compute": Constant(0.025)}, staleness=Asynchronous())
    record = {**seen.record, "compute_s": seen.record["compute_s"] - 0.005}
    found = calibrate(record, max_in_flight=2, staleness=Asynchronous())
    assert found.fits[0].delay.mean == pytest.approx(0.025, rel=0.01)
    one_each = {name: column[:4] for name, column in record.items()}
    assert _between_steps(one_each) == 0.0


def test_what_fits_no_family_is_replayed() -> None:
    """Stragglers in runs: two peaks, and neighbours alike."""
    slow = Straggler(Lognormal(0.01, 0.1), 0.3, 10.0, run_steps=20.0)
    seen = run(2, 1, machines={"compute": slow}, staleness=Asynchronous())
    calibrated = calibrate(seen.record, max_in_flight=1, staleness=Asynchronous())
    (compute,) = {
        delay for delay in [calibrated.cluster.compute] if not isinstance(delay, tuple)
    } or [calibrated.cluster.compute_of(0)]
    assert isinstance(compute, Replay)
    assert compute.block > 1
    assert calibrated.autocorrelation > 0.5


def test_a_recorded_run_is_replayed_under_another_policy() -> None:
    machines = {"compute": (Lognormal(0.01, 0.5), Lognormal(0.03, 0.5)), "latency_s": 0.0}
    seen = run(2, 1, machines=machines, staleness=Asynchronous())
    found = calibrate(seen.record, max_in_flight=1, staleness=Asynchronous(), replay=True)
    again = simulate(
        found.cluster, staleness=BoundedStaleness(0), max_updates=2000, max_in_flight=1
    ).record
    assert (again["decision"] == "rejected").any()
    after = len(seen.record["time_s"]) // 10  # the beginning, while workers join, is left out
    for worker in range(2):
        rows = np.flatnonzero(seen.record["worker"] == worker)
        times = seen.record["compute_s"][rows[rows >= after]]
        replayed = again["compute_s"][again["worker"] == worker]
        assert replayed == pytest.approx(np.resize(times, len(replayed)), rel=1e-3)


def test_a_run_compared_with_itself() -> None:
    seen = run(4, 2, staleness=BoundedStaleness(3))
    errors = compare(seen.record, seen.record)
    assert (errors.throughput, errors.mean_staleness, errors.staleness_distance) == (0, 0, 0)
    other = compare(seen.record, run(4, 2, staleness=Asynchronous()).record)
    assert other.accepted > 0.05
    assert other.staleness_distance > 0.1
    assert other.mean_staleness > 0.1


def test_too_little_is_said() -> None:
    with pytest.raises(ConfigError, match="20 updates"):
        calibrate(run(2, 1, max_updates=20).record, max_in_flight=1)
