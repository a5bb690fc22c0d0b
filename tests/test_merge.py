"""Merging: each rule by hand, against a slow reference, and the walk over trees."""

from __future__ import annotations

import copy
import pickle
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqdist.errors import ConfigError, UpdateError
from zmqdist.merge import Adasum, Mean, RowTrustRegion, Sum, TouchedMean, parse_merge
from zmqdist.models.delta import add
from zmqdist.wire.rows import RowSparse

RULES = [Sum(), Mean(), TouchedMean(), RowTrustRegion(), RowTrustRegion(1.25), Adasum()]
SYMMETRIC = RULES[:5]


def sparse(rows, values, n=4):
    values = np.array(values, np.float64)
    return RowSparse(rows, values, (n, *values.shape[1:]))


def two(a, b):
    return [np.array([a], np.float64), np.array([b], np.float64)]


# --- by hand: one row (3, 4) of norm 5, and another


@pytest.mark.parametrize(
    ("rule", "other", "expected"),
    [
        (Sum(), [3, 4], [6, 8]),
        (Mean(), [3, 4], [3, 4]),
        (TouchedMean(), [3, 4], [3, 4]),
        (RowTrustRegion(), [3, 4], [6, 8]),  # twice the largest is allowed
        (RowTrustRegion(1.5), [3, 4], [4.5, 6]),
        (RowTrustRegion(1.0), [3, 4], [3, 4]),
        (Adasum(), [3, 4], [3, 4]),
        (Sum(), [-3, -4], [0, 0]),
        (Mean(), [-3, -4], [0, 0]),
        (TouchedMean(), [-3, -4], [0, 0]),
        (RowTrustRegion(1.0), [-3, -4], [0, 0]),
        (Adasum(), [-3, -4], [0, 0]),  # 1.5 - 1.5
        (Sum(), [-4, 3], [-1, 7]),
        (Mean(), [-4, 3], [-0.5, 3.5]),
        (RowTrustRegion(), [-4, 3], [-1, 7]),
        (RowTrustRegion(1.0), [-4, 3], [-1 / 2**0.5, 7 / 2**0.5]),  # norm 7.07 becomes 5
        (Adasum(), [-4, 3], [-1, 7]),
        (Sum(), [0, 0], [3, 4]),
        (Mean(), [0, 0], [1.5, 2]),
        (TouchedMean(), [0, 0], [3, 4]),  # a row of zeros is not touched
        (RowTrustRegion(1.0), [0, 0], [3, 4]),
        (Adasum(), [0, 0], [3, 4]),
        # g1.g2 = 6, ||g1||^2 = 25, ||g2||^2 = 4: (1 - 6/50) (3, 4) + (1 - 6/8) (2, 0)
        (Adasum(), [2, 0], [2.64 + 0.5, 3.52]),
    ],
)
def test_two_rows_by_hand(rule, other, expected):
    np.testing.assert_allclose(rule.merge(two([3, 4], other)), [expected], rtol=1e-15)


def test_rows_of_row_sparse_by_hand():
    a, b = sparse([0, 2], [[2, 0], [1, 1]]), sparse([2, 3], [[1, 1], [0, 6]])
    expected = {
        Sum(): [[2, 0], [2, 2], [0, 6]],
        Mean(): [[1, 0], [1, 1], [0, 3]],
        TouchedMean(): [[2, 0], [1, 1], [0, 6]],
        RowTrustRegion(1.5): [[2, 0], [1.5, 1.5], [0, 6]],
        Adasum(): [[2, 0], [1, 1], [0, 6]],
    }
    for rule, values in expected.items():
        merged = rule.merge([a, b])
        assert isinstance(merged, RowSparse)
        assert merged.shape == (4, 2)
        np.testing.assert_array_equal(merged.rows, [0, 2, 3])
        np.testing.assert_allclose(merged.values, values, rtol=1e-15)


def test_a_row_sparse_touches_the_rows_that_it_holds():
    merged = TouchedMean().merge([sparse([1], [[0, 0]]), sparse([1], [[4, 2]])])
    np.testing.assert_array_equal(merged.values, [[2, 1]])


def test_dense_and_sparse_meet_in_a_dense_array():
    dense, rows = np.zeros((4, 2)), sparse([1, 2], [[2, 2], [4, 0]])
    dense[2:] = [[4, 0], [8, 8]]
    for rule, expected in [
        (Sum(), [[0, 0], [2, 2], [8, 0], [8, 8]]),
        (Mean(), [[0, 0], [1, 1], [4, 0], [4, 4]]),
        (TouchedMean(), [[0, 0], [2, 2], [4, 0], [8, 8]]),
        (RowTrustRegion(1.5), [[0, 0], [2, 2], [6, 0], [8, 8]]),
        (Adasum(), [[0, 0], [2, 2], [4, 0], [8, 8]]),
    ]:
        for updates in ([dense, rows], [rows, dense]):
            merged = rule.merge(updates)
            assert isinstance(merged, np.ndarray)
            np.testing.assert_allclose(merged, expected, rtol=1e-15)


