"""Policies over real sockets: what they need is there, and workers do as they say."""

from __future__ import annotations

import math
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import Peer, Running, epoch, eventually, serving, work
from zmqdist import ZmqDist, in_halves
from zmqdist.assignment import Assignment
from zmqdist.core.messages import Push
from zmqdist.errors import ConfigError
from zmqdist.models.tiers import Tiers
from zmqdist.models.versions import KEPT_AT_LEAST
from zmqdist.staleness import (
    Asynchronous,
    BackupWorkers,
    BoundedStaleness,
    BulkSynchronous,
    DelayCompensated,
    GapAware,
    Policy,
    Rennala,
    Ringmaster,
    too_stale,
)
from zmqdist.staleness.abandon import _watch
from zmqdist.wire.frames import pack
from zmqdist.wire.tree import encode_tree


def hello(peer: Peer, there: Assignment, partition: int = 0) -> int:
    place = {"run": there.run, "epoch": there.epoch, "partition": partition}
    return int(peer.ask("hello", "welcome", **place, attempt=1, worker="test")["session"])


def push(peer: Peer, session: int, step: int, base: int, update: Any, **fields: Any) -> Any:
    message = Push(session, step, base, clock=step, **fields)
    peer.raw(*pack(message, None if update is None else encode_tree(update)))
    return peer.answer("ack")


def pull(peer: Peer, session: int, want: int) -> int:
    return int(peer.ask("pull", "version", session=session, have=-1, want=want)["version"])


# ---- the master's memory --------------------------------------------------------------------


def test_updates_are_corrected_by_what_the_model_did_since_their_base() -> None:
    rng = np.random.default_rng(0)
    g = rng.normal(size=(4, 5))

    def descent(model: Any, update: Any) -> None:
        model["w"] -= 0.1 * update["w"]

    model = {"w": rng.normal(size=5)}
    start = model["w"].copy()
    policy = DelayCompensated(0.5)
    with serving(model, policy=policy, publish_every=1) as master, epoch(master) as there:
        master.descent = descent
        with Peer(master.address) as peer:
            session = hello(peer, there)
            assert pull(peer, session, 0) == 0
            push(peer, session, 0, 0, {"w": g[0]})
            after_one = start - 0.1 * g[0]
            np.testing.assert_allclose(model["w"], after_one)
            assert pull(peer, session, 1) == 1
            push(peer, session, 1, 1, {"w": g[1]})  # on the current version
            after_two = after_one - 0.1 * g[1]
            np.testing.assert_allclose(model["w"], after_two)
            push(peer, session, 2, 0, {"w": g[2]})  # two versions old
            corrected = g[2] + 0.5 * g[2] ** 2 * (after_two - start)
            after_three = after_two - 0.1 * corrected
            np.testing.assert_allclose(model["w"], after_three)
            push(peer, session, 3, 1, {"w": g[3]})
            corrected = g[3] + 0.5 * g[3] ** 2 * (after_three - after_one)
            np.testing.assert_allclose(model["w"], after_three - 0.1 * corrected)
    assert master.state.staleness == {0: 2, 2: 2}


def test_an_update_of_a_forgotten_version_is_computed_again() -> None:
    with serving({"w": np.zeros(3)}, policy=GapAware(), publish_every=1) as master:
        with epoch(master) as there, Peer(master.address) as peer:
            session = hello(peer, there)
            pull(peer, session, 0)
            for step in range(KEPT_AT_LEAST + 2):
                ack = push(peer, session, step, step, {"w": np.ones(3)})
                assert ack["outcome"] == "applied"
                pull(peer, session, step + 1)
            ack = push(peer, session, step + 1, 0, {"w": np.ones(3)})
            assert (ack["outcome"], ack["need"]) == ("requeue", master.state.version)
            ack = push(peer, session, step + 1, ack["need"], {"w": np.ones(3)})
            assert ack["outcome"] == "applied"


def test_a_policy_that_needs_no_memory_gets_none() -> None:
    for policy, keeps in ((Asynchronous(), False), (DelayCompensated(lr=1.0), True)):
        with serving({"w": np.zeros(3)}, policy=policy) as master:
            assert (master._publisher._snapshot.versions is not None) == keeps


