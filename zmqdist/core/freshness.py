"""Whether a worker's model is fresh enough to go on with."""

from __future__ import annotations


class Freshness:
    """Which version a worker's replica holds, which one its model, and which one it needs.

    Parameters
    ----------
    have : int
        Version of the replica at first, -1 for none.

    Attributes
    ----------
    version, clock : int
        Version of the replica, and the slowest worker's clock when that was taken.
    base : int
        Version in the model, -1 before the first step.
    need : int
        Oldest version that the next step may start on.
    newest : int
        Newest version that the worker has heard of.
    lazy_slack, patience : int or None
        The policy's, see `zmqdist.core.staleness.Policy`.
    """

    def __init__(self, have: int) -> None:
        self.version = have
        self.clock = 0
        self.base = -1
        self.need = 0
        self.newest = have
        self.lazy_slack: int | None = None
        self.patience: int | None = None
        self._base_clock = 0

    def hold(self, version: int, clock: int) -> None:
        """Note what the replica holds now."""
        self.clock = max(self.clock, clock) if version == self.version else clock
        self.version, self.newest = version, max(self.newest, version)

    def heard_of(self, version: int, patience: int | None) -> None:
        """Note the master's version now, and the policy's patience now."""
        self.newest = max(self.newest, version)
        self.patience = patience

    @property
    def too_stale(self) -> bool:
        """Whether the master would turn down, as far as is known, what this model brings."""
        return self.patience is not None and self.newest - self.base > self.patience

    def enough(self, clock: int) -> bool:
        """Whether the step of this clock may start on the replica, or on the model at hand."""
        if self.version < max(self.need, 0):
            return False
        lazy = self.lazy_slack is not None
        return not lazy or not self._old_model(clock) or not self._old(self.clock, clock)

    def read(self, clock: int) -> bool:
        """Start the step of this clock; return whether the replica is read into the model."""
        if self.lazy_slack is not None and self.base >= self.need and not self._old_model(clock):
            return False
        self.base, self._base_clock = self.version, self.clock
        return True

    def _old_model(self, clock: int) -> bool:
        return self.base < 0 or self._old(self._base_clock, clock)

    def _old(self, of: int, clock: int) -> bool:
        return of < clock - (self.lazy_slack or 0)
