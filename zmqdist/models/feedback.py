"""Error feedback: what a lossy codec cuts off one update goes with the next.

A worker that wants to send g sends C(p) with p = g + e, and keeps e = p - C(p) (Seide et
al. 2014, "1-bit stochastic gradient descent"; Karimireddy et al. 2019, "Error feedback
fixes SignSGD"). An update that the master does not apply gives back the residual that
went into it, by e += C(p) - g: its own gradient is dropped or computed anew, as the policy
says, and what earlier updates are still owed is not lost with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqdist.wire.leaves import is_dict
from zmqdist.wire.lossy import Rounding
from zmqdist.wire.rows import RowSparse

_Place = tuple[Any, ...]  # path in the tree, shape, dtype
_Owed = tuple[_Place, NDArray[np.intp] | None, NDArray[Any]]  # where, rows, C(p) - g


class Feedback:
    """The residuals of one worker, and what to give back to them.

    Float32 and float64 arrays and `RowSparse` are rounded, each with a residual of its
    shape (of a `RowSparse`, memory is taken for the rows that were touched). Integers,
    counts, numbers (also as arrays of no dimension) and scipy matrices pass as they are.

    Parameters
    ----------
    rounding : Rounding
    """

    def __init__(self, rounding: Rounding) -> None:
        self._rounding = rounding
        self._rest: dict[_Place, NDArray[Any]] = {}
        self._under_way: dict[int, list[_Owed]] = {}

    def round(self, step: int, update: Any) -> Any:
        """Return what to send for an update, sent as this step."""
        owed: list[_Owed] = []
        rounded = self._walk(update, (), owed)
        self._under_way[step] = owed
        return rounded

    def settle(self, step: int, *, applied: bool) -> None:
        """Note whether the master applied what was sent as this step."""
        for place, rows, difference in self._under_way.pop(step, ()):
            if not applied:
                self._rest[place][... if rows is None else rows] += difference

    def _walk(self, tree: Any, path: tuple[Any, ...], owed: list[_Owed]) -> Any:
        if is_dict(tree):
            return {key: self._walk(part, (*path, key), owed) for key, part in tree.items()}
        if isinstance(tree, (list, tuple)):
            parts = [self._walk(part, (*path, at), owed) for at, part in enumerate(tree)]
            return parts if isinstance(tree, list) else tuple(parts)
        rows = tree.rows.astype(np.intp) if isinstance(tree, RowSparse) else None
        values = tree.values if isinstance(tree, RowSparse) else tree
        if type(values) is not np.ndarray or values.dtype.kind != "f" or values.itemsize < 4:
            return tree
        if not values.ndim:
            return tree  # numpy computes scalars with these, and there is nothing to save
        place = (path, tree.shape, values.dtype.str)
        rounded = self._round(place, rows, values, owed)
        return self._rounding.leaf(
            rounded if rows is None else RowSparse(tree.rows, rounded, tree.shape)
        )

    def _round(
        self, place: _Place, rows: NDArray[np.intp] | None, values: NDArray[Any], owed: list[_Owed]
    ) -> NDArray[Any]:
        if place not in self._rest:
            self._rest[place] = np.zeros(place[1], values.dtype)
        rest = self._rest[place]
        at = ... if rows is None else rows
        wanted = values + rest[at]
        rounded = self._rounding.round(wanted)
        with np.errstate(invalid="ignore"):
            rest[at] = _finite(wanted - rounded)
            owed.append((place, rows, _finite(rounded - values)))
        return rounded

    def residual(self) -> dict[tuple[Any, ...], NDArray[Any]]:
        """Return the residuals by their path in the update; not copies."""
        return {place[0]: rest for place, rest in self._rest.items()}


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    """Clear what is no number: the master refuses such an update, and the next goes on."""
    values[~np.isfinite(values)] = 0
    return values
