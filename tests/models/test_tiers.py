"""Tiers: options, and which rows a worker finds to be hot."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqdist.errors import ConfigError
from zmqdist.models import parameters_of
from zmqdist.models.tiers import Ranking, Tiers
from zmqdist.wire.rows import RowSparse


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("hot_rows", -1, "expected an integer >= 0"),
        ("hot_rows", 1.5, "expected an integer >= 0"),
        ("hot_rows", None, "expected an integer >= 0"),
        ("growth", 1, "expected an integer >= 2"),
        ("all_every", 0, "expected an integer >= 1"),
        ("all_every", "2", "expected an integer >= 1"),
        ("keep_bits", 0, "expected 1 to 52, or None"),
        ("keep_bits", 53, "expected 1 to 52, or None"),
        ("read_bits", 7.0, "expected 1 to 52, or None"),
    ],
)
def test_options_outside_their_range(option: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"Tiers: {option} is .*; {expected}"):
        Tiers(**{option: value})


def test_options_at_their_limits_travel() -> None:
    tiers = Tiers(hot_rows=0, growth=2, all_every=1, keep_bits=1, read_bits=52, fresh=False)
    assert copy.deepcopy(tiers) == tiers


MODEL = {"a": np.zeros((6, 2)), "b": np.zeros((2, 2)), "bias": np.zeros(9), "n": 1}


@pytest.mark.parametrize(
    ("tiers", "n_rows", "periods"),
    [
        (Tiers(hot_rows=128), 1000, [1, 2, 4, 8]),
        (Tiers(hot_rows=128), 1024, [1, 2, 4, 8]),
        (Tiers(hot_rows=128), 1025, [1, 2, 4, 8, 16]),
        (Tiers(hot_rows=128, growth=4), 1000, [1, 4, 16]),
        (Tiers(hot_rows=128, all_every=5), 1000, [1, 2, 4, 5]),
        (Tiers(hot_rows=128, all_every=1), 1000, [1]),
        (Tiers(hot_rows=10, growth=10_000, all_every=50), 1000, [1, 50]),
        (Tiers(hot_rows=2000), 1000, [1]),
        (Tiers(hot_rows=0, all_every=3), 1000, [1, 3]),  # nothing, nothing, all
        (Tiers(hot_rows=0), 1000, [1]),
        (Tiers(), 0, [1]),
    ],
)
def test_periods(tiers: Tiers, n_rows: int, periods: list[int]) -> None:
    assert tiers.periods(n_rows) == periods


def moved(name: str, rows: list[int], by: float = 1.0) -> dict[str, RowSparse]:
    return {name: RowSparse(rows, np.full((len(rows), 2), by), (6, 2))}


def test_the_rows_that_move_most_are_hot() -> None:
    ranking = Ranking(parameters_of(MODEL), Tiers(hot_rows=1))
    assert not ranking.known
    for change in (
        moved("a", [1, 5]),
        moved("a", [2], 9.0),
        moved("a", [1, 5, 4]),
        moved("n", [0]),
    ):
        ranking.saw(change)
    ranking.settle()
    assert [ranking.rows(tier)["a"].tolist() for tier in (0, 1)] == [[2], [1, 2]]
    assert ranking.rows(0)["b"].tolist() == [0]
    assert ranking.rows(1)["bias"].tolist() == [0]  # one row: its elements change together
    assert set(ranking.rows(0)) == {"a", "b", "bias"}


def test_a_tier_holds_those_before_it_and_the_last_holds_all() -> None:
    ranking = Ranking(parameters_of(MODEL), Tiers(hot_rows=2))
    assert [ranking.tier(chunk) for chunk in range(1, 9)] == [0, 1, 0, None, 0, 1, 0, None]
    assert ranking.rows(0)["a"].tolist() == [0, 1]
    assert ranking.rows(1)["a"].tolist() == [0, 1, 2, 3]


@given(
    sizes=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    hot_rows=st.integers(1, 14),
)
def test_no_row_left_out_moves_more_than_a_hot_one(sizes: list[int], hot_rows: int) -> None:
    model = {"w": np.zeros((len(sizes), 1)), "longer": np.zeros((30, 1))}
    ranking = Ranking(parameters_of(model), Tiers(hot_rows=hot_rows))
    rows = np.flatnonzero(sizes)
    change = RowSparse(rows, np.array(sizes, float)[rows, None], (len(sizes), 1))
    ranking.saw({"w": change})
    ranking.settle()
    hot = ranking.rows(0)["w"].tolist()
    assert hot == sorted(set(hot))
    assert len(hot) == min(hot_rows, len(sizes))
    cold = [size for row, size in enumerate(sizes) if row not in hot]
    assert not cold or all(sizes[row] >= max(cold) for row in hot)


def test_an_adapter_may_know_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = parameters_of(MODEL)
    rank = {"a": np.array([3, 0, 1, 2, 4, 5])}
    monkeypatch.setattr(type(parameters), "ranked", lambda self: rank)
    ranking = Ranking(parameters, Tiers(hot_rows=2))
    ranking.saw(moved("a", [5]))
    ranking.settle()
    assert ranking.rows(0)["a"].tolist() == [0, 3]
    monkeypatch.setattr(type(parameters), "ranked", lambda self: rank | {"b": np.arange(2)})
    assert Ranking(parameters, Tiers()).known
