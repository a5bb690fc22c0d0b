"""Error feedback: what rounding cuts off is applied later, whatever becomes of an update."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqdist import RowSparse
from zmqdist.coding import UpdateCoder
from zmqdist.models.feedback import Feedback
from zmqdist.wire.lossy import BitRound, Float16, Half, Rounding
from zmqdist.wire.tree import decode_tree, encode_tree

SHAPE = (6, 2)
ROUNDINGS: list[Rounding] = [BitRound(1), BitRound(3), Float16()]


def received(sent: Any) -> Any:
    """Return what arrives of what is sent."""
    encoded = encode_tree(sent)
    return decode_tree(encoded.spec, encoded.frames, max_bytes=1 << 20)


def dense(part: Any) -> Any:
    return np.zeros(part.shape) + part if isinstance(part, RowSparse) else part


moves = st.lists(
    st.tuples(
        st.sampled_from(["dense", "rows"]),
        st.integers(0, 2**32 - 1),
        st.sampled_from(["applied", "rejected", "requeue", "duplicate"]),
        st.integers(0, 2),
    ),
    max_size=25,
)


@pytest.mark.parametrize("rounding", ROUNDINGS, ids=repr)
@given(moves)
def test_what_is_applied_and_what_is_kept_are_what_was_computed(
    rounding: Rounding, moves: list[tuple[str, int, str, int]]
) -> None:
    """Of the steps that stand; float64, so that sums are exact but for a few bits."""
    feedback = Feedback(rounding)
    computed, applied = np.zeros(SHAPE), np.zeros(SHAPE)
    under_way: list[tuple[int, Any, Any, str]] = []

    def settle(leave: int) -> None:
        nonlocal computed, applied
        while len(under_way) > leave:
            step, gradient, sent, outcome = under_way.pop(0)
            feedback.settle(step, applied=outcome == "applied")
            if outcome == "applied":
                computed, applied = computed + dense(gradient), applied + dense(received(sent))

    for step, (kind, seed, outcome, leave) in enumerate(moves):
        rng = np.random.default_rng(seed)
        gradient: Any = rng.normal(size=SHAPE) * 10.0 ** rng.integers(-9, 4)
        if kind == "rows":
            rows = np.flatnonzero(rng.random(6) < 0.5)
            gradient = RowSparse(rows, gradient[rows], SHAPE)
        kept = np.array(dense(gradient))
        sent = feedback.round(step, {"w": gradient})["w"]
        assert (dense(gradient) == kept).all(), "the user's array was changed"
        under_way.append((step, gradient, sent, outcome))
        settle(leave)
    settle(0)
    rest = feedback.residual().get(("w",), np.zeros(SHAPE))
    scale = max(np.abs(computed).max(), 1e4)
    np.testing.assert_allclose(applied + rest, computed, rtol=0, atol=1e-9 * scale)


@pytest.mark.parametrize(("rounding", "bits"), [(BitRound(3), 3), (Float16(), 10)])
def test_what_is_left_at_the_end_is_bounded(rounding: Rounding, bits: int) -> None:
    feedback = Feedback(rounding)
    rng = np.random.default_rng(0)
    for step in range(50):
        gradient = {"w": rng.normal(size=1000).astype(np.float32)}
        before = feedback.residual().get(("w",), np.zeros(1000)).copy()
        feedback.round(step, gradient)
        feedback.settle(step, applied=True)
        last = np.abs(gradient["w"] + before)
        assert (np.abs(feedback.residual()[("w",)]) <= 2.0 ** -(bits + 1) * last + 3e-8).all()


def test_small_numbers_arrive_in_the_end() -> None:
    """Float16 alone would make zeros of them for ever."""
    feedback = Feedback(Float16())
    total = np.zeros(3)
    for step in range(1000):
        total += received(feedback.round(step, np.full(3, 1e-9)))
        feedback.settle(step, applied=True)
    np.testing.assert_allclose(total, 1e-6, rtol=0.04)


def test_what_is_no_float_passes_as_it_is() -> None:
    scipy = pytest.importorskip("scipy.sparse")
    counts = np.array([1, 2**40 + 1])
    update = {
        "n": 3,
        "x": 0.1,
        "s": np.float32(0.1),
        "counts": counts,
        "half": np.array([0.1], np.float16),
        "both": (scipy.csr_matrix(np.full((1, 2), 0.1)), [True, None, "text"]),
        "rows": RowSparse([1], np.array([[2**40 + 1]]), (3, 1)),
        "empty": np.zeros((0, 2)),
    }
    feedback = Feedback(BitRound(2))
    sent = feedback.round(0, update)
    for name in ("n", "x", "s", "counts", "half", "rows"):
        assert sent[name] is update[name]
    assert sent["both"][0] is update["both"][0]
    assert sent["both"][1] == [True, None, "text"]
    assert isinstance(sent["both"], tuple)
    assert sent["empty"].shape == (0, 2)
    assert set(feedback.residual()) == {("empty",)}


def test_each_array_has_its_own_residual() -> None:
    feedback = Feedback(BitRound(1))
    feedback.round(0, [{"a": np.array([1.1])}, {"a": np.array([[1.2]])}])
    residual = feedback.residual()
    assert residual[(0, "a")][0] == pytest.approx(0.1)
    assert residual[(1, "a")][0, 0] == pytest.approx(0.2)


def test_what_the_master_refuses_is_not_kept() -> None:
    feedback = Feedback(BitRound(1))
    sent = feedback.round(0, np.array([np.nan, np.inf, 1.1]))
    assert not np.isfinite(sent[:2]).any()
    assert list(feedback.residual()[()]) == [0, 0, pytest.approx(0.1)]


def test_a_half_arrives_in_its_dtype() -> None:
    feedback = Feedback(Float16())
    update = {
        "w": np.array([1.1, 1e6, -1e6], np.float32),
        "rows": RowSparse([2], np.array([[0.1, 70000.0]]), (4, 2)),
    }
    sent = feedback.round(0, update)
    assert isinstance(sent["w"], Half)
    there = received(sent)
    assert there["w"].dtype == np.float32
    assert there["rows"].dtype == np.float64
    assert list(there["w"][1:]) == [65504, -65504]
    assert feedback.residual()[("w",)][1] == 1e6 - 65504
    assert there["rows"].values[0, 1] == 65504


@pytest.mark.parametrize("codec", ["bitround:1", "float16"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_array_of_no_dimension_passes_as_the_number_that_it_is(codec: str, dtype: Any) -> None:
    coder = UpdateCoder(codec)
    for step in range(2):
        encoded = coder.encode(step, {"b": np.array(0.1, dtype), "w": np.full(3, 0.1, dtype)})
        there = decode_tree(encoded.spec, encoded.frames, max_bytes=1 << 20)
        assert (there["b"].shape, there["b"].dtype) == ((), dtype)
        assert there["b"] == dtype(0.1)
        assert (there["w"] != dtype(0.1)).all()
        coder.settle(step, applied=False)
