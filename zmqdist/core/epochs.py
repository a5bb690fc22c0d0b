"""The epochs of a run: which are open, how they stand, what went wrong, whose keys they admit."""

from __future__ import annotations

from collections.abc import Iterator

from zmqdist.core.ledger import Key, Ledger, Standing
from zmqdist.core.messages import Begin, Fail, Report
from zmqdist.core.report import Counts, Epoch, failure
from zmqdist.core.sessions import Session
from zmqdist.errors import LocalProtocolError

DRIVER_LEASES = 4
"""Leases of silence after which a driver counts as dead and its epochs are closed."""


class Epochs:
    """Records of all epochs of a run, open and closed, and the ledger of the open ones.

    Parameters
    ----------
    run : str
        The run's name.
    """

    def __init__(self, run: str) -> None:
        self.ledger = Ledger()
        self._run = run
        self._open: dict[int, Epoch] = {}
        self._closed: dict[int, Epoch] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._open

    def __iter__(self) -> Iterator[int]:
        return iter(self._open)

    def __getitem__(self, number: int) -> Epoch:
        return self._open[number]

    def open(self, begin: Begin, now: float) -> int:
        """Open the next epoch; return its number."""
        number = self.ledger.open(begin.partitions)
        self._open[number] = Epoch(begin.worker_key, now)
        return number

    def close(self, number: int) -> None:
        """Close an open epoch: from here on its updates are refused."""
        record = self._closed[number] = self._open.pop(number)
        record.missing = self.ledger.missing(number)
        self.ledger.close(number)

    def standing(self, key: Key) -> Standing:
        """Return where the partition of `key` stands; its epoch must be open."""
        standing = self.ledger.standing(key.epoch, key.partition)
        if standing is None:
            raise LocalProtocolError(f"{key} belongs to no open epoch")
        return standing

    def fail(self, key: Key, what: str, error: str, traceback: str = "") -> str:
        """Mark an open epoch as failed for good; return the reason for its workers."""
        failed = failure(what, error, key.partition, key.step, traceback)
        record = self._open[key.epoch]
        record.fatal = record.fatal or failed
        where = f" on partition {key.partition}" if key.partition >= 0 else ""
        return f"{what} failed{where}: {failed['error']}"

    def failed_task(self, session: Session, message: Fail) -> None:
        """Keep what a worker reports of the task that it gives up."""
        failed = failure(
            message.what, message.error, session.partition, message.step, message.traceback
        )
        who = {"attempt": session.attempt, "worker": session.worker[:100]}
        self._open[session.epoch].keep(failed | who)

    def report(self, number: int, counts: Counts, **standing: int) -> Report:
        """Return how an epoch stands; fatal if no such epoch was opened here."""
        record = self._open.get(number) or self._closed.get(number)
        if record is None:
            nothing = failure("epoch", f"run {self._run} has no epoch {number}")
            record = Epoch("", 0.0, fatal=nothing)
        missing = self.ledger.missing(number) if number in self else record.missing
        return counts.report(record, missing, **standing)

    def heard(self, number: int, now: float) -> None:
        """Note that the epoch's driver lives."""
        if number in self._open:
            self._open[number].last_seen = now

    def left_alone(self, now: float, lease_s: float) -> dict[int, str]:
        """Mark the open epochs failed whose driver counts as dead; return them with the reason."""
        silence_s = DRIVER_LEASES * lease_s
        reason = f"the driver has been silent for {silence_s:.0f} s"
        alone = [n for n, record in self._open.items() if now - record.last_seen > silence_s]
        for number in alone:
            self._open[number].fatal = self._open[number].fatal or failure("driver", reason)
        return dict.fromkeys(alone, reason)

    def keys_to_withdraw(self, now: float, after_s: float) -> list[str]:
        """Return worker keys that no epoch has used for so long; each is returned once.

        A task that starts late can still connect until then, and is told to stop.
        """
        recent = [r for r in self._closed.values() if now - r.last_seen <= after_s]
        in_use = {"", *(r.worker_key for r in [*self._open.values(), *recent])}
        old = {record.worker_key for record in self._closed.values()} - in_use
        for record in self._closed.values():
            if record.worker_key in old:
                record.worker_key = ""
        return sorted(old)
