"""Problems for experiments: small models whose behaviour is known.

Each is what `zmqdist.tuning.simulate.simulate` and `zmqdist.ZmqDist.train` take: a model, data
as partitions, a gradient of the loss. Apply it by an optimizer of `zmqdist.optim`. What is
random in a gradient comes from the data, so that a step has the same noise under each policy.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zmqdist.tuning.streams import Purpose, Sample

Array = NDArray[np.float64]
Model = dict[str, Array]


@dataclass(frozen=True)
class Problem:
    """What is to be learned.

    Attributes
    ----------
    model : callable () -> dict of str to ndarray
        Makes the model, always the same one.
    data : callable (workers, seed) -> list of partitions
        One endless partition for each worker.
    gradient : callable (model, batch) -> dict of str to ndarray
    evaluate : callable (model) -> dict of str to float
        With ``loss`` among them.
    curvature : float or None
        Largest curvature of the loss, if it is known.
    task : callable (setting) -> zmqdist.tuning.catalogue.Task, or None
        For a problem that does not train by SGD on batches: what a trial trains instead of
        the first three.
    """

    model: Callable[[], Model]
    data: Callable[[int, int], list[Any]]
    gradient: Callable[[Model, list[Any]], Model]
    evaluate: Callable[[Model], dict[str, float]]
    curvature: float | None = None
    task: Callable[[Any], Any] | None = None


class Samples:
    """An endless partition of `Sample`: each can draw its own random numbers."""

    def __init__(self, seed: int, worker: int) -> None:
        self._seed, self._worker = seed, worker

    def __iter__(self) -> Iterator[Sample]:
        key = Sample.key_of(self._seed, self._worker, Purpose.GRADIENT)
        return (Sample(key, number) for number in itertools.count())


def quadratic(
    curvature: Array | Callable[[Array], Array],
    linear: Array | float = 0.0,
    *,
    start: Array,
    noise: float = 0.0,
) -> Problem:
    """Return ``f(x) = x' A x / 2 - b' x`` with noisy gradients.

    Parameters
    ----------
    curvature : ndarray, shape (d,), or callable
        The diagonal of A, or the product with A.
    linear : ndarray, shape (d,), or float
        b.
    start : ndarray, shape (d,)
        The first x.
    noise : float
        Standard deviation of the noise in each coordinate of the gradient of one sample; a
        batch has the mean.

    Notes
    -----
    `Problem.evaluate` gives ``loss`` and ``gradient``, the squared norm of the true gradient.
    """
    times = curvature if callable(curvature) else (lambda x: curvature * x)

    def gradient(model: Model, batch: list[Sample]) -> Model:
        slope = times(model["x"]) - linear
        if noise:
            scale = noise / len(batch)
            for sample in batch:
                slope += scale * sample.generator().standard_normal(slope.shape)
        return {"x": slope}

    def evaluate(model: Model) -> dict[str, float]:
        x = model["x"]
        product = times(x)
        slope = product - linear
        loss = float(x @ product / 2 - np.sum(linear * x))
        return {"loss": loss, "gradient": float(slope @ slope)}

    return Problem(
        model=lambda: {"x": np.array(start, np.float64)},
        data=lambda workers, seed: [Samples(seed, worker) for worker in range(workers)],
        gradient=gradient,
        evaluate=evaluate,
    )


def tridiagonal(d: int, noise: float) -> Problem:
    """Return the quadratic on which the Ringmaster paper compares methods.

    ``A = tridiag(-1, 2, -1) / 4``, ``b = (-1/4, 0, ..., 0)``, ``x0 = (sqrt(d), 0, ..., 0)`` [1]_.

    References
    ----------
    .. [1] A. Maranjyan, A. Tyurin, P. Richtarik, "Ringmaster ASGD: the first
       asynchronous SGD with optimal time complexity", 2025, arXiv:2501.16168.
    """
    linear, start = np.zeros(d), np.zeros(d)
    linear[0], start[0] = -0.25, np.sqrt(d)

    def times(x: Array) -> Array:
        product = 0.5 * x
        product[1:] -= 0.25 * x[:-1]
        product[:-1] -= 0.25 * x[1:]
        return product

    return quadratic(times, linear, start=start, noise=noise)


def classification(
    rows: Array,
    labels: NDArray[np.integer],
    *,
    hidden: int = 0,
    l2: float = 0.0,
    test: tuple[Array, NDArray[np.integer]] | None = None,
    init_seed: int = 0,
) -> Problem:
    """Return softmax regression, or a network with one hidden layer of tanh units.

    Parameters
    ----------
    rows : ndarray, shape (n, d)
    labels : ndarray of int, shape (n,)
        From 0.
    hidden : int, default=0
        Units of the hidden layer; 0 for none.
    l2 : float, default=0
        Weight of ``||W||^2 / 2`` in the loss, biases left out.
    test : (rows, labels), optional
        Where ``accuracy`` is measured; default: the training rows.
    init_seed : int
        Of the first weights of the network; without hidden units they are 0.

    Notes
    -----
    Each step draws its batch from all rows, so workers see the same distribution. Items of
    the data are `Sample`: batches are drawn row by row, with replacement.
    """
    classes = int(labels.max()) + 1
    sizes = [rows.shape[1], *([hidden] if hidden else []), classes]

    def model() -> Model:
        rng = np.random.default_rng(init_seed)
        made: Model = {}
        for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            scale = np.sqrt(1 / n_in) if hidden else 0.0
            made[f"w{i}"] = scale * rng.standard_normal((n_in, n_out))
            made[f"b{i}"] = np.zeros(n_out)
        return made

    def forward(weights: Model, x: Array) -> tuple[Array, Array]:
        inner = np.tanh(x @ weights["w0"] + weights["b0"]) if hidden else x
        last = len(sizes) - 2
        logits = inner @ weights[f"w{last}"] + weights[f"b{last}"]
        logits -= logits.max(axis=1, keepdims=True)
        return inner, logits

    def gradient(weights: Model, batch: list[Sample]) -> Model:
        picked = np.array([sample.integer(len(rows)) for sample in batch])
        x, y = rows[picked], labels[picked]
        inner, logits = forward(weights, x)
        error = np.exp(logits)
        error /= error.sum(axis=1, keepdims=True)
        error[np.arange(len(y)), y] -= 1
        error /= len(y)
        last = len(sizes) - 2
        update = {f"w{last}": inner.T @ error, f"b{last}": error.sum(axis=0)}
        if hidden:
            back = (error @ weights["w1"].T) * (1 - inner**2)
            update |= {"w0": x.T @ back, "b0": back.sum(axis=0)}
        if l2:
            for name in update:
                if name.startswith("w"):
                    update[name] += l2 * weights[name]
        return update

    def evaluate(weights: Model) -> dict[str, float]:
        _, logits = forward(weights, rows)
        log_sum = np.log(np.exp(logits).sum(axis=1))
        loss = float(np.mean(log_sum - logits[np.arange(len(labels)), labels]))
        if l2:
            loss += l2 / 2 * sum(float(np.sum(w**2)) for n, w in weights.items() if n[0] == "w")
        x, y = (rows, labels) if test is None else test
        accuracy = float(np.mean(forward(weights, x)[1].argmax(axis=1) == y))
        return {"loss": loss, "accuracy": accuracy}

    return Problem(
        model=model,
        data=lambda workers, seed: [Samples(seed, worker) for worker in range(workers)],
        gradient=gradient,
        evaluate=evaluate,
    )


def cyclic(partitions: Sequence[Sequence[Any]]) -> list[Iterator[Any]]:
    """Return partitions without end: each begins again when it is through."""
    return [itertools.cycle(partition) for partition in partitions]
