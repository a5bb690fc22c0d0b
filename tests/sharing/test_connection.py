"""Workers that share a replica, against a real master: in step, whoever dies or hangs."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.sharing.elsewhere import Elsewhere
from tests.support import ThreadEngine, epoch, eventually, serving
from zmqdist import ZmqDist, api
from zmqdist.assignment import SHARE_BYTES, Assignment
from zmqdist.errors import ConfigError
from zmqdist.master import Master
from zmqdist.sharing import segment
from zmqdist.sharing.segment import Unshareable
from zmqdist.staleness import Ringmaster

SIZE = 1000
SETUP = """
import pickle, signal
import numpy as np
from zmqdist.connection import _replicas
from zmqdist.core.messages import Push
from zmqdist.models.base import parameters_of
from zmqdist.shared import SharedConnection
from zmqdist.core import sharing
from zmqdist.sharing import replica, segment
sharing.PATIENCE_S = replica.SILENT_S = 60.0  # a busy machine is no fault
model = {"w": np.zeros(1000), "n": 0}
parameters = parameters_of(model)
def start():
    global base, clock
    (_, base), clock = c.start(parameters)
    assert {*model["w"], model["n"]} == {base}, (model, base)
    return base
def push(step):
    c.push(Push(0, step, base, clock), {"w": np.ones(1000), "n": 1})
    c.wait_for_acks()
