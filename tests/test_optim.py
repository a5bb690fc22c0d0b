"""Optimizers: by hand, against torch.optim, and their state."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import pickle
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import numpy as np
import pytest

from zmqdist.errors import ConfigError, UpdateError
from zmqdist.models.base import parameters_of
from zmqdist.optim import SGD, AdaGrad, Adam, Momentum
from zmqdist.wire.rows import RowSparse

TORCH = json.loads((Path(__file__).parent / "data" / "torch_optim.json").read_text())
MADE = {"SGD": SGD, "Momentum": Momentum, "AdaGrad": AdaGrad, "Adam": Adam}
SHAPES = [(4, 6), (7, 8, 9), ()]


def optimizers():
    return [
        SGD(0.1),
        Momentum(0.1),
        Momentum(0.1, nesterov=True, weight_decay=0.1),
        AdaGrad(0.1),
        AdaGrad(0.1, initial_accumulator=0.1),
        Adam(0.1),
    ]


# --- by hand: the formulas, once more


def by_hand(optimizer, p, gradients):
    """Return what becomes of array `p`; float64, the whole array at each step."""
    p, a, b = p.copy(), np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(gradients, start=1):
        g = g + getattr(optimizer, "weight_decay", 0) * p
        if isinstance(optimizer, SGD):
            p = p - optimizer.lr * g
        elif isinstance(optimizer, Momentum):
            a = optimizer.momentum * a + g
            step = g + optimizer.momentum * a if optimizer.nesterov else a
            p = p - optimizer.lr * step
        elif isinstance(optimizer, AdaGrad):
            a = a + g**2
            p = p - optimizer.lr * g / (np.sqrt(optimizer.initial_accumulator + a) + optimizer.eps)
        else:
            beta1, beta2 = optimizer.betas
            a, b = beta1 * a + (1 - beta1) * g, beta2 * b + (1 - beta2) * g**2
            mean, square = a / (1 - beta1**t), b / (1 - beta2**t)
            p = p - optimizer.lr * mean / (np.sqrt(square) + optimizer.eps)
    return p


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("optimizer", optimizers(), ids=repr)
def test_equals_the_formula(optimizer, shape):
    optimizer = copy.deepcopy(optimizer)
    rng = np.random.default_rng(1)
    start, gradients = rng.standard_normal(shape), rng.standard_normal((6, *shape))
    model = {"w": np.array(start), "untouched": np.ones(3)}
    array = model["w"]
    for gradient in gradients:
        before = gradient.copy()
        optimizer(model, {"w": gradient})
        np.testing.assert_array_equal(gradient, before)
    assert model["w"] is array  # in place
    np.testing.assert_allclose(array, by_hand(optimizer, np.array(start), gradients), rtol=1e-12)
    np.testing.assert_array_equal(model["untouched"], 1)
    assert optimizer.step == 6


def test_first_steps_in_figures():
    model = {"w": np.array([1.0, 2.0])}
    SGD(0.1, weight_decay=0.5)(model, {"w": [2.0, 4.0]})
    np.testing.assert_allclose(model["w"], [1 - 0.25, 2 - 0.5])
    momentum = Momentum(0.1, 0.5)
    model = {"w": np.array([1.0])}
    momentum(model, {"w": [1.0]})  # b = 1
    momentum(model, {"w": [1.0]})  # b = 1.5
    np.testing.assert_allclose(model["w"], [1 - 0.1 - 0.15])
    adagrad = AdaGrad(0.1)
    model = {"w": np.array([1.0])}
    adagrad(model, {"w": [3.0]})  # 3 / 3
    adagrad(model, {"w": [4.0]})  # 4 / 5
    np.testing.assert_allclose(model["w"], [1 - 0.1 - 0.08])
    model = {"w": np.array([1.0])}
    Adam(0.1)(model, {"w": [-7.0]})  # the first step is lr
    np.testing.assert_allclose(model["w"], [1.1])


@pytest.mark.parametrize("optimizer", optimizers(), ids=repr)
def test_float_attributes_are_parameters(optimizer):
    optimizer = copy.deepcopy(optimizer)
    model = SimpleNamespace(bias=0.5, w=np.zeros(2))
    for _ in range(3):
        optimizer(model, {"bias": 2.0})
    assert type(model.bias) is float
    assert model.bias == pytest.approx(float(by_hand(optimizer, np.array(0.5), [2.0] * 3)))


def test_a_model_that_is_an_array():
    model = np.ones((3, 2))
    SGD(0.5)(model, np.full((3, 2), 2.0))
    np.testing.assert_array_equal(model, 0)
    SGD(0.5)(model, RowSparse([1], [[2.0, 4.0]], (3, 2)))
    np.testing.assert_array_equal(model, [[0, 0], [-1, -2], [0, 0]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("optimizer", optimizers(), ids=repr)
def test_dtypes(optimizer, dtype):
    optimizer = copy.deepcopy(optimizer)
    model = {"w": np.ones((4, 2), dtype)}
    for _ in range(2):
        optimizer(model, {"w": np.ones((4, 2), np.int64)})
        optimizer(model, {"w": RowSparse([1, 3], np.ones((2, 2)), (4, 2))})
    assert model["w"].dtype == dtype
    assert (model["w"] < 1).all()
    for roles in optimizer.state()["parameters"].values():
        for array in list(roles.values())[1:]:
            assert array.dtype == np.result_type(dtype, np.float32)


# --- rows


@pytest.mark.parametrize("optimizer", [SGD(0.1), AdaGrad(0.1), AdaGrad(0.1, eps=0.1)], ids=repr)
def test_rows_equal_the_dense_run(optimizer):
    rng = np.random.default_rng(2)
    start, target = rng.standard_normal((2, 50, 3))
    sparse, dense = {"w": start.copy()}, {"w": start.copy()}
    by_rows, whole = copy.deepcopy(optimizer), copy.deepcopy(optimizer)
    for _ in range(40):
        rows = rng.permutation(50)[: rng.integers(0, 12)]
        gradient = RowSparse(rows, (sparse["w"] - target)[rows], (50, 3))
        by_rows(sparse, {"w": gradient})
        whole(dense, {"w": gradient.todense()})
    np.testing.assert_allclose(sparse["w"], dense["w"], rtol=1e-13)
    assert np.abs(sparse["w"] - target).sum() < np.abs(start - target).sum()


@pytest.mark.parametrize("optimizer", optimizers(), ids=repr)
def test_untouched_rows_and_their_state_stay(optimizer):
    optimizer = copy.deepcopy(optimizer)
    rng = np.random.default_rng(3)
    model = {"w": rng.standard_normal((5, 2))}
    optimizer(model, {"w": rng.standard_normal((5, 2))})
    before = model["w"].copy()
    state = copy.deepcopy(optimizer.state()["parameters"]["w"])
    optimizer(model, {"w": RowSparse([1, 4], np.ones((2, 2)), (5, 2))})
    moved = (model["w"] != before).all(axis=1)
    assert moved.tolist() == [False, True, False, False, True]
    for role, array in optimizer.state()["parameters"]["w"].items():
        if role != "step":
            assert (array != state[role]).all(axis=1).tolist() == moved.tolist()


@pytest.mark.parametrize("optimizer", optimizers(), ids=repr)
def test_a_row_that_is_always_touched_learns_as_if_alone(optimizer):
    rows, alone = copy.deepcopy(optimizer), copy.deepcopy(optimizer)
    rng = np.random.default_rng(4)
    model, one = {"w": np.ones((5, 2))}, {"w": np.ones((1, 2))}
    for step in range(10):
        values = rng.standard_normal((2, 2))
        rows(model, {"w": RowSparse([2, step % 2], values, (5, 2))})
        alone(one, {"w": RowSparse([0], values[:1], (1, 2))})
    np.testing.assert_allclose(model["w"][2], one["w"][0], rtol=1e-13)


# --- torch


def gradient_of(name, values, step):
    wave = np.cos(0.9 * np.arange(values.size) + 0.31 * step).reshape(values.shape)
    return ((values - 0.25) + wave).astype(values.dtype)


@pytest.mark.parametrize(
    "case", TORCH["cases"], ids=lambda c: f"{c['case']}-{c['dtype']}-{c['torch']}-{c['sparse']}"
)
def test_equals_torch(case):
    options = dict(case["options"])
    if "initial_accumulator_value" in options:
        options["initial_accumulator"] = options.pop("initial_accumulator_value")
    optimizer = MADE[case["case"].split()[0]](**options)
    model = {name: np.array(start, case["dtype"]) for name, start in case["start"].items()}
    tolerance = 1e-12 if case["dtype"] == "float64" else 2e-5
    for step, rows in enumerate(TORCH["rows"]):
        update = {name: gradient_of(name, values, step) for name, values in model.items()}
        if case["sparse"]:
            update = {name: RowSparse(rows, g[rows], g.shape) for name, g in update.items()}
        optimizer(model, update)
        for name, expected in case["after"].get(str(step + 1), {}).items():
            np.testing.assert_allclose(model[name], expected, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("optimizer", optimizers(), ids=repr)
def test_equals_the_torch_that_is_installed(optimizer):
    torch = pytest.importorskip("torch")
    optimizer = copy.deepcopy(optimizer)
    rng = np.random.default_rng(5)
    start, gradients = rng.standard_normal((7, 3)), rng.standard_normal((10, 7, 3))
    theirs = torch.tensor(start)
    options = {k: v for k, v in vars(optimizer).items() if k[0] != "_" and k != "step"}
    if isinstance(optimizer, AdaGrad):
        options["initial_accumulator_value"] = options.pop("initial_accumulator")
    name = {SGD: "SGD", Momentum: "SGD", AdaGrad: "Adagrad", Adam: "Adam"}[type(optimizer)]
    reference = getattr(torch.optim, name)([theirs], **options)
    model = {"w": start.copy()}
    for gradient in gradients:
        optimizer(model, {"w": gradient})
        theirs.grad = torch.tensor(gradient)
        reference.step()
    np.testing.assert_allclose(model["w"], theirs.numpy(), rtol=1e-12)


# --- learning rate, state, errors


def test_a_learning_rate_that_changes():
    seen = []

    def lr(step):
        seen.append(step)
        return 1 / (1 + step)

    model, sgd = {"w": np.zeros(1)}, SGD(lr)
    for _ in range(3):
        sgd(model, {"w": [1.0]})
    assert seen == [0, 1, 2]
    np.testing.assert_allclose(model["w"], [-(1 + 1 / 2 + 1 / 3)])
    assert cloudpickle.loads(cloudpickle.dumps(sgd)).lr(4) == 0.2
    sgd.lr = 0.0
    sgd(model, {"w": [1.0]})
    np.testing.assert_allclose(model["w"], [-(1 + 1 / 2 + 1 / 3)])


@pytest.mark.parametrize("lr", [-1.0, math.nan, math.inf, "1", None])
def test_a_learning_rate_that_is_none(lr):
    model = {"w": np.zeros(1)}
    with pytest.raises(ConfigError, match="lr is"):
        SGD(lambda step: lr)(model, {"w": [1.0]})
    np.testing.assert_array_equal(model["w"], 0)


@pytest.mark.parametrize("optimizer", optimizers(), ids=repr)
@pytest.mark.parametrize("form", ["state", "pickle"])
def test_state_goes_on_elsewhere(optimizer, form):
    rng = np.random.default_rng(6)

    def run(optimizer, model, steps):
        for step in steps:
            rng = np.random.default_rng(step)
            update = {"w": rng.standard_normal((4, 2)), "b": rng.standard_normal()}
            if step % 2:
                update["w"] = RowSparse([1, 2], update["w"][:2], (4, 2))
            optimizer(model, update)

    first, model = copy.deepcopy(optimizer), {"w": rng.standard_normal((4, 2)), "b": 0.5}
    run(first, model, range(5))
    second, other = copy.deepcopy(optimizer), copy.deepcopy(model)
    saved = copy.deepcopy(first.state())
    if form == "pickle":
        second = pickle.loads(pickle.dumps(first))  # noqa: S301
    run(first, model, range(5, 9))
    if form == "state":
        second.load_state(saved)
    run(second, other, range(5, 9))
    np.testing.assert_array_equal(other["w"], model["w"])
    assert other["b"] == model["b"]
    assert second.step == 9


def test_state_is_plain():
    adam, model = Adam(0.1), {"w": np.zeros((2, 2), np.float32)}
    adam(model, {"w": np.ones((2, 2))})
    state = adam.state()
    assert state["step"] == 1
    assert state["parameters"]["w"]["step"] == 1
    assert list(state["parameters"]["w"]) == ["step", "mean", "square"]
    np.testing.assert_allclose(state["parameters"]["w"]["mean"], 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    "state",
    [
        None,
        {},
        {"step": 1},
        {"step": "x", "parameters": {}},
        {"step": 1, "parameters": {"w": {"step": 1, "momentum": np.zeros(2)}}},
        {"step": 1, "parameters": {"w": {"step": 1}}},
        {"step": 1, "parameters": {"w": 3}},
    ],
)
def test_load_state_refuses(state):
    adam, model = Adam(0.1), {"w": np.zeros(2)}
    adam(model, {"w": [1.0, 2.0]})
    with pytest.raises(ConfigError, match=r"got no state|the state of 'w'"):
        adam.load_state(state)
    assert adam.step == 1


def test_state_of_another_shape():
    adam = Adam(0.1)
    adam({"w": np.zeros(2)}, {"w": [1.0, 2.0]})
    with pytest.raises(UpdateError, match="make a new optimizer"):
        adam({"w": np.zeros(3)}, {"w": [1.0, 2.0, 3.0]})


@pytest.mark.parametrize(
    "update",
    [
        {"w": np.ones(3), "x": 1.0},
        {"w": np.ones(3), "v": np.ones((2, 3))},
        {"w": np.ones(3), "v": np.ones((2, 2)) * 1j},
        {"w": np.ones(3), "v": RowSparse([1], [[1.0, 1.0]], (3, 2))},
        {"w": np.ones(3), "v": "text"},
        {"w": np.ones(3), "v": [[1.0], [1.0, 2.0]]},
        {"w": np.ones(3), "count": 1},
        {"w": np.ones(3), "counts": [1, 1]},
        {"w": np.ones(3), "flag": True},
        {"w": np.ones(3), "b": [1.0]},
        np.ones(3),
        None,
    ],
)
def test_what_does_not_fit(update):
    model = {
        "w": np.zeros(3),
        "v": np.zeros((2, 2)),
        "b": 0.5,
        "count": 3,
        "counts": np.array([1, 2]),
        "flag": False,
    }
    sgd = SGD(0.1)
    with pytest.raises(UpdateError, match=r"expected|is no array"):
        sgd(model, update)
    assert not model["w"].any()
    assert sgd.step == 0


def test_read_only_arrays_are_replaced():
    model = {"w": np.zeros(2)}
    model["w"].flags.writeable = False
    SGD(1.0)(model, {"w": [1.0, 2.0]})
    np.testing.assert_array_equal(model["w"], [-1, -2])


def test_another_model_and_its_parameters():
    sgd, one, other = SGD(1.0), {"w": np.zeros(1)}, {"w": np.zeros(1)}
    sgd(one, {"w": [1.0]})
    sgd(other, {"w": [2.0]})
    sgd(parameters_of(one), {"w": [1.0]})
    assert (one["w"][0], other["w"][0]) == (-2, -2)
    one["w"] = np.zeros(1)  # bound anew by someone else
    sgd(one, {"w": [5.0]})
    assert one["w"][0] == -5


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(-0.1),
        lambda: SGD("0.1"),
        lambda: SGD(True),
        lambda: SGD(math.nan),
        lambda: SGD(0.1, weight_decay=-1),
        lambda: Momentum(0.1, 1.0),
        lambda: Momentum(0.1, -0.1),
        lambda: Momentum(0.1, 0.9, 1),
        lambda: Momentum(0.1, weight_decay=math.inf),
        lambda: AdaGrad(0.1, eps=-1),
        lambda: AdaGrad(0.1, eps=0),
        lambda: AdaGrad(0.1, initial_accumulator=-1),
        lambda: Adam(0.1, (0.9, 1.0)),
        lambda: Adam(0.1, (-0.1, 0.9)),
        lambda: Adam(0.1, 0.9),
        lambda: Adam(0.1, eps=None),
    ],
)
def test_options_are_checked(make):
    with pytest.raises(ConfigError, match="expected"):
        make()


def test_repr():
    assert repr(SGD(0.1)) == "SGD(lr=0.1, weight_decay=0.0)"
    assert repr(Adam(1)) == "Adam(lr=1.0, betas=(0.9, 0.999), eps=1e-08)"


# --- the example


def test_the_adagrad_word2vec_example_learns():
    pytest.importorskip("gensim")
    path = Path(__file__).parents[1] / "examples" / "adagrad_word2vec.py"
    spec = importlib.util.spec_from_file_location("adagrad_word2vec", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.CHUNK_WORDS = 200
    rng = np.random.default_rng(7)
    topics = [[f"{topic}{i}" for i in range(10)] for topic in "ab"]
    text = [list(rng.choice(topics[i % 2], 10)) for i in range(600)]
    master = example.new_model(dict.fromkeys(sorted([*topics[0], *topics[1]]), 300), epochs=5)
    for _ in range(5):
        worker = copy.deepcopy(master)
        for update in example.gradient(worker, iter(text)):
            assert update.examples >= 200
            example.descent(master, update.arrays)
            worker.wv.vectors[:], worker.syn1neg[:] = master.wv.vectors, master.syn1neg
            worker.words_done = master.words_done
    assert master.words_done == 5 * 6000
    assert example.adagrad.lr == master.min_alpha
    master.wv.norms = None
    like, unlike = master.wv.similarity("a0", "a1"), master.wv.similarity("a0", "b1")
    assert like > unlike + 0.3
