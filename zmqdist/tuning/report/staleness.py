"""How stale the applied updates were, next to what theory says."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from zmqdist.tuning.report.findings import Findings, label
from zmqdist.tuning.report.style import INK, color, legend_below, subplots
from zmqdist.tuning.theory import staleness_distribution

CAPTION = """
Share of the applied updates by staleness tau, and the share that is staler (right, logarithmic:
the tail). What leaves the left figure at the top goes up to 1. Dashed: n equal workers with
exponential times and no bound, for whom tau is geometric, P(tau) = (1/n) (1 - 1/n)^tau with mean
n - 1. Whatever the times, the mean is n - 1 as long as every version is published, each worker
has one update under way and nothing is rejected.
"""


def draw(findings: Findings) -> Any:
    """Draw histogram and tail of the staleness of a few settings; None without any."""
    shown = [(cell, _histogram(findings, cell)) for cell in findings.shown()]
    shown = [(cell, histogram) for cell, histogram in shown if histogram]
    if not shown:
        return None
    figure, axes = subplots(1, 2, height=3.9)
    body, tail = axes[0]
    widest = max(_quantile(histogram, 0.995) for _, histogram in shown)
    peaks: list[float] = []
    for number, (cell, histogram) in enumerate(shown):
        taus = np.arange(max(histogram) + 1)
        shares = np.array([histogram.get(int(tau), 0) for tau in taus], float)
        shares /= shares.sum()
        mean = float(taus @ shares)
        name = f"{label(cell.params)}: mean {mean:.1f}"
        peaks.append(float(shares.max()))
        body.stairs(shares, np.arange(len(taus) + 1) - 0.5, color=color(number), label=name)
        staler = 1 - np.cumsum(shares)
        tail.step(taus, np.where(staler > 1e-12, staler, np.nan), color=color(number), where="post")
    workers = int(shown[0][0].params["workers"])
    law = staleness_distribution(workers, int(widest) + 2)
    taus = np.arange(len(law))
    body.plot(taus, law, "--", color=INK, lw=1.1, label=f"geometric, n = {workers}")
    tail.plot(taus, 1 - np.cumsum(law), "--", color=INK, lw=1.1)
    body.set_ylim(0, 1.15 * min(peaks) if max(peaks) > 4 * min(peaks) else None)
    tail.set_yscale("log")
    tail.set_ylim(bottom=1e-4)
    for axis, title in ((body, "share of updates"), (tail, "share that is staler")):
        axis.set(title=title, xlabel="staleness tau (versions)")
        axis.set_xlim(-0.5, max(2.0, widest + 0.5))
    legend_below(figure, body, columns=2)
    return figure


def _histogram(findings: Findings, cell: Any) -> Counter[int]:
    total: Counter[int] = Counter()
    for outcome in findings.outcomes(cell):
        total.update(outcome.staleness)
    return total


def _quantile(histogram: Counter[int], part: float) -> int:
    """Return the staleness that this part of the updates does not exceed."""
    taus = sorted(histogram)
    reached = np.cumsum([histogram[tau] for tau in taus])
    return taus[int(np.searchsorted(reached, part * reached[-1]))]
