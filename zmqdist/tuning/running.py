"""A design, run: its study opened or gone on with, trial after trial, until all are done."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zmqdist.errors import ConfigError, StorageError, StudyError
from zmqdist.tuning.catalogue import load_problem
from zmqdist.tuning.design import Design
from zmqdist.tuning.objective import Backend, TimeToTarget
from zmqdist.tuning.opening import create_study
from zmqdist.tuning.problems import Problem
from zmqdist.tuning.storage import Storage
from zmqdist.tuning.study import Callback, Study
from zmqdist.tuning.trial import FrozenTrial, TrialState

FAILURES_IN_A_ROW = 3
"""Trials that fail one after another before a study is given up."""

BACKENDS = {
    "simulate": "zmqdist.tuning.simulated:SimulateBackend",
    "local": "zmqdist.tuning.real:LocalBackend",
    "spark": "zmqdist.tuning.real:SparkBackend",
}


def open_study(design: Design, storage: str | Path, *, resume: bool = False) -> Study:
    """Make the study of a design, or open it to go on.

    Parameters
    ----------
    design : Design
    storage : path
        Its SQLite file.
    resume : bool, default=False
        Go on if the storage has the study: what failed or was interrupted is tried again.

    Raises
    ------
    StorageError
        The storage cannot be used, or has the study and `resume` is false.
    StudyError
        The study in the storage asked another question.
    """
    known = _settings(design)
    kept = Storage(storage)
    found = kept.study(design.name)
    kept.close()
    if found is not None and not resume:
        raise StorageError(
            f"study {design.name!r} is in {storage} already; --resume (resume=True) goes on with "
            "it, another name or storage begins anew"
        )
    if found is not None:
        _check_same(design, found[1])
    study = create_study(
        storage=storage,
        sampler=design.sampler(),
        pruner=design.pruner(),
        study_name=design.name,
        load_if_exists=True,
        settings=known,
    )
    if found is not None:
        try:
            study.retry_failed()  # which another process at work on the storage forbids
            study.change_settings(known)
        except BaseException:
            study.close()
            raise
    return study


def run_study(
    design: Design,
    study: Study,
    *,
    backend: Backend | None = None,
    n_trials: int | None = None,
    callbacks: Sequence[Callback] = (),
    on_point: Callable[[], object] | None = None,
) -> None:
    """Run the trials that a study still lacks.

    Parameters
    ----------
    design : Design
    study : Study
        From `open_study`.
    backend : Backend, optional
        Default: the design's.
    n_trials : int, optional
        At most so many.
    callbacks : sequence of callable (study, trial)
        Called after each trial.
    on_point : callable (), optional
        Called after each evaluation.

    Raises
    ------
    StudyError
        Several trials in a row failed.
    ConfigError
        A trial showed that the design cannot work.
    """
    problem = problem_of(design.fixed())
    runner = backend_of(design) if backend is None else backend
    objective = TimeToTarget(
        problem,
        runner,
        target=design.target,
        budget_s=design.budget_s,
        evaluate_every_s=design.evaluate_every_s,
        diverged=design.diverged,
        on_point=on_point,
    )
    try:
        study.optimize(
            objective,
            n_trials,
            catch=(Exception,),
            callbacks=[*callbacks, _GiveUp()],
            fatal=(ConfigError,),
        )
    finally:
        runner.close()


def backend_of(design: Design) -> Backend:
    """Make the backend that a design names."""
    module, _, name = BACKENDS[design.backend].partition(":")
    make: Any = getattr(importlib.import_module(module), name)
    most = max(setting["workers"] for setting in design.settings)
    backend: Backend = make(design.tables, design.options, most)
    return backend


def problem_of(settings: dict[str, Any]) -> Problem:
    """Make the problem that a study's settings name."""
    return load_problem(settings["problem"], settings["problem_options"])


def _settings(design: Design) -> dict[str, Any]:
    return {
        **design.fixed(),
        "over": list(design.over),
        "search": design.search,
        "seeds": list(design.seeds),
        "size": design.sampler().size,
    }


def _check_same(design: Design, settings: dict[str, Any]) -> None:
    """Refuse to mix trials that answer different questions."""
    for name, value in design.fixed().items():
        before = settings.get(name)
        if before != value:
            raise StudyError(
                f"study {design.name!r} was begun with {name} = {before!r}, now it is {value!r}: "
                "its trials cannot be compared. Undo the change, or give the study another name. "
                "The grid and the search may change"
            )


class _GiveUp:
    """Ends a study whose trials all fail."""

    def __init__(self) -> None:
        self._failed = 0

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        self._failed = self._failed + 1 if trial.state is TrialState.FAIL else 0
        if self._failed >= FAILURES_IN_A_ROW:
            raise StudyError(
                f"{self._failed} trials in a row failed, the last one with "
                f"{trial.user_attrs.get('error')}. What is finished is kept; --resume tries the "
                "failed ones again"
            )
