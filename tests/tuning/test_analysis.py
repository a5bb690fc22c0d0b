"""What is concluded from trials: medians, intervals, the one-standard-error rule, scaling."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zmqdist.tuning import FrozenTrial, HalvingSampler, TrialState
from zmqdist.tuning.analysis import best_over, cells, curves, difference, interval, ratio
from zmqdist.tuning.recommend import best_by_workers, recommend
from zmqdist.tuning.report.cost import gini
from zmqdist.tuning.scaling import Scaling, fit

INF = math.inf


def trials(
    values: Mapping[Any, Sequence[float]], policy: str = "bounded:{bound}", **params: Any
) -> list[FrozenTrial]:
    """Return trials with these values: bound, or (bound, lr) -> the value of each seed."""
    found = []
    for key, by_seed in values.items():
        bound, lr = key if isinstance(key, tuple) else (key, 0.1)
        for seed, value in enumerate(by_seed):
            setting = {"policy": policy, "bound": bound, "lr": lr, "chunk": 8, "workers": 16}
            found.append(
                FrozenTrial(
                    number=len(found),
                    state=TrialState.COMPLETE,
                    params={**setting, **params, "seed": seed},
                    value=value,
                    user_attrs={"ended": "target" if value < INF else "budget"},
                )
            )
    return found


# ---- medians and intervals ----------------------------------------------------------------------


def test_cells_gather_seeds_and_leave_out_what_has_no_result() -> None:
    found = trials({4: [3.0, 1.0], 8: [2.0]})
    found.append(FrozenTrial(9, TrialState.FAIL, {**found[0].params, "seed": 2}))
    found.append(FrozenTrial(10, TrialState.RUNNING, {**found[0].params, "seed": 3}))
    found.append(FrozenTrial(11, TrialState.PRUNED, {**found[0].params, "seed": 4}))
    first, second = cells(found)
    assert first.by_seed == {0: 3.0, 1: 1.0, 4: INF}
    assert (first.median, second.median) == (3.0, 2.0)
    assert "seed" not in first.params


def test_interval_of_a_known_sample() -> None:
    rng = np.random.default_rng(1)
    values = rng.exponential(size=200)
    found = interval(values.tolist())
    # the standard error of a median is 1 / (2 f(m) sqrt(n)), with f(m) = 1/2 here
    assert found.error == pytest.approx(1 / math.sqrt(200), rel=0.35)
    assert found.low < math.log(2) < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * found.error, rel=0.25)


@given(st.lists(st.floats(0.1, 100) | st.just(INF), min_size=2, max_size=7))
@example([1.0, *[33.028228246803415] * 3, INF, INF, INF])
def test_interval_holds_the_median_and_is_never_nan(values: list[float]) -> None:
    found = interval(values)
    middle = sorted(values)[(len(values) - 1) // 2 : len(values) // 2 + 1]
    if INF not in middle:
        assert found.median == statistics.median(values)
    assert found.low <= found.median <= found.high
    assert not math.isnan(found.error)


def test_one_seed_has_no_interval() -> None:
    found = interval([3.0])
    assert found.median == 3.0
    assert math.isnan(found.low)
    assert math.isnan(found.error)


def test_few_seeds_have_a_range() -> None:
    """A bootstrap interval of 4 seeds is too narrow for any verdict."""
    few = interval([3.0, 1.0, 9.0, 2.0])
    assert (few.low, few.high, few.kind, few.tells, few.seeds) == (1, 9, "range", False, 4)
    many = interval([3.0, 1.0, 9.0, 2.0, 4.0])
    assert (many.kind, many.tells, many.seeds) == ("95 % interval", True, 5)
    assert interval([3.0]).kind is None
    each = ratio([2.0, 9.0, 8.0], [1.0, 3.0, INF])
    assert (each.low, each.high, each.kind) == (pytest.approx(0), 3, "range")
    apart = difference([2.0, 9.0, INF], [1.0, 3.0, 5.0])
    assert (apart.low, apart.high) == (1, INF)


def test_ratio_resamples_seeds_together() -> None:
    base = [1.0, 5.0, 20.0, 60.0, 200.0]
    twice = ratio([2 * value for value in base], base)
    assert (twice.median, twice.low, twice.high) == (2.0, 2.0, 2.0)
    apart = ratio([2 * value for value in base[::-1]], base)
    assert apart.low < 0.5
    assert apart.high > 5
    assert ratio([INF] * 5, base).median == INF


def test_best_rate_of_each_bound() -> None:
    found = trials({(0, 0.1): [5, 5], (0, 0.2): [4, 4], (8, 0.1): [3, 3], (8, 0.2): [INF, INF]})
    best = best_over(cells(found), ["lr"])
    assert [(c.params["bound"], c.params["lr"]) for c in best] == [(0, 0.2), (8, 0.1)]


@pytest.mark.parametrize(
    ("few", "many", "best"),
    [
        ([3.9], [4, 4, 4], "few"),
        ([23], [140, 149], "few"),
        ([4.1], [4, 9, 9], "many"),
        ([4], [4, 9, 9], "many"),
        ([4, 1], [INF, 9, 9], "few"),
        ([INF], [INF, 9, 9], "many"),
    ],
)
def test_fewer_seeds_win_on_those_that_both_have(
    few: list[float], many: list[float], best: str
) -> None:
    for values in ({(0, 0.1): few, (0, 0.2): many}, {(0, 0.2): many, (0, 0.1): few}):
        (found,) = best_over(cells(trials(values)), ["lr"])
        assert found.params["lr"] == {"few": 0.1, "many": 0.2}[best]


def test_most_seeds_win_where_none_is_common() -> None:
    found = [*trials({(0, 0.2): [9, 9]}), *trials({(0, 0.1): [1, 1, 1]})[2:]]
    (best,) = best_over(cells(found), ["lr"])
    assert best.params["lr"] == 0.2


@given(st.data())
def test_finalists_of_halving_keep_their_place(data: st.DataObject) -> None:
    """Who lost a rung has lost it on the very seeds that it shares with the finalists."""
    settings = [{"bound": 0, "lr": lr} for lr in (0.1, 0.2, 0.3, 0.4, 0.5)]
    sampler = HalvingSampler(settings, range(5), over=["lr"], eta=data.draw(st.integers(2, 3)))
    tried: list[FrozenTrial] = []
    while (setting := sampler.next(tried)) is not None:
        value = data.draw(st.sampled_from([1.0, 2.0, 3.0, INF]))
        tried.append(FrozenTrial(len(tried), TrialState.COMPLETE, setting, value))
    found = cells(tried)
    (best,) = best_over(found, ["lr"])
    assert len(best.trials) == 5
    assert best.median == min(cell.median for cell in found if len(cell.trials) == 5)


def test_curves_rise_by_bound_and_are_one_for_each_policy() -> None:
    found = trials({INF: [1], 4: [1], 0: [1]}) + trials({2: [1]}, "ssp:{bound}")
    bounded, ssp = curves(cells(found), ["lr"])
    assert [c.params["bound"] for c in bounded] == [0, 4, INF]
    assert [c.params["bound"] for c in ssp] == [2]


# ---- the one-standard-error rule ----------------------------------------------------------------

NOISY = [9.0, 9.5, 10.0, 10.5, 11.0]


def shifted(by: float) -> list[float]:
    return [value + by for value in NOISY]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("bounded:{bound}", 4), ("bounded:{bound}:requeue", 4), ("ssp:{bound}", 16)],
)
def test_simplest_bound_within_one_error(policy: str, expected: int) -> None:
    near = [8.4, 9.9, 10.1, 10.3, 12.0]  # one in a hundred more than NOISY, give or take
    values = {0: shifted(9), 4: near, 8: shifted(0), 16: near, 64: shifted(9)}
    advice = recommend(trials(values, policy))
    assert advice.cell.params["bound"] == expected
    assert advice.best.params["bound"] == 8
    assert advice.flat is False
    assert advice.interval.median == 10.1
    assert 0.3 < advice.chosen <= 1


@pytest.mark.parametrize("policy", ["bounded:{bound}", "ssp:{bound}"])
def test_the_error_is_that_of_the_comparison(policy: str) -> None:
    """Seeds differ much, which says nothing about bounds that differ alike on each."""
    seeds = [10.0, 20.0, 40.0, 80.0, 160.0]
    values = {0: [1.4 * s for s in seeds], 4: [1.2 * s for s in seeds], 8: seeds}
    values |= {16: [1.2 * s for s in seeds]}
    advice = recommend(trials(values, policy))
    assert advice.cell.params["bound"] == 8
    assert advice.chosen == 1.0
    assert recommend(trials(less(values, 100), policy)).cell.params["bound"] == 8


@pytest.mark.parametrize(("policy", "far"), [("bounded:{bound}", 16), ("ssp:{bound}", 1)])
@pytest.mark.parametrize("by", [0, 50], ids=["ratios", "differences"])
def test_what_fails_on_some_seeds_is_not_preferred_for_little(
    policy: str, far: float, by: float
) -> None:
    for sound, frail in ((2, 8), (8, 2)):
        values = {sound: [10.1] * 5, frail: [10, 10, 10, INF, INF], far: [INF] * 5}
        advice = recommend(trials(less(values, by), policy))
        assert (advice.cell.params["bound"], advice.best.params["bound"]) == (sound, frail)
        values = {sound: [10] * 5, frail: [10.1, 10.1, 10.1, INF, INF]}
        assert recommend(trials(less(values, by), policy)).cell.params["bound"] == sound
    values = {2: [30] * 5, 8: [10, 10, 10, 10, INF]}
    assert recommend(trials(less(values, by), policy)).cell.params["bound"] == 8


@pytest.mark.parametrize("values", [{0: [20], 8: [10, 100, 100]}, {0: [20], 8: [10, 100]}])
def test_bounds_are_compared_on_the_seeds_that_both_have(values: dict[int, list[float]]) -> None:
    advice = recommend(trials(values))
    assert (advice.cell.params["bound"], advice.flat) == (8, None)
    other = recommend(trials({8: values[8]}) + trials({None: values[0]}, "async"))
    assert other.cell.params["bound"] == 8
    assert other.rivals[0].ratio.median == 2


def test_a_clear_best_is_taken_whatever_is_simple() -> None:
    values = {0: shifted(9), 4: shifted(6), 8: shifted(0), 16: shifted(6)}
    advice = recommend(trials(values))
    assert advice.cell.params["bound"] == 8
    assert advice.chosen == 1.0
    by_bound = {rival.cell.params["bound"]: rival.ratio for rival in advice.rivals}
    assert by_bound.keys() == {0, 4, 16}
    assert by_bound[4].median == 1.6
    assert all(r.low > 1 for r in by_bound.values())


def test_no_effect() -> None:
    rng = np.random.default_rng(3)
    values = {bound: [v + rng.normal(0, 0.1) for v in NOISY] for bound in (0, 2, 8, 32)}
    advice = recommend(trials(values))
    assert advice.flat is True
    assert advice.cell.params["bound"] == 0
    assert recommend(trials(values, "ssp:{bound}")).cell.params["bound"] == 32
    assert recommend(trials({**values, 0: shifted(8)})).flat is False


@pytest.mark.parametrize(
    ("first", "policy", "expected"),
    [
        ([9, 30, 40, 31, 10], "bounded:{bound}", 8),
        ([10, 16], "bounded:{bound}", 8),
        ([10, 10], "bounded:{bound}", 0),
        ([10], "ssp:{bound}", 8),
        ([10, 10, 10, 10, 16], "bounded:{bound}", 0),
    ],
)
def test_no_effect_has_to_be_shown(first: list[float], policy: str, expected: float) -> None:
    advice = recommend(trials({0: first, 8: [10] * len(first)}, policy))
    assert advice.flat is None
    assert advice.cell.params["bound"] == expected


def test_flat_from_a_bound_on() -> None:
    values = {0: shifted(9), 4: shifted(4), 16: shifted(0), 32: shifted(0.1), INF: shifted(0)}
    assert recommend(trials(values)).flat_from == 16
    assert recommend(trials({**values, INF: shifted(5)})).flat_from is None
    assert recommend(trials({**values, 32: [INF] * 5, INF: [INF] * 5})).flat_from is None
    assert recommend(trials({bound: v[:4] for bound, v in values.items()})).flat_from is None


def test_a_bound_that_fails_for_half_of_the_seeds_is_not_recommended() -> None:
    advice = recommend(trials({0: [5, 5, INF, INF, INF], 8: [30, 30, 30, 30, INF]}))
    assert advice.cell.params["bound"] == 8
    assert advice.rivals[0].ratio.median == INF


def test_other_policies_are_compared_seed_by_seed() -> None:
    found = trials({8: NOISY}) + trials({None: shifted(5)}, "async")
    (rival,) = recommend(found).rivals
    assert rival.cell.params["policy"] == "async"
    assert rival.ratio.low > 1.3


# ---- losses that may be negative ----------------------------------------------------------------


def less(values: Mapping[Any, Sequence[float]], by: float) -> dict[Any, list[float]]:
    return {key: [value - by for value in by_seed] for key, by_seed in values.items()}


def test_difference_resamples_seeds_together() -> None:
    base = [-9.0, -5.0, 0.0, 60.0, 200.0]
    more = difference([value + 2 for value in base], base)
    assert (more.median, more.low, more.high) == (2.0, 2.0, 2.0)
    apart = difference([2 * value for value in base[::-1]], base)
    assert apart.low < 0 < apart.high
    assert difference([INF] * 5, base).median == INF
    some = difference([1.0] * 5, [0.0, 0.0, 0.0, INF, INF])
    assert (some.median, some.low, some.high) == (1.0, -INF, 1.0)


def test_negative_losses_are_compared_by_differences() -> None:
    """What is best does not depend on where the zero of the loss lies."""
    values = {0: shifted(9), 4: shifted(6), 8: shifted(0), 16: shifted(6)}
    other = less({None: shifted(12)}, 20)
    advice = recommend(trials(less(values, 20)) + trials(other, "async"))
    assert advice.cell.params["bound"] == 8
    assert advice.flat is False
    assert all(math.isnan(rival.ratio.median) for rival in advice.rivals)
    by_bound = {rival.cell.params["bound"]: rival.difference for rival in advice.rivals}
    assert {bound: found.median for bound, found in by_bound.items()} == {
        0: 9,
        4: 6,
        16: 6,
        None: 12,
    }
    assert all(found.low > 0 for found in by_bound.values())


def test_no_effect_on_negative_losses() -> None:
    values = {bound: [-0.951, -0.950, -0.949, -0.952, -0.948] for bound in (0, 2, 8)}
    assert recommend(trials({**values, 4: [-0.96] * 5})).flat is True
    assert recommend(trials({**values, 4: [-1.1] * 5})).flat is False


def test_flat_from_a_bound_on_with_negative_losses() -> None:
    values = {0: shifted(9), 4: shifted(4), 16: shifted(0), 32: shifted(0.1), INF: shifted(0)}
    assert recommend(trials(less(values, 20))).flat_from == 16


def test_a_value_of_zero_is_no_base_of_a_ratio() -> None:
    """The first evaluation, at 0 s, may reach the target."""
    (rival,) = recommend(trials({8: [0.0] * 3}) + trials({None: [5.0, 6.0, 7.0]}, "async")).rivals
    assert math.isnan(rival.ratio.median)
    assert (rival.difference.median, rival.difference.low) == (6, 5)


# ---- workers ------------------------------------------------------------------------------------


def test_fit_finds_what_made_the_updates() -> None:
    true = Scaling(offset=4.0, slope=1.5, cycle_s=1.0, service_s=0.001)
    workers = [1, 4, 16, 64]
    found = fit(workers, [true.updates(n) for n in workers], 1.0, 0.001)
    assert found is not None
    assert (found.offset, found.slope) == pytest.approx((4.0, 1.5))
    assert found.noise == pytest.approx((4.0 / 1.5) ** 2)


@pytest.mark.parametrize("noise", [0.5, 10.0, 100.0])
@pytest.mark.parametrize("service_s", [0.0, 0.01])
def test_workers_that_are_worth_it(noise: float, service_s: float) -> None:
    scaling = Scaling(math.sqrt(noise), 1.0, cycle_s=1.0, service_s=service_s)
    worth = scaling.worth
    assert scaling.speed_up(worth) >= 0.5 * worth
    assert scaling.speed_up(worth + 1) < 0.5 * (worth + 1)
    if not service_s:  # (1 + sqrt N)^2 / (1 + sqrt(N / n))^2 = n / 2
        assert worth == pytest.approx(
            (math.sqrt(2) + math.sqrt(noise) * (math.sqrt(2) - 1)) ** 2, abs=1
        )


def test_fit_needs_two_numbers_of_workers() -> None:
    assert fit([8, 8], [100.0, 110.0], 1.0, 0.1) is None
    assert fit([8, 16], [100.0, INF], 1.0, 0.1) is None


def test_updates_that_do_not_grow() -> None:
    found = fit([1, 4, 16], [120.0, 110.0, 100.0], 1.0, 0.1)
    assert found is not None
    assert found.noise == INF
    assert found.updates(1) == found.updates(64)


def test_best_for_each_number_of_workers() -> None:
    found = trials({0: [9], 8: [7]}, workers=4) + trials({0: [3], 8: [5]}, workers=2)
    best = best_by_workers(found)
    assert [(c.params["workers"], c.params["bound"]) for c in best] == [(2, 0), (4, 8)]


def test_gini() -> None:
    assert gini([5, 5, 5, 5]) == 0
    assert gini([0, 0, 0, 8]) == 0.75
    assert gini([1, 3]) == 0.25
