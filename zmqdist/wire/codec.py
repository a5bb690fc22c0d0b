"""One ndarray -> a JSON-able descriptor and a list of buffers.

Owns the compressor (blosc) and the choice among the three forms in which an array
travels: raw bytes, blosc frames, and row-sparse (the numbers of the rows that hold
anything, and those rows). Every form is loss-free to the bit. `zmqdist.wire.plan` has the
way back, and says what a descriptor is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import blosc
import numpy as np
from numpy.typing import NDArray

from zmqdist.errors import ConfigError, UpdateError
from zmqdist.wire.plan import DTYPES, FRAME_BYTES, MAX_NDIM, Buffer
from zmqdist.wire.pool import Pool
from zmqdist.wire.rows import occupied_rows, row_dtype

CODECS = ("auto", "raw", "lz4", "zstd")

Answer = TypeVar("Answer")

_TINY_BYTES = 4096  # not worth a look: whatever it is coded to, it is part of a packet or two
_ALWAYS, _SOMETIMES = 2, 16
_SAMPLE_BYTES = 1 << 16
_SAMPLE_PIECES = 8
_SAMPLE_ROWS = 256
_WORTH_IT = 0.88
_LEVELS = {"lz4": 5, "zstd": 3}

# Chunks are too small to split over threads, and blosc's own threads do not survive
# the fork of a Spark worker; without the GIL one thread codes beside user code in another.
blosc.set_nthreads(1)
blosc.set_releasegil(True)


class Memory:
    """What looks at the arrays of earlier updates or versions said, by name.

    To look costs more than to copy a small array, and what an array is like changes little
    from one update to the next: the first ones are looked at, later ones now and then.

    Attributes
    ----------
    pool : Pool
        Where large raw arrays are copied to. It may have their frames back.
    """

    def __init__(self) -> None:
        self.pool = Pool()
        self._asked: Counter[str] = Counter()
        self._said: dict[str, Any] = {}

    def ask(self, name: str, look: Callable[[], Answer]) -> Answer:
        """Return what `look` says, or what it said of late."""
        asked = self._asked[name]
        self._asked[name] += 1
        if asked < _ALWAYS or asked % _SOMETIMES == 0:
            self._said[name] = look()
        answer: Answer = self._said[name]
        return answer


def encode_array(
    array: NDArray[Any],
    codec: str = "auto",
    *,
    memory: Memory | None = None,
    name: str = "",
    given: bool = False,
) -> tuple[dict[str, Any], list[Buffer]]:
    """Encode one array; the frames share no memory with it, unless it is given away.

    Parameters
    ----------
    array : ndarray
        bool, integers of 8 to 64 bits, float16/32/64 or complex64/128; any byte
        order, strides and shape up to 32 dimensions. Sent as C-ordered little-endian.
    codec : {"auto", "raw", "lz4", "zstd"}
        "auto" samples the array and compresses with lz4 when that saves an eighth.
        All but "raw" leave out all-zero rows when at least half of the rows are.
    memory : Memory, optional
        Spares looks at arrays that were sent under the same `name` before.
    name : str, optional
    given : bool, default=False
        Nobody will change the array any more, so that raw frames may be its own memory.

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
    dtype = DTYPES.get(array.dtype.newbyteorder("<").str)
    if dtype is None:
        raise UpdateError(
            f"an array of dtype {array.dtype} cannot be sent; expected bool, an integer, "
            "float16/32/64 or complex64/128; convert it with .astype"
        )
    if array.ndim > MAX_NDIM:
        raise UpdateError(f"an array of {array.ndim} dimensions, over {MAX_NDIM}: reshape it")
    memory = Memory() if memory is None else memory
    if codec != "raw" and array.ndim >= 2 and array.nbytes >= _TINY_BYTES:
        sparse = memory.ask(f"{name}: rows", lambda: _looks_sparse(array))
        held = _rows_to_send(array) if sparse else None
        if held is not None:
            return _encode_rows(array, held, codec, memory, name)
    return _encode_dense(array, dtype, codec, memory, name, given=given)


def _encode_dense(
    array: NDArray[Any],
    dtype: np.dtype[Any],
    codec: str,
    memory: Memory,
    name: str,
    *,
    given: bool = False,
) -> tuple[dict[str, Any], list[Buffer]]:
    entry: dict[str, Any] = {"dtype": dtype.str, "shape": list(array.shape)}
    if codec == "raw" or array.nbytes < _TINY_BYTES:
        return entry, _raw(array, dtype, memory.pool, given=given)
    coded, shuffle = memory.ask(f"{name}: bytes", lambda: _try_sample(_flat(array, dtype), dtype))
    if codec == "auto":
        if coded > _WORTH_IT:
            return entry, _raw(array, dtype, memory.pool, given=given)
        codec = "lz4"
    flat = _flat(array, dtype)
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


def _flat(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array, dtype=dtype).reshape(-1).view(np.uint8)


def _raw(array: NDArray[Any], dtype: np.dtype[Any], pool: Pool, *, given: bool) -> list[Buffer]:
    if array.nbytes < pool.LARGE_BYTES:
        flat = np.array(array, dtype=dtype, order="C", copy=True).reshape(-1).view(np.uint8)
        return [flat.data] if flat.size else []
    if given:
        return _cut(_flat(array, dtype))
    flat = pool.take(array.nbytes)
    np.copyto(flat.view(dtype).reshape(array.shape), array)
    return _cut(flat)


def _cut(flat: NDArray[np.uint8]) -> list[Buffer]:
    octets = flat.data
    return [octets[start : start + FRAME_BYTES] for start in range(0, flat.size, FRAME_BYTES)]


def _compress(data: NDArray[np.uint8], itemsize: int, shuffle: int, codec: str) -> bytes:
    packed: bytes = blosc.compress_ptr(
        data.ctypes.data, data.size // itemsize, itemsize, _LEVELS[codec], shuffle, codec
    )
    return packed


def _try_sample(flat: NDArray[np.uint8], dtype: np.dtype[Any]) -> tuple[float, int]:
    """Compressed size over size of a sample, and the filter that gave it."""
    sample, itemsize = flat, dtype.itemsize
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


def _looks_sparse(array: NDArray[Any]) -> bool:
    sample = occupied_rows(array[:: max(1, len(array) // _SAMPLE_ROWS)])
    return bool(np.count_nonzero(sample) <= 0.6 * len(sample))


def _rows_to_send(array: NDArray[Any]) -> NDArray[Any] | None:
    """Return the rows that hold anything, if to leave out the others is worth while."""
    n = len(array)
    rows = np.flatnonzero(occupied_rows(array)).astype(row_dtype(n))
    smaller = len(rows) * (rows.itemsize + array.nbytes // n) < array.nbytes
    return rows if 2 * len(rows) <= n and smaller else None


def _encode_rows(
    array: NDArray[Any], rows: NDArray[Any], codec: str, memory: Memory, name: str
) -> tuple[dict[str, Any], list[Buffer]]:
    parts = [rows, array.take(rows, axis=0)]
    encoded = [
        _encode_dense(part, part.dtype.newbyteorder("<"), codec, memory, f"{name}: {n}")
        for n, part in enumerate(parts)
    ]
    (rows_entry, rows_frames), (values_entry, values_frames) = encoded
    entry = {"shape": list(array.shape), "rows": rows_entry, "values": values_entry}
    return entry, rows_frames + values_frames
