"""A worker's own progress: a model that is trained in place and runs ahead of the master.

The worker's model is ``known + unsent``: what it knows of the master's model, its own
updates under way included, and what it has learned since and not said. An exchange
sends the unsent part of some rows and takes in the master's newest values of some
rows, without losing the rest:

* `take` cuts the change out of the unsent part (``known += change``);
* `rebase` moves ``known`` to the master's values plus the updates that these do not
  hold yet, and the model by as much.

Rounding is harmless here: what a coarser number format cuts off a change stays in the
unsent part and goes with the next (error feedback).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqdist.models.base import Parameters
from zmqdist.models.changes import changed_rows, place
from zmqdist.wire.bitround import bitround
from zmqdist.wire.rows import RowSparse, blocks, occupied_rows

Rows = NDArray[np.intp]


class Progress:
    """Tracks what a worker has learned and not sent.

    Parameters
    ----------
    parameters : Parameters
        The worker's model. Arrays of fewer than two dimensions count as one row; arrays of
        bools, which do not add up, go from the master to the worker only.
    known : dict of str to ndarray
        A version of the master's arrays, the same as the model's now; changed in place.
    keep_bits : int or None, default=None
        Round changes to so many bits of mantissa before they are sent.
    """

    def __init__(
        self,
        parameters: Parameters,
        known: dict[str, NDArray[Any]],
        keep_bits: int | None = None,
    ) -> None:
        self._parameters = parameters
        self._known = known
        self._keep_bits = keep_bits
        self._under_way: dict[int, dict[str, RowSparse]] = {}
        self._remainders: dict[str, NDArray[Any]] = {}

    def take(
        self,
        rows: Mapping[str, Rows] | None,
        step: int,
        *,
        settled: bool = False,
        last: bool = False,
    ) -> dict[str, RowSparse]:
        """Return the change of some rows, to be sent; it counts as known from here on.

        Parameters
        ----------
        rows : mapping of str to ndarray of int, or None for all rows
            Arrays that are not named are left out, and so are rows without a change. Of
            all rows those wait that hold no more than what rounding left the last time.
        step : int
            The step that it is sent as.
        settled : bool, default=False
            The master has this change from an earlier attempt, or will say so: it is
            not sent, and the model goes back to what is known.
        last : bool, default=False
            Send the remainders too: nothing comes after this.
        """
        update: dict[str, RowSparse] = {}
        for name, live in self._live().items():
            known = _as_row(self._known[name])
            if (rows is not None and name not in rows) or live.dtype.kind == "b":
                continue
            wanted = changed_rows(known, live) if rows is None else rows[name]
            whole = None if rows is not None else last
            change = RowSparse(*self._cut(name, wanted, live, known, whole, settled), live.shape)
            if len(change.rows):
                update[name] = change
        if not settled:
            self._under_way[step] = update
        return update

    def _cut(
        self,
        name: str,
        wanted: Rows,
        live: NDArray[Any],
        known: NDArray[Any],
        last: bool | None,
        settled: bool,
    ) -> tuple[Rows, NDArray[Any]]:
        """Cut the change of the wanted rows out of the unsent part: those that have one.

        `last` is None for rows that were named. If it is true, all have one, and what
        rounding leaves is not asked for any more.
        """
        rows, values = wanted.copy(), np.empty((len(wanted), *live.shape[1:]), live.dtype)
        count = 0
        for _, some in blocks(wanted, live):
            held, change = known.take(some, axis=0), live.take(some, axis=0)
            change -= held
            if self._keep_bits is not None and change.dtype.kind == "f":
                if last:
                    change = bitround(change, self._keep_bits)
                else:
                    change = self._rounded(name, some, change, len(live), choose=last is False)
            if not last and not (moved := occupied_rows(change)).all():
                some, held, change = some[moved], held[moved], change[moved]
            if settled:
                live[some] -= change
            else:
                held += change
                known[some] = held
            end = count + len(some)
            rows[count:end], values[count:end] = some, change
            count = end
        return rows[:count], values[:count]

    def _rounded(
        self, name: str, rows: Rows, change: NDArray[Any], n_rows: int, *, choose: bool
    ) -> NDArray[Any]:
        """Round a change; of all rows those become zero that hold a remainder only."""
        keep_bits = self._keep_bits or 0
        if name not in self._remainders:
            self._remainders[name] = np.zeros(n_rows)
        remainders = self._remainders[name]
        rounded = bitround(change, keep_bits)
        left = _sizes(rounded) * 0.5 ** (keep_bits + 1)
        if choose:
            waits = _sizes(change) <= remainders[rows]
            rounded[waits], left[waits] = 0, remainders[rows[waits]]
        remainders[rows] = left
        return rounded

    def plain(self, update: dict[str, RowSparse]) -> dict[str, RowSparse | NDArray[Any]]:
        """Return a change in the shapes of the parameters, ready to be sent."""
        shapes = {name: array.shape for name, array in self._parameters.arrays().items()}
        return {
            name: change if len(shapes[name]) >= 2 else change.values.reshape(shapes[name])
            for name, change in update.items()
        }

    def rebase(self, values: Mapping[str, RowSparse | NDArray[Any]], held: Iterable[int]) -> None:
        """Take in the master's values of some rows, keeping the unsent part on top.

        Parameters
        ----------
        values : mapping of str to RowSparse or ndarray
            Values, not changes.
        held : iterable of int
            Steps that these values and all later ones hold; other steps are under way.
        """
        for step in held:
            self._under_way.pop(step, None)
        live = self._live()
        for name, part in values.items():
            known = _as_row(self._known[name])
            if isinstance(part, RowSparse):
                rows, fresh = part.rows, part.values
            else:
                rows, fresh = np.arange(len(known)), _as_row(part)
            own = [update[name] for update in self._under_way.values() if name in update]
            if own or fresh.dtype != known.dtype:
                fresh = fresh.astype(known.dtype, copy=True)
            for update in own:
                _add_common(fresh, rows, update)
            # In this order a row without progress of its own comes out equal to the last bit
            where = place(rows)
            if live[name].dtype.kind == "b":
                known[where] = live[name][where] = fresh
                continue
            unsent = live[name][where] - known[where]
            known[where] = fresh
            live[name][where] = np.add(fresh, unsent, out=unsent)

    def _live(self) -> dict[str, NDArray[Any]]:
        """Return the model's arrays, writable, as rows."""
        live = self._parameters.arrays()
        return {name: _as_row(self._parameters.writable(name, live[name])) for name in live}


def _sizes(rows: NDArray[Any]) -> NDArray[Any]:
    """Return the largest absolute value of each row."""
    sizes: NDArray[Any] = np.abs(rows).max(axis=tuple(range(1, rows.ndim)), initial=0)
    return sizes


def _add_common(values: NDArray[Any], rows: NDArray[Any], other: RowSparse) -> None:
    """Add the rows of `other` to those of `values` that have the same numbers (sorted)."""
    if np.array_equal(rows, other.rows):  # a tier, and what was sent of it
        values += other.values
        return
    _, here, there = np.intersect1d(rows, other.rows, assume_unique=True, return_indices=True)
    values[here] += other.values[there]


def _as_row(array: NDArray[Any]) -> NDArray[Any]:
    return array if array.ndim >= 2 else array.reshape(1, -1)
