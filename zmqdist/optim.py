"""Optimizers for the master: ``dd.train(data, gradient, SGD(0.1))``.

An optimizer is a descent. It is called with the model and an update that holds gradients
of the loss by parameter name, and moves the model's arrays in place by the formulas of
torch.optim. Owns the state that this takes (momentum, sums of squares), which lives
on the master only.

Gradients that are `RowSparse` cost their rows alone: parameters and state of the other
rows stay as they are, as with SparseAdam, where "only moments that show up in the gradient
get updated" [1]_. For `SGD` and `AdaGrad` without weight decay this is the dense result;
in `Momentum` and `Adam` the momentum of an untouched row neither decays nor moves it.

References
----------
.. [1] PyTorch 1.9 documentation, torch.optim.SparseAdam.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqdist.errors import ConfigError, UpdateError
from zmqdist.models.arrays import ROOT
from zmqdist.models.base import Parameters, parameters_of
from zmqdist.wire.rows import RowSparse

LearningRate = float | Callable[[int], float]
Array = NDArray[Any]
State = dict[str, Array]


class Optimizer(ABC):
    """Base of all optimizers: checks updates, keeps state, meets rows.

    Parameters
    ----------
    lr : float or callable
        Learning rate, >= 0, or a function of the number of steps done so far that returns
        it. It may be set at any time.

    Attributes
    ----------
    step : int
        Number of updates applied.
    """

    # State arrays of a parameter, and the option with their first value (None: 0).
    _STATE: Mapping[str, str | None] = {}

    def __init__(self, lr: LearningRate) -> None:
        self.lr = lr if callable(lr) else self._check("lr", lr)
        self.step = 0
        self._steps: dict[str, int] = {}
        self._state: dict[str, State] = {}
        self._known: tuple[Any, Parameters] | None = None

    def __call__(self, model: Any, update: Any) -> None:
        """Move the model in place by one step.

        Parameters
        ----------
        model : object
            A model, or its `Parameters`. Caches of the model are left alone.
        update : mapping of str to RowSparse, array_like or number
            Gradients of the loss by parameter name, each of the very shape of its
            parameter, which is an array of floats or a Python float. For a model that is
            itself an array, the gradient alone will do.

        Raises
        ------
        UpdateError
            A name that the model has not, or a gradient that does not fit. The model is
            untouched.
        ConfigError
            `lr` is or returned no learning rate. The model is untouched.
        """
        if self._known is None or self._known[0] is not model:
            self._known = (model, parameters_of(model))
        parameters = self._known[1]
        arrays, scalars = parameters.arrays(), parameters.scalars()
        if not isinstance(update, Mapping):
            if not isinstance(parameters.model, np.ndarray):
                raise UpdateError(
                    f"the update is a {type(update).__name__}, expected a dict of name -> gradient"
                )
            update = {ROOT: update}
        places: dict[str, NDArray[Any]] = {}
        gradients: dict[str, Any] = {}
        for name, gradient in update.items():
            if name not in arrays and name not in scalars:
                raise UpdateError(
                    f"the update names {name!r}, expected names from {[*arrays, *scalars][:20]}"
                )
            place = arrays[name] if name in arrays else np.asarray(scalars[name])
            gradients[name] = _fitting(name, gradient, place)
            self._state_of(name, place)
            places[name] = place
        lr = self._check("lr", self.lr(self.step) if callable(self.lr) else self.lr)
        places |= {n: parameters.writable(n, a) for n, a in places.items() if n in arrays}
        for name, gradient in gradients.items():
            self._steps[name] = self._steps.get(name, 0) + 1
            self._apply(places[name], gradient, self._state[name], lr, self._steps[name])
            if name not in arrays:
                parameters.assign(name, places[name].item())
        self.step += 1

    def state(self) -> dict[str, Any]:
        """Return the state; options are no part of it.

        Returns
        -------
        dict
            ``{"step": int, "parameters": {name: {"step": int, role: ndarray}}}``; arrays
            of the shape and dtype of the parameter (float32 for float16), which change
            with the next step.
        """
        parameters = {
            name: {"step": self._steps.get(name, 0), **state} for name, state in self._state.items()
        }
        return {"step": self.step, "parameters": parameters}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned; the arrays are copied.

        Raises
        ------
        ConfigError
            It is not the state of such an optimizer, which is unchanged.
        """
        roles = {"step", *self._STATE}
        try:
            kept = dict(state["parameters"])
            wrong = next((name for name in kept if kept[name].keys() != roles), None)
            step, steps = int(state["step"]), {name: int(kept[name]["step"]) for name in kept}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{type(self).__name__}: got no state: {error!r}") from None
        if wrong is not None:
            raise ConfigError(
                f"{type(self).__name__}: the state of {wrong!r} has {sorted(kept[wrong])}, "
                f"expected {sorted(roles)}; load it into the optimizer that it came from"
            )
        self.step, self._steps = step, steps
        self._state = {
            name: {role: np.array(kept[name][role]) for role in self._STATE} for name in kept
        }

    @abstractmethod
    def _move(self, p: Array, g: Array, state: State, lr: float, step: int, by_rows: bool) -> None:
        """Move `p` and its state in place; all have the shape and dtype of `p`; step >= 1."""

    def _apply(self, p: NDArray[Any], g: Any, state: State, lr: float, step: int) -> None:
        by_rows = isinstance(g, RowSparse)
        work = np.result_type(p.dtype, np.float32)
        if by_rows and len(g.rows) < len(g):
            rows = g.rows
            part = p.take(rows, axis=0).astype(work, copy=False)
            parts = {role: array.take(rows, axis=0) for role, array in state.items()}
            self._move(part, g.values.astype(work, copy=False), parts, lr, step, True)
            p[rows] = part
            for role, array in state.items():
                array[rows] = parts[role]
            return
        g = (g.values if by_rows else g).astype(work, copy=False)
        if p.ndim == 0:  # numpy's results of 0-d arrays are no arrays
            p, g = p.reshape(1), g.reshape(1)
            state = {role: array.reshape(1) for role, array in state.items()}
        if p.dtype == work:
            self._move(p, g, state, lr, step, by_rows)
        else:
            wide = p.astype(work)
            self._move(wide, g, state, lr, step, by_rows)
            p[...] = wide

    def _state_of(self, name: str, p: NDArray[Any]) -> None:
        state = self._state.get(name)
        if state is None:
            dtype = np.result_type(p.dtype, np.float32)
            self._state[name] = state = {r: np.zeros(p.shape, dtype) for r in self._STATE}
            for role, option in self._STATE.items():
                if option and getattr(self, option):
                    state[role][...] = getattr(self, option)
        for role, array in state.items():
            if array.shape != p.shape:
                raise UpdateError(
                    f"{type(self).__name__} has {role} of shape {array.shape} for {name!r}, "
                    f"expected {p.shape}; make a new optimizer for another model"
                )

    def _check(self, name: str, value: Any, below: float = math.inf, zero: bool = True) -> float:
        number = isinstance(value, int | float | np.floating) and not isinstance(value, bool)
        if not number or not 0 <= value < below or (value == 0 and not zero):
            limit = ">= 0" if zero else "> 0"
            limit += " and finite" if below == math.inf else f" and < {below:g}"
            raise ConfigError(
                f"{type(self).__name__}: {name} is {value!r}; expected a number {limit}"
            )
        return float(value)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_known": None}

    def __repr__(self) -> str:
        hidden = {"step", "_steps", "_state", "_known"}
        options = [f"{name}={value!r}" for name, value in vars(self).items() if name not in hidden]
        return f"{type(self).__name__}({', '.join(options)})"


