"""Progress: what a worker learned reaches the master once, and the master's values reach it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from zmqdist.models import parameters_of
from zmqdist.models.delta import add
from zmqdist.models.progress import Progress
from zmqdist.models.snapshot import Snapshot
from zmqdist.wire.bitround import bitround
from zmqdist.wire.rows import RowSparse

N = 5
dyadic = st.integers(-8, 8).map(lambda k: k / 8)


def new_model() -> dict[str, np.ndarray]:
    return {"w": np.zeros((N, 2)), "bias": np.zeros(3), "zero": np.zeros(())}


def copied(model: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in model.items()}


def new_progress(model: dict[str, np.ndarray], **options: Any) -> Progress:
    return Progress(parameters_of(model), copied(model), **options)


class TwoWorkers(RuleBasedStateMachine):
    """One worker's progress, a master, and somebody else who changes the master's model.

    Numbers are dyadic, so that sums are exact in any order. Updates and questions go up
    one ordered line, what is acknowledged and answered comes down another.
    """

    def __init__(self) -> None:
        super().__init__()
        self.master = new_model()
        self.parameters = parameters_of(self.master)
        self.snapshot = Snapshot(self.parameters)
        self.version = 0
        self.snapshot.take(0)
        self.model = new_model()
        self.known = copied(self.model)
        self.progress = Progress(parameters_of(self.model), self.known)
        self.trained, self.others, self.lost = new_model(), new_model(), new_model()
        self.steps = 0
        self.up: list[tuple[str, Any, Any]] = []
        self.down: list[tuple[str, Any]] = []
        self.answered: set[int] = set()
        self.have = {"whole": 0, "hot": 0}

    @rule(row=st.integers(0, N - 1), change=dyadic)
    def train(self, row: int, change: float) -> None:
        for model in (self.model, self.trained):
            model["w"][row] += change
            model["bias"][row % 3] += change
            model["zero"] += change

    @rule(row=st.integers(0, N - 1), change=dyadic)
    def others_train(self, row: int, change: float) -> None:
        for model in (self.master, self.others):
            model["w"][row] += change
            model["zero"] += change
        self.changed()

    def changed(self, update: Any = None) -> None:
        self.snapshot.touched(update, only=False)
        self.version += 1

    @rule(rows=st.one_of(st.none(), st.sets(st.integers(0, N - 1))))
    def send(self, rows: set[int] | None) -> None:
        self._take(rows, settled=False)

    def _take(self, rows: set[int] | None, *, settled: bool) -> dict[str, RowSparse]:
        wanted = None if rows is None else {"w": np.array(sorted(rows), np.intp)}
        taken = self.progress.take(wanted, self.steps, settled=settled)
        if not settled:
            self.up.append(("push", self.steps, self.progress.plain(taken)))
        self.steps += 1
        return taken

    @rule(rows=st.one_of(st.none(), st.sets(st.integers(0, N - 1))))
    def pass_over_what_the_master_has(self, rows: set[int] | None) -> None:
        """As if an earlier attempt had sent it: nobody adds it to the master any more."""
        for name, change in self.progress.plain(self._take(rows, settled=True)).items():
            self.lost[name] += change

    @rule(part=st.sampled_from(["whole", "hot"]))
    def ask(self, part: str) -> None:
        if not any(entry[0] == part for entry in [*self.up, *self.down]):
            self.up.append((part, self.have[part], None))

    @precondition(lambda self: self.up)
    @rule(requeue=st.sampled_from([False, False, False, True]))
    def master_takes_one(self, requeue: bool) -> None:
        kind, number, update = self.up.pop(0)
        if kind == "push" and requeue:
            self.down.append(("requeue", (number, update)))
        elif kind == "push":
            add(self.parameters, update)
            self.changed(update)
            self.down.append(("ack", number))
        else:
            if self.version > self.snapshot.version:
                self.snapshot.take(self.version)
            rows = {"w": np.array([0, 1])} if kind == "hot" else None
            tree = self.snapshot.since(number, rows)
            values = {name: part.copy() for name, part in tree["arrays"].items()}
            self.down.append((kind, (self.version, values)))

    @precondition(lambda self: self.down)
    @rule()
    def worker_takes_one(self) -> None:
        kind, what = self.down.pop(0)
        if kind == "ack":
            self.answered.add(what)
        elif kind == "requeue":
            self.up.append(("push", *what))
        else:
            version, values = what
            self.progress.rebase(values, self.answered)
            self.answered.clear()
            self.have[kind] = version
            self.have["hot"] = max(self.have.values())

    @invariant()
    def nothing_is_lost(self) -> None:
        """What was trained is unsent, under way, or in the master's model."""
        for name, trained in self.trained.items():
            pushed = [update for kind, _, update in self.up if kind == "push"]
            pushed += [what[1] for kind, what in self.down if kind == "requeue"]
            total = self.master[name] - self.others[name] + self.lost[name]
            total = total + self.model[name] - self.known[name]
            for update in pushed:
                total = total + update.get(name, 0)
            np.testing.assert_array_equal(total, trained)

    def teardown(self) -> None:
        self._take(None, settled=False)
        for _ in range(2):
            self.ask("whole")
            while self.up or self.down:
                if self.up:
                    self.master_takes_one(requeue=False)
                if self.down:
                    self.worker_takes_one()
        for name, array in self.master.items():
            np.testing.assert_array_equal(self.model[name], array)
            np.testing.assert_array_equal(self.known[name], array)
        super().teardown()


TestTwoWorkers = TwoWorkers.TestCase


# ---- one thing at a time -----------------------------------------------------------------------


