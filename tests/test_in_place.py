"""Training in place: what each worker learned is in the model once, whatever the tiers."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tests.support import Running, ThreadEngine, epoch, serving, work
from zmqdist import Update, ZmqDist
from zmqdist.connection import Connection
from zmqdist.core.lineage import Point
from zmqdist.engines.job import Job
from zmqdist.errors import ConfigError, GradientError
from zmqdist.exchange import InPlaceConnection
from zmqdist.in_place import InPlace
from zmqdist.merge import RowTrustRegion
from zmqdist.models.arrays import PathParameters
from zmqdist.models.base import parameters_of
from zmqdist.models.structure import load_structure
from zmqdist.models.tiers import REFRESH, Tiers
from zmqdist.staleness import Asynchronous, BoundedStaleness, SoftSync, StaleSynchronous
from zmqdist.task import Summary
from zmqdist.worker import run_partition

ROWS = 40
ITEMS = [[(7 * n + 3 * part) ** 2 % ROWS for n in range(30)] for part in range(5)]
TIERS = Tiers(hot_rows=6, all_every=4)
PER_CHUNK = 2


class Table:
    """Rows to be counted in; the others are here for their shapes."""

    def __init__(self) -> None:
        self.rows = np.zeros((ROWS, 3), np.float32)
        self.bias = np.zeros(4, np.float32)
        self.whole = np.zeros((), np.float64)
        self.known = np.arange(2 * ROWS).reshape(ROWS, 2) % 3 == 0
        self.items = 0
        self.total = 0.0


def learn(model: Table, items: Any) -> Iterator[Any]:
    """Add dyadic numbers, so that every order gives the same sum."""
    for count, item in enumerate(items, 1):
        model.rows[item] += [1, 0.25, -0.5]
        model.bias[item % 4] += 0.125
        model.whole = model.whole + 0.5
        model.total += 0.25
        if count % PER_CHUNK == 0:
            yield Update({"items": PER_CHUNK}, metrics={"item": item})


def expected(parts: Any = ITEMS, epochs: int = 1) -> Table:
    sum_of_all = Table()
    for _ in range(epochs):
        for part in parts:
            sum_of_all.items += sum(update.arrays["items"] for update in learn(sum_of_all, part))
    return sum_of_all


def check_sum(model: Table, parts: Any = ITEMS, epochs: int = 1) -> None:
    right = expected(parts, epochs)
    np.testing.assert_array_equal(model.rows, right.rows)
    np.testing.assert_array_equal(model.bias, right.bias)
    assert (model.whole, model.items, model.total) == (right.whole, right.items, right.total)


class OwnModels(ThreadEngine):
    """Runs partitions in threads that, as processes do, have a model each."""

    def run(self, job: Job, missing: list[int]) -> list[Summary]:
        first = self._attempts
        self._attempts += len(missing)
        own = threading.local()

        def work(index: int) -> Summary:
            if not hasattr(own, "structure"):
                own.structure = load_structure(job.payload)
            model, gradient = own.structure
            partition = missing[index]
            return run_partition(
                job.assignment,
                model,
                gradient,
                partition=partition,
                attempt=first + index,
                data=self._data[partition],
            )

        with ThreadPoolExecutor(self._workers) as pool:
            return list(pool.map(work, range(len(missing))))


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqdist.api.engine_for", OwnModels)


@pytest.fixture
def ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = dict.fromkeys(("rows", "known"), np.arange(ROWS))
    monkeypatch.setattr(PathParameters, "ranked", lambda self: ranks)


# ---- the sum ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("threads")
class TestSum:
    @pytest.mark.parametrize("rows_are_ranked", [False, True])
    @pytest.mark.parametrize("fresh", [False, True])
    @pytest.mark.parametrize("max_in_flight", [1, 2, 4])
    @pytest.mark.parametrize("workers", [1, 4])
    def test_all_is_in_the_model_once(
        self,
        workers: int,
        max_in_flight: int,
        fresh: bool,
        rows_are_ranked: bool,
        request: pytest.FixtureRequest,
    ) -> None:
        if rows_are_ranked:
            request.getfixturevalue("ranked")
        tiers = Tiers(hot_rows=6, all_every=4, fresh=fresh)
        with ZmqDist(Table(), staleness=Asynchronous(), max_in_flight=max_in_flight) as dd:
            result = dd.train(ITEMS, learn, tiers=tiers, epochs=2, workers=workers)
            check_sum(dd.model, epochs=2)
            assert result.examples == 2 * sum(map(len, ITEMS))
            assert result.rejected == result.failed == 0
            dd.train(ITEMS, learn, tiers=tiers, workers=workers)
            check_sum(dd.model, epochs=3)

    @pytest.mark.parametrize("fresh", [False, True])
    def test_answers_taken_in_within_a_chunk(self, fresh: bool, ranked: None) -> None:
        def learn_refreshed(model: Table, items: Any) -> Iterator[Any]:
            for item in items:
                for update in learn(model, [item] * PER_CHUNK):
                    yield REFRESH
                    yield update

        with ZmqDist(Table(), staleness=Asynchronous()) as dd:
            dd.train(ITEMS, learn_refreshed, tiers=replace(TIERS, fresh=fresh), workers=3)
            check_sum(dd.model, [[i for i in part for _ in range(PER_CHUNK)] for part in ITEMS])

    @pytest.mark.parametrize(
        "tiers",
        [
            Tiers(hot_rows=0, all_every=3),
            Tiers(hot_rows=10 * ROWS, all_every=1),
            Tiers(hot_rows=1, all_every=10_000, growth=10_000),
            Tiers(hot_rows=1),
            Tiers(hot_rows=2, growth=3, all_every=7),
        ],
        ids=repr,
    )
    def test_tiers_at_their_ends(self, tiers: Tiers, ranked: None) -> None:
        with ZmqDist(Table(), staleness=Asynchronous()) as dd:
            dd.train(ITEMS, learn, tiers=tiers, workers=3)
            check_sum(dd.model)

    @pytest.mark.parametrize("max_in_flight", [1, 3])
    @pytest.mark.parametrize(
        "policy",
        [
            BoundedStaleness(0, "requeue"),
            BoundedStaleness(1, "requeue"),
            StaleSynchronous(0),
            StaleSynchronous(2),
            StaleSynchronous(0, "lazy"),
        ],
        ids=repr,
    )
    def test_policies_that_send_back_or_hold_back(
        self, policy: Any, max_in_flight: int, ranked: None
    ) -> None:
        with ZmqDist(Table(), staleness=policy, max_in_flight=max_in_flight) as dd:
            result = dd.train(ITEMS, learn, tiers=TIERS, workers=3)
            check_sum(dd.model)
        assert result.sessions == len(ITEMS)  # nothing was left for a second attempt
        if isinstance(policy, BoundedStaleness):
            assert max(result.staleness) <= policy.max_staleness

    def test_rounded_changes_keep_what_rounding_cuts_off(self, ranked: None) -> None:
        def drip(model: Table, items: Any) -> Iterator[None]:
            for _ in items:
                model.rows += np.float32(1.0 + 2.0**-9)
                yield

        tiers = Tiers(hot_rows=4, all_every=2, keep_bits=4, read_bits=6)
        with ZmqDist(Table(), staleness=Asynchronous()) as dd:
            dd.train([range(64)], drip, tiers=tiers)
            np.testing.assert_allclose(dd.model.rows, 64 * (1 + 2.0**-9), rtol=2.0**-11)

    def test_a_worker_alone_is_not_damped(self) -> None:
        with ZmqDist(Table(), staleness=Asynchronous(), merge=RowTrustRegion(4.0)) as dd:
            dd.train(ITEMS[:1], learn, tiers=TIERS, workers=1)
            check_sum(dd.model, ITEMS[:1])


# ---- what a worker knows ------------------------------------------------------------------------


@pytest.mark.usefixtures("threads", "ranked")
class TestModelOfTheWorker:
    @pytest.mark.parametrize("tiers", [TIERS, Tiers(hot_rows=2)], ids=["short", "long"])
    @pytest.mark.parametrize("policy", [Asynchronous(), BoundedStaleness(0, "requeue")], ids=repr)
    def test_a_worker_alone_trains_as_without_a_master(self, policy: Any, tiers: Tiers) -> None:
        SEEN.clear()
        with ZmqDist(Table(), staleness=policy) as dd:
            dd.train(ITEMS, watched, tiers=tiers, workers=1)
        alone = Table()
        right = [alone.rows.copy() for part in ITEMS for _ in learn(alone, part)]
        np.testing.assert_array_equal(SEEN, right)

    def test_what_others_learned_arrives(self) -> None:
        SEEN.clear()
        tiers = Tiers(hot_rows=2, all_every=2)
        with ZmqDist(Table(), staleness=Asynchronous()) as dd:
            dd.train([[0], [1]], meeting, tiers=tiers, workers=2)
        assert SEEN == [(1.0, 1.0, 2.0)] * 2

    def test_what_others_learned_arrives_within_a_chunk(self) -> None:
        SEEN.clear()
        with ZmqDist(Table(), staleness=Asynchronous()) as dd:
            dd.train([[0], [1]], looking_up, tiers=Tiers(hot_rows=2), workers=2)
            check_sum(dd.model, [[0, 0], [1, 1]])
        assert SEEN == [True, True]

    @pytest.mark.parametrize("tiers", [None, TIERS], ids=["updates", "in place"])
    def test_the_data_says_how_often_it_was_gone_through(self, tiers: Tiers | None) -> None:
        SEEN.clear()
        with ZmqDist({"n": 0}, staleness=Asynchronous()) as dd:
            dd.train([[0]] * 4, going_through, tiers=tiers, workers=1, epochs=2)
            dd.train([[0]] * 2, going_through, tiers=tiers, workers=1)
            assert dd.model["n"] == 10
        assert SEEN == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 0, 0.5]

    def test_a_retry_cuts_its_chunks_as_the_attempt_before_did(self) -> None:
        """Steps that are settled hold the same items, whatever is complete by now."""
        model = Table()
        items = [*range(12)]
        with serving(model, policy=Asynchronous()) as master, epoch(master, 2) as assignment:
            assignment = replace(assignment, tiers=TIERS)
            with pytest.raises(GradientError, match="half-way"):
                work(assignment, Table(), growing_half_way, items, partition=0, attempt=1)
            assert work(assignment, Table(), growing, items, partition=1, attempt=2).complete
            assert work(assignment, Table(), growing, items, partition=0, attempt=3).complete
        check_sum(model, [items, items])

    @pytest.mark.parametrize("policy", [Asynchronous(), StaleSynchronous(2)], ids=repr)
    def test_what_is_settled_is_not_in_the_worker_s_model_twice(self, policy: Any) -> None:
        """A second attempt starts from values that hold what its first one sent.

        The chunks that it does not send again bring it no nearer to the limit.
        """
        first, second = Table(), Table()
        SEEN.clear()
        with serving(first, policy=policy) as master, epoch(master) as assignment:
            assignment = replace(assignment, tiers=TIERS)
            with pytest.raises(GradientError, match="half-way"):
                work(assignment, Table(), half_way, ITEMS[0], attempt=1)
            again = Running(lambda: work(assignment, second, watched, ITEMS[0], attempt=2))
            assert not again.join(30).stopped
            check_sum(first, ITEMS[:1])
            right = [rows for rows in SEEN if not np.array_equal(rows, first.rows)]
            assert len(right) == len(SEEN) - 1
            np.testing.assert_array_equal(second.rows, first.rows)


SEEN: list[Any] = []
TWO = threading.Barrier(2, timeout=20)


def watched(model: Table, items: Any) -> Iterator[Any]:
    for update in learn(model, items):
        SEEN.append(model.rows.copy())
        yield update


def going_through(model: Any, data: Any) -> Iterator[Any]:
    SEEN.append(data.passes)
    list(data)
    yield Update({"n": 1})


def growing(model: Table, data: Any) -> Iterator[Any]:
    """Two items for a chunk, or four once a part of the data is done."""
    size = 2 if not data.passes else 4
    while chunk := list(itertools.islice(data, size)):
        list(learn(model, chunk))
        yield Update({"items": len(chunk)})


def growing_half_way(model: Table, data: Any) -> Iterator[Any]:
    yield from itertools.islice(growing(model, data), 3)
    raise OSError("half-way")


def half_way(model: Table, items: Any) -> Iterator[Any]:
    for chunk, update in enumerate(learn(model, items)):
        if chunk == 9:
            raise OSError("half-way")
        yield update


def meeting(model: Table, items: Any) -> Iterator[None]:
    """Rows 0 and 1 are hot, row 30 is not."""
    model.rows[next(items)] += 1
    model.rows[30] += 1
    for _ in range(6):
        TWO.wait()
        yield
    SEEN.append((float(model.rows[0, 0]), float(model.rows[1, 0]), float(model.rows[30, 0])))


def looking_up(model: Table, items: Any) -> Iterator[Any]:
    """Go on with the third chunk until it shows what the other did in its first."""
    item = next(items)
    yield from learn(model, [item] * PER_CHUNK)
    TWO.wait()  # both have the answer to the first
    yield REFRESH
    yield Update({"items": 0})
    until = time.monotonic() + 20
    while not (there := model.rows[1 - item, 0] > 0) and time.monotonic() < until:
        yield REFRESH
    SEEN.append(there)
    yield Update({"items": 0})


def third(model: Table, items: Any) -> Iterator[None]:
    for item in items:
        model.rows[item] += 1 / 3
        yield


def look(model: Table, items: Any) -> None:
    SEEN.append(model.rows.copy())


# ---- bytes ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("threads")
class TestReuse:
    def test_the_next_partition_asks_for_what_changed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[int] = []
        enter = Connection.__enter__

        def noted(self: Connection) -> Connection:
            asked.append(self._state.version)
            return enter(self)

        monkeypatch.setattr(Connection, "__enter__", noted)
        big = {"w": np.zeros((20_000, 8), np.float32), "n": 0}

        def touch(model: Any, items: Any) -> Iterator[Update]:
            for item in items:
                model["w"][item] += 1
                yield Update({"n": 1})

        with ZmqDist(big, staleness=Asynchronous(), codec="raw") as dd:
            first = dd.train([range(5)], touch, tiers=TIERS, workers=1)
            second = dd.train([range(5)] * 4, touch, tiers=TIERS, workers=1)
            assert np.array_equal(dd.model["w"][:6, 0], [5, 5, 5, 5, 5, 0])
            assert dd.model["n"] == 25
        assert asked[0] == -1
        assert all(version > 0 for version in asked[1:])
        assert first.bytes_published > big["w"].nbytes
        assert second.bytes_published < big["w"].nbytes / 10

    @pytest.mark.usefixtures("ranked")
    @pytest.mark.parametrize(
        ("policy", "epochs", "newest"),
        [
            (Asynchronous(), 1, [True, False]),
            (Asynchronous(), 2, [True, True]),
            (StaleSynchronous(5), 1, [True, False]),
            (BoundedStaleness(500, "requeue"), 1, [True, True]),
        ],
        ids=repr,
    )
    def test_all_rows_are_read_when_an_epoch_begins_and_with_a_bound_always(
        self, policy: Any, epochs: int, newest: list[bool], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parts = ITEMS[: 2 // epochs]
        read: list[bool] = []
        begin = InPlaceConnection.begin

        def noted(self: Any, parameters: Any, *, newest: bool) -> Any:
            read.append(newest)
            return begin(self, parameters, newest=newest)

        monkeypatch.setattr(InPlaceConnection, "begin", noted)
        with ZmqDist(Table(), staleness=policy) as dd:
            dd.train(parts, learn, tiers=Tiers(hot_rows=2), workers=1, epochs=epochs)
            check_sum(dd.model, parts, epochs)
        assert read == newest

    @pytest.mark.usefixtures("ranked")
    def test_nothing_falls_due_between_two_partitions(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However many take part: what one begin counts up to, the next one counts from."""
        missed: dict[tuple[int, int], list[tuple[float, float]]] = {}
        copies: list[Any] = []  # so that no number is given out twice
        begin = InPlaceConnection.begin

        def noted(self: Any, parameters: Any, *, newest: bool) -> Any:
            if (these := self.missed()) is not None:
                missed.setdefault((id(self._own), self.assignment.epoch), []).append(these)
                copies.append(self._own)
            return begin(self, parameters, newest=newest)

        monkeypatch.setattr(InPlaceConnection, "begin", noted)
        with ZmqDist(Table(), staleness=Asynchronous()) as dd:
            for workers in (1, 3, 1):
                dd.train(ITEMS, learn, tiers=Tiers(hot_rows=2), workers=workers)
        counted = sum(len(each) for each in missed.values())
        assert counted >= 8
        for each in missed.values():
            assert [since for since, _ in each] == [0.0, *(until for _, until in each[:-1])]

    @pytest.mark.usefixtures("ranked")
    def test_a_tier_is_as_old_as_its_rows_in_the_next_partition_too(self) -> None:
        """Alone, a worker's exchange of a period p comes p steps after the one before."""
        with ZmqDist(Table(), staleness=Asynchronous()) as dd:
            result = dd.train(ITEMS[:2], learn, tiers=Tiers(hot_rows=2), workers=1)
        assert result.staleness == {0: 1, 1: 16, 3: 8, 7: 4, 15: 2, 31: 1}

    def test_who_does_not_train_in_place_gets_exact_values(self) -> None:
        SEEN.clear()
        with ZmqDist(Table(), staleness=Asynchronous(), replica="private") as dd:
            dd.train(ITEMS[:3], third, tiers=replace(TIERS, read_bits=2), workers=1)
            right = dd.model.rows.copy()
            dd.train([[0]], look, workers=1)
        np.testing.assert_array_equal(SEEN[0], right)


