"""The snapshot: what it broadcasts and answers is exact, whatever it is told or asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from zmqdist.models import parameters_of
from zmqdist.models.delta import add
from zmqdist.models.snapshot import Replica, Snapshot
from zmqdist.wire.bitround import bitround
from zmqdist.wire.rows import RowSparse
from zmqdist.wire.tree import decode_tree, encode_tree

ROWS = {"a": 7, "b": 3, "cube": 2}


def new_model() -> dict[str, Any]:
    return {
        "a": np.zeros((ROWS["a"], 2), np.float32),
        "b": np.zeros((ROWS["b"], 1)),
        "cube": np.zeros((ROWS["cube"], 2, 2)),
        "bias": np.zeros(4),
        "zero": np.zeros(()),
        "n": 0,
    }


def arrays_of(model: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: value.copy() for name, value in model.items() if name != "n"}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Compare bits: NaN is NaN, and 0.0 is not -0.0."""
    return {n: a.tobytes() for n, a in one.items()} == {n: a.tobytes() for n, a in other.items()}


def some_rows(name: str) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, ROWS[name] - 1), unique=True, max_size=ROWS[name])


numbers = st.sampled_from([1.0, -0.5, 0.0, -0.0, np.nan, 1 / 3, 1e30])


class Publishing(RuleBasedStateMachine):
    """A model that changes in all ways, against the history of all its versions."""

    def __init__(self) -> None:
        super().__init__()
        self.model = new_model()
        self.parameters = parameters_of(self.model)
        self.snapshot = Snapshot(self.parameters)
        self.version = 0
        self.history: dict[int, dict[str, np.ndarray]] = {}
        self.told: dict[int, dict[str, set[int]]] = {}  # version: rows that updates held
        self.telling: dict[str, set[int]] = {}

    def tell(self, update: dict[str, Any]) -> None:
        self.snapshot.touched(update, only=True)
        for name, change in update.items():
            rows = set(change.rows.tolist()) if isinstance(change, RowSparse) else set()
            if getattr(self.model[name], "ndim", 2) < 2:
                rows = {0} if rows or not isinstance(change, RowSparse) else set()
            if rows:
                self.telling.setdefault(name, set()).update(rows)

    @initialize(told_before=st.booleans())
    def first(self, told_before: bool) -> None:
        if told_before:
            self.snapshot.touched({"a": RowSparse([1], np.ones((1, 2)), (7, 2))}, only=True)
        tree = self.snapshot.take(0)
        assert same(tree["arrays"], arrays_of(self.model))
        self.history[0] = arrays_of(self.model)
        self.replica = Replica(self.parameters.schema())
        self.replica.load(0, tree)
        self.late = Replica(self.parameters.schema())
        self.pieced, self.start = Replica(self.parameters.schema()), 0
        self.piece_versions: list[int] = []

    @rule(name=st.sampled_from(sorted(ROWS)), data=st.data(), number=numbers)
    def add_rows(self, name: str, data: st.DataObject, number: float) -> None:
        rows = sorted(data.draw(some_rows(name)))
        shape = self.model[name].shape
        change = RowSparse(rows, np.full((len(rows), *shape[1:]), number), shape)
        update = {name: change.astype(self.model[name].dtype), "n": 1}
        with np.errstate(over="ignore"):
            add(self.parameters, update)
        self.tell(update)

    @rule(name=st.sampled_from(["a", "bias", "zero"]), number=numbers)
    def add_dense(self, name: str, number: float) -> None:
        update = {name: np.full_like(self.model[name], number)}
        if name == "a":
            update[name][2:] = 0
        add(self.parameters, update)
        self.tell(update)

    @rule(name=st.sampled_from(sorted(ROWS)), data=st.data(), number=numbers)
    def descend_somewhere(self, name: str, data: st.DataObject, number: float) -> None:
        self.model[name][data.draw(some_rows(name))] = number
        self.model["bias"][0] = number
        if data.draw(st.booleans()):
            self.snapshot.touched(None, only=False)
        else:
            self.snapshot.touched([1, 2], only=True)  # an update that names no rows

    @rule(behind=st.booleans())
    def publish(self, behind: bool) -> None:
        self.version += 1 + behind
        tree = self.snapshot.take(self.version)
        before, now = self.history[max(self.history)], arrays_of(self.model)
        assert set(tree["arrays"]) == {
            name
            for name in now
            if name in self.telling or now[name].tobytes() != before[name].tobytes()
        }
        self.history[self.version] = now
        self.told[self.version], self.telling = self.telling, {}
        self.replica.load(self.version, tree)

    @precondition(lambda self: self.history)
    @rule(data=st.data())
    def catch_up(self, data: st.DataObject) -> None:
        self.late.load(self.version, self.snapshot.since(self.late.version))
        assert same(self.late.arrays, self.history[self.version])
        assert self.late.scalars == self.snapshot.since(-1)["scalars"]

    @precondition(lambda self: self.history)
    @rule(most_bytes=st.sampled_from([1, 16, 40, 100, 10_000]))
    def take_a_piece(self, most_bytes: int) -> None:
        """One more piece; after the last one, what changed since the oldest of them."""
        tree, self.start = self.snapshot.piece(self.start, most_bytes)
        size = sum(
            part.values.nbytes if isinstance(part, RowSparse) else part.nbytes
            for part in tree["arrays"].values()
        )
        assert size <= max(most_bytes, 32)  # the largest row
        self.pieced.load_piece(self.version, tree)
        self.piece_versions.append(self.version)
        assert self.pieced.version == -1
        if self.start:
            assert tree["arrays"]
            return
        if len(set(self.piece_versions)) > 1:
            self.pieced.load(self.version, self.snapshot.since(min(self.piece_versions)))
        assert same(self.pieced.arrays, self.history[self.version])
        assert self.pieced.scalars == self.snapshot.since(-1)["scalars"]
        self.pieced, self.piece_versions = Replica(self.parameters.schema()), []

    @precondition(lambda self: self.history)
    @rule(data=st.data(), keep_bits=st.sampled_from([0, 3]))
    def ask(self, data: st.DataObject, keep_bits: int) -> None:
        have = data.draw(st.sampled_from([-1, *self.history]))
        asked: dict[str, np.ndarray] | None = None
        if data.draw(st.booleans()):
            asked = {
                name: np.array([*data.draw(some_rows(name)), -1, 10**6], np.int64)
                for name in data.draw(st.sets(st.sampled_from(sorted(ROWS))))
            }
            asked["no such array"] = np.array([0])
        answer = self.snapshot.since(have, asked, keep_bits)["arrays"]
        assert set(answer) == set(self.changed(have, asked))
        now = self.history[self.version]
        for name, rows in self.changed(have, asked).items():
            got, right = answer[name], bitround(now[name], keep_bits) if keep_bits else now[name]
            if isinstance(got, RowSparse):
                assert got.rows.tolist() == rows
                assert got.values.tobytes() == right[rows].tobytes()
            else:
                assert got.tobytes() == right.tobytes()
                assert right.ndim < 2 or len(rows) > 0.7 * len(right)

    def changed(self, have: int, asked: dict[str, np.ndarray] | None) -> dict[str, list[int]]:
        """Return the rows that any version after `have` changed."""
        found: dict[str, list[int]] = {}
        versions = sorted(self.history)
        for name, array in self.history[0].items():
            by_rows = array.ndim >= 2
            rows = set()
            for before, after in zip([None, *versions], versions, strict=False):
                if after <= have:
                    continue
                new = self.history[after][name]
                old = None if before is None else self.history[before][name]
                for row in range(len(array) if by_rows else 1):
                    part = row if by_rows else ...
                    if old is None or new[part].tobytes() != old[part].tobytes():
                        rows.add(row)
                rows |= self.told.get(after, {}).get(name, set())
            if asked is not None:
                rows &= set(asked[name].tolist()) if name in asked else set()
            if rows:
                found[name] = sorted(rows)
        return found

    @invariant()
    def a_replica_is_the_version_to_the_bit(self) -> None:
        if self.history:
            assert self.replica.version == self.snapshot.version == self.version
            assert same(self.replica.arrays, self.history[self.version])


