"""Tables for the terminal: the trials of a study, live while it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from zmqdist.errors import ConfigError
from zmqdist.tuning.report.findings import bound_text
from zmqdist.tuning.setting import family
from zmqdist.tuning.study import Study
from zmqdist.tuning.trial import FrozenTrial, TrialState

DRAW_S = 0.5
"""Between two drawings, in seconds."""

SHOWN = 15
"""Trials in a table, the newest ones."""

COLUMNS = (
    *("trial", "policy", "bound", "lr", "workers", "chunk", "merge", "seed"),
    *("state", "value", "loss", "at", "staleness", "took"),
)


def console(stream: Any = None) -> Any:
    """Return rich's console.

    Raises
    ------
    ConfigError
        If rich is not installed.
    """
    try:
        from rich.console import Console
    except ImportError:
        raise ConfigError("zmqdist-tune needs rich: pip install 'zmqdist[tune]'") from None
    found = Console(file=stream)
    return found if found.is_terminal else Console(file=stream, width=140)


def status_table(study: Study) -> Any:
    """Return the newest trials and how far the study is, as rich draws it."""
    from rich.table import Table
    from rich.text import Text

    trials = study.trials
    table = Table(title=headline(study, trials), title_justify="left", expand=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("policy", "state") else "right")
    for trial in trials[-SHOWN:]:
        table.add_row(*cells_of(trial), style=_style(trial))
    return table if trials else Text(headline(study, trials))


def headline(study: Study, trials: Sequence[FrozenTrial]) -> str:
    """Return how far a study is, in one line."""
    done = sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
    size = study.settings.get("size")
    at_most = "at most " if study.settings.get("search") == "halving" else ""
    counts = {state: sum(trial.state is state for trial in trials) for state in TrialState}
    text = f"{study.name}: {done} of {at_most}{size or '?'} trials done"
    for state in (TrialState.RUNNING, TrialState.PRUNED, TrialState.FAIL):
        if counts[state]:
            text += f", {counts[state]} {state.lower()}"
    diverged = sum(trial.user_attrs.get("ended") == "diverged" for trial in trials)
    if diverged:
        text += f", {diverged} diverged"
    finite = [t for t in trials if t.value is not None and math.isfinite(t.value)]
    if finite:
        best = min(finite, key=lambda trial: trial.value or 0.0)
        text += f"; best {best.value:.4g} in trial {best.number}"
    took = [trial.duration.total_seconds() for trial in trials if trial.duration is not None]
    if took and size and done < size and counts[TrialState.RUNNING]:
        text += f"; about {_span((size - done) * sum(took) / len(took))} left"
    return text


def cells_of(trial: FrozenTrial) -> list[str]:
    """Return a trial's row."""
    params = trial.params
    steps = trial.intermediate_values
    bound = params.get("bound")
    tau = trial.user_attrs.get("staleness")
    ended = trial.user_attrs.get("ended")
    state = trial.state.lower() if ended in (None, "pruned") else f"{trial.state.lower()} ({ended})"
    if trial.state is TrialState.FAIL:
        state = f"fail: {trial.user_attrs.get('error', '')}"[:60]
    value = "" if trial.value is None else f"{trial.value:.4g}"
    return [
        str(trial.number),
        family(str(params.get("policy", ""))),
        "" if bound is None else bound_text(float(bound)),
        f"{params['lr']:g}" if "lr" in params else "",
        *(str(params.get(name) or "") for name in ("workers", "chunk", "merge")),
        str(params.get("seed", "")),
        state,
        "never" if value == "inf" else value,
        f"{trial.last_value:.4g}" if steps else "",
        f"{max(steps):.4g}" if steps else "",
        "" if tau is None else f"{tau:.1f}",
        _took(trial),
    ]


def _took(trial: FrozenTrial) -> str:
    if trial.duration is not None:
        return _span(trial.duration.total_seconds())
    if trial.datetime_start is None:
        return ""
    return _span((datetime.now(UTC) - trial.datetime_start).total_seconds())


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _style(trial: FrozenTrial) -> str:
    if trial.state is TrialState.RUNNING:
        return "bold"
    return {TrialState.FAIL: "red", TrialState.PRUNED: "dim"}.get(trial.state, "")


class LiveTable:
    """Shows a study while it runs: a table that is drawn anew, or a line for each trial.

    Parameters
    ----------
    study : Study
    stream : file
        Where to; lines unless it is a terminal.
    """

    def __init__(self, study: Study, stream: Any) -> None:
        self._study = study
        self._console = console(stream)
        self._live: Any = None
        self._next_at = 0.0

    def __enter__(self) -> LiveTable:
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._console, auto_refresh=False, transient=False)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._next_at = 0.0
            self.draw()
            self._live.stop()

    def show(self, line: str) -> None:
        """Write a line, unless there is a table that says it."""
        if self._live is None:
            self._console.print(line, highlight=False, soft_wrap=True)

    def draw(self) -> None:
        """Draw the table anew, on a terminal and not more often than people look."""
        now = time.monotonic()
        if self._live is not None and now >= self._next_at:
            self._next_at = now + DRAW_S
            self._live.update(status_table(self._study), refresh=True)

    def trial_done(self, study: Study, trial: FrozenTrial) -> None:
        """Show a trial that has ended; a callback of `Study.optimize`."""
        if self._live is not None:
            self.draw()
            return
        row = dict(zip(COLUMNS, cells_of(trial), strict=True))
        self.show(", ".join(f"{name} {value}" for name, value in row.items() if value))
