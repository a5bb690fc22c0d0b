"""Trials: one setting, tried once."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zmqdist.tuning.study import Study

Params = dict[str, Any]
"""A setting: names of parameters and their values, which JSON can hold."""


class TrialState(StrEnum):
    """Where a trial stands; the names are Optuna's."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAIL = "FAIL"

    @property
    def is_finished(self) -> bool:
        """Whether nothing changes any more."""
        return self not in (TrialState.WAITING, TrialState.RUNNING)


@dataclass(frozen=True)
class FrozenTrial:
    """What the storage knows of a trial.

    Attributes
    ----------
    number : int
        Its place in the study, from 0.
    value : float or None
        What the study minimises; ``inf`` for a trial that diverged or missed its target. None
        unless the trial is complete.
    intermediate_values : dict of float to float
        What was reported: step -> value. Steps of an experiment are seconds.
    user_attrs : dict
        Facts added by `Trial.set_user_attr`. A failed trial has ``error``.
    """

    number: int
    state: TrialState
    params: Params
    value: float | None = None
    intermediate_values: dict[float, float] = field(default_factory=dict)
    user_attrs: dict[str, Any] = field(default_factory=dict)
    datetime_start: datetime | None = None
    datetime_complete: datetime | None = None
    _keys: dict[tuple[str, ...], str] = field(default_factory=dict, repr=False, compare=False)

    def key(self, without: tuple[str, ...] = ()) -> str:
        """Return `key_of` the setting; pruners ask for it at every report."""
        if without not in self._keys:
            self._keys[without] = key_of(self.params, without)
        return self._keys[without]

    @property
    def duration(self) -> timedelta | None:
        """Wall time it took; None unless finished."""
        if self.datetime_start is None or self.datetime_complete is None:
            return None
        return self.datetime_complete - self.datetime_start

    @property
    def last_value(self) -> float:
        """The value reported last; ``inf`` if there is none."""
        values = self.intermediate_values
        return values[max(values)] if values else float("inf")


class Trial:
    """A trial under way, from `Study.ask`.

    Attributes
    ----------
    number : int
    params : dict
        The setting to try.
    outcome : dict or None
        Set it to all that came out, what JSON can hold; kept when the trial ends, for
        `Study.outcome`.
    """

    def __init__(self, study: Study, number: int, params: Params) -> None:
        self._study = study
        self.number = number
        self.params = params
        self.outcome: dict[str, Any] | None = None

    def report(self, value: float, step: float) -> None:
        """Tell how far it is.

        Parameters
        ----------
        value : float
            For instance the loss. NaN counts as infinite.
        step : float
            Where it was measured; for an experiment seconds, virtual ones in the simulator.
            A second value at one step replaces the first.
        """
        self._study.report(self.number, value, step)

    def should_prune(self) -> bool:
        """Whether the study's pruner sees no hope; then raise `TrialPruned`."""
        return self._study.should_prune(self.number)

    def set_user_attr(self, key: str, value: Any) -> None:
        """Keep a fact about the trial; any value that JSON can hold."""
        self._study.set_user_attr(self.number, key, value)


def key_of(params: Params, without: tuple[str, ...] = ()) -> str:
    """Return a string that is the same for equal settings, with some parameters left out."""
    kept = {name: value for name, value in params.items() if name not in without}
    return json.dumps(kept, sort_keys=True)
