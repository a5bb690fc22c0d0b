"""What `train()` returns."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zmqdist.breakdown import Breakdown
from zmqdist.core.messages import Report
from zmqdist.errors import ConfigError

FIGURES = ("seconds", "version", "applied", "examples")
"""Where the training stood: in every entry of a history."""

TAKEN = frozenset({*FIGURES, "staleness", "evaluation_s", "max_row_norm"})
"""Names in an entry of a history that figures of `evaluate` cannot have."""

FINEST = 10_000
"""Running entries of a history are this part of the time so far apart, at least."""


@dataclass
class TrainResult:
    """What happened during one `train()`.

    Attributes
    ----------
    version : int
        The model's version at the end: updates applied since the master began.
    applied, rejected, duplicates, failed : int
        Updates applied; rejected for good as too stale; received again and not
        applied again; and tasks that failed (most were tried again).
    requeued, skipped : int
        Updates sent back to be computed again; steps whose gradient returned nothing.
    staleness : dict of int to int
        Histogram of the applied updates: staleness tau -> count; beyond 255 in steps of
        less than 1 %.
    examples : int
        Items behind the applied updates, or what `Update` said.
    seconds : float
        Wall time.
    bytes_received, bytes_published : int
        Bytes of updates as they came in; bytes of versions as they were encoded, once
        for all workers, together with the answers to pulls.
    bytes_received_decoded, bytes_published_decoded : int
        The same before coding: what compression and sparse rows saved.
    sessions, evicted : int
        Task attempts that joined, and those that fell silent beyond their lease.
    max_row_norm : float
        Largest norm of a row of a two-dimensional array, over all published versions of
        the master.
    clipped : int
        Updates scaled down to ``max_norm``.
    checkpoints, checkpoints_failed : int
        Checkpoints that were written meanwhile, and those that could not be.
    policy : dict of str to float
        What a staleness policy that adapts itself shows, as it is at the end: the ``bound``
        of ``staleness="auto"``. `history` holds it too.
    history : list of dict
        One entry about each second, and more seldom after some hours: seconds, version,
        applied, examples, max_row_norm, staleness (mean since the entry before), and the
        means of the updates' metrics. Entries of
        evaluations hold what `evaluate` returned, the version that it is of, when that
        was taken, and `evaluation_s`, the time that `evaluate` took.
    times : dict of str to float
        Where time went, in seconds: of all workers together ``compute_s``, ``encode_s``,
        ``wait_ack_s``, ``wait_gate_s``, ``wait_model_s``, ``other_s`` and ``travel_s``; of the
        master ``busy_s``, of which ``decode_s``, ``descent_s`` and ``publish_s``. See
        `zmqdist.breakdown.Breakdown`, which `breakdown` makes of them.
    stopped : str
        Why the run ended before its data did; empty if it did not.
    """

    version: int = 0
    applied: int = 0
    rejected: int = 0
    duplicates: int = 0
    failed: int = 0
    staleness: dict[int, int] = field(default_factory=dict)
    examples: int = 0
    seconds: float = 0.0
    bytes_received: int = 0
    bytes_published: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    requeued: int = 0
    skipped: int = 0
    bytes_received_decoded: int = 0
    bytes_published_decoded: int = 0
    sessions: int = 0
    evicted: int = 0
    checkpoints: int = 0
    checkpoints_failed: int = 0
    stopped: str = ""
    max_row_norm: float = 0.0
    clipped: int = 0
    policy: dict[str, float] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)

    @classmethod
    def between(cls, before: Report, after: Report, seconds: float) -> TrainResult:
        """Return the difference of two reports of one master."""
        result = cls(version=after.version, seconds=seconds)
        for name, total in after.totals.items():
            if name.endswith("_s"):
                result.times[name] = total - before.totals.get(name, 0.0)
            elif hasattr(result, name):
                setattr(result, name, int(total - before.totals.get(name, 0)))
        result.policy = dict(after.policy)
        result.max_row_norm = after.totals["max_row_norm"]  # no count: the largest so far
        earlier = {tau: count for tau, count in before.staleness}
        histogram = {tau: count - earlier.get(tau, 0) for tau, count in after.staleness}
        result.staleness = {tau: count for tau, count in histogram.items() if count}
        return result

    @property
    def due(self) -> bool:
        """Whether enough time has passed since the last running entry of the history."""
        running = (entry for entry in reversed(self.history) if "evaluation_s" not in entry)
        last = next(running, {"seconds": -1.0})["seconds"]
        return self.seconds - last >= self.seconds / FINEST

    def note(self, entry: dict[str, float]) -> None:
        """Put an entry where it belongs in the history: an evaluation may be of long ago."""
        insort(self.history, entry, key=lambda entry: entry["seconds"])

    @property
    def staleness_mean(self) -> float:
        """Mean staleness of the applied updates, in versions; 0 without any."""
        total = sum(tau * count for tau, count in self.staleness.items())
        return total / max(1, sum(self.staleness.values()))

    @property
    def breakdown(self) -> Breakdown:
        """Where time went, what that allows at most, and what would help."""
        updates = self.applied + self.rejected + self.requeued + self.skipped
        examples = self.examples * updates // max(1, self.applied)  # others are taken for as large
        return Breakdown(self.seconds, updates, examples, **self.times)

    @property
    def evaluations(self) -> list[dict[str, float]]:
        """The entries of `history` that evaluations made: the learning curve."""
        return [entry for entry in self.history if "evaluation_s" in entry]

    def summary(self) -> str:
        """Return a table of what happened, for people."""
        rows = [
            ("updates applied", f"{self.applied:,}"),
            ("rejected as too stale", f"{self.rejected:,}"),
            ("sent back to be recomputed", f"{self.requeued:,}"),
            ("duplicates not applied again", f"{self.duplicates:,}"),
            ("empty steps", f"{self.skipped:,}"),
            ("failed tasks", f"{self.failed:,}"),
            ("model version", f"{self.version:,}"),
            ("examples", f"{self.examples:,} ({self.examples / (self.seconds or 1):,.0f} /s)"),
            ("staleness", f"mean {self.staleness_mean:.2f}, max {max(self.staleness, default=0)}"),
            ("received", _saved(self.bytes_received, self.bytes_received_decoded)),
            ("published", _saved(self.bytes_published, self.bytes_published_decoded)),
            ("longest row", f"{self.max_row_norm:,.4g}"),
            ("seconds", f"{self.seconds:.1f}"),
        ]
        rows += [(name.replace("_", " "), self._course(name)) for name in self.policy]
        if self.stopped:
            rows.append(("stopped early", self.stopped))
        for name, value in judged(self.evaluations[-1] if self.evaluations else {}).items():
            rows.append((name, f"{value:.4g} at version {self.evaluations[-1]['version']:,}"))
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        return "\n".join([*lines, *self._histogram(), *self.breakdown.lines()])

    def _course(self, name: str) -> str:
        """Say how a figure of the policy has moved."""
        values = [entry[name] for entry in self.history if name in entry]
        now = f"{self.policy[name]:,.4g}"
        return f"{now}, from {min(values):,.4g} to {max(values):,.4g}" if values else now

    def _histogram(self, width: int = 40) -> list[str]:
        """Return bars of the staleness histogram, at most ten."""
        if not self.staleness:
            return []
        step = -(-(max(self.staleness) + 1) // 10)
        bins: dict[int, int] = {}
        for tau, count in self.staleness.items():
            bins[tau // step] = bins.get(tau // step, 0) + count
        most = max(bins.values())
        lines = ["staleness of the applied updates:"]
        for index in range(max(bins) + 1):
            count = bins.get(index, 0)
            low, high = index * step, (index + 1) * step - 1
            label = f"{low}" if step == 1 else f"{low}-{high}"
            lines.append(f"  {label:>9} {count:>8,} {'#' * round(width * count / most)}")
        return lines

    def plot(self, *, over: str = "version") -> Any:
        """Draw the learning curve: evaluations and metrics; and the staleness.

        Parameters
        ----------
        over : {"version", "examples", "seconds"}, default="version"
            What the curves are drawn over.

        Returns
        -------
        matplotlib.figure.Figure
            One curve for each figure of `evaluate` and for each metric; without any,
            the examples. A bar for each staleness comes last.

        Raises
        ------
        ConfigError
            If matplotlib is not installed, or `over` is none of these.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ConfigError("plot() needs matplotlib: pip install 'zmqdist[plot]'") from None
        if over not in _AXES:
            raise ConfigError(f"over is {over!r}; expected one of {', '.join(_AXES)}")
        evaluations = self.evaluations
        others = [entry for entry in self.history if "evaluation_s" not in entry]
        curves = [(name, evaluations, "o-") for name in _names(evaluations)]
        curves += [(name, others, "-") for name in _names(others)]
        curves = curves or [("examples", others, "-")]
        figure = Figure(figsize=(9, 3 + 2 * len(curves)), layout="constrained")
        axes = figure.subplots(len(curves) + 1, 1, squeeze=False)[:, 0]
        for axis, (name, entries, style) in zip(axes, curves, strict=False):
            points = [(entry[over], entry[name]) for entry in entries if name in entry]
            axis.plot(*zip(*points, strict=True) if points else ([], []), style)
            axis.set(xlabel=_AXES[over], ylabel=name)
        axes[-1].bar(list(self.staleness), list(self.staleness.values()))
        axes[-1].set(xlabel="staleness (versions)", ylabel="applied updates")
        return figure


