"""Trials as Spark jobs."""

import pytest

from zmqdist.errors import ConfigError
from zmqdist.tuning.design import Design
from zmqdist.tuning.outcome import Outcome
from zmqdist.tuning.real import SparkBackend
from zmqdist.tuning.running import open_study, run_study

pytestmark = pytest.mark.spark

DESIGN = {
    "problem": "quadratic",
    "backend": "spark",
    "target": 0.2,
    "budget_s": 60,
    "evaluate_every_s": 0.5,
    "grid": {"policy": "bounded:0:requeue", "lr": 0.2, "chunk": 4, "workers": 2},
    "options": {"max_in_flight": 1},
    "spark": {"delay": {"name": "exponential", "mean_s": 0.02}},
}


class Shared(SparkBackend):
    """Leaves the session to the other tests."""

    def close(self):
        pass


def test_a_study_on_spark(sc, tmp_path):
    design = Design.of(DESIGN)
    backend = Shared(design.tables, design.options, 2)
    with open_study(design, tmp_path / "s.db") as study:
        run_study(design, study, backend=backend)
        (trial,) = study.trials
        outcome = Outcome.from_dict(study.outcome(0))
    assert outcome.ended == "target"
    assert trial.value == outcome.curve[-1].seconds > 0
    assert outcome.applied > 10
    assert outcome.staleness == {0: outcome.applied}, "the bound was not kept"


def test_more_workers_than_slots(sc, tmp_path):
    design = Design.of({**DESIGN, "grid": {**DESIGN["grid"], "workers": 64}})
    backend = Shared(design.tables, design.options, 64)
    with (
        open_study(design, tmp_path / "s.db") as study,
        pytest.raises(ConfigError, match="Spark has 4 slots for 64 workers"),
    ):
        run_study(design, study, backend=backend)
