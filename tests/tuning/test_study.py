"""Studies: ask and tell, resuming, what ends a trial, what comes out."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqdist.errors import ConfigError, StudyError, TrialPruned
from zmqdist.tuning import (
    FrozenTrial,
    GridSampler,
    HalvingSampler,
    Pruner,
    Study,
    Trial,
    TrialState,
    create_study,
    load_study,
    product_of,
)
from zmqdist.tuning.export import rows, write_csv
from zmqdist.tuning.trial import Params, key_of

COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


def study_of(n: int = 3, **options: Any) -> Study:
    return create_study(sampler=GridSampler(product_of({"x": list(range(n))})), **options)


# ---- ask and tell ------------------------------------------------------------------------------


def test_ask_and_tell() -> None:
    with study_of(2) as study:
        trial = study.ask()
        assert trial is not None
        assert (trial.number, trial.params) == (0, {"x": 0, "seed": 0})
        trial.report(0.5, 1.0)
        trial.report(0.4, 2.0)
        trial.report(0.3, 2.0)
        trial.set_user_attr("tau", [1, 2])
        study.tell(trial, 3.0, outcome={"curve": [1, math.inf]})
        frozen = study.trial(0)
        assert (frozen.state, frozen.value, frozen.last_value) == (COMPLETE, 3.0, 0.3)
        assert frozen.intermediate_values == {1.0: 0.5, 2.0: 0.3}
        assert frozen.user_attrs == {"tau": [1, 2]}
        assert study.outcome(0) == {"curve": [1, math.inf]}
        assert study.outcome(1) is None
        assert frozen.duration is not None
        assert frozen.duration.total_seconds() >= 0
        second = study.ask()
        assert second is not None
        assert second.params == {"x": 1, "seed": 0}
        study.tell(second.number, state=PRUNED)
        assert study.ask() is None


@pytest.mark.parametrize(
    ("value", "state"),
    [(None, COMPLETE), (1.0, PRUNED), (1.0, FAIL), (None, TrialState.RUNNING)],
)
def test_tell_checks(value: float | None, state: TrialState) -> None:
    with study_of(1) as study:
        trial = study.ask()
        assert trial is not None
        with pytest.raises(StudyError, match=r"trial 0: value .* with state"):
            study.tell(trial, value, state)
        study.tell(trial, 1.0)
        with pytest.raises(StudyError, match="trial 0 is not running"):
            study.tell(trial, 2.0)
        assert study.best_value == 1.0


def test_what_diverged_counts_as_infinite() -> None:
    values = iter([math.nan, math.inf, 2.0])
    with study_of(3) as study:
        study.optimize(lambda trial: next(values), n_trials=2)
        assert [t.value for t in study.trials] == [math.inf, math.inf]
        with pytest.raises(StudyError, match="none of its 2 complete trials has a finite value"):
            _ = study.best_trial
        study.optimize(lambda trial: next(values))
        assert study.best_params == {"x": 2, "seed": 0}
        assert study.best_trial.number == 2


def test_reports_have_a_time() -> None:
    with study_of() as study:
        trial = study.ask()
        assert trial is not None
        with pytest.raises(StudyError, match="step is nan"):
            trial.report(1.0, math.nan)
        trial.report(math.nan, 1.0)
        assert study.trials[0].intermediate_values == {1.0: math.inf}


def test_enqueued_trials_come_first() -> None:
    with study_of(2) as study:
        study.enqueue_trial({"x": 1, "seed": 0})
        study.enqueue_trial({"x": 7})
        study.enqueue_trial({"x": 7}, skip_if_exists=True)
        study.optimize(lambda trial: trial.params["x"])
        assert [t.params["x"] for t in study.trials] == [1, 7, 0]


# ---- optimize ------------------------------------------------------------------------------------


def test_pruned_failed_and_interrupted() -> None:
    def objective(trial: Trial) -> float:
        if trial.params["x"] == 0:
            raise TrialPruned
        if trial.params["x"] == 1:
            raise ValueError("no such file")
        if trial.params["x"] == 2:
            raise KeyboardInterrupt
        return 5.0

    seen = []
    with study_of(4) as study:
        with pytest.raises(KeyboardInterrupt):
            study.optimize(
                objective, catch=(ValueError,), callbacks=[lambda s, t: seen.append(t.state)]
            )
        assert seen == [PRUNED, FAIL]
        errors = [t.user_attrs.get("error") for t in study.trials]
        assert errors == [None, "ValueError: no such file", "KeyboardInterrupt"]
        study.optimize(lambda trial: 4.0)
        assert [t.params["x"] for t in study.trials] == [0, 1, 2, 3]
        assert study.retry_failed() == 2
        study.optimize(lambda trial: 4.0)
        assert [t.params["x"] for t in study.trials] == [0, 1, 2, 3, 1, 2]
        assert study.retry_failed() == 0
        study.enqueue_trial({"x": 9})
        with pytest.raises(ZeroDivisionError):
            study.optimize(lambda trial: 1 / 0)
        assert study.trials[-1].state is FAIL


def test_limits() -> None:
    with study_of(5) as study:
        study.optimize(lambda trial: 1.0, n_trials=2)
        assert len(study.trials) == 2
        study.optimize(lambda trial: 1.0, timeout=0.0)
        assert len(study.trials) == 2


def test_the_pruner_is_asked() -> None:
    class Never(Pruner):
        def prune(self, trial: FrozenTrial, trials: Any) -> bool:
            assert trials[trial.number] == trial
            return trial.params["x"] == 1 and trial.last_value > 0.5

    def objective(trial: Trial) -> float:
        for step, loss in enumerate((0.4, 0.6)):
            trial.report(loss, step)
            if trial.should_prune():
                raise TrialPruned
        return 1.0

    with study_of(2, pruner=Never()) as study:
        study.optimize(objective)
        assert [t.state for t in study.trials] == [COMPLETE, PRUNED]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.booleans())
def test_a_study_goes_on_where_it_stopped(stops: list[int], halving: bool) -> None:
    """However often it is stopped, the same trials are run as without a stop."""
    axes = product_of({"bound": [0, 2, math.inf], "lr": [0.1, 0.2, 0.3]})

    def sampler() -> GridSampler:
        if halving:
            return HalvingSampler(axes, range(3), over=["lr"])
        return GridSampler(axes, range(3))

    def value(trial: Trial) -> float:
        return hash(key_of(trial.params)) % 97

    with create_study(sampler=sampler()) as whole:
        whole.optimize(value)
        expected = [(t.params, t.value) for t in whole.trials]
    with create_study(sampler=sampler()) as study:
        for stop in stops:
            study.sampler = sampler()
            study.optimize(value, n_trials=stop)
        study.optimize(value)
        assert [(t.params, t.value) for t in study.trials] == expected


# ---- samplers ------------------------------------------------------------------------------------


def run(sampler: GridSampler, value: Any) -> list[Params]:
    with create_study(sampler=sampler) as study:
        study.optimize(lambda trial: value(trial.params))
        return [trial.params for trial in study.trials]


def test_grid_tries_all_once_seed_by_seed() -> None:
    axes = product_of({"bound": [0, 4], "lr": [0.1, 0.2]})
    tried = run(GridSampler(axes, [7, 8]), lambda params: 1.0)
    assert tried == [{**setting, "seed": seed} for seed in (7, 8) for setting in axes]


def test_halving_keeps_the_best_of_each_competition() -> None:
    axes = product_of({"bound": [0, 4], "lr": [1, 2, 3, 4, 5, 6, 7]})
    sampler = HalvingSampler(axes, range(5), over=["lr"], eta=3)
    assert sampler.rungs() == [1, 3, 5]
    best = {0: 2, 4: 6}
    tried = run(sampler, lambda p: abs(p["lr"] - best[p["bound"]]))
    count = {key_of(s): sum(key_of(t, ("seed",)) == key_of(s) for t in tried) for s in axes}
    for bound in (0, 4):
        by_lr = {lr: count[key_of({"bound": bound, "lr": lr})] for lr in range(1, 8)}
        assert by_lr[best[bound]] == 5
        assert sorted(by_lr.values()) == [1, 1, 1, 1, 3, 3, 5]
        assert all(abs(lr - best[bound]) <= 1 for lr, n in by_lr.items() if n >= 3)


def test_halving_ranks_by_the_last_report_where_nothing_reached_the_target() -> None:
    axes = product_of({"lr": [1, 2, 3]})
    with create_study(sampler=HalvingSampler(axes, range(3), over=["lr"])) as study:

        def objective(trial: Trial) -> float:
            trial.report({1: 0.9, 2: 0.5, 3: math.inf}[trial.params["lr"]], 1.0)
            return math.inf

        study.optimize(objective)
        assert [t.params["lr"] for t in study.trials] == [1, 2, 3, 2, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GridSampler(product_of({"x": []})), "the grid is empty"),
        (lambda: GridSampler([{"x": 1}], []), "the grid is empty"),
        (lambda: GridSampler([{"x": 1}, {"x": 1}]), "same setting twice"),
        (lambda: GridSampler([{"x": 1}], [3, 3]), r"a seed twice: \[3, 3\]"),
        (lambda: HalvingSampler([{"x": 1}], over=["y"]), r"over is \['y'\]; expected parameters"),
        (lambda: HalvingSampler([{"x": 1}], over=[]), r"over is \[\]"),
        (lambda: HalvingSampler([{"x": 1}], over=["x"], eta=1), "eta is 1; expected"),
    ],
)
def test_impossible_grids(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


# ---- what comes out ------------------------------------------------------------------------------


def test_rows_csv_and_data_frame_agree(tmp_path: Path) -> None:
    with study_of(3, storage=tmp_path / "s.db") as study:
        values = iter([1.5, math.inf])
        study.optimize(lambda trial: next(values), n_trials=2)
        trial = study.ask()
        assert trial is not None
        trial.set_user_attr("why", "because")
        study.tell(trial, state=PRUNED)
    with load_study(storage=tmp_path / "s.db") as study:
        frame = study.trials_dataframe()
        table = rows(study.trials)
        text = io.StringIO()
        write_csv(study, text)
    assert list(frame["value"].fillna(-1)) == [1.5, math.inf, -1]
    assert list(frame["state"]) == [row["state"] for row in table]
    assert list(frame.columns) == list(table[0])
    read = list(csv.DictReader(io.StringIO(text.getvalue())))
    assert [row["value"] for row in read] == ["1.5", "inf", ""]
    assert [row["params_x"] for row in read] == ["0", "1", "2"]
    assert [row["user_attrs_why"] for row in read] == ["", "", "because"]
    assert all(float(row["duration"]) >= 0 for row in read)
    assert np.isinf(float(read[1]["value"]))
