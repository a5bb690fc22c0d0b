"""The epochs of a run: which are open, what went wrong in them, whose keys they admit."""

from __future__ import annotations

from collections.abc import Iterator

from zmqdist.core.report import Epoch, failure

DRIVER_LEASES = 4
"""Leases of silence after which a driver counts as dead and its epochs are closed."""


class Epochs:
    """Records of all epochs, open and closed."""

    def __init__(self) -> None:
        self._open: dict[int, Epoch] = {}
        self._closed: dict[int, Epoch] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._open

    def __iter__(self) -> Iterator[int]:
        return iter(self._open)

    def __getitem__(self, number: int) -> Epoch:
        return self._open[number]

    def get(self, number: int, run: str) -> Epoch:
        """Return the record of an epoch, open or closed; a fatal one if there is none."""
        record = self._open.get(number) or self._closed.get(number)
        missing = failure("epoch", f"run {run} has no epoch {number}")
        return record or Epoch("", 0.0, fatal=missing)

    def open(self, number: int, worker_key: str, now: float) -> None:
        """Open an epoch for workers with this key."""
        self._open[number] = Epoch(worker_key, now)

    def close(self, number: int, missing: list[int]) -> None:
        """Close an open epoch that lacks these partitions."""
        record = self._closed[number] = self._open.pop(number)
        record.missing = missing

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