"""


def model() -> dict[str, Any]:
    return {"w": np.zeros(SIZE), "n": 0}


@contextlib.contextmanager
def opened(partitions: int = 3, **options: Any) -> Iterator[tuple[Master, Assignment]]:
    with serving(model(), publish_every=1, **options) as master:
        with epoch(master, partitions) as assignment:
            yield master, replace(assignment, replica="shared", max_in_flight=1)


def join(other: Elsewhere, assignment: Assignment, partition: int) -> None:
    other.do(
        f"c = SharedConnection(pickle.loads({pickle.dumps(assignment)!r}), {partition}, "
        f"{partition + 1}, 'w').__enter__()"
    )


def start(other: Elsewhere) -> int:
    base: int = other.do("answer = start()")
    return base


def pulls(master: Master) -> int:
    return master.state.totals.pulls


def test_one_receives_for_all() -> None:
    with opened() as (master, assignment), contextlib.ExitStack() as stack:
        others = [stack.enter_context(Elsewhere(SETUP)) for _ in range(3)]
        for number, other in enumerate(others):
            join(other, assignment, number)
        for other in others:
            assert start(other) == 0
        assert pulls(master) == 1
        for version, other in enumerate(others * 2, start=1):
            other.do(f"push({version})")
            assert start(other) == version
        assert pulls(master) == 1
        subscribed = [other.do("answer = c._sockets._subscriber is not None") for other in others]
        assert subscribed == [True, False, False]


def test_who_does_not_receive_learns_that_it_is_too_stale() -> None:
    with opened(policy=Ringmaster(2, "requeue")) as (_, assignment):
        with Elsewhere(SETUP) as receiver, Elsewhere(SETUP) as other:
            for number, one in enumerate((receiver, other)):
                join(one, assignment, number)
                assert start(one) == 0
            assert not other.do("answer = c.too_stale()")
            for step in range(2):
                receiver.do(f"push({step})")
                start(receiver)  # and so has loaded what the other may see
            assert other.do("answer = c.too_stale()")
            assert not receiver.do("answer = c.too_stale()")


@pytest.mark.parametrize("gone", ["killed", "closed", "suspended"])
def test_another_takes_over(gone: str) -> None:
    with opened() as (master, assignment), Elsewhere(SETUP) as second:
        with Elsewhere(SETUP) as first:
            join(first, assignment, 0)
            assert start(first) == 0
            join(second, assignment, 1)
            assert start(second) == 0
            second.do("push(0)")
            assert start(second) == 1
            assert pulls(master) == 1
            if gone == "suspended":
                second.do("replica.SILENT_S = 0.1")
                first.suspend()
                second.do("push(1)")
                assert start(second) == 2
            if gone == "closed":
                first.do("c.__exit__(None, None, None)")
        second.do("push(2)")
        assert start(second) == master.state.version
        second.do("push(3)")
        assert start(second) == master.state.version == (4 if gone == "suspended" else 3)


def test_a_torn_replica_is_mended_by_the_next_receiver() -> None:
    with opened() as (master, assignment), Elsewhere(SETUP) as second:
        with Elsewhere(SETUP) as first:
            join(first, assignment, 0)
            start(first)
            join(second, assignment, 1)
            start(second)
            first.do(
                "def half(version, tree):\n"
                "    c._replica.arrays['w'][:500] = 77\n"
                "    signal.raise_signal(signal.SIGKILL)\n"
                "c._replica._replica.load = half"
            )
            second.do("push(0)")
            first.wait()
        assert start(second) == master.state.version == 1


def test_one_suspended_while_writing_leaves_the_others_alone() -> None:
    """They go on with replicas of their own."""
    with opened() as (master, assignment), Elsewhere(SETUP) as second:
        with Elsewhere(SETUP) as first:
            join(first, assignment, 0)
            start(first)
            join(second, assignment, 1)
            start(second)
            first.do("c._replica._replica.load = lambda *_: signal.raise_signal(signal.SIGSTOP)")
            second.do("push(0)")
            eventually(first.suspended, "the receiver writes")
            second.do("segment.LOCK_S = replica.SILENT_S = 0.1")
            assert start(second) == master.state.version == 1
            assert second.do("answer = type(c._replica).__name__") == "Replica"
            second.do("push(1)")
            assert start(second) == 2


def test_the_next_partition_finds_it_in_place() -> None:
    with opened() as (master, assignment), Elsewhere(SETUP) as one:
        join(one, assignment, 0)
        start(one)
        one.do("push(0); start(); c.__exit__(None, None, None)")
        join(one, assignment, 1)
        assert start(one) == 1
        assert one.do("answer = len(_replicas)") == 0
        eventually(lambda: pulls(master) == 2, "it is brought up to date")
        assert master.state.totals.bytes_published_decoded < 3 * 8 * SIZE, "pulled all again"


def test_steps_that_are_settled_see_a_whole_model_too() -> None:
    with opened() as (_, assignment), Elsewhere(SETUP) as one:
        join(one, assignment, 0)
        one.do("model['w'][:] = 5; c.restore(parameters)")
        assert one.do("answer = float(model['w'].sum())") == 0.0


# ---- by choice -----------------------------------------------------------------------------


def one_each(model: Any, items: Any) -> Any:
    for _ in items:
        w = model["w"]
        assert (w == w[0]).all(), "rows of two versions"
        yield {"w": np.ones(len(w), w.dtype), "n": 1}


DATA = [[0] * 7, [1] * 5, [2] * 8]
ITEMS = 20


@pytest.mark.parametrize("max_in_flight", [1, 2])
def test_each_counts_once_whoever_is_killed(tmp_path: Path, max_in_flight: int) -> None:
    """Each partition kills its process once; one of them is the receiver."""

    def dying(model: Any, items: Any) -> Any:
        for number, item in enumerate(items):
            if number == 3:
                with contextlib.suppress(FileExistsError):
                    (tmp_path / str(item)).touch(exist_ok=False)
                    os.kill(os.getpid(), signal.SIGKILL)
            yield from one_each(model, [item])

    with ZmqDist(
        {"w": np.zeros(3000), "n": 0}, replica="shared", max_in_flight=max_in_flight
    ) as dd:
        result = dd.train(DATA, dying, workers=3)
        assert result.applied == dd.model["n"] == ITEMS
        assert (dd.model["w"] == ITEMS).all()
        assert result.sessions == 6


@pytest.mark.parametrize(
    ("replica", "size", "workers", "shares"),
    [
        ("auto", SHARE_BYTES, 2, True),
        ("auto", SHARE_BYTES - 1, 2, False),
        ("auto", SHARE_BYTES, 1, False),
        ("shared", 8, 1, True),
        ("private", SHARE_BYTES, 2, False),
    ],
)
def test_what_is_shared(
    monkeypatch: pytest.MonkeyPatch, replica: str, size: int, workers: int, shares: bool
) -> None:
    joined: list[int] = []

    def join(name: str, size: int, mark: bytes) -> Any:
        joined.append(size)
        raise Unshareable("a test")

    monkeypatch.setattr(segment.Segment, "join", join)
    monkeypatch.setattr(api, "engine_for", ThreadEngine)
    with ZmqDist({"w": np.zeros(size, np.int8), "n": 0}, replica=replica) as dd:
        assert dd.train(DATA, one_each, workers=workers).applied == 20
    assert bool(joined) == shares


@pytest.mark.parametrize(("replica", "level"), [("shared", "WARNING"), ("auto", "INFO")])
def test_who_cannot_share_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, replica: str, level: str
) -> None:
    monkeypatch.setattr(segment, "_available_bytes", lambda: 0)
    monkeypatch.setattr(api, "engine_for", ThreadEngine)
    caplog.set_level(logging.INFO)
    with ZmqDist({"w": np.zeros(SHARE_BYTES), "n": 0}, replica=replica) as dd:
        assert dd.train([[0], []], one_each).applied == 1
    said = [record for record in caplog.records if record.name == "zmqdist.shared"]
    assert {record.levelname for record in said} == {level}
    assert "neither memory nor SPARK_LOCAL_DIRS" in said[0].getMessage()


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigError, match="replica is 'mine'; expected one of auto, shared"):
        ZmqDist(model(), replica="mine")
