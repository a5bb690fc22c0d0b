"""The generic adapter: what the walk finds, how it is named, read and set."""

from __future__ import annotations

import enum
import logging
import random
import sys
import threading
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqdist.errors import ModelError
from zmqdist.models import parameters_of
from zmqdist.models.arrays import MAX_SCALARS, PathParameters


class Layer:
    def __init__(self, size: int) -> None:
        self.weight = np.ones((size, size))
        self.bias = np.zeros(size)
        self.name = f"layer {size}"


class Net:
    def __init__(self) -> None:
        self.layers = [Layer(2), Layer(3)]
        self.rate = 0.1
        self.steps = np.int64(7)
        self.frozen = False
        self.options = {"decay": np.float32(0.5), "label": "x", "none": None}


class Base:
    __slots__ = ("__private", "left")

    def __init__(self) -> None:
        self.left = np.zeros(1)
        self.__private = np.zeros(2)


class Slotted(Base):
    __slots__ = ("count", "unset")

    def __init__(self) -> None:
        super().__init__()
        self.count = 3


def test_names_are_paths_and_numbers_are_python_values() -> None:
    parameters = parameters_of(Net())
    assert list(parameters.arrays()) == [
        "layers[0].weight",
        "layers[0].bias",
        "layers[1].weight",
        "layers[1].bias",
    ]
    scalars = parameters.scalars()
    assert scalars == {"rate": 0.1, "steps": 7, "frozen": False, "options.decay": 0.5}
    assert [type(value) for value in scalars.values()] == [float, int, bool, float]
    assert parameters.schema()["layers[1].bias"] == ("<f8", (3,))


def test_a_root_array_is_called_model() -> None:
    w = np.zeros(3, np.float32)
    parameters = parameters_of(w)
    assert parameters.arrays()["model"] is w
    parameters.load({"model": np.arange(3, dtype=np.float32)}, {})
    assert w.tolist() == [0, 1, 2]


def test_keys_that_are_no_identifiers_are_bracketed() -> None:
    model = {"a b": np.zeros(1), 3: {"w": np.zeros(1)}, (1, "x"): np.zeros(1), "3": np.zeros(1)}
    assert list(parameters_of(model).arrays()) == ["['a b']", "[3].w", "[(1, 'x')]", "['3']"]


def test_a_key_without_a_stable_name_is_refused_only_where_something_is_learned() -> None:
    assert list(parameters_of({"w": np.zeros(1), "names": {object(): "x"}}).arrays()) == ["w"]
    with pytest.raises(ModelError, match="same name in every process"):
        parameters_of({object(): np.zeros(1)})


def test_slots_of_all_classes_count_and_empty_ones_do_not() -> None:
    parameters = parameters_of(Slotted())
    assert sorted(parameters.arrays()) == ["_Base__private", "left"]
    parameters.load({}, {"count": 5})
    assert parameters.model.count == 5


def test_numbers_in_tuples_and_frozen_dataclasses_are_left_out() -> None:
    @dataclass(frozen=True)
    class Fixed:
        w: Any
        rate: float

    parameters = parameters_of({"pair": (np.zeros(2), 3.0), "fixed": Fixed(np.zeros(1), 0.1)})
    assert list(parameters.arrays()) == ["pair[0]", "fixed.w"]
    assert parameters.scalars() == {}
    parameters.load({"pair[0]": np.ones(2)}, {})
    assert parameters.model["pair"][0].tolist() == [1, 1]


def test_cycles_and_shared_arrays_count_once_under_the_first_path() -> None:
    w = np.zeros(2)
    model: dict[str, Any] = {"first": w, "second": w, "deep": {"third": w}}
    model["deep"]["up"] = model
    net = SimpleNamespace(inner=model)
    net.inner["net"] = net
    assert list(parameters_of(net).arrays()) == ["inner.first"]


def test_views_of_one_another_are_refused_but_disjoint_views_are_not() -> None:
    flat = np.zeros(10)
    with pytest.raises(ModelError, match=r"'flat' and 'w' of the model share memory"):
        parameters_of({"flat": flat, "w": flat[:4].reshape(2, 2)})
    assert len(parameters_of({"even": flat[::2], "odd": flat[1::2]}).arrays()) == 2


@pytest.mark.parametrize(
    "second",
    [
        lambda memory: np.frombuffer(memory, "f4"),
        lambda memory: np.frombuffer(memory, "f4")[::-1],
        lambda memory: np.frombuffer(memory, "u1", 5, offset=35).reshape(1, 5, 1)[:, ::-2],
        lambda memory: np.frombuffer(memory, "f4", 1).reshape(()),
    ],
)
def test_memory_that_python_does_not_know_to_be_shared_is_refused(second: Any) -> None:
    """As of tied weights: two views that torch makes of one tensor have no common base."""
    memory = bytearray(40)
    model = {"late": second(memory), "a": np.zeros(3), "w": np.frombuffer(memory, "f4")}
    with pytest.raises(ModelError, match=r"'late' and 'w' of the model share memory"):
        parameters_of(model)


