"""A descent that leaves the model as it was is found out, and no other is suspected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from zmqdist import RowSparse, ZmqDist
from zmqdist.effect import PATIENCE, Effect
from zmqdist.optim import SGD

ONES, ZEROS = {"w": np.ones(3)}, {"w": np.zeros(3)}
MESSAGE = "it must change the model in place; what it returns is ignored"


def returns_a_model(model: Any, update: Any) -> Any:
    return {"w": model["w"] + update["w"]}


def rebinds(model: Any, update: Any) -> None:
    model = {"w": model["w"] + update["w"]}


def in_place(model: Any, update: Any) -> Any:
    return model["w"].__iadd__(update["w"])


def replaces(model: Any, update: Any) -> None:
    model["w"] = model["w"] + update["w"]


class Gathers:
    """Applies four updates at once."""

    def __init__(self) -> None:
        self.sums: list[Any] = []

    def __call__(self, model: Any, update: Any) -> None:
        self.sums.append(update["w"])
        if len(self.sums) == 4:
            model["w"] += sum(self.sums)
            self.sums = []


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("descent", "update", "warnings"),
    [
        (returns_a_model, ONES, 1),
        (returns_a_model, {"w": RowSparse([1], np.ones(1), (3,))}, 1),
        (rebinds, ONES, 1),
        (returns_a_model, ZEROS, 0),
        (in_place, ONES, 0),
        (in_place, ZEROS, 0),
        (replaces, ONES, 0),
        (Gathers(), ONES, 0),
        (SGD(0.1), ONES, 0),
        (None, ONES, 0),
    ],
)
def test_once_in_each_train(descent: Any, update: Any, warnings: int, caplog: Any) -> None:
    def gradient(model: Any, items: Any) -> Iterator[Any]:
        for _ in items:
            yield update

    model = {"w": np.zeros(3)}
    with ZmqDist(model, publish_every=1) as dd:
        for _ in range(2):
            dd.train([range(8), range(8)], gradient, descent)
    assert sum(MESSAGE in text for text in caplog.messages) == 2 * warnings
    assert model["w"].any() == (not warnings and update is ONES)


def test_it_looks_until_the_model_has_changed(caplog: Any) -> None:
    seen: list[bool | None] = [None, False, False, True]
    effect = Effect(iter(seen).__next__)
    for _ in range(PATIENCE + 5):
        effect.look(ONES, None)
    assert not caplog.messages


@pytest.mark.parametrize(("returned", "updates"), [(None, PATIENCE), (ONES, 1)])
def test_it_waits_longer_if_nothing_is_returned(returned: Any, updates: int, caplog: Any) -> None:
    effect = Effect(lambda: False)
    for n in range(2 * PATIENCE):
        effect.look(ZEROS, returned)
        assert bool(caplog.messages) == (n > updates - 1)
        effect.look(ONES, returned)
        assert bool(caplog.messages) == (n >= updates - 1)
    assert len(caplog.messages) == 1
