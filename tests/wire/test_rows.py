"""RowSparse arithmetic against numpy on the full array."""

from __future__ import annotations

import copy
import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqdist.wire import rows as rows_module
from zmqdist.wire.rows import RowSparse, canonical_rows, occupied_rows, union

DTYPES = ("f4", "f8", "i4", "i8", "c16")
quick = settings(deadline=None, max_examples=60)


@st.composite
def row_sparse(draw, shape=None, dtypes=DTYPES, zeros=True):
    n, d = shape or (draw(st.integers(1, 9)), draw(st.integers(1, 4)))
    dtype = draw(st.sampled_from(dtypes))
    rows = sorted(draw(st.sets(st.integers(0, n - 1))))
    low = -4 if zeros else 1
    cells = st.integers(low, 4)
    values = [[draw(cells) for _ in range(d)] for _ in rows]
    return RowSparse(rows, np.array(values, dtype=dtype).reshape(len(rows), d), (n, d))


def same(result, expected, *, sparse):
    assert isinstance(result, RowSparse) is sparse
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    np.testing.assert_array_equal(np.asarray(result), expected)
    if sparse:
        assert canonical_rows(result.rows, result.shape[0])


UNARY_SPARSE = [operator.neg, abs, np.square, np.sign, np.negative, np.conjugate]
SCALAR_SPARSE = [
    lambda u: u * 2,
    lambda u: 3 * u,
    lambda u: u / 3,
    lambda u: u**2,
    lambda u: u * np.float32(0.5),
    lambda u: np.array(2.0) * u,
    lambda u: u + 0,
    lambda u: u * u,
    lambda u: np.multiply(u, np.arange(1, u.shape[-1] + 1, dtype="f4")),
    lambda u: u * [[2]],
]
DENSE = [
    lambda u: u + 1,
    lambda u: 1 - u,
    np.exp,
    np.cos,
    lambda u: u == 0,
    lambda u: u != u,
    np.isfinite,
    lambda u: u**0,
    lambda u: np.add.reduce(u, axis=0),
    lambda u: np.sum(u),
    lambda u: u @ np.ones((u.shape[1], 2)),
    lambda u: np.multiply(u, 2, where=np.ones(u.shape, dtype=bool), out=np.zeros(u.shape, u.dtype)),
]


@pytest.mark.parametrize("op", [*UNARY_SPARSE, *SCALAR_SPARSE])
@quick
@given(u=row_sparse())
def test_stays_sparse(op, u):
    same(op(u), op(u.todense()), sparse=True)


@pytest.mark.parametrize("op", DENSE)
@quick
@given(u=row_sparse())
def test_dense_where_zero_does_not_stay_zero(op, u):
    result, expected = op(u), op(u.todense())
    assert not isinstance(result, RowSparse)
    np.testing.assert_allclose(result, expected)


@quick
@given(data=st.data(), u=row_sparse(shape=(6, 3)))
def test_two_row_sparse(data, u):
    v = data.draw(row_sparse(shape=(6, 3)))
    for op in (operator.add, operator.sub, operator.mul):
        same(op(u, v), op(u.todense(), v.todense()), sparse=True)
    if u.dtype.kind != "c" and v.dtype.kind != "c":
        same(np.maximum(u, v), np.maximum(u.todense(), v.todense()), sparse=True)


@quick
@given(u=row_sparse(shape=(6, 3)), seed=st.integers(0, 99))
def test_with_a_dense_array(u, seed):
    dense = np.random.default_rng(seed).integers(1, 9, (6, 3)).astype("f8")
    full = u.todense()
    for op in (operator.mul, operator.truediv):
        same(op(u, dense), op(full, dense), sparse=True)
    same(dense * u, dense * full, sparse=True)
    same(u * dense[:, :1], full * dense[:, :1], sparse=True)
    for op in (operator.add, operator.sub):
        same(op(dense, u), op(dense, full), sparse=False)
        same(op(u, dense), op(full, dense), sparse=False)


@quick
@given(u=row_sparse(shape=(6, 3), dtypes=("f4", "f8")), order=st.sampled_from("CF"))
def test_in_place_on_a_dense_array(u, order):
    for op in (operator.iadd, operator.isub, operator.imul):
        dense = np.arange(18, dtype="f8").reshape(6, 3).copy(order)
        expected = op(dense.copy(), u.todense())
        result = op(dense, u)
        assert result is dense
        np.testing.assert_array_equal(dense, expected)
    dense = np.ones((6, 3))
    np.subtract(u, dense, out=dense)
    np.testing.assert_array_equal(dense, u.todense() - np.ones((6, 3)))
    np.add(u, dense, out=dense)
    np.testing.assert_array_equal(dense, u.todense() * 2 - np.ones((6, 3)))
    with np.errstate(all="ignore"):
        dense, expected = np.ones((6, 3)), np.ones((6, 3))
        dense /= u
        expected /= u.todense()
    np.testing.assert_array_equal(dense, expected)