def test_parts_of_one_memory_that_do_not_meet_are_two_arrays() -> None:
    memory = bytearray(40)
    parts = [np.frombuffer(memory, "f4", 5), np.frombuffer(memory, "f4", 5, 20)[::-1]]
    parts += [np.frombuffer(memory, "f4", 0), np.frombuffer(memory, "f4", 0)]
    assert len(parameters_of(parts).arrays()) == 4


def test_arrays_far_from_one_another_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(np, "shares_memory", lambda a, b: asked.append((a, b)))
    flat = np.zeros(4000)
    models = [np.zeros(4) for _ in range(1000)], [flat[4 * n : 4 * n + 4] for n in range(1000)]
    for model in models:
        assert len(parameters_of(list(model)).arrays()) == 1000
    assert asked == []


def test_a_dict_that_is_its_own_attributes_is_walked_once() -> None:
    class Attributes(dict[str, Any]):
        def __init__(self, **items: Any) -> None:
            super().__init__(**items)
            self.__dict__ = self

    parameters = parameters_of(Attributes(w=np.zeros(1), rate=0.5))
    assert (list(parameters.arrays()), parameters.scalars()) == (["w"], {"rate": 0.5})


def test_two_parameters_of_one_name_are_refused() -> None:
    class Odd(dict[str, Any]):
        pass

    model = Odd(w=np.zeros(1))
    model.w = np.zeros(1)  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="two parameters of the model are called 'w'"):
        parameters_of(model)


def test_what_is_no_parameter_is_not_entered() -> None:
    class Colour(enum.IntEnum):
        RED = 1

    parameters = parameters_of(
        SimpleNamespace(
            w=np.zeros(1),
            lock=threading.Lock(),
            log=logging.getLogger("x"),
            rng=np.random.default_rng(0),
            dice=random.Random(0),
            cls=Net,
            function=len,
            module=np,
            colour=Colour.RED,
            labels=np.array(["a", "b"]),
            when=np.array(["2020-01-01"], "datetime64[D]"),
            text="x",
            raw=b"x",
        )
    )
    assert (list(parameters.arrays()), parameters.scalars()) == (["w"], {})


@pytest.mark.parametrize("model", [3.0, "text", None, object(), {}, (1, 2), [np.array(["a"])], Net])
def test_nothing_to_learn_names_the_type(model: Any) -> None:
    with pytest.raises(ModelError, match=rf"got a {type(model).__name__} .*expected a numpy array"):
        parameters_of(model)


@pytest.mark.parametrize("array", [np.array([None]), np.zeros(2, [("a", "f4")])])
def test_arrays_of_objects_and_records_are_refused_by_name(array: Any) -> None:
    with pytest.raises(ModelError, match=r"'layers\[1\]' has dtype"):
        parameters_of({"layers": [np.zeros(1), array]})


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (np.zeros(2, ">f4" if sys.byteorder == "little" else "<f4"), "has dtype [<>]f4"),
        (np.zeros(2, np.longdouble), f"has dtype {np.dtype(np.longdouble)}"),
        (np.zeros(2, np.clongdouble), f"has dtype {np.dtype(np.clongdouble)}"),
        (np.ma.masked_less(np.arange(3.0), 1), "is a masked array"),
    ],
    ids=["byte order", "long double", "complex long double", "masked"],
)
def test_arrays_that_cannot_travel_are_refused_at_the_start(array: Any, what: str) -> None:
    with pytest.raises(ModelError, match=rf"'layers\[1\]' {what}.*expected .*; convert it"):
        parameters_of({"layers": [np.zeros(1), array]})


class Tensor:
    """As those of torch and jax: its numbers can be had, but it is no array of numpy."""

    def __init__(self) -> None:
        self.grad = np.zeros(2)

    def __dlpack__(self) -> None: ...


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (Tensor(), "model"),
        ({"b": np.zeros(1), "layers": [{"w": Tensor()}]}, r"layers\[0\]\.w"),
        (SimpleNamespace(net=SimpleNamespace(w=(Tensor(),))), r"net\.w\[0\]"),
    ],
)
def test_tensors_of_others_are_refused_by_name(model: Any, name: str) -> None:
    """As structure they would stay for ever what they were at first."""
    message = rf"'{name}' is a {Tensor.__module__}\.Tensor, expected a numpy array; .*\.numpy\(\)"
    with pytest.raises(ModelError, match=message):
        parameters_of(model)


def test_tensors_that_are_not_learned_are_left_alone() -> None:
    class Net:
        __zmqdist__ = ("w",)

        def __init__(self) -> None:
            self.w, self.scratch = np.zeros(2), Tensor()

    assert list(parameters_of(Net()).arrays()) == ["w"]
    scalars = [
        np.float32(1),
        np.complex64(1j),
        np.str_("x"),
        np.datetime64(0, "s"),
        np.longdouble(1),
    ]
    assert list(parameters_of({"w": np.zeros(2), "scalars": scalars}).arrays()) == ["w"]


