"""Estimators of scikit-learn: what adds up, how it is pickled, and `partial_fit` on workers."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zmqdist import ZmqDist, delta
from zmqdist.errors import ConfigError, GradientError, ModelError
from zmqdist.merge import RowTrustRegion
from zmqdist.models import parameters_of
from zmqdist.models.structure import dump_structure, load_structure
from zmqdist.wire.leaves import scale_tree

pytest.importorskip("sklearn")
from scipy.sparse import csr_matrix
from sklearn import base, cluster, decomposition, linear_model, naive_bayes
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from zmqdist.models.sklearn import PartialFit, initialize

FRESH: dict[str, Any] = {"security": "none", "max_in_flight": 1, "publish_every": 1}
CLASSES = np.arange(3)

LINEAR: list[Callable[[], Any]] = [
    lambda: linear_model.SGDClassifier(loss="log_loss", random_state=0),
    lambda: linear_model.Perceptron(random_state=0),
]
NETWORKS: list[Callable[[], Any]] = [
    lambda: MLPClassifier((8,), solver="sgd", momentum=0, learning_rate_init=0.1, random_state=0),
    lambda: MLPClassifier((8,), learning_rate_init=0.01, random_state=0),  # Adam
    lambda: MLPClassifier(
        (8,), solver="sgd", learning_rate="invscaling", learning_rate_init=0.1, random_state=0
    ),
]
BAYES: list[Callable[[], Any]] = [
    naive_bayes.MultinomialNB,
    lambda: naive_bayes.BernoulliNB(binarize=1.5),
    naive_bayes.ComplementNB,
]
CLASSIFIERS = [*LINEAR, *NETWORKS, *BAYES]
REGRESSORS: list[Callable[[], Any]] = [
    lambda: linear_model.SGDRegressor(random_state=0),
    lambda: MLPRegressor(hidden_layer_sizes=(8,), solver="sgd", momentum=0, random_state=0),
]


def name_of(make: Callable[[], Any]) -> str:
    return type(make()).__name__


def rows(n: int = 96, seed: int = 0) -> tuple[Any, Any]:
    """Return positive features of three classes that a line tells apart."""
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n)
    return rng.random((n, 5)) + 2 * np.eye(3, 5)[y], y


def pairs(n: int = 96, seed: int = 0) -> list[Any]:
    return [*zip(*rows(n, seed), strict=True)]


def begun(model: Any) -> Any:
    x, y = rows(6)
    initialize(model, x, y, CLASSES if base.is_classifier(model) else None)
    return model


def steps(model: Any, data: list[Any], size: int) -> Any:
    """Take the steps of one process by scikit-learn itself; return the model."""
    for start in range(0, len(data), size):
        x, y = zip(*data[start : start + size], strict=True)
        model.partial_fit(np.array(x), np.array(y))
    return model


def assert_same(one: Any, other: Any, **tolerance: float) -> None:
    first, second = parameters_of(one), parameters_of(other)
    assert first.scalars() == second.scalars()
    assert first.schema() == second.schema()
    for name, array in first.arrays().items():
        np.testing.assert_allclose(array, second.arrays()[name], err_msg=name, **tolerance)


# ---- what travels ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "arrays", "scalars"),
    [
        (LINEAR[0], {"coef_", "intercept_"}, {"t_"}),
        (LINEAR[1], {"coef_", "intercept_"}, {"t_"}),
        (REGRESSORS[0], {"coef_", "intercept_"}, {"t_"}),
        (linear_model.SGDOneClassSVM, {"coef_", "offset_"}, {"t_"}),
        (
            NETWORKS[1],
            {"coefs_[0]", "coefs_[1]", "intercepts_[0]", "intercepts_[1]"},
            {"t_"},
        ),
        (BAYES[0], {"class_count_", "feature_count_"}, set()),
        (BAYES[2], {"class_count_", "feature_count_"}, set()),
    ],
)
def test_what_adds_up_is_learned_and_nothing_else(make: Any, arrays: Any, scalars: Any) -> None:
    parameters = parameters_of(begun(make()))
    assert set(parameters.arrays()) == arrays
    assert set(parameters.scalars()) == scalars


@pytest.mark.parametrize("make", [*CLASSIFIERS, *REGRESSORS], ids=name_of)
def test_what_partial_fit_replaces_is_found_again(make: Any) -> None:
    model, twin = begun(make()), begun(make())
    parameters = parameters_of(model)
    steps(model, pairs(), 16)
    steps(twin, pairs(), 16)
    assert_same(model, twin, rtol=0, atol=0)
    values = {name: array + 1 for name, array in parameters.arrays().items()}
    parameters.load(values, {})
    for name, path in (("coef_", "coef_"), ("coefs_[1]", "coefs_"), ("class_count_",) * 2):
        if name in values:
            held = getattr(model, path)
            np.testing.assert_array_equal(held[1] if name != path else held, values[name])


def test_two_classes_whose_weights_are_replaced_each_time() -> None:
    model = linear_model.SGDClassifier(loss="log_loss", random_state=0)
    data = [(x, y) for x, y in pairs() if y < 2]
    initialize(model, data[0][0][None], data[0][1:], [0, 1])
    parameters, before = parameters_of(model), model.coef_
    model.partial_fit(np.array([x for x, _ in data]), [y for _, y in data])
    assert model.coef_ is not before
    parameters.load({"coef_": np.ones((1, 5)), "intercept_": np.ones(1)}, {})
    assert model.decision_function(np.ones((1, 5))).tolist() == [6]


@pytest.mark.parametrize("make", BAYES, ids=name_of)
def test_logarithms_of_naive_bayes_follow_its_counts(make: Any) -> None:
    trained, model = steps(begun(make()), pairs(), 16), begun(make())
    source, target = parameters_of(trained), parameters_of(model)
    assert len(target.derived()) >= 2
    target.load(source.arrays(), {})
    x, _ = rows(20, seed=1)
    np.testing.assert_array_equal(model.predict_proba(x), trained.predict_proba(x))


# ---- what is refused -------------------------------------------------------------------------


def averaging() -> Any:
    return linear_model.SGDClassifier(average=10).fit(*rows())


def sparse() -> Any:
    return linear_model.SGDClassifier().fit(*rows()).sparsify()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (linear_model.SGDClassifier(), "this SGDClassifier is not fitted.*; call .*initialize"),
        (MLPClassifier(), "this MLPClassifier is not fitted.*; call .*initialize"),
        (naive_bayes.MultinomialNB(), "this MultinomialNB is not fitted"),
        (averaging(), "SGDClassifier has average=10, .* do not add up; set average=False"),
        (linear_model.SGDRegressor(average=True), "SGDRegressor has average=True"),
        (sparse(), r"'coef_' of this SGDClassifier is a csr_.*; call model\.densify\(\)"),
        (naive_bayes.GaussianNB().fit(*rows()), "a GaussianNB .*means and variances are no sums"),
        (naive_bayes.CategoricalNB(), "a CategoricalNB .*tables grow"),
        (cluster.MiniBatchKMeans(3), "a MiniBatchKMeans .*centers that several workers move"),
        (decomposition.IncrementalPCA(2), r"IncrementalPCA .*bases of two workers"),
        (StandardScaler().fit(rows()[0]), "a StandardScaler .*nobody has shown it.* expected one"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_does_not_add_up_is_refused_with_a_way_out(model: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parameters_of(model)


def test_other_estimators_are_left_to_the_walk() -> None:
    ridge = linear_model.Ridge().fit(*rows())
    assert "coef_" in parameters_of(ridge).arrays()
    pipeline = make_pipeline(StandardScaler(), linear_model.SGDClassifier()).fit(*rows())
    assert "steps[1][1].coef_" in parameters_of(pipeline).arrays()

    class Mine(base.BaseEstimator):  # type: ignore[misc]
        def __init__(self) -> None:
            self.weights = np.zeros(3)

        def partial_fit(self, x: Any, y: Any) -> None:
            self.weights += 1

    assert list(parameters_of(Mine()).arrays()) == ["weights"]

    class Declared(naive_bayes.GaussianNB):  # type: ignore[misc]
        __zmqdist__ = ("class_count_",)

    assert list(parameters_of(Declared().fit(*rows())).arrays()) == ["class_count_"]

    class Named(linear_model.SGDClassifier):  # type: ignore[misc]
        """Known by its base."""

    assert set(parameters_of(begun(Named())).arrays()) == {"coef_", "intercept_"}


# ---- its structure ---------------------------------------------------------------------------


def there(model: Any, *extras: Any) -> Any:
    """Send an estimator as a worker gets it."""
    parameters = parameters_of(model)
    copied, *others = load_structure(dump_structure(model, parameters, *extras))
    replica = parameters_of(copied)
    replica.check(parameters.schema())
    assert not any(array.any() for array in replica.arrays().values())
    replica.load(parameters.arrays(), parameters.scalars())
    return (copied, *others) if extras else copied


@pytest.mark.parametrize("make", CLASSIFIERS, ids=name_of)
def test_structure_and_versions_make_the_same_estimator(make: Any) -> None:
    model = steps(begun(make()), pairs(), 16)
    copied = there(model)
    assert_same(copied, model, rtol=0, atol=0)
    x, y = rows(20, seed=1)
    np.testing.assert_array_equal(copied.predict(x), model.predict(x))
    copied.partial_fit(x, y)


def test_the_weights_do_not_travel_with_the_structure() -> None:
    x, y = np.random.default_rng(0).random((30, 300)), np.arange(30) % 3
    for make in (*LINEAR, *NETWORKS, *BAYES):
        model = base.clone(make())
        if hasattr(model, "hidden_layer_sizes"):
            model.set_params(hidden_layer_sizes=(300, 300))
        model.partial_fit(x, y, classes=CLASSES)  # leaves moments behind
        payload = dump_structure(model, parameters_of(model), PartialFit())
        assert len(payload) < 8_000, make
    assert len(pickle.dumps(there(model))) > 10_000


def test_an_optimizer_begins_anew_elsewhere_with_its_settings() -> None:
    trained = steps(begun(NETWORKS[1]()), pairs(), 8)
    trained._optimizer.learning_rate = 0.5
    optimizer = there(trained)._optimizer
    assert (optimizer.t, optimizer.beta_2, optimizer.learning_rate) == (0, 0.999, 0.5)
    assert not any(moment.any() for moment in (*optimizer.ms, *optimizer.vs))
    assert trained._optimizer.t == 12
    assert any(moment.any() for moment in trained._optimizer.ms)


# ---- initialize ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", CLASSIFIERS, ids=name_of)
def test_initialize_learns_nothing(make: Any) -> None:
    model, fresh = begun(make()), make()
    x, y = rows(30)
    model.partial_fit(x, y)
    if "MLP" in type(fresh).__name__:
        # one more shuffle than from scratch: the batch is one, so its order makes no difference
        fresh.partial_fit(x, y, classes=CLASSES)
        assert_same(model, fresh, rtol=1e-9, atol=1e-12)
        assert model.loss_curve_ == pytest.approx(fresh.loss_curve_)
        assert model.best_loss_ == pytest.approx(fresh.best_loss_)
        assert model.learning_rate_init == fresh.learning_rate_init
    else:
        assert_same(model, fresh.partial_fit(x, y, classes=CLASSES), rtol=0, atol=0)


def test_initialize_needs_an_estimator_that_is_not_fitted() -> None:
    model = linear_model.SGDClassifier().fit(*rows())
    before = model.coef_.copy()
    with pytest.raises(ModelError, match=r"SGDClassifier is fitted.*sklearn\.base\.clone"):
        initialize(model, *rows())
    np.testing.assert_array_equal(model.coef_, before)
    network = MLPClassifier()
    with pytest.raises(ValueError, match="classes must be passed"):
        initialize(network, *rows())
    assert network.learning_rate_init == 0.001


def test_naive_bayes_without_a_count_is_a_model_without_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for make in BAYES:
            parameters = parameters_of(begun(make()))
            assert not any(array.any() for array in parameters.arrays().values())


# ---- the gradient ----------------------------------------------------------------------------


def test_gradient_is_what_partial_fit_changes() -> None:
    model = begun(NETWORKS[0]())
    before = [array.copy() for array in (*model.coefs_, *model.intercepts_)]
    update = PartialFit()(model, pairs(16))
    twin = steps(begun(NETWORKS[0]()), pairs(16), 16)
    assert update.examples == 16
    assert update.metrics == {"loss": twin.loss_}
    assert update.arrays["t_"] == 16
    after = [*twin.coefs_, *twin.intercepts_]
    changes = [np.asarray(update.arrays[name]) for name in parameters_of(model).arrays()]
    for change, one, other in zip(changes, before, after, strict=True):
        np.testing.assert_array_equal(change, other - one)


def test_examples_are_counted_in_whole_numbers() -> None:
    update = PartialFit()(begun(LINEAR[0]()), pairs(16))  # whose t_ is a float
    assert isinstance(update.arrays["t_"], int)
    assert scale_tree(update.arrays, 0.5)["t_"] == 16


def test_a_function_splits_the_batch() -> None:
    texts = [("spam spam", 1), ("ham and eggs", 0), ("spam", 1), ("eggs", 0)]
    words = HashingVectorizer(n_features=64, alternate_sign=False)

    def split(batch: Any) -> Any:
        return words.transform(text for text, _ in batch), [label for _, label in batch]

    model = naive_bayes.MultinomialNB()
    initialize(model, *split(texts[:1]), classes=[0, 1])
    with delta(model) as change:
        assert PartialFit(split)(model, texts).arrays["class_count_"].tolist() == [2, 2]
    assert change["class_count_"].tolist() == [2, 2]
    assert model.predict(split([("spam", 1)])[0]) == [1]
    assert isinstance(split(texts)[0], csr_matrix)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (iter([1, 2]), "takes lists of items: give train.* batch_size="),
        ([1, 2], r"no pairs \(x, y\), the first is a int: .*PartialFit\(split\)"),
        ([(1, 2, 3)], r"no pairs \(x, y\), the first is a tuple"),
    ],
)
def test_what_is_no_batch_of_pairs_is_explained(batch: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PartialFit()(begun(LINEAR[0]()), batch)


# ---- training --------------------------------------------------------------------------------


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("make", [*CLASSIFIERS, *REGRESSORS], ids=name_of)
def test_one_worker_takes_the_steps_of_partial_fit(make: Any) -> None:
    model, data = begun(make()), pairs()
    with ZmqDist(model, **FRESH) as dd:
        result = dd.train([data], PartialFit(), batch_size=16, workers=1)
    assert result.staleness == {0: 6}
    assert result.examples == 96
    alone = steps(begun(make()), data, 16)
    assert_same(model, alone, rtol=0, atol=1e-9)
    x, _ = rows(20, seed=1)
    np.testing.assert_allclose(model.predict(x), alone.predict(x), rtol=1e-9)


def test_worker_processes_take_the_steps_too() -> None:
    model, data = begun(LINEAR[0]()), pairs()
    with ZmqDist(model, **FRESH) as dd:
        dd.train([data], PartialFit(), batch_size=16, workers=1, epochs=2)
    assert_same(model, steps(begun(LINEAR[0]()), data * 2, 16), rtol=0, atol=1e-9)


@pytest.mark.usefixtures("threads")
# threads of one process share the filters of warnings that scikit-learn hands on
@pytest.mark.filterwarnings("ignore:`sklearn.utils.parallel.delayed`")
@pytest.mark.parametrize("make", CLASSIFIERS, ids=name_of)
def test_several_workers_learn_as_well(make: Any) -> None:
    model, data = begun(make()), pairs(384)
    bayes = hasattr(model, "feature_count_")
    with ZmqDist(model, merge=None if bayes else RowTrustRegion(2.0), **FRESH) as dd:
        dd.train([data[i::4] for i in range(4)], PartialFit(), batch_size=8, workers=4, epochs=4)
    x, y = rows(200, seed=1)
    assert model.score(x, y) > 0.95
    if not bayes:
        assert parameters_of(model).scalars()["t_"] - 4 * 384 in (0, 1)


@pytest.mark.usefixtures("threads")
def test_counts_of_several_workers_are_those_of_one_process() -> None:
    model, data = begun(naive_bayes.MultinomialNB()), pairs(384)
    with ZmqDist(model, security="none") as dd:
        dd.train([data[i::4] for i in range(4)], PartialFit(), batch_size=16, workers=4)
    assert_same(model, steps(begun(naive_bayes.MultinomialNB()), data, 384), rtol=1e-12)


@pytest.mark.usefixtures("threads")
def test_an_evaluation_judges_estimators() -> None:
    x, y = rows(200, seed=1)
    model = begun(naive_bayes.MultinomialNB())
    with ZmqDist(model, security="none") as dd:
        result = dd.train(
            [pairs()], PartialFit(), batch_size=16, evaluate=lambda model: model.score(x, y)
        )
    assert result.evaluations[-1]["score"] == model.score(x, y) > 0.9


@pytest.mark.usefixtures("threads")
def test_what_scikit_learn_says_reaches_the_user() -> None:
    message = "X has 2 features, but SGDClassifier is expecting"
    with (
        ZmqDist(begun(LINEAR[0]()), security="none") as dd,
        pytest.raises(GradientError, match=message),
    ):
        dd.train([[([1, 2], 0)]], PartialFit(), batch_size=1)


@pytest.mark.usefixtures("threads")
def test_a_checkpoint_holds_weights_and_steps(tmp_path: Path) -> None:
    model, again = begun(LINEAR[0]()), begun(LINEAR[0]())
    with ZmqDist(model, security="none", checkpoint=tmp_path) as dd:
        dd.train([pairs()], PartialFit(), batch_size=16)
    with ZmqDist(again, security="none", checkpoint=tmp_path, resume=True):
        pass
    assert_same(again, model, rtol=0, atol=0)
