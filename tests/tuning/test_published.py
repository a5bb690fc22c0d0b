"""Results that others have published come out of the simulator as they did there."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest

from zmqdist.staleness import Rennala, Ringmaster, StalenessAware

pytest.importorskip("sklearn")

from examples.studies.setups import (
    ringmaster,
    seconds_to_target,
    softsync_accuracy,
    ssp,
)

INVERSE, INVERSE_SQRT = StalenessAware("inverse"), StalenessAware("inverse-sqrt")


def u_curve(slacks: list[int], refresh: str, seeds: int) -> list[dict[str, float]]:
    """Return the medians over the seeds, slack by slack."""
    points = []
    for slack in slacks:
        found = [ssp(slack, refresh, seed) for seed in range(seeds)]
        points.append({k: statistics.median(one[k] for one in found) for k in found[0]})
    return points


def test_a_lazy_cache_gives_a_u_curve() -> None:
    """Ho et al. 2013: some slack is best. It takes the cache of that paper."""
    none, some, much = u_curve([0, 8, 32], "lazy", seeds=1)
    assert none["seconds"] > 3 * some["seconds"]
    assert much["seconds"] > 2.5 * some["seconds"]
    assert none["fetches"] > 2 * some["fetches"] > 4 * much["fetches"]


def test_eager_reading_has_no_right_arm() -> None:
    """The mean staleness saturates, so that a larger bound changes nothing."""
    points = u_curve([32, 64], "eager", seeds=1)
    assert points[0]["seconds"] == pytest.approx(points[1]["seconds"], rel=0.02)
    assert ssp(0, "eager", 0)["seconds"] > 3 * points[0]["seconds"]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_whole_u_curve() -> None:
    slacks = [0, 1, 4, 8, 16, 32, 64]
    lazy = u_curve(slacks, "lazy", seeds=3)
    times = [point["seconds"] for point in lazy]
    best = min(times)
    assert 0 < times.index(best) < len(times) - 1
    assert times[0] >= 3 * best
    assert times[-1] >= 5 * best
    fetches = [point["fetches"] for point in lazy]
    assert all(a > b for a, b in itertools.pairwise(fetches))
    eager = u_curve([32, 64], "eager", seeds=3)
    assert eager[0]["seconds"] == pytest.approx(eager[1]["seconds"], rel=0.02)


def test_a_constant_rate_collapses_and_weights_recover() -> None:
    """Zhang et al. 2016, figure 3, at 30-softsync: mean staleness 29, momentum 0.9."""
    with np.errstate(over="ignore", invalid="ignore"):
        constant = softsync_accuracy(30, None, epochs=4)
    assert constant < 0.3
    assert softsync_accuracy(30, INVERSE_SQRT, epochs=4) > 0.85


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_staleness_aware_rates_are_alike_for_all_protocols() -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        constant = {n: softsync_accuracy(n, None) for n in (1, 3, 15, 30)}
    aware = {n: softsync_accuracy(n, INVERSE) for n in (1, 3, 15, 30)}
    assert max(constant[15], constant[30]) < 0.2
    assert min(constant[1], constant[3]) > 0.93
    assert min(aware.values()) > 0.93
    assert max(aware.values()) - min(aware.values()) < 0.02
    assert softsync_accuracy(30, INVERSE_SQRT) > aware[30]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_speed_up_is_linear_while_noise_rules() -> None:
    def seconds(workers: int, noise: float, seeds: int) -> float:
        with np.errstate(over="ignore", invalid="ignore"):
            found = [seconds_to_target(workers, noise, 0.05, seed) for seed in range(seeds)]
        return statistics.fmean(found)

    assert seconds(1, 1.0, seeds=9) / seconds(8, 1.0, seeds=9) > 0.7 * 8
    assert seconds(1, 0.0, seeds=3) / seconds(8, 0.0, seeds=3) < 0.35 * 8


def test_ringmaster_outruns_delay_adaptive_rates() -> None:
    """Maranjyan et al. 2025: 4,000 workers of which the i-th takes i seconds."""
    race = {
        policy: dict(ringmaster(policy, lr, seconds=500.0, looks=10))
        for policy, lr in (
            (Ringmaster(24), 0.05),
            (Rennala(24), 1.0),
            (StalenessAware("delay-adaptive"), 0.002),
        )
    }
    fast, gathering, adaptive = race.values()
    for time_s in (200.0, 500.0):
        assert fast[time_s] < 0.5 * adaptive[time_s]
        assert fast[time_s] < gathering[time_s]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_best_threshold_grows_as_the_target_tightens() -> None:
    runs = {r: ringmaster(Ringmaster(r), lr) for r, lr in ((6, 0.2), (24, 0.05), (96, 0.01))}

    def best(target: float) -> int:
        times = {
            r: next((t for t, norm in curve if norm <= target), math.inf)
            for r, curve in runs.items()
        }
        return min(times, key=lambda r: times[r])

    assert best(1.0) < best(0.002)