# ---- programs -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("threads")
class TestPrograms:
    @pytest.mark.parametrize("result", [{"items": 1}, None, [1]], ids=repr)
    def test_a_gradient_that_is_no_generator(self, result: Any) -> None:
        with ZmqDist(Table(), staleness=Asynchronous()) as dd:
            with pytest.raises(ConfigError, match="yields after each chunk; this one returned a"):
                dd.train(ITEMS, lambda model, items: result, tiers=TIERS)

    def test_a_policy_that_merges(self) -> None:
        with ZmqDist(Table(), staleness=SoftSync(2)) as dd:
            with pytest.raises(ConfigError, match="makes versions of several updates"):
                dd.train(ITEMS, learn, tiers=TIERS)

    def test_what_is_yielded_may_be_nothing(self) -> None:
        def silent(model: Table, items: Any) -> Iterator[None]:
            for update in learn(model, items):
                assert update
                yield

        with ZmqDist(Table(), staleness=Asynchronous()) as dd:
            result = dd.train(ITEMS, silent, tiers=TIERS)
            assert dd.model.items == 0
            dd.model.items = expected().items
            check_sum(dd.model)
            assert result.examples == sum(map(len, ITEMS))

    def test_a_gradient_that_never_yields(self) -> None:
        def at_once(model: Table, items: Any) -> Iterator[Any]:
            model.items = sum(1 for _ in learn(model, items))
            yield from ()

        with ZmqDist(Table(), staleness=Asynchronous()) as dd:
            result = dd.train(ITEMS, at_once, tiers=TIERS)
            dd.model.items = expected().items
            check_sum(dd.model)
            assert result.examples == sum(map(len, ITEMS))

    def test_what_is_yielded_is_no_update(self) -> None:
        def wrong(model: Table, items: Any) -> Iterator[Any]:
            yield [np.ones(3)]

        with ZmqDist(Table(), staleness=Asynchronous()) as dd:
            with pytest.raises(ConfigError, match=r"None or a dict of further.* yielded a list"):
                dd.train(ITEMS, wrong, tiers=TIERS)

    def test_examples_and_metrics_are_those_of_the_update(self) -> None:
        def counted(model: Table, items: Any) -> Iterator[Update]:
            for item in items:
                yield Update({"items": 1}, examples=10, metrics={"item": item})

        with ZmqDist(Table(), staleness=Asynchronous()) as dd:
            result = dd.train(ITEMS, counted, tiers=TIERS)
            assert dd.model.items == 150
        assert result.examples == 1500
        assert any("item" in entry for entry in result.history)


