"""Rounding to fewer bits of mantissa: against exact arithmetic, and what it leaves alone."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zmqdist.wire.bitround import bitround

MANTISSA = {np.float32: 23, np.float64: 52}


def exact(value: Any, keep_bits: int) -> Fraction:
    """Round a finite number to the grid of its binade in rational numbers, ties to even."""
    number = Fraction(float(value))
    info = np.finfo(type(value))
    exponent = max(int(np.frexp(abs(value))[1]) - 1, int(info.minexp))
    unit = Fraction(2) ** (exponent - min(keep_bits, info.nmant))
    return round(number / unit) * unit  # Python rounds ties to even


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(data=st.data(), keep_bits=st.integers(1, 60))
def test_nearest_number_ties_to_even(dtype: type[Any], data: st.DataObject, keep_bits: int) -> None:
    width = 8 * np.dtype(dtype).itemsize
    values = data.draw(hnp.arrays(dtype, st.integers(0, 5), elements=st.floats(width=width)))
    rounded = bitround(values, keep_bits)
    assert rounded.dtype == values.dtype
    largest = Fraction(float(np.finfo(dtype).max))
    for before, after in zip(values, rounded, strict=True):
        if not np.isfinite(before):
            assert before.tobytes() == after.tobytes()
        elif abs(right := exact(before, keep_bits)) > largest:
            assert before == after  # what would round up to infinity stays
        else:
            assert Fraction(float(after)) == right
            assert np.signbit(before) == np.signbit(after)
            if abs(before) >= np.finfo(dtype).tiny:
                assert abs(right - Fraction(float(before))) <= abs(Fraction(float(before))) * (
                    Fraction(1, 2 ** (keep_bits + 1))
                )
    assert bitround(rounded, keep_bits).tobytes() == rounded.tobytes()


@example(1.0 + 2.0**-4, 1.0)
@example(1.0 + 3 * 2.0**-4, 1.0 + 2.0**-2)
@example(-(1.0 + 2.0**-4), -1.0)
@example(2.0 - 2.0**-4, 2.0)
@example(-0.0, -0.0)
@given(st.just(1.0), st.just(1.0))
def test_examples_of_three_bits(value: float, right: float) -> None:
    for dtype in MANTISSA:
        rounded = bitround(np.array([value], dtype), 3)
        assert rounded.tobytes() == np.array([right], dtype).tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_numbers_and_the_ends_of_the_range_stay(dtype: type[Any]) -> None:
    info = np.finfo(dtype)
    values = np.array([np.nan, -np.nan, np.inf, -np.inf, info.max, -info.max, 0.0, -0.0], dtype)
    for keep_bits in (1, 7, MANTISSA[dtype] - 1):
        assert bitround(values, keep_bits).tobytes() == values.tobytes()
    words = np.uint32 if dtype is np.float32 else np.uint64
    odd_nan = (np.array([np.nan], dtype).view(words) + words(1)).view(dtype)
    assert bitround(odd_nan, 2).tobytes() == odd_nan.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_denormals_round_on_their_own_grid(dtype: type[Any]) -> None:
    smallest = np.finfo(dtype).smallest_subnormal
    drop = MANTISSA[dtype] - 7
    values = np.array([1, 2 ** (drop - 1), 2 ** (drop - 1) + 1, 2**drop], dtype) * smallest
    right = np.array([0, 0, 2**drop, 2**drop], dtype) * smallest
    assert bitround(values, 7).tobytes() == right.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(5),
        np.array([1.0 + 2.0**-9], np.float16),
        np.array([1 + 1j / 3]),
        np.array([True]),
        np.array(["text"]),
        np.full(3, 1 / 3, np.longdouble),
        np.full(3, 1 / 3),
    ],
    ids=lambda array: str(array.dtype),
)
def test_what_is_returned_as_it_is(array: np.ndarray) -> None:
    assert bitround(array, 52) is array
    if array.dtype != np.float64:
        assert bitround(array, 2) is array


def test_shape_order_and_argument_stay() -> None:
    values = np.asfortranarray(np.random.default_rng(1).normal(size=(3, 4, 2)))[::2, ::-1]
    before = values.copy()
    rounded = bitround(values, 5)
    assert rounded.shape == values.shape
    np.testing.assert_array_equal(values, before)
    np.testing.assert_allclose(rounded, values, rtol=2.0**-6)
    assert not np.array_equal(rounded, values)
    values[0, 0, 0] = np.inf
    assert bitround(values, 5).shape == values.shape
    for shape in [(), (0, 3), (1, 1)]:
        assert bitround(np.full(shape, 1 / 3), 4).shape == shape
