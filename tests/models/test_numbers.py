"""A worker's own progress on numbers: what it sends, and what the master's values leave of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from zmqdist.models.base import parameters_of
from zmqdist.models.numbers import Numbers


def made(**numbers: Any) -> tuple[Any, Numbers]:
    model = SimpleNamespace(**numbers)
    return model, Numbers(parameters_of(model))


def test_changes_are_sent_once_and_keep_on_top_of_what_comes() -> None:
    model, numbers = made(n=5, loss=1.0)
    model.n, model.loss = 7, 0.5
    assert numbers.take(0) == {"n": 2, "loss": -0.5}
    assert numbers.take(1) == {}
    model.n += 1
    numbers.rebase({"n": 105, "loss": 2.0}, [])  # holds none of it
    assert (model.n, model.loss) == (108, 1.5)
    numbers.rebase({"n": 109, "loss": 1.5}, [0])
    assert (model.n, model.loss) == (110, 1.5)
    assert numbers.take(2) == {"n": 1}


def test_what_is_settled_leaves_the_model() -> None:
    model, numbers = made(n=5)
    model.n = 7
    assert numbers.take(0, settled=True) == {}
    assert model.n == 5


def test_what_the_gradient_yields_itself_is_its_affair() -> None:
    model, numbers = made(n=0, m=0)
    model.n = model.m = 2
    assert numbers.take(0, yielded={"n"}) == {"m": 2}
    numbers.rebase({"n": 7, "m": 1}, [])
    assert (model.n, model.m) == (7, 3)


def test_what_does_not_add_up_comes_from_the_master_only() -> None:
    model, numbers = made(on=False, best=float("inf"), n=0)
    model.on, model.best, model.n = True, 0.5, 1
    assert numbers.take(0) == {"n": 1}
    numbers.rebase({"on": False, "best": 3.0, "n": 1}, [0])
    assert (model.on, model.best, model.n) == (False, 3.0, 1)
