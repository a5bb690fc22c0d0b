"""What can be asked of a tree, or done to it, leaf by leaf."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from zmqdist.wire.rows import RowSparse


def walk(tree: Any, root: str = "update") -> Iterator[tuple[str, Any]]:
    """Yield each leaf with its path, which reads as Python: ``update['syn0'][3]``."""
    if is_dict(tree):
        for key, value in tree.items():
            yield from walk(value, f"{root}[{key!r}]")
    elif isinstance(tree, (list, tuple)):
        for i, value in enumerate(tree):
            yield from walk(value, f"{root}[{i}]")
    else:
        yield root, tree


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Build the same tree with ``function(leaf)`` in place of each leaf."""
    if is_dict(tree):
        return {key: map_leaves(function, value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        values = [map_leaves(function, value) for value in tree]
        if isinstance(tree, list):
            return values
        return type(tree)._make(values) if hasattr(tree, "_make") else tuple(values)
    return function(tree)


def scale_tree(tree: Any, factor: float) -> Any:
    """Multiply every float and complex leaf by `factor`, keeping dtypes.

    Integers, booleans (arrays of them too), strings and None are left as they
    are: they count or name something and are no gradients.
    """
    factor = float(factor)

    def scale(leaf: Any) -> Any:
        if isinstance(leaf, (float, complex)) and not isinstance(leaf, np.generic):
            return leaf * factor
        if getattr(getattr(leaf, "dtype", None), "kind", "") not in ("f", "c"):
            return leaf
        scaled = leaf * factor
        if isinstance(leaf, np.ndarray):
            return np.asarray(scaled, dtype=leaf.dtype)
        return scaled if scaled.dtype == leaf.dtype else scaled.astype(leaf.dtype)

    return map_leaves(scale, tree)


def tree_norm(tree: Any) -> float:
    """Return the L2 norm of all floats and complex numbers of a tree together.

    Integers, booleans, strings and None do not count, as `scale_tree` leaves them alone.
    """
    norms = [0.0]
    for _, leaf in walk(tree):
        if isinstance(leaf, RowSparse):
            values = leaf.values
        elif is_scipy(leaf):
            values = leaf.tocoo().data
        else:
            values = np.asarray(leaf) if isinstance(leaf, (float, complex)) else leaf
        if getattr(getattr(values, "dtype", None), "kind", "") in ("f", "c"):
            largest = float(np.abs(values).max(initial=0.0))
            if largest:  # squares of the largest floats are none
                norms.append(largest * float(np.linalg.norm(values / np.float64(largest))))
    return math.hypot(*norms)


def first_nonfinite(tree: Any) -> str | None:
    """Path of the first leaf that holds a NaN or an infinity; None if all are finite."""
    return next((path for path, leaf in walk(tree) if not _finite(leaf)), None)


def _finite(leaf: Any) -> bool:
    if is_scipy(leaf):
        leaf = (leaf if hasattr(leaf, "indptr") or leaf.format == "coo" else leaf.tocoo()).data
    elif isinstance(leaf, RowSparse):
        leaf = leaf.values
    if isinstance(leaf, (float, complex)):
        return math.isfinite(leaf.real) and math.isfinite(leaf.imag)
    if not isinstance(leaf, (np.ndarray, np.generic)) or leaf.dtype.kind not in "fc":
        return True
    if isinstance(leaf, np.ndarray) and leaf.flags.c_contiguous and leaf.dtype.isnative:
        flat = leaf.reshape(-1)
        if flat.dtype.kind == "c":
            flat = flat.view(flat.real.dtype)
        # A dot product is finite only if every element is, and BLAS makes no temporary.
        if flat.dtype.itemsize >= 4:
            with np.errstate(all="ignore"):
                if math.isfinite(np.dot(flat, flat)):
                    return True
    return bool(np.isfinite(leaf).all())


def is_scipy(leaf: Any) -> bool:
    """Whether a leaf is one of scipy's sparse matrices or arrays."""
    # Whoever holds a scipy matrix has imported scipy: looking is enough.
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and bool(sparse.issparse(leaf))


def is_dict(tree: Any) -> bool:
    """Whether a node is a dict of further nodes."""
    # scipy's dok_matrix is a dict too.
    return isinstance(tree, dict) and not is_scipy(tree)
