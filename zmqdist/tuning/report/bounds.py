"""The value against the bound, and what it is made of; the learning rate against the bound."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from zmqdist.tuning.analysis import FEW_SEEDS, Cell, bound_of
from zmqdist.tuning.report.findings import Findings, bound_text, bounds_of, label
from zmqdist.tuning.report.style import (
    INK,
    category_ticks,
    color,
    legend_below,
    plain_log_ticks,
    subplots,
)

CURVE_CAPTION = f"""
Left: each dot is a seed, the line joins the medians, the band is the 95 % bootstrap interval of
the median, or with less than {FEW_SEEDS} seeds their range; triangles at the top are seeds that
never got there. Each bound is shown at its own best learning rate. The time is the number of
updates needed (middle: how much each one is worth) over the updates per second (right: how busy
the workers are).
"""

MAP_CAPTION = """
Median value for each learning rate and bound; a dot marks the best rate of each bound. Red:
at least half of the seeds diverged. Grey: not reached, or given up. The dashed line, where it
crosses the rates that were tried, is where a step on a model of that mean staleness tau becomes
unstable on a bowl with the problem's largest curvature L, lr L (tau + 1/2) = pi / 2.
"""


def draw_curve(findings: Findings) -> Any:
    """Draw the value against the bound with its two factors; None without bounds."""
    bounds = bounds_of(findings.curves)
    if len(bounds) < 2:
        return None
    figure, axes = subplots(1, 3, height=4.1)
    value, updates, rate = axes[0]
    finite = [v for curve in findings.curves for c in curve for v in c.values if math.isfinite(v)]
    top = max(finite, default=1.0)
    top += 0.6 * abs(top)
    for number, curve in enumerate(findings.curves):
        tint = color(number)
        name = label(curve[0].params, without=("bound", *findings.over))
        if curve[0].params.get("bound") is None:
            _level(value, curve[0].median, tint, f"{name} (no bound)")
            _level(updates, curve[0].median_of("updates"), tint)
            _level(rate, curve[0].median_of("updates_per_s"), tint)
            continue
        x = [bounds.index(bound_of(cell)) for cell in curve]
        intervals = [cell.interval() for cell in curve]
        value.plot(x, [_or_nan(i.median) for i in intervals], "-", color=tint, label=name)
        value.fill_between(
            x,
            [_or_nan(min(i.low, top)) for i in intervals],
            [_or_nan(min(i.high, top)) for i in intervals],
            color=tint,
            alpha=0.15,
            linewidth=0,
        )
        for at, cell in zip(x, curve, strict=True):
            reached = [v for v in cell.values if math.isfinite(v)]
            value.plot([at] * len(reached), reached, "o", color=tint, markersize=3, alpha=0.7)
            if len(reached) < len(cell.values):
                value.plot([at], [top], "^", color=tint, markersize=5)
        reached_cells = [(at, c) for at, c in zip(x, curve, strict=True) if math.isfinite(c.median)]
        for axis, fact in ((updates, "updates"), (rate, "updates_per_s")):
            points = [(at, cell.median_of(fact)) for at, cell in reached_cells]
            axis.plot(*(zip(*points, strict=True) if points else ([], [])), "o-", color=tint, ms=3)
    _mark_advice(findings, value, bounds)
    for axis, title in (
        (value, findings.value_name),
        (updates, "updates needed" if findings.target is not None else "updates"),
        (rate, f"updates per {findings.seconds}"),
    ):
        axis.set(title=title, xlabel="bound")
        category_ticks(axis, [bound_text(bound) for bound in bounds])
    if finite and min(finite) > 0:
        value.set_yscale("log")
    for axis in (updates, rate):
        axis.set_ylim(bottom=0)
    plain_log_ticks(value.yaxis)
    legend_below(figure, value, columns=2)
    return figure


def _level(axis: Any, height: float, tint: str, name: str | None = None) -> None:
    if math.isfinite(height):
        axis.axhline(height, color=tint, linestyle="--", linewidth=1.2, label=name)


def _or_nan(value: float) -> float:
    return value if math.isfinite(value) else math.nan


def _mark_advice(findings: Findings, axis: Any, bounds: list[float]) -> None:
    advice = findings.advice
    if advice is not None and advice.cell.params.get("bound") is not None:
        at = bounds.index(bound_of(advice.cell))
        axis.plot(
            [at],
            [advice.interval.median],
            "o",
            markersize=11,
            fillstyle="none",
            color=INK,
            label="recommended",
        )


def draw_map(findings: Findings) -> Any:
    """Draw the learning rate against the bound for each policy; None with a single rate."""
    groups = _maps(findings)
    if not groups:
        return None
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    width = min(10.0, 1.5 + 4.2 * columns)
    figure, axes = subplots(rows, columns, width=width, height=0.6 + 3.0 * rows)
    finite = [c.median for g in groups for c in g if math.isfinite(c.median)]
    low, high = min(finite, default=1.0), max(finite, default=1.0)
    image = None
    for axis, group in zip(axes.flat, groups, strict=False):
        image = _draw_one_map(findings, axis, group, _colors(low, high))
    for axis in axes.flat[len(groups) :]:
        axis.set_axis_off()
    if image is not None:
        bar = figure.colorbar(image, ax=axes, label=f"median {findings.value_name}", shrink=0.9)
        plain_log_ticks(bar.ax.yaxis)
    return figure


def _maps(findings: Findings) -> list[list[Cell]]:
    """Return the cells of each policy with bounds, those with several rates."""
    groups: dict[str, list[Cell]] = {}
    for cell in findings.cells:
        if cell.params.get("bound") is not None:
            key = label(cell.params, without=("bound", "lr"))
            groups.setdefault(key, []).append(cell)
    return [group for group in groups.values() if len({c.params["lr"] for c in group}) > 1][:6]


def _colors(low: float, high: float) -> Any:
    """Return the scale of a map's colours, logarithmic where values allow it."""
    from matplotlib.colors import LogNorm, Normalize

    scale = LogNorm if low > 0 else Normalize
    return scale(low, max(high, low + 0.01 * abs(low)))


