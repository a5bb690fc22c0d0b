"""The adapter for scikit-learn: what ``partial_fit`` learns, as far as it adds up.

Owns the knowledge which attributes of which estimators may be trained by adding up the
changes of several workers, what is computed from them, and what an estimator is pickled
without. Estimators are known by the names of their classes, for scikit-learn retires some.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from zmqdist.errors import ModelError
from zmqdist.models.arrays import Path, PathParameters
from zmqdist.models.base import Blank
from zmqdist.models.sklearn_training import PartialFit, initialize

_LINEAR = ("coef_", "intercept_")
_LAYERS = ("coefs_", "intercepts_")
_COUNTS = ("class_count_", "feature_count_")
_LEARNED: dict[str, tuple[str, ...]] = {
    "SGDClassifier": _LINEAR,
    "SGDRegressor": _LINEAR,
    "SGDOneClassSVM": ("coef_", "offset_"),
    "Perceptron": _LINEAR,
    "PassiveAggressiveClassifier": _LINEAR,
    "PassiveAggressiveRegressor": _LINEAR,
    "MLPClassifier": _LAYERS,
    "MLPRegressor": _LAYERS,
    "MultinomialNB": _COUNTS,
    "BernoulliNB": _COUNTS,
    "ComplementNB": _COUNTS,
}

_WHY = {
    "GaussianNB": "its means and variances are no sums: sum up x and x * x by class instead",
    "CategoricalNB": "its tables grow with the categories: encode them for a MultinomialNB",
    "IncrementalPCA": "bases of two workers do not add up: sum up x and x.T @ x instead",
    "MiniBatchKMeans": "centers that several workers move at once go too far",
}


class EstimatorParameters(PathParameters):
    """What ``partial_fit`` of an estimator learns.

    Arrays: ``coef_`` and ``intercept_`` of linear models (``offset_`` of SGDOneClassSVM),
    ``coefs_[i]`` and ``intercepts_[i]`` of neural networks, ``class_count_`` and
    ``feature_count_`` of naive Bayes. The one scalar is ``t_``, the examples seen, on which
    learning rates depend; naive Bayes has none.

    All else is structure: hyperparameters, classes, and what each call overwrites, such as
    ``n_iter_`` and ``loss_``, which stays on the master as it was. Logarithms of naive Bayes
    are computed from the counts. The optimizer of a network is each worker's own: it goes
    there with its learning rate and without its moments.

    Raises
    ------
    ModelError
        The estimator is not fitted, averages its weights, or has them sparse.
    """

    def __init__(self, model: Any, learned: tuple[str, ...]) -> None:
        kind = type(model).__name__
        # coef_ would be one of two arrays, and the average moves by counts that are not shared
        if getattr(model, "average", False):
            raise ModelError(
                f"this {kind} has average={model.average!r}, and averages of several workers do "
                "not add up; set average=False before it is fitted"
            )
        if any(getattr(model, name, None) is None for name in learned):
            raise ModelError(
                f"this {kind} is not fitted, so nobody knows the shapes of what it learns; call "
                "zmqdist.models.sklearn.initialize(model, x, y, classes) with some examples and "
                "all classes before training, or partial_fit once"
            )
        paths = {path.name: path for name in learned for path in _paths(model, name)}
        for name, path in paths.items():
            if not isinstance(value := path.get(model), np.ndarray):
                raise ModelError(
                    f"{name!r} of this {kind} is a {type(value).__name__}, expected a numpy "
                    "array; call model.densify() before training",
                    array=name,
                )
        super().__init__(model, paths, {"t_": Path.of("t_")} if hasattr(model, "t_") else {})
        self._counts = learned is _COUNTS

    def derived(self) -> tuple[NDArray[Any], ...]:
        names = ("feature_log_prob_", "class_log_prior_", "feature_all_") if self._counts else ()
        return tuple(getattr(self.model, name) for name in names if hasattr(self.model, name))

    def loaded(self) -> None:
        """Compute the logarithms of naive Bayes anew."""
        if not self._counts:
            return
        model = self.model
        if hasattr(model, "feature_all_"):
            model.feature_all_ = model.feature_count_.sum(axis=0)
        # divides by zero while there are no counts and no smoothing, as partial_fit does
        with np.errstate(divide="ignore", invalid="ignore"):
            model._update_feature_log_prob(model._check_alpha())
            model._update_class_log_prior(class_prior=model.class_prior)

    def blanks(self) -> list[Blank]:
        """Return what is as large as the weights of a network and of no use elsewhere."""
        kept = [
            *getattr(self.model, "_best_coefs", ()),
            *getattr(self.model, "_best_intercepts", ()),
        ]
        blanks: list[Blank] = [(array, np.zeros, (array.shape, array.dtype)) for array in kept]
        if (optimizer := getattr(self.model, "_optimizer", None)) is not None:
            blanks.append((optimizer, _restarted, _form(optimizer)))
        return blanks


def _paths(model: Any, name: str) -> Iterator[Path]:
    path = Path.of(name)
    value = getattr(model, name)
    yield from map(path.item, range(len(value))) if isinstance(value, list) else (path,)


def _form(optimizer: Any) -> tuple[Any, ...]:
    """Return the class of an optimizer, the shapes of its moments, and its settings.

    The moments begin at zero elsewhere, so the steps that they are corrected by do too.
    """
    moments, settings = {}, {}
    for name, value in vars(optimizer).items():
        if isinstance(value, list):
            moments[name] = [(array.shape, array.dtype) for array in value]
        else:
            settings[name] = 0 if name == "t" else value
    return type(optimizer), moments, settings


def _restarted(cls: Any, moments: dict[str, Any], settings: dict[str, Any]) -> Any:
    """Return an optimizer without a past; `_form` took its arguments from another one."""
    optimizer: Any = cls.__new__(cls)
    vars(optimizer).update(settings)
    for name, forms in moments.items():
        setattr(optimizer, name, [np.zeros(*form) for form in forms])
    return optimizer


def adapt(model: Any) -> EstimatorParameters | None:
    """Return what an estimator learns by ``partial_fit``; None if that is not scikit-learn's.

    Classes with ``__zmqdist__`` say themselves what is learned.

    Raises
    ------
    ModelError
        Changes by ``partial_fit`` of such an estimator do not add up.
    """
    if not isinstance(model, BaseEstimator) or hasattr(type(model), "__zmqdist__"):
        return None
    classes = [cls for cls in type(model).__mro__ if cls.__module__.startswith("sklearn.")]
    for cls in classes:
        if cls.__name__ in _LEARNED:
            return EstimatorParameters(model, _LEARNED[cls.__name__])
    owner = next((cls for cls in type(model).__mro__ if "partial_fit" in vars(cls)), None)
    if owner not in classes:
        return None
    why = next((_WHY[c.__name__] for c in classes if c.__name__ in _WHY), "nobody has shown it")
    raise ModelError(
        f"changes by partial_fit of a {type(model).__name__} are not known to add up when several "
        f"workers make them ({why}); expected one of {', '.join(_LEARNED)}, or a subclass that "
        "names what is learned: __zmqdist__ = ('weights_',)"
    )


__all__ = ["EstimatorParameters", "PartialFit", "adapt", "initialize"]