class SGD(Optimizer):
    """Stochastic gradient descent: ``p -= lr (g + weight_decay p)``.

    Parameters
    ----------
    lr : float or callable
        See `Optimizer`.
    weight_decay : float, default=0
        L2 penalty, >= 0. With row-sparse gradients a row decays when it is touched.

    Raises
    ------
    ConfigError
        If an option is outside its range.
    """

    def __init__(self, lr: LearningRate, *, weight_decay: float = 0) -> None:
        super().__init__(lr)
        self.weight_decay = self._check("weight_decay", weight_decay)

    def _move(self, p: Array, g: Array, state: State, lr: float, step: int, by_rows: bool) -> None:
        p -= lr * (g + self.weight_decay * p if self.weight_decay else g)


class Momentum(Optimizer):
    """SGD with momentum: ``b = momentum b + g``, ``p -= lr b``.

    With ``nesterov=True``, ``p -= lr (g + momentum b)``. As in torch the learning rate
    multiplies the whole step, and not the gradient that enters `b` as in [1]_. Row-sparse
    gradients: `b` of a row is updated, and moves the row, when the row is touched.

    Parameters
    ----------
    lr : float or callable
        See `Optimizer`.
    momentum : float, default=0.9
        Share of the last step that goes on, in [0, 1).
    nesterov : bool, default=False
        Take that form.
    weight_decay : float, default=0
        L2 penalty, >= 0, added to the gradient: ``g + weight_decay p``.

    Raises
    ------
    ConfigError
        If an option is outside its range.

    References
    ----------
    .. [1] I. Sutskever, J. Martens, G. Dahl, G. Hinton, "On the importance of
       initialization and momentum in deep learning", ICML 2013.
    """

    _STATE: Mapping[str, str | None] = {"momentum": None}

    def __init__(
        self,
        lr: LearningRate,
        momentum: float = 0.9,
        nesterov: bool = False,
        *,
        weight_decay: float = 0,
    ) -> None:
        super().__init__(lr)
        self.momentum = self._check("momentum", momentum, below=1)
        if not isinstance(nesterov, bool):
            raise ConfigError(f"Momentum: nesterov is {nesterov!r}; expected True or False")
        self.nesterov = nesterov
        self.weight_decay = self._check("weight_decay", weight_decay)

    def _move(self, p: Array, g: Array, state: State, lr: float, step: int, by_rows: bool) -> None:
        if self.weight_decay:
            g = g + self.weight_decay * p
        b = state["momentum"]
        b *= self.momentum
        b += g
        p -= lr * (g + self.momentum * b if self.nesterov else b)


