"""Damping: rows that all push the same way go as far as a few of them, others go freely."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zmqdist.damping import RowDamping
from zmqdist.wire.rows import RowSparse

X, Y = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])


def moves(damping: RowDamping, updates: list[tuple[Any, int, int]]) -> list[Any]:
    """Return what becomes of (row, version, tau)."""
    return [damping.damp({"w": row}, version, tau)["w"] for row, version, tau in updates]


def test_who_knows_everything_is_never_damped() -> None:
    damping = RowDamping(1.0)
    for version in range(20):
        assert np.array_equal(damping.damp({"w": 3 * X}, version, 0)["w"], 3 * X)


@pytest.mark.parametrize("cap", [1.0, 2.0])
def test_two_that_agree_by_hand(cap: float) -> None:
    """Version 1, tau 1: the change before fades to 1/2, S = 1.5 x, m = x."""
    first, second = moves(RowDamping(cap), [(X, 0, 0), (X, 1, 1)])
    assert np.array_equal(first, X)
    np.testing.assert_allclose(second, min(1.0, cap / 1.5) * X, rtol=1e-6)


def test_three_that_agree_by_hand() -> None:
    """Tau 2 fades by 2/3 a version: S = 1, 5/3, 19/9."""
    damped = moves(RowDamping(1.0), [(X, 0, 2), (X, 1, 2), (X, 2, 2)])
    for row, weight in zip(damped, [1, 3 / 5, 9 / 19], strict=True):
        np.testing.assert_allclose(row, weight * X, rtol=1e-6)


def test_the_longest_fades_as_the_sum_does() -> None:
    """Version 2, tau 1: of (4, 0) there is (1, 0) left; S = (2, 0), m = 1."""
    damping = RowDamping(1.0)
    _, second = moves(damping, [(4 * X, 0, 0), (X, 2, 1)])
    np.testing.assert_allclose(second, X / 2, rtol=1e-6)


@pytest.mark.parametrize("cap", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("workers", [4, 8, 16])
def test_aligned_updates_move_about_as_far_as_cap_of_them(workers: int, cap: float) -> None:
    """For each span of `workers` versions, the horizon over which nobody sees the others."""
    damped = moves(RowDamping(cap), [(X, v, workers - 1) for v in range(20 * workers)])
    travelled = np.cumsum([row[0, 0] for row in damped])
    in_one_span = travelled[-1] - travelled[-1 - workers]
    assert cap - 0.01 <= in_one_span <= 1.1 * cap
    assert all(0 <= row[0, 0] <= 1 and row[0, 1] == 0 for row in damped)


def test_orthogonal_and_opposite_ones_are_free() -> None:
    assert np.array_equal(moves(RowDamping(1.5), [(X, 0, 5), (Y, 1, 5)])[1], Y)
    assert np.array_equal(moves(RowDamping(1.0), [(X, 0, 5), (-X, 1, 5)])[1], -X)


def test_old_changes_are_forgotten() -> None:
    assert moves(RowDamping(1.0), [(X, 0, 1), (X, 1, 1)])[1][0, 0] < 0.7
    np.testing.assert_allclose(moves(RowDamping(1.0), [(X, 0, 1), (X, 40, 1)])[1], X, rtol=1e-6)


def test_rows_are_weighed_each_by_itself() -> None:
    damping = RowDamping(1.0)
    damping.damp({"w": RowSparse([1, 3], [[2.0, 0], [0, 2]], (5, 2))}, 0, 0)
    damped = damping.damp({"w": RowSparse([0, 1, 3], [[2.0, 0]] * 3, (5, 2))}, 1, 1)["w"]
    assert isinstance(damped, RowSparse)
    assert (damped.rows.tolist(), damped.shape) == ([0, 1, 3], (5, 2))
    weights = [1.0, 2 / 3, min(1, 2 / np.hypot(2, 1))]
    np.testing.assert_allclose(damped.values, [[2 * weight, 0] for weight in weights], rtol=1e-6)
    dense = np.zeros((5, 2))
    dense[1] = [2, 0]
    fade = 0.5
    left = np.array([2, 0]) * fade + np.array([2, 0])  # row 1 after the second change
    longest = max(2 * fade, 2)
    again = left * fade + dense[1]
    longest = max(longest * fade, 2)
    weight = min(1, longest / np.linalg.norm(again))
    np.testing.assert_allclose(damping.damp({"w": dense}, 2, 1)["w"][1], dense[1] * weight)


@pytest.mark.parametrize("shape", [(3,), (), (1, 3), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_shapes_and_dtypes_stay(shape: tuple[int, ...], dtype: type[Any]) -> None:
    damping = RowDamping(1.0)
    change = np.full(shape, 0.3, dtype)
    given = change.copy()
    first = damping.damp({"w": change}, 0, 1)["w"]
    second = damping.damp({"w": change}, 1, 1)["w"]
    assert first.shape == second.shape == shape
    assert np.array_equal(first, change)
    np.testing.assert_allclose(second, change / 1.5, rtol=1e-3)
    assert np.can_cast(second.dtype, change.dtype, "same_kind")
    assert np.array_equal(change, given)


def test_what_is_no_array_of_floats_passes() -> None:
    damping = RowDamping(1.0)
    whole = np.array([3, 4])
    rows = RowSparse([1], np.array([[5]]), (3, 1))
    update = {"n": 2000, "rate": 0.5, "counts": whole, "rows": rows, "text": "x", "deep": {"a": X}}
    for version in range(3):
        damped = damping.damp(update, version, 4)
        assert all(damped[name] is value for name, value in update.items())
    for other in ([X], (X,), None, 3.0, X):
        assert damping.damp(other, 5, 4) is other


def test_nothing_moves_nothing() -> None:
    damping = RowDamping(1.0)
    for version in range(3):
        assert not damping.damp({"w": np.zeros((2, 2))}, version, 3)["w"].any()
        empty = damping.damp({"r": RowSparse([], np.zeros((0, 2)), (3, 2))}, version, 3)["r"]
        assert len(empty.rows) == 0


def test_an_array_of_another_shape_starts_anew() -> None:
    damping = RowDamping(1.0)
    damping.damp({"w": X}, 0, 1)
    wide = np.ones((1, 3))
    assert np.array_equal(damping.damp({"w": wide}, 1, 1)["w"], wide)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-36, 1e-25, 1.0, 1e20, 1e37])
def test_rows_of_any_size_by_hand(size: float, dtype: Any) -> None:
    """Whose squares no float32 holds."""
    row = (size * np.array([[3.0, 4.0]])).astype(dtype)
    first, second = moves(RowDamping(1.0), [(row, 0, 0), (row, 1, 1)])
    np.testing.assert_allclose(first, row, rtol=1e-6)
    np.testing.assert_allclose(second, row / (1 if size < 1e-20 else 1.5), rtol=1e-6)


@pytest.mark.parametrize(
    "row", [np.full((1, 4), 3e38, np.float32), np.full((1, 4), -1e300), np.full((1, 4), 1.7e308)]
)
def test_what_is_too_large_to_be_added_up_spoils_nothing(row: Any) -> None:
    damping = RowDamping(1.0)
    for version in range(4):
        assert np.isfinite(damping.damp({"w": row}, version, version)["w"]).all()
        assert all(np.isfinite(kept).all() for kept in damping.state()["w"].values())
    small = np.ones((1, 4), row.dtype)
    assert damping.damp({"w": small}, 9, 0)["w"] == pytest.approx(1.0)
    damping.damp({"w": -row}, 10, 5)
    assert damping.damp({"w": small}, 2000, 5)["w"] == pytest.approx(1.0)
