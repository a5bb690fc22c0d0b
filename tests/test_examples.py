"""What the examples claim."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("hidden", [0, 32], ids=["softmax", "network"])
def test_eight_workers_read_digits_as_one_process_does(hidden: int) -> None:
    pytest.importorskip("sklearn")
    digits = example("digits_mlp")
    digits.EPOCHS = 20
    train, test = digits.digits()
    one, many = digits.new_model(hidden), digits.new_model(hidden)
    digits.one_process(one, train)
    result = digits.many_workers(
        many, train, 8, evaluate=lambda model: digits.accuracy(model, test)
    )
    assert result.examples == 20 * len(train)
    right = digits.accuracy(one, test)
    assert right > 0.9
    assert digits.accuracy(many, test) == result.evaluations[-1]["score"] > right - 0.02


@pytest.mark.usefixtures("threads")
def test_four_workers_train_a_torch_module_as_one_process_does() -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("torch")
    digits = example("digits_torch")
    train, test = digits.digits()
    one, many = digits.new_module(), digits.new_module()
    digits.one_process(one, train)
    result = digits.many_workers(
        many, train, 4, evaluate=lambda module: digits.accuracy(module, test)
    )
    assert result.examples == 20 * len(train)
    right = digits.accuracy(one, test)
    assert right > 0.9
    assert digits.accuracy(many, test) == result.evaluations[-1]["score"] > right - 0.04


@pytest.mark.usefixtures("threads")
def test_four_workers_train_an_estimator_as_one_process_does() -> None:
    pytest.importorskip("sklearn")
    digits = example("digits_sklearn")
    digits.EPOCHS = 6
    train, test = digits.digits()
    one, many = (digits.begun(digits.network(), train) for _ in range(2))
    digits.one_process(one, train)
    result = digits.many_workers(many, train, 4, **digits.TRUST)
    assert result.examples == 6 * len(train[0])
    right = one.score(*test)
    assert right > 0.9
    assert many.score(*test) > 0.85  # where it breaks down, half of that