# ---- in processes ------------------------------------------------------------------------------


@pytest.mark.parametrize("dies_at", [3, 9, 13])
@pytest.mark.parametrize("max_in_flight", [1, 3])
def test_killed_worker_process(tmp_path: Path, dies_at: int, max_in_flight: int) -> None:
    marker = tmp_path / "killed"

    def dying(model: Table, items: Any) -> Iterator[Any]:
        for chunk, update in enumerate(learn(model, items), 1):
            if chunk == dies_at and not marker.exists():
                with contextlib.suppress(FileExistsError):  # one process only
                    marker.touch(exist_ok=False)
                    os.kill(os.getpid(), signal.SIGKILL)
            yield update

    with ZmqDist(Table(), staleness=Asynchronous(), max_in_flight=max_in_flight) as dd:
        result = dd.train(ITEMS, dying, tiers=TIERS)
        assert marker.exists()
        assert result.sessions == len(ITEMS) + 1
        assert result.duplicates == 0  # what is settled is not sent again
        check_sum(dd.model)


# ---- a link without a master ----------------------------------------------------------------


class Scripted:
    """As much of a link as a partition of one chunk needs; what it answers comes late."""

    passes = 0.0

    def __init__(self, missed: tuple[float, float] | None) -> None:
        self.master = {"w": np.zeros((8, 1), np.float32)}
        self.known = {"w": np.zeros((8, 1), np.float32)}
        self.log: list[Any] = []
        self._missed = missed
        self._pushed: dict[int, Any] = {}
        self._answers: list[Any] = []

    def missed(self) -> tuple[float, float] | None:
        return self._missed

    def begin(self, parameters: Any, *, newest: bool) -> dict[str, Any]:
        self.log.append("newest" if newest else "as it is")
        return self.known

    def ask(self, part: int, rows: Any = None) -> None:
        self.log.append((part, None if rows is None else rows["w"].tolist()))

    def wait_for_answer(self, part: int) -> None:
        self.log.append(part)

    def push(self, push: Any, arrays: Any) -> None:
        self._pushed[push.step] = arrays

    def in_flight(self) -> frozenset[int]:
        return frozenset(self._pushed)

    def wait_for_acks(self) -> None:
        before = {"arrays": {"w": self.master["w"].copy()}, "scalars": {}}
        self._answers.append((1, before, frozenset()))
        for arrays in filter(None, self._pushed.values()):
            self.master["w"] += arrays["w"]
        self._pushed.clear()

    def answers(self) -> list[Any]:
        answers, self._answers = self._answers, []
        return answers

    def settled(self, step: int) -> bool:
        return False

    def next_chunk(self) -> int:
        return 0

    def held(self, part: int) -> Point:
        return Point(0, 0)

    def take_requeued(self) -> int | None:
        return None

    def end(self, chunks: int) -> None:
        for _, late, _ in self._answers:  # as the link itself does
            np.copyto(self.known["w"], late["arrays"]["w"])
        self.log.append(chunks)


