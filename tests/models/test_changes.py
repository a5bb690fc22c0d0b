"""Changes to the bit, in arrays of all shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqdist.models.changes import changed_rows, differ

SHAPES = [(), (0,), (1,), (7,), (0, 3), (3, 0), (1, 1), (5, 3), (4, 2, 3), (2, 90_000), (150_000,)]
DTYPES = ["f4", "f8", "f2", "i1", "?"]


@given(st.sampled_from(SHAPES), st.sampled_from(DTYPES), st.booleans(), st.data())
def test_any_bit_counts(shape: Any, dtype: str, turned: bool, data: st.DataObject) -> None:
    before = np.zeros(shape[::-1] if turned else shape, dtype)
    if turned:
        before = before.T  # does not lie in order
    after = before.copy(order="K")
    places = st.integers(0, max(0, before.size - 1))
    cells = data.draw(st.lists(places, max_size=min(3, before.size), unique=True))
    for cell in cells:
        after[np.unravel_index(cell, shape)] = True if dtype == "?" else 1
    assert differ(before, after) == bool(cells)
    columns = max(1, before.size // max(1, len(before) if before.ndim else 1))
    assert changed_rows(before, after).tolist() == sorted({cell // columns for cell in cells})


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [(np.nan, np.nan, False), (0.0, -0.0, True), (1.0, np.nextafter(1.0, 2), True)],
)
def test_bits_not_values(one: float, other: float, differs: bool) -> None:
    before, after = np.array([0.0, one]), np.array([0.0, other])
    assert differ(before, after) == differs
    assert changed_rows(before, after).tolist() == [1] * differs


@pytest.mark.parametrize("n_rows", [2, 150_000])
def test_the_last_bit_counts(n_rows: int) -> None:
    before, after = np.zeros(n_rows), np.zeros(n_rows)
    after[-1] = 1
    assert differ(before, after)
    assert changed_rows(before, after).tolist() == [n_rows - 1]