def test_in_place_touches_only_the_rows():
    # A -0.0 in another row would turn into 0.0 if the full update were added.
    dense = np.full((5, 2), -0.0)
    dense += RowSparse([3], [[1.0, 2.0]], (5, 2))
    assert np.signbit(dense[[0, 1, 2, 4]]).all()
    np.testing.assert_array_equal(dense[3], [1, 2])


def test_in_place_through_a_view_and_a_memmap(tmp_path):
    u = RowSparse([1], [[5.0]], (3, 1))
    dense = np.zeros((3, 2))
    dense[:, :1] -= u
    np.testing.assert_array_equal(dense, [[0, 0], [-5, 0], [0, 0]])
    mapped = np.memmap(tmp_path / "m", dtype="f8", shape=(3, 1), mode="w+")
    mapped += u
    np.testing.assert_array_equal(mapped, [[0], [5], [0]])


def test_in_place_block_by_block(monkeypatch):
    monkeypatch.setattr(rows_module, "_BLOCK_BYTES", 48)  # two rows and a bit
    generator = np.random.default_rng(0)
    for count in (1, 2, 3, 7, 20):
        rows = np.sort(generator.choice(20, count, replace=False))
        u = RowSparse(rows, generator.normal(size=(count, 3)), (20, 3))
        dense = generator.normal(size=(20, 3))
        expected = dense + u.todense()
        source = generator.normal(size=(20, 3))
        dense += u
        np.testing.assert_array_equal(dense, expected)
        copied = dense.copy()
        rows_module.copy_rows(copied, source, u.rows)
        expected[rows] = source[rows]
        np.testing.assert_array_equal(copied, expected)


def test_in_place_casting_is_numpys():
    counts = np.zeros((3, 1), dtype="i4")
    for rows in ([], [1]):
        u = RowSparse(rows, np.ones((len(rows), 1)), (3, 1))
        with pytest.raises(np._core._exceptions._UFuncOutputCastingError):
            counts += u
    single = np.zeros((3, 1), dtype="f4")
    single += RowSparse([1], [[2.0]], (3, 1))
    assert single.dtype == "f4"
    frozen = np.zeros((3, 1))
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        frozen += RowSparse([1], [[2.0]], (3, 1))


def test_adagrad():
    rng = np.random.default_rng(0)
    u = RowSparse([2, 7], rng.standard_normal((2, 4)).astype("f4"), (9, 4))
    full, alpha = u.todense(), 0.25
    syn, ssyn = np.ones((9, 4), "f4"), np.full((9, 4), 0.5, "f4")
    ssyn[0] = 0
    expected_ssyn = ssyn + (full / alpha) ** 2
    ssyn += (u / alpha) ** 2
    np.testing.assert_array_equal(ssyn, expected_ssyn)
    step = u / np.sqrt(ssyn)
    assert isinstance(step, RowSparse)
    assert isinstance(np.sqrt(u * u), RowSparse)
    expected = syn.copy()
    expected[[2, 7]] += (full / np.sqrt(np.where(ssyn > 0, ssyn, 1)))[[2, 7]]
    syn += step
    np.testing.assert_array_equal(syn, expected)


def test_nothing_divided_by_zero_is_nothing():
    dense = np.array([[0.0], [2.0], [np.inf]])
    u = RowSparse([1], [[4.0]], (3, 1))
    np.testing.assert_array_equal((u / dense).todense(), [[0], [2], [0]])
    np.testing.assert_array_equal((u * dense).todense(), [[0], [8], [0]])


def test_in_place_on_itself():
    u = RowSparse([1], np.ones((1, 2), "f4"), (4, 2))
    kept = u
    u += RowSparse([3], np.full((1, 2), 2.0), (4, 2))
    assert kept is u
    assert u.dtype == "f4"
    np.testing.assert_array_equal(u.todense(), [[0, 0], [1, 1], [0, 0], [2, 2]])
    u += 1
    np.testing.assert_array_equal(u.todense(), [[1, 1], [2, 2], [1, 1], [3, 3]])
    with pytest.raises(TypeError, match="astype"):
        u += 1j * kept
    with pytest.raises(TypeError):
        np.divmod(u, 2, out=(u, u))


