"""Whether a worker's model is fresh enough to go on with."""

from __future__ import annotations

from zmqdist.core.lineage import Point


class Freshness:
    """Which version a worker's replica holds, which one its model, and which one it needs.

    Parameters
    ----------
    have : Point
        What the replica holds at first.

    Attributes
    ----------
    incarnation : int
        The master's, as far as the worker knows.
    version, clock : int
        Version of the replica, -1 for none of this incarnation, and the slowest worker's
        clock when that was taken.
    base : Point
        What is in the model; version -1 before the first step.
    need : int
        Oldest version that the next step may start on.
    newest : int
        Newest version that the worker has heard of.
    lazy_slack, patience : int or None
        The policy's, see `zmqdist.core.staleness.Policy`.
    """

    def __init__(self, have: Point) -> None:
        self.incarnation, self.version = have
        self.clock = 0
        self.base = Point(self.incarnation, -1)
        self.need = 0
        self.newest = self.version
        self.lazy_slack: int | None = None
        self.patience: int | None = None
        self._base_clock = 0

    def hold(self, version: int, clock: int) -> None:
        """Note what the replica holds now."""
        self.clock = max(self.clock, clock) if version == self.version else clock
        self.version, self.newest = version, max(self.newest, version)

    @property
    def replica(self) -> Point:
        """What the replica holds."""
        return Point(self.incarnation, self.version)

    def begin(self, incarnation: int) -> None:
        """Start over: the versions of a restarted master have nothing to do with those held."""
        self.incarnation, self.version, self.newest = incarnation, -1, -1
        self.clock = self.need = 0

    def heard_of(self, version: int, patience: int | None) -> None:
        """Note the master's version now, and the policy's patience now."""
        self.newest = max(self.newest, version)
        self.patience = patience

    @property
    def too_stale(self) -> bool:
        """Whether the master would turn down, as far as is known, what this model brings."""
        if self.patience is None or self.base.incarnation != self.incarnation:
            return False
        return self.newest - self.base.version > self.patience

    def enough(self, clock: int) -> bool:
        """Whether the step of this clock may start on the replica, or on the model at hand."""
        if self.version < max(self.need, 0):
            return False
        lazy = self.lazy_slack is not None
        return not lazy or not self._old_model(clock) or not self._old(self.clock, clock)

    def read(self, clock: int) -> bool:
        """Start the step of this clock; return whether the replica is read into the model."""
        enough = self.base >= Point(self.incarnation, self.need)
        if self.lazy_slack is not None and enough and not self._old_model(clock):
            return False
        self.base, self._base_clock = self.replica, self.clock
        return True

    def _old_model(self, clock: int) -> bool:
        none = self.base.version < 0 or self.base.incarnation != self.incarnation
        return none or self._old(self._base_clock, clock)

    def _old(self, of: int, clock: int) -> bool:
        return of < clock - (self.lazy_slack or 0)
