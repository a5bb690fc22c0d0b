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


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("hot_rows", -1, "expected an integer >= 0"),
        ("hot_rows", 1.5, "expected an integer >= 0"),
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
    tiers = Tiers(hot_rows=0, all_every=1, keep_bits=1, read_bits=52, fresh=False)
    assert copy.deepcopy(tiers) == tiers


MODEL = {"a": np.zeros((6, 2)), "b": np.zeros((2, 2)), "bias": np.zeros(9), "n": 1}


def test_the_rows_that_change_most_are_hot() -> None:
    ranking = Ranking(parameters_of(MODEL), 2)
    assert ranking.names == {"a", "b"}
    for rows in ([5, 1], [1], [0, 5], [3]):
        ranking.saw("a", np.array(rows))
    ranking.saw("bias", np.array([0]))
    hot = ranking.hot()
    assert hot["a"].tolist() == [1, 5]
    assert hot["b"].tolist() == [0, 1]
    assert set(hot) == {"a", "b"}


@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    hot_rows=st.integers(0, 14),
)
def test_no_row_left_out_changes_more_than_a_hot_one(counts: list[int], hot_rows: int) -> None:
    ranking = Ranking(parameters_of({"w": np.zeros((len(counts), 1))}), hot_rows)
    for least in range(1, 5):
        ranking.saw("w", np.flatnonzero(np.array(counts) >= least))
    hot = ranking.hot()["w"].tolist()
    assert hot == sorted(set(hot))
    assert len(hot) == min(hot_rows, len(counts))
    cold = [count for row, count in enumerate(counts) if row not in hot]
    assert not cold or all(counts[row] >= max(cold) for row in hot)


def test_an_adapter_may_know_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = parameters_of(MODEL)
    monkeypatch.setattr(type(parameters), "ranked", lambda self: frozenset({"a"}))
    ranking = Ranking(parameters, 3)
    ranking.saw("a", np.array([5]))
    ranking.saw("b", np.array([1]))
    assert ranking.hot()["a"].tolist() == [0, 1, 2]
    assert Ranking(parameters, 0).hot()["b"].tolist() == []
