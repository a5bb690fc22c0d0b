"""The report: one HTML page with everything in it, and the figures as PNG files."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from zmqdist import __version__
from zmqdist.errors import ConfigError
from zmqdist.tuning.analysis import FEW_SEEDS, Cell, Interval
from zmqdist.tuning.report import bounds, cost, learning, staleness
from zmqdist.tuning.report.findings import Findings, bound_text, json_settings
from zmqdist.tuning.report.style import STYLE
from zmqdist.tuning.setting import family
from zmqdist.tuning.study import Study
from zmqdist.tuning.words import explain

DPI = 130
"""Of the PNG files."""


@dataclass(frozen=True)
class Section:
    """One figure of the report."""

    name: str
    title: str
    caption: str
    draw: Callable[[Findings], Any]


SECTIONS = (
    Section("bounds", "How much staleness", bounds.CURVE_CAPTION, bounds.draw_curve),
    Section("learning", "Learning curves", learning.CAPTION, learning.draw),
    Section("rates", "Learning rate and bound", bounds.MAP_CAPTION, bounds.draw_map),
    Section("staleness", "Staleness", staleness.CAPTION, staleness.draw),
    Section("waits", "What the workers did", cost.WAITS_CAPTION, cost.draw_waits),
    Section("workers", "How many workers", cost.SCALING_CAPTION, cost.draw_scaling),
    Section("fairness", "Whose data was used", cost.FAIRNESS_CAPTION, cost.draw_fairness),
)


def write_report(study: Study, path: str | Path, figures: str | Path | None = None) -> list[Path]:
    """Write the report of a study.

    Parameters
    ----------
    study : Study
    path : path
        The HTML page; figures are in it.
    figures : path, optional
        Folder for the figures as PNG files; made if it is missing.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    ConfigError
        If matplotlib or scipy is not installed.
    """
    try:
        from matplotlib import rc_context
    except ImportError:
        raise ConfigError("the report needs matplotlib: pip install 'zmqdist[tune]'") from None
    findings = Findings(study)
    written: list[Path] = []
    sections: list[str] = []
    for section in SECTIONS:
        with rc_context(STYLE):
            figure = section.draw(findings)
            if figure is None:
                continue
            sections.append(_section(section, figure))
            if figures is not None:
                Path(figures).mkdir(parents=True, exist_ok=True)
                file = Path(figures) / f"{section.name}.png"
                figure.savefig(file, dpi=DPI)
                written.append(file)
    page = Path(path)
    page.write_text(_page(findings, sections), encoding="utf-8")
    return [page, *written]


def _section(section: Section, figure: Any) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    data = base64.b64encode(stream.getvalue().encode()).decode()
    return (
        f'<section id="{section.name}"><h2>{html.escape(section.title)}</h2>'
        f'<img alt="{html.escape(section.title)}" src="data:image/svg+xml;base64,{data}">'
        f"<p>{html.escape(section.caption.strip())}</p></section>"
    )


def _page(findings: Findings, sections: Sequence[str]) -> str:
    style = resources.files("zmqdist.tuning.report").joinpath("page.css").read_text("utf-8")
    advice = "".join(f"<p>{html.escape(line)}</p>" for line in explain(findings))
    settings = html.escape(json.dumps(json_settings(findings.settings), indent=1))
    head = html.escape(findings.name)
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{head}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style></head><body><main>"
        f"<h1>{head}</h1><p class='facts'>{_goal(findings)}</p>"
        f'<section id="advice" class="advice"><h2>Recommendation</h2>{advice}</section>'
        f"{''.join(sections)}"
        f'<section id="settings"><h2>All settings</h2>{_table(findings)}</section>'
        f"<details><summary>What was run</summary><pre>{settings}</pre></details>"
        f"<footer>zmqdist {__version__}</footer></main></body></html>\n"
    )


def _goal(findings: Findings) -> str:
    settings = findings.settings
    goal = "" if findings.target is None else f"Target: loss {findings.target:g}, "
    budget = f"at most {settings.get('budget_s', math.nan):g} {findings.seconds} a trial"
    where = f"problem {settings.get('problem')}, backend {settings.get('backend')}"
    trials = f"{len(findings.trials)} trials: {findings.counts()}"
    return html.escape(f"{trials}. {goal}{budget}; {where}.")


COLUMNS = (
    "policy",
    "bound",
    "lr",
    "workers",
    "chunk",
    "merge",
    "seeds",
    "median",
    "interval",
    "updates",
    "updates/s",
    "staleness",
    "applied",
    "ended by",
)


def _table(findings: Findings) -> str:
    best = {cell.key for curve in findings.curves for cell in curve}
    chosen = findings.advice.cell.key if findings.advice else None
    rows = []
    for cell in sorted(findings.cells, key=lambda cell: cell.median):
        kind = "chosen" if cell.key == chosen else "best" if cell.key in best else ""
        data = "".join(f"<td>{html.escape(text)}</td>" for text in _row(cell))
        rows.append(f'<tr class="{kind}">{data}</tr>')
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    return (
        f"<div class='wide'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        "<p>By median value. Bold: the best learning rate of its bound; shaded: recommended. The "
        f"interval is that of the median, 95 %; with less than {FEW_SEEDS} seeds it would be too "
        "narrow, and their range stands there.</p>"
    )


def _row(cell: Cell) -> list[str]:
    params = cell.params
    bound = params.get("bound")
    ends = sorted({str(trial.user_attrs.get("ended", "?")) for trial in cell.trials})
    return [
        family(str(params["policy"])),
        "" if bound is None else bound_text(float(bound)),
        f"{params['lr']:g}",
        str(params["workers"]),
        str(params["chunk"]),
        str(params.get("merge") or ""),
        str(len(cell.trials)),
        number(cell.median),
        _range(cell.interval()),
        number(cell.median_of("updates")),
        number(cell.median_of("updates_per_s")),
        number(cell.median_of("staleness")),
        f"{cell.median_of('accepted'):.0%}",
        ", ".join(f"{end} {cell.count(end)}" for end in ends),
    ]


def number(value: float) -> str:
    """Return a figure for people: three digits, or a word for infinity."""
    if math.isnan(value):
        return ""
    return (
        "never" if math.isinf(value) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    )


def _range(interval: Interval) -> str:
    if interval.kind is None:
        return ""
    kind = "" if interval.tells else f"{interval.kind} "
    return f"{kind}{number(interval.low)} - {number(interval.high)}"
