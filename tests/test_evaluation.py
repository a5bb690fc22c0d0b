"""Evaluation beside the training: on what, when, and what becomes of its failures."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from gensim.models import FastText, Word2Vec

import zmqdist.result as result_module
from tests.support import DEADLINE_S, eventually, serving
from zmqdist import ZmqDist
from zmqdist.driver import Driver
from zmqdist.errors import ConfigError, EvaluationError, MasterLost, TrainTimeout
from zmqdist.evaluation import SHARE, Evaluation
from zmqdist.merge import Sum
from zmqdist.models import parameters_of
from zmqdist.models.gensim import WORD_VECTORS, Embedding, build_vocab
from zmqdist.models.snapshot import Replica
from zmqdist.models.structure import dump_structure
from zmqdist.result import TrainResult
from zmqdist.staleness import SoftSync

PARTITIONS = [list(range(40)), list(range(30)), list(range(50))]
ITEMS = 120
SIZE = 1000


def model() -> dict[str, Any]:
    return {"n": 0, "w": np.zeros(SIZE)}


def count(model: Any, items: Any) -> Any:
    for _ in items:
        yield {"n": 1, "w": np.ones(SIZE)}


GATE = threading.Event()


def patient(model: Any, items: Any) -> Any:
    """Count, but stop for the gate after 20 items."""
    for item in items:
        if item == 20:
            assert GATE.wait(DEADLINE_S)
        yield {"n": 1, "w": np.ones(SIZE)}


@pytest.fixture(autouse=True)
def gate() -> None:
    GATE.clear()


def counted(copy: Any) -> float:
    """Return the count of a copy that is consistent, and stays so."""
    assert (copy["w"] == copy["n"]).all()
    return float(copy["n"])


# ---- beside a training, in threads -------------------------------------------------------------


@pytest.mark.usefixtures("threads")
class TestTraining:
    @pytest.mark.parametrize("options", [{}, {"publish_every": 7}], ids=str)
    def test_updates_go_on_while_it_runs(self, options: dict[str, Any]) -> None:
        versions: list[float] = []

        def evaluate(copy: Any) -> float:
            if not versions:  # the first waits for updates; they would wait for it in vain
                versions.append(counted(copy))
                eventually(lambda: dd.version >= versions[0] + 10, "updates while it runs")
                GATE.set()
            return counted(copy)

        with ZmqDist(model(), **options) as dd:
            result = dd.train(PARTITIONS, patient, evaluate=evaluate, workers=3)
        assert dd.model["n"] == result.applied == ITEMS
        first = result.evaluations[0]
        assert first["score"] == first["version"] == versions[0] < 10
        assert first["seconds"] < first["evaluation_s"] + 1

    def test_the_curve_begins_before_and_ends_with_the_final_model(self) -> None:
        with ZmqDist(model()) as dd:
            dd.train(PARTITIONS, count)
            result = dd.train(PARTITIONS, count, evaluate=lambda m: {"n": counted(m), "half": 0.5})
        assert result.evaluations[-1]["n"] == 2 * ITEMS
        last = result.history[-1]
        assert last is result.evaluations[-1]
        assert (last["version"], last["applied"], last["examples"]) == (2 * ITEMS, ITEMS, ITEMS)
        assert all(entry["n"] == entry["version"] for entry in result.evaluations)
        seconds = [entry["seconds"] for entry in result.history]
        assert seconds == sorted(seconds)
        assert "half" in result.summary()
        assert "0.5 at version 240" in result.summary()
        assert result.stopped == ""

    def test_stops_when_it_is_told(self) -> None:
        seen = []

        def enough(entry: dict[str, float]) -> bool:
            seen.append(entry)
            if entry["score"] < 10:
                return False
            GATE.set()
            return True

        data = [range(10**9)] * 3  # would go on for ever
        with ZmqDist(model()) as dd:
            result = dd.train(
                data, patient, evaluate=counted, evaluate_every_s=0.01, stop_when=enough, workers=3
            )
            assert result.stopped == "stop_when was true of an evaluation"
            assert result.stopped in result.summary()
            assert dd.model["n"] == result.applied == result.version >= 10
            assert result.evaluations[-1]["score"] == result.version  # the final model, too
            assert dd.train(PARTITIONS, count).applied == ITEMS  # nothing hangs over
        assert seen[0].keys() >= {"score", "version", "seconds", "examples", "evaluation_s"}

    def test_stops_before_anything_is_applied(self) -> None:
        def nothing(model: Any, items: Any) -> Any:
            for _ in items:
                yield None

        with ZmqDist(model()) as dd:
            dd.train(PARTITIONS, count)
            result = dd.train(
                [range(10**9)], nothing, evaluate=counted, stop_when=lambda entry: True
            )
        assert result.stopped == "stop_when was true of an evaluation"
        assert (result.applied, dd.model["n"]) == (0, ITEMS)
        assert result.evaluations[-1]["score"] == ITEMS

    def test_max_updates_says_so(self) -> None:
        with ZmqDist(model()) as dd:
            result = dd.train([range(10**9)], count, max_updates=20)
        assert result.stopped == "max_updates=20 was reached"

    @pytest.mark.parametrize("where", ["evaluate", "stop_when"])
    def test_failing_at_first_ends_the_run(self, where: str) -> None:
        def broken(_: Any) -> float:
            raise KeyError("analogie")

        options: dict[str, Any] = {"evaluate": counted, where: broken}
        message = f"(?s){where} failed on version .*: KeyError: 'analogie'\n.*in broken"
        with ZmqDist(model()) as dd:
            with pytest.raises(EvaluationError, match=message) as caught:
                dd.train([range(10**9)] * 2, count, **options)
            assert dd.model["n"] == dd.version >= caught.value.version
            assert dd.train(PARTITIONS, count).applied == ITEMS

    def test_failing_later_costs_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.ERROR)
        calls: list[float] = []

        def evaluate(copy: Any) -> float:
            calls.append(counted(copy))
            if len(calls) == 2:
                GATE.set()
                raise RuntimeError("the disk is full")
            return calls[-1]

        with ZmqDist(model()) as dd:
            result = dd.train(
                PARTITIONS, patient, evaluate=evaluate, evaluate_every_s=0.01, workers=3
            )
        assert result.applied == ITEMS
        assert result.evaluations[-1]["score"] == ITEMS
        assert calls[1] not in [entry["score"] for entry in result.evaluations]
        assert "RuntimeError: the disk is full" in caplog.text

    @pytest.mark.parametrize(
        ("found", "message"),
        [
            (None, "'score' is a NoneType; expected a number or a dict of numbers"),
            ((0.3, []), "'score' is a tuple"),
            ({"analogy": "0.3"}, "'analogy' is a str"),
            ({"version": 3}, "'version' has its meaning in a history; give it another name"),
        ],
        ids=str,
    )
    def test_what_is_no_figure(self, found: Any, message: str) -> None:
        with ZmqDist(model()) as dd, pytest.raises(EvaluationError, match=message):
            dd.train([range(10**9)], count, evaluate=lambda _: found)

    def test_what_it_does_to_its_copy_stays_there(self) -> None:
        def spoil(copy: Any) -> float:
            found = counted(copy)
            copy["w"][:] = -1
            copy["n"] = 10**6
            return found

        with ZmqDist(model()) as dd:
            result = dd.train(PARTITIONS, count, evaluate=spoil, evaluate_every_s=0.001)
        assert dd.model["n"] == ITEMS
        assert (dd.model["w"] == ITEMS).all()
        assert result.evaluations[-1]["score"] == ITEMS

    def test_with_a_buffer(self) -> None:
        with ZmqDist(model(), staleness=SoftSync(1, timeout_s=0.2), merge=Sum()) as dd:
            result = dd.train(PARTITIONS, count, evaluate=counted, workers=3)
        assert result.evaluations[-1]["version"] == result.version
        assert result.evaluations[-1]["score"] == dd.model["n"]

    def test_with_a_master_elsewhere(self) -> None:
        mine = model()
        with (
            serving(model()) as master,
            ZmqDist(mine, master=master.address, security="none") as dd,
        ):
            for so_far in (ITEMS, 2 * ITEMS):
                result = dd.train(PARTITIONS, count, evaluate=counted)
                assert result.evaluations[-1]["score"] == mine["n"] == so_far

    def test_what_a_master_elsewhere_has_learned_is_kept(self) -> None:
        def broken(copy: Any) -> float:
            eventually(lambda: master.state.version > ITEMS, "updates while it runs")
            raise RuntimeError

        mine = model()
        with (
            serving(model()) as master,
            ZmqDist(mine, master=master.address, security="none") as dd,
        ):
            dd.train(PARTITIONS, count)
            with pytest.raises(EvaluationError):
                dd.train([range(10**9)], count, evaluate=broken)
            assert ITEMS < counted(mine) == dd.version
            with pytest.raises(TrainTimeout, match="the model holds these"):
                dd.train([range(10**9)], count, timeout_s=1.0)
            assert dd.version - dd.stats()["applied"] < counted(mine) == dd.version

    def test_a_master_that_is_lost_at_the_end_hides_no_error(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def lost(*_: Any) -> int:
            raise MasterLost("gone")

        monkeypatch.setattr(Driver, "fetch", lost)
        with (
            serving(model()) as master,
            ZmqDist(model(), master=master.address, security="none") as dd,
            pytest.raises(TrainTimeout),
        ):
            dd.train([range(10**9)], count, timeout_s=0.2)
        assert "the model is as it was before train(): gone" in caplog.text

    def test_plot(self) -> None:
        pytest.importorskip("matplotlib")
        with ZmqDist(model()) as dd:
            result = dd.train(PARTITIONS, count, evaluate=lambda m: {"n": m["n"], "loss": 1})
        result.history.insert(0, {"seconds": 0.1, "version": 9, "examples": 9, "loss": 2.0})
        axes = result.plot().axes
        assert [axis.get_ylabel() for axis in axes] == ["loss", "n", "loss", "applied updates"]
        curve = [axis.lines[0].get_xydata().tolist() for axis in axes[:-1]]
        assert curve[1][-1] == [ITEMS, ITEMS]  # the figure over the version that it is of
        assert curve[2] == [[9, 2.0]]  # the metric of that name has an axis of its own
        seconds = result.plot(over="seconds").axes[1]
        assert seconds.lines[0].get_xdata()[-1] == result.history[-1]["seconds"]
        assert seconds.get_xlabel() == "seconds"
        with pytest.raises(ConfigError, match="over is 'epoch'; expected one of version, examples"):
            TrainResult().plot(over="epoch")

    def test_the_history_of_a_long_run_grows_slowly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(result_module, "FINEST", 100)
        result = TrainResult()
        for second in range(10_000):
            result.seconds = float(second)
            if result.due:
                result.note({"seconds": result.seconds})
            if second % 1000 == 0:
                result.note({"seconds": result.seconds - 0.5, "evaluation_s": 1.0})
        seconds = [entry["seconds"] for entry in result.history]
        assert seconds == sorted(seconds)
        assert len(result.evaluations) == 10
        assert 100 <= len(seconds) <= 1000  # 100 (1 + ln(10,000 / 100)) = 560, and whole seconds
        assert max(b - a for a, b in pairwise(seconds)) <= 10_000 / 100 + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evaluate": 3}, "evaluate is 3; expected a function"),
        ({"evaluate": counted, "stop_when": 0.3}, r"stop_when is 0\.3; expected a function"),
        ({"evaluate": counted, "evaluate_every_s": 0}, "evaluate_every_s is 0; expected seconds"),
        ({"evaluate_every_s": 1}, "evaluate_every_s= is for evaluate=, which is not given"),
        ({"stop_when": counted}, "stop_when= is for evaluate=, which is not given"),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, dict) else "",
)
def test_options(options: dict[str, Any], message: str) -> None:
    with ZmqDist(model()) as dd, pytest.raises(ConfigError, match=message):
        dd.train(PARTITIONS, count, **options)


# ---- in processes ------------------------------------------------------------------------------


class Elsewhere:
    """Cannot be loaded where it was made, as a broadcast variable of Spark."""

    def __reduce__(self) -> Any:
        return load_elsewhere, (os.getpid(),)


def load_elsewhere(made_by: int) -> Elsewhere:
    assert os.getpid() != made_by
    return Elsewhere()


def test_what_only_workers_can_load() -> None:
    held = Elsewhere()

    def gradient(model: Any, items: Any) -> Any:
        assert held is not None
        return count(model, items)

    with ZmqDist(model()) as dd:
        result = dd.train(PARTITIONS, gradient, evaluate=counted)
    assert result.evaluations[-1]["score"] == result.applied == ITEMS


# ---- of word vectors, in processes -------------------------------------------------------------

WORDS = [[f"w{(n * m * m) % 29}" for n in range(12)] for m in range(1, 60)]


def test_word_vectors_come_as_a_whole_model() -> None:
    word2vec = Word2Vec(vector_size=8, min_count=1, workers=1, epochs=2)
    build_vocab(word2vec, [WORDS[:30], WORDS[30:]])

    def evaluate(copy: Any) -> dict[str, float]:
        assert isinstance(copy, Word2Vec)
        assert copy is not word2vec
        assert copy.wv.most_similar("w1", topn=3)
        return {"norm": np.linalg.norm(copy.wv["w1"]), "done": copy.words_done}

    with ZmqDist(word2vec, **WORD_VECTORS) as dd:
        gradient = Embedding(chunk_words=50)
        result = dd.train([WORDS[:30], WORDS[30:]], gradient, epochs=2, evaluate=evaluate)
    last = result.evaluations[-1]
    assert last["norm"] == pytest.approx(np.linalg.norm(word2vec.wv["w1"]))
    assert last["done"] == word2vec.words_done == 2 * 12 * 59


def test_what_is_computed_from_the_weights_fits_them_after_an_error() -> None:
    fast_text = FastText(vector_size=8, min_count=1, workers=1, bucket=50)
    build_vocab(fast_text, [WORDS])

    def broken(copy: Any) -> float:
        eventually(lambda: dd.version > 10, "updates while it runs")
        raise RuntimeError

    with ZmqDist(fast_text, **WORD_VECTORS) as dd:
        with pytest.raises(EvaluationError):
            dd.train([WORDS], Embedding(chunk_words=50), epochs=1000, evaluate=broken)
        vectors = fast_text.wv.vectors.copy()
        fast_text.wv.adjust_vectors()
    assert vectors == pytest.approx(fast_text.wv.vectors, abs=1e-6)


# ---- alone -------------------------------------------------------------------------------------


class Published:
    """A master that has published `version`, in which each number is the version."""

    def __init__(self) -> None:
        self.version, self.run, self.closed = 0, "run", 0

    def pull(self, replica: Replica, version: int) -> str:
        self.version = max(self.version, version)
        full = replica.version < 0
        replica.load(
            self.version, {"arrays": {"w": np.full(2, self.version + 0.5 * full)}, "scalars": {}}
        )
        return self.run

    def close(self) -> None:
        self.closed += 1


class Bench:
    def __init__(self, evaluate: Any, every_s: float | None = None) -> None:
        self.master, self.calls = Published(), 0
        self.started = time.monotonic()

        def counting(copy: Any) -> Any:
            self.calls += 1
            return evaluate(copy)

        start = {"w": np.zeros(2)}
        payload = dump_structure(start, parameters_of(start))
        self.evaluation = Evaluation(counting, None, every_s, payload, lambda: self.master)  # type: ignore[arg-type, return-value]

    def look(self, now: float) -> Any:
        return self.evaluation.look({"seconds": now}, now)

    def settle(self) -> None:
        ended = self.evaluation._ended
        assert ended is None or ended.wait(DEADLINE_S)

    def finish(self, version: int, until: float = math.inf) -> Any:
        return self.evaluation.finish({"seconds": 9.0}, version, until)


def first(copy: Any) -> float:
    return float(copy["w"][0])


def test_an_interval_lies_between_the_beginnings() -> None:
    bench = Bench(first, every_s=1000.0)
    assert bench.look(bench.started) is None
    bench.settle()
    entry = bench.look(bench.started + 999)  # at hand, and too early for another
    assert (entry["score"], entry["version"], entry["seconds"]) == (0.5, 0, bench.started)
    assert bench.evaluation._ended is None
    bench.master.version = 3
    assert bench.look(time.monotonic() + 1000) is None
    bench.settle()
    assert bench.look(0)["score"] == 3  # a delta on the replica it keeps
    assert bench.calls == bench.master.closed == 2


def test_no_two_run_at_once() -> None:
    go, called = threading.Event(), threading.Event()
    bench = Bench(lambda _: called.set() or float(go.wait(DEADLINE_S)), every_s=1e-9)
    bench.look(0)
    assert called.wait(DEADLINE_S)
    assert bench.look(math.inf) is None
    assert bench.calls == 1
    go.set()
    bench.settle()
    assert bench.look(-math.inf)["score"] == 1


def test_without_an_interval_it_takes_its_share_of_the_time() -> None:
    bench = Bench(lambda _: float(threading.Event().wait(0.02)))
    bench.look(bench.started)
    bench.settle()
    ended = time.monotonic()
    bench.master.version = 1
    entry = bench.look(-math.inf)
    bench.look(bench.started + entry["evaluation_s"] / SHARE)
    assert bench.calls == 1
    bench.look(ended + (ended - bench.started) / SHARE)
    bench.settle()
    assert bench.calls == 2


def test_what_is_known_is_not_evaluated_again() -> None:
    bench = Bench(first, every_s=1e-9)
    for _ in range(3):
        bench.look(math.inf)
        bench.settle()
    assert bench.calls == 1
    (last,) = bench.finish(0)  # how the training stands at its end, and what is known
    assert (last["seconds"], last["version"], last["score"]) == (9.0, 0, 0.5)
    assert bench.calls == 1
    entries = bench.finish(5)
    assert [entry["version"] for entry in entries] == [5]
    assert bench.calls == 2


def test_a_master_that_was_started_again() -> None:
    bench = Bench(first, every_s=1e-9)
    bench.look(math.inf)
    bench.settle()
    bench.master.run, bench.master.version = "another", 7
    bench.look(math.inf)
    bench.settle()
    assert bench.look(-math.inf)["score"] == 7.5  # all of it, not what changed since


def test_a_failure_at_the_end_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(lambda copy: 1 / 0)
    assert bench.finish(3) == []
    assert "evaluate failed on version 3: ZeroDivisionError" in caplog.text


def test_the_end_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    go = threading.Event()
    bench = Bench(lambda _: float(go.wait(DEADLINE_S)))
    assert bench.finish(3, until=time.monotonic() + 0.01) == []
    assert "takes longer than the run may" in caplog.text
    go.set()
    bench.settle()


def test_a_master_that_is_gone_is_not_its_failure(caplog: pytest.LogCaptureFixture) -> None:
    with serving({"w": np.zeros(2)}) as master:
        address = master.address
    start = {"w": np.zeros(2)}
    payload = dump_structure(start, parameters_of(start))
    evaluation = Evaluation(
        first, None, None, payload, lambda: Driver(address, None, connect_s=0.1)
    )
    assert evaluation.finish({}, 1) == []
    assert "no version to evaluate: no answer from the master" in caplog.text
