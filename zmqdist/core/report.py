"""What the master counts and keeps for its reports, within the size of a frame."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from zmqdist.core.actions import Apply
from zmqdist.core.messages import Finish, Push, Report


@dataclass(slots=True)
class Totals:
    """Counters since the run began; all only grow.

    `settled` counts steps, those whose updates wait in a buffer included; `max_row_norm`
    is the largest norm of a row that was published. The times are sums: up to `travel_s`
    those of all workers, as `Push` and `Finish` have them, then the master's. It spent `busy_s` on
    messages and on what is due by the clock; the other three are parts of that.
    """

    settled: int = 0
    applied: int = 0
    rejected: int = 0
    requeued: int = 0
    duplicates: int = 0
    skipped: int = 0
    failed: int = 0
    refused: int = 0
    dropped: int = 0
    clipped: int = 0
    examples: int = 0
    sessions: int = 0
    evicted: int = 0
    rejected_tau: int = 0
    bytes_received: int = 0
    bytes_received_decoded: int = 0
    bytes_published: int = 0
    bytes_published_decoded: int = 0
    publications: int = 0
    pulls: int = 0
    max_row_norm: float = 0.0
    checkpoints: int = 0
    checkpoints_failed: int = 0
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

    def worked(self, said: Push | Finish) -> None:
        """Add a worker's times up; the sums stay finite."""
        for name in _TIMES:
            total = getattr(self, name) + getattr(said, name)
            if math.isfinite(total):
                setattr(self, name, total)


_TIMES = [entry.name for entry in fields(Finish) if entry.name.endswith("_s")]


@dataclass(slots=True)
class Epoch:
    """What the master keeps of an epoch besides its standings.

    `program` is the driver's that began it, `steps` says how that cuts the data into
    steps; `missing` are the partitions that were not complete when the epoch was closed.
    """

    worker_key: str
    last_seen: float
    partitions: int = 0
    program: str = ""
    steps: str = ""
    missing: list[int] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    fatal: dict[str, Any] | None = None

    def keep(self, failed: dict[str, Any]) -> None:
        """Keep a failure for the report, unless it has plenty."""
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(failed)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps; the worker's key is the public one."""
        kept = ("worker_key", "partitions", "program", "steps", "missing")
        return {name: getattr(self, name) for name in kept}


MAX_FAILURES = 5
"""Failures kept for a report; later ones are only counted."""

MAX_EXAMPLES = 2**62
"""Where counting examples ends: headers hold 64 bits."""

MAX_METRICS = 1_000
"""Metrics kept, by name; later names are ignored."""


MAX_NAME_BYTES = 100
"""Longest name of a metric, as it is written in a header; longer ones are ignored."""


def is_short(name: str) -> bool:
    """Whether the name of a metric is short enough for reports."""
    return len(json.dumps(name)) <= MAX_NAME_BYTES


def add_metrics(sums: dict[str, list[float]], metrics: dict[str, float]) -> None:
    """Add an update's metrics to the sums {name: [sum, count]}, which stay finite."""
    for name, value in metrics.items():
        if name not in sums and (len(sums) >= MAX_METRICS or not is_short(name)):
            continue
        total, count = sums.get(name, (0.0, 0))
        if math.isfinite(total + value):
            sums[name] = [total + value, count + 1]


MAX_TEXT = 4_000
"""Characters kept of an error or traceback: reports must fit into one frame."""


def shortened(text: str) -> str:
    """Return a text with its middle left out if it is too long."""
    half = MAX_TEXT // 2
    return text if len(text) <= MAX_TEXT else f"{text[:half]}\n[...]\n{text[-half:]}"


def failure(
    what: str, error: str, partition: int = -1, step: int = -1, traceback: str = ""
) -> dict[str, Any]:
    """Return a failure as it stands in a `Report`; -1 where it has no one place."""
    return {
        "what": what[:100],
        "partition": partition,
        "step": step,
        "error": shortened(error),
        "traceback": shortened(traceback),
    }


EXACT_TAU = 256
"""Staleness from which on the histogram has steps of less than 1 %: reports must stay small."""


def binned(tau: int) -> int:
    """Return the staleness that stands for `tau` in the histogram: the middle of its step."""
    if tau < EXACT_TAU:
        return tau
    step = 2 << (tau.bit_length() - EXACT_TAU.bit_length())
    return tau // step * step + step // 2


class Counts:
    """Counters of a run, and the report made of them."""

    def __init__(self) -> None:
        self.totals = Totals()
        self.staleness: Counter[int] = Counter()
        self.metrics: dict[str, list[float]] = {}

    def applied(self, action: Apply) -> None:
        """Count an update that is in the model."""
        self.totals.applied += 1
        total = self.totals.examples + action.push.examples
        self.totals.examples = max(-MAX_EXAMPLES, min(total, MAX_EXAMPLES))
        self.staleness[binned(action.tau)] += 1
        add_metrics(self.metrics, action.push.metrics)

    def report(self, epoch: Epoch, missing: list[int], **standing: Any) -> Report:
        """Return the report on an epoch; `standing` are the master's fields of it."""
        return Report(
            missing=missing,
            failures=epoch.failures,
            fatal=epoch.fatal,
            **self.state(),
            **standing,
        )

    def state(self) -> dict[str, Any]:
        """Return a copy of the counters, as JSON values."""
        return {
            "totals": asdict(self.totals),
            "staleness": [[tau, count] for tau, count in sorted(self.staleness.items())],
            "metrics": {name: list(sums) for name, sums in self.metrics.items()},
        }

    def load_state(self, saved: dict[str, Any], now: float = 0.0) -> None:
        """Go on from what `state` returned."""
        for counter in fields(Totals):
            setattr(self.totals, counter.name, saved["totals"].get(counter.name, 0))
        self.staleness.clear()
        self.staleness.update({tau: count for tau, count in saved["staleness"]})
        self.metrics.clear()
        self.metrics.update({name: list(sums) for name, sums in saved["metrics"].items()})
