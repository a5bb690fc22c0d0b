"""Trials in MLflow, if it is installed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from zmqdist.errors import ConfigError
from zmqdist.tuning import GridSampler, Trial, TrialPruned, create_study
from zmqdist.tuning.mlflow import MlflowLog


def objective(trial: Trial) -> float:
    trial.report(1.0, 0.5)
    trial.report(math.nan, 1.0)
    trial.set_user_attr("ended", "target")
    trial.set_user_attr("staleness", 3.5)
    if trial.params["x"] == 2:
        raise TrialPruned
    return math.inf if trial.params["x"] else 2.0


def test_trials_are_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="pip install mlflow-skinny to test the logging")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    log = MlflowLog((tmp_path / "runs").as_uri(), "bowl")
    with create_study(sampler=GridSampler([{"x": 0}, {"x": 1}, {"x": 2}])) as study:
        study.optimize(objective, callbacks=[log])
    client = log._client
    experiment = client.get_experiment_by_name("bowl")
    runs = {run.data.params["x"]: run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == {"0", "1", "2"}
    assert runs["0"].data.metrics == {"value": 2.0, "loss": 1.0, "staleness": 3.5}
    assert "value" not in runs["1"].data.metrics
    assert [runs[x].info.status for x in "012"] == ["FINISHED", "FINISHED", "KILLED"]
    assert runs["1"].data.tags["ended"] == "target"
    (point,) = client.get_metric_history(runs["0"].info.run_id, "loss")
    assert (point.step, point.value) == (500, 1.0)
    MlflowLog((tmp_path / "runs").as_uri(), "bowl")  # the experiment is found again


def test_without_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow.tracking", None)
    with pytest.raises(ConfigError, match="--mlflow needs mlflow: pip install"):
        MlflowLog("folder", "bowl")