def test_a_correction_that_overflows_is_refused() -> None:
    model = {"w": np.zeros(3, np.float32)}
    with serving(model, policy=DelayCompensated(1e30, lr=1.0)) as master:
        with epoch(master) as there, Peer(master.address) as peer:
            session = hello(peer, there)
            pull(peer, session, 0)
            push(peer, session, 0, 0, {"w": np.ones(3, np.float32)})
            peer.raw(*pack(Push(session, 1, 0), encode_tree({"w": np.full(3, 1e10, np.float32)})))
            assert "NaN or infinite" in peer.answer("stop")["reason"]
            np.testing.assert_array_equal(model["w"], 1)


@pytest.mark.parametrize("policy", [DelayCompensated(lr=1.0), GapAware()], ids=repr)
def test_what_was_computed_in_the_life_before_is_sent_back(policy: Policy, tmp_path: Path) -> None:
    """A worker's updates come before its question, so that nothing is published yet."""
    first, copy = tmp_path / "first", tmp_path / "copy"
    zeros, one = {"w": np.zeros(3)}, {"w": np.ones(3)}
    with serving(zeros, policy=policy, checkpoint=first) as master, epoch(master) as there:
        saving = master.state.saving
        eventually(lambda: saving.saved == saving.changes == 1, "the first checkpoint")
        shutil.copytree(first, copy)
    model = {"w": np.zeros(3)}
    with serving(model, policy=policy, checkpoint=copy, resume=True) as master:
        with Peer(master.address) as peer:
            session = hello(peer, there)
            assert master.state.published == -1
            for life in (0, 1):
                assert push(peer, session, 0, 0, one, incarnation=life)["outcome"] == "requeue"
            assert pull(peer, session, 0) == 0
            assert push(peer, session, 0, 0, one)["outcome"] == "requeue"  # of the life before
            assert push(peer, session, 0, 0, one, incarnation=1)["outcome"] == "applied"
    np.testing.assert_array_equal(model["w"], np.ones(3))


# ---- versions made of one update of each worker -----------------------------------


def mean_of(model: Any, rows: Any) -> Any:
    return {"w": np.array([float(rows[0])]), "count": 1}


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_bulk_synchronous_versions_are_means_over_all_workers(workers: int) -> None:
    bases: list[list[int]] = []

    def descent(model: Any, update: Any) -> None:
        bases.append(update["count"])
        model["w"] += update["w"]
        model["count"] += update["count"]

    partitions = [[10 * w] * 6 for w in range(workers)]
    with ZmqDist({"w": np.zeros(1), "count": 0}, staleness=BulkSynchronous()) as dd:
        result = dd.train(partitions, mean_of, descent, batch_size=1, workers=workers)
    assert set(result.staleness) == {0}
    assert result.requeued == result.rejected == 0
    assert result.applied == 6 * workers == dd.model["count"]
    assert sum(bases) == 6 * workers
    assert max(bases) <= workers
    assert result.version >= 6


@pytest.mark.parametrize(
    "policy",
    [BackupWorkers(1, "requeue"), Rennala(2, "requeue"), Rennala(5, "requeue")],
    ids=repr,
)
def test_what_comes_late_is_computed_again_until_all_is_in(policy: Policy) -> None:
    partitions = [[w] * 8 for w in range(3)]
    with ZmqDist({"w": np.zeros(1), "count": 0}, staleness=policy) as dd:
        result = dd.train(partitions, mean_of, batch_size=1, workers=3)
    assert result.applied == dd.model["count"] == 24
    assert set(result.staleness) == {0}
    assert result.rejected == 0


def test_backup_workers_drop_what_comes_late() -> None:
    partitions = [[w] * 8 for w in range(3)]
    with ZmqDist({"w": np.zeros(1), "count": 0}, staleness=BackupWorkers(1)) as dd:
        result = dd.train(partitions, mean_of, batch_size=1, workers=3)
    assert result.applied + result.rejected == 24
    assert dd.model["count"] == result.applied


# ---- workers that give up ---------------------------------------------------------


class Slow:
    """A gradient that lets another worker's updates in before it ends."""

    def __init__(self, asks: bool) -> None:
        self.asks = asks
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.calls = 0
        self.stopped = 0

    def __call__(self, model: Any, rows: Any) -> Any:
        self.calls += 1
        if self.calls == 1:
            self.entered.set()
            assert self.go_on.wait(60)
            watch = _watch.get()
            assert watch is not None
            eventually(watch._ask, "the news of newer versions")
            if self.asks and too_stale():
                self.stopped += 1
                return None
        return {"w": np.ones(3)}