def test_estimators_that_are_not_fitted_have_nothing_to_train() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    message = "no arrays: its Ridge is not fitted.*; call partial_fit or fit once"
    for model in (linear_model.Ridge(), {"n": 0, "steps": [linear_model.Ridge()]}):
        with pytest.raises(ModelError, match=message):
            parameters_of(model)
    fitted = linear_model.Ridge().fit(np.eye(2), [0, 1])
    assert "coef_" in parameters_of(fitted).arrays()

    class Mine(linear_model.SGDClassifier):  # type: ignore[misc, name-defined]
        __zmqdist__ = ("alpha",)

    assert parameters_of(Mine()).scalars() == {"alpha": 0.0001}


def test_numbers_alone_are_a_model() -> None:
    assert parameters_of(SimpleNamespace(slope=0.0, fit=len)).scalars() == {"slope": 0.0}


def test_too_many_numbers_and_a_declaration_that_helps() -> None:
    class Words:
        def __init__(self) -> None:
            self.index = {f"w{n}": n for n in range(MAX_SCALARS + 1)}
            self.weight = np.zeros(3)

    with pytest.raises(ModelError, match="more than 10,000 single numbers"):
        parameters_of(Words())

    class Declared(Words):
        __zmqdist__ = ("weight",)

    assert list(parameters_of(Declared()).arrays()) == ["weight"]

    class Wrong(Words):
        __zmqdist__ = ("wieght",)

    with pytest.raises(ModelError, match="names 'wieght'"):
        parameters_of(Wrong())


def test_deep_nesting_is_refused() -> None:
    model: list[Any] = [np.zeros(1)]
    for _ in range(40):
        model = [model]
    with pytest.raises(ModelError, match="deeper than 32 levels"):
        parameters_of(model)


def test_bound_anew_is_seen() -> None:
    model = {"w": np.ones(3), "inner": SimpleNamespace(b=np.ones(1))}
    parameters = parameters_of(model)
    model["w"] = model["w"] - 0.5
    model["inner"] = SimpleNamespace(b=np.full(1, 9.0))
    model["late"] = np.zeros(1)
    assert [a.tolist() for a in parameters.arrays().values()] == [[0.5] * 3, [9.0]]


def test_a_0d_array_that_numpy_made_a_scalar_is_still_an_array() -> None:
    model = {"b": np.array(1.0)}
    parameters = parameters_of(model)
    model["b"] = model["b"] - 0.25
    assert parameters.arrays()["b"].shape == ()
    parameters.load({"b": np.array(3.0)}, {})
    assert (model["b"], parameters.arrays()["b"]) == (3.0, 3.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("w"), r"array 'w' vanished"),
        (lambda m: m.update(w=np.zeros(4, np.float32)), r"was float32 \(3,\), is float32 \(4,\)"),
        (lambda m: m.update(w=m["w"] - np.zeros(3)), r"was float32 \(3,\), is float64 \(3,\)"),
        (lambda m: m.update(w=[0.0]), "is a list; descent must keep shapes and dtypes"),
    ],
)
def test_arrays_that_vanish_or_change(change: Any, message: str) -> None:
    model = {"w": np.zeros(3, np.float32)}
    parameters = parameters_of(model)
    change(model)
    with pytest.raises(ModelError, match=message):
        parameters.arrays()


def test_numbers_that_vanish_or_change() -> None:
    model: dict[str, Any] = {"b": 0.0}
    parameters = parameters_of(model)
    model["b"] = np.zeros(2)
    with pytest.raises(ModelError, match=r"was a number, is float64 \(2,\)"):
        parameters.scalars()
    del model["b"]
    with pytest.raises(ModelError, match="number 'b' vanished"):
        parameters.scalars()


def test_read_only_arrays_are_replaced_where_the_container_allows() -> None:
    w = np.zeros(2)
    w.flags.writeable = False
    for model in (SimpleNamespace(w=w), {"w": w}):
        parameters = parameters_of(model)
        parameters.load({"w": np.ones(2)}, {})
        assert parameters.arrays()["w"].tolist() == [1, 1]
    for fixed in (w, (w,)):
        parameters = parameters_of(fixed)
        (name,) = parameters.arrays()
        with pytest.raises(ModelError, match="cannot be set"):
            parameters.load({name: np.ones(2)}, {})
    assert w.tolist() == [0, 0]


leaves = st.sampled_from([np.float32, np.int64, np.bool_]).map(lambda t: np.zeros(2, t))
numbers = st.integers(-9, 9) | st.floats(-1, 1) | st.booleans()
nests = st.recursive(
    leaves | numbers,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(nests)
def test_what_was_read_can_be_loaded_anywhere_in_a_nest(nest: Any) -> None:
    model = {"w": np.zeros(1), "nest": nest}
    parameters = parameters_of(model)
    assert isinstance(parameters, PathParameters)
    values = {name: np.ones_like(a) for name, a in parameters.arrays().items()}
    scalars = {name: type(v)(1) for name, v in parameters.scalars().items()}
    parameters.load(values, scalars)
    assert all((a == 1).all() for a in parameters.arrays().values())
    assert parameters.scalars() == scalars
    assert [type(v) for v in parameters.scalars().values()] == [type(v) for v in scalars.values()]
