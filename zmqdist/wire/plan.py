"""What a descriptor promises, checked, and the ndarray made of it and its frames.

A descriptor is ``{"dtype", "shape"}`` for raw frames; with ``"blosc": "1101"``
the frames marked 1 are compressed. ``{"shape", "rows", "values"}`` is the
row-sparse form, whose two parts are descriptors themselves. A frame decodes to
``FRAME_BYTES`` except for the last, so the sizes follow from the descriptor and
are all checked before anything is allocated or decompressed.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple, TypeAlias

import blosc
import numpy as np
from numpy.typing import NDArray

from zmqdist.errors import RemoteProtocolError
from zmqdist.wire.rows import canonical_rows

Buffer: TypeAlias = bytes | memoryview

FRAME_BYTES = 1 << 20
MAX_NDIM = 32

DTYPES = {
    dtype.str: dtype
    for dtype in (
        np.dtype(code).newbyteorder("<")
        for code in ("?", *"bhiq", *"BHIQ", "f2", "f4", "f8", "c8", "c16")
    )
}

_HEADER = struct.Struct("<BBBBiii")
_FORMAT_VERSION = 2
_LZ4_FORMAT, _ZSTD_FORMAT = 1, 4
_COPIED = 0x02
_MIN_BLOCK_BYTES = 4096
_DONE = memoryview(b"")


class Look:
    """What was seen of a tree while it was decoded.

    Whether the floats are all finite, as far as a quick look tells.
    It is taken block by block, while a block is in the cache anyhow. A dot product is
    finite only if every element is; one that overflows raises a doubt that only a closer
    look can settle.

    Attributes
    ----------
    finite : bool
        No doubt was raised.
    decoded_bytes : int
        Of the arrays.
    """

    def __init__(self) -> None:
        self.finite = True
        self.decoded_bytes = 0

    def at(self, block: NDArray[Any]) -> None:
        """Look at a block of one dimension."""
        if block.dtype.kind not in "fc" or not self.finite:
            return
        if block.dtype.kind == "c":
            block = block.view(block.real.dtype)
        if block.dtype.itemsize < 4 or not block.dtype.isnative or not block.flags.aligned:
            self.finite = bool(np.isfinite(block).all())
        else:
            self.finite = math.isfinite(np.dot(block, block))


class Frames(NamedTuple):
    """What a tree is built from, and the look that is taken at its arrays."""

    all: list[Buffer]
    look: Look

    def take(self, start: int, stop: int) -> list[Buffer]:
        """Hand out some frames for good: each can be freed once it is decoded."""
        taken = self.all[start:stop]
        self.all[start:stop] = [b""] * len(taken)
        return taken


class DensePlan(NamedTuple):
    """An array whose bytes are in the frames; those marked "1" are compressed."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    nbytes: int
    marks: str

    @property
    def frames(self) -> int:
        """How many frames belong to it."""
        return -(-self.nbytes // FRAME_BYTES)

    def decode(self, frames: list[Buffer], look: Look, *, writable: bool) -> NDArray[Any]:
        """Decode, see `decode_array`, and look at what comes out; empties the list."""
        views = _views(frames, self.frames)
        frames.clear()
        _check_frames(self, views)
        return _fill(self, views, look, writable=writable)


class SparsePlan(NamedTuple):
    """A dense array of which only some rows travel."""

    shape: tuple[int, ...]
    nbytes: int
    rows: DensePlan
    values: DensePlan

    @property
    def frames(self) -> int:
        """How many frames belong to it."""
        return self.rows.frames + self.values.frames

    def decode(self, frames: list[Buffer], look: Look, *, writable: bool) -> NDArray[Any]:
        """Decode, see `decode_array`; always a fresh array."""
        views = _views(frames, self.frames)
        split = self.rows.frames
        _check_frames(self.rows, views[:split])
        _check_frames(self.values, views[split:])
        rows = _fill(self.rows, views[:split], look, writable=False)
        if not canonical_rows(rows, self.shape[0]):
            raise RemoteProtocolError(
                f"row numbers of an array of {self.shape[0]} rows are out of order or out of bounds"
            )
        values = _fill(self.values, views[split:], look, writable=False)
        dense = _allocate(np.zeros, self.shape, self.values.dtype)
        dense[rows] = values
        return dense


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
    plan = plan_array(entry)
    return plan.frames, plan.nbytes


def decode_array(
    entry: Mapping[str, Any], frames: Sequence[Buffer], *, writable: bool = False
) -> NDArray[Any]:
    """Decode what ``encode_array`` made.

    A row-sparse descriptor of a few bytes can stand for a large array of zeros:
    hold what ``check_entry`` says against a limit first.

    Parameters
    ----------
    entry : mapping
        The descriptor.
    frames : sequence of bytes or memoryview
        Exactly the frames of this array. They belong to the result from here on: an
        array in a single raw frame is a view of that frame, where it lies as numpy
        wants it. All other arrays are fresh.
    writable : bool
        Make the array fresh if the frame is read-only.

    Raises
    ------
    RemoteProtocolError
        If descriptor and frames do not belong together or a frame is corrupt.
    """
    with np.errstate(all="ignore"):  # of the look
        return plan_array(entry).decode(list(frames), Look(), writable=writable)


def plan_array(entry: object) -> DensePlan | SparsePlan:
    """Check a descriptor, see `check_entry`, and return what decodes its frames."""
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
    return SparsePlan(shape, nbytes, rows, values)


def _dense_plan(entry: object) -> DensePlan:
    if not isinstance(entry, Mapping) or entry.keys() - {"blosc"} != {"dtype", "shape"}:
        raise RemoteProtocolError(
            f"array descriptor is {_short(entry)}; expected a mapping with dtype, shape and "
            "perhaps blosc"
        )
    name = entry["dtype"]
    dtype = DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None:
        raise RemoteProtocolError(f"array dtype {_short(name)} is not allowed")
    marks = entry.get("blosc", "")
    plan = DensePlan(dtype, *_sizes(entry["shape"], dtype), marks)
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


def _views(frames: Sequence[Buffer], expected: int) -> list[memoryview]:
    if len(frames) != expected:
        raise RemoteProtocolError(f"array of {expected} frames came with {len(frames)}")
    return [memoryview(frame).cast("B") for frame in frames]


def _check_frames(plan: DensePlan, views: Sequence[memoryview]) -> None:
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


def _fill(plan: DensePlan, views: list[memoryview], look: Look, *, writable: bool) -> NDArray[Any]:
    if len(views) == 1 and not plan.marks:
        seen = np.frombuffer(views[0], dtype=plan.dtype)
        if seen.flags.aligned and (seen.flags.writeable or not writable):
            look.at(seen)
            return _checked(seen.reshape(plan.shape))
    array = _allocate(np.empty, plan.shape, plan.dtype)
    flat = array.reshape(-1)
    step = FRAME_BYTES // plan.dtype.itemsize
    for i in range(len(views)):
        view, views[i] = views[i], _DONE  # and the frame before is freed
        part = flat[i * step : (i + 1) * step]
        if plan.marks and plan.marks[i] == "1":
            try:
                blosc.decompress_ptr(view, part.ctypes.data)
            except blosc.blosc_extension.error as err:
                raise RemoteProtocolError(f"blosc frame {i} is corrupt: {err}") from err
            look.at(part)
        else:
            block = np.frombuffer(view, dtype=plan.dtype)
            look.at(block)  # reads it into the cache for the copy
            part[:] = block
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
