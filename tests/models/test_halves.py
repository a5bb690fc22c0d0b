from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from zmqdist import RowSparse, Update, in_halves
from zmqdist.errors import ConfigError
from zmqdist.models.halves import inner
from zmqdist.models.update import as_update


def mean_gradient(model: Any, rows: Any) -> Any:
    return {"w": np.mean(rows, axis=0), "rows": len(rows)}


def sum_gradient(model: Any, rows: Any) -> Any:
    return Update({"w": np.sum(rows, axis=0)}, metrics={"first": rows[0][0]}, examples=10)


@pytest.mark.parametrize("n", [2, 4, 7])
def test_the_update_is_that_of_the_batch(n: int) -> None:
    rows = list(np.random.default_rng(n).normal(size=(n, 3)))
    update = in_halves(mean_gradient)(None, rows)
    np.testing.assert_allclose(update.arrays["w"], np.mean(rows, axis=0))
    assert (update.arrays["rows"], update.examples) == (n, n)
    total = in_halves(sum_gradient, "sum")(None, rows)
    np.testing.assert_allclose(total.arrays["w"], np.sum(rows, axis=0))
    assert total.examples == 20
    assert total.metrics == {"first": (rows[0][0] + rows[n // 2][0]) / 2}


def test_halves_by_formula() -> None:
    rows = [np.array(row, float) for row in ([1, 2], [3, 4], [5, -6], [7, 8])]
    g1, g2 = np.mean(rows[:2], axis=0), np.mean(rows[2:], axis=0)
    update = in_halves(mean_gradient)(None, rows)
    assert update.halves == pytest.approx((g1 @ g2, np.sum((g1 - g2) ** 2) / 4))


def test_the_ratio_of_the_means_is_the_noise_scale() -> None:
    rng, mean, sigma, size = np.random.default_rng(0), np.array([1.0, -0.5]), 2.0, 8
    batches = rng.normal(mean, sigma, size=(20_000, size, 2))
    halves = [in_halves(mean_gradient)(None, list(batch)).halves for batch in batches]
    dots, squares = np.mean(halves, axis=0)
    assert squares == pytest.approx(2 * sigma**2 / size, rel=0.03)  # variance of the mean
    assert dots == pytest.approx(mean @ mean, rel=0.05)


@pytest.mark.parametrize("merge", ["mean", "sum"])
def test_a_factor_on_the_gradient_is_none_on_the_noise(merge: str) -> None:
    rows = list(np.random.default_rng(3).normal(1, 1, size=(6, 4)))

    def tenfold(model: Any, part: Any) -> Any:
        return {"w": 10 * np.mean(part, axis=0)}

    dot, sq = in_halves(mean_gradient, merge)(None, rows).halves
    dot10, sq10 = in_halves(tenfold, merge)(None, rows).halves
    assert sq10 / dot10 == pytest.approx(sq / dot)


def test_inner_products_of_sparse_rows() -> None:
    rng, shape = np.random.default_rng(1), (5, 2)
    a = RowSparse([0, 2, 3], rng.normal(size=(3, 2)), shape)
    b = RowSparse([2, 3, 4], rng.normal(size=(3, 2)), shape)
    dense = rng.normal(size=shape).astype(np.float32)
    expected = float(np.sum(np.asarray(a) * np.asarray(b)))
    assert inner({"x": a}, {"x": b}) == pytest.approx(expected)
    assert inner({"x": a}, {"x": dense}) == pytest.approx(float(np.sum(np.asarray(a) * dense)))
    assert inner({"x": dense}, {"x": a}) == inner({"x": a}, {"x": dense})
    assert inner([1.5, 3, "a", None], [2.0, 3, "a", None]) == 3.0
    assert inner({"x": a, "y": 1.0}, {"y": 2.0}) == 2.0


def test_batches_too_small_or_empty_updates_have_no_halves() -> None:
    assert as_update(in_halves(mean_gradient)(None, [np.ones(2)])).halves is None
    some = in_halves(lambda model, rows: None if rows == [1] else {"w": np.ones(1)})
    assert some(None, [1, 2]).arrays == {"w": np.ones(1)}
    assert some(None, [1, 2]).halves is None
    assert in_halves(lambda model, rows: None)(None, [1, 2]) is None


def test_what_does_not_go_is_named() -> None:
    with pytest.raises(ConfigError, match=r"merge is 'median'; expected 'mean' or 'sum'"):
        in_halves(mean_gradient, "median")
    with pytest.raises(ConfigError, match="batch_size="):
        in_halves(mean_gradient)(None, iter([1]))


def test_it_travels() -> None:
    copy = pickle.loads(pickle.dumps(in_halves(mean_gradient, "sum")))  # noqa: S301
    assert (copy.gradient, copy.merge) == (mean_gradient, "sum")


def test_halves_that_are_not_finite_are_left_out() -> None:
    assert Update({}, halves=(1, 2)).finite_halves() == (1.0, 2.0)
    assert Update({}, halves=(1, float("inf"))).finite_halves() == (None, None)
    assert Update({}).finite_halves() == (None, None)
