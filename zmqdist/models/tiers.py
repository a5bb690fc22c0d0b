"""Tiers of rows: which rows a worker exchanges often, and which seldom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zmqdist.errors import ConfigError
from zmqdist.models.base import Parameters


@dataclass(frozen=True)
class Tiers:
    """How a worker that trains its model in place exchanges rows with the master.

    Parameters
    ----------
    hot_rows : int, default=1024
        Rows of each array of two dimensions that are exchanged at every step: those
        that change most. Adapters whose rows are ranked by frequency (gensim) say so;
        otherwise the worker counts.
    all_every : int, default=20
        Steps after which all rows are exchanged. 1 exchanges all rows at every step.
    keep_bits : int or None, default=None
        Bits of mantissa that a change keeps on the wire (float32 has 23). What is cut
        off stays with the worker and goes with the next change.
    read_bits : int or None, default=None
        Bits of mantissa that values keep on their way to the worker.
    fresh : bool, default=True
        Wait for the master's answer about the hot rows before the next chunk; False
        computes while it travels, on hot rows that are a chunk older. Nobody waits for
        another worker either way.

    Raises
    ------
    ConfigError
        If an option is outside its range.

    Notes
    -----
    The most frequent rows are the ones on which workers contradict each other, and
    they are few: exchanged often, they cost little. The rows of the long tail conflict
    seldom and make up nearly all of the bytes.
    """

    hot_rows: int = 1024
    all_every: int = 20
    keep_bits: int | None = None
    read_bits: int | None = None
    fresh: bool = True

    def __post_init__(self) -> None:
        for name, least in (("hot_rows", 0), ("all_every", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ConfigError(f"Tiers: {name} is {value!r}; expected an integer >= {least}")
        for name in ("keep_bits", "read_bits"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or not 1 <= value <= 52):
                raise ConfigError(f"Tiers: {name} is {value!r}; expected 1 to 52, or None")


class Ranking:
    """Knows which rows of each array change most.

    Parameters
    ----------
    parameters : Parameters
    hot_rows : int
        How many rows per array are hot.
    """

    def __init__(self, parameters: Parameters, hot_rows: int) -> None:
        self._count = hot_rows
        self._changes = {
            name: np.zeros(len(array), np.int64)
            for name, array in parameters.arrays().items()
            if array.ndim >= 2
        }
        self._ranked = parameters.ranked()
        self.names = frozenset(self._changes)

    def saw(self, name: str, rows: NDArray[np.integer]) -> None:
        """Count a change of these rows."""
        if name in self._changes:
            self._changes[name][rows] += 1

    def hot(self) -> dict[str, NDArray[np.intp]]:
        """Return the hot rows of each array, in order."""
        hot = {}
        for name, changes in self._changes.items():
            count = min(self._count, len(changes))
            if name in self._ranked:
                hot[name] = np.arange(count)
            else:
                most = np.argpartition(-changes, count - 1)[:count] if count else changes[:0]
                hot[name] = np.sort(most)
        return hot
