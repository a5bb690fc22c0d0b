"""RowSparse: some rows of an array, usable in numpy arithmetic.

Owns the one idea of "these rows changed": what counts as canonical row numbers,
which rows of a dense array hold anything, and what arithmetic on rows means.
One gradient step of an embedding touches a few thousand rows out of a million;
``model.syn0 += update`` must cost those rows and not the million.

The rows that a ``RowSparse`` does not hold are *nothing* rather than a measured
zero. Products and quotients with it are therefore nothing too, also where
numpy's zero would meet a zero divisor, an infinity or a NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import ArrayLike, DTypeLike, NDArray

_QUOTIENTS = frozenset({np.divide, np.floor_divide, np.remainder, np.fmod})
_INT32_ROWS = 2**31
_BLOCK_BYTES = 100_000  # so much of an array is taken at a time to be changed


def row_dtype(n_rows: int) -> np.dtype[Any]:
    """Dtype of the row numbers of an array with `n_rows` rows: int32 where it is enough."""
    return np.dtype(np.int32 if n_rows < _INT32_ROWS else np.int64)


def canonical_rows(rows: NDArray[Any], n_rows: int) -> bool:
    """Tell whether `rows` are strictly increasing and all in ``[0, n_rows)``."""
    if len(rows) == 0:
        return True
    inside = int(rows[0]) >= 0 and int(rows[-1]) < n_rows
    return inside and bool((rows[1:] > rows[:-1]).all())


def union(parts: Sequence[NDArray[Any]]) -> NDArray[np.intp]:
    """Return the numbers that are in any of `parts`, in order, each once.

    Sorting is many times faster than `numpy.unique`, which hashes from numpy 2.3 on.
    """
    numbers = np.concatenate([np.asarray(part, np.intp) for part in parts])
    numbers.sort(kind="stable")  # of a few sorted runs: merges them
    first = np.ones(len(numbers), bool)
    np.not_equal(numbers[1:], numbers[:-1], out=first[1:])
    return numbers[first]


def copy_rows(target: NDArray[Any], source: NDArray[Any], rows: NDArray[Any]) -> None:
    """Copy some rows of an array into another one of the same shape."""
    for _, block in blocks(rows, target):
        target[block] = source.take(block, axis=0)


def occupied_rows(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows of `array` hold a bit that is not zero.

    The test is on bits and not on values, so NaN and -0.0 count as occupied and
    leaving the other rows out loses nothing.

    Parameters
    ----------
    array : ndarray, shape (n, ...)
        Any numeric dtype; C-contiguous is fast, other orders are copied.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    n = array.shape[0]
    if array.size == 0:
        return np.zeros(n, dtype=np.bool_)
    raw = np.ascontiguousarray(array).reshape(n, -1).view(np.uint8)
    # One OR over wide words reads memory once and makes no temporary of the array's size.
    word = next(w for w in (8, 4, 2, 1) if raw.shape[1] % w == 0)
    words = raw.view(f"u{word}")
    held: NDArray[np.bool_] = np.bitwise_or.reduce(words, axis=1) != 0
    return held


class RowSparse(NDArrayOperatorsMixin):
    """Rows of an array of shape `shape`; all other rows are nothing.

    It stands in numpy expressions for the full array. In-place ``dense += u`` and
    ``dense -= u`` touch only the held rows; ``u * x``, ``u / x``, ``u ** 2``,
    ``u + v``, ``np.sqrt(u)`` and every function with f(0) = 0 stay row-sparse.
    A result that is truly dense (``u + 1``, ``u > 0``, ``dense + u``) is an ndarray.
    In-place arithmetic on the ``RowSparse`` itself keeps its dtype, as in numpy.

    Parameters
    ----------
    rows : array_like of int, shape (k,)
        Row numbers. Sorted here if need be; the values of equal rows are summed.
    values : array_like, shape (k, *shape[1:])
        Contents of the rows. Not copied when `rows` are in order.
    shape : sequence of int
        Shape of the full array, at least one dimension.

    Raises
    ------
    ValueError
        If the rows are not integers within bounds, or the shapes do not fit.

    Examples
    --------
    >>> u = RowSparse([4, 1], [[1.0, 1.0], [2.0, 2.0]], (6, 2))
    >>> dense = np.zeros((6, 2))
    >>> dense -= 0.5 * u
    >>> dense[4]
    array([-0.5, -0.5])
    """

    __slots__ = ("rows", "shape", "values")

    rows: NDArray[Any]
    values: NDArray[Any]
    shape: tuple[int, ...]

    def __init__(self, rows: ArrayLike, values: ArrayLike, shape: Sequence[int]) -> None:
        self.shape = tuple(int(n) for n in shape)
        numbers, contents = np.asarray(rows), np.asarray(values)
        if not self.shape or min(self.shape) < 0:
            raise ValueError(
                f"RowSparse: shape is {self.shape}; expected at least one dimension and no "
                "negative size; give the shape of the full array"
            )
        if numbers.ndim != 1 or (numbers.dtype.kind not in "iu" and numbers.size):
            raise ValueError(
                f"RowSparse: rows are {numbers.dtype} of shape {numbers.shape}; expected a 1-d "
                "integer array of row numbers"
            )
        if contents.dtype.kind not in "biufc":
            raise ValueError(f"RowSparse: values are {contents.dtype}; expected a numeric dtype")
        if contents.shape != (len(numbers), *self.shape[1:]):
            raise ValueError(
                f"RowSparse: values have shape {contents.shape}; expected "
                f"{(len(numbers), *self.shape[1:])} for {len(numbers)} rows of an array of "
                f"shape {self.shape}"
            )
        if not canonical_rows(numbers, self.shape[0]):
            numbers, contents = _sum_duplicates(numbers, contents, self.shape[0])
        self.rows = numbers.astype(row_dtype(self.shape[0]), copy=False)
        self.values = contents

    @classmethod
    def _of(cls, rows: NDArray[Any], values: NDArray[Any], shape: tuple[int, ...]) -> RowSparse:
        made = cls.__new__(cls)
        made.rows, made.values, made.shape = rows, values, shape
        return made

    @classmethod
    def from_dense(cls, array: ArrayLike) -> RowSparse:
        """Take the rows of `array` that are not all zero bits (NaN and -0.0 are kept).

        Raises
        ------
        ValueError
            If `array` has no dimension or is not numeric.
        """
        dense = np.asarray(array)
        if dense.ndim == 0 or dense.dtype.kind not in "biufc":
            raise ValueError(
                f"RowSparse.from_dense: got {dense.dtype} of shape {dense.shape}; expected a "
                "numeric array with at least one dimension"
            )
        rows = np.flatnonzero(occupied_rows(dense)).astype(row_dtype(len(dense)), copy=False)
        return cls._of(rows, dense.take(rows, axis=0), dense.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the values."""
        return self.values.dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions of the full array."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements of the full array."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def nbytes(self) -> int:
        """Bytes really held: row numbers and values."""
        return self.rows.nbytes + self.values.nbytes

    def __len__(self) -> int:
        return self.shape[0]

    def __bool__(self) -> bool:
        return len(self.rows) > 0

    def __repr__(self) -> str:
        return f"RowSparse({len(self.rows)} rows of {self.shape}, {self.dtype})"

    def astype(self, dtype: DTypeLike) -> RowSparse:
        """Return a copy with values of `dtype`."""
        return self._of(self.rows.copy(), self.values.astype(dtype), self.shape)

    def copy(self) -> RowSparse:
        """Return a copy that shares no memory."""
        return self._of(self.rows.copy(), self.values.copy(), self.shape)

    def todense(self) -> NDArray[Any]:
        """Return the full array, with zeros in the rows that are not held."""
        dense = np.zeros(self.shape, dtype=self.dtype)
        dense[self.rows] = self.values
        return dense

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("RowSparse: the dense form is always a copy; ask without copy=False")
        dense = self.todense()
        return dense if dtype is None else dense.astype(dtype, copy=False)

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = (), **kwargs: Any
    ) -> Any:
        if method == "at":
            return NotImplemented
        operands = [x if isinstance(x, _OPERANDS) else np.asarray(x) for x in inputs]
        if any(isinstance(x, np.ndarray) and x.dtype.kind not in "biufc" for x in operands):
            return NotImplemented
        by_rows = method == "__call__" and ufunc.nout == 1 and ufunc.signature is None
        by_rows = by_rows and "where" not in kwargs
        if by_rows:
            _check_shapes(ufunc, operands)
        if not out:
            result = _by_rows(ufunc, operands, kwargs) if by_rows else None
            return _dense(ufunc, method, operands, kwargs) if result is None else result
        if ufunc.nout > 1 or method != "__call__":
            return _dense(ufunc, method, operands, {**kwargs, "out": out})
        (target,) = out
        if isinstance(target, RowSparse):
            return target._assign(getattr(ufunc, method)(*operands, **kwargs), ufunc)
        if by_rows and _scatter(ufunc, operands, target, kwargs):
            return target
        return _dense(ufunc, method, operands, {**kwargs, "out": out})

    def _assign(self, result: Any, ufunc: np.ufunc) -> RowSparse:
        if result.shape != self.shape:
            raise ValueError(
                f"{ufunc.__name__}: the result has shape {result.shape}, the RowSparse to hold it "
                f"{self.shape}; give them the same shape"
            )
        if not np.can_cast(result.dtype, self.dtype, "same_kind"):
            raise TypeError(
                f"{ufunc.__name__}: cannot put {result.dtype} into a RowSparse of {self.dtype} "
                "in place; use .astype first"
            )
        if not isinstance(result, RowSparse):
            result = RowSparse.from_dense(result)
        self.rows = result.rows
        self.values = result.values.astype(self.dtype, copy=False)
        return self


