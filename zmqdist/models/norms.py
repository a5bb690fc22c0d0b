"""Watching the norms of rows: training that runs away is noticed before it ends in NaN.

Rank scores hide it: vectors that grew a hundredfold can still be told apart, and what
they know is lost all the same.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqdist.models.base import Parameters
from zmqdist.wire.rows import RowSparse

log = logging.getLogger(__name__)

MAX_SCORE = 400.0
"""Largest product of an input's and an output's norm that is no cause for alarm.

Scores beyond 6 are all one to gensim, which cuts the sigmoid there. Single processes reach
8 to 200 in 1 to 100 epochs; eight workers whose differences are added up, a thousand."""

MAX_GROWTH = 1000.0
"""Growth of the longest row within half of all versions that is no cause for alarm.

What grows with a power of time, as weights do that learn, stays below 2 to that power; what
grows exponentially, as weights do that diverge, passes any bound."""

FIRST_VERSION = 16
"""Version from which on growth is judged."""

ADVICE = (
    "the workers push the same rows further than one alone would, or the rate is too high: "
    "smaller chunks or batches, a lower learning rate, merge=RowTrustRegion with a smaller cap, "
    "or fewer workers"
)


class NormWatch:
    """Follows the longest row of each array of floats, and warns once.

    Parameters
    ----------
    parameters : Parameters
        Which arrays are multiplied with one another, if they say so.

    Attributes
    ----------
    largest : float
        Largest norm of a row so far, over all arrays of two dimensions.
    alarmed : bool
        Whether it has warned.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._inputs, self._outputs = parameters.factors()
        self._norms: dict[str, float] = {}
        self._course: list[tuple[int, dict[str, float]]] = []
        self.alarmed = False

    @property
    def largest(self) -> float:
        return max(self._norms.values(), default=0.0)

    def look(self, changes: Mapping[str, RowSparse | NDArray[Any]], version: int) -> None:
        """Take in the rows that changed up to `version`."""
        for name, change in changes.items():
            rows = change.values if isinstance(change, RowSparse) else change
            if rows.ndim == 2 and rows.dtype.kind == "f" and rows.size:
                self._norms[name] = max(self._norms.get(name, 0.0), _longest(rows))
        if not self.alarmed and (what := self._runs_away(version)):
            self.alarmed = True
            log.warning("training runs away: %s at version %d: %s", what, version, ADVICE)

    def _runs_away(self, version: int) -> str:
        """Return what runs away, if anything does."""
        inputs, outputs = (self._longest_of(names) for names in (self._inputs, self._outputs))
        if inputs[1] * outputs[1] > MAX_SCORE:
            return (
                f"the rows of {inputs[0]} and {outputs[0]} have norms of up to {inputs[1]:,.0f} "
                f"and {outputs[1]:,.0f}, more than {MAX_SCORE:g} when multiplied,"
            )
        earlier = next((n for v, n in reversed(self._course) if 2 * v <= version), {})
        if not self._course or version >= self._course[-1][0] * 1.1:
            self._course.append((version, dict(self._norms)))
        for name, before in earlier.items():
            if version >= FIRST_VERSION and self._norms[name] > MAX_GROWTH * before > 0:
                return (
                    f"the longest row of {name} has grown from {before:.3g} to "
                    f"{self._norms[name]:.3g} within half of all versions,"
                )
        return ""

    def _longest_of(self, names: frozenset[str]) -> tuple[str, float]:
        norms = {name: self._norms[name] for name in names if name in self._norms}
        name = max(norms, key=lambda name: norms[name], default="")
        return name, norms.get(name, 0.0)


def _longest(rows: NDArray[Any]) -> float:
    """Return the norm of the longest row; the largest float if that is no float."""
    wide = np.result_type(rows.dtype, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        longest = math.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=wide).max())
    if longest == math.inf and (scale := float(np.abs(rows).max())) < math.inf:
        longest = scale * _longest(rows / np.float64(scale))  # its square was too large
    return min(longest, sys.float_info.max)  # for reports, which are JSON
