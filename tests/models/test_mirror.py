"""A worker's model is the replica before each step, whatever was copied for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqdist.models.base import parameters_of
from zmqdist.models.mirror import Mirror, _warn
from zmqdist.models.snapshot import Replica
from zmqdist.wire.rows import RowSparse

ROWS, WIDTH = 20, 3


class Pair:
    """A model, its replica, and a master that makes versions."""

    def __init__(self) -> None:
        self.model: dict[str, Any] = {
            "w": np.zeros((ROWS, WIDTH), np.float32),
            "v": np.zeros(5),
            "z": np.zeros(()),
            "n": 0,
        }
        self.parameters = parameters_of(self.model)
        self.replica = Replica(self.parameters.schema())
        self.mirror = Mirror(self.parameters)
        self.rng = np.random.default_rng(0)
        self.version = 0
        self.publish(None)

    def publish(self, rows: list[int] | None) -> None:
        """Load a version: all arrays, or some rows of one."""
        self.version += 1
        arrays: dict[str, Any] = {}
        if rows is None:
            arrays = {
                "w": self.rng.normal(size=(ROWS, WIDTH)).astype("f4"),
                "v": self.rng.normal(size=5),
                "z": np.array(self.rng.normal()),
            }
        else:
            values = self.rng.normal(size=(len(rows), WIDTH)).astype("f4")
            arrays["w"] = RowSparse(np.array(rows), values, (ROWS, WIDTH))
        self.replica.load(self.version, {"arrays": arrays, "scalars": {"n": self.version}})

    def read(self) -> None:
        self.mirror.read(self.replica)

    def check(self) -> None:
        for name, array in self.replica.arrays.items():
            np.testing.assert_array_equal(self.model[name], array)
        assert self.model["n"] == self.version


versions = st.lists(
    st.lists(
        st.one_of(st.none(), st.lists(st.integers(0, ROWS - 1), min_size=1, unique=True)),
        max_size=3,
    ),
    min_size=1,
    max_size=12,
)


@given(versions)
def test_a_gradient_that_only_reads(steps: list[list[list[int] | None]]) -> None:
    pair = Pair()
    for news in steps:
        for rows in news:
            pair.publish(None if rows is None else sorted(rows))
        pair.read()
        pair.check()
        pair.model["n"] = -1  # numbers may be changed at any time
    assert not pair.mirror.trained


@given(versions, st.sampled_from(["row", "vector", "anew"]))
def test_a_gradient_that_trains_its_model(steps: list[list[list[int] | None]], how: str) -> None:
    _warn.cache_clear()
    pair = Pair()
    for news in steps:
        for rows in news:
            pair.publish(None if rows is None else sorted(rows))
        pair.read()
        pair.check()
        if how == "row":
            pair.model["w"][7] += 1
        elif how == "vector":
            pair.model["v"][2] = np.nan
        else:
            pair.model["w"] = pair.model["w"] + 1
    if len(steps) > 1 and not steps[1]:  # nothing came that hides what the first step did
        assert pair.mirror.trained == {"row": {"w"}, "vector": {"v"}, "anew": {"w"}}[how]
    assert not _warn.cache_info().currsize  # it did so from the first step on


def test_of_a_gradient_that_only_reads_nothing_is_copied_but_news(monkeypatch: Any) -> None:
    pair = Pair()
    for _ in range(4):
        pair.read()
    copied: list[Any] = []
    load = pair.parameters.load

    def noting(arrays: Any, scalars: Any, rows: Any) -> None:
        copied.append({name: rows.get(name) for name in arrays})
        load(arrays, scalars, rows)

    monkeypatch.setattr(pair.parameters, "load", noting)
    pair.read()
    pair.publish([3, 5])
    pair.publish([5, 6])
    pair.read()
    nothing, some = copied
    assert nothing.keys() == {"z"}  # which has no rows, and always goes
    assert some.keys() == {"w", "z"}
    assert some["w"].tolist() == [3, 5, 6]
    pair.check()


def test_what_came_hides_a_change_once_only() -> None:
    pair = Pair()
    pair.read()
    for rows in ([0, 7], [7], [3], []):
        pair.model["w"][7] += 1
        if rows:
            pair.publish(rows)
        pair.read()
        pair.check()
    assert pair.mirror.trained == {"w"}


def test_one_that_begins_to_train_is_found_out(caplog: pytest.LogCaptureFixture) -> None:
    _warn.cache_clear()
    for _ in range(3):  # partitions of one process
        pair = Pair()
        for _ in range(5):
            pair.read()
        for _ in range(4):
            pair.model["w"] += 1
            pair.read()
        pair.check()
        assert pair.mirror.trained == {"w"}
    assert [text for text in caplog.messages if "begun to change w" in text] == caplog.messages
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("rows", [None, [7], list(range(8))])
def test_one_that_trains_from_the_first_step_on_is_no_surprise(
    rows: list[int] | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Even if the versions that came after its first steps hid what it did."""
    _warn.cache_clear()
    pair = Pair()
    pair.read()
    for _ in range(3):
        pair.model["w"][7] += 1
        pair.publish(rows)
        pair.read()
    assert not pair.mirror.trained
    for _ in range(2):
        pair.model["w"][7] += 1
        pair.read()
    pair.check()
    assert pair.mirror.trained == {"w"}
    assert not caplog.messages


def test_numpy_makes_a_scalar_of_an_array_without_dimension() -> None:
    pair = Pair()
    for _ in range(6):
        pair.read()
        pair.check()
        pair.model["z"] = pair.model["z"] * 1.0
    pair.model["z"] = pair.model["z"] + 1.0
    pair.read()
    pair.check()


def test_views_made_anew_are_the_same_array(monkeypatch: Any) -> None:
    pair = Pair()
    arrays = pair.parameters.arrays
    monkeypatch.setattr(
        pair.parameters, "arrays", lambda: {name: array.view() for name, array in arrays().items()}
    )
    for _ in range(4):
        pair.read()
        pair.check()
    assert not pair.mirror.trained


def test_rows_add_up_to_all() -> None:
    pair = Pair()
    pair.replica.news()
    pair.publish(list(range(10)))
    pair.publish(list(range(8, 18)))
    assert pair.replica.news() == {"w": None}
    assert pair.replica.news() == {}