_OPERANDS = (RowSparse, np.ndarray, bool, int, float, complex, np.generic)


def _sum_duplicates(
    rows: NDArray[Any], values: NDArray[Any], n_rows: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high >= n_rows:
        raise ValueError(
            f"RowSparse: row numbers run from {low} to {high}; expected 0 to {n_rows - 1}"
        )
    order = np.argsort(rows, kind="stable")
    rows, values = rows[order], values[order]
    first = np.flatnonzero(np.concatenate(([True], rows[1:] != rows[:-1])))
    if len(first) == len(rows):
        return rows, values
    return rows[first], np.add.reduceat(values, first, axis=0, dtype=values.dtype)


def _check_shapes(ufunc: np.ufunc, operands: list[Any]) -> None:
    shape = next(x.shape for x in operands if isinstance(x, RowSparse))
    for x in operands:
        if isinstance(x, RowSparse):
            fits = x.shape == shape
        else:
            fits = _broadcasts(np.shape(x), shape)
        if not fits:
            raise ValueError(
                f"{ufunc.__name__}: shapes {np.shape(x)} and {shape} do not match; a RowSparse "
                "takes scalars and arrays that broadcast to its own shape"
            )


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    tail = to[len(to) - len(shape) :]
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(shape, tail, strict=True))


