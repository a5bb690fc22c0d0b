"""Rounding of floats to fewer bits of mantissa, so that lossless coding shrinks them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_WORDS: dict[int, tuple[Any, int]] = {4: (np.uint32, 23), 8: (np.uint64, 52)}


def bitround(array: NDArray[Any], keep_bits: int) -> NDArray[Any]:
    """Round to the nearest number with `keep_bits` explicit bits of mantissa, ties to even.

    The dtype stays; the bits cut off are zero and cost next to nothing once shuffled and
    compressed. Range and exponent are kept, so that small numbers keep their relative
    precision of ``2**-(keep_bits + 1)``, which float16 does not give them below 6e-5.

    Parameters
    ----------
    array : ndarray
        Of float32 or float64; any other dtype is returned as it is.
    keep_bits : int
        1 to 23 (float32) or 52 (float64); more keeps everything.
    """
    words, mantissa = _WORDS.get(array.dtype.itemsize, (None, 0))
    drop = mantissa - keep_bits
    if array.dtype.kind != "f" or words is None or drop <= 0:
        return array
    raw = np.ascontiguousarray(array).view(words)
    last = (raw >> words(drop)) & words(1)
    rounded = raw + (last + words((1 << (drop - 1)) - 1))
    rounded &= ~words((1 << drop) - 1)
    result = rounded.view(array.dtype)
    if not np.isfinite(result).all():  # rounded up to infinity, or no number to begin with
        result = np.where(np.isfinite(result) & np.isfinite(array), result, array)
    shaped: NDArray[Any] = result.reshape(array.shape)
    return shaped
