"""What is learned with merges and optimizers: small problems with a known answer."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np
import pytest

from tests.support import Peer, ThreadEngine
from zmqdist import RowSparse, ZmqDist
from zmqdist.core.messages import Push
from zmqdist.engines.job import Job
from zmqdist.master import Master
from zmqdist.merge import Adasum, Mean, Merge, RowTrustRegion, Sum, TouchedMean
from zmqdist.optim import SGD, AdaGrad, Adam, Momentum, Optimizer
from zmqdist.staleness import Asynchronous, SoftSync
from zmqdist.task import Summary
from zmqdist.training import MAX_IDLE_ROUNDS
from zmqdist.wire.frames import pack
from zmqdist.wire.tree import encode_tree

pytestmark = pytest.mark.usefixtures("threads")

TRUE = np.array([1.0, -2.0, 3.0])


def least_squares(n_partitions: int = 4) -> list[list[Any]]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1200, 3))
    rows = np.column_stack([x, x @ TRUE])
    return [list(rows[i::n_partitions]) for i in range(n_partitions)]


def slope(model: Any, rows: Any) -> Any:
    x, y = np.array(rows)[:, :3], np.array(rows)[:, 3]
    return {"w": -0.1 * x.T @ (x @ model["w"] - y) / len(rows), "seen": len(rows)}


@pytest.mark.parametrize(
    "merge", [None, Mean(), RowTrustRegion(), Adasum(), TouchedMean(), Sum()], ids=repr
)
def test_softsync_learns(merge: Merge | None, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: Counter[int] = Counter()
    flush = Master._flush

    def counting(self: Master, action: Any) -> None:
        sizes[len(action.updates)] += 1
        flush(self, action)

    monkeypatch.setattr(Master, "_flush", counting)
    model = {"w": np.zeros(3), "seen": 0}
    with ZmqDist(model, staleness=SoftSync(1, timeout_s=1.0), merge=merge) as dd:
        result = dd.train(least_squares(), slope, batch_size=10, epochs=3, workers=4)
    assert result.applied == sum(result.staleness.values()) == 360
    assert result.version == sum(sizes.values())
    assert sum(size * count for size, count in sizes.items()) == 360
    assert result.version < 360
    assert max(sizes) > 1
    assert result.examples == model["seen"] == 3600  # counts are added up, whatever the rule
    assert max(result.staleness) <= 20  # an epoch makes 30 versions, and none is learned blindly
    np.testing.assert_allclose(model["w"], TRUE, atol=0.05)


def test_jobs_that_only_fill_the_buffer_get_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers vanish after one update each: their sessions hold the flush back."""
    vanished = 0

    class Vanishing(ThreadEngine):
        def run(self, job: Job, missing: list[int]) -> list[Summary]:
            nonlocal vanished
            if vanished >= MAX_IDLE_ROUNDS + 1:
                return super().run(job, missing)
            a = job.assignment
            with Peer(a.address) as peer:
                hello = {"run": a.run, "epoch": a.epoch, "partition": 0, "worker": ""}
                welcome = peer.ask("hello", "welcome", attempt=-1 - vanished, **hello)
                push = Push(welcome["session"], vanished, 0, examples=10)
                peer.raw(*pack(push, encode_tree({"seen": 10})))
                assert peer.answer("ack")["outcome"] == "applied"
            vanished += 1
            return []

    monkeypatch.setattr("zmqdist.api.engine_for", Vanishing)
    model = {"w": np.zeros(3), "seen": 0}
    with ZmqDist(model, staleness=SoftSync(1, timeout_s=600), security="none") as dd:
        result = dd.train(least_squares(), slope, batch_size=10, workers=4)
    assert vanished == MAX_IDLE_ROUNDS + 1
    assert (result.applied, model["seen"]) == (120, 1200)


def test_row_trust_region_without_a_buffer_learns() -> None:
    model = {"w": np.zeros(3), "seen": 0}
    with ZmqDist(model, staleness=Asynchronous(), merge=RowTrustRegion(2.0)) as dd:
        result = dd.train(least_squares(), slope, batch_size=10, epochs=3, workers=4)
    assert result.version == result.applied == 360
    assert model["seen"] == 3600
    np.testing.assert_allclose(model["w"], TRUE, atol=0.05)


# ---- optimizers -------------------------------------------------------------------------------

FEATURES, CLASSES = 40, 3


def documents() -> list[list[tuple[list[int], int]]]:
    """Bags of five words each; a class has words of its own."""
    rng = np.random.default_rng(1)
    rows = []
    for _ in range(600):
        label = int(rng.integers(CLASSES))
        own = rng.integers(label * 10, label * 10 + 10, size=3)
        common = rng.integers(30, FEATURES, size=2)
        rows.append((sorted({*own.tolist(), *common.tolist()}), label))
    return [rows[i::3] for i in range(3)]


def softmax(model: Any, words: list[int]) -> Any:
    scores = model["w"][words].sum(axis=0) + model["b"]
    odds = np.exp(scores - scores.max())
    return odds / odds.sum()


def gradient_of(sparse: bool) -> Any:
    def gradient(model: Any, batch: Any) -> Any:
        w, b = np.zeros_like(model["w"]), np.zeros_like(model["b"])
        touched = set()
        for words, label in batch:
            error = softmax(model, words)
            error[label] -= 1
            w[words] += error / len(batch)
            b += error / len(batch)
            touched |= set(words)
        rows = sorted(touched)
        return {"w": RowSparse(rows, w[rows], w.shape) if sparse else w, "b": b}

    return gradient


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "rows"])
@pytest.mark.parametrize(
    "optimizer",
    [SGD(1.0), Momentum(0.2, momentum=0.8), AdaGrad(0.5), Adam(0.05)],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_optimizer_as_descent(optimizer: Optimizer, sparse: bool) -> None:
    optimizer = copy.deepcopy(optimizer)  # each case begins without state
    data = documents()
    model = {"w": np.zeros((FEATURES, CLASSES)), "b": np.zeros(CLASSES)}
    with ZmqDist(model) as dd:
        result = dd.train(data, gradient_of(sparse), optimizer, batch_size=10, epochs=4)
    assert optimizer.step == result.applied == 240
    rows = [row for part in data for row in part]
    right = sum(int(softmax(model, words).argmax()) == label for words, label in rows)
    assert right / len(rows) > 0.97
