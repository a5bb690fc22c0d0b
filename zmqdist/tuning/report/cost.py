"""What the workers' time went to, what more of them would bring, and who got to contribute."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from zmqdist.tuning.analysis import Cell, bound_of
from zmqdist.tuning.outcome import WAITS
from zmqdist.tuning.recommend import best_by_workers
from zmqdist.tuning.report.findings import Findings, bound_text, label
from zmqdist.tuning.report.style import FAINT, INK, category_ticks, color, legend_below, subplots
from zmqdist.tuning.theory import knee, throughput

WAITS_CAPTION = """
Share of the workers' time, for each bound at its best learning rate: computing, held back by
the policy (gate), waiting for a newer version (model), waiting for the answer to an update
(answer: network, the master's queue and its work), and everything else: coding, starting, and
steps that were under way when the trial ended.
"""

SCALING_CAPTION = """
Updates per second against workers, with mean value analysis of the master as a queue (each
worker is away for its cycle, then served); the dotted line is the knee, where the master would be
busy all the time. With a target and several numbers of workers, beside it: the speed-up of the time
to the target over one worker, as fitted, with the measured medians; shaded: more workers than
are worth their cost, where the speed-up for each falls below one half.
"""

FAIRNESS_CAPTION = """
Lorenz curves: what part of the applied examples came from the least favoured part of the
partitions. The diagonal is an equal share for all (Gini 0). A policy that rejects late updates
loses the data of slow partitions.
"""


def draw_waits(findings: Findings) -> Any:
    """Draw what the workers did with their time; None without times."""
    cells = findings.advice.curve if findings.advice else (findings.curves or [[]])[0]
    bars = [(cell, shares(findings, cell)) for cell in cells]
    bars = [(cell, parts) for cell, parts in bars if parts]
    if not bars:
        return None
    figure, axes = subplots(1, 1, height=3.4, width=8.0)
    axis = axes[0, 0]
    below = np.zeros(len(bars))
    for number, name in enumerate([*WAITS, "other"]):
        heights = np.array([parts.get(name, 0.0) for _, parts in bars])
        if heights.any():
            tint = FAINT if name == "other" else color(number)
            axis.bar(range(len(bars)), heights, bottom=below, color=tint, label=name, width=0.7)
            below += heights
    category_ticks(axis, [_bar_name(cell) for cell, _ in bars])
    axis.set(title=label(bars[0][0].params, without=("bound", "lr")), xlabel="bound")
    axis.set_ylabel("share of worker time")
    axis.set_ylim(0, 1)
    axis.grid(visible=False, axis="x")
    legend_below(figure, axis, columns=6)
    return figure


def _bar_name(cell: Cell) -> str:
    return bound_text(bound_of(cell)) if cell.params.get("bound") is not None else "none"


def shares(findings: Findings, cell: Cell) -> dict[str, float]:
    """Return the parts of the workers' time by what they did; they add up to one."""
    totals: dict[str, float] = {}
    whole = 0.0
    for outcome in findings.outcomes(cell):
        if outcome.waits_s:
            whole += outcome.seconds * int(cell.params["workers"])
            for name, seconds in outcome.waits_s.items():
                totals[name] = totals.get(name, 0.0) + seconds
    known = sum(totals.values())
    whole = max(whole, known)
    if not whole:
        return {}
    return {**{name: t / whole for name, t in totals.items()}, "other": (whole - known) / whole}


def draw_scaling(findings: Findings) -> Any:
    """Draw throughput and speed-up against the workers; None without times."""
    best = best_by_workers(findings.trials, findings.over)
    times = [(o.cycle_s, o.service_s) for c in best for o in findings.outcomes(c) if o.cycle_s]
    if not times:
        return None
    cycle_s, service_s = (float(np.median([t[i] or 0.0 for t in times])) for i in (0, 1))
    scaling = findings.scaling
    figure, axes = subplots(1, 2 if scaling else 1, height=3.6, width=9.0 if scaling else 5.5)
    measured = [int(cell.params["workers"]) for cell in best]
    at_knee = knee(cycle_s, service_s)
    most = max(measured) * 2
    if math.isfinite(at_knee):
        most = min(max(most, int(1.5 * at_knee)), max(most, 8 * max(measured)))
    n = np.unique(np.geomspace(1, max(2, most), 60).astype(int))
    rate = axes[0, 0]
    rates = [throughput(int(k), cycle_s, service_s) for k in n]
    rate.plot(n, rates, color=INK, label="queueing model")
    rate.plot(
        measured,
        [_arrivals(findings, cell) for cell in best],
        "o",
        color=color(0),
        label="measured",
    )
    if at_knee <= most:
        rate.axvline(at_knee, color=INK, linestyle=":", linewidth=1)
    rate.set(title=f"updates received per {findings.seconds}", xlabel="workers")
    rate.set_xscale("log", base=2)
    rate.set_yscale("log", base=2)
    rate.legend()
    if scaling:
        speed = axes[0, 1]
        medians = {w: c.median for w, c in zip(measured, best, strict=True)}
        known = {w: median for w, median in medians.items() if 0 < median < math.inf}
        one = known.get(1, scaling.seconds(1))
        speed.plot(n, [one / scaling.seconds(int(k)) for k in n], color=INK, label="fitted")
        speed.plot(n, n, color=FAINT, linewidth=1, label="one for each worker")
        speed.plot(
            list(known), [one / t for t in known.values()], "o", color=color(0), label="measured"
        )
        speed.set_xscale("log", base=2)
        speed.set_yscale("log", base=2)
        if scaling.worth < most:
            speed.axvspan(scaling.worth, most, color=FAINT, alpha=0.35, linewidth=0)
        speed.set(title="speed-up over one worker", xlabel="workers")
        speed.legend()
    for axis in axes.flat:
        axis.xaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_major_formatter("{x:g}")
    return figure


def _arrivals(findings: Findings, cell: Cell) -> float:
    """Return the updates per second that reached the master, rejected ones included."""
    rates = [
        (o.applied + o.rejected + o.requeued) / o.seconds
        for o in findings.outcomes(cell)
        if o.seconds
    ]
    return float(np.median(rates)) if rates else math.nan


def draw_fairness(findings: Findings) -> Any:
    """Draw the Lorenz curves of the partitions; None with a single partition."""
    shown = [(cell, findings.middle(cell)) for cell in findings.shown()]
    known = [(cell, o.by_partition) for cell, o in shown if o and len(o.by_partition) > 1]
    known = [(cell, counts) for cell, counts in known if sum(counts)]
    if not known:
        return None
    figure, axes = subplots(1, 1, width=6.0, height=4.4)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
    for number, (cell, counts) in enumerate(known):
        order = np.sort(np.array(counts, float))
        part = np.concatenate([[0.0], np.cumsum(order) / order.sum()])
        name = f"{label(cell.params)}: Gini {gini(counts):.2f}"
        axis.plot(np.linspace(0, 1, len(part)), part, color=color(number), label=name)
    axis.set(xlabel="part of the partitions, least favoured first", ylabel="part of the examples")
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    legend_below(figure, axis, columns=1)
    return figure


def gini(counts: Any) -> float:
    """Return the Gini coefficient of some counts: 0 if all are equal, towards 1 if one has all."""
    order = np.sort(np.asarray(counts, float))
    ranks = np.arange(1, len(order) + 1)
    return float(((2 * ranks - len(order) - 1) @ order) / (len(order) * order.sum()))
