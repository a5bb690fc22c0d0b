"""Problems by name, and what a trial trains of one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zmqdist.errors import ConfigError
from zmqdist.models.tiers import Tiers
from zmqdist.named import load_function
from zmqdist.optim import SGD
from zmqdist.tuning.problems import Problem, classification, quadratic
from zmqdist.tuning.setting import Setting


@dataclass
class Task:
    """What one trial trains: arguments of `zmqdist.ZmqDist` and of its `train`.

    Attributes
    ----------
    data : list of iterables
        The partitions, which may be endless.
    """

    model: Any
    data: list[Iterable[Any]]
    gradient: Callable[[Any, Any], Any]
    descent: Callable[[Any, Any], object] | None = None
    batch_size: int | None = None
    epochs: int = 1
    tiers: Tiers | None = None


def task_of(problem: Problem, setting: Setting) -> Task:
    """Return what a trial trains: SGD by default, one endless partition for each worker."""
    if problem.task is not None:
        task: Task = problem.task(setting)
        return task
    return Task(
        model=problem.model(),
        data=problem.data(setting.workers, setting.seed),
        gradient=problem.gradient,
        descent=SGD(setting.lr),
        batch_size=setting.chunk,
    )


def loss_of(problem: Problem, model: Any) -> float:
    """Return the loss of a model."""
    return float(problem.evaluate(model)["loss"])


def digits(examples: int = 1500, l2: float = 1e-4, hidden: int = 0) -> Problem:
    """Return a classifier of scikit-learn's handwritten digits: 64 inputs, 10 classes.

    Parameters
    ----------
    examples : int, default=1500
        Of the 1,797 images, in a fixed random order; also those of the loss.
    l2 : float, default=1e-4
    hidden : int, default=0
        As of `zmqdist.tuning.problems.classification`.

    Raises
    ------
    ConfigError
        An option is outside its range, or scikit-learn is not installed.
    """
    if not 10 <= examples <= 1797 or hidden < 0 or not 0 <= l2 < np.inf:
        raise ConfigError(
            f"digits: examples={examples!r}, l2={l2!r}, hidden={hidden!r}; expected examples from "
            "10 to 1797, and the others >= 0"
        )
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ConfigError(
            "the problem 'digits' needs scikit-learn: pip install 'zmqdist[tune]'"
        ) from None
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))[:examples]
    rows = pixels[order] / 16.0
    problem = classification(rows, labels[order], hidden=hidden, l2=l2)
    if hidden:
        return problem
    # the Hessian of the softmax loss is at most half of that of least squares
    with_bias = np.column_stack([rows, np.ones(len(rows))])
    curvature = np.linalg.norm(with_bias, 2) ** 2 / len(rows) / 2 + l2
    return replace(problem, curvature=float(curvature))


def bowl(dimensions: int = 50, condition: float = 10.0, noise: float = 1.0) -> Problem:
    """Return ``x' A x / 2`` with noisy gradients, from ``x = (1, ..., 1)``.

    Parameters
    ----------
    dimensions : int, default=50
    condition : float, default=10.0
        Largest over smallest curvature; the largest is 1.
    noise : float, default=1.0
        Root of the mean squared norm of the noise in the gradient of one item.

    Raises
    ------
    ConfigError
        An option is outside its range.
    """
    if dimensions < 1 or not 1 <= condition < np.inf or not 0 <= noise < np.inf:
        raise ConfigError(
            f"quadratic: dimensions={dimensions!r}, condition={condition!r}, noise={noise!r}; "
            "expected dimensions >= 1, condition >= 1, noise >= 0"
        )
    problem = quadratic(
        np.geomspace(1 / condition, 1, dimensions),
        start=np.ones(dimensions),
        noise=noise / np.sqrt(dimensions),
    )
    return replace(problem, curvature=1.0)


BUILT_IN: dict[str, Callable[..., Problem]] = {"digits": digits, "quadratic": bowl}


def load_problem(name: str, options: Mapping[str, Any] | None = None) -> Problem:
    """Make a problem.

    Parameters
    ----------
    name : str
        ``digits``, ``quadratic``, or ``pkg.mod:factory`` for a function that returns a `Problem`.
    options : mapping, optional
        Its arguments.

    Raises
    ------
    ConfigError
        There is no such problem, or it does not take these options.
    """
    make = BUILT_IN.get(name)
    if make is None:
        if ":" not in name:
            raise ConfigError(
                f"problem is {name!r}; expected {', '.join(BUILT_IN)}, or pkg.mod:factory"
            )
        make = load_function(name, "problem")
    try:
        inspect.signature(make).bind(**(options or {}))
        problem = make(**(options or {}))
    except TypeError as error:
        raise ConfigError(f"problem {name}: {error}; it takes {inspect.signature(make)}") from None
    if not isinstance(problem, Problem):
        raise ConfigError(
            f"problem {name} returned a {type(problem).__name__}; expected a "
            "zmqdist.tuning.problems.Problem"
        )
    return problem
