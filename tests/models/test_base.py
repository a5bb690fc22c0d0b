"""Loading, comparing and choosing an adapter."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from zmqdist.errors import ModelMismatch
from zmqdist.models import parameters_of


def model() -> dict[str, Any]:
    return {"w": np.zeros((2, 3), np.float32), "b": np.zeros(2), "count": 1, "rate": 0.5}


def test_load_copies_into_the_arrays_that_are_there() -> None:
    target = model()
    w = target["w"]
    parameters = parameters_of(target)
    given = np.ones((2, 3), np.float32)
    parameters.load({"w": given}, {"count": 4, "rate": 0.25})
    assert target["w"] is w
    given[:] = 7
    assert w.tolist() == [[1] * 3] * 2
    assert (target["count"], target["rate"]) == (4, 0.25)
    assert isinstance(target["count"], int)


@pytest.mark.parametrize(
    ("arrays", "scalars", "message"),
    [
        ({"v": np.zeros(2)}, {}, r"no array 'v', expected one of \['w', 'b'\]"),
        ({"count": np.zeros(2)}, {}, "no array 'count'"),
        ({}, {"w": 1.0}, "no scalar 'w'"),
        ({"w": np.zeros(3, np.float32)}, {}, r"got float32 \(3,\), expected float32 \(2, 3\)"),
        ({"w": np.zeros((2, 3))}, {}, "got float64"),
        ({}, {"count": "4"}, "got a str, expected a number"),
    ],
)
def test_load_checks_everything_first(arrays: Any, scalars: Any, message: str) -> None:
    target = model()
    with pytest.raises(ModelMismatch, match=message):
        parameters_of(target).load({"b": np.ones(2), **arrays}, {"rate": 9.0, **scalars})
    assert target["b"].tolist() == [0, 0]
    assert target["rate"] == 0.5


def test_schemas_agree_after_json() -> None:
    parameters = parameters_of(model())
    assert parameters.schema() == {"w": ("<f4", (2, 3)), "b": ("<f8", (2,))}
    parameters.check({"w": ("<f4", [2, 3]), "b": ("<f8", [2])})


@pytest.mark.parametrize(
    ("schema", "array", "message"),
    [
        (
            {"w": ("<f4", (2, 4)), "b": ("<f8", (2,))},
            "w",
            r"got float32 \(2, 3\), expected float32",
        ),
        ({"w": ("<f4", (2, 3)), "b": ("<f4", (2,))}, "b", r"got float64 \(2,\), expected float32"),
        ({"w": ("<f4", (2, 3))}, "b", r"got float64 \(2,\), expected no such array"),
        ({"x": ("<f4", (2,))}, "x", r"got no such array, expected float32 \(2,\)"),
    ],
)
def test_check_names_the_first_difference(schema: Any, array: str, message: str) -> None:
    with pytest.raises(ModelMismatch, match=message) as caught:
        parameters_of(model()).check(schema)
    assert vars(caught.value)["array"] == array


def test_parameters_are_their_own_parameters() -> None:
    parameters = parameters_of(model())
    assert parameters_of(parameters) is parameters


def test_no_library_is_imported_before_a_model_of_it_turns_up() -> None:
    code = """
import sys
import numpy as np
import zmqdist, zmqdist.models, zmqdist.models.delta, zmqdist.models.structure
zmqdist.models.parameters_of({"w": np.zeros(1)})
print([name for name in ("gensim", "scipy", "sklearn", "torch") if name in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