def test_adasum_climbs_a_binary_tree():
    rng = np.random.default_rng(1)
    g = [rng.standard_normal((1, 5)) for _ in range(5)]

    def pair(a, b):
        dot = (a * b).sum()
        return (1 - dot / (2 * (a * a).sum())) * a + (1 - dot / (2 * (b * b).sum())) * b

    expected = pair(pair(pair(g[0], g[1]), pair(g[2], g[3])), g[4])
    np.testing.assert_allclose(Adasum().merge(g), expected, rtol=1e-13)


def test_vectors_and_numbers():
    a, b = np.array([3.0, 4.0, 0.0]), np.array([3.0, 4.0, 1.0])
    np.testing.assert_allclose(TouchedMean().merge([a, b]), [3, 4, 1])  # by element
    trusted = RowTrustRegion(1.0).merge([a, b])  # as a whole
    np.testing.assert_allclose(trusted, (a + b) * 26**0.5 / np.linalg.norm(a + b))
    np.testing.assert_allclose(
        Adasum().merge([a, b]), (1 - 25 / 50) * a + (1 - 25 / 52) * b, rtol=1e-15
    )
    assert Sum().merge([1.5, 2.0]) == 3.5
    assert Mean().merge([1.5, 2.5]) == 2.0
    assert TouchedMean().merge([1.5, 0.0]) == 1.5
    assert RowTrustRegion(1.0).merge([1.0, 3.0]) == 3.0
    assert Adasum().merge([2.0, 2.0]) == 2.0
    assert type(Mean().merge([1.5, 2])) is float
    zero = RowTrustRegion(1.0).merge([np.array(1.0), np.array(3.0)])
    assert isinstance(zero, np.ndarray)
    assert zero.shape == ()


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_row_sparse_vectors_equal_dense_ones(rule):
    rng = np.random.default_rng(2)
    updates = [
        RowSparse(np.flatnonzero(held), rng.standard_normal(held.sum()), (9,))
        for held in rng.random((4, 9)) < 0.6
    ]
    merged = rule.merge(updates)
    assert isinstance(merged, RowSparse)
    dense = rule.merge([update.todense() for update in updates])
    np.testing.assert_allclose(merged.todense(), dense, rtol=1e-13)
    mixed = rule.merge([updates[0].todense(), *updates[1:]])
    np.testing.assert_allclose(mixed, dense, rtol=1e-13)


def test_complex_rows_are_pairs_of_floats():
    a, b = np.array([[3j, 4]]), np.array([[-4, 3j]])
    np.testing.assert_allclose(Sum().merge([a, b]), a + b)
    np.testing.assert_allclose(RowTrustRegion(1.0).merge([a, a]), a)
    np.testing.assert_allclose(Adasum().merge([a, -a]), 0 * a, atol=1e-15)
    np.testing.assert_allclose(Adasum().merge([a, b]), a + b)  # orthogonal: no 3j against 3j
    np.testing.assert_allclose(Mean().merge([a, np.ones((1, 2))]), (a + 1) / 2)
    rows = RowSparse([1], a.astype(np.complex64), (3, 2))
    assert Mean().merge([rows, rows]).dtype == np.complex64


# --- against a slow reference


