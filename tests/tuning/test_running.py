"""Designs, run on a backend with a known answer: values, ends, interruptions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tuning.fake import FakeBackend
from zmqdist.errors import ConfigError, StorageError, StudyError
from zmqdist.tuning import Study, TrialState
from zmqdist.tuning.design import Design
from zmqdist.tuning.outcome import Outcome, Point
from zmqdist.tuning.recommend import recommend
from zmqdist.tuning.running import open_study, run_study

DESIGN: dict[str, Any] = {
    "name": "fake",
    "problem": "tests.tuning.fake:bowl",
    "target": 0.3,
    "budget_s": 60,
    "evaluate_every_s": 0.5,
    "search": {"prune": False},
    "grid": {
        "policy": ["bounded:{bound}", "async"],
        "bound": [0, 2, 16],
        "lr": [0.05, 0.1, 2.0],
        "chunk": 8,
        "workers": 16,
        "seeds": 2,
    },
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.db"


def design(**changes: Any) -> Design:
    return Design.of({**DESIGN, **changes})


def grid(**changes: Any) -> dict[str, Any]:
    return {**DESIGN["grid"], **changes}


@pytest.fixture
def done(path: Path) -> Iterator[Study]:
    with open_study(design(), path) as study:
        run_study(design(), study, backend=FakeBackend())
        yield study


def test_values_are_times_to_the_target(done: Study) -> None:
    reached = [t for t in done.trials if t.user_attrs["ended"] == "target"]
    assert reached
    for trial in reached:
        losses = list(trial.intermediate_values.values())
        assert losses[-1] <= 0.3 < losses[-2]
        assert trial.value == max(trial.intermediate_values)
        outcome = Outcome.from_dict(done.outcome(trial.number) or {})
        assert [(p.seconds, p.loss) for p in outcome.curve] == list(
            trial.intermediate_values.items()
        )
        assert trial.user_attrs["updates"] == outcome.version
        assert trial.user_attrs["staleness"] == outcome.staleness_mean


def test_what_diverged_or_came_too_late_is_infinite(done: Study) -> None:
    ends = {t.user_attrs["ended"]: t for t in done.trials}
    assert ends.keys() == {"target", "diverged", "budget"}
    for end in ("diverged", "budget"):
        assert ends[end].state is TrialState.COMPLETE
        assert ends[end].value == math.inf
    assert ends["diverged"].params["lr"] == 2.0
    assert ends["diverged"].user_attrs["loss"] == math.inf
    assert max(ends["diverged"].intermediate_values) < 10, "it ended when it was seen"


def test_seeds_are_common_to_all_settings(path: Path) -> None:
    backend = FakeBackend()
    with open_study(design(), path) as study:
        run_study(design(), study, backend=backend)
    by_seed = {seed: [s for s in backend.runs if s.seed == seed] for seed in (0, 1)}
    assert [s.policy for s in by_seed[0]] == [s.policy for s in by_seed[1]]
    assert len(by_seed[0]) == (3 + 1) * 3


def test_without_a_target_the_last_loss_counts(path: Path) -> None:
    wanted = design(target=None, grid=grid(lr=0.1, seeds=1))
    with open_study(wanted, path) as study:
        run_study(wanted, study, backend=FakeBackend())
        for trial in study.trials:
            assert trial.value == trial.last_value


class Losses(FakeBackend):
    """Evaluates to given losses, one a second, whatever the setting."""

    def __init__(self, *losses: float) -> None:
        super().__init__()
        self.losses = losses

    def run(self, *arguments: Any, watch: Any, **options: Any) -> Outcome:
        outcome = Outcome(ended="data")
        for second, loss in enumerate(self.losses):
            outcome.curve.append(Point(float(second), second, second, second, loss))
            if (reason := watch(outcome.curve[-1])) is not None:
                outcome.ended = reason
                break
        return outcome


@pytest.mark.parametrize(
    ("losses", "ended"),
    [
        ((2.0, 19.0, 1.0), "data"),
        ((2.0, 21.0, 1.0), "diverged"),
        ((-0.1, 0.3, -0.9), "data"),
        ((0.0, 0.5, -0.9), "data"),
        ((-0.1, 1e9, -0.9), "data"),
        ((-0.1, math.inf, -0.9), "diverged"),
        ((-0.1, math.nan, -0.9), "diverged"),
    ],
)
def test_times_the_first_loss_means_something_above_zero(
    path: Path, losses: tuple[float, ...], ended: str
) -> None:
    wanted = design(target=None, grid=grid(policy="async", bound=None, lr=0.1, seeds=1))
    with open_study(wanted, path) as study:
        run_study(wanted, study, backend=Losses(*losses))
        (trial,) = study.trials
    assert trial.user_attrs["ended"] == ended
    assert trial.value == (losses[-1] if ended == "data" else math.inf)


def test_late_trials_are_given_up(path: Path) -> None:
    two_rates = grid(policy="bounded:2", bound=None, lr=[0.1, 0.0001])
    wanted = design(budget_s=600, grid=two_rates, search={})
    with open_study(wanted, path) as study:
        run_study(wanted, study, backend=FakeBackend())
        fast, slow = ([t for t in study.trials if t.params["lr"] == rate] for rate in (0.1, 0.0001))
        assert [t.state for t in slow] == [TrialState.PRUNED] * 2
        for good, late in zip(fast, slow, strict=True):
            at = max(late.intermediate_values)
            assert 60 < at <= max(60, 3 * (good.value or 0)) + 1


# ---- clear words ---------------------------------------------------------------------------------


def test_all_diverged(path: Path) -> None:
    wanted = design(grid=grid(lr=[50.0, 90.0], bound=[16]))
    with open_study(wanted, path) as study:
        run_study(wanted, study, backend=FakeBackend())
        assert all(t.value == math.inf for t in study.trials)
        with pytest.raises(StudyError, match=r"all 8 trials diverged.*were 50 to 90; try smaller"):
            recommend(study.trials)


def test_a_target_that_is_never_reached(path: Path) -> None:
    wanted = design(target=1e-9, budget_s=20, grid=grid(lr=[0.1]))
    with open_study(wanted, path) as study:
        run_study(wanted, study, backend=FakeBackend())
        assert len(study.trials) == 8
        message = r"no setting reached the target .*8 ended by budget.*lowest loss .* was .*raise"
        with pytest.raises(StudyError, match=message):
            recommend(study.trials)


def test_nothing_done_yet(path: Path) -> None:
    with (
        open_study(design(), path) as study,
        pytest.raises(StudyError, match="no trial has come to an end yet"),
    ):
        recommend(study.trials)


# ---- going on ---------------------------------------------------------------------------------


class Interrupted(FakeBackend):
    """Is interrupted in the middle of each third run."""

    def run(self, *arguments: Any, watch: Any, **options: Any) -> Outcome:
        if len(self.runs) % 3 == 2:
            self.runs.append(arguments[1])
            watch(Point(0.0, 0, 0, 0, 2.3))
            raise KeyboardInterrupt
        return super().run(*arguments, watch=watch, **options)


def test_interrupted_and_resumed(path: Path, done: Study, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    interruptions = 0
    while True:
        with open_study(design(), other, resume=True) as study:
            try:
                run_study(design(), study, backend=Interrupted())
            except KeyboardInterrupt:
                interruptions += 1
            else:
                break
            assert study.trials[-1].state is TrialState.FAIL
    assert interruptions > 5
    with open_study(design(), other, resume=True) as study:
        values = {t.key(): t.value for t in study.trials if t.state is not TrialState.FAIL}
    assert values == {t.key(): t.value for t in done.trials}


def test_resume_is_asked_for(path: Path, done: Study) -> None:
    done.close()
    with pytest.raises(StorageError, match=r"'fake' is in .*s\.db already; --resume"):
        open_study(design(), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": 0.2}, "begun with target = 0.3, now it is 0.2"),
        ({"budget_s": 61}, "begun with budget_s = 60, now it is 61"),
        ({"cluster": {"compute": 2}}, "begun with cluster = {}, now it is {'compute': 2}"),
        ({"backend": "local"}, "begun with backend = 'simulate', now it is 'local'"),
    ],
)
def test_another_question_is_another_study(
    path: Path, done: Study, change: dict[str, Any], message: str
) -> None:
    done.close()
    before = path.read_bytes()
    with pytest.raises(StudyError, match=message):
        open_study(design(**change), path, resume=True)
    assert path.read_bytes() == before


def test_a_wider_grid_goes_on(path: Path, done: Study) -> None:
    done.close()
    wider = design(grid=grid(bound=[0, 2, 4, 16], seeds=3))
    backend = FakeBackend()
    with open_study(wider, path, resume=True) as study:
        run_study(wider, study, backend=backend)
        assert len(study.trials) == (4 + 1) * 3 * 3
        assert len(backend.runs) == len(study.trials) - 24


class Failing(FakeBackend):
    def __init__(self, error: Exception, after: int) -> None:
        super().__init__()
        self.error, self.after = error, after

    def run(self, *arguments: Any, **options: Any) -> Outcome:
        if len(self.runs) >= self.after:
            raise self.error
        return super().run(*arguments, **options)


def test_trials_that_all_fail_end_the_study(path: Path) -> None:
    backend = Failing(OSError("no space left"), after=2)
    with open_study(design(), path) as study:
        with pytest.raises(StudyError, match=r"3 trials in a row failed.*OSError: no space left"):
            run_study(design(), study, backend=backend)
        assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 2 + [TrialState.FAIL] * 3
    with open_study(design(), path, resume=True) as study:
        run_study(design(), study, backend=FakeBackend())
        finished = [t for t in study.trials if t.state is TrialState.COMPLETE]
        assert len({t.key() for t in finished}) == 24


def test_a_wrong_option_ends_the_study_at_once(path: Path) -> None:
    backend = Failing(ConfigError("batch_size is 0"), after=0)
    with open_study(design(), path) as study, pytest.raises(ConfigError, match="batch_size is 0"):
        run_study(design(), study, backend=backend)
