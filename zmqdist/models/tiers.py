"""Tiers of rows: which rows a worker exchanges often, and which seldom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from zmqdist.errors import ConfigError
from zmqdist.models.base import Parameters
from zmqdist.wire.rows import RowSparse

Rows = NDArray[np.intp]


class Refresh(Enum):
    """What a gradient that trains in place may yield within a chunk."""

    REFRESH = "refresh"


REFRESH: Final = Refresh.REFRESH
"""Take in what the master has answered meanwhile; the chunk goes on. A gradient that yields
this does not wait for answers after a chunk, but at the end of the next."""


@dataclass(frozen=True)
class Tiers:
    """How a worker that trains its model in place exchanges rows with the master.

    Of each array the `hot_rows` that change most are exchanged after every chunk, of the
    rest `growth` times as many rows every `growth` chunks, and so on: rows of rank below
    ``hot_rows * growth**j`` every ``growth**j`` chunks. All rows, ranked or not, are
    exchanged at the longest of these periods and at the end of a partition.

    Parameters
    ----------
    hot_rows : int, default=128
        Rows of each array that are exchanged after every chunk (an array of fewer than two
        dimensions is one row). Adapters
        that know how often rows change (gensim) say so; otherwise the worker measures how
        far each row moves in the first chunks.
    growth : int, default=2
        Factor from one tier to the next, of the rows and of the period; >= 2.
    all_every : int or None, default=None
        Chunks after which all rows are exchanged at the latest; None lets the tiers go on
        until they hold the longest array. 1 exchanges all rows after every chunk.
    keep_bits : int or None, default=None
        Bits of mantissa that a change keeps on the wire (float32 has 23). What is cut
        off stays with the worker and goes with the next change.
    read_bits : int or None, default=None
        Bits of mantissa that values keep on their way to the worker.
    fresh : bool, default=True
        Wait for the master's answer before the next chunk (for that about all rows never),
        or until its end if the gradient yields `REFRESH` within chunks. False computes while
        it travels, on rows that are a chunk older. Nobody waits for another worker either way.

    Raises
    ------
    ConfigError
        If an option is outside its range.

    Notes
    -----
    How far workers contradict each other on a row grows with how often the row changes
    between two exchanges. Frequencies that fall as one over the rank (Zipf's law) make
    this the same for all rows when the period grows as the rank does, and each tier
    costs as many bytes as any other. pWord2Vec [1]_ exchanges the first
    ``1024 * 2**ctz(k)`` rows at its k-th synchronization, by averaging; here nobody waits.

    References
    ----------
    .. [1] S. Ji, N. Satish, S. Li, P. Dubey, "Parallelizing Word2Vec in shared and
       distributed memory", arXiv:1604.04661, 2016; the rule is in the code published with
       it (IntelLabs/pWord2Vec, pWord2Vec_mpi.cpp).
    """

    hot_rows: int = 128
    growth: int = 2
    all_every: int | None = None
    keep_bits: int | None = None
    read_bits: int | None = None
    fresh: bool = True

    def __post_init__(self) -> None:
        for name, least in (("hot_rows", 0), ("growth", 2), ("all_every", 1)):
            value = getattr(self, name)
            wrong = isinstance(value, bool) or not isinstance(value, int) or value < least
            if wrong and not (value is None and name == "all_every"):
                raise ConfigError(f"Tiers: {name} is {value!r}; expected an integer >= {least}")
        for name in ("keep_bits", "read_bits"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or not 1 <= value <= 52):
                raise ConfigError(f"Tiers: {name} is {value!r}; expected 1 to 52, or None")

    def periods(self, n_rows: int) -> list[int]:
        """Return the periods in chunks, ascending; the last is that of all rows.

        Parameters
        ----------
        n_rows : int
            Rows of the longest array.
        """
        if not self.hot_rows:
            return sorted({1, self.all_every or 1})
        periods, period = [], 1
        while self.hot_rows * period < n_rows and period < (self.all_every or n_rows):
            periods.append(period)
            period *= self.growth
        return [*periods, min(period, self.all_every or period)]


class Ranking:
    """Knows which rows of each array change most, and which are due for an exchange.

    Parameters
    ----------
    parameters : Parameters
    tiers : Tiers
    """

    def __init__(self, parameters: Parameters, tiers: Tiers) -> None:
        self._hot_rows = tiers.hot_rows
        ranked = parameters.ranked()
        self._order: dict[str, Rows] = {}
        self._moved: dict[str, NDArray[np.float64]] = {}
        for name, array in parameters.arrays().items():
            n_rows = len(array) if array.ndim >= 2 else 1
            self._order[name] = ranked.get(name, np.arange(n_rows))
            if name not in ranked and n_rows > 1:
                self._moved[name] = np.zeros(n_rows)
        self._rows: dict[int, dict[str, Rows]] = {}
        self._periods = tiers.periods(max(map(len, self._order.values()), default=0))

    @property
    def known(self) -> bool:
        """Whether an adapter has ranked all arrays, so that nothing needs to be measured."""
        return not self._moved

    def saw(self, changes: Mapping[str, RowSparse]) -> None:
        """Take note of how far these rows moved."""
        for name, change in changes.items():
            if name in self._moved:
                squares = np.square(change.values, dtype=float)
                lengths = np.sqrt(squares.sum(axis=tuple(range(1, squares.ndim))))
                self._moved[name][change.rows] += lengths

    def settle(self) -> None:
        """Rank the arrays that no adapter has ranked, by how far their rows moved so far."""
        self._rows = {}
        for name, moved in self._moved.items():
            self._order[name] = np.argsort(-moved, kind="stable")

    def tier(self, chunk: int) -> int | None:
        """Return the highest tier that is due after this chunk (1, 2 ...); None for all rows."""
        return self.missed(chunk - 1, chunk)

    def missed(self, since: float, until: float) -> int | None:
        """Return the highest tier that fell due between two counts of chunks; None for all rows.

        That is tier 0 if none did.
        """
        due = [
            tier for tier, period in enumerate(self._periods) if until // period > since // period
        ]
        highest = max(due, default=0)
        return None if highest == len(self._periods) - 1 else highest

    def rows(self, tier: int) -> dict[str, Rows]:
        """Return the rows of each array up to a tier, ascending."""
        if tier not in self._rows:
            count = self._hot_rows * self._periods[tier]
            self._rows[tier] = {n: np.sort(order[:count]) for n, order in self._order.items()}
        return self._rows[tier]
