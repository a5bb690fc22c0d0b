"""Gradients of a batch in two halves, from which the noise of the gradient is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from zmqdist.errors import ConfigError
from zmqdist.merge import Mean, Sum
from zmqdist.models.update import Update, as_update
from zmqdist.wire.leaves import is_scipy, scale_tree, walk
from zmqdist.wire.rows import RowSparse


class InHalves:
    """A gradient that computes each batch as two halves; `in_halves` makes it."""

    def __init__(self, gradient: Callable[[Any, Any], Any], merge: str) -> None:
        if merge not in ("mean", "sum"):
            raise ConfigError(f"in_halves: merge is {merge!r}; expected 'mean' or 'sum'")
        self.gradient = gradient
        self.merge = merge

    def __call__(self, model: Any, batch: Any) -> Any:
        """Return the update of the batch, with what its two halves say about the noise."""
        if not hasattr(batch, "__len__"):
            raise ConfigError(
                "in_halves is for gradients that get a list: give train() batch_size="
            )
        middle = len(batch) // 2
        if not middle:
            return self.gradient(model, batch)
        parts = batch[:middle], batch[middle:]
        updates = [as_update(self.gradient(model, part)) for part in parts]
        if any(update.empty for update in updates):
            return next((update for update in updates if not update.empty), None)
        first, second = (update.arrays for update in updates)
        dot = inner(first, second)
        sq = max(0.0, inner(first, first) + inner(second, second) - 2 * dot) / 4
        if self.merge == "mean":
            share = 2 * middle / len(batch)
            merged = Mean().merge([scale_tree(first, share), scale_tree(second, 2 - share)])
        else:
            merged = Sum().merge([first, second])
        both = zip(updates, parts, strict=True)
        counts = [len(p) if u.examples is None else u.examples for u, p in both]
        return Update(merged, examples=sum(counts), metrics=_means(updates), halves=(dot, sq))


def in_halves(gradient: Callable[[Any, Any], Any], merge: str = "mean") -> InHalves:
    """Wrap a gradient so that the noise of its updates can be measured.

    `zmqdist.staleness.Ringmaster` and ``staleness="auto"`` choose their bound by it. The
    gradient is called twice for each batch, with one half each, which costs what its
    vectorised code loses on shorter batches.

    Parameters
    ----------
    gradient : callable (model, batch) -> update
        For lists (`train` with ``batch_size``). Its update is the mean of something over
        the batch, or the sum.
    merge : {"mean", "sum"}, default="mean"
        Which of the two: how the updates of the halves become that of the batch.

    Returns
    -------
    InHalves
        A gradient with the same updates, up to rounding. With batches of odd length the
        measured noise is slightly off.

    Raises
    ------
    ConfigError
        If `merge` is neither.
    """
    return InHalves(gradient, merge)


def inner(first: Any, second: Any) -> float:
    """Return the inner product of two trees' floats; what only one of them has counts 0."""
    others = dict(walk(second))
    return sum(_product(leaf, others[path]) for path, leaf in walk(first) if path in others)


def _product(a: Any, b: Any) -> float:
    if is_scipy(a):
        return float(a.multiply(b).sum())
    if is_scipy(b):
        return _product(b, a)
    if isinstance(a, RowSparse) and isinstance(b, RowSparse):
        _, mine, theirs = np.intersect1d(a.rows, b.rows, assume_unique=True, return_indices=True)
        return _product(a.values[mine], b.values[theirs])
    if isinstance(a, RowSparse):
        return _product(a.values, np.asarray(b)[a.rows])
    if isinstance(b, RowSparse):
        return _product(b, a)
    if not all(isinstance(x, (float, np.ndarray, np.floating)) for x in (a, b)):
        return 0.0
    left, right = np.asarray(a), np.asarray(b)
    if left.dtype.kind != "f" or left.shape != right.shape:
        return 0.0
    return float(np.vdot(left.astype(float, copy=False), right.astype(float, copy=False)))


def _means(updates: list[Update]) -> Mapping[str, float]:
    names = {name for update in updates for name in update.metrics}
    return {
        name: sum(values) / len(values)
        for name in sorted(names)
        if (values := [u.metrics[name] for u in updates if name in u.metrics])
    }
