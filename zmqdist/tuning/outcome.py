"""What comes out of one trial, whatever ran it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

WAITS = {
    "compute": "compute_s",
    "gate": "wait_gate_s",
    "model": "wait_model_s",
    "answer": "wait_ack_s",
}
"""Where a worker's time goes, and the column of the record that says so, in the order of the
figures: computing; held back by the policy; waiting for a newer version; waiting for the answer
to an update."""


@dataclass(frozen=True)
class Point:
    """The model at one time.

    Attributes
    ----------
    seconds : float
        Virtual or wall time since the trial began.
    version : int
        Updates applied, or flushes of a buffer.
    examples : int
        Items behind the applied updates.
    computed : int
        Items that gradients were computed from, those of rejected updates included.
    loss : float
    """

    seconds: float
    version: int
    examples: int
    computed: int
    loss: float


@dataclass
class Outcome:
    """All that a trial did.

    Attributes
    ----------
    ended : str
        Why: ``target``, ``budget`` (its time was up), ``diverged``, ``pruned`` or ``data`` (all
        of it was used).
    curve : list of Point
        The evaluations, in order; the first at 0 s.
    seconds : float
    applied, rejected, requeued, version : int
        Counts of updates; see `zmqdist.result.TrainResult`.
    staleness : dict of int to int
        Histogram of the applied updates.
    waits_s : dict of str to float
        Seconds of all workers together, by what they did, for some of `WAITS`.
    by_partition : list of int
        Items behind the applied updates of each partition.
    service_s : float or None
        Mean time that the master is at work for an update.
    cycle_s : float or None
        Mean time from the beginning of a worker's step to that of its next one, less what it
        spent held back by the policy or waiting for an answer.
    policy : dict of str to float
        What a policy that adapts itself shows at the end, as `zmqdist.result.TrainResult.policy`.
    """

    ended: str = "budget"
    curve: list[Point] = field(default_factory=list)
    seconds: float = 0.0
    applied: int = 0
    rejected: int = 0
    requeued: int = 0
    version: int = 0
    staleness: dict[int, int] = field(default_factory=dict)
    waits_s: dict[str, float] = field(default_factory=dict)
    by_partition: list[int] = field(default_factory=list)
    service_s: float | None = None
    cycle_s: float | None = None
    policy: dict[str, float] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """The last loss; infinite for a trial that diverged or was never evaluated."""
        if self.ended == "diverged" or not self.curve:
            return math.inf
        return self.curve[-1].loss

    @property
    def staleness_mean(self) -> float:
        """Mean staleness of the applied updates, in versions; 0 without any."""
        total = sum(tau * count for tau, count in self.staleness.items())
        return total / max(1, sum(self.staleness.values()))

    @property
    def accepted(self) -> float:
        """Part of the updates that arrived and were applied."""
        return self.applied / max(1, self.applied + self.rejected + self.requeued)

    def fill(self, result: Mapping[str, Any]) -> None:
        """Take over the totals of a `TrainResult`'s attributes."""
        for name in ("seconds", "applied", "rejected", "requeued", "version"):
            setattr(self, name, result[name])
        self.staleness, self.policy = dict(result["staleness"]), dict(result["policy"])

    def read_record(self, record: Mapping[str, Any], workers: int) -> None:
        """Take over what a record says, of a run or of a simulation.

        Parameters
        ----------
        record : mapping of str to ndarray
            Columns, one entry for each update that arrived.
        workers : int
            Also the number of partitions at least.
        """
        steps = len(record["time_s"])
        if not steps:
            return
        order = np.argsort(record["time_s"], kind="stable")
        applied = record["decision"] == "applied"
        versions = np.maximum.accumulate(np.where(applied, record["version"], 0)[order])
        computed = np.concatenate([[0], np.cumsum(record["examples"][order])])
        ends = np.searchsorted(versions, [point.version for point in self.curve], "right")
        self.curve = [
            replace(point, computed=int(computed[end]))
            for point, end in zip(self.curve, ends, strict=True)
        ]
        self.by_partition = np.bincount(
            record["partition"][applied], record["examples"][applied], minlength=workers
        ).tolist()
        self.waits_s = {
            name: float(record[column].sum()) for name, column in WAITS.items() if column in record
        }
        idle_s = sum(self.waits_s.get(name, 0.0) for name in ("gate", "answer"))
        self.cycle_s = max(0.0, workers * self.seconds - idle_s) / steps

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        curve = [[p.seconds, p.version, p.examples, p.computed, p.loss] for p in self.curve]
        staleness = [[tau, count] for tau, count in sorted(self.staleness.items())]
        return {**asdict(self), "curve": curve, "staleness": staleness}

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Outcome:
        """Return what `as_dict` was made from."""
        curve = [Point(*row) for row in kept["curve"]]
        return cls(**{**kept, "curve": curve, "staleness": dict(kept["staleness"])})


Watch = Callable[[Point], str | None]
"""Called by a backend with each evaluation; a text says why to end the trial now."""
