"""A ready gradient for scikit-learn: the difference that ``partial_fit`` makes.

A program is::

    model = SGDClassifier(loss="log_loss")
    initialize(model, x, y, classes)  # a few examples, and all classes

    with ZmqDist(model) as dd:
        dd.train(rdd, PartialFit(), batch_size=32, epochs=10)  # an RDD of pairs (x, y)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from zmqdist.errors import ConfigError, ModelError
from zmqdist.models.base import parameters_of
from zmqdist.models.delta import delta
from zmqdist.models.update import Update


def pairs(batch: Any) -> tuple[Any, Any]:
    """Return the arrays x and y of a list of pairs (x, y)."""
    try:
        x, y = zip(*batch, strict=True)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the items are no pairs (x, y), the first is a {type(batch[0]).__name__}: {error}; "
            "give PartialFit a function that returns x and y of a list of items: PartialFit(split)"
        ) from None
    return np.array(x), np.array(y)


@dataclass(frozen=True)
class PartialFit:
    """What ``partial_fit`` changes, for a training without `descent`, which adds it up.

    Parameters
    ----------
    split : callable (batch) -> (x, y), optional
        Makes what ``partial_fit`` takes out of the list of items that ``batch_size=`` cut.
        Default: the items are pairs of a row of numbers and a label or value. A text is best
        turned into numbers here, by a ``HashingVectorizer``.

    Notes
    -----
    Classes are those of the model's first ``partial_fit`` or of `initialize`. A neural network
    reports its metric ``loss``.

    The change of ``t_`` is a whole number, so that no rule of merging and no weight shortens
    it: learning rates fall by the examples that were seen.

    The optimizer of a network is the worker's: momentum and Adam's moments come from its own
    batches and begin at zero in each process, while the weights under them are everybody's.
    Staleness is a momentum of its own, so that with many workers less of it is better;
    ``solver="sgd"`` with ``momentum=0`` keeps nothing.
    """

    split: Callable[[Any], tuple[Any, Any]] = pairs

    def __call__(self, model: Any, batch: Any) -> Update:
        """Call ``partial_fit`` with a batch; return the change."""
        if not hasattr(batch, "__len__"):
            raise ConfigError("PartialFit takes lists of items: give train() batch_size=")
        x, y = self.split(batch)
        with delta(model) as change:
            model.partial_fit(x, y)
        if "t_" in change:
            change["t_"] = round(change["t_"])
        metrics = {"loss": model.loss_} if hasattr(model, "loss_") else {}
        return Update(change, examples=len(batch), metrics=metrics)


def initialize(model: Any, x: Any, y: Any, classes: Any = None) -> None:
    """Give an estimator the arrays that it is to learn, as they are before it learns.

    Parameters
    ----------
    model : estimator
        One that is not fitted; its ``partial_fit`` is called.
    x, y : array_like
        A few examples, of the dtype and the number of columns of all.
    classes : array_like, optional
        All that occur, for a classifier.

    Raises
    ------
    ModelError
        The estimator is fitted, or cannot be trained by adding up changes.
    """
    if hasattr(model, "n_features_in_"):
        raise ModelError(
            f"this {type(model).__name__} is fitted, and initialize() would undo that; train it "
            "as it is, or begin with sklearn.base.clone(model)"
        )
    rate = getattr(model, "learning_rate_init", None)
    if rate is not None:
        model.learning_rate_init = np.finfo(float).tiny  # so short that no weight changes
    try:
        model.partial_fit(x, y, **({} if classes is None else {"classes": classes}))
    finally:
        if rate is not None:
            model.learning_rate_init = rate
    parameters = parameters_of(model)
    if rate is not None:  # a network, whose weights begin at random
        del model._optimizer  # which has the short steps; the next call makes another
        model.t_, model.loss_curve_, model.best_loss_ = 0, [], np.inf
        return
    for array in parameters.arrays().values():
        array[...] = 0
    parameters.set({name: 1.0 for name in parameters.scalars()})
    parameters.loaded()


__all__ = ["PartialFit", "initialize"]
