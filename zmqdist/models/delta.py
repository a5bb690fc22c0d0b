"""Updates as differences: what in-place training changed, and adding it elsewhere.

`delta` turns any trainer that changes a model in place into a gradient; `add`
is the descent that goes with it, used where none is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqdist.errors import ConfigError, UpdateError
from zmqdist.models.arrays import ROOT
from zmqdist.models.base import Parameters, Scalar, as_scalar, parameters_of
from zmqdist.models.changes import changed_rows, differ
from zmqdist.wire.rows import RowSparse


@contextmanager
def delta(model: Any, only: str | Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Record what the body changes in the model.

    Parameters
    ----------
    model : object
        A model, or its `Parameters`. It keeps the values that the body gives it.
    only : str or sequence of str, optional
        Names of parameters, or of what they are inside of: ``"layers"`` for
        ``layers[0].bias`` and the like. Others stay out of the update. Default: all. Name
        what adds up: of a value that each step sets anew, such as a loss or a running mean,
        the differences of several workers add up to nonsense.

    Yields
    ------
    dict of str to RowSparse, ndarray or number
        Empty inside the body. Afterwards the differences after - before, by
        parameter name: the changed rows of 2-d arrays as `RowSparse`, other
        arrays dense, and numbers. What did not change is left out, as are bools
        and settings that do not add up (see `Parameters.adds_up`). It stays
        empty when the body raises.

    Raises
    ------
    ModelError
        The model has nothing to learn, or the body changed a shape or dtype.
    ConfigError
        `only` names what the model has not.

    Examples
    --------
    >>> def gradient(model, sentences):
    ...     with delta(model) as update:
    ...         model.train(sentences, total_examples=1000, epochs=1)
    ...     return update
    """
    parameters = parameters_of(model)
    arrays, scalars = parameters.arrays(), parameters.scalars()
    names = _chosen([*arrays, *scalars], [only] if isinstance(only, str) else only)
    arrays = {name: np.array(arrays[name], order="C") for name in arrays if name in names}
    update: dict[str, Any] = {}
    yield update
    changes: dict[str, Any] = {}
    for name, after in parameters.arrays().items():
        change = _array_change(arrays.pop(name), after) if name in names else None
        if change is not None:
            changes[name] = change
    for name, number in parameters.scalars().items():
        if name in names and parameters.adds_up(name) and _moved(scalars[name], number):
            changes[name] = number - scalars[name]
    update.update(changes)


def add(model: Any, update: Any) -> None:
    """Add an update to a model in place: the descent for updates that are differences.

    Caches of the model are left alone; call `Parameters.loaded` before the model
    is handed to someone who reads them.

    Parameters
    ----------
    model : object
        A model, or its `Parameters`.
    update : mapping of str to RowSparse, array_like or number
        Changes by parameter name; of the very shape of the parameter, with a dtype
        that casts to its dtype within the same kind. For a model that is itself
        an array, the change alone will do.

    Raises
    ------
    UpdateError
        A name that the model has not, or a value that does not fit. The model is
        untouched.
    """
    parameters = parameters_of(model)
    if not isinstance(update, Mapping):
        if not isinstance(parameters.model, np.ndarray):
            raise UpdateError(
                f"the update is a {type(update).__name__}, expected a dict of parameter name -> "
                f"change with names from {_expected(parameters)}; return one from gradient, or "
                "give train() a descent that takes what gradient returns"
            )
        update = {ROOT: update}
    arrays, scalars = parameters.arrays(), parameters.scalars()
    changes: dict[str, Any] = {}
    for name, change in update.items():
        if name in arrays:
            changes[name] = _fitting(name, change, arrays[name])
        elif name in scalars:
            changes[name] = scalars[name] + _step(name, change, scalars[name])
        else:
            raise UpdateError(
                f"the update names {name!r}, expected names from {_expected(parameters)}; use the "
                "names of the model's parameters, or give train() a descent of your own"
            )
    for name in changes:
        if name in arrays:
            arrays[name] = parameters.writable(name, arrays[name])
    for name, change in changes.items():
        if name in arrays:
            arrays[name] += change
        else:
            parameters.assign(name, change)


def _array_change(before: NDArray[Any], after: NDArray[Any]) -> Any:
    """Return after - before, or None if no bit changed (so a NaN that stays is no change)."""
    if after.size == 0 or after.dtype.kind == "b":
        return None
    if after.ndim != 2:
        return np.asarray(_difference(after, before)) if differ(before, after) else None
    rows = changed_rows(before, after)
    if len(rows) == 0:
        return None
    if len(rows) == len(after):
        return RowSparse(rows, _difference(after, before), after.shape)
    values = _difference(after.take(rows, axis=0), before.take(rows, axis=0))
    return RowSparse(rows, values, after.shape)


def _difference(after: NDArray[Any], before: NDArray[Any]) -> Any:
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and inf are for the master to judge
        return np.subtract(after, before)


def _moved(before: Scalar, after: Scalar) -> bool:
    if isinstance(before, bool) or isinstance(after, bool):
        return False
    return before != after and not (before != before and after != after)  # two NaNs did not move


def _fitting(name: str, change: Any, array: NDArray[Any]) -> RowSparse | NDArray[Any]:
    if not isinstance(change, RowSparse):
        try:
            change = np.asarray(change)
        except (TypeError, ValueError) as error:
            raise UpdateError(f"the update of {name!r} is no array: {error}") from error
    if change.shape != array.shape or not np.can_cast(change.dtype, array.dtype, "same_kind"):
        raise UpdateError(
            f"the update of {name!r} does not fit: got {change.dtype} {change.shape}, expected "
            f"{array.dtype} {array.shape}; return a change of the same shape and kind of dtype"
        )
    fitting: RowSparse | NDArray[Any] = change
    return fitting


def _step(name: str, change: Any, number: Scalar) -> Scalar:
    step = as_scalar(change)
    if step is None or isinstance(step, bool) or isinstance(number, bool):
        raise UpdateError(
            f"the update of {name!r} does not fit: got a {type(change).__name__} for a "
            f"{type(number).__name__}, expected a number for a number (bools do not add up)"
        )
    return step


def _expected(parameters: Parameters) -> str:
    names = [*parameters.arrays(), *parameters.scalars()]
    paths = not all(map(str.isidentifier, names))
    return f"{names[:20]}" + ", by path as in layers[0].bias" * paths


def _chosen(names: list[str], only: Sequence[str]) -> set[str]:
    """Return the names that `only` stands for."""
    chosen = set() if only else set(names)
    for part in only:
        its = {n for n in names if n == part or n.startswith((f"{part}.", f"{part}["))}
        if not its:
            raise ConfigError(
                f"delta(only=) names {part!r}, expected names from {names[:20]} or the beginning "
                "of a path, such as 'layers' for layers[0].bias"
            )
        chosen |= its
    return chosen