_AXES = {"version": "version (applied updates)", "examples": "examples", "seconds": "seconds"}


def judged(entry: Mapping[str, float]) -> dict[str, float]:
    """Return what an entry holds besides where the training stood."""
    return {name: value for name, value in entry.items() if name not in TAKEN}


def _names(entries: Iterable[Mapping[str, float]]) -> list[str]:
    return sorted({name for entry in entries for name in judged(entry)})


def _saved(coded: int, decoded: int) -> str:
    text = f"{coded / 1e6:,.1f} MB"
    if decoded > coded:
        text += f", {decoded / 1e6:,.1f} MB before coding: {1 - coded / decoded:.0%} saved"
    return text


class Means:
    """Means of what reports sum up, from one look to the next.

    Parameters
    ----------
    before : Report
        Where they begin.
    """

    def __init__(self, before: Report) -> None:
        self._last = self._sums(before)

    def since(self, report: Report) -> dict[str, float]:
        """Return the means since the last call, by name; of what has not come, none."""
        last, self._last = self._last, self._sums(report)
        nothing = [0.0, 0.0]
        return {
            name: (total - last.get(name, nothing)[0]) / (count - last.get(name, nothing)[1])
            for name, (total, count) in self._last.items()
            if count > last.get(name, nothing)[1]
        }

    @staticmethod
    def _sums(report: Report) -> dict[str, list[float]]:
        staleness = sum(tau * count for tau, count in report.staleness)
        applied = sum(count for _, count in report.staleness)
        return {"staleness": [staleness, applied], **report.metrics}
