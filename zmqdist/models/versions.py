"""The master's memory of the versions that workers compute on.

Kept as what it takes to get back to them: for each publication the rows that it changed, as
they were before. A policy that asks how far the model has moved since a version pays for
the rows that it asks about.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEPT_PER_WORKER = 4
"""Publications remembered, for each worker."""

KEPT_AT_LEAST = 16
"""Publications remembered, however few the workers are."""

WINDOW = 100
"""Publications over which the mean change of an array runs."""

_Rows = NDArray[np.integer]


@dataclass(slots=True)
class _Publication:
    """What the publication after version `base` changed: rows (None: all) and old values."""

    base: int
    old: dict[str, tuple[_Rows | None, NDArray[Any]]] = field(default_factory=dict)


class Versions:
    """Remembers published versions, back to some version."""

    def __init__(self) -> None:
        self._published: dict[str, NDArray[Any]] = {}
        self._log: deque[_Publication] = deque()
        self._squares: dict[str, float] = {}
        self._count = 0
        self._newest = -1

    # ---- told by the snapshot ------------------------------------------------------------

    def publishing(self, version: int, workers: int) -> None:
        """Begin a publication; forget those that hardly any of so many workers can name."""
        if self._newest >= 0:  # what was before the first one is not known
            self._log.append(_Publication(self._newest))
        self._newest = version
        self._count = min(self._count + 1, WINDOW)
        keep = max(KEPT_AT_LEAST, KEPT_PER_WORKER * workers)
        while len(self._log) > keep:
            self._log.popleft()

    def holds(self, name: str, published: NDArray[Any]) -> None:
        """Note where the published values of an array lie, which change in place."""
        self._published[name] = published

    def changes(self, name: str, rows: _Rows | None) -> None:
        """Note that these rows (None: all) of an array are about to change."""
        published = self._published[name]
        old = published.copy() if rows is None else published[rows]
        self._log[-1].old[name] = rows, old

    def published(self, version: int) -> None:
        """End a publication: take the measure of its changes."""
        if not self._log:
            return
        log = self._log[-1]
        steps = max(1, version - log.base)
        for name, published in self._published.items():
            square = 0.0
            if name in log.old and published.dtype.kind == "f" and published.size:
                rows, old = log.old[name]
                change = (published if rows is None else published[rows]) - old
                square = float(np.vdot(change, change)) / published.size / steps
            known = self._squares.get(name, 0.0)
            self._squares[name] = known + (square - known) / self._count

    # ---- asked by the policy -----------------------------------------------------------------

    def since(self, base: int, live: Mapping[str, NDArray[Any]]) -> Moved | None:
        """Return how the model, now `live`, has moved since a version; None if forgotten."""
        oldest = self._log[0].base if self._log else self._newest
        return Moved(self, base, live) if 0 <= oldest <= base else None

    def step(self, name: str) -> float:
        """Return the running root mean square of an array's change by one version."""
        return math.sqrt(self._squares.get(name, 0.0))

    def values(self, name: str, rows: _Rows | None, base: int) -> NDArray[Any]:
        """Return rows (None: all) of an array as they were at version `base`."""
        published = self._published[name]
        values = published.copy() if rows is None else published[rows]
        unset = np.ones(values.shape[:1], np.bool_)  # rows that no publication has changed yet
        for publication in self._log:  # the oldest change says what a row was at the base
            if publication.base < base or name not in publication.old:
                continue
            changed, old = publication.old[name]
            if changed is None:
                older = old if rows is None else old[rows]
                if unset.all():
                    return older
                values[unset] = older[unset]
                break
            place, hit = _find(changed, rows, len(values))
            hit &= unset
            values[hit] = old[place[hit]]
            unset &= ~hit
        return values


class Moved:
    """How the model has moved since one version: a `zmqdist.staleness.Base`."""

    def __init__(self, versions: Versions, base: int, live: Mapping[str, NDArray[Any]]) -> None:
        self._versions, self._base, self._live = versions, base, live

    def moved(self, name: str, rows: _Rows | None) -> NDArray[Any] | None:
        """Return ``x_now - x_base`` of rows (None: all) of an array, None if there is none."""
        live = self._live.get(name)
        if live is None:
            return None
        now = live if rows is None else live[rows]
        return np.asarray(now - self._versions.values(name, rows, self._base))

    def step(self, name: str) -> float:
        """Return the running root mean square of an array's change by one version."""
        return self._versions.step(name)


def _find(changed: _Rows, rows: _Rows | None, n: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return where the rows (None: all n) stand among the changed ones, and which do."""
    wanted = np.arange(n) if rows is None else rows
    place = np.searchsorted(changed, wanted)
    place[place == len(changed)] = 0
    return place, changed[place] == wanted
