"""Studies: settings tried one after another, kept in a storage, with Optuna's names."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from zmqdist.errors import StorageError, StudyError, TrialPruned
from zmqdist.tuning.export import dataframe
from zmqdist.tuning.pruners import Pruner
from zmqdist.tuning.samplers import GridSampler
from zmqdist.tuning.storage import Storage
from zmqdist.tuning.trial import FrozenTrial, Params, Trial, TrialState, key_of

log = logging.getLogger(__name__)

Objective = Callable[[Trial], float]
"""Tries `Trial.params`, reports on the way, and returns the value."""

Callback = Callable[["Study", FrozenTrial], object]
"""Called after each trial."""


class Study:
    """Trials of one question; made by `create_study` or `load_study`, a context manager.

    Parameters
    ----------
    name : str
    storage : Storage
    sampler : GridSampler, optional
        Says what to try. Without one only enqueued trials are.
    pruner : Pruner, optional
        Says what to give up. Default: nothing.

    Examples
    --------
    >>> sampler = GridSampler(product_of({"bound": [0, 4], "lr": [0.1, 0.2]}), seeds=range(5))
    >>> with create_study(sampler=sampler) as study:
    ...     study.optimize(lambda trial: (trial.params["lr"] - 0.1) ** 2)
    ...     study.best_params
    {'bound': 0, 'lr': 0.1, 'seed': 0}
    """

    def __init__(
        self,
        name: str,
        storage: Storage,
        *,
        sampler: GridSampler | None = None,
        pruner: Pruner | None = None,
    ) -> None:
        found = storage.study(name)
        if found is None:
            raise StorageError(
                f"there is no study {name!r} in {storage.path}; it has {storage.names()}"
            )
        self.name = name
        self.sampler = sampler
        self.pruner = pruner or Pruner()
        self._id, self.settings = found
        self._storage = storage
        self._locked = False
        self._finished: list[FrozenTrial] = []

    def __enter__(self) -> Study:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the storage; another process may then go on with the study."""
        self._storage.close()

    # ---- ask and tell ----------------------------------------------------------------------

    def ask(self) -> Trial | None:
        """Start the next trial: an enqueued one, else what the sampler says; None at the end.

        Raises
        ------
        StorageError
            Another process is at work on the storage.
        """
        self._lock()
        taken = self._storage.take_waiting(self._id)
        if taken is not None:
            return Trial(self, *taken)
        params = None if self.sampler is None else self.sampler.next(self.trials)
        if params is None:
            return None
        number = self._storage.add_trial(self._id, TrialState.RUNNING, params)
        return Trial(self, number, params)

    def tell(
        self,
        trial: Trial | int,
        value: float | None = None,
        state: TrialState = TrialState.COMPLETE,
        *,
        error: str | None = None,
        outcome: dict[str, Any] | None = None,
    ) -> None:
        """End a trial; it is on the disk when this returns.

        Parameters
        ----------
        trial : Trial or int
            The trial or its number.
        value : float, optional
            For a complete trial. NaN counts as infinitely bad: diverged, not missing.
        state : TrialState, default=COMPLETE
            Or PRUNED, or FAIL.
        error : str, optional
            Why it failed.
        outcome : dict, optional
            All that came out, for `outcome`; what JSON can hold.

        Raises
        ------
        StudyError
            If the trial is not running, or the value does not go with the state.
        """
        number = trial.number if isinstance(trial, Trial) else trial
        if (state is TrialState.COMPLETE) != (value is not None) or not state.is_finished:
            raise StudyError(
                f"trial {number}: value {value!r} with state {state}; expected a number with "
                "COMPLETE, none with PRUNED or FAIL"
            )
        attrs = {} if error is None else {"error": error}
        worth = None if value is None else _worth(value)
        if not self._storage.finish(self._id, number, state, worth, attrs, outcome):
            raise StudyError(f"trial {number} is not running; it cannot be ended")

    def enqueue_trial(self, params: Params, *, skip_if_exists: bool = False) -> None:
        """Have `ask` return this setting next, after those enqueued before.

        Parameters
        ----------
        params : dict
            Names and values, what JSON can hold.
        skip_if_exists : bool, default=False
            Do nothing if a trial has this setting, whatever its state.
        """
        key = key_of(params)
        if skip_if_exists and any(key_of(trial.params) == key for trial in self.trials):
            return
        self._storage.add_trial(self._id, TrialState.WAITING, params)

    def retry_failed(self) -> int:
        """Enqueue the settings that failed or were interrupted again; return how many.

        Not those that diverged or were pruned: these are results.
        """
        self._lock()
        trials = self.trials
        fine = {key_of(t.params) for t in trials if t.state is not TrialState.FAIL}
        again = {key_of(t.params): t.params for t in trials if t.state is TrialState.FAIL}
        missing = [params for key, params in again.items() if key not in fine]
        for params in missing:
            self.enqueue_trial(params)
        return len(missing)

    def optimize(
        self,
        objective: Objective,
        n_trials: int | None = None,
        timeout: float | None = None,
        *,
        catch: tuple[type[Exception], ...] = (),
        fatal: tuple[type[Exception], ...] = (),
        callbacks: Sequence[Callback] = (),
    ) -> None:
        """Run trials until the sampler has no more.

        Parameters
        ----------
        objective : callable (trial) -> float
            May raise `TrialPruned` to end its trial as pruned.
        n_trials : int, optional
            At most so many now.
        timeout : float, optional
            Start no trial after so many seconds.
        catch : tuple of exception classes
            Errors that only fail their trial; others end the study as well.
        fatal : tuple of exception classes
            Exceptions from `catch`.
        callbacks : sequence of callable (study, trial)
            Called after each trial.
        """
        started, done = time.monotonic(), 0
        while n_trials is None or done < n_trials:
            if timeout is not None and time.monotonic() - started >= timeout:
                return
            trial = self.ask()
            if trial is None:
                return
            self._run(objective, trial, catch, fatal)
            done += 1
            for callback in callbacks:
                callback(self, self.trial(trial.number))

    def _run(
        self,
        objective: Objective,
        trial: Trial,
        catch: tuple[type[Exception], ...],
        fatal: tuple[type[Exception], ...],
    ) -> None:
        try:
            value = objective(trial)
        except TrialPruned:
            self.tell(trial, state=TrialState.PRUNED, outcome=trial.outcome)
        except BaseException as error:
            text = f"{type(error).__name__}: {error}".rstrip(": ")
            self.tell(trial, state=TrialState.FAIL, error=text)
            if not isinstance(error, catch) or isinstance(error, fatal):
                raise
            log.warning("trial %d failed: %s", trial.number, text)
        else:
            self.tell(trial, value, outcome=trial.outcome)

    def _lock(self) -> None:
        """Become the only writer; what another one left running has failed."""
        if self._locked:
            return
        self._storage.lock()
        self._locked = True
        for trial in self.trials:
            if trial.state is TrialState.RUNNING:
                error = "interrupted: the process that ran it has ended"
                self.tell(trial.number, state=TrialState.FAIL, error=error)

    # ---- for trials ------------------------------------------------------------------------

    def report(self, number: int, value: float, step: float) -> None:
        """Keep an intermediate value; see `Trial.report`."""
        if not math.isfinite(step):
            raise StudyError(f"trial {number}: step is {step!r}; expected a finite number")
        self._storage.report(self._id, number, float(step), _worth(value))

    def should_prune(self, number: int) -> bool:
        """Ask the pruner about a running trial."""
        trials = self.trials
        return self.pruner.prune(trials[number], trials)

    def set_user_attr(self, number: int, key: str, value: Any) -> None:
        """Keep a fact about a trial."""
        self._storage.set_attr(self._id, number, key, value)

    # ---- look ------------------------------------------------------------------------------

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials by number, as they are in the storage now."""
        known = self._finished  # the first ones, which nothing changes any more
        newer = self._storage.trials(self._id, start=len(known))
        n_finished = next((i for i, t in enumerate(newer) if not t.state.is_finished), len(newer))
        self._finished = known + newer[:n_finished]
        return known + newer

    def trial(self, number: int) -> FrozenTrial:
        """Return one trial."""
        return self.trials[number]

    def outcome(self, number: int) -> dict[str, Any] | None:
        """Return all that came out of a trial; None if nothing was kept."""
        return self._storage.outcome(self._id, number)

    @property
    def best_trial(self) -> FrozenTrial:
        """The complete trial with the best value.

        Raises
        ------
        StudyError
            No trial has a finite value.
        """
        complete = [trial for trial in self.trials if trial.state is TrialState.COMPLETE]
        finite = [t for t in complete if t.value is not None and math.isfinite(t.value)]
        if not finite:
            raise StudyError(
                f"study {self.name!r} has no best trial: none of its {len(complete)} complete "
                "trials has a finite value"
            )
        return min(finite, key=lambda trial: trial.value or 0.0)

    @property
    def best_value(self) -> float:
        """The value of `best_trial`."""
        value = self.best_trial.value
        return math.nan if value is None else value

    @property
    def best_params(self) -> Params:
        """The setting of `best_trial`."""
        return self.best_trial.params

    def trials_dataframe(self) -> Any:
        """Return all trials as a pandas data frame, with Optuna's columns.

        Raises
        ------
        ConfigError
            If pandas is not installed.
        """
        return dataframe(self.trials)

    def change_settings(self, settings: dict[str, Any]) -> None:
        """Replace the settings that the storage keeps with the study."""
        self._storage.change_settings(self._id, settings)
        self.settings = settings


def _worth(value: float) -> float:
    """Return a value as it is kept: NaN is infinitely bad, not missing."""
    return math.inf if math.isnan(value) else float(value)
