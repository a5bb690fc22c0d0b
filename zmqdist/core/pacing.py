"""When to publish: every so many versions or seconds, by cost, and within so many bytes."""

from __future__ import annotations

from zmqdist.core.staleness import Policy
from zmqdist.errors import ConfigError

SHARE = 0.25
"""Largest part of the time of the master's threads that adaptive publishing may take."""

EARLY_SHARE = 0.05
"""The same while fewer versions are new than the workers make with one update each."""

PLAIN_BYTES_PER_S, CURVE_BYTES_PER_S = 3e9, 4e8
"""What a master's I/O thread sends, to all receivers together: measured over loopback, see
docs/performance.md. A slower network shows in what subscribers miss."""


class Pacing:
    """Decides when the model is published next.

    Parameters
    ----------
    every : int or None, default=None
        Publish each `every`-th version. Publishing every p-th version adds
        (p - 1) / 2 to the mean staleness.
    interval_s : float or None, default=None
        Publish at most once in this many seconds.
    bytes_per_s : float or None, default=None
        Send at most so much on average; the next version then waits, and brings the
        changes of all that came meanwhile.

    Notes
    -----
    With neither, the pace follows the cost: after a publication that took c seconds, until
    it had left, the next waits 3 c, so that publishing takes at most a quarter of the master's
    time, and of its I/O thread's, which updates come through too. A version that brings less than
    one update of each worker waits 19 c: each worker reads once for each of its own updates, and
    has to decode what comes in between as well. So a small model goes out with nearly every
    version while workers compute, a large one as often as it can without starving the updates.
    """

    def __init__(
        self,
        every: int | None = None,
        interval_s: float | None = None,
        bytes_per_s: float | None = None,
    ) -> None:
        if every is not None and every < 1:
            raise ConfigError(f"publish_every is {every!r}; expected an integer >= 1")
        if interval_s is not None and interval_s < 0:
            raise ConfigError(f"publish_interval_s is {interval_s!r}; expected seconds >= 0")
        if bytes_per_s is not None and not bytes_per_s > 0:
            raise ConfigError(f"publish_bytes_per_s is {bytes_per_s!r}; expected bytes > 0")
        self.bytes_per_s = bytes_per_s
        self._paid_at = float("-inf")
        self.every = every
        self.interval_s = interval_s
        self.not_before = self._early_from = float("-inf")
        self._round = 1.0

    def due(self, version: int, published: int, now: float) -> bool:
        """Whether `version` should go out at time `now`."""
        return self.due_in_s(version, published, now) == 0

    def due_in_s(self, version: int, published: int, now: float) -> float | None:
        """Return the seconds until `version` should go out; None while too few are new."""
        if (new := version - max(published, 0)) < (self.every or 1):
            return None
        not_before = self.not_before if new >= self._round else self._early_from
        return max(0.0, not_before - now, self._paid_at - now)

    def sent(self, size_bytes: int, now: float) -> None:
        """Take note of what leaves the master, to all its receivers together."""
        if self.bytes_per_s is not None:
            self._paid_at = max(self._paid_at, now) + size_bytes / self.bytes_per_s

    def was_published(self, started: float, ended: float, versions: float = 1.0) -> None:
        """Take note of a publication and what it cost; a round is so many versions."""
        if self.interval_s is not None:
            self.not_before = started + self.interval_s
        elif self.every is None:
            cost_s, self._round = ended - started, versions
            self.not_before = ended + cost_s * (1 / SHARE - 1)
            self._early_from = ended + cost_s * (1 / EARLY_SHARE - 1)


def per_round(policy: Policy, workers: int) -> float:
    """Return how many versions a round brings: one update of each worker."""
    return workers / max(1, policy.flush_size(workers)) if workers else 0.0
