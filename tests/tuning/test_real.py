"""Trials with real worker processes: how they end, and what their record says."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from zmqdist.optim import SGD
from zmqdist.tuning.catalogue import Task, bowl
from zmqdist.tuning.outcome import WAITS, Outcome, Point
from zmqdist.tuning.problems import Problem
from zmqdist.tuning.real import LocalBackend, _Seen, computed_once
from zmqdist.tuning.setting import Setting

DELAY = {"local": {"delay": {"name": "constant", "seconds": 0.01}}}


def run(problem: Problem, watch: Any, *, lr: float = 0.2, policy: str = "async") -> Outcome:
    params = {"policy": policy, "lr": lr, "chunk": 4, "workers": 2, "seed": 0}
    backend = LocalBackend(DELAY, {"max_in_flight": 1}, 2)
    return backend.run(
        problem, Setting.of(params), budget_s=60.0, evaluate_every_s=0.2, watch=watch
    )


def short(steps: int, **options: Any) -> Problem:
    """Return a quadratic whose partitions end."""
    endless = bowl(**options)

    def task(setting: Setting) -> Task:
        parts = endless.data(setting.workers, setting.seed)
        data = [list(itertools.islice(part, steps * setting.chunk)) for part in parts]
        return Task(endless.model(), data, endless.gradient, SGD(setting.lr), setting.chunk)

    return Problem(endless.model, endless.data, endless.gradient, endless.evaluate, task=task)


def test_what_the_record_says() -> None:
    points: list[Point] = []
    outcome = run(short(60), lambda point: points.append(point), policy="ssp:0")
    assert outcome.ended == "data"
    assert outcome.curve[0].version == 0
    assert outcome.curve[0].seconds == 0
    assert outcome.curve[0].computed == 0
    assert outcome.curve[-1].version == outcome.applied == 120
    assert 0 < outcome.curve[-1].examples <= outcome.curve[-1].computed == 480
    assert outcome.by_partition == [240, 240]
    assert outcome.waits_s.keys() == WAITS.keys()
    assert outcome.waits_s["compute"] > 120 * 0.01
    assert outcome.waits_s["gate"] > 0
    assert sum(outcome.waits_s.values()) < 1.2 * 2 * outcome.seconds
    assert 0 < (outcome.service_s or 0) < (outcome.cycle_s or 0)
    assert [point.version for point in points] == [point.version for point in outcome.curve]


def test_nothing_is_taken_in_after_the_target() -> None:
    seen: list[float] = []

    def watch(point: Point) -> str | None:
        seen.append(point.loss)
        return "target" if len(seen) == 2 else None

    outcome = run(bowl(), watch)
    assert outcome.ended == "target"
    assert len(seen) == len(outcome.curve) == 2


def test_the_final_model_may_reach_the_target() -> None:
    outcome = run(short(20), lambda point: "target" if point.version == 40 else None)
    assert outcome.ended == "target"


def test_in_place_what_was_sent_back_is_not_computed_again() -> None:
    decision = np.array(["requeue", "requeue", "applied", "rejected"])
    record = {"decision": decision, "examples": np.array([10, 10, 10, 5])}
    assert computed_once(record)["examples"].tolist() == [0, 0, 10, 5]


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_updates_that_are_not_finite_are_a_trial_that_diverged() -> None:
    outcome = run(short(2000), lambda point: None, lr=1e200)
    assert outcome.ended == "diverged"
    assert outcome.loss == math.inf
    assert outcome.applied > 0


def test_an_evaluation_that_outlives_its_run_is_dropped() -> None:
    seen = _Seen(lambda point: pytest.fail("it was told"), 60.0)
    seen.begin()
    seen.close()
    entry = {"seconds": 1.0, "version": 1, "examples": 1, "loss": np.float64(1.0)}
    assert seen.look(entry)
    assert seen.outcome.curve == []
