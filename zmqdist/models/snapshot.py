"""The published snapshot: a copy of the parameters that knows when each row changed.

The master's model changes with every update; workers get snapshots of it. The copy
kept here is the newest of them, bit for bit what a worker of that version holds, and
the version stamp on each row answers "what changed since version v" exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqdist.models.base import Parameters, Scalar, Schema
from zmqdist.models.changes import changed_rows, differ, place
from zmqdist.models.versions import Versions
from zmqdist.wire.bitround import bitround
from zmqdist.wire.rows import RowSparse, canonical_rows, row_dtype, union

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
    versions : Versions or None
        Remembers what earlier copies were, if a policy needs that.
    """

    parameters: Parameters
    version: int = -1
    versions: Versions | None = None
    _touched: dict[str, list[NDArray[np.integer]]] = field(default_factory=dict)
    _compare: set[str] = field(default_factory=set)
    _compare_all: bool = True
    _arrays: dict[str, _Kept] = field(default_factory=dict)
    _scalars: dict[str, tuple[Scalar, int]] = field(default_factory=dict)  # value, stamp

    def touched(self, update: Any, *, only: bool) -> None:
        """Note that an update was applied.

        The rows of its `RowSparse` entries count as changed even if their bits come out
        as they were: a worker that trains in place holds its own changes and waits to
        hear what became of them.

        Parameters
        ----------
        update : tree
        only : bool
            No other rows can have changed; else `take` compares all.
        """
        self._compare_all |= not only
        for name, change in update.items() if isinstance(update, dict) else ():
            kept = self._arrays.get(name)
            if kept is None:
                continue
            if isinstance(change, RowSparse) and change.shape == kept.values.shape:
                self._touched.setdefault(name, []).append(change.rows)
            elif kept.by_rows:
                self._compare.add(name)
            else:
                self._touched[name] = [np.zeros(1, np.intp)]
        self._compare_all |= not isinstance(update, dict)

    def differs(self) -> bool:
        """Whether the model is not what was taken of it, to the bit."""
        arrays, scalars = self.parameters.arrays(), self.parameters.scalars()
        held = {name: scalar for name, (scalar, _) in self._scalars.items()}
        if repr(held) != repr(scalars):  # as text a NaN is equal to itself
            return True
        return any(differ(kept.values, arrays[name]) for name, kept in self._arrays.items())

    def take(self, version: int, workers: int = 0) -> dict[str, Any]:
        """Copy what changed since the last call; return it as the tree to broadcast.

        Parameters
        ----------
        version : int
            The model's version now, larger than that of the last call.
        workers : int, default=0
            How many there are: as far back as they need it, versions are remembered.
        """
        changes: dict[str, Any] = {}
        memory = self.versions
        if memory is not None:
            memory.publishing(version, workers)
        for name, live in self.parameters.arrays().items():
            kept = self._arrays.get(name)
            if kept is None:
                rows = live.shape[0] if live.ndim >= 2 else 1
                kept = _Kept(live.copy(order="C"), np.full(rows, version, np.int64))
                self._arrays[name] = kept
                changes[name] = kept.values
                if memory is not None:
                    memory.holds(name, kept.values)
                continue
            changed = self._changed(name, kept, live)
            if not len(changed):
                continue
            if memory is not None:
                part = kept.by_rows and len(changed) < len(kept.stamps)
                memory.changes(name, changed if part else None)
            kept.stamps[changed] = version
            if kept.by_rows and not _mostly(changed, live):
                rows = live.take(changed, axis=0)
                kept.values[changed] = rows
                changes[name] = RowSparse(changed, rows, live.shape)
            else:
                np.copyto(kept.values, live)
                changes[name] = kept.values
        if memory is not None:
            memory.published(version)
        for name, scalar in self.parameters.scalars().items():
            held = self._scalars.get(name)
            if held is None or held[0] != scalar:  # a NaN counts as changed each time
                self._scalars[name] = scalar, version
        before, self.version = self.version, version
        self._touched, self._compare, self._compare_all = {}, set(), False
        return self._tree(changes, before)

    def since(
        self,
        have: int,
        rows: Mapping[str, NDArray[np.integer]] | None = None,
        keep_bits: int = 0,
    ) -> dict[str, Any]:
        """Return the tree of what changed after version `have` (-1: all).

        Parameters
        ----------
        have : int
        rows : mapping of str to ndarray of int, optional
            Look at these rows of these arrays only; numbers that are not rows of the
            array are passed over.
        keep_bits : int, default=0
            Round values to so many bits of mantissa; 0 for all.
        """
        changes: dict[str, Any] = {}
        for name, kept in self._arrays.items():
            if rows is None:
                changed = np.flatnonzero(kept.stamps > have)
            elif name in rows:
                wanted = rows[name]
                if not canonical_rows(wanted, len(kept.stamps)):
                    wanted = union([wanted])
                    wanted = wanted[(wanted >= 0) & (wanted < len(kept.stamps))]
                changed = wanted[kept.stamps[wanted] > have]
            else:
                continue
            if len(changed):
                part = _part(kept.values, changed) if kept.by_rows else kept.values
                changes[name] = _rounded(part, keep_bits)
        return self._tree(changes, have)

    def piece(self, start: int, most_bytes: int) -> tuple[dict[str, Any], int]:
        """Return a piece of the whole, and where the next one begins; 0 after the last.

        Parameters
        ----------
        start : int
            Number of the first row, counted through all arrays; one of fewer than two
            dimensions is one row.
        most_bytes : int
            How much it may hold, unless a single row is more.
        """
        changes: dict[str, Any] = {}
        first, left = 0, most_bytes
        for name, kept in self._arrays.items():
            n_rows = len(kept.stamps)
            begin = max(0, start - first)
            if begin < n_rows:
                row_bytes = max(1, kept.values.nbytes // n_rows)
                if changes and left < row_bytes:
                    return self._tree(changes, self.version), first + begin
                stop = min(n_rows, begin + max(1, left // row_bytes))
                changes[name] = _range(kept.values, begin, stop) if kept.by_rows else kept.values
                left -= (stop - begin) * row_bytes
                if stop < n_rows:
                    return self._tree(changes, self.version), first + stop
            first += n_rows
        return self._tree(changes, -1), 0

    def _changed(self, name: str, kept: _Kept, live: NDArray[Any]) -> NDArray[np.intp]:
        """Return the rows that were touched, and those that differ where any may."""
        parts = [part.astype(np.intp, copy=False) for part in self._touched.get(name, [])]
        compare = self._compare_all or name in self._compare
        if not kept.by_rows:
            changed = bool(parts) or (compare and differ(kept.values, live))
            return np.zeros(int(changed), np.intp)
        if compare:
            parts.append(changed_rows(kept.values, live))
        if len(parts) == 1:
            return parts[0]
        return union(parts) if parts else np.empty(0, np.intp)

    def _tree(self, changes: dict[str, Any], have: int) -> dict[str, Any]:
        scalars = {n: scalar for n, (scalar, stamp) in self._scalars.items() if stamp > have}
        return {"arrays": changes, "scalars": scalars}


def _part(values: NDArray[Any], rows: NDArray[np.intp]) -> Any:
    if _mostly(rows, values):
        return values
    return RowSparse(rows, values.take(rows, axis=0), values.shape)


def _mostly(rows: NDArray[np.intp], values: NDArray[Any]) -> bool:
    return len(rows) > MOSTLY * len(values)


def _range(values: NDArray[Any], begin: int, stop: int) -> Any:
    """Return rows in a row, as a whole array if these are all."""
    if stop - begin == values.shape[0]:
        return values
    return RowSparse(np.arange(begin, stop), values[begin:stop], values.shape)


def _rounded(part: Any, keep_bits: int) -> Any:
    if not keep_bits:
        return part
    if isinstance(part, RowSparse):
        return RowSparse(part.rows, bitround(part.values, keep_bits), part.shape)
    return bitround(part, keep_bits)


def _most_bytes(array: NDArray[Any]) -> int:
    """Return what all rows of an array take at most, with their numbers."""
    numbered = len(array) if array.ndim >= 2 else 0
    return array.nbytes + numbered * row_dtype(numbered).itemsize


class Replica:
    """A worker's copy of the newest snapshot it received.

    Parameters
    ----------
    schema : dict of str to (dtype, shape)
        The arrays it holds.
    arrays : dict of str to ndarray, optional
        Where to hold them. Default: fresh arrays.

    Attributes
    ----------
    version, incarnation : int
        Which version it holds (-1: none), and of which life of the master.
    """

    def __init__(self, schema: Schema, arrays: dict[str, NDArray[Any]] | None = None) -> None:
        self.schema = schema
        if arrays is None:
            arrays = {name: np.zeros(shape, dtype) for name, (dtype, shape) in schema.items()}
        self.arrays = arrays
        self.incarnation = 0
        self.scalars: dict[str, Scalar] = {}
        self.version = -1
        self._news: dict[str, list[NDArray[np.integer]] | None] = {}
        self.max_bytes = sum(map(_most_bytes, arrays.values())) + (1 << 20)

    def load(self, version: int, tree: dict[str, Any]) -> None:
        """Take in what `Snapshot.take` or `Snapshot.since` returned.

        Raises
        ------
        KeyError, ValueError
            As by `check`; nothing of it was taken in.
        """
        self.load_piece(version, tree)
        self.version = version

    def load_piece(self, version: int, tree: dict[str, Any]) -> None:
        """Take in what `Snapshot.piece` returned: after it no version is held.

        Raises
        ------
        KeyError, ValueError
            As by `load`.
        """
        self.check(version, tree)
        self.version = -1
        for name, part in tree["arrays"].items():
            if isinstance(part, RowSparse):
                self.arrays[name][place(part.rows)] = part.values
                self._note(name, part.rows)
            else:
                np.copyto(self.arrays[name], part)
                self._news[name] = None
        self.scalars.update(tree["scalars"])

    def check(self, version: int, tree: dict[str, Any]) -> None:
        """Check a tree for `load`.

        Raises
        ------
        KeyError, ValueError
            It does not fit the schema.
        """
        for name, part in tree["arrays"].items():
            target = self.arrays[name]
            if part.shape != target.shape or part.dtype != target.dtype:
                raise ValueError(
                    f"version {version}: {name} is {part.dtype} {part.shape}; "
                    f"expected {target.dtype} {target.shape}"
                )

    def news(self) -> dict[str, NDArray[np.integer] | None]:
        """Return the rows of each array that came since the last call; None for all of them."""
        news, self._news = self._news, {}
        return {
            name: None if parts is None else parts[0] if len(parts) == 1 else union(parts)
            for name, parts in news.items()
        }

    def _note(self, name: str, rows: NDArray[np.integer]) -> None:
        noted = self._news.setdefault(name, [])
        if noted is not None:
            noted.append(rows)
            if sum(map(len, noted)) > MOSTLY * len(self.arrays[name]):
                self._news[name] = None

    def close(self) -> None:
        """Let go of what is not this worker's alone: nothing."""
