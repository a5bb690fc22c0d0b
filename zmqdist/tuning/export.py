"""Trials as rows: a list of dicts, CSV, a pandas data frame. Columns have Optuna's names."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Sequence
from typing import IO, Any

from zmqdist.errors import ConfigError
from zmqdist.tuning.trial import FrozenTrial


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


def write_csv(trials: Sequence[FrozenTrial], stream: IO[str]) -> None:
    """Write the rows as CSV with a head; None becomes empty, infinity ``inf``."""
    table = rows(trials)
    writer = csv.DictWriter(stream, list(table[0]) if table else ["number", "value", "state"])
    writer.writeheader()
    for row in table:
        duration = row.get("duration")
        writer.writerow({**row, "duration": duration and duration.total_seconds()})


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