def alone(missed: tuple[float, float] | None, tiers: Tiers) -> tuple[Scripted, Any]:
    """Run a partition of one chunk that touches row 5."""

    def touch(model: Any, items: Any) -> Iterator[None]:
        model["w"][5] += 1
        yield

    model = {"w": np.zeros((8, 1), np.float32)}
    link = Scripted(missed)
    task = InPlace(cast(Any, link), parameters_of(model), touch, Summary(0))
    task.run([], tiers)
    return link, model


def test_the_copy_keeps_what_an_answer_does_not_hold_yet() -> None:
    link, model = alone(None, Tiers(hot_rows=0, all_every=9))
    assert link.master["w"][5] == 1
    for arrays in (link.known, model):
        np.testing.assert_array_equal(arrays["w"], link.master["w"])


@pytest.mark.parametrize(
    ("missed", "begins"),
    [
        (None, ["newest"]),
        ((0.0, 0.5), ["as it is", (1, [0, 1]), 1]),
        ((1.5, 1.9), ["as it is", (1, [0, 1]), 1]),
        ((1.5, 2.0), ["as it is", (2, [0, 1, 2, 3]), 2]),
        ((0.0, 3.0), ["as it is", (2, [0, 1, 2, 3]), 2]),
        ((3.9, 4.1), ["newest"]),
        ((4.1, 7.9), ["as it is", (2, [0, 1, 2, 3]), 2]),
        ((2.0, 90.0), ["newest"]),
    ],
)
def test_a_partition_begins_with_the_rows_that_fell_due(
    missed: tuple[float, float] | None, begins: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PathParameters, "ranked", lambda self: {"w": np.arange(8)})
    link, _ = alone(missed, Tiers(hot_rows=2))
    assert link.log == [*begins, (1, [0, 1]), 1, 2]


@pytest.mark.parametrize("fresh", [False, True])
def test_who_refreshes_within_chunks_waits_at_the_end_of_the_next(
    fresh: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PathParameters, "ranked", lambda self: {"w": np.arange(8)})

    def in_parts(model: Any, items: Any) -> Iterator[Any]:
        yield REFRESH
        yield
        link.log.append("computed")

    link = Scripted(None)
    model = {"w": np.zeros((8, 1), np.float32)}
    InPlace(cast(Any, link), parameters_of(model), in_parts, Summary(0)).run(
        [], Tiers(hot_rows=2, fresh=fresh)
    )
    waits = [1] if fresh else []
    assert link.log == ["newest", (1, [0, 1]), "computed", *waits, 2]


def test_rows_that_nobody_has_ranked_are_all_read() -> None:
    link, _ = alone((0.0, 0.5), Tiers(hot_rows=2))
    assert link.log[0] == "newest"