@pytest.mark.parametrize("on_stale", ["requeue", "reject"])
@pytest.mark.parametrize("asks", [True, False])
def test_what_has_become_too_stale_is_not_sent(asks: bool, on_stale: str) -> None:
    slow = Slow(asks)
    model = {"w": np.zeros(3)}
    policy = Ringmaster(3, on_stale)
    with serving(model, policy=policy, publish_every=1) as master, epoch(master, 2) as there:
        there = Assignment(**{**vars(there), "batch_size": 1})
        running = Running(lambda: work(there, {"w": np.zeros(3)}, slow, [1], partition=0))
        assert slow.entered.wait(60)
        with Peer(master.address) as peer:
            session = hello(peer, there, 1)
            for step in range(3):
                push(peer, session, step, step, {"w": np.ones(3)})
        decoded = master.state.totals.bytes_received_decoded
        slow.go_on.set()
        running.join()
        totals = master.state.totals
        again = on_stale == "requeue"
        assert (totals.requeued, totals.rejected) == ((1, 0) if again else (0, 1))
        assert slow.calls == 1 + again
        assert totals.bytes_received_decoded == decoded + again * 24
        assert slow.stopped == asks
        assert model["w"].tolist() == [3.0 + again] * 3
        standing = master.state.ledger.standing(there.epoch, 0)
        assert standing is not None
        assert standing.complete


def test_too_stale_outside_of_a_gradient_is_no() -> None:
    assert not too_stale()


def test_without_a_bound_nothing_is_too_stale() -> None:
    answers = []

    def gradient(model: Any, rows: Any) -> Any:
        answers.append(too_stale())
        return {"w": np.ones(3)}

    with serving({"w": np.zeros(3)}, policy=Asynchronous()) as master, epoch(master) as there:
        there = Assignment(**{**vars(there), "batch_size": 1})
        work(there, {"w": np.zeros(3)}, gradient, range(3))
    assert answers == [False] * 3


def test_an_abandoned_update_that_would_be_taken_after_all_is_computed_again() -> None:
    with serving({"w": np.zeros(3)}, policy=BoundedStaleness(5)) as master:
        with epoch(master) as there, Peer(master.address) as peer:
            session = hello(peer, there)
            pull(peer, session, 0)
            assert push(peer, session, 0, 0, None, abandoned=True)["outcome"] == "requeue"
            assert push(peer, session, 0, 0, {"w": np.ones(3)})["outcome"] == "applied"


# ---- chosen while training --------------------------------------------------------


def test_auto_measures_the_noise_of_a_gradient_in_halves() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(1.0, 1.5, size=2400).tolist()

    def gradient(model: Any, batch: Any) -> Any:
        return {"w": model["w"] - np.mean(batch)}

    def descent(model: Any, update: Any) -> None:
        model["moved"] += update["w"]  # w itself stays: |G| = 1 throughout

    model = {"w": np.zeros(1), "moved": np.zeros(1)}
    with ZmqDist(model, staleness="auto") as dd:
        dd.train([rows[::2], rows[1::2]], in_halves(gradient), descent, batch_size=4, workers=2)
        assert dd._master is not None
        figures = dd._master.state.policy.figures()
    # sigma^2 of a mean of 4 is 2.25 / 4, |G|^2 is 1
    assert figures["noise_scale"] == pytest.approx(2.25 / 4, rel=0.5)
    assert 0.5 < math.ceil(figures["noise_scale"]) / figures["bound"] < 2  # or it would have moved


def test_what_a_policy_does_by_itself_is_shown() -> None:
    with ZmqDist({"w": np.zeros(1), "count": 0}, staleness="auto") as dd:
        result = dd.train([[1.0] * 50] * 2, mean_of, batch_size=1, workers=2)
    assert result.policy == {"bound": pytest.approx(10, abs=1)}  # floor(sqrt(100)), or before
    assert result.history[-1]["bound"] == result.policy["bound"]
    assert f"bound                         {result.policy['bound']:.0f}, from" in result.summary()
    with ZmqDist({"w": np.zeros(1), "count": 0}) as dd:
        assert dd.train([[1.0]], mean_of, batch_size=1).policy == {}


def test_a_remote_master_says_what_does_not_go_in_place() -> None:
    with serving({"w": np.zeros((4, 2))}, policy=BoundedStaleness(3)) as master:
        message = r"tiers= does not go with BoundedStaleness\(.*\), which drops updates"
        with ZmqDist({"w": np.zeros((4, 2))}, master=master.address, security="none") as dd:
            with pytest.raises(ConfigError, match=message):
                dd.train([[1]], lambda model, items: iter([None]), tiers=Tiers())
