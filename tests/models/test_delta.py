"""Differences of in-place training, and adding them."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zmqdist.errors import ConfigError, UpdateError
from zmqdist.models import parameters_of
from zmqdist.models.delta import add, delta
from zmqdist.wire.rows import RowSparse


def test_only_what_changed_is_in_the_update() -> None:
    model = SimpleNamespace(
        w=np.zeros((5, 2), np.float32), b=np.zeros(3), still=np.ones((2, 2)), n=1, rate=0.5, on=True
    )
    with delta(model) as update:
        model.w[[1, 3]] += 2
        model.b = model.b + np.array([0.0, 1, 0])
        model.n += 4
        model.on = False
        assert not update
    assert list(update) == ["w", "b", "n"]
    assert isinstance(update["w"], RowSparse)
    assert update["w"].rows.tolist() == [1, 3]
    assert update["w"].values.dtype == np.float32
    assert update["b"].tolist() == [0, 1, 0]
    assert update["n"] == 4
    assert model.w[1].tolist() == [2, 2]


def test_an_untouched_model_gives_a_falsy_update() -> None:
    model = {
        "w": np.full((2, 2), np.nan),
        "b": np.array(np.nan),
        "n": float("nan"),
        "e": np.ones(0),
    }
    with delta(model) as update:
        model["w"] = model["w"].copy()
    assert not update


def test_only_what_is_named_and_what_is_inside_of_it() -> None:
    model = SimpleNamespace(
        layers=[np.zeros((2, 2)), {"bias": np.zeros(2)}], layers_=np.zeros(2), loss=9.0, seen=0
    )
    with delta(model, only=("layers", "seen")) as update:
        model.layers[0] += 1
        model.layers[1]["bias"] += 1
        model.layers_ += 1
        model.loss, model.seen = 0.5, 10
    assert list(update) == ["layers[0]", "layers[1].bias", "seen"]
    with delta(model, only="layers[1].bias") as update:
        model.layers[0] += 1
        model.layers[1]["bias"] += 1
    assert list(update) == ["layers[1].bias"]
    message = r"delta\(only=\) names 'weights', expected names from \['layers\[0\]'"
    with pytest.raises(ConfigError, match=message), delta(model, only=("seen", "weights")):
        pass


def test_an_error_passes_through_and_leaves_the_update_empty() -> None:
    model = {"w": np.zeros(2)}
    with pytest.raises(KeyError), delta(model) as update:  # noqa: PT012
        model["w"] += 1
        raise KeyError("mine")
    assert update == {}


def test_a_nan_that_comes_is_a_change() -> None:
    model = {"w": np.zeros((3, 2))}
    with delta(model) as update:
        model["w"][1, 0] = np.nan
    assert update["w"].rows.tolist() == [1]
    assert np.isnan(update["w"].values[0, 0])


def test_orders_views_and_shapes_of_any_dimension() -> None:
    big = np.zeros((4, 6))
    model = {"f": np.zeros((3, 4), order="F"), "v": big[:, ::2], "c": np.zeros((2, 3, 4)), "z": 0}
    with delta(model) as update:
        model["f"][2] = 1
        model["v"][:] = 1
        model["c"][1, 2, 3] = 1
    assert update["f"].rows.tolist() == [2]
    assert len(update["v"].rows) == 4
    assert update["c"].shape == (2, 3, 4)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Any, Any]:
    dtype = draw(st.sampled_from([np.int16, np.int64, np.uint8, np.float32, np.complex64]))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=4))
    # whole numbers: float differences are then exact
    values = hnp.arrays(np.uint8, shape, elements=st.integers(0, 99))
    return draw(values).astype(dtype), draw(values).astype(dtype)


@given(st.lists(pairs(), min_size=1, max_size=3), st.integers(), st.integers())
def test_add_is_the_inverse_of_delta(pairs: list[tuple[Any, Any]], n: int, m: int) -> None:
    model = {"layers": [before.copy() for before, _ in pairs], "n": n}
    original = {"layers": [before.copy() for before, _ in pairs], "n": n}
    with delta(model) as update:
        for layer, (_, after) in zip(model["layers"], pairs, strict=True):
            layer[...] = after
        model["n"] = m
    add(original, update)
    for layer, (_, after) in zip(original["layers"], pairs, strict=True):
        np.testing.assert_array_equal(layer, after)
    assert original["n"] == m


def test_add_takes_row_sparse_dense_lists_and_numbers() -> None:
    model = {"w": np.zeros((3, 2), np.float32), "b": np.zeros(2), "n": 1, "s": np.array(1.0)}
    w = model["w"]
    add(
        model,
        {"w": RowSparse([1], np.ones((1, 2)), (3, 2)), "b": [1, 2], "n": np.int32(2), "s": 0.5},
    )
    assert model["w"] is w
    assert w.tolist() == [[0, 0], [1, 1], [0, 0]]
    assert (model["b"].tolist(), model["n"], model["s"]) == ([1, 2], 3, 1.5)


def test_add_to_a_model_that_is_an_array() -> None:
    w = np.zeros((2, 2))
    add(w, np.ones((2, 2)))
    add(w, {"model": np.ones((2, 2))})
    add(parameters_of(w), RowSparse([0], np.ones((1, 2)), (2, 2)))
    assert w.tolist() == [[3, 3], [2, 2]]


@pytest.mark.parametrize(
    ("model", "update", "path"),
    [
        ({"a": {"w": np.zeros(2)}}, {"a": {"w": np.ones(2)}}, "a.w"),
        ([np.zeros(2)], [np.ones(2)], "[0]"),
        ({0: np.zeros(2)}, {0: np.ones(2)}, "[0]"),
    ],
)
def test_what_is_inside_of_others_goes_by_its_path(model: Any, update: Any, path: str) -> None:
    message = rf"names from \['{re.escape(path)}'\], by path as in layers\[0\]\.bias; "
    with pytest.raises(UpdateError, match=message):
        add(model, update)
    add(model, {path: np.ones(2)})


def test_add_replaces_read_only_arrays() -> None:
    w = np.zeros(2)
    w.flags.writeable = False
    model = {"w": w}
    add(model, {"w": np.ones(2)})
    assert model["w"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"v": np.ones(2)}, r"names 'v', expected names from \['w', 'k', 'n', 'on'\]"),
        ({"w": np.ones(3)}, r"got float64 \(3,\), expected float64 \(2,\)"),
        ({"w": 1.0}, r"got float64 \(\)"),
        ({"w": RowSparse([0], [1.0], (3,))}, r"got float64 \(3,\)"),
        ({"w": np.ones(2, complex)}, "got complex128"),
        ({"w": "text"}, "does not fit"),
        ({"w": [[1], [2, 3]]}, "is no array"),
        ({"k": np.ones(2)}, "expected int64"),
        ({"n": "1"}, "got a str for a int"),
        ({"n": True}, "bools do not add up"),
        ({"on": 1}, "bools do not add up"),
        (np.ones(2), "the update is a ndarray, expected a dict"),
        (None, "the update is a NoneType"),
    ],
)
def test_what_does_not_fit_leaves_the_model_untouched(update: Any, message: str) -> None:
    model = {"w": np.zeros(2), "k": np.zeros(2, np.int64), "n": 1, "on": True}
    if isinstance(update, dict):
        update = {"w": np.ones(2), **update} if "w" not in update else {"n": 1, **update}
    with pytest.raises(UpdateError, match=message):
        add(model, update)
    assert (model["w"].tolist(), model["n"]) == ([0, 0], 1)
