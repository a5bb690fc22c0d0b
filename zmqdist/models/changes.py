"""Whether an array changed, and which rows of it, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK_BYTES = 1 << 18
"""Compared at a time, in bytes: both operands and the result stay in the cache."""


def changed_rows(before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.intp]:
    """Return the numbers of the rows that differ in at least one bit, in order.

    Bits rather than values: a NaN that stays is no change, 0.0 to -0.0 is one.

    Parameters
    ----------
    before, after : ndarray of shape (n_rows, ...), same shape and dtype
        Arrays of no dimension count as one row.
    """
    old, new = _words(before), _words(after)
    rows, words = new.shape
    if not new.size:
        return np.empty(0, np.intp)
    block = max(1, _BLOCK_BYTES // (words * new.itemsize))
    changed = np.empty(rows, bool)
    for start in range(0, rows, block):
        stop = min(start + block, rows)
        differs = old[start:stop] != new[start:stop]
        # Looking at several booleans at once makes the reduction several times faster.
        wide = next(size for size in (8, 4, 2, 1) if words % size == 0)
        differs.view(f"u{wide}").any(axis=1, out=changed[start:stop])
    return np.flatnonzero(changed)


def differ(before: NDArray[Any], after: NDArray[Any]) -> bool:
    """Whether two arrays of the same shape and dtype differ in at least one bit."""
    old, new = _words(before.reshape(1, -1)), _words(after.reshape(1, -1))
    if not new.size:
        return False
    block = _BLOCK_BYTES // new.itemsize
    starts = range(0, new.shape[1], block)
    return any((old[:, at : at + block] != new[:, at : at + block]).any() for at in starts)


def place(rows: NDArray[np.integer]) -> NDArray[np.integer] | slice:
    """Return rows in order as a slice if they follow each other: no copy is made then."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def _words(array: NDArray[Any]) -> NDArray[Any]:
    """Return the rows as unsigned numbers: shape (n_rows, words)."""
    if not array.size:
        return array.reshape(0, 0)
    rows = np.ascontiguousarray(array).reshape(array.shape[0] if array.ndim else 1, -1)
    octets = rows.view(np.uint8)
    return octets.view(next(f"u{size}" for size in (8, 4, 2, 1) if octets.shape[1] % size == 0))
