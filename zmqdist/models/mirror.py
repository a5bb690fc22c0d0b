"""A worker's model kept equal to its replica, at the price of what changed in either."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zmqdist.models.base import Parameters, Scalar
from zmqdist.models.changes import changed_rows

log = logging.getLogger(__name__)


class Source(Protocol):
    """What a model is read from: a replica of whatever kind."""

    arrays: dict[str, NDArray[Any]]

    @property
    def scalars(self) -> Mapping[str, Scalar]:
        """The scalars."""
        ...

    def news(self) -> dict[str, NDArray[np.integer] | None]:
        """Return the rows of each array that changed since the last call; None: all."""
        ...


class Mirror:
    """Brings one model up to date before each step.

    Many gradients only read their model: then it differs from the replica by what the
    replica took in since, and those rows are copied. Others train their model and return
    the difference: then any row may have to be undone, and all are copied. Which it is
    shows for each array after the first step, and is looked at again after 2, 4, 8 ...
    steps. So a gradient changes an array in each step or in none: what it changes but once
    stays until the next look, or until a version brings the row.

    Parameters
    ----------
    parameters : Parameters
        The model's.

    Attributes
    ----------
    trained : set of str
        The arrays that the gradient changes.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.trained: set[str] = set()
        self._untouched: set[str] = set()
        # Of these, rows that came when it was looked at, which hid what was done to them.
        self._unsure: dict[str, NDArray[Any]] = {}
        self._left_alone: set[str] = set()  # by a step at least
        self._filled: dict[str, NDArray[Any]] = {}
        self._reads = 0

    def read(self, replica: Source) -> None:
        """Make the model equal to `replica`.

        Raises
        ------
        ModelMismatch, ModelError
            See `Parameters.load`.
        """
        if self._reads & (self._reads - 1) == 0:
            self._untouched.clear()
        news = replica.news()
        values: dict[str, NDArray[Any]] = {}
        some: dict[str, NDArray[Any]] = {}
        for name, array in self.parameters.arrays().items():
            target, rows = replica.arrays[name], news.get(name, _NOTHING)
            if name not in self.trained:
                self._look(name, array, target, rows)
            if name not in self._untouched or rows is None:
                values[name] = target
            elif len(rows):
                values[name], some[name] = target, rows
        if values:
            self.parameters.load(values, replica.scalars, some)
        else:
            self.parameters.set(replica.scalars)
        self._filled = self.parameters.arrays()
        self._reads += 1

    def _look(
        self, name: str, array: NDArray[Any], target: NDArray[Any], news: NDArray[Any] | None
    ) -> None:
        """See whether the gradient has changed what was filled last, as far as that shows."""
        filled = self._filled.get(name)
        if filled is None or array.ndim == 0:  # numpy makes scalars of these: always copied
            return
        changed = filled is not array and filled.__array_interface__ != array.__array_interface__
        if not changed and name not in self._untouched:
            if news is None or 2 * len(news) > len(array):
                return  # what came since hides what was done to it
            changed = len(np.setdiff1d(changed_rows(target, array), news, assume_unique=True)) > 0
            self._untouched.add(name)
            self._unsure[name] = news
        elif not changed and news is not None and len(unsure := self._unsure[name]):
            shown = np.setdiff1d(unsure, news, assume_unique=True)
            changed = len(changed_rows(target.take(shown, axis=0), array.take(shown, axis=0))) > 0
            self._unsure[name] = np.intersect1d(unsure, news, assume_unique=True)
        if changed:
            self._untouched.discard(name)
            self.trained.add(name)
            if name in self._left_alone:
                _warn(name)
        elif not len(self._unsure[name]):
            self._left_alone.add(name)


@functools.cache  # once in a process, however many partitions it runs
def _warn(name: str) -> None:
    log.warning(
        "the gradient has begun to change %s; from now on that is undone before each step", name
    )


_NOTHING = np.empty(0, np.intp)
