"""The fast simulator decides as the real states do: update by update, for every policy."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tuning.real_states import Decided, RealRun, first_difference
from zmqdist.core.staleness import Policy
from zmqdist.staleness import (
    Asynchronous,
    BackupWorkers,
    BoundedStaleness,
    BulkSynchronous,
    Composed,
    DynamicStaleSynchronous,
    FedBuff,
    RateRescaled,
    Rennala,
    Ringmaster,
    SoftSync,
    StalenessAware,
    StaleSynchronous,
)
from zmqdist.tuning.cluster import Cluster
from zmqdist.tuning.delays import Exponential, Lognormal
from zmqdist.tuning.simulate import simulate

DECISIONS = 300

PACES: list[dict[str, Any]] = [{"publish_every": 3}, {"publish_interval_s": 0.7}]

POLICIES = [
    Asynchronous(),
    BoundedStaleness(0),
    BoundedStaleness(3),
    BoundedStaleness(2, "requeue"),
    BoundedStaleness(2, "scale"),
    Ringmaster(4, "requeue"),
    Ringmaster("auto"),
    StaleSynchronous(0),
    StaleSynchronous(2),
    StaleSynchronous(0, "lazy"),
    StaleSynchronous(3, "lazy"),
    DynamicStaleSynchronous(1, 5),
    SoftSync(1, timeout_s=1e9),
    SoftSync(3, timeout_s=1e9),
    FedBuff(4, timeout_s=1e9),
    Rennala(3),
    BulkSynchronous(),
    BackupWorkers(2),
    StalenessAware(),
    RateRescaled(),
    Composed(StaleSynchronous(2), StalenessAware(), BoundedStaleness(6, "requeue")),
]

LINES: dict[str, dict[str, Any]] = {
    "no network": {"turn_down": Exponential(1e-7), "publish": Exponential(1e-6)},
    "latency": {
        "latency_s": 0.05,
        "turn_down": Exponential(0.001),
        "publish": Exponential(0.001),
    },
    "busy master": {
        "latency_s": 0.01,
        "apply": Exponential(0.08),
        "turn_down": Exponential(0.01),
        "publish": Exponential(0.01),
    },
    "bandwidth": {
        "latency_s": 0.01,
        "line_bytes_s": 1e6,
        "master_in_bytes_s": 5e6,
        "update_bytes": 100_000,
        "version_bytes": 50_000,
        "apply": Exponential(0.02),
        "turn_down": Exponential(0.005),
        "publish": Exponential(0.01),
    },
}


def both(cluster: Cluster, policy: Policy, **options: Any) -> tuple[list[Decided], list[Decided]]:
    real = RealRun(cluster, policy, **options).until(DECISIONS)
    end_s = max(decided[0] for decided in real) + 1.0
    record = simulate(cluster, staleness=policy, timeout_s=end_s, **options).record
    names = ("time_s", "worker", "base", "tau", "decision")
    columns = [record[name].tolist() for name in names]
    ours = list(zip(*columns, strict=True))
    return sorted(ours, key=lambda decided: decided[0])[:DECISIONS], real


def check(policy: Policy, lines: str, max_in_flight: int, **options: Any) -> None:
    cluster = Cluster(workers=5, compute=Lognormal(1.0, 0.5), **LINES[lines])
    seed = max_in_flight
    ours, real = both(cluster, policy, max_in_flight=max_in_flight, seed=seed, **options)
    assert first_difference(ours, real) == ""


@pytest.mark.parametrize(("lines", "max_in_flight"), [("latency", 1), ("busy master", 2)])
@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_decisions_are_those_of_the_real_states(
    policy: Policy, lines: str, max_in_flight: int
) -> None:
    check(policy, lines, max_in_flight)


@pytest.mark.parametrize("options", PACES, ids=repr)
@pytest.mark.parametrize("policy", [POLICIES[3], POLICIES[10], POLICIES[13]], ids=repr)
def test_publishing_is_paced_alike(policy: Policy, options: dict[str, Any]) -> None:
    check(policy, "bandwidth", 2, **options)


@pytest.mark.long
@pytest.mark.parametrize("options", [{}, *PACES], ids=repr)
@pytest.mark.parametrize("max_in_flight", [1, 2, 3])
@pytest.mark.parametrize("lines", LINES)
@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_all_decisions_are_those_of_the_real_states(
    policy: Policy, lines: str, max_in_flight: int, options: dict[str, Any]
) -> None:
    check(policy, lines, max_in_flight, **options)
