"""Pruners: pure rules on time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqdist.errors import ConfigError
from zmqdist.tuning import (
    FrozenTrial,
    LateTrialPruner,
    Pruner,
    SuccessiveHalvingPruner,
    TrialState,
)

RUNNING, COMPLETE, PRUNED = TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED


def trial(
    number: int,
    curve: Mapping[float, float],
    state: TrialState = RUNNING,
    value: float | None = None,
    **params: Any,
) -> FrozenTrial:
    return FrozenTrial(
        number=number,
        state=state,
        params={"bound": 4, "lr": number, "seed": 0, **params},
        value=value,
        intermediate_values=dict(curve),
    )


def late(factor: float = 3.0) -> LateTrialPruner:
    return LateTrialPruner(100.0, over=["lr"], factor=factor)


def test_late_by_a_factor() -> None:
    rival = trial(0, {10.0: 0.3}, COMPLETE, 10.0)
    for now, expected in ((29.0, False), (30.0, False), (30.5, True)):
        mine = trial(1, {5.0: 1.0, now: 0.9})
        assert late().prune(mine, [rival, mine]) is expected


def test_only_rivals_count() -> None:
    mine = trial(5, {90.0: 1.0})
    for other in (
        trial(0, {10.0: 0.3}, COMPLETE, 10.0, seed=1),
        trial(0, {10.0: 0.3}, COMPLETE, 10.0, bound=8),
        trial(0, {10.0: 0.3}, COMPLETE, math.inf),
        trial(0, {10.0: 0.3}, PRUNED),
        trial(0, {10.0: 0.3}, RUNNING),
    ):
        assert not late().prune(mine, [other, mine])


def halving() -> SuccessiveHalvingPruner:
    return SuccessiveHalvingPruner(90.0, over=["lr"], eta=3)


def test_rungs_keep_off_the_first_tenth() -> None:
    assert halving().rungs() == pytest.approx([10.0, 30.0])
    assert SuccessiveHalvingPruner(90.0, over=["lr"], eta=2, grace=0.1).rungs() == pytest.approx(
        [11.25, 22.5, 45.0]
    )


def test_halving_at_a_rung() -> None:
    others = [trial(n, {10.0: 0.1 * n, 90.0: 0.1 * n}, COMPLETE, math.inf) for n in range(1, 6)]
    for loss, kept in ((0.05, True), (0.15, True), (0.25, False)):  # 2 of 6 pass
        mine = trial(9, {5.0: 1.0, 10.0: loss})
        assert halving().prune(mine, [*others, mine]) is not kept


def test_a_rival_that_finished_early_is_ahead_if_it_reached_the_target() -> None:
    mine = trial(9, {5.0: 1.0, 10.0: 0.2})
    assert halving().prune(mine, [trial(0, {4.0: 0.1}, COMPLETE, 4.0), mine])
    assert not halving().prune(mine, [trial(0, {4.0: 9.0}, COMPLETE, math.inf), mine])
    assert not halving().prune(mine, [trial(0, {4.0: 0.1}, PRUNED), mine])


def test_a_rival_that_used_up_its_data_is_as_good_as_its_loss() -> None:
    mine = trial(9, {5.0: 1.0, 10.0: 0.2})
    assert not halving().prune(mine, [trial(0, {2.0: 1.0, 4.0: 0.9}, COMPLETE, 0.9), mine])
    assert halving().prune(mine, [trial(0, {2.0: 1.0, 4.0: 0.1}, COMPLETE, 0.1), mine])
    assert not halving().prune(mine, [trial(0, {}, COMPLETE, 0.1), mine])


def test_a_rung_is_judged_once() -> None:
    good = trial(0, {10.0: 0.1, 90.0: 0.1}, COMPLETE, math.inf)
    mine = trial(9, {10.0: 0.5, 12.0: 0.5})
    assert not halving().prune(mine, [good, mine])
    mine = trial(9, {10.0: 0.5, 30.0: 0.5})
    assert halving().prune(mine, [good, mine])


curves = st.dictionaries(st.floats(0, 9.99), st.floats(0, 1), max_size=5)


@given(curves, st.lists(st.tuples(curves, st.floats(0, 100)), max_size=4), st.booleans())
def test_never_in_the_first_tenth(
    curve: dict[float, float], others: list[tuple[dict[float, float], float]], rank: bool
) -> None:
    pruner: Pruner = SuccessiveHalvingPruner(100.0, over=["lr"]) if rank else late(1.01)
    rivals = [trial(n, c, COMPLETE, value) for n, (c, value) in enumerate(others)]
    mine = trial(len(rivals), curve)
    assert not pruner.prune(mine, [*rivals, mine])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LateTrialPruner(0.0, over=[]), "budget_s is 0.0; expected seconds > 0"),
        (lambda: LateTrialPruner(math.inf, over=[]), "budget_s is inf"),
        (lambda: LateTrialPruner(1.0, over=[], factor=1.0), "factor is 1.0"),
        (lambda: LateTrialPruner(1.0, over=[], grace=0.05), "grace is 0.05; expected a part"),
        (lambda: SuccessiveHalvingPruner(1.0, over=[], eta=1), "eta is 1"),
    ],
)
def test_options(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
