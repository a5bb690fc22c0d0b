"""Corrections by formula: what is applied in place of a stale update."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zmqdist import RowSparse
from zmqdist.errors import ConfigError, UpdateError
from zmqdist.staleness import Between, DelayCompensated, GapAware, Policy

RNG = np.random.default_rng(0)
NOW = {"w": RNG.normal(size=(5, 3)), "b": RNG.normal(size=4)}
BASE = {name: array + RNG.normal(size=array.shape) for name, array in NOW.items()}
MOVED = {name: NOW[name] - BASE[name] for name in NOW}
BETWEEN = Between(NOW, BASE, {"w": 0.3, "b": 0.5})
G = {"w": RNG.normal(size=(5, 3)), "b": RNG.normal(size=4)}


def applied(policy: Policy, update: Any = None) -> Any:
    return policy.transform(G if update is None else update, BETWEEN)


def test_delay_compensation_by_formula() -> None:
    corrected = applied(DelayCompensated(0.3))
    for name, g in G.items():
        np.testing.assert_allclose(corrected[name], g + 0.3 * g * g * MOVED[name])
    np.testing.assert_allclose(
        applied(DelayCompensated())["b"], G["b"] + 0.04 * G["b"] ** 2 * MOVED["b"]
    )


def test_delay_compensation_makes_the_gradient_of_a_quadratic_right() -> None:
    """With loss h x^2 / 2 and g * g = h / strength, the diagonal is the Hessian."""
    x_base, x, h = np.array([2.0, -4.0]), np.array([1.5, -3.0]), np.array([0.5, 0.25])
    g = h * x_base
    strength = 0.5 / g[0] ** 2  # and 0.25 / g[1] ** 2 is the same
    between = Between({"x": x}, {"x": x_base})
    corrected = DelayCompensated(strength).transform({"x": g}, between)
    np.testing.assert_allclose(corrected["x"][0], h[0] * x[0])


@pytest.mark.parametrize("adaptive", [False, True])
def test_steps_are_corrected_as_their_gradients(adaptive: bool) -> None:
    lr = 0.1
    steps = {name: -lr * g for name, g in G.items()}
    from_steps = applied(DelayCompensated(lr=lr, adaptive=adaptive), steps)
    from_gradients = applied(DelayCompensated(adaptive=adaptive))
    for name in G:
        np.testing.assert_allclose(from_steps[name], -lr * from_gradients[name])


def test_adaptive_strength_by_formula() -> None:
    policy = DelayCompensated(2.0, adaptive=True, decay=0.9)
    first, second = G["b"], RNG.normal(size=4)
    mean = 0.1 * first**2
    np.testing.assert_allclose(
        applied(policy, {"b": first})["b"],
        first + 2 / np.sqrt(mean + 1e-7) * first**2 * MOVED["b"],
    )
    mean = 0.9 * mean + 0.1 * second**2
    np.testing.assert_allclose(
        applied(policy, {"b": second})["b"],
        second + 2 / np.sqrt(mean + 1e-7) * second**2 * MOVED["b"],
    )
    np.testing.assert_allclose(policy.state()["b"], mean)


@pytest.mark.parametrize(
    "policy",
    [
        DelayCompensated(),
        DelayCompensated(adaptive=True),
        GapAware("element"),
        GapAware("row"),
        GapAware("row", lr=0.5),
    ],
    ids=repr,
)
def test_rows_are_corrected_as_in_the_whole_array(policy: Policy) -> None:
    rows = [0, 3]
    sparse = RowSparse(rows, G["w"][rows], (5, 3))
    for run in (policy.fresh(), policy.fresh()):
        whole = run.transform(G, BETWEEN)["w"]
        part = run.fresh().transform({"w": sparse}, BETWEEN)["w"]
        assert isinstance(part, RowSparse)
        np.testing.assert_allclose(part.values, whole[rows])
        assert part.rows.tolist() == rows


def test_adaptive_strength_of_rows_keeps_the_others() -> None:
    policy = DelayCompensated(adaptive=True, decay=0.5)
    applied(policy, {"w": RowSparse([1], np.ones((1, 3)), (5, 3))})
    applied(policy, {"w": RowSparse([1, 2], np.ones((2, 3)), (5, 3))})
    np.testing.assert_allclose(policy.state()["w"][:, 0], [0, 0.75, 0.5, 0, 0])


def test_gap_by_formula() -> None:
    by_element, by_array = applied(GapAware()), applied(GapAware("array"))
    for name, unit in (("w", 0.3), ("b", 0.5)):
        np.testing.assert_allclose(by_element[name], G[name] / (1 + np.abs(MOVED[name]) / unit))
        gap = np.sqrt(np.mean(MOVED[name] ** 2))
        np.testing.assert_allclose(by_array[name], G[name] / (1 + gap / unit))


def test_gap_of_rows_by_formula() -> None:
    lengths = np.linalg.norm(G["w"], axis=1, keepdims=True)
    gaps = np.linalg.norm(MOVED["w"], axis=1, keepdims=True)
    np.testing.assert_allclose(applied(GapAware("row"))["w"], G["w"] / (1 + gaps / lengths))
    np.testing.assert_allclose(
        applied(GapAware("row", lr=0.1))["w"], G["w"] / (1 + gaps / (0.1 * lengths))
    )
    zeros = applied(GapAware("row"), {"w": np.zeros((5, 3))})["w"]
    np.testing.assert_array_equal(zeros, 0)


def test_gap_is_one_plus_tau_where_all_pull_the_same_way() -> None:
    step = np.full(4, 0.25)
    for tau in (0, 1, 5):
        between = Between({"b": tau * step}, {"b": 0 * step}, {"b": 0.25})
        for by in ("element", "array", "row"):
            corrected = GapAware(by).transform({"b": step}, between)["b"]
            np.testing.assert_allclose(corrected, step / (1 + tau))


def test_gap_before_anything_is_known_changes_nothing() -> None:
    corrected = GapAware().transform(G, Between(NOW, BASE))
    np.testing.assert_array_equal(corrected["w"], G["w"])


@pytest.mark.parametrize("policy", [DelayCompensated(), GapAware("row")], ids=repr)
def test_dtypes_numbers_and_counts_stay(policy: Policy) -> None:
    update = {"w": G["w"].astype(np.float32), "words": 7, "counts": np.arange(3), "name": "x"}
    corrected = applied(policy, update)
    assert corrected["w"].dtype == np.float32
    assert (corrected["words"], corrected["name"]) == (7, "x")
    assert corrected["counts"] is update["counts"]


def test_an_array_alone_is_the_model() -> None:
    between = Between({"": NOW["b"]}, {"": BASE["b"]})
    corrected = DelayCompensated(1.0).transform(G["b"], between)
    np.testing.assert_allclose(corrected, G["b"] + G["b"] ** 2 * MOVED["b"])


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"v": np.ones(4)}, "'v' of the update, of shape .4,., is no array of the model"),
        ({"b": np.ones(5)}, r"of shape \(5,\), is \(4,\) in the model"),
        ([np.ones(4)], "dicts of arrays; got a list"),
    ],
    ids=str,
)
def test_updates_that_do_not_fit_are_refused(update: Any, message: str) -> None:
    for policy in (DelayCompensated(), GapAware()):
        with pytest.raises(UpdateError, match=message):
            applied(policy, update)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DelayCompensated(0), "strength is 0; expected a number > 0"),
        (lambda: DelayCompensated(decay=1), "decay is 1; expected 0 <= decay < 1"),
        (lambda: DelayCompensated(lr=-1), "lr is -1; expected a number > 0"),
        (lambda: GapAware("rows"), "by is 'rows'; expected 'element', 'array' or 'row'"),
        (lambda: GapAware("array", lr=1), "lr is an option of by='row'"),
    ],
)
def test_options_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_means_belong_to_the_adaptive_kind() -> None:
    policy = DelayCompensated(adaptive=True)
    policy.load_state({"b": np.ones(4)})
    np.testing.assert_array_equal(policy.state()["b"], np.ones(4))
    with pytest.raises(ConfigError, match="keeps no state"):
        DelayCompensated().load_state({"b": np.ones(4)})
