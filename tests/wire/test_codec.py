"""Arrays to frames and back, and everything a peer could lie about."""

from __future__ import annotations

import json
import struct
import tracemalloc

import blosc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zmqdist.errors import ConfigError, RemoteProtocolError, UpdateError
from zmqdist.wire.codec import CODECS, encode_array
from zmqdist.wire.plan import FRAME_BYTES, check_entry, decode_array

DTYPES = ("?", *"bhiqBHIQ", "f2", "f4", "f8", "c8", "c16")
quick = settings(deadline=None, max_examples=60)


def through(array, codec="auto", writable=False):
    entry, frames = encode_array(array, codec)
    entry = json.loads(json.dumps(entry, allow_nan=False))
    frames = [bytes(frame) for frame in frames]
    assert check_entry(entry) == (len(frames), array.nbytes)
    assert max(map(len, frames), default=0) <= FRAME_BYTES
    return decode_array(entry, frames, writable=writable)


def same_bits(result, array):
    assert result.shape == array.shape
    assert result.dtype == array.dtype.newbyteorder("<")
    assert result.tobytes() == array.astype(result.dtype).tobytes()


def smooth(shape, dtype="f4"):
    return (np.arange(np.prod(shape)) % 50).reshape(shape).astype(dtype)


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("f4")


def few_rows(n=400, width=20, held=40):
    array = np.zeros((n, width), "f4")
    array[:: n // held] = noise(len(array[:: n // held]), width)
    return array


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (7, 5), (300, 4, 3)])
def test_round_trip(codec, dtype, shape):
    array = smooth(shape, dtype)
    same_bits(through(array, codec), array)
    same_bits(through(array, codec, writable=True), array)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", [">f4", ">i8", ">c16", ">u2"])
def test_big_endian_travels_as_little(codec, dtype):
    array = smooth((300, 4), dtype)
    result = through(array, codec)
    np.testing.assert_array_equal(result, array)
    assert result.dtype.isnative
    array = few_rows().astype(">f4")
    np.testing.assert_array_equal(through(array, codec), array)


@pytest.mark.parametrize("codec", CODECS)
def test_strides(codec):
    array = smooth((40, 30, 20))
    for view in (np.asfortranarray(array), array[::2, ::-1], array.T, array[:, 3]):
        same_bits(through(view, codec), view)
    spread = np.broadcast_to(np.float32(3), (400, 50))
    same_bits(through(spread, codec), spread)
    same_bits(through(few_rows().T.copy().T, codec), few_rows())
    same_bits(through(np.zeros((1,) * 32), codec), np.zeros((1,) * 32))


@quick
@given(
    array=hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, min_side=0, max_side=6)),
    codec=st.sampled_from(CODECS),
    repeat=st.integers(1, 40),
)
def test_any_array(array, codec, repeat):
    if array.ndim:
        array = np.repeat(array, repeat, axis=0)
    same_bits(through(array, codec), array)


def test_nan_bits_and_minus_zero_survive():
    nans = np.array([0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000], "u4").view("f4")
    for codec in CODECS:
        array = np.tile(nans, (200, 1))
        array[:150] = 0
        array[7, 2] = -0.0
        same_bits(through(array, codec), array)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("make", [smooth, lambda s: noise(*s)])
