"""What a simulation does: work, learning, failures, evaluations, and the same each time."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zmqdist import Update, in_halves
from zmqdist.core.staleness import Policy
from zmqdist.errors import ConfigError
from zmqdist.merge import RowTrustRegion, Sum
from zmqdist.optim import SGD
from zmqdist.staleness import (
    Asynchronous,
    BoundedStaleness,
    BulkSynchronous,
    FedBuff,
    Rennala,
    Ringmaster,
    SoftSync,
    StalenessAware,
    StaleSynchronous,
)
from zmqdist.tuning.cluster import Cluster
from zmqdist.tuning.delays import Constant, Delay, Exponential, Lognormal, Straggler
from zmqdist.tuning.observer import Simulated
from zmqdist.tuning.problems import quadratic
from zmqdist.tuning.simulate import simulate

CLUSTER = Cluster(workers=4, compute=Exponential(1.0), latency_s=0.01)

POLICIES = [
    Asynchronous(),
    BoundedStaleness(2, "requeue"),
    StaleSynchronous(1),
    StaleSynchronous(1, "lazy"),
    SoftSync(2, timeout_s=0.5),
    FedBuff(3, timeout_s=0.5),
    BulkSynchronous(),
    Rennala(3, "requeue"),
]


def digest(result: Simulated) -> str:
    columns = sorted(result.record.items())
    return hashlib.sha256(b"".join(column.tobytes() for _, column in columns)).hexdigest()


def busy() -> Simulated:
    """Return a simulation in which everything happens that can."""
    cluster = Cluster(
        workers=6,
        compute=Straggler(Lognormal(1.0, 0.5), 0.1, 5.0, run_steps=3.0),
        speed=Lognormal(1.0, 0.2),
        start=Exponential(0.5),
        apply=Exponential(0.05),
        publish=Exponential(0.01),
        latency_s=0.01,
        line_bytes_s=1e6,
        update_bytes=1000,
        version_bytes=1000,
        fail_every=Exponential(50.0),
        down_for=Exponential(5.0),
    )
    policy = BoundedStaleness(4, "requeue")
    return simulate(cluster, staleness=policy, max_updates=2000, lease_s=2.0, seed=3)


# ---- the same each time ----------------------------------------------------------------------


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_the_same_bytes_in_another_process(hash_seed: str) -> None:
    program = "from tests.tuning.test_simulate import busy, digest; print(digest(busy()))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stdout.strip() == digest(busy())


def test_another_seed_is_another_run() -> None:
    one, two = (simulate(CLUSTER, max_updates=100, seed=seed) for seed in (0, 1))
    assert digest(one) != digest(two)


def test_policies_meet_the_same_computing_times() -> None:
    def times(policy: Policy) -> dict[int, list[float]]:
        record = simulate(CLUSTER, staleness=policy, timeout_s=50.0).record
        return {w: record["compute_s"][record["worker"] == w].tolist() for w in range(4)}

    one, two = times(Asynchronous()), times(BoundedStaleness(0))
    for worker in range(4):
        n = min(len(one[worker]), len(two[worker]))
        assert n > 20
        assert one[worker][:n] == two[worker][:n]


# ---- work ------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@pytest.mark.parametrize("partitions", [3, 4, 11])
def test_each_step_is_applied_once(policy: Policy, partitions: int) -> None:
    result = simulate(CLUSTER, staleness=policy, partitions=partitions, steps=7, epochs=2)
    record = result.record
    applied = record["decision"] == "applied"
    keys = zip(record["partition"][applied], record["step"][applied], strict=True)
    assert Counter((int(p), int(s)) for p, s in keys) == dict.fromkeys(
        itertools.product(range(partitions), range(7)), 2
    )
    assert result.applied == 2 * 7 * partitions


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_workers_that_die_lose_nothing(policy: Policy) -> None:
    cluster = Cluster(
        workers=4,
        compute=Exponential(1.0),
        latency_s=0.01,
        fail_every=Exponential(15.0),
        down_for=Exponential(2.0),
    )
    result = simulate(cluster, staleness=policy, partitions=6, steps=30, lease_s=1.0, seed=5)
    record = result.record
    applied = record["decision"] == "applied"
    keys = zip(record["partition"][applied], record["step"][applied], strict=True)
    assert Counter((int(p), int(s)) for p, s in keys) == dict.fromkeys(
        itertools.product(range(6), range(30)), 1
    )


def test_a_dead_worker_holds_others_back_for_its_lease() -> None:
    cluster = Cluster(
        workers=3,
        compute=Constant(1.0),
        fail_every=Constant(10.5),
        down_for=Constant(1000.0),
    )
    policy = StaleSynchronous(0)
    ends = [
        simulate(cluster, staleness=policy, timeout_s=100.0, lease_s=lease_s).record
        for lease_s in (5.0, 20.0)
    ]
    assert [len(record["tau"]) for record in ends] == [30, 30]  # all die at the same time


def test_compute_may_differ_from_worker_to_worker() -> None:
    delays: tuple[Delay, ...] = (Constant(1.0), Constant(3.0))
    cluster = Cluster(workers=4, compute=delays)
    record = simulate(cluster, staleness=Asynchronous(), timeout_s=30.5).record
    assert np.bincount(record["worker"]).tolist() == [30, 10, 30, 10]


def test_waits_are_told_apart() -> None:
    cluster = Cluster(workers=2, compute=(Constant(1.0), Constant(3.0)), latency_s=0.25)
    gate = simulate(cluster, staleness=StaleSynchronous(0), timeout_s=50.0, max_in_flight=1).record
    fast = gate["worker"] == 0
    assert gate["wait_gate_s"][fast][1:] == pytest.approx(2.0)
    assert gate["wait_gate_s"][~fast].max() == 0
    assert gate["wait_ack_s"][fast][1:] == pytest.approx(0.5)
    bound = simulate(cluster, staleness=BoundedStaleness(0), timeout_s=50.0, max_in_flight=1)
    assert bound.rejected > 0
    free = simulate(cluster, staleness=Asynchronous(), timeout_s=50.0, max_in_flight=2).record
    for name in ("wait_ack_s", "wait_gate_s", "wait_model_s"):
        assert free[name].max() == 0


def test_what_waits_at_a_busy_master_is_in_the_record() -> None:
    cluster = Cluster(workers=8, compute=Constant(1.0), apply=Constant(0.1))
    result = simulate(cluster, staleness=Asynchronous(), timeout_s=100.0, max_in_flight=1)
    record = result.record
    assert record["master_s"] == pytest.approx(0.1)
    assert record["queue_s"][:8] == pytest.approx(np.arange(8) * 0.1)
    assert result.busy_s == pytest.approx(0.1 * len(record["tau"]))


# ---- learning ----------------------------------------------------------------------------------

CURVATURE = np.array([1.0, 0.5, 0.1])
START = np.array([1.0, -2.0, 3.0])


def learn(policy: Policy, **options: Any) -> tuple[Simulated, dict[str, Any]]:
    problem = quadratic(CURVATURE, 0.3, start=START, noise=0.01)
    model = problem.model()
    options = {"max_updates": 3000, "evaluate_every": 200, **options}
    result = simulate(
        options.pop("cluster", CLUSTER),
        model,
        problem.data(4, 0),
        options.pop("gradient", problem.gradient),
        SGD(options.pop("lr", 0.05)),
        staleness=policy,
        batch_size=2,
        evaluate=problem.evaluate,
        **options,
    )
    return result, model


@pytest.mark.parametrize("policy", [*POLICIES, StalenessAware("inverse1")], ids=repr)
def test_every_policy_learns(policy: Policy) -> None:
    result, model = learn(policy)
    np.testing.assert_allclose(model["x"], 0.3 / CURVATURE, atol=0.05)
    losses = [entry["loss"] for entry in result.history]
    assert losses[0] == pytest.approx(float(CURVATURE @ START**2 / 2 - 0.3 * START.sum()))
    assert losses[-1] < losses[0] - 1
    assert result.examples == 2 * result.applied


def test_merge_rules_count() -> None:
    flushed = {
        rule: learn(SoftSync(1, timeout_s=99), merge=rule, max_updates=40)[1]["x"]
        for rule in (None, Sum())
    }
    away = {rule: np.abs(x - 0.3 / CURVATURE).max() for rule, x in flushed.items()}
    assert away[Sum()] < away[None]  # four times as far, while that is not too far
    weighed, _ = learn(Asynchronous(), merge=RowTrustRegion(1.0), max_updates=40)
    assert weighed.applied == 40


def test_only_what_is_applied_is_computed() -> None:
    calls = []
    problem = quadratic(CURVATURE, start=START)

    def gradient(model: Any, batch: list[Any]) -> Any:
        calls.append(len(batch))
        return problem.gradient(model, batch)

    result, _ = learn(BoundedStaleness(0), gradient=gradient, max_updates=200)
    assert result.rejected > 100
    assert len(calls) == result.applied == 200


def test_gradients_are_those_of_the_version_that_was_read() -> None:
    problem = quadratic(np.array([1.0]), start=np.array([1.0]))
    model = problem.model()
    seen = []

    def gradient(weights: Any, batch: list[Any]) -> Any:
        seen.append(float(weights["x"][0]))
        weights["x"][:] = 99.0  # of no consequence: it is the worker's own
        return {"x": np.array([1.0])}

    result = simulate(
        CLUSTER,
        model,
        problem.data(4, 0),
        gradient,
        SGD(1.0),
        staleness=Asynchronous(),
        batch_size=1,
        max_updates=50,
    )
    assert seen == [1.0 - base for base in result.record["base"]]
    assert model["x"][0] == -49.0


def applied_last(result: Simulated) -> int:
    """Return the largest staleness among the last that were applied."""
    applied = result.record["decision"] == "applied"
    return int(result.record["tau"][applied][-50:].max())


def test_halves_reach_the_policy() -> None:
    problem = quadratic(CURVATURE, start=10 * START, noise=0.01)
    policy, model = Ringmaster("auto"), problem.model()
    result = simulate(
        CLUSTER,
        model,
        problem.data(4, 0),
        in_halves(problem.gradient),
        SGD(1e-6),
        staleness=policy,
        batch_size=2,
        max_updates=300,
    )
    assert applied_last(result) == 0  # no noise to speak of: nothing stale counts
    # Nothing measured: the bound grows with the version.
    assert applied_last(simulate(CLUSTER, staleness=policy, max_updates=300)) > 1


def test_policies_may_transform_by_how_far_the_model_has_moved() -> None:
    class Looking(Policy):
        """Looks at how far the model has moved meanwhile."""

        transforms = True

        def transform(self, update: Any, base: Any) -> Any:
            moved.append(base.moved("x", None)[0])
            steps.append(base.step("x"))
            return update

    moved: list[float] = []
    steps: list[float] = []
    model = {"x": np.zeros(3)}
    result = simulate(
        CLUSTER,
        model,
        [itertools.repeat(1)] * 4,
        lambda model, batch: {"x": np.ones(3)},
        staleness=Looking(),
        batch_size=1,
        max_updates=300,
    )
    assert moved == result.record["tau"].tolist()  # each version moves it by one
    assert steps[-1] == pytest.approx(1.0, abs=0.01)


def test_empty_updates_are_skipped() -> None:
    def gradient(model: Any, batch: list[int]) -> Any:
        return None if batch[0] % 2 else Update({"x": np.ones(3)}, examples=5)

    model = {"x": np.zeros(3)}
    data = [list(range(10)) for _ in range(4)]
    result = simulate(CLUSTER, model, data, gradient, batch_size=1, staleness=Asynchronous())
    assert (result.applied, result.skipped) == (20, 20)
    assert model["x"].tolist() == [20.0] * 3


def test_divergence_ends_it() -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        result, _ = learn(Asynchronous(), lr=50.0, max_updates=100_000)
    assert result.diverged
    assert result.applied < 100_000


def test_stop_and_callbacks() -> None:
    seen: list[dict[str, float]] = []
    result, _ = learn(
        Asynchronous(), stop=lambda entry: entry["loss"] < -0.4, callbacks=[seen.append]
    )
    assert seen == result.history
    assert result.stopped_s == result.seconds == seen[-1]["seconds"]
    assert [entry["loss"] < -0.4 for entry in seen] == [False] * (len(seen) - 1) + [True]
    assert [entry["version"] for entry in seen] == [200 * i for i in range(len(seen))]


def test_evaluation_by_time() -> None:
    result, _ = learn(Asynchronous(), evaluate_every=None, evaluate_every_s=10.0, timeout_s=55.0)
    assert [entry["seconds"] for entry in result.history] == [0, 10, 20, 30, 40, 50]
    assert result.seconds == 55.0


def test_what_a_callback_raises_comes_out() -> None:
    def prune(entry: dict[str, float]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(Asynchronous(), callbacks=[prune])


# ---- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, "never ends"),
        ({"max_updates": 1, "data": [[1]]}, "need a model"),
        ({"max_updates": 1, "model": {"x": np.zeros(1)}}, "data and a gradient"),
        ({"max_updates": 1, "evaluate_every": 5}, "need evaluate"),
        ({"max_updates": 0}, "max_updates"),
        ({"max_updates": 1, "max_in_flight": 0}, "max_in_flight"),
        ({"max_updates": 1, "timeout_s": -1.0}, "timeout_s"),
        ({"max_updates": 1, "publish_every": 0}, "publish_every"),
        ({"steps": 0}, "steps"),
        ({"steps": 1, "epochs": 0}, "epochs"),
        ({"steps": 1, "partitions": 0}, "partitions"),
    ],
)
def test_impossible_options(options: dict[str, Any], names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        simulate(CLUSTER, **options)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"workers": 0, "compute": Constant(1.0)}, "workers"),
        ({"workers": 2, "compute": ()}, "compute"),
        ({"workers": 2, "compute": Constant(1.0), "latency_s": -1}, "latency_s"),
        ({"workers": 2, "compute": Constant(1.0), "line_bytes_s": 0}, "line_bytes_s"),
        ({"workers": 2, "compute": Constant(1.0), "fail_every": Constant(1.0)}, "down_for"),
    ],
)
def test_impossible_clusters(options: dict[str, Any], names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        Cluster(**options)


def test_clusters_are_read_back_as_written(tmp_path: Path) -> None:
    cluster = Cluster(
        workers=3,
        compute=(Exponential(1.0), Constant(2.0)),
        speed=Lognormal(1.0, 0.1),
        apply=Straggler(Constant(0.01), 0.1, 3.0),
        latency_s=0.1,
        update_bytes=5,
    )
    cluster.save(tmp_path / "cluster.json")
    assert Cluster.load(tmp_path / "cluster.json") == cluster
    assert Cluster.from_dict({"workers": 2, "compute": 1}) == Cluster(
        workers=2, compute=Constant(1.0)
    )
    with pytest.raises(ConfigError, match="unknown bandwith"):
        Cluster.from_dict({"workers": 1, "compute": 1, "bandwith": 3})
    with pytest.raises(ConfigError, match="compute missing"):
        Cluster.from_dict({"workers": 1})
    (tmp_path / "broken").write_text("{")
    with pytest.raises(ConfigError, match="broken"):
        Cluster.load(tmp_path / "broken")


def test_a_policy_that_adapts_itself_shows_what_it_did() -> None:
    problem = quadratic(np.ones(3), start=np.ones(3))
    result = simulate(
        CLUSTER,
        problem.model(),
        problem.data(4, 0),
        problem.gradient,
        SGD(0.01),
        staleness=Ringmaster("auto", "requeue"),
        batch_size=1,
        evaluate=problem.evaluate,
        evaluate_every=10,
        max_updates=100,
    )
    assert [entry["bound"] for entry in result.history] == [
        1 if entry["version"] == 0 else np.floor(np.sqrt(entry["version"] - 1))
        for entry in result.history
    ]
    assert result.policy == {"bound": 9}
    assert "bound" in result.summary()
