"""Merge policies: how several buffered updates become one.

Workers that train on the same version move the same rows, mostly in the same direction.
The sum of their changes then goes several times too far, their mean goes too short where
they differ; the rules here weigh each row by what its updates have in common. Owns the
walk over the trees and the rules.

Rows are met in blocks that stay in the processor's cache: a block of the result is
summed, measured and scaled before the next one, so the updates are read from memory once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqdist.errors import ConfigError, UpdateError
from zmqdist.wire.leaves import is_dict
from zmqdist.wire.rows import RowSparse, union

_BLOCK = 1 << 16  # elements of a block: 256 KiB of float32
_WHOLE = (bool, np.bool_, int, np.integer)
_NUMBER = (*_WHOLE, float, complex, np.inexact)


@dataclass(slots=True)
class _Piece:
    """The part of one update in a block of rows: row numbers (None: all), values (k, width).

    `held`: the update names these rows, they are not there because its array is dense.
    """

    place: NDArray[np.intp] | None
    values: NDArray[Any]
    held: bool

    def add_to(self, out: NDArray[Any]) -> None:
        if self.place is None:
            out += self.values
            return
        rows = out.take(self.place, axis=0)
        rows += self.values
        out[self.place] = rows


class Merge(ABC):
    """Base of all merge policies.

    Subclasses merge blocks of rows in `_rows` and keep no state but their options.
    """

    # Whether an array of one dimension is one row, and not one row per element.
    _vector_is_row = False

    def merge(self, updates: Sequence[Any]) -> Any:
        """Merge updates that were computed on about the same version.

        Parameters
        ----------
        updates : sequence of trees
            At least one. Trees of dicts, lists and tuples with the same structure; a
            dict may lack keys that others have, then only those that have it count.
            Leaves are `RowSparse`, ndarrays or numbers, of one shape at one place.

        Returns
        -------
        tree
            Float and complex leaves follow the policy; of several dimensions, a row is
            ``array[i]``. Numbers and arrays of integers count something and are added
            up, whatever the policy; bools are or-ed; strings and None are kept. A leaf is
            `RowSparse`, with the union of the rows, where all updates have one, else an
            ndarray or a Python number. float16 becomes float32, integers are widened as
            by `numpy.sum`; other dtypes are promoted as by numpy. Leaves that only one
            update has are its own arrays, not copies.

        Raises
        ------
        UpdateError
            There is no update, or structures, shapes, strings or kinds of leaves differ.
        """
        if not updates:
            raise UpdateError("there is nothing to merge: got no update, expected at least one")
        return self._node(list(updates), "update")

    @abstractmethod
    def _rows(self, pieces: Sequence[_Piece], out: NDArray[Any]) -> None:
        """Merge one block into `out`, shape (n, width); some pieces may be empty."""

    def _node(self, nodes: list[Any], path: str) -> Any:
        first = nodes[0]
        if all(is_dict(node) for node in nodes):
            have = {key: [n[key] for n in nodes if key in n] for node in nodes for key in node}
            return {key: self._node(parts, f"{path}[{key!r}]") for key, parts in have.items()}
        if isinstance(first, (list, tuple)):
            if any(type(node) is not type(first) or len(node) != len(first) for node in nodes):
                raise _different(path, nodes)
            places = enumerate(zip(*nodes, strict=True))
            merged = [self._node(list(parts), f"{path}[{i}]") for i, parts in places]
            if isinstance(first, list):
                return merged
            return type(first)._make(merged) if hasattr(first, "_make") else tuple(merged)
        return self._leaf(nodes, path)

    def _leaf(self, leaves: list[Any], path: str) -> Any:
        if all(leaf is None or isinstance(leaf, str) for leaf in leaves) and len(set(leaves)) == 1:
            return leaves[0]
        if all(isinstance(leaf, (bool, np.bool_)) for leaf in leaves):
            return any(leaves)
        if all(isinstance(leaf, _WHOLE) for leaf in leaves):
            return sum(int(leaf) for leaf in leaves)
        if not all(isinstance(leaf, (RowSparse, np.ndarray, *_NUMBER)) for leaf in leaves):
            raise _different(path, leaves)
        arrays = [leaf if isinstance(leaf, RowSparse) else np.asarray(leaf) for leaf in leaves]
        shape = arrays[0].shape
        if any(a.shape != shape or a.dtype.kind not in "biufc" for a in arrays):
            raise _different(path, leaves)
        merged = self._arrays(arrays)
        return merged.item() if all(isinstance(leaf, _NUMBER) for leaf in leaves) else merged

    def _arrays(self, arrays: list[Any]) -> Any:
        dtype = np.result_type(*[array.dtype for array in arrays])
        if dtype.kind in "iu":
            dtype = np.result_type(dtype, np.int_ if dtype.kind == "i" else np.uint)
        elif dtype == np.float16:
            dtype = np.dtype(np.float32)
        if len(arrays) == 1:
            only = arrays[0]
            return only if only.dtype == dtype else only.astype(dtype)
        # Complex numbers are pairs of floats: products and norms of rows come out right.
        rule = self if dtype.kind in "fc" else _SUM
        shape = arrays[0].shape
        sparse = all(isinstance(array, RowSparse) for array in arrays)
        union = _union([array.rows for array in arrays], shape[0]) if sparse else None
        n_rows = math.prod(shape[:1]) if union is None else len(union)
        out = np.empty((n_rows, *shape[1:]), dtype)
        if out.size and rule._vector_is_row and len(shape) == 1:
            vectors = [_vector(array, union, out)[None] for array in arrays]
            _by_blocks(rule, vectors, None, out[None])
        elif out.size:
            _by_blocks(rule, arrays, union, out.reshape(n_rows, -1))
        return out.reshape(shape) if union is None else RowSparse(union, out, shape)

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({options})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *sorted(vars(self).items())))


class Sum(Merge):
    """Add the updates up: ``sum_i d_i``.

    As applying them one by one does; rows that many workers move may go too far.
    """

    def _rows(self, pieces: Sequence[_Piece], out: NDArray[Any]) -> None:
        out[...] = 0
        for piece in pieces:
            piece.add_to(out)


class Mean(Sum):
    """Take the mean over the updates: ``1/n sum_i d_i``; rows that one lacks are zeros in it."""

    def _rows(self, pieces: Sequence[_Piece], out: NDArray[Any]) -> None:
        super()._rows(pieces, out)
        out /= len(pieces)


class TouchedMean(Sum):
    """Take for each row the mean over the updates that touched it.

    A `RowSparse` touches the rows that it holds, a dense array those that are not all
    zero. In arrays of one dimension each element is a row; a number is one row. It is the
    rule of Word2Vec in Spark 3 [1]_, there for vectors, here for their changes.

    References
    ----------
    .. [1] apache/spark pull request 26722, "[SPARK-24666][ML] Fix infinity vectors
       produced by Word2Vec when numIterations are large".
    """

    def _rows(self, pieces: Sequence[_Piece], out: NDArray[Any]) -> None:
        super()._rows(pieces, out)
        touched = np.zeros(len(out), np.intp)
        for piece in pieces:
            one = 1 if piece.held else piece.values.any(axis=1)
            touched[slice(None) if piece.place is None else piece.place] += one
        out /= np.maximum(touched, 1).astype(out.dtype)[:, None]


class RowTrustRegion(Sum):
    """Add the updates up, but let no row go much further than its largest update did.

    For each row ``S = sum_i d_i``, times ``min(1, cap max_i ||d_i|| / ||S||)``: rows that
    few updates touch, and rows whose updates differ, are summed; where all agree, the step
    is that of `cap` of them. The rule is this project's own. An array of one or no
    dimension is one row.

    Parameters
    ----------
    cap : float, default=2.0
        Largest step of a row, in norms of its largest update; >= 1 and finite.

    Raises
    ------
    ConfigError
        If `cap` is outside its range.
    """

    _vector_is_row = True

    def __init__(self, cap: float = 2.0) -> None:
        if isinstance(cap, bool) or not isinstance(cap, int | float) or not 1 <= cap < math.inf:
            raise ConfigError(f"RowTrustRegion: cap is {cap!r}; expected a finite number >= 1")
        self.cap = float(cap)

    def _rows(self, pieces: Sequence[_Piece], out: NDArray[Any]) -> None:
        super()._rows(pieces, out)
        largest = np.zeros(len(out))
        for piece in pieces:
            place = slice(None) if piece.place is None else piece.place
            norms = _dots(piece.values, piece.values, out.dtype)
            largest[place] = np.maximum(largest[place], norms)
        norms = _dots(out, out, out.dtype)
        far = np.flatnonzero((norms > self.cap**2 * largest) & (largest > 0))
        scale = self.cap * np.sqrt(largest[far] / norms[far])
        out[far] *= scale.astype(out.dtype)[:, None]


class Adasum(Merge):
    """Combine pairs, row by row, so that what two updates share counts once.

    ``(1 - g1.g2 / (2 ||g1||^2)) g1 + (1 - g1.g2 / (2 ||g2||^2)) g2`` [1]_: the sum of
    orthogonal rows, the mean of equal ones, nothing for opposite ones; a row that is in
    one of the two only passes unchanged. [1]_ combines the gradients of a layer; taking
    each word's row by itself is in the spirit of GraphWord2Vec's model combiners [2]_.
    Neighbours are paired along a binary tree, an odd one goes up as it is, so the order of
    the updates matters. An array of one or no dimension is one row.

    References
    ----------
    .. [1] S. Maleki et al., "Scaling distributed training with adaptive summation",
       arXiv:2006.02924, 2020.
    .. [2] G. Gill et al., "Distributed Word2Vec using graph analytics frameworks",
       arXiv:1909.03359, 2019.
    """

    _vector_is_row = True

    def _rows(self, pieces: Sequence[_Piece], out: NDArray[Any]) -> None:
        level = [np.zeros_like(out) for _ in pieces]
        for rows, piece in zip(level, pieces, strict=True):
            rows[slice(None) if piece.place is None else piece.place] = piece.values
        while len(level) > 1:
            for i in range(0, len(level) - 1, 2):
                _combine(level[i], level[i + 1])
            level = level[::2]
        out[...] = level[0]


def parse_merge(text: str) -> Merge:
    """Read a policy from the command line's form ``name[:number]``.

    Parameters
    ----------
    text : str
        ``sum``, ``mean``, ``touched-mean``, ``trust``, ``trust:2.0`` or ``adasum``.

    Raises
    ------
    ConfigError
        If the text is none of these.
    """
    name, colon, option = text.partition(":")
    if name in _NAMES and not colon:
        return _NAMES[name]()
    if name == "trust":
        try:
            return RowTrustRegion(float(option))
        except ValueError as error:
            raise ConfigError(f"merge policy {text!r}: {error}") from None
    raise ConfigError(
        f"unknown merge policy {text!r}; expected sum, mean, touched-mean, trust[:CAP] or adasum"
    )


_SUM = Sum()
_NAMES: dict[str, type[Merge]] = {"sum": Sum, "mean": Mean, "touched-mean": TouchedMean}
_NAMES |= {"trust": RowTrustRegion, "adasum": Adasum}


def _by_blocks(
    rule: Merge, arrays: list[Any], union: NDArray[Any] | None, out: NDArray[Any]
) -> None:
    """Merge arrays into `out`, shape (rows of the result, elements of a row)."""
    n_rows, width = out.shape
    step = max(1, _BLOCK // width)
    starts = np.arange(0, n_rows + step, step)
    parts: list[tuple[Any, NDArray[Any], NDArray[Any]]] = []
    for array in arrays:
        if isinstance(array, RowSparse):
            values = array.values.reshape(len(array.rows), width)
            rows = array.rows.astype(np.intp)
            place = rows if union is None else _places(rows, union, len(array))
            parts.append((place, np.searchsorted(place, starts), values))
        else:
            parts.append((None, starts, array.reshape(n_rows, width)))
    for block, start in enumerate(starts[:-1]):
        stop = min(start + step, n_rows)
        pieces = []
        for place, bounds, values in parts:
            first, last = bounds[block], bounds[block + 1]
            dense = place is None or last - first == stop - start
            here = None if dense else place[first:last] - start
            pieces.append(_Piece(here, _real(values[first:last], out.dtype), place is not None))
        rule._rows(pieces, _real(out[start:stop], out.dtype))


def _real(rows: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind != "c":
        return rows
    return np.ascontiguousarray(rows, dtype).view(np.finfo(dtype).dtype)


def _union(rows: list[NDArray[Any]], n_rows: int) -> NDArray[Any]:
    """Return the rows that any of the updates has, ascending."""
    if n_rows > 64 * sum(map(len, rows)):
        return union(rows)
    held = np.zeros(n_rows, np.bool_)
    for some in rows:
        held[some] = True
    return np.flatnonzero(held)


def _places(rows: NDArray[Any], union: NDArray[Any], n_rows: int) -> NDArray[np.intp]:
    """Return where in `union` each of `rows` is."""
    if len(rows) == len(union):
        return np.arange(len(union))
    if n_rows > 64 * len(union):
        return np.searchsorted(union, rows)
    places = np.empty(n_rows, np.intp)
    places[union] = np.arange(len(union))
    return places.take(rows)


def _vector(array: Any, union: NDArray[Any] | None, out: NDArray[Any]) -> Any:
    if not isinstance(array, RowSparse):
        return array
    vector = np.zeros_like(out)
    vector[array.rows if union is None else np.searchsorted(union, array.rows)] = array.values
    return vector


def _combine(g1: NDArray[Any], g2: NDArray[Any]) -> None:
    """Put Adasum of two blocks of rows into the first; the second is used up."""
    dots = _dots(g1, g2, g1.dtype)
    for g in (g1, g2):
        norms = _dots(g, g, g.dtype)
        share = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
        g *= (1 - share / 2).astype(g.dtype)[:, None]
    g1 += g2


def _dots(a: NDArray[Any], b: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the scalar products of the rows, as float64, shape (n,)."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        dots: NDArray[Any] = np.einsum("ij,ij->i", a, b, dtype=dtype).astype(np.float64)
        if dtype == np.float32:  # squares may leave its range
            sizes = np.abs(dots)
            odd = np.flatnonzero(~(sizes < math.inf) | ((sizes > 0) & (sizes < 1e-30)))
            dots[odd] = np.einsum("ij,ij->i", a[odd], b[odd], dtype=np.float64)
    return dots


def _different(path: str, leaves: list[Any]) -> UpdateError:
    forms = list(dict.fromkeys(map(_spoken, leaves)))[:3]
    return UpdateError(
        f"{path} cannot be merged: got {', '.join(forms)}; expected in all updates a dict, a list "
        "of one length, RowSparse, arrays or numbers of one shape, or the same string"
    )


def _spoken(leaf: Any) -> str:
    name = type(leaf).__name__
    if isinstance(leaf, (RowSparse, np.ndarray)):
        return f"{name} {leaf.dtype} {leaf.shape}"
    if isinstance(leaf, (list, tuple)):
        return f"{name} of {len(leaf)}"
    return repr(leaf)[:40] if isinstance(leaf, str) else name