def test_many_frames(codec, make):
    array = make((700, 1001))
    entry, frames = encode_array(array, codec)
    assert len(frames) == -(-array.nbytes // FRAME_BYTES) > 2
    same_bits(decode_array(entry, frames), array)


def test_auto_chooses():
    entry, frames = encode_array(noise(700, 100))
    assert entry == {"dtype": "<f4", "shape": [700, 100]}
    entry, frames = encode_array(smooth((700, 100)))
    assert entry["blosc"] == "1"
    assert len(frames[0]) < 70_000
    entry, frames = encode_array(few_rows())
    assert entry.keys() == {"shape", "rows", "values"}
    assert sum(len(frame) for frame in frames) < 4_000
    assert encode_array(few_rows(), "raw")[0].keys() == {"dtype", "shape"}
    assert "rows" not in encode_array(few_rows(held=300))[0]
    assert "blosc" not in encode_array(np.zeros(100, "f4"))[0]


def test_incompressible_chunks_stay_raw_among_compressed_ones():
    array = np.concatenate([smooth(FRAME_BYTES // 4), noise(FRAME_BYTES // 4)])
    bits = np.random.default_rng(0).integers(0, 256, FRAME_BYTES, "u1")
    array[FRAME_BYTES // 4 :] = bits.view("f4")
    entry, frames = encode_array(array, "lz4")
    assert entry["blosc"] == "10"
    before = array.tobytes()
    array[:] = 99
    assert decode_array(entry, frames).tobytes() == before


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("make", [smooth, lambda s: noise(*s), lambda s: few_rows(*s)])
@pytest.mark.parametrize("shape", [(4, 3), (700, 500)])
def test_frames_do_not_alias_the_array(codec, make, shape):
    array = few_rows() if shape == (4, 3) else make(shape)
    before = array.copy()
    entry, frames = encode_array(array, codec)
    array[:] = 99
    np.testing.assert_array_equal(decode_array(entry, frames), before)


def test_a_single_raw_frame_becomes_the_array():
    entry, (frame,) = encode_array(noise(10, 3), "raw")
    frame = bytes(frame)
    view = decode_array(entry, [frame])
    assert not view.flags.writeable
    assert np.shares_memory(view, np.frombuffer(frame, "u1"))
    fresh = decode_array(entry, [frame], writable=True)
    assert fresh.flags.writeable
    assert not np.shares_memory(fresh, np.frombuffer(frame, "u1"))
    received = bytearray(frame)
    view = decode_array(entry, [memoryview(received)], writable=True)
    assert view.flags.writeable
    assert np.shares_memory(view, np.frombuffer(received, "u1"))
    shifted = memoryview(b"x" + frame)[1:]
    moved = decode_array(entry, [shifted])
    assert moved.flags.aligned
    np.testing.assert_array_equal(moved, view)


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a"]),
        np.array([b"a"]),
        np.array([object()]),
        np.array([1], "M8[s]"),
        np.array([1], "m8[s]"),
        np.zeros(1, "i4,f4"),
        np.zeros(1, np.longdouble),
    ],
)
def test_dtypes_that_cannot_travel(array):
    with pytest.raises(UpdateError) as caught:
        encode_array(array)
    assert str(array.dtype) in str(caught.value)
    with pytest.raises(RemoteProtocolError):
        check_entry({"dtype": array.dtype.str, "shape": [1]})


def test_other_refusals_on_encode():
    with pytest.raises(ConfigError, match="auto, raw"):
        encode_array(np.zeros(1), "gzip")
    with pytest.raises(UpdateError, match="33 dimensions"):
        encode_array(np.zeros((1,) * 33))


BAD_ENTRIES = [
    None,
    [],
    "x",
    {},
    {"dtype": "<f4"},
    {"shape": [1]},
    {"dtype": "<f4", "shape": [1], "more": 1},
    {"dtype": "<f4", "shape": 3},
    {"dtype": "<f4", "shape": [-1]},
    {"dtype": "<f4", "shape": [True]},
    {"dtype": "<f4", "shape": [1.0]},
    {"dtype": "<f4", "shape": ["1"]},
    {"dtype": "<f4", "shape": [1] * 33},
    {"dtype": "<f4", "shape": [2**63]},
    {"dtype": "<f4", "shape": [2**40, 2**40]},
    {"dtype": "<f4", "shape": [0, 2**61, 2**61]},
    {"dtype": "<f4", "shape": [10**5000]},
    {"dtype": ">f4", "shape": [1]},
    {"dtype": "|O", "shape": [1]},
    {"dtype": ["<f4"], "shape": [1]},
    {"dtype": 4, "shape": [1]},
    {"dtype": "<f4", "shape": [1], "blosc": "11"},
    {"dtype": "<f4", "shape": [1], "blosc": "2"},
    {"dtype": "<f4", "shape": [1], "blosc": ["1"]},
    {"dtype": "<f4", "shape": [1], "blosc": None},
    {"dtype": "<f4", "shape": [1], "blosc": ""},
]


@pytest.mark.parametrize("entry", BAD_ENTRIES)
def test_bad_descriptors(entry):
    with pytest.raises(RemoteProtocolError):
        check_entry(entry)
    with pytest.raises(RemoteProtocolError):
        decode_array(entry, [b"1234"])


def row_parts(k=2, dtype="<i4", shape=(9, 100)):
    rows = np.arange(k).astype(dtype)
    return {
        "shape": list(shape),
        "rows": {"dtype": dtype, "shape": [k]},
        "values": {"dtype": "<f4", "shape": [k, *shape[1:]]},
    }, [rows.tobytes(), np.ones((k, *shape[1:]), "f4").tobytes()]


def test_row_sparse_lies():
    entry, frames = row_parts()
    assert decode_array(entry, frames).sum() == 200
    bad = [
        entry | {"shape": []},
        entry | {"shape": [9, 99]},
        entry | {"shape": [2, 100]},
        entry | {"shape": [10**12, 10**12]},
        entry | {"more": 1},
        entry | {"rows": {"dtype": "<f4", "shape": [2]}},
        entry | {"rows": {"dtype": "<i4", "shape": [1, 2]}},
        entry | {"rows": {"dtype": "<i4", "shape": []}},
        entry | {"values": entry},
        entry | {"rows": None},
        entry | {"values": {"dtype": "<f4", "shape": [3, 100]}},
    ]
    for lie in bad:
        with pytest.raises(RemoteProtocolError):
            check_entry(lie)
    for rows in ([1, 1], [2, 1], [-1, 1], [1, 9], [-5, -3]):
        with pytest.raises(RemoteProtocolError, match="row numbers"):
            decode_array(entry, [np.array(rows, "<i4").tobytes(), frames[1]])
    with pytest.raises(RemoteProtocolError):
        decode_array(entry, frames[::-1])


@pytest.mark.parametrize("codec", ["raw", "lz4", "zstd"])
@pytest.mark.parametrize("make", [smooth, lambda s: few_rows(*s)])
def test_frames_that_do_not_fit(codec, make):
    entry, frames = encode_array(make((700, 1001)), codec)
    frames = [bytes(frame) for frame in frames]
    last = frames[-1]
    lies = [
        [],
        frames[:-1],
        [*frames, b""],
        [*frames[:-1], b""],
        [*frames[:-1], last[:-1]],
        [*frames[:-1], last[:10]],
        [*frames[:-1], last + b"\0"],
        [last, *frames[1:-1], frames[0]],
    ]
    for lie in lies:
        with pytest.raises(RemoteProtocolError):
            decode_array(entry, lie)


def header(frame, **fields):
    names = ("version", "lz", "flags", "typesize", "nbytes", "block", "cbytes")
    values = dict(zip(names, struct.unpack_from("<BBBBiii", frame), strict=True)) | fields
    return struct.pack("<BBBBiii", *values.values()) + frame[16:]


def test_blosc_headers_that_lie(monkeypatch):
    array = smooth((100, 100))
    entry, (frame,) = encode_array(array, "lz4")
    nbytes, cbytes, block = blosc.get_cbuffer_sizes(frame)
    assert (nbytes, cbytes) == (array.nbytes, len(frame))
    assert decode_array(entry, [header(frame)]).tobytes() == array.tobytes()
    shorter = header(frame[:-20], cbytes=len(frame) - 20)
    with pytest.raises(RemoteProtocolError, match="corrupt"):
        decode_array(entry, [shorter])
    # What follows must be seen in the header, before blosc gets it.
    monkeypatch.setattr(blosc, "decompress_ptr", None)
    for fields in (
        {"version": 1},
        {"version": 3},
        {"flags": frame[2] | 0x02},
        {"flags": frame[2] & 0x1F},
        {"flags": frame[2] & 0x1F | 3 << 5},
        {"typesize": 8},
        {"typesize": 0},
        {"nbytes": 0},
        {"nbytes": nbytes + 4},
        {"nbytes": nbytes - 4},
        {"nbytes": -1},
        {"nbytes": 2**31 - 1},
        {"block": 0},
        {"block": 4},
        {"block": -block},
        {"block": 4097},
        {"block": nbytes + 4},
        {"cbytes": cbytes + 1},
        {"cbytes": 16},
        {"cbytes": -1},
    ):
        with pytest.raises(RemoteProtocolError):
            decode_array(entry, [header(frame, **fields)])


def test_a_decompression_bomb_is_refused():
    bomb = blosc.compress(bytes(100_000_000), typesize=4, cname="lz4")
    entry = {"dtype": "<f4", "shape": [250], "blosc": "1"}
    with pytest.raises(RemoteProtocolError, match="decode to 100000000"):
        decode_array(entry, [bomb])


def test_lies_about_size_allocate_nothing():
    n = 25 * 10**9
    tracemalloc.start()
    try:
        for entry in (
            {"dtype": "<f4", "shape": [n]},
            {"dtype": "<f4", "shape": [n], "blosc": "1"},
            {"dtype": "<f4", "shape": [2**59]},
        ):
            with pytest.raises(RemoteProtocolError):
                decode_array(entry, [b"1234"])
        assert check_entry({"dtype": "<f4", "shape": [n]}) == (-(-4 * n >> 20), 4 * n)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize("dtype", ["f4", "i8", "i1"])
def test_mutated_frames_never_crash(codec, dtype):
    rng = np.random.default_rng(1)
    array = (rng.standard_normal(30_000) * 4).astype("i1").astype(dtype)
    entry, (frame,) = encode_array(array, codec)
    assert "blosc" in entry
    refused = 0
    for _ in range(400):
        broken = bytearray(frame)
        for _ in range(rng.integers(1, 9)):
            start = 16 if rng.random() < 0.9 else 0
            end = len(broken) if rng.random() < 0.5 else 80
            broken[rng.integers(start, end)] = rng.integers(256)
        try:
            assert decode_array(entry, [bytes(broken)]).shape == array.shape
        except RemoteProtocolError:
            refused += 1
    assert refused


def test_bool_bytes_are_checked():
    entry = {"dtype": "|b1", "shape": [3]}
    assert list(decode_array(entry, [b"\0\1\0"])) == [False, True, False]
    for writable in (False, True):
        with pytest.raises(RemoteProtocolError, match="bool"):
            decode_array(entry, [b"\0\2\0"], writable=writable)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "blosc", "rows", "values"]), inner)
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=200)
@given(
    entry=st.fixed_dictionaries(
        {},
        optional={
            "dtype": st.sampled_from(["<f4", "|b1", "<i8"]) | json_values,
            "shape": st.lists(st.integers(-1, 5), max_size=3) | json_values,
            "blosc": st.sampled_from(["", "0", "1", "01"]) | json_values,
            "rows": json_values,
            "values": json_values,
        },
    )
    | json_values,
    frames=st.lists(st.binary(max_size=40), max_size=3),
)
def test_arbitrary_descriptors(entry, frames):
    try:
        count, decoded_bytes = check_entry(entry)
    except RemoteProtocolError:
        return
    assert count >= 0
    if decoded_bytes < 1_000_000:
        try:
            assert decode_array(entry, frames).nbytes == decoded_bytes
        except RemoteProtocolError:
            pass