def reference(rule, dense, touched):
    """Merge float64 arrays of shape (n, updates, width), row by row."""
    out = np.zeros((len(dense), dense.shape[2]))
    for i, (rows, held) in enumerate(zip(dense, touched, strict=True)):
        total = rows.sum(axis=0)
        if isinstance(rule, RowTrustRegion):
            norm, largest = np.linalg.norm(total), max(np.linalg.norm(row) for row in rows)
            out[i] = total * (min(1, rule.cap * largest / norm) if norm > 0 else 1)
        elif isinstance(rule, TouchedMean):
            out[i] = total / max(1, held.sum())
        elif isinstance(rule, Mean):
            out[i] = total / len(rows)
        elif isinstance(rule, Sum):
            out[i] = total
        else:
            level = list(rows)
            while len(level) > 1:
                pairs = [level[j : j + 2] for j in range(0, len(level), 2)]
                level = [adasum(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
            out[i] = level[0]
    return out


def adasum(a, b):
    dot, aa, bb = a @ b, a @ a, b @ b
    return (1 - dot / (2 * aa) if aa else 1) * a + (1 - dot / (2 * bb) if bb else 1) * b


@st.composite
def problems(draw):
    shape = draw(st.sampled_from([(1, 1), (7, 3), (40, 2, 3), (900, 130), (2000, 64)]))
    return draw(st.integers(2, 9)), shape, draw(st.floats(0, 1)), draw(st.integers(0, 2**31))


@given(problems(), st.sampled_from(RULES), st.sampled_from(["sparse", "dense", "mixed"]))
def test_equals_the_reference(problem, rule, form):
    n, shape, density, seed = problem
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(shape)  # so that some rows are nearly parallel
    touched = rng.random((n, shape[0])) < density
    full = [
        (common + rng.standard_normal(shape) * 0.3) * held.reshape(-1, *[1] * (len(shape) - 1))
        for held in touched
    ]
    updates = [
        RowSparse(np.flatnonzero(held), array[held], shape)
        if form == "sparse" or (form == "mixed" and i % 2)
        else array
        for i, (held, array) in enumerate(zip(touched, full, strict=True))
    ]
    merged = rule.merge(updates)
    assert isinstance(merged, RowSparse) == (form == "sparse")
    if form == "sparse":
        np.testing.assert_array_equal(merged.rows, np.flatnonzero(touched.any(axis=0)))
    expected = reference(rule, np.stack(full, 1).reshape(shape[0], n, -1), touched.T)
    np.testing.assert_allclose(np.asarray(merged), expected.reshape(shape), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rule", SYMMETRIC, ids=repr)
@given(seed=st.integers(0, 2**31))
def test_the_order_of_updates_does_not_matter(rule, seed):
    rng = np.random.default_rng(seed)
    updates = [
        {"w": RowSparse(rng.permutation(20)[:8], rng.standard_normal((8, 3)), (20, 3)), "n": i}
        for i in range(5)
    ]
    one = rule.merge(updates)
    other = rule.merge([updates[i] for i in rng.permutation(5)])
    np.testing.assert_array_equal(one["w"].rows, other["w"].rows)
    np.testing.assert_allclose(one["w"].values, other["w"].values, rtol=1e-12, atol=1e-14)
    assert one["n"] == other["n"] == 10


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_few_rows_of_very_many(rule):
    updates = [RowSparse([5, 10**9], [[1.0], [2.0]], (2**31 + 5, 1)) for _ in range(2)]
    updates.append(RowSparse([7], [[3.0]], (2**31 + 5, 1)))
    merged = rule.merge(updates)
    np.testing.assert_array_equal(merged.rows, [5, 7, 10**9])
    assert len(rule.merge([RowSparse([], np.zeros((0, 2)), (9, 2))] * 2).rows) == 0
    assert len(rule.merge([RowSparse([], [], (9,))] * 2).rows) == 0
    assert rule.merge([np.zeros((0, 3))] * 2).shape == (0, 3)


@pytest.mark.parametrize("size", [1e-25, 1e-21, 1e25])
@pytest.mark.parametrize("rule", [RowTrustRegion(1.0), Adasum()], ids=repr)
def test_squares_outside_the_range_of_float32(rule, size):
    row = np.full((1, 4), size, np.float32)
    merged = rule.merge([row, row])
    assert np.isfinite(merged).all()
    if size > 1e-25:  # beyond that, rows count as zeros
        np.testing.assert_allclose(merged, row, rtol=1e-6)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_nan_and_inf_stay_for_the_master_to_judge(rule):
    row = np.array([[np.nan, 1.0], [np.inf, 1.0], [1.0, 2.0]], np.float32)
    with np.errstate(invalid="ignore"):
        merged = rule.merge([row, np.ones_like(row)])
    np.testing.assert_array_equal(np.isfinite(merged).all(axis=1), [False, False, True])


# --- kinds of leaves, and the tree


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_dtypes(rule):
    half = RowSparse([1], np.full((1, 2), 0.1, np.float16), (3, 2))
    single, double = half.astype(np.float32), half.astype(np.float64)
    assert rule.merge([half]).dtype == np.float32
    assert rule.merge([half, half]).dtype == np.float32
    assert rule.merge([half, single]).dtype == np.float32
    assert rule.merge([single, single]).dtype == np.float32
    assert rule.merge([single, double]).dtype == np.float64
    assert rule.merge([half.todense(), half]).dtype == np.float32


def test_float16_is_summed_in_float32():
    one = np.full((1, 1), 2048, np.float16)  # float16 has no 2049
    assert Sum().merge([one, one / np.float16(2048), one])[0, 0] == 4097


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_counts_are_summed(rule):
    updates = [
        {"n": 3, "c": np.array([1, 200], np.uint8), "seen": False, "m": np.array([True, False])},
        {"n": np.int32(4), "c": np.array([2, 100], np.uint8), "seen": True, "m": np.zeros(2, bool)},
    ]
    merged = rule.merge(updates)
    assert merged["n"] == 7
    assert type(merged["n"]) is int
    assert merged["seen"] is True
    np.testing.assert_array_equal(merged["c"], [3, 300])
    assert merged["c"].dtype == np.uint64
    np.testing.assert_array_equal(merged["m"], [True, False])
    assert merged["m"].dtype == np.bool_
    assert rule.merge([10**30, 1]) == 10**30 + 1
    rows = RowSparse([1], [[2]], (3, 1))
    np.testing.assert_array_equal(rule.merge([rows, rows]).values, [[4]])


def test_dicts_may_lack_keys():
    updates = [{"a": np.array([2.0])}, {"b": {"x": np.array([4.0])}}, {"a": np.array([4.0])}]
    merged = Mean().merge(updates)
    assert list(merged) == ["a", "b"]
    np.testing.assert_array_equal(merged["a"], [3.0])  # of the two that have it
    np.testing.assert_array_equal(merged["b"]["x"], [4.0])


def test_lists_tuples_and_strings():
    pair = namedtuple("pair", "left right")
    updates = [[1.0, (2.0, "same"), None, pair(1.0, 2)], [3.0, (4.0, "same"), None, pair(5.0, 6)]]
    merged = Mean().merge(updates)
    assert merged == [2.0, (3.0, "same"), None, (3.0, 8)]
    assert isinstance(merged[3], pair)


@pytest.mark.parametrize(
    "updates",
    [
        [],
        [{"a": "x"}, {"a": "y"}],
        [{"a": None}, {"a": 1.0}],
        [{"a": 1.0}, {"a": None}],
        [{"a": [1.0]}, {"a": [1.0, 2.0]}],
        [{"a": [1.0]}, {"a": (1.0,)}],
        [{"a": {}}, {"a": 1.0}],
        [{"a": np.zeros(2)}, {"a": np.zeros(3)}],
        [{"a": np.zeros(2)}, {"a": 1.0}],
        [{"a": RowSparse([0], [[1.0]], (2, 1))}, {"a": RowSparse([0], [[1.0]], (3, 1))}],
        [{"a": np.array(["x"])}, {"a": np.array(["x"])}],
        [{"a": object()}, {"a": object()}],
    ],
)
def test_what_cannot_be_merged(updates):
    with pytest.raises(UpdateError, match=r"a'\] cannot be merged|no update"):
        Sum().merge(updates)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_one_update_is_unchanged(rule):
    update = {"w": sparse([1, 3], [[1, 2], [0, 0]]), "b": np.array([1.0, 2.0]), "n": 3, "s": "x"}
    merged = rule.merge([update])
    np.testing.assert_array_equal(merged["w"].rows, [1, 3])
    np.testing.assert_array_equal(merged["w"].values, update["w"].values)
    np.testing.assert_array_equal(merged["b"], update["b"])
    assert (merged["n"], merged["s"]) == (3, "x")


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_updates_stay_as_they_are_and_the_result_can_be_added(rule):
    rng = np.random.default_rng(3)
    updates = [
        {"w": RowSparse([i, 5], rng.standard_normal((2, 2)), (6, 2)), "b": rng.standard_normal(2)}
        for i in range(3)
    ]
    before = copy.deepcopy(updates)
    model = {"w": np.zeros((6, 2), np.float32), "b": np.zeros(2)}
    add(model, rule.merge(updates))
    assert model["w"].any(axis=1).tolist() == [True, True, True, False, False, True]
    for update, old in zip(updates, before, strict=True):
        np.testing.assert_array_equal(update["w"].values, old["w"].values)
        np.testing.assert_array_equal(update["b"], old["b"])


# --- the policies as values


def test_policies_are_values():
    for rule in RULES:
        again = pickle.loads(pickle.dumps(rule))  # noqa: S301
        assert again == rule
        assert hash(again) == hash(rule)
    assert Sum() != Mean()
    assert RowTrustRegion(2) == RowTrustRegion()
    assert RowTrustRegion(3.0) != RowTrustRegion()
    assert repr(RowTrustRegion(1.5)) == "RowTrustRegion(cap=1.5)"
    assert repr(Adasum()) == "Adasum()"


@pytest.mark.parametrize("cap", [0, 0.99, -1, float("inf"), float("nan"), True, "2", None])
def test_cap_is_checked(cap):
    with pytest.raises(ConfigError, match="expected a finite number >= 1"):
        RowTrustRegion(cap)


def test_parse_merge():
    assert parse_merge("sum") == Sum()
    assert parse_merge("mean") == Mean()
    assert parse_merge("touched-mean") == TouchedMean()
    assert parse_merge("trust") == RowTrustRegion(2.0)
    assert parse_merge("trust:1.5") == RowTrustRegion(1.5)
    assert parse_merge("adasum") == Adasum()


@pytest.mark.parametrize("text", ["", "max", "sum:2", "trust:", "trust:x", "trust:0.5", "Sum"])
def test_parse_merge_refuses(text):
    with pytest.raises(ConfigError, match="merge policy"):
        parse_merge(text)
