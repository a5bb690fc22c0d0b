"""For other programs: trials as rows, in CSV or pandas, with Optuna's names; figures as JSON."""

from __future__ import annotations

import csv
import importlib
import json
import math
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

from zmqdist.errors import ConfigError
from zmqdist.tuning.trial import FrozenTrial

if TYPE_CHECKING:
    from zmqdist.tuning.study import Study

CURVE = ("seconds", "version", "examples", "computed", "loss")
"""Columns of the evaluations, as of `zmqdist.tuning.outcome.Point`."""


def rows(trials: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
    """Return a dict for each trial; each has every column."""
    params = dict.fromkeys(name for trial in trials for name in trial.params)
    attrs = dict.fromkeys(name for trial in trials for name in trial.user_attrs)
    return [
        {
            "number": trial.number,
            "value": trial.value,
            "datetime_start": trial.datetime_start,
            "datetime_complete": trial.datetime_complete,
            "duration": trial.duration,
            **{f"params_{name}": trial.params.get(name) for name in params},
            **{f"user_attrs_{name}": trial.user_attrs.get(name) for name in attrs},
            "state": str(trial.state),
        }
        for trial in trials
    ]


def write_csv(study: Study, stream: IO[str]) -> None:
    """Write the trials as CSV with a head; None becomes empty, infinity ``inf``, times seconds."""
    table = rows(study.trials)
    writer = csv.DictWriter(stream, list(table[0]) if table else ["number", "value", "state"])
    writer.writeheader()
    for row in table:
        duration = row["duration"]
        writer.writerow({**row, "duration": duration and duration.total_seconds()})


def write_curves(study: Study, stream: IO[str]) -> None:
    """Write the evaluations of all trials as CSV, with the settings they are of."""
    trials = study.trials
    params = list(dict.fromkeys(name for trial in trials for name in trial.params))
    writer = csv.writer(stream)
    writer.writerow(["number", *params, *CURVE])
    for trial in trials:
        outcome = study.outcome(trial.number) or {"curve": []}
        setting = [trial.params.get(name) for name in params]
        writer.writerows([trial.number, *setting, *point] for point in outcome["curve"])


def dataframe(trials: Sequence[FrozenTrial]) -> Any:
    """Return the rows as a pandas data frame.

    Raises
    ------
    ConfigError
        If pandas is not installed.
    """
    try:
        pandas = importlib.import_module("pandas")
    except ImportError:
        raise ConfigError(
            "trials_dataframe() needs pandas: pip install pandas, or export to CSV without it"
        ) from None
    return pandas.DataFrame(rows(trials))


def write_json(figures: Any, stream: IO[str]) -> None:
    """Write figures as strict JSON, which has no NaN (null) and no infinity (``"inf"``)."""
    stream.write(json.dumps(_strict(figures), indent=1, allow_nan=False) + "\n")


def _strict(figures: Any) -> Any:
    if isinstance(figures, dict):
        return {name: _strict(figure) for name, figure in figures.items()}
    if isinstance(figures, list | tuple):
        return [_strict(figure) for figure in figures]
    if isinstance(figures, float) and not math.isfinite(figures):
        return None if math.isnan(figures) else str(float(figures))
    return figures
