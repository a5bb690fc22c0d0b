"""Merging without a buffer: an update is weighed, row by row, as it arrives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqdist.wire.rows import RowSparse


@dataclass
class _Recent:
    """What was applied to the rows of one array of late."""

    sums: NDArray[np.float32]
    longest: NDArray[np.float32]
    version: NDArray[np.int64]


class RowDamping:
    """A trust region for each row over what an update could not know.

    Workers that compute at the same time push a frequent row the same way, each as far
    as it alone should go. For each row that an update moves by ``d``, with ``S`` the sum
    of the recent changes and of ``d``, and ``m`` the longest of them, the row is moved by
    ``d * min(1, cap * m / ||S||)``: rows that all pull the same way move as `cap` of
    them would, rows that differ or that nobody else touched move freely.

    Recent means not yet seen by the worker: a change that lies ``k`` versions back
    counts ``(1 - 1 / (tau + 1)) ** k``, where tau is the staleness of the update. A
    worker alone (tau = 0) is never damped.

    Parameters
    ----------
    cap : float
        See above; > 0.

    Notes
    -----
    The form that needs no buffer of `zmqdist.merge.RowTrustRegion`, where S is the sum
    over the updates of one flush. Keeps, for each array it has seen, one array of the
    same size and two numbers for each row.
    """

    def __init__(self, cap: float) -> None:
        self.cap = cap
        self._recent: dict[str, _Recent] = {}

    def damp(self, update: Any, version: int, tau: int) -> Any:
        """Return the update with its floating point rows weighed.

        Parameters
        ----------
        update : tree
            A dict is weighed entry by entry; anything else is returned as it is, and
            so are entries that are no arrays of floats.
        version : int
            The model's version now.
        tau : int
            The update's staleness.
        """
        if not isinstance(update, Mapping):
            return update
        return {name: self._entry(name, d, version, tau) for name, d in update.items()}

    def state(self) -> dict[str, Any]:
        """Return what is kept of each array, as a tree of arrays."""
        return {
            name: {"sums": r.sums, "longest": r.longest, "version": r.version}
            for name, r in self._recent.items()
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned; the arrays are taken over."""
        self._recent = {name: _Recent(**kept) for name, kept in state.items()}

    def _entry(self, name: str, change: Any, version: int, tau: int) -> Any:
        if not isinstance(change, (RowSparse, np.ndarray)) or change.dtype.kind != "f":
            return change
        if isinstance(change, RowSparse):
            values = self._values(name, change.shape, change.rows, change.values, version, tau)
            return RowSparse(change.rows, values, change.shape)
        table = change.reshape(1, -1) if change.ndim < 2 else change
        rows = np.arange(len(table))
        return self._values(name, table.shape, rows, table, version, tau).reshape(change.shape)

    def _values(
        self,
        name: str,
        shape: tuple[int, ...],
        rows: NDArray[Any],
        values: NDArray[Any],
        version: int,
        tau: int,
    ) -> NDArray[Any]:
        recent = self._recent.get(name)
        width = int(np.prod(shape[1:]))
        if recent is None or recent.sums.shape != (shape[0], width):
            recent = self._recent[name] = _Recent(
                np.zeros((shape[0], width), np.float32),
                np.zeros(shape[0], np.float32),
                np.zeros(shape[0], np.int64),
            )
        fade = np.float32(1 - 1 / (tau + 1)) ** (version - recent.version[rows])
        with np.errstate(over="ignore"):  # what is kept ends at the largest float32
            flat = values.reshape(len(rows), width).astype(np.float32, copy=False)
            sums = recent.sums[rows]
            sums *= fade[:, None]
            sums += flat
        np.clip(sums, -_LARGEST, _LARGEST, out=sums)
        longest = np.maximum(recent.longest[rows] * fade, _norms(flat)).clip(max=_LARGEST)
        norms = _norms(sums)
        weights = np.divide(self.cap * longest, norms, out=np.ones_like(norms), where=norms > 0)
        np.minimum(weights, 1, out=weights)
        recent.sums[rows], recent.longest[rows], recent.version[rows] = sums, longest, version
        damped: NDArray[Any] = (values.reshape(flat.shape) * weights[:, None]).reshape(values.shape)
        return damped


_LARGEST = np.finfo(np.float32).max


def _norms(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the norms of rows, also where squares leave the range of float32."""
    with np.errstate(over="ignore"):
        norms: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", rows, rows), dtype=np.float64)
    large = np.flatnonzero(np.isinf(norms))
    wide = rows[large].astype(np.float64)
    norms[large] = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    return norms
