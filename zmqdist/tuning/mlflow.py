"""Trials as runs of an MLflow tracking server."""

from __future__ import annotations

import importlib
import math
from typing import Any

from zmqdist.errors import ConfigError
from zmqdist.tuning.study import Study
from zmqdist.tuning.trial import FrozenTrial, TrialState

BATCH = 1000
"""Most metrics that one request may carry."""

STATES = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}


class MlflowLog:
    """Logs each trial that ends as a run: setting, loss curve, what came out.

    A callback of `Study.optimize`. The experiment has the study's name. Steps of the curve
    are milliseconds, since MLflow takes whole numbers only. MLflow has no infinite metrics: a
    trial without a finite value has the tag ``ended`` and no ``value``.

    Parameters
    ----------
    uri : str
        Of the tracking server, or a folder.
    experiment : str
        Made if it is missing.

    Raises
    ------
    ConfigError
        If mlflow is not installed.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        try:
            tracking = importlib.import_module("mlflow.tracking")
            self._entities: Any = importlib.import_module("mlflow.entities")
        except ImportError:
            raise ConfigError("--mlflow needs mlflow: pip install mlflow-skinny") from None
        self._client: Any = tracking.MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(experiment)
        self._experiment: str = (
            self._client.create_experiment(experiment) if found is None else found.experiment_id
        )

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        """Log a trial that has ended."""
        started = _ms(trial.datetime_start)
        run = self._client.create_run(
            self._experiment,
            start_time=started,
            run_name=f"{study.name} {trial.number}",
            tags={
                "trial": str(trial.number),
                "state": str(trial.state),
                **{name: str(v) for name, v in trial.user_attrs.items() if isinstance(v, str)},
            },
        )
        entities = self._entities
        params = [entities.Param(name, str(value)) for name, value in trial.params.items()]
        facts = {"value": trial.value, **trial.user_attrs}
        at_end = _ms(trial.datetime_complete) or 0
        metrics = [
            entities.Metric(name, float(value), at_end, 0)
            for name, value in facts.items()
            if isinstance(value, int | float) and math.isfinite(value) and name != "loss"
        ]
        metrics += [
            entities.Metric("loss", value, (started or 0) + round(1000 * step), round(1000 * step))
            for step, value in trial.intermediate_values.items()
            if math.isfinite(value)
        ]
        run_id = run.info.run_id
        self._client.log_batch(run_id, params=params)
        for at in range(0, len(metrics), BATCH):
            self._client.log_batch(run_id, metrics=metrics[at : at + BATCH])
        self._client.set_terminated(run_id, STATES[trial.state], _ms(trial.datetime_complete))


def _ms(time: Any) -> int | None:
    return None if time is None else round(1000 * time.timestamp())
