"""Where the time of a training went, what that allows at most, and what would help.

Arithmetic only. The sums come from the workers' pushes and from the master's own clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

WORKER = {
    "compute_s": "gradient",
    "encode_s": "coding",
    "wait_ack_s": "waiting for answers",
    "wait_gate_s": "waiting for slower workers",
    "wait_model_s": "waiting for the model",
    "other_s": "else",
}
MASTER = {"decode_s": "decoding", "descent_s": "descent", "publish_s": "publishing"}

WORTH_IT = 1.2
"""Speed-up below which one process is as good."""

BUSY = 0.8
"""Part of its time from which on the master is what limits the workers."""

GOOD_SHARE = 0.8
"""Part of a worker's time in the gradient that is aimed at."""

FAIR_SHARE = 0.6
"""Part below which something should be done."""


@dataclass(frozen=True)
class Breakdown:
    """Where time went.

    Parameters
    ----------
    seconds : float
        From the beginning to the end.
    updates, examples : int
        Updates that came, those turned down and empty ones included, and the items behind them.
    compute_s, encode_s, wait_ack_s, wait_gate_s, wait_model_s, other_s : float
        Sums over all workers: in the gradient, coding updates, waiting for answers, for
        slower workers and for a fresher model, and all else, as taking in versions.
    travel_s : float
        Sum over updates of the time from leaving the worker to the answer.
    decode_s, descent_s, publish_s, busy_s : float
        Of the master: parts of `busy_s`, and all its work.

    Notes
    -----
    These are times by the clock. Where workers share a core, `compute_s` holds the wait for
    it, and all that follows is better than the truth: a lone process has a core to itself.
    """

    seconds: float
    updates: int
    examples: int = 0
    compute_s: float = 0.0
    encode_s: float = 0.0
    wait_ack_s: float = 0.0
    wait_gate_s: float = 0.0
    wait_model_s: float = 0.0
    other_s: float = 0.0
    travel_s: float = 0.0
    decode_s: float = 0.0
    descent_s: float = 0.0
    publish_s: float = 0.0
    busy_s: float = 0.0

    # ---- figures --------------------------------------------------------------------------

    @property
    def worker_s(self) -> float:
        """All time of all workers."""
        return float(sum(getattr(self, name) for name in WORKER))

    @property
    def workers(self) -> float:
        """How many workers there were on average."""
        return self.worker_s / self.seconds if self.seconds else 0.0

    @property
    def utilization(self) -> float:
        """Part of the time that the master was busy."""
        return self.busy_s / self.seconds if self.seconds else 0.0

    @property
    def service_s(self) -> float:
        """S: the master's time for one update, publishing included."""
        return self.busy_s / self.updates if self.updates else 0.0

    @property
    def away_s(self) -> float:
        """Z: a worker's own time for one update, without its waits."""
        own = self.compute_s + self.encode_s + self.other_s
        return own / self.updates if self.updates else 0.0

    @property
    def answer_s(self) -> float:
        """From leaving the worker to the answer: the wire, standing in line, and the master."""
        return self.travel_s / self.updates if self.updates else 0.0

    @property
    def knee(self) -> float:
        """How many workers the master keeps up with: (Z + S) / S."""
        return (self.away_s + self.service_s) / self.service_s if self.service_s else inf

    @property
    def alone_s(self) -> float:
        """What one process would have taken: the gradient and the descent, and nothing else."""
        return self.compute_s + self.descent_s

    @property
    def speed_up(self) -> float:
        """How much faster this was than one process."""
        return self.alone_s / self.seconds if self.seconds else 0.0

    @property
    def ceiling(self) -> float:
        """The speed-up with any number of workers: the master has each update to itself once."""
        return self.alone_s / self.busy_s if self.busy_s else inf

    @property
    def chunk_factor(self) -> float:
        """How many times more data an update should be computed from.

        Then workers spend `GOOD_SHARE` of their time in the gradient, and the master is at
        most half busy with as many workers. All else that an update costs is taken not to
        depend on it. 1 if it is good as it is.
        """
        if not self.updates or not self.compute_s:
            return 1.0
        compute_s = self.compute_s / self.updates
        costs_s = (self.encode_s + self.other_s) / self.updates
        waits_s = (self.wait_ack_s + self.wait_model_s) / self.updates
        by_worker = GOOD_SHARE / (1 - GOOD_SHARE) * (costs_s + waits_s) / compute_s
        by_master = (2 * self.workers * self.service_s - self.service_s - costs_s) / compute_s
        return max(1.0, by_worker, by_master)

    # ---- in words -------------------------------------------------------------------------

    def lines(self) -> list[str]:
        """Return all of it for people; nothing if nothing was measured."""
        if not self.updates or not self.worker_s or not self.seconds:
            return []
        shares = [(word, getattr(self, name) / self.worker_s) for name, word in WORKER.items()]
        parts = [(word, getattr(self, name) / self.seconds) for name, word in MASTER.items()]
        return [
            "where time went:",
            f"  workers ({self.workers:.1f} on average): {_percent(shares)}",
            f"  an update: answered after {_time(self.answer_s)}; with all that follows it takes "
            f"{_time(self.service_s)} of the master's time",
            f"  master: {_percent([('busy', self.utilization), *parts])}",
            f"  against one process: {self.speed_up:.1f} times as fast, at most "
            f"{self.ceiling:,.1f} times with more workers",
            f"  {self.advice()}",
        ]

    def advice(self) -> str:
        """Return what would help, or that one machine is enough."""
        factor, share = self.chunk_factor, self.compute_s / self.worker_s if self.worker_s else 0.0
        if self.speed_up < WORTH_IT:
            text = (
                f"One process would have taken about {self.alone_s:,.1f} s: stay on one machine if "
                "the data fits it"
            )
            return f"{text}, or {self._larger(factor)}." if factor >= WORTH_IT else f"{text}."
        if self.utilization >= BUSY:
            return (
                f"The master is the limit: it keeps up with {self.knee:,.0f} workers. "
                f"More will not help; {self._larger(factor)}."
            )
        if self.wait_gate_s > (1 - FAIR_SHARE) * self.worker_s:
            return "Workers wait for the slowest one: allow more staleness, or cut the data evenly."
        if share < FAIR_SHARE and factor >= WORTH_IT:
            return f"Workers compute {share:.0%} of their time: {self._larger(factor)}."
        return (
            f"The master keeps up with {self.knee:,.0f} such workers: up to there more of them "
            "help, if they have cores of their own."
        )

    def _larger(self, factor: float) -> str:
        now = self.examples / self.updates if self.updates else 0.0
        of = f", from {now * factor:,.0f} examples instead of {now:,.0f}" if now else ""
        return f"make updates of {factor:,.1f} times as much data{of}"


def _percent(parts: list[tuple[str, float]]) -> str:
    return ", ".join(f"{word} {part:.0%}" for word, part in parts if part >= 0.005)


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.2f} ms"
