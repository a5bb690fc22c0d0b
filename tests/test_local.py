"""Training in local processes: every step counts once, whatever the options and the model."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support import Running, free_port, has_ipv6, serving
from zmqdist import DeepDist, RowSparse, Update, ZmqDist
from zmqdist.engines.local import LocalEngine
from zmqdist.errors import AddressInUse, ConfigError, TrainError
from zmqdist.options import MasterOptions
from zmqdist.result import TrainResult
from zmqdist.staleness import (
    APPLY,
    REQUEUE,
    Arrival,
    Asynchronous,
    BoundedStaleness,
    Composed,
    Decision,
    Policy,
    StaleSynchronous,
)

PARTITIONS = [list(range(7)), list(range(5)), list(range(8))]
ITEMS = 20
ANY = "0.0.0.0"  # noqa: S104 - all interfaces


def one_each(model: Any, items: Any) -> Any:
    for _ in items:
        yield {"n": 1}


def one(model: Any, items: Any) -> Any:
    list(items)
    return {"n": 1}


def count_items(model: Any, items: Any) -> Any:
    return {"n": len(list(items))}


BOTH = threading.Barrier(2, timeout=20)


def together(model: Any, items: Any) -> Any:
    """Both partitions are here before either begins; the second one dawdles."""
    for step, item in enumerate(items):
        if step == 0:
            BOTH.wait()
        if item == 2:
            threading.Event().wait(0.005)
        yield {"who": item}


def counting(items: Any) -> dict[str, Any]:
    return {"counts": np.bincount(items, minlength=20)}


def each(model: Any, items: Any) -> Any:
    for item in items:
        yield counting([item])


def in_batches(model: Any, items: Any) -> Any:
    while batch := list(itertools.islice(items, 3)):
        yield counting(batch)


def reading_all_first(model: Any, items: Any) -> Any:
    table = np.array([[item, item] for item in items])
    for begin in range(0, len(table), 3):
        yield counting(table[begin : begin + 3, 0])


def looking_ahead(model: Any, items: Any) -> Any:
    held = next(items)
    for item in itertools.chain(items, [None]):
        yield counting([held])
        held = item


def behind_a_first_line(model: Any, items: Any) -> Any:
    first = next(items)
    if first not in (0, 9):
        raise ValueError(f"a partition that begins with {first}")
    yield counting([first])
    for item in items:
        yield counting([item])


def all_at_once(model: Any, items: Any) -> Any:
    return counting(list(items))


READERS = [each, in_batches, reading_all_first, looking_ahead, behind_a_first_line, all_at_once]


class EverySecondComesBack(Policy):
    """Whatever its staleness."""

    def __init__(self) -> None:
        self._came = 0

    def decide(self, update: Arrival) -> Decision:
        self._came += 1
        return REQUEUE if self._came % 2 else APPLY


def check_count(dd: ZmqDist, result: TrainResult, count: int, so_far: int | None = None) -> None:
    assert result.applied == count
    assert dd.model["n"] == result.version == dd.version == (count if so_far is None else so_far)
    assert sum(result.staleness.values()) == count
    assert result.rejected == result.failed == 0


# ---- in processes -----------------------------------------------------------------------------


@pytest.mark.parametrize("security", ["curve", "none"])
def test_each_yield_counts_once(security: str) -> None:
    with ZmqDist({"n": 0}, security=security) as dd:
        result = dd.train(PARTITIONS, one_each)
        check_count(dd, result, ITEMS)
        assert result.examples == ITEMS
        assert result.sessions == 3
        assert result.evicted == result.duplicates == 0


def test_several_trains_go_on_with_the_model() -> None:
    with ZmqDist({"n": 0}) as dd:
        check_count(dd, dd.train(PARTITIONS, one_each, epochs=3), 3 * ITEMS)
        check_count(dd, dd.train(PARTITIONS, one), 3, 3 * ITEMS + 3)
        check_count(dd, dd.train(PARTITIONS, one, batch_size=2), 11, 3 * ITEMS + 14)


def test_two_at_once_in_threads() -> None:
    def train(partitions: list[list[int]]) -> int:
        with ZmqDist({"n": 0}) as dd:
            check_count(dd, dd.train(partitions, one_each, workers=1), sum(map(len, partitions)))
            return int(dd.model["n"])

    runs = [Running(lambda: train(PARTITIONS)), Running(lambda: train(PARTITIONS[1:]))]
    assert [run.join(60) for run in runs] == [20, 13]


@pytest.mark.parametrize("batch_size", [None, 1])
def test_killed_worker_process(tmp_path: Path, batch_size: int | None) -> None:
    marker = tmp_path / "killed"

    def dying(model: Any, items: Any) -> Any:
        for item in items:
            if item == 3 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield {"n": 1}

    def dying_batch(model: Any, batch: Any) -> Any:
        return next(dying(model, batch))

    gradient = dying if batch_size is None else dying_batch
    with ZmqDist({"n": 0}, max_in_flight=1) as dd:
        result = dd.train(PARTITIONS, gradient, batch_size=batch_size)
        check_count(dd, result, ITEMS)
        assert marker.exists()
        assert result.sessions == 4


def test_functions_of_the_program_travel_by_value() -> None:
    factor = 3
    with ZmqDist({"n": 0}) as dd:
        dd.train([[1, 2], [3]], lambda model, items: {"n": factor * sum(items)}, workers=1)
        assert dd.model["n"] == 18


class BadRow(Exception):
    """Cannot be unpickled: that would call it with its text alone."""

    def __init__(self, row: int, why: str) -> None:
        super().__init__(f"row {row}: {why}")


class Rows:
    def __iter__(self) -> Any:
        yield 1
        raise BadRow(2, "no comma")


def test_what_the_data_raises_arrives_whatever_its_class() -> None:
    with (
        ZmqDist({"n": 0}) as dd,
        pytest.raises(TrainError, match=r"the job failed: BadRow: row 2: no comma"),
    ):
        dd.train([Rows()], one, batch_size=1)


# ---- in threads: options ------------------------------------------------------------------


@pytest.mark.usefixtures("threads")
class TestCounting:
    @pytest.mark.parametrize("max_in_flight", [1, 2, 3])
    @pytest.mark.parametrize(
        "policy",
        [
            Asynchronous(),
            BoundedStaleness(0, "requeue"),
            BoundedStaleness(1, "requeue"),
            BoundedStaleness(0, "scale"),
            StaleSynchronous(0),
            StaleSynchronous(0, "lazy"),
            StaleSynchronous(2, "lazy"),
        ],
        ids=repr,
    )
    def test_all_is_applied_in_the_end(self, policy: Any, max_in_flight: int) -> None:
        with ZmqDist({"n": 0}, staleness=policy, max_in_flight=max_in_flight) as dd:
            check_count(dd, dd.train(PARTITIONS, one_each), ITEMS)
            batches = dd.train(PARTITIONS, one, batch_size=3)
            check_count(dd, batches, 8, ITEMS + 8)
            assert batches.examples == ITEMS
            check_count(dd, dd.train(PARTITIONS, one), 3, ITEMS + 11)
            if isinstance(policy, BoundedStaleness) and policy.on_stale == "requeue":
                assert max(batches.staleness) <= policy.max_staleness

    @pytest.mark.parametrize("max_in_flight", [1, 3])
    def test_rejected_and_applied_make_up_the_steps(self, max_in_flight: int) -> None:
        policy = BoundedStaleness(0)
        with ZmqDist({"n": 0}, staleness=policy, max_in_flight=max_in_flight) as dd:
            result = dd.train(PARTITIONS, one_each, epochs=2)
        assert result.applied + result.rejected == 2 * ITEMS
        assert dd.model["n"] == result.applied == result.version
        assert result.requeued == 0
        assert set(result.staleness) == {0}

    @pytest.mark.parametrize("gradient", READERS, ids=lambda gradient: gradient.__name__)
    def test_what_comes_back_is_computed_from_what_it_was_computed_from(
        self, gradient: Any
    ) -> None:
        """Or its partition is run again: each item counts once, however a gradient reads."""
        with ZmqDist({"counts": np.zeros(20, int)}, staleness=EverySecondComesBack()) as dd:
            result = dd.train([range(9), range(9, 20)], gradient)
            assert dd.model["counts"].tolist() == [1] * 20
        assert result.requeued > 1
        assert result.rejected == result.skipped == 0

    @pytest.mark.parametrize("slack", [0, 2])
    def test_a_gate_counts_what_is_sent(self, slack: int) -> None:
        """The last turn of a generator sends nothing, nor what cannot be computed again."""
        policy = Composed(StaleSynchronous(slack), BoundedStaleness(0, "requeue"))
        with ZmqDist({"counts": np.zeros(20, int)}, staleness=policy) as dd:
            training = Running(lambda: dd.train([range(9), range(9, 20)], looking_ahead))
            assert training.join(60).requeued >= 0
            assert dd.model["counts"].tolist() == [1] * 20

    @pytest.mark.parametrize("slack", [0, 2])
    def test_stale_synchronous_keeps_the_pace(self, slack: int) -> None:
        order: list[int] = []

        def descent(model: Any, update: Any) -> None:
            order.append(update["who"])

        with ZmqDist({"n": 0}, staleness=StaleSynchronous(slack)) as dd:
            dd.train([[1] * 10, [2] * 10], together, descent)
        ahead = np.cumsum([1 if who == 1 else -1 for who in order])
        assert len(order) == 20
        assert max(abs(ahead)) <= slack + 1

    @pytest.mark.parametrize("codec", ["auto", "raw", "lz4", "zstd"])
    def test_codecs_are_loss_free(self, codec: str) -> None:
        grid = np.arange(60_000, dtype=np.float32).reshape(600, 100)
        with ZmqDist({"w": np.zeros_like(grid)}, codec=codec) as dd:
            dd.train([[1], [2]], lambda model, items: {"w": grid * next(items)})
            assert np.array_equal(dd.model["w"], 3 * grid)

    @pytest.mark.parametrize("pace", [{"publish_every": 3}, {"publish_interval_s": 0.05}])
    def test_paces(self, pace: dict[str, Any]) -> None:
        with ZmqDist({"n": 0}, **pace) as dd:
            check_count(dd, dd.train(PARTITIONS, one_each), ITEMS)

    def test_max_updates(self) -> None:
        with ZmqDist({"n": 0}) as dd:
            result = dd.train([range(10**6)] * 2, one_each, epochs=5, max_updates=10)
            assert 10 <= result.applied < 20_000
            assert dd.model["n"] == dd.version
            after = dd.version
            check_count(dd, dd.train(PARTITIONS, one), 3, after + 3)

    def test_deepdist_signature(self) -> None:
        address = f"127.0.0.1:{free_port()}"
        with DeepDist({"n": 0}, address) as dd:
            check_count(dd, dd.train(PARTITIONS, one_each), ITEMS)
            assert dd.address == f"tcp://{address}"

    @pytest.mark.parametrize(
        ("given", "spark_host", "expected"),
        [
            ((), None, ("127.0.0.1", "127.0.0.1")),
            ((), "10.1.2.3", (ANY, "10.1.2.3")),
            (("127.0.0.1:5000",), "10.1.2.3", (ANY, "10.1.2.3")),
            (("127.0.0.2",), "10.1.2.3", ("127.0.0.2", "127.0.0.2")),
            (("10.4.4.4:5000",), "10.1.2.3", (ANY, "10.4.4.4")),
            ((f"{ANY}:5000",), "10.1.2.3", (ANY, "10.1.2.3")),
            (("[fd00::5]:5000",), "10.1.2.3", ("::", "fd00::5")),
            (("[::]:5000",), "10.1.2.3", ("::", "10.1.2.3")),
        ],
        ids=str,
    )
    def test_address_of_deepdist(
        self,
        given: tuple[str, ...],
        spark_host: str | None,
        expected: tuple[str, str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The default is port 5000 of the host that Spark's executors reach."""
        made: list[MasterOptions] = []

        def master(model: Any, options: MasterOptions) -> Any:
            made.append(options)
            raise AddressInUse("seen enough")

        monkeypatch.delenv("ZMQDIST_HOST", raising=False)
        monkeypatch.setattr("zmqdist.api.spark_driver_host", lambda: spark_host)
        monkeypatch.setattr("zmqdist.api.Master", master)
        with pytest.raises(AddressInUse), DeepDist({"n": 0}, *given):
            pass
        assert (made[0].bind_host, made[0].advertise_host, made[0].port) == (*expected, 5000)

    @pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here")
    @pytest.mark.parametrize("security", ["curve", "none"])
    @pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
    def test_ipv6(self, host: str, security: str) -> None:
        with ZmqDist({"n": 0}, host=host, security=security) as dd:
            check_count(dd, dd.train(PARTITIONS, one_each), ITEMS)

    @pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here")
    def test_a_master_elsewhere_on_ipv6(self) -> None:
        with (
            serving({"n": 0}, bind_host="::1", advertise_host="::1") as master,
            ZmqDist({"n": 0}, master=master.address, security="none") as dd,
        ):
            assert dd.address == master.address
            assert dd.address.startswith("tcp://[::1]:")
            check_count(dd, dd.train(PARTITIONS, one_each), ITEMS)

    def test_callbacks_history_and_summary(self) -> None:
        seen: list[dict[str, Any]] = []

        def gradient(model: Any, items: Any) -> Any:
            for item in items:
                yield Update({"n": 1}, examples=10, metrics={"loss": item, "bad": float("nan")})

        with ZmqDist({"n": 0}) as dd:
            result = dd.train(PARTITIONS, gradient, callbacks=[seen.append])
        assert result.examples == 10 * ITEMS
        losses = [entry["loss"] for entry in result.history if "loss" in entry]
        assert losses
        assert all(0 <= loss <= 7 for loss in losses)
        assert not any("bad" in entry for entry in result.history)
        assert result.history[-1]["applied"] == ITEMS
        assert seen[-1]["applied"] == ITEMS
        assert "updates applied" in result.summary()
        assert dd.stats()["applied"] == ITEMS

    def test_plot(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("matplotlib")

        def gradient(model: Any, items: Any) -> Any:
            for item in items:
                yield Update({"n": 1}, metrics={"loss": item})

        with ZmqDist({"n": 0}) as dd:
            result = dd.train(PARTITIONS, gradient)
        labels = [axis.get_ylabel() for axis in result.plot().axes]
        assert labels == ["loss", "applied updates"]
        bars = result.plot().axes[-1].patches
        assert sum(bar.get_height() for bar in bars) == ITEMS
        assert TrainResult().plot().axes[0].get_ylabel() == "examples"
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ConfigError, match=r"needs matplotlib: pip install 'zmqdist\[plot\]'"):
            result.plot()

    def test_huge_and_many_metrics_do_no_harm(self) -> None:
        def gradient(model: Any, items: Any) -> Any:
            for item in items:
                names = {f"metric {item} {i} {'x' * 50}": 1.0 for i in range(3_000)}
                yield Update({"n": 1}, metrics={"huge": 1.7e308, **names})

        with ZmqDist({"n": 0}) as dd:
            check_count(dd, dd.train(PARTITIONS, gradient), ITEMS)