def test_publishing() -> None:
    run_state_machine_as_test(Publishing)


@given(first=some_rows("a"), second=some_rows("a"))
def test_what_was_told_counts_as_changed(first: list[int], second: list[int]) -> None:
    model = new_model()
    snapshot = Snapshot(parameters_of(model))
    snapshot.take(0)
    for rows in (sorted(first), sorted(second)):
        snapshot.touched(
            {"a": RowSparse(rows, np.zeros((len(rows), 2)), (7, 2)), "n": 1}, only=True
        )
    model["a"][sorted(first)] += 1
    told = snapshot.take(1)["arrays"]
    full = Snapshot(parameters_of(model))
    full.take(0)
    assert set(told) == ({"a"} if first or second else set())
    rows = getattr(told.get("a"), "rows", np.arange(7))
    assert not told or set(rows.tolist()) >= {*first, *second}
    assert same({"a": snapshot.since(-1)["arrays"]["a"]}, {"a": full.since(-1)["arrays"]["a"]})


def test_rounding_is_in_the_answer_only() -> None:
    model = {"w": np.full((4, 2), 1 / 3), "v": np.full(3, 1 / 3), "i": np.arange(3)}
    snapshot = Snapshot(parameters_of(model))
    snapshot.take(0)
    rounded = snapshot.since(-1, None, 4)["arrays"]
    assert np.array_equal(rounded["w"], bitround(model["w"], 4))
    assert not np.array_equal(rounded["w"], model["w"])
    assert np.array_equal(rounded["v"], bitround(model["v"], 4))
    assert np.array_equal(rounded["i"], model["i"])
    some = snapshot.since(-1, {"w": np.array([2])}, 4)["arrays"]
    assert list(some) == ["w"]
    assert np.array_equal(some["w"].values, bitround(model["w"][[2]], 4))
    exact = snapshot.since(-1)["arrays"]
    assert np.array_equal(exact["w"], model["w"])
    assert np.array_equal(snapshot.take(1)["arrays"].get("w", 0), 0)


