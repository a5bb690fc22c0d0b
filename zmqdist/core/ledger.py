"""The ledger: which steps of which partitions are settled, so none counts twice.

A step is *settled* once its update has been applied, rejected for good or found
empty. The key is (epoch, partition, step) within one run. Each partition keeps the
first unsettled step and the few settled ones beyond it, so memory grows with
partitions, not with steps.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from zmqdist.errors import LocalProtocolError

MAX_PARTITIONS = 100_000
"""Largest number of partitions of an epoch: the list of the missing must fit into one frame."""


MAX_AHEAD = 1_000_000
"""Steps that may be settled beyond one that is still open: what they take is bounded."""


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
    passes : float or None
        See `zmqdist.core.messages.Welcome`; None until a worker comes. A gradient may cut
        its steps by it, so all attempts have to be told the same.
    """

    next: int = 0
    ahead: set[int] = field(default_factory=set)
    rejected: set[int] = field(default_factory=set)
    skipped: set[int] = field(default_factory=set)
    length: int | None = None
    passes: float | None = None

    @property
    def complete(self) -> bool:
        """Whether a worker has seen the end of the partition, all settled."""
        return self.length is not None

    def within_reach(self, step: int) -> bool:
        """Whether `step` may be a step: no more than so many beyond the first open one."""
        return 0 <= step <= self.next + MAX_AHEAD

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

    def state(self) -> list[Any]:
        """Return a copy as JSON values: [next, ahead, rejected, skipped, length, passes]."""
        sets = map(sorted, (self.ahead, self.rejected, self.skipped))
        return [self.next, *sets, self.length, self.passes]

    @classmethod
    def of_state(cls, saved: list[Any]) -> Standing:
        """Return the standing of which `state` was a copy."""
        first, ahead, rejected, skipped, length, passes = saved
        return cls(first, set(ahead), set(rejected), set(skipped), length, passes)


class Ledger:
    """Standings of all partitions of all open epochs, and of those that may be reopened."""

    def __init__(self) -> None:
        self._epochs: dict[int, list[Standing]] = {}
        self._closed: dict[int, list[Standing]] = {}
        self._n_complete: Counter[int] = Counter()
        self.next_epoch = 0

    def open(self, partitions: int, epoch: int | None = None) -> int:
        """Open an epoch with that many partitions, by default the next; return its number."""
        epoch = self.next_epoch if epoch is None else epoch
        self.next_epoch = max(self.next_epoch, epoch + 1)
        self._epochs[epoch] = [Standing() for _ in range(partitions)]
        return epoch

    def close(self, epoch: int) -> None:
        """Close an epoch: from here on its updates are refused."""
        if epoch in self._epochs:
            self._closed[epoch] = self._epochs.pop(epoch)

    def reopen(self, epoch: int) -> None:
        """Take updates of a closed epoch again, from where it stood."""
        self._epochs[epoch] = self._closed.pop(epoch)

    def forget(self, epoch: int) -> None:
        """Drop the standings of a closed epoch."""
        self._closed.pop(epoch, None)
        del self._n_complete[epoch]

    def closed(self) -> list[int]:
        """Return the closed epochs that may be reopened."""
        return list(self._closed)

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
            self._n_complete[epoch] += 1
        return True

    def share_complete(self, epoch: int) -> float:
        """Return which share of the partitions of an open epoch is complete, 0 to 1."""
        return self._n_complete[epoch] / len(self._epochs[epoch])

    def missing(self, epoch: int) -> list[int]:
        """Return the partitions of an open epoch that are not complete."""
        return [i for i, standing in enumerate(self._epochs[epoch]) if not standing.complete]

    def is_open(self, epoch: int) -> bool:
        """Whether updates of this epoch are taken."""
        return epoch in self._epochs

    def state(self) -> dict[str, Any]:
        """Return a copy of all standings, as JSON values."""
        tables = {"open": self._epochs, "closed": self._closed}
        copies = {
            name: [[epoch, [s.state() for s in standings]] for epoch, standings in table.items()]
            for name, table in tables.items()
        }
        return {"next_epoch": self.next_epoch, **copies}

    def load_state(self, saved: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.next_epoch = saved["next_epoch"]
        self._n_complete.clear()
        for name, table in (("open", self._epochs), ("closed", self._closed)):
            table.clear()
            for epoch, standings in saved[name]:
                table[epoch] = [Standing.of_state(standing) for standing in standings]
                self._n_complete[epoch] = sum(standing.complete for standing in table[epoch])

    def check_invariants(self) -> None:
        """Raise AssertionError if a standing contradicts itself (used by the tests)."""
        for epoch, standings in self._epochs.items():
            for partition, standing in enumerate(standings):
                where = f"epoch {epoch} partition {partition}: {standing}"
                if any(step <= standing.next for step in standing.ahead):
                    raise AssertionError(f"{where} has settled steps ahead that are not")
                if standing.length is not None and standing.next < standing.length:
                    raise AssertionError(f"{where} is complete with a hole")
                if standing.passes is None and (standing.next or standing.ahead):
                    raise AssertionError(f"{where} has steps, and nobody knows how they are cut")
            if self._n_complete[epoch] != len(standings) - len(self.missing(epoch)):
                raise AssertionError(f"epoch {epoch}: {self._n_complete[epoch]} are complete")