class AdaGrad(Optimizer):
    """AdaGrad, diagonal form [1]_: ``s += g^2``, ``p -= lr g / (sqrt(s) + eps)``.

    Parameters
    ----------
    lr : float or callable
        See `Optimizer`.
    eps : float, default=1e-10
        Added to the root, > 0.
    initial_accumulator : float, default=0
        First value of `s`, >= 0; more than 0 makes the first steps smaller.

    Raises
    ------
    ConfigError
        If an option is outside its range.

    References
    ----------
    .. [1] J. Duchi, E. Hazan, Y. Singer, "Adaptive subgradient methods for online learning
       and stochastic optimization", JMLR 12, 2121-2159, 2011.
    """

    _STATE: Mapping[str, str | None] = {"sum": "initial_accumulator"}

    def __init__(
        self, lr: LearningRate, *, eps: float = 1e-10, initial_accumulator: float = 0
    ) -> None:
        super().__init__(lr)
        self.eps = self._check("eps", eps, zero=False)
        self.initial_accumulator = self._check("initial_accumulator", initial_accumulator)

    def _move(self, p: Array, g: Array, state: State, lr: float, step: int, by_rows: bool) -> None:
        state["sum"] += g * g
        root = np.sqrt(state["sum"])
        root += self.eps
        p -= lr * (g / root)


class Adam(Optimizer):
    """Adam [1]_: ``p -= lr m' / (sqrt(v') + eps)``.

    ``m = beta1 m + (1 - beta1) g``, ``m' = m / (1 - beta1^t)``, ``v = beta2 v +
    (1 - beta2) g^2``, ``v' = v / (1 - beta2^t)``; t counts the updates of the parameter.
    Row-sparse gradients take the formula of torch's SparseAdam, where `eps` is added
    before the correction: ``lr sqrt(1 - beta2^t) m' / (sqrt(v) + eps)``.

    Parameters
    ----------
    lr : float or callable
        See `Optimizer`.
    betas : (float, float), default=(0.9, 0.999)
        Decay of the two moments, each in [0, 1).
    eps : float, default=1e-8
        Added to the root, > 0.

    Raises
    ------
    ConfigError
        If an option is outside its range.

    References
    ----------
    .. [1] D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", algorithm 1,
       arXiv:1412.6980.
    """

    _STATE: Mapping[str, str | None] = {"mean": None, "square": None}

    def __init__(
        self, lr: LearningRate, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(lr)
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ConfigError(f"Adam: betas is {betas!r}; expected two numbers, (beta1, beta2)")
        self.betas = (self._check("beta1", betas[0], 1), self._check("beta2", betas[1], 1))
        self.eps = self._check("eps", eps, zero=False)

    def _move(self, p: Array, g: Array, state: State, lr: float, step: int, by_rows: bool) -> None:
        (beta1, beta2), m, v = self.betas, state["mean"], state["square"]
        m += (1 - beta1) * (g - m)
        v *= beta2
        v += (1 - beta2) * g * g
        correction = math.sqrt(1 - beta2**step)
        root = np.sqrt(v)
        if not by_rows:
            root /= correction
            correction = 1.0
        root += self.eps
        p -= lr * correction / (1 - beta1**step) * (m / root)


def _fitting(name: str, gradient: Any, place: NDArray[Any]) -> Any:
    if place.dtype.kind != "f":
        raise UpdateError(
            f"{name!r} is {place.dtype}, expected an array of floats or a float to descend on; "
            "add counts up in a descent of your own, which then calls the optimizer"
        )
    try:
        gradient = gradient if isinstance(gradient, RowSparse) else np.asarray(gradient)
    except (TypeError, ValueError) as error:
        raise UpdateError(f"the gradient of {name!r} is no array: {error}") from error
    if gradient.dtype.kind not in "iuf" or gradient.shape != place.shape:
        raise UpdateError(
            f"the gradient of {name!r} does not fit: got {gradient.dtype} {gradient.shape}, "
            f"expected {place.dtype} {place.shape}; return gradients of the parameters' shapes"
        )
    return gradient
