"""One ndarray <-> a JSON-able descriptor and a list of buffers.

Owns the compressor (blosc) and the three forms in which an array travels: raw
bytes, blosc frames, and row-sparse (the numbers of the rows that hold anything,
and those rows). Every form is loss-free to the bit.

A descriptor is ``{"dtype", "shape"}`` for raw frames; with ``"blosc": "1101"``
the frames marked 1 are compressed. ``{"shape", "rows", "values"}`` is the
row-sparse form, whose two parts are descriptors themselves. A frame decodes to
``FRAME_BYTES`` except for the last, so the sizes follow from the descriptor and
are all checked before anything is allocated or decompressed.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple, TypeAlias

import blosc
import numpy as np
from numpy.typing import NDArray

from zmqdist.errors import ConfigError, RemoteProtocolError, UpdateError
from zmqdist.wire.rows import canonical_rows, occupied_rows, row_dtype

Buffer: TypeAlias = bytes | memoryview

CODECS = ("auto", "raw", "lz4", "zstd")
FRAME_BYTES = 1 << 20
MAX_NDIM = 32

_DTYPES = {
    dtype.str: dtype
    for dtype in (
        np.dtype(code).newbyteorder("<")
        for code in ("?", *"bhiq", *"BHIQ", "f2", "f4", "f8", "c8", "c16")
    )
}
_TINY_BYTES = 512
_SAMPLE_BYTES = 1 << 16
_SAMPLE_PIECES = 8
_SAMPLE_ROWS = 256
_WORTH_IT = 0.88
_LEVELS = {"lz4": 5, "zstd": 3}

_HEADER = struct.Struct("<BBBBiii")
_FORMAT_VERSION = 2
_LZ4_FORMAT, _ZSTD_FORMAT = 1, 4
_COPIED = 0x02
_MIN_BLOCK_BYTES = 4096

# Chunks are too small to split over threads, and blosc's own threads do not survive
# the fork of a Spark worker; without the GIL the socket thread codes beside user code.
blosc.set_nthreads(1)
blosc.set_releasegil(True)


class _Dense(NamedTuple):
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    nbytes: int
    marks: str

    @property
    def frames(self) -> int:
        return -(-self.nbytes // FRAME_BYTES)


class _Sparse(NamedTuple):
    shape: tuple[int, ...]
    nbytes: int
    rows: _Dense
    values: _Dense

    @property
    def frames(self) -> int:
        return self.rows.frames + self.values.frames


def encode_array(array: NDArray[Any], codec: str = "auto") -> tuple[dict[str, Any], list[Buffer]]:
    """Encode one array; the frames share no memory with it.

    Parameters
    ----------
    array : ndarray
        bool, integers of 8 to 64 bits, float16/32/64 or complex64/128; any byte
        order, strides and shape up to 32 dimensions. Sent as C-ordered little-endian.
    codec : {"auto", "raw", "lz4", "zstd"}
        "auto" samples the array and compresses with lz4 when that saves an eighth.
        All but "raw" leave out all-zero rows when at least half of the rows are.

    Returns
    -------
    entry : dict
        The descriptor: JSON-able, a few dozen bytes.
    frames : list of bytes or memoryview
        Each decodes to at most ``FRAME_BYTES``.

    Raises
    ------
    UpdateError
        If the dtype cannot travel or there are too many dimensions.
    ConfigError
        If `codec` is unknown.
    """
    if codec not in CODECS:
        raise ConfigError(f"codec is {codec!r}; expected one of {', '.join(CODECS)}")
    array = np.asarray(array)
    dtype = _DTYPES.get(array.dtype.newbyteorder("<").str)
    if dtype is None:
        raise UpdateError(
            f"an array of dtype {array.dtype} cannot be sent; expected bool, an integer, "
            "float16/32/64 or complex64/128; convert it with .astype"
        )
    if array.ndim > MAX_NDIM:
        raise UpdateError(f"an array of {array.ndim} dimensions, over {MAX_NDIM}: reshape it")
    if codec != "raw":
        held = _promising_rows(array)
        if held is not None:
            return _encode_rows(array, held, dtype, codec)
    return _encode_dense(array, dtype, codec)


def _encode_dense(
    array: NDArray[Any], dtype: np.dtype[Any], codec: str
) -> tuple[dict[str, Any], list[Buffer]]:
    entry: dict[str, Any] = {"dtype": dtype.str, "shape": list(array.shape)}
    if codec == "raw" or array.nbytes < _TINY_BYTES:
        return entry, _copied(array, dtype)
    flat = np.ascontiguousarray(array, dtype=dtype).reshape(-1).view(np.uint8)
    saved, shuffle = _try_sample(flat, dtype.itemsize)
    if codec == "auto":
        if saved > _WORTH_IT:
            return entry, _copied(array, dtype)
        codec = "lz4"
    marks, frames = "", list[Buffer]()
    for start in range(0, flat.size, FRAME_BYTES):
        chunk = flat[start : start + FRAME_BYTES]
        packed = _compress(chunk, dtype.itemsize, shuffle, codec)
        smaller = len(packed) < chunk.size
        marks += "1" if smaller else "0"
        frames.append(packed if smaller else chunk.tobytes())
    if "1" in marks:
        entry["blosc"] = marks
    return entry, frames


def _copied(array: NDArray[Any], dtype: np.dtype[Any]) -> list[Buffer]:
    flat = np.array(array, dtype=dtype, order="C", copy=True).reshape(-1).view(np.uint8).data
    return [flat[start : start + FRAME_BYTES] for start in range(0, len(flat), FRAME_BYTES)]


def _compress(data: NDArray[np.uint8], itemsize: int, shuffle: int, codec: str) -> bytes:
    packed: bytes = blosc.compress_ptr(
        data.ctypes.data, data.size // itemsize, itemsize, _LEVELS[codec], shuffle, codec
    )
    return packed


def _try_sample(flat: NDArray[np.uint8], itemsize: int) -> tuple[float, int]:
    """Compressed size over size of a sample, and the filter that gave it."""
    sample = flat
    if flat.size > _SAMPLE_BYTES:
        piece = _SAMPLE_BYTES // _SAMPLE_PIECES
        step = (flat.size - piece) // (_SAMPLE_PIECES - 1) // itemsize * itemsize
        sample = np.concatenate(
            [flat[k * step : k * step + piece] for k in range(_SAMPLE_PIECES)], dtype=np.uint8
        )
    sizes = {
        shuffle: len(_compress(sample, itemsize, shuffle, "lz4"))
        for shuffle in (blosc.SHUFFLE, blosc.BITSHUFFLE)
    }
    best = min(sizes, key=lambda shuffle: sizes[shuffle])
    return sizes[best] / sample.size, best


def _promising_rows(array: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Which rows hold anything, if leaving the others out is worth while; else None."""
    if array.ndim < 2 or array.nbytes < _TINY_BYTES:
        return None
    n = array.shape[0]
    sample = occupied_rows(array[:: max(1, n // _SAMPLE_ROWS)])
    if np.count_nonzero(sample) > 0.6 * len(sample):
        return None
    held = occupied_rows(array)
    k = int(np.count_nonzero(held))
    smaller = k * (row_dtype(n).itemsize + array.nbytes // n) < array.nbytes
    return held if 2 * k <= n and smaller else None


def _encode_rows(
    array: NDArray[Any], held: NDArray[np.bool_], dtype: np.dtype[Any], codec: str
) -> tuple[dict[str, Any], list[Buffer]]:
    rows = np.flatnonzero(held).astype(row_dtype(len(held)))
    rows_entry, rows_frames = _encode_dense(rows, rows.dtype.newbyteorder("<"), codec)
    values_entry, values_frames = _encode_dense(array.take(rows, axis=0), dtype, codec)
    entry = {"shape": list(array.shape), "rows": rows_entry, "values": values_entry}
    return entry, rows_frames + values_frames


def check_entry(entry: object) -> tuple[int, int]:
    """Check a descriptor without decoding anything.

    Parameters
    ----------
    entry : object
        What the peer's header claims to be a descriptor.

    Returns
    -------
    frames : int
        Number of frames that belong to the array.
    decoded_bytes : int
        Size of the array that ``decode_array`` returns. Row-sparse arrays take at
        most twice that while they are decoded.

    Raises
    ------
    RemoteProtocolError
        If the descriptor is malformed.
    """
    plan = _plan(entry)
    return plan.frames, plan.nbytes


def decode_array(
    entry: Mapping[str, Any], frames: Sequence[Buffer], *, copy: bool = False
) -> NDArray[Any]:
    """Decode what ``encode_array`` made.

    A row-sparse descriptor of a few bytes can stand for a large array of zeros:
    hold what ``check_entry`` says against a limit first.

    Parameters
    ----------
    entry : mapping
        The descriptor.
    frames : sequence of bytes or memoryview
        Exactly the frames of this array.
    copy : bool
        With False, an array in a single raw frame is a read-only view of that
        frame. All other arrays, and all with True, are fresh and writable.

    Raises
    ------
    RemoteProtocolError
        If descriptor and frames do not belong together or a frame is corrupt.
    """
    plan = _plan(entry)
    views = [memoryview(frame).cast("B") for frame in frames]
    if len(views) != plan.frames:
        raise RemoteProtocolError(f"array of {plan.frames} frames came with {len(views)}")
    if isinstance(plan, _Dense):
        _check_frames(plan, views)
        return _fill(plan, views, copy)
    split = plan.rows.frames
    _check_frames(plan.rows, views[:split])
    _check_frames(plan.values, views[split:])
    rows = _fill(plan.rows, views[:split], copy=False)
    if not canonical_rows(rows, plan.shape[0]):
        raise RemoteProtocolError(
            f"row numbers of an array of {plan.shape[0]} rows are out of order or out of bounds"
        )
    values = _fill(plan.values, views[split:], copy=False)
    dense = _allocate(np.zeros, plan.shape, plan.values.dtype)
    dense[rows] = values
    return dense


def _plan(entry: object) -> _Dense | _Sparse:
    if not isinstance(entry, Mapping) or not entry.keys() >= {"shape", "rows", "values"}:
        return _dense_plan(entry)
    if len(entry) != 3:
        raise RemoteProtocolError(f"array descriptor has unknown keys: {_short(list(entry))}")
    rows, values = _dense_plan(entry["rows"]), _dense_plan(entry["values"])
    shape, nbytes = _sizes(entry["shape"], values.dtype)
    k = rows.shape[0] if len(rows.shape) == 1 else -1
    if not shape or rows.dtype.str not in ("<i4", "<i8") or values.shape != (k, *shape[1:]):
        raise RemoteProtocolError(
            f"row-sparse array of shape {shape} has rows {rows.dtype} {rows.shape} and values "
            f"of shape {values.shape}"
        )
    # A sender uses this form only when it is smaller, which also bounds what decoding takes.
    if rows.nbytes + values.nbytes >= nbytes:
        raise RemoteProtocolError(f"row-sparse array of shape {shape} is larger than the array")
    return _Sparse(shape, nbytes, rows, values)


def _dense_plan(entry: object) -> _Dense:
    if not isinstance(entry, Mapping) or entry.keys() - {"blosc"} != {"dtype", "shape"}:
        raise RemoteProtocolError(
            f"array descriptor is {_short(entry)}; expected a mapping with dtype, shape and "
            "perhaps blosc"
        )
    name = entry["dtype"]
    dtype = _DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None:
        raise RemoteProtocolError(f"array dtype {_short(name)} is not allowed")
    marks = entry.get("blosc", "")
    plan = _Dense(dtype, *_sizes(entry["shape"], dtype), marks)
    right = isinstance(marks, str) and len(marks) == plan.frames and not set(marks) - {"0", "1"}
    if "blosc" in entry and not right:
        raise RemoteProtocolError(f"array of {plan.frames} frames has blosc marks {_short(marks)}")
    return plan


def _sizes(shape: object, dtype: np.dtype[Any]) -> tuple[tuple[int, ...], int]:
    if (
        not isinstance(shape, (list, tuple))
        or len(shape) > MAX_NDIM
        or not all(type(n) is int and 0 <= n < 1 << 62 for n in shape)
        # numpy computes strides before it sees that a dimension is 0, so those count as 1.
        or prod(max(n, 1) for n in shape) * dtype.itemsize >= 1 << 62
    ):
        raise RemoteProtocolError(
            f"array shape is {_short(shape)}; expected a list of at most {MAX_NDIM} sizes of "
            "an array that can exist"
        )
    return tuple(shape), prod(shape) * dtype.itemsize


def _check_frames(plan: _Dense, views: Sequence[memoryview]) -> None:
    for i, view in enumerate(views):
        expected = min(FRAME_BYTES, plan.nbytes - i * FRAME_BYTES)
        if plan.marks and plan.marks[i] == "1":
            _check_blosc(view, expected, plan.dtype.itemsize)
        elif len(view) != expected:
            raise RemoteProtocolError(f"raw frame has {len(view)} bytes; expected {expected}")


def _check_blosc(view: memoryview, expected: int, itemsize: int) -> None:
    if len(view) < _HEADER.size:
        raise RemoteProtocolError(f"blosc frame of {len(view)} bytes is shorter than its header")
    # The fields of blosc.get_cbuffer_sizes, and those it does not show; no copy to bytes.
    version, _, flags, typesize, nbytes, block, cbytes = _HEADER.unpack_from(view)
    if nbytes != expected or cbytes != len(view):
        raise RemoteProtocolError(
            f"blosc frame of {len(view)} bytes claims {cbytes} bytes that decode to {nbytes}; "
            f"expected {expected}"
        )
    # Tiny blocks would cost a decompressor call each: a small frame could burn seconds.
    if (
        version != _FORMAT_VERSION
        or flags >> 5 not in (_LZ4_FORMAT, _ZSTD_FORMAT)
        or flags & _COPIED
        or typesize != itemsize
        or not min(_MIN_BLOCK_BYTES, nbytes) <= block <= nbytes
        or block % itemsize
    ):
        raise RemoteProtocolError(
            f"blosc header is not one we send: version {version}, flags {flags:#x}, typesize "
            f"{typesize}, block {block} of {nbytes} bytes"
        )


def _fill(plan: _Dense, views: Sequence[memoryview], copy: bool) -> NDArray[Any]:
    if len(views) == 1 and not plan.marks and not copy:
        seen = np.frombuffer(views[0], dtype=plan.dtype)
        if seen.flags.aligned:
            seen.flags.writeable = False
            return _checked(seen.reshape(plan.shape))
    array = _allocate(np.empty, plan.shape, plan.dtype)
    flat = array.reshape(-1).view(np.uint8)
    for i, view in enumerate(views):
        part = flat[i * FRAME_BYTES : (i + 1) * FRAME_BYTES]
        if plan.marks and plan.marks[i] == "1":
            try:
                blosc.decompress_ptr(view, part.ctypes.data)
            except blosc.blosc_extension.error as err:
                raise RemoteProtocolError(f"blosc frame {i} is corrupt: {err}") from err
        else:
            part[:] = np.frombuffer(view, dtype=np.uint8)
    return _checked(array)


def _allocate(make: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        array: NDArray[Any] = make(shape, dtype=dtype)
    except MemoryError as err:
        raise RemoteProtocolError(f"no memory for an array {shape} of {dtype}") from err
    return array


def _checked(array: NDArray[Any]) -> NDArray[Any]:
    # numpy takes any byte but 1 in a bool array as undefined.
    if array.dtype.kind == "b" and (array.view(np.uint8) > 1).any():
        raise RemoteProtocolError("bool array holds bytes other than 0 and 1")
    return array


def _short(thing: object) -> str:
    try:
        text = repr(thing)
    except ValueError:
        return f"a {type(thing).__name__} too long to show"
    return text if len(text) <= 80 else text[:77] + "..."