def test_pieces_are_of_the_size_asked_for_and_end() -> None:
    model = {"v": np.ones((0, 3)), "w": np.ones((10, 2)), "b": np.ones(3), "x": np.ones((2, 2))}
    snapshot = Snapshot(parameters_of(model))
    snapshot.take(0)
    pieces, start = [], 0
    while not pieces or start:
        tree, start = snapshot.piece(start, 64)
        pieces.append({n: len(getattr(part, "rows", part)) for n, part in tree["arrays"].items()})
    assert pieces == [{"w": 4}, {"w": 4}, {"w": 2, "b": 3}, {"x": 2}]
    whole = snapshot.piece(0, 10_000)
    assert whole[1] == 0
    assert same(whole[0]["arrays"], snapshot.since(-1)["arrays"])
    assert snapshot.piece(99, 64)[0]["arrays"] == {}


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16])
def test_row_numbers_of_any_size(dtype: type[Any]) -> None:
    model = {"w": np.ones((300, 1))}
    snapshot = Snapshot(parameters_of(model))
    snapshot.take(0)
    answer = snapshot.since(-1, {"w": np.array([100, 5, 100], dtype)})["arrays"]["w"]
    assert answer.rows.tolist() == [5, 100]


@pytest.mark.parametrize(
    "part",
    [np.zeros((2, 2)), np.zeros((3, 2), np.float32), RowSparse([0], np.zeros((1, 2)), (4, 2))],
    ids=["shape", "dtype", "rows"],
)
def test_a_replica_refuses_what_does_not_fit(part: Any) -> None:
    replica = Replica({"w": ("<f8", (3, 2))})
    with pytest.raises(ValueError, match=r"version 4: w is .*; expected <f8|expected float64"):
        replica.load(4, {"arrays": {"w": part}, "scalars": {}})
    assert replica.version == -1


def test_numbers_of_one_dimension_are_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such an array changes as a whole: to number what differs costs more than to send it."""
    model = {"bias": np.zeros(1_000), "n": 0}
    snapshot = Snapshot(parameters_of(model))
    snapshot.take(0)
    monkeypatch.setattr("zmqdist.models.snapshot.changed_rows", None)
    model["bias"][999] = 1
    snapshot.touched({"bias": model["bias"]}, only=False)
    assert list(snapshot.take(1)["arrays"]) == ["bias"]
    assert list(snapshot.since(0)["arrays"]) == ["bias"]
    snapshot.touched({}, only=False)
    assert snapshot.take(2)["arrays"] == {}


def received(tree: Any, replica: Replica) -> Any:
    encoded = encode_tree(tree, "raw")
    return decode_tree(encoded.spec, encoded.frames, max_bytes=replica.max_bytes)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((1_000_000, 1), "i1"), ((1_000_000, 1), "?"), ((2_500_000, 1), "f2"), ((2_500_000, 1), "f8")],
)
def test_a_replica_has_room_for_the_numbers_of_rows(shape: tuple[int, int], dtype: str) -> None:
    """They take more than the rows themselves if these are a byte or two."""
    model = {"w": np.zeros(shape, dtype), "n": 0}
    snapshot, replica = Snapshot(parameters_of(model)), Replica({"w": (dtype, shape)})
    snapshot.take(0)
    start = 0
    while start or replica.version < 0:
        tree, start = snapshot.piece(start, 4 << 20)
        replica.load_piece(0, received(tree, replica))
        replica.version = 0
    model["w"][: int(0.69 * len(model["w"]))] = 1
    snapshot.touched({}, only=False)
    tree = snapshot.take(1)
    assert isinstance(tree["arrays"]["w"], RowSparse)
    replica.load(1, received(tree, replica))
    assert same(replica.arrays, arrays_of(model))
