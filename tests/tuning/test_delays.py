"""Delay models draw what they say, and are read back as they were written."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from zmqdist.errors import ConfigError
from zmqdist.tuning.delays import (
    MODELS,
    Constant,
    Delay,
    Exponential,
    Gamma,
    Lognormal,
    Pareto,
    Replay,
    Straggler,
    Weibull,
    delay_from,
)
from zmqdist.tuning.streams import Purpose, Sample, generator

DELAYS = [
    Constant(0.3),
    Exponential(2.0),
    Exponential(2.0, shift_s=1.0),
    Lognormal(1.0, 0.5),
    Gamma(16.0, 1.5),
    Weibull(0.7, 1.0),
    Pareto(2.5, 1.0),
    Pareto(1.0, 1.0, 50.0),
    Pareto(0.8, 1.0, 50.0),
    Straggler(Exponential(1.0), 0.05, 10.0),
    Straggler(Exponential(1.0), 0.2, 5.0, run_steps=4.0),
    Replay((1.0, 2.0, 3.0, 10.0), block=2),
]


def taken(delay: Delay, n: int, seed: int = 1) -> list[float]:
    return list(itertools.islice(delay.stream(generator(seed, 0, Purpose.COMPUTE)), n))


@pytest.mark.parametrize("delay", DELAYS, ids=repr)
def test_the_mean_is_the_mean_of_the_stream(delay: Delay) -> None:
    times = np.array(taken(delay, 200_000))
    assert (times >= 0).all()
    # Four standard errors; draws of one straggling run belong together.
    spread = times.std() / math.sqrt(len(times)) * 4 * getattr(delay, "run_steps", 1)
    assert times.mean() == pytest.approx(delay.mean, abs=spread + 1e-12)


@pytest.mark.parametrize("delay", DELAYS, ids=repr)
def test_a_stream_is_its_generators(delay: Delay) -> None:
    assert taken(delay, 3000) == taken(delay, 3000)
    if not isinstance(delay, Constant):
        assert taken(delay, 100) != taken(delay, 100, seed=2)


@pytest.mark.parametrize("delay", DELAYS, ids=repr)
def test_read_back_as_written(delay: Delay) -> None:
    assert delay_from(delay.as_dict()) == delay


def test_every_model_is_tested() -> None:
    assert {type(delay) for delay in DELAYS} == set(MODELS.values())


@pytest.mark.parametrize(
    ("delay", "quantile", "time_s"),
    [
        (Exponential(2.0, shift_s=1.0), 0.5, 1 + 2 * math.log(2)),
        (Lognormal(3.0, 0.8), 0.5, 3.0),
        (Weibull(0.7, 2.0), 1 - 1 / math.e, 2.0),
        (Pareto(2.0, 1.0), 0.75, 2.0),
        (Pareto(2.0, 1.0, 2.0), 0.5, math.sqrt(1 / 0.625)),
    ],
    ids=repr,
)
def test_quantiles(delay: Delay, quantile: float, time_s: float) -> None:
    assert np.quantile(taken(delay, 200_000), quantile) == pytest.approx(time_s, rel=0.01)


def test_gamma_has_the_spread_of_its_shape() -> None:
    times = np.array(taken(Gamma(16.0, 1.5), 100_000))
    assert times.std() / times.mean() == pytest.approx(1 / 4, rel=0.02)


def test_a_truncated_pareto_stays_below_its_maximum() -> None:
    assert max(taken(Pareto(0.5, 1.0, 20.0), 100_000)) < 20.0
    assert Pareto(0.9, 1.0).mean == math.inf


@pytest.mark.parametrize("run_steps", [1.0, 5.0, 20.0])
def test_stragglers_straggle_in_runs(run_steps: float) -> None:
    delay = Straggler(Constant(1.0), 0.1, 10.0, run_steps)
    slow = np.array(taken(delay, 200_000)) == 10.0
    assert slow.mean() == pytest.approx(0.1, abs=0.01)
    runs = [sum(1 for _ in run) for is_slow, run in itertools.groupby(slow) if is_slow]
    expected = run_steps if run_steps > 1 else 1 / 0.9
    assert np.mean(runs) == pytest.approx(expected, rel=0.06)


def test_replay_keeps_neighbours_together() -> None:
    times = tuple(float(i) for i in range(100))
    drawn = np.array(taken(Replay(times, block=10), 10_000)).reshape(-1, 10)
    assert (np.diff(drawn, axis=1) % 100 == 1).all()
    assert len(np.unique(drawn[:, 0])) > 90  # blocks begin anywhere


def test_replay_in_order_is_what_was_measured() -> None:
    delay = Replay((3.0, 1.0, 2.0), in_order=True)
    assert taken(delay, 7) == [3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0]
    assert delay.draw(generator(0, 0, Purpose.COMPUTE), 5).tolist() == [3.0, 1.0, 2.0, 3.0, 1.0]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"name": "replay", "times_s": [1, 2], "block": 2, "in_order": True}, "in_order"),
        ({"name": "exponental", "mean_s": 1}, "exponental"),
        ({"name": "exponential", "mean": 1}, "mean"),
        ({"name": "exponential"}, "mean_s"),
        ({"name": "exponential", "mean_s": 0}, "mean_s"),
        ({"name": "exponential", "mean_s": math.nan}, "mean_s"),
        ({"name": "exponential", "mean_s": True}, "mean_s"),
        ({"name": "lognormal", "median_s": 1, "sigma": -1}, "sigma"),
        ({"name": "pareto", "alpha": 1, "minimum_s": 2, "maximum_s": 1}, "maximum_s"),
        ({"name": "straggler", "base": 1, "probability": 1.0, "factor": 2}, "probability"),
        ({"name": "straggler", "base": 1, "probability": 0.9, "factor": 2, "run_steps": 2}, "runs"),
        ({"name": "straggler", "base": 1, "probability": 0.1, "factor": 2, "run_steps": 0}, "run_"),
        ({"name": "replay", "times_s": []}, "times_s"),
        ({"name": "replay", "times_s": [1.0], "block": 2}, "block"),
        ({}, "None"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        delay_from(options)


def test_a_number_is_a_constant() -> None:
    assert delay_from(2) == Constant(2.0)


def test_streams_differ_by_seed_worker_and_purpose() -> None:
    keys = [(s, w, p) for s in (0, 1) for w in (0, 1, 2) for p in Purpose]
    draws = {key: generator(key[0], key[1], key[2]).random() for key in keys}
    assert len(set(draws.values())) == len(keys)


def test_a_sample_is_the_same_whatever_else_is_drawn() -> None:
    key = Sample.key_of(0, 3, Purpose.GRADIENT)
    alone = Sample(key, 7).generator().random(5)
    before = [Sample(key, i).generator().random(1000) for i in range(7)]
    np.testing.assert_array_equal(Sample(key, 7).generator().random(5), alone)
    assert not any(np.isin(alone, other).any() for other in before)
