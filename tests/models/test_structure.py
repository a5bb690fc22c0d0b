"""A model without its arrays, there and back."""

from __future__ import annotations

import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gensim.models import Word2Vec
from pyspark.accumulators import INT_ACCUMULATOR_PARAM, Accumulator

from zmqdist.errors import ConfigError
from zmqdist.models import parameters_of
from zmqdist.models.structure import dump_structure, load_structure


def round_trip(model: Any, *extras: Any) -> tuple[Any, ...]:
    return load_structure(dump_structure(model, parameters_of(model), *extras))


def test_arrays_come_back_as_zeros_and_the_rest_as_it_was() -> None:
    model = {"w": np.ones((3, 2), order="F"), "names": ["a", "b"], "count": 2, "t": (np.ones(1),)}
    copy, config = round_trip(model, {"batch": 10})
    assert config == {"batch": 10}
    assert (copy["names"], copy["count"]) == (["a", "b"], 2)
    assert not copy["w"].any()
    assert copy["w"].flags.f_contiguous
    there, here = parameters_of(copy), parameters_of(model)
    there.check(here.schema())
    there.load(here.arrays(), here.scalars())
    assert copy["w"].tolist() == model["w"].tolist()
    assert copy["t"][0].tolist() == [1]


def test_arrays_that_are_no_parameters_travel_by_value() -> None:
    model = {"w": np.ones(2)}
    _, data = round_trip(model, np.arange(3))
    assert data.tolist() == [0, 1, 2]


def test_subclasses_of_arrays_stay_what_they_are() -> None:
    class Tagged(np.ndarray):
        pass

    model = {"w": np.ones(2).view(Tagged)}
    (copy,) = round_trip(model)
    assert type(copy["w"]).__name__ == "Tagged"


def test_shared_and_read_only_arrays() -> None:
    w = np.ones(3)
    w.flags.writeable = False
    (copy,) = round_trip({"a": w, "b": w})
    assert copy["a"] is copy["b"]
    assert copy["a"].flags.writeable


def test_a_gradient_that_refers_to_the_model_gets_the_copy() -> None:
    model = {"w": np.ones(3)}

    def gradient() -> Any:
        return model

    copy, function = round_trip(model, gradient)
    assert function() is copy


def test_word2vec_leaves_without_its_weights() -> None:
    model = Word2Vec(vector_size=100, min_count=1)
    model.build_vocab([[f"word{n}" for n in range(20_000)]])
    payload = dump_structure(model, parameters_of(model))
    assert len(payload) < 1_000_000
    (copy,) = load_structure(payload)
    assert copy.wv.key_to_index == model.wv.key_to_index
    assert copy.wv.vectors.shape == (20_000, 100)
    parameters_of(copy).check(parameters_of(model).schema())


def test_functions_and_classes_of_main_load_in_a_process_without_them() -> None:
    driver = """
import sys
import numpy as np
from zmqdist.models import parameters_of
from zmqdist.models.structure import dump_structure
class Net:
    def __init__(self):
        self.w = np.ones(3)
def gradient(model):
    return model.w + offset
offset = 2
net = Net()
sys.stdout.buffer.write(dump_structure(net, parameters_of(net), gradient))
"""
    worker = """
import sys
from zmqdist.models.structure import load_structure
model, gradient = load_structure(sys.stdin.buffer.read())
print(type(model).__name__, gradient(model).tolist())
"""
    run = [sys.executable, "-c"]
    payload = subprocess.run([*run, driver], capture_output=True, check=True).stdout
    out = subprocess.run([*run, worker], input=payload, capture_output=True, check=True).stdout
    assert out.decode().strip() == "Net [2.0, 2.0, 2.0]"


def test_an_unpicklable_model_is_named() -> None:
    model = SimpleNamespace(w=np.ones(1), guard=threading.Lock(), fine=1)
    with pytest.raises(ConfigError, match=r"the model \(SimpleNamespace\).*because of 'guard':"):
        dump_structure(model, parameters_of(model), len)


def test_an_unpicklable_gradient_is_named() -> None:
    model, lock, fine = {"w": np.ones(1)}, threading.Lock(), 3

    def gradient() -> None:
        with lock:
            print(fine)  # noqa: T201

    with pytest.raises(ConfigError, match=r"the function 'gradient'.*because of 'lock':"):
        dump_structure(model, parameters_of(model), gradient)


def test_other_unpicklable_parts_are_named() -> None:
    model = {"w": np.ones(1)}
    with pytest.raises(ConfigError, match=r"the dict cannot be sent.*because of 'lock':"):
        dump_structure(model, parameters_of(model), {"lock": threading.Lock(), "n": 1})


def test_accumulators_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyspark.accumulators._accumulatorRegistry", {})
    seen: Any = Accumulator(0, 0, INT_ACCUMULATOR_PARAM)

    def gradient(model: Any, items: Any) -> Any:
        seen.add(len(items))

    model = {"w": np.ones(1)}
    message = (
        r"'gradient' cannot be sent .*because of 'seen': a Spark accumulator .*metrics={.*}\)$"
    )
    with pytest.raises(ConfigError, match=message):
        dump_structure(model, parameters_of(model), gradient)


def test_a_missing_module_is_named() -> None:
    module = type(sys)("driver_only")
    sys.modules["driver_only"] = module
    exec("def gradient(): pass", module.__dict__)  # noqa: S102
    model = {"w": np.ones(1)}
    payload = dump_structure(model, parameters_of(model), vars(module)["gradient"])
    del sys.modules["driver_only"]
    with pytest.raises(ConfigError, match="needs the module 'driver_only'"):
        load_structure(payload)
