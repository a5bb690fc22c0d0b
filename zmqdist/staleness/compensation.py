"""Policies that look at the values: they correct an update for how far the model has moved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zmqdist.core.staleness import Needs, Policy
from zmqdist.errors import ConfigError, UpdateError
from zmqdist.staleness.arguments import choice, positive
from zmqdist.wire.rows import RowSparse

_Floats = NDArray[Any]


class Base(Protocol):
    """How the model has moved since the version that an update was computed on."""

    def moved(self, name: str, rows: NDArray[np.integer] | None) -> _Floats | None:
        """Return ``x_now - x_base`` of some rows (None: all) of an array of the model.

        None if the model has no array of that name.
        """
        ...

    def step(self, name: str) -> float:
        """Return the running root mean square of the array's change by one version.

        0 while nothing is known.
        """
        ...


class Between:
    """A `Base` from two whole models, for those who hold both: simulations, and tests.

    Parameters
    ----------
    now, base : mapping of str to ndarray
        The model's arrays now, and as they were.
    steps : mapping of str to float, optional
        What `Base.step` returns.
    """

    def __init__(
        self,
        now: Mapping[str, _Floats],
        base: Mapping[str, _Floats],
        steps: Mapping[str, float] | None = None,
    ) -> None:
        self._now, self._base, self._steps = now, base, steps or {}

    def moved(self, name: str, rows: NDArray[np.integer] | None) -> _Floats | None:
        """Return the difference of the two."""
        if name not in self._now:
            return None
        if rows is None:
            return np.asarray(self._now[name] - self._base[name])
        return np.asarray(self._now[name][rows] - self._base[name][rows])

    def step(self, name: str) -> float:
        """Return the root mean square given for this array."""
        return self._steps.get(name, 0.0)


class _Transforming(Policy, ABC):
    """Changes each float array of an update whose entries are named as the model's arrays."""

    needs = Needs(base=True)

    @property
    def transforms(self) -> bool:
        """Always: that is what it does."""
        return True

    def transform(self, update: Any, base: Any) -> Any:
        """Return the update with its arrays of floats corrected."""
        with np.errstate(over="ignore", invalid="ignore"):  # the master looks at what comes out
            return correct(update, base, self._corrected)

    @abstractmethod
    def _corrected(self, name: str, values: _Floats, rows: _Floats | None, base: Base) -> _Floats:
        """Return what takes the place of `values`, as `correct` asks for it."""


def correct(
    update: Any,
    base: Base,
    correction: Callable[[str, _Floats, _Floats | None, Base], _Floats],
) -> Any:
    """Return an update with a correction made to each of its arrays of floats.

    Parameters
    ----------
    update : mapping of str to array, or array
        Named as the arrays of the model; a model that is itself an array needs no name.
    base : Base
    correction : callable (name, values, rows, base) -> ndarray
        Gets the values of the rows (None: all) and returns those that replace them.

    Raises
    ------
    UpdateError
        An entry is an array of floats but no array of the model.
    """
    if isinstance(update, (np.ndarray, RowSparse)):
        return _entry("", update, base, correction)
    if isinstance(update, Mapping):
        return {name: _entry(name, part, base, correction) for name, part in update.items()}
    raise UpdateError(
        f"the policy corrects updates that are dicts of arrays; got a {type(update).__name__}"
    )


def _entry(name: str, part: Any, base: Base, correction: Callable[..., _Floats]) -> Any:
    if not isinstance(part, (np.ndarray, RowSparse)) or part.dtype.kind != "f":
        return part
    if isinstance(part, RowSparse):
        values = correction(name, part.values, part.rows, base)
        return RowSparse(part.rows, values.astype(part.dtype, copy=False), part.shape)
    return correction(name, part, None, base).astype(part.dtype, copy=False)


def _moved(name: str, values: _Floats, rows: _Floats | None, base: Base) -> _Floats:
    moved = base.moved(name, rows)
    if moved is None or moved.shape != values.shape:
        got = "no array of the model" if moved is None else f"{moved.shape} in the model"
        raise UpdateError(
            f"the policy corrects updates by how the model's arrays have moved, but {name!r} of "
            f"the update, of shape {values.shape}, is {got}; name updates as the model's arrays, "
            "or use another policy"
        )
    return moved


