"""The alarm for rows that run away: on what it warns, and on what it keeps still."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gensim.models import FastText, Word2Vec

from zmqdist import RowSparse, ZmqDist
from zmqdist.errors import UpdateError
from zmqdist.models import parameters_of
from zmqdist.models.norms import MAX_SCORE, NormWatch

ROWS, WIDTH = 6, 4


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "zmqdist.models.norms")
    return lambda: [record.getMessage() for record in caplog.records]


def table(norm: float, dtype: Any = np.float32) -> Any:
    """Return rows that are short, but for one."""
    rows = np.full((ROWS, WIDTH), 1e-3 * norm, dtype)
    rows[2] = norm / 2  # of four numbers
    return rows


def watch(model: Any = None) -> NormWatch:
    return NormWatch(parameters_of({"w": table(1)} if model is None else model))


@pytest.mark.parametrize(
    "course",
    [
        lambda t: 0.1,
        lambda t: t**3.0,  # all that has a power of time
        lambda t: 1e-6 * t**3.0,
        lambda t: 0.0 if t < 30 else 5.0,  # a table that begins late
        lambda t: 0.03 + 8 / (1 + np.exp(6 - t / 12)),  # leaves its plateau
        lambda t: 1e9,  # large from the first
        lambda t: 100.0 / (t + 1),
    ],
)
def test_keeps_still(course: Callable[[float], float], said: Any) -> None:
    norms = watch()
    for version in range(400):
        norms.look({"w": table(course(version))}, version)
    assert said() == []
    assert norms.largest == pytest.approx(max(course(t) for t in range(400)), rel=1e-5)


@pytest.mark.parametrize(
    ("growth", "first"), [(1.02, 0.1), (1.5, 1e-3), (3.0, 1.0)], ids=lambda x: f"{x:g}"
)
@pytest.mark.parametrize("every", [1, 7])
def test_warns_of_exponential_growth_once(
    growth: float, first: float, every: int, said: Any
) -> None:
    norms = watch()
    for version in range(0, 800, every):
        with np.errstate(over="ignore"):
            norms.look({"w": table(min(first * np.float64(growth) ** version, 1e38))}, version)
    (text,) = said()
    assert "training runs away: the longest row of w has grown from" in text
    assert "a lower learning rate, merge=RowTrustRegion with a smaller cap" in text
    assert norms.alarmed


def test_looks_at_the_rows_that_changed() -> None:
    norms = watch()
    norms.look({"w": table(1.0)}, 0)
    norms.look({"w": RowSparse([4], np.full((1, WIDTH), 3.0), (ROWS, WIDTH))}, 1)
    assert norms.largest == pytest.approx(6.0)
    norms.look({"w": RowSparse([2, 4], np.zeros((2, WIDTH)), (ROWS, WIDTH))}, 2)
    assert norms.largest == pytest.approx(6.0)  # so far


@pytest.mark.parametrize(
    "array",
    [np.full(4, 1e9), np.full((2, 2), 10**9), np.full((2, 2, 2), 1e9), np.zeros((0, 4)), 3.0],
    ids=lambda a: str(np.shape(a)),
)
def test_passes_over_what_has_no_rows_of_floats(array: Any) -> None:
    norms = watch()
    norms.look({"w": np.asarray(array)}, 0)
    assert norms.largest == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_large_numbers(dtype: Any, said: Any) -> None:
    norms = watch()
    norms.look({"w": table(10.0, dtype)}, 0)
    norms.look({"w": table(1000.0, dtype)}, 16)  # whose square is no float16
    assert norms.largest == pytest.approx(1000, rel=1e-3)
    assert said() == []
    norms.look({"w": np.full((ROWS, WIDTH), np.finfo(dtype).max)}, 20)
    assert len(said()) == 1


@pytest.mark.parametrize(
    ("dtype", "size"), [(np.float16, 6e4), (np.float32, 1e30), (np.float64, 1e200)]
)
def test_rows_whose_squares_no_float_holds(dtype: Any, size: float) -> None:
    norms = watch()
    norms.look({"w": np.full((ROWS, WIDTH), size, dtype)}, 0)
    assert norms.largest == pytest.approx(2 * size, rel=1e-2)  # of four numbers


@pytest.mark.parametrize("value", [np.finfo(np.float64).max, np.inf, -np.inf])
def test_the_largest_norm_is_finite_whatever_the_rows_are(value: float) -> None:
    """It stands in reports, which are JSON."""
    norms = watch()
    norms.look({"w": table(1.0)}, 0)
    norms.look({"w": np.full((ROWS, WIDTH), value)}, 1)
    norms.look({"w": np.full((ROWS, WIDTH), np.nan)}, 2)
    assert norms.largest == np.finfo(np.float64).max


# ---- word vectors ----------------------------------------------------------------------------


def word_model(cls: type[Any] = Word2Vec, **options: Any) -> Any:
    model = cls(vector_size=WIDTH, min_count=1, **options)
    model.build_vocab([["a", "b", "c", "d", "e", "f"]])
    return model


@pytest.mark.parametrize(
    ("model", "inputs", "output"),
    [
        (word_model(), "wv.vectors", "syn1neg"),
        (word_model(hs=1, negative=0), "wv.vectors", "syn1"),
        (word_model(FastText, bucket=10), "wv.vectors_vocab", "syn1neg"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_warns_of_scores_that_make_no_sense(
    model: Any, inputs: str, output: str, said: Any
) -> None:
    norms = watch(model)
    norms.look({inputs: table(25.0), output: table(0.99 * MAX_SCORE / 25)}, 1)
    norms.look({inputs: table(500.0)[:2]}, 2)  # its rows of moderate length
    assert said() == []
    norms.look({output: table(1.01 * MAX_SCORE / 25)}, 3)
    norms.look({output: table(1e6)}, 4)
    (text,) = said()
    assert f"the rows of {inputs} and {output} have norms of up to 25 and 16" in text
    assert "at version 3: " in text


def test_other_models_have_no_such_scale(said: Any) -> None:
    norms = watch({"w": table(1), "v": table(1)})
    norms.look({"w": table(1e4), "v": table(1e4)}, 1)
    assert said() == []


# ---- in a run -----------------------------------------------------------------------------------


def diverging(model: Any, items: Any) -> Any:
    for _ in items:
        yield {"w": 0.2 * model["w"]}


@pytest.mark.usefixtures("threads")
def test_a_run_that_diverges(said: Any) -> None:
    with ZmqDist({"w": table(1)}, publish_every=1, max_in_flight=1) as dd:
        result = dd.train([range(150)], diverging, workers=1)
    assert len(said()) == 1
    assert result.applied == 150
    assert result.max_row_norm == pytest.approx(1.2**150, rel=1e-3)
    assert result.history[-1]["max_row_norm"] == result.max_row_norm
    assert "longest row" in result.summary()


def test_a_run_that_diverges_to_the_end_is_told_what_to_do() -> None:
    def gradient(model: Any, items: Any) -> Any:
        for _ in items:
            yield {"w": 10 * model["w"]}

    with ZmqDist({"w": table(1)}, publish_every=1, max_in_flight=1) as dd:
        with pytest.raises(UpdateError, match=r"\['w'\] has NaN or inf.* Lower the learning rate"):
            dd.train([range(150)], gradient, workers=1)
