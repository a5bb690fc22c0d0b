"""Trees to specs and back, and specs that lie."""

from __future__ import annotations

import copy
import json
import math
from collections import namedtuple

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqdist.errors import RemoteProtocolError, UpdateError
from zmqdist.wire.leaves import first_nonfinite, map_leaves, scale_tree, walk
from zmqdist.wire.plan import FRAME_BYTES, Look
from zmqdist.wire.rows import RowSparse
from zmqdist.wire.tree import MAX_LEAVES, decode_tree, encode_tree, plan_tree

LIMIT = 10_000_000
FORMATS = ("csr", "csc", "coo", "bsr", "lil", "dok", "dia")
Point = namedtuple("Point", "x y")


def through(tree, codec="auto"):
    encoded = encode_tree(tree, codec)
    spec = json.loads(json.dumps(encoded.spec, allow_nan=False))
    assert encoded.encoded_bytes == sum(len(bytes(frame)) for frame in encoded.frames)
    return decode_tree(spec, [bytes(frame) for frame in encoded.frames], max_bytes=LIMIT)


def equal(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        assert [type(key) for key in a] == [type(key) for key in b]
        for key in a:
            equal(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            equal(x, y)
    elif isinstance(a, RowSparse):
        assert a.shape == b.shape
        equal(a.rows, b.rows)
        equal(a.values, b.values)
    elif isinstance(a, (np.ndarray, np.generic)):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    else:
        assert repr(a) == repr(b)


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.complex_numbers()
    | st.text(max_size=5)
    | st.floats(width=32).map(np.float32)
    | st.lists(st.floats(width=32), max_size=4).map(lambda x: np.array(x, "f4"))
    | st.integers(0, 3).map(lambda i: RowSparse([i], np.ones((1, 2)), (4, 2)))
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.booleans(), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(deadline=None, max_examples=150)
@given(tree=trees, codec=st.sampled_from(["auto", "raw", "zstd"]))
def test_round_trip(tree, codec):
    equal(through(tree, codec), tree)


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("density", [0, 0.2])
def test_scipy(form, kind, density):
    random = sp.random_array if kind == "array" else sp.random
    size = ((12, 8),) if kind == "array" else (12, 8)
    matrix = random(*size, density=density, dtype="f4").asformat(form)
    result = through({"m": matrix})["m"]
    assert type(result) is type(matrix)
    assert result.dtype == matrix.dtype
    np.testing.assert_array_equal(result.toarray(), matrix.toarray())
    result *= 2
    half = scale_tree([result], 0.5)[0]
    assert type(half) is type(matrix)
    assert half.dtype == matrix.dtype
    np.testing.assert_array_equal(half.toarray(), matrix.toarray())
    assert first_nonfinite([matrix]) is None
    if density:
        broken = (matrix.tocsr() * np.nan).asformat(form)
        assert first_nonfinite({"m": broken}) == "update['m']"


def test_scipy_of_one_and_three_dimensions():
    for array in (
        sp.coo_array(np.array([0, 1.0, 0])),
        sp.csr_array(np.array([0, 1.0, 0])),
        sp.coo_array(np.eye(4).reshape(2, 4, 2)),
    ):
        result = through(array)
        assert type(result) is type(array)
        np.testing.assert_array_equal(result.toarray(), array.toarray())


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_what_arrives_plain():
    equal(through(Point(1, 2.0)), (1, 2.0))
    equal(through(np.matrix([[1.0]])), np.array([[1.0]]))
    equal(through({np.str_("a"): np.str_("b")}), {"a": "b"})


@pytest.mark.parametrize("received", [bytes, lambda frame: memoryview(bytearray(frame))])
def test_arrays_are_writable_and_share_nothing(received):
    array = np.ones((3, 2))
    encoded = encode_tree({"a": array, "u": RowSparse([0], array[:1], (3, 2))}, "raw")
    frames = [received(frame) for frame in encoded.frames]
    array[:] = 5
    result = decode_tree(encoded.spec, frames, max_bytes=LIMIT)
    result["a"] += 1
    np.testing.assert_array_equal(result["a"], np.full((3, 2), 2.0))
    result["u"].values[:] += 1
    np.testing.assert_array_equal(result["u"].values, [[2, 2]])
    again = decode_tree(encoded.spec, encoded.frames, max_bytes=LIMIT)
    np.testing.assert_array_equal(again["a"], np.ones((3, 2)))


@pytest.mark.parametrize(
    "tree",
    [
        {"a": np.array([1.0, np.nan])},
        {"a": RowSparse([1], np.full((1, 300), np.inf, "f4"), (9, 300))},
        [1.0, float("nan")],
        [np.float32("inf")],
        [complex(1, float("inf"))],
        np.array([1, np.nan], "c8"),
        np.array([np.inf], "f2"),
        np.full(1 << 19, -np.inf, "f4"),
        sp.csr_array(np.array([[0, np.nan]])),
    ],
    ids=lambda tree: type(tree).__name__,
)
@pytest.mark.parametrize("codec", ["raw", "lz4"])
def test_a_look_sees_what_is_not_finite(tree, codec):
    encoded = encode_tree(tree, codec)
    look = Look()
    plan_tree(encoded.spec).decode(encoded.frames, max_bytes=1 << 30, look=look)
    assert not look.finite


def test_a_look_sees_that_all_is_finite():
    tree = [np.arange(1 << 19, dtype="f4"), np.ones(3, "c16"), np.ones(3, "f2"), 2.0, 3j, [1], "x"]
    encoded = encode_tree(tree)
    look = Look()
    plan_tree(encoded.spec).decode(encoded.frames, max_bytes=1 << 30, look=look)
    assert look.finite


def test_sizes():
    encoded = encode_tree([np.zeros((1000, 100)), np.zeros(5, "f4"), 3])
    assert encoded.decoded_bytes == 800_020
    assert encoded.encoded_bytes < 50_000


@pytest.mark.parametrize(
    ("tree", "path"),
    [
        ({"a": [0, 1, 2, object()]}, r"update\['a'\]\[3\] is a object"),
        ({"a": {1, 2}}, r"update\['a'\] is a set"),
        ([b"bytes"], r"update\[0\] is a bytes"),
        ({"a": {3: np.array(["x"])}}, r"update\['a'\]\[3\]: .*<U1"),
        ([np.longdouble(1)], r"update\[0\]: .*float128"),
        ([np.ma.array([1.0], mask=[True])], r"update\[0\] is a MaskedArray"),
        ({"a": {2.5: 1}}, r"update\['a'\] has a key 2.5"),
        ({None: 1}, "update has a key None"),
        ({(1, 2): 1}, "update has a key"),
        ([0] * (MAX_LEAVES + 1), "entries"),
    ],
)
def test_what_cannot_travel(tree, path):
    with pytest.raises(UpdateError, match=path):
        encode_tree(tree)


def test_endless_trees_end():
    endless = []
    endless.append(endless)
    with pytest.raises(UpdateError, match="levels"):
        encode_tree(endless)


A = {"dtype": "<f4", "shape": [1]}
I4 = {"dtype": "<i4", "shape": [1]}
TWO = {"dtype": "<i4", "shape": [2]}
THREE = {"dtype": "<i4", "shape": [3]}
FOUR = {"dtype": "<i4", "shape": [4]}
ROW = {"dtype": "<f4", "shape": [1, 1]}
WRAPPING = np.array([0, 2**31 - 1, -(2**31), 1], "<i4").tobytes()
F = b"\0\0\0\0"


def nested(depth):
    spec = 1
    for _ in range(depth):
        spec = [spec]
    return spec


@pytest.mark.parametrize(
    ("spec", "frames"),
    [
        ({}, []),
        ({"array": A, "float": "nan"}, [F]),
        ({"pickle": "x"}, []),
        ({"array": A}, []),
        ({"array": A}, [F, F]),
        ({"array": A}, [F + F]),
        ([{"array": A}, {"array": A}], [F]),
        ({"array": None}, []),
        (1, [F]),
        (float("nan"), []),
        (b"bytes", []),
        ((1, 2), []),
        ({"float": 1.0}, []),
        ({"float": "x"}, []),
        ({"float": ["nan"]}, []),
        ({"complex": "1+"}, []),
        ({"complex": None}, []),
        ({"scalar": ["<f4", "00"]}, []),
        ({"scalar": ["<f4", "zz"]}, []),
        ({"scalar": ["<f4", 5]}, []),
        ({"scalar": ["|O", "00000000"]}, []),
        ({"scalar": "<f4"}, []),
        ({"tuple": 1}, []),
        ({"dict": {"a": 1}}, []),
        ({"dict": [["a"]]}, []),
        ({"dict": [[["a"], 1]]}, []),
        ({"dict": [[None, 1]]}, []),
        ({"dict": [["a", 1], ["a", 2]]}, []),
        ({"rows": [[4], I4]}, [F]),
        ({"rows": [4, I4, A]}, [F, F]),
        ({"rows": [[], I4, A]}, [F, F]),
        ({"rows": [[0], I4, A]}, [F, F]),
        ({"rows": [[4], A, A]}, [F, F]),
        ({"rows": [[4, 1], I4, A]}, [F, F]),
        ({"rows": [[4], I4, A]}, [b"\4\0\0\0", F]),
        ({"rows": [[4], I4, A]}, [b"\xff\xff\xff\xff", F]),
        ({"rows": [[4], TWO, {"dtype": "<f4", "shape": [2]}]}, [F + F, F + F]),
        (nested(65), []),
        (nested(600), []),
        ([0] * (MAX_LEAVES + 1), []),
        ({"scipy": 1}, []),
        ({"scipy": ["spmatrix", "array", [1, 1], [A, I4, TWO]]}, [F, F, F + F]),
        ({"scipy": ["csr", "linalg", [1, 1], [A, I4, TWO]]}, [F, F, F + F]),
        ({"scipy": [["csr"], "array", [1, 1], [A, I4, TWO]]}, [F, F, F + F]),
        ({"scipy": ["csr", "array", 1, [A, I4, TWO]]}, [F, F, F + F]),
        ({"scipy": ["csr", "array", [1, 1], [A, I4]]}, [F, F]),
        ({"scipy": ["csr", "array", [1, 1], [A, A, TWO]]}, [F, F, F + F]),
        ({"scipy": ["csr", "array", [5, 1], [A, I4, TWO]]}, [F, F, F + F]),
        ({"scipy": ["csr", "array", [1, 1], [A, I4, TWO]]}, [F, b"\5\0\0\0", F + b"\1\0\0\0"]),
        ({"scipy": ["csr", "array", [1, 1], [A, I4, TWO]]}, [F, F, F + b"\5\0\0\0"]),
        ({"scipy": ["lil", "matrix", [1, 1], [A, I4, TWO]]}, [F, b"\5\0\0\0", F + b"\1\0\0\0"]),
        ({"scipy": ["bsr", "array", [1, 1], [A, I4, TWO]]}, [F, F, F + F]),
        ({"scipy": ["coo", "array", [1, 1], [A, I4, I4]]}, [F, F, b"\5\0\0\0"]),
        ({"scipy": ["coo", "matrix", [1, 1, 1], [A, I4, I4, I4]]}, [F, F, F, F]),
        ({"scipy": ["dia", "matrix", [1], [A, I4]]}, [F, F]),
        ({"scipy": ["dia", "array", [1, 1], [ROW, I4]]}, [F, b"\1\0\0\0"]),
        ({"scipy": ["dia", "array", [1, 1], [ROW, I4]]}, [F, b"\0\0\0\x80"]),
        # The next two would crash scipy's C code: its own check lets them through.
        ({"scipy": ["csr", "array", [2, 1], [A, I4, THREE]]}, [F, F, F + b"\5\0\0\0" + F]),
        ({"scipy": ["csr", "array", [3, 1], [A, I4, FOUR]]}, [F, F, WRAPPING]),
    ],
)
def test_malformed_specs(spec, frames):
    with pytest.raises(RemoteProtocolError):
        decode_tree(spec, frames, max_bytes=LIMIT)


@pytest.mark.parametrize("form", FORMATS)
def test_mutated_scipy(form):
    matrix = sp.random_array((12, 8), density=0.3, rng=0).asformat(form)
    encoded = encode_tree(matrix, "raw")
    rng = np.random.default_rng(0)
    for _ in range(150):
        frames = [bytearray(frame) for frame in encoded.frames]
        frame = frames[rng.integers(1, len(frames))]
        for _ in range(rng.integers(1, 4)):
            frame[rng.integers(len(frame))] = rng.integers(256)
        spec = copy.deepcopy(encoded.spec)
        if rng.random() < 0.3:
            spec["scipy"][2][rng.integers(2)] = int(rng.integers(0, 20))
        try:
            result = decode_tree(spec, [bytes(frame) for frame in frames], max_bytes=LIMIT)
            result.toarray()
        except RemoteProtocolError:
            pass


def test_limit_holds_before_anything_is_decoded(monkeypatch):
    monkeypatch.setattr("zmqdist.wire.plan._fill", None)
    huge = {"dtype": "<f4", "shape": [25_000_000_000]}
    sparse = {
        "shape": [25_000_000_000, 1],
        "rows": {"dtype": "<i4", "shape": [1]},
        "values": {"dtype": "<f4", "shape": [1, 1]},
    }
    for spec in (
        {"array": huge},
        {"array": sparse},
        {"rows": [[4], {"dtype": "<i4", "shape": [2**40]}, A]},
        {"scipy": ["csr", "array", [1, 1], [A, I4, huge]]},
        [{"array": {"dtype": "<f4", "shape": [LIMIT // 8]}}] * 3,
    ):
        with pytest.raises(RemoteProtocolError, match="expected at most"):
            decode_tree(spec, [F, F], max_bytes=LIMIT)


def test_a_false_later_frame_stops_everything():
    encoded = encode_tree({"a": np.zeros(3), "b": np.ones(3)}, "raw")
    with pytest.raises(RemoteProtocolError):
        decode_tree(encoded.spec, encoded.frames[:1], max_bytes=LIMIT)
    with pytest.raises(RemoteProtocolError, match="at most 47"):
        decode_tree(encoded.spec, encoded.frames, max_bytes=47)
    assert len(decode_tree(encoded.spec, encoded.frames, max_bytes=48)) == 2


def test_lists_and_dicts_in_scipy_formats_count_for_more():
    encoded = encode_tree(sp.random_array((100, 100), density=0.1, format="lil"))
    with pytest.raises(RemoteProtocolError, match="expected at most"):
        decode_tree(encoded.spec, encoded.frames, max_bytes=2 * encoded.decoded_bytes)


KINDS = ["array", "rows", "scipy", "scalar", "float", "complex", "dict", "tuple"]
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 5)
    | st.floats()
    | st.sampled_from(["csr", "array", "<f4", "<i4", "nan", "1", "00000000"])
    | st.sampled_from([A, I4, TWO]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KINDS), inner, max_size=1)
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=300)
@given(spec=json_values, frames=st.lists(st.binary(max_size=8), max_size=3))
def test_arbitrary_specs(spec, frames):
    try:
        decode_tree(spec, frames, max_bytes=1000)
    except RemoteProtocolError:
        pass


def test_walk_and_map():
    tree = {"a": [1, Point(2, 3)], 4: {"b": None}}
    assert list(walk(tree)) == [
        ("update['a'][0]", 1),
        ("update['a'][1][0]", 2),
        ("update['a'][1][1]", 3),
        ("update[4]['b']", None),
    ]
    assert next(walk(5, root="model")) == ("model", 5)
    assert map_leaves(str, tree) == {"a": ["1", Point("2", "3")], 4: {"b": "None"}}
    assert isinstance(map_leaves(str, tree)["a"][1], Point)


def test_scale():
    tree = {
        "f4": np.full(3, 4, "f4"),
        "f2": np.float16(4),
        "zero": np.array(4.0),
        "c": np.full(2, 4j, "c8"),
        "i": np.arange(3),
        "b": np.array([True]),
        "rows": RowSparse([1], np.full((1, 2), 4, "f4"), (3, 2)),
        "counts": RowSparse([1], [[4, 4]], (3, 2)),
        "numbers": (4.0, 4j, 4, True, "4", None),
    }
    expected = tree | {
        "f4": np.full(3, 2, "f4"),
        "f2": np.float16(2),
        "zero": np.array(2.0),
        "c": np.full(2, 2j, "c8"),
        "rows": RowSparse([1], np.full((1, 2), 2, "f4"), (3, 2)),
        "numbers": (2.0, 2j, 4, True, "4", None),
    }
    equal(scale_tree(tree, 0.5), expected)
    equal(scale_tree(tree, np.float64(0.5)), expected)
    assert tree["f4"][0] == 4


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16", ">f4"])
def test_first_nonfinite(bad, dtype):
    good = np.full((40, 30), np.finfo(dtype).max, dtype)
    assert first_nonfinite({"a": [good, good.T, good[::2], good[:0]]}) is None
    broken = good.copy()
    broken[20, 7] = bad
    for array in (broken, broken.T, broken[::2, 1::2], RowSparse.from_dense(broken)):
        assert first_nonfinite({"a": good, "b": [1, array]}) == "update['b'][1]"
    imaginary = np.zeros(3, "c8")
    imaginary[1] = complex(0, bad)
    assert first_nonfinite([imaginary]) == "update[0]"
    for leaf in (bad, complex(0, bad), np.float32(bad)):
        assert first_nonfinite((0.0, leaf)) == "update[1]"


def test_everything_else_is_finite():
    assert first_nonfinite([1, 10**400, "nan", None, True, np.arange(3), np.array([True])]) is None


@pytest.mark.parametrize(
    ("dtype", "view", "given", "shares"),
    [
        ("<f4", False, True, True),
        ("<f4", False, False, False),
        ("<f4", True, True, False),  # of something that goes on changing
        (">f4", False, True, False),
    ],
)
def test_only_what_is_given_away_becomes_frames(dtype, view, given, shares):
    rows, shape = np.arange(3000), (5000, 100)
    values = np.random.default_rng(0).normal(size=(3001, 100)).astype(dtype)
    part = RowSparse(rows, values[1:] if view else values[1:].copy(), shape)
    expected = part.values.astype("<f4")
    encoded = encode_tree({"w": part}, "raw", given=given)
    frames = [np.frombuffer(frame, "u1") for frame in encoded.frames]
    assert any(np.shares_memory(frame, part.values) for frame in frames) == shares
    assert max(frame.size for frame in frames) <= FRAME_BYTES
    decoded = decode_tree(encoded.spec, encoded.frames, max_bytes=1 << 30)["w"]
    assert decoded.rows.tolist() == rows.tolist()
    assert decoded.values.tobytes() == expected.tobytes()


def test_whole_arrays_are_never_given_away():
    array = np.random.default_rng(0).normal(size=(3000, 100))
    encoded = encode_tree([array], "raw", given=True)
    assert not any(np.shares_memory(np.frombuffer(f, "u1"), array) for f in encoded.frames)
