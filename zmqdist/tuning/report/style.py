"""How all figures look, and matplotlib without a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zmqdist.errors import ConfigError

COLORS = ("#1f6f8b", "#d1495b", "#6a994e", "#8e6c8a", "#e09f3e", "#3d405b", "#00798c", "#9c6644")
INK = "#22303c"
FAINT = "#c9d1d9"
STYLE = {
    "axes.edgecolor": "#8a97a3",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "font.size": 9,
    "grid.color": "#e6eaee",
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "zmqdist",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def subplots(rows: int, columns: int, *, width: float = 10.0, height: float = 3.2) -> Any:
    """Return a figure and its axes as an array.

    Raises
    ------
    ConfigError
        If matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("figures need matplotlib: pip install 'zmqdist[tune]'") from None
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        return figure, figure.subplots(rows, columns, squeeze=False)


def color(number: int) -> str:
    """Return the colour of a curve by its place."""
    return COLORS[number % len(COLORS)]


def legend_below(figure: Any, axis: Any, columns: int = 3) -> None:
    """Put an axis' legend under the whole figure, where it hides nothing."""
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False
        )


def category_ticks(axis: Any, labels: Sequence[str]) -> None:
    """Name the places 0, 1, 2 ... of an axis."""
    axis.set_xticks(range(len(labels)), labels)
    axis.set_xlim(-0.5, len(labels) - 0.5)


def plain_log_ticks(axis: Any) -> None:
    """Write 30 and not 3 x 10^1 on a logarithmic axis; no effect on another."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    if axis.get_scale() == "log":
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