def test_take_cuts_out_the_named_rows() -> None:
    model = new_model()
    progress = new_progress(model)
    model["w"][[1, 3]] += 1
    model["bias"] += 1
    hot = progress.take({"w": np.array([0, 1])}, 0)
    assert list(hot) == ["w"]
    assert hot["w"].rows.tolist() == [1]
    assert progress.take({"w": np.array([0, 1])}, 1) == {}
    rest = progress.plain(progress.take(None, 2))
    assert list(rest) == ["w", "bias"]
    assert rest["w"].rows.tolist() == [3]
    assert rest["bias"].tolist() == [1, 1, 1]
    assert progress.take(None, 3) == {}


def test_arrays_of_one_and_no_dimension_travel_whole() -> None:
    model = new_model()
    progress = new_progress(model)
    model["zero"] += 2
    model["bias"][1] = 5
    plain = progress.plain(progress.take(None, 0))
    assert plain["zero"].shape == ()
    assert plain["zero"] == 2
    assert plain["bias"].tolist() == [0, 5, 0]
    model["bias"][0] += 1
    progress.rebase({"bias": np.array([7.0, 7, 7]), "zero": np.array(3.0)}, [0])
    assert model["bias"].tolist() == [8, 7, 7]
    assert model["zero"] == 3


def test_values_of_some_rows_leave_the_others() -> None:
    model = new_model()
    progress = new_progress(model)
    model["w"][:] = 1
    progress.take({"w": np.arange(N)}, 0)
    model["w"][2] += 0.5
    progress.rebase({"w": RowSparse([2, 4], [[3.0, 3], [4, 4]], (N, 2))}, [])
    assert model["w"][:, 0].tolist() == [1, 1, 4.5, 1, 5]
    progress.rebase({"w": RowSparse([2, 4], [[3.0, 3], [4, 4]], (N, 2))}, [0])
    assert model["w"][:, 0].tolist() == [1, 1, 3.5, 1, 4]


def test_what_is_settled_leaves_the_model() -> None:
    model = new_model()
    model["w"][0] = 5  # holds what the attempt before sent
    progress = new_progress(model)
    model["w"][0] += 2
    taken = progress.take(None, 0, settled=True)
    assert taken["w"].values.tolist() == [[2, 2]]
    assert model["w"][0].tolist() == [5, 5]
    assert progress.take(None, 1) == {}
    progress.rebase({"w": RowSparse([0], [[6.0, 6]], (N, 2))}, [])
    assert model["w"][0].tolist() == [6, 6]


def test_values_handed_in_are_not_changed() -> None:
    model = new_model()
    progress = new_progress(model)
    model["w"] += 1
    progress.take(None, 0)
    values = np.full((N, 2), 7.0)
    progress.rebase({"w": values}, [])
    assert (values == 7).all()
    assert (model["w"] == 8).all()


@pytest.mark.parametrize("keep_bits", [1, 4, 7])
def test_what_rounding_cuts_off_goes_with_the_next(keep_bits: int) -> None:
    rng = np.random.default_rng(1)
    model = {"w": np.zeros((6, 8), np.float32)}
    progress = new_progress(model, keep_bits=keep_bits)
    total, sent = np.zeros((6, 8)), np.zeros((6, 8))
    for step in range(50):
        change = rng.normal(size=(6, 8)).astype(np.float32)
        model["w"] += change
        total += change
        sent += progress.take(None, step)["w"].todense()
        left = np.abs(total - sent).max()
        assert left <= 4 * 2.0 ** -(keep_bits + 1) + 1e-4
    for step in range(50, 90):
        for rows in progress.take(None, step, last=True).values():
            sent += rows.todense()
    np.testing.assert_allclose(sent, total, atol=1e-4)
    assert progress.take(None, 90, last=True) == {}


def test_a_remainder_waits_for_a_new_change() -> None:
    model = {"w": np.zeros((3, 4), np.float32)}
    progress = new_progress(model, keep_bits=4)
    model["w"][1] += np.float32(1 + 2.0**-9)
    assert list(progress.take(None, 0)["w"].rows) == [1]
    assert progress.take(None, 1) == {}, "a remainder is no news"
    model["w"][2] += 1
    assert list(progress.take(None, 2)["w"].rows) == [2]
    model["w"][1] += 1
    assert list(progress.take(None, 3)["w"].rows) == [1]
    assert list(progress.take(None, 4, last=True)["w"].rows) == [1]


@pytest.mark.parametrize("last", [False, True])
def test_all_changes_are_rounded_and_only_of_rows_that_have_one(last: bool) -> None:
    model = {"w": np.ones((600, 100), np.float32)}  # more than one block
    progress = new_progress(model, keep_bits=4)
    change = np.random.default_rng(3).normal(size=(300, 100)).astype(np.float32)
    model["w"][::2] += change
    sent = progress.take(None, 0, last=last)["w"]
    assert list(sent.rows) == list(range(0, 600, 2))
    np.testing.assert_array_equal(sent.values, bitround(sent.values, 4))
    np.testing.assert_allclose(sent.values, change, rtol=2.0**-5, atol=1e-6)


def test_a_row_without_progress_stays_known_to_the_bit() -> None:
    rng = np.random.default_rng(2)
    model = {"w": rng.normal(size=(200, 8)).astype(np.float32)}
    progress = new_progress(model)
    model["w"][:50] += np.float32(1e-3)
    fresh = rng.normal(size=(200, 8)).astype(np.float32)
    progress.rebase({"w": fresh}, ())
    assert list(progress.take(None, 0)["w"].rows) == list(range(50))
