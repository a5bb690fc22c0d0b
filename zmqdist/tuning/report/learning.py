"""The loss against time, updates and examples: all three, or policies cannot be compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from zmqdist.tuning.outcome import Point
from zmqdist.tuning.report.findings import Findings, label
from zmqdist.tuning.report.style import INK, color, legend_below, plain_log_ticks, subplots

CAPTION = """
Each thin line is a seed, the thick one the seed with the median value. Against updates a
synchronous policy looks best, against time an asynchronous one; against examples computed,
policies that throw work away pay for it.
"""


def draw(findings: Findings) -> Any:
    """Draw the loss of a few settings over three measures of effort; None without curves."""
    shown = [cell for cell in findings.shown() if findings.outcomes(cell)]
    if not shown:
        return None
    figure, axes = subplots(1, 3, height=3.9)
    measures: tuple[tuple[str, Callable[[Point], float]], ...] = (
        (f"time ({findings.seconds})", lambda p: p.seconds),
        ("updates applied", lambda p: p.version),
        ("examples computed", lambda p: p.computed),
    )
    for axis, (name, measure) in zip(axes[0], measures, strict=True):
        for number, cell in enumerate(shown):
            middle = findings.middle(cell)
            for outcome in findings.outcomes(cell):
                points = [(measure(p), p.loss) for p in outcome.curve if np.isfinite(p.loss)]
                if not points:
                    continue
                thick = outcome is middle
                axis.plot(
                    *zip(*points, strict=True),
                    color=color(number),
                    linewidth=1.8 if thick else 0.6,
                    alpha=1.0 if thick else 0.45,
                    label=label(cell.params) if thick else None,
                )
        if findings.target is not None:
            axis.axhline(findings.target, color=INK, linewidth=0.9, linestyle=":")
        if all(np.min(line.get_ydata()) > 0 for line in axis.lines):
            axis.set_yscale("log")
            plain_log_ticks(axis.yaxis)
        axis.set(xlabel=name)
        axis.xaxis.set_major_locator(_few_ticks())
    axes[0, 0].set_ylabel("loss")
    legend_below(figure, axes[0, 0], columns=2)
    return figure


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5)