# ---- in threads: updates and models ------------------------------------------------------------


@pytest.mark.usefixtures("threads")
class TestUpdates:
    def test_falsy_updates_are_skipped(self) -> None:
        nothing = [
            None,
            {},
            [],
            (),
            0,
            0.0,
            "",
            np.zeros(0),
            RowSparse([], np.zeros((0, 2)), (3, 2)),
        ]

        def gradient(model: Any, items: Any) -> Any:
            for item in items:
                yield {"n": 1} if item is None else nothing[item]

        with ZmqDist({"n": 0}) as dd:
            result = dd.train([[*range(len(nothing)), None], [0]], gradient)
        check_count(dd, result, 1)
        assert result.skipped == len(nothing) + 1

    def test_only_empty_updates_is_no_error(self) -> None:
        with ZmqDist({"n": 0}) as dd:
            assert dd.train([[1], [2]], lambda model, items: None).skipped == 2

    @pytest.mark.parametrize(
        ("model", "update", "read"),
        [
            ({"w": np.zeros(3)}, {"w": np.ones(3)}, lambda m: m["w"]),
            ([np.zeros(3), 0.0], {"[0]": np.ones(3), "[1]": 2.0}, lambda m: m[0]),
            (np.zeros(3), np.ones(3), lambda m: m),
            (np.zeros(3), {"model": np.ones(3)}, lambda m: m),
            (
                SimpleNamespace(inner=SimpleNamespace(w=np.zeros(3)), name="x"),
                {"inner.w": np.ones(3)},
                lambda m: m.inner.w,
            ),
            ({"n": 0}, {"n": np.int64(1)}, lambda m: m["n"]),
            ({"w": np.zeros(3, "f4")}, {"w": np.ones(3)}, lambda m: m["w"]),
            ({"w": np.zeros(())}, {"w": np.ones(())}, lambda m: m["w"]),
            (
                {"w": np.zeros((3, 2))},
                {"w": RowSparse([0, 1, 2], np.ones((3, 2)), (3, 2))},
                lambda m: m["w"],
            ),
        ],
        ids=["dict", "list", "array", "array by name", "object", "number", "f4", "0-d", "rows"],
    )
    def test_model_kinds(self, model: Any, update: Any, read: Any) -> None:
        with ZmqDist(model) as dd:
            result = dd.train(PARTITIONS, lambda model, items: update)
        assert result.applied == result.version == 3
        assert np.all(np.asarray(read(dd.model)) == 3)

    def test_what_descent_does_to_numbers_reaches_the_workers(self) -> None:
        seen: list[tuple[int, float]] = []

        def gradient(model: Any, items: Any) -> Any:
            for _ in items:
                yield {"seen": model["rate"], "step": model["step"]}

        def descent(model: Any, update: Any) -> None:
            seen.append((update["step"], update["seen"]))
            model["step"] += 1
            model["rate"] = 1.0 / (1 + model["step"])

        with ZmqDist({"rate": 1.0, "step": 0}, max_in_flight=1, publish_every=1) as dd:
            dd.train([range(6)], gradient, descent)
        assert [rate for _, rate in seen] == [1.0 / (1 + step) for step, _ in seen]
        assert all(0 <= now - step <= 1 for now, (step, _) in enumerate(seen))

    def test_model_is_fresh_after_each_yield(self) -> None:
        def gradient(model: Any, items: Any) -> Any:
            for _ in items:
                model["w"] += 100.0
                model["k"] += 7
                yield {"w": model["w"], "k": model["k"]}

        def descent(model: Any, update: Any) -> None:
            assert update["k"] == 7
            assert all(100 <= w <= 105 for w in update["w"])
            model["w"] += 1

        with ZmqDist({"w": np.zeros(4), "k": 0}) as dd:
            dd.train([range(5)], gradient, descent)
        assert np.array_equal(dd.model["w"], np.full(4, 5.0))

    def test_rows_and_sparse_matrices(self) -> None:
        sparse = pytest.importorskip("scipy.sparse")

        def gradient(model: Any, items: Any) -> Any:
            for item in items:
                yield {
                    "rows": RowSparse([item], np.ones((1, 3)), (8, 3)),
                    "matrix": sparse.csr_array(([2.0], ([item], [0])), shape=(8, 3)),
                }

        def descent(model: Any, update: Any) -> None:
            model["a"] += update["rows"]
            model["b"] += update["matrix"].toarray()

        with ZmqDist({"a": np.zeros((8, 3)), "b": np.zeros((8, 3))}) as dd:
            dd.train([range(8), range(4)], gradient, descent)
        times = np.array([2.0] * 4 + [1.0] * 4)
        assert np.array_equal(dd.model["a"], np.repeat(times[:, None], 3, axis=1))
        assert np.array_equal(dd.model["b"][:, 0], 2 * times)

    def test_leaves_of_every_kind(self) -> None:
        leaves = {"t": (1, None, "text"), "l": [True, 2.5], "c": 1j, 7: {"x": np.float32(0.5)}}
        seen: list[Any] = []
        with ZmqDist({"n": 0}) as dd:
            dd.train([[1]], lambda model, items: leaves, lambda model, update: seen.append(update))
        assert seen == [leaves]
        assert [type(leaf) for leaf in seen[0]["t"]] == [int, type(None), str]

    def test_update_of_many_frames(self) -> None:
        rows = np.random.default_rng(1).normal(size=(1000, 700))
        with ZmqDist({"w": np.zeros_like(rows)}) as dd:
            dd.train([[1], [1], [1]], lambda model, items: {"w": rows * sum(items)})
            np.testing.assert_allclose(dd.model["w"], 3 * rows)

    @pytest.mark.parametrize("partitions", [[[], [1, 2]], [[1, 2], [], []], [[1], ()]])
    def test_some_partitions_are_empty(self, partitions: Any) -> None:
        with ZmqDist({"n": 0}) as dd:
            result = dd.train(partitions, count_items)
        assert dd.model["n"] == sum(map(len, partitions))
        assert result.applied == 1


def noise(model: Any, items: Any) -> Any:
    for item in items:
        yield {"w": np.random.default_rng(item).normal(size=10_000)}


def test_a_cap_on_what_versions_take() -> None:
    published = {}
    for cap in (None, 1.0):
        model = {"w": np.zeros(10_000)}
        with ZmqDist(model, publish_bytes_per_s=cap, staleness=Asynchronous()) as dd:
            result = dd.train([list(range(40))], noise)
            assert result.applied == 40
        published[cap] = result.bytes_published_decoded
    assert published[1.0] < 2 * 80_000  # the model that it began with takes a day
    assert published[None] > published[1.0]


@pytest.mark.parametrize(("partitions", "workers", "at_once"), [(3, 1, 1), (1, 4, 1), (3, 2, 2)])
def test_how_many_may_run_at_once(partitions: int, workers: int, at_once: int) -> None:
    assert LocalEngine([[0]] * partitions, workers).at_once == at_once
