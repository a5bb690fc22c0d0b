"""The noise scale of gradients, measured from updates that come in halves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zmqdist.staleness.arguments import fields

ENOUGH = 100
"""Updates with halves before the noise scale counts as known."""

WINDOW = 500
"""Updates over which the two means run."""


class NoiseScale:
    """Running estimate of ``sigma^2 / |G|^2``, in units of one worker's batch.

    sigma^2 is the variance of one update's gradient, summed over its coordinates, and G
    the true gradient. With g1 and g2 the gradients of the two halves of a batch, whose
    mean is the update, ``||g1 - g2||^2 / 4`` has expectation sigma^2 and ``g1 . g2`` has
    expectation ``|G|^2``; the estimate is the ratio of their means. It is the gradient
    noise scale of [1]_, up to the unit.

    References
    ----------
    .. [1] S. McCandlish, J. Kaplan, D. Amodei et al., "An empirical model of large-batch
       training", 2018, arXiv:1812.06162.
    """

    def __init__(self) -> None:
        self.count = 0
        self._dot = 0.0
        self._sq = 0.0

    def add(self, half_dot: float, half_sq: float) -> None:
        """Take in one update's halves, see `zmqdist.core.staleness.Arrival`."""
        self.count += 1
        share = 1 / min(self.count, WINDOW)
        self._dot += share * (half_dot - self._dot)
        self._sq += share * (half_sq - self._sq)

    @property
    def value(self) -> float | None:
        """The estimate; inf if no gradient shows through the noise, None while unknown."""
        if self.count < ENOUGH:
            return None
        return self._sq / self._dot if self._dot > 0 else float("inf")

    def state(self) -> dict[str, Any]:
        """Return what was measured."""
        return {"count": self.count, "dot": self._dot, "sq": self._sq}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self.count, self._dot, self._sq = fields(self, state, "count", "dot", "sq")