class DelayCompensated(_Transforming):
    """Correct a stale gradient by how far the model has moved since.

    DC-ASGD [1]_: with g computed on x_base and applied to x, the gradient at x is
    about ``g + H (x - x_base)``. The Hessian H is approximated by its diagonal, and that by
    ``strength * g * g``, so that g becomes ``g + strength * g * g * (x - x_base)``.

    Parameters
    ----------
    strength : float, optional
        lambda_0, > 0. Default: 0.04, or 2 if `adaptive`.
    adaptive : bool, default=False
        Divide the strength, element by element, by ``sqrt(m + 1e-7)``, where m is the
        running mean of ``g * g``: DC-ASGD-a.
    decay : float, default=0.95
        Of that mean, ``m = decay * m + (1 - decay) * g * g``; in [0, 1).
    lr : float, optional
        Give the learning rate if updates are steps that are added to the model,
        ``-lr * g``. Default: they are gradients.

    Raises
    ------
    ConfigError
        If an option is outside its range.

    Notes
    -----
    The master remembers the versions that workers compute on, as the rows that changed; an
    update of a version that it has forgotten is computed again. `adaptive` keeps one array
    more of each parameter's size.

    References
    ----------
    .. [1] S. Zheng et al., "Asynchronous stochastic gradient descent with delay
       compensation", ICML 2017, arXiv:1609.08326.
    """

    def __init__(
        self,
        strength: float | None = None,
        *,
        adaptive: bool = False,
        decay: float = 0.95,
        lr: float | None = None,
    ) -> None:
        self.strength, self.adaptive, self.decay, self.lr = strength, adaptive, decay, lr
        default = 2.0 if adaptive else 0.04
        self._strength = positive(
            "DelayCompensated", "strength", default if strength is None else strength
        )
        if not isinstance(decay, (int, float)) or not 0 <= decay < 1:
            raise ConfigError(f"DelayCompensated: decay is {decay!r}; expected 0 <= decay < 1")
        if lr is not None:
            positive("DelayCompensated", "lr", lr)
        self._means: dict[str, _Floats] = {}

    @property
    def of_gradients(self) -> bool:
        """Whether `lr` is left out."""
        return self.lr is None

    def _corrected(self, name: str, values: _Floats, rows: _Floats | None, base: Base) -> _Floats:
        moved = _moved(name, values, rows, base)
        scale = 1.0 if self.lr is None else -self.lr
        gradient = values / scale
        squares = gradient * gradient
        strength: Any = self._strength
        if self.adaptive:
            strength = strength / np.sqrt(self._mean(name, squares, rows, base) + 1e-7)
        return np.asarray(scale * (gradient + strength * squares * moved))

    def _mean(self, name: str, squares: _Floats, rows: _Floats | None, base: Base) -> _Floats:
        """Bring the running mean of the squares up to date; return it for these rows."""
        mean = self._means.get(name)
        if mean is None:
            whole = squares if rows is None else base.moved(name, None)
            mean = self._means[name] = np.zeros_like(whole, dtype=squares.dtype)
        place: Any = slice(None) if rows is None else rows
        new = np.asarray(self.decay * mean[place] + (1 - self.decay) * squares)
        mean[place] = new
        return new

    def state(self) -> dict[str, Any]:
        """Return the running means of the squared gradients, by array."""
        return dict(self._means)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with these means."""
        if state and not self.adaptive:
            super().load_state(state)
        self._means = {name: np.array(mean) for name, mean in state.items()}


class GapAware(_Transforming):
    """Damp a stale update by how far the model has really moved since.

    Gap-Aware [1]_ divides by ``1 + gap / C``, where the gap is how far the model has moved
    since the base of the update, and C how far it moves in one version. Where workers pull the
    same way that is ``1 + tau``; where their steps cancel the damping is weaker than that of
    `StalenessAware`.

    Parameters
    ----------
    by : {"element", "array", "row"}, default="element"
        ``"element"``: the gap of each element; C is the running root mean square of the
        array's change by one version. ``"array"``: one gap for each array, the root mean
        square of its elements'. ``"row"``: for embeddings, whose rows move seldom and far: the
        gap of each row is divided by the length of the update's own row in place of C.
    lr : float, optional
        Only for ``"row"``: the learning rate, if updates are gradients. Default: they are
        steps that are added to the model.

    Raises
    ------
    ConfigError
        If an option is outside its range, or belongs to another kind of gap.

    Notes
    -----
    C is measured at publications, and exact if each version is published. In [1]_ it is a
    running mean for each element, of the optimizer's steps at the largest learning rate.
    The master remembers the versions that workers compute on, as the rows that changed; an
    update of a version that it has forgotten is computed again.

    References
    ----------
    .. [1] S. Barkai, I. Hakimi, A. Schuster, "Gap-aware mitigation of gradient
       staleness", ICLR 2020, arXiv:1909.10802.
    """

    def __init__(self, by: str = "element", *, lr: float | None = None) -> None:
        self.by = choice("GapAware", "by", by, ("element", "array", "row"))
        self.lr = lr
        if lr is not None:
            positive("GapAware", "lr", lr)
            if by != "row":
                raise ConfigError(
                    f"GapAware: lr is an option of by='row', but by is {by!r}; leave it out"
                )

    @property
    def of_gradients(self) -> bool:
        """Whether `lr` is given."""
        return self.lr is not None

    def _corrected(self, name: str, values: _Floats, rows: _Floats | None, base: Base) -> _Floats:
        gap = np.abs(_moved(name, values, rows, base))
        if self.by == "row":
            return np.asarray(values / (1 + self._by_row(values, gap)))
        unit = base.step(name)
        if not unit:
            return values  # nothing has moved that is known of
        if self.by == "array":
            gap = np.sqrt(np.mean(gap * gap))
        return np.asarray(values / (1 + gap / unit))

    def _by_row(self, values: _Floats, gap: _Floats) -> _Floats:
        axes = tuple(range(1, values.ndim))
        lengths = np.sqrt(np.sum(values * values, axis=axes, keepdims=True))
        gaps = np.sqrt(np.sum(gap * gap, axis=axes, keepdims=True))
        unit = lengths if self.lr is None else self.lr * lengths
        ratio: _Floats = np.divide(gaps, unit, out=np.zeros_like(gaps), where=unit > 0)
        return ratio
