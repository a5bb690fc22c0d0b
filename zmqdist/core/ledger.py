"""The ledger: which steps of which partitions are settled, so none counts twice.

A step is *settled* once its update has been applied, rejected for good or found
empty. The key is (epoch, partition, step) within one run. Each partition keeps the
first unsettled step and the few settled ones beyond it, so memory grows with
partitions, not with steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from zmqdist.errors import LocalProtocolError

MAX_PARTITIONS = 100_000
"""Largest number of partitions of an epoch: the list of the missing must fit into one frame."""


class Outcome(StrEnum):
    """How a step was settled."""

    APPLIED = "applied"
    REJECTED = "rejected"
    SKIPPED = "skipped"


class Key(NamedTuple):
    """Name of one update within a run."""

    epoch: int
    partition: int
    step: int


@dataclass(slots=True)
class Standing:
    """Where one partition of one epoch stands.

    Attributes
    ----------
    next : int
        First unsettled step; all before it are settled.
    ahead : set of int
        Settled steps beyond `next`.
    rejected, skipped : set of int
        Settled steps that changed nothing; all other settled ones were applied.
    length : int or None
        Number of steps once the partition is complete.
    """

    next: int = 0
    ahead: set[int] = field(default_factory=set)
    rejected: set[int] = field(default_factory=set)
    skipped: set[int] = field(default_factory=set)
    length: int | None = None

    @property
    def complete(self) -> bool:
        """Whether a worker has seen the end of the partition, all settled."""
        return self.length is not None

    def settled(self, step: int) -> bool:
        """Whether `step` is settled."""
        return step < self.next or step in self.ahead

    def outcome(self, step: int) -> Outcome | None:
        """How `step` was settled; None while it is not."""
        if not self.settled(step):
            return None
        if step in self.rejected:
            return Outcome.REJECTED
        return Outcome.SKIPPED if step in self.skipped else Outcome.APPLIED

    def settle(self, step: int, outcome: Outcome) -> None:
        """Record `step`; it must not be settled yet."""
        if self.settled(step):
            raise LocalProtocolError(f"step {step} is settled already")
        if outcome is Outcome.REJECTED:
            self.rejected.add(step)
        elif outcome is Outcome.SKIPPED:
            self.skipped.add(step)
        self.ahead.add(step)
        while self.next in self.ahead:
            self.ahead.remove(self.next)
            self.next += 1


class Ledger:
    """Standings of all partitions of all open epochs."""

    def __init__(self) -> None:
        self._epochs: dict[int, list[Standing]] = {}
        self.next_epoch = 0

    def open(self, partitions: int) -> int:
        """Open the next epoch with that many partitions; return its number."""
        epoch = self.next_epoch
        self.next_epoch += 1
        self._epochs[epoch] = [Standing() for _ in range(partitions)]
        return epoch

    def close(self, epoch: int) -> None:
        """Forget an epoch: from here on its updates are refused."""
        self._epochs.pop(epoch, None)

    def standing(self, epoch: int, partition: int) -> Standing | None:
        """Return the standing, None if the epoch is closed or has no such partition."""
        standings = self._epochs.get(epoch)
        if standings is None or not 0 <= partition < len(standings):
            return None
        return standings[partition]

    def finish(self, epoch: int, partition: int, length: int) -> bool:
        """Mark a partition complete if its first `length` steps are all settled."""
        standing = self.standing(epoch, partition)
        if standing is None or standing.next < length:
            return False
        if standing.length is None:
            standing.length = max(length, standing.next)
        return True

    def missing(self, epoch: int) -> list[int]:
        """Return the partitions of an open epoch that are not complete."""
        return [i for i, standing in enumerate(self._epochs[epoch]) if not standing.complete]

    def is_open(self, epoch: int) -> bool:
        """Whether updates of this epoch are taken."""
        return epoch in self._epochs

    def check_invariants(self) -> None:
        """Raise AssertionError if a standing contradicts itself (used by the tests)."""
        for epoch, standings in self._epochs.items():
            for partition, standing in enumerate(standings):
                where = f"epoch {epoch} partition {partition}: {standing}"
                if any(step <= standing.next for step in standing.ahead):
                    raise AssertionError(f"{where} has settled steps ahead that are not")
                if standing.length is not None and standing.next < standing.length:
                    raise AssertionError(f"{where} is complete with a hole")
