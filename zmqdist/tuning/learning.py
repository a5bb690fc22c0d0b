"""The model of a simulation: real gradients, computed only for updates that count."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqdist.core.staleness import Policy
from zmqdist.damping import RowDamping
from zmqdist.errors import ConfigError, UpdateError
from zmqdist.merge import Mean, Merge, RowTrustRegion
from zmqdist.models.base import Parameters, parameters_of
from zmqdist.models.delta import add
from zmqdist.models.update import Update, as_update
from zmqdist.tuning.virtual_master import Served
from zmqdist.tuning.virtual_worker import Step
from zmqdist.wire.leaves import first_nonfinite, scale_tree, walk

Gradient = Callable[[Any, list[Any]], Any]
Descent = Callable[[Any, Any], object]


WINDOW = 100
"""Publications over which the mean change of an array runs, as in a real master."""


class Diverged(UpdateError):
    """An update has NaN or infinite values: the simulation ends there."""


class Learning:
    """A model that is trained in virtual time.

    Versions are kept by reference: those that a worker still computes on, and no others. An
    update is computed when it has been accepted, on the version that its worker had read; what
    the policy turns down costs nothing.

    Parameters
    ----------
    model : object
        Changed in place, as by a run.
    gradient, descent : callable
        As in `zmqdist.ZmqDist.train`; `gradient` gets a list of items.
    policy : Policy
    merge : Merge or None
    """

    def __init__(
        self,
        model: Any,
        gradient: Gradient,
        descent: Descent | None,
        *,
        policy: Policy,
        merge: Merge | None,
    ) -> None:
        self._parameters: Parameters = parameters_of(model)
        self._worker: Parameters = parameters_of(copy.deepcopy(model))
        self._gradient, self._descent, self._policy = gradient, descent, policy
        self._steps = _MeanSteps() if policy.transforms else None
        self._early: Update | None = None
        self._merge = merge or Mean()
        self._damping: RowDamping | None = None
        if isinstance(merge, RowTrustRegion) and not policy.buffers:
            self._damping = RowDamping(merge.cap)

    def snapshot(self, version: int) -> Any:
        """Copy the values of the model."""
        arrays = {name: array.copy() for name, array in self._parameters.arrays().items()}
        if self._steps is not None:
            self._steps.published(version, arrays)
        return arrays, self._parameters.scalars()

    def halves(self, step: Step) -> tuple[float | None, float | None]:
        """Compute the update of a step before it is decided on, for its halves."""
        self._early = self._updated(step)
        return self._early.finite_halves()

    def _updated(self, step: Step) -> Update:
        self._worker.load(*step.model)
        return as_update(self._gradient(self._worker.model, step.batch))

    def compute(self, served: Served) -> bool:
        """Compute the update of a step that was accepted; return whether there is one."""
        step = served.step
        update, self._early = self._early or self._updated(step), None
        if update.empty:
            return False
        if (where := first_nonfinite(update.arrays)) is not None:
            raise Diverged(f"{where} has NaN or infinite values")
        served.norm = norm(update.arrays)
        served.update = update.arrays
        if update.examples is not None:
            step.examples = update.examples
        if self._steps is not None:
            moved = _Moved(self._parameters.arrays(), step.model[0], self._steps)
            served.update = self._policy.transform(served.update, moved)
        if served.weight != 1.0:
            served.update = scale_tree(served.update, served.weight)
        if self._damping is not None:
            version = step.base + served.tau
            served.update = self._damping.damp(served.update, version, served.tau)
        return True

    def apply(self, served: list[Served]) -> None:
        """Apply one update, or several merged into one."""
        updates = [each.update for each in served]
        update = self._merge.merge(updates) if self._policy.buffers else updates[0]
        for each in served:
            each.update = None
        if self._descent is None:
            add(self._parameters, update)
        else:
            self._descent(self._parameters.model, update)


class _MeanSteps:
    """The running root mean square of each array's change by one version.

    As `zmqdist.models.versions` has it for a real master.
    """

    def __init__(self) -> None:
        self._squares: dict[str, float] = {}
        self._count = 0
        self._last: dict[str, NDArray[Any]] = {}
        self._version = 0

    def published(self, version: int, arrays: dict[str, NDArray[Any]]) -> None:
        """Take the measure of what a publication changed."""
        self._count = min(self._count + 1, WINDOW)
        steps = max(1, version - self._version)
        for name, array in arrays.items():
            known = self._squares.get(name, 0.0)
            change = array - self._last.get(name, array)
            square = float(np.vdot(change, change)) / max(1, array.size) / steps
            self._squares[name] = known + (square - known) / self._count
        self._last, self._version = arrays, version

    def of(self, name: str) -> float:
        """Return that of one array."""
        return math.sqrt(self._squares.get(name, 0.0))


class _Moved:
    """How the model has moved since the version that an update was computed on."""

    def __init__(
        self, now: dict[str, NDArray[Any]], base: dict[str, NDArray[Any]], steps: _MeanSteps
    ) -> None:
        self._now, self._base, self._steps = now, base, steps

    def moved(self, name: str, rows: NDArray[np.integer] | None) -> NDArray[Any] | None:
        """Return ``x_now - x_base`` of rows (None: all) of an array, None if there is none."""
        if name not in self._now:
            return None
        if rows is None:
            return np.asarray(self._now[name] - self._base[name])
        return np.asarray(self._now[name][rows] - self._base[name][rows])

    def step(self, name: str) -> float:
        """Return the running root mean square of the array's change by one version."""
        return self._steps.of(name)


def norm(update: Any) -> float:
    """Return the Euclidean norm of all floats of an update."""
    total = 0.0
    for _, leaf in walk(update):
        values = np.asarray(getattr(leaf, "values", leaf))
        if values.dtype.kind == "f":
            total += float(np.vdot(values, values))
    return math.sqrt(total)


def batches_of(
    data: Sequence[Iterable[Any]], size: int | None
) -> list[Callable[[], Iterator[list[Any]]]]:
    """Return what begins each partition: its items in lists of `size`, all of it for None.

    Raises
    ------
    ConfigError
        There is no partition, or the size is below one.
    """
    if not len(data):
        raise ConfigError("data is empty; expected a list of partitions")
    if size is not None and size < 1:
        raise ConfigError(f"batch_size is {size!r}; expected an integer >= 1")

    def begin(part: Iterable[Any]) -> Iterator[list[Any]]:
        items = iter(part)
        while batch := list(itertools.islice(items, size)):
            yield batch

    return [lambda part=part: begin(part) for part in data]  # type: ignore[misc]