@pytest.mark.parametrize(
    "op", [operator.add, operator.sub, operator.mul, operator.truediv, operator.iadd]
)
@pytest.mark.parametrize("other", [np.ones((4, 2)), np.ones(3), np.ones((1, 5, 2))])
def test_shapes_that_do_not_match(op, other):
    u = RowSparse([1], [[1.0, 2.0]], (5, 2))
    with pytest.raises(ValueError, match=r"\(5, 2\)") as caught:
        op(other, u)
    assert str(other.shape) in str(caught.value)
    with pytest.raises(ValueError, match=r"\(5, 2\) do not match"):
        u + RowSparse([1], [[1.0, 2.0]], (6, 2))


def test_constructor_sorts_and_sums():
    u = RowSparse([4, 1, 4], np.array([[1], [2], [3]], dtype="i1"), (6, 1))
    np.testing.assert_array_equal(u.rows, [1, 4])
    np.testing.assert_array_equal(u.values, [[2], [4]])
    assert u.rows.dtype == np.int32
    assert u.dtype == np.int8
    assert RowSparse([2**33], [[1]], (2**34, 1)).rows.dtype == np.int64
    assert RowSparse(np.array([1], dtype="u8"), [1.0], (3,)).rows.dtype == np.int32
    values = np.ones((2, 1))
    assert RowSparse([0, 5], values, (6, 1)).values is values


@pytest.mark.parametrize(
    ("rows", "values", "shape", "message"),
    [
        ([6], [[1.0]], (6, 1), "0 to 5"),
        ([-1, 2], [[1.0], [1.0]], (6, 1), "from -1"),
        ([0, 1], [[1.0]], (6, 1), "expected .2, 1."),
        ([0.5], [[1.0]], (6, 1), "integer"),
        ([True], [[1.0]], (6, 1), "integer"),
        ([[0]], [[1.0]], (6, 1), "1-d"),
        ([0], [["a"]], (6, 1), "numeric"),
        ([], 1.0, (), "at least one dimension"),
        ([], [], (-1,), "no negative size"),
    ],
)
def test_constructor_refuses(rows, values, shape, message):
    with pytest.raises(ValueError, match=message):
        RowSparse(rows, values, shape)


@quick
@given(u=row_sparse(zeros=False))
def test_from_dense_is_the_inverse(u):
    again = RowSparse.from_dense(u.todense())
    np.testing.assert_array_equal(again.rows, u.rows)
    np.testing.assert_array_equal(again.values, u.values)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["?", "i1", "f2", "f4", "f8", "c16", ">f4"])
@pytest.mark.parametrize("width", [1, 3, 8])
def test_occupied_rows(dtype, width, order):
    dense = np.zeros((5, width, 2), dtype=dtype, order=order)
    dense[1, width - 1, 1] = 1
    dense[3, 0, 0] = np.nan if dense.dtype.kind == "f" else 1
    np.testing.assert_array_equal(occupied_rows(dense), [False, True, False, True, False])


def test_from_dense_keeps_nan_and_takes_empty():
    assert list(RowSparse.from_dense([[0.0], [np.nan], [-0.0]]).rows) == [1, 2]
    assert not RowSparse.from_dense(np.zeros((3, 0)))
    assert not RowSparse.from_dense(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="at least one dimension"):
        RowSparse.from_dense(np.float64(1))


def test_attributes():
    u = RowSparse([1, 3], np.ones((2, 5), "f4"), (1000, 5))
    assert (u.shape, u.ndim, u.size, len(u)) == ((1000, 5), 2, 5000, 1000)
    assert u.nbytes == 2 * 4 + 2 * 5 * 4
    assert u
    assert not RowSparse([], np.ones((0, 5)), (1000, 5))
    assert repr(u) == "RowSparse(2 rows of (1000, 5), float32)"
    assert np.asarray(u, dtype="f8").dtype == "f8"
    with pytest.raises(ValueError, match="copy"):
        np.asarray(u, copy=False)
    assert u.astype("f8").dtype == "f8"
    other = u.copy()
    other.values[0] = 7
    assert u.values[0, 0] == 1
    np.testing.assert_array_equal(copy.deepcopy(u).todense(), u.todense())


def test_refuses_what_it_cannot_do():
    u = RowSparse([1], [[1.0]], (3, 1))
    with pytest.raises(TypeError):
        u + object()
    with pytest.raises(TypeError):
        np.add.at(u, [0], 1)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16])
def test_union(dtype: type) -> None:
    parts = [np.array(part, dtype) for part in ([1, 3, 3, 9], [], [0, 3, 8])]
    assert union(parts).tolist() == [0, 1, 3, 8, 9]
    assert union(parts).dtype == np.intp
    assert union(parts[1:2]).tolist() == []