def _has_rows(x: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(x, np.ndarray) and x.ndim == len(shape) and x.shape[0] != 1


def _at(x: Any, rows: NDArray[Any], shape: tuple[int, ...]) -> Any:
    """Take the part of operand `x` that meets `rows`."""
    if not isinstance(x, RowSparse):
        return x.take(rows, axis=0) if _has_rows(x, shape) else x
    if x.rows is rows or np.array_equal(x.rows, rows):
        return x.values
    part = np.zeros((len(rows), *shape[1:]), dtype=x.dtype)
    place = np.searchsorted(x.rows, rows)
    found = place < len(x.rows)
    found[found] = x.rows[place[found]] == rows[found]
    part[found] = x.values[place[found]]
    return part


def _by_rows(ufunc: np.ufunc, operands: list[Any], kwargs: dict[str, Any]) -> Any:
    """Compute the result on rows alone; None where that would be wrong."""
    sparse = [x for x in operands if isinstance(x, RowSparse)]
    shape, rows = sparse[0].shape, sparse[0].rows
    if ufunc is np.multiply:
        for other in sparse[1:]:
            if other.rows is not rows:
                rows = np.intersect1d(rows, other.rows, assume_unique=True)
    elif ufunc in _QUOTIENTS and isinstance(operands[0], RowSparse):
        rows = operands[0].rows
    elif any(_has_rows(x, shape) for x in operands):
        return _dense_plus_rows(ufunc, operands, kwargs)
    elif _zero_stays_zero(ufunc, operands, kwargs):
        for other in sparse[1:]:
            if other.rows is not rows:
                rows = np.union1d(rows, other.rows)
    else:
        return None
    values = ufunc(*[_at(x, rows, shape) for x in operands], **kwargs)
    return RowSparse._of(rows, values, shape)


def _zero_stays_zero(ufunc: np.ufunc, operands: list[Any], kwargs: dict[str, Any]) -> bool:
    # Trying the function on zeros covers every ufunc, also those of scipy.special and numba.
    zeros = [
        np.zeros((1,) * x.ndim, dtype=x.dtype) if isinstance(x, RowSparse) else x for x in operands
    ]
    with np.errstate(all="ignore"):
        probe = ufunc(*zeros, **kwargs)
    return probe.dtype.kind != "b" and not probe.any()


def _dense_plus_rows(ufunc: np.ufunc, operands: list[Any], kwargs: dict[str, Any]) -> Any:
    if ufunc is np.add and isinstance(operands[0], RowSparse):
        operands = operands[::-1]
    if ufunc not in (np.add, np.subtract) or kwargs or isinstance(operands[0], RowSparse):
        return None
    dense, update = operands
    if dense.shape != update.shape:
        return None
    result = dense.astype(np.result_type(dense, update.dtype))
    result[update.rows] = ufunc(dense.take(update.rows, axis=0), update.values)
    return result


def _scatter(ufunc: np.ufunc, operands: list[Any], target: Any, kwargs: dict[str, Any]) -> bool:
    """Do ``target op= update`` on the touched rows; False if it is not that operation."""
    if ufunc is np.add and operands[1] is target:
        operands = operands[::-1]
    if ufunc not in (np.add, np.subtract) or operands[0] is not target:
        return False
    update = operands[1]
    if target.shape != update.shape:
        return False
    # Rows are unique, so take, operate and put back is right, and the fastest form measured.
    for block, rows in blocks(update.rows, target):
        part = target.take(rows, axis=0)
        ufunc(part, update.values[block], out=part, **kwargs)
        target[rows] = part
    return True


def blocks(rows: NDArray[Any], target: NDArray[Any]) -> Iterator[tuple[slice, NDArray[np.intp]]]:
    """Cut rows of an array into blocks: where each lies among all, and its rows.

    What is taken at a time stays in the cache, and in memory that is used again.
    """
    count = max(1, _BLOCK_BYTES // max(1, target.nbytes // max(1, len(target))))
    numbers = rows.astype(np.intp, copy=False)
    for start in range(0, max(1, len(rows)), count):  # once at least: numpy checks the types
        yield (block := slice(start, start + count)), numbers[block]


def _dense(ufunc: np.ufunc, method: str, operands: list[Any], kwargs: dict[str, Any]) -> Any:
    full = [x.todense() if isinstance(x, RowSparse) else x for x in operands]
    if kwargs.get("out") and any(isinstance(x, RowSparse) for x in kwargs["out"]):
        raise TypeError(f"{ufunc.__name__}.{method}: cannot write into a RowSparse; leave out= off")
    if isinstance(kwargs.get("where"), RowSparse):
        kwargs = {**kwargs, "where": kwargs["where"].todense()}
    return getattr(ufunc, method)(*full, **kwargs)
