"""The published snapshot: a copy of the parameters that knows when each row changed.

The master's model changes with every update; workers get snapshots of it. The copy
kept here is the newest of them, bit for bit what a worker of that version holds, and
the version stamp on each row answers "what changed since version v" exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqdist.models.base import Parameters, Scalar, Schema
from zmqdist.models.changes import changed_rows
from zmqdist.wire.rows import RowSparse

MOSTLY = 0.7
"""Part of an array's rows from which on the whole array is sent without row numbers."""


@dataclass
class _Kept:
    """One array of the snapshot; arrays of fewer than two dimensions are stamped whole."""

    values: NDArray[Any]
    stamps: NDArray[np.int64]

    @property
    def by_rows(self) -> bool:
        return self.values.ndim >= 2


@dataclass
class Snapshot:
    """Copy of `parameters` as of `version`.

    Attributes
    ----------
    version : int
        Version of the copy; -1 before the first `take`.
    """

    parameters: Parameters
    version: int = -1
    _arrays: dict[str, _Kept] = field(default_factory=dict)
    _scalars: dict[str, Scalar] = field(default_factory=dict)

    def take(self, version: int) -> dict[str, Any]:
        """Copy what changed since the last call; return it as the tree to broadcast.

        Parameters
        ----------
        version : int
            The model's version now, larger than that of the last call.
        """
        changes: dict[str, Any] = {}
        for name, live in self.parameters.arrays().items():
            kept = self._arrays.get(name)
            if kept is None:
                rows = live.shape[0] if live.ndim >= 2 else 1
                kept = _Kept(live.copy(order="C"), np.full(rows, version, np.int64))
                self._arrays[name] = kept
                changes[name] = kept.values
                continue
            changed = changed_rows(kept.values, live)
            if not len(changed):
                continue
            if kept.by_rows:
                kept.values[changed] = live[changed]
                kept.stamps[changed] = version
                changes[name] = _part(kept.values, changed)
            else:
                np.copyto(kept.values, live)
                kept.stamps[:] = version
                changes[name] = kept.values
        self._scalars = self.parameters.scalars()
        self.version = version
        return self._tree(changes)

    def since(self, have: int) -> dict[str, Any]:
        """Return the tree of everything that changed after version `have` (-1: all)."""
        changes: dict[str, Any] = {}
        for name, kept in self._arrays.items():
            changed = np.flatnonzero(kept.stamps > have)
            if len(changed):
                changes[name] = _part(kept.values, changed) if kept.by_rows else kept.values
        return self._tree(changes)

    def _tree(self, changes: dict[str, Any]) -> dict[str, Any]:
        return {"arrays": changes, "scalars": self._scalars}


def _part(values: NDArray[Any], rows: NDArray[np.intp]) -> Any:
    if len(rows) > MOSTLY * values.shape[0]:
        return values
    return RowSparse(rows, values[rows], values.shape)


class Replica:
    """A worker's copy of the newest snapshot it received.

    Parameters
    ----------
    schema : dict of str to (dtype, shape)
        The arrays it holds.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.arrays = {name: np.zeros(shape, dtype) for name, (dtype, shape) in schema.items()}
        self.scalars: dict[str, Scalar] = {}
        self.version = -1
        nbytes = sum(array.nbytes for array in self.arrays.values())
        self.max_bytes = 2 * nbytes + (1 << 20)  # rows and their numbers, at the most

    def load(self, version: int, tree: dict[str, Any]) -> None:
        """Take in what `Snapshot.take` or `Snapshot.since` returned.

        Raises
        ------
        KeyError, ValueError, TypeError
            The tree does not fit the schema.
        """
        for name, part in tree["arrays"].items():
            target = self.arrays[name]
            if part.shape != target.shape or part.dtype != target.dtype:
                raise ValueError(
                    f"version {version}: {name} is {part.dtype} {part.shape}; "
                    f"expected {target.dtype} {target.shape}"
                )
            if isinstance(part, RowSparse):
                target[part.rows] = part.values
            else:
                np.copyto(target, part)
        self.scalars.update(tree["scalars"])
        self.version = version