def _draw_one_map(findings: Findings, axis: Any, group: list[Cell], scale: Any) -> Any:
    bounds = sorted({bound_of(cell) for cell in group})
    rates = sorted({cell.params["lr"] for cell in group})
    table = np.full((len(rates), len(bounds)), np.nan)
    diverged = np.zeros(table.shape, bool)
    taus = np.full(table.shape, np.nan)
    for cell in group:
        at = rates.index(cell.params["lr"]), bounds.index(bound_of(cell))
        table[at] = cell.median if math.isfinite(cell.median) else np.nan
        diverged[at] = 2 * cell.count("diverged") >= len(cell.trials)
        taus[at] = cell.median_of("staleness")
    axis.grid(visible=False)
    axis.set_facecolor("#d9dde1")
    image = axis.imshow(table, origin="lower", aspect="auto", cmap="viridis_r", norm=scale)
    for row, column in zip(*np.nonzero(diverged), strict=True):
        axis.add_patch(_square(row, column))
    for column in range(len(bounds)):
        if np.isfinite(table[:, column]).any():
            axis.plot([column], [np.nanargmin(table[:, column])], "o", color="white", ms=4, mec=INK)
    if findings.curvature is not None and len(rates) > 1:
        _frontier(axis, findings.curvature, rates, taus)
    category_ticks(axis, [bound_text(bound) for bound in bounds])
    axis.set_yticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    axis.set(
        xlabel="bound",
        ylabel="learning rate",
        title=label(group[0].params, without=("bound", "lr")),
    )
    return image


def _square(row: int, column: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(
        (column - 0.5, row - 0.5), 1, 1, facecolor="#d1495b", edgecolor="white", linewidth=0.5
    )


def _frontier(axis: Any, curvature: float, rates: list[float], taus: Any) -> None:
    """Draw the rate at which a staleness becomes unstable, between the rows of the map."""
    tau = np.array(
        [np.median(t[np.isfinite(t)]) if np.isfinite(t).any() else np.nan for t in taus.T]
    )
    limit = np.pi / 2 / curvature / (tau + 0.5)
    rows = np.interp(np.log(limit), np.log(rates), np.arange(len(rates)), left=np.nan, right=np.nan)
    axis.plot(np.arange(len(tau)), rows, "--", color="black", linewidth=1.2)
